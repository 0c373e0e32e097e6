//! Packages of Debian and Ubuntu that the build, the demo and peers need: what is missing is installed, or named.
//!
//! When nothing is missing this is one `dpkg-query`. It never upgrades what is there, and never starts a service.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, IsTerminal as _},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::bail;

use crate::{command, ui};

/// apt over a slow line.
const INSTALL_LIMIT: Duration = Duration::from_secs(1200);
const QUERY_LIMIT: Duration = Duration::from_secs(60);

/// A package under the names it has in different releases, and who needs it.
#[derive(Clone, Copy)]
pub struct Need {
    /// The same package's, newest release first.
    pub names: &'static [&'static str],
    /// What it is needed for.
    pub why: &'static str,
}

const NEEDS: &[Need] = &[
    Need { names: &["build-essential"], why: "linker and C compiler (SQLite, the DPDK shim)" },
    Need { names: &["pkg-config", "pkgconf"], why: "finds DPDK" },
    Need { names: &["libclang-dev"], why: "bindgen reads DPDK's headers with it" },
    Need { names: &["libdpdk-dev"], why: "the data plane" },
    Need { names: &["swtpm"], why: "TPM 2.0 of each site in the demo" },
    Need { names: &["iproute2"], why: "shows that nothing is left" },
    Need { names: &["openssl"], why: "verifies evidence without us" },
    Need { names: &["jq"], why: "verifies evidence without us" },
    Need { names: &["xxd"], why: "verifies evidence without us" },
    Need { names: &["python3-venv"], why: "tools that others sign with, and schemathesis, from PyPI" },
    Need { names: &["tcpdump"], why: "reads captures without us" },
    Need { names: &["nftables"], why: "the firewall's peer: decides on the same frames" },
    Need { names: &["ethtool"], why: "end points that send what is on a wire (tests of the data plane)" },
    Need { names: &["iputils-ping"], why: "speaks through the data plane" },
    Need { names: &["iperf3"], why: "speaks through the data plane" },
    Need { names: &["curl"], why: "speaks through the data plane" },
    Need { names: &["wrk"], why: "speaks through the data plane" },
    Need { names: &["bind9-dnsutils"], why: "speaks through the data plane" },
    Need { names: &["dnsmasq-base"], why: "is spoken to through the data plane" },
];

/// What some releases do not have; the tests that need it say so there.
const WELCOME: &[Need] = &[
    Need { names: &["ngtcp2-client"], why: "speaks QUIC through the data plane" },
    Need { names: &["ngtcp2-server"], why: "is spoken to in QUIC through the data plane" },
];

/// What a package's own scripts start must not run here: Debian's way to say so, for as long as apt runs.
const QUIETLY: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap 'rm -f $policy' EXIT
  printf '#!/bin/sh\nexit 101\n' > $policy
  chmod 755 $policy
fi
"$@"
"#;

/// Installs what is missing of what the build and the demo need.
pub fn install_missing() -> anyhow::Result<()> {
    if !command::exists("dpkg-query") {
        return not_debian();
    }
    install(NEEDS)?;
    let wanted: Vec<&Need> = WELCOME.iter().collect();
    let there = candidates(&wanted)?;
    let there: Vec<Need> = WELCOME.iter().zip(there).filter_map(|(need, name)| name.map(|_| *need)).collect();
    install(&there)
}

/// Installs what is missing of these.
pub fn install(needs: &[Need]) -> anyhow::Result<()> {
    if !command::exists("dpkg-query") {
        let names: Vec<&str> = needs.iter().map(|n| n.names[0]).collect();
        bail!("no dpkg here: install what Debian 12 has as {}, and run it there", names.join(", "));
    }
    let installed = installed(needs)?;
    let missing: Vec<&Need> =
        needs.iter().filter(|n| !n.names.iter().any(|name| installed.contains(*name))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut names = candidates(&missing)?;
    let line = install_line(&names);
    let Some(root) = Root::find() else { bail!("{}", by_hand(&missing, &line)) };
    ui::say(&format!("missing on this machine, will be installed: {}", listed(&missing)));
    if names.iter().any(Option::is_none) {
        root.run(&["apt-get", "update", "-q"])?;
        names = candidates(&missing)?;
    }
    let mut arguments = vec!["sh", "-c", QUIETLY, "sh"];
    arguments.extend(["apt-get", "install", "-y", "-q", "--no-install-recommends"]);
    for (need, name) in missing.iter().zip(&names) {
        match name {
            Some(name) => arguments.push(name),
            None => bail!(
                "no package {} in this release's archive ({}); Debian 12, 13 and Ubuntu 22.04, 24.04 have it",
                need.names.join(" or "),
                need.why
            ),
        }
    }
    if root.run(&arguments).is_ok() {
        return Ok(());
    }
    // Lists that are older than the archive name files that are gone.
    root.run(&["apt-get", "update", "-q"])?;
    root.run(&arguments)
}

/// The programs themselves must do where there is no dpkg.
fn not_debian() -> anyhow::Result<()> {
    let programs = ["cc", "pkg-config", "swtpm", "ip"];
    let missing: Vec<&str> = programs.into_iter().filter(|p| !command::exists(p)).collect();
    if missing.is_empty() {
        ui::say("no dpkg here; the programs needed are there, DPDK's headers and libclang are assumed");
        return Ok(());
    }
    bail!(
        "{} missing, and only Debian's and Ubuntu's packages are known by name: install a C compiler, pkg-config, \
         libclang, DPDK 21.11 or newer with headers, swtpm and iproute2",
        missing.join(", ")
    )
}

fn installed(needs: &[Need]) -> anyhow::Result<BTreeSet<String>> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${db:Status-Status} ${Package}\n"]);
    // Unknown names are its failure and our answer.
    query.args(needs.iter().flat_map(|n| n.names));
    let out = command::capture(&mut query, QUERY_LIMIT)?;
    Ok(out.stdout.lines().filter_map(|l| l.strip_prefix("installed ")).map(str::to_owned).collect())
}

/// The name that each has in this release, as far as the package lists know.
fn candidates(missing: &[&Need]) -> anyhow::Result<Vec<Option<&'static str>>> {
    let mut query = Command::new("apt-cache");
    query.arg("policy").args(missing.iter().flat_map(|n| n.names)).env("LC_ALL", "C");
    let out = command::capture(&mut query, QUERY_LIMIT)?;
    Ok(missing
        .iter()
        .map(|n| n.names.iter().copied().find(|name| has_candidate(&out.stdout, name)))
        .collect())
}

/// Reads `apt-cache policy`: a virtual or unknown package has no candidate.
fn has_candidate(policy: &str, name: &str) -> bool {
    policy
        .split_once(&format!("{name}:\n"))
        .filter(|(before, _)| before.is_empty() || before.ends_with('\n'))
        .and_then(|(_, after)| after.lines().find_map(|l| l.trim().strip_prefix("Candidate: ")))
        .is_some_and(|version| version != "(none)")
}

fn install_line(names: &[Option<&str>]) -> String {
    let mut line = "apt-get update && apt-get install -y --no-install-recommends".to_owned();
    for name in names.iter().flatten() {
        let _infallible = write!(line, " {name}");
    }
    line
}

fn listed(missing: &[&Need]) -> String {
    missing.iter().map(|n| n.names[0]).collect::<Vec<_>>().join(", ")
}

fn by_hand(missing: &[&Need], line: &str) -> String {
    let mut text = "some packages are missing, and we are neither root nor is there sudo:\n".to_owned();
    for need in missing {
        let _infallible = writeln!(text, "  {}: {}", need.names[0], need.why);
    }
    let _infallible = write!(text, "as root, run: {line}");
    text
}

/// How to become root.
enum Root {
    Already,
    Sudo,
}

impl Root {
    fn find() -> Option<Self> {
        if nix::unistd::geteuid().is_root() {
            return Some(Self::Already);
        }
        if !command::exists("sudo") {
            return None;
        }
        let mut quiet = Command::new("sudo");
        quiet.args(["-n", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let allowed = quiet.status().is_ok_and(|s| s.success());
        // Where nobody can type a password sudo must not ask for one.
        (allowed || io::stdin().is_terminal()).then_some(Self::Sudo)
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut c = match self {
            Self::Already => Command::new(arguments[0]),
            Self::Sudo => {
                let mut c = Command::new("sudo");
                c.args(["DEBIAN_FRONTEND=noninteractive", arguments[0]]);
                c
            }
        };
        c.args(&arguments[1..]).env("DEBIAN_FRONTEND", "noninteractive").stdout(io::stderr());
        if matches!(self, Self::Sudo) {
            // sudo reads the password from the terminal.
            let line = command::shown(&c);
            let mut child = c.spawn()?;
            return match command::wait(&mut child, &line, INSTALL_LIMIT)?.success() {
                true => Ok(()),
                false => bail!("`{line}` failed; its output is above"),
            };
        }
        match command::passthrough(&mut c, INSTALL_LIMIT)? {
            true => Ok(()),
            false => bail!("`{}` failed; its output is above", command::shown(&c)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "libtss2-tcti-swtpm0:\n  Installed: (none)\n  Candidate: 3.2.1-3\n  Version table:\n\
                          clang:\n  Installed: (none)\n  Candidate: (none)\n";

    #[test]
    fn a_candidate_is_found_by_its_exact_name() {
        assert!(has_candidate(POLICY, "libtss2-tcti-swtpm0"));
        assert!(!has_candidate(POLICY, "swtpm0"), "the end of another name");
        assert!(!has_candidate(POLICY, "clang"), "no candidate");
        assert!(!has_candidate(POLICY, "libtss2-tcti-swtpm0t64"), "unknown");
    }

    #[test]
    fn who_cannot_install_is_told_the_command() {
        let need = &NEEDS[3];
        let text = by_hand(&[need], &install_line(&[Some("libdpdk-dev")]));
        assert!(text.contains("libdpdk-dev: the data plane"));
        assert!(text.ends_with("apt-get update && apt-get install -y --no-install-recommends libdpdk-dev"));
    }
}
