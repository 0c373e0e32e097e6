//! What the functions share: time, drop counters, and what a reconfiguration may not change.

use std::collections::BTreeMap;

use dataplane_control::{
    Configuration,
    config::{ConfigError, MacAddr, Port},
};

use crate::{
    DropReason, PortIndex, Verdict,
    hash::name_hash,
    key::Side,
    table::{CONNECTION_BYTES, Table},
};

/// Idle time of a TCP connection before its handshake is complete, ms.
pub(crate) const TCP_HANDSHAKE_MS: u32 = 30_000;
/// Time of a TCP connection from RST, or FIN from both sides, on, ms; the firewall's whatever is sent meanwhile.
pub(crate) const TCP_CLOSING_MS: u32 = 10_000;
/// Idle time of a TCP connection after FIN from one side, ms.
pub(crate) const TCP_HALF_CLOSED_MS: u32 = 120_000;
/// Idle time of a balanced connection that only one side has been heard of, ms.
pub(crate) const UNCONFIRMED_MS: u32 = 30_000;
/// Longest idle time that can be configured, ms: half the range of the wrapping clock, about 24 days.
const MAX_IDLE_MS: u64 = (u32::MAX / 2) as u64;

/// Frames dropped, by reason.
#[derive(Debug, Clone)]
pub(crate) struct Drops([u64; DropReason::COUNT]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::COUNT])
    }
}

impl Drops {
    /// Counts, and returns the verdict.
    #[inline]
    pub(crate) fn drop(&mut self, reason: DropReason) -> Verdict {
        self.0[reason.index()] += 1;
        Verdict::Drop(reason)
    }

    /// Drops frames that came in on a port of no side.
    #[cold]
    pub(crate) fn unknown_port(&mut self, frames: usize, verdicts: &mut [Verdict]) {
        verdicts.iter_mut().take(frames).for_each(|v| *v = self.drop(DropReason::UnknownPort));
    }

    /// Adds every reason that happened.
    pub(crate) fn report(&self, out: &mut BTreeMap<String, u64>) {
        for reason in DropReason::ALL {
            let count = self.0[reason.index()];
            if count > 0 {
                out.insert(format!("drop.{}", reason.label()), count);
            }
        }
    }
}

/// Milliseconds that wrap after 49 days but never go back.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    latest_us: u64,
}

impl Clock {
    #[inline]
    pub(crate) fn advance(&mut self, now_us: u64) -> u32 {
        self.latest_us = self.latest_us.max(now_us);
        ((self.latest_us / 1000) & 0xffff_ffff) as u32
    }
}

/// A configured idle time on the wrapping clock.
pub(crate) fn idle_ms(configured: u64) -> u32 {
    u32::try_from(configured.min(MAX_IDLE_MS)).unwrap_or(u32::MAX / 2)
}

/// A port as a function uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnPort {
    pub index: PortIndex,
    pub mac: [u8; 6],
}

/// Finds a port by name.
pub(crate) fn port(configuration: &Configuration, path: &str, name: &str) -> Result<OwnPort, ConfigError> {
    let found = (0..).zip(&configuration.ports).find(|(_, p)| p.name == name);
    let (index, Port { mac: MacAddr(mac), .. }) =
        found.ok_or_else(|| invalid(path, format!("no port `{name}` in `ports`")))?;
    Ok(OwnPort { index, mac: *mac })
}

/// The two ports of a function between two networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortPair {
    pub near: OwnPort,
    pub far: OwnPort,
}

impl PortPair {
    /// Finds both by name; `path` names the far one's field.
    pub(crate) fn find(c: &Configuration, path: &str, near: &str, far: &str) -> Result<Self, ConfigError> {
        if near == far {
            return Err(invalid(path, format!("`{far}` is on both sides; name two ports")));
        }
        Ok(Self { near: port(c, path, near)?, far: port(c, path, far)? })
    }

    #[inline]
    pub(crate) fn side(&self, ingress: PortIndex) -> Option<Side> {
        match ingress {
            i if i == self.near.index => Some(Side::Near),
            i if i == self.far.index => Some(Side::Far),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn on(&self, side: Side) -> &OwnPort {
        match side {
            Side::Near => &self.near,
            Side::Far => &self.far,
        }
    }
}

pub(crate) fn invalid(path: &str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { path: path.into(), problem: problem.into() }
}

/// Refuses a reconfiguration that needs a new process.
pub(crate) fn same_ports(running: &[Port], wanted: &Configuration) -> Result<(), ConfigError> {
    if running == wanted.ports {
        return Ok(());
    }
    Err(invalid("ports", "differ from the running process's; ports only change with a new process"))
}

/// The error for a reconfiguration to another kind of function.
pub(crate) fn other_function(running: &str) -> ConfigError {
    invalid("function", format!("this process runs a {running}; another function needs a new process"))
}

/// The error for a configuration that was prepared against another kind of function.
pub(crate) fn prepared_for(prepared: &str, running: &str) -> ConfigError {
    invalid("function", format!("was prepared for a {prepared}, but a {running} runs; prepare it again"))
}

/// A table for `max_connections`; `path` names that field.
pub(crate) fn table<V: Copy + Default>(
    path: &str,
    max_connections: u32,
    seed: u64,
) -> Result<Table<V>, ConfigError> {
    Table::new(max_connections, seed).map_err(|_| out_of_memory(path, max_connections))
}

pub(crate) fn out_of_memory(path: &str, max_connections: u32) -> ConfigError {
    invalid(
        path,
        format!("not enough memory for {max_connections} connections of {CONNECTION_BYTES} bytes; lower it"),
    )
}

/// Seed of a table's hash where the caller gives none: differs between instances, is no secret.
pub(crate) fn default_seed(configuration: &Configuration) -> u64 {
    name_hash(0x6d61_6e64_6174_6521, &configuration.instance)
}
