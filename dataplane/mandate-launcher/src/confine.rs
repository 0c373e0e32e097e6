//! Giving everything up but what the function needs, and looking whether it is gone.
//!
//! In this order, each step possible only before the next: network namespace, session, limits, capability bounding
//! set, groups and ids, capability sets, ambient set, `no_new_privs`. [`verify`] then reads `/proc/self/status` back;
//! nothing is executed unless it says exactly what was wanted. Single-threaded: the kernel keeps these per thread.
//! Tests: below, and `tests/lifecycle/` reads the status of the process that was executed.

use std::{
    fmt::Display,
    fs::File,
    path::{Path, PathBuf},
    str::FromStr,
};

use caps::{CapSet, Capability, CapsHashSet};
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::{
        prctl,
        resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit},
        signal::SigSet,
        stat::{Mode, umask},
    },
    unistd::{self, Gid, Pid, Uid},
};

/// What the executed process may still be and do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    /// The only user id, real, effective, saved.
    pub uid: Uid,
    /// The only group id; no supplementary groups.
    pub gid: Gid,
    /// The only capabilities, in every set.
    pub capabilities: CapsHashSet,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {reason}")]
pub struct ConfineError {
    /// What was tried.
    pub step: String,
    /// Why it failed, and what to do.
    pub reason: String,
}

fn failed(step: impl Into<String>) -> impl FnOnce(&dyn Display) -> ConfineError {
    let step = step.into();
    move |reason| ConfineError { step, reason: reason.to_string() }
}

/// `UID:GID`, numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// User.
    pub uid: Uid,
    /// Group.
    pub gid: Gid,
}

impl FromStr for User {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not UID:GID, two numbers");
        let (uid, gid) = text.split_once(':').ok_or_else(bad)?;
        let number = |s: &str| s.parse().ok().filter(|n| *n != u32::MAX).ok_or_else(bad);
        Ok(Self { uid: Uid::from_raw(number(uid)?), gid: Gid::from_raw(number(gid)?) })
    }
}

/// A capability as `net_raw` or `CAP_NET_RAW`.
pub fn capability(name: &str) -> Result<Capability, String> {
    let canonical = caps::to_canonical(name);
    canonical
        .parse()
        .map_err(|_| format!("`{name}` is no Linux capability; one is `net_raw` (capabilities(7))"))
}

/// Opens a network namespace by name (`ip netns`) or path.
pub fn open_netns(name: &str) -> Result<File, ConfineError> {
    let path = match name.contains('/') {
        true => PathBuf::from(name),
        false => Path::new("/run/netns").join(name),
    };
    File::open(&path).map_err(|e| ConfineError {
        step: format!("open the network namespace {}", path.display()),
        reason: format!("{e}; `ip netns list` shows those with a name"),
    })
}

/// Enters a network namespace.
pub fn enter_netns(namespace: &File) -> Result<(), ConfineError> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|e| failed("enter the network namespace")(&e))
}

/// A session of its own, no core dumps, locked memory without limit (huge pages, rings), nothing from the caller but
/// standard output and error.
pub fn detach() -> Result<(), ConfineError> {
    new_session()?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|e| failed("forbid core dumps")(&e))?;
    unlock_memory()?;
    umask(Mode::S_IRWXO);
    // A signal that the caller had blocked would stay blocked: the function could not be asked to end.
    SigSet::empty().thread_set_mask().map_err(|e| failed("unblock signals")(&e))?;
    unistd::chdir("/").map_err(|e| failed("change to /")(&e))?;
    let null = File::open("/dev/null").map_err(|e| failed("open /dev/null")(&e))?;
    unistd::dup2_stdin(&null).map_err(|e| failed("replace standard input")(&e))
}

/// A shell makes its jobs process-group leaders, which may not open a session: such a one joins its parent's group.
fn new_session() -> Result<(), ConfineError> {
    let own = unistd::getpid();
    if unistd::getsid(None) == Ok(own) {
        return Ok(());
    }
    if unistd::getpgrp() == own {
        let parents =
            unistd::getpgid(Some(unistd::getppid())).map_err(|e| failed("find the parent's group")(&e))?;
        unistd::setpgid(Pid::from_raw(0), parents).map_err(|e| failed("leave the process group")(&e))?;
    }
    unistd::setsid().map(drop).map_err(|e| failed("open a session")(&e))
}

/// Without CAP_SYS_RESOURCE (a user namespace) the hard limit stays, and the soft one goes up to it.
fn unlock_memory() -> Result<(), ConfineError> {
    match setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        Err(Errno::EPERM) => {
            let raised = getrlimit(Resource::RLIMIT_MEMLOCK)
                .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard));
            raised.map_err(|e| failed("raise the limit of locked memory")(&e))
        }
        other => other.map_err(|e| failed("raise the limit of locked memory")(&e)),
    }
}

impl Confinement {
    /// Gives everything else up. Not to be undone; a failure leaves a half-confined process, which must end.
    pub fn apply(&self) -> Result<(), ConfineError> {
        self.reduce_bounding_set()?;
        prctl::set_keepcaps(true).map_err(|e| failed("keep capabilities over the change of user")(&e))?;
        self.change_user()?;
        self.reduce_capabilities()?;
        prctl::set_no_new_privs().map_err(|e| failed("set no_new_privs")(&e))?;
        self.verify()
    }

    fn reduce_bounding_set(&self) -> Result<(), ConfineError> {
        let step = "reduce the capability bounding set (root is needed)";
        let bounding = caps::read(None, CapSet::Bounding).map_err(|e| failed(step)(&e))?;
        for capability in bounding.difference(&self.capabilities) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(|e| failed(step)(&e))?;
        }
        Ok(())
    }

    fn change_user(&self) -> Result<(), ConfineError> {
        let (uid, gid) = (self.uid, self.gid);
        match unistd::setgroups(&[]) {
            // A user namespace that one user made cannot change groups; the kernel keeps the outer ones unmapped.
            Err(Errno::EPERM) if setgroups_is_denied() => {}
            other => other.map_err(|e| failed("drop supplementary groups")(&e))?,
        }
        unistd::setresgid(gid, gid, gid).map_err(|e| failed(format!("become group {gid}"))(&e))?;
        unistd::setresuid(uid, uid, uid).map_err(|e| failed(format!("become user {uid}"))(&e))
    }

    fn reduce_capabilities(&self) -> Result<(), ConfineError> {
        let step = "keep only the capabilities asked for (does the caller have them?)";
        // Effective within permitted within what is held: shrink effective first.
        let none = CapsHashSet::new();
        caps::set(None, CapSet::Effective, &none).map_err(|e| failed(step)(&e))?;
        caps::set(None, CapSet::Inheritable, &none).map_err(|e| failed(step)(&e))?;
        for set in [CapSet::Permitted, CapSet::Inheritable, CapSet::Effective, CapSet::Ambient] {
            caps::set(None, set, &self.capabilities).map_err(|e| failed(step)(&e))?;
        }
        Ok(())
    }

    /// Reads `/proc/self/status` back and compares.
    pub fn verify(&self) -> Result<(), ConfineError> {
        let status =
            std::fs::read_to_string("/proc/self/status").map_err(|e| failed("read /proc/self/status")(&e))?;
        let differences = self.differences(&status);
        match differences.is_empty() {
            true => Ok(()),
            false => Err(failed("give privileges up")(&differences.join("; "))),
        }
    }

    /// Lines of a `/proc/PID/status` that are not as they must be.
    #[must_use]
    pub fn differences(&self, status: &str) -> Vec<String> {
        let mask = self.capabilities.iter().fold(0, |mask, c| mask | c.bitmask());
        let four = |id: u32| [id.to_string(), id.to_string(), id.to_string(), id.to_string()].join("\t");
        let mut wanted = vec![
            ("Uid", four(self.uid.as_raw())),
            ("Gid", four(self.gid.as_raw())),
            ("NoNewPrivs", "1".to_owned()),
        ];
        if !setgroups_is_denied() {
            wanted.push(("Groups", String::new()));
        }
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            wanted.push((set, format!("{mask:016x}")));
        }
        let field = |name: &str| {
            status
                .lines()
                .find_map(|l| Some(l.strip_prefix(name)?.strip_prefix(':')?.trim()))
                .unwrap_or("absent")
        };
        let differs = wanted.iter().filter(|(name, value)| field(name) != value);
        differs.map(|(name, value)| format!("{name} is `{}`, not `{value}`", field(name))).collect()
    }
}

fn setgroups_is_denied() -> bool {
    std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> Confinement {
        let capabilities = [Capability::CAP_NET_RAW, Capability::CAP_IPC_LOCK].into();
        Confinement { uid: Uid::from_raw(65534), gid: Gid::from_raw(65533), capabilities }
    }

    const GOOD: &str = "Name:\tx\nUid:\t65534\t65534\t65534\t65534\nGid:\t65533\t65533\t65533\t65533\nGroups:\t \n\
                        CapInh:\t0000000000006000\nCapPrm:\t0000000000006000\nCapEff:\t0000000000006000\n\
                        CapBnd:\t0000000000006000\nCapAmb:\t0000000000006000\nNoNewPrivs:\t1\n";

    #[test]
    fn finds_every_privilege_left() {
        assert_eq!(nobody().differences(GOOD), Vec::<String>::new());
        for (from, to) in [
            ("Uid:\t65534\t65534", "Uid:\t65534\t0"),
            ("Gid:\t65533", "Gid:\t0"),
            ("Groups:\t ", "Groups:\t27 "),
            ("CapBnd:\t0000000000006000", "CapBnd:\t000001ffffffffff"),
            ("CapPrm:\t0000000000006000", "CapPrm:\t0000000000206000"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("CapAmb", "Cap"),
        ] {
            assert_eq!(nobody().differences(&GOOD.replace(from, to)).len(), 1, "{to}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(capability("net_raw"), Ok(Capability::CAP_NET_RAW));
        assert_eq!(capability("CAP_IPC_LOCK"), Ok(Capability::CAP_IPC_LOCK));
        assert!(capability("net_row").is_err());
        assert_eq!("1:2".parse(), Ok(User { uid: Uid::from_raw(1), gid: Gid::from_raw(2) }));
        for bad in ["", "1", "root:root", "1:", "4294967295:1", "-1:1"] {
            assert!(bad.parse::<User>().is_err(), "{bad}");
        }
    }
}
