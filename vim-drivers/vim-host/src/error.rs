//! What can go wrong on this machine, with its stable code and what the engine does about it.
//!
//! The table in the crate's head is this file; `every_code_is_in_the_table` compares them.

use std::{io, path::PathBuf};

use dataplane_control::protocol::ProtocolError;
use trust::Digest;
use vim::{Disposition, DriverError, ObjectKey};

/// Most bytes of an instance's log repeated in an error.
pub(crate) const LOG_TAIL_BYTES: u64 = 2048;

/// One error of this driver.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    #[error(
        "{what} needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN): {source}; start as root, or inside user and mount namespaces of your own: `unshare --user --map-root-user --mount --fork sh -c 'mount -t tmpfs tmpfs /run && exec …'`, with run_as unset"
    )]
    NotPrivileged { what: String, source: io::Error },
    #[error("{path} is locked: another process drives this site; stop it, or give this one another site name and state directory", path = .path.display())]
    SiteInUse { path: PathBuf },
    #[error("host VIM configuration, {field}: {problem}")]
    BadConfig { field: &'static str, problem: String },
    #[error("cannot {action} {path}: {source}; look at the disk and the directory's owner, then do it again", path = .path.display())]
    State { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} does not read back: {problem}; it is ours alone, so something else wrote to it: look at it, remove its directory, then do it again", path = .path.display())]
    StateCorrupt { path: PathBuf, problem: String },
    #[error("no artifact has {digest}: push the package that holds this image, then ask again")]
    ImageUnknown { digest: Digest },
    #[error("the artifact for {digest} has {found}: it was changed on disk; push the package again")]
    ImageDigest { digest: Digest, found: Digest },
    #[error("service {service} holds no image {digest} here: ensure the image before the instance")]
    ImageAbsent { digest: Digest, service: String },
    #[error("no network {network} here: ensure the network before the instance")]
    NetworkAbsent { network: ObjectKey },
    #[error("{ports} ports are still attached ({first}, …): remove their instances first")]
    NetworkInUse { ports: usize, first: String },
    #[error("the key names a {found} already: remove that, or use another key")]
    KeyInUse { found: &'static str },
    #[error("segment {segment} of {wan} is {other}'s at this site: give every link a segment of its own")]
    SegmentInUse { wan: String, segment: u16, other: ObjectKey },
    #[error(
        "site {site} has no home, so nothing connects it to {wan}: configure `home`, or place the service at one site"
    )]
    NoWan { site: String, wan: String },
    #[error(
        "cannot hold the exchange of home {home}: {source}; another site is changing it, or its process hangs"
    )]
    ExchangeBusy { home: String, source: io::Error },
    #[error("`{short}` is in use by {other}, whose short name is the same: use another key")]
    KeyCollision { short: String, other: String },
    #[error("link `{link}` in {namespace} is not ours (alias `{alias}`): move it out of the way")]
    Foreign { link: String, namespace: String, alias: String },
    #[error("no room: {problem}; remove instances or place this one elsewhere")]
    Capacity { problem: String },
    #[error("the specification: {problem}; the plan is wrong")]
    BadSpec { problem: String },
    #[error(
        "it asks for {feature}, which this machine as a VIM does not have: place it at an OpenStack site"
    )]
    Unsupported { feature: vim::Feature },
    #[error("cannot {action} (netlink, namespace {namespace}): {problem}")]
    Netlink { action: String, namespace: String, problem: String },
    #[error("cannot {action} network namespace {name}: {source}")]
    Namespace { action: &'static str, name: String, source: io::Error },
    #[error("the data plane did not start: {problem}; its last words: {log}")]
    Launch { problem: String, log: String },
    #[error(
        "mandate-launcher could not measure the data plane, so it was not started: {problem}; its last words: {log}"
    )]
    LaunchTpm { problem: String, log: String },
    #[error(
        "the data plane (process {pid}) did not answer on its control socket within {seconds} s; its last words: {log}"
    )]
    StartTimeout { pid: u32, seconds: u64, log: String },
    #[error(
        "mandate-launcher could not measure the configuration: {problem}; look at the TPM and its event log"
    )]
    Measure { problem: String },
    #[error("the data plane refused the configuration ({code}): {message}")]
    ConfigurationRefused { code: String, message: String },
    #[error("the data plane runs {found}, not {expected}, after it accepted that")]
    ConfigurationNotRunning { found: Digest, expected: Digest },
    #[error("no such instance here: ensure it first")]
    InstanceAbsent,
    #[error("the instance does not run: ensure it again; its last words: {log}")]
    InstanceDown { log: String },
    #[error(
        "process {found} answers on the control socket in place of {recorded}, which is what was measured and started: isolate the instance, look at both, then remove it or ensure it again"
    )]
    InstanceReplaced { recorded: u32, found: u32 },
    #[error(
        "its ports are not {wanted} after the kernel was told so ({ports}): do it again, or take them down by hand (`ip -n {namespace} link set … down`)"
    )]
    NotCut { wanted: &'static str, ports: String, namespace: String },
    #[error("{0}")]
    Control(ProtocolError),
    #[error("the data plane refused ({code}): {message}")]
    Refused { code: String, message: String },
    #[error("cannot record frames: {source}; packet sockets need CAP_NET_RAW, then do it again")]
    Capture { source: io::Error },
    #[error("site {site} has no TPM: configure one (tcti, event log, PCR) to get evidence from it")]
    NoTpm { site: String },
    #[error("mandate-launcher gave no evidence: {problem}; look at the TPM and its event log")]
    Quote { problem: String },
    #[error(
        "process {pid} survived SIGKILL for {seconds} s: it hangs in the kernel; its links and namespace are left as they are"
    )]
    ProcessStuck { pid: u32, seconds: u64 },
    #[error("{0}: this is a defect of the driver")]
    Internal(String),
}

impl HostError {
    /// Stable code.
    pub(crate) fn code(&self) -> &'static str {
        self.verdict().0
    }

    /// What the engine does about it.
    pub(crate) fn disposition(&self) -> Disposition {
        self.verdict().1
    }

    fn verdict(&self) -> (&'static str, Disposition) {
        use Disposition::{Compensate, Elsewhere, Escalate, Retry, Unknown};
        match self {
            Self::NotPrivileged { .. } => ("NOT_PRIVILEGED", Escalate),
            Self::SiteInUse { .. } => ("SITE_IN_USE", Escalate),
            Self::BadConfig { .. } => ("BAD_CONFIG", Escalate),
            Self::State { .. } => ("STATE_IO", Unknown),
            Self::StateCorrupt { .. } => ("STATE_CORRUPT", Escalate),
            Self::ImageUnknown { .. } => ("IMAGE_UNKNOWN", Compensate),
            Self::ImageDigest { .. } => ("IMAGE_DIGEST", Compensate),
            Self::ImageAbsent { .. } => ("IMAGE_ABSENT", Compensate),
            Self::NetworkAbsent { .. } => ("NETWORK_ABSENT", Compensate),
            Self::NetworkInUse { .. } => ("NETWORK_IN_USE", Retry),
            Self::KeyInUse { .. } => ("KEY_IN_USE", Compensate),
            Self::SegmentInUse { .. } => ("SEGMENT_IN_USE", Compensate),
            Self::NoWan { .. } => ("NO_WAN", Elsewhere),
            Self::ExchangeBusy { .. } => ("EXCHANGE_BUSY", Retry),
            Self::KeyCollision { .. } => ("KEY_COLLISION", Compensate),
            Self::Foreign { .. } => ("FOREIGN_OBJECT", Escalate),
            Self::Capacity { .. } => ("CAPACITY", Elsewhere),
            Self::BadSpec { .. } => ("BAD_SPEC", Compensate),
            Self::Unsupported { .. } => ("UNSUPPORTED_FEATURE", Elsewhere),
            Self::Netlink { .. } => ("NETLINK", Unknown),
            Self::Namespace { .. } => ("NAMESPACE", Unknown),
            Self::Launch { .. } => ("LAUNCH_FAILED", Compensate),
            Self::LaunchTpm { .. } => ("LAUNCH_NOT_MEASURED", Unknown),
            Self::StartTimeout { .. } => ("START_TIMEOUT", Unknown),
            Self::Measure { .. } => ("MEASURE_FAILED", Unknown),
            Self::ConfigurationRefused { .. } => ("CONFIGURATION_REFUSED", Compensate),
            Self::ConfigurationNotRunning { .. } => ("CONFIGURATION_NOT_RUNNING", Compensate),
            Self::InstanceAbsent => ("INSTANCE_ABSENT", Compensate),
            Self::InstanceDown { .. } => ("INSTANCE_DOWN", Unknown),
            Self::InstanceReplaced { .. } => ("INSTANCE_REPLACED", Unknown),
            Self::NotCut { .. } => ("NOT_ISOLATED", Unknown),
            Self::Control(_) => ("CONTROL_IO", Unknown),
            Self::Refused { .. } => ("DATAPLANE_REFUSED", Compensate),
            Self::Capture { .. } => ("CAPTURE_FAILED", Retry),
            Self::NoTpm { .. } => ("NO_TPM", Compensate),
            Self::Quote { .. } => ("QUOTE_FAILED", Retry),
            Self::ProcessStuck { .. } => ("PROCESS_STUCK", Escalate),
            Self::Internal(_) => ("INTERNAL", Escalate),
        }
    }

    /// As the port has it.
    pub(crate) fn at(self, key: impl ToString, operation: &str) -> DriverError {
        DriverError {
            key: key.to_string(),
            operation: operation.to_owned(),
            code: self.code().to_owned(),
            reason: self.to_string(),
            disposition: self.disposition(),
        }
    }
}

/// For `map_err` on file operations.
pub(crate) fn state(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> HostError {
    let path = path.into();
    move |source| match source.kind() {
        io::ErrorKind::PermissionDenied => {
            HostError::NotPrivileged { what: format!("to {action} {}", path.display()), source }
        }
        _ => HostError::State { action, path, source },
    }
}

impl From<ProtocolError> for HostError {
    fn from(error: ProtocolError) -> Self {
        match error {
            ProtocolError::Refused { code, message } => Self::Refused { code, message },
            other => Self::Control(other),
        }
    }
}

#[cfg(test)]
mod tests {
    /// The crate's head documents every code with its disposition, and no other.
    #[test]
    fn every_code_is_in_the_table() {
        let code = include_str!("error.rs");
        let verdicts = code.split("fn verdict").nth(1).unwrap().split("\n    }\n").next().unwrap();
        let mut coded: Vec<(String, String)> = Vec::new();
        for line in verdicts.lines().filter(|l| l.contains("=> (\"")) {
            let (_, rest) = line.split_once("=> (\"").unwrap();
            let (code, rest) = rest.split_once("\", ").unwrap();
            coded.push((code.to_owned(), rest.trim_end_matches("),").to_owned()));
        }
        let rows = include_str!("lib.rs").lines().filter_map(|l| l.strip_prefix("//! | `"));
        let mut documented: Vec<(String, String)> = rows
            .map(|row| row.split_once("` | ").unwrap())
            .map(|(code, rest)| (code.to_owned(), rest.split(" | ").next().unwrap().to_owned()))
            .collect();
        assert!(coded.len() > 25, "{coded:?}");
        coded.sort();
        documented.sort();
        assert_eq!(coded, documented);
    }
}
