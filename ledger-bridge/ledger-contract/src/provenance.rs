//! Where the software comes from: the rules `provenance/…` over the packages that an intent uses.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use trust::{Digest, Envelope, UnixTime, statement::Statement};

use crate::{
    authority::Context,
    intent::Sensitivity,
    records::{ImageRecord, PackageKind, PackageRecord},
    state::{BadRecord, PackageEntry, package_key},
    verdict::{Checked, Rules, fault},
};

/// Predicate type of SLSA provenance v1.
pub const SLSA_PROVENANCE: &str = "https://slsa.dev/provenance/v1";

/// The rules of this module, in order.
pub(crate) const RULES: [&str; 5] = [
    "provenance/registered",
    "provenance/constituents",
    "provenance/signature",
    "provenance/sbom",
    "provenance/slsa-level",
];

/// A registered package, read.
pub(crate) struct Package {
    pub entry: PackageEntry,
    pub record: PackageRecord,
}

/// The packages of a service: its NSD, and its VNFs by VNFD id.
pub(crate) struct Packages {
    pub nsd: Package,
    pub vnfs: BTreeMap<String, Package>,
}

impl Packages {
    /// Digests by descriptor id, as a grant lists them.
    pub fn digests(&self) -> BTreeMap<String, Digest> {
        self.all().map(|p| (p.record.descriptor_id.clone(), p.record.digest)).collect()
    }

    /// Digests of every image in them.
    pub fn images(&self) -> BTreeSet<Digest> {
        self.all().flat_map(|p| p.record.images.iter().map(|i| i.digest)).collect()
    }

    pub fn all(&self) -> impl Iterator<Item = &Package> {
        std::iter::once(&self.nsd).chain(self.vnfs.values())
    }
}

fn read(ctx: &Context<'_>, digest: &Digest) -> Result<Option<Package>, BadRecord> {
    let key = package_key(digest);
    let Some(entry) = ctx.state.get::<PackageEntry>(&key)? else { return Ok(None) };
    let record = entry.record().map_err(|e| BadRecord { key, problem: e.to_string() })?;
    Ok(Some(Package { entry, record }))
}

/// Every image of registered packages, whatever their provenance.
pub(crate) fn images<'a>(
    ctx: &Context<'_>,
    packages: impl Iterator<Item = &'a Digest>,
) -> Result<BTreeSet<Digest>, BadRecord> {
    let mut out = BTreeSet::new();
    for digest in packages {
        out.extend(read(ctx, digest)?.iter().flat_map(|p| p.record.images.iter().map(|i| i.digest)));
    }
    Ok(out)
}

/// Evaluates all provenance rules; the packages when they are there at all.
pub(crate) fn check(
    ctx: &Context<'_>,
    rules: &mut Rules,
    nsd: &Digest,
    sensitivity: Sensitivity,
) -> Result<Option<Packages>, BadRecord> {
    let found = read(ctx, nsd)?;
    let Some(nsd) = rules.value(RULES[0], registered(found, nsd)) else {
        rules.not_evaluated(RULES.into_iter().skip(1));
        return Ok(None);
    };
    let mut vnfs = BTreeMap::new();
    for (id, digest) in &nsd.record.constituents {
        vnfs.insert(id.clone(), (*digest, read(ctx, digest)?));
    }
    let Some(vnfs) = rules.value(RULES[1], constituents(vnfs)) else {
        rules.not_evaluated(RULES.into_iter().skip(2));
        return Ok(None);
    };
    let packages = Packages { nsd, vnfs };
    rules.check(RULES[2], signatures(ctx, &packages));
    rules.check(RULES[3], sboms(&packages, sensitivity));
    rules.check(RULES[4], slsa(ctx, &packages, sensitivity));
    Ok(Some(packages))
}

fn registered(found: Option<Package>, digest: &Digest) -> Checked<(Package, String)> {
    let Some(package) = found else {
        return fault("PACKAGE_NOT_REGISTERED", format!("no package {digest} is registered"));
    };
    if package.record.kind != PackageKind::Ns {
        let detail = format!(
            "{} ({digest}) is a VNF package; a deployment names an NSD package",
            package.record.descriptor_id
        );
        return fault("PACKAGE_KIND", detail);
    }
    let detail =
        format!("{} registered at position {}", package.record.descriptor_id, package.entry.position);
    Ok((package, detail))
}

type Found = BTreeMap<String, (Digest, Option<Package>)>;

fn constituents(found: Found) -> Checked<(BTreeMap<String, Package>, String)> {
    let mut out = BTreeMap::new();
    for (id, (digest, package)) in found {
        let Some(package) = package else {
            return fault(
                "CONSTITUENT_NOT_REGISTERED",
                format!("package {digest} of VNFD `{id}` is not registered"),
            );
        };
        let (kind, is) = (package.record.kind, &package.record.descriptor_id);
        if kind != PackageKind::Vnf || *is != id {
            return fault("CONSTITUENT_MISMATCH", format!("package {digest} is not VNFD `{id}` but `{is}`"));
        }
        out.insert(id, package);
    }
    let detail = format!("{} VNF packages registered", out.len());
    Ok((out, detail))
}

/// Verified again as of its registration, with today's revocations.
fn signatures(ctx: &Context<'_>, packages: &Packages) -> Checked<String> {
    let mut signers = Vec::new();
    for Package { entry, record } in packages.all() {
        let refuse =
            |why: String| fault("PACKAGE_SIGNATURE", format!("package `{}`: {why}", record.descriptor_id));
        match supplier(ctx, &entry.request, entry.time, &["provider"]) {
            Ok(who) => signers.push(who),
            Err(why) => return refuse(why),
        }
    }
    signers.sort();
    signers.dedup();
    Ok(format!("signed by {}", signers.join(", ")))
}

/// The first signer of an envelope, if all signatures verify and it has one of `roles` rightly.
fn supplier(ctx: &Context<'_>, envelope: &Envelope, at: UnixTime, roles: &[&str]) -> Result<String, String> {
    let signers = ctx.signers(envelope, at).map_err(|e| e.to_string())?;
    let who = signers.first().ok_or("there is no signature")?;
    if !roles.contains(&who.role()) {
        return Err(format!("{who} has the role `{}`; this needs {}", who.role(), roles.join(" or ")));
    }
    ctx.vouched(who).map_err(|f| f.detail)?;
    Ok(who.to_string())
}

fn sboms(packages: &Packages, sensitivity: Sensitivity) -> Checked<String> {
    let mut count = 0;
    for Package { record, .. } in packages.vnfs.values() {
        let id = &record.descriptor_id;
        if record.images.is_empty() && sensitivity > Sensitivity::Public {
            return fault(
                "SBOM_MISSING",
                format!("package `{id}` brings no image whose origin could be known"),
            );
        }
        if let Some(image) = record.images.iter().find(|i| i.sbom.is_none()) {
            return fault("SBOM_MISSING", format!("image {} of package `{id}` has no SBOM", image.digest));
        }
        count += record.images.len();
    }
    Ok(format!("every one of {count} images has an SBOM"))
}

fn slsa(ctx: &Context<'_>, packages: &Packages, sensitivity: Sensitivity) -> Checked<String> {
    let least = ctx.data.slsa_min_level.of(sensitivity);
    let mut lowest = None;
    for Package { entry, record } in packages.vnfs.values() {
        for image in &record.images {
            let level = image_level(ctx, image, entry.time, least)?;
            if level < least {
                let detail = format!(
                    "image {} of package `{}` has SLSA build level {level}; {sensitivity:?} services need {least}",
                    image.digest, record.descriptor_id
                );
                return fault("SLSA_LEVEL_TOO_LOW", detail);
            }
            lowest = Some(lowest.map_or(level, |l: u32| l.min(level)));
        }
    }
    Ok(match lowest {
        Some(level) => format!("lowest SLSA build level {level}, at least {least} needed"),
        None => format!("no images, SLSA build level {least} needed of each"),
    })
}

fn image_level(ctx: &Context<'_>, image: &ImageRecord, at: UnixTime, least: u32) -> Checked<u32> {
    let Some(envelope) = &image.provenance else { return Ok(0) };
    let invalid =
        |why: String| fault("PROVENANCE_INVALID", format!("provenance of image {}: {why}", image.digest));
    let builder = supplier(ctx, envelope, at, &["builder", "provider"])
        .and_then(|_| builder_of(envelope, &image.digest))
        .or_else(invalid)?;
    match ctx.data.builders.get(&builder) {
        Some(level) => Ok(*level),
        None if least == 0 => Ok(0),
        None => fault(
            "BUILDER_NOT_TRUSTED",
            format!("image {} was built by `{builder}`, which the policy does not know", image.digest),
        ),
    }
}

#[derive(Deserialize)]
struct Provenance {
    #[serde(rename = "runDetails")]
    run_details: RunDetails,
}

#[derive(Deserialize)]
struct RunDetails {
    builder: Builder,
}

#[derive(Deserialize)]
struct Builder {
    id: String,
}

/// The builder that a provenance statement names for exactly this image.
fn builder_of(envelope: &Envelope, image: &Digest) -> Result<String, String> {
    let statement: Statement<Provenance> =
        Statement::from_envelope(envelope, SLSA_PROVENANCE).map_err(|e| e.to_string())?;
    if !statement.subject.iter().any(|s| s.sha256() == Some(*image)) {
        return Err("it is about other artefacts".to_owned());
    }
    Ok(statement.predicate.run_details.builder.id)
}
