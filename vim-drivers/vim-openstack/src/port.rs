//! Connection points in neutron: found by their mark, made in one call, put right where that can be done under a running
//! instance, and what a port must be for that.
//!
//! A port that somebody attached to a server of theirs is left to them, mark or not. Tests: the conformance suite.

use std::collections::BTreeMap;

use futures::future::{join_all, try_join_all};
use serde_json::{Map, Value, json};
use vim::{ComputeSpec, ObjectKey, PortSecurity, PortSpec, Vnic};

use crate::{
    cloud::{Network, Pair, Port},
    driver::Site,
    error::CloudError,
    security::Guards,
};

/// The port and its network, as wanted.
pub(crate) struct Wanted<'a> {
    pub spec: &'a PortSpec,
    pub network: Network,
}

pub(crate) fn vnic_name(vnic: Vnic) -> &'static str {
    match vnic {
        Vnic::Normal => "normal",
        Vnic::Direct => "direct",
        Vnic::DirectPhysical => "direct-physical",
    }
}

pub(crate) fn vnic_of(name: &str) -> Vnic {
    match name {
        "direct" => Vnic::Direct,
        "direct-physical" => Vnic::DirectPhysical,
        _ => Vnic::Normal,
    }
}

impl Wanted<'_> {
    /// Is it this port, in all that cannot be changed under an instance? A whole device keeps its own MAC address.
    fn is(&self, port: &Port, adopted: bool) -> bool {
        let own = (adopted || self.spec.vnic == Vnic::DirectPhysical) && port.name == self.spec.name;
        port.network_id == self.network.id
            && vnic_of(&port.vnic_type) == self.spec.vnic
            && port.trusted() == self.spec.trusted
            && (own || port.mac_address.eq_ignore_ascii_case(&self.spec.mac.to_string()))
            && (adopted || self.addresses_fit(port))
    }

    fn addresses_fit(&self, port: &Port) -> bool {
        self.network.subnets.is_empty()
            || self.spec.addresses.iter().all(|a| port.fixed_ips.iter().any(|f| f.ip_address == *a))
    }

    /// By default: where the link has addresses.
    fn guarded(&self) -> bool {
        self.network.port_security_enabled
    }

    fn pairs(&self) -> Vec<Pair> {
        let one = |p: &vim::AddressPair| Pair {
            ip_address: p.address.to_string(),
            mac_address: p.mac.unwrap_or(self.spec.mac).to_string(),
        };
        self.spec.address_pairs.iter().map(one).collect()
    }

    /// What can be changed while it is attached.
    fn changeable(&self, guards: &Guards, up: bool) -> Map<String, Value> {
        let mut out = Map::new();
        out.insert("name".into(), json!(self.spec.name));
        out.insert("admin_state_up".into(), json!(up));
        if !self.spec.address_pairs.is_empty() {
            let pairs = self.pairs();
            let one = |p: &Pair| json!({ "ip_address": p.ip_address, "mac_address": p.mac_address });
            out.insert("allowed_address_pairs".into(), pairs.iter().map(one).collect());
        }
        match &self.spec.security {
            PortSecurity::Default => {}
            PortSecurity::Off => {
                out.insert("port_security_enabled".into(), json!(false));
                out.insert("security_groups".into(), json!([]));
            }
            PortSecurity::Rules(_) => {
                out.insert("security_groups".into(), json!([guards.groups.get(&self.spec.name)]));
            }
        }
        if let Some(policy) = guards.policies.get(&self.spec.name) {
            out.insert("qos_policy_id".into(), json!(policy));
        }
        out
    }

    /// What of that is to be changed; `None`: nothing.
    pub(crate) fn changes(&self, port: &Port, guards: &Guards, up: bool) -> Option<Map<String, Value>> {
        if self.settled(port, guards, up) {
            return None;
        }
        let mut body = self.changeable(guards, up);
        if self.spec.security == PortSecurity::Default && port.port_security_enabled != self.guarded() {
            body.insert("port_security_enabled".into(), json!(self.guarded()));
        }
        if self.spec.address_pairs.is_empty() && !port.allowed_address_pairs.is_empty() {
            body.insert("allowed_address_pairs".into(), json!([]));
        }
        if port.qos_policy_id.is_some() && !guards.policies.contains_key(&self.spec.name) {
            body.insert("qos_policy_id".into(), Value::Null);
        }
        Some(body)
    }

    fn document(&self, mark: &str, guards: &Guards, up: bool) -> Value {
        let mut out = self.changeable(guards, up);
        out.insert("network_id".into(), json!(self.network.id));
        out.insert("mac_address".into(), json!(self.spec.mac.to_string()));
        out.insert("description".into(), json!(mark));
        out.insert("binding:vnic_type".into(), json!(vnic_name(self.spec.vnic)));
        if self.spec.trusted {
            out.insert("binding:profile".into(), json!({ "trusted": "true" }));
        }
        if self.network.subnets.is_empty() {
            // Without addresses, and said so: nova refuses a port that only happens to have none.
            out.insert("fixed_ips".into(), json!([]));
        } else if !self.spec.addresses.is_empty() {
            let addresses = self.spec.addresses.iter().map(|a| json!({ "ip_address": a })).collect();
            out.insert("fixed_ips".into(), addresses);
        }
        Value::Object(out)
    }

    /// Does the port have all that can be changed as it is wanted?
    fn settled(&self, port: &Port, guards: &Guards, up: bool) -> bool {
        let mut pairs = (self.pairs(), port.allowed_address_pairs.clone());
        pairs.0.sort();
        pairs.1.sort();
        let guarded = match &self.spec.security {
            PortSecurity::Default => port.port_security_enabled == self.guarded(),
            PortSecurity::Off => !port.port_security_enabled,
            PortSecurity::Rules(_) => {
                guards.groups.get(&self.spec.name).is_some_and(|g| port.security_groups == [g.clone()])
            }
        };
        port.name == self.spec.name
            && port.admin_state_up == up
            && pairs.0 == pairs.1
            && guarded
            && port.qos_policy_id.as_ref() == guards.policies.get(&self.spec.name)
    }
}

impl Site {
    /// Everything marked as a port of this instance.
    pub(crate) async fn find_ports(&self, key: &ObjectKey) -> Result<Vec<Port>, CloudError> {
        let list = |keys: Vec<ObjectKey>| async move {
            let marks: Vec<String> = keys.iter().map(|k| self.marks.of(k)).collect();
            let filter: Vec<(&str, &str)> = marks.iter().map(|m| ("description", m.as_str())).collect();
            self.own("ports", &filter).await
        };
        self.ports.find(key, list, |p: &Port, key| p.description == self.marks.of(key)).await
    }

    /// The ports that a specification asks for, with the networks they are on; one list for all that are not remembered.
    pub(crate) async fn wanted<'a>(&self, spec: &'a ComputeSpec) -> Result<Vec<Wanted<'a>>, CloudError> {
        let one = |port: &'a PortSpec| async move {
            Ok::<_, CloudError>(Wanted { spec: port, network: self.link(&port.network).await? })
        };
        try_join_all(spec.ports.iter().map(one)).await
    }

    /// Which of the ports found are those wanted, by name in the specification.
    pub(crate) fn matched<'p>(
        wanted: &[Wanted<'_>],
        found: &'p [Port],
        adopted: bool,
    ) -> BTreeMap<String, &'p Port> {
        let mut out: BTreeMap<String, &Port> = BTreeMap::new();
        for one in wanted {
            let free = |p: &&Port| one.is(p, adopted) && !out.values().any(|taken| taken.id == p.id);
            if let Some(port) = found.iter().find(free) {
                out.insert(one.spec.name.clone(), port);
            }
        }
        out
    }

    /// Makes the ports be as wanted: those that cannot be are deleted, the missing made in one call, the others changed.
    /// No instance of ours has them. In the order of the specification.
    pub(crate) async fn ensure_ports(
        &self,
        key: &ObjectKey,
        wanted: &[Wanted<'_>],
        found: &[Port],
        guards: &Guards,
    ) -> Result<Vec<Port>, CloudError> {
        let matched = Self::matched(wanted, found, false);
        let unfit: Vec<&Port> = found.iter().filter(|p| !matched.values().any(|m| m.id == p.id)).collect();
        self.drop_ports(&unfit).await?;
        self.settle(wanted, &matched, guards, true).await?;
        let missing: Vec<&Wanted<'_>> =
            wanted.iter().filter(|w| !matched.contains_key(&w.spec.name)).collect();
        let mut made = self.make_ports(key, &missing, guards).await?.into_iter();
        let mut out = Vec::new();
        for one in wanted {
            match matched.get(&one.spec.name) {
                Some(there) => out.push((*there).clone()),
                None => out.extend(made.next()),
            }
        }
        match out.len() == wanted.len() {
            true => Ok(out),
            false => Err(CloudError::Internal("neutron made fewer ports than were asked for".into())),
        }
    }

    async fn make_ports(
        &self,
        key: &ObjectKey,
        missing: &[&Wanted<'_>],
        guards: &Guards,
    ) -> Result<Vec<Port>, CloudError> {
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        // Yoga's neutron forgets of a port made among others that it has no address on purpose, and nova refuses it then.
        let (single, bulk): (Vec<_>, Vec<_>) =
            missing.iter().copied().partition(|w: &&Wanted<'_>| w.network.subnets.is_empty());
        let mark = self.marks.of(key);
        let documents = |all: &[&Wanted<'_>]| -> Vec<Value> {
            all.iter().map(|w| w.document(&mark, guards, true)).collect()
        };
        let one = |document| self.post::<Port>("ports", "port", document);
        let many = async {
            match bulk.as_slice() {
                [] => Ok(Vec::new()),
                all => self.post::<Vec<Port>>("ports", "ports", documents(all).into()).await,
            }
        };
        let single = join_all(documents(&single).into_iter().map(one));
        // Both are heard to the end: what is given up on the way would come when nobody looks for it any more.
        let (many, single) = futures::future::join(many, single).await;
        let both = many.and_then(|made| Ok((made, single.into_iter().collect::<Result<Vec<_>, _>>()?)));
        let (mut made, single) = both.map_err(|e| match e.kind() {
            "NetworkNotFound" => {
                self.known(|k| k.networks.clear());
                CloudError::NetworkAbsent { network: missing[0].spec.network.clone() }
            }
            // One of ours that was given up came meanwhile: the next turn finds it.
            "MacAddressInUse" => CloudError::LostAnswer(Box::new(e)),
            "InvalidIpForNetwork" | "InvalidIpForSubnet" | "InvalidInput" | "BadRequest" => {
                CloudError::BadSpec { problem: e.to_string() }
            }
            _ => e.into(),
        })?;
        made.extend(single);
        // In the order asked for, whatever the answer's.
        let by_mac = |w: &&Wanted<'_>| {
            made.iter().find(|p| p.mac_address.eq_ignore_ascii_case(&w.spec.mac.to_string())).cloned()
        };
        Ok(missing.iter().filter_map(by_mac).collect())
    }

    /// Changes what can be changed and is not as wanted; true: something was.
    pub(crate) async fn settle(
        &self,
        wanted: &[Wanted<'_>],
        matched: &BTreeMap<String, &Port>,
        guards: &Guards,
        up: bool,
    ) -> Result<bool, CloudError> {
        let mut changes = Vec::new();
        for one in wanted {
            let Some(port) = matched.get(&one.spec.name) else { continue };
            let Some(body) = one.changes(port, guards, up) else { continue };
            changes.push(async move { self.put("ports", &port.id, "port", Value::Object(body)).await });
        }
        let changed = !changes.is_empty();
        try_join_all(changes).await?;
        Ok(changed)
    }

    /// Deletes ports that nobody else attached to anything.
    pub(crate) async fn drop_ports(&self, ports: &[&Port]) -> Result<(), CloudError> {
        let results = join_all(ports.iter().map(|p| self.drop_one("ports", &p.id))).await;
        for (port, result) in ports.iter().zip(results) {
            match result {
                // A subport, or the parent of a trunk, one that came late: after the trunk.
                Err(e) if e.is_conflict() && !port.device_owner.starts_with("compute:") => {
                    return Err(CloudError::StillInUse { what: "port", id: port.id.clone() });
                }
                Err(e) if e.is_conflict() => {
                    let other = port.device_id.clone();
                    return Err(CloudError::PortTaken { port: port.id.clone(), other });
                }
                other => other?,
            }
        }
        Ok(())
    }
}
