//! Namespaces, links and unprivileged data-plane processes for the tests, all removed when dropped.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, clippy::cast_possible_wrap)]

pub mod frames;
pub mod memif;
pub mod wire;

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use dataplane_control::{
    Configuration, MacAddr,
    config::{Port, PortDriver},
    protocol::{Client, Request, Status},
};

/// `nobody` on Debian and Ubuntu; any user without privileges will do.
const USER: &str = "65534";
const START_WITHIN: Duration = Duration::from_secs(10);

/// Whether namespaces can be made; says why not.
pub fn can_run() -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!(
            "SKIPPED: needs root for network namespaces: run `sudo -E cargo test -p mandate-dataplane`"
        );
        return false;
    }
    for program in ["ip", "setpriv"] {
        if Command::new(program).arg("--version").output().is_err() && Command::new(program).output().is_err()
        {
            eprintln!("SKIPPED: needs `{program}`: apt-get install iproute2 util-linux");
            return false;
        }
    }
    true
}

/// Runs a command; panics with its words if it fails.
pub fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {words}");
}

/// Network namespaces and a directory for sockets, removed on drop.
pub struct Bench {
    prefix: String,
    namespaces: Vec<String>,
    directory: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("mdt{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::tempdir().unwrap();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(directory.path(), Some(65534), Some(65534)).unwrap();
        }
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { prefix, namespaces: vec![], directory }
    }

    /// A namespace without addresses, IPv6 or anything else that would send by itself.
    pub fn namespace(&mut self, name: &str) -> String {
        let full = format!("{}{name}", self.prefix);
        run("ip", &format!("netns add {full}"));
        self.namespaces.push(full.clone());
        for which in ["all", "default"] {
            run("ip", &format!("netns exec {full} sysctl -qw net.ipv6.conf.{which}.disable_ipv6=1"));
        }
        full
    }

    /// A veth pair between two namespaces, up.
    pub fn link(&self, (a, a_if): (&str, &str), (b, b_if): (&str, &str)) {
        run("ip", &format!("link add {a_if} netns {a} type veth peer name {b_if} netns {b}"));
        for (namespace, interface) in [(a, a_if), (b, b_if)] {
            run("ip", &format!("-n {namespace} link set dev {interface} up promisc on"));
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a configuration and starts its process, unprivileged but for `CAP_NET_RAW`.
    pub fn start(&self, namespace: &str, configuration: &Configuration) -> Process {
        self.start_with(namespace, configuration, &[])
    }

    /// [`Bench::start`] with more options.
    pub fn start_with(&self, namespace: &str, configuration: &Configuration, options: &[&str]) -> Process {
        self.spawn(unprivileged(namespace), configuration, options).started()
    }

    /// Writes a configuration and starts its process where we are: for ports that need no interface.
    pub fn start_here(&self, configuration: &Configuration, options: &[&str]) -> Process {
        self.spawn_here(configuration, options).started()
    }

    /// [`Bench::start_here`], without waiting until it answers.
    pub fn spawn_here(&self, configuration: &Configuration, options: &[&str]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mandate-dataplane"));
        command.env("MANDATE_LOG", "info");
        self.spawn(command, configuration, options)
    }

    /// [`Bench::spawn_here`] with its log in a file.
    pub fn spawn_logging(&self, configuration: &Configuration, options: &[&str], log: fs::File) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mandate-dataplane"));
        command.env("MANDATE_LOG", "info").stderr(log);
        self.spawn(command, configuration, options)
    }

    fn spawn(&self, mut command: Command, configuration: &Configuration, options: &[&str]) -> Process {
        let name = &configuration.instance;
        let (config, control) = (self.path(&format!("{name}.json")), self.path(&format!("{name}.sock")));
        fs::write(&config, configuration.to_bytes()).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
        let spawned = Instant::now();
        command.arg("--config").arg(&config).arg("--control").arg(&control);
        let child = command.args(["--eal-memory", "ordinary"]).args(options).spawn().unwrap();
        Process { child, control, spawned, start: Duration::ZERO, document: configuration.to_bytes() }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// The binary in a namespace, with no privilege but `CAP_NET_RAW`.
pub fn unprivileged(namespace: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, "setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"]);
    command.args(["--inh-caps", "+net_raw", "--ambient-caps", "+net_raw", "--bounding-set", "-all,+net_raw"]);
    command.arg(env!("CARGO_BIN_EXE_mandate-dataplane")).env("MANDATE_LOG", "info");
    command
}

/// A running data-plane process, killed on drop if it does not end.
pub struct Process {
    child: Child,
    control: PathBuf,
    spawned: Instant,
    /// From its start to its first answer.
    pub start: Duration,
    /// Of its first configuration.
    pub document: Vec<u8>,
}

impl Process {
    /// Waits for its first answer.
    pub fn started(mut self) -> Self {
        self.status();
        self.start = self.spawned.elapsed();
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn control(&self) -> &Path {
        &self.control
    }

    /// A connection, once the process listens.
    pub fn connect(&mut self) -> UnixStream {
        let until = Instant::now() + START_WITHIN;
        loop {
            if let Ok(stream) = UnixStream::connect(&self.control) {
                return stream;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} ended: {status}", self.control.display());
            }
            assert!(Instant::now() < until, "{} does not listen", self.control.display());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn client(&mut self) -> Client<UnixStream> {
        Client::new(self.connect()).unwrap()
    }

    pub fn status(&mut self) -> Status {
        self.client().status(&Request::Status).unwrap()
    }

    pub fn counter(&mut self, name: &str) -> u64 {
        self.status().counters.get(name).copied().unwrap_or(0)
    }

    /// Asks until the status is as wanted; panics with the last one if it is not within ten seconds.
    pub fn wait_for(&mut self, wanted: impl Fn(&Status) -> bool) -> Status {
        let until = Instant::now() + START_WITHIN;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < until, "never as wanted: {status:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn configure(&mut self, configuration: &Configuration) -> Status {
        let document = String::from_utf8(configuration.to_bytes()).unwrap();
        self.client().status(&Request::Configure { document }).unwrap()
    }

    /// CPU time used so far.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // USER_HZ is 100 on every Linux.
        Duration::from_millis(ticks * 10)
    }

    /// A line of /proc/PID/status, in kB.
    pub fn memory_kb(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// SIGTERM, and its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let pid = nix::unistd::Pid::from_raw(self.pid() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().code()
    }

    /// Waits for an end that was asked for otherwise.
    pub fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn port(name: &str, interface: &str, mac: MacAddr) -> Port {
    Port { name: name.into(), driver: PortDriver::AfPacket { interface: interface.into() }, mac }
}

/// A configuration from JSON: what it does not name has its default.
pub fn configuration(document: serde_json::Value) -> Configuration {
    let bytes = serde_json::to_vec(&document).unwrap();
    Configuration::parse(&bytes).unwrap()
}

/// Runs something and gives its exit code and standard error.
pub fn fails(mut command: Command) -> (Option<i32>, String) {
    let output = command.stdout(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
