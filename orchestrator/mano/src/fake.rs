//! A MANO in memory whose only purpose is to fail on demand.
//!
//! It stands in for no peer in any claim: every call can be made to fail before its effect, in the middle of it or
//! after it (a lost reply), and [`FakeMano::effects`] counts what *happened*, not what was asked. It makes nothing at a VIM by
//! itself; a test that reads objects back gives it a [`FakeMano::on_change`], which is told of every service as it is now.
//!
//! Tests: the conformance suite and the faults in `tests/fake.rs`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use trust::Digest;
use vim::{Disposition, DriverError, Kind, ObjectKey};

use crate::{
    Capabilities, Inventory, Mano, ObservedPackage, ObservedService, Operation, OperationKind,
    OperationState, PackageKind, PackageSpec, Removal, Scope, ServiceKey, ServiceSpec, ServiceState,
    SiteLink, VimObject,
};

/// A call of the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// [`Mano::ensure_package`].
    EnsurePackage,
    /// [`Mano::remove_package`].
    RemovePackage,
    /// [`Mano::ensure_service`].
    EnsureService,
    /// [`Mano::remove_service`].
    RemoveService,
    /// [`Mano::heal`].
    Heal,
    /// [`Mano::migrate`].
    Migrate,
    /// [`Mano::observe`].
    Observe,
}

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happens and the call fails.
    Before(Disposition),
    /// Half of it happens and the call fails: a service is left broken.
    Half(Disposition),
    /// All of it happens and the call fails: the reply is lost.
    After(Disposition),
    /// No fault: this call is left alone (to reach the next one).
    Pass,
}

/// What happened to one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects {
    /// Times it came to be, wholly or half.
    pub made: u32,
    /// Times a broken one was built again.
    pub completed: u32,
    /// Times its counts were changed.
    pub scaled: u32,
    /// Times a member's package was replaced.
    pub updated: u32,
    /// Instances made anew.
    pub healed: u32,
    /// Instances moved.
    pub moved: u32,
    /// Times it ceased to be.
    pub removed: u32,
}

struct Service {
    spec: ServiceSpec,
    state: ServiceState,
    id: u64,
    operation: Operation,
    hosts: BTreeMap<ObjectKey, String>,
    /// How often each instance was made anew: its VIM's id changes with it.
    born: BTreeMap<ObjectKey, u32>,
    healed: BTreeSet<String>,
}

#[derive(Default)]
struct State {
    packages: BTreeMap<(PackageKind, String), Digest>,
    foreign: BTreeSet<(PackageKind, String)>,
    services: BTreeMap<ServiceKey, Service>,
    effects: BTreeMap<ServiceKey, Effects>,
    script: BTreeMap<Call, VecDeque<Fault>>,
    calls: Vec<(Call, String)>,
    next: u64,
}

type OnChange = dyn Fn(&ServiceKey, Option<&ServiceSpec>) + Send + Sync;

/// The fake.
pub struct FakeMano {
    sites: BTreeSet<String>,
    known: Option<BTreeSet<Digest>>,
    on_change: Option<Arc<OnChange>>,
    state: Mutex<State>,
}

impl FakeMano {
    /// A MANO with these sites; any package's digest is available to it.
    #[must_use]
    pub fn new(sites: impl IntoIterator<Item = String>) -> Self {
        Self { sites: sites.into_iter().collect(), known: None, on_change: None, state: Mutex::default() }
    }

    /// Only packages of these digests are available to it.
    #[must_use]
    pub fn with_packages(mut self, digests: impl IntoIterator<Item = Digest>) -> Self {
        self.known = Some(digests.into_iter().collect());
        self
    }

    /// Told of every service that changed, as it is then; `None`: it is gone. Called with the fake locked: it must not
    /// call back.
    #[must_use]
    pub fn on_change(
        mut self,
        f: impl Fn(&ServiceKey, Option<&ServiceSpec>) + Send + Sync + 'static,
    ) -> Self {
        self.on_change = Some(Arc::new(f));
        self
    }

    /// The next calls of this kind meet these faults, one each.
    pub fn script(&self, call: Call, faults: impl IntoIterator<Item = Fault>) {
        self.lock().script.entry(call).or_default().extend(faults);
    }

    /// What happened to this service so far.
    #[must_use]
    pub fn effects(&self, key: &ServiceKey) -> Effects {
        self.lock().effects.get(key).copied().unwrap_or_default()
    }

    /// Every call so far, in order, with what it was about.
    #[must_use]
    pub fn calls(&self) -> Vec<(Call, String)> {
        self.lock().calls.clone()
    }

    /// What is there, of ours.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        let state = self.lock();
        let packages = state.packages.keys().filter(|p| !state.foreign.contains(*p));
        packages
            .map(|(kind, id)| format!("{kind} {id}"))
            .chain(state.services.keys().map(ToString::to_string))
            .collect()
    }

    /// A package of somebody else's.
    pub fn add_foreign_package(&self, kind: PackageKind, id: &str, digest: Digest) {
        let mut state = self.lock();
        state.packages.insert((kind, id.to_owned()), digest);
        state.foreign.insert((kind, id.to_owned()));
    }

    /// The digest that a package has.
    #[must_use]
    pub fn package(&self, kind: PackageKind, id: &str) -> Option<Digest> {
        self.lock().packages.get(&(kind, id.to_owned())).copied()
    }

    /// Leaves the service broken, as a crash in the middle of building it would.
    pub fn leave_half_made(&self, key: &ServiceKey, spec: &ServiceSpec) {
        self.lock().make(key, spec, ServiceState::Broken);
    }

    /// The host that an instance was moved to, if it was.
    #[must_use]
    pub fn host(&self, instance: &ObjectKey) -> Option<String> {
        self.lock().services.get(&ServiceKey::of(instance))?.hosts.get(instance).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, call: Call, about: impl ToString) -> Fault {
        let mut state = self.lock();
        state.calls.push((call, about.to_string()));
        state.script.get_mut(&call).and_then(VecDeque::pop_front).unwrap_or(Fault::Pass)
    }

    fn tell(&self, state: &State, key: &ServiceKey) {
        if let Some(f) = &self.on_change {
            f(key, state.services.get(key).map(|s| &s.spec));
        }
    }

    fn admit(&self, key: &ServiceKey, spec: &ServiceSpec) -> Result<(), DriverError> {
        let refuse = |code, reason: String| Err(error(key, "ensure", code, reason, Disposition::Compensate));
        if let Err(e) = spec.check(key) {
            return refuse("BAD_SPEC", e.to_string());
        }
        if let Some(m) = spec.members.values().find(|m| !self.sites.contains(&m.site)) {
            return refuse("NO_SUCH_SITE", format!("the MANO has no site {}", m.site));
        }
        let state = self.lock();
        let nsd = (PackageKind::Ns, &spec.nsd);
        let all = spec.members.values().map(|m| (PackageKind::Vnf, &m.vnfd)).chain([nsd]);
        for (kind, package) in all {
            if state.packages.get(&(kind, package.id.clone())) != Some(&package.digest) {
                return refuse(
                    "PACKAGE_ABSENT",
                    format!("{kind} {} of that digest: ensure it first", package.id),
                );
            }
        }
        match state.services.get(key) {
            Some(s) if s.spec.fixed_digest() != spec.fixed_digest() => {
                refuse("SERVICE_DIFFERS", "it was made from another specification: remove it first".into())
            }
            _ => Ok(()),
        }
    }
}

impl State {
    fn count(&mut self, key: &ServiceKey, f: impl FnOnce(&mut Effects)) {
        f(self.effects.entry(key.clone()).or_default());
    }

    fn operation(&mut self, kind: OperationKind, state: OperationState) -> Operation {
        self.next += 1;
        Operation { id: format!("op-{}", self.next), kind, state, detail: String::new() }
    }

    fn make(&mut self, key: &ServiceKey, spec: &ServiceSpec, state: ServiceState) {
        let done = match state {
            ServiceState::Broken => OperationState::Failed,
            _ => OperationState::Completed,
        };
        let operation = self.operation(OperationKind::Instantiate, done);
        self.next += 1;
        let (hosts, born, healed) = Default::default();
        let service = Service { spec: spec.clone(), state, id: self.next, operation, hosts, born, healed };
        self.services.insert(key.clone(), service);
        self.count(key, |e| e.made += 1);
    }

    fn ensure(&mut self, key: &ServiceKey, spec: &ServiceSpec, half: bool) {
        let whole = if half { ServiceState::Broken } else { ServiceState::Instantiated };
        let Some(before) = self.services.get(key) else { return self.make(key, spec, whole) };
        let broken = before.state != ServiceState::Instantiated;
        let digests = |s: &ServiceSpec| s.members.values().map(|m| m.vnfd.digest).collect::<Vec<_>>();
        let updated = digests(&before.spec) != digests(spec);
        let scaled = !updated && before.spec != *spec;
        if !broken && !updated && !scaled {
            return;
        }
        let kind = match (broken, updated) {
            (true, _) => OperationKind::Instantiate,
            (_, true) => OperationKind::Update,
            _ => OperationKind::Scale,
        };
        let operation = self.operation(kind, OperationState::Completed);
        if let Some(service) = self.services.get_mut(key) {
            (service.spec, service.state, service.operation) = (spec.clone(), whole, operation);
        }
        self.count(key, |e| {
            e.completed += u32::from(broken);
            e.updated += u32::from(!broken && updated);
            e.scaled += u32::from(!broken && scaled);
        });
    }

    fn package(&self, kind: PackageKind, id: &str) -> Option<ObservedPackage> {
        let digest = *self.packages.get(&(kind, id.to_owned()))?;
        let used = |s: &Service| match kind {
            PackageKind::Ns => s.spec.nsd.id == id,
            PackageKind::Vnf => s.spec.members.values().any(|m| m.vnfd.id == id),
        };
        let in_use = self.services.values().any(used);
        Some(ObservedPackage { kind, id: id.to_owned(), digest, mano_id: format!("fake-{id}"), in_use })
    }
}

impl Service {
    fn observed(&self) -> ObservedService {
        ObservedService {
            mano_id: format!("ns-{}", self.id),
            state: self.state,
            operation: Some(self.operation.clone()),
            fixed: Some(self.spec.fixed_digest()),
            objects: self.objects(),
            counts: counts(&self.spec),
            detail: String::new(),
            decided: Vec::new(),
        }
    }

    fn objects(&self) -> BTreeMap<ObjectKey, Vec<VimObject>> {
        let mut out = BTreeMap::new();
        let id = |key: &ObjectKey| format!("{}-{}", key.short("vim"), self.born.get(key).unwrap_or(&0));
        for link in self.spec.links.values() {
            let at = link.sites.iter().map(|(site, how)| {
                let id = match how {
                    SiteLink::Existing { id } => id.clone(),
                    _ => id(&link.key),
                };
                VimObject { site: site.clone(), kind: Kind::Network, id, ports: BTreeMap::new() }
            });
            out.insert(link.key.clone(), at.collect());
        }
        for member in self.spec.members.values() {
            for vdu in member.vdus.values() {
                for instance in vdu.instances.iter().take(usize::try_from(vdu.count).unwrap_or(usize::MAX)) {
                    let name = id(&instance.key);
                    let ports =
                        instance.interfaces.keys().map(|i| (i.clone(), format!("{name}-{i}"))).collect();
                    let object =
                        VimObject { site: member.site.clone(), kind: Kind::Compute, id: name, ports };
                    out.insert(instance.key.clone(), vec![object]);
                }
            }
        }
        out
    }
}

fn counts(spec: &ServiceSpec) -> BTreeMap<String, BTreeMap<String, u32>> {
    let of =
        |vdus: &BTreeMap<String, crate::VduSpec>| vdus.iter().map(|(id, v)| (id.clone(), v.count)).collect();
    spec.members.iter().map(|(index, m)| (index.clone(), of(&m.vdus))).collect()
}

fn error(
    key: impl ToString,
    operation: &str,
    code: &str,
    reason: impl Into<String>,
    disposition: Disposition,
) -> DriverError {
    let (operation, code) = (operation.to_owned(), code.to_owned());
    DriverError { key: key.to_string(), operation, code, reason: reason.into(), disposition }
}

impl Fault {
    fn before(self, key: impl ToString, operation: &str) -> Result<(), DriverError> {
        match self {
            Self::Before(d) => {
                Err(error(key, operation, "INJECTED", "a fault scripted before the effect", d))
            }
            _ => Ok(()),
        }
    }

    fn after(self, key: impl ToString, operation: &str) -> Result<(), DriverError> {
        match self {
            Self::Half(d) | Self::After(d) => {
                Err(error(key, operation, "INJECTED", "a fault scripted during or after the effect", d))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Mano for FakeMano {
    async fn capabilities(&self) -> Result<Capabilities, DriverError> {
        let sites = self.sites.clone();
        Ok(Capabilities {
            driver: "fake".into(),
            sites,
            heal: true,
            migrate: true,
            ..Capabilities::default()
        })
    }

    async fn ensure_package(&self, spec: &PackageSpec) -> Result<ObservedPackage, DriverError> {
        let fault = self.enter(Call::EnsurePackage, &spec.id);
        fault.before(&spec.id, "ensure_package")?;
        let refuse = |code, reason: &str| {
            Err(error(&spec.id, "ensure_package", code, reason, Disposition::Compensate))
        };
        if self.known.as_ref().is_some_and(|known| !known.contains(&spec.digest)) {
            return refuse("PACKAGE_UNKNOWN", "no artifact has this digest");
        }
        let mut state = self.lock();
        let name = (spec.kind, spec.id.clone());
        if state.foreign.contains(&name) && state.packages.get(&name) != Some(&spec.digest) {
            return refuse("PACKAGE_FOREIGN", "a package of this id is there and not ours");
        }
        state.packages.insert(name, spec.digest);
        fault.after(&spec.id, "ensure_package")?;
        match state.package(spec.kind, &spec.id) {
            Some(observed) => Ok(observed),
            None => refuse("INTERNAL", "made and not there"),
        }
    }

    async fn remove_package(&self, kind: PackageKind, id: &str) -> Result<Removal, DriverError> {
        let fault = self.enter(Call::RemovePackage, id);
        fault.before(id, "remove_package")?;
        let mut state = self.lock();
        let name = (kind, id.to_owned());
        if state.package(kind, id).is_some_and(|p| p.in_use) {
            return Ok(Removal::InUse);
        }
        if !state.foreign.contains(&name) {
            state.packages.remove(&name);
        }
        fault.after(id, "remove_package").map(|()| Removal::Gone)
    }

    async fn ensure_service(
        &self,
        key: &ServiceKey,
        spec: &ServiceSpec,
    ) -> Result<ObservedService, DriverError> {
        let fault = self.enter(Call::EnsureService, key);
        fault.before(key, "ensure")?;
        self.admit(key, spec)?;
        let mut state = self.lock();
        state.ensure(key, spec, matches!(fault, Fault::Half(_)));
        self.tell(&state, key);
        fault.after(key, "ensure")?;
        found(&state, key, "ensure").map(Service::observed)
    }

    async fn remove_service(&self, key: &ServiceKey) -> Result<(), DriverError> {
        let fault = self.enter(Call::RemoveService, key);
        fault.before(key, "remove")?;
        let mut state = self.lock();
        if let Fault::Half(d) = fault {
            if let Some(service) = state.services.get_mut(key) {
                service.state = ServiceState::Broken;
            }
            return Err(error(key, "remove", "INJECTED", "a fault scripted during the effect", d));
        }
        if state.services.remove(key).is_some() {
            state.count(key, |e| e.removed += 1);
            self.tell(&state, key);
        }
        fault.after(key, "remove")
    }

    async fn heal(
        &self,
        key: &ServiceKey,
        action: &str,
        instances: &BTreeSet<ObjectKey>,
    ) -> Result<ObservedService, DriverError> {
        let fault = self.enter(Call::Heal, key);
        fault.before(key, "heal")?;
        let mut state = self.lock();
        let operation = state.operation(OperationKind::Heal, OperationState::Completed);
        let service = found_mut(&mut state, key, "heal")?;
        let there = service.objects();
        if let Some(unknown) = instances.iter().find(|i| !there.contains_key(i)) {
            return Err(error(
                unknown,
                "heal",
                "NO_SUCH_INSTANCE",
                "the service has no such instance",
                Disposition::Compensate,
            ));
        }
        let fresh = service.healed.insert(action.to_owned());
        if fresh {
            instances.iter().for_each(|i| *service.born.entry(i.clone()).or_default() += 1);
            service.operation = operation;
            let healed = u32::try_from(instances.len()).unwrap_or(u32::MAX);
            state.count(key, |e| e.healed += healed);
        }
        fault.after(key, "heal")?;
        found(&state, key, "heal").map(Service::observed)
    }

    async fn migrate(
        &self,
        key: &ServiceKey,
        instance: &ObjectKey,
        host: &str,
    ) -> Result<ObservedService, DriverError> {
        let fault = self.enter(Call::Migrate, instance);
        fault.before(key, "migrate")?;
        let mut state = self.lock();
        let operation = state.operation(OperationKind::Migrate, OperationState::Completed);
        let service = found_mut(&mut state, key, "migrate")?;
        if !service.objects().contains_key(instance) {
            return Err(error(
                instance,
                "migrate",
                "NO_SUCH_INSTANCE",
                "the service has no such instance",
                Disposition::Compensate,
            ));
        }
        if service.hosts.insert(instance.clone(), host.to_owned()).as_deref() != Some(host) {
            service.operation = operation;
            state.count(key, |e| e.moved += 1);
        }
        fault.after(key, "migrate")?;
        found(&state, key, "migrate").map(Service::observed)
    }

    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError> {
        let fault = self.enter(Call::Observe, "*");
        fault.before("*", "observe").and_then(|()| fault.after("*", "observe"))?;
        let state = self.lock();
        let seen = |(k, s): (&ServiceKey, &Service)| (k.clone(), s.observed());
        Ok(match scope {
            Scope::Service(key) => Inventory {
                packages: Vec::new(),
                services: state.services.get_key_value(key).map(seen).into_iter().collect(),
            },
            Scope::All => Inventory {
                packages: state
                    .packages
                    .keys()
                    .filter(|p| !state.foreign.contains(*p))
                    .filter_map(|(kind, id)| state.package(*kind, id))
                    .collect(),
                services: state.services.iter().map(seen).collect(),
            },
        })
    }
}

fn absent(key: &ServiceKey, operation: &str) -> DriverError {
    error(key, operation, "NO_SUCH_SERVICE", "the MANO has no such service", Disposition::Compensate)
}

fn found<'s>(state: &'s State, key: &ServiceKey, operation: &str) -> Result<&'s Service, DriverError> {
    state.services.get(key).ok_or_else(|| absent(key, operation))
}

fn found_mut<'s>(
    state: &'s mut State,
    key: &ServiceKey,
    operation: &str,
) -> Result<&'s mut Service, DriverError> {
    state.services.get_mut(key).ok_or_else(|| absent(key, operation))
}
