//! The main job on OpenStack, by the built-in MANO: deployed on a real control plane, read back, kept when somebody deletes a
//! server, finished after a crash, and gone without a trace.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{Act, Deployed, OTHER_TENANT, Story, TENANT, service, text};
use crate::{
    interrupt,
    up::openstack::{self, Seen, View},
};

/// The cloud is the testbed's; who we are there is its user `mandate`, in the project `tenant-a`.
pub(super) const SITES: &[(&str, &str)] = &[("cloud-a", "DE,latency-us=3000,cost=6,cloud=mandate")];

pub(super) const ACTS: &[Act] = &[
    ("operator: found ledger, journal and identities", Story::init_in_cloud),
    ("operator: start the orchestrator", Story::serve),
    ("provider: pack, sign and register three packages", Story::packages),
    ("tenant: deploy to OpenStack, read back, anchored", Story::deploy_to_cloud),
    ("anybody: delete a server; it comes back by itself", Story::heal_in_cloud),
    ("tenant: one more backend", Story::scale_in_cloud),
    ("crash: kill the orchestrator in mid-deploy", Story::crash_in_cloud),
    ("refused: what must be attested", Story::unattested),
    ("tenant: terminate everything", Story::terminate_in_cloud),
];

const SERVICE: &str = "edge-1";
const SECOND: &str = "edge-2";
/// Steps of a deployment here: an image, three links, four instances.
pub(super) const INSTANCES: usize = 4;
/// From a deleted server to anchored evidence of its healing: one look every ten seconds, and a boot.
const HEAL_LIMIT: Duration = Duration::from_secs(120);
/// Until something of the second service is there.
const BEGUN: Duration = Duration::from_secs(60);

impl Story {
    pub(super) fn init_in_cloud(&mut self) -> anyhow::Result<String> {
        let clouds = openstack::clouds()?.context("no cloud is up: `cargo testbed up openstack`")?;
        let mut line: Vec<String> =
            ["init", "--tenant", TENANT, "--tenant", OTHER_TENANT].map(str::to_owned).to_vec();
        for (site, properties) in self.sites {
            line.extend(["--site".into(), format!("{site}={properties},clouds={}", clouds.display())]);
        }
        let made = self.stage.mandate.ask(&line)?;
        let before = View::new()?.look()?;
        ensure!(before.servers.is_empty(), "the cloud is not empty: {before}");
        self.cloud = before;
        Ok(format!("ledger {}, {}", text(&made, "ledger")?, clouds.display()))
    }

    /// What is there beyond what was before.
    pub(super) fn in_cloud(&self) -> anyhow::Result<Seen> {
        let mut seen = View::new()?.look()?;
        seen.servers.retain(|s| !self.cloud.servers.contains(s));
        for (now, before) in [
            (&mut seen.networks, &self.cloud.networks),
            (&mut seen.ports, &self.cloud.ports),
            (&mut seen.images, &self.cloud.images),
            (&mut seen.groups, &self.cloud.groups),
        ] {
            now.retain(|one| !before.contains(one));
        }
        seen.used = seen.used.saturating_sub(self.cloud.used);
        Ok(seen)
    }

    pub(super) fn cloud_deployment<'a>(&self, name: &'a str, params: &'a str) -> Vec<&'a str> {
        let mut line = self.deployment(name, params, "1h");
        for word in &mut line {
            // Guests of a cloud are not attested: this one need not be.
            if *word == "confidential" {
                *word = "internal";
            }
        }
        line
    }

    pub(super) fn deploy_to_cloud(&mut self) -> anyhow::Result<String> {
        let params = self.params();
        let (operation, position) = self.carried_out(&self.cloud_deployment(SERVICE, &params))?;
        self.alive.push(SERVICE);
        let seen = self.in_cloud()?;
        ensure!(seen.servers.len() == INSTANCES, "{INSTANCES} instances, and {seen}");
        let (bundle, _) = self.verified(&text(&operation, "id")?)?;
        let bundle = fs::read(bundle)?;
        let places = complied(&bundle)?;
        let refused = service::claims(&bundle, "plan");
        ensure!(
            refused.iter().all(|p| p["unmeasured"].is_string()),
            "evidence does not say that nothing was measured"
        );
        self.first = Some(Deployed {
            ns: text(&operation, "ns_instance_id")?,
            operation: text(&operation, "id")?,
            position,
            site: text(&operation, "site")?,
        });
        self.report.evidence.verified = true;
        Ok(format!("{seen}; read back: {places}"))
    }

    pub(super) fn heal_in_cloud(&mut self) -> anyhow::Result<String> {
        let file = self.stage.path("standing.dsse.json").display().to_string();
        let owner = format!("{TENANT}/tenant");
        let grant = ["standing", "grant", "--tenant", TENANT, "--service", SERVICE, "--action", "heal"];
        let rest = ["--cooldown", "1s", "--as", &owner, "-o", &file];
        self.stage.mandate.ask(&[&grant[..], &rest].concat())?;
        self.stage.mandate.ask(&["governance", "submit", &file])?;
        let before = self.in_cloud()?;
        let firewall = |s: &&(String, String)| s.0.contains("-vfw-vfw-");
        let (name, id) = before.servers.iter().find(firewall).context("there is no firewall")?.clone();
        View::new()?.delete_server(&id)?;
        let healed = interrupt::wait_for("nothing heals the service", HEAL_LIMIT, || {
            let ns = self.ns(SERVICE)?;
            let operations = ns["operations"].as_array().cloned().unwrap_or_default();
            Ok(operations.into_iter().find(|o| o["action"] == "heal" && o["anchored"] == true))
        })?;
        service::completed(&healed)?;
        self.verified(&text(&healed, "id")?)?;
        let now = self.in_cloud()?;
        ensure!(now.servers.len() == INSTANCES, "{INSTANCES} instances, and {now}");
        ensure!(now.servers.iter().all(|(_, i)| *i != id), "the deleted server is still there");
        ensure!(now.servers.iter().any(|(n, _)| *n == name), "no server is called {name} any more");
        Ok(format!("{name} was deleted, and another took its place in {} ms", healed["duration_ms"]))
    }

    pub(super) fn scale_in_cloud(&mut self) -> anyhow::Result<String> {
        let (operation, _) = self.carried_out(&service::scale_by(SERVICE, "1"))?;
        self.verified(&text(&operation, "id")?)?;
        let seen = self.in_cloud()?;
        ensure!(seen.servers.len() == INSTANCES + 1, "{} instances, and {seen}", INSTANCES + 1);
        Ok(seen.to_string())
    }

    pub(super) fn crash_in_cloud(&mut self) -> anyhow::Result<String> {
        let before = self.in_cloud()?;
        let params = self.params();
        let (id, signed) = self.intent(TENANT, &self.cloud_deployment(SECOND, &params))?;
        self.submit(&signed)?;
        self.alive.push(SECOND);
        let half = interrupt::wait_for("nothing of the second service began", BEGUN, || {
            let seen = self.in_cloud()?;
            Ok((seen.servers.len() > before.servers.len()).then_some(seen))
        })?;
        self.stage.crash_serve()?;
        self.note("killed; starting again");
        self.stage.start_serve()?;
        let operation = self.anchored(&id)?;
        service::completed(&operation)?;
        self.verified(&text(&operation, "id")?)?;
        let seen = self.in_cloud()?;
        let right = before.servers.len() + INSTANCES;
        ensure!(seen.servers.len() == right, "{right} servers are right, and there are {seen}");
        Ok(format!("killed with {half}; then {seen}"))
    }

    /// What must be attested is not approved where nothing can be.
    pub(super) fn unattested(&mut self) -> anyhow::Result<String> {
        let params = self.params();
        let (_, signed) = self.intent(TENANT, &self.deployment("edge-3", &params, "1h"))?;
        let refusal = self.stage.mandate.refused(&["intent", "submit", &signed.display().to_string()])?;
        ensure!(refusal.detail.contains("attestation key"), "{}: {}", refusal.code, refusal.detail);
        Ok(refusal.code)
    }

    pub(super) fn terminate_in_cloud(&mut self) -> anyhow::Result<String> {
        for name in std::mem::take(&mut self.alive) {
            let (operation, _) = self.carried_out(&["terminate", "--service", name, "--tenant", TENANT])?;
            self.verified(&text(&operation, "id")?)?;
        }
        let left = self.in_cloud()?;
        ensure!(left == Seen::default(), "left behind: {left}: {left:?}");
        Ok("no server, network, port, image or allocation is left".into())
    }
}

/// Where each instance is, as evidence has it: every one is on a host, and every port of it bound.
fn complied(bundle: &[u8]) -> anyhow::Result<String> {
    let claims = service::steps(bundle);
    let instances: Vec<&Value> = claims.iter().filter(|c| c["action"] == "ensure compute").collect();
    ensure!(instances.len() == INSTANCES, "{} instances in the evidence", instances.len());
    let mut places = Vec::new();
    for claim in instances {
        let found = &claim["observed"];
        let host = found["whereabouts"]["host"].as_str().unwrap_or_default();
        let object = claim["object"].as_str().unwrap_or_default();
        ensure!(!host.is_empty(), "evidence does not say where {object} is: {found}");
        let links = found["links"].as_object().context("no ports in the evidence")?;
        for (port, link) in links {
            let bound = link["binding"]["vif_type"].as_str().unwrap_or_default();
            ensure!(!["", "unbound", "binding_failed"].contains(&bound), "{object}, {port}: `{bound}`");
        }
        places.push(format!("{} on {host}", object.split_once('/').map_or(object, |(_, path)| path)));
    }
    Ok(places.join(", "))
}
