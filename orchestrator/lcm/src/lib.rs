//! Pure life-cycle management: what to do, in which order, and what it proves.
//!
//! [`planner`] turns an approved intent, descriptors and one observation of every site into a [`Plan`];
//! [`Operation`] is the fold of its journal ([`operation::Event`]) and says what to do next; [`fold`] turns a closed
//! operation into the evidence bundle's body. Nothing here does I/O, reads a clock or draws a random number: the
//! same inputs give the same plan, the same commands and the same evidence, which is what makes a restart after a
//! crash the ordinary path.
//!
//! Tests: beside each module; `tests/crashes.rs` enumerates every crash point x every failing step x a second crash.

pub mod compliance;
pub mod drift;
pub mod fold;
pub mod functions;
pub mod measure;
pub mod operation;
pub mod placement;
pub mod plan;
pub mod planner;
pub mod record;

pub use operation::{Command, Event, Operation};
pub use plan::{Action, Plan, Step};
pub use record::{NsRecord, Object};
