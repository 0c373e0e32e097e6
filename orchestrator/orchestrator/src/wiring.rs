//! Wiring: the one place that names concrete drivers.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use attestation::AkRecord;
use ledger::embedded::{Log, OpenOptions};
use serde::Deserialize;
use trust::{Digest, Signer, TrustRoots};
use vim::{Resources, VimDriver, VnfControl};
use vim_host::{HostConfig, HostVim, TpmConfig};

use crate::{
    artifacts::ArtifactStore,
    config::{Config, HostSite, SiteConfig, TpmSite},
    engine::{Engine, KeyAdmin, Parts, Site},
    home::Home,
    journal::Journal,
    telemetry::{Telemetry, vim::Watched},
};

/// How long a freshly issued attestation key record is valid: 90 days, as short-lived certificates are.
const AK_VALIDITY_S: u64 = 90 * 24 * 3600;

/// Puts the engine together; the home must have been made by `mandate init`.
pub fn build(
    home: &Home,
    config: Config,
    options: OpenOptions,
    telemetry: &Telemetry,
) -> Result<Arc<Engine>> {
    let roots: TrustRoots = serde_json::from_slice(&read(&home.trust())?)
        .with_context(|| format!("{}: not a set of trust roots", home.trust().display()))?;
    let artifacts = ArtifactStore::new(home.artifacts());
    artifacts.sweep().with_context(|| format!("{}: run `mandate init`", home.artifacts().display()))?;
    let journal = Journal::open(&home.journal())?.timed(telemetry.metrics.journal());
    let ledger = Log::open_with(&home.ledger(), crate::engine::now, options)?;
    let (key, certificate) = home.identity(&config.operator, "orchestrator");
    let signer = Signer::from_pem(
        &String::from_utf8_lossy(&read(&key)?),
        &String::from_utf8_lossy(&read(&certificate)?),
    )
    .with_context(|| format!("the orchestrator's identity, {}", key.display()))?;
    let sites = config
        .sites
        .iter()
        .map(|s| Ok((s.name.clone(), site(home, s, &artifacts, telemetry)?)))
        .collect::<Result<BTreeMap<_, _>>>()?;
    let parts = Parts { config, roots, ledger: Arc::new(ledger), journal, artifacts, sites, signer };
    Ok(Engine::new(parts)?)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}; a home is made by `mandate init`", path.display()))
}

fn site(home: &Home, config: &SiteConfig, artifacts: &ArtifactStore, telemetry: &Telemetry) -> Result<Site> {
    let state_dir = home.site(&config.name);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&state_dir)?;
    let launcher = launcher(&config.host)?;
    let event_log = event_log(home, config.host.tpm.as_ref())?;
    let tpm = config.host.tpm.as_ref().map(|t| TpmConfig {
        tcti: t.tcti.clone(),
        event_log: event_log.clone(),
        pcr: t.pcr,
        ak_generation: t.ak_generation,
    });
    let first = config.host.first_uid;
    let host = HostVim::new(HostConfig {
        site: machine_wide(home, &config.name),
        state_dir,
        run_dir: Some(Path::new("/run/mandate").join(machine_wide(home, &config.name))),
        launcher: launcher.clone(),
        tpm,
        capacity: Resources {
            vcpus: config.host.vcpus,
            memory_mib: config.host.memory_mib,
            instances: config.host.instances,
        },
        run_as: (first != 0).then(|| first..=first.saturating_add(config.host.instances.saturating_mul(2))),
        dataplane_arguments: Vec::new(),
        artifacts: Arc::new(artifacts.clone()),
        home: Some(machine_wide(home, "home")),
    })?;
    let keys = LauncherKeys { site: config.name.clone(), launcher, event_log, tpm: config.host.tpm.clone() };
    let host = Arc::new(host);
    let vim: Arc<dyn VimDriver> = host.clone();
    let control: Arc<dyn VnfControl> = host;
    Ok(Site {
        config: config.clone(),
        vim: Arc::new(Watched::new(&config.name, telemetry, vim)),
        control: Arc::new(Watched::new(&config.name, telemetry, control)),
        keys: Arc::new(keys),
    })
}

/// A site's name on this machine, where another home may have a site of the same name. Control sockets are in a
/// directory of this name too, not under the home, because a socket's path has 107 bytes at most.
fn machine_wide(home: &Home, site: &str) -> String {
    let id = Digest::of(home.path().as_os_str().as_encoded_bytes()).hex();
    format!("{site}-{}", &id[..6])
}

/// The log of what was measured into a TPM's PCR: one per TPM and PCR, whichever sites share it.
fn event_log(home: &Home, tpm: Option<&TpmSite>) -> Result<PathBuf> {
    let dir = home.path().join("measurements");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let name = tpm.map(|t| Digest::of(format!("{} {}", t.tcti, t.pcr)).short()).unwrap_or_default();
    Ok(dir.join(format!("tpm-{name}.log")))
}

fn launcher(host: &HostSite) -> Result<PathBuf> {
    if let Some(path) = &host.launcher {
        return Ok(path.clone());
    }
    let exe = std::env::current_exe().context("finding our own executable")?;
    let beside = exe.with_file_name("mandate-launcher");
    if !beside.exists() {
        bail!(
            "{} is not there: install mandate-launcher beside mandate, or set `launcher` under [site.host]",
            beside.display()
        );
    }
    Ok(beside)
}

/// The attestation key of a host site, through its launcher.
struct LauncherKeys {
    site: String,
    launcher: PathBuf,
    event_log: PathBuf,
    tpm: Option<TpmSite>,
}

/// What `mandate-launcher ak` prints.
#[derive(Deserialize)]
struct AkReport {
    public_key: String,
    pcr: u8,
    pcr_baseline: Digest,
}

/// Is there something behind a TCTI? A TPM is not spoken to, only reached.
async fn reach(tcti: &str) -> Result<(), String> {
    let (kind, conf) = tcti.split_once(':').unwrap_or((tcti, ""));
    let setting = |key: &str| conf.split(',').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    let reached = match (kind, setting("path"), setting("port")) {
        ("device", ..) => tokio::fs::metadata(conf).await.map(drop),
        ("swtpm", Some(path), _) => tokio::net::UnixStream::connect(path).await.map(drop),
        ("swtpm" | "mssim", None, Some(port)) => {
            let to = format!("{}:{port}", setting("host").unwrap_or("localhost"));
            tokio::net::TcpStream::connect(to).await.map(drop)
        }
        // What else there is, only the launcher knows how to reach.
        _ => Ok(()),
    };
    reached.map_err(|e| format!("{tcti}: {e}"))
}

#[async_trait]
impl KeyAdmin for LauncherKeys {
    async fn answers(&self) -> Result<(), String> {
        reach(&self.tpm.as_ref().ok_or("the site has no TPM configured")?.tcti).await
    }

    async fn attestation_key(&self, rotate: bool) -> Result<AkRecord, String> {
        let tpm = self.tpm.as_ref().ok_or("the site has no TPM configured")?;
        let mut command = tokio::process::Command::new(&self.launcher);
        command.arg("ak").args(["--tpm", &tpm.tcti, "--pcr", &tpm.pcr.to_string()]);
        if self.event_log.exists() {
            command.arg("--log").arg(&self.event_log);
        }
        if rotate {
            command.arg("--rotate");
        }
        let output = command.output().await.map_err(|e| format!("{}: {e}", self.launcher.display()))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let report: AkReport = serde_json::from_slice(&output.stdout)
            .map_err(|e| format!("{} ak printed something else: {e}", self.launcher.display()))?;
        let now = crate::engine::now();
        Ok(AkRecord {
            site: self.site.clone(),
            public_key: report.public_key,
            pcr: report.pcr,
            pcr_baseline: report.pcr_baseline,
            not_before: now,
            not_after: now.plus(AK_VALIDITY_S),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tpm_that_is_gone_is_not_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tpm.sock");
        let (swtpm, device) =
            (format!("swtpm:path={}", path.display()), format!("device:{}", path.display()));
        assert!(reach(&swtpm).await.is_err() && reach(&device).await.is_err());
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        assert_eq!((reach(&swtpm).await, reach(&device).await), (Ok(()), Ok(())));
        // Its socket is still there.
        drop(listener);
        assert!(reach(&swtpm).await.unwrap_err().contains("tpm.sock"));
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        assert_eq!(reach(&format!("swtpm:host=127.0.0.1,port={port}")).await, Ok(()));
        drop(tcp);
        assert!(reach(&format!("swtpm:host=127.0.0.1,port={port}")).await.is_err());
    }
}
