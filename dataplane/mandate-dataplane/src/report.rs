//! What runs now, as the packet thread copies it: counters get their names, and configurations are freed, on the
//! thread that asked.

use std::{collections::BTreeMap, sync::Arc};

use dataplane_control::protocol::Status;
use dataplane_engine::{Basis, Prepared, Retired, Snapshot};

use crate::{document::Document, role};

/// The raw material of a [`Status`].
#[derive(Debug)]
pub struct Report {
    pub document: Arc<Document>,
    pub isolated: bool,
    /// Of the packet function, if there is one.
    pub function: Option<Snapshot>,
    /// Of the ports and of the process: a handful.
    pub counters: BTreeMap<String, u64>,
}

impl Report {
    /// The status, with all names.
    pub fn into_status(self) -> Status {
        let Self { document, isolated, function, mut counters } = self;
        let connections = function.as_ref().map_or(0, Snapshot::connections);
        if let Some(snapshot) = function {
            snapshot.counters(&mut counters);
        }
        Status {
            instance: document.configuration.instance.clone(),
            function: role::name(&document.configuration.function).into(),
            generation: document.configuration.generation,
            configuration: document.digest,
            isolated,
            pid: std::process::id(),
            connections,
            counters,
        }
    }
}

/// What the next configuration is prepared against.
#[derive(Debug)]
pub struct Running {
    pub document: Arc<Document>,
    /// Of the packet function, if there is one.
    pub function: Option<Basis>,
}

/// A configuration to be swapped in.
#[derive(Debug)]
pub struct Next {
    /// The running one that it was prepared against.
    pub before: Arc<Document>,
    pub document: Arc<Document>,
    /// For the packet function, if there is one.
    pub function: Option<Prepared>,
}

/// A configuration that was swapped in, and what it replaced.
#[derive(Debug)]
pub struct Swapped {
    pub report: Report,
    /// How long frames waited.
    pub swap_us: u64,
    pub before: Arc<Document>,
    pub function: Option<Retired>,
}
