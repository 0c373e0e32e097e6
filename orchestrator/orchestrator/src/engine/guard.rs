//! May the orchestrator repair this by itself? Pure: standing grants, what was done before, and the time.
//!
//! Repair under a standing grant is bounded three ways. *Cool-down*: between two operations on one service. *Budget*: so
//! many operations per window, counted per service and grant (the ledger counts too; while it is down, this is the only
//! count). *Flap guard*: an object that was repaired [`FLAPS`] times within [`FLAP_WINDOW_S`] and is wrong again is not
//! repaired any more: what the repair does not cure needs a person. Whatever is not repaired is proposed.

use std::collections::BTreeSet;

use ledger_contract::records::StandingGrant;
use trust::UnixTime;

use crate::views::{FlapView, GuardView};

/// Repairs of one object after which it is left to a person.
pub(super) const FLAPS: usize = 3;
/// Time in which those count, s.
pub(super) const FLAP_WINDOW_S: u64 = 3600;

/// What was done about a service before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Done {
    /// When, s.
    pub at: UnixTime,
    /// Under which standing grant.
    pub grant: String,
    /// Objects that were wrong.
    pub objects: BTreeSet<String>,
}

/// What is wrong, and what would be done about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case<'a> {
    /// Tenant.
    pub tenant: &'a str,
    /// Service.
    pub service: &'a str,
    /// `heal`, `isolate`, `terminate`.
    pub action: &'a str,
    /// Objects that are wrong.
    pub objects: &'a BTreeSet<String>,
    /// Now.
    pub now: UnixTime,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Leave {
    /// Yes, under this grant.
    Repair(String),
    /// Not before this moment.
    Later(UnixTime, String),
    /// No: propose it, for this reason.
    Propose(&'static str, String),
}

/// Asks every standing grant; the one that says yes, or the one that says yes soonest, counts.
pub(super) fn leave(case: &Case<'_>, grants: &[StandingGrant], history: &[Done]) -> Leave {
    let covers = |g: &&StandingGrant| {
        g.tenant == case.tenant
            && g.actions.contains(case.action)
            && (g.services.is_empty() || g.services.iter().any(|s| s == case.service))
            && (g.not_before..=g.not_after).contains(&case.now)
    };
    if let Some((object, times)) = flapping(case, history) {
        let detail =
            format!("{object} was repaired {times} times within {FLAP_WINDOW_S} s and is wrong again");
        return Leave::Propose("FLAPPING", detail);
    }
    let mut best: Option<Leave> = None;
    for grant in grants.iter().filter(covers) {
        let answer = bounded(grant, case.now, history);
        best = match (best, answer) {
            (_, Leave::Repair(id)) => return Leave::Repair(id),
            (Some(Leave::Later(a, why)), Leave::Later(b, other)) => {
                Some(if a <= b { Leave::Later(a, why) } else { Leave::Later(b, other) })
            }
            (None, other) => Some(other),
            (kept, _) => kept,
        };
    }
    best.unwrap_or_else(|| {
        let detail = format!("no standing grant of tenant `{}` covers `{}`", case.tenant, case.action);
        Leave::Propose("NO_STANDING_GRANT", detail)
    })
}

fn flapping<'a>(case: &Case<'a>, history: &[Done]) -> Option<(&'a String, usize)> {
    let recent = |d: &&Done| d.at.plus(FLAP_WINDOW_S) > case.now;
    case.objects.iter().find_map(|object| {
        let times = history.iter().filter(recent).filter(|d| d.objects.contains(object)).count();
        (times >= FLAPS).then_some((object, times))
    })
}

fn bounded(grant: &StandingGrant, now: UnixTime, history: &[Done]) -> Leave {
    let cool = history.iter().map(|d| d.at.plus(grant.cooldown_s)).max().filter(|end| *end > now);
    if let Some(end) = cool {
        return Leave::Later(
            end,
            format!("grant `{}` asks for {} s between repairs", grant.id, grant.cooldown_s),
        );
    }
    let mut used: Vec<UnixTime> = history
        .iter()
        .filter(|d| d.grant == grant.id && d.at.plus(grant.window_s) > now)
        .map(|d| d.at)
        .collect();
    used.sort_unstable();
    let budget = usize::try_from(grant.budget).unwrap_or(usize::MAX);
    match used.len().checked_sub(budget).and_then(|over| used.get(over)) {
        None if budget > 0 => Leave::Repair(grant.id.clone()),
        None => Leave::Propose("NO_BUDGET", format!("grant `{}` has a budget of none", grant.id)),
        Some(oldest) => Leave::Later(
            oldest.plus(grant.window_s),
            format!("grant `{}` allows {budget} repairs within {} s", grant.id, grant.window_s),
        ),
    }
}

/// What is left of each grant that covers a service now, whatever for.
pub(super) fn left(
    tenant: &str,
    service: &str,
    now: UnixTime,
    grants: &[StandingGrant],
    history: &[Done],
) -> Vec<GuardView> {
    let covers = |g: &&StandingGrant| {
        g.tenant == tenant
            && (g.services.is_empty() || g.services.iter().any(|s| s == service))
            && (g.not_before..=g.not_after).contains(&now)
    };
    let view = |g: &StandingGrant| GuardView {
        grant: g.id.clone(),
        actions: g.actions.iter().cloned().collect(),
        budget: g.budget,
        used: count(history.iter().filter(|d| d.grant == g.id && d.at.plus(g.window_s) > now)),
        window_s: g.window_s,
        cooldown_s: g.cooldown_s,
        not_after: g.not_after,
        next_at: match bounded(g, now, history) {
            Leave::Later(at, _) => Some(at),
            Leave::Repair(_) | Leave::Propose(..) => None,
        },
    };
    grants.iter().filter(covers).map(view).collect()
}

/// Objects that were repaired within the flap guard's window, and how often.
pub(super) fn flaps(now: UnixTime, history: &[Done]) -> Vec<FlapView> {
    let recent: Vec<&Done> = history.iter().filter(|d| d.at.plus(FLAP_WINDOW_S) > now).collect();
    let objects: BTreeSet<&String> = recent.iter().flat_map(|d| &d.objects).collect();
    let view = |object: &String| FlapView {
        object: object.clone(),
        repairs: count(recent.iter().filter(|d| d.objects.contains(object))),
        most: u32::try_from(FLAPS).unwrap_or(u32::MAX),
        window_s: FLAP_WINDOW_S,
    };
    objects.into_iter().map(view).collect()
}

fn count(found: impl Iterator) -> u32 {
    u32::try_from(found.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(id: &str, budget: u32) -> StandingGrant {
        StandingGrant {
            id: id.into(),
            tenant: "acme".into(),
            services: vec![],
            actions: ["heal".to_owned()].into(),
            budget,
            window_s: 1000,
            cooldown_s: 10,
            not_before: UnixTime(100),
            not_after: UnixTime(10_000),
        }
    }

    fn done(at: u64, grant: &str, object: &str) -> Done {
        Done { at: UnixTime(at), grant: grant.into(), objects: [object.to_owned()].into() }
    }

    fn asked(now: u64, action: &str, grants: &[StandingGrant], history: &[Done]) -> Leave {
        let objects = ["ns/a".to_owned()].into();
        let case = Case { tenant: "acme", service: "edge", action, objects: &objects, now: UnixTime(now) };
        leave(&case, grants, history)
    }

    #[test]
    fn only_what_a_grant_covers() {
        let code = |l| match l {
            Leave::Propose(code, _) => code,
            _ => "",
        };
        assert_eq!(asked(200, "heal", &[grant("g", 1)], &[]), Leave::Repair("g".into()));
        assert_eq!(code(asked(200, "heal", &[], &[])), "NO_STANDING_GRANT");
        assert_eq!(code(asked(200, "isolate", &[grant("g", 1)], &[])), "NO_STANDING_GRANT");
        assert_eq!(code(asked(99, "heal", &[grant("g", 1)], &[])), "NO_STANDING_GRANT");
        assert_eq!(code(asked(10_001, "heal", &[grant("g", 1)], &[])), "NO_STANDING_GRANT");
        let other = StandingGrant { services: vec!["core".into()], ..grant("g", 1) };
        assert_eq!(code(asked(200, "heal", &[other], &[])), "NO_STANDING_GRANT");
        let foreign = StandingGrant { tenant: "globex".into(), ..grant("g", 1) };
        assert_eq!(code(asked(200, "heal", &[foreign], &[])), "NO_STANDING_GRANT");
        assert_eq!(code(asked(200, "heal", &[grant("g", 0)], &[])), "NO_BUDGET");
    }

    #[test]
    fn cool_down_budget_and_flapping() {
        let one = [done(200, "g", "ns/b")];
        assert!(matches!(asked(209, "heal", &[grant("g", 9)], &one), Leave::Later(UnixTime(210), _)));
        assert_eq!(asked(210, "heal", &[grant("g", 9)], &one), Leave::Repair("g".into()));
        assert!(matches!(asked(300, "heal", &[grant("g", 1)], &one), Leave::Later(UnixTime(1200), _)));
        assert_eq!(asked(1200, "heal", &[grant("g", 1)], &one), Leave::Repair("g".into()));
        // Another grant has a budget of its own, but the cool-down is the service's.
        assert_eq!(asked(300, "heal", &[grant("g", 1), grant("h", 1)], &one), Leave::Repair("h".into()));
        let thrice: Vec<_> = [200, 300, 400].map(|t| done(t, "g", "ns/a")).into();
        assert!(matches!(asked(500, "heal", &[grant("g", 9)], &thrice), Leave::Propose("FLAPPING", _)));
        assert_eq!(asked(4000, "heal", &[grant("g", 9)], &thrice), Leave::Repair("g".into()));
    }

    #[test]
    fn what_is_left_is_what_the_guard_goes_by() {
        let now = UnixTime(500);
        let thrice: Vec<_> = [200, 300, 400].map(|t| done(t, "g", "ns/a")).into();
        let other = StandingGrant { services: vec!["core".into()], ..grant("h", 1) };
        let views = left("acme", "edge", now, &[grant("g", 5), other, grant("k", 3)], &thrice);
        let seen: Vec<_> = views.iter().map(|v| (v.grant.as_str(), v.used, v.budget, v.next_at)).collect();
        assert_eq!(seen, [("g", 3, 5, None), ("k", 0, 3, None)]);
        assert_eq!(left("globex", "edge", now, &[grant("g", 5)], &thrice), []);
        // In the cool-down, and with the budget used up.
        assert_eq!(
            left("acme", "edge", UnixTime(405), &[grant("g", 5)], &thrice)[0].next_at,
            Some(UnixTime(410))
        );
        assert_eq!(left("acme", "edge", now, &[grant("g", 3)], &thrice)[0].next_at, Some(UnixTime(1200)));
        let flapping = flaps(now, &thrice);
        assert_eq!((flapping[0].object.as_str(), flapping[0].repairs, flapping[0].most), ("ns/a", 3, 3));
        assert_eq!(flaps(UnixTime(10_000), &thrice), []);
    }
}
