//! What the fake holds. Every verb costs what the object costs, whatever the number of objects.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    task::Waker,
    time::Duration,
};

use dataplane_control::{Configuration, Function, protocol::Status};

use super::{AnswerAttest, AnswerTraffic, Call, Effects, Fault, error};
use crate::{
    Capture, CaptureSpec, Changed, ComputeSpec, ComputeState, Disposition, DriverError, Interconnect, Kind,
    ObjectKey, Observed, ObservedCompute, PortState, ProcessState, Resources, Spec, Stray, pcapng,
};

/// Most frames kept for an instance's next capture; the oldest go first.
const MAX_FRAMES: usize = 4096;
/// Most keys remembered for [`crate::VimDriver::changed`]; beyond it a caller is told to look at everything.
const MAX_CHANGES: usize = 1024;

#[derive(Default)]
pub(super) struct State {
    pub objects: BTreeMap<ObjectKey, Object>,
    pub strays: BTreeSet<Stray>,
    pub effects: BTreeMap<ObjectKey, Effects>,
    pub script: BTreeMap<(Call, Option<ObjectKey>), VecDeque<Fault>>,
    pub latency: BTreeMap<Call, Duration>,
    pub calls: Vec<(Call, Option<ObjectKey>)>,
    pub counts: BTreeMap<Call, u64>,
    pub used: Resources,
    /// It runs guests that cannot be asked.
    pub guests: bool,
    /// What somebody else made, by service.
    pub elsewhere: BTreeMap<String, BTreeSet<ObjectKey>>,
    pub attest: Option<Arc<AnswerAttest>>,
    pub traffic: Option<Arc<AnswerTraffic>>,
    pub wakers: Vec<Waker>,
    changes: VecDeque<ObjectKey>,
    change_count: u64,
    last_pid: u32,
    clock_ns: u64,
}

pub(super) struct Object {
    pub spec: Spec,
    /// What it is; [`as_made`] of `spec` when it is whole.
    pub observed: Observed,
    /// Its traffic is to be cut.
    pub isolated: bool,
    pid: u32,
    frames: VecDeque<Heard>,
}

struct Heard {
    port: u32,
    at_ns: u64,
    bytes: Vec<u8>,
}

impl Object {
    pub(super) fn is_whole(&self) -> bool {
        self.observed == as_made(&self.spec, false, self.isolated)
    }

    fn process(&self) -> Option<ProcessState> {
        if let Observed::Compute(c) = &self.observed { Some(c.process) } else { None }
    }
}

impl State {
    pub(super) fn next_fault(&mut self, call: Call, key: Option<&ObjectKey>) -> Fault {
        if self.script.is_empty() {
            return Fault::Pass;
        }
        let own = (call, key.cloned());
        let found = if self.script.contains_key(&own) { own } else { (call, None) };
        let Some(faults) = self.script.get_mut(&found) else { return Fault::Pass };
        let fault = faults.pop_front().unwrap_or(Fault::Pass);
        if faults.is_empty() {
            self.script.remove(&found);
        }
        fault
    }

    pub(super) fn count(&mut self, key: &ObjectKey, f: impl FnOnce(&mut Effects)) {
        f(self.effects.entry(key.clone()).or_default());
    }

    pub(super) fn make(&mut self, key: &ObjectKey, spec: &Spec, half: bool) {
        self.put(key, spec, half, false);
        self.count(key, |e| e.made += 1);
    }

    fn put(&mut self, key: &ObjectKey, spec: &Spec, half: bool, isolated: bool) {
        self.take(key);
        self.last_pid += 1;
        if let Spec::Compute(c) = spec {
            self.used.vcpus += c.vcpus;
            self.used.memory_mib += c.memory_mib;
            self.used.instances += 1;
        }
        let observed = as_made(spec, half, isolated);
        let object =
            Object { spec: spec.clone(), observed, isolated, pid: self.last_pid, frames: VecDeque::new() };
        self.objects.insert(key.clone(), object);
    }

    /// Takes it out, whatever it is.
    pub(super) fn take(&mut self, key: &ObjectKey) -> bool {
        let Some(object) = self.objects.remove(key) else { return false };
        if let Spec::Compute(c) = &object.spec {
            self.used.vcpus -= c.vcpus;
            self.used.memory_mib -= c.memory_mib;
            self.used.instances -= 1;
        }
        true
    }

    pub(super) fn ensure(&mut self, key: &ObjectKey, spec: &Spec, half: bool) -> Result<(), DriverError> {
        let Some(found) = self.objects.get(key) else {
            self.make(key, spec, half);
            return Ok(());
        };
        let refuse = |code, reason| Err(error(key, "ensure", code, reason, Disposition::Compensate));
        if found.spec.kind() != spec.kind() {
            return refuse("KEY_IN_USE", "the key names another kind");
        }
        if found.spec == *spec && found.is_whole() {
            return Ok(());
        }
        let isolated = found.isolated;
        if let Some(running) = reconfigurable(found, spec) {
            let wanted = generation(spec);
            if wanted <= running {
                return refuse("CONFIGURATION_REFUSED", "its generation must be above the running one");
            }
            self.count(key, |e| e.reconfigured += 1);
            if let Some(object) = self.objects.get_mut(key) {
                (object.spec, object.observed) = (spec.clone(), as_made(spec, half, isolated));
            }
            return Ok(());
        }
        let (same, compute) = (found.spec == *spec, spec.kind() == Kind::Compute);
        self.count(key, |e| match (same, compute) {
            (true, _) => e.completed += 1,
            (false, true) => e.replaced += 1,
            (false, false) => e.reconfigured += 1,
        });
        self.put(key, spec, half, isolated);
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &ObjectKey, kind: Kind) {
        if self.objects.get(key).is_some_and(|o| o.spec.kind() == kind) {
            self.take(key);
            self.count(key, |e| e.removed += 1);
        }
        self.strays.retain(|s| s.key != *key || s.kind != kind);
    }

    /// Objects of one service, in order.
    pub(super) fn service<'s>(&'s self, name: &'s str) -> impl Iterator<Item = (&'s ObjectKey, &'s Object)> {
        self.objects.range(ObjectKey::first_of(name)..).take_while(move |(k, _)| k.service() == name)
    }

    pub(super) fn is_network(&self, key: &ObjectKey) -> bool {
        self.objects.get(key).is_some_and(|o| o.spec.kind() == Kind::Network)
    }

    /// Another network of this site that is joined to the segment.
    pub(super) fn joined(&self, key: &ObjectKey, to: &Interconnect) -> bool {
        let same = |o: &Object| matches!(&o.spec, Spec::Network(n) if n.interconnect.as_ref() == Some(to));
        self.objects.iter().any(|(k, o)| k != key && same(o))
    }

    pub(super) fn instance(&mut self, key: &ObjectKey, operation: &str) -> Result<&mut Object, DriverError> {
        match self.objects.get_mut(key) {
            Some(o) if o.spec.kind() == Kind::Compute => Ok(o),
            _ => Err(error(key, operation, "INSTANCE_ABSENT", "no such instance", Disposition::Compensate)),
        }
    }

    pub(super) fn running(&mut self, key: &ObjectKey, operation: &str) -> Result<&mut Object, DriverError> {
        let object = self.instance(key, operation)?;
        let (code, reason) = match object.process() {
            Some(ProcessState::Silent) => {
                ("CONTROL_IO", "it does not answer: isolate it, or ensure it again")
            }
            Some(ProcessState::Replaced) => ("INSTANCE_REPLACED", "another process answers: isolate it"),
            Some(ProcessState::Answers) => return Ok(object),
            _ => ("INSTANCE_DOWN", "it does not run: ensure it again"),
        };
        Err(error(key, operation, code, reason, Disposition::Unknown))
    }

    pub(super) fn status(&mut self, key: &ObjectKey) -> Result<Status, DriverError> {
        let object = self.running(key, "status")?;
        status_of(key, object).ok_or_else(|| {
            error(key, "status", "INTERNAL", "a configuration that does not parse", Disposition::Escalate)
        })
    }

    pub(super) fn isolate(&mut self, key: &ObjectKey, on: bool) -> Result<(), DriverError> {
        let object = self.instance(key, "isolate")?;
        let changes = object.isolated != on;
        object.isolated = on;
        if let Observed::Compute(c) = &mut object.observed {
            cut(c, on);
        }
        if changes {
            self.count(key, |e| e.isolated += 1);
        }
        Ok(())
    }

    /// A frame on the link of a key's port: every other port of that link hears it. Returns where else it goes.
    pub(super) fn emit(&mut self, key: &ObjectKey, port: usize, frame: &[u8]) -> Option<Interconnect> {
        self.clock_ns += 1;
        let object = self.objects.get_mut(key)?;
        let Spec::Compute(compute) = &object.spec else { return None };
        let (network, at_ns) = (compute.ports.get(port)?.network.clone(), self.clock_ns);
        if object.isolated {
            return None;
        }
        object.hear(u32::try_from(port).ok()?, at_ns, frame);
        let from = key.clone();
        self.hear(|k, n| *k != from && *n == network, frame);
        match &self.objects.get(&network)?.spec {
            Spec::Network(n) => n.interconnect.clone(),
            _ => None,
        }
    }

    /// A frame from another site's part of a link.
    pub(super) fn hear_from_afar(&mut self, segment: &Interconnect, frame: &[u8]) {
        self.clock_ns += 1;
        let joined: BTreeSet<ObjectKey> = self
            .objects
            .iter()
            .filter(|(_, o)| matches!(&o.observed, Observed::Network { up: true, interconnect: Some(i), .. } if i == segment))
            .map(|(k, _)| k.clone())
            .collect();
        self.hear(|_, network| joined.contains(network), frame);
    }

    fn hear(&mut self, who: impl Fn(&ObjectKey, &ObjectKey) -> bool, frame: &[u8]) {
        let at_ns = self.clock_ns;
        for (key, object) in &mut self.objects {
            let Spec::Compute(compute) = &object.spec else { continue };
            let ports = (0u32..).zip(&compute.ports).filter(|(_, p)| who(key, &p.network));
            let ports: Vec<u32> = ports.map(|(i, _)| i).collect();
            if !object.isolated {
                ports.into_iter().for_each(|port| object.hear(port, at_ns, frame));
            }
        }
    }

    pub(super) fn capture(&mut self, key: &ObjectKey, spec: &CaptureSpec) -> Result<Capture, DriverError> {
        let now = self.clock_ns;
        let object = self.instance(key, "capture")?;
        let Spec::Compute(compute) = &object.spec else {
            return Err(error(key, "capture", "INTERNAL", "no compute", Disposition::Escalate));
        };
        let names: Vec<String> = compute.ports.iter().map(|p| p.name.clone()).collect();
        let mut writer = pcapng::Writer::new(&names, spec.snap_bytes, spec.max_bytes);
        for frame in object.frames.drain(..) {
            let wire = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
            writer.add(frame.port, frame.at_ns, wire, &frame.bytes);
        }
        self.count(key, |e| e.captured += 1);
        Ok(writer.finish(now))
    }

    /// Notes that a key changed by itself and wakes who waits for that.
    pub(super) fn note_change(&mut self, key: &ObjectKey) {
        self.change_count += 1;
        self.changes.push_back(key.clone());
        if self.changes.len() > MAX_CHANGES {
            self.changes.pop_front();
        }
        self.wakers.drain(..).for_each(Waker::wake);
    }

    pub(super) fn changed(&self, after: u64) -> Option<Changed> {
        let new = self.change_count.checked_sub(after).filter(|n| *n > 0)?;
        let new = usize::try_from(new).unwrap_or(usize::MAX);
        let skip = self.changes.len().checked_sub(new);
        let keys = skip.map(|s| self.changes.iter().skip(s).cloned().collect()).unwrap_or_default();
        Some(Changed { count: self.change_count, keys })
    }
}

impl Object {
    fn hear(&mut self, port: u32, at_ns: u64, frame: &[u8]) {
        if self.frames.len() >= MAX_FRAMES {
            self.frames.pop_front();
        }
        self.frames.push_back(Heard { port, at_ns, bytes: frame.to_vec() });
    }
}

/// The generation that runs, when nothing but the configuration is not as specified.
fn reconfigurable(found: &Object, spec: &Spec) -> Option<u64> {
    let (Spec::Compute(old), Spec::Compute(new)) = (&found.spec, spec) else { return None };
    let (Observed::Compute(is), Observed::Compute(was)) =
        (&found.observed, as_made(&found.spec, false, found.isolated))
    else {
        return None;
    };
    let rest = ObservedCompute { configuration: is.configuration, generation: is.generation, ..was };
    let only = |c: &ComputeSpec| ComputeSpec { configuration: String::new(), ..c.clone() };
    (only(old) == only(new) && *is == rest).then(|| is.generation.unwrap_or_default())
}

fn generation(spec: &Spec) -> u64 {
    let Spec::Compute(compute) = spec else { return 0 };
    Configuration::parse(compute.configuration.as_bytes()).map_or(0, |c| c.generation)
}

fn cut(compute: &mut ObservedCompute, on: bool) {
    compute.state = match (on, compute.process) {
        (true, _) => ComputeState::Isolated,
        (false, ProcessState::Answers) => ComputeState::Active,
        (false, _) => ComputeState::Down,
    };
    compute.links.values_mut().for_each(|l| l.up = !on);
}

/// What an object of this specification is when it is made, wholly or half.
pub(super) fn as_made(spec: &Spec, half: bool, isolated: bool) -> Observed {
    match spec {
        Spec::Image(image) => Observed::Image { digest: image.digest },
        Spec::Network(network) => Observed::Network {
            up: !half,
            mtu: network.mtu,
            interconnect: network.interconnect.clone().filter(|_| !half),
        },
        Spec::Compute(compute) => {
            let link = |p: &crate::PortSpec| PortState {
                up: true,
                mtu: 1500,
                network: Some(p.network.clone()),
                binding: None,
            };
            // A guest has none.
            let configured = !half && !compute.configuration.is_empty();
            let mut observed = ObservedCompute {
                state: ComputeState::Active,
                process: if half { ProcessState::Gone } else { ProcessState::Answers },
                image: compute.image,
                configuration: configured.then(|| Configuration::digest(compute.configuration.as_bytes())),
                generation: configured.then(|| generation(spec)),
                ports: compute.ports.iter().map(|p| (p.name.clone(), p.mac)).collect(),
                links: compute.ports.iter().map(|p| (p.name.clone(), link(p))).collect(),
                whereabouts: None,
            };
            cut(&mut observed, isolated);
            Observed::Compute(observed)
        }
    }
}

fn status_of(key: &ObjectKey, object: &Object) -> Option<Status> {
    let (Spec::Compute(compute), Observed::Compute(observed)) = (&object.spec, &object.observed) else {
        return None;
    };
    let document = Configuration::parse(compute.configuration.as_bytes()).ok()?;
    let function = match document.function {
        Function::Firewall(_) => "firewall",
        Function::LoadBalancer(_) => "load_balancer",
        Function::Reflector(_) => "reflector",
        Function::Generator(_) => "generator",
        Function::Chain(_) => "chain",
    };
    Some(Status {
        instance: key.to_string(),
        function: function.to_owned(),
        generation: observed.generation?,
        configuration: observed.configuration?,
        isolated: object.isolated,
        pid: object.pid,
        connections: 0,
        counters: BTreeMap::new(),
    })
}
