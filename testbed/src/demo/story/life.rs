//! The life of a service after its deployment: it heals by itself, changes, goes back, moves, is cut off.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{Story, TENANT, attacks::pid_of, service, text};
use crate::interrupt;

/// The service that all of this happens to.
const SERVICE: &str = "edge-1";
/// From a killed process to anchored evidence of its healing, without anybody asking.
const HEAL_LIMIT: Duration = Duration::from_secs(60);

impl Story {
    /// The tenant grants healing in advance; somebody kills the firewall; it comes back by itself, attested.
    pub(super) fn heal(&mut self) -> anyhow::Result<String> {
        let file = self.stage.path("standing.dsse.json").display().to_string();
        let owner = format!("{TENANT}/tenant");
        let grant = ["standing", "grant", "--tenant", TENANT, "--service", SERVICE, "--action", "heal"];
        let rest = ["--cooldown", "1s", "--as", &owner, "-o", &file];
        self.stage.mandate.ask(&[&grant[..], &rest].concat())?;
        self.stage.mandate.ask(&["governance", "submit", &file])?;
        let firewall = self.instance(SERVICE, "/vfw/")?;
        let socket = firewall.control.display().to_string();
        let killed = pid_of(&socket)?;
        kill(Pid::from_raw(killed), Signal::SIGKILL).context("killing the firewall")?;
        let healed = self.by_itself("heal")?;
        service::completed(&healed)?;
        let now = pid_of(&socket)?;
        ensure!(now != killed, "the killed process is still there");
        self.verified(&text(&healed, "id")?)?;
        let ms = healed["duration_ms"].as_u64().unwrap_or_default();
        Ok(format!("process {killed} was killed, {now} took its place under the standing grant, in {ms} ms"))
    }

    /// An operation that nobody asked for.
    fn by_itself(&self, action: &str) -> anyhow::Result<Value> {
        interrupt::wait_for(&format!("no {action} of {SERVICE}"), HEAL_LIMIT, || {
            let ns = self.ns(SERVICE)?;
            let operations = ns["operations"].as_array().cloned().unwrap_or_default();
            Ok(operations.into_iter().find(|o| o["action"] == action && o["anchored"] == true))
        })
    }

    /// Another rule set comes in by an update, and goes again by a rollback; then nobody can bring it back.
    pub(super) fn rollback(&mut self) -> anyhow::Result<String> {
        let other = self.stage.path("edge.other.params.yaml");
        fs::write(&other, fs::read_to_string(self.params())?.replace("443", "8443"))?;
        let other = other.display().to_string();
        let made = text(&self.ns(SERVICE)?["operations"][0], "intent_id")?;
        let update = [
            "update",
            "--service",
            SERVICE,
            "--tenant",
            TENANT,
            "--nsd",
            "secure_edge_ns",
            "--params",
            &other,
        ];
        let (updated, _) = self.carried_out(&update)?;
        self.verified(&text(&updated, "id")?)?;
        let back = [
            "rollback",
            "--service",
            SERVICE,
            "--tenant",
            TENANT,
            "--to",
            &made,
            "--reason",
            "port 8443 is wrong",
        ];
        let (rolled, _) = self.carried_out(&back)?;
        self.verified(&text(&rolled, "id")?)?;
        let (_, again) = self.intent(TENANT, &update)?;
        let refusal = self.stage.mandate.refused(&["intent", "submit", &again.display().to_string()])?;
        ensure!(refusal.code == "DIGEST_REFUSED", "refused for {}: {}", refusal.code, refusal.detail);
        self.report.refused("a configuration that was rolled back", &refusal.code);
        Ok(format!("updated, rolled back; the update again: {}", refusal.code))
    }

    /// To the other site: made, attested and measured there before anything is removed here.
    pub(super) fn migrate(&mut self) -> anyhow::Result<String> {
        let from = text(&self.ns(SERVICE)?, "site")?;
        let to = self.stage.sites.iter().find(|s| **s != from).context("there is one site only")?.clone();
        let (moved, _) =
            self.carried_out(&["migrate", "--service", SERVICE, "--tenant", TENANT, "--site", &to])?;
        self.verified(&text(&moved, "id")?)?;
        let ns = self.ns(SERVICE)?;
        ensure!(ns["site"] == to.as_str(), "it is at {}", ns["site"]);
        let firewall = self.instance(SERVICE, "/vfw/")?;
        ensure!(
            firewall.control.starts_with(self.stage.places.run_dir(&to)),
            "its firewall answers at {}",
            firewall.control.display()
        );
        Ok(format!("{from} to {to}, made there before it was removed here"))
    }

    /// Traffic is captured, then cut; processes stay for forensics.
    pub(super) fn isolate(&mut self) -> anyhow::Result<String> {
        let before = self.stage.places.look();
        let cut =
            ["isolate", "--service", SERVICE, "--tenant", TENANT, "--capture-ms", "300", "--reason", "drill"];
        let (isolated, _) = self.carried_out(&cut)?;
        let after = self.stage.places.look();
        ensure!(before.processes == after.processes, "processes were not kept: {}", before.beyond(&after));
        let ns = self.ns(SERVICE)?;
        ensure!(ns["state"] == "ISOLATED", "the service is {}", ns["state"]);
        let (bundle, _) = self.verified(&text(&isolated, "id")?)?;
        let captures = service::steps(&fs::read(bundle)?);
        let captures = captures.iter().filter(|c| c["action"] == "capture" && c["state"] == "DONE").count();
        ensure!(captures > 0, "the evidence has no capture");
        let links = self.links_down()?;
        Ok(format!("{captures} captures, {links} links cut, {} processes kept", after.processes.len()))
    }
}
