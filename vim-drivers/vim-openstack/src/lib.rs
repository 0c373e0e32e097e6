//! OpenStack as a VIM.
//!
//! [`client`] is a session with the cloud; what Mandate makes of nova, neutron and glance is on top of it.

pub mod client;
mod config;

pub use client::{ApiError, Call, Calls, Client, Fault, Microversion, Service};
pub use config::{Auth, BadConfig, CloudConfig, Interface, Secret};
