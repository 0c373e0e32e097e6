//! Why there is no place: the smallest set of members and the rules that exclude each other.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    answer::Against,
    model::Model,
    problem::{Amounts, Connection, DIMENSIONS, Leg, Problem, Rules},
    search::{Search, Tables},
};

/// Nodes for each question whether less would be possible; there are at most as many questions as members and rules.
const NODES: u64 = 2_000;
/// Members up to which a smallest set is looked for.
const SMALLEST: usize = 16;

/// What stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// These members have no site, each for itself.
    Alone {
        /// Them.
        members: Vec<String>,
    },
    /// Each member has a site, but not all have one at once.
    Joint {
        /// A set of which no member can be left out: the others would have a place.
        members: Vec<String>,
        /// Rules of which each, left out alone, would give these members a place; empty: several at once.
        rules: Vec<String>,
    },
}

/// No assignment keeps all constraints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Unplaceable {
    /// What stands in the way.
    pub cause: Cause,
    /// The reasons against each site for each member, as far as they do not depend on the others.
    pub against: Vec<Against>,
}

impl fmt::Display for Unplaceable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |names: &[String]| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        match &self.cause {
            Cause::Alone { members } => {
                write!(f, "no site can take {}", quoted(members))?;
                let first = members.first();
                let mut sep = ": ";
                for a in self.against.iter().filter(|a| Some(&a.member) == first) {
                    write!(f, "{sep}{}: {}", a.site, a.text)?;
                    sep = "; ";
                }
                Ok(())
            }
            Cause::Joint { members, rules } if rules.is_empty() => {
                let all = quoted(members);
                write!(f, "{all} have a site each, but not all at once, and no single rule is the reason")
            }
            Cause::Joint { members, rules } => {
                let all = quoted(members);
                write!(f, "{all} have a site each, but not all at once, because of {}", rules.join(" and "))
            }
        }
    }
}

pub(super) fn explain(problem: &Problem, model: &Model) -> Unplaceable {
    let name = |p: usize| problem.members[model.members[p]].name.clone();
    let mut against = Vec::new();
    let mut alone = Vec::new();
    for (p, reasons) in model.reasons.iter().enumerate() {
        if reasons.iter().all(Option::is_some) {
            alone.push(name(p));
        }
        for (site, reason) in model.sites.iter().zip(reasons) {
            if let Some(r) = reason {
                let (site, text) = (problem.sites[*site].name.clone(), r.text.clone());
                against.push(Against {
                    member: name(p),
                    site,
                    code: r.code,
                    text,
                    alone: true,
                    worse_by: None,
                });
            }
        }
    }
    let cause = if alone.is_empty() { joint(problem, model) } else { Cause::Alone { members: alone } };
    Unplaceable { cause, against }
}

/// Leaves out one member after the other as long as there is no place for the rest.
fn joint(problem: &Problem, model: &Model) -> Cause {
    let mut problem = problem.clone();
    let all: Vec<String> = model.members.iter().map(|p| problem.members[*p].name.clone()).collect();
    let mut members = all.clone();
    if all.len() <= SMALLEST {
        for name in &all {
            let rest: Vec<String> = members.iter().filter(|n| *n != name).cloned().collect();
            let smaller = only(&problem, &rest);
            if impossible(&smaller) {
                (members, problem) = (rest, smaller);
            }
        }
    }
    let dropped = rules(&problem).into_iter().filter(|(_, without)| !impossible(without));
    Cause::Joint { members, rules: dropped.map(|(name, _)| name).collect() }
}

/// Is it certain that there is no place?
fn impossible(problem: &Problem) -> bool {
    let Ok(model) = Model::new(problem) else { return false };
    let tables = Tables::plain(&model);
    let found = Search::new(&model, &tables, super::Budget::nodes(NODES)).any().run(None);
    found.best.is_none() && found.complete
}

/// The problem of some members.
fn only(problem: &Problem, names: &[String]) -> Problem {
    let mut it = problem.clone();
    it.members.retain(|m| names.contains(&m.name));
    it.links.retain(|l| names.contains(&l.a) && names.contains(&l.b));
    let links: Vec<String> = it.links.iter().map(|l| l.name.clone()).collect();
    it.paths.retain(|p| {
        p.legs.iter().all(|leg| match leg {
            Leg::Access(member) => names.contains(member),
            Leg::Link(link) => links.contains(link),
        })
    });
    it.affinity.iter_mut().chain(&mut it.anti_affinity).for_each(|g| g.members.retain(|m| names.contains(m)));
    it.exclusions.retain(|x| x.member.as_ref().is_none_or(|m| names.contains(m)));
    it
}

/// Each rule, and the problem without it.
fn rules(problem: &Problem) -> Vec<(String, Problem)> {
    let mut out = Vec::new();
    let mut without = |name: String, change: &dyn Fn(&mut Problem)| {
        let mut it = problem.clone();
        change(&mut it);
        if it != *problem {
            out.push((name, it));
        }
    };
    for (d, name) in CAPACITIES.iter().enumerate() {
        without(format!("the sites' {name}"), &|p| unlimited(p, d));
    }
    for (i, group) in problem.anti_affinity.iter().enumerate() {
        without(format!("anti-affinity `{}`", group.name), &|p| drop(p.anti_affinity.remove(i)));
    }
    for (i, group) in problem.affinity.iter().enumerate() {
        without(format!("affinity `{}`", group.name), &|p| drop(p.affinity.remove(i)));
    }
    without("sites that are not connected".into(), &connected);
    without("the connections' bandwidth".into(), &|p| {
        p.connections.iter_mut().for_each(|c| c.bandwidth_kbps = None);
    });
    let mut each = |name: &str, change: &dyn Fn(&mut Rules)| {
        without(name.into(), &|p| p.members.iter_mut().for_each(|m| change(&mut m.rules)));
    };
    each("the sites that the intent allows", &|r| r.sites.clear());
    each("the jurisdictions that the intent allows", &|r| r.jurisdictions.clear());
    each("the highest latency from the tenant", &|r| r.max_latency_us = None);
    each("attestation", &|r| r.attestation = false);
    each("the trusted execution environment", &|r| r.tee = false);
    without("members that stay where they are".into(), &|p| {
        p.members.iter_mut().for_each(|m| m.pinned = None);
    });
    without("sites that have refused".into(), &|p| p.exclusions.clear());
    without("sites that are drained".into(), &|p| p.sites.iter_mut().for_each(|s| s.drained = None));
    without("sites that cannot be asked".into(), &|p| p.sites.iter_mut().for_each(|s| s.problem = None));
    out
}

const CAPACITIES: [&str; DIMENSIONS] = ["vCPUs", "memory", "instances", "virtual functions", "uplinks"];

fn unlimited(problem: &mut Problem, dimension: usize) {
    let clear = |a: &mut Amounts| match dimension {
        0 => a.vcpus = 0,
        1 => a.memory_mib = 0,
        2 => a.instances = 0,
        3 => a.vfs = 0,
        _ => a.bandwidth_kbps = 0,
    };
    problem.members.iter_mut().for_each(|m| clear(&mut m.demand));
}

fn connected(problem: &mut Problem) {
    let names: Vec<String> = problem.sites.iter().map(|s| s.name.clone()).collect();
    for (i, a) in names.iter().enumerate() {
        for b in &names[i + 1..] {
            let there = |c: &Connection| (&c.a, &c.b) == (a, b) || (&c.a, &c.b) == (b, a);
            if !problem.connections.iter().any(there) {
                let (a, b) = (a.clone(), b.clone());
                problem.connections.push(Connection { a, b, latency_us: 0, bandwidth_kbps: None });
            }
        }
    }
}
