//! Services that a MANO makes: the engine tells it, and takes what it made for ours when the VIM shows it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use lcm::operation::Direction;
use ledger_contract::intent::{IntentKind, Sensitivity};
use mano::{
    Capabilities, Inventory, Mano, ObservedPackage, ObservedService, PackageKind, PackageSpec, Removal,
    Scope, ServiceKey, ServiceSpec,
    fake::{Call, FakeMano, Fault},
};
use orchestrator::service::Service as _;
use vim::{Disposition, DriverError, ObjectKey, fake::FakeVim};

use crate::{
    life::Life,
    world::{SITES, World, ns_of, plain, terminate},
};

/// A MANO at every site, which makes guests there.
fn managed(world: &World) -> Arc<FakeMano> {
    let vims: Vec<(String, Arc<FakeVim>)> =
        world.vims.iter().map(|(name, vim)| (name.clone(), vim.clone())).collect();
    for (_, vim) in &vims {
        vim.run_guests();
    }
    let sites = SITES.iter().map(|s| (*s).to_owned());
    let made = move |key: &ServiceKey, spec: Option<&ServiceSpec>| {
        for (site, vim) in &vims {
            vim.made_elsewhere(key.as_str(), instances(spec, site));
        }
    };
    Arc::new(FakeMano::new(sites).on_change(made))
}

fn instances(spec: Option<&ServiceSpec>, site: &str) -> BTreeSet<ObjectKey> {
    let members = spec.into_iter().flat_map(|s| s.members.values()).filter(|m| m.site == site);
    let vdus = members.flat_map(|m| m.vdus.values());
    vdus.flat_map(|v| v.instances.iter().take(v.count as usize)).map(|i| i.key.clone()).collect()
}

fn life(world: &World, mano: &Arc<FakeMano>) -> Life {
    life_of(world, mano.clone())
}

fn life_of(world: &World, mano: Arc<dyn Mano>) -> Life {
    let mut parts = world.parts(Arc::new(world.log()), plain);
    parts.mano = Some(mano);
    Life::of(parts)
}

/// It makes services and does not say so.
struct Silent(Arc<FakeMano>);

#[async_trait]
impl Mano for Silent {
    async fn capabilities(&self) -> Result<Capabilities, DriverError> {
        self.0.capabilities().await
    }
    async fn ensure_package(&self, spec: &PackageSpec) -> Result<ObservedPackage, DriverError> {
        self.0.ensure_package(spec).await
    }
    async fn remove_package(&self, kind: PackageKind, id: &str) -> Result<Removal, DriverError> {
        self.0.remove_package(kind, id).await
    }
    async fn ensure_service(
        &self,
        key: &ServiceKey,
        spec: &ServiceSpec,
    ) -> Result<ObservedService, DriverError> {
        self.0.ensure_service(key, spec).await?;
        std::future::pending().await
    }
    async fn remove_service(&self, key: &ServiceKey) -> Result<(), DriverError> {
        self.0.remove_service(key).await
    }
    async fn heal(
        &self,
        key: &ServiceKey,
        action: &str,
        instances: &BTreeSet<ObjectKey>,
    ) -> Result<ObservedService, DriverError> {
        self.0.heal(key, action, instances).await
    }
    async fn migrate(
        &self,
        key: &ServiceKey,
        instance: &ObjectKey,
        host: &str,
    ) -> Result<ObservedService, DriverError> {
        self.0.migrate(key, instance, host).await
    }
    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError> {
        self.0.observe(scope).await
    }
}

/// Waits until the service was made.
async fn made(mano: &FakeMano, key: &ServiceKey) {
    let made = async {
        while mano.effects(key).made == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), made).await.unwrap();
}

/// Guests are not attested, so what is deployed need not be.
fn deployment(world: &World) -> ledger_contract::Intent {
    let mut intent = world.deploy("edge");
    if let IntentKind::Deploy(deploy) = &mut intent.action {
        deploy.sensitivity = Sensitivity::Internal;
    }
    intent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_made_by_the_mano_and_read_back_from_the_vim() {
    let world = World::new();
    let mano = managed(&world);
    let life = life(&world, &mano);
    let deploy = deployment(&world);
    life.submit(&world, &deploy).await;
    let done = life.anchored(&deploy.id).await;
    assert_eq!(done.state, "COMPLETED", "{done:?}");
    assert_eq!(mano.effects(&ServiceKey::new(ns_of(&deploy)).unwrap()).made, 1);
    assert!(mano.package(PackageKind::Ns, "secure_edge_ns").is_some());
    let bundle = life.engine.bundle(&done.id).await.unwrap();
    let verified = world.verified(&bundle);
    assert_eq!((verified.outcome.as_str(), verified.attested), ("COMPLETED", None));
    let told: Vec<&str> = verified.checks.iter().map(|c| c.name.as_str()).collect();
    for step in ["ensure package secure_edge_ns", "ensure service", "ensure compute"] {
        assert!(told.iter().any(|t| t.contains(step)), "{step}: {told:?}");
    }
    // It ends as a whole, its packages with it.
    let end = terminate("edge");
    life.submit(&world, &end).await;
    assert_eq!(life.anchored(&end.id).await.state, "COMPLETED");
    assert_eq!((mano.left(), world.left()), (Vec::new(), Vec::new()));
    world.nothing_twice();
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_inside_the_mano_is_taken_back_whole() {
    let world = World::new();
    let mano = managed(&world);
    mano.script(Call::EnsureService, [Fault::Half(Disposition::Compensate)]);
    let life = life(&world, &mano);
    let deploy = deployment(&world);
    life.submit(&world, &deploy).await;
    let done = life.anchored(&deploy.id).await;
    assert_eq!(done.state, "ROLLED_BACK", "{done:?}");
    assert_eq!((mano.left(), world.left()), (Vec::new(), Vec::new()));
    world.verified(&life.engine.bundle(&done.id).await.unwrap());
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_makes_nothing_twice() {
    let world = World::new();
    let mano = managed(&world);
    mano.script(Call::EnsureService, [Fault::After(Disposition::Unknown)]);
    mano.script(Call::EnsurePackage, [Fault::After(Disposition::Unknown)]);
    for vim in world.vims.values() {
        vim.script(vim::fake::Call::Adopt, None, [vim::fake::Fault::After(Disposition::Unknown)]);
    }
    let life = life(&world, &mano);
    let deploy = deployment(&world);
    life.submit(&world, &deploy).await;
    assert_eq!(life.anchored(&deploy.id).await.state, "COMPLETED");
    assert_eq!(mano.effects(&ServiceKey::new(ns_of(&deploy)).unwrap()).made, 1);
    world.nothing_twice();
    life.end().await;
}

/// A MANO works for minutes: who takes the operation back, or terminates the service, does not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_to_end_does_not_wait_for_the_mano() {
    let world = World::new();
    let mano = managed(&world);
    let life = life_of(&world, Arc::new(Silent(mano.clone())));
    let deploy = deployment(&world);
    let key = ServiceKey::new(ns_of(&deploy)).unwrap();
    life.submit(&world, &deploy).await;
    made(&mano, &key).await;
    let view = life.until(&deploy.id, |_| true).await;
    life.engine.direct(&view.id, "olga@op", Direction::Rollback, "another plan").unwrap();
    let done = life.anchored(&deploy.id).await;
    assert_eq!(done.state, "ROLLED_BACK", "{done:?}");
    let problem = done.problem.unwrap();
    assert!(problem.contains("CUT_SHORT") && problem.contains("another plan"), "{problem}");
    assert_eq!((mano.left(), world.left()), (Vec::new(), Vec::new()));
    world.verified(&life.engine.bundle(&done.id).await.unwrap());

    let mut deploy = deployment(&world);
    deploy.id = "i-edge-again".into();
    life.submit(&world, &deploy).await;
    made(&mano, &ServiceKey::new(ns_of(&deploy)).unwrap()).await;
    let end = terminate("edge");
    life.submit(&world, &end).await;
    assert_eq!(life.anchored(&end.id).await.state, "COMPLETED");
    assert_eq!((mano.left(), world.left()), (Vec::new(), Vec::new()));
    life.end().await;
}
