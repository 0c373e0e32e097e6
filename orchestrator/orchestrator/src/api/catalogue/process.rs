//! The process itself: is it there, can it work, what is it doing, what does it offer.

use schemars::SchemaGenerator;

use super::{
    Access, Answer, Content, Operation, Shape,
    parts::{get, json, number, ok},
};
use crate::views::{AliveView, ChangeView, HealthView, IndexView, ReadyView};

/// `GET /healthz`.
pub const ALIVE: Operation = Operation {
    tagged: false,
    ..get("alive", "/healthz", Access::Member, "Does the process answer?", &[], ok!(AliveView))
};
/// `GET /readyz`.
pub const READY: Operation = Operation {
    tagged: false,
    answers: &[
        Answer {
            status: 200,
            about: "it can do its work",
            contents: &[json(SchemaGenerator::subschema_for::<ReadyView>)],
        },
        Answer {
            status: 503,
            about: "it cannot, or it was told to stop",
            contents: &[json(SchemaGenerator::subschema_for::<ReadyView>)],
        },
    ],
    ..get("ready", "/readyz", Access::Member, "Can it do its work, part by part?", &[], &[])
};
/// `GET /metrics`.
pub const METRICS: Operation = Operation {
    tagged: false,
    ..get(
        "metrics",
        "/metrics",
        Access::Operator,
        "Metrics for Prometheus.",
        &[],
        ok!(
            "OpenMetrics 1.0",
            Content {
                media_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
                shape: Shape::Text
            }
        ),
    )
};
/// `GET /openapi.json`.
pub const OPENAPI: Operation = get(
    "openapi",
    "/openapi.json",
    Access::Member,
    "This document.",
    &[],
    ok!("OpenAPI 3.1", json(|_| schemars::json_schema!({ "type": "object" }))),
);
/// `GET /v1`.
pub const INDEX: Operation = get("index", "/v1", Access::Member, "What there is.", &[], ok!(IndexView));
/// `GET /v1/health`.
pub const HEALTH: Operation = Operation {
    tagged: false,
    ..get("health", "/v1/health", Access::Member, "Which version answers?", &[], ok!(HealthView))
};
/// `GET /v1/changes`.
pub const CHANGES: Operation = Operation {
    tagged: false,
    ..get(
        "awaitChange",
        "/v1/changes",
        Access::Member,
        "Answers as soon as the number of changes differs from `after`, at most half a minute later.",
        &[number("after", "the number that is known")],
        ok!(ChangeView),
    )
};
