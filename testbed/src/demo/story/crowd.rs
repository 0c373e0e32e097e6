//! Twenty services of five tenants at once, on OpenStack, through the engine: all are carried out with their evidence, and the
//! cloud answers no call of ours with 429 or 500.
//!
//! Not in `cargo testbed test`: eighty servers take minutes of two processors.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{Act, Story, service, text};
use crate::up::openstack::{self, Seen, View};

pub(super) const ACTS: &[Act] = &[
    ("operator: found ledger, journal and identities", Story::init_for_crowd),
    ("operator: start the orchestrator", Story::serve),
    ("provider: pack, sign and register three packages", Story::packages),
    ("five tenants: twenty services at once", Story::deploy_crowd),
    ("five tenants: terminate them, at once", Story::terminate_crowd),
];

/// The default policy lets each have four services.
const TENANTS: [&str; 5] = ["acme", "globex", "initech", "hooli", "umbrella"];
const SERVICES: [&str; 4] = ["edge-1", "edge-2", "edge-3", "edge-4"];
/// Instances of each.
const INSTANCES: usize = 4;
/// For all of them to be carried out.
const LIMIT: Duration = Duration::from_secs(900);
/// What must not be answered: the status in a line of the services' logs.
const OURS: [&str; 2] = ["429", "500"];

impl Story {
    pub(super) fn init_for_crowd(&mut self) -> anyhow::Result<String> {
        let clouds = openstack::clouds()?.context("no cloud is up: `cargo testbed up openstack`")?;
        let mut line = vec!["init".to_owned()];
        line.extend(TENANTS.into_iter().flat_map(|t| ["--tenant".to_owned(), t.to_owned()]));
        for (site, properties) in self.sites {
            line.extend(["--site".into(), format!("{site}={properties},clouds={}", clouds.display())]);
        }
        let made = self.stage.mandate.ask(&line)?;
        self.cloud = View::new()?.look()?;
        ensure!(self.cloud.servers.is_empty(), "the cloud is not empty: {}", self.cloud);
        Ok(format!("ledger {}", text(&made, "ledger")?))
    }

    /// Signs an intent of each service, submits them one after the other without waiting, and waits for all.
    fn at_once(
        &self,
        arguments: impl Fn(&'static str, &'static str) -> Vec<String>,
    ) -> anyhow::Result<Vec<String>> {
        let mut signed: Vec<(String, PathBuf)> = Vec::new();
        for (tenant, name) in TENANTS.into_iter().flat_map(|t| SERVICES.map(|s| (t, s))) {
            let line = arguments(tenant, name);
            signed.push(self.intent(tenant, &line.iter().map(String::as_str).collect::<Vec<_>>())?);
        }
        for (_, file) in &signed {
            self.submit(file)?;
        }
        let mut operations = Vec::new();
        for (id, _) in &signed {
            let operation = self.anchored_within(id, LIMIT)?;
            service::completed(&operation)?;
            operations.push(text(&operation, "id")?);
        }
        for operation in &operations {
            self.verified(operation)?;
        }
        Ok(operations)
    }

    pub(super) fn deploy_crowd(&mut self) -> anyhow::Result<String> {
        let (start, before) = (Instant::now(), refusals()?);
        let params = self.params();
        let operations = self.at_once(|tenant, name| {
            let line = self.cloud_deployment(name, &params);
            line.into_iter().map(|w| if w == super::TENANT { tenant } else { w }.to_owned()).collect()
        })?;
        let seen = self.in_cloud()?;
        let right = operations.len() * INSTANCES;
        ensure!(seen.servers.len() == right, "{right} servers are right, and there are {seen}");
        let after = refusals()?;
        ensure!(before == after, "the cloud's services answered 429 or 500: {before:?}, then {after:?}");
        let (least, most) = self.calls_of(&operations)?;
        self.report.evidence.verified = true;
        Ok(format!(
            "{} services, {seen}, in {} s; {least} to {most} calls each; no 429, no 500",
            operations.len(),
            start.elapsed().as_secs()
        ))
    }

    /// Least and most calls of the cloud that these operations took, as `mandate operation show` has it.
    fn calls_of(&self, operations: &[String]) -> anyhow::Result<(u64, u64)> {
        let mut all = Vec::new();
        for operation in operations {
            let shown = self.stage.mandate.ask(&["operation", "show", operation])?;
            let steps = shown["steps"].as_array().context("no steps are shown")?;
            let attempts = steps.iter().filter_map(|s| s["attempts"].as_array()).flatten();
            all.push(attempts.filter_map(|a| a["calls"].as_u64()).sum());
        }
        Ok((all.iter().copied().min().unwrap_or_default(), all.iter().copied().max().unwrap_or_default()))
    }

    pub(super) fn terminate_crowd(&mut self) -> anyhow::Result<String> {
        let start = Instant::now();
        self.at_once(|tenant, name| {
            ["terminate", "--service", name, "--tenant", tenant].map(str::to_owned).to_vec()
        })?;
        let left = self.in_cloud()?;
        ensure!(left == Seen::default(), "left behind: {left}: {left:?}");
        Ok(format!("nothing is left, in {} s", start.elapsed().as_secs()))
    }
}

/// How often each service answered so, by its log.
fn refusals() -> anyhow::Result<BTreeMap<String, usize>> {
    let logs = openstack::clouds()?.context("no cloud")?.with_file_name("log");
    let mut out = BTreeMap::new();
    for service in ["nova-api", "neutron", "glance", "placement", "keystone"] {
        let text = fs::read(logs.join(format!("{service}.log"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let answered = |line: &&str| {
            OURS.iter().any(|s| {
                line.contains(&format!("HTTP/1.1\" status: {s}"))
                    || line.contains(&format!("HTTP/1.1\" {s} "))
            })
        };
        out.insert(service.to_owned(), text.lines().filter(answered).count());
    }
    Ok(out)
}
