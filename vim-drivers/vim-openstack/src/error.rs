//! What can go wrong with a cloud, with its stable code and what the engine does about it.
//!
//! The table in the crate's head is this file; `every_code_is_in_the_table` compares them.

use reqwest::StatusCode;
use trust::Digest;
use vim::{Disposition, DriverError, ObjectKey};

use crate::client::{ApiError, Fault};

/// One error of this driver.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CloudError {
    #[error("OpenStack VIM configuration, {field}: {problem}")]
    BadConfig { field: &'static str, problem: String },
    #[error("{0}; look at the endpoint and the network between, it is tried again")]
    Unreachable(Box<ApiError>),
    #[error("{0}; the cloud has too much to do, it is tried again")]
    Busy(Box<ApiError>),
    #[error("{0}; it is looked for by our mark before it is tried again")]
    LostAnswer(Box<ApiError>),
    #[error("{0}; check the user, its secret and its role in the project")]
    Credentials(Box<ApiError>),
    #[error("{0}; the cloud's policy does not let this user do that: give it the role, or ask for less")]
    Forbidden(Box<ApiError>),
    #[error("{0}; check the catalogue, region_name and interface")]
    NoEndpoint(Box<ApiError>),
    #[error("{0}")]
    TooOld(Box<ApiError>),
    #[error("{0}")]
    Refused(Box<ApiError>),
    #[error(
        "{quota}: a quota of the project does not allow it ({error}); raise it, or remove what is not needed"
    )]
    Quota { quota: String, error: Box<ApiError> },
    #[error("no host can take it: {problem}")]
    NoValidHost { problem: String },
    #[error("the server failed: {fault}; it was deleted; its console's last words: {console}")]
    ServerFailed { fault: String, console: String },
    #[error(
        "the server is {status} (task {task}) after {seconds} s: {left}; its console's last words: {console}"
    )]
    ServerStuck { status: String, task: String, seconds: u64, left: String, console: String },
    #[error("server {id} is {status} (task {task}): wait for that to end, then ask again")]
    ServerBusy { id: String, status: String, task: String },
    #[error(
        "server {id} is there still after {seconds} s ({status}): look at nova-compute on {host}; remove again"
    )]
    RemoveStuck { id: String, seconds: u64, status: String, host: String },
    #[error(
        "port {port} on {host}: `{vif_type}`, so no frame passes: look at the L2 agent and the physical networks of {host}"
    )]
    NotBound { port: String, host: String, vif_type: String },
    #[error("port {port} is attached to {other}, which is not ours: detach it, or use another key")]
    PortTaken { port: String, other: String },
    #[error("volume {name} is `{status}`: cinder could not make it, or is still at it; see its log")]
    VolumeFailed { name: String, status: String },
    #[error("no artifact has {digest}: push the package that holds this image, then ask again")]
    ImageUnknown { digest: Digest },
    #[error("the artifact for {digest} has {found}: it was changed on disk; push the package again")]
    ImageDigest { digest: Digest, found: Digest },
    #[error(
        "glance has other bytes than were sent for {digest} (sha512 {found}): look at its store, then do it again"
    )]
    ImageChanged { digest: Digest, found: String },
    #[error("service {service} holds no image {digest} here: ensure the image before the instance")]
    ImageAbsent { digest: Digest, service: String },
    #[error("no network {network} here: ensure the network before the instance")]
    NetworkAbsent { network: ObjectKey },
    #[error("the cloud has no network `{name}`: create it, or name another one (`vim-network-name`)")]
    NetworkUnknown { name: String },
    #[error("ports are still on network {id}: remove their instances first")]
    NetworkInUse { id: String },
    #[error(
        "{what} {id} is in use still, by what came late or is not ours: it is tried again; if that does not end, look what uses it"
    )]
    StillInUse { what: &'static str, id: String },
    #[error("the key names {found} already: remove that, or use another key")]
    KeyInUse { found: &'static str },
    #[error("the segment is in use: {problem}; give every link a segment of its own")]
    SegmentInUse { problem: String },
    #[error(
        "no wide-area network `{wan}` is mapped to a physical network of site {site}: configure it, or place the service at one site"
    )]
    NoWan { wan: String, site: String },
    #[error("no room: {problem}; remove instances or place this one elsewhere")]
    Capacity { problem: String },
    #[error("the specification: {problem}; the plan is wrong")]
    BadSpec { problem: String },
    #[error("it asks for {feature}, which this cloud does not have: place it at another site")]
    Unsupported { feature: vim::Feature },
    #[error("{problem}")]
    ConfigurationRefused { problem: String },
    #[error("no such instance here: ensure it first")]
    InstanceAbsent,
    #[error("its ports are not {wanted} after neutron was told so ({ports}): do it again")]
    NotCut { wanted: &'static str, ports: String },
    #[error("{0}")]
    NoFunctions(&'static str),
    #[error("it is not what the plan asks for: {problem}; it stays as it is, and the MANO must undo it")]
    NotAdoptable { problem: String },
    #[error("cannot read {path}: {problem}")]
    Artifact { path: String, problem: String },
    #[error("{0}: this is a defect of the driver")]
    Internal(String),
}

impl CloudError {
    /// Stable code, and what the engine does about it.
    fn verdict(&self) -> (&'static str, Disposition) {
        use Disposition::{Compensate, Elsewhere, Escalate, Retry, Unknown};
        match self {
            Self::BadConfig { .. } => ("BAD_CONFIG", Escalate),
            Self::Unreachable(_) => ("CLOUD_UNREACHABLE", Retry),
            Self::Busy(_) => ("CLOUD_BUSY", Retry),
            Self::LostAnswer(_) => ("CLOUD_LOST_ANSWER", Unknown),
            Self::Credentials(_) => ("CLOUD_CREDENTIALS", Escalate),
            Self::Forbidden(_) => ("CLOUD_FORBIDDEN", Compensate),
            Self::NoEndpoint(_) => ("CLOUD_NO_ENDPOINT", Escalate),
            Self::TooOld(_) => ("CLOUD_TOO_OLD", Elsewhere),
            Self::Refused(_) => ("CLOUD_REFUSED", Compensate),
            Self::Quota { .. } => ("QUOTA_EXCEEDED", Elsewhere),
            Self::NoValidHost { .. } => ("NO_VALID_HOST", Elsewhere),
            Self::ServerFailed { .. } => ("SERVER_FAILED", Compensate),
            Self::ServerStuck { .. } => ("SERVER_STUCK", Unknown),
            Self::ServerBusy { .. } => ("SERVER_BUSY", Retry),
            Self::RemoveStuck { .. } => ("REMOVE_STUCK", Unknown),
            Self::NotBound { .. } => ("PORT_NOT_BOUND", Elsewhere),
            Self::PortTaken { .. } => ("PORT_TAKEN", Escalate),
            Self::VolumeFailed { .. } => ("VOLUME_FAILED", Elsewhere),
            Self::ImageUnknown { .. } => ("IMAGE_UNKNOWN", Compensate),
            Self::ImageDigest { .. } => ("IMAGE_DIGEST", Compensate),
            Self::ImageChanged { .. } => ("IMAGE_CHANGED", Retry),
            Self::ImageAbsent { .. } => ("IMAGE_ABSENT", Compensate),
            Self::NetworkAbsent { .. } => ("NETWORK_ABSENT", Compensate),
            Self::NetworkUnknown { .. } => ("NETWORK_UNKNOWN", Elsewhere),
            Self::NetworkInUse { .. } => ("NETWORK_IN_USE", Retry),
            Self::StillInUse { .. } => ("STILL_IN_USE", Retry),
            Self::KeyInUse { .. } => ("KEY_IN_USE", Compensate),
            Self::SegmentInUse { .. } => ("SEGMENT_IN_USE", Compensate),
            Self::NoWan { .. } => ("NO_WAN", Elsewhere),
            Self::Capacity { .. } => ("CAPACITY", Elsewhere),
            Self::BadSpec { .. } => ("BAD_SPEC", Compensate),
            Self::Unsupported { .. } => ("UNSUPPORTED_FEATURE", Elsewhere),
            Self::ConfigurationRefused { .. } => ("CONFIGURATION_REFUSED", Compensate),
            Self::InstanceAbsent => ("INSTANCE_ABSENT", Compensate),
            Self::NotCut { .. } => ("NOT_ISOLATED", Unknown),
            Self::NoFunctions(_) => ("UNSUPPORTED", Compensate),
            Self::NotAdoptable { .. } => ("NOT_ADOPTABLE", Compensate),
            Self::Artifact { .. } => ("STATE_IO", Retry),
            Self::Internal(_) => ("INTERNAL", Escalate),
        }
    }

    /// As the port has it.
    pub(crate) fn at(self, key: impl ToString, operation: &str) -> DriverError {
        let (code, disposition) = self.verdict();
        DriverError {
            key: key.to_string(),
            operation: operation.to_owned(),
            code: code.to_owned(),
            reason: self.to_string(),
            disposition,
        }
    }
}

/// Which quota a service says is used up: nova names it in its words, neutron in brackets.
fn quota(error: &ApiError) -> Option<String> {
    let message = error.message();
    let (kind, lower) = (error.kind(), message.to_lowercase());
    let status = error.status()?;
    let large = status == StatusCode::PAYLOAD_TOO_LARGE;
    let refused = [StatusCode::FORBIDDEN, StatusCode::CONFLICT, StatusCode::BAD_REQUEST].contains(&status);
    if !(large || refused && (kind == "OverQuota" || lower.contains("quota exceeded"))) {
        return None;
    }
    // "Quota exceeded for cores: Requested 2, …" · "Quota exceeded for resources: ['network']."
    let named = message.split("for resources: [").nth(1).and_then(|t| t.split(']').next());
    let named = named.or_else(|| message.split("exceeded for ").nth(1).and_then(|t| t.split(':').next()));
    let named = named.or_else(|| lower.contains("server group").then_some("server groups"));
    Some(named.map_or_else(|| "unnamed".to_owned(), |n| n.replace(['\'', '"'], "").trim().to_owned()))
}

impl From<ApiError> for CloudError {
    fn from(error: ApiError) -> Self {
        let quota = quota(&error);
        let error = Box::new(error);
        if let Some(quota) = quota {
            return Self::Quota { quota, error };
        }
        match (&error.fault, error.status()) {
            (Fault::Unreachable { .. }, _) => Self::Unreachable(error),
            (Fault::NoEndpoint { .. }, _) => Self::NoEndpoint(error),
            (Fault::TooOld { .. }, _) => Self::TooOld(error),
            (Fault::Secret { .. }, _) | (_, Some(StatusCode::UNAUTHORIZED)) => Self::Credentials(error),
            (_, Some(StatusCode::FORBIDDEN)) => Self::Forbidden(error),
            _ if error.did_nothing() => Self::Busy(error),
            _ if error.is_lost() => Self::LostAnswer(error),
            _ => Self::Refused(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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

    fn refused(status: u16, kind: &str, message: &str) -> CloudError {
        let fault = Fault::Refused {
            status: StatusCode::from_u16(status).unwrap(),
            kind: kind.into(),
            message: message.into(),
            request_id: String::new(),
            retry_after: None,
        };
        CloudError::from(ApiError { call: "nova POST servers".into(), fault })
    }

    #[test]
    fn a_quota_is_named_and_a_policy_is_none() {
        for (status, kind, message, name) in [
            (
                403,
                "forbidden",
                "Quota exceeded for cores: Requested 2, but already used 999 of 1000 cores",
                "cores",
            ),
            (409, "OverQuota", "Quota exceeded for resources: ['network'].", "network"),
            (403, "forbidden", "Quota exceeded, too many servers in group", "unnamed"),
            (413, "", "Request Entity Too Large", "unnamed"),
        ] {
            let error = refused(status, kind, message).at("ns/vdu", "ensure");
            assert_eq!((error.code.as_str(), error.disposition), ("QUOTA_EXCEEDED", Disposition::Elsewhere));
            assert!(error.reason.starts_with(name), "{error}");
        }
        let code = |status, kind| refused(status, kind, "no").at("k", "ensure").code;
        assert_eq!(code(403, "forbidden"), "CLOUD_FORBIDDEN");
        assert_eq!(code(401, "Unauthorized"), "CLOUD_CREDENTIALS");
        assert_eq!(code(409, "PortInUse"), "CLOUD_REFUSED");
        assert_eq!(code(429, ""), "CLOUD_BUSY");
        assert_eq!(code(502, ""), "CLOUD_LOST_ANSWER");
    }
}
