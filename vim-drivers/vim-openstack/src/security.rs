//! What guards connection points and what is tied to them: security groups, QoS policies, trunks, floating addresses.
//!
//! All of them carry the instance's mark and the connection point's name, come before the instance and go after it. Tests: the
//! scenarios on a real cloud.

use std::{collections::BTreeMap, net::IpAddr};

use futures::future::{try_join, try_join4};
use reqwest::Method;
use serde_json::{Value, json};
use vim::{ComputeSpec, ObjectKey, PortSecurity, PortSpec, Qos, SecurityRule};

use crate::{
    client::{Call, Service},
    cloud::{Marked, Port},
    driver::Site,
    error::CloudError,
    network::recorded,
};

/// What guards an instance's connection points, by their names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guards {
    /// Security groups' ids.
    pub groups: BTreeMap<String, String>,
    /// QoS policies' ids.
    pub policies: BTreeMap<String, String>,
}

/// Everything tied to an instance's connection points.
#[derive(Debug, Default)]
pub(crate) struct Tied {
    pub groups: Vec<Marked>,
    pub policies: Vec<Marked>,
    pub trunks: Vec<Marked>,
    pub floating: Vec<Marked>,
}

impl Tied {
    pub(crate) fn is_empty(&self) -> bool {
        [&self.groups, &self.policies, &self.trunks, &self.floating].iter().all(|all| all.is_empty())
    }
}

fn rules_of(port: &PortSpec) -> Option<&[SecurityRule]> {
    match &port.security {
        PortSecurity::Rules(rules) => Some(rules),
        PortSecurity::Default | PortSecurity::Off => None,
    }
}

/// Does it ask for any of it?
pub(crate) fn ties(spec: &ComputeSpec) -> bool {
    let tied = |p: &PortSpec| {
        rules_of(p).is_some() || p.qos.is_some() || !p.subports.is_empty() || p.floating.is_some()
    };
    spec.ports.iter().any(tied)
}

fn rule(group: &str, rule: &SecurityRule) -> Value {
    json!({
        "security_group_id": group,
        "direction": if rule.ingress { "ingress" } else { "egress" },
        "ethertype": if rule.ipv6 { "IPv6" } else { "IPv4" },
        "protocol": rule.protocol,
        "port_range_min": rule.ports.map(|p| p.0),
        "port_range_max": rule.ports.map(|p| p.1),
        "remote_ip_prefix": rule.remote.map(|p| p.to_string()),
    })
}

impl Site {
    /// Everything tied to an instance.
    pub(crate) async fn find_tied(&self, key: &ObjectKey) -> Result<Tied, CloudError> {
        let mark = self.marks.of(key);
        let filter = [("description", mark.as_str())];
        let (groups, policies, trunks, floating) = try_join4(
            self.own::<Marked>("security-groups", &filter),
            self.optional("qos/policies", &filter),
            self.optional("trunks", &filter),
            self.optional("floatingips", &filter),
        )
        .await?;
        let groups = groups.into_iter().filter(|g| recorded(g).is_none()).collect();
        Ok(Tied { groups, policies, trunks, floating })
    }

    /// A list of what a cloud need not have.
    pub(crate) async fn optional(
        &self,
        resource: &str,
        filter: &[(&str, &str)],
    ) -> Result<Vec<Marked>, CloudError> {
        match self.own(resource, filter).await {
            Err(CloudError::Refused(e)) if e.is_absent() => Ok(Vec::new()),
            other => other,
        }
    }

    /// Makes what guards the connection points; there is none yet.
    pub(crate) async fn make_guards(
        &self,
        key: &ObjectKey,
        spec: &ComputeSpec,
    ) -> Result<Guards, CloudError> {
        let mut out = Guards::default();
        for port in &spec.ports {
            if let Some(rules) = rules_of(port) {
                let group = self.make_group(key, port, rules).await?;
                out.groups.insert(port.name.clone(), group);
            }
            if let Some(qos) = port.qos.as_ref() {
                let policy = self.make_policy(key, port, qos).await?;
                out.policies.insert(port.name.clone(), policy);
            }
        }
        Ok(out)
    }

    /// What guards them already.
    pub(crate) fn guards(found: &Tied) -> Guards {
        let named = |all: &[Marked]| all.iter().map(|m| (m.name.clone(), m.id.clone())).collect();
        Guards { groups: named(&found.groups), policies: named(&found.policies) }
    }

    async fn make_group(
        &self,
        key: &ObjectKey,
        port: &PortSpec,
        rules: &[SecurityRule],
    ) -> Result<String, CloudError> {
        let body = json!({ "name": port.name, "description": self.marks.of(key) });
        let made: Value = self.post("security-groups", "security_group", body).await?;
        let id = made["id"].as_str().unwrap_or_default().to_owned();
        // neutron lets everything out of a new group; a rule of ours for that direction means only that.
        if rules.iter().any(|r| !r.ingress) {
            for given in made["security_group_rules"].as_array().into_iter().flatten() {
                self.drop_one("security-group-rules", given["id"].as_str().unwrap_or_default()).await?;
            }
        }
        if !rules.is_empty() {
            let all: Vec<Value> = rules.iter().map(|r| rule(&id, r)).collect();
            let call = Call::new(Service::Network, Method::POST, "security-group-rules");
            let call = call.json(&json!({ "security_group_rules": all }));
            self.client.tell(&call).await.map_err(|e| match e.status().map(|s| s.as_u16()) {
                Some(400) => CloudError::BadSpec { problem: e.to_string() },
                _ => e.into(),
            })?;
        }
        Ok(id)
    }

    async fn make_policy(&self, key: &ObjectKey, port: &PortSpec, qos: &Qos) -> Result<String, CloudError> {
        let body = json!({ "name": port.name, "description": self.marks.of(key) });
        let made: Marked = self.post("qos/policies", "policy", body).await?;
        let rules = [
            (qos.max_egress_kbps, "bandwidth_limit", "egress", "max_kbps"),
            (qos.max_ingress_kbps, "bandwidth_limit", "ingress", "max_kbps"),
            (qos.min_egress_kbps, "minimum_bandwidth", "egress", "min_kbps"),
        ];
        for (kbps, kind, direction, field) in rules.into_iter().filter(|r| r.0 > 0) {
            let body = json!({ (field): kbps, "direction": direction });
            self.qos_rule(&made.id, kind, body).await?;
        }
        if let Some(mark) = qos.dscp {
            self.qos_rule(&made.id, "dscp_marking", json!({ "dscp_mark": mark })).await?;
        }
        Ok(made.id)
    }

    async fn qos_rule(&self, policy: &str, kind: &str, body: Value) -> Result<(), CloudError> {
        let resource = format!("qos/policies/{policy}/{kind}_rules");
        let made = self.post::<Value>(&resource, &format!("{kind}_rule"), body).await;
        match made {
            Ok(_) => Ok(()),
            Err(e) if e.status().is_some_and(|s| s.as_u16() == 400) => {
                Err(CloudError::BadSpec { problem: e.to_string() })
            }
            Err(e) => Err(e.into()),
        }
    }

    /// The trunks of connection points that carry other links in VLANs. Before the instance: nova plugs a parent with them.
    pub(crate) async fn ensure_trunks(
        &self,
        key: &ObjectKey,
        spec: &ComputeSpec,
        ports: &[Port],
        found: &Tied,
    ) -> Result<(), CloudError> {
        for (port, parent) in spec.ports.iter().zip(ports).filter(|(p, _)| !p.subports.is_empty()) {
            if found.trunks.iter().any(|t| t.port_id.as_ref() == Some(&parent.id)) {
                continue;
            }
            let mut carried = Vec::new();
            for subport in &port.subports {
                let network = self.link(&subport.network).await?;
                let body = json!({
                    "name": subport.name,
                    "network_id": network.id,
                    "mac_address": subport.mac.to_string(),
                    "description": self.marks.of(key),
                });
                let made: Port = self.post("ports", "port", body).await?;
                let vlan = subport.vlan;
                carried.push(
                    json!({ "port_id": made.id, "segmentation_type": "vlan", "segmentation_id": vlan }),
                );
            }
            let body = json!({
                "name": format!("{}-{}", key.label(), port.name),
                "description": self.marks.of(key),
                "port_id": parent.id,
                "sub_ports": carried,
            });
            let _made: Marked = self.post("trunks", "trunk", body).await?;
        }
        Ok(())
    }

    /// Floating addresses of connection points, by their names.
    pub(crate) async fn ensure_floating(
        &self,
        key: &ObjectKey,
        spec: &ComputeSpec,
        ports: &BTreeMap<String, &Port>,
        found: &Tied,
    ) -> Result<BTreeMap<String, IpAddr>, CloudError> {
        let mut out = BTreeMap::new();
        for port in &spec.ports {
            let (Some(external), Some(there)) = (&port.floating, ports.get(&port.name)) else { continue };
            let mine = |f: &&Marked| f.port_id.as_ref() == Some(&there.id);
            let address = match found.floating.iter().find(mine) {
                Some(found) => found.floating_ip_address,
                None => {
                    let network = self.existing(external).await?;
                    let body = json!({
                        "floating_network_id": network.id,
                        "port_id": there.id,
                        "description": self.marks.of(key),
                    });
                    let made = self.post::<Marked>("floatingips", "floatingip", body).await;
                    let made = made.map_err(|e| match e.kind() {
                        // One of ours that was given up came meanwhile: the next turn finds it.
                        "FloatingIPPortAlreadyAssociated" => CloudError::LostAnswer(Box::new(e)),
                        _ => e.into(),
                    })?;
                    made.floating_ip_address
                }
            };
            out.extend(address.map(|a| (port.name.clone(), a)));
        }
        Ok(out)
    }

    /// What must go before the ports.
    pub(crate) async fn drop_before_ports(&self, tied: &Tied) -> Result<(), CloudError> {
        for floating in &tied.floating {
            self.drop_one("floatingips", &floating.id).await?;
        }
        for trunk in &tied.trunks {
            self.drop_one("trunks", &trunk.id).await?;
        }
        Ok(())
    }

    /// What ports used.
    pub(crate) async fn drop_after_ports(&self, tied: &Tied) -> Result<(), CloudError> {
        let groups = async {
            for group in &tied.groups {
                self.drop_used("security-groups", "security group", group).await?;
            }
            Ok::<_, CloudError>(())
        };
        let policies = async {
            for policy in &tied.policies {
                self.drop_used("qos/policies", "QoS policy", policy).await?;
            }
            Ok(())
        };
        try_join(groups, policies).await.map(drop)
    }

    /// A port whose making was given up may come after its like were deleted.
    async fn drop_used(&self, resource: &str, what: &'static str, it: &Marked) -> Result<(), CloudError> {
        match self.drop_one(resource, &it.id).await {
            Err(e) if e.is_conflict() => Err(CloudError::StillInUse { what, id: it.id.clone() }),
            other => Ok(other?),
        }
    }
}
