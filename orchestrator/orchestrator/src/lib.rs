//! The service orchestrator: consumes approvals, journals, plans, actuates, attests, measures and anchors.
//!
//! Read top-down: `main` (the command line) -> [`config`] -> [`serve`] -> `wiring` (the one place that names concrete drivers)
//! -> `engine` (the loop) -> ports (`ledger::Ledger`, `vim::VimDriver`, `vim::VnfControl`). [`service`] is what
//! the HTTP API in `api` calls; [`views`] is what it answers.

pub mod api;
pub mod artifacts;
pub mod cli;
pub mod client;
pub mod config;
pub mod engine;
pub mod home;
pub mod init;
pub mod journal;
pub mod osm_gateway;
pub mod osm_notifications;
pub mod problem;
pub mod record;
pub mod remote_policy;
pub mod serve;
pub mod service;
pub mod telemetry;
pub mod views;
pub mod wiring;
