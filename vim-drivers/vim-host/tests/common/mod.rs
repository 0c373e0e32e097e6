//! A site of this machine as a fixture: what is there is read with `ip`, `/proc` and `/run`, never through the
//! driver. Everything made carries the test's own site name.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod bench;
pub mod wire;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use trust::Digest;
use vim::{
    Artifacts, Kind, NetworkSpec, ObjectKey, Resources, Spec, VimDriver, VnfControl,
    conformance::{Fixture, Report},
};
use vim_host::{HostConfig, HostVim, TpmConfig};

static SITES: AtomicU32 = AtomicU32::new(0);

/// Skips loudly: says what is missing and how to get it.
pub fn missing(what: &str) {
    eprintln!("SKIPPED: {what}");
}

pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        missing("needs root, or `unshare --user --map-root-user --mount` with a tmpfs on /run");
    }
    root
}

/// `target/<profile>`.
pub fn target() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned()
}

/// Where the real programs are: `MANDATE_BIN_DIR`, or where cargo puts them.
pub fn programs() -> PathBuf {
    std::env::var_os("MANDATE_BIN_DIR").map_or_else(target, PathBuf::from)
}

/// The stand-in for launcher and data plane. `cargo test --test …` builds no examples: then it is built here.
pub fn standin() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let program = target().join("examples/standin");
        if !program.is_file() {
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.args(["build", "--quiet", "--locked", "-p", "vim-host", "--example", "standin"]);
            if target().ends_with("release") {
                cargo.arg("--release");
            }
            cargo.arg("--target-dir").arg(target().parent().unwrap());
            assert!(cargo.status().unwrap().success(), "the stand-in of examples/ does not build");
        }
        program
    };
    BUILT.get_or_init(build).clone()
}

pub fn sh(command: &str) -> Result<String, String> {
    let output = Command::new("sh").args(["-ec", command]).output().map_err(|e| e.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("`{command}`: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

pub fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

/// Two images: a program, and the same with one more byte at its end.
#[derive(Clone)]
pub struct TwoImages(pub BTreeMap<Digest, PathBuf>, pub [Digest; 2]);

impl TwoImages {
    pub fn of(program: &Path, dir: &Path) -> Self {
        let mut bytes = fs::read(program).unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        let mut made = BTreeMap::new();
        let mut digests = Vec::new();
        for name in ["one", "two"] {
            let digest = Digest::of(&bytes);
            let path = dir.join(name);
            fs::write(&path, &bytes).unwrap();
            made.insert(digest, path);
            digests.push(digest);
            bytes.push(0);
        }
        Self(made, [digests[0], digests[1]])
    }
}

impl Artifacts for TwoImages {
    fn path(&self, digest: &Digest) -> Option<PathBuf> {
        self.0.get(digest).cloned()
    }
}

/// What a fixture is made from.
#[derive(Clone)]
pub struct Recipe {
    pub launcher: PathBuf,
    pub images: TwoImages,
    pub tpm: Option<TpmConfig>,
    pub run_as: Option<std::ops::RangeInclusive<u32>>,
    /// What the data plane measured here is given.
    pub dataplane_arguments: Vec<String>,
}

pub struct Host {
    pub vim: Option<HostVim>,
    pub config: HostConfig,
    pub site: String,
    images: [Digest; 2],
    recipe: Recipe,
    squatters: Vec<std::os::unix::net::UnixListener>,
    _dir: tempfile::TempDir,
}

impl Host {
    pub fn new(recipe: &Recipe) -> Result<Self, String> {
        let home = format!("h{}-{}", std::process::id(), SITES.fetch_add(1, Ordering::Relaxed));
        Self::of_home(recipe, &home)
    }

    /// A site of this home.
    pub fn of_home(recipe: &Recipe, home: &str) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let site = format!("t{}-{}", std::process::id(), SITES.fetch_add(1, Ordering::Relaxed));
        let config = HostConfig {
            site: site.clone(),
            state_dir: dir.path().join("state"),
            run_dir: None,
            launcher: recipe.launcher.clone(),
            tpm: recipe.tpm.clone(),
            capacity: Resources { vcpus: 8, memory_mib: 4096, instances: 8 },
            run_as: recipe.run_as.clone(),
            dataplane_arguments: recipe.dataplane_arguments.clone(),
            artifacts: Arc::new(recipe.images.clone()),
            home: Some(home.to_owned()),
        };
        let vim = HostVim::new(config.clone()).map_err(|e| e.to_string())?;
        Ok(Self {
            vim: Some(vim),
            config,
            site,
            images: recipe.images.1,
            recipe: recipe.clone(),
            squatters: Vec::new(),
            _dir: dir,
        })
    }

    pub fn vim(&self) -> &HostVim {
        self.vim.as_ref().unwrap()
    }

    pub fn fabric(&self) -> String {
        format!("mdt-{}-fabric", self.site)
    }

    pub fn namespace(&self, key: &ObjectKey) -> String {
        format!("mdt-{}-{}", self.site, key.short("i"))
    }

    pub fn run_dir(&self) -> PathBuf {
        Path::new("/run/mandate").join(&self.site)
    }

    pub fn instance_dir(&self, key: &ObjectKey) -> PathBuf {
        self.config.state_dir.join("instances").join(key.short("i"))
    }

    pub fn namespaces(&self) -> Vec<String> {
        let prefix = format!("mdt-{}-", self.site);
        let ours = |n: &String| {
            n.strip_prefix(&prefix).is_some_and(|rest| {
                rest == "fabric"
                    || rest
                        .strip_prefix('i')
                        .is_some_and(|h| h.len() == 10 && h.chars().all(|c| c.is_ascii_hexdigit()))
            })
        };
        entries(Path::new("/run/netns")).into_iter().filter(ours).collect()
    }

    pub fn processes(&self) -> Vec<u32> {
        let dir = format!("{}/", self.run_dir().display());
        let pids = entries(Path::new("/proc")).into_iter().filter_map(|n| n.parse::<u32>().ok());
        let ours = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments: Vec<_> = line.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
            arguments.windows(2).any(|w| w[0] == "--control" && w[1].starts_with(&dir))
        };
        pids.filter(ours).collect()
    }

    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut todo = vec![self.config.state_dir.clone(), self.run_dir()];
        while let Some(dir) = todo.pop() {
            for name in entries(&dir) {
                let path = dir.join(name);
                if path.is_dir() {
                    todo.push(path.clone());
                }
                found.push(path.display().to_string());
            }
        }
        let kept = ["lock", "images", "image-refs", "instances"].map(|n| self.config.state_dir.join(n));
        found.retain(|f| kept.iter().all(|k| Path::new(f) != k));
        if self.run_dir().exists() {
            found.push(self.run_dir().display().to_string());
        }
        found
    }

    /// Another configuration, told to the process without the driver.
    fn reconfigure(&self, instance: &ObjectKey, socket: &Path, generation: u64) -> Result<(), String> {
        let path = self.instance_dir(instance).join("configuration.json");
        let bytes = fs::read(path).map_err(|e| e.to_string())?;
        let mut document: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        document["generation"] = generation.into();
        let stream = std::os::unix::net::UnixStream::connect(socket).map_err(|e| e.to_string())?;
        let mut client = dataplane_control::protocol::Client::new(stream).map_err(|e| e.to_string())?;
        let request = dataplane_control::protocol::Request::Configure { document: document.to_string() };
        client.status(&request).map(drop).map_err(|e| e.to_string())
    }

    async fn ensured(&self, key: &ObjectKey, spec: &Spec) -> Result<(), String> {
        self.vim().ensure(key, spec).await.map(drop).map_err(|e| format!("{} {e}", e.code))
    }

    /// States of an image: half copied, nobody's, without its file, changed on disk, a half-written reference.
    async fn half_image(&self, key: &ObjectKey, spec: &Spec, way: usize) -> Result<bool, String> {
        let Spec::Image(image) = spec else { return Ok(false) };
        let (images, refs) = (self.config.state_dir.join("images"), self.config.state_dir.join("image-refs"));
        let file = images.join(image.digest.hex());
        let reference = format!("{}.json", key.short("m"));
        match way {
            0 => fs::write(images.join(format!(".{}.new", image.digest.hex())), b"half")
                .map_err(|e| e.to_string())?,
            1..=3 => {
                self.ensured(key, spec).await?;
                match way {
                    1 => fs::remove_file(refs.join(reference)),
                    2 => fs::remove_file(&file),
                    _ => fs::remove_file(&file).and_then(|()| fs::write(&file, b"other bytes")),
                }
                .map_err(|e| e.to_string())?;
            }
            4 => fs::write(refs.join(format!(".{reference}.new")), b"{").map_err(|e| e.to_string())?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// States of a network: an empty fabric, its unmounted file, a bridge without alias, down, of another size.
    async fn half_network(&self, key: &ObjectKey, spec: &Spec, way: usize) -> Result<bool, String> {
        let (fabric, bridge) = (self.fabric(), key.short("b"));
        match way {
            0 => drop(sh(&format!("ip netns add {fabric}"))?),
            1 => drop(sh(&format!("mkdir -p /run/netns; touch /run/netns/{fabric}"))?),
            2 => drop(sh(&format!("ip netns add {fabric}; ip -n {fabric} link add {bridge} type bridge"))?),
            3 => {
                self.ensured(key, spec).await?;
                sh(&format!("ip -n {fabric} link set {bridge} down"))?;
            }
            4 => {
                let small = Spec::Network(NetworkSpec::new("link", 1280));
                self.ensured(key, &small).await?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// States of an instance: every prefix of its making and of its removal, and what can break while it runs.
    async fn half_compute(&self, key: &ObjectKey, spec: &Spec, way: usize) -> Result<bool, String> {
        const WAYS: usize = 17;
        if way >= WAYS {
            return Ok(false);
        }
        self.ensured(key, spec).await?;
        let (dir, run) = (self.instance_dir(key), self.run_dir().join(key.short("i")));
        let (d, r) = (dir.display(), run.display());
        let (fabric, ns, port) = (self.fabric(), self.namespace(key), format!("{}p0", key.short("v")));
        let pid = self.vim().status(key).await.map_err(|e| e.to_string())?.pid;
        let kill = format!("kill -9 {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.01; done; ");
        let bare = format!("{kill} ip -n {fabric} link del {port}; ip netns del {ns}; rm -rf {r}");
        let command = match way {
            0 => format!("{bare}; rm -r {d}; mkdir {d}"),
            1 => format!("{bare}; find {d} -type f ! -name record.json -delete"),
            2 => format!("{bare}; rm {d}/process.json; touch /run/netns/{ns}"),
            3 => format!("{bare}; rm {d}/process.json; ip netns add {ns}"),
            4 => format!("{kill} ip -n {fabric} link set {port} alias ''; rm -r {d}/process.json {r}"),
            5 => kill,
            6 => format!("rm {d}/process.json {d}/pid"),
            7 => format!("ip -n {fabric} link del {port}"),
            8 => format!("ip netns del {ns}"),
            9 => format!("find {d} -type f ! -name record.json -delete"),
            10 => format!("rm -r {r}"),
            11 => format!("ip -n {ns} link set cp0 down"),
            12 => format!("ip -n {fabric} link set {port} nomaster"),
            13 => format!("{kill} ip -n {fabric} link del {port}"),
            14 => format!("{kill} ip netns del {ns}"),
            15 => format!("kill -STOP {pid}; rm {r}/control"),
            _ => format!("{bare}; rm -r {d}; mkdir {d}; echo half > {d}/.record.json.new"),
        };
        sh(&command)?;
        Ok(true)
    }
}

pub fn entries(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[async_trait]
impl Fixture for Host {
    fn driver(&self) -> &dyn VimDriver {
        self.vim()
    }
    fn control(&self) -> &dyn VnfControl {
        self.vim()
    }
    fn images(&self) -> [Digest; 2] {
        self.images
    }

    async fn leave_half_made(&mut self, key: &ObjectKey, spec: &Spec, way: usize) -> Result<bool, String> {
        let known = match spec.kind() {
            Kind::Image => self.half_image(key, spec, way).await,
            Kind::Network => self.half_network(key, spec, way).await,
            Kind::Compute => self.half_compute(key, spec, way).await,
        }?;
        if known {
            self.restart().await?;
        }
        Ok(known)
    }

    async fn crash(&mut self, key: &ObjectKey) -> Result<(), String> {
        let pid = self.vim().status(key).await.map_err(|e| e.to_string())?.pid;
        sh(&format!("kill -9 {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.01; done")).map(drop)
    }

    /// Another site whose name begins like ours, with a bridge that has the name of ours; a namespace with our
    /// prefix; a process that looks at our sockets.
    async fn make_foreign(&mut self) -> Result<(), String> {
        let (site, bridge) = (&self.site, key("foreign/net").short("b"));
        sh(&format!(
            "ip netns add mdt-{site}-2-fabric; ip -n mdt-{site}-2-fabric link add {bridge} type bridge; \
             ip -n mdt-{site}-2-fabric link set {bridge} alias 'mandate {site}-2 foreign/net'; \
             ip netns add mdt-{site}-other; ip -n mdt-{site}-other link add cp0 type bridge; \
             ip netns exec mdt-{site}-other sleep 600 >/dev/null 2>&1 & echo $! > /tmp/{site}.pid"
        ))
        .map(drop)
    }

    async fn foreign_intact(&mut self) -> Result<bool, String> {
        let (site, bridge) = (&self.site, key("foreign/net").short("b"));
        let intact = sh(&format!(
            "ip -n mdt-{site}-2-fabric link show {bridge} | grep -q 'mandate {site}-2 foreign/net'; \
             ip -n mdt-{site}-other link show cp0; kill -0 $(cat /tmp/{site}.pid)"
        ));
        Ok(intact.is_ok())
    }

    async fn emit(&self, key: &ObjectKey, port: usize, frame: &[u8]) -> Result<(), String> {
        wire::emit(&self.namespace(key), &vim::port_interface(port), &[frame.to_vec()])
    }

    async fn alter(
        &mut self,
        instance: &ObjectKey,
        network: &ObjectKey,
        image: &ObjectKey,
        way: usize,
    ) -> Result<Option<String>, String> {
        self.squatters.clear();
        let (fabric, ns) = (self.fabric(), self.namespace(instance));
        let (port, bridge) = (format!("{}p0", instance.short("v")), network.short("b"));
        let socket = self.run_dir().join(instance.short("i")).join("control");
        let file = self.config.state_dir.join("images").join(self.images[0].hex());
        let (file, reference) = (file.display(), format!("{}.json", image.short("m")));
        let references = self.config.state_dir.join("image-refs");
        let pid = self.vim().status(instance).await.map_err(|e| e.to_string())?.pid;
        let kill = format!("kill -9 {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.01; done");
        let command = match way {
            0 => kill,
            1 => {
                sh(&kill)?;
                self.squatters.push(wire::squat(&socket)?);
                "true".into()
            }
            2 => format!("kill -STOP {pid}"),
            3 => {
                self.reconfigure(instance, &socket, 5)?;
                "true".into()
            }
            4 => format!("ip -n {fabric} link set {port} down"),
            5 => format!("ip -n {ns} link set cp0 down"),
            6 => format!("ip -n {fabric} link set {port} nomaster"),
            7 => format!("ip -n {fabric} link del {port}"),
            8 => format!("ip -n {ns} link set cp0 address 02:00:00:00:be:ef"),
            9 => format!("ip -n {ns} link set cp0 mtu 900"),
            10 => format!("ip -n {fabric} link set {bridge} down"),
            11 => format!("ip -n {fabric} link set {bridge} mtu 1280"),
            12 => format!("ip -n {fabric} link del {bridge}"),
            13 => format!("cp {file} {file}.n; printf x >> {file}.n; chmod 555 {file}.n; mv {file}.n {file}"),
            14 => format!("rm {file}"),
            15 => format!("rm {}", references.join(reference).display()),
            16 => {
                // Uncut behind our back.
                self.vim().isolate(instance, true).await.map_err(|e| e.to_string())?;
                let cut = self.vim().observe(&vim::Scope::All).await.map_err(|e| e.to_string())?;
                sh(&format!("ip -n {fabric} link set {port} up"))?;
                let uncut = self.vim().observe(&vim::Scope::All).await.map_err(|e| e.to_string())?;
                self.vim().isolate(instance, false).await.map_err(|e| e.to_string())?;
                if cut == uncut {
                    return Err("uncut behind our back is not seen".into());
                }
                format!("ip -n {fabric} link set {port} down")
            }
            _ => return Ok(None),
        };
        sh(&command)?;
        Ok(Some(format!("way {way}: {command}")))
    }

    async fn make_stray(&mut self, way: usize) -> Result<Option<String>, String> {
        const SHORT: &str = "i00000000ff";
        let (site, fabric, run) = (&self.site, self.fabric(), self.run_dir());
        let (gone, stays) = (key("gone/vdu"), key("stays/vdu"));
        let standin = standin().display().to_string();
        let serve = |dir: &Path, instance: &ObjectKey| {
            format!(
                "mkdir -p {d}; setsid {standin} --config {}/configuration.json --control {d}/control                  </dev/null >/dev/null 2>&1 & p=$!; while ! test -S {d}/control; do kill -0 $p; sleep 0.01; done",
                self.instance_dir(instance).display(),
                d = dir.display()
            )
        };
        let command = match way {
            0 => format!("ip netns add mdt-{site}-{SHORT}"),
            1 => format!("mkdir -p {}/{SHORT}; touch {0}/{SHORT}/control", run.display()),
            2 => format!(
                "mkdir -p {0}/instances/{SHORT}; touch {0}/instances/{SHORT}/log",
                self.config.state_dir.display()
            ),
            3 => serve(&run.join(SHORT), &stays),
            4 => format!(
                "ip -n {fabric} link add va type veth peer name vb; \
                 ip -n {fabric} link set va alias 'mandate {site} {gone}#0'"
            ),
            5 => format!(
                "ip -n {fabric} link add va type veth peer name vb; \
                 ip -n {fabric} link set va alias 'mandate {site} gone/net@wan/7'"
            ),
            6 => format!("ip -n {fabric} link add b00000000ff type bridge"),
            7 => format!("ip -n {fabric} link add v00000000ffp1 type veth peer name vb"),
            8 => {
                format!("touch {}/images/{}", self.config.state_dir.display(), Digest::of(b"nobody's").hex())
            }
            _ => return Ok(None),
        };
        sh(&command)?;
        Ok(Some(format!("way {way}: {command}")))
    }

    async fn other_site(&mut self) -> Result<Option<Self>, String> {
        let home = self.config.home.clone().unwrap_or_default();
        Self::of_home(&self.recipe, &home).map(Some)
    }

    async fn restart(&mut self) -> Result<(), String> {
        self.vim = None;
        self.vim = Some(HostVim::new(self.config.clone()).map_err(|e| e.to_string())?);
        Ok(())
    }

    async fn residue(&mut self) -> Result<Vec<String>, String> {
        let mut found = self.files();
        for namespace in self.namespaces() {
            found.push(format!("namespace {namespace}"));
            let links = sh(&format!("ip -n {namespace} -br link 2>/dev/null || true"))?;
            let names = links.lines().filter_map(|l| l.split([' ', '@']).next()).filter(|n| *n != "lo");
            found.extend(names.map(|n| format!("link {n} in {namespace}")));
        }
        let exchange = format!("mdx-{}", self.config.home.as_deref().unwrap_or_default());
        if Path::new("/run/netns").join(&exchange).exists() {
            let parts = sh(&format!("ip -n {exchange} -j link"))?;
            if parts.contains(&format!("mandate-part {} ", self.site)) || !parts.contains("mandate-part ") {
                found.push(format!("{exchange}: {parts}"));
            }
        }
        found.extend(self.processes().iter().map(|p| format!("process {p}")));
        found.sort();
        Ok(found)
    }

    async fn close(self) -> Result<(), String> {
        Ok(())
    }
}

/// Foreign objects, and whatever a test that failed left: nothing of ours when it passed.
impl Drop for Host {
    fn drop(&mut self) {
        let site = &self.site;
        let foreign = format!(
            "test -f /tmp/{site}.pid && kill $(cat /tmp/{site}.pid) && rm /tmp/{site}.pid && \
             ip netns del mdt-{site}-2-fabric && ip netns del mdt-{site}-other"
        );
        let mut commands = vec![foreign];
        commands.extend(self.processes().iter().map(|pid| format!("kill -9 {pid}")));
        for namespace in self.namespaces() {
            commands.push(format!("umount /run/netns/{namespace} || true; rm -f /run/netns/{namespace}"));
        }
        for command in commands {
            drop(sh(&command));
        }
        drop(fs::remove_dir_all(self.run_dir()));
        // Unless another site of the home is in it still.
        let exchange = format!("mdx-{}", self.config.home.as_deref().unwrap_or_default());
        let others =
            sh(&format!("ip -n {exchange} link | grep mandate-part | grep -qv 'mandate-part {site} '"));
        if others.is_err() {
            drop(sh(&format!("umount /run/netns/{exchange} 2>/dev/null; rm -f /run/netns/{exchange}")));
        }
    }
}

/// Prints the suite's cases with their times and fails with all that broke.
pub fn conclude(report: &Report) {
    for case in &report.cases {
        eprintln!(
            "{:>7} ms  {}  {}",
            case.elapsed_ms,
            match (&case.outcome, case.skipped) {
                (Err(_), _) => "FAILED",
                (Ok(()), Some(_)) => "SKIPPED",
                (Ok(()), None) => "ok    ",
            },
            case.name
        );
    }
    assert!(!report.cases.is_empty(), "no case ran");
    let failures = report.failures();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// Which cases to run: the environment variable `CONFORMANCE`, part of a name.
pub fn only() -> Option<String> {
    std::env::var("CONFORMANCE").ok()
}

pub async fn eventually(limit: Duration, mut f: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !f() {
        if start.elapsed() > limit {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}
