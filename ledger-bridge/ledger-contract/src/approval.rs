//! An approval: a ledger entry with its proof, verified by who acts on it.
//!
//! The actuator trusts no ledger client and no ledger host: from its trust roots alone it verifies the log's
//! checkpoint, the inclusion of the entry, the tenant's signature, and that the grant is what the intent asked for.
//! Whether the approval was consumed before is the journal's to say, not this module's.

use trust::{
    Digest, Envelope, Identity, TrustRoots, UnixTime,
    identity::ChannelRoot,
    merkle,
    note::{Checkpoint, NoteVerifier},
};

use crate::{
    channel::{self, ChannelProof},
    constitution::Constitution,
    evidence::{InclusionProof, ProvenEntry},
    intent::{INTENT_PAYLOAD, Intent, IntentKind, Sensitivity, ns_instance_id_of},
    records::{ENTRY_VERSION, Entry, Event, Grant},
    transaction::SealedEntry,
};

/// What the actuator accepts.
#[derive(Debug, Clone, Copy)]
pub struct ActuatorPolicy<'a> {
    /// The ledger, its organisations and log keys, and the policies that are accepted, at every position.
    pub constitution: &'a Constitution,
    /// Now.
    pub at: UnixTime,
}

/// An approval that verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approved {
    /// The entry.
    pub entry: Entry,
    /// The intent.
    pub intent: Intent,
    /// What it entitles to.
    pub grant: Grant,
    /// Who signed the intent.
    pub tenant_identity: Identity,
    /// Index in the log, or in the mirror of a channel.
    pub position: u64,
    /// Where it is in the ledger's order ([`ProvenEntry::place`]).
    pub place: u64,
}

/// Why an approval is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the approval is refused ({}): {detail}", .code.as_str())]
pub struct Refusal {
    /// One per cause, stable.
    pub code: RefusalCode,
    /// What was compared with what.
    pub detail: String,
}

/// Causes of a [`Refusal`], in the order in which they are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalCode {
    /// No accepted log signed the checkpoint.
    CheckpointSignature,
    /// The entry is not in the tree of the checkpoint.
    Inclusion,
    /// The bytes are not an entry in its one encoding.
    EntryFormat,
    /// The entry or its checkpoint is of another ledger.
    WrongLedger,
    /// The entry says another position than the one it is at.
    Position,
    /// The trust roots' channel, or its configuration since, cannot be used.
    Channel,
    /// No valid transaction of the channel has decided it.
    Transaction,
    /// The entry's request is not an intent.
    NotAnIntent,
    /// The tenant's signature or certificate does not verify at the entry's time.
    IntentSignature,
    /// The signer's role is not `tenant`.
    RoleNotAllowed,
    /// The signer speaks for another tenant.
    TenantMismatch,
    /// The verdict is not an approval, a rule did not pass, or there is no grant.
    NotApproved,
    /// The grant is not for this intent.
    GrantMismatch,
    /// Who signed it was revoked after the decision.
    SignerRevoked,
    /// Decided under a policy bundle that was not in force, or is not accepted here.
    PolicyNotAccepted,
    /// Too late to start.
    Expired,
    /// The entry lies in the future of who verifies.
    NotYet,
    /// A change of policy or organisations was not made as the rules before it ask.
    Constitution,
}

impl RefusalCode {
    /// `UPPER_SNAKE_CASE`, as reported and tested for.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CheckpointSignature => "CHECKPOINT_SIGNATURE",
            Self::Inclusion => "INCLUSION",
            Self::EntryFormat => "ENTRY_FORMAT",
            Self::WrongLedger => "WRONG_LEDGER",
            Self::Position => "POSITION",
            Self::Channel => "CHANNEL",
            Self::Transaction => "TRANSACTION",
            Self::NotAnIntent => "NOT_AN_INTENT",
            Self::IntentSignature => "INTENT_SIGNATURE",
            Self::RoleNotAllowed => "ROLE_NOT_ALLOWED",
            Self::TenantMismatch => "TENANT_MISMATCH",
            Self::NotApproved => "NOT_APPROVED",
            Self::GrantMismatch => "GRANT_MISMATCH",
            Self::SignerRevoked => "SIGNER_REVOKED",
            Self::Constitution => "CONSTITUTION",
            Self::PolicyNotAccepted => "POLICY_NOT_ACCEPTED",
            Self::Expired => "EXPIRED",
            Self::NotYet => "NOT_YET",
        }
    }
}

impl std::fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far the ledger's clock may be ahead of the verifier's, seconds: ledger time never goes back, so after a
/// correction of its clock it runs ahead for as long.
pub const MAX_CLOCK_SKEW_S: u64 = 300;

pub(crate) type Checked<T> = Result<T, Refusal>;

pub(crate) fn refuse<T>(code: RefusalCode, detail: impl Into<String>) -> Checked<T> {
    Err(Refusal { code, detail: detail.into() })
}

pub(crate) fn ensure(holds: bool, code: RefusalCode, detail: impl FnOnce() -> String) -> Checked<()> {
    if holds { Ok(()) } else { refuse(code, detail()) }
}

/// Verifies an approval.
pub fn verify(approval: &ProvenEntry, policy: &ActuatorPolicy<'_>) -> Result<Approved, Refusal> {
    let rules = policy.constitution;
    let approved = authentic(approval, rules)?;
    let who = &approved.tenant_identity;
    ensure(!rules.revoked_since(who), RefusalCode::SignerRevoked, || {
        format!("the certificate of {who} (serial {}) was revoked since", who.serial)
    })?;
    let decided_by = approved.grant.policy;
    ensure(rules.accepts(approved.place, &decided_by), RefusalCode::PolicyNotAccepted, || {
        format!(
            "decided under policy bundle {decided_by}, which was not in force then, or is not accepted here"
        )
    })?;
    let (now, until) = (policy.at, approved.grant.not_after);
    ensure(now <= until, RefusalCode::Expired, || format!("it is {now}; the grant was valid to {until}"))?;
    let decided = approved.entry.time;
    ensure(decided <= now.plus(MAX_CLOCK_SKEW_S), RefusalCode::NotYet, || {
        format!("it was decided at {decided}, but it is only {now} here")
    })?;
    Ok(approved)
}

/// An approval that is genuine, whether or not it may be acted upon: its signer may have been revoked since, its policy
/// not be accepted here, its time be over.
pub fn authentic(approval: &ProvenEntry, rules: &Constitution) -> Result<Approved, Refusal> {
    let roots = &rules.at(approval.place()).roots;
    let entry = proven_entry(approval, roots)?;
    ensure(entry.ledger == rules.ledger(), RefusalCode::WrongLedger, || {
        format!("it is of ledger `{}`, approvals of `{}` count here", entry.ledger, rules.ledger())
    })?;
    approved_intent(approval, entry, roots)
}

/// An entry whose encoding, ledger and position hold together, and which is where its proof says: in the log, or in a valid
/// transaction of the channel, where the trust roots pin one.
pub(crate) fn proven_entry(proven: &ProvenEntry, roots: &TrustRoots) -> Checked<Entry> {
    match (&proven.channel, &roots.channel) {
        (None, None) => in_log(proven, roots),
        (Some(proof), Some(root)) => in_channel(proven, proof, root, roots),
        (None, Some(_)) => refuse(
            RefusalCode::Channel,
            "the trust roots pin a Fabric channel, and the entry brings no proof of one",
        ),
        (Some(_), None) => {
            refuse(RefusalCode::Channel, "the trust roots pin no Fabric channel: name it in trust.json")
        }
    }
}

/// The entry that a proof is of, verified from trust roots alone: whatever kind of request it decided.
pub fn entry(proven: &ProvenEntry, roots: &TrustRoots) -> Result<Entry, Refusal> {
    proven_entry(proven, roots)
}

fn in_log(proven: &ProvenEntry, roots: &TrustRoots) -> Checked<Entry> {
    let ledger = included(&proven.proof, proven.entry.as_bytes(), roots)?;
    let entry = encoded(proven)?;
    of_ledger(&entry, &ledger, "checkpoint")?;
    let index = proven.proof.index;
    ensure(entry.position == index, RefusalCode::Position, || {
        format!("the entry says position {}, it is at {index}", entry.position)
    })?;
    Ok(entry)
}

fn in_channel(
    proven: &ProvenEntry,
    proof: &ChannelProof,
    root: &ChannelRoot,
    roots: &TrustRoots,
) -> Checked<Entry> {
    let entry = encoded(proven)?;
    let sealed = SealedEntry::seal(entry.clone());
    channel::decided(proof, root, &sealed)?;
    // A mirror says only how many entries were before: who trusts none needs none.
    if !roots.logs.is_empty() {
        let ledger = included(&proven.proof, &sealed.to_bytes(), roots)?;
        of_ledger(&entry, &ledger, "mirror's checkpoint")?;
    }
    Ok(entry)
}

/// The entry has the format of this program, in its one encoding.
fn encoded(proven: &ProvenEntry) -> Checked<Entry> {
    let entry: Entry = serde_json::from_str(&proven.entry)
        .or_else(|e| refuse(RefusalCode::EntryFormat, format!("the entry cannot be read: {e}")))?;
    ensure((1..=ENTRY_VERSION).contains(&entry.v), RefusalCode::EntryFormat, || {
        format!("the entry has format {}, this program reads 1 to {ENTRY_VERSION}", entry.v)
    })?;
    ensure(entry.to_bytes() == proven.entry.as_bytes(), RefusalCode::EntryFormat, || {
        "the entry is not in its canonical encoding".to_owned()
    })?;
    Ok(entry)
}

fn of_ledger(entry: &Entry, ledger: &str, what: &str) -> Checked<()> {
    ensure(entry.ledger == ledger, RefusalCode::WrongLedger, || {
        format!("the entry is of ledger `{}`, the {what} of `{ledger}`", entry.ledger)
    })
}

/// The ledger whose signed tree has this leaf.
fn included(proof: &InclusionProof, leaf: &[u8], roots: &TrustRoots) -> Checked<String> {
    let checkpoint = checkpoint(&proof.checkpoint, roots)?;
    let (index, size) = (proof.index, checkpoint.size);
    merkle::verify_inclusion(merkle::leaf_hash(leaf), index, size, &proof.path, checkpoint.root).or_else(
        |e| refuse(RefusalCode::Inclusion, format!("inclusion proof of entry {index} of {size}: {e}")),
    )?;
    Ok(checkpoint.origin)
}

fn checkpoint(note: &str, roots: &TrustRoots) -> Checked<Checkpoint> {
    let mut problem = "no log key is accepted".to_owned();
    for key in &roots.logs {
        match NoteVerifier::parse(key).and_then(|v| v.checkpoint(note)) {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(e) => problem = e.to_string(),
        }
    }
    refuse(RefusalCode::CheckpointSignature, format!("the checkpoint: {problem}"))
}

/// The intent of an entry, verified by itself at the entry's time, and the grant that fits it.
pub(crate) fn approved_intent(proven: &ProvenEntry, entry: Entry, roots: &TrustRoots) -> Checked<Approved> {
    ensure(entry.request.payload_type == INTENT_PAYLOAD, RefusalCode::NotAnIntent, || {
        format!("the entry's request is a `{}`", entry.request.payload_type)
    })?;
    let who = signer(&entry.request, roots, entry.time)
        .or_else(|e| refuse(RefusalCode::IntentSignature, format!("the intent's signature: {e}")))?;
    let intent: Intent = serde_json::from_slice(&entry.request.payload)
        .or_else(|e| refuse(RefusalCode::NotAnIntent, format!("the request is no intent: {e}")))?;
    entitled(&who, &intent)?;
    let grant = approved_grant(&entry)?;
    matches(&grant, &intent, &entry).or_else(|what| refuse(RefusalCode::GrantMismatch, what))?;
    let (position, place) = (proven.proof.index, proven.place());
    Ok(Approved { entry, intent, grant, tenant_identity: who, position, place })
}

/// A tenant for its own services; the operator in an emergency; the orchestrator under a standing grant.
fn entitled(who: &Identity, intent: &Intent) -> Checked<()> {
    let by_itself = intent.standing.is_some();
    let role = if by_itself { "orchestrator" } else { "tenant" };
    if intent.emergency.is_some() && !by_itself && who.role() == "operator" {
        return Ok(());
    }
    ensure(who.role() == role, RefusalCode::RoleNotAllowed, || {
        format!("{who} has the role `{}`, not `{role}`", who.role())
    })?;
    ensure(by_itself || who.tenant() == intent.tenant, RefusalCode::TenantMismatch, || {
        format!("{who} speaks for tenant `{}`, the intent is `{}`'s", who.tenant(), intent.tenant)
    })
}

/// Who signed first; all signatures must verify.
pub(crate) fn signer(envelope: &Envelope, roots: &TrustRoots, at: UnixTime) -> Result<Identity, String> {
    let verified = envelope.verify(roots, at).map_err(|e| e.to_string())?;
    verified.signers.into_iter().next().ok_or_else(|| "there is none".to_owned())
}

fn approved_grant(entry: &Entry) -> Checked<Grant> {
    let verdict = &entry.verdict;
    if let Some(rule) = verdict.rules.iter().find(|r| !r.passed) {
        return refuse(
            RefusalCode::NotApproved,
            format!("{} refused ({}): {}", rule.rule, rule.code, rule.detail),
        );
    }
    ensure(verdict.approved && !verdict.rules.is_empty(), RefusalCode::NotApproved, || {
        "the verdict is not an approval".to_owned()
    })?;
    match &entry.event {
        Some(Event::IntentApproved { grant }) => Ok(Grant::clone(grant)),
        _ => refuse(RefusalCode::NotApproved, "the entry grants nothing"),
    }
}

/// Is the grant what this intent asked for, and no more?
fn matches(grant: &Grant, intent: &Intent, entry: &Entry) -> Result<(), String> {
    let same = |what: &str, granted: &dyn std::fmt::Display, asked: &dyn std::fmt::Display| {
        let (granted, asked) = (granted.to_string(), asked.to_string());
        if granted == asked { Ok(()) } else { Err(format!("{what}: granted `{granted}`, asked `{asked}`")) }
    };
    same("intent digest", &grant.intent, &Digest::of(&entry.request.payload))?;
    same("intent id", &grant.intent_id, &intent.id)?;
    same("ledger", &grant.ledger, &entry.ledger)?;
    same("tenant", &grant.tenant, &intent.tenant)?;
    same("action", &grant.action, &intent.action.name())?;
    same("not after", &grant.not_after, &intent.not_after)?;
    same("policy", &grant.policy, &entry.verdict.policy)?;
    let standing = |s: Option<&str>| s.unwrap_or("none").to_owned();
    let asked = intent.standing.as_ref().map(|s| s.grant.as_str());
    same("standing grant", &standing(grant.standing.as_deref()), &standing(asked))?;
    if intent.emergency.is_none() && !grant.waived.is_empty() {
        return Err(format!("{} was waived, but no emergency was declared", grant.waived.join(", ")));
    }
    let leased = match &intent.action {
        IntentKind::Deploy(deploy) => Some(deploy.lease_s),
        IntentKind::Update(update) => update.lease_s,
        _ => None,
    };
    let until = |t: Option<UnixTime>| t.map_or("none".to_owned(), |t| t.to_string());
    same("end of the lease", &until(grant.lease_until), &until(leased.map(|s| entry.time.plus(s))))?;
    if let Some((nsd, _)) = intent.action.names()
        && !grant.packages.values().any(|d| *d == nsd)
    {
        return Err(format!("packages: {nsd} is not among those granted"));
    }
    let IntentKind::Deploy(deploy) = &intent.action else { return Ok(()) };
    let id = ns_instance_id_of(entry.v, &intent.tenant, &intent.service, &intent.id);
    same("NS instance", &grant.ns_instance_id, &id)?;
    if deploy.sensitivity >= Sensitivity::Confidential && !grant.attestation_required {
        return Err(format!(
            "attestation: {:?} services are attested, the grant does not ask for it",
            deploy.sensitivity
        ));
    }
    Ok(())
}
