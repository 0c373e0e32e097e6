//! From a verified package to the record that its provider signs and the ledger keeps.
//!
//! Provider and orchestrator compute it independently and compare: the provider signs nothing that somebody else made
//! up, and the orchestrator registers nothing that the content does not say. Pure. An instance is counted at its
//! default level of the first deployment flavour, which is what an intent without a flavour gets.

use std::collections::BTreeMap;

use descriptors::{
    VerifiedPackage,
    model::{Nsd, VnfFlavour, Vnfd},
    package::{Descriptor, ImageEvidence, SignedProvenance},
    sbom::{ComponentRef, SbomSummary},
};
use ledger_contract::records::{
    ImageContents, ImageRecord, PackageKind, PackageRecord, ProvenanceBundle, ResourceUse,
};
use trust::Digest;

/// Why there is no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A VNF package that an NSD refers to is not among the constituents.
    #[error("NSD `{nsd}` refers to VNFD `{vnfd}`, whose package is not known; push that one first")]
    Constituent {
        /// The NSD.
        nsd: String,
        /// The VNFD's id.
        vnfd: String,
    },
    /// More than can be counted.
    #[error("`{descriptor}` asks for more {what} than can be counted")]
    TooLarge {
        /// The descriptor.
        descriptor: String,
        /// `vCPUs`, …
        what: &'static str,
    },
    /// No deployment flavour (the parser refuses such a descriptor).
    #[error("`{0}` has no deployment flavour")]
    NoFlavour(String),
}

/// What an NSD needs to know of a constituent VNF package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constituent {
    /// Digest of the package.
    pub digest: Digest,
    /// One instance at its default level.
    pub resources: ResourceUse,
    /// One step of each aspect.
    pub scaling: BTreeMap<String, ResourceUse>,
}

impl Constituent {
    /// From the package's descriptor.
    pub fn of(digest: Digest, vnfd: &Vnfd) -> Result<Self, RecordError> {
        let flavour = vnfd.flavours.first().ok_or_else(|| RecordError::NoFlavour(vnfd.id.clone()))?;
        let scaling = flavour.aspects.values().map(|a| Ok((a.id.clone(), used(vnfd, &a.delta)?)));
        Ok(Self { digest, resources: initial(vnfd, flavour)?, scaling: scaling.collect::<Result<_, _>>()? })
    }
}

impl From<&PackageRecord> for Constituent {
    /// From its record on the ledger.
    fn from(record: &PackageRecord) -> Self {
        Self { digest: record.digest, resources: record.resources, scaling: record.scaling.clone() }
    }
}

/// The record of a package; `constituents` are the VNF packages of an NSD, by VNFD id (empty for a VNF).
pub fn from_package(
    verified: &VerifiedPackage,
    constituents: &BTreeMap<String, (Digest, Vnfd)>,
) -> Result<PackageRecord, RecordError> {
    let mut of = BTreeMap::new();
    for (id, (digest, vnfd)) in constituents {
        of.insert(id.clone(), Constituent::of(*digest, vnfd)?);
    }
    record(verified, &of)
}

/// The same when the constituents are known by their records.
pub fn record(
    verified: &VerifiedPackage,
    constituents: &BTreeMap<String, Constituent>,
) -> Result<PackageRecord, RecordError> {
    let package = &verified.package;
    let base = PackageRecord {
        digest: package.digest,
        kind: PackageKind::Vnf,
        descriptor_id: package.descriptor.id().to_owned(),
        version: package.descriptor.version().to_owned(),
        constituents: BTreeMap::new(),
        resources: ResourceUse::default(),
        scaling: BTreeMap::new(),
        members: BTreeMap::new(),
        images: Vec::new(),
    };
    match &package.descriptor {
        Descriptor::Vnfd(vnfd) => {
            let it = Constituent::of(package.digest, vnfd)?;
            Ok(PackageRecord {
                resources: it.resources,
                scaling: it.scaling,
                images: images(verified),
                ..base
            })
        }
        Descriptor::Nsd(nsd) => ns(nsd, constituents, base),
    }
}

fn images(verified: &VerifiedPackage) -> Vec<ImageRecord> {
    let image = |i: &ImageEvidence| {
        let (provenance, provenance_bundle) = match &i.provenance {
            SignedProvenance::Envelope(it) => (Some(it.clone()), None),
            SignedProvenance::Bundle(text) => {
                let org = i.provenance_signer.org.clone();
                (None, Some(ProvenanceBundle { org, bundle: text.clone() }))
            }
        };
        let (sbom, contents) = (Some(i.sbom), Some(contents(&i.summary)));
        ImageRecord { digest: i.digest, sbom, contents, provenance, provenance_bundle }
    };
    verified.images.iter().map(image).collect()
}

/// What the ledger's rules look at, of everything that the SBOM says.
fn contents(summary: &SbomSummary) -> ImageContents {
    let names = |c: &ComponentRef| c.digests.iter().chain(&c.purl).cloned().collect::<Vec<_>>();
    ImageContents {
        complete: summary.complete,
        licences: summary.licences.clone(),
        components: summary.components.iter().flat_map(names).collect(),
    }
}

fn ns(
    nsd: &Nsd,
    constituents: &BTreeMap<String, Constituent>,
    base: PackageRecord,
) -> Result<PackageRecord, RecordError> {
    let find = |vnfd: &String| {
        let missing = || RecordError::Constituent { nsd: nsd.id.clone(), vnfd: vnfd.clone() };
        constituents.get(vnfd).ok_or_else(missing)
    };
    let flavour = nsd.flavours.first().ok_or_else(|| RecordError::NoFlavour(nsd.id.clone()))?;
    let mut out = PackageRecord { kind: PackageKind::Ns, ..base };
    for id in &nsd.vnfd_ids {
        out.constituents.insert(id.clone(), find(id)?.digest);
    }
    for (index, member) in &flavour.members {
        let it = find(&member.vnfd)?;
        out.constituents.insert(member.vnfd.clone(), it.digest);
        out.members.insert(index.clone(), member.vnfd.clone());
        out.resources = sum(&nsd.id, out.resources, it.resources)?;
        out.scaling.extend(it.scaling.iter().map(|(aspect, r)| (format!("{index}/{aspect}"), *r)));
    }
    Ok(out)
}

fn initial(vnfd: &Vnfd, flavour: &VnfFlavour) -> Result<ResourceUse, RecordError> {
    used(vnfd, &flavour.initial)
}

/// What so many instances of the VDUs use.
fn used(vnfd: &Vnfd, instances: &BTreeMap<String, u32>) -> Result<ResourceUse, RecordError> {
    let mut out = ResourceUse::default();
    for (id, count) in instances {
        let Some(vdu) = vnfd.vdus.get(id) else { continue };
        let times = |one: u32, what| one.checked_mul(*count).ok_or_else(|| too_large(&vnfd.id, what));
        let it = ResourceUse {
            instances: *count,
            vcpus: times(vdu.vcpus, "vCPUs")?,
            memory_mib: times(vdu.memory_mib, "memory")?,
            vfs: times(virtual_functions(vdu), "virtual functions")?,
            bandwidth_mbps: 0,
        };
        out = sum(&vnfd.id, out, it)?;
    }
    Ok(out)
}

fn sum(descriptor: &str, a: ResourceUse, b: ResourceUse) -> Result<ResourceUse, RecordError> {
    let add = |x: u32, y: u32, what| x.checked_add(y).ok_or_else(|| too_large(descriptor, what));
    Ok(ResourceUse {
        instances: add(a.instances, b.instances, "instances")?,
        vcpus: add(a.vcpus, b.vcpus, "vCPUs")?,
        memory_mib: add(a.memory_mib, b.memory_mib, "memory")?,
        vfs: add(a.vfs, b.vfs, "virtual functions")?,
        bandwidth_mbps: add(a.bandwidth_mbps, b.bandwidth_mbps, "bandwidth")?,
    })
}

/// Connection points that are SR-IOV virtual functions.
fn virtual_functions(vdu: &descriptors::model::Vdu) -> u32 {
    let of = vdu.cpds.iter().filter(|c| c.interface_type == "SR-IOV").count();
    u32::try_from(of).unwrap_or(u32::MAX)
}

fn too_large(descriptor: &str, what: &'static str) -> RecordError {
    RecordError::TooLarge { descriptor: descriptor.to_owned(), what }
}

#[cfg(test)]
mod tests {
    use descriptors::model::{ScalingAspect, Vdu};

    use super::*;

    fn vnfd(count: u32, vcpus: u32) -> Vnfd {
        let vdu = Vdu {
            id: "v".into(),
            name: "v".into(),
            image: "i".into(),
            vcpus,
            memory_mib: 512,
            ..Vdu::default()
        };
        let aspect =
            ScalingAspect { id: "out".into(), max_level: 2, delta: BTreeMap::from([("v".into(), 2)]) };
        Vnfd {
            id: "vnf".into(),
            provider: String::new(),
            product_name: String::new(),
            version: "1".into(),
            software_version: String::new(),
            vdus: BTreeMap::from([("v".into(), vdu)]),
            internal_links: Vec::new(),
            external_cps: BTreeMap::new(),
            images: BTreeMap::new(),
            flavours: vec![VnfFlavour {
                id: "df".into(),
                profiles: BTreeMap::new(),
                initial: BTreeMap::from([("v".into(), count)]),
                aspects: BTreeMap::from([("out".into(), aspect)]),
                ..VnfFlavour::default()
            }],
        }
    }

    #[test]
    fn a_vnf_is_the_sum_over_its_vdus_and_a_step_over_its_delta() {
        let it = Constituent::of(Digest([1; 32]), &vnfd(3, 2)).unwrap();
        assert_eq!(
            it.resources,
            ResourceUse { instances: 3, vcpus: 6, memory_mib: 1536, ..ResourceUse::default() }
        );
        assert_eq!(
            it.scaling["out"],
            ResourceUse { instances: 2, vcpus: 4, memory_mib: 1024, ..ResourceUse::default() }
        );
    }

    #[test]
    fn what_cannot_be_counted_is_refused_rather_than_wrapped() {
        let e = Constituent::of(Digest([1; 32]), &vnfd(3, u32::MAX / 2)).unwrap_err();
        assert_eq!(e, RecordError::TooLarge { descriptor: "vnf".into(), what: "vCPUs" });
    }
}
