//! The gate inside a cloud, asked at the moment of each effect: with real plans of real operations, every call that the
//! driver makes in a step passes while that step is under way, and none before, after, of another kind, or of another
//! service. The VIM is the fake; the real cloud is asked in `tests/openstack_policy.rs`.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, OnceLock},
};

use async_trait::async_trait;
use orchestrator::{
    engine::Engine,
    remote_policy::{
        CloudPolicy, PolicyConfig, RefusedCall, Source as _, decide,
        refusals::Counted,
        request::{Actor, Question, Target},
        rules::Service,
    },
    service::Service as _,
    views::CleaningView,
};
use vim::{
    Capabilities, Disposition, DriverError, Inventory, Kind, NetworkSpec, ObjectKey, Observed, Scope, Spec,
    VimDriver,
    fake::{Call, FakeVim, Fault},
};

use crate::{
    life::Life,
    world::{SITES, World, ns_of, terminate},
};

fn ids(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|i| (*i).to_owned()).collect()
}

fn cloud() -> CloudPolicy {
    CloudPolicy {
        sites: ids(&SITES),
        projects: ids(&["managed"]),
        users: ids(&["mandate"]),
        mano_users: BTreeSet::new(),
        service_users: ids(&["nova"]),
    }
}

fn gated(world: &mut World) {
    world.config.openstack_policy = Some(PolicyConfig {
        listen: "127.0.0.1:0".into(),
        url: "https://127.0.0.1:8444".into(),
        certificate: "-".into(),
        key: "-".into(),
        client_ca: "-".into(),
        clouds: [("yoga".to_owned(), cloud())].into(),
    });
}

const CREATE_SERVER: (Service, &str) = (Service::Nova, "os_compute_api:servers:create");
const DELETE_SERVER: (Service, &str) = (Service::Nova, "os_compute_api:servers:delete");
const CREATE_NETWORK: (Service, &str) = (Service::Neutron, "create_network");
const DELETE_NETWORK: (Service, &str) = (Service::Neutron, "delete_network");
const CREATE_PORT: (Service, &str) = (Service::Neutron, "create_port");
const ADD_IMAGE: (Service, &str) = (Service::Glance, "add_image");
const DELETE_IMAGE: (Service, &str) = (Service::Glance, "delete_image");

fn ask(engine: &Engine, user: &str, rule: (Service, &str), key: Option<&str>) -> &'static str {
    let question = Question {
        actor: Actor { user_id: user.into(), project_id: "managed".into() },
        target: Target {
            project_id: "managed".into(),
            keys: key.map(|k| ObjectKey::new(k).unwrap()).into_iter().collect(),
            ..Target::default()
        },
    };
    decide(&cloud(), rule, &question, &engine.running()).map_or_else(|r| r.code, |_| "ALLOWED")
}

/// Asks the gate as the driver's calls would have the cloud's services do.
struct Asking {
    inner: Arc<FakeVim>,
    engine: Arc<OnceLock<Arc<Engine>>>,
    /// What was asked about each effect.
    asked: Arc<Mutex<Vec<(&'static str, Kind)>>>,
}

impl Asking {
    fn about(&self, effect: &'static str, key: &ObjectKey, kind: Kind) {
        let engine = self.engine.get().unwrap();
        let ours = |rule| ask(engine, "mandate", rule, Some(key.as_str()));
        let (create, delete) = match kind {
            Kind::Image => (ADD_IMAGE, DELETE_IMAGE),
            Kind::Network => (CREATE_NETWORK, DELETE_NETWORK),
            Kind::Compute => (CREATE_SERVER, DELETE_SERVER),
        };
        assert_eq!(ours(delete), "ALLOWED", "{effect} {key}");
        let made = if effect == "ensure" { "ALLOWED" } else { "no" };
        assert_eq!(ours(create) == "ALLOWED", made == "ALLOWED", "{effect} {key}: {}", ours(create));
        assert_eq!(ask(engine, "tenant", delete, Some(key.as_str())), "OUT_OF_BAND");
        assert_ne!(ask(engine, "mandate", delete, Some("ns-elsewhere/vnf/x")), "ALLOWED");
        if kind == Kind::Compute && effect == "ensure" {
            assert_eq!(ask(engine, "nova", CREATE_PORT, None), "ALLOWED", "nova for its server");
            assert_eq!(ours(CREATE_PORT), "ALLOWED");
        }
        self.asked.lock().unwrap().push((effect, kind));
    }
}

#[async_trait]
impl VimDriver for Asking {
    async fn capabilities(&self) -> Result<Capabilities, DriverError> {
        self.inner.capabilities().await
    }
    async fn ensure(&self, key: &ObjectKey, spec: &Spec) -> Result<Observed, DriverError> {
        self.about("ensure", key, spec.kind());
        self.inner.ensure(key, spec).await
    }
    async fn remove(&self, key: &ObjectKey, kind: Kind) -> Result<(), DriverError> {
        self.about("remove", key, kind);
        self.inner.remove(key, kind).await
    }
    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError> {
        self.inner.observe(scope).await
    }
}

struct Gated {
    life: Life,
    asked: Arc<Mutex<Vec<(&'static str, Kind)>>>,
}

fn start(world: &World) -> Gated {
    let (engine, asked) = (Arc::new(OnceLock::new()), Arc::new(Mutex::new(Vec::new())));
    let wrap = |vim: &Arc<FakeVim>| {
        let asking = Asking { inner: vim.clone(), engine: engine.clone(), asked: asked.clone() };
        (Arc::new(asking) as Arc<dyn VimDriver>, vim.clone() as _)
    };
    let life = Life::of(world.parts(Arc::new(world.log()), wrap));
    assert!(engine.set(life.engine.clone()).is_ok());
    Gated { life, asked }
}

impl Gated {
    #[track_caller]
    fn shut(&self) {
        for rule in [CREATE_SERVER, DELETE_SERVER, CREATE_NETWORK, CREATE_PORT, ADD_IMAGE, DELETE_IMAGE] {
            assert_eq!(ask(&self.life.engine, "mandate", rule, None), "NO_OPERATION");
        }
    }

    fn asked(&self) -> BTreeSet<(&'static str, Kind)> {
        std::mem::take(&mut *self.asked.lock().unwrap()).into_iter().collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_effect_passes_and_nothing_beside_it() {
    let mut world = World::new();
    gated(&mut world);
    let gated = start(&world);
    gated.shut();
    let deploy = world.deploy("edge");
    gated.life.carry_out(&world, &deploy).await;
    gated.shut();
    // The probe goes when it has measured.
    let made = [Kind::Image, Kind::Network, Kind::Compute].map(|kind| ("ensure", kind));
    let made = made.into_iter().chain([("remove", Kind::Compute)]);
    assert_eq!(gated.asked(), made.collect());
    gated.life.carry_out(&world, &terminate("edge")).await;
    gated.shut();
    let removed = [("remove", Kind::Image), ("remove", Kind::Network), ("remove", Kind::Compute)];
    assert_eq!(gated.asked(), removed.into());
    gated.life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_back_passes_too() {
    let mut world = World::new();
    gated(&mut world);
    let gated = start(&world);
    // Everything stands when it turns out that nothing of it can be attested: all of it is taken back.
    let fault = Fault::Before(Disposition::Compensate);
    world.vim().script(Call::Attest, None, std::iter::repeat_n(fault, 16));
    let view = gated.life.carry_out(&world, &world.deploy("edge")).await;
    assert_eq!(view.state, "ROLLED_BACK", "{view:?}");
    let asked = gated.asked();
    assert!(
        asked.contains(&("remove", Kind::Compute)) && asked.contains(&("remove", Kind::Network)),
        "{asked:?}"
    );
    gated.shut();
    gated.life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_removal_of_a_stray_passes_while_it_lasts() {
    let mut world = World::new();
    gated(&mut world);
    let gated = start(&world);
    let stray = ObjectKey::new("ns-0123456789ab/vl/x").unwrap();
    let link = Spec::Network(NetworkSpec::new("x", 1500));
    world.vim().ensure(&stray, &link).await.unwrap();
    let keys = CleaningView { keys: vec![stray.to_string()], reason: "a test".into() };
    let cleaned = gated.life.engine.clean_strays("olga@op", keys).await.unwrap();
    assert!(cleaned[0].problem.is_none(), "{cleaned:?}");
    assert_eq!(gated.asked(), [("remove", Kind::Network)].into());
    gated.shut();
    gated.life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_on_the_timeline_of_their_service_and_of_the_site() {
    let mut world = World::new();
    gated(&mut world);
    let gated = start(&world);
    let deploy = world.deploy("edge");
    gated.life.carry_out(&world, &deploy).await;
    let call = |ns: Option<String>| RefusedCall {
        cloud: "yoga".into(),
        service: "nova".into(),
        rule: DELETE_SERVER.1.into(),
        user_id: "mallory".into(),
        project_id: "managed".into(),
        code: "OUT_OF_BAND".into(),
        ns,
    };
    let at = u64::from(u32::MAX) * 1000;
    let twice =
        |n| Counted { first_ms: at, last_ms: at + 5, count: n, detail: "why".into(), object: "o".into() };
    let engine = &gated.life.engine;
    let ns = ns_of(&deploy);
    let refused = [(call(Some(ns.clone())), twice(2)), (call(None), twice(1))];
    assert_eq!(engine.keep(&refused).unwrap().len(), 2);
    assert_eq!(engine.keep(&refused).unwrap(), [], "counted");
    let of_service = engine.timeline(&ns).await.unwrap();
    let last = of_service.last().unwrap();
    let what = "nova refused os_compute_api:servers:delete on o by user mallory in project managed 4 times: OUT_OF_BAND: why";
    assert_eq!((last.kind.as_str(), last.state.as_str(), last.what.as_str()), ("gate", "refused", what));
    assert_eq!(of_service.iter().filter(|l| l.kind == "gate").count(), 1);
    let of_site = engine.site_timeline(SITES[0]).await.unwrap();
    assert_eq!(of_site.iter().filter(|l| l.kind == "gate").count(), 2);
    assert_eq!(engine.site_timeline("moon").await.unwrap_err().code, "NOT_FOUND");
    let events = engine.events(0, 1000).await.unwrap();
    let told: Vec<_> = events.iter().filter(|(_, e)| e.event == "call_refused").map(|(_, e)| e).collect();
    assert_eq!(told.len(), 2);
    assert_eq!(
        (told[0].tenant.as_str(), told[0].code.as_deref()),
        (deploy.tenant.as_str(), Some("OUT_OF_BAND"))
    );
    gated.life.end().await;
}
