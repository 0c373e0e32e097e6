//! An answer as tables for people: `mandate plan --explain` prints them.

use serde::{Deserialize, Serialize};

use super::{
    answer::{Against, Answer, Cost},
    unplaceable::Unplaceable,
};

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Column heads.
    pub columns: Vec<String>,
    /// As many cells per row as there are columns.
    pub rows: Vec<Vec<String>>,
}

/// What there is to say about a placement, in the order of interest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explanation {
    /// One line.
    pub headline: String,
    /// What Z is made of, and why nothing is elsewhere.
    pub tables: Vec<Table>,
}

fn table<const N: usize>(title: &str, columns: [&str; N], rows: Vec<[String; N]>) -> Table {
    let rows = rows.into_iter().map(Vec::from).collect();
    Table { title: title.into(), columns: columns.map(str::to_owned).into(), rows }
}

/// An answer explained.
#[must_use]
pub fn explain(answer: &Answer) -> Explanation {
    let proof = match (answer.optimal, answer.gap_permille) {
        (true, _) => "nothing is cheaper".to_owned(),
        (false, gap) => {
            format!("at most {gap} per mille above the cheapest, which costs {} or more", answer.lower_bound)
        }
    };
    let headline = format!("Z = {}: {proof} ({} nodes searched)", answer.z, answer.nodes);
    let tables = vec![costs(answer), elsewhere(&answer.against)];
    Explanation { headline, tables }
}

/// A refusal explained.
#[must_use]
pub fn explain_refusal(refusal: &Unplaceable) -> Explanation {
    Explanation { headline: refusal.to_string(), tables: vec![elsewhere(&refusal.against)] }
}

fn costs(answer: &Answer) -> Table {
    let parts = &answer.parts;
    let mut rows: Vec<[String; 3]> = Vec::new();
    let mut row = |what: String, where_: String, cost: Cost| rows.push([what, where_, cost.to_string()]);
    for m in &parts.members {
        row(format!("member {}", m.member), format!("on {}", m.site), m.cost);
    }
    for p in &parts.paths {
        row(format!("path {}", p.path), format!("{} µs", p.latency_us), p.distance);
        if p.penalty.0 > 0 {
            let over = p.latency_us.saturating_sub(p.bound_us);
            row(format!("SLA of {}", p.path), format!("{over} µs over {}", p.bound_us), p.penalty);
        }
    }
    for c in parts.connections.iter().filter(|c| c.penalty.0 > 0) {
        let over = c.traffic_kbps.saturating_sub(c.bandwidth_kbps.unwrap_or(0));
        row(
            format!("SLA of {}", c.links.join(", ")),
            format!("{over} kbit/s over {} to {}", c.a, c.b),
            c.penalty,
        );
    }
    for s in parts.sites.iter().filter(|s| s.unused.0 > 0) {
        row(format!("unused on {}", s.site), format!("{} of a million", s.unused_ppm), s.unused);
    }
    row("Z".into(), String::new(), answer.z);
    table("Cost", ["part", "where", "cost"], rows)
}

fn elsewhere(against: &[Against]) -> Table {
    let rows = against.iter().map(|a| {
        let worse = a.worse_by.map_or_else(|| "cannot".into(), |w| format!("+{w}"));
        [a.member.clone(), a.site.clone(), worse, a.code.to_string(), a.text.clone()]
    });
    table("Why not elsewhere", ["member", "site", "Z", "code", "why"], rows.collect())
}
