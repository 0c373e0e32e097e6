//! Appraisal: evidence against reference values.
//!
//! [`appraise`] answers every question, always in the same order, also when an earlier one failed: `AK_REGISTERED`,
//! `AK_VALID`, `SIGNATURE`, `NONCE`, `PCR_SELECTION`, `PCR_BASELINE`, `LOG_REPLAY`, then `IMAGE:<instance>` and
//! `CONFIGURATION:<instance>` for each reference workload in the order of its key, then `CLAIMS`. A check that cannot
//! be made did not pass. The registered key and baseline are believed, never those that the evidence brings. Tests
//! are in `tests/`; `tests/evidence.json` was recorded from a TPM.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trust::{Digest, UnixTime};

use crate::{
    ak,
    evidence::{Claim, Evidence, Measurement, MeasurementKind},
    log::{self, LogError, Replay},
    quote::Quote,
};

/// Longest claims document read, bytes: a few hundred bytes for each instance of a site.
pub const MAX_CLAIMS_BYTES: usize = 16 << 20;

/// An attestation key as the operator registered it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AkRecord {
    /// The site whose TPM holds it.
    pub site: String,
    /// SubjectPublicKeyInfo, DER, base64.
    pub public_key: String,
    /// The PCR it quotes.
    pub pcr: u8,
    /// Value of that PCR before the launcher's first measurement.
    pub pcr_baseline: Digest,
    /// First moment of validity.
    pub not_before: UnixTime,
    /// Last moment of validity.
    pub not_after: UnixTime,
}

/// What the plan says must run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceValues {
    /// The key registered for the site.
    pub ak: AkRecord,
    /// By object key of the instance.
    pub workloads: BTreeMap<String, Workload>,
    /// Must they run in a trusted execution environment?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tee: bool,
}

/// Reference values of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Digest of the executable.
    pub image: Digest,
    /// Digest of the configuration document.
    pub configuration: Digest,
}

/// RFC 9334 attestation result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationResult {
    /// True when every check passed.
    pub affirming: bool,
    /// Every check, in order, passed or not.
    pub checks: Vec<Check>,
}

/// One check of an appraisal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Stable code: `AK_REGISTERED`, `AK_VALID`, `SIGNATURE`, `NONCE`, `PCR_SELECTION`, `PCR_BASELINE`, `LOG_REPLAY`,
    /// `IMAGE:<instance>`, `CONFIGURATION:<instance>`, `CLAIMS`, `TEE` when one is asked for.
    pub code: String,
    /// Did it pass?
    pub passed: bool,
    /// What was found, and what was expected where it failed.
    pub detail: String,
}

/// Appraises evidence for a nonce at a time.
#[must_use]
pub fn appraise(
    evidence: &Evidence,
    reference: &ReferenceValues,
    nonce: &Digest,
    at: UnixTime,
) -> AttestationResult {
    let quote = read_quote(evidence);
    let replay = log::replay(&reference.ak.pcr_baseline, evidence.log.iter().map(String::as_str));
    let claims = read_claims(&evidence.claims);
    let mut checks = vec![
        ak_registered(evidence, &reference.ak),
        ak_valid(&reference.ak, at),
        signature(evidence, &reference.ak),
        nonce_bound(quote.as_ref(), nonce, &evidence.claims),
        pcr_selection(quote.as_ref(), evidence, &reference.ak),
        pcr_baseline(evidence, &reference.ak),
        log_replay(quote.as_ref(), &replay),
    ];
    let measurements = replay.as_ref().map_or(&[][..], |r| &r.measurements);
    for (instance, workload) in &reference.workloads {
        let seen = Seen::of(instance, measurements, claims.as_deref().unwrap_or_default());
        checks.push(seen.image(instance, &workload.image));
        checks.push(seen.configuration(instance, &workload.configuration));
    }
    checks.push(claims_complete(claims.as_deref(), &reference.workloads));
    if reference.tee {
        checks.push(no_tee());
    }
    AttestationResult { affirming: checks.iter().all(|c| c.passed), checks }
}

/// What is not shown is not there: the claims are the launcher's own word, and a TPM knows nothing of memory.
fn no_tee() -> Check {
    let why = "a trusted execution environment is asked for; the evidence is a TPM quote, which shows what was launched, \
               and not that its memory is kept from the host";
    check("TEE", Err(why.to_owned()))
}

fn check(code: impl Into<String>, outcome: Result<String, String>) -> Check {
    let passed = outcome.is_ok();
    Check { code: code.into(), passed, detail: outcome.unwrap_or_else(|problem| problem) }
}

fn read_quote(evidence: &Evidence) -> Result<Quote, String> {
    let bytes = attest_bytes(evidence)?;
    Quote::parse(&bytes).map_err(|e| e.to_string())
}

fn attest_bytes(evidence: &Evidence) -> Result<Vec<u8>, String> {
    ak::decode("attest", &evidence.attest).map_err(|e| e.to_string())
}

fn read_claims(text: &str) -> Result<Vec<Claim>, String> {
    if text.len() > MAX_CLAIMS_BYTES {
        return Err(format!("claims of {} bytes; at most {MAX_CLAIMS_BYTES}", text.len()));
    }
    serde_json::from_str(text).map_err(|e| format!("the claims are not a JSON list of claims: {e}"))
}

fn ak_registered(evidence: &Evidence, record: &AkRecord) -> Check {
    let site = &record.site;
    check(
        "AK_REGISTERED",
        match evidence.ak == record.public_key {
            true => Ok(format!("the key registered for site `{site}`")),
            false => Err(format!(
                "signed by key {}, but key {} is registered for site `{site}`",
                Digest::of(&evidence.ak).short(),
                Digest::of(&record.public_key).short()
            )),
        },
    )
}

fn ak_valid(record: &AkRecord, at: UnixTime) -> Check {
    let (from, to) = (record.not_before, record.not_after);
    let inside = from <= at && at <= to;
    let words = format!("at {at}; the key is registered from {from} to {to}");
    check("AK_VALID", if inside { Ok(words) } else { Err(words) })
}

/// With the registered key, never with the evidence's own.
fn signature(evidence: &Evidence, record: &AkRecord) -> Check {
    let outcome = attest_bytes(evidence).and_then(|attest| {
        ak::verify(&record.public_key, &attest, &evidence.signature).map_err(|e| e.to_string())
    });
    check("SIGNATURE", outcome.map(|()| "ECDSA P-256/SHA-256 by the registered key".into()))
}

fn nonce_bound(quote: Result<&Quote, &String>, nonce: &Digest, claims: &str) -> Check {
    let expected = Evidence::qualifying_data(nonce, claims);
    let outcome = quote.map_err(Clone::clone).and_then(|q| match q.extra_data == expected.0 {
        true => Ok("extraData binds the nonce and the claims".into()),
        false => Err(format!(
            "extraData is not SHA-256(nonce ‖ SHA-256(claims)) = {expected}: another nonce than {nonce}, or other claims"
        )),
    });
    check("NONCE", outcome)
}

fn pcr_selection(quote: Result<&Quote, &String>, evidence: &Evidence, record: &AkRecord) -> Check {
    let wanted = record.pcr;
    let outcome = quote.map_err(Clone::clone).and_then(|q| {
        if wanted > log::MAX_PCR {
            return Err(format!("PCR {wanted} is registered; above {} software can reset it", log::MAX_PCR));
        }
        if evidence.pcr == wanted && q.selects_exactly(wanted) {
            return Ok(format!("exactly PCR {wanted} of the SHA-256 bank"));
        }
        let found: Vec<String> = q.selection.iter().map(ToString::to_string).collect();
        Err(format!("quoted {found:?}, claimed PCR {}, registered sha256:[{wanted}]", evidence.pcr))
    });
    check("PCR_SELECTION", outcome)
}

fn pcr_baseline(evidence: &Evidence, record: &AkRecord) -> Check {
    let (found, wanted) = (evidence.pcr_baseline, record.pcr_baseline);
    let outcome = match found == wanted {
        true => Ok(format!("the registered {wanted}")),
        false => Err(format!("{found}, registered is {wanted}")),
    };
    check("PCR_BASELINE", outcome)
}

fn log_replay(quote: Result<&Quote, &String>, replay: &Result<Replay, LogError>) -> Check {
    let outcome = quote.map_err(Clone::clone).and_then(|q| {
        let replay = replay.as_ref().map_err(|e| format!("the event log does not read: {e}"))?;
        let (count, value) = (replay.measurements.len(), replay.value);
        match q.pcr_digest == log::quoted_digest(&value).0 {
            true => Ok(format!("{count} measurements replay to the quoted {value}")),
            false => Err(format!("{count} measurements replay to {value}, which is not what was quoted")),
        }
    });
    check("LOG_REPLAY", outcome)
}

/// What the log and the claims say of one instance.
struct Seen<'a> {
    /// Image of the last launch.
    image: Option<Digest>,
    /// Configuration of the last launch or reconfiguration.
    configuration: Option<Digest>,
    /// Its claim, when there is exactly one.
    claim: Option<&'a Claim>,
}

impl<'a> Seen<'a> {
    fn of(instance: &str, measurements: &[Measurement], claims: &'a [Claim]) -> Self {
        let mut seen = Self { image: None, configuration: None, claim: None };
        for m in measurements.iter().filter(|m| m.kind.instance() == instance) {
            seen.configuration = Some(*m.kind.configuration());
            if let MeasurementKind::Launch { image, .. } = &m.kind {
                seen.image = Some(*image);
            }
        }
        let mut own = claims.iter().filter(|c| c.instance == instance);
        seen.claim = own.next().filter(|_| own.next().is_none());
        seen
    }

    fn image(&self, instance: &str, wanted: &Digest) -> Check {
        let outcome = agree(wanted, self.image, self.claim.map(|c| c.image), "launched");
        check(format!("IMAGE:{instance}"), outcome)
    }

    fn configuration(&self, instance: &str, wanted: &Digest) -> Check {
        let outcome = agree(wanted, self.configuration, self.claim.map(|c| c.configuration), "configured");
        check(format!("CONFIGURATION:{instance}"), outcome)
    }
}

/// The measured and the claimed digest must both be the reference value.
fn agree(
    wanted: &Digest,
    measured: Option<Digest>,
    claimed: Option<Digest>,
    verb: &str,
) -> Result<String, String> {
    let measured =
        measured.ok_or_else(|| format!("the event log has none {verb}; the reference is {wanted}"))?;
    if measured != *wanted {
        return Err(format!("last {verb} with {measured}; the reference is {wanted}"));
    }
    let claimed = claimed.ok_or("no single claim of the running process")?;
    if claimed != *wanted {
        return Err(format!("the running process has {claimed}; the reference is {wanted}"));
    }
    Ok(format!("{verb} and running with the reference {wanted}"))
}

/// Exactly one claim for each reference workload, none for another, nobody isolated.
fn claims_complete(claims: Result<&[Claim], &String>, workloads: &BTreeMap<String, Workload>) -> Check {
    let outcome = claims.map_err(Clone::clone).and_then(|claims| {
        let mut problems = Vec::new();
        for instance in workloads.keys() {
            match claims.iter().filter(|c| c.instance == *instance).count() {
                1 => {}
                0 => problems.push(format!("no claim for `{instance}`")),
                n => problems.push(format!("{n} claims for `{instance}`")),
            }
        }
        for claim in claims {
            if !workloads.contains_key(&claim.instance) {
                problems.push(format!("a claim for `{}`, which was not asked for", claim.instance));
            } else if claim.isolated {
                problems.push(format!("`{}` is isolated", claim.instance));
            }
        }
        match problems.is_empty() {
            true => Ok(format!("{} claims, as asked; nobody is isolated", claims.len())),
            false => Err(problems.join("; ")),
        }
    });
    check("CLAIMS", outcome)
}
