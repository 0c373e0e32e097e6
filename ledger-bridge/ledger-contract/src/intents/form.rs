//! Is an intent well formed? What fails here leaves no trace in the state.

use std::collections::BTreeSet;

use crate::{
    authority::Context,
    intent::{
        API_VERSION, Intent, IntentKind, MAX_CAPTURE_MS, MAX_DEPENDENCIES, MAX_INTENT_BYTES,
        MAX_REASON_BYTES, PlacementHints, Target,
    },
    registry,
    verdict::{Checked, fault},
};

/// Most targets or members that one intent names: a service has no more instances worth naming one by one.
const MAX_TARGETS: usize = 256;

pub(crate) fn label(text: &str, least: usize, most: usize) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (least..=most).contains(&text.len()) && text.bytes().all(legal)
}

pub(super) fn form(ctx: &Context<'_>, intent: &Intent) -> Checked<String> {
    match problem(ctx, intent) {
        Some(detail) => fault("INVALID_INTENT", detail),
        None => Ok(format!("{} `{}`", intent.action.name(), intent.service)),
    }
}

fn problem(ctx: &Context<'_>, intent: &Intent) -> Option<String> {
    if ctx.request.payload.len() > MAX_INTENT_BYTES {
        return Some(format!("it is larger than {MAX_INTENT_BYTES} bytes"));
    }
    malformed(intent)
}

/// What is wrong with an intent whatever the state and whoever asks.
pub(crate) fn malformed(intent: &Intent) -> Option<String> {
    if intent.api_version != API_VERSION {
        return Some(format!("apiVersion is `{}`, expected `{API_VERSION}`", intent.api_version));
    }
    if !label(&intent.id, 8, 64) {
        return Some(format!("id `{}` is not 8 to 64 of a-z 0-9 -", intent.id));
    }
    if !label(&intent.service, 1, 32) {
        return Some(format!("service `{}` is not 1 to 32 of a-z 0-9 -", intent.service));
    }
    if !registry::name(&intent.tenant) {
        return Some(format!("`{}` is not a name for a tenant", intent.tenant));
    }
    around(intent).or_else(|| action(&intent.action))
}

/// What stands around the action.
fn around(intent: &Intent) -> Option<String> {
    let distinct: BTreeSet<&String> = intent.depends_on.iter().collect();
    if intent.depends_on.len() > MAX_DEPENDENCIES || distinct.len() != intent.depends_on.len() {
        return Some(format!("depends_on names at most {MAX_DEPENDENCIES} intents, each once"));
    }
    if distinct.contains(&intent.id) {
        return Some("it depends on itself".to_owned());
    }
    if intent.emergency.is_some() && intent.standing.is_some() {
        return Some("an emergency is a person's to declare, not the orchestrator's".to_owned());
    }
    let emergency = intent.emergency.as_ref().and_then(|e| reason("emergency.reason", &e.reason));
    emergency.or_else(|| intent.standing.as_ref().and_then(|s| reason("standing.reason", &s.reason)))
}

fn reason(field: &str, text: &str) -> Option<String> {
    let legal = !text.trim().is_empty() && text.len() <= MAX_REASON_BYTES;
    (!legal).then(|| format!("{field} must say something, in {MAX_REASON_BYTES} bytes at most"))
}

fn action(action: &IntentKind) -> Option<String> {
    match action {
        IntentKind::Deploy(deploy) => placement(&deploy.placement)
            .or_else(|| (deploy.lease_s == 0).then(|| "a lease of 0 seconds".to_owned())),
        IntentKind::Update(update) => (update.lease_s == Some(0)).then(|| "a lease of 0 seconds".to_owned()),
        IntentKind::Scale(scale) => (scale.steps == 0).then(|| "scaling by 0 steps".to_owned()),
        IntentKind::Heal(heal) => targets(&heal.targets).or_else(|| reason("cause", &heal.cause)),
        IntentKind::Migrate(migrate) => {
            let distinct: BTreeSet<_> = migrate.members.iter().collect();
            let bad = migrate.members.len() > MAX_TARGETS || distinct.len() != migrate.members.len();
            placement(&migrate.placement)
                .or_else(|| bad.then(|| format!("members: at most {MAX_TARGETS}, each once")))
        }
        IntentKind::Isolate(isolate) => {
            targets(&isolate.targets).or_else(|| reason("reason", &isolate.reason)).or_else(|| {
                (isolate.capture_ms > MAX_CAPTURE_MS)
                    .then(|| format!("a capture of {} ms; at most {MAX_CAPTURE_MS}", isolate.capture_ms))
            })
        }
        IntentKind::Rollback(rollback) => reason("reason", &rollback.reason),
        IntentKind::Terminate {} => None,
    }
}

fn placement(placement: &PlacementHints) -> Option<String> {
    let code = |c: &&String| c.len() != 2 || !c.bytes().all(|b| b.is_ascii_uppercase());
    let bad = placement.jurisdictions.iter().find(code)?;
    Some(format!("jurisdiction `{bad}` is not a code of ISO 3166-1 alpha-2"))
}

fn targets(targets: &[Target]) -> Option<String> {
    let distinct: BTreeSet<_> = targets.iter().collect();
    let bad = targets.len() > MAX_TARGETS || distinct.len() != targets.len();
    bad.then(|| format!("targets: at most {MAX_TARGETS}, each once"))
}
