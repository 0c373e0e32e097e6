//! Counts: OSM has none in a request. A service is built with its VNFDs' first instantiation level, and every difference is
//! steps of a scaling aspect.
//!
//! What the LCM would only say when it fails is refused here first: an aspect whose name is not its id (the NBI looks for the id,
//! the LCM for the name), counts outside of the VDU's profile, and instances without a day-0 document.

use std::collections::BTreeMap;

use mano::{MemberSpec, ServiceSpec};
use serde_json::{Value, json};

use crate::{
    error::{Trouble, refuse},
    records::{Aspect, Flavour, Package},
};

/// Instances of a VDU in the first instantiation level; 1 where it says nothing.
fn level(df: &Flavour, vdu: &str) -> u32 {
    let first = df.levels.first().and_then(|l| l.vdus.iter().find(|v| v.vdu == vdu));
    first.map_or(1, |v| v.count.0)
}

/// Can OSM make the member's counts at all?
pub(crate) fn feasible(index: &str, member: &MemberSpec, package: &Package) -> Result<(), Trouble> {
    let none = Flavour::default();
    let df = package.df.first().unwrap_or(&none);
    for (id, vdu) in &member.vdus {
        let at = format!("member {index}, VDU {id}");
        if !package.vdu.iter().any(|v| v.id == *id) {
            return refuse("OSM_SPEC", format!("{at}: VNFD {} has no such VDU", package.id));
        }
        let built = level(df, id);
        if usize::try_from(built).map_or(true, |n| n > vdu.instances.len()) {
            let planned = vdu.instances.len();
            return refuse(
                "OSM_SPEC",
                format!(
                    "{at}: OSM begins with {built} instances (first instantiation level), planned are {planned}"
                ),
            );
        }
        let profile = df.profiles.iter().find(|p| p.id == *id);
        let least = profile.and_then(|p| p.least).map_or(0, |n| n.0);
        // The LCM's own default.
        let most = profile.and_then(|p| p.most).map_or(10, |n| n.0);
        if vdu.count != built && !(least..=most).contains(&vdu.count) {
            return refuse(
                "OSM_SCALE",
                format!("{at}: {} instances; the VNFD allows {least} to {most}", vdu.count),
            );
        }
    }
    missing(index, member, df)
}

/// VDUs of the VNFD that the plan says nothing of: OSM would build them all the same.
fn missing(index: &str, member: &MemberSpec, df: &Flavour) -> Result<(), Trouble> {
    let unplanned = df.profiles.iter().find(|p| !member.vdus.contains_key(&p.id) && level(df, &p.id) > 0);
    match unplanned {
        None => Ok(()),
        Some(p) => refuse(
            "OSM_SPEC",
            format!("member {index}: its VNFD's VDU {} is not planned, and OSM would build it", p.id),
        ),
    }
}

/// The next step of scaling; `None`: the counts are as asked for.
pub(crate) fn next(
    spec: &ServiceSpec,
    vnfds: &BTreeMap<String, Package>,
    there: &BTreeMap<String, BTreeMap<String, u32>>,
) -> Result<Option<Value>, Trouble> {
    for (index, member) in &spec.members {
        let of = |vdu: &str| there.get(index).and_then(|m| m.get(vdu)).copied().unwrap_or_default();
        let off = |vdu: &str| member.vdus.get(vdu).map_or(0, |v| i64::from(v.count) - i64::from(of(vdu)));
        let Some(vdu) = member.vdus.keys().find(|vdu| off(vdu) != 0) else { continue };
        let aspects =
            vnfds.get(&member.vnfd.id).and_then(|p| p.df.first()).map_or(&[] as &[Aspect], |df| &df.aspects);
        let Some((aspect, steps)) =
            aspects.iter().find_map(|a| Some((a, steps(a, &off).filter(|_| touches(a, vdu))?)))
        else {
            return refuse(
                "OSM_SCALE",
                format!(
                    "member {index}, VDU {vdu}: {} instances are there, asked for is {}, and no scaling aspect of VNFD {} makes that \
                     (its name must be its id)",
                    of(vdu),
                    i64::from(of(vdu)) + off(vdu),
                    member.vnfd.id
                ),
            );
        };
        let kind = if steps > 0 { "SCALE_OUT" } else { "SCALE_IN" };
        let step = json!({ "scaling-group-descriptor": aspect.id, "member-vnf-index": index });
        return Ok(Some(json!({
            "scaleType": "SCALE_VNF",
            "scaleVnfData": { "scaleVnfType": kind, "scaleByStepData": step },
        })));
    }
    Ok(None)
}

/// Instances per VDU that one step of the aspect makes: the LCM takes all deltas at once.
fn deltas(aspect: &Aspect) -> BTreeMap<&str, i64> {
    let mut out = BTreeMap::new();
    for delta in aspect.details.deltas.iter().flat_map(|d| &d.vdus) {
        *out.entry(delta.id.as_str()).or_default() += i64::from(delta.count.map_or(1, |n| n.0));
    }
    out
}

fn touches(aspect: &Aspect, vdu: &str) -> bool {
    deltas(aspect).contains_key(vdu)
}

/// How many steps of the aspect take every VDU that it touches to where it should be; none if no number does.
fn steps(aspect: &Aspect, off: &impl Fn(&str) -> i64) -> Option<i64> {
    let whole = |(vdu, per): (&&str, &i64)| (*per != 0 && off(vdu) % per == 0).then(|| off(vdu) / per);
    let deltas = deltas(aspect);
    let known = aspect.id == aspect.name && aspect.details.deltas.iter().all(|d| d.kdus.is_empty());
    let each: Option<Vec<i64>> = deltas.iter().map(whole).collect();
    let each = each.filter(|_| known)?;
    let first = *each.first()?;
    (first != 0 && each.iter().all(|n| *n == first)).then_some(first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn aspect(id: &str, name: &str, deltas: &[(&str, u32)]) -> Aspect {
        let deltas: Vec<Value> =
            deltas.iter().map(|(id, n)| json!({ "id": id, "number-of-instances": n })).collect();
        let details = json!({ "deltas": [{ "id": "d", "vdu-delta": deltas }] });
        serde_json::from_value(json!({ "id": id, "name": name, "aspect-delta-details": details })).unwrap()
    }

    #[test]
    fn steps_take_every_vdu_to_its_count_or_none() {
        let off = |a: i64, b: i64| move |vdu: &str| if vdu == "a" { a } else { b };
        let one = aspect("x", "x", &[("a", 1)]);
        let both = aspect("x", "x", &[("a", 1), ("b", 2)]);
        assert_eq!(steps(&one, &off(2, 9)), Some(2));
        assert_eq!(steps(&one, &off(-1, 0)), Some(-1));
        assert_eq!(steps(&one, &off(0, 1)), None);
        assert_eq!(steps(&both, &off(2, 4)), Some(2));
        assert_eq!(steps(&both, &off(2, 2)), None, "b would be four");
        assert_eq!(steps(&aspect("x", "x", &[("a", 2)]), &off(3, 0)), None, "two at a time");
        assert_eq!(steps(&aspect("x", "other", &[("a", 1)]), &off(1, 0)), None, "the LCM looks for the name");
        assert_eq!(steps(&aspect("x", "x", &[]), &off(1, 0)), None);
        assert_eq!(steps(&aspect("x", "x", &[("a", 0)]), &off(1, 0)), None);
    }
}
