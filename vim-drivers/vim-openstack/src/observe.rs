//! One look: a fixed number of lists, whatever there is, put together.
//!
//! Tests: the conformance suite, which counts the calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use dataplane_control::MacAddr;
use futures::future::try_join_all;
use trust::Digest;
use vim::{
    Binding, ComputeState, GroupState, Inventory, Kind, ObjectKey, Observed, ObservedCompute, PortState,
    Scope, Stray, Whereabouts,
};

use crate::{
    client::{Call, Service},
    cloud::{Image, Marked, Network, Port, Server, ServerGroup, Volume},
    compute::service_tag,
    driver::Site,
    error::CloudError,
    group::state_of,
    marks,
    network::recorded,
    port::vnic_of,
    states, userdata,
};

/// What is beside a server when it is looked at.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// By neutron's ids: our key of the link, and its MTU.
    pub networks: BTreeMap<String, (ObjectKey, u16)>,
    /// By names of connection points.
    pub floating: BTreeMap<String, IpAddr>,
    pub group: Option<GroupState>,
    /// Names of volumes by cinder's ids.
    pub volumes: BTreeMap<String, String>,
    /// Digest of the image it was made from, when it is known to be that one.
    pub image: Option<Digest>,
}

impl View {
    /// A server with its ports as it is.
    pub(crate) fn compute(&self, server: &Server, ports: &[&Port]) -> ObservedCompute {
        let verdict = states::verdict(&server.status, server.task.as_deref());
        let runs = server.status == "ACTIVE" && server.task.is_none();
        let cut = !server.mark(marks::ISOLATED).is_empty();
        let links: BTreeMap<String, PortState> =
            ports.iter().map(|p| (p.name.clone(), self.link(server, p, cut))).collect();
        let down = ports.iter().all(|p| !p.admin_state_up);
        let passes = links.values().all(|l| l.up);
        let has = server.volumes.iter().filter(|v| self.volumes.contains_key(&v.id)).count();
        let whole = server.mark(marks::VOLUMES).parse::<usize>().is_ok_and(|n| has >= n)
            || server.mark(marks::VOLUMES).is_empty();
        let state = match (runs && whole, cut) {
            (_, true) if down => ComputeState::Isolated,
            (true, false) if passes => ComputeState::Active,
            _ => ComputeState::Down,
        };
        let document = server.user_data.as_deref().map(userdata::decode);
        let configuration = match &document {
            Some(found) => found.as_ref().map(|f| f.digest),
            None => server.mark(marks::CONFIGURATION).parse().ok(),
        };
        let mac = |p: &&Port| Some((p.name.clone(), p.mac_address.parse::<MacAddr>().ok()?));
        ObservedCompute {
            state,
            process: verdict.process,
            image: self.image.unwrap_or_else(|| image_of(server)),
            configuration,
            generation: document.flatten().and_then(|f| f.generation),
            ports: ports.iter().filter_map(mac).collect(),
            links,
            whereabouts: Some(Box::new(self.whereabouts(server))),
        }
    }

    fn link(&self, server: &Server, port: &Port, cut: bool) -> PortState {
        let network = self.networks.get(&port.network_id);
        let attached = port.device_id == server.id && port.vif_type != "binding_failed";
        PortState {
            up: attached && port.admin_state_up && port.status == "ACTIVE" && !cut,
            mtu: network.map_or(0, |n| n.1),
            network: network.map(|n| n.0.clone()),
            binding: Some(Box::new(Binding {
                id: port.id.clone(),
                vnic: vnic_of(&port.vnic_type),
                vif_type: port.vif_type.clone(),
                host: port.host.clone(),
                pci_slot: port.pci_slot(),
                trusted: port.trusted(),
                unguarded: !port.port_security_enabled,
                addresses: port.fixed_ips.iter().map(|f| f.ip_address).collect(),
                floating: self.floating.get(&port.name).copied(),
            })),
        }
    }

    /// A volume's name in the descriptor; of others, which number it is.
    fn volume(&self, number: usize, id: &str) -> String {
        self.volumes.get(id).cloned().unwrap_or_else(|| number.to_string())
    }

    fn whereabouts(&self, server: &Server) -> Whereabouts {
        Whereabouts {
            id: server.id.clone(),
            host: server.host.clone().unwrap_or_default(),
            zone: server.zone.clone().unwrap_or_default(),
            flavor: server.flavor.original_name.clone(),
            group: self.group.clone(),
            volumes: server
                .volumes
                .iter()
                .enumerate()
                .map(|(n, v)| (self.volume(n, &v.id), v.id.clone()))
                .collect(),
        }
    }
}

/// Names in the descriptor by cinder's ids.
pub(crate) fn named(volumes: &[Volume]) -> BTreeMap<String, String> {
    volumes.iter().map(|v| (v.id.clone(), v.mark(marks::VOLUME).to_owned())).collect()
}

/// The image of a server by its own mark; one that it was not made from is another.
fn image_of(server: &Server) -> Digest {
    let named = server.mark(marks::IMAGE).split_once(' ').filter(|(_, id)| *id == server.image_id());
    let digest = named.and_then(|(digest, _)| digest.parse().ok());
    digest.unwrap_or_else(|| Digest::of(server.image_id()))
}

/// Everything of ours in the cloud.
struct Look {
    servers: Vec<Server>,
    ports: Vec<Port>,
    networks: Vec<Network>,
    images: Vec<Image>,
    groups: Vec<ServerGroup>,
    security: Vec<Marked>,
    others: [Vec<Marked>; 3],
    volumes: Vec<Volume>,
    /// Ids of ours; only when everything is looked at.
    flavors: Vec<String>,
}

/// What neutron has beside ports and networks, as strays call it.
const OTHERS: [(&str, &str); 3] =
    [("trunks", "trunk"), ("qos/policies", "QoS policy"), ("floatingips", "floating IP")];

impl Site {
    pub(crate) async fn observe(&self, scope: &Scope) -> Result<Inventory, CloudError> {
        let (look, room) = futures::future::try_join(self.look(scope), self.room()).await?;
        let mut objects = BTreeMap::new();
        let records: Vec<(ObjectKey, String)> = look.records(self);
        let existing = self.recorded_networks(&records).await?;
        objects.extend(self.observed_links(&look, &records, &existing));
        objects.extend(self.observed_images(&look));
        let links = self.links(&look, &records, &existing);
        for (key, server) in self.first_servers(&look.servers) {
            objects.insert(key.clone(), self.observed_compute(&look, &links, &key, server));
        }
        objects.retain(|key, _| scope.contains(key));
        let extra = match scope {
            Scope::All => self.strays(&look, &objects),
            Scope::Service(_) => Vec::new(),
        };
        let (total, used) = self.total(&room, &look.servers).await?;
        Ok(Inventory { total, used, objects, extra, hosts: self.hosts(room, &look.ports, &look.networks) })
    }

    async fn look(&self, scope: &Scope) -> Result<Look, CloudError> {
        // With a capacity of the site's own, what all of its servers use is counted.
        let tags = match scope {
            Scope::Service(service) if self.config.capacity.is_none() => {
                format!("{},{}", self.marks.tag(), service_tag(service))
            }
            _ => self.marks.tag(),
        };
        let servers = async {
            let call = Call::get(Service::Compute, "servers/detail").query("tags", tags);
            Ok::<Vec<Server>, CloudError>(self.client.all(call, "servers").await?)
        };
        let others = async {
            match scope {
                Scope::All => {
                    let others = try_join_all(OTHERS.map(|(resource, _)| self.optional(resource, &[])));
                    futures::future::try_join(others, self.own_flavors()).await
                }
                Scope::Service(_) => Ok((vec![Vec::new(); OTHERS.len()], Vec::new())),
            }
        };
        let first = futures::future::try_join4(
            servers,
            self.own::<Port>("ports", &[]),
            self.own::<Network>("networks", &[]),
            self.images(None),
        );
        let second = futures::future::try_join4(
            self.groups(),
            self.own::<Marked>("security-groups", &[]),
            others,
            async { Ok(self.volumes().await) },
        );
        let ((servers, ports, networks, images), (groups, security, (others, flavors), volumes)) =
            futures::future::try_join(first, second).await?;
        // A cinder that does not answer is nobody's concern where nothing of ours has a volume.
        let concerned = servers.iter().any(|s| !s.mark(marks::VOLUMES).is_empty());
        let volumes = if concerned { volumes? } else { volumes.unwrap_or_default() };
        let [a, b, c] = <[Vec<Marked>; 3]>::try_from(others)
            .map_err(|_| CloudError::Internal("a list is missing".into()))?;
        Ok(Look { servers, ports, networks, images, groups, security, others: [a, b, c], volumes, flavors })
    }

    /// Networks that links of ours use and that are not ours: those of the project are known already.
    async fn recorded_networks(&self, records: &[(ObjectKey, String)]) -> Result<Vec<Network>, CloudError> {
        let ids: BTreeSet<&String> = records.iter().map(|(_, id)| id).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut call = Call::get(Service::Network, "networks");
        for id in ids {
            call = call.query("id", id);
        }
        Ok(self.client.all(call, "networks").await?)
    }

    /// Links by neutron's ids. Of two keys of one network the first.
    fn links(
        &self,
        look: &Look,
        records: &[(ObjectKey, String)],
        existing: &[Network],
    ) -> Vec<(String, ObjectKey, u16)> {
        let own = look
            .networks
            .iter()
            .filter_map(|n| Some((n.id.clone(), self.marks.read(&n.description)?, n.mtu)));
        let used = records.iter().filter_map(|(key, id)| {
            let network = existing.iter().find(|n| n.id == *id)?;
            Some((id.clone(), key.clone(), network.mtu))
        });
        own.chain(used).collect()
    }

    fn observed_links(
        &self,
        look: &Look,
        records: &[(ObjectKey, String)],
        existing: &[Network],
    ) -> BTreeMap<ObjectKey, Observed> {
        let mut sorted: Vec<&Network> = look.networks.iter().collect();
        // Of two of one key the first, as `ensure` has it.
        sorted.sort_by(|a, b| (b.subnets.is_empty(), &b.id).cmp(&(a.subnets.is_empty(), &a.id)));
        let own = sorted
            .into_iter()
            .filter_map(|n| Some((self.marks.read(&n.description)?, self.observed_network(n))));
        let used = records.iter().filter_map(|(key, id)| {
            let network = existing.iter().find(|n| n.id == *id)?;
            Some((key.clone(), self.observed_network(network)))
        });
        own.chain(used).collect()
    }

    fn observed_images(&self, look: &Look) -> BTreeMap<ObjectKey, Observed> {
        let mut out = BTreeMap::new();
        for image in &look.images {
            let Some(digest) = self.image_digest(image) else { continue };
            out.extend(self.image_keys(image).map(|key| (key, Observed::Image { digest })));
        }
        out
    }

    /// The server of each key: of two the older, as `ensure` has it.
    fn first_servers<'a>(&self, servers: &'a [Server]) -> BTreeMap<ObjectKey, &'a Server> {
        let mut sorted: Vec<&Server> =
            servers.iter().filter(|s| s.mark(marks::HOME) == self.marks.home()).collect();
        sorted.sort_by(|a, b| (&b.created, &b.id).cmp(&(&a.created, &a.id)));
        let keyed = |s: &'a Server| Some((ObjectKey::new(s.mark(marks::KEY)).ok()?, s));
        sorted.into_iter().filter_map(keyed).collect()
    }

    fn observed_compute(
        &self,
        look: &Look,
        links: &[(String, ObjectKey, u16)],
        key: &ObjectKey,
        server: &Server,
    ) -> Observed {
        let mark = self.marks.of(key);
        let ours: Vec<&Port> = look.ports.iter().filter(|p| p.description == mark).collect();
        let ports: Vec<&Port> =
            ours.iter().copied().filter(|p| !p.is_subport_of(ours.iter().copied())).collect();
        // Of a network that several services use, this one's key.
        let mut networks: BTreeMap<String, (ObjectKey, u16)> = BTreeMap::new();
        for (id, link, mtu) in links {
            if link.service() == key.service() || !networks.contains_key(id) {
                networks.insert(id.clone(), (link.clone(), *mtu));
            }
        }
        let address = |p: &&Port| {
            let floating = look.others[2].iter().find(|f| f.port_id.as_ref() == Some(&p.id))?;
            Some((p.name.clone(), floating.floating_ip_address?))
        };
        let floating = ports.iter().filter_map(address).collect();
        let group = look.groups.iter().find(|g| g.members.contains(&server.id));
        let group = group.map(|g| state_of(g, &look.servers));
        let view = View { networks, floating, group, image: None, volumes: named(&look.volumes) };
        Observed::Compute(view.compute(server, &ports))
    }

    /// What carries our mark and belongs to no object.
    fn strays(&self, look: &Look, objects: &BTreeMap<ObjectKey, Observed>) -> Vec<Stray> {
        let mut out = Vec::new();
        let mut stray = |key: ObjectKey, kind: Kind, what: &str, place: String| {
            out.push(Stray { key, kind, what: what.to_owned(), place });
        };
        let has = |key: &ObjectKey, kind: Kind| objects.get(key).is_some_and(|o| o.kind() == kind);
        for port in &look.ports {
            if let Some(key) = self.marks.read(&port.description).filter(|k| !has(k, Kind::Compute)) {
                stray(key, Kind::Compute, "port", format!("{} ({})", port.id, port.name));
            }
        }
        let mut first: BTreeMap<ObjectKey, &Server> = self.first_servers(&look.servers);
        for server in look.servers.iter().filter(|s| s.mark(marks::HOME) == self.marks.home()) {
            let Ok(key) = ObjectKey::new(server.mark(marks::KEY)) else { continue };
            if first.get(&key).is_some_and(|s| s.id != server.id) {
                stray(key, Kind::Compute, "server", format!("{}, a second one", server.id));
            }
        }
        first.clear();
        for group in &look.groups {
            if let Some(key) = self.marks.read(&group.name).filter(|_| group.members.is_empty()) {
                stray(key, Kind::Compute, "server group", group.id.clone());
            }
        }
        let tied = look.security.iter().filter(|g| recorded(g).is_none()).map(|g| (g, "security group"));
        let others =
            look.others.iter().zip(OTHERS).flat_map(|(all, (_, what))| all.iter().map(move |m| (m, what)));
        for (one, what) in tied.chain(others) {
            if let Some(key) = self.marks.read(&one.description).filter(|k| !has(k, Kind::Compute)) {
                stray(key, Kind::Compute, what, one.id.clone());
            }
        }
        for volume in &look.volumes {
            let key = ObjectKey::new(volume.mark(marks::KEY)).ok().filter(|k| !has(k, Kind::Compute));
            if let Some(key) = key {
                stray(key, Kind::Compute, "volume", volume.id.clone());
            }
        }
        // A server's order may be under way: whoever removes a flavor looks again whether it is used.
        let used = |id: &String| look.servers.iter().any(|s| s.flavor.original_name == *id);
        for id in look.flavors.iter().filter(|id| !used(id)) {
            if let Ok(key) = ObjectKey::new(format!("{}/{id}", Stray::SERVICE)) {
                stray(key, Kind::Compute, "flavor", id.clone());
            }
        }
        for image in look.images.iter().filter(|i| self.image_digest(i).is_none()) {
            for key in self.image_keys(image) {
                stray(key, Kind::Image, "image", format!("{} ({})", image.id, image.status));
            }
        }
        out.sort();
        out
    }
}

impl Look {
    /// Links that are others' networks: our key and the network's id.
    fn records(&self, site: &Site) -> Vec<(ObjectKey, String)> {
        let read = |g: &Marked| Some((site.marks.read(&g.description)?, recorded(g)?.to_owned()));
        self.security.iter().filter_map(read).collect()
    }
}
