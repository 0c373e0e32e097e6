//! The planner: desired objects, the difference to what is there, and the order of the steps.
//!
//! Every operation is the same computation: the objects of the service before, the objects after, and the steps that
//! lead from one to the other: make what is new, change what differs, attest, measure, remove what is no longer
//! wanted. Deployment starts from nothing, termination ends there.

use std::collections::{BTreeMap, BTreeSet};

use attestation::ReferenceValues;
use dataplane_control::{
    Configuration, Function,
    config::{Backend, Generator},
};
use descriptors::{
    day0::{Day0, Day0Function},
    model::{CpRef, Member, Nsd, Vdu, Vnfd},
};
use ledger_contract::{
    Intent, IntentKind,
    evidence::challenge_nonce,
    intent::{Deploy, Scale, ScaleDirection, VnfParams},
    records::Grant,
};
use trust::{Digest, UnixTime};
use vim::{ComputeSpec, ImageSpec, Kind, NetworkSpec, ObjectKey, PortSpec, Resources, Spec};

use crate::{
    functions::{self, Instance},
    measure::{FLOWS, FLOWS_PER_ADDRESS, Offer},
    placement::{self, Demand, Site},
    plan::{Action, MAX_STEPS, NsRecord, Plan, Step, workload},
};

/// MTU of every virtual link, bytes.
const MTU: u16 = 1500;
/// Size of a measuring probe.
const PROBE_VCPUS: u32 = 1;
const PROBE_MEMORY_MIB: u32 = 256;

/// A VNF package as the planner reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VnfPackage {
    /// Digest of the package.
    pub digest: Digest,
    /// Its descriptor.
    pub vnfd: Vnfd,
    /// Day-0 documents by VDU id.
    pub day0: BTreeMap<String, Day0>,
    /// Digests of its images by `sw-image-desc` id.
    pub images: BTreeMap<String, Digest>,
}

/// The descriptors of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    /// The NSD.
    pub nsd: Nsd,
    /// Digest of its package.
    pub nsd_package: Digest,
    /// VNF packages by VNFD id.
    pub vnfs: BTreeMap<String, VnfPackage>,
}

/// Everything a plan is computed from.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Operation.
    pub operation_id: &'a str,
    /// The intent, as signed.
    pub intent: &'a Intent,
    /// What was granted.
    pub grant: &'a Grant,
    /// Descriptors; not needed to terminate.
    pub catalogue: Option<&'a Catalogue>,
    /// One observation of every site.
    pub sites: &'a [Site],
    /// The service as it is; absent on deploy.
    pub before: Option<&'a NsRecord>,
    /// 32 random bytes, for the challenge's nonce.
    pub entropy: &'a Digest,
    /// Ledger time of the decision.
    pub at: UnixTime,
}

/// Why there is no plan. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// `NO_SITE`, `DESCRIPTOR`, `PARAMETERS`, `SCALE_LIMIT`, `NO_SUCH_SERVICE`, `PACKAGES`, `ATTESTATION_KEY`,
    /// `TOO_LARGE`.
    pub code: &'static str,
    /// What, where, and what to do.
    pub detail: String,
}

fn refuse<T>(code: &'static str, detail: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, detail: detail.into() })
}

/// Plans an operation.
pub fn plan(input: &Input<'_>) -> Result<Plan, Refusal> {
    let plan = match &input.intent.action {
        IntentKind::Deploy(deploy) => plan_deploy(input, deploy)?,
        IntentKind::Scale(scale) => plan_scale(input, scale)?,
        IntentKind::Terminate {} => plan_terminate(input)?,
        other => return refuse("PARAMETERS", format!("`{}` cannot be planned yet", other.name())),
    };
    if plan.steps.len() > MAX_STEPS {
        return refuse(
            "TOO_LARGE",
            format!("{} steps; at most {MAX_STEPS}: split the service", plan.steps.len()),
        );
    }
    Ok(plan)
}

fn plan_deploy(input: &Input<'_>, deploy: &Deploy) -> Result<Plan, Refusal> {
    let topology = Topology::new(input, &deploy.vnf_params)?;
    let counts = topology.initial();
    let mut resources = topology.resources(&counts);
    if topology.probe().is_some() {
        resources.vcpus += PROBE_VCPUS;
        resources.memory_mib += PROBE_MEMORY_MIB;
        resources.instances += 1;
    }
    let attestation = input.grant.attestation_required;
    let demand = Demand { deploy, resources, attestation, at: input.at };
    let (site, refused) = placement::place(&demand, input.sites)
        .map_err(|e| Refusal { code: "NO_SITE", detail: e.to_string() })?;
    let ak = site.ak.clone().filter(|_| site.capabilities.attestation);
    let after = NsRecord {
        id: input.grant.ns_instance_id.clone(),
        tenant: input.intent.tenant.clone(),
        service: input.intent.service.clone(),
        site: site.name.clone(),
        nsd: topology.catalogue.nsd.id.clone(),
        packages: input.grant.packages.clone(),
        deploy: deploy.clone(),
        objects: topology.objects(&counts, None)?,
        instances: counts,
        ak,
        flows: FLOWS,
    };
    Steps::new(input, Some(&topology), None, Some(after), refused)?.build()
}

fn plan_scale(input: &Input<'_>, scale: &Scale) -> Result<Plan, Refusal> {
    let before = existing(input)?;
    let topology = Topology::new(input, &before.deploy.vnf_params)?;
    let counts = topology.scaled(&before.instances, scale)?;
    let mut after = before.clone();
    after.objects = topology.objects(&counts, Some(before))?;
    after.instances = counts;
    after.flows = before.flows.saturating_add(2 * FLOWS);
    // The key may have been rotated or have expired since the deployment: the grant names those that are good now.
    after.ak = input.grant.attestation_keys.iter().find(|k| k.site == before.site).cloned();
    if after.ak.is_none() && input.grant.attestation_required {
        let site = &before.site;
        return refuse(
            "ATTESTATION_KEY",
            format!(
                "the service must be attested, and site {site} has no valid key: `mandate site enrol {site}`"
            ),
        );
    }
    Steps::new(input, Some(&topology), Some(before), Some(after), Vec::new())?.build()
}

fn plan_terminate(input: &Input<'_>) -> Result<Plan, Refusal> {
    let before = existing(input)?;
    Steps::new(input, None, Some(before), None, Vec::new())?.build()
}

fn existing<'a>(input: &Input<'a>) -> Result<&'a NsRecord, Refusal> {
    let id = &input.grant.ns_instance_id;
    match input.before {
        Some(record) if record.id == *id && record.tenant == input.intent.tenant => Ok(record),
        _ => {
            refuse("NO_SUCH_SERVICE", format!("service {id} is not instantiated here: see `mandate ns list`"))
        }
    }
}

/// The service's descriptors, resolved: which VDU of which member is where.
struct Topology<'a> {
    ns: &'a str,
    service: &'a str,
    catalogue: &'a Catalogue,
    members: BTreeMap<&'a str, (&'a Member, &'a VnfPackage)>,
    params: &'a BTreeMap<String, VnfParams>,
}

/// Instances by member and VDU.
type Counts = BTreeMap<String, BTreeMap<String, u32>>;

static NO_PARAMS: VnfParams = VnfParams { rules: Vec::new(), vips: Vec::new(), weights: Vec::new() };

impl<'a> Topology<'a> {
    fn new(input: &Input<'a>, params: &'a BTreeMap<String, VnfParams>) -> Result<Self, Refusal> {
        let Some(catalogue) = input.catalogue else {
            return refuse("PACKAGES", "the service's packages are not here: push them again");
        };
        let Some(flavour) = catalogue.nsd.flavours.first() else {
            return refuse("DESCRIPTOR", format!("NSD {} has no df", catalogue.nsd.id));
        };
        let mut members = BTreeMap::new();
        for (index, member) in &flavour.members {
            let Some(package) = catalogue.vnfs.get(&member.vnfd) else {
                return refuse(
                    "PACKAGES",
                    format!("member {index} is of {}, whose package is not here", member.vnfd),
                );
            };
            members.insert(index.as_str(), (member, package));
        }
        if let Some(stray) = params.keys().find(|k| !members.contains_key(k.as_str())) {
            let known: Vec<_> = members.keys().collect();
            return refuse(
                "PARAMETERS",
                format!("vnf_params name `{stray}`; the NSD's members are {known:?}"),
            );
        }
        let (ns, service) = (input.grant.ns_instance_id.as_str(), input.intent.service.as_str());
        Ok(Self { ns, service, catalogue, members, params })
    }

    fn params(&self, member: &str) -> &VnfParams {
        self.params.get(member).unwrap_or(&NO_PARAMS)
    }

    fn initial(&self) -> Counts {
        let of = |package: &VnfPackage| {
            let flavour = package.vnfd.flavours.first();
            let count = |vdu: &String| flavour.and_then(|f| f.initial.get(vdu)).copied().unwrap_or(1);
            package.vnfd.vdus.keys().map(|v| (v.clone(), count(v))).collect()
        };
        self.members.iter().map(|(m, (_, p))| ((*m).to_owned(), of(p))).collect()
    }

    fn scaled(&self, now: &Counts, scale: &Scale) -> Result<Counts, Refusal> {
        let Some((_, package)) = self.members.get(scale.member.as_str()) else {
            let known: Vec<_> = self.members.keys().collect();
            return refuse("PARAMETERS", format!("no member `{}`; there are {known:?}", scale.member));
        };
        let flavour = package.vnfd.flavours.first();
        let Some(aspect) = flavour.and_then(|f| f.aspects.get(&scale.aspect)) else {
            return refuse(
                "PARAMETERS",
                format!("VNFD {} has no scaling aspect `{}`", package.vnfd.id, scale.aspect),
            );
        };
        let mut counts = now.clone();
        let of_member = counts.entry(scale.member.clone()).or_default();
        for (vdu, delta) in &aspect.delta {
            let change = delta.saturating_mul(scale.steps);
            let count = of_member.entry(vdu.clone()).or_default();
            let next = match scale.direction {
                ScaleDirection::ScaleOut => count.saturating_add(change),
                ScaleDirection::ScaleIn => count.saturating_sub(change),
            };
            let limits = flavour.and_then(|f| f.profiles.get(vdu)).copied();
            let (min, max) = limits.map_or((1, 1), |l| (l.min, l.max));
            if next < min || next > max {
                let detail = format!(
                    "{}/{vdu} would go from {count} to {next} instances; the vdu-profile allows {min} to {max}",
                    scale.member
                );
                return refuse("SCALE_LIMIT", detail);
            }
            *count = next;
        }
        Ok(counts)
    }

    fn resources(&self, counts: &Counts) -> Resources {
        let mut sum = Resources::default();
        for (member, vdus) in counts {
            for (vdu, n) in vdus {
                let Some(v) = self.members.get(member.as_str()).and_then(|(_, p)| p.vnfd.vdus.get(vdu))
                else {
                    continue;
                };
                sum.vcpus = sum.vcpus.saturating_add(v.vcpus.saturating_mul(*n));
                sum.memory_mib = sum.memory_mib.saturating_add(v.memory_mib.saturating_mul(*n));
                sum.instances = sum.instances.saturating_add(*n);
            }
        }
        sum
    }

    /// Every object of the service, in the order it is made.
    fn objects(&self, counts: &Counts, before: Option<&NsRecord>) -> Result<Vec<(ObjectKey, Spec)>, Refusal> {
        let mut out: Vec<(ObjectKey, Spec)> = Vec::new();
        let mut seen = BTreeSet::new();
        for (_, package) in self.members.values() {
            for (id, digest) in &package.images {
                if seen.insert(*digest) {
                    let spec = ImageSpec { name: id.clone(), digest: *digest };
                    out.push((self.key(&["image", &digest.short()])?, Spec::Image(spec)));
                }
            }
        }
        for link in self.catalogue.nsd.links.keys() {
            out.push((self.link_key(link)?, network(link)));
        }
        for (member, (_, package)) in &self.members {
            for link in &package.vnfd.internal_links {
                out.push((self.internal_key(member, link)?, network(link)));
            }
        }
        for (member, vdus) in counts {
            for (vdu, n) in vdus {
                for index in 0..*n {
                    let key = self.instance_key(member, vdu, index)?;
                    let spec = self.compute(counts, member, vdu, index, before.and_then(|b| b.spec(&key)))?;
                    out.push((key, Spec::Compute(spec)));
                }
            }
        }
        Ok(out)
    }

    /// A compute; its configuration's generation is the former one's, or one more when the content differs.
    fn compute(
        &self,
        counts: &Counts,
        member: &str,
        vdu_id: &str,
        index: u32,
        before: Option<&Spec>,
    ) -> Result<ComputeSpec, Refusal> {
        let (_, package, vdu) = self.vdu(member, vdu_id)?;
        let key = self.instance_key(member, vdu_id, index)?;
        let label = format!("{member}/{vdu_id}");
        let Some(day0) = package.day0.get(vdu_id) else {
            return refuse(
                "DESCRIPTOR",
                format!("{label}: its cloud-init has no `mandate` section, so its function is unknown"),
            );
        };
        let Some(image) = package.images.get(&vdu.image) else {
            return refuse("DESCRIPTOR", format!("{label}: image `{}` is not in the package", vdu.image));
        };
        let backends = self.backends(counts, member, day0)?;
        let addresses = functions::addresses(self.params);
        let generation = before.and_then(generation_of).unwrap_or(1);
        let mut instance = Instance {
            key: &key,
            label,
            vdu,
            day0,
            params: self.params(member),
            index,
            backends,
            addresses,
            generation,
        };
        let bad = |e: functions::FunctionError| Refusal { code: "PARAMETERS", detail: e.to_string() };
        let mut document = text(&instance.configuration().map_err(bad)?);
        if let Some(Spec::Compute(b)) = before
            && b.configuration != document
        {
            instance.generation += 1;
            document = text(&instance.configuration().map_err(bad)?);
        }
        Ok(ComputeSpec {
            name: format!("{}-{member}-{vdu_id}-{index}", self.service),
            image: *image,
            vcpus: vdu.vcpus,
            memory_mib: vdu.memory_mib,
            ports: self.ports(member, vdu, &key)?,
            configuration: document,
        })
    }

    fn ports(&self, member: &str, vdu: &Vdu, key: &ObjectKey) -> Result<Vec<PortSpec>, Refusal> {
        let mut ports = Vec::with_capacity(vdu.cpds.len());
        for cpd in &vdu.cpds {
            let network = match &cpd.internal_link {
                Some(link) => self.internal_key(member, link)?,
                None => self.external_link(member, vdu, &cpd.id)?,
            };
            let mac = functions::mac_of(key, &cpd.id);
            ports.push(PortSpec { name: cpd.id.clone(), network, mac, addresses: Vec::new() });
        }
        Ok(ports)
    }

    fn external_link(&self, member: &str, vdu: &Vdu, cpd: &str) -> Result<ObjectKey, Refusal> {
        let (m, package, _) = self.vdu(member, &vdu.id)?;
        let wanted = CpRef { vdu: vdu.id.clone(), cpd: cpd.to_owned() };
        let external = package.vnfd.external_cps.iter().filter(|(_, c)| **c == wanted).map(|(id, _)| id);
        match external.filter_map(|id| m.links.get(id)).next() {
            Some(link) => self.link_key(link),
            None => refuse(
                "DESCRIPTOR",
                format!(
                    "{member}/{}: connection point `{cpd}` is on no link: connect it in the NSD's vnf-profile",
                    vdu.id
                ),
            ),
        }
    }

    fn backends(&self, counts: &Counts, member: &str, day0: &Day0) -> Result<Vec<Backend>, Refusal> {
        let Some(at) = &day0.backends else { return Ok(Vec::new()) };
        let n = counts.get(member).and_then(|v| v.get(&at.vdu)).copied().unwrap_or(0);
        let weights = &self.params(member).weights;
        (0..n)
            .map(|i| Ok(functions::backend(&self.instance_key(member, &at.vdu, i)?, &at.cpd, i, weights)))
            .collect()
    }

    fn vdu(&self, member: &str, vdu: &str) -> Result<(&Member, &VnfPackage, &Vdu), Refusal> {
        let found = self.members.get(member).and_then(|(m, p)| p.vnfd.vdus.get(vdu).map(|v| (*m, *p, v)));
        match found {
            Some(it) => Ok(it),
            None => refuse("DESCRIPTOR", format!("there is no VDU {member}/{vdu}")),
        }
    }

    /// The service access point the probe sits on, and the balancer it measures.
    fn probe(&self) -> Option<(&str, &str, &VnfPackage)> {
        let (sap, _) = self.catalogue.nsd.saps.iter().next()?;
        let balancer = self.members.iter().find(|(m, (_, p))| {
            !self.params(m).vips.is_empty()
                && p.day0.values().any(|d| d.function == Day0Function::LoadBalancer)
        });
        balancer.map(|(m, (_, p))| (sap.as_str(), *m, *p))
    }

    fn firewall_params(&self) -> Option<&VnfParams> {
        self.members
            .iter()
            .find(|(_, (_, p))| p.day0.values().any(|d| d.function == Day0Function::Firewall))
            .map(|(m, _)| self.params(m))
    }

    fn key(&self, parts: &[&str]) -> Result<ObjectKey, Refusal> {
        object_key(self.ns, parts)
    }
    fn link_key(&self, link: &str) -> Result<ObjectKey, Refusal> {
        self.key(&["vl", link])
    }
    fn internal_key(&self, member: &str, link: &str) -> Result<ObjectKey, Refusal> {
        self.key(&[member, "vl", link])
    }
    fn instance_key(&self, member: &str, vdu: &str, index: u32) -> Result<ObjectKey, Refusal> {
        self.key(&[member, vdu, &index.to_string()])
    }
}

fn text(configuration: &Configuration) -> String {
    String::from_utf8_lossy(&configuration.to_bytes()).into_owned()
}

fn network(name: &str) -> Spec {
    Spec::Network(NetworkSpec { name: name.to_owned(), mtu: MTU, interconnect: None })
}

fn generation_of(spec: &Spec) -> Option<u64> {
    match spec {
        Spec::Compute(c) => Configuration::parse(c.configuration.as_bytes()).ok().map(|c| c.generation),
        _ => None,
    }
}

/// A key from descriptor ids, which may have characters that a key may not: those parts are slugged and made unique
/// again by a piece of their digest.
fn object_key(ns: &str, parts: &[&str]) -> Result<ObjectKey, Refusal> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let part = |p: &str| {
        if !p.is_empty() && p.len() <= 40 && p != "." && p != ".." && p.chars().all(legal) {
            return p.to_owned();
        }
        let slug: String =
            p.to_lowercase().chars().map(|c| if legal(c) { c } else { '-' }).take(24).collect();
        format!("{slug}-{}", &Digest::of(p.as_bytes()).hex()[..8])
    };
    let path = parts.iter().map(|p| part(p)).collect::<Vec<_>>().join("/");
    ObjectKey::new(format!("{ns}/{path}")).map_err(|e| Refusal { code: "DESCRIPTOR", detail: e.to_string() })
}

/// Builds the steps of one plan.
struct Steps<'a> {
    input: &'a Input<'a>,
    topology: Option<&'a Topology<'a>>,
    before: Option<&'a NsRecord>,
    after: Option<NsRecord>,
    refused: Vec<(String, String)>,
    steps: Vec<Step>,
    /// Step that makes an object.
    made: BTreeMap<ObjectKey, u32>,
    /// The step that attests the service as it was: nothing is built on what cannot prove itself.
    gate: Option<u32>,
}

impl<'a> Steps<'a> {
    fn new(
        input: &'a Input<'a>,
        topology: Option<&'a Topology<'a>>,
        before: Option<&'a NsRecord>,
        after: Option<NsRecord>,
        refused: Vec<(String, String)>,
    ) -> Result<Self, Refusal> {
        Ok(Self {
            input,
            topology,
            before,
            after,
            refused,
            steps: Vec::new(),
            made: BTreeMap::new(),
            gate: None,
        })
    }

    fn build(mut self) -> Result<Plan, Refusal> {
        if self.after.is_some() {
            self.grow()?;
        }
        self.shrink();
        let isolation = self.isolation();
        let site = self.after.as_ref().or(self.before).map(|r| r.site.clone()).unwrap_or_default();
        Ok(Plan {
            operation_id: self.input.operation_id.to_owned(),
            intent_id: self.input.intent.id.clone(),
            ns_instance_id: self.input.grant.ns_instance_id.clone(),
            action: self.input.intent.action.name().to_owned(),
            site,
            refused: self.refused,
            steps: self.steps,
            isolation,
            before: self.before.cloned(),
            after: self.after,
        })
    }

    fn push(&mut self, mut needs: Vec<u32>, what: String, action: Action, undo: Option<Action>) -> u32 {
        if needs.is_empty() {
            needs.extend(self.gate);
        }
        needs.sort_unstable();
        needs.dedup();
        let id = self.next_id();
        self.steps.push(Step { id, needs, what, action, undo });
        id
    }

    /// New and changed objects, then attestation and measurement.
    fn grow(&mut self) -> Result<(), Refusal> {
        let Some(after) = self.after.clone() else { return Ok(()) };
        if let Some(before) = self.before {
            let unchanged = NsRecord { ak: after.ak.clone(), ..before.clone() };
            self.gate = self.attest("attest (as it was)", &unchanged, None, Vec::new())?;
        }
        let (new, changed): (Vec<_>, Vec<_>) = after
            .objects
            .iter()
            .filter(|(k, s)| self.before.and_then(|b| b.spec(k)) != Some(s))
            .partition(|(k, _)| self.before.and_then(|b| b.spec(k)).is_none());
        for (key, spec) in new {
            self.make(key, spec);
        }
        let probe = self.probe(&after)?;
        let baseline = match (&probe, self.before) {
            (Some(p), Some(before)) => {
                let sets = [(flow(before.flows), before.backends())];
                Some(self.measure("measure (baseline)", p, &after, &sets, vec![p.step]))
            }
            _ => None,
        };
        let fresh: Vec<u32> = self.made.values().copied().collect();
        for (key, spec) in changed {
            self.change(key, spec, fresh.iter().copied().chain(baseline).collect());
        }
        let ready: Vec<u32> = self.made.values().copied().collect();
        let attested = self.attest("attest", &after, probe.as_ref(), ready.clone())?;
        if let Some(p) = &probe {
            let sets = match self.before {
                // Flows that began before keep their backends; new ones follow the new table.
                Some(before) if grows(before, &after) => {
                    vec![
                        (flow(before.flows), before.backends()),
                        (flow(before.flows.saturating_add(FLOWS)), after.backends()),
                    ]
                }
                Some(before) => vec![(flow(before.flows.saturating_add(FLOWS)), after.backends())],
                None => vec![(0, after.backends())],
            };
            let needs = attested.map_or(ready, |a| vec![a]);
            let measured = self.measure("measure", p, &after, &sets, needs);
            self.push(
                vec![measured],
                "stop the probe".into(),
                Action::Remove { key: p.key.clone(), kind: Kind::Compute },
                None,
            );
        }
        Ok(())
    }

    fn make(&mut self, key: &ObjectKey, spec: &Spec) -> u32 {
        let verb = match spec {
            Spec::Image(_) => "store image",
            Spec::Network(_) => "make link",
            Spec::Compute(_) => "start",
        };
        let undo = Action::Remove { key: key.clone(), kind: spec.kind() };
        let needs = self.needs_of(spec);
        let id = self.push(needs, format!("{verb} {}", short(key)), ensure(key, spec), Some(undo));
        self.made.insert(key.clone(), id);
        id
    }

    /// A compute needs its image and its links, as far as this plan makes them.
    fn needs_of(&self, spec: &Spec) -> Vec<u32> {
        let Spec::Compute(c) = spec else { return Vec::new() };
        let image = self.after.iter().flat_map(|a| &a.objects).find_map(|(k, s)| match s {
            Spec::Image(i) if i.digest == c.image => Some(k),
            _ => None,
        });
        let objects = image.into_iter().chain(c.ports.iter().map(|p| &p.network));
        objects.filter_map(|k| self.made.get(k)).copied().collect()
    }

    fn change(&mut self, key: &ObjectKey, spec: &Spec, needs: Vec<u32>) {
        let undo = self.before.and_then(|b| b.spec(key)).map(|old| ensure(key, &restored(old, spec)));
        let id = self.push(needs, format!("reconfigure {}", short(key)), ensure(key, spec), undo);
        self.made.insert(key.clone(), id);
    }

    fn probe(&mut self, after: &NsRecord) -> Result<Option<Probe>, Refusal> {
        let Some(topology) = self.topology else { return Ok(None) };
        let Some((sap, _, package)) = topology.probe() else { return Ok(None) };
        let Some(link) = topology.catalogue.nsd.saps.get(sap) else { return Ok(None) };
        let Some(image) = package.images.values().next().copied() else { return Ok(None) };
        let key = topology.key(&["probe", sap])?;
        let configuration = Configuration {
            instance: key.to_string(),
            generation: 1,
            ports: functions::ports(&key, std::iter::once(sap)),
            function: Function::Generator(Generator { port: sap.to_owned() }),
        };
        let mac = functions::mac_of(&key, sap);
        let spec = Spec::Compute(ComputeSpec {
            name: format!("{}-probe-{sap}", topology.service),
            image,
            vcpus: PROBE_VCPUS,
            memory_mib: PROBE_MEMORY_MIB,
            ports: vec![PortSpec {
                name: sap.to_owned(),
                network: topology.link_key(link)?,
                mac,
                addresses: Vec::new(),
            }],
            configuration: text(&configuration),
        });
        debug_assert!(after.spec(&key).is_none());
        let step = self.make(&key, &spec);
        Ok(Some(Probe { key, spec, step }))
    }

    fn measure(
        &mut self,
        what: &str,
        probe: &Probe,
        after: &NsRecord,
        sets: &[(u32, Vec<Backend>)],
        needs: Vec<u32>,
    ) -> u32 {
        let params = self.topology.map(|t| (t.firewall_params(), t.probe().map(|(_, m, _)| t.params(m))));
        let (firewall, balancer) = params.unwrap_or((None, None));
        let offer = Offer {
            rules: firewall.map(|p| p.rules.as_slice()),
            vips: balancer.map(|p| p.vips.as_slice()).unwrap_or_default(),
            sla: &after.deploy.sla,
        };
        let profile = Box::new(offer.profile(sets));
        let action = Action::Measure { probe: probe.key.clone(), profile, sla: after.deploy.sla.clone() };
        self.push(needs, what.into(), action, None)
    }

    fn attest(
        &mut self,
        what: &str,
        record: &NsRecord,
        probe: Option<&Probe>,
        needs: Vec<u32>,
    ) -> Result<Option<u32>, Refusal> {
        let Some(ak) = record.ak.clone() else { return Ok(None) };
        let mut workloads = record.workloads();
        if let Some(p) = probe {
            workloads.extend(workload(&p.spec).map(|w| (p.key.to_string(), w)));
        }
        let reference = ReferenceValues { ak, workloads };
        let granted = &self.input.grant.images;
        if let Some((instance, w)) = reference.workloads.iter().find(|(_, w)| !granted.contains(&w.image)) {
            return refuse(
                "PACKAGES",
                format!("{instance} would run image {}, which was not granted", w.image),
            );
        }
        let entropy = *self.input.entropy;
        let nonce = challenge_nonce(&entropy, self.input.operation_id, self.next_id(), &reference);
        let action = Action::Attest { reference: Box::new(reference), entropy, nonce };
        Ok(Some(self.push(needs, what.into(), action, None)))
    }

    fn next_id(&self) -> u32 {
        u32::try_from(self.steps.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Objects that are no longer wanted: computes first, then links, then images.
    fn shrink(&mut self) {
        let Some(before) = self.before else { return };
        let kept = |key: &ObjectKey| self.after.as_ref().is_some_and(|a| a.spec(key).is_some());
        let gone: Vec<_> = before.objects.iter().filter(|(k, _)| !kept(k)).cloned().collect();
        let forward_only = self.after.is_none();
        let mut needs: Vec<u32> = self.steps.last().map(|s| s.id).into_iter().collect();
        for kind in [Kind::Compute, Kind::Network, Kind::Image] {
            let mut stage = Vec::new();
            for (key, spec) in gone.iter().rev().filter(|(_, s)| s.kind() == kind) {
                let undo = (!forward_only).then(|| ensure(key, spec));
                let action = Action::Remove { key: key.clone(), kind };
                stage.push(self.push(needs.clone(), format!("remove {}", short(key)), action, undo));
            }
            if !stage.is_empty() {
                needs = stage;
            }
        }
    }

    fn isolation(&self) -> Vec<Step> {
        if !self.steps.iter().any(|s| matches!(s.action, Action::Attest { .. })) {
            return Vec::new();
        }
        let mut next = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        // What is to be removed stands as long as attestation has not passed.
        let all = self.before.into_iter().chain(&self.after).flat_map(|r| &r.objects);
        let computes: BTreeSet<_> = all.filter(|(_, s)| s.kind() == Kind::Compute).map(|(k, _)| k).collect();
        let mut steps = Vec::new();
        let mut push = |what: String, action: Action| {
            next = next.saturating_add(1);
            steps.push(Step { id: next, needs: Vec::new(), what, action, undo: None });
        };
        for key in computes {
            push(format!("isolate {}", short(key)), Action::Isolate { key: key.clone() });
        }
        for step in &self.steps {
            if let Action::Measure { probe, .. } = &step.action {
                push("stop the probe".into(), Action::Remove { key: probe.clone(), kind: Kind::Compute });
                break;
            }
        }
        steps
    }
}

struct Probe {
    key: ObjectKey,
    spec: Spec,
    step: u32,
}

fn ensure(key: &ObjectKey, spec: &Spec) -> Action {
    Action::Ensure { key: key.clone(), spec: Box::new(spec.clone()) }
}

/// Index of the first flow of a set: within the ports of one source address, which a rule may be limited to. By the
/// time they come round again, 128 scalings later, the balancer has forgotten the first ones.
fn flow(used: u32) -> u32 {
    used % FLOWS_PER_ADDRESS
}

fn grows(before: &NsRecord, after: &NsRecord) -> bool {
    let now = after.backends();
    before.backends().iter().all(|b| now.contains(b))
}

/// A key without its service, for people.
fn short(key: &ObjectKey) -> &str {
    key.as_str().split_once('/').map_or(key.as_str(), |(_, rest)| rest)
}

/// The old spec as an undo: its configuration under a generation above the new one's, because a data plane never
/// goes back to an older generation.
fn restored(old: &Spec, new: &Spec) -> Spec {
    let (Spec::Compute(o), Some(generation)) = (old, generation_of(new)) else { return old.clone() };
    match Configuration::parse(o.configuration.as_bytes()) {
        Ok(mut c) => {
            c.generation = generation.saturating_add(1);
            Spec::Compute(ComputeSpec { configuration: text(&c), ..o.clone() })
        }
        Err(_) => old.clone(),
    }
}
