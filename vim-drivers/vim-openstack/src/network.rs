//! Virtual links in neutron: a network with its subnets, a segment of a physical network, or a network that is there already.
//!
//! A link that is somebody else's network (`existing`) is neither changed nor removed; that it is ours to use is recorded in an
//! empty security group of its key, whose name ends in the network's id. A link without addresses has no port security: what may
//! pass is told by addresses, and nova refuses ports that are to be guarded without. Tests: the conformance suite.

use reqwest::Method;
use serde_json::{Value, json};
use vim::{Interconnect, NetworkSpec, NetworkType, ObjectKey, Observed, ProviderSegment, Subnet};

use crate::{
    client::{ApiError, Call, Service},
    cloud::{self, Marked, Network},
    driver::Site,
    error::CloudError,
    wait::LATE,
};

const NEUTRON: Service = Service::Network;
/// Beginning of a record's name; the network's id follows.
const RECORD: &str = "link to ";
/// The network that a record is of.
pub(crate) fn recorded(group: &Marked) -> Option<&str> {
    group.name.strip_prefix(RECORD)
}

impl Site {
    /// A list of the project's own of one of neutron's resources.
    pub(crate) async fn own<T: serde::de::DeserializeOwned>(
        &self,
        resource: &str,
        filter: &[(&str, &str)],
    ) -> Result<Vec<T>, CloudError> {
        let project = self.client.project_id().await?;
        let mut call = Call::get(NEUTRON, resource).query("project_id", project);
        for (name, value) in filter {
            call = call.query(name, *value);
        }
        let member = resource.rsplit('/').next().unwrap_or(resource).replace('-', "_");
        Ok(self.client.all(call, &member).await?)
    }

    /// Creates one of neutron's resources.
    pub(crate) async fn post<T: serde::de::DeserializeOwned>(
        &self,
        resource: &str,
        member: &str,
        body: Value,
    ) -> Result<T, ApiError> {
        let call = Call::new(NEUTRON, Method::POST, resource).json(&json!({ member: body }));
        let mut answer: Value = self.client.ask(&call).await?;
        serde_json::from_value(answer[member].take()).map_err(|e| {
            let problem = e.to_string();
            ApiError::new(format!("neutron POST {resource}"), crate::client::Fault::Unreadable { problem })
        })
    }

    /// Changes one of neutron's resources; as it is then.
    pub(crate) async fn put_and_read<T: serde::de::DeserializeOwned>(
        &self,
        resource: &str,
        id: &str,
        member: &str,
        body: Value,
    ) -> Result<T, ApiError> {
        let call = Call::new(NEUTRON, Method::PUT, format!("{resource}/{id}")).json(&json!({ member: body }));
        let mut answer: Value = self.client.ask(&call).await?;
        serde_json::from_value(answer[member].take()).map_err(|e| {
            let problem = e.to_string();
            ApiError::new(format!("neutron PUT {resource}"), crate::client::Fault::Unreadable { problem })
        })
    }

    pub(crate) async fn put(
        &self,
        resource: &str,
        id: &str,
        member: &str,
        body: Value,
    ) -> Result<(), ApiError> {
        let call = Call::new(NEUTRON, Method::PUT, format!("{resource}/{id}")).json(&json!({ member: body }));
        self.client.tell(&call).await
    }

    pub(crate) async fn drop_one(&self, resource: &str, id: &str) -> Result<(), ApiError> {
        self.client.delete(NEUTRON, format!("{resource}/{id}")).await
    }

    /// The network behind a link of ours; remembered, since it is what every instance asks for.
    pub(crate) async fn link(&self, key: &ObjectKey) -> Result<Network, CloudError> {
        if let Some(known) = self.known(|k| k.networks.get(key).cloned()) {
            return Ok(known);
        }
        let network = match self.made_link(key).await? {
            Some(made) => made,
            None => match self.record(key).await? {
                Some(record) => self.network_by_id(recorded(&record).unwrap_or_default()).await?,
                None => return Err(CloudError::NetworkAbsent { network: key.clone() }),
            },
        };
        self.known(|k| k.networks.insert(key.clone(), network.clone()));
        Ok(network)
    }

    /// The network that was made for a link. Of two, which a call makes that was carried out long after it was given up, always
    /// the same one; the other goes, unless somebody is on it.
    async fn made_link(&self, key: &ObjectKey) -> Result<Option<Network>, CloudError> {
        let list = |keys: Vec<ObjectKey>| async move {
            let marks: Vec<String> = keys.iter().map(|k| self.marks.of(k)).collect();
            let filter: Vec<(&str, &str)> = marks.iter().map(|m| ("description", m.as_str())).collect();
            self.own("networks", &filter).await
        };
        let of = |n: &Network, key: &ObjectKey| n.description == self.marks.of(key);
        let mut found = self.networks.find(key, list, of).await?;
        // That with subnets, which was gone on with.
        found.sort_by(|a, b| (a.subnets.is_empty(), &a.id).cmp(&(b.subnets.is_empty(), &b.id)));
        let first = (!found.is_empty()).then(|| found.remove(0));
        for double in found {
            tracing::warn!(site = %self.config.site, %key, network = double.id, "a second network of the key is deleted");
            match self.drop_network(&double.id).await {
                Err(CloudError::NetworkInUse { .. }) => {}
                other => other?,
            }
        }
        Ok(first)
    }

    async fn record(&self, key: &ObjectKey) -> Result<Option<Marked>, CloudError> {
        let all: Vec<Marked> = self.own("security-groups", &[("description", &self.marks.of(key))]).await?;
        Ok(all.into_iter().find(|g| recorded(g).is_some()))
    }

    pub(crate) async fn network_by_id(&self, id: &str) -> Result<Network, CloudError> {
        let mut answer: Value = self.client.ask(&Call::get(NEUTRON, format!("networks/{id}"))).await?;
        serde_json::from_value(answer["network"].take()).map_err(|e| CloudError::Internal(e.to_string()))
    }

    pub(crate) async fn ensure_network(
        &self,
        key: &ObjectKey,
        spec: &NetworkSpec,
    ) -> Result<Observed, CloudError> {
        self.known(|k| k.networks.remove(key));
        if let Some(name) = &spec.existing {
            return self.use_existing(key, name).await;
        }
        let segment = self.segment(spec)?;
        let network = match self.made_link(key).await? {
            Some(found) if same_segment(&found, segment.as_ref()) => self.amend(found, spec).await?,
            Some(other) => {
                self.drop_network(&other.id).await?;
                self.make_network(key, spec, segment.as_ref()).await?
            }
            None => self.make_network(key, spec, segment.as_ref()).await?,
        };
        let subnets = self.ensure_subnets(key, &network, &spec.subnets).await?;
        let network = Network { subnets, ..network };
        self.known(|k| k.networks.insert(key.clone(), network.clone()));
        Ok(self.observed_network(&network))
    }

    /// Can what is asked for be made of this network?
    pub(crate) fn fits(&self, found: &Network, spec: &NetworkSpec) -> Result<bool, CloudError> {
        Ok(same_segment(found, self.segment(spec)?.as_ref()))
    }

    /// The segment that is asked for, of a provider network or of a wide-area one.
    fn segment(&self, spec: &NetworkSpec) -> Result<Option<ProviderSegment>, CloudError> {
        let Some(interconnect) = &spec.interconnect else { return Ok(spec.provider.clone()) };
        let Interconnect { wan, segment } = interconnect;
        let physical_network = self
            .config
            .wans
            .get(wan)
            .cloned()
            .ok_or_else(|| CloudError::NoWan { wan: wan.clone(), site: self.config.site.clone() })?;
        let joined =
            ProviderSegment { physical_network, network_type: NetworkType::Vlan, segment: Some(*segment) };
        match &spec.provider {
            Some(other) if *other != joined => Err(CloudError::BadSpec {
                problem: format!(
                    "the link is segment {segment} of {wan} and of {} too",
                    other.physical_network
                ),
            }),
            _ => Ok(Some(joined)),
        }
    }

    /// As it is seen from outside.
    pub(crate) fn observed_network(&self, network: &Network) -> Observed {
        Observed::Network { up: network.up(), mtu: network.mtu, interconnect: self.interconnect(network) }
    }

    fn interconnect(&self, network: &Network) -> Option<Interconnect> {
        let physical = network.physical_network.as_ref()?;
        let (wan, _) = self.config.wans.iter().find(|(_, p)| *p == physical)?;
        let segment = u16::try_from(network.segment?).ok()?;
        (network.network_type.as_deref() == Some("vlan")).then(|| Interconnect { wan: wan.clone(), segment })
    }

    async fn use_existing(&self, key: &ObjectKey, name: &str) -> Result<Observed, CloudError> {
        if self.made_link(key).await?.is_some() {
            return Err(CloudError::KeyInUse { found: "a network of ours" });
        }
        let network = self.existing(name).await?;
        let wanted = format!("{RECORD}{}", network.id);
        match self.record(key).await? {
            Some(record) if record.name == wanted => {}
            other => {
                if let Some(old) = other {
                    self.drop_one("security-groups", &old.id).await?;
                }
                let body = json!({ "name": wanted, "description": self.marks.of(key) });
                let _made: Marked = self.post("security-groups", "security_group", body).await?;
            }
        }
        self.known(|k| k.networks.insert(key.clone(), network.clone()));
        Ok(self.observed_network(&network))
    }

    /// The cloud's network of this name or id.
    pub(crate) async fn existing(&self, name: &str) -> Result<Network, CloudError> {
        let unknown = || CloudError::NetworkUnknown { name: name.to_owned() };
        let by = |field: &str| Call::get(NEUTRON, "networks").query(field, name);
        let mut found: Vec<Network> = self.client.all(by("name"), "networks").await?;
        if found.is_empty() {
            found = self.client.all(by("id"), "networks").await?;
        }
        match found.len() {
            0 | 1 => found.pop().ok_or_else(unknown),
            n => Err(CloudError::BadSpec {
                problem: format!("the cloud has {n} networks `{name}`: give its id"),
            }),
        }
    }

    async fn make_network(
        &self,
        key: &ObjectKey,
        spec: &NetworkSpec,
        segment: Option<&ProviderSegment>,
    ) -> Result<Network, CloudError> {
        let mut body = json!({
            "name": key.label(),
            "description": self.marks.of(key),
            "admin_state_up": true,
        });
        if spec.mtu != 0 {
            body["mtu"] = json!(spec.mtu);
        }
        if spec.subnets.is_empty() {
            body["port_security_enabled"] = json!(false);
        }
        if let Some(segment) = segment {
            body["provider:physical_network"] = json!(segment.physical_network);
            body["provider:network_type"] = json!(type_name(segment.network_type));
            if let Some(id) = segment.segment {
                body["provider:segmentation_id"] = json!(id);
            }
        }
        match self.post("networks", "network", body).await {
            Ok(network) => Ok(network),
            Err(e) if e.is_lost() => {
                tokio::time::sleep(LATE).await;
                self.made_link(key).await?.ok_or(CloudError::LostAnswer(Box::new(e)))
            }
            Err(e) if ["VlanIdInUse", "FlatNetworkInUse", "NoNetworkAvailable"].contains(&e.kind()) => {
                Err(CloudError::SegmentInUse { problem: e.to_string() })
            }
            Err(e) => Err(e.into()),
        }
    }

    /// What may be changed of a network that is there.
    async fn amend(&self, found: Network, spec: &NetworkSpec) -> Result<Network, CloudError> {
        let guarded = !spec.subnets.is_empty();
        let sized = spec.mtu == 0 || found.mtu == spec.mtu;
        if found.admin_state_up && sized && found.port_security_enabled == guarded {
            return Ok(found);
        }
        let mut body = json!({ "admin_state_up": true });
        if !sized {
            body["mtu"] = json!(spec.mtu);
        }
        if found.port_security_enabled != guarded {
            body["port_security_enabled"] = json!(guarded);
        }
        self.put("networks", &found.id, "network", body).await?;
        self.network_by_id(&found.id).await
    }

    async fn ensure_subnets(
        &self,
        key: &ObjectKey,
        network: &Network,
        wanted: &[Subnet],
    ) -> Result<Vec<String>, CloudError> {
        let found: Vec<cloud::Subnet> = match network.subnets.is_empty() {
            true => Vec::new(),
            false => self.own("subnets", &[("network_id", &network.id)]).await?,
        };
        let mut ids = Vec::new();
        for subnet in found.iter().filter(|f| !wanted.iter().any(|w| w.cidr.to_string() == f.cidr)) {
            match self.marks.read(&subnet.description) {
                Some(_) => self.drop_one("subnets", &subnet.id).await?,
                None => ids.push(subnet.id.clone()),
            }
        }
        for subnet in wanted {
            ids.push(match found.iter().find(|f| f.cidr == subnet.cidr.to_string()) {
                Some(there) => {
                    if there.gateway_ip != subnet.gateway || there.enable_dhcp != subnet.dhcp {
                        let body = json!({ "gateway_ip": subnet.gateway, "enable_dhcp": subnet.dhcp });
                        self.put("subnets", &there.id, "subnet", body).await?;
                    }
                    there.id.clone()
                }
                None => self.make_subnet(key, network, subnet).await?,
            });
        }
        Ok(ids)
    }

    async fn make_subnet(
        &self,
        key: &ObjectKey,
        network: &Network,
        subnet: &Subnet,
    ) -> Result<String, CloudError> {
        let body = json!({
            "network_id": network.id,
            "name": format!("{}-{}", key.label(), subnet.cidr),
            "description": self.marks.of(key),
            "ip_version": if subnet.cidr.address.is_ipv4() { 4 } else { 6 },
            "cidr": subnet.cidr.to_string(),
            "gateway_ip": subnet.gateway,
            "enable_dhcp": subnet.dhcp,
        });
        match self.post::<cloud::Subnet>("subnets", "subnet", body).await {
            Ok(made) => Ok(made.id),
            // Carried out after all: there is one of this prefix now, and neutron refuses a second.
            Err(e) if e.is_lost() => {
                tokio::time::sleep(LATE).await;
                let found: Vec<cloud::Subnet> = self.own("subnets", &[("network_id", &network.id)]).await?;
                let there = found.into_iter().find(|f| f.cidr == subnet.cidr.to_string());
                there.map(|f| f.id).ok_or(CloudError::LostAnswer(Box::new(e)))
            }
            Err(e) if e.kind() == "InvalidInput" || e.kind() == "BadRequest" => {
                Err(CloudError::BadSpec { problem: e.to_string() })
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn drop_network(&self, id: &str) -> Result<(), CloudError> {
        match self.drop_one("networks", id).await {
            Err(e) if e.is_conflict() => Err(CloudError::NetworkInUse { id: id.to_owned() }),
            other => Ok(other?),
        }
    }

    pub(crate) async fn remove_network(&self, key: &ObjectKey) -> Result<(), CloudError> {
        self.known(|k| k.networks.remove(key));
        let found: Vec<Network> = self.own("networks", &[("description", &self.marks.of(key))]).await?;
        for network in found {
            match self.drop_network(&network.id).await {
                Err(CloudError::NetworkInUse { .. }) if self.sweep(key, &network.id).await? => {
                    self.drop_network(&network.id).await?;
                }
                other => other?,
            }
        }
        // Also what a security group of this key is a record of, and nothing else.
        if let Some(record) = self.record(key).await? {
            self.drop_one("security-groups", &record.id).await?;
        }
        Ok(())
    }
}

fn type_name(kind: NetworkType) -> &'static str {
    match kind {
        NetworkType::Flat => "flat",
        NetworkType::Vlan => "vlan",
    }
}

/// Is it the segment that is asked for? Without one any will do, but none that joins sites.
fn same_segment(found: &Network, wanted: Option<&ProviderSegment>) -> bool {
    match wanted {
        None => found.physical_network.is_none() || found.network_type.as_deref() != Some("vlan"),
        Some(it) => {
            found.physical_network.as_deref() == Some(&it.physical_network)
                && found.network_type.as_deref() == Some(type_name(it.network_type))
                && it.segment.is_none_or(|id| found.segment == Some(u32::from(id)))
        }
    }
}
