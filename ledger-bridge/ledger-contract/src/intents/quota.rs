//! What an approval reserves, and whether the tenant's quota, and its quota at single sites, has room for it.
//!
//! Everything is reserved when it is approved and settled when its evidence is anchored, so that two approvals cannot
//! be given the same room. Where something will run is known only then: until it is, it counts at every site.

use std::collections::BTreeMap;

use super::{Case, QUOTAS, not_applicable, state::scales_in_too_far};
use crate::{
    intent::{IntentKind, PlacementHints, Scale, ScaleDirection, parameters_digest},
    policy::Quota,
    provenance::{Packages, package},
    records::ResourceUse,
    state::{BadRecord, InFlightKind, Revision, ServiceRecord, Usage},
    verdict::{Checked, Rules, fault},
};

/// What an approval does to what is charged.
pub(super) struct Effect {
    /// Services more.
    pub services: u32,
    /// Reserved at once.
    pub asked: ResourceUse,
    /// What its evidence will settle.
    pub kind: InFlightKind,
}

impl Case<'_> {
    /// `None` when a rule has refused what would have to be known.
    pub(super) fn effect(&self, packages: Option<&Packages>) -> Result<Option<Effect>, BadRecord> {
        let plain = |kind| Some(Effect { services: 0, asked: ResourceUse::default(), kind });
        Ok(match &self.intent.action {
            IntentKind::Deploy(_) => packages.map(|p| Effect {
                services: 1,
                asked: p.nsd.record.resources,
                kind: InFlightKind::Deploy,
            }),
            IntentKind::Scale(scale) => packages.and_then(|p| scale_delta(scale, p)).map(|delta| Effect {
                services: 0,
                asked: match scale.direction {
                    ScaleDirection::ScaleOut => delta,
                    ScaleDirection::ScaleIn => ResourceUse::default(),
                },
                kind: InFlightKind::Scale { direction: scale.direction, delta },
            }),
            IntentKind::Update(_) | IntentKind::Rollback(_) => self.revises(packages)?,
            IntentKind::Migrate(migrate) => self.service.as_ref().map(|service| Effect {
                services: 0,
                asked: moved(&migrate.members, packages, service),
                kind: InFlightKind::Migrate,
            }),
            IntentKind::Heal(_) => plain(InFlightKind::Heal),
            IntentKind::Isolate(_) => plain(InFlightKind::Isolate),
            IntentKind::Terminate {} => plain(InFlightKind::Terminate),
        })
    }

    /// Old and new may run side by side for a while, so the larger of both is reserved until one of them is gone.
    fn revises(&self, packages: Option<&Packages>) -> Result<Option<Effect>, BadRecord> {
        let (Some(packages), Some(service)) = (packages, &self.service) else { return Ok(None) };
        let Some((nsd_package, vnf_params)) = self.intent.action.names() else { return Ok(None) };
        let old = package(self.ctx.state, &service.nsd_package)?;
        let scaled =
            old.map_or_else(ResourceUse::default, |old| service.reserved.less(&old.record.resources));
        let reserved = packages.nsd.record.resources.plus(&scaled);
        let next = Revision {
            intent_id: self.intent.id.clone(),
            nsd_package,
            parameters: parameters_digest(vnf_params),
            plain: vnf_params.is_empty(),
        };
        Ok(Some(Effect {
            services: 0,
            asked: reserved.less(&service.reserved),
            kind: InFlightKind::Revise {
                next,
                packages: packages.digests(),
                reserved,
                lease_until: self.renewed_lease(),
            },
        }))
    }

    pub(super) fn quota_rules(&self, rules: &mut Rules, effect: Option<&Effect>) {
        let Some(effect) = effect else { return rules.not_evaluated(QUOTAS) };
        let quotas = &self.ctx.data.quotas;
        let Some(quota) = quotas.get(&self.intent.tenant).or_else(|| quotas.get("default")) else {
            let detail =
                format!("the policy has no quota for tenant `{}` and no default", self.intent.tenant);
            for rule in QUOTAS {
                rules.check(rule, fault("QUOTA_EXCEEDED", detail.clone()));
            }
            return;
        };
        let (used, ask) = (&self.usage.resources, &effect.asked);
        let rows = [
            ("services", self.usage.services, effect.services, Some(quota.services)),
            ("instances", used.instances, ask.instances, Some(quota.instances)),
            ("vCPUs", used.vcpus, ask.vcpus, Some(quota.vcpus)),
            ("MiB of memory", used.memory_mib, ask.memory_mib, Some(quota.memory_mib)),
            ("virtual functions", used.vfs, ask.vfs, quota.vfs),
            ("Mbit/s", used.bandwidth_mbps, ask.bandwidth_mbps, quota.bandwidth_mbps),
        ];
        for (rule, row) in QUOTAS.iter().zip(rows) {
            rules.check(rule, within(row));
        }
        rules.check(QUOTAS[6], self.site_room(quota, ask));
    }

    /// Is there room for it at all, at the sites where the intent lets it run?
    fn site_room(&self, quota: &Quota, ask: &ResourceUse) -> Checked<String> {
        let Some(PlacementHints { sites, .. }) = placement(&self.intent.action) else {
            return not_applicable(self.intent.action.name());
        };
        if sites.is_empty() || sites.iter().any(|s| !quota.sites.contains_key(s)) {
            return Ok("a site without a limit of its own is allowed".to_owned());
        }
        let left = remaining(quota, &self.usage);
        let room = sites.iter().filter_map(|s| left.get(s)).fold(ResourceUse::default(), |a, b| a.plus(b));
        match room.minus(ask) {
            Some(_) => Ok(format!("at {}: {room} left, {ask} asked for", sites.join(", "))),
            None => fault(
                "SITE_QUOTA_EXCEEDED",
                format!("at {}: {room} left for the tenant, {ask} asked for", sites.join(", ")),
            ),
        }
    }

    /// What the grant may use at each site that has a limit, counting everything that is not placed yet against it.
    pub(super) fn site_quotas(&self) -> BTreeMap<String, ResourceUse> {
        let quotas = &self.ctx.data.quotas;
        let quota = quotas.get(&self.intent.tenant).or_else(|| quotas.get("default"));
        quota.map(|quota| remaining(quota, &self.usage)).unwrap_or_default()
    }

    pub(super) fn usage_after(&self, effect: &Effect) -> Usage {
        let mut usage = self.usage.clone();
        usage.services = usage.services.saturating_add(effect.services);
        usage.resources = usage.resources.plus(&effect.asked);
        if self.ctx.tx.v >= 2 {
            usage.unplaced = usage.unplaced.plus(&effect.asked);
        }
        usage
    }

    pub(super) fn scaling(&self, packages: Option<&Packages>) -> Option<Checked<String>> {
        match (&self.intent.action, packages, &self.service) {
            (IntentKind::Scale(scale), Some(packages), Some(service)) => {
                Some(scaling(scale, packages, service))
            }
            (IntentKind::Scale(_), _, _) => None,
            (other, _, _) => Some(not_applicable(other.name())),
        }
    }
}

/// What a tenant may still use at each site that has a limit: what is in use there, and everything that no evidence has
/// placed, counts against it.
#[must_use]
pub fn remaining(quota: &Quota, usage: &Usage) -> BTreeMap<String, ResourceUse> {
    let left = |(site, limit): (&String, &ResourceUse)| {
        let used = usage.sites.get(site).copied().unwrap_or_default();
        (site.clone(), limit.less(&used).less(&usage.unplaced))
    };
    quota.sites.iter().map(left).collect()
}

fn placement(action: &IntentKind) -> Option<&PlacementHints> {
    match action {
        IntentKind::Deploy(deploy) => Some(&deploy.placement),
        IntentKind::Migrate(migrate) => Some(&migrate.placement),
        _ => None,
    }
}

/// What runs twice while members move: theirs, and whatever was scaled, for the record does not say whose that is.
fn moved(members: &[String], packages: Option<&Packages>, service: &ServiceRecord) -> ResourceUse {
    let Some(packages) = packages else { return service.reserved };
    let known = &packages.nsd.record.members;
    if members.is_empty() || members.iter().any(|m| !known.contains_key(m)) {
        return service.reserved;
    }
    let vnfs = members.iter().filter_map(|m| known.get(m)).filter_map(|id| packages.vnfs.get(id));
    let own = vnfs.fold(ResourceUse::default(), |sum, vnf| sum.plus(&vnf.record.resources));
    own.plus(&service.reserved.less(&packages.nsd.record.resources))
}

fn within((what, used, more, limit): (&str, u32, u32, Option<u32>)) -> Checked<String> {
    let Some(limit) = limit else {
        return Ok(format!("{used} {what} in use, {more} more asked for, no limit"));
    };
    let detail = format!("{used} {what} in use, {more} more asked for, quota {limit}");
    // Asking for nothing more is always allowed, also above a quota that was lowered.
    match more == 0 || used.checked_add(more).is_some_and(|sum| sum <= limit) {
        true => Ok(detail),
        false => fault("QUOTA_EXCEEDED", detail),
    }
}

fn scale_delta(scale: &Scale, packages: &Packages) -> Option<ResourceUse> {
    let step = packages.nsd.record.scaling.get(&format!("{}/{}", scale.member, scale.aspect))?;
    Some(step.times(scale.steps))
}

fn scaling(scale: &Scale, packages: &Packages, service: &ServiceRecord) -> Checked<String> {
    let Some(delta) = scale_delta(scale, packages) else {
        let detail = format!(
            "`{}` has no scaling aspect `{}/{}`",
            packages.nsd.record.descriptor_id, scale.member, scale.aspect
        );
        return fault("NO_SUCH_ASPECT", detail);
    };
    if scales_in_too_far(scale.direction, service, &delta) {
        return fault("SCALE_LEVEL", format!("{} steps in are more than the service has", scale.steps));
    }
    Ok(format!("{} steps of `{}/{}`: {delta}", scale.steps, scale.member, scale.aspect))
}
