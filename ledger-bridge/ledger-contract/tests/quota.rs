//! Nothing that was reserved is lost or invented, whatever happens: random histories of all eight actions, with every
//! outcome, some left under way. After each entry the tenant's usage is the sum over its services.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;

use common::*;
use ledger_contract::{
    intent::{
        Heal, Intent, IntentKind, Isolate, Migrate, PlacementHints, Rollback, ScaleDirection, Update,
        VnfParams,
    },
    records::{ANCHOR_PAYLOAD, PACKAGE_PAYLOAD, PackageRecord, ResourceUse},
    state::{InFlightKind, ServiceRecord, ServiceState, Usage},
};
use proptest::prelude::*;
use trust::Digest;

type Params = BTreeMap<String, VnfParams>;

/// One thing that happens to one of the services.
#[derive(Debug, Clone)]
struct Step {
    service: usize,
    /// What is asked for: index of the action.
    action: usize,
    /// A number for whatever the action chooses.
    n: u32,
    /// What its evidence says; `None`: it stays under way.
    end: Option<End>,
}

#[derive(Debug, Clone)]
struct End {
    outcome: usize,
    isolated: bool,
    /// Does the evidence say where it runs, and is that divided over two sites?
    placed: Option<bool>,
}

const SERVICES: [&str; 5] = ["edge", "core", "lab", "shop", "fifth"];
const OUTCOMES: [&str; 3] = ["COMPLETED", "ROLLED_BACK", "FAILED"];

fn end() -> impl Strategy<Value = End> {
    // More often well than not, or nothing would ever grow.
    let outcome = prop_oneof![3 => Just(0_usize), 1 => Just(1), 1 => Just(2)];
    let isolated = proptest::bool::weighted(0.1);
    (outcome, isolated, proptest::option::of(any::<bool>())).prop_map(|(outcome, isolated, placed)| End {
        outcome,
        isolated,
        placed,
    })
}

fn step() -> impl Strategy<Value = Step> {
    (0..SERVICES.len(), 0_usize..8, 1_u32..9, proptest::option::weighted(0.8, end()))
        .prop_map(|(service, action, n, end)| Step { service, action, n, end })
}

struct Walk {
    w: World,
    chain: Chain,
    /// The packages that a revision may have.
    versions: [PackageRecord; 2],
    /// What each approved revision was made of.
    revisions: BTreeMap<String, (Digest, Params)>,
    /// What each service had before the operation that is under way.
    before: BTreeMap<String, ResourceUse>,
    next: u32,
    /// Approved, by action.
    approved: [u32; 8],
}

impl Walk {
    fn new() -> Self {
        let w = world();
        let mut chain = Chain::ready(&w);
        let mut larger = nsd();
        (larger.digest, larger.version) = (Digest::of("ns 2"), "2.0".into());
        larger.resources.instances += 2;
        larger.resources.vcpus += 3;
        chain.approve(sign(PACKAGE_PAYLOAD, &larger, &w.provider));
        let (revisions, before) = (BTreeMap::new(), BTreeMap::new());
        Self { w, chain, versions: [nsd(), larger], revisions, before, next: 0, approved: [0; 8] }
    }

    fn service(&self, name: &str) -> Option<ServiceRecord> {
        self.chain.get(&format!("service/acme/{name}"))
    }

    fn params(n: u32) -> Params {
        [("vlb".to_owned(), VnfParams { weights: vec![n], ..VnfParams::default() })].into()
    }

    fn ask(&mut self, name: &str, action: usize, n: u32) -> Intent {
        self.next += 1;
        let id = format!("intent-{:06}", self.next);
        let nsd_package = self.versions[usize::from(n.is_multiple_of(2))].digest;
        let direction = if n.is_multiple_of(2) { ScaleDirection::ScaleOut } else { ScaleDirection::ScaleIn };
        let kind = match action {
            0 => {
                let mut it = deploy_intent(&id, name);
                if let IntentKind::Deploy(d) = &mut it.action {
                    d.nsd_package = nsd_package;
                }
                it.action
            }
            1 => scale_intent(&id, name, direction, n).action,
            2 => IntentKind::Update(Box::new(Update {
                nsd_package,
                sla: None,
                lease_s: None,
                vnf_params: Self::params(n),
            })),
            3 => self.rollback(name),
            4 => {
                let members = if n > 4 { vec!["vlb".to_owned()] } else { vec![] };
                IntentKind::Migrate(Migrate { members, placement: PlacementHints::default() })
            }
            5 => IntentKind::Heal(Heal { targets: vec![], cause: "an instance is gone".into() }),
            6 => IntentKind::Isolate(Isolate { targets: vec![], capture_ms: 10, reason: "it scans".into() }),
            _ => IntentKind::Terminate {},
        };
        intent(&id, name, kind)
    }

    /// To the last former revision, or to one that never was.
    fn rollback(&self, name: &str) -> IntentKind {
        let former = self.service(name).and_then(|s| s.former.last().map(|r| r.intent_id.clone()));
        let to = former.unwrap_or_else(|| "intent-never".into());
        let never = (self.versions[0].digest, Params::new());
        let (nsd_package, vnf_params) = self.revisions.get(&to).cloned().unwrap_or(never);
        let reason = "it lost packets".into();
        IntentKind::Rollback(Rollback { to, nsd_package, vnf_params, reason }.into())
    }

    fn submit(&mut self, it: &Intent, action: usize) {
        let was = self.service(&it.service).map_or_else(ResourceUse::default, |s| s.reserved);
        if !self.chain.submit(signed(&self.w, it)).verdict.approved {
            return;
        }
        self.approved[action] += 1;
        // What ends another operation leaves what that one had before alone.
        if action < 6 {
            self.before.insert(it.service.clone(), was);
        }
        if let Some((nsd, params)) = it.action.names() {
            self.revisions.insert(it.id.clone(), (nsd, params.clone()));
        }
    }

    /// Its evidence comes, and leaves what the table of `anchoring.rs` says.
    fn settle(&mut self, name: &str, end: &End) {
        let Some(was) = self.service(name) else { return };
        let Some(under_way) = was.in_flight.clone() else { return };
        let mut outcome = OUTCOMES[end.outcome];
        if end.isolated && outcome == "COMPLETED" && under_way.kind != InFlightKind::Isolate {
            outcome = "ROLLED_BACK";
        }
        let id = &under_way.intent_id;
        let mut it = anchor(&format!("op-{id}"), id, &was.ns_instance_id, outcome);
        it.isolated = end.isolated;
        it.sites = end.placed.map(|divided| sites(&was.reserved, divided));
        self.chain.approve(sign(ANCHOR_PAYLOAD, &it, &self.w.orchestrator));
        let before = match under_way.kind {
            InFlightKind::Isolate | InFlightKind::Terminate => was.reserved,
            _ => self.before.remove(name).unwrap(),
        };
        let left = self.service(name).filter(|s| !s.gone).map(|s| s.reserved);
        let expected = match (&under_way.kind, outcome) {
            _ if was.gone => None,
            _ if end.isolated => Some(was.reserved),
            (InFlightKind::Terminate, "COMPLETED") | (InFlightKind::Deploy, "ROLLED_BACK") => None,
            (InFlightKind::Terminate, _) | (_, "ROLLED_BACK") => Some(before),
            (_, "FAILED") | (InFlightKind::Deploy, _) => Some(was.reserved),
            (InFlightKind::Scale { direction: ScaleDirection::ScaleOut, .. }, _) => Some(was.reserved),
            (InFlightKind::Scale { delta, .. }, _) => Some(before.minus(delta).unwrap()),
            (InFlightKind::Revise { reserved, .. }, _) => Some(*reserved),
            _ => Some(before),
        };
        assert_eq!(left, expected, "{:?} {outcome}", under_way.kind);
    }

    fn services(&self) -> Vec<ServiceRecord> {
        SERVICES.iter().filter_map(|name| self.service(name)).collect()
    }

    /// What is charged is what the services have: not more, not less.
    fn conserved(&self) {
        let usage: Usage = self.chain.get("usage/acme").unwrap_or_default();
        let services = self.services();
        assert_eq!(usage.services as usize, services.iter().filter(|s| !s.gone).count());
        let sum = |of: &dyn Fn(&ServiceRecord) -> ResourceUse| {
            services.iter().map(of).fold(ResourceUse::default(), |a, b| a.plus(&b))
        };
        assert_eq!(usage.resources, sum(&|s| s.reserved));
        let asked = |s: &ServiceRecord| s.in_flight.as_ref().map_or_else(ResourceUse::default, |o| o.asked);
        assert_eq!(usage.unplaced, sum(&asked));
        let mut sites: BTreeMap<String, ResourceUse> = BTreeMap::new();
        for (site, used) in services.iter().flat_map(|s| &s.sites) {
            let all = sites.entry(site.clone()).or_default();
            *all = all.plus(used);
        }
        assert_eq!(usage.sites, sites);
        let quota = &policy().data().unwrap().quotas["default"];
        assert!(usage.services <= quota.services && usage.resources.instances <= quota.instances);
        assert!(usage.resources.vcpus <= quota.vcpus && usage.resources.memory_mib <= quota.memory_mib);
    }

    /// Everything is ended, however it stands.
    fn end(&mut self) {
        let well = End { outcome: 0, isolated: false, placed: None };
        for name in SERVICES {
            while self.service(name).is_some_and(|s| s.in_flight.is_some()) {
                self.settle(name, &End { outcome: 2, ..well.clone() });
                self.conserved();
            }
            if self.service(name).is_none() {
                continue;
            }
            let it = self.ask(name, 7, 1);
            self.submit(&it, 7);
            self.conserved();
            self.settle(name, &well);
            self.conserved();
        }
        assert_eq!(self.services(), []);
        assert_eq!(self.chain.get::<Usage>("usage/acme").unwrap_or_default(), Usage::default());
    }
}

fn sites(reserved: &ResourceUse, divided: bool) -> BTreeMap<String, ResourceUse> {
    let at = |name: &str, r: ResourceUse| (name.to_owned(), r);
    let half = ResourceUse { instances: 1, vcpus: 1, ..ResourceUse::default() };
    match divided {
        true => [at("edge-1", reserved.less(&half)), at("edge-2", half)].into(),
        false => [at("edge-1", *reserved)].into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_charged_is_what_the_services_have(steps in proptest::collection::vec(step(), 1..60)) {
        let mut walk = Walk::new();
        for Step { service, action, n, end } in steps {
            let it = walk.ask(SERVICES[service], action, n);
            walk.submit(&it, action);
            walk.conserved();
            if let Some(end) = end {
                walk.settle(SERVICES[service], &end);
                walk.conserved();
            }
        }
        walk.end();
    }
}

/// The walk above means nothing if an action is never approved: here each is.
#[test]
fn every_action_is_walked() {
    let mut walk = Walk::new();
    let well = End { outcome: 0, isolated: false, placed: Some(true) };
    for (action, n) in [(0, 1), (1, 2), (2, 2), (3, 1), (4, 5), (6, 1), (5, 1), (7, 1)] {
        let it = walk.ask("edge", action, n);
        walk.submit(&it, action);
        walk.conserved();
        walk.settle("edge", &well);
        walk.conserved();
    }
    assert_eq!((walk.approved, walk.service("edge")), ([1; 8], None));
    let it = walk.ask("edge", 0, 1);
    walk.submit(&it, 0);
    walk.settle("edge", &End { outcome: 2, ..well });
    assert_eq!(walk.service("edge").unwrap().state, ServiceState::Broken);
    walk.end();
}
