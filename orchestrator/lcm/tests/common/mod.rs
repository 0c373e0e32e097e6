//! A small service (firewall, balancer, two backends), its intents and plans.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;

use attestation::AkRecord;
use dataplane_control::config::{Rule, RuleAction, Vip};
use descriptors::{
    day0::{Day0, Day0Function},
    model::{
        CpRef, IntCpd, Member, NsFlavour, Nsd, ScalingAspect, SwImage, Vdu, VduProfile, VirtualLink,
        VnfFlavour, Vnfd,
    },
};
use lcm::{
    NsRecord, Plan,
    placement::Site,
    planner::{self, Catalogue, Input, Refusal, VnfPackage},
};
use ledger_contract::{
    Intent, IntentKind,
    intent::{
        API_VERSION, Deploy, PlacementHints, Scale, ScaleDirection, Sensitivity, Sla, VnfParams,
        ns_instance_id,
    },
    records::Grant,
};
use trust::{Digest, UnixTime};
use vim::{Capabilities, Inventory, Resources};

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
            })
            .collect(),
        day0: None,
    }
}

fn vnfd(id: &str, vdus: Vec<Vdu>, links: &[&str], external: Vec<(&str, (&str, &str))>) -> Vnfd {
    let image = SwImage {
        id: "dp".into(),
        name: "dp".into(),
        version: "1".into(),
        image: "images/dp".into(),
        sha256: Some(Digest::of("dp")),
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
        }],
        vdus: vdus.into_iter().map(|v| (v.id.clone(), v)).collect(),
        internal_links: links.iter().map(|l| (*l).to_owned()).collect(),
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
    };
    let link = |id: &str| VirtualLink { id: id.into(), management: false };
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
        capabilities: Capabilities { driver: "host".into(), attestation: true, ..Capabilities::default() },
        inventory: Inventory {
            total: Resources { vcpus: 32, memory_mib: 16_384, instances: 64 },
            ..Inventory::default()
        },
        ak: Some(ak(name)),
        problem: None,
    };
    vec![site("edge-a", 2), site("edge-b", 3)]
}

pub fn deploy() -> Deploy {
    let vip = Vip { id: "web".into(), address: "203.0.113.10".parse().unwrap(), protocol: 17, port: 8080 };
    let rule = Rule {
        id: "web".into(),
        from: "outside".into(),
        action: RuleAction::Allow,
        protocol: Some(17),
        source: None,
        destination: Some("203.0.113.10/32".parse().unwrap()),
        source_ports: None,
        destination_ports: Some("8080".parse().unwrap()),
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
        policy: Digest::of("policy"),
        site_quotas: Default::default(),
        waived: Vec::new(),
        standing: None,
    }
}

pub fn try_plan(action: IntentKind, before: Option<&NsRecord>, sites: &[Site]) -> Result<Plan, Refusal> {
    let intent = intent(action);
    let grant = grant(&intent);
    let catalogue = catalogue();
    planner::plan(&Input {
        operation_id: &format!("op-{}", intent.action.name()),
        intent: &intent,
        grant: &grant,
        catalogue: Some(&catalogue),
        sites,
        wan: None,
        before,
        without: &BTreeMap::new(),
        last_id: 0,
        entropy: &Digest([7; 32]),
        at: UnixTime(1_000),
    })
}

pub fn plan(action: IntentKind, before: Option<&NsRecord>) -> Plan {
    try_plan(action, before, &sites()).unwrap()
}
