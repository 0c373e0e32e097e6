//! The steps of a service that a MANO makes, beside those that every service has: its packages, the service as a whole, and
//! rebuilding. Images and links come before it and go after it; each instance is ensured after it, which takes it for ours.
//!
//! Tests: `tests/mano.rs`.

use std::collections::BTreeSet;

use vim::{Kind, ObjectKey};

use super::{Change, Steps, ensure, in_place, short};
use crate::{
    drift::Deviation,
    plan::Action,
    planner::{
        Refusal,
        mano::{Telling, documents, given, key, packages, unchangeable},
    },
    record::{NsRecord, Object},
};

impl Steps<'_> {
    /// Does a MANO make the service's instances?
    pub(super) fn is_managed(&self) -> bool {
        self.after.as_ref().or(self.before).is_some_and(|r| r.mano.is_some())
    }

    /// Is what differs something that can be changed where it is? A configuration is: another boot of the same instance, which is
    /// ours by then, as anywhere.
    pub(super) fn changeable(&self, after: &NsRecord, changed: &[&Object]) -> Result<(), Refusal> {
        let Some(mano) = &after.mano else { return Ok(()) };
        let anew = |o: &&&Object| self.was(o).is_none_or(|old| !in_place(old, &o.spec));
        let anew: Vec<&Object> = changed.iter().filter(anew).copied().collect();
        if !anew.is_empty() {
            return Err(unchangeable(mano, &anew));
        }
        let Some(other) =
            self.before.and_then(|b| after.packages.iter().find(|(id, d)| b.packages.get(*id) != Some(d)))
        else {
            return Ok(());
        };
        let detail = format!(
            "{mano} would make the instances of {} anew without their addresses and configuration: deploy the revision as a service \
             of its own",
            other.0
        );
        Err(Refusal { code: "MANO", detail })
    }

    /// The service, made or changed by its MANO, when its instances are others than before; before it, its packages.
    pub(super) fn realize(&mut self, after: &NsRecord) -> Result<(), Refusal> {
        let Some((topology, seats)) = self.topology.filter(|_| after.mano.is_some()) else { return Ok(()) };
        let told = |record: &NsRecord| -> Result<Action, Refusal> {
            let reserve = self.input.mano.is_some_and(|m| m.capabilities.day0_fixed);
            let spec = Telling { topology, seats, record, reserve }.service()?;
            Ok(Action::Realize { service: key(&record.id)?, spec: Box::new(spec) })
        };
        let same = |b: &&NsRecord| b.instances == after.instances && b.packages == after.packages;
        if self.before.is_some_and(|b| same(&b)) {
            return Ok(());
        }
        if let (None, Action::Realize { spec, .. }) = (self.before, told(after)?)
            && let Some(record) = &mut self.after
        {
            record.told = documents(&spec);
        }
        let (action, undo) = match self.before {
            None => (told(after)?, Action::Dissolve { service: key(&after.id)? }),
            Some(before) => (told(after)?, told(before)?),
        };
        let mut needs: Vec<u32> = self.made.values().copied().collect();
        let was = self.before.map(|b| &b.packages);
        let site = self.main.clone();
        for package in packages(topology) {
            if was.and_then(|w| w.get(&package.id)) == Some(&package.digest) {
                continue;
            }
            let undo = Action::Offboard { package: package.kind, id: package.id.clone() };
            let what = format!("onboard {}", package.id);
            // One after the other: a service's package refers to the VNFs'.
            let before: Vec<u32> = self.steps.last().map(|s| s.id).into_iter().collect();
            needs.push(self.push(&site, before, what, Action::Onboard { package }, Some(undo)));
        }
        let what =
            format!("{} the service by {}", if was.is_some() { "change" } else { "make" }, self.mano());
        self.realized = Some(self.push(&site, needs, what, action, Some(undo)));
        Ok(())
    }

    fn mano(&self) -> String {
        self.after.as_ref().or(self.before).and_then(|r| r.mano.clone()).unwrap_or_default()
    }

    /// Instances that are to be made anew: the MANO takes what is left of them away and makes others, and each is ensured.
    pub(super) fn rebuild(&mut self, after: &NsRecord, change: &Change) {
        if !self.is_managed() {
            return;
        }
        let place = |o: &Object| (o.site.clone(), o.key.clone());
        let named = |o: &&Object| o.spec.kind() == Kind::Compute && change.replace.contains_key(&place(o));
        let objects: Vec<&Object> = after.objects.iter().filter(named).collect();
        let Some(service) = key(&after.id).ok().filter(|_| !objects.is_empty()) else { return };
        let instances: BTreeSet<ObjectKey> = objects.iter().map(|o| o.key.clone()).collect();
        let names: Vec<&str> = instances.iter().map(short).collect();
        let what = format!("rebuild {} by {}", names.join(", "), self.mano());
        let action = Action::Rebuild {
            service,
            name: self.input.operation_id.to_owned(),
            instances: instances.clone(),
        };
        let (site, needs) = (self.main.clone(), self.made.values().copied().collect());
        let rebuilt = self.push(&site, needs, what, action, None);
        for object in objects {
            // What was not there goes again when this unwinds; there is no way back to another.
            let undo = match change.replace.get(&place(object)) {
                Some(Some(Deviation::Missing)) => {
                    Action::Remove { key: object.key.clone(), kind: Kind::Compute }
                }
                _ => ensure(&object.key, &object.spec),
            };
            self.alter("restore", object, &object.spec, vec![rebuilt], Some(undo));
        }
    }

    /// The service is taken down as a whole, when it ends.
    pub(super) fn dissolve(&mut self) -> Option<u32> {
        let before = self.before.filter(|b| self.after.is_none() && b.mano.is_some())?;
        let action = Action::Dissolve { service: key(&before.id).ok()? };
        let (site, what) = (self.main.clone(), format!("take the service down by {}", self.mano()));
        Some(self.push(&site, Vec::new(), what, action, None))
    }

    /// Its packages go with it, unless other services use them.
    pub(super) fn offboard(&mut self, mut needs: Vec<u32>) {
        let Some(before) = self.before.filter(|b| self.after.is_none() && b.mano.is_some()) else { return };
        let site = self.main.clone();
        for (package, id) in given(before) {
            let what = format!("offboard {id}");
            needs = vec![self.push(&site, needs, what, Action::Offboard { package, id }, None)];
        }
    }
}
