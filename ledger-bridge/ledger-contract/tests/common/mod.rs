//! A small consortium, and a ledger in memory, for tests.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use attestation::AkRecord;
use ledger_contract::{
    Outcome, Snapshot, TxInfo,
    contract::{decide, snapshot},
    evidence::{InclusionProof, ProvenEntry},
    intent::{
        Deploy, INTENT_PAYLOAD, Intent, IntentKind, PlacementHints, Scale, ScaleDirection, Sensitivity, Sla,
    },
    policy::{DEFAULT_BUILDER, OrgPolicy},
    records::{
        AK_PAYLOAD, ANCHOR_PAYLOAD, Anchor, ENTRY_VERSION, Entry, GENESIS_PAYLOAD, Genesis, ImageRecord,
        PACKAGE_PAYLOAD, PackageKind, PackageRecord, PolicyBundle, ResourceUse,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use trust::{
    Digest, Envelope, Signer, TrustRoots, UnixTime,
    identity::OrgRoot,
    issue::{Issued, ca, member},
    merkle::{Tree, leaf_hash},
    note::NoteSigner,
    statement::{ResourceDescriptor, Statement},
};

pub const FROM: UnixTime = UnixTime(1_700_000_000);
pub const TO: UnixTime = UnixTime(1_900_000_000);
pub const NOW: UnixTime = UnixTime(1_800_000_000);
pub const LEDGER: &str = "ledger.example/mandate";

/// Who there is.
pub struct World {
    pub roots: TrustRoots,
    pub operator: Signer,
    pub orchestrator: Signer,
    pub provider: Signer,
    pub acme: Signer,
    pub globex: Signer,
    /// A tenant's member that acme's CA certified for globex.
    pub impostor: Signer,
    /// A member that acme's CA calls an orchestrator.
    pub usurper: Signer,
    pub auditor: Signer,
    /// Of an organisation that nobody knows.
    pub stranger: Signer,
    /// acme's, but its certificate has ended.
    pub expired: Signer,
    pub log: NoteSigner,
}

fn signer(authority: &Issued, name: &str, role: &str, tenant: &str, seed: u8, to: UnixTime) -> Signer {
    let mut attrs = BTreeMap::from([("mandate.role".to_owned(), role.to_owned())]);
    if !tenant.is_empty() {
        attrs.insert("mandate.tenant".into(), tenant.into());
    }
    let it = member(authority, name, attrs, &[seed; 32], &[seed], (FROM, to)).unwrap();
    Signer::from_pem(&it.key_pem, &it.certificate_pem).unwrap()
}

pub fn world() -> World {
    let names = [("op", 1), ("prov", 2), ("acme", 3), ("globex", 4), ("nobody", 5)];
    let cas: BTreeMap<&str, Issued> =
        names.iter().map(|(n, seed)| (*n, ca(n, &[*seed; 32], FROM, TO).unwrap())).collect();
    let root = |n: &str| OrgRoot { ca: vec![cas[n].certificate_pem.clone()], ..OrgRoot::default() };
    let orgs = ["op", "prov", "acme", "globex"].iter().map(|n| ((*n).to_owned(), root(n))).collect();
    let log = NoteSigner::new(LEDGER, &[42; 32]).unwrap();
    World {
        roots: TrustRoots { orgs, logs: vec![log.verifier().to_string()], channel: None },
        operator: signer(&cas["op"], "olga", "operator", "", 11, TO),
        orchestrator: signer(&cas["op"], "orchestrator-1", "orchestrator", "", 12, TO),
        provider: signer(&cas["prov"], "paul", "provider", "", 13, TO),
        acme: signer(&cas["acme"], "alice", "tenant", "acme", 14, TO),
        globex: signer(&cas["globex"], "gina", "tenant", "globex", 15, TO),
        impostor: signer(&cas["acme"], "mallory", "tenant", "globex", 16, TO),
        usurper: signer(&cas["acme"], "mallory", "orchestrator", "", 17, TO),
        auditor: signer(&cas["op"], "arthur", "auditor", "", 18, TO),
        stranger: signer(&cas["nobody"], "eve", "tenant", "acme", 19, TO),
        expired: signer(&cas["acme"], "edgar", "tenant", "acme", 20, UnixTime(NOW.0 - 1000)),
        log,
    }
}

pub fn payload(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

pub fn sign(kind: &str, value: &impl Serialize, by: &Signer) -> Envelope {
    Envelope::sign(kind, payload(value), &[by]).unwrap()
}

/// The default bundle, with what each organisation may vouch for.
pub fn policy() -> PolicyBundle {
    let bundle = PolicyBundle::default_bundle();
    let mut data = bundle.data().unwrap();
    let set = |s: &[&str]| s.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
    data.orgs.insert("op".into(), OrgPolicy { roles: set(&["auditor"]), tenants: set(&[]) });
    data.orgs.insert("prov".into(), OrgPolicy { roles: set(&["provider"]), tenants: set(&[]) });
    for tenant in ["acme", "globex"] {
        data.orgs.insert(tenant.into(), OrgPolicy { roles: set(&["tenant"]), tenants: set(&[tenant]) });
    }
    bundle.with_data(&data)
}

/// The default bundle without anything about organisations.
pub fn open_policy() -> PolicyBundle {
    PolicyBundle::default_bundle()
}

pub fn genesis(w: &World, policy: PolicyBundle) -> Envelope {
    let it = Genesis { ledger: LEDGER.into(), orgs: w.roots.orgs.clone(), operator: "op".into(), policy };
    sign(GENESIS_PAYLOAD, &it, &w.operator)
}

pub fn provenance(w: &World, image: Digest, builder: &str) -> Envelope {
    let predicate = serde_json::json!({"buildDefinition": {}, "runDetails": {"builder": {"id": builder}}});
    let subject = vec![ResourceDescriptor::new("mandate-dataplane", image)];
    Statement::new(subject, "https://slsa.dev/provenance/v1", predicate).sign(&w.provider).unwrap()
}

pub fn image(w: &World) -> ImageRecord {
    let digest = Digest::of("the data plane");
    ImageRecord {
        digest,
        sbom: Some(Digest::of("sbom")),
        contents: None,
        provenance: Some(provenance(w, digest, DEFAULT_BUILDER)),
        provenance_bundle: None,
    }
}

pub fn vnf(w: &World, id: &str) -> PackageRecord {
    PackageRecord {
        digest: Digest::of(format!("package {id}")),
        kind: PackageKind::Vnf,
        descriptor_id: id.into(),
        version: "1.0".into(),
        constituents: BTreeMap::new(),
        resources: ResourceUse { instances: 1, vcpus: 1, memory_mib: 512, ..ResourceUse::default() },
        scaling: BTreeMap::new(),
        members: BTreeMap::new(),
        images: vec![image(w)],
    }
}

pub fn nsd() -> PackageRecord {
    let constituent = |id: &str| (id.to_owned(), Digest::of(format!("package {id}")));
    PackageRecord {
        digest: Digest::of("package secure_edge_ns"),
        kind: PackageKind::Ns,
        descriptor_id: "secure_edge_ns".into(),
        version: "1.0".into(),
        constituents: BTreeMap::from([constituent("vfw_vnf"), constituent("vlb_vnf")]),
        resources: ResourceUse { instances: 4, vcpus: 4, memory_mib: 2048, ..ResourceUse::default() },
        scaling: BTreeMap::from([(
            "vlb/backends".to_owned(),
            ResourceUse { instances: 1, vcpus: 1, memory_mib: 256, ..ResourceUse::default() },
        )]),
        members: [("vfw", "vfw_vnf"), ("vlb", "vlb_vnf")].map(|(m, v)| (m.to_owned(), v.to_owned())).into(),
        images: vec![],
    }
}

pub fn ak(site: &str) -> AkRecord {
    AkRecord {
        site: site.into(),
        public_key: "AAAA".into(),
        pcr: 14,
        pcr_baseline: Digest([0; 32]),
        not_before: FROM,
        not_after: TO,
    }
}

pub fn deploy(sensitivity: Sensitivity) -> Deploy {
    Deploy {
        nsd_package: nsd().digest,
        sla: Sla { throughput_kbps: 1000, latency_p95_us: 50_000, loss_ppm: 1000 },
        placement: PlacementHints::default(),
        sensitivity,
        lease_s: 3600,
        vnf_params: BTreeMap::new(),
    }
}

pub fn intent(id: &str, service: &str, action: IntentKind) -> Intent {
    Intent {
        api_version: "mandate.dev/v1".into(),
        id: id.into(),
        tenant: "acme".into(),
        service: service.into(),
        not_after: NOW.plus(3600),
        depends_on: Vec::new(),
        emergency: None,
        standing: None,
        action,
    }
}

pub fn deploy_intent(id: &str, service: &str) -> Intent {
    intent(id, service, IntentKind::Deploy(Box::new(deploy(Sensitivity::Internal))))
}

pub fn scale_intent(id: &str, service: &str, direction: ScaleDirection, steps: u32) -> Intent {
    let scale = Scale { member: "vlb".into(), aspect: "backends".into(), direction, steps };
    intent(id, service, IntentKind::Scale(scale))
}

pub fn signed(w: &World, intent: &Intent) -> Envelope {
    sign(INTENT_PAYLOAD, intent, &w.acme)
}

pub fn anchor(operation: &str, intent: &str, ns: &str, outcome: &str) -> Anchor {
    Anchor {
        operation_id: operation.into(),
        intent_id: intent.into(),
        ns_instance_id: ns.into(),
        outcome: outcome.into(),
        bundle: Digest::of(operation),
        isolated: false,
        sla_met: None,
        sites: None,
    }
}

/// A ledger in memory.
#[derive(Clone)]
pub struct Chain {
    pub state: BTreeMap<String, Vec<u8>>,
    pub entries: Vec<String>,
    pub time: UnixTime,
    tree: Tree,
    log: NoteSigner,
}

impl Chain {
    /// With its genesis.
    pub fn founded(w: &World, policy: PolicyBundle) -> Self {
        let mut it = Self {
            state: BTreeMap::new(),
            entries: vec![],
            time: NOW,
            tree: Tree::default(),
            log: w.log.clone(),
        };
        it.approve(genesis(w, policy));
        it
    }

    /// With its packages and one attestation key.
    pub fn ready(w: &World) -> Self {
        let mut it = Self::founded(w, policy());
        for package in [vnf(w, "vfw_vnf"), vnf(w, "vlb_vnf"), nsd()] {
            it.approve(sign(PACKAGE_PAYLOAD, &package, &w.provider));
        }
        it.approve(sign(AK_PAYLOAD, &ak("edge-1"), &w.operator));
        it
    }

    pub fn snapshot(&self, request: &Envelope) -> Snapshot {
        snapshot::<()>(request, |key| Ok(self.state.get(key).cloned())).unwrap()
    }

    pub fn tx(&self) -> TxInfo {
        TxInfo {
            v: ENTRY_VERSION,
            ledger: LEDGER.into(),
            position: self.entries.len() as u64,
            time: self.time,
        }
    }

    pub fn decide(&self, request: &Envelope) -> Outcome {
        decide(request, &self.snapshot(request), &self.tx())
    }

    pub fn submit(&mut self, request: Envelope) -> Outcome {
        let outcome = self.decide(&request);
        let TxInfo { v, ledger, position, time } = self.tx();
        let entry = Entry {
            v,
            ledger,
            position,
            time,
            request,
            verdict: outcome.verdict.clone(),
            event: outcome.event.clone(),
            writes: outcome.writes_digest(),
        };
        self.push(String::from_utf8(entry.to_bytes()).unwrap());
        for (key, value) in &outcome.writes {
            match value {
                Some(value) => self.state.insert(key.clone(), value.clone()),
                None => self.state.remove(key),
            };
        }
        outcome
    }

    /// Any bytes as the next entry.
    pub fn push(&mut self, entry: String) {
        self.tree.push(leaf_hash(entry.as_bytes()));
        self.entries.push(entry);
    }

    pub fn approve(&mut self, request: Envelope) -> Outcome {
        let outcome = self.submit(request);
        assert!(outcome.verdict.approved, "{:#?}", outcome.verdict);
        outcome
    }

    pub fn refuse(&mut self, request: Envelope, code: &str) -> Outcome {
        let outcome = self.submit(request);
        assert!(!outcome.verdict.approved && outcome.event.is_none());
        assert_eq!(outcome.verdict.code(), code, "{:#?}", outcome.verdict);
        outcome
    }

    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.state.get(key).map(|v| serde_json::from_slice(v).unwrap())
    }

    /// Deploys a service of acme and anchors its completion; its NS instance.
    pub fn active(&mut self, w: &World, id: &str, service: &str) -> String {
        self.approve(signed(w, &deploy_intent(id, service)));
        let ns = ledger_contract::intent::ns_instance_id("acme", service, id);
        self.approve(sign(
            ANCHOR_PAYLOAD,
            &anchor(&format!("op-{id}"), id, &ns, "COMPLETED"),
            &w.orchestrator,
        ));
        ns
    }

    pub fn proven(&self, position: u64) -> ProvenEntry {
        let size = self.tree.size();
        ProvenEntry {
            entry: self.entries[usize::try_from(position).unwrap()].clone(),
            proof: InclusionProof {
                index: position,
                path: self.tree.inclusion(position, size).unwrap(),
                checkpoint: self.log.sign_checkpoint(size, self.tree.root()).unwrap(),
            },
            channel: None,
        }
    }

    pub fn last(&self) -> ProvenEntry {
        self.proven(self.entries.len() as u64 - 1)
    }
}
