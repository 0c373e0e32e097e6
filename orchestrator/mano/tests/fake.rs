//! The conformance suite on the fake, the suite on fakes that break a promise, and the fake's faults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use dataplane_control::MacAddr;
use mano::{
    Capabilities, InstanceSpec, InterfaceSpec, Inventory, LinkSpec, Mano, MemberSpec, ObservedPackage,
    ObservedService, PackageKind, PackageRef, PackageSpec, Removal, Scope, ServiceKey, ServiceSpec, SiteLink,
    VduSpec,
    conformance::{self, Fixture, Packages},
    fake::{Call, Effects, FakeMano, Fault},
};
use trust::Digest;
use vim::{Disposition, DriverError, ObjectKey};

fn package(kind: PackageKind, id: &str, bytes: &str) -> PackageSpec {
    PackageSpec { kind, id: id.into(), digest: Digest::of(bytes), images: Vec::new() }
}

fn packages() -> Packages {
    Packages {
        vnf: ["one", "two"].map(|v| package(PackageKind::Vnf, "fw", v)),
        ns: package(PackageKind::Ns, "svc", "ns"),
        missing: package(PackageKind::Vnf, "fw", "nowhere"),
    }
}

fn fake() -> FakeMano {
    let p = packages();
    FakeMano::new(["here".to_owned()]).with_packages([p.vnf[0].digest, p.vnf[1].digest, p.ns.digest])
}

fn service(key: &ServiceKey, count: u32) -> ServiceSpec {
    let p = packages();
    let reference = |p: &PackageSpec| PackageRef { id: p.id.clone(), digest: p.digest };
    let object = |path: &str| ObjectKey::new(format!("{key}/{path}")).unwrap();
    let instance = |n: u8| InstanceSpec {
        key: object(&format!("1/vm/{n}")),
        interfaces: [("eth0".to_owned(), InterfaceSpec { mac: MacAddr([2, 0, 0, 0, 0, n]), address: None })]
            .into(),
        day0: format!("{{\"instance\": {n}}}"),
    };
    let vdu = VduSpec { count, instances: (0..3).map(instance).collect(), flavor: None };
    let member = MemberSpec {
        vnfd: reference(&p.vnf[0]),
        site: "here".into(),
        vdus: [("vm".to_owned(), vdu)].into(),
        links: BTreeMap::new(),
        groups: BTreeMap::new(),
        parameters: BTreeMap::new(),
    };
    let net =
        LinkSpec { key: object("net"), sites: [("here".to_owned(), SiteLink::Made)].into(), subnet: None };
    ServiceSpec {
        name: "A service".into(),
        nsd: reference(&p.ns),
        flavour: "default".into(),
        members: [("1".to_owned(), member)].into(),
        links: [("net".to_owned(), net)].into(),
        parameters: BTreeMap::new(),
    }
}

/// Which promise a back end breaks.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Broken {
    None,
    HalfMadeStays,
    CountsUnchanged,
    RemoveDoesNothing,
    RemoveAbsentFails,
    TakesOver,
    HealsAgain,
    MovesAgain,
    ScopeIgnored,
    AcceptsAnything,
    ForgetsPackages,
}

struct Broke {
    mano: FakeMano,
    how: Broken,
    actions: std::sync::atomic::AtomicU32,
}

#[async_trait]
impl Mano for Broke {
    async fn capabilities(&self) -> Result<Capabilities, DriverError> {
        self.mano.capabilities().await
    }
    async fn ensure_package(&self, spec: &PackageSpec) -> Result<ObservedPackage, DriverError> {
        let foreign = self.mano.package(spec.kind, &spec.id).is_some_and(|d| d == Digest::of("foreign"));
        if self.how == Broken::TakesOver && foreign {
            return Ok(ObservedPackage {
                kind: spec.kind,
                id: spec.id.clone(),
                digest: spec.digest,
                mano_id: "x".into(),
                in_use: false,
            });
        }
        self.mano.ensure_package(spec).await
    }
    async fn remove_package(&self, kind: PackageKind, id: &str) -> Result<Removal, DriverError> {
        match self.how {
            Broken::ForgetsPackages => Ok(Removal::Gone),
            _ => self.mano.remove_package(kind, id).await,
        }
    }
    async fn ensure_service(
        &self,
        key: &ServiceKey,
        spec: &ServiceSpec,
    ) -> Result<ObservedService, DriverError> {
        let there = self.mano.observe(&Scope::Service(key.clone())).await?.services.remove(key);
        match (self.how, there) {
            (Broken::HalfMadeStays, Some(service)) => return Ok(service),
            (Broken::CountsUnchanged, Some(service)) if service.state == mano::ServiceState::Instantiated => {
                return Ok(service);
            }
            (Broken::AcceptsAnything, Some(service)) if service.fixed != Some(spec.fixed_digest()) => {
                return Ok(service);
            }
            _ => {}
        }
        self.mano.ensure_service(key, spec).await
    }
    async fn remove_service(&self, key: &ServiceKey) -> Result<(), DriverError> {
        let absent = self.mano.observe(&Scope::Service(key.clone())).await?.services.is_empty();
        match self.how {
            Broken::RemoveDoesNothing => Ok(()),
            Broken::RemoveAbsentFails if absent => {
                Err(self.mano.heal(key, "x", &BTreeSet::new()).await.unwrap_err())
            }
            _ => self.mano.remove_service(key).await,
        }
    }
    async fn heal(
        &self,
        key: &ServiceKey,
        action: &str,
        instances: &BTreeSet<ObjectKey>,
    ) -> Result<ObservedService, DriverError> {
        let n = self.actions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let action = if self.how == Broken::HealsAgain { format!("{action}-{n}") } else { action.to_owned() };
        self.mano.heal(key, &action, instances).await
    }
    async fn migrate(
        &self,
        key: &ServiceKey,
        at: &ObjectKey,
        host: &str,
    ) -> Result<ObservedService, DriverError> {
        if self.how == Broken::MovesAgain {
            self.mano.migrate(key, at, "nowhere").await?;
        }
        self.mano.migrate(key, at, host).await
    }
    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError> {
        let scope = if self.how == Broken::ScopeIgnored { &Scope::All } else { scope };
        self.mano.observe(scope).await
    }
}

struct FakeFixture(Broke);

#[async_trait]
impl Fixture for FakeFixture {
    fn mano(&self) -> &dyn Mano {
        &self.0
    }
    fn packages(&self) -> Packages {
        packages()
    }
    fn service(&self, key: &ServiceKey, count: u32) -> ServiceSpec {
        service(key, count)
    }
    async fn leave_half_made(
        &mut self,
        key: &ServiceKey,
        spec: &ServiceSpec,
        way: usize,
    ) -> Result<Option<String>, String> {
        if way > 0 {
            return Ok(None);
        }
        self.0.mano.leave_half_made(key, spec);
        Ok(Some("broken".into()))
    }
    /// Names of services are keys here: there is no namesake that is not the service itself.
    async fn make_foreign(&mut self, _: &ServiceKey, package: bool) -> Result<(), String> {
        if package {
            self.0.mano.add_foreign_package(PackageKind::Vnf, "fw", Digest::of("foreign"));
        }
        Ok(())
    }
    async fn foreign_intact(&mut self) -> Result<bool, String> {
        let there = self.0.mano.package(PackageKind::Vnf, "fw");
        Ok(there.is_none_or(|d| d == Digest::of("foreign") || d == packages().vnf[0].digest))
    }
    async fn failing(&mut self, on: bool) -> Result<bool, String> {
        if on {
            self.0.mano.script(Call::EnsureService, [Fault::Half(Disposition::Compensate)]);
        }
        Ok(true)
    }
    async fn restart(&mut self) -> Result<(), String> {
        Ok(())
    }
    async fn residue(&mut self) -> Result<Vec<String>, String> {
        Ok(self.0.mano.left())
    }
    async fn close(self) -> Result<(), String> {
        Ok(())
    }
}

async fn suite(how: Broken) -> Vec<String> {
    let make = async || Ok(FakeFixture(Broke { mano: fake(), how, actions: Default::default() }));
    conformance::run(make, None).await.failures()
}

#[tokio::test]
async fn the_fake_conforms() {
    assert_eq!(suite(Broken::None).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_broken_promise_is_found() {
    for how in [
        Broken::HalfMadeStays,
        Broken::CountsUnchanged,
        Broken::RemoveDoesNothing,
        Broken::RemoveAbsentFails,
        Broken::TakesOver,
        Broken::HealsAgain,
        Broken::MovesAgain,
        Broken::ScopeIgnored,
        Broken::AcceptsAnything,
        Broken::ForgetsPackages,
    ] {
        assert!(!suite(how).await.is_empty(), "{how:?} passes the suite");
    }
}

#[tokio::test]
async fn each_fault_happens_where_it_says() {
    let key = ServiceKey::new("svc").unwrap();
    let spec = service(&key, 1);
    let made = |e: Effects| (e.made, e.completed, e.removed);
    for (fault, after_first) in [
        (Fault::Before(Disposition::Retry), (0, 0, 0)),
        (Fault::Half(Disposition::Unknown), (1, 0, 0)),
        (Fault::After(Disposition::Unknown), (1, 0, 0)),
    ] {
        let fake = fake();
        fake.ensure_package(&packages().vnf[0]).await.unwrap();
        fake.ensure_package(&packages().ns).await.unwrap();
        fake.script(Call::EnsureService, [fault]);
        fake.ensure_service(&key, &spec).await.unwrap_err();
        assert_eq!(made(fake.effects(&key)), after_first, "{fault:?}");
        fake.ensure_service(&key, &spec).await.unwrap();
        let completed = u32::from(matches!(fault, Fault::Half(_)));
        assert_eq!(made(fake.effects(&key)), (1, completed, 0), "{fault:?}, again");
    }
}

#[tokio::test]
async fn changes_are_told() {
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = std::sync::Arc::clone(&told);
    let fake = fake().on_change(move |key, spec| {
        heard.lock().unwrap().push((key.to_string(), spec.map(|s| s.members["1"].vdus["vm"].count)));
    });
    let key = ServiceKey::new("svc").unwrap();
    for spec in [&packages().vnf[0], &packages().ns] {
        fake.ensure_package(spec).await.unwrap();
    }
    fake.ensure_service(&key, &service(&key, 1)).await.unwrap();
    fake.ensure_service(&key, &service(&key, 2)).await.unwrap();
    fake.remove_service(&key).await.unwrap();
    let name = || "svc".to_owned();
    assert_eq!(*told.lock().unwrap(), [(name(), Some(1)), (name(), Some(2)), (name(), None)]);
}

#[test]
fn a_specification_is_checked_and_survives_the_journal() {
    let key = ServiceKey::new("svc").unwrap();
    let spec = service(&key, 1);
    assert_eq!(spec.check(&key), Ok(()));
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<ServiceSpec>(&text).unwrap(), spec);
    assert!(spec.check(&ServiceKey::new("other").unwrap()).is_err(), "another service's keys");
    let mut twice = spec.clone();
    twice.links.get_mut("net").unwrap().key = ObjectKey::new("svc/1/vm/0").unwrap();
    assert!(twice.check(&key).is_err(), "one key of two objects");
    let mut few = spec.clone();
    few.members.get_mut("1").unwrap().vdus.get_mut("vm").unwrap().count = 4;
    assert!(few.check(&key).is_err(), "more instances than are planned");
    assert_eq!(spec.fixed_digest(), service(&key, 3).fixed_digest(), "counts change in place");
    for text in ["", "a/b", "A", "..", "."] {
        assert!(ServiceKey::new(text).is_err(), "{text}");
    }
}
