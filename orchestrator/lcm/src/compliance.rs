//! Descriptor compliance: is what a VIM made what the descriptor asked for, down to the binding of every port?
//!
//! [`crate::drift`] compares what must stay as it is, thousands of times; this is asked once, when an object was made, of
//! everything that was read back. What a VIM does not tell (a driver without [`vim::Whereabouts`] or [`vim::Binding`]) is not
//! held against it.
//!
//! Tests: below.

use vim::{Binding, ComputeSpec, GroupPolicy, Observed, ObservedCompute, PortSpec, Spec, Vnic, Whereabouts};

use crate::drift::Wanted;

/// What a port is bound as when it is not.
const UNBOUND: [&str; 3] = ["", "unbound", "binding_failed"];

/// Says what is not as it was asked for.
pub fn check(spec: &Spec, observed: &Observed) -> Result<(), String> {
    Wanted::of(spec, false).check(observed).map_err(|(_, detail)| detail)?;
    match (spec, observed) {
        (Spec::Compute(asked), Observed::Compute(found)) => compute(asked, found),
        _ => Ok(()),
    }
}

fn compute(asked: &ComputeSpec, found: &ObservedCompute) -> Result<(), String> {
    let place = found.whereabouts.as_deref();
    if let Some(place) = place {
        placed(asked, place)?;
    }
    for port in &asked.ports {
        if let Some(binding) = found.links.get(&port.name).and_then(|l| l.binding.as_deref()) {
            bound(port, binding, place).map_err(|e| format!("connection point {} {e}", port.name))?;
        }
    }
    Ok(())
}

fn placed(asked: &ComputeSpec, place: &Whereabouts) -> Result<(), String> {
    let elsewhere = |what: &str, asked: &Option<String>, is: &str| match asked {
        Some(asked) if asked != is => Err(format!("it is in {what} `{is}`, asked for `{asked}`")),
        _ => Ok(()),
    };
    elsewhere("zone", &asked.zone, &place.zone)?;
    elsewhere("host", &asked.host, &place.host)?;
    if let Some(lost) = asked.volumes.iter().find(|v| !place.volumes.contains_key(&v.name)) {
        return Err(format!("volume {} is not attached", lost.name));
    }
    let Some(group) = &asked.group else { return Ok(()) };
    let must = matches!(group.policy, GroupPolicy::Affinity | GroupPolicy::AntiAffinity);
    match &place.group {
        None => Err(format!("it is in no server group, asked for {}", group.key)),
        Some(found) if must && !found.satisfied => {
            let mut hosts: Vec<&str> = found.hosts.values().map(String::as_str).collect();
            hosts.sort_unstable();
            Err(format!(
                "group {} is not where it must be: its instances are on {}",
                group.key,
                hosts.join(", ")
            ))
        }
        Some(_) => Ok(()),
    }
}

fn bound(asked: &PortSpec, binding: &Binding, place: Option<&Whereabouts>) -> Result<(), String> {
    if UNBOUND.contains(&binding.vif_type.as_str()) {
        return Err(format!("is not bound (vif_type `{}`)", binding.vif_type));
    }
    if binding.vnic != asked.vnic {
        return Err(format!("is {:?}, asked for {:?}", binding.vnic, asked.vnic));
    }
    if asked.vnic != Vnic::Normal && binding.pci_slot.is_none() {
        return Err("has no PCI address: no device was given to it".into());
    }
    if place.is_some_and(|p| p.host != binding.host) {
        return Err(format!("is bound to host `{}`, not to its instance's", binding.host));
    }
    if asked.trusted && !binding.trusted {
        return Err("is not trusted".into());
    }
    if let Some(missing) = asked.addresses.iter().find(|a| !binding.addresses.contains(a)) {
        return Err(format!("does not have the address {missing}"));
    }
    match asked.floating.is_some() && binding.floating.is_none() {
        true => Err("has no floating address".into()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use dataplane_control::MacAddr;
    use trust::Digest;
    use vim::{ComputeState, Group, GroupState, ObjectKey, PortState, ProcessState};

    use super::*;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    /// A guest with a virtual function, in an anti-affinity group, and how it was found.
    fn guest() -> (ComputeSpec, ObservedCompute) {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let port = PortSpec { vnic: Vnic::Direct, trusted: true, ..PortSpec::new("sr", key("ns/vl"), mac) };
        let group = Group { key: key("ns/m/group/g"), policy: GroupPolicy::AntiAffinity };
        let asked = ComputeSpec {
            ports: vec![port],
            group: Some(group),
            zone: Some("nova".into()),
            ..ComputeSpec::new("vm", Digest::of("image"), 2, 512)
        };
        let binding = Binding {
            id: "port".into(),
            vnic: Vnic::Direct,
            vif_type: "hw_veb".into(),
            host: "one".into(),
            pci_slot: Some("0000:81:10.1".into()),
            trusted: true,
            ..Binding::default()
        };
        let link =
            PortState { up: true, mtu: 1500, network: Some(key("ns/vl")), binding: Some(Box::new(binding)) };
        let group =
            GroupState { id: "g".into(), satisfied: true, hosts: [("vm".into(), "one".into())].into() };
        let place = Whereabouts {
            id: "vm".into(),
            host: "one".into(),
            zone: "nova".into(),
            group: Some(group),
            ..Whereabouts::default()
        };
        let found = ObservedCompute {
            state: ComputeState::Active,
            process: ProcessState::Answers,
            image: Digest::of("image"),
            configuration: None,
            generation: None,
            ports: [("sr".to_owned(), mac)].into(),
            links: [("sr".to_owned(), link)].into(),
            whereabouts: Some(Box::new(place)),
        };
        (asked, found)
    }

    fn altered(alter: impl FnOnce(&mut Whereabouts, &mut Binding)) -> Result<(), String> {
        let (asked, mut found) = guest();
        let mut place = found.whereabouts.take().unwrap();
        let mut binding = found.links["sr"].binding.clone().unwrap();
        alter(&mut place, &mut binding);
        found.links.get_mut("sr").unwrap().binding = Some(binding);
        found.whereabouts = Some(place);
        check(&Spec::Compute(asked), &Observed::Compute(found))
    }

    #[test]
    fn every_departure_from_the_descriptor_is_named() {
        assert_eq!(altered(|_, _| {}), Ok(()));
        let said = |alter: fn(&mut Whereabouts, &mut Binding), word: &str| {
            let problem = altered(alter).unwrap_err();
            assert!(problem.contains(word), "{problem}");
        };
        said(|p, _| p.zone = "other".into(), "in zone `other`, asked for `nova`");
        said(|p, _| p.host = "two".into(), "bound to host `one`");
        said(|p, _| p.group = None, "in no server group");
        said(|p, _| p.group.as_mut().unwrap().satisfied = false, "its instances are on one");
        said(|_, b| b.vif_type = "binding_failed".into(), "is not bound");
        said(|_, b| b.vnic = Vnic::Normal, "is Normal, asked for Direct");
        said(|_, b| b.pci_slot = None, "no PCI address");
        said(|_, b| b.trusted = false, "not trusted");
    }

    #[test]
    fn what_a_vim_does_not_tell_is_not_held_against_it() {
        let (asked, mut found) = guest();
        found.whereabouts = None;
        found.links.clear();
        assert_eq!(check(&Spec::Compute(asked), &Observed::Compute(found)), Ok(()));
    }
}
