//! The embedded default VIM: this machine. Network namespaces, bridges, veth pairs and processes.
//!
//! A [`HostVim`] drives one *site*; several sites share a machine and are disjoint by name. Per site there is one
//! fabric namespace `mdt-<site>-fabric` with a bridge per virtual link, and per instance a namespace
//! `mdt-<site>-i<10 hex>` with its ports and one data-plane process that `mandate-launcher` measured and started.
//! Sites of one home join their links in a namespace `mdx-<home>`. The kernel adds no traffic of its own in any of
//! them.
//!
//! Truth is read back from the kernel (one netlink dump), from `/proc` and from the process's own answers; files
//! under the state directory only say what was asked for. Every call converges from whatever a crash left. A caller
//! that stops waiting does not stop an operation: it runs to its end on a task of its own, and the next call on the
//! same key waits for it.
//!
//! Never: touch a link without our alias outside what is named after our key; enter a namespace on a runtime worker;
//! trust a process id without its start time; let a data plane run that was not measured; ask a process whether its
//! traffic is cut.
//!
//! `INSTANCE_DOWN`, `INSTANCE_REPLACED` and `CONTROL_IO` are three findings: nothing runs; what runs is not what was
//! measured; what runs does not answer. An instance about which the first two are said twice will not come back by
//! itself, and no evidence of it will: isolate it. Isolation works on all three.
//!
//! A log is cut to its last MiB when it is longer than 8 MiB, every 10 s while a [`HostVim`] lives that was called
//! once. While none lives nothing bounds it: give the state directory a file system (or a
//! quota) of its own where that matters.
//!
//! # Errors
//!
//! | code | disposition | when |
//! |---|---|---|
//! | `NOT_PRIVILEGED` | Escalate | not root, nor root of user and mount namespaces |
//! | `SITE_IN_USE` | Escalate | another process drives this site |
//! | `BAD_CONFIG` | Escalate | a value of [`HostConfig`] |
//! | `STATE_IO` | Unknown | a file operation failed (disk full, …) |
//! | `STATE_CORRUPT` | Escalate | a state file does not read back |
//! | `IMAGE_UNKNOWN` | Compensate | no artifact has the digest |
//! | `IMAGE_DIGEST` | Compensate | the artifact's bytes are others |
//! | `IMAGE_ABSENT` | Compensate | the service has not ensured the instance's image |
//! | `NETWORK_ABSENT` | Compensate | a port's virtual link is not there |
//! | `NETWORK_IN_USE` | Retry | removed before its instances |
//! | `KEY_IN_USE` | Compensate | the key names an object of another kind |
//! | `SEGMENT_IN_USE` | Compensate | another link of this site is joined to the segment |
//! | `NO_WAN` | Elsewhere | a link to be joined at a site that has no home |
//! | `EXCHANGE_BUSY` | Retry | another site's change of the exchange does not end |
//! | `KEY_COLLISION` | Compensate | another key has the same short name |
//! | `FOREIGN_OBJECT` | Escalate | a link that is not ours has our name |
//! | `CAPACITY` | Elsewhere | no room |
//! | `BAD_SPEC` | Compensate | a specification that contradicts itself |
//! | `UNSUPPORTED_FEATURE` | Elsewhere | it asks for SR-IOV, subnets, … ([`vim::Feature`]), which namespaces do not have |
//! | `NETLINK` | Unknown | the kernel refused a link operation |
//! | `NAMESPACE` | Unknown | the kernel refused a namespace operation |
//! | `LAUNCH_FAILED` | Compensate | launcher or data plane ended, or another process answers |
//! | `LAUNCH_NOT_MEASURED` | Unknown | the TPM or its event log failed the launcher; nothing was started |
//! | `START_TIMEOUT` | Unknown | the data plane does not answer in time |
//! | `MEASURE_FAILED` | Unknown | the launcher could not measure a configuration |
//! | `CONFIGURATION_REFUSED` | Compensate | generation not above the running one, other ports, or the data plane's word |
//! | `CONFIGURATION_NOT_RUNNING` | Compensate | accepted, and something else read back |
//! | `INSTANCE_ABSENT` | Compensate | control of what was never made |
//! | `INSTANCE_DOWN` | Unknown | control or evidence of what does not run: its recorded process is gone |
//! | `INSTANCE_REPLACED` | Unknown | control or evidence of an instance in whose place another process answers |
//! | `NOT_ISOLATED` | Unknown | the kernel does not show an instance's ports down (or up) once told so |
//! | `CONTROL_IO` | Unknown | the control socket failed or timed out |
//! | `DATAPLANE_REFUSED` | Compensate | the data plane refused another request |
//! | `CAPTURE_FAILED` | Retry | the kernel refused a packet socket |
//! | `NO_TPM` | Compensate | evidence asked of a site without TPM |
//! | `QUOTE_FAILED` | Retry | the launcher gave no evidence |
//! | `PROCESS_STUCK` | Escalate | a process survived SIGKILL |
//! | `INTERNAL` | Escalate | a defect of this driver |
//!
//! Tests: beside the code; `tests/conformance.rs` (the port's suite on this machine, every half-made state),
//! `tests/host.rs` (a quiet kernel, sites, foreign links, user namespaces), `tests/real.rs` (the same with mandate-launcher, mandate-dataplane and swtpm).

mod attest;
mod capture;
mod cgroup;
mod compute;
mod control;
mod error;
mod image;
mod isolation;
mod launcher;
mod link;
mod look;
mod netns;
mod network;
mod process;
mod state;
mod stray;
mod wan;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    future::Future,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::{Arc, Once, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use attestation::Evidence;
use dataplane_control::{
    protocol::{Request, Status},
    traffic::{TrafficProfile, TrafficReport},
};
use tokio::sync::{Mutex, Semaphore};
use trust::Digest;
use vim::{
    Artifacts, Capabilities, Capture, CaptureSpec, Changed, DriverError, Enforced, Inventory, Kind,
    ObjectKey, Observed, Resources, Scope, Spec, Stray, VimDriver, VnfControl,
};

use crate::{
    error::{HostError, state},
    image::{Digests, Images},
    state::Layout,
};

/// Locks over all keys; two keys that share one wait for each other, no more.
const KEY_LOCKS: usize = 64;
/// Longest site name, characters.
const MAX_SITE: usize = 32;
/// Longest path of a UNIX socket (`sun_path` of unix(7), less its end), bytes.
const MAX_SOCKET_PATH: usize = 107;
/// How often logs are looked at while a site is driven.
const LOOK_AT_LOGS_EVERY: Duration = Duration::from_secs(10);
/// Time for a traffic report beyond the traffic itself: preparing the flows and making the report.
const TRAFFIC_MARGIN: Duration = Duration::from_secs(30);
/// How often an announcement is made, and the pause between two.
const ANNOUNCEMENTS: u32 = 3;
const ANNOUNCE_EVERY: Duration = Duration::from_millis(50);

/// How one site of this machine is driven.
#[derive(Clone)]
pub struct HostConfig {
    /// Name of the site: 1 to 32 of `a-z 0-9 -`, unique on the machine.
    pub site: String,
    /// Where state is kept (made 0700), of this site alone.
    pub state_dir: PathBuf,
    /// Where control sockets are; `/run/mandate/<site>` if absent. Short: a socket's path has 107 bytes.
    pub run_dir: Option<PathBuf>,
    /// The `mandate-launcher` executable.
    pub launcher: PathBuf,
    /// The machine's TPM. Without it nothing is measured into a TPM and evidence is refused.
    pub tpm: Option<TpmConfig>,
    /// What the site may use.
    pub capacity: Resources,
    /// User and group ids for instances, one each. `None`: they run as we do (inside a user namespace, say).
    pub run_as: Option<RangeInclusive<u32>>,
    /// More arguments for the data plane (`--eal-memory ordinary`, …).
    pub dataplane_arguments: Vec<String>,
    /// Where image bytes come from.
    pub artifacts: Arc<dyn Artifacts>,
    /// Name of the home whose sites' links can be joined: 1 to 32 of `a-z 0-9 -`, the same for all of them. `None`:
    /// this site's links end in it.
    pub home: Option<String>,
}

/// The machine's TPM 2.0 as `mandate-launcher` reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmConfig {
    /// `device:/dev/tpmrm0`, `swtpm:path=…`, as the launcher's `--tpm` has it.
    pub tcti: String,
    /// The event log; one per PCR of a machine, shared by its sites.
    pub event_log: PathBuf,
    /// The PCR (SHA-256 bank).
    pub pcr: u8,
    /// Generation of the attestation key; the current one if absent.
    pub ak_generation: Option<u32>,
}

/// The VIM that is this machine, for one site.
///
/// Must be used on a tokio runtime. Instances outlive it.
#[derive(Clone)]
pub struct HostVim {
    site: Arc<Site>,
}

pub(crate) struct Site {
    name: String,
    config: HostConfig,
    layout: Layout,
    digests: Arc<Digests>,
    files: Arc<look::Files>,
    key_locks: [Mutex<()>; KEY_LOCKS],
    /// Held while networks come and go: the fabric is made with the first and removed with the last.
    fabric_lock: Mutex<()>,
    /// Held while room and user ids are given.
    room_lock: Mutex<()>,
    image_lock: Arc<std::sync::Mutex<()>>,
    log_keeper: Once,
    captures: Semaphore,
    watch: Arc<watch::Watch>,
    /// Found out when first asked for.
    limits: OnceLock<(Option<cgroup::Limits>, Enforced)>,
    /// Lives as long as the site.
    driven: Arc<()>,
    _lock: Lock,
}

impl HostVim {
    /// Takes the site: makes its directories and locks it. Nothing else happens before the first call.
    ///
    /// # Errors
    /// `NOT_PRIVILEGED`, `BAD_CONFIG`, `SITE_IN_USE`, `STATE_IO`.
    pub fn new(config: HostConfig) -> Result<Self, DriverError> {
        let name = config.site.clone();
        let site = Site::new(config).map_err(|e| e.at(format!("site {name}"), "open"))?;
        Ok(Self { site: Arc::new(site) })
    }

    /// Runs an operation to its end whether or not the caller goes on waiting.
    async fn run<T: Send + 'static>(
        &self,
        key: impl ToString,
        operation: &'static str,
        f: impl Future<Output = Result<T, HostError>> + Send + 'static,
    ) -> Result<T, DriverError> {
        self.site.log_keeper.call_once(|| self.keep_logs_short());
        let (key, context) = (key.to_string(), vim::trace::current());
        if let Some(traceparent) = &context {
            tracing::info!(site = self.site.name, key, operation, %traceparent, "called");
        }
        let result = match tokio::spawn(vim::trace::within(context, f)).await {
            Ok(result) => result,
            Err(e) => Err(HostError::Internal(e.to_string())),
        };
        result.map_err(|e| e.at(key, operation))
    }

    /// Keeps the logs short for as long as the site is driven. It does not hold the site: that would keep its lock.
    fn keep_logs_short(&self) {
        let (layout, driven) = (self.site.layout.clone(), Arc::downgrade(&self.site.driven));
        tokio::spawn(async move {
            while driven.strong_count() > 0 {
                let layout = layout.clone();
                // It warns itself.
                let _trimmed = tokio::task::spawn_blocking(move || layout.trim_logs()).await;
                tokio::time::sleep(LOOK_AT_LOGS_EVERY).await;
            }
        });
    }
}

impl Site {
    fn new(config: HostConfig) -> Result<Self, HostError> {
        if !nix::unistd::geteuid().is_root() {
            let source = std::io::Error::from(nix::errno::Errno::EPERM);
            return Err(HostError::NotPrivileged { what: "to make network namespaces".into(), source });
        }
        let run = config.run_dir.clone().unwrap_or_else(|| Path::new("/run/mandate").join(&config.site));
        check(&config, &run)?;
        let layout = Layout { state: config.state_dir.clone(), run };
        layout.prepare()?;
        let lock = lock(&layout.state.join("lock"))?;
        Ok(Self {
            name: config.site.clone(),
            config,
            layout,
            digests: Arc::default(),
            files: Arc::default(),
            key_locks: std::array::from_fn(|_| Mutex::new(())),
            fabric_lock: Mutex::new(()),
            room_lock: Mutex::new(()),
            image_lock: Arc::default(),
            log_keeper: Once::new(),
            captures: Semaphore::new(capture::AT_ONCE),
            watch: Arc::default(),
            limits: OnceLock::new(),
            driven: Arc::default(),
            _lock: lock,
        })
    }

    /// Name of the namespace that holds the virtual links.
    pub(crate) fn fabric(&self) -> String {
        format!("mdt-{}-fabric", self.name)
    }

    /// Name of an instance's namespace.
    pub(crate) fn namespace(&self, key: &ObjectKey) -> String {
        format!("mdt-{}-{}", self.name, key.short("i"))
    }

    fn key_lock(&self, key: &ObjectKey) -> &Mutex<()> {
        &self.key_locks[usize::from(Digest::of(key.as_str()).0[0]) % KEY_LOCKS]
    }

    /// What holds instances to their size, and what is said of it. It blocks the first time.
    pub(crate) fn limits(&self) -> &(Option<cgroup::Limits>, Enforced) {
        self.limits.get_or_init(|| {
            let (limits, enforced) = cgroup::Limits::of_machine(&self.name);
            if !enforced.why_not.is_empty() {
                tracing::warn!(site = %self.name, "virtual CPUs and memory are counted, not enforced: {}", enforced.why_not);
            }
            (limits, enforced)
        })
    }

    /// Watches every recorded process that runs.
    async fn watch_all(&self) -> Result<(), HostError> {
        let looker = self.looker();
        let found = blocking(move || {
            let mut found = Vec::new();
            for record in looker.records()? {
                if let Some(process) = state::read_json(&looker.layout.instance(&record.key).process())? {
                    found.push((record.key.clone(), process));
                }
            }
            Ok(found)
        });
        found.await?.into_iter().for_each(|(key, process)| self.watch.over(&key, process));
        Ok(())
    }

    /// Works on the images under their lock, off the runtime's workers.
    pub(crate) async fn with_images<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Images<'_>) -> Result<T, HostError> + Send + 'static,
    ) -> Result<T, HostError> {
        let (layout, digests, lock) = (self.layout.clone(), self.digests.clone(), self.image_lock.clone());
        let artifacts = self.config.artifacts.clone();
        blocking(move || {
            let _lock = lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            f(&Images { layout: &layout, digests: &digests, artifacts: artifacts.as_ref() })
        })
        .await
    }

    async fn ensure(&self, key: &ObjectKey, spec: &Spec) -> Result<Observed, HostError> {
        let _key = self.key_lock(key).lock().await;
        if key.service() == Stray::SERVICE {
            return Err(HostError::BadSpec { problem: format!("`{}` is no service's name", Stray::SERVICE) });
        }
        if let Some(missing) = spec.needs().first() {
            return Err(HostError::Unsupported { feature: *missing });
        }
        self.refuse_other_kinds(key, spec.kind()).await?;
        match spec {
            Spec::Image(image) => {
                let (key, image) = (key.clone(), image.clone());
                let digest = self.with_images(move |images| images.ensure(&key, &image)).await?;
                Ok(Observed::Image { digest })
            }
            Spec::Network(network) => self.ensure_network(key, network).await,
            Spec::Compute(compute) => self.ensure_compute(key, compute).await,
        }
    }

    async fn remove(&self, key: &ObjectKey, kind: Kind) -> Result<(), HostError> {
        let _key = self.key_lock(key).lock().await;
        if key.service() == Stray::SERVICE {
            return self.remove_stray(key, kind).await;
        }
        match kind {
            Kind::Image => {
                let key = key.clone();
                self.with_images(move |images| images.remove(&key)).await
            }
            Kind::Network => self.remove_network(key).await,
            Kind::Compute => self.remove_compute(key).await,
        }
    }

    async fn refuse_other_kinds(&self, key: &ObjectKey, wanted: Kind) -> Result<(), HostError> {
        if wanted != Kind::Compute && self.record(key).await?.is_some() {
            return Err(HostError::KeyInUse { found: "instance" });
        }
        let image = key.clone();
        if wanted != Kind::Image && self.with_images(move |i| Ok(i.reference(&image)?.is_some())).await? {
            return Err(HostError::KeyInUse { found: "image" });
        }
        if wanted != Kind::Network && self.bridge(&self.fabric_links(|_| false).await?.links, key)?.is_some()
        {
            return Err(HostError::KeyInUse { found: "network" });
        }
        Ok(())
    }

    async fn observe(&self, scope: &Scope) -> Result<Inventory, HostError> {
        let looker = self.looker();
        let records = blocking(move || looker.records()).await?;
        let used = compute::used(records.iter().map(Arc::as_ref));
        let in_scope: Vec<_> = records.iter().filter(|r| scope.contains(&r.key)).cloned().collect();
        let fabric = self.fabric_links(|key| scope.contains(key)).await?;
        let joined = self.trunks(&fabric.links).next().is_some();
        let parts = if joined { self.parts().await? } else { BTreeMap::new() };
        let mut objects = self.computes(&in_scope, &fabric).await?;
        objects.extend(self.networks(&fabric.links, &parts).into_iter().filter(|(k, _)| scope.contains(k)));
        objects.extend(self.images(scope.clone()).await?);
        // A service's own strays cost as much to find as everybody's.
        let extra = match scope {
            Scope::All => self.strays(&records, &fabric).await?,
            Scope::Service(_) => Vec::new(),
        };
        Ok(Inventory { total: self.config.capacity, used, objects, extra, hosts: BTreeMap::new() })
    }

    async fn images(&self, scope: Scope) -> Result<BTreeMap<ObjectKey, Observed>, HostError> {
        let looker = self.looker();
        self.with_images(move |images| {
            let mut found = BTreeMap::new();
            let mut digests: BTreeMap<Digest, Option<Digest>> = BTreeMap::new();
            for r in looker.references()?.into_iter().filter(|r| scope.contains(&r.key)) {
                // One file, however many refer to it.
                let read = match digests.get(&r.digest) {
                    Some(read) => *read,
                    None => {
                        let read = images.digests.of(&images.layout.image(&r.digest))?;
                        digests.insert(r.digest, read);
                        read
                    }
                };
                if let Some(digest) = read {
                    found.insert(r.key.clone(), Observed::Image { digest });
                }
            }
            Ok(found)
        })
        .await
    }

    async fn run_traffic(
        &self,
        key: &ObjectKey,
        profile: TrafficProfile,
    ) -> Result<TrafficReport, HostError> {
        let (process, _) = self.running(key).await?;
        let sending = u64::from(profile.duration_ms) + u64::from(profile.drain_ms);
        let limit = Duration::from_millis(sending) + TRAFFIC_MARGIN;
        let socket = self.layout.instance(key).control();
        control::exchange(&socket, process.pid, limit, move |client| client.run(profile)).await
    }

    /// More than once: nobody acknowledges an announcement (RFC 5227 §2.3 sends it twice as well).
    async fn announce(&self, key: &ObjectKey) -> Result<(), HostError> {
        let (process, _) = self.running(key).await?;
        let socket = self.layout.instance(key).control();
        for again in 0..ANNOUNCEMENTS {
            if again > 0 {
                tokio::time::sleep(ANNOUNCE_EVERY).await;
            }
            control::status(&socket, process.pid, Request::Announce, control::ANSWER).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl VimDriver for HostVim {
    async fn capabilities(&self) -> Result<Capabilities, DriverError> {
        let attestation = self.site.config.tpm.is_some();
        let site = self.site.clone();
        let limits = self.run(
            format!("site {}", site.name),
            "capabilities",
            blocking(move || Ok(site.limits().1.clone())),
        );
        Ok(Capabilities {
            driver: "host".into(),
            attestation,
            inter_site_links: self.site.config.home.is_some(),
            capture: true,
            enforced: limits.await?,
            functions: true,
            features: BTreeSet::new(),
        })
    }

    async fn ensure(&self, key: &ObjectKey, spec: &Spec) -> Result<Observed, DriverError> {
        let (site, owned, spec) = (self.site.clone(), key.clone(), spec.clone());
        self.run(key, "ensure", async move { site.ensure(&owned, &spec).await }).await
    }

    async fn remove(&self, key: &ObjectKey, kind: Kind) -> Result<(), DriverError> {
        let (site, owned) = (self.site.clone(), key.clone());
        self.run(key, "remove", async move { site.remove(&owned, kind).await }).await
    }

    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError> {
        let (site, owned) = (self.site.clone(), scope.clone());
        let what = match scope {
            Scope::All => format!("site {}", self.site.name),
            Scope::Service(service) => service.clone(),
        };
        self.run(what, "observe", async move { site.observe(&owned).await }).await
    }

    async fn changed(&self, after: u64) -> Changed {
        if let Err(error) = self.site.watch_all().await {
            tracing::warn!(site = %self.site.name, "instances that ran before are not watched: {error}");
        }
        self.site.watch.changed(after).await
    }
}

#[async_trait]
impl VnfControl for HostVim {
    async fn status(&self, key: &ObjectKey) -> Result<Status, DriverError> {
        let (site, owned) = (self.site.clone(), key.clone());
        self.run(key, "status", async move { Ok(site.running(&owned).await?.1) }).await
    }

    async fn attest(&self, keys: &[ObjectKey], nonce: &Digest) -> Result<Evidence, DriverError> {
        let (site, owned, nonce) = (self.site.clone(), keys.to_vec(), *nonce);
        let what =
            keys.first().map_or_else(|| format!("site {}", self.site.name), |k| k.service().to_owned());
        self.run(what, "attest", async move { site.attest(&owned, &nonce).await }).await
    }

    async fn run_traffic(
        &self,
        key: &ObjectKey,
        profile: &TrafficProfile,
    ) -> Result<TrafficReport, DriverError> {
        let (site, owned, profile) = (self.site.clone(), key.clone(), profile.clone());
        self.run(key, "run_traffic", async move { site.run_traffic(&owned, profile).await }).await
    }

    async fn isolate(&self, key: &ObjectKey, on: bool) -> Result<(), DriverError> {
        let (site, owned) = (self.site.clone(), key.clone());
        self.run(key, "isolate", async move { site.isolate(&owned, on).await }).await
    }

    async fn announce(&self, key: &ObjectKey) -> Result<(), DriverError> {
        let (site, owned) = (self.site.clone(), key.clone());
        self.run(key, "announce", async move { site.announce(&owned).await }).await
    }

    async fn capture(&self, key: &ObjectKey, spec: &CaptureSpec) -> Result<Capture, DriverError> {
        let (site, owned, spec) = (self.site.clone(), key.clone(), *spec);
        self.run(key, "capture", async move { site.capture(&owned, spec).await }).await
    }
}

/// Runs what blocks off the runtime's workers.
pub(crate) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    tokio::task::spawn_blocking(f).await.map_err(|e| HostError::Internal(e.to_string()))?
}

fn check(config: &HostConfig, run: &Path) -> Result<(), HostError> {
    let bad = |field, problem: String| Err(HostError::BadConfig { field, problem });
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    for (field, name) in [("site", Some(&config.site)), ("home", config.home.as_ref())] {
        let Some(name) = name else { continue };
        let edge = name.starts_with('-') || name.ends_with('-');
        if !(1..=MAX_SITE).contains(&name.len()) || !name.chars().all(legal) || edge {
            return bad(field, format!("`{name}` is not a name of 1 to {MAX_SITE} of a-z 0-9 -"));
        }
    }
    if !config.state_dir.is_absolute() || !run.is_absolute() {
        return bad("state_dir, run_dir", "must be absolute paths".into());
    }
    // <run>/i0123456789/control
    let longest = run.as_os_str().len() + "/i0123456789/control".len();
    if longest > MAX_SOCKET_PATH {
        return bad(
            "run_dir",
            format!("control sockets would have paths of {longest} bytes; at most {MAX_SOCKET_PATH}"),
        );
    }
    if config.run_as.as_ref().is_some_and(|r| r.is_empty() || *r.start() == 0) {
        return bad("run_as", "must be a range of user ids without 0".into());
    }
    if !config.launcher.is_file() {
        let path = config.launcher.display();
        return bad(
            "launcher",
            format!("there is no {path}: build it with `cargo build -p mandate-launcher`"),
        );
    }
    Ok(())
}

/// The site's lock. It is given back in words: a child that is between fork and exec holds every descriptor of ours for
/// that moment, and with it a lock that ends only when the last of them is closed (flock(2)).
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "the site's lock ends with the process");
        }
    }
}

fn lock(path: &Path) -> Result<Lock, HostError> {
    let file =
        File::options().create(true).truncate(false).write(true).open(path).map_err(state("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(HostError::SiteInUse { path: path.into() }),
        Err(std::fs::TryLockError::Error(e)) => Err(state("lock", path)(e)),
    }
}
