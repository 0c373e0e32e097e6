//! The sites: their room and attestation keys, what there differs from what should be, and what was done about it.

use attestation::AkRecord;
use schemars::SchemaGenerator;

use super::{
    Access, Body, Operation, Parameter, Place, Value, Verb,
    parts::{SITE, get, json, ok},
};
use crate::{
    api::MAX_CLEANING_BYTES,
    journal::Mitigation,
    views::{Cleaned, CleaningView, DriftView, SiteView, StraysView, TimelineLine},
};

/// `GET /v1/sites`.
pub const SITES: Operation = Operation {
    paged: true,
    ..get(
        "listSites",
        "/v1/sites",
        Access::Operator,
        "Sites with their room, as their VIMs say now.",
        &[],
        ok!(Vec<SiteView>),
    )
};
/// `GET /v1/sites/{name}/attestation-key`.
pub const ATTESTATION_KEY: Operation = Operation {
    refusals: &[404, 409, 502],
    ..get(
        "getAttestationKey",
        "/v1/sites/{name}/attestation-key",
        Access::Operator,
        "The key that a site quotes with, for the operator to register.",
        &[SITE],
        ok!(AkRecord),
    )
};
/// `POST /v1/sites/{name}/attestation-key`.
pub const NEW_ATTESTATION_KEY: Operation = Operation {
    id: "makeAttestationKey",
    verb: Verb::Post,
    path: "/v1/sites/{name}/attestation-key",
    about: "Has the site's TPM make a new key with `rotate=true`; otherwise the same as GET. `If-Match` names the \
            key that is to be replaced.",
    access: Access::Operator,
    parameters: &[
        SITE,
        Parameter {
            name: "rotate",
            place: Place::Query,
            value: Value::Flag,
            about: "make a new key; the old one is not accepted any more",
        },
        Parameter {
            name: "If-Match",
            place: Place::Header,
            value: Value::Text,
            about: "entity tag of the key that is there",
        },
    ],
    body: None,
    answers: ok!(AkRecord),
    paged: false,
    tagged: false,
    refusals: &[404, 409, 412, 502],
};
/// `GET /v1/sites/{name}/timeline`.
pub const SITE_TIMELINE: Operation = Operation {
    refusals: &[404],
    ..get(
        "getSiteTimeline",
        "/v1/sites/{name}/timeline",
        Access::Operator,
        "What happened at a site and belongs to no operation: calls that its cloud refused, and what was done about drift.",
        &[SITE],
        ok!(Vec<TimelineLine>),
    )
};
/// `GET /v1/drift`.
pub const DRIFT: Operation = get(
    "getDrift",
    "/v1/drift",
    Access::Operator,
    "What the last look at every site found that should not be so, and the intents proposed about it.",
    &[],
    ok!(DriftView),
);
/// `GET /v1/strays`.
pub const STRAYS: Operation = get(
    "getStrays",
    "/v1/strays",
    Access::Operator,
    "What carries our mark and belongs to no service, by one look at every site, and what was removed of such.",
    &[],
    ok!(StraysView),
);
/// `POST /v1/strays/clean`.
pub const CLEAN: Operation = Operation {
    verb: Verb::Post,
    body: Some(Body {
        contents: &[json(SchemaGenerator::subschema_for::<CleaningView>)],
        max_bytes: MAX_CLEANING_BYTES,
    }),
    tagged: false,
    refusals: &[409, 422],
    ..get(
        "cleanStrays",
        "/v1/strays/clean",
        Access::Operator,
        "Removes strays by their keys, with who and why on record; nothing is removed when one of them is none.",
        &[],
        ok!(Vec<Cleaned>),
    )
};
/// `GET /v1/mitigations`.
pub const MITIGATIONS: Operation = Operation {
    paged: true,
    ..get(
        "listMitigations",
        "/v1/mitigations",
        Access::Tenant,
        "What the orchestrator did about drift, oldest first: who, what, why.",
        &[],
        ok!(Vec<Mitigation>),
    )
};
