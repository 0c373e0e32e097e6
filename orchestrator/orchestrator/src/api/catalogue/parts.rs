//! What several operations share: forms of answers, parameters of paths, and those of a kind of operation.

use schemars::{Schema, SchemaGenerator};

use super::{
    super::MAX_PAGE, Access, Answer, Content, MAX_NUMBER, Operation, Parameter, Place, Shape, Value, Verb,
};

pub(super) const fn json(schema: fn(&mut SchemaGenerator) -> Schema) -> Content {
    Content { media_type: "application/json", shape: Shape::Json(schema) }
}

pub(super) const fn get(
    id: &'static str,
    path: &'static str,
    access: Access,
    about: &'static str,
    parameters: &'static [Parameter],
    answers: &'static [Answer],
) -> Operation {
    let refusals: &[u16] = &[];
    Operation {
        id,
        verb: Verb::Get,
        path,
        about,
        access,
        parameters,
        body: None,
        answers,
        paged: false,
        tagged: true,
        refusals,
    }
}

/// A single resource, which may be absent.
pub(super) const NOT_FOUND: &[u16] = &[404];

macro_rules! ok {
    ($schema:ty) => {
        ok!("the resource", json(schemars::SchemaGenerator::subschema_for::<$schema>))
    };
    ($about:literal, $($content:expr),+) => {
        &[$crate::api::catalogue::Answer { status: 200, about: $about, contents: &[$($content),+] }]
    };
}
pub(super) use ok;

pub(super) const fn path(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, place: Place::Path, value: Value::Text, about }
}

pub(super) const POSITION: Parameter = Parameter {
    name: "position",
    place: Place::Path,
    value: Value::Number { min: 0, max: MAX_NUMBER },
    about: "position in the ledger",
};
pub(super) const NS_ID: Parameter =
    path("id", "NS instance id, or `tenant/service` with the slash encoded (`%2F`)");
pub(super) const OPERATION_ID: Parameter = path("id", "operation id");
pub(super) const SITE: Parameter = path("name", "site");

pub(super) const fn number(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, place: Place::Query, value: Value::Number { min: 0, max: MAX_NUMBER }, about }
}

/// Most items of a page, as the document says it.
pub const LIMIT: Parameter = Parameter {
    name: "limit",
    place: Place::Query,
    value: Value::Number { min: 1, max: MAX_PAGE as u64 },
    about: "most items of the answer",
};
/// Where the next page begins (SOL013, 5.4.2.3).
pub const MARKER: Parameter = Parameter {
    name: "nextpage_opaque_marker",
    place: Place::Query,
    value: Value::Pattern("^([0-9a-f]{2}){1,256}$"),
    about: "as the `Link` header of the page before names it",
};
/// Only when it has changed.
pub const IF_NONE_MATCH: Parameter = Parameter {
    name: "If-None-Match",
    place: Place::Header,
    value: Value::Text,
    about: "entity tags that the client has already",
};
/// The same request again gets the same answer.
pub const IDEMPOTENCY_KEY: Parameter = Parameter {
    name: "Idempotency-Key",
    place: Place::Header,
    value: Value::Pattern("^[!-~]{1,128}$"),
    about: "chosen by the client, a new one for each request that is meant anew; kept for a day",
};
