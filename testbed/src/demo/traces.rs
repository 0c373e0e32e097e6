//! What a service leaves on a machine, counted from the outside: not by asking the product.

use std::{collections::BTreeSet, fmt, fs, path::PathBuf, process::Command, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use trust::Digest;

use crate::command;

const NETNS: &str = "/run/netns";
const RUN: &str = "/run/mandate";
const IP_LIMIT: Duration = Duration::from_secs(10);

/// Where to look: the sites' names and their state.
#[derive(Debug, Clone)]
pub struct Places {
    /// Names of the sites.
    pub sites: Vec<String>,
    /// The home of the installation.
    pub home: PathBuf,
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traces {
    /// Network namespaces.
    pub namespaces: BTreeSet<String>,
    /// Bridges and outer ends of veth pairs: `namespace/link`.
    pub links: BTreeSet<String>,
    /// Data-plane processes.
    pub processes: BTreeSet<i32>,
    /// State and sockets of instances.
    pub files: BTreeSet<PathBuf>,
}

impl Places {
    /// A site's name on this machine: namespaces and control sockets are called so, because another home may have a
    /// site of the same name.
    pub fn machine_wide(&self, site: &str) -> String {
        let home = Digest::of(self.home.as_os_str().as_encoded_bytes()).hex();
        format!("{site}-{}", &home[..6])
    }

    /// Where the control sockets of a site are.
    pub fn run_dir(&self, site: &str) -> PathBuf {
        PathBuf::from(RUN).join(self.machine_wide(site))
    }

    /// Looks now.
    pub fn look(&self) -> Traces {
        let mut namespaces: BTreeSet<String> =
            self.sites.iter().flat_map(|s| namespaces(&self.machine_wide(s))).collect();
        // Where links between sites meet.
        let exchange = format!("mdx-{}", self.machine_wide("home"));
        namespaces.extend(PathBuf::from(NETNS).join(&exchange).exists().then_some(exchange));
        let links = namespaces
            .iter()
            .filter(|n| !n.starts_with("mdt-") || n.ends_with("-fabric"))
            .flat_map(|n| links(n))
            .collect();
        Traces { links, namespaces, processes: self.processes(), files: self.files() }
    }

    fn run_dirs(&self) -> Vec<PathBuf> {
        self.sites.iter().map(|s| self.run_dir(s)).collect()
    }

    /// Processes started with a control socket of ours; the orchestrator is none.
    fn processes(&self) -> BTreeSet<i32> {
        let dirs = self.run_dirs();
        let Ok(entries) = fs::read_dir("/proc") else { return BTreeSet::new() };
        let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments: Vec<&[u8]> = arguments.split(|b| *b == 0).collect();
            let ours = |socket: &[u8]| {
                let socket = String::from_utf8_lossy(socket).into_owned();
                dirs.iter().any(|d| PathBuf::from(&socket).starts_with(d))
            };
            arguments.windows(2).any(|w| w[0] == b"--control" && ours(w[1]))
        })
        .collect()
    }

    fn files(&self) -> BTreeSet<PathBuf> {
        let mut dirs = self.run_dirs();
        for site in &self.sites {
            let state = self.home.join("sites").join(site);
            dirs.extend(["instances", "images", "image-refs"].map(|d| state.join(d)));
        }
        let entries = dirs.iter().filter_map(|d| fs::read_dir(d).ok()).flatten();
        entries.filter_map(|e| Some(e.ok()?.path())).collect()
    }

    /// Removes everything by force: for a demo that ends early. What is gone already is no error.
    pub fn clear(&self) {
        let traces = self.look();
        for pid in &traces.processes {
            let _gone = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        for namespace in &traces.namespaces {
            // Not through `command`: that ends at once when we were interrupted, and this must not.
            let _gone = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
        for dir in self.run_dirs() {
            let _gone = fs::remove_dir_all(dir);
        }
    }
}

impl Traces {
    /// Nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is here and not there.
    pub fn beyond(&self, before: &Self) -> Self {
        Self {
            namespaces: &self.namespaces - &before.namespaces,
            links: &self.links - &before.links,
            processes: &self.processes - &before.processes,
            files: &self.files - &before.files,
        }
    }

    /// How many of each.
    pub fn counts(&self) -> [usize; 3] {
        [self.namespaces.len(), self.links.len(), self.processes.len()]
    }
}

impl fmt::Display for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [namespaces, links, processes] = self.counts();
        write!(f, "{namespaces} namespaces, {links} links, {processes} processes, {} files", self.files.len())
    }
}

fn namespaces(site: &str) -> Vec<String> {
    let prefix = format!("mdt-{site}-");
    let Ok(entries) = fs::read_dir(NETNS) else { return Vec::new() };
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    // What follows has no dash: `mdt-edge-` must not name what is `edge-b`'s.
    names.filter(|n| n.strip_prefix(&prefix).is_some_and(|rest| !rest.contains('-'))).collect()
}

fn links(namespace: &str) -> Vec<String> {
    let mut c = Command::new("ip");
    c.args(["-n", namespace, "-o", "link", "show"]);
    // What cannot be looked at counts as a trace: nobody may conclude from it that nothing is left.
    let Ok(out) = command::succeed(&mut c, IP_LIMIT) else {
        return vec![format!("{namespace}/? (`ip` cannot look into it)")];
    };
    // `2: b12ab@if3: <…>`
    let name = |line: &str| line.split([':', '@']).nth(1).map(|n| n.trim().to_owned());
    let all = out.stdout.lines().filter_map(name).filter(|n| n != "lo");
    all.map(|n| format!("{namespace}/{n}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_ours_is_empty_and_a_trace_is_seen() {
        let home = tempfile::tempdir().unwrap();
        let places = Places { sites: vec!["tb-no-such".into()], home: home.path().into() };
        assert!(places.look().is_empty());
        let instance = home.path().join("sites/tb-no-such/instances/i123");
        fs::create_dir_all(&instance).unwrap();
        let socket = places.run_dir("tb-no-such").join("i123/control");
        // A shell that waits without a child of its own.
        let mut waiting = Command::new("sh");
        waiting.args(["-c", "read _", "x", "--control"]).arg(&socket).stdin(std::process::Stdio::piped());
        let mut child = waiting.spawn().unwrap();
        // Its arguments can be read a moment after it was started.
        let mut seen = places.look();
        for _ in 0..200 {
            if !seen.processes.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            seen = places.look();
        }
        assert_eq!(seen.files, [instance].into());
        assert_eq!(seen.processes, [i32::try_from(child.id()).unwrap()].into());
        places.clear();
        assert!(!child.wait().unwrap().success());
        assert!(places.look().processes.is_empty());
    }
}
