//! Until the cloud can be used: every API answers, and hosts and agents have reported since they were started.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use serde_json::Value;

use super::{
    http::Client,
    identity,
    layout::{APIS, HOSTS, Layout},
    services,
};
use crate::{interrupt, up::process::Process};

/// All of it, on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(300);
/// Agents on each host.
const AGENTS: usize = 2;

/// Waits; an error names what is missing, or which process ended.
pub fn wait(layout: &Layout) -> anyhow::Result<()> {
    for (service, ..) in APIS {
        let process = if service == "nova" { "nova-api" } else { service };
        services::listening(layout, process, layout.port(service))?;
        services::listening(layout, "haproxy", layout.public(service))?;
    }
    let token = identity::token(layout)?;
    let mut missing = String::new();
    let waited = interrupt::wait_for("the cloud is not ready", LIMIT, || {
        for process in super::processes(layout.root())? {
            // cinder is started after all this, and again if it ended.
            if process.pid().is_none() && !process.name().starts_with("cinder-") {
                bail!("{} ended; see {}", process.name(), process.log().display());
            }
        }
        match look(layout, &token) {
            Ok(what) if what.is_empty() => return Ok(Some(())),
            Ok(what) => missing = what.join(", "),
            Err(e) => missing = format!("{e:#}"),
        }
        std::thread::sleep(PAUSE);
        Ok(None)
    });
    waited.map_err(|e| if missing.is_empty() { e } else { e.context(format!("missing: {missing}")) })
}

/// What is not there yet.
fn look(layout: &Layout, token: &str) -> anyhow::Result<Vec<String>> {
    let of = |service: &str| Client { port: layout.port(service), token };
    let mut missing = Vec::new();
    of("glance").get("/v2/images?limit=1")?;
    let services = of("nova").get("/v2.1/os-services")?;
    for (binary, host, process) in [
        ("nova-scheduler", "controller", "nova-scheduler"),
        ("nova-conductor", "controller", "nova-conductor"),
        ("nova-compute", HOSTS[0], HOSTS[0]),
        ("nova-compute", HOSTS[1], HOSTS[1]),
    ] {
        let it = |s: &&Value| s["binary"] == binary && s["host"] == host && s["state"] == "up";
        let found = list(&services, "services").iter().find(it);
        if !found.is_some_and(|s| fresh(layout, process, &s["updated_at"])) {
            missing.push(format!("{binary} on {host}"));
        }
    }
    let agents = of("neutron").get("/v2.0/agents")?;
    let alive = |a: &&Value| a["alive"] == true && fresh(layout, "agents", &a["heartbeat_timestamp"]);
    let alive = list(&agents, "agents").iter().filter(alive).count();
    if alive < AGENTS * HOSTS.len() {
        missing.push(format!("{alive} of {} agents", AGENTS * HOSTS.len()));
    }
    let providers = of("placement").get("/resource_providers")?;
    let hypervisors = of("nova").get("/v2.1/os-hypervisors")?;
    for (what, key, found) in
        [("providers", "resource_providers", &providers), ("hypervisors", "hypervisors", &hypervisors)]
    {
        if list(found, key).len() < HOSTS.len() {
            missing.push(format!("{} of {} {what}", list(found, key).len(), HOSTS.len()));
        }
    }
    Ok(missing)
}

fn list<'a>(body: &'a Value, key: &str) -> &'a [Value] {
    body[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A report counts when it is younger than the process that must have sent it.
fn fresh(layout: &Layout, process: &str, stamp: &Value) -> bool {
    let reported = stamp.as_str().and_then(seconds);
    let since = Process::at(layout.root(), process).since();
    let since = since.and_then(|s: SystemTime| s.duration_since(UNIX_EPOCH).ok());
    reported.zip(since).is_some_and(|(reported, since)| reported >= since.as_secs())
}

/// `2026-01-31T12:00:00.000000` or with a blank, in UTC, as seconds since 1970.
fn seconds(stamp: &str) -> Option<u64> {
    let parts: Vec<u64> =
        stamp.get(..19)?.split(['-', 'T', ' ', ':']).map_while(|p| p.parse().ok()).collect();
    let [year, month, day, hour, minute, second] = parts.try_into().ok()?;
    // Years that begin in March, so that a leap day is the last of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    Some((days.checked_sub(719_468)? * 24 + hour) * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_of_both_forms_are_read() {
        assert_eq!(seconds("1970-01-01T00:00:00.000000"), Some(0));
        assert_eq!(seconds("2024-02-29 12:34:56"), Some(1_709_210_096));
        assert_eq!(seconds("2026-11-21T07:54:31.5"), Some(1_795_247_671));
        assert_eq!((seconds("yesterday"), seconds("2024-02-29 12-x")), (None, None));
    }
}
