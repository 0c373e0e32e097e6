//! Leases, maintenance windows, sovereignty, attestation.

use trust::UnixTime;

use super::{COMPLIANCE, Case, not_applicable};
use crate::{
    intent::{IntentKind, PlacementHints, Sensitivity},
    policy::{Assurance, Window},
    verdict::{Checked, Rules, fault},
};

impl Case<'_> {
    pub(super) fn compliance_rules(&self, rules: &mut Rules) {
        rules.check(COMPLIANCE[0], self.lease());
        rules.check(COMPLIANCE[1], self.window());
        rules.check(COMPLIANCE[2], self.sovereignty());
        rules.check(COMPLIANCE[3], self.attestable());
    }

    /// What the intent's software must satisfy: the deployment's own sensitivity, or the service's.
    pub(super) fn sensitivity(&self) -> Option<Sensitivity> {
        match &self.intent.action {
            IntentKind::Deploy(deploy) => Some(deploy.sensitivity),
            _ => self.service.as_ref().map(|s| s.sensitivity),
        }
    }

    /// The end of a lease that the intent begins or renews.
    pub(super) fn renewed_lease(&self) -> Option<UnixTime> {
        let seconds = match &self.intent.action {
            IntentKind::Deploy(deploy) => Some(deploy.lease_s),
            IntentKind::Update(update) => update.lease_s,
            _ => None,
        };
        seconds.map(|s| self.ctx.tx.time.plus(s))
    }

    fn lease(&self) -> Checked<String> {
        let now = self.ctx.tx.time;
        match (&self.intent.action, &self.service) {
            (IntentKind::Deploy(deploy), _) => self.lease_length(deploy.lease_s, deploy.sensitivity),
            (IntentKind::Update(update), Some(s)) if let Some(lease_s) = update.lease_s => {
                self.lease_length(lease_s, s.sensitivity)
            }
            (IntentKind::Terminate {}, Some(s)) if self.intent.standing.is_some() => {
                match now > s.lease_until {
                    true => Ok(format!("the lease ended at {}", s.lease_until)),
                    false => fault(
                        "LEASE_NOT_ENDED",
                        format!(
                            "the lease runs until {}; before, only its tenant terminates it",
                            s.lease_until
                        ),
                    ),
                }
            }
            (IntentKind::Terminate {} | IntentKind::Isolate(_), _) => {
                not_applicable(self.intent.action.name())
            }
            (_, Some(s)) if now > s.lease_until => {
                fault("LEASE_ENDED", format!("the service's lease ended at {}", s.lease_until))
            }
            (action, _) => not_applicable(action.name()),
        }
    }

    fn lease_length(&self, asked_s: u64, sensitivity: Sensitivity) -> Checked<String> {
        let most = self.ctx.data.max_lease_s.of(sensitivity);
        match asked_s <= most {
            true => Ok(format!("{asked_s} s of at most {most} s")),
            false => {
                fault("LEASE_TOO_LONG", format!("{asked_s} s; {sensitivity:?} services get at most {most} s"))
            }
        }
    }

    /// By ledger time. What cannot wait is exempt.
    fn window(&self) -> Checked<String> {
        let (tenant, action) = (&self.intent.tenant, self.intent.action.name());
        if matches!(self.intent.action, IntentKind::Heal(_) | IntentKind::Isolate(_)) {
            return Ok(format!("{action} cannot wait for a window"));
        }
        let windows: Vec<&Window> =
            self.ctx.data.windows.iter().filter(|w| w.concerns(tenant, action)).collect();
        let now = self.ctx.tx.time;
        match windows.is_empty() || windows.iter().any(|w| w.open(now)) {
            true if windows.is_empty() => Ok(format!("{action} is allowed at any time")),
            true => Ok(format!("a window for {action} is open at {now}")),
            false => fault(
                "OUTSIDE_WINDOW",
                format!(
                    "it is {now}; {action} of tenant `{tenant}` is allowed {}",
                    windows.iter().map(|w| words(w)).collect::<Vec<_>>().join(", or ")
                ),
            ),
        }
    }

    fn sovereignty(&self) -> Checked<String> {
        let hints = match &self.intent.action {
            IntentKind::Deploy(deploy) => &deploy.placement,
            IntentKind::Migrate(migrate) => &migrate.placement,
            other => return not_applicable(other.name()),
        };
        match self.sensitivity() {
            Some(Sensitivity::Restricted) => self.jurisdictions(hints),
            Some(other) => Ok(format!("{other:?} services may run in any jurisdiction")),
            None => Ok("there is no service".to_owned()),
        }
    }

    fn jurisdictions(&self, hints: &PlacementHints) -> Checked<String> {
        let all = &self.ctx.data.jurisdictions;
        let allowed = all.get(&self.intent.tenant).or_else(|| all.get("default"));
        let asked = &hints.jurisdictions;
        if asked.is_empty() {
            return fault(
                "JURISDICTION_REQUIRED",
                "a restricted service names the jurisdictions it may run in",
            );
        }
        match asked.iter().find(|j| !allowed.is_some_and(|a| a.contains(*j))) {
            None => Ok(format!("{} allowed for tenant `{}`", asked.join(", "), self.intent.tenant)),
            Some(j) => fault(
                "JURISDICTION_NOT_ALLOWED",
                format!("{j} is not allowed for tenant `{}`", self.intent.tenant),
            ),
        }
    }

    /// What the site must attest; what starts nothing is not attested.
    pub(super) fn assurance(&self) -> Assurance {
        match (&self.intent.action, self.sensitivity()) {
            (IntentKind::Terminate {} | IntentKind::Isolate(_), _) | (_, None) => Assurance::None,
            (_, Some(sensitivity)) => self.ctx.data.assurance_of(sensitivity),
        }
    }

    fn attestable(&self) -> Checked<String> {
        match (self.assurance(), self.keys.len()) {
            (Assurance::None, _) => match &self.intent.action {
                other @ (IntentKind::Terminate {} | IntentKind::Isolate(_)) => not_applicable(other.name()),
                _ => Ok("attestation is not required".to_owned()),
            },
            (Assurance::Tee, _) => fault(
                "NO_TEE",
                "the policy wants the service in a trusted execution environment that attests itself; no site offers \
                 one: the registered keys quote TPMs, which show a measured launch",
            ),
            (Assurance::Measured, 0) => fault(
                "NO_ATTESTATION_KEY",
                "the service must be attested, but no site has a valid attestation key",
            ),
            (Assurance::Measured, n) => Ok(format!("attestation is required; sites with a valid key: {n}")),
        }
    }
}

fn words(window: &Window) -> String {
    let days = match window.days.is_empty() {
        true => "every day".to_owned(),
        false => window.days.iter().map(|d| format!("{d:?}")).collect::<Vec<_>>().join(" "),
    };
    format!("{days} from {}:00 to {}:00 UTC", window.from_hour, window.to_hour)
}
