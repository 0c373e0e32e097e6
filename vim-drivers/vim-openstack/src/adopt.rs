//! What a MANO made becomes ours: looked at first, marked only when it is what the plan asks for.
//!
//! Nothing is marked of an instance unless all of it may be: a server with its ports, whose description is empty or our own.
//! Images of the same bytes and networks likewise.
//!
//! A service's instances are adopted one after the other and looked at together ([`Looked`]): one list of servers, by the name that a
//! MANO gives them, and one of ports. What is written is what is not so yet, each object once; what neutron answers is what is
//! read back. Tests: on a real cloud (`tests/scenarios.rs`, `tests/adoption.rs`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::future::{try_join, try_join_all};
use reqwest::Method;
use serde_json::{Map, Value, json};
use vim::{Adoption, ComputeSpec, ImageSpec, NetworkSpec, ObjectKey, Observed, Spec};

use crate::{
    client::{Call, Service, segment},
    cloud::{Image, Port, Server},
    compute::{Found, Want, image_mark},
    driver::Site,
    error::CloudError,
    marks,
    port::{Wanted, vnic_of},
    security::{Guards, ties},
    userdata,
};

/// How long a look at a service serves those of its instances that are adopted next: what else changes in so little time would have
/// changed between a look of their own and what is written then.
const HOLDS: Duration = Duration::from_secs(2);

/// What there is of a service that a MANO made: the servers that are called after it, and the project's ports.
#[derive(Debug)]
struct Look {
    servers: Vec<Server>,
    ports: Vec<Port>,
}

/// When it was asked for, and what was seen.
type Held = Option<(Instant, Arc<Look>)>;

/// Looks at services that are being adopted: whose instance comes first looks for all.
#[derive(Debug, Default)]
pub(crate) struct Looked(Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Held>>>>);

impl Looked {
    fn of(&self, service: &str) -> Arc<tokio::sync::Mutex<Held>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |held: &Held| held.as_ref().is_some_and(|(at, _)| at.elapsed() < HOLDS);
        // Neither looked into, nor young: forgotten.
        all.retain(|_, look| Arc::strong_count(look) > 1 || look.try_lock().is_ok_and(|held| fresh(&held)));
        all.entry(service.to_owned()).or_default().clone()
    }

    /// What was seen is not so any more.
    pub(crate) fn forget(&self, service: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(service);
    }
}

/// What cannot be made under a running instance.
fn refuse_tied(spec: &ComputeSpec) -> Result<(), CloudError> {
    match spec.ports.iter().find(|p| !p.subports.is_empty()) {
        Some(p) => Err(not(format!("connection point {} carries VLANs, which a MANO does not make", p.name))),
        None => Ok(()),
    }
}

fn not(problem: impl Into<String>) -> CloudError {
    CloudError::NotAdoptable { problem: problem.into() }
}

impl Site {
    pub(crate) async fn adopt_one(&self, one: &Adoption) -> Result<Observed, CloudError> {
        match &one.spec {
            Spec::Image(spec) => self.adopt_image(&one.key, spec, &one.id).await,
            Spec::Network(spec) => self.adopt_network(&one.key, spec, &one.id).await,
            Spec::Compute(spec) => self.adopt_compute(&one.key, spec, &one.id).await,
        }
    }

    async fn adopt_image(&self, key: &ObjectKey, spec: &ImageSpec, id: &str) -> Result<Observed, CloudError> {
        let path = format!("images/{}", segment(id));
        let image: Image = self.client.ask(&Call::get(Service::Image, path.clone())).await?;
        let home = image.property(marks::IMAGE_HOME);
        if !home.is_empty() && home != self.marks.home() {
            return Err(not(format!("image {id} is of home {home}")));
        }
        let sha512 = self.sha512_of(&spec.digest).await?;
        if image.os_hash_value.as_deref() != Some(sha512.as_str()) {
            return Err(not(format!("image {id} has other bytes than {}", spec.digest)));
        }
        let add =
            |name: &str, value: &str| json!({ "op": "add", "path": format!("/{name}"), "value": value });
        let patch = json!([
            add(marks::IMAGE_HOME, self.marks.home()),
            add(marks::IMAGE_DIGEST, &spec.digest.to_string()),
            add(marks::IMAGE_SHA512, &sha512),
        ]);
        self.client.tell(&Call::new(Service::Image, Method::PATCH, path.clone()).patch(patch)).await?;
        let tag = format!("{path}/tags/{}", segment(&self.marks.image_tag(key)));
        self.client.tell(&Call::new(Service::Image, Method::PUT, tag)).await?;
        Ok(Observed::Image { digest: spec.digest })
    }

    async fn adopt_network(
        &self,
        key: &ObjectKey,
        spec: &NetworkSpec,
        id: &str,
    ) -> Result<Observed, CloudError> {
        if spec.existing.is_some() {
            return self.ensure_network(key, spec).await;
        }
        let network = self.network_by_id(id).await?;
        self.refuse_others(key, &network.description, &format!("network {id}"))?;
        if !self.fits(&network, spec)? {
            return Err(not(format!("network {id} is on another segment")));
        }
        let body = json!({ "description": self.marks.of(key) });
        self.put("networks", id, "network", body).await?;
        // MTU, subnets and the rest are put right as of any of ours.
        self.ensure_network(key, spec).await
    }

    /// One look at all of a service: what else is adopted of it within [`HOLDS`] is in it.
    async fn look_at(&self, service: &str) -> Result<Arc<Look>, CloudError> {
        let place = self.adopting.of(service);
        let mut held = place.lock().await;
        if let Some((at, look)) = &*held
            && at.elapsed() < HOLDS
        {
            return Ok(look.clone());
        }
        let asked = Instant::now();
        // A pattern: what it finds beside is not taken for anything else.
        let named = Call::get(Service::Compute, "servers/detail").query("name", format!("^{service}-"));
        let servers = async { Ok::<Vec<Server>, CloudError>(self.client.all(named, "servers").await?) };
        // All of the project's, as when it is observed: those of a server, and those that are marked and of none.
        let (servers, ports) = try_join(servers, self.own::<Port>("ports", &[])).await?;
        let look = Arc::new(Look { servers, ports });
        *held = Some((asked, look.clone()));
        Ok(look)
    }

    /// A server and the ports that it has or that carry the key's mark.
    async fn look_for(&self, key: &ObjectKey, id: &str) -> Result<(Server, Vec<Port>), CloudError> {
        let look = self.look_at(key.service()).await?;
        if let Some(server) = look.servers.iter().find(|s| s.id == id) {
            let mark = self.marks.of(key);
            let its = |p: &&Port| p.device_id == id || p.description == mark;
            return Ok((server.clone(), look.ports.iter().filter(its).cloned().collect()));
        }
        // Called otherwise, or younger than the look.
        let server = self.server(id).await?.ok_or_else(|| not(format!("there is no server {id}")))?;
        let mut ports: Vec<Port> = self.own("ports", &[("device_id", id)]).await?;
        ports.extend(self.find_ports(key).await?.into_iter().filter(|p| p.device_id != id));
        Ok((server, ports))
    }

    async fn adopt_compute(
        &self,
        key: &ObjectKey,
        spec: &ComputeSpec,
        id: &str,
    ) -> Result<Observed, CloudError> {
        let want = Want::new(key, spec)?;
        let (server, ports) = self.look_for(key, id).await?;
        let other = |name: &str, ours: &str| !server.mark(name).is_empty() && server.mark(name) != ours;
        if other(marks::HOME, self.marks.home()) || other(marks::KEY, key.as_str()) {
            return Err(not(format!("server {id} is {}'s", server.mark(marks::KEY))));
        }
        let held = self.held_image(key.service(), &spec.image).await?;
        let image = server.image_id();
        if image != held.id && !self.same_bytes(image, &held.id).await? {
            return Err(not(format!("server {id} was booted from image {image}, not from {}", spec.image)));
        }
        self.refuse_other_size(spec, &server)?;
        let booted = Self::refuse_other_configuration(&want, &server)?;
        refuse_tied(spec)?;
        let wanted = self.wanted(spec).await?;
        let (has, rest): (Vec<Port>, Vec<Port>) = ports.into_iter().partition(|p| p.device_id == id);
        let paired_with = Self::with_loose(spec, &has, &rest);
        let paired = self.paired(key, &wanted, &paired_with)?;
        let volumes = self.paired_volumes(key, &spec.volumes, &server).await?;
        self.mark_volumes(key, &volumes).await?;
        let up = server.mark(marks::ISOLATED).is_empty();
        let marked = paired.iter().map(|(one, port)| self.mark_port(key, one, port, (ties(spec), up)));
        let mut ports = try_join_all(marked).await?;
        self.guard_adopted(key, spec, &server).await?;
        let server = self.mark_server(&want, server).await?;
        let replugged = self.entrust(id, &paired).await?;
        if (replugged || !booted)
            && let Some(marked) = self.server(id).await?
        {
            // A MANO boots what it makes with what it was told first.
            self.reboot(&want, &marked).await?;
        }
        if replugged || !booted || ties(spec) {
            return self.ensure_compute(key, spec).await;
        }
        ports.extend(rest);
        ports.extend(has.into_iter().filter(|p| p.description == self.marks.of(key)));
        ports.sort_by(|a, b| a.id.cmp(&b.id));
        // Of two the first, which is what was answered now.
        ports.dedup_by(|b, a| a.id == b.id);
        self.ensure_found(&want, &wanted, Some(Found { server: Some(server), ports })).await
    }

    /// Our mark on a port, with all that it is to be and is not: one call, or none. As it is then.
    async fn mark_port(
        &self,
        key: &ObjectKey,
        one: &Wanted<'_>,
        port: &Port,
        (tied, up): (bool, bool),
    ) -> Result<Port, CloudError> {
        // What guards it is not there yet: it is put right with the rest.
        let mut body = match tied {
            true if port.name == one.spec.name => Map::new(),
            true => Map::from_iter([("name".to_owned(), json!(one.spec.name))]),
            false => one.changes(port, &Guards::default(), up).unwrap_or_default(),
        };
        let mark = self.marks.of(key);
        if port.description != mark {
            body.insert("description".into(), json!(mark));
        }
        match body.is_empty() {
            true => Ok(port.clone()),
            false => Ok(self.put_and_read("ports", &port.id, "port", Value::Object(body)).await?),
        }
    }

    fn refuse_others(&self, key: &ObjectKey, description: &str, what: &str) -> Result<(), CloudError> {
        match self.marks.read(description) {
            Some(other) if other != *key => Err(not(format!("{what} is {other}'s"))),
            None if description.starts_with("mandate:") => Err(not(format!("{what} is another home's"))),
            _ => Ok(()),
        }
    }

    fn refuse_other_size(&self, spec: &ComputeSpec, server: &Server) -> Result<(), CloudError> {
        let flavor = &server.flavor;
        match (flavor.vcpus, flavor.ram) == (spec.vcpus, spec.memory_mib) {
            true => Ok(()),
            false => Err(not(format!(
                "server {} has {} virtual CPUs and {} MiB, not {} and {}",
                server.id, flavor.vcpus, flavor.ram, spec.vcpus, spec.memory_mib
            ))),
        }
    }

    /// Was it booted with the configuration? One of the same instance that is another is put right; anything else is not ours.
    fn refuse_other_configuration(want: &Want<'_>, server: &Server) -> Result<bool, CloudError> {
        let Some(wanted) = &want.document else { return Ok(true) };
        let found = server.user_data.as_deref().and_then(userdata::decode);
        match found {
            Some(found) if found.digest == want.configuration => Ok(true),
            Some(found) if found.instance.as_deref() == Some(wanted.instance.as_str()) => Ok(false),
            found => Err(not(format!(
                "server {} was booted with {}, not with {}",
                server.id,
                found.map_or_else(|| "no configuration".to_owned(), |f| f.digest.to_string()),
                want.configuration
            ))),
        }
    }

    /// Each connection point with the port on its link that can be it: by its name, else the only one of its kind there.
    fn paired<'a, 'p>(
        &self,
        key: &ObjectKey,
        wanted: &'a [Wanted<'a>],
        ports: &'p [Port],
    ) -> Result<Vec<(&'a Wanted<'a>, &'p Port)>, CloudError> {
        let mut out: Vec<(&Wanted<'_>, &Port)> = Vec::new();
        for one in wanted {
            let fits = |p: &&Port| {
                let free = !out.iter().any(|(_, taken)| taken.id == p.id);
                free && p.network_id == one.network.id && vnic_of(&p.vnic_type) == one.spec.vnic
            };
            let fitting: Vec<&Port> = ports.iter().filter(fits).collect();
            let named = fitting.iter().copied().find(|p| p.name == one.spec.name);
            let port = named.or_else(|| fitting.first().copied()).ok_or_else(|| {
                not(format!("it has no port for connection point {} on its link", one.spec.name))
            })?;
            self.refuse_others(key, &port.description, &format!("port {}", port.id))?;
            out.push((one, port));
        }
        Ok(out)
    }

    /// Metadata and tags, unless it has them; from then on its MAC addresses are taken as they are. As it is then.
    async fn mark_server(&self, want: &Want<'_>, server: Server) -> Result<Server, CloudError> {
        let mut said: BTreeMap<String, String> = [
            (marks::HOME, self.marks.home().to_owned()),
            (marks::KEY, want.key.to_string()),
            (marks::IMAGE, image_mark(&want.spec.image, server.image_id())),
            (marks::SHAPE, want.shape.to_string()),
            (marks::CONFIGURATION, want.configuration.to_string()),
            (marks::ADOPTED, "true".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if !want.spec.volumes.is_empty() {
            said.insert(marks::VOLUMES.to_owned(), want.spec.volumes.len().to_string());
        }
        let path = format!("servers/{}", server.id);
        let nova = |method, path: String| Call::new(Service::Compute, method, path);
        let mut server = server;
        if said.iter().any(|(name, value)| server.metadata.get(name) != Some(value)) {
            let call = nova(Method::POST, format!("{path}/metadata")).json(&json!({ "metadata": said }));
            // The same again sets the same.
            self.client.tell(&call.repeatable()).await?;
            server.metadata.extend(said);
        }
        let ours = self.tags(want.key);
        if ours.iter().any(|tag| !server.tags.contains(tag)) {
            let others = server.tags.iter().filter(|tag| !ours.contains(tag)).cloned();
            let tags: Vec<String> = others.chain(ours.clone()).collect();
            let call = nova(Method::PUT, format!("{path}/tags")).json(&json!({ "tags": tags }));
            self.client.tell(&call).await?;
            server.tags = tags;
        }
        Ok(server)
    }

    async fn same_bytes(&self, one: &str, two: &str) -> Result<bool, CloudError> {
        let ask = |id: &str| {
            let call = Call::get(Service::Image, format!("images/{}", segment(id)));
            async move { self.client.ask::<Image>(&call).await }
        };
        let (one, two) = futures::future::try_join(ask(one), ask(two)).await?;
        Ok(one.os_hash_value.is_some() && one.os_hash_value == two.os_hash_value)
    }
}
