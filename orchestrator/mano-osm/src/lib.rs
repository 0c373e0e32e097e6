//! OSM as a MANO.
//!
//! [`client`] is a session with its northbound interface.

pub mod client;
mod config;

pub use config::OsmConfig;
pub use http_peer::{BadConfig, Secret};
