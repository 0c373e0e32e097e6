//! The engine as a whole: a home made by `init`, the embedded ledger, the journal, the packages we ship packed and
//! registered by a provider, intents signed by tenants. Everything is real but the VIM: [`vim::fake::FakeVim`] is
//! there to fail on demand and to count what happened, its quotes are made with a software key and its traffic
//! reports are derived from the profiles. So nothing here claims that a network service runs: `cargo testbed demo`
//! is the run that proves the same with real processes, links and a TPM.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

#[path = "engine/approvals.rs"]
mod approvals;
#[path = "engine/attester.rs"]
mod attester;
#[path = "engine/burst.rs"]
mod burst;
#[path = "engine/completed.rs"]
mod completed;
#[path = "engine/continuity.rs"]
mod continuity;
#[path = "engine/crashes.rs"]
mod crashes;
#[path = "engine/drift.rs"]
mod drift;
#[path = "engine/dry_run.rs"]
mod dry_run;
#[path = "engine/faults.rs"]
mod faults;
#[path = "engine/gate.rs"]
mod gate;
#[path = "engine/life.rs"]
mod life;
#[path = "engine/mano.rs"]
mod mano;
#[path = "engine/order.rs"]
mod order;
#[path = "engine/outage.rs"]
mod outage;
#[path = "engine/overtaken.rs"]
mod overtaken;
#[path = "engine/store.rs"]
mod store;
#[path = "engine/strays.rs"]
mod strays;
#[path = "engine/telemetry.rs"]
mod telemetry;
#[path = "engine/trust_broken.rs"]
mod trust_broken;
#[path = "engine/upgrade.rs"]
mod upgrade;
#[path = "engine/world.rs"]
mod world;
