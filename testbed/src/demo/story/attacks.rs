//! Point 6: what attestation refuses, attempted by somebody who is root on the site.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use dataplane_control::protocol::{Client, Request};
use serde_json::Value;
use trust::Digest;

use super::{Story, TENANT, service};
use crate::{command, demo::replay::Replay, interrupt, up::tpm::Swtpm};

const QUOTE_LIMIT: Duration = Duration::from_secs(10);
/// The PCR that `mandate init` configures.
const PCR: &str = "13";

/// The service whose firewall is replaced.
const REPLACED: &str = "edge-6";
const ROGUE_LIMIT: Duration = Duration::from_secs(10);

/// The process that has this control socket among its arguments.
pub(super) fn pid_of(socket: &str) -> anyhow::Result<i32> {
    let pids = fs::read_dir("/proc")?.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let ours = |pid: &i32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|b| *b == 0).any(|a| a == socket.as_bytes())
    };
    pids.into_iter().find(ours).with_context(|| format!("no process has {socket}"))
}

/// A running instance, as found on the machine.
pub(super) struct Instance {
    pub(super) control: PathBuf,
    document: PathBuf,
}

/// A process of ours that must not outlive its act.
struct Rogue(Child);

impl Drop for Rogue {
    fn drop(&mut self) {
        command::kill(&mut self.0);
    }
}

impl Story {
    /// Somebody kills the firewall and runs another binary in its place, with its configuration, on its socket: it
    /// forwards, answers, and says that all is well.
    pub(super) fn changed_binary(&mut self) -> anyhow::Result<String> {
        let params = self.params();
        self.carried_out(&self.deployment(REPLACED, &params, "10m"))?;
        self.alive.push(REPLACED);
        let firewall = self.instance(REPLACED, "/vfw/")?;
        let rogue = self.replace(&firewall)?;
        let code = self.isolated(REPLACED, &service::scale_by(REPLACED, "1"), "INSTANCE_REPLACED")?;
        let cut = self.links_down()?;
        ensure!(cut >= 2, "{cut} links of the service are cut, and the firewall alone has two");
        self.report.refused("changed binary", &code);
        drop(rogue);
        self.carried_out(&["terminate", "--service", REPLACED, "--tenant", TENANT])?;
        self.alive.retain(|s| *s != REPLACED);
        Ok(format!("{code}; {cut} links cut by the kernel, whatever runs behind them; then terminated"))
    }

    /// Starts a changed copy of the data plane in the instance's namespace, once its process is gone.
    fn replace(&self, instance: &Instance) -> anyhow::Result<Rogue> {
        let socket = instance.control.display().to_string();
        let pid = pid_of(&socket)?;
        let binary = self.stage.path("other-dataplane");
        let mut bytes = fs::read(&self.stage.programs.dataplane)?;
        bytes.push(0);
        fs::write(&binary, bytes)?;
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
        let script = format!(
            "kill -9 {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.02; done; exec {} --config {} --control {socket}",
            binary.display(),
            instance.document.display()
        );
        let child = Command::new("nsenter")
            .args([&format!("--net=/proc/{pid}/ns/net"), "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting another binary in the firewall's place")?;
        let mut rogue = Rogue(child);
        interrupt::wait_for("the other binary does not answer on the socket", ROGUE_LIMIT, || {
            ensure!(rogue.0.try_wait()?.is_none(), "the other binary ended");
            let Ok(stream) = UnixStream::connect(&instance.control) else { return Ok(None) };
            let Ok(mut client) = Client::new(stream) else { return Ok(None) };
            let status = client.status(&Request::Status).ok();
            Ok(status.filter(|s| u32::try_from(pid).is_ok_and(|old| s.pid != old)).map(|_| ()))
        })?;
        Ok(rogue)
    }

    /// Links in the sites' fabrics that carry nothing.
    pub(super) fn links_down(&self) -> anyhow::Result<usize> {
        let mut down = 0;
        for fabric in self.stage.places.look().namespaces.iter().filter(|n| n.ends_with("-fabric")) {
            let mut ip = Command::new("ip");
            ip.args(["-n", fabric, "-o", "link", "show"]);
            let listed = command::succeed(&mut ip, QUOTE_LIMIT)?.stdout;
            down += listed
                .lines()
                .filter(|l| l.contains("veth") || l.contains('@'))
                .filter(|l| !l.contains(",UP"))
                .count();
        }
        Ok(down)
    }

    /// Somebody opens the firewall over its control socket; the next challenge finds it.
    pub(super) fn changed_rules(&mut self) -> anyhow::Result<String> {
        let firewall = self.instance("edge-2", "/vfw/")?;
        let mut document: Value = serde_json::from_slice(&fs::read(&firewall.document)?)?;
        let generation = document["generation"].as_u64().context("the configuration has no generation")?;
        document["generation"] = (generation + 1).into();
        let rules = document["function"]["firewall"]["rules"].as_array_mut().context("it is no firewall")?;
        // One address, one port: no measurement would see it.
        rules.push(serde_json::json!({ "id": "backdoor", "from": "client", "action": "allow", "protocol": 6,
            "source": "198.51.100.66/32", "destination_ports": "22" }));
        let mut client = Client::new(UnixStream::connect(&firewall.control)?)?;
        let status =
            client.status(&Request::Configure { document: serde_json::to_string_pretty(&document)? })?;
        ensure!(status.generation == generation + 1, "the firewall did not take the backdoor");
        let code = self.isolated("edge-2", &service::scale_by("edge-2", "1"), "ATTESTATION_CONFIGURATION")?;
        ensure!(client.status(&Request::Status)?.isolated, "the firewall still forwards");
        self.report.refused("changed rule set", &code);
        Ok(format!("{code}; its traffic is cut, the process kept"))
    }

    /// Somebody between the TPM and the site answers the new challenge with an old quote.
    pub(super) fn old_quote(&mut self) -> anyhow::Result<String> {
        let site = self.first()?.site.clone();
        let tpm = Swtpm::at(&self.stage.tpms(), &site);
        let replay = Replay::before(&tpm.socket())?;
        self.take_a_quote(&tpm)?;
        let params = self.params();
        let code =
            self.isolated("edge-3", &self.deployment("edge-3", &params, "10m"), "ATTESTATION_NONCE")?;
        ensure!(replay.replayed() > 0, "the TPM was not asked, so nothing was replayed");
        self.report.refused("wrong nonce", &code);
        Ok(format!("{code}: the quote is true and signed by the registered key, and not for this challenge"))
    }

    /// A true quote for a challenge of our own.
    fn take_a_quote(&self, tpm: &Swtpm) -> anyhow::Result<()> {
        let launcher = self.stage.programs.mandate.with_file_name("mandate-launcher");
        let name = Digest::of(format!("{} {PCR}", tpm.tcti())).short();
        let log = self.stage.mandate.home().join("measurements").join(format!("tpm-{name}.log"));
        ensure!(log.exists(), "{} is not there: nothing was measured", log.display());
        let claims = self.stage.path("claims.json");
        fs::write(&claims, "[]")?;
        let mut c = Command::new(launcher);
        c.args(["quote", "--tpm", &tpm.tcti(), "--pcr", PCR, "--log"]).arg(log).arg("--claims").arg(claims);
        c.args(["--nonce", &format!("sha256:{}", "5a".repeat(32))]).stderr(Stdio::null());
        command::succeed(&mut c, QUOTE_LIMIT).map(|_| ())
    }

    /// The operator replaced the site's key; somebody still quotes with the old one.
    pub(super) fn stale_key(&mut self) -> anyhow::Result<String> {
        let site = self.first()?.site.clone();
        self.stage.mandate.ask(&["site", "enrol", &site, "--as", "operator/operator", "--rotate"])?;
        self.stage.stop_serve();
        self.edit_config(|line| match line.starts_with("pcr = ") {
            true => format!("{line}\nak_generation = 0"),
            false => line.to_owned(),
        })?;
        self.stage.start_serve()?;
        let params = self.params();
        let code = self.isolated("edge-4", &self.deployment("edge-4", &params, "10m"), "ATTESTATION_")?;
        self.report.refused("stale key", &code);
        self.stage.stop_serve();
        let path = self.stage.mandate.home().join("config.toml");
        let text = fs::read_to_string(&path)?.replace("ak_generation = 0\n", "");
        fs::write(&path, text)?;
        self.stage.start_serve()?;
        Ok(code)
    }

    /// An operation that attestation must refuse: it does not complete, and the service is isolated. Its code.
    fn isolated(&mut self, service: &'static str, arguments: &[&str], code: &str) -> anyhow::Result<String> {
        let (id, signed) = self.intent(TENANT, arguments)?;
        self.submit(&signed)?;
        if !self.alive.contains(&service) {
            self.alive.push(service);
        }
        let operation = self.anchored(&id)?;
        ensure!(operation["state"] != "COMPLETED", "it was carried out, and attestation had to refuse it");
        let problem = operation["problem"].as_str().unwrap_or_default();
        let found = problem.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
        let found = found.filter(|w| w.starts_with(code)).max_by_key(|w| w.len());
        let found =
            found.with_context(|| format!("refused for another reason than {code}: {problem}"))?.to_owned();
        // The refusal is evidence too, and verifies like any other.
        self.verified(&super::text(&operation, "id")?)?;
        let state = self.ns(service)?["state"].clone();
        ensure!(state == "ISOLATED", "{service} was refused ({found}) and is {state}, not isolated");
        Ok(found)
    }

    /// The instance of a service whose key has this part.
    pub(super) fn instance(&self, service: &str, part: &str) -> anyhow::Result<Instance> {
        let ns = super::text(&self.ns(service)?, "id")?;
        for site in &self.stage.sites {
            let instances = self.stage.mandate.home().join("sites").join(site).join("instances");
            let Ok(entries) = fs::read_dir(instances) else { continue };
            for entry in entries {
                let dir = entry?.path();
                let record: Value = serde_json::from_slice(&fs::read(dir.join("record.json"))?)?;
                let key = record["key"].as_str().unwrap_or_default();
                if key.starts_with(&format!("{ns}/")) && key.contains(part) {
                    let short = dir.file_name().context("an instance has a name")?;
                    let run = self.stage.places.run_dir(site);
                    let control = run.join(short).join("control");
                    return Ok(Instance { control, document: dir.join("configuration.json") });
                }
            }
        }
        anyhow::bail!("no instance of {service} ({ns}) with {part} in its key")
    }
}
