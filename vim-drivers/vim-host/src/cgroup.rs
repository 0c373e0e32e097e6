//! Limits: an instance gets the CPU time and the memory that it was given room for, and no more (cgroup v2).
//!
//! Each instance is in `<cgroup v2>/mandate/<site>/<short>`, which the launcher enters before it reads anything, so
//! that the image's sealed copy counts too. `memory.max` is the instance's memory, `cpu.max` its virtual CPUs in every
//! 100 ms. Huge pages are not counted in `memory.max`. What the machine cannot enforce is said once, in the
//! capabilities, and is then only counted.
//!
//! Tests: below, on a directory; a machine with the controllers shows the rest in `tests/drift.rs`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use vim::{ComputeSpec, Enforced};

use crate::error::{HostError, state};

/// The period over which CPU time is given, µs: the kernel's default.
const PERIOD_US: u64 = 100_000;
/// A cgroup is busy for a moment after its last process ended.
const EMPTY_TRIES: u32 = 50;
const EMPTY_EVERY: Duration = Duration::from_millis(10);

/// Where a site's instances are limited, and in what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    mount: PathBuf,
    site: String,
    cpu: bool,
    memory: bool,
}

impl Limits {
    /// What can be enforced on this machine, tried out.
    pub(crate) fn of_machine(site: &str) -> (Option<Self>, Enforced) {
        let mount = fs::read_to_string("/proc/self/mountinfo").ok().and_then(|text| mount_point(&text));
        let counted = |why_not: String| (None, Enforced { why_not, ..Enforced::default() });
        let Some(mount) = mount else {
            return counted("no cgroup v2 is mounted: `mount -t cgroup2 cgroup2 /sys/fs/cgroup`".into());
        };
        match Self::at(&mount, site) {
            Ok((limits, why_not)) => {
                let enforced = Enforced { vcpus: limits.cpu, memory: limits.memory, why_not };
                (Some(limits).filter(|l| l.cpu || l.memory), enforced)
            }
            Err(e) => counted(format!(
                "cgroup v2 at {} is not ours to divide ({e}): run as root outside of a container, or delegate it",
                mount.display()
            )),
        }
    }

    /// What can be enforced under this mount, and why not the rest.
    fn at(mount: &Path, site: &str) -> io::Result<(Self, String)> {
        let text = fs::read_to_string(mount.join("cgroup.controllers"))?;
        let has = |name: &str| text.split_whitespace().any(|c| c == name);
        let limits = Self { mount: mount.into(), site: site.into(), cpu: has("cpu"), memory: has("memory") };
        let missing: Vec<_> = [("cpu", limits.cpu), ("memory", limits.memory)]
            .iter()
            .filter(|(_, h)| !h)
            .map(|(n, _)| *n)
            .collect();
        let why_not = match missing.is_empty() {
            true => String::new(),
            false => format!(
                "cgroup v2 at {} has no {} controller, as when version 1 has it: boot with `cgroup_no_v1=all` \
                 (systemd: `systemd.unified_cgroup_hierarchy=1`)",
                mount.display(),
                missing.join(" and no ")
            ),
        };
        if limits.cpu || limits.memory {
            limits.divide()?;
            limits.tidy();
        }
        Ok((limits, why_not))
    }

    /// Directory of the site's instances.
    pub(crate) fn dir(&self) -> PathBuf {
        self.mount.join("mandate").join(&self.site)
    }

    /// Hands the controllers down to the site's instances.
    fn divide(&self) -> io::Result<()> {
        let wanted: Vec<_> = [("+cpu", self.cpu), ("+memory", self.memory)]
            .iter()
            .filter(|(_, has)| *has)
            .map(|(name, _)| *name)
            .collect();
        fs::create_dir_all(self.dir())?;
        for dir in [self.mount.clone(), self.mount.join("mandate"), self.dir()] {
            fs::write(dir.join("cgroup.subtree_control"), wanted.join(" "))?;
        }
        Ok(())
    }

    /// An instance's cgroup, limited and empty; the launcher enters it.
    pub(crate) fn make(&self, short: &str, spec: &ComputeSpec) -> Result<PathBuf, HostError> {
        let dir = self.dir().join(short);
        let make = || -> io::Result<()> {
            self.divide()?;
            fs::create_dir_all(&dir)?;
            if self.cpu {
                let quota = u64::from(spec.vcpus).saturating_mul(PERIOD_US);
                fs::write(dir.join("cpu.max"), format!("{quota} {PERIOD_US}"))?;
            }
            if self.memory {
                fs::write(dir.join("memory.max"), (u64::from(spec.memory_mib) << 20).to_string())?;
            }
            Ok(())
        };
        make().map_err(state("limit an instance in", &dir))?;
        Ok(dir)
    }

    /// The instance's cgroup is gone; its processes ended before. It blocks for a moment.
    pub(crate) fn remove(&self, short: &str) -> Result<(), HostError> {
        let dir = self.dir().join(short);
        let mut tries = 0;
        loop {
            match fs::remove_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy && tries < EMPTY_TRIES => {
                    tries += 1;
                    std::thread::sleep(EMPTY_EVERY);
                }
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(state("remove", &dir)(e)),
                _ => break,
            }
        }
        self.tidy();
        Ok(())
    }

    /// Directories without an instance go; those that have one stay: that is the test.
    fn tidy(&self) {
        if fs::remove_dir(self.dir()).is_ok() {
            let _others = fs::remove_dir(self.mount.join("mandate"));
        }
    }
}

/// Where cgroup v2 is mounted, by `/proc/self/mountinfo` (proc(5)).
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        (kind.split(' ').next()? == "cgroup2").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ComputeSpec {
        ComputeSpec {
            ports: Vec::new(),
            configuration: String::new(),
            ..ComputeSpec::new("vdu", trust::Digest([0; 32]), 2, 64)
        }
    }

    #[test]
    fn the_mount_is_found_among_others() {
        let text = "28 25 0:23 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                    30 28 0:25 / /sys/fs/cgroup/memory rw shared:8 - cgroup cgroup rw,memory\n\
                    37 28 0:32 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(text), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point("28 25 0:23 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"), None);
    }

    #[test]
    fn limits_are_written_and_what_is_missing_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let controllers = |text: &str| fs::write(dir.path().join("cgroup.controllers"), text).unwrap();
        controllers("cpuset cpu io memory pids\n");
        let (limits, why_not) = Limits::at(dir.path(), "east").unwrap();
        assert_eq!((limits.cpu, limits.memory, why_not.as_str()), (true, true, ""));
        let made = limits.make("i0123456789", &spec()).unwrap();
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        assert_eq!(read(made.join("cpu.max")), "200000 100000");
        assert_eq!(read(made.join("memory.max")), (64 << 20).to_string());
        assert_eq!(read(dir.path().join("mandate/east/cgroup.subtree_control")), "+cpu +memory");
        controllers("cpuset pids");
        let (limits, why_not) = Limits::at(dir.path(), "west").unwrap();
        assert!(!limits.cpu && !limits.memory && why_not.contains("no cpu and no memory"), "{why_not}");
        assert!(!dir.path().join("mandate/west").exists());
        assert!(Limits::at(&dir.path().join("absent"), "west").is_err());
    }
}
