//! Requests: what an envelope asks of the ledger, and which state deciding it reads.

use std::{collections::VecDeque, rc::Rc};

use attestation::AkRecord;
use serde::de::DeserializeOwned;
use trust::{Digest, Envelope, dsse::MAX_SIGNATURES};

use crate::{
    intent::{INTENT_PAYLOAD, Intent, refusable_parameters},
    prepared::Prepared,
    provenance::{Package, package},
    records::{
        AK_PAYLOAD, ANCHOR_PAYLOAD, Anchor, Change, GENESIS_PAYLOAD, GOVERNANCE_PAYLOAD, Genesis, Governance,
        PACKAGE_PAYLOAD, PackageRecord, ReadSet, Revocable, STANDING_PAYLOAD, StandingGrant,
    },
    registry,
    state::{
        AK_INDEX, BadRecord, GENESIS, IntentRecord, POLICY_ACTIVE, ServiceRecord, Snapshot, ak_key,
        ak_used_key, governance_key, intent_key, operation_key, org_key, package_key, policy_key,
        refused_key, service_key, standing_key, standing_use_key, usage_key,
    },
};

/// Largest request (payload, signatures and certificates), bytes: a package record with its provenance documents fits many times over.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;
/// Most rounds of reading before [`read_set`] names nothing new: genesis and records, what those refer to, and the
/// organisations that signed the latter.
pub const MAX_READ_ROUNDS: usize = 3;

/// What an envelope asks for. Nothing about its signatures is known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Found the ledger.
    Genesis(Box<Genesis>),
    /// Register a package.
    Package(Box<PackageRecord>),
    /// Register a site's attestation key.
    AttestationKey(Box<AkRecord>),
    /// Change the infrastructure.
    Intent(Box<Intent>),
    /// Anchor an operation's evidence.
    Anchor(Box<Anchor>),
    /// Let the orchestrator act by itself.
    Standing(Box<StandingGrant>),
    /// Change the rules themselves.
    Governance(Box<Governance>),
}

/// Why an envelope is no request at all. It never becomes an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Nothing we know.
    #[error("payload type `{0}` is none that the ledger takes")]
    PayloadType(String),
    /// Beyond [`MAX_REQUEST_BYTES`].
    #[error("the request has {0} bytes; at most {MAX_REQUEST_BYTES} are accepted")]
    TooLarge(usize),
    /// None, or more than [`MAX_SIGNATURES`].
    #[error("{0} signatures; between 1 and {MAX_SIGNATURES} are accepted")]
    Signatures(usize),
    /// Not the document its type says.
    #[error("the payload is not a valid {kind}: {problem}")]
    Payload {
        /// `intent`, `package record`, …
        kind: &'static str,
        /// What the decoder said, with line and column.
        problem: String,
    },
    /// A record of the state that the request leads to cannot be read.
    #[error(transparent)]
    State(#[from] BadRecord),
}

impl Request {
    /// Parses the payload by its type.
    pub fn parse(envelope: &Envelope) -> Result<Self, Malformed> {
        let signed: usize = envelope.signatures.iter().map(|s| s.sig.len() + s.certificate.len()).sum();
        let bytes = envelope.payload_type.len() + envelope.payload.len() + signed;
        if bytes > MAX_REQUEST_BYTES {
            return Err(Malformed::TooLarge(bytes));
        }
        let signatures = envelope.signatures.len();
        if !(1..=MAX_SIGNATURES).contains(&signatures) {
            return Err(Malformed::Signatures(signatures));
        }
        Ok(match envelope.payload_type.as_str() {
            GENESIS_PAYLOAD => Self::Genesis(document(envelope, "genesis")?),
            PACKAGE_PAYLOAD => Self::Package(document(envelope, "package record")?),
            AK_PAYLOAD => Self::AttestationKey(document(envelope, "attestation key")?),
            INTENT_PAYLOAD => Self::Intent(document(envelope, "intent")?),
            ANCHOR_PAYLOAD => Self::Anchor(document(envelope, "anchor")?),
            STANDING_PAYLOAD => Self::Standing(document(envelope, "standing grant")?),
            GOVERNANCE_PAYLOAD => Self::Governance(document(envelope, "governance change")?),
            other => return Err(Malformed::PayloadType(other.to_owned())),
        })
    }

    /// `genesis`, `package`, `attestation-key`, `intent`, `anchor`, `standing-grant`, `governance`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Genesis(_) => "genesis",
            Self::Package(_) => "package",
            Self::AttestationKey(_) => "attestation-key",
            Self::Intent(_) => "intent",
            Self::Anchor(_) => "anchor",
            Self::Standing(_) => "standing-grant",
            Self::Governance(_) => "governance",
        }
    }
}

fn document<T: DeserializeOwned>(envelope: &Envelope, kind: &'static str) -> Result<T, Malformed> {
    serde_json::from_slice(&envelope.payload).map_err(|e| Malformed::Payload { kind, problem: e.to_string() })
}

/// The state that deciding `request` reads, as far as `known` tells.
///
/// A host starts with an empty snapshot, reads what is named, and asks again with what it read until nothing new is
/// named: at most [`MAX_READ_ROUNDS`] rounds ([`snapshot`] does it).
pub fn read_set(request: &Envelope, known: &Snapshot) -> Result<ReadSet, Malformed> {
    named(&Prepared::read(request.clone())?, known)
}

fn named(request: &Prepared, known: &Snapshot) -> Result<ReadSet, Malformed> {
    let parsed = request.request();
    let mut keys = ReadSet::from([GENESIS.to_owned()]);
    if let Request::Genesis(_) = parsed {
        return Ok(keys);
    }
    keys.insert(POLICY_ACTIVE.to_owned());
    if let Some(digest) = known.get::<Digest>(POLICY_ACTIVE)? {
        keys.insert(policy_key(&digest));
    }
    keys.extend(request.orgs().iter().cloned());
    match parsed {
        Request::Genesis(_) => {}
        Request::Package(record) => {
            keys.insert(package_key(&record.digest));
        }
        Request::AttestationKey(ak) => {
            keys.extend([AK_INDEX.to_owned(), ak_key(&ak.site), ak_used_key(&registry::ak_digest(ak))]);
        }
        Request::Intent(intent) => intent_keys(intent, known, &mut keys)?,
        Request::Anchor(anchor) => {
            keys.extend([operation_key(&anchor.operation_id), intent_key(&anchor.intent_id)]);
            if let Some(r) = known.get::<IntentRecord>(&intent_key(&anchor.intent_id))? {
                keys.extend([service_key(&r.tenant, &r.service), usage_key(&r.tenant)]);
            }
        }
        Request::Standing(grant) => {
            keys.insert(standing_key(&grant.id));
        }
        Request::Governance(governance) => governance_keys(governance, &mut keys),
    }
    Ok(keys)
}

fn intent_keys(intent: &Intent, known: &Snapshot, keys: &mut ReadSet) -> Result<(), Malformed> {
    let service = service_key(&intent.tenant, &intent.service);
    keys.extend([intent_key(&intent.id), usage_key(&intent.tenant), AK_INDEX.to_owned()]);
    for site in known.get::<Vec<String>>(AK_INDEX)?.unwrap_or_default() {
        keys.insert(ak_key(&site));
    }
    for id in &intent.depends_on {
        keys.insert(intent_key(id));
        let record = known.get::<IntentRecord>(&intent_key(id))?;
        keys.extend(record.and_then(|r| r.operation_id).map(|operation| operation_key(&operation)));
    }
    if let Some(standing) = &intent.standing {
        keys.extend([standing_key(&standing.grant), standing_use_key(&standing.grant, &intent.service)]);
    }
    if let Some((nsd, parameters)) = intent.action.names() {
        package_keys(&nsd, known, keys)?;
        let nsd_package = package(known, &nsd)?;
        let constituents = nsd_package.iter().flat_map(|p| p.record.constituents.values().copied());
        let named = constituents.chain([nsd]).chain(refusable_parameters(parameters));
        keys.extend(named.map(|digest| refused_key(&intent.tenant, &digest)));
    }
    if let Some(record) = known.get::<ServiceRecord>(&service)? {
        for digest in record.packages.values() {
            package_keys(digest, known, keys)?;
        }
    }
    keys.insert(service);
    Ok(())
}

fn governance_keys(governance: &Governance, keys: &mut ReadSet) {
    keys.insert(governance_key(&governance.id));
    match &governance.change {
        Change::Policy { .. } => {}
        Change::Organisation { name, .. } => {
            keys.insert(org_key(name));
        }
        Change::Revoke { what } => {
            keys.insert(match what {
                Revocable::Intent { id } => intent_key(id),
                Revocable::StandingGrant { id } => standing_key(id),
                Revocable::Package { digest } => package_key(digest),
                Revocable::AttestationKey { site } => ak_key(site),
            });
        }
    }
}

/// A package, its constituents (one level: a VNF package has none), and everybody who signed any of it.
fn package_keys(digest: &Digest, known: &Snapshot, keys: &mut ReadSet) -> Result<(), Malformed> {
    let Some(package) = package_and_orgs(digest, known, keys)? else { return Ok(()) };
    for constituent in package.record.constituents.values() {
        package_and_orgs(constituent, known, keys)?;
    }
    Ok(())
}

fn package_and_orgs(
    digest: &Digest,
    known: &Snapshot,
    keys: &mut ReadSet,
) -> Result<Option<Rc<Package>>, Malformed> {
    keys.insert(package_key(digest));
    let Some(package) = package(known, digest)? else { return Ok(None) };
    keys.extend(package.orgs.iter().cloned());
    Ok(Some(package))
}

/// Why a snapshot could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError<E> {
    /// The request.
    #[error(transparent)]
    Malformed(Malformed),
    /// The state could not be read.
    #[error("state could not be read")]
    Read(#[source] E),
}

/// Reads the snapshot that deciding `request` needs, through `read`, which answers each key at most once.
pub fn snapshot<E>(
    request: &Envelope,
    read: impl FnMut(&str) -> Result<Option<Vec<u8>>, E>,
) -> Result<Snapshot, SnapshotError<E>> {
    snapshot_of(&Prepared::read(request.clone()).map_err(SnapshotError::Malformed)?, read)
}

/// [`snapshot`], of a request that was read before.
pub fn snapshot_of<E>(
    request: &Prepared,
    mut read: impl FnMut(&str) -> Result<Option<Vec<u8>>, E>,
) -> Result<Snapshot, SnapshotError<E>> {
    let mut reading = Reading::default();
    while let Some(key) = reading.next(request).map_err(SnapshotError::Malformed)? {
        let value = read(&key).map_err(SnapshotError::Read)?;
        reading.answer(key, value);
    }
    Ok(reading.into_snapshot())
}

/// A snapshot that is being read, one key after the other: for a host whose state answers later.
#[derive(Debug, Default)]
pub struct Reading {
    known: Snapshot,
    asked: ReadSet,
    /// Named, and to be read in this round.
    next: VecDeque<String>,
    rounds: usize,
}

impl Reading {
    /// The key to read next, each at most once; `None`: everything is there. Always of the same request.
    pub fn next(&mut self, request: &Prepared) -> Result<Option<String>, Malformed> {
        if self.next.is_empty() && self.rounds <= MAX_READ_ROUNDS {
            let named = named(request, &self.known)?;
            self.next = named.difference(&self.asked).cloned().collect();
            self.rounds += 1;
        }
        Ok(self.next.pop_front())
    }

    /// What is under a key that [`Self::next`] named.
    pub fn answer(&mut self, key: String, value: Option<Vec<u8>>) {
        if let Some(value) = value {
            self.known.insert(key.clone(), value);
        }
        self.asked.insert(key);
    }

    /// What was read.
    #[must_use]
    pub fn into_snapshot(self) -> Snapshot {
        self.known
    }
}
