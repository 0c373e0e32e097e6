//! The OpenAPI 3.1 document, made from the [catalogue](super::catalogue) and the schemas of the code's own types.

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value as Json, json};

use super::catalogue::{ALL, Answer, Body, Content, Operation, Parameter, Place, Shape, Value, Verb};
use crate::problem::Problem;

const ABOUT: &str = "Mandate orchestrates network services that a permissioned ledger has approved. Whatever changes \
anything is a signed request (`POST /v1/requests`); the rest reads. On the UNIX socket the caller is the operator; \
over TCP a client certificate of one of the organisations says who asks. Every refusal is a problem (RFC 9457) \
with a stable `code`.";

/// The document.
#[must_use]
pub fn document() -> Json {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.definitions_path = "/components/schemas".into();
        s.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let problem = schemas.subschema_for::<Problem>();
    let mut paths: Map<String, Json> = Map::new();
    for operation in ALL {
        let item = paths.entry(operation.path).or_insert_with(|| json!({}));
        if let Some(item) = item.as_object_mut() {
            item.insert(operation.verb.name().to_lowercase(), describe(operation, &mut schemas, &problem));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Mandate",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas.take_definitions(true),
            "securitySchemes": {
                "member": {
                    "type": "mutualTLS",
                    "description": "a certificate of an organisation among the trust roots; none on the UNIX socket",
                },
            },
        },
        "security": [{ "member": [] }, {}],
    })
}

fn describe(o: &Operation, schemas: &mut SchemaGenerator, problem: &schemars::Schema) -> Json {
    let mut out = json!({
        "operationId": o.id,
        "summary": o.about,
        "description": o.access.sentence(),
        "parameters": o.all_parameters().map(parameter).collect::<Vec<_>>(),
        "responses": responses(o, schemas, problem),
    });
    if let Some(body) = &o.body {
        out["requestBody"] = request_body(body, schemas);
    }
    out
}

fn parameter(p: &Parameter) -> Json {
    let schema = match p.value {
        Value::Text => json!({ "type": "string" }),
        Value::Pattern(pattern) => json!({ "type": "string", "pattern": pattern }),
        Value::Number { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Value::Flag => json!({ "type": "boolean" }),
    };
    let place = match p.place {
        Place::Path => "path",
        Place::Query => "query",
        Place::Header => "header",
    };
    json!({
        "name": p.name,
        "in": place,
        "required": p.place == Place::Path,
        "description": p.about,
        "schema": schema,
    })
}

fn request_body(body: &Body, schemas: &mut SchemaGenerator) -> Json {
    json!({
        "required": true,
        "description": format!("at most {} bytes", body.max_bytes),
        "content": contents(body.contents, schemas),
    })
}

fn contents(all: &[Content], schemas: &mut SchemaGenerator) -> Json {
    let mut out = Map::new();
    for content in all {
        let schema = match content.shape {
            Shape::Json(schema) => json!({ "schema": schema(schemas) }),
            Shape::Text => json!({ "schema": { "type": "string" } }),
            // OpenAPI 3.1: bytes have no schema.
            Shape::Bytes => json!({}),
        };
        out.insert(content.media_type.to_owned(), schema);
    }
    Json::Object(out)
}

fn responses(o: &Operation, schemas: &mut SchemaGenerator, problem: &schemars::Schema) -> Json {
    let mut out = Map::new();
    let refused = |about: &str| {
        json!({
            "description": about,
            "content": { "application/problem+json": { "schema": problem } },
        })
    };
    for status in statuses(o) {
        out.insert(status.to_string(), refused(reason(status)));
    }
    for answer in o.answers {
        out.insert(answer.status.to_string(), success(o, answer, schemas));
    }
    if o.tagged {
        out.insert("304".into(), json!({ "description": "the client has it already", "headers": etag() }));
    }
    Json::Object(out)
}

fn success(o: &Operation, answer: &Answer, schemas: &mut SchemaGenerator) -> Json {
    let mut headers = Map::new();
    if let (true, Json::Object(tag)) = (o.tagged, etag()) {
        headers.extend(tag);
    }
    if o.paged {
        let link = "`<…>; rel=\"next\"` when there is more (RFC 8288)";
        headers.insert("Link".into(), json!({ "description": link, "schema": { "type": "string" } }));
    }
    if o.verb == Verb::Post {
        let again = "`true` when this answer was given before under the same key";
        headers.insert(
            "Idempotency-Replayed".into(),
            json!({ "description": again, "schema": { "type": "string", "enum": ["true"] } }),
        );
    }
    json!({
        "description": answer.about,
        "headers": headers,
        "content": contents(answer.contents, schemas),
    })
}

fn etag() -> Json {
    json!({ "ETag": { "description": "entity tag", "required": true, "schema": { "type": "string" } } })
}

/// The refusals of an operation: those of every operation, of its parameters, its body and its own.
fn statuses(o: &Operation) -> std::collections::BTreeSet<u16> {
    let mut out = std::collections::BTreeSet::from([403, 500, 503]);
    out.extend(o.refusals);
    if o.all_parameters().any(|p| !matches!(p.value, Value::Text)) || o.body.is_some() {
        out.insert(400);
    }
    if o.body.is_some() {
        out.extend([408, 413, 415]);
    }
    if o.verb == Verb::Post {
        // A key that was used before, or is being used.
        out.extend([409, 422]);
    }
    out
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "malformed",
        403 => "the caller, or who signed, may not",
        404 => "there is no such thing, or not for the caller",
        408 => "the body did not arrive in time",
        409 => "not in this state, or the key is in use",
        412 => "it is not what `If-Match` says any more",
        413 => "too large",
        415 => "not the media type",
        422 => "well-formed, but not what it must be; or the key was used for something else",
        502 => "a site could not do its part",
        503 => "not now: the ledger does not answer, or the orchestrator is stopping",
        507 => "no room: the provider's, the store's, or the disk's",
        _ => "the orchestrator failed",
    }
}
