//! A home as `mandate init` makes it, with the packages we ship registered; sites whose VIM fails on demand; tenants.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use attestation::AkRecord;
use dataplane_control::config::{Rule, RuleAction, Vip};
use descriptors::{
    dir,
    package::{self, ImageInput, PackInputs},
    provenance::{self, Build},
    sbom,
};
use ledger::{Ledger, embedded::Log};
use ledger_contract::{
    Intent, IntentKind,
    bundle::{VerifiedBundle, verify_bundle},
    intent::{
        API_VERSION, Deploy, INTENT_PAYLOAD, PlacementHints, Scale, ScaleDirection, Sensitivity, Sla,
        VnfParams, ns_instance_id,
    },
    policy::{DEFAULT_BUILDER, PolicyData, Quota},
    records::{AK_PAYLOAD, Change, Entry, GOVERNANCE_PAYLOAD, Genesis, Governance, PACKAGE_PAYLOAD},
};
use orchestrator::{
    artifacts::ArtifactStore,
    config::{Config, HostSite, SiteConfig},
    engine::{Engine, KeyAdmin, Parts, Site},
    home::Home,
    init,
    journal::Journal,
    service::Service as _,
};
use serde::Serialize;
use tempfile::TempDir;
use trust::{Digest, Envelope, Signer, TrustRoots, UnixTime};
use vim::{ObjectKey, Resources, VimDriver, VnfControl, fake::FakeVim};

use crate::attester::{self, Answers};

pub const LEDGER: &str = "operator/mandate-test";
pub const TENANT: &str = "acme";
/// With five of them, twenty services fit into their quotas of four.
pub const TENANTS: [&str; 5] = [TENANT, "globex", "initech", "umbrella", "hooli"];
/// The cheaper one first: services go there.
pub const SITES: [&str; 2] = ["edge-a", "edge-b"];
const LOCK: &str = "version = 4\n[[package]]\nname = \"mandate-dataplane\"\nversion = \"0.1.0\"\ndependencies = [\"a\"]\n\
                    [[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"aa\"\n";
const IMAGE: &[u8] = b"a made-up image of the data plane";

pub fn now() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs())
}

/// In memory where there is a file system for that: what is tested here survives the end of a process, not that of a
/// machine, and waiting for a disk some ten thousand times would take most of the time.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// A home with everything around it; dropped with everything in it.
pub struct World {
    dir: TempDir,
    pub home: Home,
    pub config: Config,
    pub vims: BTreeMap<String, Arc<FakeVim>>,
    pub answers: BTreeMap<String, Arc<Answers>>,
    pub nsd: Digest,
}

/// A home's files, read once and written for every test.
struct Template {
    files: Vec<(PathBuf, Vec<u8>)>,
    dirs: Vec<PathBuf>,
    nsd: Digest,
}

impl World {
    /// A world whose packages and attestation keys are registered.
    pub fn new() -> Self {
        Self::made(scratch())
    }

    /// The same in a directory on the disk that is to be measured.
    #[allow(dead_code, reason = "for the benchmark, which is built of this file")]
    pub fn within(dir: &Path) -> Self {
        Self::made(tempfile::tempdir_in(dir).unwrap())
    }

    fn made(dir: TempDir) -> Self {
        static TEMPLATE: OnceLock<Template> = OnceLock::new();
        let template = TEMPLATE.get_or_init(Template::make);
        template.write(dir.path());
        Self::around(dir, template.nsd)
    }

    /// A copy of a home that is there.
    pub fn of(home: &Path) -> Self {
        let mut copy = Template { files: Vec::new(), dirs: vec!["home".into()], nsd: Digest([0; 32]) };
        copy.read(home.parent().unwrap(), home);
        let name = home.file_name().unwrap();
        let inside = |p: &Path| Path::new("home").join(p.strip_prefix(name).unwrap());
        copy.dirs.iter_mut().skip(1).for_each(|d| *d = inside(d));
        copy.files.iter_mut().for_each(|(f, _)| *f = inside(f));
        let dir = scratch();
        copy.write(dir.path());
        Self::around(dir, copy.nsd)
    }

    fn around(dir: TempDir, nsd: Digest) -> Self {
        let home = Home::new(dir.path().join("home"));
        let text = fs::read_to_string(home.config()).unwrap();
        let mut config = Config::parse(&text, "config.toml").unwrap();
        config.limits.retry_ms = 1;
        let room = Resources { vcpus: 512, memory_mib: 1 << 20, instances: 512 };
        let vims: BTreeMap<String, Arc<FakeVim>> =
            SITES.iter().map(|s| ((*s).to_owned(), Arc::new(FakeVim::new(room)))).collect();
        let answers = vims.iter().map(|(s, v)| (s.clone(), attester::answer(s, v))).collect();
        Self { dir, home, config, vims, answers, nsd }
    }

    /// A policy without quotas comes into force, co-signed as the one before it asks, and the VIMs get room for
    /// whatever is approved then.
    pub async fn make_room(&mut self) {
        let most = u32::MAX;
        let quota =
            Quota { services: most, instances: most, vcpus: most, memory_mib: most, ..Quota::default() };
        self.change_policy(|data| drop(data.quotas.insert("default".into(), quota))).await;
        let room = Resources { vcpus: 1 << 24, memory_mib: 1 << 30, instances: 1 << 24 };
        self.vims = SITES.map(|s| (s.to_owned(), Arc::new(FakeVim::new(room).without_call_list()))).into();
        self.answers = self.vims.iter().map(|(s, v)| (s.clone(), attester::answer(s, v))).collect();
    }

    /// Another policy than the founding one comes into force, rightly; the founding one's digest.
    pub async fn change_policy(&self, change: impl FnOnce(&mut PolicyData)) -> Digest {
        let log = self.log();
        let founded: Entry = serde_json::from_str(&log.range(0, 1).await.unwrap()[0]).unwrap();
        let genesis: Genesis = serde_json::from_slice(&founded.request.payload).unwrap();
        let mut data = genesis.policy.data().unwrap();
        change(&mut data);
        let supersedes = genesis.policy.digest();
        let change = Change::Policy { bundle: genesis.policy.with_data(&data), supersedes };
        self.govern(&log, "another-policy", change).await;
        supersedes
    }

    /// The operator and the auditor change something.
    pub async fn govern(&self, ledger: &dyn Ledger, id: &str, change: Change) {
        let (ledger_name, not_after) = (LEDGER.into(), now().plus(600));
        let reason = "a test asks for it".into();
        let change = Governance { id: id.into(), ledger: ledger_name, not_after, reason, change };
        let signers = [self.signer("operator", "operator"), self.signer("auditor", "auditor")];
        let payload = serde_json::to_vec(&change).unwrap();
        let signed = Envelope::sign(GOVERNANCE_PAYLOAD, payload, &signers.each_ref()).unwrap();
        let verdict = ledger.submit(signed).await.unwrap().entry.verdict;
        assert!(verdict.approved, "{verdict:?}");
    }

    /// The VIM that services are placed on.
    pub fn vim(&self) -> &Arc<FakeVim> {
        &self.vims[SITES[0]]
    }

    pub fn answers(&self) -> &Arc<Answers> {
        &self.answers[SITES[0]]
    }

    pub fn roots(&self) -> TrustRoots {
        serde_json::from_slice(&fs::read(self.home.trust()).unwrap()).unwrap()
    }

    pub fn signer(&self, org: &str, name: &str) -> Signer {
        let (key, certificate) = self.home.identity(org, name);
        Signer::from_pem(&fs::read_to_string(key).unwrap(), &fs::read_to_string(certificate).unwrap())
            .unwrap()
    }

    pub fn log(&self) -> Log {
        Log::open(&self.home.ledger(), now).unwrap()
    }

    pub fn journal(&self) -> Journal {
        Journal::open(&self.home.journal()).unwrap()
    }

    /// What an engine is made of, on this ledger, its sites behind `wrap`.
    pub fn parts(&self, ledger: Arc<dyn Ledger>, wrap: impl Fn(&Arc<FakeVim>) -> Ports) -> Parts {
        let site = |config: &SiteConfig| {
            let (vim, control) = wrap(&self.vims[&config.name]);
            let keys = Arc::new(Keys(attester::record(&config.name, now())));
            (config.name.clone(), Site { config: config.clone(), vim, control, keys })
        };
        Parts {
            roots: self.roots(),
            ledger,
            journal: self.journal(),
            artifacts: ArtifactStore::new(self.home.artifacts()),
            mano: None,
            sites: self.config.sites.iter().map(site).collect(),
            signer: self.signer("operator", "orchestrator"),
            config: self.config.clone(),
        }
    }

    /// Everything that is in any of the VIMs.
    pub fn left(&self) -> Vec<ObjectKey> {
        self.vims.values().flat_map(|v| v.left()).collect()
    }

    /// What is in any of the VIMs of one service.
    pub fn left_of(&self, ns: &str) -> Vec<String> {
        self.left().iter().filter(|k| k.service() == ns).map(ToString::to_string).collect()
    }

    #[track_caller]
    pub fn nothing_twice(&self) {
        for (site, vim) in &self.vims {
            assert_eq!(vim.done_twice(), [], "{site}");
        }
    }

    /// A verified bundle.
    #[track_caller]
    pub fn verified(&self, bundle: &[u8]) -> VerifiedBundle {
        match verify_bundle(bundle, &self.roots()) {
            Ok(verified) => verified,
            Err(e) => panic!("the bundle does not verify: {e}"),
        }
    }

    pub fn deploy(&self, service: &str) -> Intent {
        self.deploy_for(TENANT, service)
    }

    pub fn deploy_for(&self, tenant: &str, service: &str) -> Intent {
        let vip = Vip::new("dns", "203.0.113.10".parse().unwrap(), 17, 53);
        let rule = Rule {
            id: "dns".into(),
            from: "outside".into(),
            action: RuleAction::Allow,
            protocol: Some(17),
            destination: Some("203.0.113.10/32".parse().unwrap()),
            destination_ports: Some("53".parse().unwrap()),
            ..Rule::default()
        };
        let params = [
            ("vfw".to_owned(), VnfParams { rules: vec![rule], ..VnfParams::default() }),
            ("vlb".to_owned(), VnfParams { vips: vec![vip], ..VnfParams::default() }),
        ];
        let deploy = Deploy {
            nsd_package: self.nsd,
            sla: Sla { throughput_kbps: 1_000, latency_p95_us: 50_000, loss_ppm: 0 },
            placement: PlacementHints::default(),
            sensitivity: Sensitivity::Confidential,
            lease_s: 3_600,
            vnf_params: params.into(),
        };
        intent(tenant, service, IntentKind::Deploy(Box::new(deploy)))
    }

    /// The signed envelope of an intent.
    pub fn signed(&self, intent: &Intent) -> Envelope {
        sign(INTENT_PAYLOAD, intent, &self.signer(&intent.tenant, "tenant"))
    }
}

/// A site's ports.
pub type Ports = (Arc<dyn VimDriver>, Arc<dyn VnfControl>);

/// The VIM as it is.
pub fn plain(vim: &Arc<FakeVim>) -> Ports {
    (vim.clone(), vim.clone())
}

struct Keys(AkRecord);

#[async_trait]
impl KeyAdmin for Keys {
    async fn attestation_key(&self, _rotate: bool) -> Result<AkRecord, String> {
        Ok(self.0.clone())
    }
}

pub fn sign(kind: &str, payload: &impl Serialize, signer: &Signer) -> Envelope {
    Envelope::sign(kind, serde_json::to_vec(payload).unwrap(), &[signer]).unwrap()
}

pub fn intent(tenant: &str, service: &str, action: IntentKind) -> Intent {
    Intent {
        api_version: API_VERSION.into(),
        id: format!("{tenant}-{service}-{}", action.name()),
        tenant: tenant.into(),
        service: service.into(),
        not_after: now().plus(600),
        depends_on: Vec::new(),
        emergency: None,
        standing: None,
        action,
    }
}

pub fn scale(service: &str, direction: ScaleDirection) -> Intent {
    let scale = Scale { member: "vlb".into(), aspect: "backends".into(), direction, steps: 2 };
    intent(TENANT, service, IntentKind::Scale(scale))
}

pub fn terminate(service: &str) -> Intent {
    intent(TENANT, service, IntentKind::Terminate {})
}

/// The NS instance of a service that [`World::deploy`] deploys.
pub fn ns_of(deploy: &Intent) -> String {
    ns_instance_id(&deploy.tenant, &deploy.service, &deploy.id)
}

impl Template {
    fn make() -> Self {
        let dir = scratch();
        let home = Home::new(dir.path().join("home"));
        init::init(&home, &plan(now())).unwrap();
        let mut world = World::around(dir, Digest([0; 32]));
        // The test that comes first is in a runtime already, and there is none within another.
        world.nsd = std::thread::scope(|s| {
            let register = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(world.register())
            };
            s.spawn(register).join().unwrap()
        });
        let mut it = Self { files: Vec::new(), dirs: Vec::new(), nsd: world.nsd };
        it.read(world.dir.path(), world.dir.path());
        it
    }

    fn read(&mut self, root: &Path, dir: &Path) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if path.is_dir() {
                self.dirs.push(name);
                self.read(root, &path);
            } else {
                self.files.push((name, fs::read(&path).unwrap()));
            }
        }
    }

    fn write(&self, to: &Path) {
        for dir in &self.dirs {
            fs::DirBuilder::new().mode(0o700).create(to.join(dir)).unwrap();
        }
        for (name, bytes) in &self.files {
            let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to.join(name));
            std::io::Write::write_all(&mut file.unwrap(), bytes).unwrap();
        }
    }
}

/// What `mandate init` is asked for.
pub fn plan(now: UnixTime) -> init::Plan {
    let host = HostSite {
        vcpus: 1,
        memory_mib: 1,
        instances: 1,
        first_uid: 0,
        launcher: Some("/".into()),
        tpm: None,
    };
    let site = |(cost, name): (u32, &&str)| SiteConfig {
        name: (*name).to_owned(),
        jurisdiction: "DE".into(),
        latency_us: 500,
        cost,
        concurrent_operations: 5,
        drained: false,
        tee: None,
        host: Some(host.clone()),
        openstack: None,
    };
    init::Plan {
        ledger: LEDGER.into(),
        operator: "operator".into(),
        provider: "provider".into(),
        tenants: TENANTS.iter().map(|t| (*t).to_owned()).collect(),
        auditor: "auditor".into(),
        sites: (1..).zip(&SITES).map(site).collect(),
        now,
    }
}

impl World {
    /// Packs, signs, uploads and registers the packages, and registers the sites' keys; the digest of the NSD's.
    pub async fn register(&self) -> Digest {
        let engine = Engine::new(self.parts(Arc::new(self.log()), plain)).unwrap();
        for site in SITES {
            let key = sign(AK_PAYLOAD, &attester::record(site, now()), &self.signer("operator", "operator"));
            let committed = engine.submit(key).await.unwrap();
            assert!(committed.verdict.approved, "{:?}", committed.verdict);
        }
        let provider = self.signer("provider", "provider");
        let mut last = Digest([0; 32]);
        for name in ["vfw_vnf", "vlb_vnf", "secure_edge_ns"] {
            let stored = engine.put_package(self.packed(name)).await.unwrap();
            let committed = engine.submit(sign(PACKAGE_PAYLOAD, &stored.record, &provider)).await.unwrap();
            assert!(committed.verdict.approved, "{name}: {:?}", committed.verdict);
            last = stored.digest;
        }
        last
    }

    fn packed(&self, name: &str) -> Vec<u8> {
        self.packed_with(name, IMAGE)
    }

    /// A package as the provider would push it, with this image.
    pub fn packed_with(&self, name: &str, image: &[u8]) -> Vec<u8> {
        let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../descriptors/packages");
        let source = dir::read(&packages.join(name)).unwrap();
        let images = if name.ends_with("_ns") { Vec::new() } else { vec![self.image(image)] };
        let inputs = PackInputs { images: images.into_iter().collect() };
        let packed = package::pack(&source, &inputs).unwrap();
        package::sign(&packed, &self.signer("provider", "provider")).unwrap()
    }

    fn image(&self, image: &[u8]) -> (String, ImageInput) {
        let digest = Digest::of(image);
        let build = Build {
            image: "mandate-dataplane",
            digest,
            builder: DEFAULT_BUILDER,
            package: "mandate-dataplane",
            profile: "release",
            cargo_lock: Digest::of(LOCK),
            git: Some(("git+https://example.org/mandate", "0123456789abcdef0123456789abcdef01234567")),
            times: (now(), now()),
        };
        let provenance = provenance::statement(&build).sign(&self.signer("provider", "builder")).unwrap();
        let sbom = sbom::cyclonedx(LOCK, "mandate-dataplane", digest, now()).unwrap();
        ("mandate-dataplane".to_owned(), ImageInput { bytes: image.to_vec(), sbom, provenance })
    }
}
