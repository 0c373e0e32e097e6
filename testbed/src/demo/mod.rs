//! `cargo testbed demo`: the main job, end to end, as its users do it.
//!
//! Provider, tenant, operator and auditor are processes of the real `mandate` command; the TPMs are swtpm; namespaces,
//! links and processes are this machine's. [`story`] is what happens, [`stage`] where, [`report`] what came of it.
//! Nothing is faked: what must be refused is really attempted. Every exit path, Ctrl-C too, leaves nothing behind.

mod client;
pub mod mandate;
mod nbi;
mod replay;
mod report;
mod stage;
mod story;
mod traces;

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::{
    cli::{DemoOptions, Play},
    command, interrupt,
    ui::{self, Paint},
    up::apt,
    workspace,
};

pub use nbi::Nbi;
pub use report::Report;
pub use stage::down_all;
pub use story::osm_account;

/// Set for the process inside the user namespace: everything is installed and built.
const INSIDE: &str = "MANDATE_TESTBED_INSIDE";
const BUILD_LIMIT: Duration = Duration::from_secs(1500);
/// The demo inside a user namespace.
const INSIDE_LIMIT: Duration = Duration::from_secs(600);

/// The subcommand; true when all of it held.
pub fn main(options: &DemoOptions) -> anyhow::Result<bool> {
    let report = run(options)?;
    if options.json {
        // Whoever closed stdout does not want the answer.
        let _gone = writeln!(io::stdout(), "{}", serde_json::to_string(&report)?);
    }
    Ok(report.ok)
}

/// Installs, builds, plays; reports also what did not hold.
pub fn run(options: &DemoOptions) -> anyhow::Result<Report> {
    if env::var_os(INSIDE).is_none() {
        apt::install_missing()?;
        build(options.release)?;
        if !nix::unistd::geteuid().is_root() {
            return in_user_namespace(options);
        }
    } else {
        private_run()?;
    }
    let stage =
        stage::Stage::new(programs(options.release)?, options.dir.as_deref(), &story::sites(options.play))?;
    let mut story = story::Story::new(stage, options);
    story.play();
    let report = story.report().clone();
    if interrupt::requested() {
        bail!("interrupted; nothing of the demo is left");
    }
    if report.ok && options.keep {
        story.keep();
    }
    Ok(report)
}

/// A home with registered packages and signed intents; its orchestrator has ended.
pub fn prepared() -> anyhow::Result<story::Story> {
    let options = DemoOptions { play: Play::Guest, ..DemoOptions::default() };
    let stage = stage::Stage::new(programs(false)?, None, &story::sites(options.play))?;
    let mut story = story::Story::new(stage, &options);
    story.play();
    if let Some(problem) = &story.report().problem {
        bail!("the guest's home: {problem}");
    }
    Ok(story)
}

fn build(release: bool) -> anyhow::Result<()> {
    let step = ui::Step::begin("build");
    step.note("mandate, mandate-dataplane, mandate-launcher; minutes at the first time");
    let mut c = workspace::cargo();
    c.args(["build", "--locked", "-p", "orchestrator", "-p", "mandate-dataplane", "-p", "mandate-launcher"]);
    if release {
        c.arg("--release");
    }
    let built = command::succeed(&mut c, BUILD_LIMIT);
    step.end(built.is_ok(), "not counted");
    built.map(|_| ())
}

fn programs(release: bool) -> anyhow::Result<stage::Programs> {
    let root = workspace::root()?;
    let metadata = workspace::Metadata::load(&root)?;
    let dir = metadata.target_directory.join(if release { "release" } else { "debug" });
    Ok(stage::Programs { mandate: dir.join("mandate"), dataplane: dir.join("mandate-dataplane"), root })
}

/// Without root: become root of a user namespace of our own, where namespaces and links may be made.
fn in_user_namespace(options: &DemoOptions) -> anyhow::Result<Report> {
    let unshare =
        ["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let mut probe = Command::new("unshare");
    let allowed = command::capture(probe.args(unshare).arg("true"), Duration::from_secs(10));
    if !allowed.is_ok_and(|out| out.status.success()) {
        bail!(
            "the demo makes network namespaces: that needs root, or user namespaces, which this machine does not allow.\n\
             Run `sudo -E env PATH=$PATH cargo testbed demo`, or allow them \
             (`sysctl kernel.unprivileged_userns_clone=1` on Debian, \
             `sysctl kernel.apparmor_restrict_unprivileged_userns=0` on Ubuntu 24.04)"
        );
    }
    if options.keep {
        ui::say("not root: --keep has no effect, because what is kept ends with the user namespace");
    }
    let mut c = Command::new("unshare");
    c.args(unshare).arg(env::current_exe()?).args(["demo", "--json"]).env(INSIDE, "1");
    c.args(["--play", options.play.name()]);
    if options.release {
        c.arg("--release");
    }
    if let Some(dir) = &options.dir {
        c.arg("--dir").arg(dir);
    }
    c.stdin(Stdio::null()).stdout(Stdio::piped());
    let line = command::shown(&c);
    let mut child = c.spawn().with_context(|| format!("cannot run `{line}`"))?;
    let mut answer = String::new();
    if let Some(stdout) = &mut child.stdout {
        io::Read::read_to_string(stdout, &mut answer)?;
    }
    command::wait(&mut child, &line, INSIDE_LIMIT).inspect_err(|_| command::kill(&mut child))?;
    let last = answer.lines().last().context("the demo ended inside the user namespace; see above")?;
    serde_json::from_str(last).context("the demo's answer")
}

/// Inside a user namespace `/run` is root's; ours is empty and writable.
fn private_run() -> anyhow::Result<()> {
    use nix::mount::{MsFlags, mount};
    mount(Some("mandate"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
        .context("cannot mount a tmpfs on /run inside the user namespace")
}

/// Are we root of a user namespace, without other users in it?
fn confined() -> bool {
    env::var_os(INSIDE).is_some()
}

/// A heading on stderr.
fn heading(text: &str) {
    ui::say(&format!("\n{}", Paint::Bold.err(text)));
}

/// Is stdout for people, with colour?
fn stdout_coloured() -> bool {
    ui::coloured(io::stdout().is_terminal())
}
