//! Placement: which site for each VNF of a service, what it costs, and why not elsewhere.
//!
//! [`solve`] takes a [`Problem`] (members, links, paths, sites, constraints) and gives the [`Answer`] with the least
//!
//! > Z = site cost + distance + SLA penalties + alpha x unused capacity
//!
//! * *site cost*: vCPUs x the site's cost, per member;
//! * *distance*: 1 per 100 µs of each path (an SLA counts round trips, so a near site is worth something, but a cheap
//!   one more);
//! * *SLA penalties*: per path, `weight x penalty per µs` for each µs over its bound; per pair of sites, a penalty per
//!   started Mbit/s of traffic that does not fit the connection (or a refusal, when that is not allowed);
//! * *unused capacity*: for each site that the service opens (at least one member on it), what stays free there once
//!   the service runs, as a share of the site's total: the mean over the kinds of resource that the service asks for.
//!   A site that stays wholly empty counts 1000; alpha is per mille.
//!
//! By hand: a site has 16 vCPUs (8 free) and 32 GiB (24 free); a service of 4 vCPUs and 8 GiB leaves 4/16 and 16/32,
//! the mean is 0.375, so with alpha = 100 ‰ it pays 0.1 x 375 = 37.5. (The shares are kept in millionths, rounded down
//! for the room of a site and for each member.) A test pins this example.
//!
//! Exact by branch and bound as long as the budget of nodes lasts; beyond it the best that was found, with a lower
//! bound and the gap to it. Everything is integer arithmetic over the input: no clock, no randomness, no floats, and
//! members and sites are taken in the order of their names, so the same problem has the same answer everywhere. It must
//! never weaken a constraint to find a place: no assignment is an [`Unplaceable`], with the smallest reason that we have.
//!
//! [`place`] is the special case of a service that stays on one site. Tests: `tests/placement.rs` (equal to brute
//! force, monotone, named cases), beside each module; `examples/placement.rs` measures.

mod answer;
mod bound;
mod explain;
mod heuristic;
mod model;
mod problem;
mod search;
mod single;
mod solver;
mod unplaceable;

pub use answer::{Against, Answer, Code, ConnectionPart, Cost, MemberPart, Parts, PathPart, SitePart};
pub use explain::{Explanation, Table, explain, explain_refusal};
pub use problem::{
    Amounts, Candidate, Connection, Costs, Exclusion, Group, Held, Leg, Link, MAX_MEMBERS, MAX_SITES,
    Malformed, Member, Path, Problem, Rules,
};
pub(crate) use single::NO_TEE;
pub use single::{Defaults, Demand, NoSite, Placed, Site, place};
pub use solver::{Budget, PlacementError, Solver, solve};
pub use unplaceable::{Cause, Unplaceable};
