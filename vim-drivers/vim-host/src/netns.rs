//! Network namespaces by name, as `ip netns` keeps them: bind mounts of nsfs under `/run/netns`.
//!
//! A thread that enters a namespace never leaves it: every entry is on a thread of its own that then ends, never on
//! a worker of the runtime. A namespace gets its name last, so one that has a name is set up: no IPv6 and no ARP of
//! the kernel's own, nothing forwarded, bridges past the packet filter.
//!
//! Tests: the conformance suite (half-made namespaces) and `tests/host.rs` (no frame of the kernel's own).

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{FsType, fstatfs},
};

use crate::{error::HostError, state::make_dir};

pub(crate) const DIR: &str = "/run/netns";
/// `NSFS_MAGIC` of linux/magic.h: what a named namespace's file is, once it is mounted.
const NSFS: FsType = FsType(0x6e73_6673);
/// Most stacked mounts taken off one name.
const MAX_MOUNTS: usize = 8;

/// Settings of a new namespace: file under `/proc/sys/net`, value. A file that is not there is a feature that is not.
const QUIET: [(&str, &str); 7] = [
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/ip_forward", "0"),
    ("ipv4/conf/all/arp_ignore", "8"),
    ("bridge/bridge-nf-call-iptables", "0"),
    ("bridge/bridge-nf-call-ip6tables", "0"),
    ("bridge/bridge-nf-call-arptables", "0"),
];

/// Where a namespace of this name is mounted.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Opens it; `None` when there is none, or only the empty file that a crash left.
pub(crate) fn open(name: &str) -> Result<Option<File>, HostError> {
    let file = match File::open(path(name)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        // Without a mount the file has mode 0; root reads it all the same, a user namespace's root may not.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(e) => return Err(problem("open", name)(e)),
    };
    let kind = fstatfs(&file).map_err(|e| problem("look at", name)(e.into()))?.filesystem_type();
    Ok((kind == NSFS).then_some(file))
}

/// It is there, set up and quiet.
pub(crate) fn ensure(name: &str) -> Result<(), HostError> {
    if open(name)?.is_some() {
        return Ok(());
    }
    prepare_directory()?;
    // What is there under this name is the file of a creation that ended before the mount.
    remove_mount_point(name)?;
    let name = name.to_owned();
    on_a_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| problem("make", &name)(e.into()))?;
        quieten().map_err(problem("set up", &name))?;
        File::create_new(path(&name)).map_err(problem("name", &name))?;
        let from = Path::new("/proc/thread-self/ns/net");
        mount(Some(from), &path(&name), None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|e| problem("mount", &name)(e.into()))
    })
}

/// It is gone, whatever was there of it.
pub(crate) fn remove(name: &str) -> Result<(), HostError> {
    remove_mount_point(name)
}

/// Runs `f` inside the namespace, on a thread of its own.
pub(crate) fn inside<T: Send + 'static>(
    namespace: File,
    name: &str,
    f: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, HostError> {
    let name = name.to_owned();
    on_a_thread(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|e| problem("enter", &name)(e.into()))?;
        f().map_err(problem("work in", &name))
    })
}

fn on_a_thread<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    let builder = thread::Builder::new().name("netns".into());
    let thread = builder.spawn(f).map_err(problem("start a thread for", "a new"))?;
    thread.join().map_err(|_| HostError::Internal("a thread in a network namespace panicked".into()))?
}

fn quieten() -> io::Result<()> {
    for (file, value) in QUIET {
        match fs::write(Path::new("/proc/sys/net").join(file), value) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// `/run/netns` as `ip netns` makes it: a shared mount, so that names appear in other mount namespaces too.
fn prepare_directory() -> Result<(), HostError> {
    let dir = Path::new(DIR);
    if !dir.is_dir() {
        make_dir(dir, 0o755)?;
    }
    let share = || mount(None::<&str>, dir, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    if share().is_ok() {
        return Ok(());
    }
    mount(Some(dir), dir, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .and_then(|()| share())
        .map_err(|e| problem("prepare /run/netns for", "any")(e.into()))
}

fn remove_mount_point(name: &str) -> Result<(), HostError> {
    let path = path(name);
    for _ in 0..MAX_MOUNTS {
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            // Not a mount point, or not there.
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
            Err(e) => return Err(problem("unmount", name)(e.into())),
        }
    }
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(problem("remove", name)(e)),
        _ => Ok(()),
    }
}

fn problem(action: &'static str, name: &str) -> impl FnOnce(io::Error) -> HostError {
    let name = name.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::PermissionDenied => {
            HostError::NotPrivileged { what: format!("to {action} network namespace {name}"), source }
        }
        _ => HostError::Namespace { action, name, source },
    }
}
