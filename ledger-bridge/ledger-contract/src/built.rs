//! Who built an image, and at which SLSA level: from its provenance, which the package's record carries whole.
//!
//! Two forms: an envelope that a member signed, and a Sigstore bundle. Neither is believed because a provider registered
//! it: each decision verifies it with the keys, identities and revocations that the ledger has now, so that whoever has
//! the log can do the same. Of a bundle, only the organisation counts that its record names: which one that is must be
//! known before the state is read. Tests: `tests/built.rs`, `tests/decide.rs`.

use serde::Deserialize;
use supply::{pki::PublicKey, provenance::PREDICATE_TYPE, sigstore::Claim};
use trust::{Digest, Envelope, Identity, UnixTime, statement::Statement};

use crate::{
    authority::Context,
    records::ImageRecord,
    verdict::{Checked, fault},
};

/// Roles that vouch for a build.
const BUILDERS: [&str; 2] = ["builder", "provider"];

/// Who signed software, or the provenance of it.
#[derive(Debug, Clone)]
pub(crate) enum Supplier {
    /// A member.
    Member(Box<Identity>),
    /// A key, or an identity that Fulcio certified.
    Bundle(Box<Claim>),
}

impl Supplier {
    /// Organisation and name.
    pub fn subject(&self) -> (&str, &str) {
        match self {
            Self::Member(it) => (&it.org, &it.name),
            Self::Bundle(it) => (&it.org, &it.name),
        }
    }

    /// The same person: by subject, or by key under another name.
    pub fn is(&self, who: &Identity) -> bool {
        let same_key = match self {
            Self::Member(it) => it.key == who.key,
            Self::Bundle(it) => matches!(&it.key, PublicKey::P256(key) if **key == who.key),
        };
        same_key || self.subject() == (&who.org, &who.name)
    }
}

impl std::fmt::Display for Supplier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (org, name) = self.subject();
        write!(f, "{name}@{org}")
    }
}

/// What verified provenance says of an image.
pub(crate) struct Built {
    /// SLSA builder id.
    pub builder: String,
    /// Who signed that.
    pub by: Vec<Supplier>,
}

/// Who built an image; `None`: nobody says so.
pub(crate) fn built(
    ctx: &Context<'_>,
    image: &ImageRecord,
    registered: UnixTime,
) -> Result<Option<Built>, String> {
    if let Some(it) = &image.provenance_bundle {
        let (claim, builder) = ctx.bundled(it, &image.digest)?;
        ctx.vouched_roles(&claim.org, &BUILDERS)?;
        return Ok(Some(Built { builder, by: vec![Supplier::Bundle(Box::new(claim))] }));
    }
    let Some(envelope) = &image.provenance else { return Ok(None) };
    let by = signed(ctx, envelope, registered, &BUILDERS)?;
    let builder = builder_of(envelope, &image.digest)?;
    Ok(Some(Built { builder, by }))
}

/// Everybody who signed an envelope, if all signatures verify and the first has one of `roles` rightly.
pub(crate) fn signed(
    ctx: &Context<'_>,
    envelope: &Envelope,
    at: UnixTime,
    roles: &[&str],
) -> Result<Vec<Supplier>, String> {
    let signers = ctx.signers(envelope, at).map_err(|e| e.to_string())?;
    let who = signers.first().ok_or("there is no signature")?;
    if !roles.contains(&who.role()) {
        return Err(format!("{who} has the role `{}`; this needs {}", who.role(), roles.join(" or ")));
    }
    ctx.vouched(who).map_err(|f| f.detail)?;
    Ok(signers.into_iter().map(|i| Supplier::Member(Box::new(i))).collect())
}

/// The level of an image, and for the verdict its builder with who says so.
pub(crate) fn level(
    ctx: &Context<'_>,
    image: &ImageRecord,
    registered: UnixTime,
    least: u32,
) -> Checked<(u32, String)> {
    let invalid =
        |why: String| fault("PROVENANCE_INVALID", format!("provenance of image {}: {why}", image.digest));
    let Some(it) = built(ctx, image, registered).or_else(invalid)? else {
        return Ok((0, "nobody who says so".to_owned()));
    };
    let signer = it.by.first().map(ToString::to_string).unwrap_or_default();
    let said = format!("{} (signed by {signer})", it.builder);
    let refuse = |why: &str| match least {
        0 => Ok((0, said.clone())),
        _ => fault(
            "BUILDER_NOT_TRUSTED",
            format!("image {} was built by `{}`, {why}", image.digest, it.builder),
        ),
    };
    match ctx.data.builders.get(&it.builder) {
        Some(rule) if rule.takes(&signer) => Ok((rule.level(), said)),
        Some(_) => refuse(&format!("as {signer} says, whose word the policy does not take for it")),
        None => refuse("which the policy does not know"),
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
        Statement::from_envelope(envelope, PREDICATE_TYPE).map_err(|e| e.to_string())?;
    if !statement.subject.iter().any(|s| s.sha256() == Some(*image)) {
        return Err("it is about other artefacts".to_owned());
    }
    Ok(statement.predicate.run_details.builder.id)
}
