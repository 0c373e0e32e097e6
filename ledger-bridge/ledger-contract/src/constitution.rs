//! Which rules were in force when: organisations and policy at every position, followed from what a verifier pins.
//!
//! A verifier starts from its trust roots and, if it acts, the policy bundles that it accepts. The genesis, and every
//! change of policy or organisations since, come with their proofs. Each is checked again here, not believed: in the log, once,
//! signed by members known before it, by as many and such people as the policy before it asks for. What was so changed
//! is accepted as what it changed was. So an orchestrator follows a policy that was changed rightly, and nothing else.
//! Why: ADR 0018.
//!
//! A policy change that is left out is noticed (the next one supersedes another digest, and decisions cite another
//! bundle). A revocation that is left out is not: whoever needs today's revocations asks today's ledger, or keeps them in
//! its own trust roots, which count at every position.
//!
//! Pure. Tests: `tests/governance.rs`.

use std::collections::{BTreeMap, BTreeSet};

use trust::{Digest, Identity, TrustRoots, UnixTime, identity::OrgRoot};

use crate::{
    approval::{Refusal, RefusalCode, proven_entry},
    authority::vouched,
    evidence::ProvenEntry,
    policy::PolicyData,
    records::{Change, Entry, Event, GENESIS_PAYLOAD, GOVERNANCE_PAYLOAD, Genesis, Governance, PolicyBundle},
};

/// Most changes that are followed: a consortium changes its rules some times a year.
pub const MAX_CHANGES: usize = 10_000;

/// The rules of a stretch of the ledger. Where it begins and ends is said in places ([`ProvenEntry::place`]).
#[derive(Debug, Clone)]
pub struct Epoch {
    /// First place that is decided by them.
    pub from: u64,
    /// Organisations then, and the log's keys.
    pub roots: TrustRoots,
    /// The bundle in force, when the genesis is known.
    pub policy: Option<Digest>,
    /// Is it accepted here: pinned, or reached from a pinned one?
    pub accepted: bool,
}

/// What a verifier pins, and what it has followed since.
#[derive(Debug, Clone)]
pub struct Constitution {
    ledger: String,
    pinned: TrustRoots,
    accepted: BTreeSet<Digest>,
    /// Organisation that operates, and the data of the bundle in force; once the genesis is known.
    known: Option<(String, PolicyData)>,
    epochs: Vec<Epoch>,
    /// Ids of the changes that were followed: each counts once.
    ids: BTreeSet<String>,
    /// Ledger time of the last of them.
    time: UnixTime,
    proofs: Vec<ProvenEntry>,
}

type Checked<T> = Result<T, Refusal>;

fn refuse<T>(detail: impl Into<String>) -> Checked<T> {
    Err(Refusal { code: RefusalCode::Constitution, detail: detail.into() })
}

impl Constitution {
    /// What a verifier pins: trust roots, and the policies whose decisions it accepts.
    #[must_use]
    pub fn pinned(ledger: &str, roots: &TrustRoots, accepted: BTreeSet<Digest>) -> Self {
        let first = Epoch { from: 0, roots: roots.clone(), policy: None, accepted: false };
        Self {
            ledger: ledger.to_owned(),
            pinned: roots.clone(),
            accepted,
            known: None,
            epochs: vec![first],
            ids: BTreeSet::new(),
            time: UnixTime(0),
            proofs: Vec::new(),
        }
    }

    /// The same, and the changes since: the genesis first, then in order.
    pub fn followed(mut self, chain: &[ProvenEntry]) -> Checked<Self> {
        chain.iter().try_for_each(|proven| self.follow(proven))?;
        Ok(self)
    }

    /// The name of its ledger.
    #[must_use]
    pub fn ledger(&self) -> &str {
        &self.ledger
    }

    /// The rules that decided the entry at `place`.
    #[must_use]
    pub fn at(&self, place: u64) -> &Epoch {
        let after = self.epochs.partition_point(|e| e.from <= place);
        &self.epochs[after.saturating_sub(1)]
    }

    /// The newest rules that are known.
    #[must_use]
    pub fn now(&self) -> &Epoch {
        self.at(u64::MAX)
    }

    /// Place of the last change that was followed.
    #[must_use]
    pub fn followed_to(&self) -> Option<u64> {
        self.proofs.last().map(ProvenEntry::place)
    }

    /// The proofs that a stranger needs to follow to `place`; none when the rules never changed.
    #[must_use]
    pub fn proofs(&self, place: u64) -> Vec<ProvenEntry> {
        let until: Vec<_> = self.proofs.iter().filter(|p| p.place() < place).cloned().collect();
        if until.len() > 1 { until } else { Vec::new() }
    }

    /// May what was decided at `place` under `policy` be acted upon?
    #[must_use]
    pub fn accepts(&self, place: u64, policy: &Digest) -> bool {
        let epoch = self.at(place);
        match epoch.policy {
            None => self.accepted.contains(policy),
            Some(in_force) => in_force == *policy && epoch.accepted,
        }
    }

    /// Is a policy accepted at any place?
    #[must_use]
    pub fn ever_accepted(&self, policy: &Digest) -> bool {
        self.accepted.contains(policy) || self.epochs.iter().any(|e| e.accepted && e.policy == Some(*policy))
    }

    /// Was the certificate of who signed revoked since, or did its organisation leave, as far as is known?
    #[must_use]
    pub fn revoked_since(&self, who: &Identity) -> bool {
        if !self.now().roots.orgs.contains_key(&who.org) {
            return true;
        }
        let lists = [&self.now().roots, &self.pinned];
        lists
            .iter()
            .any(|roots| roots.orgs.get(&who.org).is_some_and(|root| root.revoked.contains(&who.serial)))
    }

    /// Whose certificate it is, by the newest rules: certified and not revoked, of a role and for a tenant that its
    /// organisation may vouch for. As far as a signature by it would count.
    pub fn member(&self, certificate: &[u8], at: UnixTime) -> Result<Identity, String> {
        let who = self.now().roots.verify(certificate, at).map_err(|e| e.to_string())?;
        if self.revoked_since(&who) {
            return Err(format!("the certificate of {who} (serial {}) was revoked", who.serial));
        }
        if let Some((operator, rules)) = &self.known {
            vouched(operator, rules, &who).map_err(|f| f.detail)?;
        }
        Ok(who)
    }

    /// One more entry: the genesis, or a change. An entry followed before is passed over.
    pub fn follow(&mut self, proven: &ProvenEntry) -> Checked<()> {
        if self.followed_to().is_some_and(|to| proven.place() <= to) {
            return Ok(());
        }
        if self.proofs.len() >= MAX_CHANGES {
            return refuse(format!("more than {MAX_CHANGES} changes of the rules"));
        }
        let entry = proven_entry(proven, &self.pinned)?;
        if entry.ledger != self.ledger {
            return refuse(format!("entry {} is of ledger `{}`", entry.position, entry.ledger));
        }
        if !entry.verdict.approved || entry.verdict.rules.iter().any(|r| !r.passed) {
            return refuse(format!("entry {} changed nothing: it was refused", entry.position));
        }
        match entry.request.payload_type.as_str() {
            GENESIS_PAYLOAD if entry.position == 0 => self.found(&entry)?,
            GOVERNANCE_PAYLOAD => {
                if !self.change(&entry, proven.place())? {
                    return Ok(());
                }
            }
            other => {
                return refuse(format!("entry {} is a `{other}`, no change of the rules", entry.position));
            }
        }
        self.time = entry.time;
        self.proofs.push(proven.clone());
        Ok(())
    }

    fn found(&mut self, entry: &Entry) -> Checked<()> {
        let who = self.signers(entry, 0)?;
        let genesis: Genesis = serde_json::from_slice(&entry.request.payload)
            .or_else(|e| refuse(format!("the genesis: {e}")))?;
        let by_operator = who.first().is_some_and(|w| w.role() == "operator" && w.org == genesis.operator);
        if genesis.ledger != self.ledger || !by_operator {
            return refuse("the genesis is not its operator's, or of another ledger");
        }
        let policy = genesis.policy.digest();
        let data = data(&genesis.policy)?;
        self.known = Some((genesis.operator, data));
        let roots = self.pinned.clone();
        let accepted = self.accepted.contains(&policy);
        self.epochs = vec![Epoch { from: 0, roots, policy: Some(policy), accepted }];
        Ok(())
    }

    /// False when who decides what is as before.
    fn change(&mut self, entry: &Entry, place: u64) -> Checked<bool> {
        let Some((operator, rules)) = &self.known else {
            return refuse(format!("entry {} changes rules whose genesis is not known here", entry.position));
        };
        let governance: Governance = serde_json::from_slice(&entry.request.payload)
            .or_else(|e| refuse(format!("the change at {}: {e}", entry.position)))?;
        if governance.ledger != self.ledger || entry.time > governance.not_after {
            return refuse(format!(
                "the change at {} is for another ledger, or was too late",
                entry.position
            ));
        }
        // A forger of the log has every change that was ever signed at hand: none counts twice, or after its time.
        if self.ids.contains(&governance.id) || entry.time < self.time {
            let why = format!("change `{}` was followed before, or its time goes back", governance.id);
            return refuse(format!("the change at {}: {why}", entry.position));
        }
        let signers = self.signers(entry, place)?;
        entitled(operator, rules, &governance.change, &signers)
            .or_else(|why| refuse(format!("the change at {}: {why}", entry.position)))?;
        let mut next = Epoch { from: place + 1, ..self.now().clone() };
        match &governance.change {
            Change::Policy { bundle, supersedes } => {
                let digest = bundle.digest();
                let event = Event::PolicyChanged { before: *supersedes, now: digest };
                if next.policy != Some(*supersedes) || entry.event != Some(event) {
                    return refuse(format!(
                        "the policy change at {} supersedes {supersedes}, which was not in force: a change is missing",
                        entry.position
                    ));
                }
                let operator = operator.clone();
                self.known = Some((operator, data(bundle)?));
                next.accepted = next.accepted || self.accepted.contains(&digest);
                next.policy = Some(digest);
            }
            Change::Organisation { name, root } => {
                if root.is_none() && name == operator {
                    return refuse("the operator cannot leave");
                }
                self.admit(&mut next.roots.orgs, name, root.as_ref());
            }
            // Of no consequence for who decides what.
            Change::Revoke { .. } => return Ok(false),
        }
        self.epochs.push(next);
        self.ids.insert(governance.id);
        Ok(true)
    }

    /// What this verifier has revoked by itself stays revoked.
    fn admit(&self, orgs: &mut BTreeMap<String, OrgRoot>, name: &str, root: Option<&OrgRoot>) {
        let Some(root) = root else { return drop(orgs.remove(name)) };
        let mut root = root.clone();
        if let Some(own) = self.pinned.orgs.get(name) {
            root.revoked.extend(own.revoked.iter().cloned());
        }
        orgs.insert(name.to_owned(), root);
    }

    fn signers(&self, entry: &Entry, place: u64) -> Checked<Vec<Identity>> {
        let roots = &self.at(place).roots;
        match entry.request.verify(roots, entry.time) {
            Ok(verified) => Ok(verified.signers),
            Err(e) => refuse(format!("the signatures of entry {}: {e}", entry.position)),
        }
    }
}

fn data(bundle: &PolicyBundle) -> Checked<PolicyData> {
    bundle.data().or_else(|e| refuse(e.to_string()))
}

/// The operator asked, and as many others signed as the policy in force then asks for.
fn entitled(operator: &str, rules: &PolicyData, change: &Change, signers: &[Identity]) -> Result<(), String> {
    if matches!(change, Change::Revoke { .. }) {
        return Ok(());
    }
    let asker = signers.first().ok_or("there is no signature")?;
    if asker.role() != "operator" {
        return Err(format!("{asker} has the role `{}`, not `operator`", asker.role()));
    }
    vouched(operator, rules, asker).map_err(|f| f.detail)?;
    let rest = signers.iter().skip(1).filter(|who| vouched(operator, rules, who).is_ok());
    let counted: Vec<Identity> = std::iter::once(asker).chain(rest).cloned().collect();
    let rule = rules.signing(change.gate());
    rule.fulfilled(&counted, &[]).map(|_| ()).map_err(|f| f.detail)
}
