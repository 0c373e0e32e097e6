//! `trusted_root.json`: the keys and certificates of a Sigstore instance, each with the time in which it counts.

use serde::Deserialize;
use trust::UnixTime;

use super::bundle::Bytes;
use crate::pki::{Anchor, PublicKey, chain};

/// A period; an open end has not come yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Period {
    from: UnixTime,
    to: Option<UnixTime>,
}

impl Period {
    pub(super) fn contains(&self, at: UnixTime) -> bool {
        self.from <= at && self.to.is_none_or(|to| at <= to)
    }
}

/// A log's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Log {
    pub id: Vec<u8>,
    pub key: PublicKey,
    pub valid: Period,
}

/// A certificate or time-stamping authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    /// Its chain without the root, DER; of a time-stamping authority, the signing certificate first.
    pub certificates: Vec<Vec<u8>>,
    pub root: Anchor,
    pub valid: Period,
}

/// A Sigstore instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedRoot {
    pub(super) logs: Vec<Log>,
    pub(super) ct_logs: Vec<Log>,
    pub(super) authorities: Vec<Authority>,
    pub(super) time: Vec<Authority>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    media_type: String,
    #[serde(default)]
    tlogs: Vec<RawLog>,
    #[serde(default)]
    ctlogs: Vec<RawLog>,
    #[serde(default)]
    certificate_authorities: Vec<RawAuthority>,
    #[serde(default)]
    timestamp_authorities: Vec<RawAuthority>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLog {
    public_key: RawKey,
    log_id: RawId,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawId {
    key_id: Bytes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawKey {
    raw_bytes: Bytes,
    valid_for: RawPeriod,
}

#[derive(Deserialize)]
struct RawPeriod {
    start: String,
    end: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawAuthority {
    cert_chain: RawChain,
    valid_for: RawPeriod,
}

#[derive(Deserialize)]
struct RawChain {
    certificates: Vec<RawCertificate>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCertificate {
    raw_bytes: Bytes,
}

impl TrustedRoot {
    /// Reads it; keys of kinds that are not supported are passed over, since a root may list them for others.
    pub fn read(json: &serde_json::Value, org: &str) -> Result<Self, String> {
        let raw = Raw::deserialize(json).map_err(|e| e.to_string())?;
        if !raw.media_type.starts_with("application/vnd.dev.sigstore.trustedroot") {
            return Err(format!("its media type is `{}`", raw.media_type));
        }
        let logs = |list: Vec<RawLog>| -> Result<Vec<Log>, String> {
            list.into_iter().filter_map(|l| log(l).transpose()).collect()
        };
        let authorities = |list: Vec<RawAuthority>| -> Result<Vec<Authority>, String> {
            list.into_iter().map(|a| authority(a, org)).collect()
        };
        Ok(Self {
            logs: logs(raw.tlogs)?,
            ct_logs: logs(raw.ctlogs)?,
            authorities: authorities(raw.certificate_authorities)?,
            time: authorities(raw.timestamp_authorities)?,
        })
    }
}

fn log(raw: RawLog) -> Result<Option<Log>, String> {
    let valid = period(&raw.public_key.valid_for)?;
    let key = PublicKey::from_spki(&raw.public_key.raw_bytes.0)
        .or_else(|_| PublicKey::from_rsa(&raw.public_key.raw_bytes.0));
    Ok(key.ok().map(|key| Log { id: raw.log_id.key_id.0, key, valid }))
}

fn authority(raw: RawAuthority, org: &str) -> Result<Authority, String> {
    let mut certificates: Vec<_> = raw.cert_chain.certificates.into_iter().map(|c| c.raw_bytes.0).collect();
    let root = certificates.pop().ok_or("an authority without certificates")?;
    chain::parse(&root).map_err(|e| e.to_string())?;
    let root = Anchor { org: org.to_owned(), certificate: root };
    Ok(Authority { certificates, root, valid: period(&raw.valid_for)? })
}

fn period(raw: &RawPeriod) -> Result<Period, String> {
    let time = |text: &str| rfc3339(text).ok_or_else(|| format!("`{text}` is no time in UTC"));
    Ok(Period { from: time(&raw.start)?, to: raw.end.as_deref().map(time).transpose()? })
}

/// RFC 3339 in UTC; fractions of a second are dropped.
pub fn rfc3339(text: &str) -> Option<UnixTime> {
    let whole = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00"))?;
    let seconds = whole.split_once('.').map_or(whole, |(seconds, _)| seconds);
    let at: der::DateTime = format!("{seconds}Z").parse().ok()?;
    Some(UnixTime(at.unix_duration().as_secs()))
}
