//! Wiring: the one place that names concrete drivers.

pub mod fabric;

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
use ledger::{
    Ledger,
    embedded::{Log, OpenOptions},
};
use mano::Mano;
use mano_osm::{Osm, OsmConfig};
use serde::Deserialize;
use trust::{Digest, Signer, TrustRoots};
use vim::{Resources, VimDriver, VnfControl};
use vim_host::{HostConfig, HostVim, TpmConfig};
use vim_openstack::{CloudConfig, OpenStackConfig, OpenStackVim};

use crate::{
    artifacts::ArtifactStore,
    config::{Config, HostSite, OpenStackSite, OsmSection, SiteConfig, TpmSite, VimSite},
    engine::{Engine, KeyAdmin, Parts, Site},
    home::Home,
    journal::Journal,
    telemetry::{Telemetry, vim::Watched},
};

/// How long a freshly issued attestation key record is valid: 90 days, as short-lived certificates are.
const AK_VALIDITY_S: u64 = 90 * 24 * 3600;

/// What [`build`] made.
pub struct Built {
    /// The engine.
    pub engine: Arc<Engine>,
    /// OSM, where it is configured: what it notifies us of is for this.
    pub osm: Option<Arc<Osm>>,
}

/// Puts the engine together; the home must have been made by `mandate init`.
pub fn build(home: &Home, config: Config, options: OpenOptions, telemetry: &Telemetry) -> Result<Built> {
    let roots: TrustRoots = serde_json::from_slice(&read(&home.trust())?)
        .with_context(|| format!("{}: not a set of trust roots", home.trust().display()))?;
    let artifacts = ArtifactStore::new(home.artifacts());
    artifacts.sweep().with_context(|| format!("{}: run `mandate init`", home.artifacts().display()))?;
    let journal = Journal::open(&home.journal())?.timed(telemetry.metrics.journal());
    let ledger = ledger(home, &config, &roots, options)?;
    let (key, certificate) = home.identity(&config.operator, "orchestrator");
    let signer = Signer::from_pem(
        &String::from_utf8_lossy(&read(&key)?),
        &String::from_utf8_lossy(&read(&certificate)?),
    )
    .with_context(|| format!("the orchestrator's identity, {}", key.display()))?;
    let sites = config
        .sites
        .iter()
        .map(|s| Ok((s.name.clone(), site(home, s, (&artifacts, ledger.name()), telemetry)?)))
        .collect::<Result<BTreeMap<_, _>>>()?;
    let osm = config.osm.as_ref().map(|section| osm(section, &artifacts, &sites)).transpose()?;
    let mano = osm.clone().map(|osm| osm as Arc<dyn Mano>);
    let parts = Parts { config, roots, ledger, journal, artifacts, sites, mano, signer };
    Ok(Built { engine: Engine::new(parts)?, osm })
}

/// The channel where both the configuration and the trust roots have one, the embedded log where neither does.
fn ledger(home: &Home, config: &Config, roots: &TrustRoots, options: OpenOptions) -> Result<Arc<dyn Ledger>> {
    match (&config.fabric, &roots.channel) {
        (None, None) => Ok(Arc::new(Log::open_with(&home.ledger(), crate::engine::now, options)?)),
        (Some(section), Some(root)) => Ok(Arc::new(fabric::open(home, section, root.clone())?)),
        (Some(_), None) => bail!(
            "config.toml has [fabric], but {} knows no channel: join it first, `mandate ledger join --block FILE`",
            home.trust().display()
        ),
        (None, Some(_)) => bail!(
            "the ledger of {} is a Fabric channel, and config.toml does not say how to reach it: write [fabric]",
            home.trust().display()
        ),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}; a home is made by `mandate init`", path.display()))
}

fn site(
    home: &Home,
    config: &SiteConfig,
    (artifacts, ledger): (&ArtifactStore, &str),
    telemetry: &Telemetry,
) -> Result<Site> {
    let named = || format!("site `{}` in config.toml", config.name);
    let (vim, control, keys) = match config.vim().map_err(anyhow::Error::msg).with_context(named)? {
        VimSite::Host(host) => host_site(home, &config.name, host, artifacts)?,
        VimSite::OpenStack(cloud) => {
            openstack_site(&config.name, cloud, (artifacts, ledger)).with_context(named)?
        }
    };
    Ok(Site {
        config: config.clone(),
        vim: Arc::new(Watched::new(&config.name, telemetry, vim)),
        control: Arc::new(Watched::new(&config.name, telemetry, control)),
        keys,
    })
}

/// What a site is reached by.
type Reached = (Arc<dyn VimDriver>, Arc<dyn VnfControl>, Arc<dyn KeyAdmin>);

fn host_site(home: &Home, name: &str, config: &HostSite, artifacts: &ArtifactStore) -> Result<Reached> {
    let state_dir = home.site(name);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&state_dir)?;
    let launcher = launcher(config)?;
    let event_log = event_log(home, config.tpm.as_ref())?;
    let tpm = config.tpm.as_ref().map(|t| TpmConfig {
        tcti: t.tcti.clone(),
        event_log: event_log.clone(),
        pcr: t.pcr,
        ak_generation: t.ak_generation,
    });
    let first = config.first_uid;
    let host = HostVim::new(HostConfig {
        site: machine_wide(home, name),
        state_dir,
        run_dir: Some(Path::new("/run/mandate").join(machine_wide(home, name))),
        launcher: launcher.clone(),
        tpm,
        capacity: Resources {
            vcpus: config.vcpus,
            memory_mib: config.memory_mib,
            instances: config.instances,
        },
        run_as: (first != 0).then(|| first..=first.saturating_add(config.instances.saturating_mul(2))),
        dataplane_arguments: Vec::new(),
        artifacts: Arc::new(artifacts.clone()),
        home: Some(machine_wide(home, "home")),
    })?;
    let keys = LauncherKeys { site: name.to_owned(), launcher, event_log, tpm: config.tpm.clone() };
    let host = Arc::new(host);
    Ok((host.clone(), host, Arc::new(keys)))
}

fn openstack_site(
    name: &str,
    config: &OpenStackSite,
    (artifacts, ledger): (&ArtifactStore, &str),
) -> Result<Reached> {
    let cloud = CloudConfig::from_clouds_yaml(&config.clouds, &config.cloud)?;
    let made = OpenStackConfig {
        capacity: config.capacity,
        wans: config.wan.clone(),
        virtual_functions: config.virtual_functions.clone(),
        boot_timeout_s: config.boot_timeout_s,
        ..OpenStackConfig::new(cloud, name, cloud_wide(name, ledger), Arc::new(artifacts.clone()))
    };
    let vim = Arc::new(OpenStackVim::new(made)?);
    Ok((vim.clone(), vim, Arc::new(NoKeys)))
}

fn osm(section: &OsmSection, artifacts: &ArtifactStore, sites: &BTreeMap<String, Site>) -> Result<Arc<Osm>> {
    let named = || "[osm] in config.toml";
    let mut said = serde_json::to_value(section).with_context(named)?;
    // What is absent is as the driver has it.
    if let Some(said) = said.as_object_mut() {
        said.retain(|key, value| key != "notifications" && !value.is_null());
    }
    let config: OsmConfig = serde_json::from_value(said).with_context(named)?;
    let client = mano_osm::client::Client::new(config).with_context(named)?;
    let vims = sites.iter().map(|(name, site)| (name.clone(), site.vim.clone())).collect();
    Ok(Arc::new(Osm::new(client, Arc::new(artifacts.clone())).with_vims(vims)))
}

/// A site's name in its cloud, where another orchestrator may have a site of the same name: whose objects those are. All
/// orchestrators of one ledger are the same there.
fn cloud_wide(site: &str, ledger: &str) -> String {
    format!("{site}-{}", &Digest::of(ledger).hex()[..10])
}

/// A site whose guests are not attested.
struct NoKeys;

#[async_trait]
impl KeyAdmin for NoKeys {
    async fn attestation_key(&self, _rotate: bool) -> Result<AkRecord, String> {
        Err("its guests are not attested: it has no TPM of ours".into())
    }
    async fn answers(&self) -> Result<(), String> {
        Err("its guests are not attested".into())
    }
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
