//! A VIM in memory whose only purpose is to fail on demand.
//!
//! It stands in for no peer in any claim: it exists so that every step of an operation can be made to fail before
//! its effect, in the middle of it, or after it (a lost reply), and so that a test can then assert that nothing
//! happened twice and nothing is left. Its [`Effects`] count what *happened*, not what was asked.
//!
//! It is also changed behind one's back: [`FakeVim::crash`], [`FakeVim::alter`], [`FakeVim::vanish`],
//! [`FakeVim::add_stray`]. It has no network: frames are where a test [emits](FakeVim::emit) them.
//!
//! Tests: the conformance suite and fault scripts in `tests/fake.rs`.

mod state;
mod timer;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use attestation::Evidence;
use dataplane_control::{
    Configuration,
    protocol::Status,
    traffic::{TrafficProfile, TrafficReport},
};
use trust::Digest;

use self::state::State;
pub(crate) use self::timer::Sleep;
use crate::{
    Adoption, Capabilities, Capture, CaptureSpec, Changed, ComputeSpec, Disposition, DriverError, Enforced,
    Feature, Interconnect, Inventory, Kind, ObjectKey, Observed, Resources, Scope, Spec, Stray, VimDriver,
    VnfControl,
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
    /// [`VimDriver::adopt`].
    Adopt,
    /// [`VnfControl::status`].
    Status,
    /// [`VnfControl::attest`]; scripted without a key.
    Attest,
    /// [`VnfControl::run_traffic`].
    RunTraffic,
    /// [`VnfControl::isolate`].
    Isolate,
    /// [`VnfControl::announce`].
    Announce,
    /// [`VnfControl::capture`].
    Capture,
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
    /// Nothing happens: no host has room (`NO_VALID_HOST`, [`Disposition::Elsewhere`]).
    NoRoom,
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
    /// Times its traffic was captured.
    pub captured: u32,
}

type AnswerAttest = dyn Fn(&[ObjectKey], &Digest) -> Result<Evidence, DriverError> + Send + Sync;
type AnswerTraffic = dyn Fn(&ObjectKey, &TrafficProfile) -> Result<TrafficReport, DriverError> + Send + Sync;

/// The fake.
pub struct FakeVim {
    total: Resources,
    images: Option<BTreeSet<Digest>>,
    wans: Option<Arc<Wans>>,
    keep_calls: bool,
    state: Arc<Mutex<State>>,
}

/// Wide-area networks between fakes: a frame on a joined link reaches the parts that it has at other sites.
#[derive(Default)]
pub struct Wans(Mutex<Vec<Weak<Mutex<State>>>>);

impl FakeVim {
    /// An empty VIM with this much room; any image digest is available to it.
    #[must_use]
    pub fn new(total: Resources) -> Self {
        Self { total, images: None, wans: None, keep_calls: true, state: Arc::default() }
    }

    /// Only these images are available to it.
    #[must_use]
    pub fn with_images(mut self, images: impl IntoIterator<Item = Digest>) -> Self {
        self.images = Some(images.into_iter().collect());
        self
    }

    /// Its links can be joined to those of every other fake with these.
    #[must_use]
    pub fn with_wans(mut self, wans: &Arc<Wans>) -> Self {
        wans.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&self.state));
        self.wans = Some(Arc::clone(wans));
        self
    }

    /// From now on it runs guests that cannot be asked, as a cloud does.
    pub fn run_guests(&self) {
        self.lock().guests = true;
    }

    /// Somebody else made these instances of a service, and no others: they can be adopted. What was adopted and is not among
    /// them is gone.
    pub fn made_elsewhere(&self, service: &str, instances: BTreeSet<ObjectKey>) {
        let mut state = self.lock();
        let before = state.elsewhere.insert(service.to_owned(), instances.clone()).unwrap_or_default();
        for gone in before.difference(&instances) {
            state.remove(gone, Kind::Compute);
        }
    }

    /// Calls are counted, not listed: for long runs.
    #[must_use]
    pub fn without_call_list(mut self) -> Self {
        self.keep_calls = false;
        self
    }

    /// The next calls of this kind meet these faults, one each. `None`: of any key that has no script of its own.
    pub fn script(&self, call: Call, key: Option<&ObjectKey>, faults: impl IntoIterator<Item = Fault>) {
        let faults: Vec<Fault> = faults.into_iter().collect();
        if !faults.is_empty() {
            self.lock().script.entry((call, key.cloned())).or_default().extend(faults);
        }
    }

    /// Calls of this kind and key meet no more scripted faults.
    pub fn unscript(&self, call: Call, key: Option<&ObjectKey>) {
        self.lock().script.remove(&(call, key.cloned()));
    }

    /// Every call of this kind takes this long from now on, before anything happens; zero ends that.
    pub fn latency(&self, call: Call, time: Duration) {
        self.lock().latency.insert(call, time);
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

    /// How many calls of this kind there were.
    #[must_use]
    pub fn count(&self, call: Call) -> u64 {
        self.lock().counts.get(&call).copied().unwrap_or_default()
    }

    /// What is there, wholly or half.
    #[must_use]
    pub fn left(&self) -> Vec<ObjectKey> {
        self.lock().objects.keys().cloned().collect()
    }

    /// What is there that belongs to no object.
    #[must_use]
    pub fn strays(&self) -> Vec<Stray> {
        self.lock().strays.iter().cloned().collect()
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
        let mut state = self.lock();
        if let Some(object) = state.objects.get_mut(key) {
            object.observed = state::as_made(&object.spec, true, object.isolated);
            state.note_change(key);
        }
    }

    /// Changes what an object is, behind everyone's back; `ensure` puts it right.
    pub fn alter(&self, key: &ObjectKey, f: impl FnOnce(&mut Observed)) {
        let mut state = self.lock();
        if let Some(object) = state.objects.get_mut(key) {
            f(&mut object.observed);
            state.note_change(key);
        }
    }

    /// The object is gone, behind everyone's back. That is no effect of ours: it counts as removed.
    pub fn vanish(&self, key: &ObjectKey) {
        let mut state = self.lock();
        if state.take(key) {
            state.count(key, |e| e.removed += 1);
            state.note_change(key);
        }
    }

    /// Something of ours by its mark, and of no object.
    pub fn add_stray(&self, stray: Stray) {
        let mut state = self.lock();
        state.note_change(&stray.key);
        state.strays.insert(stray);
    }

    /// Leaves the object half made, as a crash in the middle of `ensure` would.
    pub fn leave_half_made(&self, key: &ObjectKey, spec: &Spec) {
        let mut state = self.lock();
        state.make(key, spec, true);
    }

    /// A frame that the instance sends from its `port`-th connection point: captured there and at every other port
    /// of that link, here and where it is joined to; nowhere when the instance is isolated.
    pub fn emit(&self, key: &ObjectKey, port: usize, frame: &[u8]) {
        let beyond = self.lock().emit(key, port, frame);
        let (Some(segment), Some(wans)) = (beyond, &self.wans) else { return };
        let sites = wans.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for site in sites.iter().filter_map(Weak::upgrade).filter(|s| !Arc::ptr_eq(s, &self.state)) {
            site.lock().unwrap_or_else(PoisonError::into_inner).hear_from_afar(&segment, frame);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the call, takes its fault from the script and waits if that is a delay.
    async fn enter(&self, call: Call, key: Option<&ObjectKey>) -> Fault {
        let (fault, latency) = {
            let mut state = self.lock();
            *state.counts.entry(call).or_default() += 1;
            if self.keep_calls {
                state.calls.push((call, key.cloned()));
            }
            (state.next_fault(call, key), state.latency.get(&call).copied().unwrap_or_default())
        };
        let delay = if let Fault::Delay(time) = fault { time } else { Duration::ZERO };
        if latency + delay > Duration::ZERO {
            Sleep::new(latency + delay).await;
        }
        fault
    }

    fn admit(&self, key: &ObjectKey, spec: &Spec) -> Result<(), DriverError> {
        let refuse = |code, reason: &str| Err(error(key, "ensure", code, reason, Disposition::Compensate));
        match spec {
            Spec::Image(image) => match &self.images {
                Some(known) if !known.contains(&image.digest) => {
                    refuse("IMAGE_UNKNOWN", "no artifact has this digest")
                }
                _ => Ok(()),
            },
            Spec::Network(network) => match &network.interconnect {
                None => Ok(()),
                Some(to) => self.admit_join(key, to),
            },
            Spec::Compute(compute) => self.admit_compute(key, compute),
        }
    }

    fn admit_join(&self, key: &ObjectKey, to: &Interconnect) -> Result<(), DriverError> {
        let refuse = |code, reason, d| Err(error(key, "ensure", code, reason, d));
        if self.wans.is_none() {
            return refuse("UNSUPPORTED", "this site has no wide-area network", Disposition::Elsewhere);
        }
        if !(1..=4094).contains(&to.segment) {
            return refuse("BAD_SPEC", "a segment is 1 to 4094", Disposition::Compensate);
        }
        if self.lock().joined(key, to) {
            return refuse(
                "SEGMENT_IN_USE",
                "another link is joined to this segment",
                Disposition::Compensate,
            );
        }
        Ok(())
    }

    fn admit_compute(&self, key: &ObjectKey, compute: &ComputeSpec) -> Result<(), DriverError> {
        let refuse = |code, reason: &str, d| Err(error(key, "ensure", code, reason, d));
        let state = self.lock();
        let image = |o: &state::Object| matches!(&o.spec, Spec::Image(i) if i.digest == compute.image);
        if !state.service(key.service()).any(|(_, o)| image(o)) {
            return refuse("IMAGE_ABSENT", "ensure the image first", Disposition::Compensate);
        }
        if compute.ports.iter().any(|p| !state.is_network(&p.network)) {
            return refuse("NETWORK_ABSENT", "ensure the network first", Disposition::Compensate);
        }
        if let Err(problem) = check_document(key, compute) {
            return refuse("BAD_SPEC", &problem, Disposition::Compensate);
        }
        let own = match state.objects.get(key).map(|o| &o.spec) {
            Some(Spec::Compute(c)) => (c.vcpus, c.memory_mib, 1),
            _ => (0, 0, 0),
        };
        let fits = |used: u32, own: u32, asked: u32, total: u32| asked <= total.saturating_sub(used - own);
        let used = state.used;
        if fits(used.vcpus, own.0, compute.vcpus, self.total.vcpus)
            && fits(used.memory_mib, own.1, compute.memory_mib, self.total.memory_mib)
            && fits(used.instances, own.2, 1, self.total.instances)
        {
            return Ok(());
        }
        refuse("CAPACITY", "not enough vCPUs, memory or instances left", Disposition::Elsewhere)
    }
}

fn check_document(key: &ObjectKey, spec: &ComputeSpec) -> Result<(), String> {
    if spec.configuration.is_empty() {
        return Ok(());
    }
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

impl Fault {
    /// The error of a call that fails before anything happens.
    fn before(&self, key: impl ToString, operation: &str) -> Result<(), DriverError> {
        match self {
            Self::Before(d) => Err(injected(key, operation, "before", *d)),
            Self::NoRoom => {
                Err(error(key, operation, "NO_VALID_HOST", "no host has room for it", Disposition::Elsewhere))
            }
            _ => Ok(()),
        }
    }

    /// The error of a call that fails once it has happened, or that has no middle.
    fn after(&self, key: impl ToString, operation: &str) -> Result<(), DriverError> {
        match self {
            Self::Half(d) | Self::After(d) => Err(injected(key, operation, "after", *d)),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl VimDriver for FakeVim {
    async fn capabilities(&self) -> Result<Capabilities, DriverError> {
        let (guests, attests) = {
            let state = self.lock();
            (state.guests, state.attest.is_some())
        };
        Ok(Capabilities {
            driver: "fake".into(),
            attestation: attests && !guests,
            inter_site_links: self.wans.is_some(),
            capture: true,
            enforced: Enforced { why_not: "a fake runs nothing".into(), ..Enforced::default() },
            functions: !guests,
            features: Feature::ALL.into(),
        })
    }

    async fn ensure(&self, key: &ObjectKey, spec: &Spec) -> Result<Observed, DriverError> {
        let fault = self.enter(Call::Ensure, Some(key)).await;
        fault.before(key, "ensure")?;
        self.admit(key, spec)?;
        let mut state = self.lock();
        state.ensure(key, spec, matches!(fault, Fault::Half(_)))?;
        match fault {
            Fault::Half(d) => Err(injected(key, "ensure", "in the middle of", d)),
            Fault::After(d) => Err(injected(key, "ensure", "after", d)),
            _ => match state.objects.get(key) {
                Some(object) => Ok(object.observed.clone()),
                None => Err(error(key, "ensure", "INTERNAL", "made and not there", Disposition::Escalate)),
            },
        }
    }

    async fn remove(&self, key: &ObjectKey, kind: Kind) -> Result<(), DriverError> {
        let fault = self.enter(Call::Remove, Some(key)).await;
        fault.before(key, "remove")?;
        let mut state = self.lock();
        if let Fault::Half(d) = fault {
            if let Some(object) = state.objects.get_mut(key) {
                object.observed = state::as_made(&object.spec, true, object.isolated);
            }
            return Err(injected(key, "remove", "in the middle of", d));
        }
        state.remove(key, kind);
        fault.after(key, "remove")
    }

    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError> {
        let fault = self.enter(Call::Observe, None).await;
        fault.before("*", "observe").and_then(|()| fault.after("*", "observe"))?;
        let state = self.lock();
        let seen = |(k, o): (&ObjectKey, &state::Object)| (k.clone(), o.observed.clone());
        let objects = match scope {
            Scope::All => state.objects.iter().map(seen).collect(),
            Scope::Service(name) => state.service(name).map(seen).collect(),
        };
        let extra = state.strays.iter().filter(|s| scope.contains(&s.key)).cloned().collect();
        Ok(Inventory { total: self.total, used: state.used, objects, extra, hosts: Default::default() })
    }

    async fn adopt(&self, found: &[Adoption]) -> Result<BTreeMap<ObjectKey, Observed>, DriverError> {
        let mut out = BTreeMap::new();
        for Adoption { key, spec, id } in found {
            let fault = self.enter(Call::Adopt, Some(key)).await;
            fault.before(key, "adopt")?;
            let mut state = self.lock();
            if !state.elsewhere.get(key.service()).is_some_and(|made| made.contains(key)) {
                let reason = format!("nobody made {id}");
                return Err(error(key, "adopt", "NOT_ADOPTABLE", &reason, Disposition::Retry));
            }
            state.ensure(key, spec, false)?;
            out.extend(state.objects.get(key).map(|o| (key.clone(), o.observed.clone())));
            drop(state);
            fault.after(key, "adopt")?;
        }
        Ok(out)
    }

    async fn changed(&self, after: u64) -> Changed {
        poll_fn(|cx| {
            let mut state = self.lock();
            match state.changed(after) {
                Some(changed) => Poll::Ready(changed),
                None => {
                    state.wakers.retain(|w| !w.will_wake(cx.waker()));
                    state.wakers.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

#[async_trait]
impl VnfControl for FakeVim {
    async fn status(&self, key: &ObjectKey) -> Result<Status, DriverError> {
        let fault = self.enter(Call::Status, Some(key)).await;
        fault.before(key, "status").and_then(|()| fault.after(key, "status"))?;
        self.lock().status(key)
    }

    async fn attest(&self, keys: &[ObjectKey], nonce: &Digest) -> Result<Evidence, DriverError> {
        let fault = self.enter(Call::Attest, None).await;
        fault.before("*", "attest")?;
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
        fault.after("*", "attest")?;
        answer(keys, nonce)
    }

    async fn run_traffic(
        &self,
        key: &ObjectKey,
        profile: &TrafficProfile,
    ) -> Result<TrafficReport, DriverError> {
        let fault = self.enter(Call::RunTraffic, Some(key)).await;
        fault.before(key, "run_traffic")?;
        let answer = {
            let mut state = self.lock();
            state.running(key, "run_traffic")?;
            state.count(key, |e| e.traffic += 1);
            state.traffic.clone()
        };
        let none =
            || error(key, "run_traffic", "TRAFFIC_REFUSED", "no answer is set", Disposition::Compensate);
        let answer = answer.ok_or_else(none)?;
        fault.after(key, "run_traffic")?;
        answer(key, profile)
    }

    async fn isolate(&self, key: &ObjectKey, on: bool) -> Result<(), DriverError> {
        let fault = self.enter(Call::Isolate, Some(key)).await;
        fault.before(key, "isolate")?;
        self.lock().isolate(key, on)?;
        fault.after(key, "isolate")
    }

    async fn announce(&self, key: &ObjectKey) -> Result<(), DriverError> {
        let fault = self.enter(Call::Announce, Some(key)).await;
        fault.before(key, "announce")?;
        self.lock().running(key, "announce")?;
        fault.after(key, "announce")
    }

    /// At once, of what was [emitted](FakeVim::emit) since the instance was made or last captured.
    async fn capture(&self, key: &ObjectKey, spec: &CaptureSpec) -> Result<Capture, DriverError> {
        let fault = self.enter(Call::Capture, Some(key)).await;
        fault.before(key, "capture")?;
        let captured = self.lock().capture(key, spec)?;
        fault.after(key, "capture").map(|()| captured)
    }
}
