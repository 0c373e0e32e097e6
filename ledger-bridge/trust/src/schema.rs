//! JSON Schema (2020-12) of the types whose text form is not what `derive` would say.
//!
//! Only with the feature `schema`: who describes an interface needs it, who signs or verifies does not. That the
//! schemas tell the truth is tested where they are published, in the orchestrator's `tests/openapi.rs`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{Digest, Envelope, UnixTime};

impl JsonSchema for Digest {
    fn schema_name() -> Cow<'static, str> {
        "Digest".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "SHA-256",
            "type": "string",
            "pattern": "^sha256:[0-9a-f]{64}$",
        })
    }
}

impl JsonSchema for UnixTime {
    fn schema_name() -> Cow<'static, str> {
        "UnixTime".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "seconds since 1970-01-01T00:00:00Z",
            "type": "integer",
            "format": "uint64",
            "minimum": 0,
        })
    }
}

const BASE64: &str = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$";

impl JsonSchema for Envelope {
    fn schema_name() -> Cow<'static, str> {
        "Envelope".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "a DSSE envelope; each signature carries its certificate (DER)",
            "type": "object",
            "required": ["payloadType", "payload", "signatures"],
            "additionalProperties": false,
            "properties": {
                "payloadType": { "type": "string" },
                "payload": { "type": "string", "pattern": BASE64 },
                "signatures": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["keyid", "sig", "certificate"],
                        "additionalProperties": false,
                        "properties": {
                            "keyid": { "type": "string" },
                            "sig": { "type": "string", "pattern": BASE64 },
                            "certificate": { "type": "string", "pattern": BASE64 },
                        },
                    },
                },
            },
        })
    }
}
