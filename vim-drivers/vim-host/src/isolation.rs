//! Isolation: the kernel cuts an instance off, the process is only told.
//!
//! The outer end of each of its ports is in the fabric namespace, which the instance cannot reach; down, it neither
//! takes nor gives a frame, whatever runs at the inner end. The order: the wish is recorded, the ports are taken
//! down, the kernel is asked whether they are, then the process is told, in bounded time and for its own counters
//! only. So it works when the process is dead, stopped, or another one, and what is reported is read from the links.
//!
//! Cut stays cut through a restart of the driver or of the instance, another configuration or image, until isolation
//! is taken back or the instance removed. Never: a process's word for the kernel's.
//!
//! Tests: `tests/isolation.rs`; the conformance suite; `tests/real.rs` with traffic.

use std::{collections::BTreeMap, time::Duration};

use dataplane_control::protocol::Request;
use vim::ObjectKey;

use crate::{
    Site, blocking,
    compute::Fabric,
    control,
    error::HostError,
    link::{Link, Links},
    state::{Record, write_json},
};

/// Longest wait for the process to take note.
const COURTESY: Duration = Duration::from_secs(2);
/// How often ports are taken down (or up) and read back: a link made in between is met the second time.
const ROUNDS: usize = 3;

impl Site {
    /// The instance's traffic is cut (or flows again), as the kernel has it.
    pub(crate) async fn isolate(&self, key: &ObjectKey, on: bool) -> Result<(), HostError> {
        if on && let Err(error) = self.switch_ports(key, false).await {
            // Tried before waiting for whoever works on the instance; done for good below.
            tracing::warn!(instance = %key, "{error}");
        }
        let _key = self.key_lock(key).lock().await;
        let record = self.record(key).await?.ok_or(HostError::InstanceAbsent)?;
        if on {
            self.mark(&record, true).await?;
            self.switch_ports(key, false).await?;
        } else {
            self.switch_ports(key, true).await?;
            self.mark(&record, false).await?;
        }
        self.tell(key, on).await;
        Ok(())
    }

    /// Takes every port of the instance up or down and reads back that it is.
    pub(crate) async fn switch_ports(&self, key: &ObjectKey, up: bool) -> Result<(), HostError> {
        // Without the fabric there is no link that could carry anything.
        let Some(links) = Links::open(&self.fabric()).await? else { return Ok(()) };
        let mut switched = Ok(());
        for _ in 0..ROUNDS {
            switched = self.switch_once(&links, key, up).await;
            if switched.is_ok() {
                break;
            }
        }
        links.close().await;
        switched
    }

    async fn switch_once(&self, links: &Links, key: &ObjectKey, up: bool) -> Result<(), HostError> {
        for link in self.other_than(&links.dump().await?, key, up) {
            links.switch(link, up).await?;
        }
        let all = links.dump().await?;
        let names: Vec<_> = self.other_than(&all, key, up).map(|l| l.name.as_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let wanted = if up { "up" } else { "down" };
        Err(HostError::NotCut { wanted, ports: names.join(", "), namespace: self.fabric() })
    }

    /// The instance's ports that are not as wanted.
    fn other_than<'l>(&self, all: &'l [Link], key: &ObjectKey, up: bool) -> impl Iterator<Item = &'l Link> {
        all.iter().filter(move |l| l.up != up && self.is_port_of(l, key))
    }

    async fn mark(&self, record: &Record, isolated: bool) -> Result<(), HostError> {
        if record.isolated == isolated {
            return Ok(());
        }
        let (path, record) =
            (self.layout.instance(&record.key).record(), Record { isolated, ..record.clone() });
        blocking(move || write_json(&path, &record)).await
    }

    /// Tells the process, if it is ours and listens. That is for its own counters: nothing depends on it.
    pub(crate) async fn tell(&self, key: &ObjectKey, on: bool) {
        let told = async {
            let (process, _) = self.running(key).await?;
            let socket = self.layout.instance(key).control();
            control::status(&socket, process.pid, Request::Isolate { on }, COURTESY).await
        };
        match tokio::time::timeout(COURTESY, told).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(instance = %key, on, "not told of its isolation: {error}"),
            Err(_) => tracing::warn!(instance = %key, on, "not told of its isolation: it does not answer"),
        }
    }
}

/// Has the kernel cut the instance off? No port of it is up, and that is by our hand or true of all that it has.
pub(crate) fn is_cut(record: &Record, fabric: &Fabric) -> bool {
    let none = BTreeMap::new();
    let ours = fabric.ports.get(&record.key).unwrap_or(&none);
    let whole = !ours.is_empty() && ours.len() == record.spec.ports.len();
    ours.values().all(|p| !p.outer.up) && (record.isolated || whole)
}
