//! Who asks, and may they: a tenant for its own services, an operator who breaks the glass, the orchestrator under a
//! standing grant. What fails here leaves no trace, so that a request that lacks a signature can come again with it.

use crate::{
    authority::{Context, Signers},
    built::Supplier,
    intent::{Intent, Sensitivity},
    provenance,
    state::BadRecord,
    verdict::{Checked, Rules, fault},
};

use super::{AUTHORIZED, form::form};

const TENANT: &str = "authorization/tenant";
/// Takes the place of [`TENANT`] when the orchestrator asks.
pub(super) const STANDING: &str = "authorization/standing-grant";

/// Authority and form.
pub(super) fn admit(
    ctx: &Context<'_>,
    intent: &Intent,
    sensitivity: Option<Sensitivity>,
    rules: &mut Rules,
) -> Result<Option<Signers>, BadRecord> {
    let entitled = if intent.standing.is_some() { STANDING } else { TENANT };
    let Some(signers) = ctx.authorize(rules, roles(intent)) else {
        rules.not_evaluated([entitled].into_iter().chain(AUTHORIZED));
        return Ok(None);
    };
    let own = rules.check(entitled, entitlement(ctx, intent, &signers)?);
    if !own {
        rules.not_evaluated(AUTHORIZED);
        return Ok(None);
    }
    let glass = rules.check(AUTHORIZED[0], break_glass(ctx, intent, &signers));
    if glass
        && intent.emergency.is_some()
        && let Some(emergency) = &ctx.data.emergency
    {
        rules.waive(emergency.waives.clone());
    }
    let attributes = rules.check(AUTHORIZED[1], attributes(ctx, intent, sensitivity, &signers));
    let suppliers = suppliers(ctx, intent)?;
    let signed = rules
        .check(AUTHORIZED[2], ctx.cosigned(intent.action.name(), &signers, Some(&intent.tenant), &suppliers));
    let formed = rules.check(AUTHORIZED[3], form(ctx, intent));
    Ok((glass && attributes && signed && formed).then_some(signers))
}

fn roles(intent: &Intent) -> &'static [&'static str] {
    match (&intent.standing, &intent.emergency) {
        (Some(_), _) => &["orchestrator"],
        (None, Some(_)) => &["tenant", "operator"],
        (None, None) => &["tenant"],
    }
}

fn entitlement(ctx: &Context<'_>, intent: &Intent, signers: &Signers) -> Result<Checked<String>, BadRecord> {
    let who = signers.who();
    if let Some(standing) = &intent.standing {
        return crate::standing::entitles(ctx, intent, standing);
    }
    if who.role() == "operator" {
        return Ok(Ok(format!("{who} operates this ledger and declares an emergency")));
    }
    Ok(match who.tenant() == intent.tenant {
        true => Ok(format!("{who} speaks for tenant `{}`", intent.tenant)),
        false => fault(
            "TENANT_MISMATCH",
            format!("{who} speaks for tenant `{}`, the intent is `{}`'s", who.tenant(), intent.tenant),
        ),
    })
}

fn break_glass(ctx: &Context<'_>, intent: &Intent, signers: &Signers) -> Checked<String> {
    let Some(emergency) = &intent.emergency else { return Ok("no emergency is declared".to_owned()) };
    let refuse = |detail: String| fault("BREAK_GLASS_NOT_ALLOWED", detail);
    let Some(rule) = &ctx.data.emergency else {
        return refuse("the policy lets nobody break the glass".to_owned());
    };
    let (who, action) = (signers.who(), intent.action.name());
    if !rule.roles.contains(who.role()) {
        return refuse(format!("the policy lets no {} break the glass", who.role()));
    }
    if !rule.actions.contains(action) {
        return refuse(format!("the policy knows no emergency {action}"));
    }
    let signed = ctx.cosigned("break_glass", signers, Some(&intent.tenant), &[])?;
    Ok(format!("BREAK-GLASS by {who}: {} ({signed})", emergency.reason))
}

fn attributes(
    ctx: &Context<'_>,
    intent: &Intent,
    sensitivity: Option<Sensitivity>,
    signers: &Signers,
) -> Checked<String> {
    let (who, action) = (signers.who(), intent.action.name());
    // What the orchestrator may do by itself, its standing grant says.
    let asked = ctx.data.attributes.iter().filter(|rule| {
        intent.standing.is_none()
            && (rule.actions.is_empty() || rule.actions.contains(action))
            && rule.sensitivity.is_none_or(|least| sensitivity.is_some_and(|s| s >= least))
    });
    let mut found = Vec::new();
    for rule in asked {
        let value = who.attrs.get(&rule.attribute).map_or("", String::as_str);
        if !rule.values.contains(value) {
            let values = rule.values.iter().cloned().collect::<Vec<_>>().join("` or `");
            return fault(
                "ATTRIBUTE_REQUIRED",
                format!("{who} has `{value}` as {}; {action} needs `{values}`", rule.attribute),
            );
        }
        found.push(format!("{} is `{value}`", rule.attribute));
    }
    Ok(if found.is_empty() { "none is asked for".to_owned() } else { found.join(", ") })
}

/// Who signed the software the intent would start.
fn suppliers(ctx: &Context<'_>, intent: &Intent) -> Result<Vec<Supplier>, BadRecord> {
    match intent.action.names() {
        Some((nsd, _)) if ctx.data.signing(intent.action.name()).not_suppliers => {
            provenance::suppliers(ctx, &nsd)
        }
        _ => Ok(Vec::new()),
    }
}
