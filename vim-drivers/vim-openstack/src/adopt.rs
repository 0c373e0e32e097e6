//! What a MANO made becomes ours: looked at first, marked only when it is what the plan asks for.
//!
//! Nothing is marked of an instance unless all of it may be: a server with its ports, whose description is empty or our own.
//! Images of the same bytes and networks likewise. Tests: on a real cloud.

use reqwest::Method;
use serde_json::json;
use vim::{Adoption, ComputeSpec, ImageSpec, NetworkSpec, ObjectKey, Observed, Spec};

use crate::{
    client::{Call, Service, segment},
    cloud::{Image, Port, Server},
    compute::{Want, image_mark},
    driver::Site,
    error::CloudError,
    marks,
    port::{Wanted, vnic_of},
    userdata,
};

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

    async fn adopt_compute(
        &self,
        key: &ObjectKey,
        spec: &ComputeSpec,
        id: &str,
    ) -> Result<Observed, CloudError> {
        let want = Want::new(key, spec)?;
        let server = self.server(id).await?.ok_or_else(|| not(format!("there is no server {id}")))?;
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
        let ports = self.adopted_ports(key, spec, id).await?;
        let paired = self.paired(key, &wanted, &ports)?;
        for (one, port) in &paired {
            let body = json!({ "name": one.spec.name, "description": self.marks.of(key) });
            self.put("ports", &port.id, "port", body).await?;
        }
        self.guard_adopted(key, spec, &server).await?;
        self.mark_server(&want, &server).await?;
        let replugged = self.entrust(id, &paired).await?;
        if (replugged || !booted)
            && let Some(marked) = self.server(id).await?
        {
            // A MANO boots what it makes with what it was told first.
            self.reboot(&want, &marked).await?;
        }
        self.ensure_compute(key, spec).await
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

    /// Metadata and tags; from then on its MAC addresses are taken as they are.
    async fn mark_server(&self, want: &Want<'_>, server: &Server) -> Result<(), CloudError> {
        let metadata = json!({ "metadata": {
            (marks::HOME): self.marks.home(),
            (marks::KEY): want.key.as_str(),
            (marks::IMAGE): image_mark(&want.spec.image, server.image_id()),
            (marks::SHAPE): want.shape.to_string(),
            (marks::CONFIGURATION): want.configuration.to_string(),
            (marks::ADOPTED): "true",
        } });
        let path = format!("servers/{}", server.id);
        let nova = |method, path: String| Call::new(Service::Compute, method, path);
        self.client.tell(&nova(Method::POST, format!("{path}/metadata")).json(&metadata)).await?;
        for tag in self.tags(want.key) {
            self.client.tell(&nova(Method::PUT, format!("{path}/tags/{tag}"))).await?;
        }
        Ok(())
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
