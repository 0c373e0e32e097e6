//! Changing the rules themselves: policy bundles, organisations, and taking back what was granted or registered.
//!
//! A change is decided by the rules in force before it, and it needs the signatures that they ask for: the operator is
//! never enough alone. A new policy must be able to decide, and pass its own tests. Nothing here can leave the ledger
//! without an operator, or with fewer organisations than it takes to change it again. Tests: `tests/governance.rs`.

use attestation::AkRecord;
use trust::{TrustRoots, identity, identity::OrgRoot};

use crate::{
    authority::{Context, Signers, vouched},
    contract::Outcome,
    intent::MAX_REASON_BYTES,
    intents::form::label,
    records::{Change, Event, Governance, PolicyBundle, Revocable},
    registry,
    state::{
        BadRecord, GENESIS, IntentRecord, POLICY_ACTIVE, PackageEntry, StandingRecord, ak_key, ak_used_key,
        governance_key, intent_key, org_key, package_key, policy_key, standing_key,
    },
    verdict::{Checked, Rules, Writes, fault},
};

/// Most organisations of a ledger.
pub const MAX_ORGANISATIONS: usize = 256;

const RULES: [&str; 5] = [
    "authorization/signatures",
    "form/governance",
    "freshness/expiry",
    "freshness/replay",
    "governance/change",
];

/// What a change comes to.
struct Effect {
    writes: Writes,
    event: Option<Event>,
    text: String,
}

fn roles(change: &Change) -> &'static [&'static str] {
    match change {
        Change::Policy { .. } | Change::Organisation { .. } => &["operator"],
        Change::Revoke { what } => match what {
            Revocable::Intent { .. } | Revocable::StandingGrant { .. } => &["operator", "tenant"],
            Revocable::Package { .. } => &["operator", "provider"],
            Revocable::AttestationKey { .. } => &["operator"],
        },
    }
}

/// Decides a change.
pub(crate) fn change(ctx: &Context<'_>, governance: &Governance) -> Result<Outcome, BadRecord> {
    let mut rules = Rules::new(ctx.tx.v);
    let Some(signers) = ctx.authorize(&mut rules, roles(&governance.change)) else {
        rules.not_evaluated(RULES);
        return Ok(rules.refused(ctx.policy));
    };
    rules.check(RULES[0], ctx.cosigned(governance.change.gate(), &signers, None, &[]));
    rules.check(RULES[1], form(ctx, governance));
    let (now, end) = (ctx.tx.time, governance.not_after);
    rules.check(
        RULES[2],
        match now <= end {
            true => Ok(format!("decided at {now}, valid to {end}")),
            false => fault("EXPIRED", format!("decided at {now}, but it was valid to {end} only")),
        },
    );
    let key = governance_key(&governance.id);
    rules.check(
        RULES[3],
        match ctx.state.get::<u64>(&key)? {
            None => Ok(format!("id `{}` is new", governance.id)),
            Some(at) => fault("REPLAYED", format!("id `{}` was used at position {at}", governance.id)),
        },
    );
    if !rules.all_passed() {
        rules.not_evaluated([RULES[4]]);
        return Ok(rules.refused(ctx.policy));
    }
    let outcome = effect(ctx, governance, &signers)?.map(|effect| {
        let text = effect.text.clone();
        (effect, text)
    });
    let Some(mut effect) = rules.value(RULES[4], outcome) else { return Ok(rules.refused(ctx.policy)) };
    effect.writes.put(key, &ctx.tx.position);
    Ok(Outcome { verdict: rules.verdict(ctx.policy), writes: effect.writes.0, event: effect.event })
}

fn form(ctx: &Context<'_>, governance: &Governance) -> Checked<String> {
    let invalid = |detail: String| fault("INVALID_GOVERNANCE", detail);
    if !label(&governance.id, 8, 64) {
        return invalid(format!("id `{}` is not 8 to 64 of a-z 0-9 -", governance.id));
    }
    if governance.ledger != ctx.tx.ledger {
        return fault(
            "WRONG_LEDGER",
            format!("it is for ledger `{}`, this is `{}`", governance.ledger, ctx.tx.ledger),
        );
    }
    let said = !governance.reason.trim().is_empty() && governance.reason.len() <= MAX_REASON_BYTES;
    match said {
        true => Ok(governance.reason.clone()),
        false => invalid(format!("its reason must say something, in {MAX_REASON_BYTES} bytes at most")),
    }
}

fn effect(
    ctx: &Context<'_>,
    governance: &Governance,
    signers: &Signers,
) -> Result<Checked<Effect>, BadRecord> {
    Ok(match &governance.change {
        Change::Policy { bundle, supersedes } => policy(ctx, bundle, supersedes, signers),
        Change::Organisation { name, root } => organisation(ctx, name, root.as_ref(), signers),
        Change::Revoke { what: Revocable::Intent { id } } => {
            revoke_intent(ctx, ctx.state.get(&intent_key(id))?, id, &governance.reason, signers)
        }
        Change::Revoke { what: Revocable::StandingGrant { id } } => {
            revoke_standing(ctx, ctx.state.get(&standing_key(id))?, id, signers)
        }
        Change::Revoke { what: Revocable::Package { digest } } => {
            revoke_package(ctx, ctx.state.get(&package_key(digest))?, digest, signers)
        }
        Change::Revoke { what: Revocable::AttestationKey { site } } => {
            revoke_key(ctx, ctx.state.get(&ak_key(site))?, site)
        }
    })
}

fn policy(
    ctx: &Context<'_>,
    bundle: &PolicyBundle,
    supersedes: &trust::Digest,
    signers: &Signers,
) -> Checked<Effect> {
    let now = bundle.digest();
    if *supersedes != ctx.policy {
        return fault(
            "POLICY_SUPERSEDED",
            format!("it supersedes {supersedes}, but {} is in force: propose it again over that", ctx.policy),
        );
    }
    if now == ctx.policy {
        return fault("POLICY_UNCHANGED", format!("{now} is in force already"));
    }
    tested(bundle, ctx.tx.v)?;
    changeable(ctx, bundle, signers)?;
    let mut writes = Writes::default();
    writes.put(POLICY_ACTIVE.to_owned(), &now);
    writes.put(policy_key(&now), bundle);
    let text = format!("policy bundle {now} is in force from the next entry on");
    Ok(Effect { writes, event: Some(Event::PolicyChanged { before: ctx.policy, now }), text })
}

/// Whoever brings a policy into force can change it again under its own rules: nobody is locked out by a slip, and who
/// asks for more signatures from now on has them.
fn changeable(ctx: &Context<'_>, bundle: &PolicyBundle, signers: &Signers) -> Checked<()> {
    let data = bundle.data().or_else(|e| fault("POLICY_ERROR", e.to_string()))?;
    let rest = signers.rest().iter().filter(|who| vouched(&ctx.genesis.operator, &data, who).is_ok());
    let people: Vec<_> = std::iter::once(signers.who()).chain(rest).cloned().collect();
    let again = data.signing("policy").fulfilled(&people, &[]);
    again.map(|_| ()).or_else(|f| {
        let detail = format!("who signed this could not change it again under its own rules: {}", f.detail);
        fault("RULES_LOCKED_OUT", detail)
    })
}

/// Can it decide, and do its own tests pass?
pub(crate) fn tested(bundle: &PolicyBundle, v: u32) -> Checked<String> {
    if let Err(e) = bundle.check_under(v) {
        return fault(crate::rego::code(&e, v), e.to_string());
    }
    match bundle.test_under(v) {
        Err(e) => fault(crate::rego::code(&e, v), e.to_string()),
        Ok(tests) => match tests.iter().find(|t| !t.passed) {
            None => Ok(format!("policy bundle {}, {} tests of its own pass", bundle.digest(), tests.len())),
            Some(t) => fault("POLICY_TESTS_FAILED", format!("{} of {}: {}", t.name, t.file, t.detail)),
        },
    }
}

fn organisation(ctx: &Context<'_>, name: &str, root: Option<&OrgRoot>, signers: &Signers) -> Checked<Effect> {
    let operates = name == ctx.genesis.operator;
    let mut genesis = ctx.genesis.clone();
    let mut writes = Writes::default();
    let text = match root {
        Some(root) => {
            new_root(ctx, name, root, operates, signers)?;
            let joins = genesis.orgs.insert(name.to_owned());
            if genesis.orgs.len() > MAX_ORGANISATIONS {
                return fault("TOO_MANY_ORGANISATIONS", format!("{MAX_ORGANISATIONS} is the most"));
            }
            writes.put(org_key(name), root);
            format!("organisation `{name}` {}", if joins { "joins" } else { "has new roots" })
        }
        None => {
            leaves(ctx, name, operates)?;
            genesis.orgs.remove(name);
            writes.delete(org_key(name));
            format!("organisation `{name}` leaves")
        }
    };
    if genesis != ctx.genesis {
        writes.put(GENESIS.to_owned(), &genesis);
    }
    let event = Event::OrganisationChanged { name: name.to_owned(), root: root.map(root_digest) };
    Ok(Effect { writes, event: Some(event), text })
}

/// Digest of an organisation's roots, as events name it: over their JSON.
#[must_use]
pub(crate) fn root_digest(root: &OrgRoot) -> trust::Digest {
    // Lists and sets of text always encode.
    trust::Digest::of(serde_json::to_vec(root).unwrap_or_default())
}

fn new_root(ctx: &Context<'_>, name: &str, root: &OrgRoot, operates: bool, signers: &Signers) -> Checked<()> {
    let invalid = |detail: String| fault("INVALID_ORGANISATION", detail);
    if !registry::name(name) {
        return invalid(format!("`{name}` is not a name for an organisation"));
    }
    if let Err(e) = identity::check_root(name, root) {
        return invalid(e.to_string());
    }
    let (who, roots) = (
        signers.who(),
        TrustRoots { orgs: [(name.to_owned(), root.clone())].into(), logs: vec![], channel: None },
    );
    let certificate = ctx.request.signatures.first().map_or(&[][..], |s| s.certificate.as_slice());
    // Whoever asks for the operator's new roots must be able to ask again under them.
    match operates && roots.verify(certificate, ctx.tx.time).is_err() {
        true => fault(
            "OPERATOR_LOCKED_OUT",
            format!(
                "{who} would not be known any more: sign with a member of the new root, or keep the old one too"
            ),
        ),
        false => Ok(()),
    }
}

fn leaves(ctx: &Context<'_>, name: &str, operates: bool) -> Checked<()> {
    if operates {
        return fault("OPERATOR_LOCKED_OUT", format!("`{name}` operates this ledger; it cannot leave"));
    }
    if !ctx.genesis.orgs.contains(name) {
        return fault("NO_SUCH_ORGANISATION", format!("`{name}` is none of the ledger's organisations"));
    }
    let left = u32::try_from(ctx.genesis.orgs.len() - 1).unwrap_or(u32::MAX);
    let needed = ["policy", "organisation"].map(|what| ctx.data.signing(what).organisations);
    match needed.iter().max().filter(|n| **n > left) {
        None => Ok(()),
        Some(needed) => fault(
            "TOO_FEW_ORGANISATIONS",
            format!("{left} organisations would be left, but the rules take the signatures of {needed}"),
        ),
    }
}

/// The operator, or the tenant whose it is.
fn own(signers: &Signers, tenant: &str) -> Checked<()> {
    let who = signers.who();
    match who.role() == "operator" || who.tenant() == tenant {
        true => Ok(()),
        false => fault("TENANT_MISMATCH", format!("{who} does not speak for tenant `{tenant}`")),
    }
}

fn taken_back(at: Option<u64>, what: &str) -> Checked<()> {
    match at {
        None => Ok(()),
        Some(at) => fault("REVOKED_BEFORE", format!("{what} was taken back at position {at}")),
    }
}

fn revoke_intent(
    ctx: &Context<'_>,
    record: Option<IntentRecord>,
    id: &str,
    reason: &str,
    signers: &Signers,
) -> Checked<Effect> {
    let Some(record) = record else { return fault("NO_SUCH_INTENT", format!("there is no intent `{id}`")) };
    own(signers, &record.tenant)?;
    if !record.approved {
        return fault("INTENT_NOT_APPROVED", format!("intent `{id}` was refused: {}", record.code));
    }
    taken_back(record.revoked, &format!("intent `{id}`"))?;
    if let Some(operation) = &record.operation_id {
        return fault(
            "OPERATION_ENDED",
            format!("its operation {operation} has ended; ask for the opposite"),
        );
    }
    let mut writes = Writes::default();
    writes.put(intent_key(id), &IntentRecord { revoked: Some(ctx.tx.position), ..record });
    let event = Event::IntentRevoked { intent_id: id.to_owned(), reason: reason.to_owned() };
    Ok(Effect { writes, event: Some(event), text: format!("intent `{id}` is taken back") })
}

fn revoke_standing(
    ctx: &Context<'_>,
    record: Option<StandingRecord>,
    id: &str,
    signers: &Signers,
) -> Checked<Effect> {
    let Some(record) = record else {
        return fault("NO_STANDING_GRANT", format!("there is no standing grant `{id}`"));
    };
    own(signers, &record.grant.tenant)?;
    taken_back(record.revoked, &format!("standing grant `{id}`"))?;
    let mut writes = Writes::default();
    writes.put(standing_key(id), &StandingRecord { revoked: Some(ctx.tx.position), ..record });
    let event = Event::StandingRevoked { id: id.to_owned() };
    Ok(Effect { writes, event: Some(event), text: format!("standing grant `{id}` is taken back") })
}

fn revoke_package(
    ctx: &Context<'_>,
    entry: Option<PackageEntry>,
    digest: &trust::Digest,
    signers: &Signers,
) -> Checked<Effect> {
    let Some(entry) = entry else {
        return fault("PACKAGE_NOT_REGISTERED", format!("no package {digest} is registered"));
    };
    let claimed = entry.request.signatures.first().and_then(|s| identity::claimed(&s.certificate).ok());
    let (who, org) = (signers.who(), claimed.map(|(org, _)| org).unwrap_or_default());
    if who.role() != "operator" && who.org != org {
        return fault("ORG_NOT_ALLOWED", format!("the package is of `{org}`, {who} is not"));
    }
    taken_back(entry.revoked, &format!("package {digest}"))?;
    let mut writes = Writes::default();
    writes.put(package_key(digest), &PackageEntry { revoked: Some(ctx.tx.position), ..entry });
    Ok(Effect { writes, event: None, text: format!("package {digest} is taken back") })
}

fn revoke_key(ctx: &Context<'_>, key: Option<AkRecord>, site: &str) -> Checked<Effect> {
    let Some(key) = key else {
        return fault("NO_ATTESTATION_KEY", format!("site `{site}` has no attestation key"));
    };
    let mut writes = Writes::default();
    // So that nobody who has read its registration brings it back.
    writes.put(ak_used_key(&registry::ak_digest(&key)), &ctx.tx.position);
    writes.delete(ak_key(site));
    Ok(Effect { writes, event: None, text: format!("the attestation key of site `{site}` is taken back") })
}
