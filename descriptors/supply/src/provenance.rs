//! SLSA provenance v1: where an image was built, from what, by whom. <https://slsa.dev/spec/v1.0/provenance>

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use trust::{
    Digest, Envelope, TrustRoots, UnixTime,
    dsse::DsseError,
    statement::{IN_TOTO_PAYLOAD, ResourceDescriptor, STATEMENT_TYPE, Statement},
};

use crate::sigstore::{self, Bundle, Claim, SigstoreError};

/// `predicateType` of SLSA provenance v1.
pub const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
/// `predicateType` of SLSA provenance v0.2, which is read only.
pub const PREDICATE_TYPE_V0_2: &str = "https://slsa.dev/provenance/v0.2";
/// `_type` of the statements of that time, which is read only.
const STATEMENT_V0_1: &str = "https://in-toto.io/Statement/v0.1";
/// Our `buildType`: `cargo build --locked -p {package} --profile {profile}`.
pub const BUILD_TYPE: &str = "https://mandate.dev/build/cargo/v1";

/// The predicate; what SLSA has beyond it is read over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    /// What was asked for.
    pub build_definition: BuildDefinition,
    /// What was done.
    pub run_details: RunDetails,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildDefinition {
    /// URI that says what the parameters mean.
    pub build_type: String,
    /// What the builder's user chose.
    pub external_parameters: Value,
    /// What went into the build.
    #[serde(default)]
    pub resolved_dependencies: Vec<ResourceDescriptor>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDetails {
    /// Who built it.
    pub builder: Builder,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BuildMetadata>,
}

/// The platform that built it and is trusted to say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Builder {
    /// URI of the platform.
    pub id: String,
}

/// When it was built; times as RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildMetadata {
    /// Names the run on the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation_id: Option<String>,
    /// Start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_on: Option<String>,
    /// End.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_on: Option<String>,
}

/// What there is to say about a build of ours.
#[derive(Debug, Clone)]
pub struct Build<'a> {
    /// File name of the image.
    pub image: &'a str,
    /// Its SHA-256.
    pub digest: Digest,
    /// URI of the platform that built it.
    pub builder: &'a str,
    /// Cargo package.
    pub package: &'a str,
    /// Cargo profile.
    pub profile: &'a str,
    /// SHA-256 of the `Cargo.lock`.
    pub cargo_lock: Digest,
    /// URI and commit (hex) of the source, if it came from git.
    pub git: Option<(&'a str, &'a str)>,
    /// When it began and ended.
    pub times: (UnixTime, UnixTime),
}

/// The SLSA v1 statement about a build; the builder signs it.
#[must_use]
pub fn statement(build: &Build<'_>) -> Statement<Provenance> {
    let mut resolved = vec![ResourceDescriptor::new("Cargo.lock", build.cargo_lock)];
    if let Some((uri, commit)) = build.git {
        let digest = BTreeMap::from([("gitCommit".to_owned(), commit.to_owned())]);
        resolved.push(ResourceDescriptor { name: None, uri: Some(uri.to_owned()), digest });
    }
    let predicate = Provenance {
        build_definition: BuildDefinition {
            build_type: BUILD_TYPE.into(),
            external_parameters: serde_json::json!({"package": build.package, "profile": build.profile}),
            resolved_dependencies: resolved,
        },
        run_details: RunDetails {
            builder: Builder { id: build.builder.to_owned() },
            metadata: Some(BuildMetadata {
                invocation_id: None,
                started_on: Some(build.times.0.to_string()),
                finished_on: Some(build.times.1.to_string()),
            }),
        },
    };
    Statement::new(vec![ResourceDescriptor::new(build.image, build.digest)], PREDICATE_TYPE, predicate)
}

/// Why a provenance statement is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProvenanceError {
    /// Not SLSA v1 provenance.
    #[error("not SLSA v1 provenance: {0}")]
    Format(DsseError),
    /// It is about something else.
    #[error("none of its subjects is the image with digest {0}")]
    OtherSubject(Digest),
    /// A field that must say something is empty.
    #[error("`{0}` is empty")]
    Empty(&'static str),
}

/// Checks the statement in an envelope (whose signature the caller has verified): it is about `image` and says who
/// built it from what. Returns the builder's id.
pub fn check(envelope: &Envelope, image: &Digest) -> Result<String, ProvenanceError> {
    let statement: Statement<Provenance> =
        Statement::from_envelope(envelope, PREDICATE_TYPE).map_err(ProvenanceError::Format)?;
    if !statement.subject.iter().any(|s| s.sha256().as_ref() == Some(image)) {
        return Err(ProvenanceError::OtherSubject(*image));
    }
    complete(statement.predicate)
}

/// Why a Sigstore bundle is no provenance of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundledError {
    /// The bundle does not verify.
    #[error(transparent)]
    Sigstore(#[from] SigstoreError),
    /// What was signed is something else.
    #[error(transparent)]
    Provenance(#[from] ProvenanceError),
}

/// [`check`] for a Sigstore bundle: who signed it, for which of the organisations, and the builder that it names.
pub fn bundled(json: &[u8], roots: &TrustRoots, image: &Digest) -> Result<(Claim, String), BundledError> {
    let bundle = Bundle::from_json(json)?;
    let (claim, payload_type, payload) = sigstore::verify_statement(&bundle, roots)?;
    let builder = check_payload(payload_type, payload, image)?;
    Ok((claim, builder))
}

fn complete(predicate: Provenance) -> Result<String, ProvenanceError> {
    let Provenance { build_definition: build, run_details: run } = predicate;
    let must = [
        ("buildDefinition.buildType", build.build_type.is_empty()),
        ("buildDefinition.resolvedDependencies", build.resolved_dependencies.is_empty()),
        ("runDetails.builder.id", run.builder.id.is_empty()),
    ];
    match must.iter().find(|(_, empty)| *empty) {
        Some((field, _)) => Err(ProvenanceError::Empty(field)),
        None => Ok(run.builder.id),
    }
}

/// SLSA v0.2; what it has beyond this is read over. <https://slsa.dev/spec/v0.2/provenance>
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProvenanceV02 {
    builder: Builder,
    build_type: String,
    #[serde(default)]
    materials: Vec<ResourceDescriptor>,
}

/// [`check`] for what others sign: the payload of a verified envelope, SLSA v1 or v0.2, in-toto Statement v1 or v0.1.
pub fn check_payload(payload_type: &str, payload: &[u8], image: &Digest) -> Result<String, ProvenanceError> {
    let format = |e: String| ProvenanceError::Format(DsseError::Payload(e));
    let other = |expected: &str, found: String| {
        ProvenanceError::Format(DsseError::PayloadType { expected: expected.to_owned(), found })
    };
    if payload_type != IN_TOTO_PAYLOAD {
        return Err(other(IN_TOTO_PAYLOAD, payload_type.to_owned()));
    }
    let it: Statement<Value> = serde_json::from_slice(payload).map_err(|e| format(e.to_string()))?;
    if it.kind != STATEMENT_TYPE && it.kind != STATEMENT_V0_1 {
        return Err(other(STATEMENT_TYPE, it.kind));
    }
    if !it.subject.iter().any(|s| s.sha256().as_ref() == Some(image)) {
        return Err(ProvenanceError::OtherSubject(*image));
    }
    match it.predicate_type.as_str() {
        PREDICATE_TYPE => complete(serde_json::from_value(it.predicate).map_err(|e| format(e.to_string()))?),
        PREDICATE_TYPE_V0_2 => {
            let old: ProvenanceV02 =
                serde_json::from_value(it.predicate).map_err(|e| format(e.to_string()))?;
            complete(Provenance {
                build_definition: BuildDefinition {
                    build_type: old.build_type,
                    external_parameters: Value::Null,
                    resolved_dependencies: old.materials,
                },
                run_details: RunDetails { builder: old.builder, metadata: None },
            })
        }
        _ => Err(other(PREDICATE_TYPE, it.predicate_type)),
    }
}
