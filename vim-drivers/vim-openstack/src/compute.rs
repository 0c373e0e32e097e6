//! VDU instances: what `ensure` makes of what is found.
//!
//! A turn looks (one list of servers, one of ports), does the one thing that is next, and looks again: whatever a crash, a
//! lost answer or somebody else left is where it goes on from. The order is ports, server, floating addresses; backwards when
//! it is removed ([`crate::remove`]). What failed for good leaves nothing. Tests: the conformance suite.

use std::collections::BTreeMap;

use futures::future::{join, try_join, try_join3};
use serde_json::{Value, json};
use trust::Digest;
use vim::{ComputeSpec, Disposition, ObjectKey, Observed};

use dataplane_control::Configuration;

use crate::{
    client::{Call, Service, segment},
    cloud::{Port, Server},
    driver::Site,
    error::CloudError,
    flavor::Content,
    marks,
    observe::{View, named},
    port::Wanted,
    security::{Guards, Tied, ties},
    server::Order,
    states::{self, Ensure},
    userdata,
    wait::{LATE, Pace},
};

const NOVA: Service = Service::Compute;
/// Turns of one call: a server that failed is replaced once; the rest is for what is left half made.
const MAX_TURNS: u32 = 8;

/// What is wanted.
pub(crate) struct Want<'a> {
    pub key: &'a ObjectKey,
    pub spec: &'a ComputeSpec,
    pub document: Option<Configuration>,
    pub shape: Digest,
    pub configuration: Digest,
    pub user_data: Option<String>,
}

/// What is there.
pub(crate) struct Found {
    pub server: Option<Server>,
    pub ports: Vec<Port>,
}

enum Turn {
    Again,
    Done(Box<Observed>),
}

/// The specification without what may change under an instance.
pub(crate) fn shape(spec: &ComputeSpec) -> Digest {
    let bare = ComputeSpec { configuration: String::new(), name: String::new(), ..spec.clone() };
    Digest::of(serde_json::to_vec(&bare).unwrap_or_default())
}

impl<'a> Want<'a> {
    pub(crate) fn new(key: &'a ObjectKey, spec: &'a ComputeSpec) -> Result<Self, CloudError> {
        let bad = |problem: String| CloudError::BadSpec { problem };
        let document = match spec.configuration.as_str() {
            "" => None,
            text => Some(
                Configuration::parse(text.as_bytes()).map_err(|e| bad(format!("its configuration: {e}")))?,
            ),
        };
        if let Some(other) = document.as_ref().filter(|d| d.instance != key.as_str()) {
            return Err(bad(format!("its configuration is of `{}`", other.instance)));
        }
        let mut names: Vec<&str> = spec.ports.iter().map(|p| p.name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|w| w[0] == w[1]) {
            return Err(bad("two connection points have one name".to_owned()));
        }
        Ok(Self {
            key,
            spec,
            document,
            shape: shape(spec),
            configuration: Configuration::digest(spec.configuration.as_bytes()),
            user_data: userdata::encode(&spec.configuration, spec.user_data.as_deref())?,
        })
    }

    /// Is it this server, but for its configuration and what can be changed under it?
    fn is(&self, server: &Server) -> bool {
        server.mark(marks::SHAPE) == self.shape.to_string()
            && server.mark(marks::IMAGE) == image_mark(&self.spec.image, server.image_id())
    }

    /// Was it booted with this configuration?
    fn booted(&self, server: &Server) -> bool {
        match &server.user_data {
            // Whoever else booted it wraps the same document in words of its own.
            Some(data) if server.adopted() => {
                self.document.is_none()
                    || userdata::decode(data).is_some_and(|found| found.digest == self.configuration)
            }
            Some(data) => Some(data) == self.user_data.as_ref(),
            // Only administrators see it.
            None => server.mark(marks::CONFIGURATION) == self.configuration.to_string(),
        }
    }
}

/// The image, and which of glance's it was: one that others rebuilt it from is another.
pub(crate) fn image_mark(digest: &Digest, id: &str) -> String {
    format!("{digest} {id}")
}

impl Site {
    pub(crate) async fn ensure_compute(
        &self,
        key: &ObjectKey,
        spec: &ComputeSpec,
    ) -> Result<Observed, CloudError> {
        let want = Want::new(key, spec)?;
        let wanted = self.wanted(spec).await?;
        self.ensure_found(&want, &wanted, None).await
    }

    /// The same from what was found just now; `None`: looks first.
    pub(crate) async fn ensure_found(
        &self,
        want: &Want<'_>,
        wanted: &[Wanted<'_>],
        mut found: Option<Found>,
    ) -> Result<Observed, CloudError> {
        for _ in 0..MAX_TURNS {
            match self.turn(want, wanted, found.take()).await {
                Ok(Turn::Again) => {}
                Ok(Turn::Done(observed)) => return Ok(*observed),
                Err(error) => return Err(self.unwound(want, error).await),
            }
        }
        let server = self.find_server(want.key).await?;
        Err(CloudError::ServerBusy {
            id: server.as_ref().map_or_else(String::new, |s| s.id.clone()),
            status: server.as_ref().map_or_else(|| "absent".to_owned(), |s| s.status.clone()),
            task: server.and_then(|s| s.task).unwrap_or_default(),
        })
    }

    /// What did not work for good leaves nothing of an instance that does not run.
    async fn unwound(&self, want: &Want<'_>, error: CloudError) -> CloudError {
        let disposition = error.clone().at(want.key, "ensure").disposition;
        let settled = matches!(disposition, Disposition::Compensate | Disposition::Elsewhere);
        if settled
            && matches!(self.find_server(want.key).await, Ok(None))
            && let Err(left) = self.remove_compute(want.key).await
        {
            tracing::warn!(site = %self.config.site, key = %want.key, "left of what failed: {left}");
        }
        error
    }

    async fn turn(
        &self,
        want: &Want<'_>,
        wanted: &[Wanted<'_>],
        found: Option<Found>,
    ) -> Result<Turn, CloudError> {
        let found = match found {
            Some(found) => found,
            None => self.find(want.key).await?,
        };
        let Some(server) = &found.server else { return self.make(want, wanted, &found.ports).await };
        let verdict = states::verdict(&server.status, server.task.as_deref());
        match verdict.ensure {
            Ensure::Wait => {
                self.settled(server, &self.boots).await?;
                Ok(Turn::Again)
            }
            Ensure::Refuse => Err(CloudError::ServerBusy {
                id: server.id.clone(),
                status: server.status.clone(),
                task: server.task.clone().unwrap_or_default(),
            }),
            Ensure::Replace | Ensure::Make => self.replace(want, server).await,
            Ensure::Act(_) if !want.is(server) => self.replace(want, server).await,
            Ensure::Act(action) => {
                self.act(&server.id, json!({ action: null })).await?;
                self.settled(server, &self.rebuilds).await?;
                Ok(Turn::Again)
            }
            Ensure::Keep => self.keep(want, wanted, server, &found.ports).await,
        }
    }

    /// One look: the server and the ports of a key.
    pub(crate) async fn find(&self, key: &ObjectKey) -> Result<Found, CloudError> {
        let (server, ports) = try_join(self.find_server(key), self.find_ports(key)).await?;
        let server = match server {
            Some(server) => Some(server),
            None => self.attached(key, &ports).await?,
        };
        Ok(Found { server, ports })
    }

    /// The server of a key. Two, which a lost answer can make, are made one.
    pub(crate) async fn find_server(&self, key: &ObjectKey) -> Result<Option<Server>, CloudError> {
        let mut found = self.servers_of(key).await?;
        found.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
        let first = (!found.is_empty()).then(|| found.remove(0));
        for double in found {
            tracing::warn!(site = %self.config.site, %key, server = double.id, "a second server of the key is deleted");
            self.delete_server(&double).await?;
        }
        Ok(first)
    }

    /// All servers of a key.
    pub(crate) async fn servers_of(&self, key: &ObjectKey) -> Result<Vec<Server>, CloudError> {
        let list = |keys: Vec<ObjectKey>| async move {
            let tags: Vec<String> = keys.iter().map(key_tag).collect();
            self.tagged(&tags).await
        };
        self.servers.find(key, list, |s, key| self.is_of(s, key)).await
    }

    pub(crate) fn is_of(&self, server: &Server, key: &ObjectKey) -> bool {
        server.mark(marks::HOME) == self.marks.home() && server.mark(marks::KEY) == key.as_str()
    }

    /// A server that lost its tags is found by the ports it has.
    async fn attached(&self, key: &ObjectKey, ports: &[Port]) -> Result<Option<Server>, CloudError> {
        for port in ports.iter().filter(|p| p.device_owner.starts_with("compute:")) {
            match self.server(&port.device_id).await? {
                Some(server) if self.is_of(&server, key) => {
                    let call = Call::new(NOVA, reqwest::Method::PUT, format!("servers/{}/tags", server.id));
                    self.client.tell(&call.json(&json!({ "tags": self.tags(key) }))).await?;
                    return Ok(Some(server));
                }
                Some(other) => {
                    return Err(CloudError::PortTaken { port: port.id.clone(), other: other.id });
                }
                None => {}
            }
        }
        Ok(None)
    }

    pub(crate) fn tags(&self, key: &ObjectKey) -> [String; 3] {
        [self.marks.tag(), service_tag(key.service()), key_tag(key)]
    }

    pub(crate) async fn server(&self, id: &str) -> Result<Option<Server>, CloudError> {
        match self.client.ask::<Value>(&Call::get(NOVA, format!("servers/{}", segment(id)))).await {
            Ok(mut answer) => serde_json::from_value(answer["server"].take())
                .map(Some)
                .map_err(|e| CloudError::Internal(format!("nova's server: {e}"))),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// There is none: ports first, then the server.
    async fn make(&self, want: &Want<'_>, wanted: &[Wanted<'_>], ports: &[Port]) -> Result<Turn, CloudError> {
        self.refuse_without_room(want.spec).await?;
        let held = self.held_image(want.key.service(), &want.spec.image).await?;
        let tied = self.clean(want, ports).await?;
        let ports = if tied { Vec::new() } else { ports.to_vec() };
        let guards = self.make_guards(want.key, want.spec).await?;
        let volumes = self.wanted_volumes(want, None).await?;
        let content = Content::of(want.spec, held.disk_gib);
        // Both are heard to the end: a port whose making is given up on the way would come when nobody looks for it any more.
        let made = join(self.ensure_ports(want.key, wanted, &ports, &guards), self.flavor(&content)).await;
        let (ports, (flavor, using)) = (made.0?, made.1?);
        self.ensure_trunks(want.key, want.spec, &ports, &Tied::default()).await?;
        let order = Order { want, held: &held, ports: &ports, volumes: &volumes, flavor, using };
        let Some(id) = self.order(order).await? else { return Ok(Turn::Again) };
        let server = self.built(want, &id).await?;
        self.finish(want, wanted, &server, self.find_ports(want.key).await?).await
    }

    /// What is tied to connection points is made anew with an instance: what a crash left of it goes, with the ports that use
    /// it. True: so it was.
    async fn clean(&self, want: &Want<'_>, ports: &[Port]) -> Result<bool, CloudError> {
        let left = !ports.is_empty();
        if !ties(want.spec) && !left {
            return Ok(false);
        }
        let tied = self.find_tied(want.key).await?;
        if tied.is_empty() {
            return Ok(false);
        }
        self.drop_before_ports(&tied).await?;
        let all: Vec<&Port> = ports.iter().collect();
        self.drop_ports(&all).await?;
        self.drop_after_ports(&tied).await?;
        Ok(true)
    }

    /// The volumes of an instance, there or made.
    async fn wanted_volumes(
        &self,
        want: &Want<'_>,
        server: Option<&Server>,
    ) -> Result<BTreeMap<String, String>, CloudError> {
        match want.spec.volumes.as_slice() {
            [] => Ok(BTreeMap::new()),
            some => self.ensure_volumes(want.key, some, server).await,
        }
    }

    async fn replace(&self, want: &Want<'_>, server: &Server) -> Result<Turn, CloudError> {
        tracing::info!(site = %self.config.site, key = %want.key, server = server.id, status = server.status, "replaced");
        self.delete_server(server).await?;
        Ok(Turn::Again)
    }

    /// It runs: is it as wanted?
    async fn keep(
        &self,
        want: &Want<'_>,
        wanted: &[Wanted<'_>],
        server: &Server,
        ports: &[Port],
    ) -> Result<Turn, CloudError> {
        let matched = Self::matched(wanted, ports, server.adopted());
        let attached = matched.len() == wanted.len() && matched.values().all(|p| p.device_id == server.id);
        if !want.is(server) || !attached {
            return self.replace(want, server).await;
        }
        let extra: Vec<&Port> = ports
            .iter()
            .filter(|p| !p.is_subport_of(ports) && !matched.values().any(|m| m.id == p.id))
            .collect();
        self.drop_ports(&extra).await?;
        let volumes = self.wanted_volumes(want, Some(server)).await?;
        if self.attach_volumes(server, &volumes).await? {
            self.settled(server, &self.rebuilds).await?;
            return Ok(Turn::Again);
        }
        if !want.booted(server) {
            self.reconfigure(want, server).await?;
            return Ok(Turn::Again);
        }
        let guards = match ties(want.spec) {
            true => Self::guards(&self.find_tied(want.key).await?),
            false => Guards::default(),
        };
        let up = server.mark(marks::ISOLATED).is_empty();
        let ports = match self.settle(wanted, &matched, &guards, up).await? {
            true => self.find_ports(want.key).await?,
            false => ports.to_vec(),
        };
        self.finish(want, wanted, server, ports).await
    }

    /// Another boot with another document: the same server, ports and addresses.
    async fn reconfigure(&self, want: &Want<'_>, server: &Server) -> Result<(), CloudError> {
        let running = server.user_data.as_deref().and_then(userdata::decode);
        let new = want.document.as_ref().map(|d| d.generation);
        if let (Some(new), Some(old)) = (new, running.as_ref().and_then(|r| r.generation))
            && new <= old
            && running.is_some_and(|r| r.digest != want.configuration)
        {
            let problem = format!(
                "generation {new} is not above {old}, which the server was booted with: plan a higher one"
            );
            return Err(CloudError::ConfigurationRefused { problem });
        }
        self.reboot(want, server).await
    }

    /// The same server with the document wanted, whatever it had.
    pub(crate) async fn reboot(&self, want: &Want<'_>, server: &Server) -> Result<(), CloudError> {
        // The same bytes, by another id where the image was made again meanwhile.
        let held = self.held_image(want.key.service(), &want.spec.image).await?;
        let mut metadata = server.metadata.clone();
        metadata.insert(marks::CONFIGURATION.into(), want.configuration.to_string());
        metadata.insert(marks::IMAGE.into(), image_mark(&want.spec.image, &held.id));
        let rebuild = json!({ "rebuild": {
            "imageRef": held.id,
            "user_data": want.user_data,
            "metadata": metadata,
        } });
        self.act(&server.id, rebuild).await?;
        self.settled(server, &self.rebuilds).await?;
        Ok(())
    }

    /// Ports bound, addresses given, read back.
    async fn finish(
        &self,
        want: &Want<'_>,
        wanted: &[Wanted<'_>],
        server: &Server,
        mut ports: Vec<Port>,
    ) -> Result<Turn, CloudError> {
        let up = server.mark(marks::ISOLATED).is_empty();
        let mut pace = Pace::new(self.boot_limit(), Some(&self.bindings));
        loop {
            let matched = Self::matched(wanted, &ports, server.adopted());
            self.refuse_unbound(&matched)?;
            if matched.len() < wanted.len() {
                return Ok(Turn::Again);
            }
            let waiting = up && matched.values().any(|p| p.status != "ACTIVE" || p.vif_type == "unbound");
            if !waiting || !pace.next().await {
                pace.done();
                return self.read_back(want, wanted, server, &matched).await;
            }
            ports = self.find_ports(want.key).await?;
        }
    }

    async fn read_back(
        &self,
        want: &Want<'_>,
        wanted: &[Wanted<'_>],
        server: &Server,
        matched: &BTreeMap<String, &Port>,
    ) -> Result<Turn, CloudError> {
        let tied = match want.spec.ports.iter().any(|p| p.floating.is_some()) {
            true => self.find_tied(want.key).await?,
            false => Tied::default(),
        };
        let floating = self.ensure_floating(want.key, want.spec, matched, &tied).await?;
        let group = match &want.spec.group {
            Some(group) => self.group_state(group, server).await?,
            None => None,
        };
        let networks = wanted.iter().map(|w| (w.network.id.clone(), (w.spec.network.clone(), w.network.mtu)));
        let volumes = match want.spec.volumes.is_empty() {
            true => BTreeMap::new(),
            false => named(&self.volumes_of(want.key).await?),
        };
        let image = Some(want.spec.image);
        let view = View { networks: networks.collect(), floating, group, image, volumes };
        let ports: Vec<&Port> = matched.values().copied().collect();
        Ok(Turn::Done(Box::new(Observed::Compute(view.compute(server, &ports)))))
    }

    /// A port that could not be bound never will be.
    fn refuse_unbound(&self, matched: &BTreeMap<String, &Port>) -> Result<(), CloudError> {
        match matched.iter().find(|(_, p)| p.vif_type == "binding_failed") {
            Some((name, port)) => Err(CloudError::NotBound {
                port: format!("{name} ({})", port.id),
                host: port.host.clone(),
                vif_type: port.vif_type.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Cuts or restores an instance's traffic. A call whose answer was lost may be carried out after its opposite was asked for, and
    /// nothing else says then which of them was last: it is waited for, and all is done once more.
    pub(crate) async fn isolate_compute(&self, key: &ObjectKey, on: bool) -> Result<(), CloudError> {
        let mut cut = Ok(());
        for _ in 0..MAX_TURNS {
            let lost = self.client.lost();
            cut = self.cut_once(key, on).await;
            if self.client.lost() == lost {
                break;
            }
            tokio::time::sleep(LATE).await;
        }
        cut
    }

    /// Said in its metadata first, so that it stays so whatever happens then.
    async fn cut_once(&self, key: &ObjectKey, on: bool) -> Result<(), CloudError> {
        let found = self.find(key).await?;
        let server = found.server.ok_or(CloudError::InstanceAbsent)?;
        let path = format!("servers/{}/metadata", server.id);
        match on {
            true => {
                let body = json!({ "metadata": { (marks::ISOLATED): "true" } });
                self.client
                    .tell(&Call::new(NOVA, reqwest::Method::POST, path).json(&body).repeatable())
                    .await?;
            }
            false => self.client.delete(NOVA, format!("{path}/{}", marks::ISOLATED)).await?,
        }
        let ports = found.ports.iter().filter(|p| p.admin_state_up == on);
        let body = json!({ "admin_state_up": !on });
        futures::future::try_join_all(ports.map(|p| self.put("ports", &p.id, "port", body.clone()))).await?;
        self.read_cut(key, on).await
    }

    async fn read_cut(&self, key: &ObjectKey, on: bool) -> Result<(), CloudError> {
        let mut pace = Pace::new(self.boot_limit(), None);
        loop {
            let ports = self.find_ports(key).await?;
            let wrong: Vec<&Port> = ports.iter().filter(|p| p.admin_state_up == on).collect();
            let waiting = !on && ports.iter().any(|p| !p.is_subport_of(&ports) && p.status != "ACTIVE");
            if wrong.is_empty() && !waiting {
                return Ok(());
            }
            if !wrong.is_empty() || !pace.next().await {
                let ports =
                    ports.iter().map(|p| format!("{} {}", p.id, p.status)).collect::<Vec<_>>().join(", ");
                return Err(CloudError::NotCut { wanted: if on { "down" } else { "up" }, ports });
            }
        }
    }

    /// Everything that belongs to a key, for its removal.
    pub(crate) async fn everything(
        &self,
        key: &ObjectKey,
    ) -> Result<(Vec<Server>, Vec<Port>, Tied), CloudError> {
        try_join3(self.servers_of(key), self.find_ports(key), self.find_tied(key)).await
    }
}

/// Tag of a key's servers: short, since nova's tags are.
pub(crate) fn key_tag(key: &ObjectKey) -> String {
    key.short("mandate-key-")
}

/// Tag of a service's servers.
pub(crate) fn service_tag(service: &str) -> String {
    format!("mandate-ns-{}", &Digest::of(service).hex()[..16])
}
