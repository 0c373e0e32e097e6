//! Standing grants: what the orchestrator may do by itself, and how often.
//!
//! A standing grant is an intent that is approved in advance: its tenant, or the operator, asks for it. When the
//! orchestrator has seen a cause it signs an intent of its own that names the grant. Budget and cool-down are counted
//! here, by when the cause was seen, so that what happened while the ledger was down counts as it happened. Tests:
//! `tests/emergency.rs`.

use trust::UnixTime;

use crate::{
    authority::Context,
    contract::Outcome,
    intent::{Intent, StandingUse},
    intents::form::label,
    records::{Event, StandingGrant},
    registry,
    state::{BadRecord, StandingRecord, StandingUsed, standing_key, standing_use_key},
    verdict::{Checked, Rules, Writes, fault},
};

/// What can be granted in advance: nothing that changes what a tenant asked for.
pub const GRANTABLE: [&str; 3] = ["heal", "isolate", "terminate"];
/// Largest budget: so many uses are remembered for each service.
pub const MAX_BUDGET: u32 = 1000;
/// Most services that one grant names.
const MAX_SERVICES: usize = 256;

const RULES: [&str; 4] =
    ["authorization/signatures", "form/standing-grant", "freshness/expiry", "freshness/replay"];
const TENANT: &str = "authorization/tenant";

/// Decides a standing grant.
pub(crate) fn grant(ctx: &Context<'_>, grant: &StandingGrant) -> Result<Outcome, BadRecord> {
    let mut rules = Rules::new(ctx.tx.v);
    let Some(signers) = ctx.authorize(&mut rules, &["tenant", "operator"]) else {
        rules.not_evaluated([TENANT].into_iter().chain(RULES));
        return Ok(rules.refused(ctx.policy));
    };
    let who = signers.who();
    rules.check(
        TENANT,
        match who.role() == "operator" || who.tenant() == grant.tenant {
            true => Ok(format!("{who} may speak for tenant `{}` here", grant.tenant)),
            false => fault(
                "TENANT_MISMATCH",
                format!("{who} speaks for tenant `{}`, the grant is `{}`'s", who.tenant(), grant.tenant),
            ),
        },
    );
    rules.check(RULES[0], ctx.cosigned("standing_grant", &signers, Some(&grant.tenant), &[]));
    rules.check(RULES[1], form(grant));
    rules.check(RULES[2], current(grant, ctx.tx.time));
    let known = ctx.state.get::<StandingRecord>(&standing_key(&grant.id))?;
    rules.check(
        RULES[3],
        match known {
            None => Ok(format!("id `{}` is new", grant.id)),
            Some(k) => fault("REPLAYED", format!("standing grant `{}` is entry {}", grant.id, k.position)),
        },
    );
    if !rules.all_passed() {
        return Ok(rules.refused(ctx.policy));
    }
    let mut writes = Writes::default();
    let record = StandingRecord { grant: grant.clone(), position: ctx.tx.position, revoked: None };
    writes.put(standing_key(&grant.id), &record);
    let event = Event::StandingGranted { grant: Box::new(grant.clone()) };
    Ok(Outcome { verdict: rules.verdict(ctx.policy), writes: writes.0, event: Some(event) })
}

fn form(grant: &StandingGrant) -> Checked<String> {
    let invalid = |detail: String| fault("INVALID_STANDING_GRANT", detail);
    if !label(&grant.id, 8, 64) {
        return invalid(format!("id `{}` is not 8 to 64 of a-z 0-9 -", grant.id));
    }
    if !registry::name(&grant.tenant) {
        return invalid(format!("`{}` is not a name for a tenant", grant.tenant));
    }
    if grant.services.len() > MAX_SERVICES || grant.services.iter().any(|s| !label(s, 1, 32)) {
        return invalid(format!("services: at most {MAX_SERVICES}, each 1 to 32 of a-z 0-9 -"));
    }
    if grant.actions.is_empty() || grant.actions.iter().any(|a| !GRANTABLE.contains(&a.as_str())) {
        return invalid(format!("actions: one or more of {}", GRANTABLE.join(", ")));
    }
    if grant.budget == 0 || grant.budget > MAX_BUDGET {
        return invalid(format!("a budget of {}; 1 to {MAX_BUDGET}", grant.budget));
    }
    if grant.window_s == 0 {
        return invalid("a window of 0 seconds".to_owned());
    }
    Ok(format!("standing grant `{}` for tenant `{}`", grant.id, grant.tenant))
}

fn current(grant: &StandingGrant, now: UnixTime) -> Checked<String> {
    match grant.not_before <= grant.not_after && now <= grant.not_after {
        true => Ok(format!("good from {} to {}", grant.not_before, grant.not_after)),
        false => fault(
            "EXPIRED",
            format!("it is {now}; the grant would be good from {} to {}", grant.not_before, grant.not_after),
        ),
    }
}

/// The grant that an intent uses, and its uses for the service before.
fn granted(
    ctx: &Context<'_>,
    intent: &Intent,
    used: &StandingUse,
) -> Result<Option<(StandingRecord, StandingUsed)>, BadRecord> {
    let Some(record) = ctx.state.get::<StandingRecord>(&standing_key(&used.grant))? else { return Ok(None) };
    let uses = ctx.state.get::<StandingUsed>(&standing_use_key(&used.grant, &intent.service))?;
    Ok(Some((record, uses.unwrap_or_default())))
}

/// Does its grant entitle the orchestrator to this intent?
pub(crate) fn entitles(
    ctx: &Context<'_>,
    intent: &Intent,
    used: &StandingUse,
) -> Result<Checked<String>, BadRecord> {
    let Some((record, before)) = granted(ctx, intent, used)? else {
        return Ok(fault("NO_STANDING_GRANT", format!("there is no standing grant `{}`", used.grant)));
    };
    Ok(covered(ctx, intent, used, &record).and_then(|()| within(&record.grant, &before, used.observed_at)))
}

fn covered(ctx: &Context<'_>, intent: &Intent, used: &StandingUse, record: &StandingRecord) -> Checked<()> {
    let StandingRecord { grant, revoked, .. } = record;
    let refuse = |detail: String| fault("STANDING_GRANT_MISMATCH", detail);
    if let Some(position) = revoked {
        return fault(
            "STANDING_GRANT_REVOKED",
            format!("`{}` was taken back at position {position}", grant.id),
        );
    }
    if grant.tenant != intent.tenant {
        return refuse(format!(
            "`{}` is of tenant `{}`, the intent `{}`'s",
            grant.id, grant.tenant, intent.tenant
        ));
    }
    if !grant.services.is_empty() && !grant.services.contains(&intent.service) {
        return refuse(format!("`{}` does not cover service `{}`", grant.id, intent.service));
    }
    let action = intent.action.name();
    if !grant.actions.contains(action) {
        return refuse(format!("`{}` does not cover {action}", grant.id));
    }
    let (seen, now) = (used.observed_at, ctx.tx.time);
    if seen > now {
        return refuse(format!("its cause was seen at {seen}, but it is {now}"));
    }
    match grant.not_before <= seen && seen <= grant.not_after {
        true => Ok(()),
        false => fault(
            "STANDING_GRANT_EXPIRED",
            format!(
                "its cause was seen at {seen}; the grant is good from {} to {}",
                grant.not_before, grant.not_after
            ),
        ),
    }
}

fn within(grant: &StandingGrant, before: &StandingUsed, seen: UnixTime) -> Checked<String> {
    let apart = |other: &UnixTime| seen.0.abs_diff(other.0);
    if let Some(near) = before.observed.iter().find(|t| apart(t) < grant.cooldown_s) {
        return fault(
            "STANDING_COOLDOWN",
            format!(
                "the last cause was seen at {near}, this one at {seen}; {} s must lie between",
                grant.cooldown_s
            ),
        );
    }
    let full = before.observed.len() >= usize::try_from(grant.budget).unwrap_or(usize::MAX);
    // What is older than all that is remembered could be one too many without anybody knowing.
    if full && before.observed.first().is_some_and(|oldest| seen < *oldest) {
        return fault(
            "STANDING_BUDGET",
            format!("its cause was seen at {seen}, before all that is remembered"),
        );
    }
    let used = before.observed.iter().filter(|t| apart(t) < grant.window_s).count();
    match u32::try_from(used).is_ok_and(|n| n < grant.budget) {
        true => {
            Ok(format!("use {} of {} in {} s under `{}`", used + 1, grant.budget, grant.window_s, grant.id))
        }
        false => fault(
            "STANDING_BUDGET",
            format!("{used} of {} uses in {} s are gone; a person has to ask", grant.budget, grant.window_s),
        ),
    }
}

/// Counts an approved use.
pub(crate) fn used(
    ctx: &Context<'_>,
    intent: &Intent,
    used: &StandingUse,
    writes: &mut Writes,
) -> Result<(), BadRecord> {
    let Some((record, mut all)) = granted(ctx, intent, used)? else { return Ok(()) };
    let key = standing_use_key(&used.grant, &intent.service);
    let place = all.observed.partition_point(|t| *t <= used.observed_at);
    all.observed.insert(place, used.observed_at);
    let excess =
        all.observed.len().saturating_sub(usize::try_from(record.grant.budget).unwrap_or(usize::MAX));
    all.observed.drain(..excess);
    writes.put(key, &all);
    Ok(())
}
