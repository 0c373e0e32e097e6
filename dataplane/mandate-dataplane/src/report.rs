//! What runs now, as the packet thread copies it: counters get their names, and configurations are freed, on the
//! thread that asked.

use std::{collections::BTreeMap, sync::Arc};

use dataplane_control::protocol::Status;
use dataplane_engine::{Basis, Prepared, Retired, Snapshot};

use crate::{document::Document, role};

/// The raw material of a [`Status`], of one packet thread.
#[derive(Debug)]
pub struct Report {
    /// When it was made, on the process's clock.
    pub at_us: u64,
    pub document: Arc<Document>,
    pub isolated: bool,
    /// Of the packet function, if there is one.
    pub function: Option<Snapshot>,
    /// Of the ports and of the process: a handful.
    pub counters: BTreeMap<String, u64>,
}

impl Report {
    /// Frames that all its ports received.
    pub fn received(&self) -> u64 {
        self.counters.iter().filter(|(name, _)| name.starts_with("rx_frames.")).map(|(_, count)| count).sum()
    }

    /// Connections that the packet thread has room for.
    pub fn max_connections(&self) -> u64 {
        self.document.configuration.function.max_connections()
    }

    /// TCP connections whose handshake is not complete.
    pub fn half_open(&self) -> u64 {
        self.function.as_ref().map_or(0, Snapshot::half_open)
    }

    fn add_to(&self, status: &mut Status) {
        let mut own = BTreeMap::new();
        if let Some(snapshot) = &self.function {
            snapshot.counters(&mut own);
            status.connections += snapshot.connections();
        }
        for (name, count) in own.iter().chain(&self.counters) {
            match status.counters.get_mut(name) {
                Some(sum) => *sum += count,
                None => drop(status.counters.insert(name.clone(), *count)),
            }
        }
        status.isolated |= self.isolated;
    }
}

/// The status of the process: of the first packet thread what they have in common, of all of them the sums.
pub fn merged<'r>(reports: impl IntoIterator<Item = &'r Report>) -> Option<Status> {
    let mut reports = reports.into_iter().peekable();
    let Document { configuration, digest } = &*reports.peek()?.document;
    let mut status = Status {
        instance: configuration.instance.clone(),
        function: role::name(&configuration.function).into(),
        generation: configuration.generation,
        configuration: *digest,
        isolated: false,
        pid: std::process::id(),
        connections: 0,
        counters: BTreeMap::new(),
    };
    reports.for_each(|report| report.add_to(&mut status));
    Some(status)
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
    #[expect(dead_code, reason = "held to be dropped by who asked")]
    pub before: Arc<Document>,
    #[expect(dead_code, reason = "held to be dropped by who asked")]
    pub function: Option<Retired>,
}
