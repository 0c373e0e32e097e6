//! The record of a network service: what is desired of it, and where.
//!
//! Every object has a site: the same key may stand at two of them, as the parts of a link that spans them, as an image
//! that both run, or while a member moves. [`NsRecord::desired`] is the record without its weight, for who compares
//! thousands of them with what is observed.
//!
//! Records are journaled inside of plans. A record written by version 0.1 (objects as pairs, one attestation key)
//! is read as what it meant: `tests/upgrade.rs`.

use std::collections::{BTreeMap, BTreeSet};

use attestation::{AkRecord, Workload};
use dataplane_control::{Configuration, Function, config::Backend};
use ledger_contract::intent::Deploy;
use serde::{Deserialize, Serialize};
use trust::Digest;
use vim::{Kind, ObjectKey, Spec};

use crate::{drift::Desired, plan::workload};

/// An object that must be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// Where.
    pub site: String,
    /// Its key: unique at its site.
    pub key: ObjectKey,
    /// What it is to be.
    pub spec: Spec,
}

impl Object {
    /// Is it this one?
    #[must_use]
    pub fn is(&self, site: &str, key: &ObjectKey) -> bool {
        self.key == *key && self.site == site
    }

    /// Site and key.
    #[must_use]
    pub fn place(&self) -> (&str, &ObjectKey) {
        (&self.site, &self.key)
    }
}

/// A network service as it is desired: what the next operation starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct NsRecord {
    /// NS instance.
    pub id: String,
    /// Tenant.
    pub tenant: String,
    /// Service.
    pub service: String,
    /// Its main site: where new members go, and where its traffic comes in.
    pub site: String,
    /// NSD id.
    pub nsd: String,
    /// Packages by descriptor id, as granted for the present revision.
    pub packages: BTreeMap<String, Digest>,
    /// The parameters of the present revision: the deployment's, as updates and rollbacks changed them.
    pub deploy: Deploy,
    /// Id of the intent that made the present revision; empty: the deployment's, which was not noted then.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// Instances by member and VDU.
    pub instances: BTreeMap<String, BTreeMap<String, u32>>,
    /// Everything that must be there, in the order it was made.
    pub objects: Vec<Object>,
    /// What may stand although nobody wants it: a failed operation left it. The next operation that may remove anything
    /// does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<Object>,
    /// The attestation keys of its sites, by site, of those that attest.
    pub aks: BTreeMap<String, AkRecord>,
    /// Instances whose traffic is cut, by site.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub isolated: BTreeSet<(String, ObjectKey)>,
    /// The MANO that made its instances, by its driver's name; absent: we did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mano: Option<String>,
    /// Day-0 documents that the MANO was given when it made the service, by instance, those in reserve too: it boots what it makes
    /// anew with these for ever, and we with what is wanted by then.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub told: BTreeMap<ObjectKey, String>,
    /// Flows that measurements have used. A balancer remembers a flow longer than two operations are apart, so each
    /// measurement takes new ones.
    pub flows: u32,
}

/// What is found in a journal: of this version, or of 0.1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: String,
    tenant: String,
    service: String,
    site: String,
    nsd: String,
    packages: BTreeMap<String, Digest>,
    deploy: Deploy,
    #[serde(default)]
    revision: String,
    instances: BTreeMap<String, BTreeMap<String, u32>>,
    objects: Vec<WrittenObject>,
    #[serde(default)]
    leftovers: Vec<Object>,
    #[serde(default)]
    aks: BTreeMap<String, AkRecord>,
    /// Of 0.1: the key of the one site.
    #[serde(default)]
    ak: Option<AkRecord>,
    #[serde(default)]
    isolated: BTreeSet<(String, ObjectKey)>,
    #[serde(default)]
    mano: Option<String>,
    #[serde(default)]
    told: BTreeMap<ObjectKey, String>,
    #[serde(default)]
    flows: u32,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenObject {
    Placed(Object),
    /// Of 0.1: at the one site.
    Pair(ObjectKey, Spec),
}

impl From<Written> for NsRecord {
    fn from(w: Written) -> Self {
        let site = w.site.clone();
        let placed = |o| match o {
            WrittenObject::Placed(object) => object,
            WrittenObject::Pair(key, spec) => Object { site: site.clone(), key, spec },
        };
        // A probe that a failed measurement left stood among the objects before there were leftovers.
        let probes = format!("{}/probe/", w.id);
        let (left, objects): (Vec<Object>, Vec<Object>) =
            w.objects.into_iter().map(placed).partition(|o| o.key.as_str().starts_with(&probes));
        let leftovers = w.leftovers.into_iter().chain(left).collect();
        let aks = w.aks.into_iter().chain(w.ak.map(|ak| (w.site.clone(), ak))).collect();
        Self {
            id: w.id,
            tenant: w.tenant,
            service: w.service,
            site: w.site,
            nsd: w.nsd,
            packages: w.packages,
            deploy: w.deploy,
            revision: w.revision,
            instances: w.instances,
            objects,
            leftovers,
            aks,
            isolated: w.isolated,
            mano: w.mano,
            told: w.told,
            flows: w.flows,
        }
    }
}

fn put(objects: &mut Vec<Object>, site: &str, key: ObjectKey, spec: Spec) {
    match objects.iter_mut().find(|o| o.is(site, &key)) {
        Some(o) => o.spec = spec,
        None => objects.push(Object { site: site.to_owned(), key, spec }),
    }
}

impl NsRecord {
    /// The desired spec of an object.
    #[must_use]
    pub fn spec(&self, site: &str, key: &ObjectKey) -> Option<&Spec> {
        self.objects.iter().find(|o| o.is(site, key)).map(|o| &o.spec)
    }

    /// Replaces or appends an object.
    pub fn put(&mut self, site: &str, key: ObjectKey, spec: Spec) {
        put(&mut self.objects, site, key, spec);
    }

    /// Notes what stands and is not wanted.
    pub fn leave(&mut self, site: &str, key: ObjectKey, spec: Spec) {
        put(&mut self.leftovers, site, key, spec);
    }

    /// Takes an object off, wanted or not.
    pub fn take(&mut self, site: &str, key: &ObjectKey) {
        self.objects.retain(|o| !o.is(site, key));
        self.leftovers.retain(|o| !o.is(site, key));
        self.uncut(site, key);
    }

    /// Its traffic is not cut any more: it is gone, or another instance is in its place.
    pub fn uncut(&mut self, site: &str, key: &ObjectKey) {
        self.isolated.retain(|(s, k)| (s.as_str(), k) != (site, key));
    }

    /// The same without what was left.
    #[must_use]
    pub fn tidied(&self) -> Self {
        Self { leftovers: Vec::new(), ..self.clone() }
    }

    /// Everything that may stand: what must, and what was left.
    pub fn standing(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter().chain(&self.leftovers)
    }

    /// Its instances.
    pub fn computes(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter(|o| o.spec.kind() == Kind::Compute)
    }

    /// Every site that holds something of it.
    #[must_use]
    pub fn sites(&self) -> BTreeSet<&str> {
        self.standing().map(|o| o.site.as_str()).collect()
    }

    /// Segments of the wide-area network that its links use: no other service may.
    #[must_use]
    pub fn segments(&self) -> BTreeSet<u16> {
        let segment = |o: &Object| match &o.spec {
            Spec::Network(n) => n.interconnect.as_ref().map(|i| i.segment),
            _ => None,
        };
        self.standing().filter_map(segment).collect()
    }

    /// Backends of its (first) load balancer, as its configuration has them.
    #[must_use]
    pub fn backends(&self) -> Vec<Backend> {
        let documents = self.objects.iter().filter_map(|o| match &o.spec {
            Spec::Compute(c) => Configuration::parse(c.configuration.as_bytes()).ok(),
            _ => None,
        });
        let mut balancers = documents.filter_map(|c| match c.function {
            Function::LoadBalancer(l) => Some(l.backends),
            _ => None,
        });
        balancers.next().unwrap_or_default()
    }

    /// What its instances at a site must be measured to be; those that are cut off cannot be asked.
    #[must_use]
    pub fn workloads(&self, site: &str) -> BTreeMap<String, Workload> {
        let asked = |o: &&Object| o.site == site && !self.is_isolated(o);
        let of = |o: &Object| workload(&o.spec).map(|w| (o.key.to_string(), w));
        self.objects.iter().filter(asked).filter_map(of).collect()
    }

    /// Is its traffic cut?
    #[must_use]
    pub fn is_isolated(&self, object: &Object) -> bool {
        self.isolated.iter().any(|(s, k)| object.is(s, k))
    }

    /// What must be observed of it.
    #[must_use]
    pub fn desired(&self) -> Desired {
        Desired::of(self)
    }
}
