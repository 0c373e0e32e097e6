//! A service of ours as a request of OSM's: one document, for creation and for instantiation alike.
//!
//! Both are given the whole: OSM takes a VDU's parameters from the request that *creates* the record, and members'
//! accounts, addresses and networks from the one that instantiates it. What becomes of each, read in NBI and LCM (osm-capk
//! 35936ae) and NG-RO (kube-nfv/RO 16b2f96):
//!
//! | ours | OSM's | what becomes of it, and what is refused because of it (code) |
//! |---|---|---|
//! | key | `nsName`, `additionalParamsForNs.mandate` | server `{nsName}-{member}-{vdu}-{index}`; network `{nsName[:16]}-{vld[:16]}` |
//! | member's site | `vnf[].vimAccountId`; at the NS's own site: absent | a member that names an account has every link that it is on replaced at that account (LCM `update_ns_vld_target`): segment and subnet are lost. So the NS's own account is where the links that OSM makes are, and its members name none; a link that OSM makes elsewhere is refused (`OSM_LINK`) |
//! | existing network | `vld[].vim-network-id` by account | found by id |
//! | named network | `vld[].vim-network-name` by account | a site without a name inherits the first one's: names at every site or at none (`OSM_LINK`) |
//! | segment | `vld[].provider-network` | physical network, type and segment of the network that is made, for links with SR-IOV or passthrough interfaces |
//! | subnet | `vld[].ip-profile` | IPv4 only (`OSM_LINK`) |
//! | MAC, address | `vnf[].vdu[].interface[]` | one per VDU: the NBI counts the last part up by the instance's index, without a carry. Plans that say otherwise are refused (`OSM_ADDRESSES`) |
//! | day-0 document | `additionalParamsForVdu[].mandate_day0` | [`crate::day0`] |
//! | server group | `additionalParamsForVnf[].affinity-or-anti-affinity-group[]` | all of a VNF's groups or none: the NBI fails on one that is missing (`OSM_GROUPS`) |
//! | flavour of a VDU | `vnf[].vdu[].vim-flavor-id` | used as it is |
//! | count | none | the first instantiation level's; then scaled |
//!
//! OSM accepts affinity groups of an NSD and reads them nowhere: our placement decides which member goes where.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use dataplane_control::day0::PARAMETER;
use mano::{LinkSpec, MemberSpec, ServiceKey, ServiceSpec, SiteLink, VduSpec};
use serde_json::{Map, Value, json};

use crate::{
    day0,
    error::{Trouble, refuse},
    mark::{self, Mark},
    records::{Package, VduProfile},
};

/// OSM's ids of what a service refers to.
pub(crate) struct Found {
    /// Site -> VIM account.
    pub(crate) accounts: BTreeMap<String, String>,
    pub(crate) nsd: Package,
    /// VNFD id -> package.
    pub(crate) vnfds: BTreeMap<String, Package>,
}

/// A request, and what was decided in it.
pub(crate) struct Request {
    pub(crate) body: Value,
    pub(crate) decided: Vec<String>,
}

/// The request for a service whose VIM accounts and packages were found.
pub(crate) fn request(
    key: &ServiceKey,
    spec: &ServiceSpec,
    found: &Found,
    timeout_s: u64,
) -> Result<Request, Trouble> {
    let home = home(spec)?;
    let account = account(found, &home)?;
    let vnf =
        spec.members.iter().map(|(index, m)| vnf(index, m, &home, found)).collect::<Result<Vec<_>, _>>()?;
    let vld = spec.links.iter().map(|(id, l)| vld(id, l, found)).collect::<Result<Vec<_>, _>>()?;
    let parameters = spec.members.iter().map(|(index, m)| parameters(index, m, found));
    let parameters = parameters.collect::<Result<Vec<_>, _>>()?;
    let mut body = json!({
        "nsName": key.as_str(),
        "nsDescription": mark::description(key, &spec.name),
        "nsdId": found.nsd.mano_id,
        "vimAccountId": account,
        "additionalParamsForNs": service_parameters(key, spec)?,
        "timeout_ns_deploy": timeout_s,
    });
    for (name, list) in [("vnf", vnf), ("vld", vld), ("additionalParamsForVnf", parameters)] {
        let said: Vec<Value> = list.into_iter().flatten().collect();
        if !said.is_empty() {
            body[name] = said.into();
        }
    }
    Ok(Request { body, decided: decided(spec, found, &home) })
}

/// The NS's own site: where the links are that OSM makes, or else where most members are.
fn home(spec: &ServiceSpec) -> Result<String, Trouble> {
    let mut makes = BTreeSet::new();
    for (id, link) in &spec.links {
        let made = link.sites.iter().filter(|(_, how)| !is_there(how)).map(|(site, _)| site);
        let made: Vec<&String> = made.collect();
        if !made.is_empty() && link.sites.len() > 1 {
            return refuse(
                "OSM_LINK",
                format!(
                    "link {id} spans {} sites, and OSM would make an unconnected network of its own at {}: make it at the VIMs \
                     first and name it by id",
                    link.sites.len(),
                    made.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", ")
                ),
            );
        }
        makes.extend(made);
    }
    if makes.len() > 1 {
        let sites = makes.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", ");
        return refuse(
            "OSM_LINK",
            format!(
                "links are to be made by OSM at {sites}: it keeps segments and subnets at one site only; make the others first"
            ),
        );
    }
    let members = |site: &str| spec.members.values().filter(|m| m.site == site).count();
    let sites: BTreeSet<&String> = spec.members.values().map(|m| &m.site).collect();
    let most = sites.into_iter().max_by_key(|site| members(site));
    match makes.into_iter().next().or(most) {
        Some(site) => Ok(site.clone()),
        None => refuse("OSM_SPEC", "the service has no members"),
    }
}

fn is_there(how: &SiteLink) -> bool {
    matches!(how, SiteLink::Existing { .. } | SiteLink::Named { .. })
}

fn account<'f>(found: &'f Found, site: &str) -> Result<&'f str, Trouble> {
    match found.accounts.get(site) {
        Some(account) => Ok(account),
        None => refuse(
            "OSM_SITE",
            format!("no VIM account is configured for site {site}: add it to the OSM's sites"),
        ),
    }
}

fn service_parameters(key: &ServiceKey, spec: &ServiceSpec) -> Result<Value, Trouble> {
    let mut all: Map<String, Value> = Map::new();
    for (name, value) in &spec.parameters {
        identifier(name)?;
        all.insert(name.clone(), value.clone());
    }
    all.insert(mark::PARAMETER.into(), Mark::of(key, spec).text().into());
    Ok(all.into())
}

/// OSM takes Jinja2 identifiers, and none of ours is to be replaced.
fn identifier(name: &str) -> Result<(), Trouble> {
    let start = |c: char| c.is_ascii_alphabetic() || c == '_';
    let legal = name.starts_with(start) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match legal && !name.starts_with("mandate") && name != "OSM" {
        true => Ok(()),
        false => refuse(
            "OSM_SPEC",
            format!("parameter `{name}`: a name is letters, digits and _, and neither OSM nor mandate…"),
        ),
    }
}

/// An entry of `vnf[]`, when there is something to say.
fn vnf(index: &str, member: &MemberSpec, home: &str, found: &Found) -> Result<Option<Value>, Trouble> {
    let mut out = json!({ "member-vnf-index": index });
    let said = |v: &Value| v.as_object().is_some_and(|o| o.len() > 1);
    let account = account(found, &member.site)?;
    if member.site != home {
        out["vimAccountId"] = account.into();
    }
    let vdus = member.vdus.iter().map(|(id, v)| vdu(index, id, v)).collect::<Result<Vec<_>, _>>()?;
    let vdus: Vec<Value> = vdus.into_iter().filter(said).collect();
    if !vdus.is_empty() {
        out["vdu"] = vdus.into();
    }
    let inner =
        member.links.iter().map(|(id, l)| inner(index, id, l, member)).collect::<Result<Vec<_>, _>>()?;
    let inner: Vec<Value> = inner.into_iter().filter(said).collect();
    if !inner.is_empty() {
        out["internal-vld"] = inner.into();
    }
    Ok(Some(out).filter(said))
}

/// An entry of `vnf[].vdu[]`.
fn vdu(member: &str, id: &str, vdu: &VduSpec) -> Result<Value, Trouble> {
    let mut out = json!({ "id": id });
    if let Some(flavor) = &vdu.flavor {
        out["vim-flavor-id"] = flavor.as_str().into();
    }
    let Some(first) = vdu.instances.first() else { return Ok(out) };
    let mut interfaces = Vec::new();
    for (name, interface) in &first.interfaces {
        counted(member, id, name, vdu)?;
        let mut said = json!({ "name": name, "mac-address": interface.mac.to_string() });
        if let Some(address) = interface.address {
            said["ip-address"] = address.to_string().into();
        }
        interfaces.push(said);
    }
    if !interfaces.is_empty() {
        out["interface"] = interfaces.into();
    }
    Ok(out)
}

/// Are an interface's addresses those that OSM will count up to?
fn counted(member: &str, vdu: &str, name: &str, spec: &VduSpec) -> Result<(), Trouble> {
    let refuse = |index: usize, what: &str, planned: String, counts: String| {
        let of = format!("member {member}, VDU {vdu}, instance {index}, interface {name}");
        let advice =
            "OSM counts the last part of instance 0's up by the index, without a carry: plan the same";
        refuse(
            "OSM_ADDRESSES",
            format!("{of}: {what} {planned} is planned, OSM would give {counts}; {advice}"),
        )
    };
    let Some(first) = spec.instances.first().and_then(|i| i.interfaces.get(name)) else { return Ok(()) };
    for (index, instance) in spec.instances.iter().enumerate() {
        let Some(planned) = instance
            .interfaces
            .get(name)
            .filter(|_| instance.interfaces.len() == spec.instances[0].interfaces.len())
        else {
            return refuse(
                index,
                "another set of interfaces",
                instance.interfaces.len().to_string(),
                spec.instances[0].interfaces.len().to_string(),
            );
        };
        let mac = mac_up(first.mac.0, index);
        if mac != Some(planned.mac.0) {
            return refuse(
                index,
                "MAC address",
                planned.mac.to_string(),
                shown(mac.map(dataplane_control::MacAddr)),
            );
        }
        let address = first.address.map(|a| address_up(a, index));
        if address != planned.address.map(Some) {
            return refuse(index, "address", shown(planned.address), shown(address.flatten()));
        }
    }
    Ok(())
}

fn shown(value: Option<impl ToString>) -> String {
    value.map_or("none".to_owned(), |v| v.to_string())
}

fn mac_up(mac: [u8; 6], by: usize) -> Option<[u8; 6]> {
    let mut out = mac;
    out[5] = out[5].checked_add(u8::try_from(by).ok()?)?;
    Some(out)
}

/// As OSM counts: the text after the last dot as a decimal, after the last colon as a hexadecimal number.
fn address_up(address: IpAddr, by: usize) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => {
            let mut out = a.octets();
            out[3] = out[3].checked_add(u8::try_from(by).ok()?)?;
            Some(IpAddr::from(out))
        }
        IpAddr::V6(a) => {
            let mut out = a.segments();
            // `2001:db8::` ends in nothing that could be counted.
            let ends_in_digits = by == 0 || !a.to_string().ends_with(':');
            out[7] = out[7].checked_add(u16::try_from(by).ok()?).filter(|_| ends_in_digits)?;
            Some(IpAddr::from(out))
        }
    }
}

/// An entry of `vld[]`, when there is something to say.
fn vld(id: &str, link: &LinkSpec, found: &Found) -> Result<Option<Value>, Trouble> {
    let mut out = json!({ "name": id });
    let (mut ids, mut names) = (Map::new(), Map::new());
    for (site, how) in &link.sites {
        let account = account(found, site)?.to_owned();
        match how {
            SiteLink::Existing { id } => drop(ids.insert(account, id.as_str().into())),
            SiteLink::Named { name } => drop(names.insert(account, name.as_str().into())),
            SiteLink::Provider(_) | SiteLink::Made => made(id, how, link, &mut out)?,
        }
    }
    if !ids.is_empty() && !names.is_empty() {
        return refuse(
            "OSM_LINK",
            format!(
                "link {id} is named at some sites and given by id at others; OSM would look for that name at all: give ids"
            ),
        );
    }
    for (name, list) in [("vim-network-id", ids), ("vim-network-name", names)] {
        if !list.is_empty() {
            out[name] = list.into();
        }
    }
    Ok(Some(out).filter(|v| v.as_object().is_some_and(|o| o.len() > 1)))
}

/// What a network that OSM makes is to be.
fn made(id: &str, how: &SiteLink, link: &LinkSpec, out: &mut Value) -> Result<(), Trouble> {
    if let SiteLink::Provider(segment) = how {
        // `network_type` is written as the VIM's API has it.
        let kind = serde_json::to_value(segment.network_type).unwrap_or_default();
        out["provider-network"] =
            json!({ "physical-network": segment.physical_network, "network-type": kind });
        if let Some(segment) = segment.segment {
            out["provider-network"]["segmentation-id"] = segment.to_string().into();
        }
    }
    let Some(subnet) = &link.subnet else { return Ok(()) };
    let cidr = subnet.cidr.to_string();
    if cidr.contains(':') || subnet.gateway.is_some_and(|g| g.is_ipv6()) {
        return refuse(
            "OSM_LINK",
            format!("link {id}: OSM takes IPv4 subnets only, not {cidr}: make the network first"),
        );
    }
    out["ip-profile"] =
        json!({ "ip-version": "ipv4", "subnet-address": cidr, "dhcp-params": { "enabled": subnet.dhcp } });
    if let Some(gateway) = subnet.gateway {
        out["ip-profile"]["gateway-address"] = gateway.to_string().into();
    }
    Ok(())
}

/// An entry of `vnf[].internal-vld[]`: at its member's site, and given by text instead of by account.
fn inner(member: &str, id: &str, link: &LinkSpec, spec: &MemberSpec) -> Result<Value, Trouble> {
    if link.sites.keys().any(|site| *site != spec.site) || link.sites.len() > 1 {
        return refuse(
            "OSM_LINK",
            format!("link {id} within member {member} is at a site that the member is not at"),
        );
    }
    let mut out = json!({ "name": id });
    for how in link.sites.values() {
        match how {
            SiteLink::Existing { id } => out["vim-network-id"] = id.as_str().into(),
            SiteLink::Named { name } => out["vim-network-name"] = name.as_str().into(),
            SiteLink::Provider(_) | SiteLink::Made => made(id, how, link, &mut out)?,
        }
    }
    Ok(out)
}

/// An entry of `additionalParamsForVnf[]`, when there is something to say.
fn parameters(index: &str, member: &MemberSpec, found: &Found) -> Result<Option<Value>, Trouble> {
    let mut out = json!({ "member-vnf-index": index });
    member.parameters.keys().try_for_each(|name| identifier(name))?;
    if !member.parameters.is_empty() {
        out["additionalParams"] = json!(member.parameters);
    }
    let mut vdus = Vec::new();
    for (id, vdu) in &member.vdus {
        // A VDU's parameters replace the VNF's: it gets both.
        let mut all: Map<String, Value> = member.parameters.clone().into_iter().collect();
        all.extend(day0::parameter(vdu).map(|documents| (PARAMETER.to_owned(), documents)));
        if !all.is_empty() {
            vdus.push(json!({ "vdu_id": id, "additionalParams": all }));
        }
    }
    if !vdus.is_empty() {
        out["additionalParamsForVdu"] = vdus.into();
    }
    if !member.groups.is_empty() {
        out["affinity-or-anti-affinity-group"] = groups(index, member, found)?;
    }
    Ok(Some(out).filter(|v| v.as_object().is_some_and(|o| o.len() > 1)))
}

fn groups(index: &str, member: &MemberSpec, found: &Found) -> Result<Value, Trouble> {
    let profiles = found
        .vnfds
        .get(&member.vnfd.id)
        .and_then(|p| p.df.first())
        .map_or(&[] as &[VduProfile], |df| &df.profiles);
    let declared: BTreeSet<&str> = profiles.iter().flat_map(|p| &p.groups).map(|g| g.id.as_str()).collect();
    let given: BTreeSet<&str> = member.groups.keys().map(String::as_str).collect();
    if declared != given {
        let list = |ids: &BTreeSet<&str>| ids.iter().copied().collect::<Vec<_>>().join(", ");
        return refuse(
            "OSM_GROUPS",
            format!(
                "member {index}: server groups are given for [{}], its VNFD has [{}]; OSM fails unless all of them are given, or none",
                list(&given),
                list(&declared)
            ),
        );
    }
    let each = member.groups.iter().map(|(id, group)| json!({ "id": id, "vim-affinity-group-id": group }));
    Ok(each.collect::<Vec<_>>().into())
}

/// What was decided here because OSM decides nothing about it.
fn decided(spec: &ServiceSpec, found: &Found, home: &str) -> Vec<String> {
    let placed = spec.members.iter().map(|(index, m)| {
        let account = found.accounts.get(&m.site).map_or("-", String::as_str);
        format!("member {index} at site {} (VIM account {account}): Mandate's placement; OSM reads no affinity of an NSD", m.site)
    });
    placed.chain([format!("the NS's own VIM account is site {home}'s: OSM makes links there only")]).collect()
}
