//! The API as a stranger's tool sees it: schemathesis reads the served OpenAPI document and sends what it makes up,
//! legal and illegal, over mutual TLS, to an orchestrator that runs for that.
//!
//! What it checks is listed in its documentation; besides the defaults only the statuses of refusals are named: a
//! request can be of the right form and still be refused (a signature that is none, a key that was used).

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::Tally;
use crate::{command, ui, workspace};

/// The version that this is kept clean with; another one may find other things.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
/// From PyPI, with everything it needs.
const INSTALL_LIMIT: Duration = Duration::from_secs(300);
const BUILD_LIMIT: Duration = Duration::from_secs(1500);
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const RUN_LIMIT: Duration = Duration::from_secs(900);
/// Requests made up for each operation and phase.
const EXAMPLES: &str = "100";
/// The same requests each time.
const SEED: &str = "20260101";

const CONFIG: &str = r#"
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "304", "401", "403", "404", "409", "412", "422", "5xx"]
"#;

/// Runs it.
pub fn run() -> anyhow::Result<Tally> {
    let Some(st) = schemathesis()? else { return Ok(Tally::skipped()) };
    let mut build = workspace::cargo();
    build.args(["build", "--locked", "-p", "orchestrator", "-p", "mandate-launcher", "--bins"]);
    if !command::passthrough(&mut build, BUILD_LIMIT)? {
        bail!("the orchestrator does not build");
    }
    let root = workspace::root()?;
    let program = workspace::Metadata::load(&root)?.target_directory.join("debug/mandate");
    let dir = workspace::state_dir()?.join(format!("api-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let found = against(&program, &dir, &st);
    let _ = fs::remove_dir_all(&dir);
    found.map(Tally::of)
}

/// The program, in an environment of its own; `None`, with a reason, where it cannot be had.
fn schemathesis() -> anyhow::Result<Option<PathBuf>> {
    let venv = workspace::state_dir()?.join("venv-schemathesis");
    let st = venv.join("bin/st");
    if st.is_file() {
        return Ok(Some(st));
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&venv);
    let mut install = Command::new(venv.join("bin/pip"));
    install.args(["install", "--quiet", "--disable-pip-version-check", SCHEMATHESIS]);
    for (c, what) in [
        (&mut make, "no Python with venv; `apt-get install python3-venv`"),
        (&mut install, "schemathesis cannot be had from PyPI; a proxy is named with PIP_INDEX_URL"),
    ] {
        if command::succeed(c, INSTALL_LIMIT).is_err() {
            let _ = fs::remove_dir_all(&venv);
            ui::say(&format!("SKIPPED: the API against schemathesis: {what}"));
            return Ok(None);
        }
    }
    Ok(Some(st))
}

/// An orchestrator that ends when it is dropped.
struct Serve(Child);

impl Drop for Serve {
    fn drop(&mut self) {
        command::kill(&mut self.0);
    }
}

#[derive(Deserialize)]
struct Ready {
    url: String,
}

fn against(program: &Path, dir: &Path, st: &Path) -> anyhow::Result<bool> {
    let home = dir.join("home");
    let mandate = |arguments: &[&str]| {
        let mut c = Command::new(program);
        c.arg("--home").arg(&home).args(arguments);
        c.env_remove("MANDATE_HOME").env_remove("MANDATE_SOCKET").env_remove("MANDATE_URL");
        c
    };
    command::succeed(&mut mandate(&["init", "--json"]), COMMAND_LIMIT)?;
    let config = home.join("config.toml");
    let text = fs::read_to_string(&config)?;
    fs::write(&config, format!("{text}\n[api]\nlisten = \"127.0.0.1:0\"\n"))?;
    let mut serve = mandate(&["serve", "--json"]);
    serve.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(fs::File::create(dir.join("serve.log"))?);
    let mut serve = Serve(serve.spawn().context("mandate serve")?);
    let ready: Ready = document(serve.0.stdout.take().context("its output")?)?;
    something_to_find(&mandate, dir)?;

    let settings = dir.join("schemathesis.toml");
    fs::write(&settings, CONFIG)?;
    let operator = |ext: &str| home.join(format!("pki/operator/operator.{ext}"));
    let mut c = Command::new(st);
    c.current_dir(dir).arg("--config-file").arg(&settings).arg("run");
    c.arg(format!("{}/openapi.json", ready.url)).args(["--tls-verify", "false", "--no-color"]);
    c.arg("--request-cert").arg(operator("crt")).arg("--request-cert-key").arg(operator("key"));
    c.args(["--max-examples", EXAMPLES, "--seed", SEED, "--request-timeout", "30"]);
    // A long poll answers when something happens, which is the tests' of the orchestrator.
    c.args(["--exclude-path", "/v1/changes"]);
    let out = command::capture(&mut c, RUN_LIMIT)?;
    let shown = if out.status.success() { 12 } else { 200 };
    let lines: Vec<&str> = out.stdout.trim_end().lines().collect();
    ui::say(&lines[lines.len().saturating_sub(shown)..].join("\n"));
    if let Some(status) = serve.0.try_wait()? {
        bail!("`mandate serve` ended: {status}");
    }
    Ok(out.status.success())
}

/// The first JSON document of a program that goes on.
fn document<T: for<'a> Deserialize<'a>>(from: impl std::io::Read) -> anyhow::Result<T> {
    let mut text = String::new();
    let mut lines = BufReader::new(from);
    while !text.ends_with("\n}\n") {
        if lines.read_line(&mut text)? == 0 {
            bail!("it ended before it was ready");
        }
    }
    serde_json::from_str(&text).context("what it says when it is ready")
}

/// An intent that the policy refuses is a record all the same.
fn something_to_find(mandate: &impl Fn(&[&str]) -> Command, dir: &Path) -> anyhow::Result<()> {
    let (plain, signed) = (dir.join("i.json"), dir.join("i.dsse.json"));
    let (plain, signed) = (plain.display().to_string(), signed.display().to_string());
    let mut new = mandate(&["intent", "new", "terminate", "--service", "edge", "-o", &plain, "--json"]);
    command::succeed(&mut new, COMMAND_LIMIT)?;
    let mut sign = mandate(&["intent", "sign", &plain, "--as", "tenant/tenant", "-o", &signed, "--json"]);
    command::succeed(&mut sign, COMMAND_LIMIT)?;
    // Refused, which is its exit code.
    command::capture(&mut mandate(&["intent", "submit", &signed, "--json"]), COMMAND_LIMIT)?;
    Ok(())
}
