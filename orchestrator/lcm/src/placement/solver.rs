//! Solving a problem, and going on to the next best answer when a site refuses.

use serde::{Deserialize, Serialize};

use super::{
    answer::{Answer, Code, Cost},
    heuristic,
    model::{Model, Reason, bit, each},
    problem::{Exclusion, Malformed, Problem},
    search::{Search, Tables},
    unplaceable::{self, Unplaceable},
};

/// How much work a search may be. It ends at whichever is used up first: the same on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Nodes of the search tree.
    pub nodes: u64,
    /// Work: each node counts members x sites, because that many costs are looked at in it.
    pub work: u64,
}

impl Default for Budget {
    /// Many times what the hardest 8 x 8 problem that we know needs (some 5 million of work); about a second at 64 x 64.
    fn default() -> Self {
        Self { nodes: 200_000, work: DEFAULT_WORK }
    }
}

/// Some 10 ns of CPU each.
const DEFAULT_WORK: u64 = 48_000_000;

impl Budget {
    /// So many nodes, whatever they cost.
    #[must_use]
    pub fn nodes(nodes: u64) -> Self {
        Self { nodes, work: u64::MAX }
    }
}

/// Why there is no placement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// The problem contradicts itself.
    #[error("the placement problem is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// No assignment keeps all constraints.
    #[error(transparent)]
    Unplaceable(Box<Unplaceable>),
    /// None was found within the budget, and it is not certain that there is none.
    #[error(
        "no placement was found in {nodes} nodes, nor that there is none: name fewer sites, split the service, or \
         raise the budget"
    )]
    Undecided {
        /// Nodes searched.
        nodes: u64,
    },
}

impl PlacementError {
    /// Stable code, `UPPER_SNAKE_CASE`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "PLACEMENT_MALFORMED",
            Self::Unplaceable(_) => "NO_SITE",
            Self::Undecided { .. } => "PLACEMENT_UNDECIDED",
        }
    }
}

/// The cheapest placement.
pub fn solve(problem: &Problem, budget: Budget) -> Result<Answer, PlacementError> {
    Solver::new(problem)?.solve(budget)
}

/// A problem made ready to be solved, and to be solved again without what has refused.
pub struct Solver<'a> {
    problem: &'a Problem,
    model: Model,
    tables: Tables,
    last: Option<Vec<usize>>,
    /// Refused since.
    refused: Vec<Exclusion>,
}

impl<'a> Solver<'a> {
    /// Checks and prepares.
    pub fn new(problem: &'a Problem) -> Result<Self, Malformed> {
        let model = Model::new(problem)?;
        let tables = Tables::new(&model);
        Ok(Self { problem, model, tables, last: None, refused: Vec::new() })
    }

    /// The cheapest placement.
    pub fn solve(&mut self, budget: Budget) -> Result<Answer, PlacementError> {
        let repaired = self.last.take().and_then(|sites| self.repair(sites));
        let guides = self.tables.guides().iter();
        let first = guides.filter_map(|g| heuristic::first(&self.model, g)).chain(repaired).min();
        let mut found = Search::new(&self.model, &self.tables, budget).run(first);
        let Some((_, sites)) = found.best.take() else {
            return Err(match found.complete {
                true => PlacementError::Unplaceable(Box::new(self.unplaceable())),
                false => PlacementError::Undecided { nodes: found.nodes },
            });
        };
        let sites = heuristic::improve(&self.model, sites.clone()).map_or(sites, |(_, better)| better);
        let least = found.least;
        let mut answer = super::answer::answer(self.problem, &self.model, &sites);
        answer.nodes = found.nodes;
        answer.optimal = found.complete || least >= answer.z.0;
        answer.lower_bound = if answer.optimal { answer.z } else { Cost(least.max(0)) };
        answer.gap_permille = gap(answer.z, answer.lower_bound);
        self.last = Some(sites);
        Ok(answer)
    }

    /// The next best, when a site has refused after all (NoValidHost): what was computed stays, and the search starts
    /// from the last answer with only the refused members moved.
    pub fn next(&mut self, refused: &Exclusion, budget: Budget) -> Result<Answer, PlacementError> {
        let Some(site) = self.model.sites.iter().position(|s| self.problem.sites[*s].name == refused.site)
        else {
            let (what, name) = ("exclusion", refused.site.clone());
            let problem = "names a site that the problem does not have".into();
            return Err(Malformed { what, name, problem }.into());
        };
        self.refused.push(refused.clone());
        for block in 0..self.model.blocks.len() {
            let names = |p: &usize| &self.problem.members[self.model.members[*p]].name;
            let this = |p: &&usize| refused.member.as_ref().is_none_or(|m| m == names(p));
            let Some(first) = self.model.blocks[block].iter().find(this).map(names).cloned() else {
                continue;
            };
            for p in &self.model.blocks[block] {
                let text = refused.why.clone();
                let reason = match this(&p) {
                    true => Reason { code: Code::SiteExcluded, text },
                    false => Reason {
                        code: Code::Affinity,
                        text: format!("`{first}` must be on the same site: {text}"),
                    },
                };
                self.model.reasons[*p][site].get_or_insert(reason);
            }
        }
        self.model.refit();
        self.tables.refit(&self.model);
        self.solve(budget)
    }

    /// The last assignment, with the blocks that cannot stay moved, one after the other, to where Z is least.
    fn repair(&self, mut sites: Vec<usize>) -> Option<(i64, Vec<usize>)> {
        for block in 0..sites.len() {
            if self.model.domains[block] & bit(sites[block]) != 0 {
                continue;
            }
            let tried = each(self.model.domains[block]).filter_map(|site| {
                sites[block] = site;
                self.model.evaluate(&sites).ok().map(|z| (z, site))
            });
            sites[block] = tried.min()?.1;
        }
        heuristic::improve(&self.model, sites)
    }

    fn unplaceable(&self) -> Unplaceable {
        let mut problem = self.problem.clone();
        problem.exclusions.extend(self.refused.iter().cloned());
        unplaceable::explain(&problem, &self.model)
    }
}

/// Per mille of `z`, rounded up.
fn gap(z: Cost, least: Cost) -> u32 {
    let (above, z) = (z.0.saturating_sub(least.0).max(0), z.0.max(1));
    let permille = (i128::from(above) * 1000 + i128::from(z) - 1) / i128::from(z);
    u32::try_from(permille).unwrap_or(u32::MAX)
}
