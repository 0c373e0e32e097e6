//! The gate inside OSM with the real engine, ledger and journal behind it, on VIMs that are fakes; in front of the NBI that
//! `OSM_NBI_URL` names (`OSM_NBI_USER`, `OSM_NBI_PASSWORD`: an administrator; it makes a project, users, a VIM account and packages of names that begin
//! with `gw`), else in front of a stand-in that breaks on demand. What only the one or the other can show says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

#[path = "engine/attester.rs"]
#[allow(dead_code, reason = "shared with tests/engine.rs")]
mod attester;
#[path = "engine/life.rs"]
#[allow(dead_code, reason = "shared with tests/engine.rs")]
mod life;
#[path = "common/nbi.rs"]
mod nbi;
#[path = "engine/world.rs"]
#[allow(dead_code, reason = "shared with tests/engine.rs")]
mod world;

#[path = "osm_gateway/cli.rs"]
mod cli;
#[path = "osm_gateway/clients.rs"]
mod clients;
#[path = "osm_gateway/faults.rs"]
mod faults;
#[path = "osm_gateway/lives.rs"]
mod lives;
#[path = "osm_gateway/measured.rs"]
mod measured;
#[path = "osm_gateway/others.rs"]
mod others;
