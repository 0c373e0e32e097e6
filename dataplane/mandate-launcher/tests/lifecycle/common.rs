//! A machine for the tests: a swtpm, a network namespace, an event log, instances. All of it ends with it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use attestation::{AkRecord, AttestationResult, Claim, Evidence, ReferenceValues, Workload, appraise};
use tempfile::TempDir;
use trust::{Digest, UnixTime};

pub const PCR: u8 = 14;
pub const NOW: UnixTime = UnixTime(1_800_000_000);
pub const USER: u32 = 64_123;
const PATIENCE: Duration = Duration::from_secs(20);

pub fn nonce() -> Digest {
    Digest::of("a nonce of the plan")
}

/// Everything that one machine has.
pub struct Machine {
    pub directory: TempDir,
    swtpm: Child,
    namespace: Child,
    /// Where the launcher finds the TPM; a test may put a proxy there.
    pub tcti: String,
    launched: Vec<Child>,
    next: AtomicU32,
}

/// None, loudly, where swtpm or root is missing.
pub fn machine() -> Option<Machine> {
    let root = nix::unistd::geteuid().is_root();
    if !root || Command::new("swtpm").arg("--version").output().is_err() {
        eprintln!("SKIPPED: needs root and swtpm (`apt-get install swtpm`); root: {root}");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let swtpm = start_swtpm(directory.path());
    let mut namespace = Command::new("unshare");
    let namespace = namespace.args(["--net", "sleep", "600"]).stdout(Stdio::null()).spawn().unwrap();
    let ours = fs::read_link("/proc/self/ns/net").unwrap();
    let theirs = format!("/proc/{}/ns/net", namespace.id());
    wait("a network namespace", || fs::read_link(&theirs).is_ok_and(|l| l != ours));
    let tcti = format!("swtpm:path={}", directory.path().join("tpm.sock").display());
    Some(Machine { directory, swtpm, namespace, tcti, launched: vec![], next: AtomicU32::new(0) })
}

fn start_swtpm(directory: &Path) -> Child {
    let state = directory.join("tpm");
    fs::create_dir_all(&state).unwrap();
    let socket = directory.join("tpm.sock");
    let _ = fs::remove_file(&socket);
    let child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "startup-clear"])
        .arg("--server")
        .arg(format!("type=unixio,path={}", socket.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", directory.join("ctrl.sock").display()))
        .arg("--tpmstate")
        .arg(format!("dir={}", state.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait("swtpm's socket", || socket.exists());
    child
}

pub fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "no {what} after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in self.launched.iter_mut().chain([&mut self.namespace, &mut self.swtpm]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One instance and its files.
#[derive(Clone)]
pub struct Instance {
    pub key: String,
    pub image: PathBuf,
    pub configuration: PathBuf,
    pub control: PathBuf,
}

/// The image of the tests; `cargo test -p mandate-launcher` builds examples.
pub fn image() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let path = deps.parent().unwrap().parent().unwrap().join("examples/self_report");
    assert!(path.exists(), "run `cargo build -p mandate-launcher --examples` first");
    path
}

pub fn digest_of(path: impl AsRef<Path>) -> Digest {
    Digest::of(fs::read(path).unwrap())
}

impl Machine {
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn log(&self) -> PathBuf {
        self.path("event.log")
    }

    pub fn log_lines(&self) -> Vec<String> {
        fs::read_to_string(self.log()).unwrap().lines().skip(1).map(str::to_owned).collect()
    }

    /// Turns the TPM off and on: PCRs begin anew.
    pub fn restart_tpm(&mut self) {
        self.swtpm.kill().unwrap();
        self.swtpm.wait().unwrap();
        self.swtpm = start_swtpm(self.directory.path());
    }

    pub fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.namespace.id())
    }

    pub fn instance(&self, key: &str) -> Instance {
        let home = self.path(&format!("run-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&home).unwrap();
        chown(&home, Some(USER), Some(USER)).unwrap();
        let control = home.join("control.sock");
        let configuration = home.with_extension("configuration");
        fs::write(&configuration, format!(r#"{{"instance":"{key}","generation":1}}"#)).unwrap();
        let image_copy = home.with_extension("image");
        fs::copy(image(), &image_copy).unwrap();
        Instance { key: key.into(), image: image_copy, configuration, control }
    }

    /// `mandate-launcher COMMAND --tpm … --pcr …`
    pub fn launcher(&self, command: &str) -> Command {
        let mut it = Command::new(env!("CARGO_BIN_EXE_mandate-launcher"));
        it.args([command, "--tpm", &self.tcti, "--pcr", &PCR.to_string()]);
        it.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
        it
    }

    pub fn launch_command(&self, it: &Instance, expected: &Digest) -> Command {
        let mut command = self.launcher("launch");
        command.arg("--log").arg(self.log());
        command.args(["--instance", &it.key, "--expect-image", &expected.to_string()]);
        command.arg("--image").arg(&it.image).arg("--configuration").arg(&it.configuration);
        command.args(["--netns", &self.namespace(), "--user", &format!("{USER}:{}", USER + 1)]);
        command.arg("--control").arg(&it.control).args(["--cap", "net_raw,ipc_lock"]);
        command.arg("--pidfile").arg(it.control.with_extension("pid"));
        command.args(["--", "--no-huge"]);
        command
    }

    /// Launches and waits until the image reports; its pid.
    pub fn launch(&mut self, it: &Instance) -> u32 {
        let child = self.launch_command(it, &digest_of(&it.image)).stderr(Stdio::inherit()).spawn().unwrap();
        let pid = child.id();
        self.launched.push(child);
        wait("report of the image", || it.control.with_extension("json").exists());
        pid
    }

    /// Ends this process with the machine.
    pub fn adopt(&mut self, child: Child) {
        self.launched.push(child);
    }

    pub fn measure(&self, it: &Instance) -> Output {
        let mut command = self.launcher("measure");
        command.arg("--log").arg(self.log()).args(["--instance", &it.key]);
        command.arg("--configuration").arg(&it.configuration).output().unwrap()
    }

    pub fn ak(&self, extra: &[&str]) -> AkRecord {
        let output = self.launcher("ak").args(extra).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&ok(output).stdout).unwrap();
        AkRecord {
            site: "edge-1".into(),
            public_key: report["public_key"].as_str().unwrap().into(),
            pcr: PCR,
            pcr_baseline: report["pcr_baseline"].as_str().unwrap().parse().unwrap(),
            not_before: NOW,
            not_after: NOW.plus(3600),
        }
    }

    pub fn quote(&self, claims: &[Claim], nonce: &Digest, extra: &[&str]) -> Evidence {
        let path = self.path("claims");
        fs::write(&path, serde_json::to_vec(claims).unwrap()).unwrap();
        let mut command = self.launcher("quote");
        command.arg("--log").arg(self.log()).args(["--nonce", &nonce.to_string()]);
        let output = command.arg("--claims").arg(&path).args(extra).output().unwrap();
        serde_json::from_slice(&ok(output).stdout).unwrap()
    }
}

pub fn ok(output: Output) -> Output {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// As the orchestrator makes it: the image read back from the process.
pub fn claim(it: &Instance, pid: u32) -> Claim {
    Claim {
        instance: it.key.clone(),
        image: digest_of(format!("/proc/{pid}/exe")),
        configuration: digest_of(&it.configuration),
        generation: 1,
        isolated: false,
    }
}

/// What the plan says, of the files as they are now.
pub fn reference(ak: &AkRecord, instances: &[&Instance]) -> ReferenceValues {
    let workload = |it: &&Instance| {
        let (image, configuration) = (digest_of(&it.image), digest_of(&it.configuration));
        (it.key.clone(), Workload { image, configuration })
    };
    let workloads = instances.iter().map(workload).collect::<BTreeMap<_, _>>();
    ReferenceValues { ak: ak.clone(), workloads, tee: false }
}

pub fn failed(result: &AttestationResult) -> Vec<&str> {
    result.checks.iter().filter(|c| !c.passed).map(|c| c.code.as_str()).collect()
}

pub fn appraised(evidence: &Evidence, reference: &ReferenceValues) -> AttestationResult {
    appraise(evidence, reference, &nonce(), NOW)
}
