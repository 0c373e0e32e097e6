//! What happens in the guest: one case after the other, each a line on the second serial port.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::{command, demo::mandate::Mandate, interrupt};

/// Runs the cases once the guest is up, and turns it off.
pub const UNIT: &str = "\
[Unit]
After=basic.target systemd-udev-settle.service
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStartPre=/bin/mount -o ro LABEL=testbed /mnt
ExecStart=/mnt/testbed inside

[Install]
WantedBy=multi-user.target
";
/// The last line: nothing was left out.
pub const END: &str = "END";
/// Signed intents on the second disk.
pub const INTENTS: [&str; 3] = ["deploy.dsse.json", "scale.dsse.json", "terminate.dsse.json"];
/// The service that they are about.
pub const SERVICE: &str = "acme/guest";

const DISK: &str = "/mnt";
const HOME: &str = "/var/lib/mandate";
const UNIT_FILE: &str = "/etc/systemd/system/mandate.service";
const CGROUPS: &str = "/sys/fs/cgroup/mandate";
/// What systemd is told of the longest stop: TimeoutStopSec of the unit file.
const STOP_LIMIT: Duration = Duration::from_secs(90);
/// WatchdogSec and what a restart takes, emulated.
const WATCHDOG_LIMIT: Duration = Duration::from_secs(120);
const LIMIT: Duration = Duration::from_secs(300);
const ASK_EVERY: Duration = Duration::from_millis(20);

type Case = (&'static str, fn(&mut Guest) -> anyhow::Result<String>);

const CASES: &[Case] = &[
    ("the unit file is what systemd expects", Guest::unit),
    ("systemd waits until it is ready", Guest::ready),
    ("SIGTERM in mid-operation: it drains, says so with 503, and ends with 0", Guest::drains),
    ("started again, the operation goes on and completes", Guest::goes_on),
    ("functions are within their cgroups' limits", Guest::limited),
    ("killed in mid-operation: systemd starts it, nothing is done twice", Guest::killed),
    ("hung: the watchdog has it started anew", Guest::hung),
    ("a full disk: not ready, with the reason, until there is room", Guest::full),
    ("terminated: nothing is left", Guest::terminated),
    ("cgroup v2: more memory than given kills, more CPU than given waits", Guest::limits),
];

/// The subcommand of the guest.
pub fn main() -> anyhow::Result<bool> {
    let mut line = File::options().write(true).open("/dev/ttyS1").context("the second serial port")?;
    let mut guest = Guest { mandate: Mandate::new("/usr/bin/mandate".into(), HOME.into()) };
    for (name, case) in CASES {
        let start = Instant::now();
        let outcome = case(&mut guest);
        let ms = start.elapsed().as_millis();
        match &outcome {
            Ok(detail) => writeln!(line, "ok {name} ({ms} ms): {detail}")?,
            Err(e) => {
                writeln!(line, "FAILED {name} ({ms} ms): {}", format!("{e:#}").replace('\n', " | "))?;
                let log = sh("journalctl -u mandate -n 25 --no-pager -o cat").unwrap_or_default();
                log.lines().try_for_each(|l| writeln!(line, "    {l}"))?;
            }
        }
    }
    writeln!(line, "{END}")?;
    Ok(true)
}

struct Guest {
    mandate: Mandate,
}

impl Guest {
    /// Installs it as an operator does, on a disk of its own that can be filled.
    fn unit(&mut self) -> anyhow::Result<String> {
        sh(&format!(
            "install -m 755 {DISK}/mandate {DISK}/mandate-launcher {DISK}/mandate-dataplane /usr/bin; \
             install -m 644 {DISK}/mandate.service {UNIT_FILE}; \
             mkdir -p {HOME}; mount -t tmpfs -o size=512m,mode=0700 tmpfs {HOME}; cp -a {DISK}/home/. {HOME}; \
             systemctl daemon-reload"
        ))?;
        let said = sh(&format!("systemd-analyze verify --man=no {UNIT_FILE} 2>&1"))?;
        ensure!(said.trim().is_empty(), "{said}");
        Ok(sh("systemctl --version | head -1")?.trim().to_owned())
    }

    fn ready(&mut self) -> anyhow::Result<String> {
        sh("systemctl start mandate")?;
        // At once: who is told that it is ready can use it.
        let status = self.mandate.ask(&["status"])?;
        ensure!(status["ready"] == true, "{status}");
        ensure!(property("ActiveState")? == "active", "it is {}", property("ActiveState")?);
        Ok(format!("{}; watchdog {}", property("StatusText")?, property("WatchdogUSec")?))
    }

    fn submit(&self, intent: &str) -> anyhow::Result<String> {
        let answer = self.mandate.ask(&["intent", "submit", &format!("{DISK}/{intent}")])?;
        let committed = if answer["committed"].is_object() { &answer["committed"] } else { &answer };
        let document: Value = serde_json::from_str(&fs::read_to_string(format!("{DISK}/{intent}.id"))?)?;
        ensure!(committed["position"].is_u64(), "{answer}");
        Ok(document.as_str().context("the intent has no id")?.to_owned())
    }

    /// Waits until this begins, as the timeline tells it.
    fn begun(&self, what: &str) -> anyhow::Result<()> {
        interrupt::wait_for(&format!("`{what}` did not begin"), LIMIT, || {
            let Ok(lines) = self.mandate.ask(&["ns", "timeline", SERVICE]) else { return Ok(None) };
            let lines = lines.as_array().cloned().unwrap_or_default();
            Ok(lines.iter().any(|l| l.to_string().contains(what)).then_some(()))
        })
    }

    fn completed(&self, intent: &str) -> anyhow::Result<Value> {
        let operation = interrupt::wait_for(&format!("{intent} is not anchored"), LIMIT, || {
            let Ok(status) = self.mandate.ask(&["intent", "status", intent]) else { return Ok(None) };
            Ok((status["operation"]["anchored"] == true).then(|| status["operation"].clone()))
        })?;
        ensure!(operation["state"] == "COMPLETED", "{operation}");
        Ok(operation)
    }

    fn drains(&mut self) -> anyhow::Result<String> {
        self.submit(INTENTS[0])?;
        self.begun("start vlb")?;
        let start = Instant::now();
        let (stopped, is_stopped) = mpsc::channel();
        thread::spawn(move || stopped.send(sh("systemctl stop mandate")));
        let (mut refused, mut answers) = (None, 0);
        let outcome = loop {
            if let Ok(outcome) = is_stopped.try_recv() {
                break outcome;
            }
            if let Ok((503, body)) = readiness() {
                answers += 1;
                refused.get_or_insert(body);
            }
            ensure!(start.elapsed() < STOP_LIMIT * 2, "`systemctl stop` does not end");
            thread::sleep(ASK_EVERY);
        };
        outcome?;
        let took = start.elapsed();
        ensure!(took < STOP_LIMIT, "it took {} s", took.as_secs());
        let (result, code) = (property("Result")?, property("ExecMainStatus")?);
        ensure!(result == "success" && code == "0", "{result}, exit code {code}");
        let said = refused.context("it never answered 503 while it drained")?;
        ensure!(said.contains("draining"), "{said}");
        let kept = functions()?.len();
        ensure!(kept > 0, "its functions were ended too");
        Ok(format!(
            "in {} ms, {answers} answers of 503 with `draining`; {kept} functions go on",
            took.as_millis()
        ))
    }

    fn goes_on(&mut self) -> anyhow::Result<String> {
        let before = functions()?;
        sh("systemctl start mandate")?;
        let id: String = serde_json::from_str(&fs::read_to_string(format!("{DISK}/{}.id", INTENTS[0]))?)?;
        let operation = self.completed(&id)?;
        let now = functions()?;
        // The probe, which one operation makes and stops, is the only one that may be gone.
        ensure!(before.difference(&now).count() <= 1, "functions were started again: {before:?}, {now:?}");
        Ok(format!(
            "{} steps; {} functions, of which {} ran before",
            operation["progress"],
            now.len(),
            before.len()
        ))
    }

    fn limited(&mut self) -> anyhow::Result<String> {
        let sites = fs::read_dir(CGROUPS).context(CGROUPS)?.filter_map(|e| Some(e.ok()?.path()));
        let groups: Vec<PathBuf> = sites
            .filter_map(|s| fs::read_dir(s).ok())
            .flatten()
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.is_dir())
            .collect();
        let read = |dir: &Path, file: &str| fs::read_to_string(dir.join(file)).map(|t| t.trim().to_owned());
        for dir in &groups {
            let (cpu, memory) = (read(dir, "cpu.max")?, read(dir, "memory.max")?);
            ensure!(
                cpu == "100000 100000" && memory == (256 << 20).to_string(),
                "{}: {cpu}, {memory}",
                dir.display()
            );
            ensure!(!read(dir, "cgroup.procs")?.is_empty(), "{} is empty", dir.display());
        }
        ensure!(
            groups.len() == functions()?.len(),
            "{} cgroups, {} functions",
            groups.len(),
            functions()?.len()
        );
        Ok(format!("{} of them: cpu.max 100000 100000, memory.max 256 MiB", groups.len()))
    }

    fn killed(&mut self) -> anyhow::Result<String> {
        let (before, pid) = (functions()?, property("MainPID")?);
        let id = self.submit(INTENTS[1])?;
        self.begun("start vlb/backend/2")?;
        sh(&format!("kill -9 {pid}"))?;
        self.completed(&id)?;
        let now = functions()?;
        ensure!(property("MainPID")? != pid, "it is the same process");
        ensure!(before.is_subset(&now) && now.len() == before.len() + 1, "{before:?}, then {now:?}");
        Ok(format!("{} restart, one function more, the others as they were", property("NRestarts")?))
    }

    fn hung(&mut self) -> anyhow::Result<String> {
        let (before, pid, restarts) = (functions()?, property("MainPID")?, property("NRestarts")?);
        let start = Instant::now();
        sh(&format!("kill -STOP {pid}"))?;
        interrupt::wait_for("the watchdog did nothing", WATCHDOG_LIMIT, || {
            thread::sleep(Duration::from_millis(500));
            let again = property("NRestarts")? != restarts && property("ActiveState")? == "active";
            Ok(again.then_some(()))
        })?;
        let took = start.elapsed().as_secs();
        ensure!(self.mandate.ask(&["status"])?["ready"] == true, "it is not ready");
        ensure!(functions()? == before, "its functions were touched");
        Ok(format!("after {took} s; functions untouched"))
    }

    fn full(&mut self) -> anyhow::Result<String> {
        let file = format!("{HOME}/filler");
        // As much as there is, to the last block.
        let _full = sh(&format!("dd if=/dev/zero of={file} bs=4k 2>/dev/null"));
        let told =
            interrupt::wait_for("it says that it is ready on a full disk", Duration::from_secs(20), || {
                Ok(readiness().ok().filter(|(code, _)| *code == 503).map(|(_, body)| body))
            });
        fs::remove_file(&file)?;
        let told = told?;
        let view: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
        let parts = view["components"].as_array().cloned().unwrap_or_default();
        let journal = parts.iter().find(|p| p["name"] == "journal").context("no journal")?;
        ensure!(journal["ready"] == false, "{told}");
        interrupt::wait_for("it does not recover", WATCHDOG_LIMIT, || {
            Ok(readiness().ok().filter(|(code, _)| *code == 200))
        })?;
        Ok(format!("503, journal: {}; then 200", journal["detail"]))
    }

    fn terminated(&mut self) -> anyhow::Result<String> {
        let id = self.submit(INTENTS[2])?;
        self.completed(&id)?;
        let left = functions()?.len();
        let namespaces = sh("ls /run/netns 2>/dev/null | wc -l")?;
        ensure!(left == 0 && namespaces.trim() == "0", "{left} functions, {} namespaces", namespaces.trim());
        ensure!(!Path::new(CGROUPS).exists(), "{CGROUPS} is there still");
        sh("systemctl stop mandate")?;
        Ok("no function, namespace or cgroup".into())
    }

    fn limits(&mut self) -> anyhow::Result<String> {
        let mut c = Command::new(format!("{DISK}/debug/deps/limits"));
        let out = command::capture(c.args(["--nocapture", "--test-threads=1"]), LIMIT)?;
        let text = format!("{}{}", out.stdout, out.stderr);
        ensure!(out.status.success() && !text.contains("SKIPPED"), "{text}");
        let told: Vec<&str> = text.lines().filter_map(|l| Some(l.split_once("limits: ")?.1)).collect();
        ensure!(!told.is_empty(), "{text}");
        Ok(told.join("; "))
    }
}

/// What systemd says of the unit.
fn property(name: &str) -> anyhow::Result<String> {
    Ok(sh(&format!("systemctl show -P {name} mandate"))?.trim().to_owned())
}

/// Processes of functions.
fn functions() -> anyhow::Result<BTreeSet<u32>> {
    let entries = fs::read_dir("/proc")?.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    let runs = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("--control\0/run/mandate/")
    };
    Ok(entries.filter(runs).collect())
}

/// The status and the body of the readiness answer, as a health check gets them.
fn readiness() -> anyhow::Result<(u16, String)> {
    let mut stream = UnixStream::connect(format!("{HOME}/run/mandate.sock"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let code = answer.split(' ').nth(1).and_then(|c| c.parse().ok()).context("no HTTP answer")?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, b)| b);
    Ok((code, body.to_owned()))
}

fn sh(script: &str) -> anyhow::Result<String> {
    let mut c = Command::new("sh");
    let out = command::capture(c.args(["-ec", script]), LIMIT)?;
    if !out.status.success() {
        bail!("`{script}`: {}", out.tail(10));
    }
    Ok(out.stdout)
}
