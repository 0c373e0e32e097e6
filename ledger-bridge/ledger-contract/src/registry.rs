//! Deciding what founds the ledger and what is registered on it: genesis, packages, attestation keys.
//!
//! A registration is judged by what never changes of it (who signed, its form): the policy judges a package when an
//! intent wants to use it, under the bundle in force then.

use attestation::AkRecord;
use trust::{Digest, Envelope, TrustRoots, UnixTime};

use crate::{
    authority::{AUTHORITY_RULES, Context, authenticate, demand_role},
    contract::{Outcome, TxInfo},
    records::{AUTHENTICATION, Genesis, ImageRecord, PackageKind, PackageRecord},
    state::{
        AK_INDEX, BadRecord, GENESIS, GenesisRecord, POLICY_ACTIVE, PackageEntry, Snapshot, ak_key,
        ak_used_key, org_key, package_key, policy_key,
    },
    verdict::{Checked, Rules, Writes, fault},
};

/// Most images of one package.
pub const MAX_IMAGES: usize = 64;
/// Largest Sigstore bundle of an image, bytes: with a certificate, a log entry and a statement about some files one has
/// 5 to 50 KiB, and every decision about the package reads it.
pub const MAX_BUNDLE_BYTES: usize = 512 << 10;
/// Most constituents of one NSD.
pub const MAX_CONSTITUENTS: usize = 64;
/// Most sites with attestation keys: each is read by every intent's decision.
pub const MAX_SITES: usize = 256;

const REPLAY: &str = "freshness/replay";
const SIGNATURES: &str = "authorization/signatures";
/// Most components that the summary of an image's SBOM may list.
pub const MAX_COMPONENTS: usize = 4096;

/// Founds the ledger: signed by a member of the operator that it names itself.
pub(crate) fn genesis(request: &Envelope, genesis: &Genesis, state: &Snapshot, tx: &TxInfo) -> Outcome {
    let policy = genesis.policy.digest();
    let roots = TrustRoots { orgs: genesis.orgs.clone(), logs: Vec::new(), channel: None };
    let mut rules = Rules::new(tx.v);
    // A genesis brings its own roots, so anybody can sign one. On a ledger that is founded that says nothing.
    if let Err(founded) = unfounded(state, tx) {
        rules.check(REPLAY, Err(founded));
        rules.not_evaluated(AUTHORITY_RULES);
        return rules.refused(policy);
    }
    match rules.value(AUTHENTICATION, authenticate(request.verify(&roots, tx.time).map(|v| v.signers))) {
        None => rules.not_evaluated(AUTHORITY_RULES.into_iter().skip(1)),
        Some(signers) => {
            let who = signers.who();
            rules.check("authorization/role", demand_role(who, &["operator"]));
            rules.check(
                "authorization/organisation",
                match who.org == genesis.operator {
                    true => Ok(format!("`{}` operates this ledger", who.org)),
                    false => fault(
                        "ORG_NOT_ALLOWED",
                        format!("signed by `{}`, operator is `{}`", who.org, genesis.operator),
                    ),
                },
            );
        }
    }
    rules.check("form/genesis", genesis_form(genesis, tx));
    rules.check(REPLAY, unfounded(state, tx));
    rules.check("form/policy", crate::governance::tested(&genesis.policy, tx.v));
    if !rules.all_passed() {
        return rules.refused(policy);
    }
    let mut writes = Writes::default();
    let record = GenesisRecord {
        ledger: genesis.ledger.clone(),
        operator: genesis.operator.clone(),
        orgs: genesis.orgs.keys().cloned().collect(),
    };
    writes.put(GENESIS.to_owned(), &record);
    writes.put(POLICY_ACTIVE.to_owned(), &policy);
    writes.put(policy_key(&policy), &genesis.policy);
    for (name, root) in &genesis.orgs {
        writes.put(org_key(name), root);
    }
    Outcome { verdict: rules.verdict(policy), writes: writes.0, event: None }
}

fn genesis_form(genesis: &Genesis, tx: &TxInfo) -> Checked<String> {
    if genesis.ledger != tx.ledger {
        return fault("WRONG_LEDGER", format!("it founds `{}`, this is `{}`", genesis.ledger, tx.ledger));
    }
    if !genesis.orgs.contains_key(&genesis.operator) {
        return fault(
            "INVALID_GENESIS",
            format!("the operator `{}` is not among its organisations", genesis.operator),
        );
    }
    if let Some(org) = genesis.orgs.keys().find(|o| !name(o)) {
        return fault("INVALID_GENESIS", format!("`{org}` is not a name for an organisation"));
    }
    changeable(genesis)?;
    Ok(format!("{} organisations", genesis.orgs.len()))
}

/// Rules that take the signatures of more organisations than there are could never be changed.
fn changeable(genesis: &Genesis) -> Checked<()> {
    // A bundle that cannot be read is refused as such.
    let Ok(data) = genesis.policy.data() else { return Ok(()) };
    let most = ["policy", "organisation"].map(|what| data.signing(what).organisations).into_iter().max();
    let most = usize::try_from(most.unwrap_or_default()).unwrap_or(usize::MAX);
    match genesis.orgs.len() {
        there if there >= most => Ok(()),
        there => fault(
            "RULES_LOCKED_OUT",
            format!("its rules take the signatures of {most} organisations to be changed; there are {there}"),
        ),
    }
}

fn unfounded(state: &Snapshot, tx: &TxInfo) -> Checked<String> {
    match state.0.contains_key(GENESIS) || tx.position != 0 {
        false => Ok("the ledger is new".to_owned()),
        true => fault("ALREADY_FOUNDED", "the ledger has a genesis; it is entry 0 and there is no second"),
    }
}

/// 1 to 64 of letters, digits and `-_.`, which may be part of a key; never `/`.
pub(crate) fn name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Registers a package.
pub(crate) fn package(ctx: &Context<'_>, record: &PackageRecord) -> Result<Outcome, BadRecord> {
    let mut rules = Rules::new(ctx.tx.v);
    let key = package_key(&record.digest);
    let Some(signers) = ctx.authorize(&mut rules, &["provider"]) else {
        rules.not_evaluated([SIGNATURES, "form/package", REPLAY]);
        return Ok(rules.refused(ctx.policy));
    };
    rules.check(SIGNATURES, ctx.cosigned("package", &signers, None, &[]));
    rules.check("form/package", package_form(record));
    let known = ctx.state.get::<PackageEntry>(&key)?;
    rules.check(
        REPLAY,
        match known {
            None => Ok("not registered before".to_owned()),
            Some(k) if k.request.payload == ctx.request.payload => {
                fault("REPLAYED", format!("registered at position {}", k.position))
            }
            Some(k) => {
                fault("PACKAGE_EXISTS", format!("registered at position {} with another record", k.position))
            }
        },
    );
    if !rules.all_passed() {
        return Ok(rules.refused(ctx.policy));
    }
    let mut writes = Writes::default();
    let entry = PackageEntry {
        request: ctx.request.clone(),
        position: ctx.tx.position,
        time: ctx.tx.time,
        revoked: None,
    };
    writes.put(key, &entry);
    Ok(Outcome { verdict: rules.verdict(ctx.policy), writes: writes.0, event: None })
}

fn package_form(record: &PackageRecord) -> Checked<String> {
    let invalid = |detail: String| fault("INVALID_PACKAGE", detail);
    if record.descriptor_id.is_empty() || record.descriptor_id.len() > 255 {
        return invalid("the descriptor id must have 1 to 255 bytes".into());
    }
    if record.images.len() > MAX_IMAGES || record.constituents.len() > MAX_CONSTITUENTS {
        return invalid(format!("at most {MAX_IMAGES} images and {MAX_CONSTITUENTS} constituents"));
    }
    let listed = record.images.iter().filter_map(|i| i.contents.as_ref());
    if listed.into_iter().any(|c| c.components.len() > MAX_COMPONENTS || c.licences.len() > MAX_COMPONENTS) {
        return invalid(format!("an image with more than {MAX_COMPONENTS} components or licences"));
    }
    if let Some(why) = record.images.iter().find_map(twofold_provenance) {
        return invalid(why);
    }
    if record.kind == PackageKind::Vnf && !record.constituents.is_empty() {
        return invalid("a VNF package has no constituents".into());
    }
    if record.constituents.contains_key(&record.descriptor_id)
        || record.constituents.values().any(|d| *d == record.digest)
    {
        return invalid("a package is not its own constituent".into());
    }
    if record.kind == PackageKind::Ns && record.constituents.is_empty() {
        return invalid("an NSD package has constituents".into());
    }
    Ok(format!("{} {}", record.descriptor_id, record.version))
}

/// What is wrong with the form of an image's provenance.
fn twofold_provenance(image: &ImageRecord) -> Option<String> {
    let bundled = image.provenance_bundle.as_ref()?;
    if image.provenance.is_some() {
        return Some(format!("image {} has provenance in two forms; one is judged", image.digest));
    }
    if !name(&bundled.org) {
        return Some(format!("`{}` is not a name for an organisation", bundled.org));
    }
    let size = bundled.bundle.len();
    (size > MAX_BUNDLE_BYTES).then(|| format!("a bundle of {size} bytes; at most {MAX_BUNDLE_BYTES}"))
}

/// Registers or replaces a site's attestation key.
pub(crate) fn attestation_key(ctx: &Context<'_>, ak: &AkRecord) -> Result<Outcome, BadRecord> {
    let mut rules = Rules::new(ctx.tx.v);
    let Some(signers) = ctx.authorize(&mut rules, &["operator"]) else {
        rules.not_evaluated([SIGNATURES, "form/attestation-key", REPLAY]);
        return Ok(rules.refused(ctx.policy));
    };
    rules.check(SIGNATURES, ctx.cosigned("attestation_key", &signers, None, &[]));
    let mut sites = ctx.state.get::<Vec<String>>(AK_INDEX)?.unwrap_or_default();
    rules.check("form/attestation-key", ak_form(ak, &sites, ctx.tx.time));
    let known = ctx.state.get::<AkRecord>(&ak_key(&ak.site))?;
    let used = ctx.state.get::<u64>(&ak_used_key(&ak_digest(ak)))?;
    rules.check(REPLAY, ak_fresh(ak, known.as_ref(), used));
    if !rules.all_passed() {
        return Ok(rules.refused(ctx.policy));
    }
    let mut writes = Writes::default();
    writes.put(ak_key(&ak.site), ak);
    if ctx.tx.v >= 2 {
        // The record that it replaces, too: version 1 of the rules kept no account of it.
        for record in known.iter().chain([ak]) {
            writes.put(ak_used_key(&ak_digest(record)), &ctx.tx.position);
        }
    }
    if let Err(place) = sites.binary_search(&ak.site) {
        sites.insert(place, ak.site.clone());
        writes.put(AK_INDEX.to_owned(), &sites);
    }
    Ok(Outcome { verdict: rules.verdict(ctx.policy), writes: writes.0, event: None })
}

/// What a key's record is remembered by.
pub(crate) fn ak_digest(ak: &AkRecord) -> Digest {
    // A struct of text and numbers always encodes.
    Digest::of(serde_json::to_vec(ak).unwrap_or_default())
}

/// The log shows every signed record to everybody: one that was replaced or taken back must not come again.
fn ak_fresh(ak: &AkRecord, known: Option<&AkRecord>, used: Option<u64>) -> Checked<String> {
    match (known == Some(ak), used) {
        (true, _) => fault("REPLAYED", format!("this is the key registered for site `{}`", ak.site)),
        (false, Some(at)) => fault(
            "REPLAYED",
            format!("this record was registered before, see position {at}: sign one with another validity"),
        ),
        (false, None) => Ok(format!("new for site `{}`", ak.site)),
    }
}

fn ak_form(ak: &AkRecord, sites: &[String], now: UnixTime) -> Checked<String> {
    let invalid = |detail: String| fault("INVALID_ATTESTATION_KEY", detail);
    if !name(&ak.site) {
        return invalid(format!("`{}` is not a name for a site", ak.site));
    }
    if ak.not_before > ak.not_after || ak.not_after < now {
        return invalid(format!(
            "valid from {} to {}, which is over or never begins",
            ak.not_before, ak.not_after
        ));
    }
    if sites.len() >= MAX_SITES && !sites.contains(&ak.site) {
        return invalid(format!("{MAX_SITES} sites have keys already"));
    }
    Ok(format!("site `{}`, PCR {}, valid to {}", ak.site, ak.pcr, ak.not_after))
}
