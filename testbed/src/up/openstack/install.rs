//! The distribution's packages and Yoga's Python packages, every version pinned (`openstack/constraints.txt`).
//!
//! Yoga was made for Python 3.6 to 3.9; with compiled packages of late 2022 it runs on 3.11, which Debian 12 has.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::{
    command, interrupt,
    up::apt::{self, Need},
};

const CONSTRAINTS: &str = include_str!("../../../openstack/constraints.txt");
const BUILD_CONSTRAINTS: &str = include_str!("../../../openstack/build-constraints.txt");
/// Where nova looks for drivers, and where ours is put.
const DRIVER: &str = include_str!("../../../openstack/virt.py");
/// The check that has the services ask Mandate: what is installed of `packaging/oslo-policy`.
const PLUGIN: [(&str, &str); 5] = [
    ("pyproject.toml", include_str!("../../../../packaging/oslo-policy/pyproject.toml")),
    ("setup.cfg", include_str!("../../../../packaging/oslo-policy/setup.cfg")),
    (
        "mandate_oslo_policy/__init__.py",
        include_str!("../../../../packaging/oslo-policy/mandate_oslo_policy/__init__.py"),
    ),
    (
        "mandate_oslo_policy/connections.py",
        include_str!("../../../../packaging/oslo-policy/mandate_oslo_policy/connections.py"),
    ),
    (
        "mandate_oslo_policy/question.py",
        include_str!("../../../../packaging/oslo-policy/mandate_oslo_policy/question.py"),
    ),
];
/// Installs the same as pip, many files at once.
const INSTALLER: &str = "uv==0.13.8";
/// Names another Python 3.11 than the one that is found.
const PYTHON: &str = "TESTBED_PYTHON";
/// 180 packages over a slow line.
pub const INSTALL_LIMIT: Duration = Duration::from_secs(900);
const QUERY_LIMIT: Duration = Duration::from_secs(30);

/// Servers alone: `mariadb-server` would also make and start a database of the machine's own.
const NEEDS: &[Need] = &[
    Need { names: &["mariadb-server-core", "mariadb-server-core-10.6"], why: "the services' databases" },
    Need { names: &["rabbitmq-server"], why: "the services' messages" },
    Need { names: &["haproxy"], why: "TLS before the services" },
    Need { names: &["libeatmydata1"], why: "databases that need not outlive this machine" },
    Need { names: &["openssl"], why: "the endpoints' certificates" },
    Need { names: &["python3-venv"], why: "OpenStack is Python" },
    Need { names: &["python3-dev"], why: "one of its packages is compiled" },
    Need { names: &["build-essential"], why: "one of its packages is compiled" },
];

/// Why OpenStack cannot be had on this machine; `None`: it can.
pub fn available() -> Option<String> {
    if !command::exists("dpkg-query") {
        return Some("its servers are had as packages of Debian".into());
    }
    python().err().map(|e| format!("{e:#}"))
}

/// Installs what is missing below `cache`.
pub fn install(cache: &Path) -> anyhow::Result<()> {
    apt::install(NEEDS)?;
    let venv = cache.join("venv");
    let (stamp, wanted) = (venv.join("installed"), format!("{CONSTRAINTS}{BUILD_CONSTRAINTS}"));
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        plugin(cache, &venv)?;
        return driver(&venv);
    }
    let python = python()?;
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    command::succeed(Command::new(&python).args(["-m", "venv", "--clear"]).arg(&venv), INSTALL_LIMIT)?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", INSTALLER];
    command::succeed(Command::new(venv.join("bin/python")).args(pip), INSTALL_LIMIT)
        .context("PyPI cannot be reached; another index is named with PIP_INDEX_URL")?;
    let file = |name: &str, text: &str| {
        let path = venv.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display())).map(|()| path)
    };
    file("build-constraints.txt", BUILD_CONSTRAINTS)?;
    let mut uv = uv(&venv);
    uv.arg("--requirements").arg(file("constraints.txt", CONSTRAINTS)?);
    command::succeed(&mut uv, INSTALL_LIMIT)?;
    plugin(cache, &venv)?;
    driver(&venv)?;
    file("installed", &wanted).map(drop)
}

/// `uv pip install` into the environment, of what is pinned alone.
pub fn uv(venv: &Path) -> Command {
    let mut uv = Command::new(venv.join("bin/uv"));
    uv.args(["pip", "install", "--quiet", "--no-deps", "--python"]).arg(venv.join("bin/python"));
    uv.arg("--build-constraints").arg(venv.join("build-constraints.txt"));
    // What pip is told of indexes and certificates is meant for this one too.
    for (pip, uv_name) in [("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), ("PIP_CERT", "SSL_CERT_FILE")] {
        if let (Some(value), None) = (env::var_os(pip), env::var_os(uv_name)) {
            uv.env(uv_name, value);
        }
    }
    uv
}

/// The services' own check, built of a copy: building leaves files beside the sources.
fn plugin(cache: &Path, venv: &Path) -> anyhow::Result<()> {
    let (stamp, wanted) = (venv.join("plugin"), PLUGIN.map(|(_, text)| text).concat());
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    let from = cache.join("plugin");
    // Absent is as good.
    let _ = fs::remove_dir_all(&from);
    for (name, text) in PLUGIN {
        let path = from.join(name);
        let dir = path.parent().unwrap_or(&from);
        let written = fs::create_dir_all(dir).and_then(|()| fs::write(&path, text));
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut uv = uv(venv);
    command::succeed(uv.args(["--reinstall-package", "mandate-oslo-policy"]).arg(&from), INSTALL_LIMIT)?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}

/// nova loads drivers from its own package only.
fn driver(venv: &Path) -> anyhow::Result<()> {
    let to = venv.join("lib/python3.11/site-packages/nova/virt/testbed.py");
    fs::write(&to, DRIVER).with_context(|| format!("cannot write {}", to.display()))
}

/// A Python 3.11, the distribution's own first.
fn python() -> anyhow::Result<PathBuf> {
    let named = env::var_os(PYTHON).map(PathBuf::from);
    let found = named.into_iter().chain(["/usr/bin/python3.11", "python3.11"].map(PathBuf::from));
    for candidate in found {
        interrupt::check()?;
        let mut ask = Command::new(&candidate);
        ask.args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]);
        if command::capture(&mut ask, QUERY_LIMIT).is_ok_and(|out| out.stdout.trim() == "3.11") {
            return Ok(candidate);
        }
    }
    bail!(
        "no Python 3.11, which Yoga's packages are pinned for: Debian 12 has it; elsewhere name one with {PYTHON}"
    )
}
