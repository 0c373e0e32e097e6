//! A small service (firewall, balancer, two backends), its intents and plans.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;

use attestation::AkRecord;
use dataplane_control::config::{Rule, RuleAction, Vip};
use descriptors::{
    day0::{Day0, Day0Function},
    model::{
        CpRef, IntCpd, InternalLink, Member, NsFlavour, Nsd, ScalingAspect, SwImage, Vdu, VduProfile,
        VirtualLink, VnfFlavour, Vnfd,
    },
};
use lcm::{
    NsRecord, Plan,
    placement::{Connection, Defaults, Site},
    planner::{self, Catalogue, Input, Refusal, VnfPackage, Wan},
};
use ledger_contract::{
    Intent, IntentKind,
    intent::{
        API_VERSION, Deploy, Heal, Isolate, Migrate, PlacementHints, Rollback, Scale, ScaleDirection,
        Sensitivity, Sla, Target, Update, VnfParams, ns_instance_id,
    },
    records::Grant,
};
use trust::{Digest, UnixTime};
use vim::{Capabilities, ComputeState, Inventory, Observed, ObservedCompute, Resources, Spec};

pub fn map<V>(items: Vec<(&str, V)>) -> BTreeMap<String, V> {
    items.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

fn vdu(id: &str, cpds: &[(&str, Option<&str>)]) -> Vdu {
    Vdu {
        id: id.into(),
        name: id.into(),
        image: "dp".into(),
        vcpus: 1,
        memory_mib: 256,
        cpds: cpds
            .iter()
            .map(|(id, link)| IntCpd {
                id: (*id).into(),
                internal_link: link.map(str::to_owned),
                interface_type: "PARAVIRT".into(),
                ..IntCpd::default()
            })
            .collect(),
        ..Vdu::default()
    }
}

fn vnfd(id: &str, vdus: Vec<Vdu>, links: &[&str], external: Vec<(&str, (&str, &str))>) -> Vnfd {
    let image = SwImage {
        id: "dp".into(),
        name: "dp".into(),
        version: "1".into(),
        image: "images/dp".into(),
        sha256: Some(Digest::of("dp")),
        ..SwImage::default()
    };
    Vnfd {
        id: id.into(),
        provider: "p".into(),
        product_name: id.into(),
        version: "1".into(),
        software_version: "1".into(),
        flavours: vec![VnfFlavour {
            id: "df".into(),
            profiles: vdus
                .iter()
                .map(|v| (v.id.clone(), VduProfile { min: 1, max: if v.id == "backend" { 8 } else { 1 } }))
                .collect(),
            initial: vdus.iter().map(|v| (v.id.clone(), if v.id == "backend" { 2 } else { 1 })).collect(),
            aspects: map(vec![(
                "backends",
                ScalingAspect { id: "backends".into(), max_level: 6, delta: map(vec![("backend", 1)]) },
            )]),
            ..VnfFlavour::default()
        }],
        vdus: vdus.into_iter().map(|v| (v.id.clone(), v)).collect(),
        internal_links: links
            .iter()
            .map(|l| InternalLink { id: (*l).to_owned(), ..InternalLink::default() })
            .collect(),
        external_cps: external
            .into_iter()
            .map(|(id, (vdu, cpd))| (id.to_owned(), CpRef { vdu: vdu.into(), cpd: cpd.into() }))
            .collect(),
        images: map(vec![("dp", image)]),
    }
}

fn day0(function: Day0Function, ports: Vec<(&str, &str)>, backends: Option<(&str, &str)>) -> Day0 {
    Day0 {
        function,
        ports: ports.into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())).collect(),
        backends: backends.map(|(vdu, cpd)| CpRef { vdu: vdu.into(), cpd: cpd.into() }),
    }
}

pub fn catalogue() -> Catalogue {
    let vfw = VnfPackage {
        digest: Digest::of("vfw"),
        vnfd: vnfd(
            "vfw_vnf",
            vec![vdu("vfw", &[("client", None), ("server", None)])],
            &[],
            vec![("client", ("vfw", "client")), ("server", ("vfw", "server"))],
        ),
        day0: map(vec![(
            "vfw",
            day0(Day0Function::Firewall, vec![("outside", "client"), ("inside", "server")], None),
        )]),
        images: map(vec![("dp", Digest::of("dp"))]),
    };
    let vlb = VnfPackage {
        digest: Digest::of("vlb"),
        vnfd: vnfd(
            "vlb_vnf",
            vec![
                vdu("vlb", &[("front", None), ("back", Some("backends"))]),
                vdu("backend", &[("service", Some("backends"))]),
            ],
            &["backends"],
            vec![("front", ("vlb", "front"))],
        ),
        day0: map(vec![
            (
                "vlb",
                day0(
                    Day0Function::LoadBalancer,
                    vec![("client", "front"), ("backend", "back")],
                    Some(("backend", "service")),
                ),
            ),
            ("backend", day0(Day0Function::Reflector, vec![("port", "service")], None)),
        ]),
        images: map(vec![("dp", Digest::of("dp"))]),
    };
    let member = |index: &str, vnfd: &str, links: Vec<(&str, &str)>| Member {
        index: index.into(),
        vnfd: vnfd.into(),
        links: links.into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())).collect(),
        ..Member::default()
    };
    let link = |id: &str| VirtualLink { id: id.into(), ..VirtualLink::default() };
    let nsd = Nsd {
        id: "secure_edge_ns".into(),
        name: "secure edge".into(),
        version: "1".into(),
        designer: "d".into(),
        vnfd_ids: vec!["vfw_vnf".into(), "vlb_vnf".into()],
        links: map(vec![("client_side", link("client_side")), ("inspected", link("inspected"))]),
        saps: map(vec![("client", "client_side".to_owned())]),
        flavours: vec![NsFlavour {
            id: "df".into(),
            members: map(vec![
                ("vfw", member("vfw", "vfw_vnf", vec![("client", "client_side"), ("server", "inspected")])),
                ("vlb", member("vlb", "vlb_vnf", vec![("front", "inspected")])),
            ]),
            ..NsFlavour::default()
        }],
    };
    Catalogue { nsd, nsd_package: Digest::of("ns"), vnfs: map(vec![("vfw_vnf", vfw), ("vlb_vnf", vlb)]) }
}

pub fn ak(site: &str) -> AkRecord {
    AkRecord {
        site: site.into(),
        public_key: "AA==".into(),
        pcr: 13,
        pcr_baseline: Digest([0; 32]),
        not_before: UnixTime(0),
        not_after: UnixTime(u64::MAX),
    }
}

pub fn sites() -> Vec<Site> {
    let site = |name: &str, cost| Site {
        name: name.into(),
        jurisdiction: "DE".into(),
        latency_us: 500,
        cost,
        capabilities: Capabilities {
            driver: "host".into(),
            attestation: true,
            functions: true,
            ..Capabilities::default()
        },
        inventory: Inventory {
            total: Resources { vcpus: 32, memory_mib: 16_384, instances: 64 },
            ..Inventory::default()
        },
        ak: Some(ak(name)),
        problem: None,
        drained: false,
        tee: None,
        defaults: Defaults::default(),
    };
    vec![site("edge-a", 2), site("edge-b", 3)]
}

pub fn deploy() -> Deploy {
    let vip = Vip::new("web", "203.0.113.10".parse().unwrap(), 17, 8080);
    let rule = Rule {
        id: "web".into(),
        from: "outside".into(),
        action: RuleAction::Allow,
        protocol: Some(17),
        destination: Some("203.0.113.10/32".parse().unwrap()),
        destination_ports: Some("8080".parse().unwrap()),
        ..Rule::default()
    };
    Deploy {
        nsd_package: Digest::of("ns"),
        sla: Sla { throughput_kbps: 1_000, latency_p95_us: 50_000, loss_ppm: 0 },
        placement: PlacementHints::default(),
        sensitivity: Sensitivity::Confidential,
        lease_s: 3600,
        vnf_params: map(vec![
            ("vfw", VnfParams { rules: vec![rule], ..VnfParams::default() }),
            ("vlb", VnfParams { vips: vec![vip], ..VnfParams::default() }),
        ]),
    }
}

pub fn scale(steps: u32, direction: ScaleDirection) -> IntentKind {
    IntentKind::Scale(Scale { member: "vlb".into(), aspect: "backends".into(), direction, steps })
}

pub fn intent(action: IntentKind) -> Intent {
    Intent {
        api_version: API_VERSION.into(),
        id: format!("intent-{}", action.name()),
        tenant: "acme".into(),
        service: "edge-1".into(),
        not_after: UnixTime(2_000),
        depends_on: Vec::new(),
        emergency: None,
        standing: None,
        action,
    }
}

pub fn grant(intent: &Intent) -> Grant {
    Grant {
        ledger: "ledger.test".into(),
        intent_id: intent.id.clone(),
        intent: Digest::of(serde_json::to_vec(intent).unwrap()),
        tenant: intent.tenant.clone(),
        ns_instance_id: ns_instance_id("acme", "edge-1", "intent-deploy"),
        action: intent.action.name().into(),
        not_after: intent.not_after,
        lease_until: None,
        packages: map(vec![("vfw_vnf", Digest::of("vfw")), ("vlb_vnf", Digest::of("vlb"))]),
        images: [Digest::of("dp")].into(),
        attestation_keys: vec![ak("edge-a"), ak("edge-b")],
        attestation_required: true,
        tee_required: false,
        policy: Digest::of("policy"),
        site_quotas: Default::default(),
        waived: Vec::new(),
        standing: None,
    }
}

pub fn try_plan(action: IntentKind, before: Option<&NsRecord>, sites: &[Site]) -> Result<Plan, Refusal> {
    Setup { sites: sites.to_vec(), ..Setup::default() }.plan(action, before)
}

pub fn plan(action: IntentKind, before: Option<&NsRecord>) -> Plan {
    try_plan(action, before, &sites()).unwrap()
}

/// What a plan is computed from, but for the intent and the service.
#[derive(Debug, Clone)]
pub struct Setup {
    pub catalogue: Catalogue,
    pub sites: Vec<Site>,
    pub wan: Option<Wan>,
    pub mano: Option<planner::Manager>,
    pub without: BTreeMap<String, String>,
    pub last_id: u32,
    pub operation: Option<String>,
    pub images: Vec<Digest>,
    pub prices: planner::Prices,
    pub site_quotas: BTreeMap<String, ledger_contract::records::ResourceUse>,
    pub attested: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            catalogue: catalogue(),
            sites: sites(),
            wan: None,
            mano: None,
            without: BTreeMap::new(),
            last_id: 0,
            operation: None,
            images: vec![Digest::of("dp"), Digest::of("dp2")],
            prices: planner::Prices::default(),
            site_quotas: BTreeMap::new(),
            attested: true,
        }
    }
}

impl Setup {
    /// Three sites that a wide-area network joins, with everything that a site can have.
    pub fn joined() -> Self {
        let mut sites = sites();
        sites.push(Site { name: "edge-c".into(), cost: 4, ak: Some(ak("edge-c")), ..sites[0].clone() });
        for site in &mut sites {
            site.capabilities.inter_site_links = true;
            site.capabilities.capture = true;
        }
        let joins =
            |a: &str, b: &str| Connection { a: a.into(), b: b.into(), latency_us: 100, bandwidth_kbps: None };
        let connections =
            vec![joins("edge-a", "edge-b"), joins("edge-b", "edge-c"), joins("edge-a", "edge-c")];
        let wan = Wan { name: "wan".into(), connections, ..Wan::default() };
        Self { sites, wan: Some(wan), ..Self::default() }
    }

    pub fn plan(&self, action: IntentKind, before: Option<&NsRecord>) -> Result<Plan, Refusal> {
        self.plan_intent(&intent(action), before)
    }

    pub fn plan_intent(&self, intent: &Intent, before: Option<&NsRecord>) -> Result<Plan, Refusal> {
        let mut grant = grant(intent);
        // A service keeps the id that it was deployed with, also one that an older version made.
        if let Some(before) = before {
            grant.ns_instance_id.clone_from(&before.id);
        }
        grant.images = self.images.iter().copied().collect();
        grant.site_quotas = self.site_quotas.clone();
        grant.attestation_required &= self.attested;
        grant.attestation_keys = self.sites.iter().map(|s| ak(&s.name)).collect();
        let named = format!("op-{}", intent.action.name());
        planner::plan(&Input {
            operation_id: self.operation.as_deref().unwrap_or(&named),
            intent,
            grant: &grant,
            catalogue: Some(&self.catalogue),
            sites: &self.sites,
            wan: self.wan.as_ref(),
            mano: self.mano.as_ref(),
            before,
            without: &self.without,
            last_id: self.last_id,
            entropy: &Digest([7; 32]),
            at: UnixTime(1_000),
            prices: self.prices,
        })
    }

    /// The same with everything observed as a record wants it, but for what `spoil` does.
    pub fn observing(&self, record: &NsRecord, spoil: impl Fn(&str, &mut Inventory)) -> Self {
        let mut it = self.clone();
        for site in &mut it.sites {
            let here = record.objects.iter().filter(|o| o.site == site.name);
            site.inventory.objects = here.map(|o| (o.key.clone(), observed(&o.spec))).collect();
            for (at, key) in record.isolated.iter().filter(|(at, _)| *at == site.name) {
                let _ = at;
                if let Some(Observed::Compute(c)) = site.inventory.objects.get_mut(key) {
                    c.state = ComputeState::Isolated;
                }
            }
            spoil(&site.name.clone(), &mut site.inventory);
        }
        it
    }
}

/// Two sites of guests, whose services OSM makes at those named.
pub fn managed(sites: &[&str]) -> Setup {
    let capabilities = mano::Capabilities {
        driver: "osm".into(),
        sites: sites.iter().map(|s| (*s).to_owned()).collect(),
        heal: true,
        counts_macs_up: true,
        day0_fixed: true,
        ..mano::Capabilities::default()
    };
    let mano = Some(planner::Manager { capabilities });
    let mut setup = Setup { attested: false, mano, ..Setup::default() };
    let vdus = setup.catalogue.vnfs.values_mut().flat_map(|p| p.vnfd.vdus.values_mut());
    vdus.for_each(|v| v.day0 = Some(dataplane_control::day0::EXPRESSION.into()));
    for site in &mut setup.sites {
        (site.capabilities.functions, site.capabilities.attestation, site.ak) = (false, false, None);
        site.capabilities.features = vim::Feature::ALL.into();
    }
    setup
}

/// What a VIM says of an object that is as it should be.
pub fn observed(spec: &Spec) -> Observed {
    match spec {
        Spec::Image(i) => Observed::Image { digest: i.digest },
        Spec::Network(n) => Observed::Network { up: true, mtu: n.mtu, interconnect: n.interconnect.clone() },
        Spec::Compute(c) => Observed::Compute(ObservedCompute {
            state: ComputeState::Active,
            image: c.image,
            configuration: Some(Digest::of(c.configuration.as_bytes())),
            generation: None,
            ports: c.ports.iter().map(|p| (p.name.clone(), p.mac)).collect(),
            process: vim::ProcessState::Answers,
            links: BTreeMap::new(),
            whereabouts: None,
        }),
    }
}

/// The service's next version: every VNF with another image.
pub fn next_version() -> Catalogue {
    let mut c = catalogue();
    c.nsd_package = Digest::of("ns2");
    for package in c.vnfs.values_mut() {
        package.digest = Digest::of(format!("{} 2", package.vnfd.id));
        package.images = map(vec![("dp", Digest::of("dp2"))]);
    }
    c
}

/// Other rules and weights for the same service.
pub fn other_params() -> BTreeMap<String, VnfParams> {
    let mut params = deploy().vnf_params;
    let vfw = params.get_mut("vfw").unwrap();
    let mut more = vfw.rules[0].clone();
    more.id = "dns".into();
    more.destination_ports = Some("53".parse().unwrap());
    vfw.rules.push(more);
    params.get_mut("vlb").unwrap().weights = vec![2, 1];
    params
}

pub fn update(nsd: &str, vnf_params: BTreeMap<String, VnfParams>) -> IntentKind {
    IntentKind::Update(Box::new(Update {
        nsd_package: Digest::of(nsd),
        sla: None,
        lease_s: None,
        vnf_params,
    }))
}

pub fn rollback() -> IntentKind {
    IntentKind::Rollback(Box::new(Rollback {
        to: "intent-deploy".into(),
        nsd_package: Digest::of("ns"),
        vnf_params: deploy().vnf_params,
        reason: "it drops traffic".into(),
    }))
}

pub fn target(member: &str, vdu: &str, index: u32) -> Target {
    Target { member: member.into(), vdu: vdu.into(), index }
}

pub fn heal(targets: Vec<Target>) -> IntentKind {
    IntentKind::Heal(Heal { targets, cause: "it does not answer".into() })
}

pub fn migrate(members: &[&str], sites: &[&str]) -> IntentKind {
    let names = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let placement = PlacementHints { sites: names(sites), ..PlacementHints::default() };
    IntentKind::Migrate(Migrate { members: names(members), placement })
}

pub fn isolate(targets: Vec<Target>, capture_ms: u32) -> IntentKind {
    IntentKind::Isolate(Isolate { targets, capture_ms, reason: "it talks to strangers".into() })
}
