//! A VIM in memory whose only purpose is to fail on demand.
//!
//! It stands in for no peer in any claim: it exists so that every step of an operation can be made to fail before
//! its effect, in the middle of it, or after it (a lost reply), and so that a test can then assert that nothing
//! happened twice and nothing is left. Its [`Effects`] count what *happened*, not what was asked.
//!
//! Tests: the conformance suite in `tests/fake.rs`; fault scripts below.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use attestation::Evidence;
use dataplane_control::{
    Configuration, Function,
    protocol::Status,
    traffic::{TrafficProfile, TrafficReport},
};
use trust::Digest;

use crate::{
    Capabilities, ComputeSpec, ComputeState, Disposition, DriverError, Inventory, Kind, ObjectKey, Observed,
    ObservedCompute, Resources, Scope, Spec, VimDriver, VnfControl,
};

/// A call of the two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// [`VimDriver::ensure`].
    Ensure,
    /// [`VimDriver::remove`].
    Remove,
    /// [`VimDriver::observe`]; scripted without a key.
    Observe,
    /// [`VnfControl::status`].
    Status,
    /// [`VnfControl::attest`]; scripted without a key.
    Attest,
    /// [`VnfControl::run_traffic`].
    RunTraffic,
    /// [`VnfControl::isolate`].
    Isolate,
}

/// What becomes of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happens and the call fails.
    Before(Disposition),
    /// Half of it happens and the call fails: `ensure` leaves an object that is down, `remove` likewise.
    Half(Disposition),
    /// All of it happens and the call fails: the reply is lost.
    After(Disposition),
    /// All of it happens, later.
    Delay(Duration),
    /// No fault: this call is left alone (to reach the next one).
    Pass,
}

/// What happened to one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects {
    /// Times the object came to be, wholly or half.
    pub made: u32,
    /// Times a half-made object was completed.
    pub completed: u32,
    /// Times its configuration was replaced in place.
    pub reconfigured: u32,
    /// Times it was replaced by a new instance.
    pub replaced: u32,
    /// Times it ceased to be.
    pub removed: u32,
    /// Times its traffic was cut or restored.
    pub isolated: u32,
    /// Times traffic was run from it.
    pub traffic: u32,
}

type AnswerAttest = dyn Fn(&[ObjectKey], &Digest) -> Result<Evidence, DriverError> + Send + Sync;
type AnswerTraffic = dyn Fn(&ObjectKey, &TrafficProfile) -> Result<TrafficReport, DriverError> + Send + Sync;

/// The fake.
pub struct FakeVim {
    total: Resources,
    images: Option<BTreeSet<Digest>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<ObjectKey, Object>,
    effects: BTreeMap<ObjectKey, Effects>,
    script: BTreeMap<(Call, Option<ObjectKey>), VecDeque<Fault>>,
    calls: Vec<(Call, Option<ObjectKey>)>,
    last_pid: u32,
    attest: Option<Arc<AnswerAttest>>,
    traffic: Option<Arc<AnswerTraffic>>,
}

#[derive(Clone)]
struct Object {
    spec: Spec,
    half: bool,
    isolated: bool,
    pid: u32,
}

impl FakeVim {
    /// An empty VIM with this much room; any image digest is available to it.
    #[must_use]
    pub fn new(total: Resources) -> Self {
        Self { total, images: None, state: Mutex::default() }
    }

    /// Only these images are available to it.
    #[must_use]
    pub fn with_images(mut self, images: impl IntoIterator<Item = Digest>) -> Self {
        self.images = Some(images.into_iter().collect());
        self
    }

    /// The next calls of this kind meet these faults, one each. `None`: of any key that has no script of its own.
    pub fn script(&self, call: Call, key: Option<&ObjectKey>, faults: impl IntoIterator<Item = Fault>) {
        self.lock().script.entry((call, key.cloned())).or_default().extend(faults);
    }

    /// How [`VnfControl::attest`] answers; without it, it fails with `NO_TPM`.
    pub fn answer_attest(
        &self,
        f: impl Fn(&[ObjectKey], &Digest) -> Result<Evidence, DriverError> + Send + Sync + 'static,
    ) {
        self.lock().attest = Some(Arc::new(f));
    }

    /// How [`VnfControl::run_traffic`] answers; without it, it fails with `TRAFFIC_REFUSED`.
    pub fn answer_traffic(
        &self,
        f: impl Fn(&ObjectKey, &TrafficProfile) -> Result<TrafficReport, DriverError> + Send + Sync + 'static,
    ) {
        self.lock().traffic = Some(Arc::new(f));
    }

    /// What happened to this key so far.
    #[must_use]
    pub fn effects(&self, key: &ObjectKey) -> Effects {
        self.lock().effects.get(key).copied().unwrap_or_default()
    }

    /// Every call so far, in order, with its key (none for `observe` and `attest`).
    #[must_use]
    pub fn calls(&self) -> Vec<(Call, Option<ObjectKey>)> {
        self.lock().calls.clone()
    }

    /// What is there, wholly or half.
    #[must_use]
    pub fn left(&self) -> Vec<ObjectKey> {
        self.lock().objects.keys().cloned().collect()
    }

    /// Keys that came to be more than once without having been removed in between, were removed more often than
    /// made, or were replaced: all that must be empty after any operation, whatever failed in it.
    #[must_use]
    pub fn done_twice(&self) -> Vec<(ObjectKey, Effects)> {
        let twice = |e: &Effects| e.made > e.removed + 1 || e.removed > e.made || e.replaced > 0;
        self.lock().effects.iter().filter(|(_, e)| twice(e)).map(|(k, e)| (k.clone(), *e)).collect()
    }

    /// The instance's process dies.
    pub fn crash(&self, key: &ObjectKey) {
        if let Some(object) = self.lock().objects.get_mut(key) {
            object.half = true;
        }
    }

    /// Leaves the object half made, as a crash in the middle of `ensure` would.
    pub fn leave_half_made(&self, key: &ObjectKey, spec: &Spec) {
        let mut state = self.lock();
        state.make(key, spec, true);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the call, takes its fault from the script and waits if that is a delay.
    async fn enter(&self, call: Call, key: Option<&ObjectKey>) -> Fault {
        let fault = {
            let mut state = self.lock();
            state.calls.push((call, key.cloned()));
            state.next_fault(call, key)
        };
        if let Fault::Delay(time) = fault {
            Delay::new(time).await;
        }
        fault
    }

    fn admit(&self, key: &ObjectKey, spec: &Spec) -> Result<(), DriverError> {
        let refuse = |code, reason: &str| Err(error(key, "ensure", code, reason, Disposition::Compensate));
        let state = self.lock();
        match spec {
            Spec::Image(image) => match &self.images {
                Some(known) if !known.contains(&image.digest) => {
                    refuse("IMAGE_UNKNOWN", "no artifact has this digest")
                }
                _ => Ok(()),
            },
            Spec::Network(_) => Ok(()),
            Spec::Compute(compute) => {
                let image = |o: &Object| matches!(&o.spec, Spec::Image(i) if i.digest == compute.image);
                if !state.objects.iter().any(|(k, o)| k.service() == key.service() && image(o)) {
                    return refuse("IMAGE_ABSENT", "ensure the image first");
                }
                if compute.ports.iter().any(|p| !state.is_network(&p.network)) {
                    return refuse("NETWORK_ABSENT", "ensure the network first");
                }
                if let Err(problem) = check_document(key, compute) {
                    return refuse("BAD_SPEC", &problem);
                }
                let used = state.used(Some(key));
                let fits = used.vcpus + compute.vcpus <= self.total.vcpus
                    && used.memory_mib + compute.memory_mib <= self.total.memory_mib
                    && used.instances < self.total.instances;
                if fits { Ok(()) } else { refuse("CAPACITY", "not enough vCPUs, memory or instances left") }
            }
        }
    }
}

impl State {
    fn next_fault(&mut self, call: Call, key: Option<&ObjectKey>) -> Fault {
        let own = (call, key.cloned());
        let script = if self.script.contains_key(&own) {
            self.script.get_mut(&own)
        } else {
            self.script.get_mut(&(call, None))
        };
        let fault = script.and_then(VecDeque::pop_front).unwrap_or(Fault::Pass);
        self.script.retain(|_, faults| !faults.is_empty());
        fault
    }

    fn count(&mut self, key: &ObjectKey, f: impl FnOnce(&mut Effects)) {
        f(self.effects.entry(key.clone()).or_default());
    }

    fn make(&mut self, key: &ObjectKey, spec: &Spec, half: bool) {
        self.last_pid += 1;
        let object = Object { spec: spec.clone(), half, isolated: false, pid: self.last_pid };
        self.objects.insert(key.clone(), object);
        self.count(key, |e| e.made += 1);
    }

    fn ensure(&mut self, key: &ObjectKey, spec: &Spec, half: bool) -> Result<(), DriverError> {
        let Some(found) = self.objects.get(key).cloned() else {
            self.make(key, spec, half);
            return Ok(());
        };
        if found.spec.kind() != spec.kind() {
            return Err(error(
                key,
                "ensure",
                "KEY_IN_USE",
                "the key names another kind",
                Disposition::Compensate,
            ));
        }
        match (&found.spec, spec) {
            (old, new) if old == new && !found.half => return Ok(()),
            (old, new) if old == new => self.count(key, |e| e.completed += 1),
            (Spec::Compute(old), Spec::Compute(new))
                if only_configuration_differs(old, new) && !found.half =>
            {
                if generation(new) <= generation(old) {
                    let reason = "its generation must be above the running one";
                    return Err(error(
                        key,
                        "ensure",
                        "CONFIGURATION_REFUSED",
                        reason,
                        Disposition::Compensate,
                    ));
                }
                self.count(key, |e| e.reconfigured += 1);
                if let Some(object) = self.objects.get_mut(key) {
                    object.spec = spec.clone();
                    object.half = half;
                }
                return Ok(());
            }
            (Spec::Compute(_), _) => self.count(key, |e| e.replaced += 1),
            _ => self.count(key, |e| e.reconfigured += 1),
        }
        self.last_pid += 1;
        let pid = self.last_pid;
        self.objects.insert(key.clone(), Object { spec: spec.clone(), half, isolated: false, pid });
        Ok(())
    }

    fn remove(&mut self, key: &ObjectKey, kind: Kind) {
        if self.objects.get(key).is_some_and(|o| o.spec.kind() == kind) {
            self.objects.remove(key);
            self.count(key, |e| e.removed += 1);
        }
    }

    fn is_network(&self, key: &ObjectKey) -> bool {
        self.objects.get(key).is_some_and(|o| o.spec.kind() == Kind::Network)
    }

    fn used(&self, without: Option<&ObjectKey>) -> Resources {
        let mut used = Resources::default();
        for (key, object) in &self.objects {
            if let Spec::Compute(c) = &object.spec
                && Some(key) != without
            {
                used.vcpus += c.vcpus;
                used.memory_mib += c.memory_mib;
                used.instances += 1;
            }
        }
        used
    }

    fn running(&mut self, key: &ObjectKey, operation: &str) -> Result<&mut Object, DriverError> {
        match self.objects.get_mut(key) {
            Some(o) if o.spec.kind() == Kind::Compute && !o.half => Ok(o),
            Some(o) if o.spec.kind() == Kind::Compute => Err(error(
                key,
                operation,
                "INSTANCE_DOWN",
                "it does not run: ensure it again",
                Disposition::Unknown,
            )),
            _ => Err(error(key, operation, "INSTANCE_ABSENT", "no such instance", Disposition::Compensate)),
        }
    }
}

fn only_configuration_differs(a: &ComputeSpec, b: &ComputeSpec) -> bool {
    ComputeSpec { configuration: String::new(), ..a.clone() }
        == ComputeSpec { configuration: String::new(), ..b.clone() }
}

fn generation(spec: &ComputeSpec) -> u64 {
    Configuration::parse(spec.configuration.as_bytes()).map_or(0, |c| c.generation)
}

fn check_document(key: &ObjectKey, spec: &ComputeSpec) -> Result<(), String> {
    let document = Configuration::parse(spec.configuration.as_bytes()).map_err(|e| e.to_string())?;
    if document.instance == key.as_str() {
        Ok(())
    } else {
        Err(format!("the document is for {}", document.instance))
    }
}

fn error(
    key: impl ToString,
    operation: &str,
    code: &str,
    reason: &str,
    disposition: Disposition,
) -> DriverError {
    DriverError {
        key: key.to_string(),
        operation: operation.to_owned(),
        code: code.to_owned(),
        reason: reason.to_owned(),
        disposition,
    }
}

fn injected(key: impl ToString, operation: &str, when: &str, disposition: Disposition) -> DriverError {
    error(key, operation, "INJECTED", &format!("a fault scripted {when} the effect"), disposition)
}

fn observed(object: &Object) -> Observed {
    match &object.spec {
        Spec::Image(image) => Observed::Image { digest: image.digest },
        Spec::Network(network) => Observed::Network { up: !object.half, mtu: network.mtu },
        Spec::Compute(compute) => Observed::Compute(ObservedCompute {
            state: match (object.half, object.isolated) {
                (true, _) => ComputeState::Down,
                (_, true) => ComputeState::Isolated,
                _ => ComputeState::Active,
            },
            image: compute.image,
            configuration: (!object.half).then(|| Configuration::digest(compute.configuration.as_bytes())),
            generation: (!object.half).then(|| generation(compute)),
            ports: compute.ports.iter().map(|p| (p.name.clone(), p.mac)).collect(),
        }),
    }
}

fn status_of(key: &ObjectKey, object: &Object) -> Option<Status> {
    let Spec::Compute(compute) = &object.spec else { return None };
    let document = Configuration::parse(compute.configuration.as_bytes()).ok()?;
    let function = match document.function {
        Function::Firewall(_) => "firewall",
        Function::LoadBalancer(_) => "load_balancer",
        Function::Reflector(_) => "reflector",
        Function::Generator(_) => "generator",
    };
    Some(Status {
        instance: key.to_string(),
        function: function.to_owned(),
        generation: document.generation,
        configuration: Configuration::digest(compute.configuration.as_bytes()),
        isolated: object.isolated,
        pid: object.pid,
        connections: 0,
        counters: BTreeMap::new(),
    })
}

#[async_trait]
impl VimDriver for FakeVim {
    async fn capabilities(&self) -> Result<Capabilities, DriverError> {
        let attestation = self.lock().attest.is_some();
        Ok(Capabilities { driver: "fake".into(), attestation, inter_site_links: false, capture: false })
    }

    async fn ensure(&self, key: &ObjectKey, spec: &Spec) -> Result<Observed, DriverError> {
        let fault = self.enter(Call::Ensure, Some(key)).await;
        if let Fault::Before(d) = fault {
            return Err(injected(key, "ensure", "before", d));
        }
        self.admit(key, spec)?;
        let mut state = self.lock();
        state.ensure(key, spec, matches!(fault, Fault::Half(_)))?;
        match fault {
            Fault::Half(d) => Err(injected(key, "ensure", "in the middle of", d)),
            Fault::After(d) => Err(injected(key, "ensure", "after", d)),
            _ => match state.objects.get(key) {
                Some(object) => Ok(observed(object)),
                None => Err(error(key, "ensure", "INTERNAL", "made and not there", Disposition::Escalate)),
            },
        }
    }

    async fn remove(&self, key: &ObjectKey, kind: Kind) -> Result<(), DriverError> {
        let fault = self.enter(Call::Remove, Some(key)).await;
        let mut state = self.lock();
        match fault {
            Fault::Before(d) => return Err(injected(key, "remove", "before", d)),
            Fault::Half(d) => {
                if let Some(object) = state.objects.get_mut(key) {
                    object.half = true;
                }
                return Err(injected(key, "remove", "in the middle of", d));
            }
            _ => state.remove(key, kind),
        }
        match fault {
            Fault::After(d) => Err(injected(key, "remove", "after", d)),
            _ => Ok(()),
        }
    }

    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError> {
        match self.enter(Call::Observe, None).await {
            Fault::Before(d) | Fault::Half(d) | Fault::After(d) => {
                return Err(injected("*", "observe", "before", d));
            }
            Fault::Delay(_) | Fault::Pass => {}
        }
        let state = self.lock();
        let ours = state.objects.iter().filter(|(k, _)| scope.contains(k));
        let objects = ours.map(|(k, o)| (k.clone(), observed(o))).collect();
        Ok(Inventory { total: self.total, used: state.used(None), objects })
    }
}

#[async_trait]
impl VnfControl for FakeVim {
    async fn status(&self, key: &ObjectKey) -> Result<Status, DriverError> {
        match self.enter(Call::Status, Some(key)).await {
            Fault::Before(d) | Fault::Half(d) | Fault::After(d) => {
                return Err(injected(key, "status", "before", d));
            }
            Fault::Delay(_) | Fault::Pass => {}
        }
        let mut state = self.lock();
        let object = state.running(key, "status")?;
        status_of(key, object).ok_or_else(|| {
            error(key, "status", "INTERNAL", "a configuration that does not parse", Disposition::Escalate)
        })
    }

    async fn attest(&self, keys: &[ObjectKey], nonce: &Digest) -> Result<Evidence, DriverError> {
        let fault = self.enter(Call::Attest, None).await;
        if let Fault::Before(d) = fault {
            return Err(injected("*", "attest", "before", d));
        }
        let answer = {
            let mut state = self.lock();
            for key in keys {
                state.running(key, "attest")?;
            }
            state.attest.clone()
        };
        let Some(answer) = answer else {
            return Err(error("*", "attest", "NO_TPM", "this site has no TPM", Disposition::Compensate));
        };
        match fault {
            Fault::Half(d) | Fault::After(d) => Err(injected("*", "attest", "after", d)),
            _ => answer(keys, nonce),
        }
    }

    async fn run_traffic(
        &self,
        key: &ObjectKey,
        profile: &TrafficProfile,
    ) -> Result<TrafficReport, DriverError> {
        let fault = self.enter(Call::RunTraffic, Some(key)).await;
        if let Fault::Before(d) = fault {
            return Err(injected(key, "run_traffic", "before", d));
        }
        let answer = {
            let mut state = self.lock();
            state.running(key, "run_traffic")?;
            state.count(key, |e| e.traffic += 1);
            state.traffic.clone()
        };
        let Some(answer) = answer else {
            return Err(error(
                key,
                "run_traffic",
                "TRAFFIC_REFUSED",
                "no answer is set",
                Disposition::Compensate,
            ));
        };
        match fault {
            Fault::Half(d) | Fault::After(d) => Err(injected(key, "run_traffic", "after", d)),
            _ => answer(key, profile),
        }
    }

    async fn isolate(&self, key: &ObjectKey, on: bool) -> Result<(), DriverError> {
        let fault = self.enter(Call::Isolate, Some(key)).await;
        if let Fault::Before(d) = fault {
            return Err(injected(key, "isolate", "before", d));
        }
        let mut state = self.lock();
        let object = state.running(key, "isolate")?;
        if object.isolated != on {
            object.isolated = on;
            state.count(key, |e| e.isolated += 1);
        }
        match fault {
            Fault::Half(d) | Fault::After(d) => Err(injected(key, "isolate", "after", d)),
            _ => Ok(()),
        }
    }
}

/// A timer that needs no runtime: one short-lived thread per delay.
struct Delay {
    time: Option<Duration>,
    done: Arc<Mutex<(bool, Option<Waker>)>>,
}

impl Delay {
    fn new(time: Duration) -> Self {
        Self { time: Some(time), done: Arc::default() }
    }

    fn start(&mut self, time: Duration) {
        let done = Arc::clone(&self.done);
        std::thread::spawn(move || {
            std::thread::sleep(time);
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.0 = true;
            if let Some(waker) = done.1.take() {
                waker.wake();
            }
        });
    }
}

impl Future for Delay {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(time) = self.time.take() {
            self.start(time);
        }
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done.0 {
            return Poll::Ready(());
        }
        done.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}
