//! VDU instances: a network namespace, a veth pair per connection point, one measured process.
//!
//! The record is written before anything is made and removed after everything else, so whatever a crash leaves is
//! named by a record or by a name that follows from the key. What cannot be repaired under a running process (its
//! ports, its executable) is made anew: everything but the record is cleared, then built.
//!
//! Tests: the conformance suite in `tests/`, with every half-made state of this file.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use dataplane_control::{
    Configuration,
    config::PortDriver,
    protocol::{Request, Status},
};
use nix::unistd::{Gid, Uid, chown};
use tokio::process::Child;
use trust::Digest;
use vim::{
    ComputeSpec, ComputeState, ObjectKey, Observed, ObservedCompute, PortSpec, PortState, Resources,
    port_interface,
};

use crate::{
    Site, blocking, control,
    error::{HostError, state},
    isolation::is_cut,
    launcher::ended,
    link::{Link, Links, Shape, alias, outer_name, parse_alias},
    look::Found,
    netns,
    process::{Process, with_control},
    state::{InstancePaths, Record, make_dir, read_json, remove_file, write_atomic, write_json},
};

/// Most connection points of an instance: their links' names must fit, and nobody needs more.
pub(crate) const MAX_PORTS: usize = 32;
/// Longest wait for a started data plane to answer; DPDK takes about a second on an idle core.
const START: Duration = Duration::from_secs(60);
/// How often a starting data plane is asked.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// How long a data plane may take to drain and exit when asked to.
const DRAIN: Duration = Duration::from_secs(3);

/// What is reported of an executable that cannot be read, because none runs: the digest of no bytes anyone has. What
/// was asked for is never reported in place of what was read.
const UNREAD: Digest = Digest([0; 32]);

/// The links of the fabric, as the kernel has them.
#[derive(Default)]
pub(crate) struct Fabric {
    pub links: Vec<Link>,
    /// Our virtual links, by the index of their bridge.
    pub networks: BTreeMap<u32, ObjectKey>,
    /// Ports of instances, by index.
    pub ports: BTreeMap<ObjectKey, BTreeMap<usize, Port>>,
}

impl Fabric {
    fn port(&self, key: &ObjectKey, index: usize) -> Option<&Port> {
        self.ports.get(key)?.get(&index)
    }
}

/// A connection point as it is.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    pub outer: Link,
    inner: Option<Link>,
}

impl Port {
    fn state(&self, networks: &BTreeMap<u32, ObjectKey>) -> PortState {
        let inner = self.inner.as_ref();
        let mtu = inner.map_or(self.outer.mtu, |l| l.mtu.min(self.outer.mtu));
        PortState {
            up: self.outer.up && inner.is_some_and(|l| l.up),
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            network: self.outer.bridge.and_then(|index| networks.get(&index).cloned()),
            binding: None,
        }
    }
}

/// Our virtual links by the index of their bridge.
fn networks_by_index(site: &str, all: &[Link]) -> BTreeMap<u32, ObjectKey> {
    let ours = |l: &Link| match parse_alias(site, l.alias.as_deref()?)? {
        (key, None) if l.kind == Shape::Bridge => Some((l.index, key)),
        _ => None,
    };
    all.iter().filter_map(ours).collect()
}

impl Found {
    /// Runs only what runs, answers, and shows what it executes; cut is what the kernel has cut, whatever it says.
    fn state(&self, is_cut: bool) -> ComputeState {
        match (is_cut, &self.status, &self.image) {
            (true, ..) => ComputeState::Isolated,
            (false, Some(_), Some(_)) => ComputeState::Active,
            (false, ..) => ComputeState::Down,
        }
    }
}

impl Site {
    /// The instance runs as specified. The caller holds the key's lock.
    pub(crate) async fn ensure_compute(
        &self,
        key: &ObjectKey,
        spec: &ComputeSpec,
    ) -> Result<Observed, HostError> {
        let document = check(key, spec)?;
        self.require_image(key, &spec.image).await?;
        let recorded = self.record(key).await?;
        if recorded.as_ref().is_some_and(|r| r.isolated) {
            // What a crash or another's hand left up of it.
            self.switch_ports(key, false).await?;
        }
        let fabric = self.fabric_links(|k| k == key).await?;
        self.require_networks(&fabric.links, spec)?;
        let shape = ComputeSpec { configuration: String::new(), ..spec.clone() };
        if let Some(record) = recorded
            && record.spec == shape
        {
            let found = self.look(&record).await?;
            if let Some(status) = &found.status
                && self.is_whole(&record, &found, &fabric)
            {
                if status.configuration != Configuration::digest(spec.configuration.as_bytes()) {
                    self.reconfigure(key, spec, &document, status).await?;
                }
                return self.observe_compute(&record, &self.fabric_links(|k| k == key).await?).await;
            }
        }
        let record = self.reserve(key, shape).await?;
        self.clear(key).await?;
        self.build(&record, spec).await?;
        if record.isolated {
            self.switch_ports(key, false).await?;
            self.tell(key, true).await;
        }
        self.observe_compute(&record, &self.fabric_links(|k| k == key).await?).await
    }

    /// Nothing of the instance is left. The caller holds the key's lock.
    pub(crate) async fn remove_compute(&self, key: &ObjectKey) -> Result<(), HostError> {
        match self.record(key).await {
            // Another key's instance: ours is absent.
            Err(HostError::KeyCollision { .. }) => return Ok(()),
            Err(e) => return Err(e),
            Ok(_) => {}
        }
        self.clear(key).await?;
        let (paths, layout) = (self.layout.instance(key), self.layout.clone());
        blocking(move || {
            paths.remove()?;
            layout.drop_empty_run();
            Ok(())
        })
        .await?;
        let _fabric = self.fabric_lock.lock().await;
        self.drop_empty_fabric().await
    }

    /// All these instances, as they are.
    pub(crate) async fn computes(
        &self,
        records: &[Arc<Record>],
        fabric: &Fabric,
    ) -> Result<BTreeMap<ObjectKey, Observed>, HostError> {
        let found = self.look_at_all(records).await?;
        for (record, found) in records.iter().zip(&found) {
            found.process.into_iter().for_each(|p| self.watch.over(&record.key, p));
        }
        Ok(records.iter().zip(found).map(|(r, found)| (r.key.clone(), observed(r, &found, fabric))).collect())
    }

    /// Every link of the fabric, and the ports of the instances that `wanted` names with their inner ends: one dump,
    /// and one message per inner end in one stream.
    pub(crate) async fn fabric_links(
        &self,
        wanted: impl Fn(&ObjectKey) -> bool + Send,
    ) -> Result<Fabric, HostError> {
        let Some(links) = Links::open(&self.fabric()).await? else { return Ok(Default::default()) };
        let read = self.read_links(&links, wanted).await;
        links.close().await;
        read
    }

    async fn read_links(
        &self,
        links: &Links,
        wanted: impl Fn(&ObjectKey) -> bool + Send,
    ) -> Result<Fabric, HostError> {
        let all = links.dump().await?;
        let ours = |l: &Link| match parse_alias(&self.name, l.alias.as_deref()?)? {
            (key, Some(port)) if wanted(&key) => Some((key, port)),
            _ => None,
        };
        let outer: Vec<(_, &Link)> = all.iter().filter_map(|l| Some((ours(l)?, l))).collect();
        let ends: Vec<&Link> = outer.iter().map(|(_, l)| *l).collect();
        let inner = links.inner_ends(&ends).await?;
        let mut ports: BTreeMap<ObjectKey, BTreeMap<usize, Port>> = BTreeMap::new();
        for (((key, index), outer), inner) in outer.into_iter().zip(inner) {
            ports.entry(key).or_default().insert(index, Port { outer: outer.clone(), inner });
        }
        Ok(Fabric { networks: networks_by_index(&self.name, &all), links: all, ports })
    }

    async fn process(&self, key: &ObjectKey) -> Result<Option<Process>, HostError> {
        let path = self.layout.instance(key).process();
        blocking(move || read_json(&path)).await
    }

    async fn observe_compute(&self, record: &Record, fabric: &Fabric) -> Result<Observed, HostError> {
        Ok(observed(record, &self.look(record).await?, fabric))
    }

    /// Does it run the right executable on the right ports?
    fn is_whole(&self, record: &Record, found: &Found, fabric: &Fabric) -> bool {
        let port_is_whole = |(i, spec): (usize, &PortSpec)| {
            let Ok(Some(bridge)) = self.bridge(&fabric.links, &spec.network) else { return false };
            fabric.port(&record.key, i).is_some_and(|p| {
                let inner = p.inner.as_ref();
                p.outer.up != record.isolated
                    && p.outer.bridge == Some(bridge.index)
                    && p.outer.mtu == bridge.mtu
                    && inner.is_some_and(|l| {
                        l.up && l.mtu == bridge.mtu && l.name == port_interface(i) && l.mac == spec.mac.0
                    })
            })
        };
        found.process.is_some()
            && found.image == Some(record.spec.image)
            && fabric.ports.get(&record.key).map_or(0, BTreeMap::len) == record.spec.ports.len()
            && record.spec.ports.iter().enumerate().all(port_is_whole)
    }

    async fn require_image(&self, key: &ObjectKey, digest: &Digest) -> Result<(), HostError> {
        let absent = HostError::ImageAbsent { digest: *digest, service: key.service().to_owned() };
        let (key, digest) = (key.clone(), *digest);
        let held = self
            .with_images(move |images| {
                let file = images.digests.of(&images.layout.image(&digest))?;
                Ok(file == Some(digest) && images.held_by(key.service(), &digest)?)
            })
            .await?;
        if held { Ok(()) } else { Err(absent) }
    }

    fn require_networks(&self, all: &[Link], spec: &ComputeSpec) -> Result<(), HostError> {
        for port in &spec.ports {
            if self.bridge(all, &port.network)?.is_none_or(|b| b.alias.is_none() || !b.up) {
                return Err(HostError::NetworkAbsent { network: port.network.clone() });
            }
        }
        Ok(())
    }

    /// Room for it is taken and a user id given, by writing the record.
    async fn reserve(&self, key: &ObjectKey, spec: ComputeSpec) -> Result<Record, HostError> {
        let _room = self.room_lock.lock().await;
        let (layout, config, key) = (self.layout.clone(), self.config.clone(), key.clone());
        blocking(move || {
            let (own, others): (Vec<_>, Vec<_>) =
                layout.all_records()?.into_iter().partition(|r| r.key == key);
            check_room(&config.capacity, &used(&others), &spec)?;
            let user = match &config.run_as {
                None => None,
                Some(range) => {
                    let taken: BTreeSet<u32> = others.iter().filter_map(|r| r.user).collect();
                    let full =
                        || HostError::Capacity { problem: format!("all user ids of {range:?} are in use") };
                    Some(range.clone().find(|id| !taken.contains(id)).ok_or_else(full)?)
                }
            };
            // Cut stays cut, whatever it becomes: that ends with the instance, or when it is asked for.
            let isolated = own.iter().any(|r| r.isolated);
            let record = Record { key, spec, user, isolated };
            let paths = layout.instance(&record.key);
            make_dir(&paths.dir, 0o700)?;
            write_json(&paths.record(), &record)?;
            Ok(record)
        })
        .await
    }

    /// Ends the instance's processes, then removes its links and namespace; the record stays.
    async fn clear(&self, key: &ObjectKey) -> Result<(), HostError> {
        let paths = self.layout.instance(key);
        self.stop(key, &paths).await?;
        if let Some(links) = Links::open(&self.fabric()).await? {
            let deleted = self.delete_ports(&links, key).await;
            links.close().await;
            deleted?;
        }
        let (namespace, limits, short) = (self.namespace(key), self.limits().0.clone(), key.short("i"));
        blocking(move || {
            netns::remove(&namespace)?;
            limits.map_or(Ok(()), |l| l.remove(&short))?;
            remove_file(&paths.process())?;
            remove_file(&paths.control())
        })
        .await
    }

    async fn stop(&self, key: &ObjectKey, paths: &InstancePaths) -> Result<(), HostError> {
        let mut processes: BTreeSet<Process> =
            self.process(key).await?.into_iter().filter(Process::runs).collect();
        let socket = paths.control();
        processes.iter().for_each(|p| self.watch.expect_end(*p));
        for process in &processes {
            if control::shutdown(&socket, process.pid, control::ANSWER).await.is_ok() {
                process.ended_within(DRAIN).await;
            }
        }
        processes.extend(blocking(move || Ok(with_control(&socket))).await?);
        for process in processes {
            process.end().await?;
        }
        Ok(())
    }

    async fn delete_ports(&self, links: &Links, key: &ObjectKey) -> Result<(), HostError> {
        for link in links.dump().await?.iter().filter(|l| self.is_port_of(l, key)) {
            links.delete(link).await?;
        }
        Ok(())
    }

    /// Is this the outer end of one of the key's ports, by alias or (half made) by name alone?
    pub(crate) fn is_port_of(&self, link: &Link, key: &ObjectKey) -> bool {
        match link.alias.as_deref().map(|a| parse_alias(&self.name, a)) {
            Some(Some((owner, port))) => owner == *key && port.is_some(),
            Some(None) => false,
            None => (0..MAX_PORTS).any(|i| link.name == outer_name(key, i)),
        }
    }

    async fn build(&self, record: &Record, spec: &ComputeSpec) -> Result<(), HostError> {
        let (paths, namespace) = (self.layout.instance(&record.key), self.namespace(&record.key));
        let (document, user) = (spec.configuration.clone(), record.user);
        let to = paths.clone();
        let (layout, name) = (self.layout.clone(), namespace.clone());
        let file = blocking(move || {
            write_atomic(&to.configuration(), document.as_bytes(), 0o600)?;
            layout.prepare_run()?;
            make_dir(&to.run, 0o700)?;
            chown(&to.run, user.map(Uid::from_raw), user.map(Gid::from_raw))
                .map_err(|e| state("give away", &to.run)(e.into()))?;
            netns::ensure(&name)?;
            netns::open(&name)?
                .ok_or_else(|| HostError::Internal(format!("namespace {name} is not there once made")))
        })
        .await?;
        if !record.spec.ports.is_empty() {
            let gone = || HostError::NetworkAbsent { network: record.spec.ports[0].network.clone() };
            let links = Links::open(&self.fabric()).await?.ok_or_else(gone)?;
            let added = self.add_ports(&links, record, &file).await;
            links.close().await;
            added?;
            self.take_ports_up(&namespace, record.spec.ports.len()).await?;
        }
        self.start(record, spec, &paths).await
    }

    async fn add_ports(
        &self,
        links: &Links,
        record: &Record,
        namespace: &std::fs::File,
    ) -> Result<(), HostError> {
        let all = links.dump().await?;
        for (i, port) in record.spec.ports.iter().enumerate() {
            let absent = || HostError::NetworkAbsent { network: port.network.clone() };
            let bridge = self.bridge(&all, &port.network)?.ok_or_else(absent)?;
            links.add_port(&outer_name(&record.key, i), bridge, namespace, i, port).await?;
        }
        for link in links.dump().await? {
            let index = (0..record.spec.ports.len()).find(|i| link.name == outer_name(&record.key, *i));
            if let Some(i) = index {
                let alias = alias(&self.name, &record.key, Some(i));
                links.settle(link.index, &alias, link.mtu, !record.isolated).await?;
            }
        }
        Ok(())
    }

    async fn take_ports_up(&self, namespace: &str, ports: usize) -> Result<(), HostError> {
        let gone = || HostError::Internal(format!("namespace {namespace} is not there once made"));
        let links = Links::open(namespace).await?.ok_or_else(gone)?;
        let mut up = Ok(());
        for port in 0..ports {
            up = links.listen(&port_interface(port)).await;
            if up.is_err() {
                break;
            }
        }
        links.close().await;
        up
    }

    async fn start(
        &self,
        record: &Record,
        spec: &ComputeSpec,
        paths: &InstancePaths,
    ) -> Result<(), HostError> {
        let cgroup = self.limit(record).await?;
        let mut child = self.launch(record, paths, cgroup.as_deref())?;
        let spawned = child.id().and_then(Process::of);
        if let Some(process) = spawned {
            let path = paths.process();
            blocking(move || write_json(&path, &process)).await?;
            self.watch.over(&record.key, process);
        }
        let answered = self.await_answer(&mut child, &record.key, spec, paths).await;
        // While we live, we reap it; when we die before it, init does.
        tokio::spawn(async move { child.wait().await });
        answered
    }

    /// The instance's cgroup, where there are limits.
    async fn limit(&self, record: &Record) -> Result<Option<PathBuf>, HostError> {
        let Some(limits) = self.limits().0.clone() else { return Ok(None) };
        let (short, spec) = (record.key.short("i"), record.spec.clone());
        blocking(move || limits.make(&short, &spec).map(Some)).await
    }

    async fn await_answer(
        &self,
        child: &mut Child,
        key: &ObjectKey,
        spec: &ComputeSpec,
        paths: &InstancePaths,
    ) -> Result<(), HostError> {
        let (start, pid) = (Instant::now(), child.id().unwrap_or_default());
        let expected = Configuration::digest(spec.configuration.as_bytes());
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(ended(status, paths));
            }
            match control::status(&paths.control(), pid, Request::Status, control::ANSWER).await {
                Ok(status) => {
                    let ours = status.instance == key.as_str() && status.pid == pid;
                    let right = ours && status.configuration == expected;
                    return if right { Ok(()) } else { Err(another_answers(&status, pid, paths)) };
                }
                Err(e @ HostError::InstanceReplaced { .. }) => {
                    return Err(HostError::Launch { problem: e.to_string(), log: paths.log_tail() });
                }
                Err(_) => {}
            }
            if start.elapsed() > START {
                return Err(HostError::StartTimeout { pid, seconds: START.as_secs(), log: paths.log_tail() });
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Measured first, then configured, then read back.
    async fn reconfigure(
        &self,
        key: &ObjectKey,
        spec: &ComputeSpec,
        document: &Configuration,
        running: &Status,
    ) -> Result<(), HostError> {
        let paths = self.layout.instance(key);
        self.refuse_early(&paths, document, running).await?;
        let (next, current) = (paths.dir.join("configuration-next.json"), paths.configuration());
        let (to, bytes) = (next.clone(), spec.configuration.clone());
        blocking(move || write_atomic(&to, bytes.as_bytes(), 0o600)).await?;
        self.measure(key, &next).await?;
        let request = Request::Configure { document: spec.configuration.clone() };
        match control::status(&paths.control(), running.pid, request, control::CONFIGURE).await {
            Ok(_) => {}
            Err(HostError::Refused { code, message }) => {
                // The event log must end with what runs: the refused document was measured, so measure that again.
                self.measure(key, &current).await?;
                return Err(HostError::ConfigurationRefused { code, message });
            }
            Err(e) => return Err(e),
        }
        let (_, status) = self.running(key).await?;
        let expected = Configuration::digest(spec.configuration.as_bytes());
        if status.configuration != expected {
            return Err(HostError::ConfigurationNotRunning { found: status.configuration, expected });
        }
        blocking(move || std::fs::rename(&next, &current).map_err(state("write", &current))).await
    }

    /// What the data plane would refuse is refused before it is measured.
    async fn refuse_early(
        &self,
        paths: &InstancePaths,
        document: &Configuration,
        running: &Status,
    ) -> Result<(), HostError> {
        let refuse =
            |code: &str, message: String| Err(HostError::ConfigurationRefused { code: code.into(), message });
        if document.generation <= running.generation {
            let (new, old) = (document.generation, running.generation);
            return refuse(
                "GENERATION",
                format!("generation {new} is not above {old}, which runs: plan a higher one"),
            );
        }
        let path = paths.configuration();
        let current = blocking(move || std::fs::read(&path).map_err(state("read", &path))).await?;
        let known = Configuration::digest(&current) == running.configuration;
        match Configuration::parse(&current) {
            Ok(current) if known && current.ports != document.ports => refuse(
                "PORTS",
                "the document's ports differ from the running one's: that needs a new instance".into(),
            ),
            _ => Ok(()),
        }
    }
}

fn another_answers(status: &Status, pid: u32, paths: &InstancePaths) -> HostError {
    let problem = format!(
        "on its control socket, process {} answers for {} with configuration {}, not process {pid} with what it was \
         started with",
        status.pid, status.instance, status.configuration
    );
    HostError::Launch { problem, log: paths.log_tail() }
}

fn observed(record: &Record, found: &Found, fabric: &Fabric) -> Observed {
    let (ports, key) = (&record.spec.ports, &record.key);
    let mac = |(i, spec): (usize, &PortSpec)| {
        let inner = fabric.port(key, i)?.inner.as_ref()?;
        let mac = <[u8; 6]>::try_from(inner.mac.as_slice()).ok()?;
        Some((spec.name.clone(), dataplane_control::MacAddr(mac)))
    };
    let link = |(i, spec): (usize, &PortSpec)| {
        Some((spec.name.clone(), fabric.port(key, i)?.state(&fabric.networks)))
    };
    Observed::Compute(ObservedCompute {
        state: found.state(is_cut(record, fabric)),
        process: found.answer,
        image: found.image.unwrap_or(UNREAD),
        configuration: found.status.as_ref().map(|s| s.configuration),
        generation: found.status.as_ref().map(|s| s.generation),
        ports: ports.iter().enumerate().filter_map(mac).collect(),
        links: ports.iter().enumerate().filter_map(link).collect(),
        whereabouts: None,
    })
}

/// The document parses, is this instance's, and has the specification's ports in their order.
fn check(key: &ObjectKey, spec: &ComputeSpec) -> Result<Configuration, HostError> {
    let bad = |problem: String| Err(HostError::BadSpec { problem });
    let document = match Configuration::parse(spec.configuration.as_bytes()) {
        Ok(document) => document,
        Err(e) => return bad(e.to_string()),
    };
    if document.instance != key.as_str() {
        return bad(format!("its configuration is for {}", document.instance));
    }
    if spec.ports.len() > MAX_PORTS {
        return bad(format!("{} connection points; at most {MAX_PORTS}", spec.ports.len()));
    }
    let names: BTreeSet<_> = spec.ports.iter().map(|p| &p.name).collect();
    if names.len() < spec.ports.len() {
        return bad("two connection points have the same name".into());
    }
    let asked = spec.ports.iter().map(|p| (&p.name, p.mac));
    if !asked.eq(document.ports.iter().map(|p| (&p.name, p.mac))) {
        return bad("its configuration has other ports (names, order or MAC addresses)".into());
    }
    for (i, port) in document.ports.iter().enumerate() {
        let expected = port_interface(i);
        let device = match &port.driver {
            PortDriver::AfPacket { interface } | PortDriver::AfXdp { interface } => interface.as_str(),
            other => other.name(),
        };
        if device != expected {
            return bad(format!(
                "`{}` is to use {device}, not {expected}, the only way in and out that can be cut here",
                port.name
            ));
        }
    }
    if let Some(port) = spec.ports.iter().find(|p| p.mac.0[0] & 1 == 1 || p.mac.0 == [0; 6]) {
        return bad(format!("`{}` has {}, which is no station's address", port.name, port.mac));
    }
    Ok(document)
}

/// What these instances take.
pub(crate) fn used<'r>(records: impl IntoIterator<Item = &'r Record>) -> Resources {
    records.into_iter().fold(Resources::default(), |sum, r| Resources {
        vcpus: sum.vcpus.saturating_add(r.spec.vcpus),
        memory_mib: sum.memory_mib.saturating_add(r.spec.memory_mib),
        instances: sum.instances.saturating_add(1),
    })
}

fn check_room(total: &Resources, used: &Resources, spec: &ComputeSpec) -> Result<(), HostError> {
    let short = |what: &str, total: u32, used: u32, asked: u32| match asked <= total.saturating_sub(used) {
        true => Ok(()),
        false => Err(HostError::Capacity {
            problem: format!("{asked} {what} asked, {used} of {total} are in use"),
        }),
    };
    short("vCPUs", total.vcpus, used.vcpus, spec.vcpus)?;
    short("MiB of memory", total.memory_mib, used.memory_mib, spec.memory_mib)?;
    short("instances", total.instances, used.instances, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn active_is_what_answers_and_shows_what_it_executes_and_is_not_cut() {
        let found = |image: bool, answers: bool| Found {
            process: Process::of(std::process::id()),
            answer: vim::ProcessState::Answers,
            image: image.then_some(UNREAD),
            status: answers.then(|| Status {
                instance: "a/b".into(),
                function: "reflector".into(),
                generation: 1,
                configuration: UNREAD,
                isolated: true,
                pid: 1,
                connections: 0,
                counters: BTreeMap::new(),
            }),
        };
        let states = |cut| [(true, true), (true, false), (false, true)].map(|(i, s)| found(i, s).state(cut));
        assert_eq!(states(false), [ComputeState::Active, ComputeState::Down, ComputeState::Down]);
        assert_eq!(states(true), [ComputeState::Isolated; 3]);
    }
}
