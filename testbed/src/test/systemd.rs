//! `mandate serve` under a real systemd, and the limits of its functions under a real cgroup v2: in a machine of its own.
//!
//! The machine is a QEMU guest with this distribution's packages (`mmdebstrap`, from apt's own sources) and cloud kernel;
//! KVM is used where it boots, otherwise TCG. A second disk brings the built programs, the unit file as it is shipped, and
//! a home with registered packages and signed intents. [`inside`] is what happens there; its verdicts come back over a
//! serial line. Nothing of this machine is changed.

pub mod inside;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::Tally;
use crate::{command, demo, interrupt, ui, workspace};

/// Making the machine: packages over a slow line.
const MAKE_LIMIT: Duration = Duration::from_secs(1200);
const BUILD_LIMIT: Duration = Duration::from_secs(1500);
const TOOL_LIMIT: Duration = Duration::from_secs(120);
/// Everything in the guest, emulated on a busy machine.
const GUEST_LIMIT: Duration = Duration::from_secs(900);
/// A guest whose kernel has said nothing after this has not booted: some hosts offer a KVM that does not run one.
const KVM_LIMIT: Duration = Duration::from_secs(25);
const MEMORY_MIB: &str = "2048";
/// What runs the guest and makes it, and the packages that have them.
const TOOLS: [(&str, &str); 3] =
    [("qemu-system-x86_64", "qemu-system-x86"), ("mmdebstrap", "mmdebstrap"), ("mkfs.ext4", "e2fsprogs")];
/// Packages of the guest besides the libraries of our programs.
const PACKAGES: &str = "systemd,systemd-sysv,udev,kmod,iproute2,util-linux";
/// Its kernel: the small one of virtual machines.
const KERNEL: &str = "linux-image-cloud-amd64";
const KERNEL_UBUNTU: &str = "linux-image-virtual,initramfs-tools";
const PROGRAMS: [&str; 3] = ["mandate", "mandate-launcher", "mandate-dataplane"];

/// Runs it.
pub fn run() -> anyhow::Result<Tally> {
    if let Some(why) = missing() {
        ui::say(&format!("SKIPPED: mandate serve under systemd: {why}"));
        return Ok(Tally::skipped());
    }
    // First: the guest gets the libraries that the programs are linked with.
    build()?;
    let machine = Machine::made()?;
    let start = Instant::now();
    let dir = workspace::state_dir()?.join(format!("guest-{}", std::process::id()));
    let tally = payload(&dir).and_then(|disk| machine.play(&disk, &dir));
    let _gone = fs::remove_dir_all(&dir);
    ui::say(&format!("the guest, with its home and disks: {} s", start.elapsed().as_secs()));
    tally
}

/// What is not there.
fn missing() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("the guest is an x86_64 one".into());
    }
    if !nix::unistd::geteuid().is_root() {
        return Some("making the guest's disk needs root".into());
    }
    let missing: Vec<&str> =
        TOOLS.iter().filter(|(tool, _)| !command::exists(tool)).map(|(_, p)| *p).collect();
    (!missing.is_empty()).then(|| format!("`apt-get install {}`", missing.join(" ")))
}

/// The guest's own disk and kernel, kept from run to run under `.testbed/guest/`.
struct Machine {
    dir: PathBuf,
}

impl Machine {
    /// Made by what apt is told to fetch from; a machine of the same recipe is there already.
    fn made() -> anyhow::Result<Self> {
        let (sources, suite) = sources()?;
        let kernel = if sources.iter().any(|s| s.contains("ubuntu")) { KERNEL_UBUNTU } else { KERNEL };
        let packages = format!("{PACKAGES},{},{kernel}", libraries()?.join(","));
        let recipe = format!("{suite}\n{}\n{packages}\n{}", sources.join("\n"), inside::UNIT);
        let it = Self { dir: workspace::state_dir()?.join("guest") };
        if fs::read_to_string(it.dir.join("recipe")).is_ok_and(|r| r == recipe) {
            return Ok(it);
        }
        ui::say(&format!("making a guest of {suite}: some minutes, once"));
        let _old = fs::remove_dir_all(&it.dir);
        fs::create_dir_all(&it.dir)?;
        it.make(&suite, &sources, &packages)?;
        fs::write(it.dir.join("recipe"), recipe)?;
        Ok(it)
    }

    fn make(&self, suite: &str, sources: &[String], packages: &str) -> anyhow::Result<()> {
        let (root, list, unit) =
            (self.dir.join("root"), self.dir.join("sources.list"), self.dir.join("unit"));
        fs::write(&list, sources.join("\n") + "\n")?;
        fs::write(&unit, inside::UNIT)?;
        let mut c = Command::new("mmdebstrap");
        c.args(["--mode=root", "--variant=minbase"]).arg(format!("--include={packages}"));
        c.args(["--aptopt=Acquire::Languages \"none\"", "--dpkgopt=path-exclude=/usr/share/doc/*"]);
        c.args(["--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/man/*"]);
        c.arg(format!("--customize-hook=upload {} /etc/systemd/system/testbed.service", unit.display()));
        c.arg("--customize-hook=chroot \"$1\" systemctl enable testbed.service");
        c.arg(suite).arg(&root).arg(&list);
        command::succeed(&mut c, MAKE_LIMIT)?;
        for (name, kept) in [("vmlinuz", "vmlinuz"), ("initrd.img", "initrd")] {
            let boot = fs::read_dir(root.join("boot"))?.filter_map(|e| Some(e.ok()?.path()));
            let named = |p: &PathBuf| {
                p.file_name().is_some_and(|f| f.to_string_lossy().starts_with(&format!("{name}-")))
            };
            let found = boot.into_iter().find(named).with_context(|| format!("the guest has no {name}"))?;
            fs::copy(found, self.dir.join(kept))?;
        }
        let made = disk(&root, &self.dir.join("root.img"), "root", 512);
        fs::remove_dir_all(&root).context("removing the guest's tree")?;
        made
    }

    /// Boots it with a second disk and reads what it says.
    fn play(&self, payload: &Path, dir: &Path) -> anyhow::Result<Tally> {
        let accelerators: &[&str] = if fs::File::options().read(true).write(true).open("/dev/kvm").is_ok() {
            &["kvm", "tcg,thread=multi"]
        } else {
            &["tcg,thread=multi"]
        };
        for accelerator in accelerators {
            let (console, verdicts) = (dir.join("console"), dir.join("verdicts"));
            let mut guest = Guest(self.command(accelerator, payload, &console, &verdicts).spawn()?);
            let limit = if *accelerator == "kvm" { KVM_LIMIT } else { GUEST_LIMIT };
            let booted = interrupt::wait_for("the guest's kernel says nothing", limit, || {
                Ok(read(&console).contains("Linux version").then_some(()))
            });
            match booted {
                Err(e) if *accelerator != "kvm" => return Err(e),
                Err(_) => {
                    interrupt::check()?;
                    ui::say("the guest does not boot with KVM here: it is emulated");
                    continue;
                }
                Ok(()) => {}
            }
            return guest.listen(&console, &verdicts);
        }
        bail!("no guest")
    }

    fn command(&self, accelerator: &str, payload: &Path, console: &Path, verdicts: &Path) -> Command {
        let mut c = Command::new("qemu-system-x86_64");
        c.args(["-accel", accelerator, "-cpu", if accelerator == "kvm" { "host" } else { "max" }]);
        c.args([
            "-m",
            MEMORY_MIB,
            "-smp",
            "2",
            "-display",
            "none",
            "-monitor",
            "none",
            "-no-reboot",
            "-nic",
            "none",
        ]);
        c.arg("-kernel").arg(self.dir.join("vmlinuz")).arg("-initrd").arg(self.dir.join("initrd"));
        // cgroup v2 alone, whatever the distribution's default; a clock that does not jump.
        c.args(["-append", "root=LABEL=root rw console=ttyS0 panic=1 systemd.unified_cgroup_hierarchy=1"]);
        let drive = |file: PathBuf| format!("file={},format=raw,if=virtio,snapshot=on", file.display());
        c.arg("-drive").arg(drive(self.dir.join("root.img"))).arg("-drive").arg(drive(payload.to_owned()));
        c.arg("-serial").arg(format!("file:{}", console.display()));
        c.arg("-serial").arg(format!("file:{}", verdicts.display()));
        c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        c
    }
}

struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        command::kill(&mut self.0);
    }
}

impl Guest {
    /// Shows each verdict as it comes, until the machine is off.
    fn listen(&mut self, console: &Path, verdicts: &Path) -> anyhow::Result<Tally> {
        let mut told = 0;
        let mut tally = Tally::default();
        let mut ended = false;
        let mut hear = |tally: &mut Tally, ended: &mut bool| {
            let text = read(verdicts);
            let lines: Vec<&str> = text.lines().collect();
            let whole = if text.ends_with('\n') { lines.len() } else { lines.len().saturating_sub(1) };
            for line in lines[told.min(whole)..whole].iter().map(|l| l.trim_end()) {
                match line.split(' ').next() {
                    Some("ok") => tally.passed += 1,
                    Some("FAILED") => tally.failed += 1,
                    Some("SKIPPED") => tally.skipped += 1,
                    Some(inside::END) => *ended = true,
                    _ => {}
                }
                ui::say(&format!("  {line}"));
            }
            told = whole;
        };
        let over = interrupt::wait_for("the guest goes on", GUEST_LIMIT, || {
            hear(&mut tally, &mut ended);
            Ok(self.0.try_wait()?)
        });
        hear(&mut tally, &mut ended);
        over?;
        let text = read(console);
        let lines: Vec<&str> = text.lines().collect();
        ensure!(
            ended,
            "the guest ended early; its last words:\n{}",
            lines[lines.len().saturating_sub(40)..].join("\n")
        );
        Ok(tally)
    }
}

/// What a file that grows has now.
fn read(path: &Path) -> String {
    fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

/// What apt fetches the distribution's packages from, one source a line, and the release.
fn sources() -> anyhow::Result<(Vec<String>, String)> {
    let release = fs::read_to_string("/etc/os-release").context("which distribution this is")?;
    let suite = release
        .lines()
        .find_map(|l| l.strip_prefix("VERSION_CODENAME="))
        .context("its release has no name")?;
    let format = "$(SITE) $(RELEASE) $(COMPONENT)";
    let mut c = Command::new("apt-get");
    c.args(["indextargets", "--format", format, "Created-By: Packages"]);
    let out = command::succeed(&mut c, TOOL_LIMIT)?.stdout;
    let of_release =
        |l: &&str| l.split(' ').nth(1).is_some_and(|r| r == suite || r.starts_with(&format!("{suite}-")));
    let mut lines: Vec<String> = out.lines().filter(of_release).map(|l| format!("deb {l}")).collect();
    lines.sort();
    lines.dedup();
    ensure!(!lines.is_empty(), "apt has no source for {suite}: `apt-get update`");
    Ok((lines, suite.to_owned()))
}

/// Packages of the libraries that our data plane is linked with: the guest has the same distribution.
fn libraries() -> anyhow::Result<Vec<String>> {
    let mut c = Command::new("ldd");
    let linked = command::succeed(c.arg(target()?.join("mandate-dataplane")), TOOL_LIMIT)?.stdout;
    let files = linked.lines().filter_map(|l| l.split_whitespace().nth(2)).filter(|f| f.starts_with('/'));
    let files: Vec<PathBuf> = files.filter_map(|f| fs::canonicalize(f).ok()).collect();
    let mut c = Command::new("dpkg");
    let owners = command::capture(c.arg("-S").args(&files), TOOL_LIMIT)?.stdout;
    let mut names: Vec<String> =
        owners.lines().filter_map(|l| Some(l.split(':').next()?.to_owned())).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

fn target() -> anyhow::Result<PathBuf> {
    Ok(workspace::Metadata::load(&workspace::root()?)?.target_directory.join("debug"))
}

/// A file system with what is in a directory, and so much room besides.
fn disk(from: &Path, to: &Path, label: &str, room_mib: u64) -> anyhow::Result<()> {
    let mut c = Command::new("du");
    let size = command::succeed(c.args(["-s", "-m", "--apparent-size"]).arg(from), TOOL_LIMIT)?.stdout;
    let size: u64 = size.split_whitespace().next().and_then(|n| n.parse().ok()).context("du")?;
    let mut c = Command::new("mkfs.ext4");
    c.args(["-q", "-F", "-L", label, "-d"]).arg(from).arg(to).arg(format!("{}M", size * 5 / 4 + room_mib));
    command::succeed(&mut c, TOOL_LIMIT).map(drop)
}

/// What is to be tested.
fn build() -> anyhow::Result<()> {
    let mut c = workspace::cargo();
    c.args(["build", "--locked", "-p", "orchestrator", "-p", "mandate-dataplane", "-p", "mandate-launcher"]);
    command::succeed(&mut c, BUILD_LIMIT).map(drop)
}

/// The disk with it.
fn payload(dir: &Path) -> anyhow::Result<PathBuf> {
    let root = workspace::root()?;
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("debug/deps"))?;
    fs::create_dir_all(tree.join("debug/examples"))?;
    let target = target()?;
    for name in PROGRAMS {
        stripped(&target.join(name), &tree.join(name))?;
    }
    stripped(&std::env::current_exe()?, &tree.join("testbed"))?;
    stripped(&limits()?, &tree.join("debug/deps/limits"))?;
    stripped(&target.join("examples/standin"), &tree.join("debug/examples/standin"))?;
    fs::copy(root.join("packaging/systemd/mandate.service"), tree.join("mandate.service"))?;
    let story = demo::prepared()?;
    command::succeed(Command::new("cp").arg("-a").arg(story.home()).arg(tree.join("home")), TOOL_LIMIT)?;
    for name in inside::INTENTS.iter().flat_map(|n| [(*n).to_owned(), format!("{n}.id")]) {
        fs::copy(story.path(&name), tree.join(&name)).with_context(|| format!("no {name}"))?;
    }
    drop(story);
    let to = dir.join("payload.img");
    disk(&tree, &to, "testbed", 32)?;
    fs::remove_dir_all(&tree)?;
    Ok(to)
}

/// The test of the host VIM's limits, built.
fn limits() -> anyhow::Result<PathBuf> {
    let mut c = workspace::cargo();
    c.args(["build", "--locked", "-p", "vim-host", "--example", "standin"]);
    command::succeed(&mut c, BUILD_LIMIT)?;
    let mut c = workspace::cargo();
    c.args(["test", "--locked", "--no-run", "--message-format=json", "-p", "vim-host", "--test", "limits"]);
    let out = command::succeed(&mut c, BUILD_LIMIT)?.stdout;
    let messages = out.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let of =
        |m: Value| (m["target"]["name"] == "limits").then(|| m["executable"].as_str().map(PathBuf::from))?;
    messages.into_iter().find_map(of).context("the test `limits` was not built")
}

fn stripped(from: &Path, to: &Path) -> anyhow::Result<()> {
    if command::exists("strip") {
        command::succeed(Command::new("strip").arg("-o").arg(to).arg(from), TOOL_LIMIT)?;
    } else {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o755))?)
}
