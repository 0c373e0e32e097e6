//! Where the software comes from: the rules `provenance/…` over the packages that an intent uses.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use trust::Digest;

use crate::{
    authority::Context,
    built::{Supplier, built, level, signed},
    intent::Sensitivity,
    memo::{ByBytes, remembered},
    prepared::signing_orgs,
    records::{ImageRecord, PackageKind, PackageRecord},
    state::{BadRecord, PackageEntry, Snapshot, decode, org_key, package_key},
    verdict::{Checked, Rules, fault},
};

/// The rules of this module, in order.
pub(crate) const RULES: [&str; 10] = [
    "provenance/registered",
    "provenance/constituents",
    "provenance/signature",
    "provenance/not-revoked",
    "provenance/supplier",
    "provenance/sbom",
    "provenance/sbom-complete",
    "provenance/licences",
    "provenance/denied",
    "provenance/slsa-level",
];

/// A registered package, read.
pub(crate) struct Package {
    pub entry: PackageEntry,
    pub record: PackageRecord,
    /// State keys of the organisations that claim to have signed any of it.
    pub orgs: BTreeSet<String>,
}

impl Package {
    fn new(entry: PackageEntry, record: PackageRecord) -> Self {
        let built = record.images.iter().filter_map(|i| i.provenance.as_ref());
        let bundled = record.images.iter().filter_map(|i| i.provenance_bundle.as_ref());
        let orgs = built.chain([&entry.request]).flat_map(signing_orgs);
        let orgs = orgs.chain(bundled.map(|b| org_key(&b.org))).collect();
        Self { entry, record, orgs }
    }
}

/// The packages of a service: its NSD, and its VNFs by VNFD id.
pub(crate) struct Packages {
    pub nsd: Rc<Package>,
    pub vnfs: BTreeMap<String, Rc<Package>>,
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
        std::iter::once(&self.nsd).chain(self.vnfs.values()).map(Rc::as_ref)
    }
}

/// Packages that a thread remembers parsed: those of some services. The largest has as many bytes as a request may
/// have ([`crate::contract::MAX_REQUEST_BYTES`]).
const MAX_PACKAGES: usize = 64;

thread_local! {
    static PACKAGES: RefCell<ByBytes<Result<Rc<Package>, BadRecord>>> = RefCell::new(ByBytes::new(MAX_PACKAGES));
}

/// A package as the state has it.
pub(crate) fn package(state: &Snapshot, digest: &Digest) -> Result<Option<Rc<Package>>, BadRecord> {
    let key = package_key(digest);
    let Some(bytes) = state.0.get(&key) else { return Ok(None) };
    let parse = || {
        let entry: PackageEntry = decode(&key, bytes)?;
        let record = entry.record().map_err(|e| BadRecord { key: key.clone(), problem: e.to_string() })?;
        Ok(Rc::new(Package::new(entry, record)))
    };
    remembered(|f| PACKAGES.with_borrow_mut(f), [key.as_bytes(), bytes].as_slice(), parse).map(Some)
}

fn read(ctx: &Context<'_>, digest: &Digest) -> Result<Option<Rc<Package>>, BadRecord> {
    package(ctx.state, digest)
}

/// Who signed a service's packages, or the provenance of their images.
pub(crate) fn suppliers(ctx: &Context<'_>, nsd: &Digest) -> Result<Vec<Supplier>, BadRecord> {
    let mut out = Vec::new();
    let Some(nsd) = read(ctx, nsd)? else { return Ok(out) };
    let mut packages = Vec::new();
    for digest in nsd.record.constituents.values() {
        packages.extend(read(ctx, digest)?);
    }
    packages.push(nsd);
    for package in &packages {
        let Package { entry, record, .. } = package.as_ref();
        // What does not verify is refused by the rules on signatures.
        let signers = ctx.signers(&entry.request, entry.time).unwrap_or_default();
        out.extend(signers.into_iter().map(|i| Supplier::Member(Box::new(i))));
        let built = record.images.iter().filter_map(|i| built(ctx, i, entry.time).ok().flatten());
        out.extend(built.flat_map(|b| b.by));
    }
    Ok(out)
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
    tenant: &str,
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
    rules.check(RULES[3], not_revoked(&packages));
    rules.check(RULES[4], suppliers_allowed(ctx, &packages, tenant));
    rules.check(RULES[5], sboms(&packages, sensitivity));
    rules.check(RULES[6], complete_sboms(ctx, &packages, sensitivity));
    rules.check(RULES[7], licences(ctx, &packages));
    rules.check(RULES[8], denied(ctx, &packages));
    rules.check(RULES[9], slsa(ctx, &packages, sensitivity));
    Ok(Some(packages))
}

fn registered(found: Option<Rc<Package>>, digest: &Digest) -> Checked<(Rc<Package>, String)> {
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

type Found = BTreeMap<String, (Digest, Option<Rc<Package>>)>;

fn constituents(found: Found) -> Checked<(BTreeMap<String, Rc<Package>>, String)> {
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
    for Package { entry, record, .. } in packages.all() {
        let refuse =
            |why: String| fault("PACKAGE_SIGNATURE", format!("package `{}`: {why}", record.descriptor_id));
        match signed(ctx, &entry.request, entry.time, &["provider"]) {
            Ok(all) => signers.extend(all.first().map(ToString::to_string)),
            Err(why) => return refuse(why),
        }
    }
    signers.sort();
    signers.dedup();
    Ok(format!("signed by {}", signers.join(", ")))
}

fn sboms(packages: &Packages, sensitivity: Sensitivity) -> Checked<String> {
    let mut count = 0;
    for Package { record, .. } in packages.vnfs.values().map(Rc::as_ref) {
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

fn not_revoked(packages: &Packages) -> Checked<String> {
    match packages.all().find_map(|p| p.entry.revoked.map(|at| (p, at))) {
        None => Ok("none was taken back".to_owned()),
        Some((p, at)) => fault(
            "PACKAGE_REVOKED",
            format!(
                "package `{}` ({}) was taken back at position {at}",
                p.record.descriptor_id, p.record.digest
            ),
        ),
    }
}

/// May this tenant use what these organisations and builders made?
fn suppliers_allowed(ctx: &Context<'_>, packages: &Packages, tenant: &str) -> Checked<String> {
    fn of<'a>(all: &'a BTreeMap<String, BTreeSet<String>>, tenant: &str) -> Option<&'a BTreeSet<String>> {
        all.get(tenant).or_else(|| all.get("default"))
    }
    let supply = &ctx.data.supply;
    let (orgs, builders) = (of(&supply.providers, tenant), of(&supply.builders, tenant));
    for Package { entry, record, .. } in packages.all() {
        let signers = ctx.signers(&entry.request, entry.time).unwrap_or_default();
        let org = signers.first().map_or("", |i| i.org.as_str());
        if orgs.is_some_and(|allowed| !allowed.contains(org)) {
            return fault(
                "SUPPLIER_NOT_ALLOWED",
                format!(
                    "package `{}` is of `{org}`, whom tenant `{tenant}` must not use",
                    record.descriptor_id
                ),
            );
        }
        let Some(allowed) = builders else { continue };
        for image in &record.images {
            let built = built(ctx, image, entry.time).ok().flatten().map(|b| b.builder);
            if !built.as_ref().is_some_and(|b| allowed.contains(b)) {
                let by = built.unwrap_or_else(|| "nobody who says so".to_owned());
                return fault(
                    "SUPPLIER_NOT_ALLOWED",
                    format!(
                        "image {} was built by `{by}`, whom tenant `{tenant}` must not use",
                        image.digest
                    ),
                );
            }
        }
    }
    Ok(match (orgs, builders) {
        (None, None) => "any supplier is allowed".to_owned(),
        _ => format!("all suppliers are allowed for tenant `{tenant}`"),
    })
}

fn contents(packages: &Packages) -> impl Iterator<Item = (&Package, &ImageRecord)> {
    packages.all().flat_map(|p| p.record.images.iter().map(move |i| (p, i)))
}

fn complete_sboms(ctx: &Context<'_>, packages: &Packages, sensitivity: Sensitivity) -> Checked<String> {
    match ctx.data.supply.complete_sbom_from {
        Some(from) if sensitivity >= from => {}
        _ => return Ok(format!("{sensitivity:?} services need no complete SBOM")),
    }
    match contents(packages).find(|(_, i)| !i.contents.as_ref().is_some_and(|c| c.complete)) {
        None => Ok("every SBOM is complete".to_owned()),
        Some((p, image)) => fault(
            "SBOM_INCOMPLETE",
            format!(
                "the SBOM of image {} of package `{}` lacks some of NTIA's minimum elements",
                image.digest, p.record.descriptor_id
            ),
        ),
    }
}

fn licences(ctx: &Context<'_>, packages: &Packages) -> Checked<String> {
    let denied = &ctx.data.supply.denied_licences;
    let hit = contents(packages).find_map(|(p, i)| {
        let found = i.contents.iter().flat_map(|c| &c.licences).find(|l| licence_denied(denied, l));
        found.map(|l| (p, i, l))
    });
    match hit {
        None => Ok(format!("none of {} denied licences", denied.len())),
        Some((p, image, licence)) => fault(
            "LICENCE_DENIED",
            format!("image {} of package `{}` has licence {licence}", image.digest, p.record.descriptor_id),
        ),
    }
}

/// An expression is denied when it is listed, or when a licence that it cannot do without is.
fn licence_denied(denied: &BTreeSet<String>, expression: &str) -> bool {
    if denied.contains(expression) {
        return true;
    }
    let alternatives = expression.split(" OR ");
    let stripped = |id: &str| id.trim_matches(|c: char| c == '(' || c == ')' || c == ' ').to_owned();
    let one = |a: &str| a.split(" AND ").any(|id| denied.contains(&stripped(id)));
    // A choice is denied when nothing is left to choose.
    expression.contains(' ') && alternatives.into_iter().all(one)
}

fn denied(ctx: &Context<'_>, packages: &Packages) -> Checked<String> {
    let denied = &ctx.data.supply.denied;
    let look = |id: &str| denied.get(id).map(|why| (id.to_owned(), why));
    let of_package = |p: &Package| look(&p.record.digest.to_string());
    let of_image = |i: &ImageRecord| {
        look(&i.digest.to_string())
            .or_else(|| i.contents.iter().flat_map(|c| &c.components).find_map(|c| look(c)))
    };
    let hit = packages.all().find_map(|p| {
        of_package(p).or_else(|| p.record.images.iter().find_map(of_image)).map(|hit| (p, hit))
    });
    match hit {
        None => Ok(format!("none of {} denied artefacts and components", denied.len())),
        Some((p, (id, why))) => {
            fault("COMPONENT_DENIED", format!("package `{}` contains {id}: {why}", p.record.descriptor_id))
        }
    }
}

fn slsa(ctx: &Context<'_>, packages: &Packages, sensitivity: Sensitivity) -> Checked<String> {
    let least = ctx.data.slsa_min_level.of(sensitivity);
    let (mut lowest, mut builders) = (None, BTreeSet::new());
    for Package { entry, record, .. } in packages.vnfs.values().map(Rc::as_ref) {
        for image in &record.images {
            let (level, by) = level(ctx, image, entry.time, least)?;
            if level < least {
                let detail = format!(
                    "image {} of package `{}` has SLSA build level {level}, built by {by}; {sensitivity:?} services need {least}",
                    image.digest, record.descriptor_id
                );
                return fault("SLSA_LEVEL_TOO_LOW", detail);
            }
            builders.insert(by);
            lowest = Some(lowest.map_or(level, |l: u32| l.min(level)));
        }
    }
    Ok(match lowest {
        Some(level) => {
            let by = builders.into_iter().collect::<Vec<_>>().join(", ");
            format!("lowest SLSA build level {level}, at least {least} needed; built by {by}")
        }
        None => format!("no images, SLSA build level {least} needed of each"),
    })
}
