//! The life of services: what lives, the operations on it and their steps, and what happened.

use schemars::SchemaGenerator;

use super::{
    super::MAX_DIRECTION_BYTES,
    Access, Answer, Body, Content, MAX_NUMBER, Operation, Parameter, Place, Shape, Value, Verb,
    parts::{NOT_FOUND, NS_ID, OPERATION_ID, get, json, number, ok},
};
use crate::views::{CloudEvent, DirectionView, NsDriftView, NsView, OperationView, StepView, TimelineLine};

/// `GET /v1/ns`.
pub const SERVICES: Operation = Operation {
    paged: true,
    ..get(
        "listNs",
        "/v1/ns",
        Access::Tenant,
        "Network services that live.",
        &[Parameter {
            name: "all",
            place: Place::Query,
            value: Value::Flag,
            about: "also those that were terminated",
        }],
        ok!(Vec<NsView>),
    )
};
/// `GET /v1/ns/{id}`.
pub const SERVICE: Operation = Operation {
    refusals: NOT_FOUND,
    ..get("getNs", "/v1/ns/{id}", Access::Tenant, "A network service.", &[NS_ID], ok!(NsView))
};
/// `GET /v1/ns/{id}/timeline`.
pub const TIMELINE: Operation = Operation {
    refusals: NOT_FOUND,
    ..get(
        "getNsTimeline",
        "/v1/ns/{id}/timeline",
        Access::Tenant,
        "Everything that happened to a service, in order.",
        &[NS_ID],
        ok!(Vec<TimelineLine>),
    )
};
/// `GET /v1/ns/{id}/drift`.
pub const NS_DRIFT: Operation = Operation {
    refusals: NOT_FOUND,
    ..get(
        "getNsDrift",
        "/v1/ns/{id}/drift",
        Access::Tenant,
        "What is not as it should be with a service, what was done about it, and what standing grants have left.",
        &[NS_ID],
        ok!(NsDriftView),
    )
};
/// `GET /v1/operations`.
pub const OPERATIONS: Operation = Operation {
    paged: true,
    ..get(
        "listOperations",
        "/v1/operations",
        Access::Tenant,
        "Operations, newest first.",
        &[Parameter {
            name: "open",
            place: Place::Query,
            value: Value::Flag,
            about: "only those that are not closed and anchored",
        }],
        ok!(Vec<OperationView>),
    )
};
/// `GET /v1/operations/{id}`.
pub const GET_OPERATION: Operation = Operation {
    refusals: NOT_FOUND,
    ..get(
        "getOperation",
        "/v1/operations/{id}",
        Access::Tenant,
        "An operation occurrence (SOL005 NsLcmOpOcc).",
        &[OPERATION_ID],
        ok!(OperationView),
    )
};
const DIRECTION: Body = Body {
    contents: &[json(SchemaGenerator::subschema_for::<DirectionView>)],
    max_bytes: MAX_DIRECTION_BYTES,
};
const DIRECTED: &[Answer] = &[Answer {
    status: 202,
    about: "taken, with who decided, for the operation's record; it is carried out at its next turn",
    contents: &[json(SchemaGenerator::subschema_for::<OperationView>)],
}];

const fn direction(id: &'static str, path: &'static str, about: &'static str) -> Operation {
    Operation {
        verb: Verb::Post,
        body: Some(DIRECTION),
        tagged: false,
        refusals: &[404, 409, 422],
        ..get(id, path, Access::Operator, about, &[OPERATION_ID], DIRECTED)
    }
}
/// `POST /v1/operations/{id}/retry`.
pub const RETRY: Operation = direction(
    "retryOperation",
    "/v1/operations/{id}/retry",
    "Has an operation that is FAILED_TEMP try again at once (SOL005, 6.4.11).",
);
/// `POST /v1/operations/{id}/rollback`.
pub const ROLLBACK: Operation = direction(
    "rollbackOperation",
    "/v1/operations/{id}/rollback",
    "Has an operation take back what it did (SOL005, 6.4.12): one that is FAILED_TEMP, or under way.",
);
/// `POST /v1/operations/{id}/fail`.
pub const FAIL: Operation = direction(
    "failOperation",
    "/v1/operations/{id}/fail",
    "Ends an operation that is FAILED_TEMP (SOL005, 6.4.14): what is left is left, and on record.",
);
/// `GET /v1/operations/{id}/steps`.
pub const STEPS: Operation = Operation {
    refusals: NOT_FOUND,
    ..get(
        "getOperationSteps",
        "/v1/operations/{id}/steps",
        Access::Tenant,
        "The steps of an operation's plan, with every attempt.",
        &[OPERATION_ID],
        ok!(Vec<StepView>),
    )
};
/// `GET /v1/operations/{id}/evidence`.
pub const EVIDENCE: Operation = Operation {
    refusals: &[404, 409],
    ..get(
        "getOperationEvidence",
        "/v1/operations/{id}/evidence",
        Access::Tenant,
        "The evidence bundle of an anchored operation.",
        &[OPERATION_ID],
        ok!("the bundle, JSON Lines", Content { media_type: "application/jsonl", shape: Shape::Text }),
    )
};
const AFTER: Parameter = number("after", "only what came after this number; 0: everything");
const LAST_EVENT_ID: Parameter = Parameter {
    name: "Last-Event-ID",
    place: Place::Header,
    value: Value::Number { min: 0, max: MAX_NUMBER },
    about: "goes on after this number; counts more than `after`",
};
const EVENT_ANSWER: &[Answer] = ok!(
    "a page of events; with `Accept: text/event-stream` they are sent as they happen, each with its number, and \
     `lagged` says how many were passed over",
    json(SchemaGenerator::subschema_for::<Vec<CloudEvent>>),
    Content { media_type: "text/event-stream", shape: Shape::Text }
);
/// `GET /v1/events`.
pub const EVENTS: Operation = Operation {
    tagged: false,
    paged: true,
    ..get(
        "listEvents",
        "/v1/events",
        Access::Tenant,
        "What happened, in the order in which it became durable.",
        &[
            AFTER,
            Parameter {
                name: "ns",
                place: Place::Query,
                value: Value::Text,
                about: "only of this NS instance id",
            },
            LAST_EVENT_ID,
        ],
        EVENT_ANSWER,
    )
};
/// `GET /v1/operations/{id}/events`.
pub const OPERATION_EVENTS: Operation = Operation {
    tagged: false,
    paged: true,
    refusals: NOT_FOUND,
    ..get(
        "listOperationEvents",
        "/v1/operations/{id}/events",
        Access::Tenant,
        "What happened in an operation; the stream ends when it is anchored.",
        &[OPERATION_ID, AFTER, LAST_EVENT_ID],
        EVENT_ANSWER,
    )
};
