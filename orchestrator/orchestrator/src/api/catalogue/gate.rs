//! The gate: requests, packages and intents, the ledger with its proofs, the policy.

use ledger_contract::{evidence::ProvenEntry, intent::MAX_INTENT_BYTES};
use schemars::SchemaGenerator;
use trust::Envelope;

use super::{
    super::{MAX_APPROVAL_BYTES, MAX_PACKAGE_BYTES, MAX_REQUEST_BYTES},
    Access, Answer, Body, Content, Operation, Shape, Verb,
    parts::{NOT_FOUND, POSITION, get, json, number, ok, path},
};
use crate::views::{
    CheckpointView, CommittedView, ConsistencyView, DeliveredView, EntriesView, IntentView, PackageView,
    PlanView, PolicyView,
};

/// `POST /v1/requests`.
pub const SUBMIT: Operation = Operation {
    id: "submitRequest",
    verb: Verb::Post,
    path: "/v1/requests",
    about: "Submits a signed request to the ledger. What the policy refuses is a result too: it has a verdict. \
            A `traceparent` header becomes the parent of the operation's trace.",
    access: Access::Member,
    parameters: &[],
    body: Some(Body {
        contents: &[
            json(SchemaGenerator::subschema_for::<Envelope>),
            Content {
                media_type: "application/vnd.dsse.envelope.v1+json",
                shape: Shape::Json(SchemaGenerator::subschema_for::<Envelope>),
            },
        ],
        max_bytes: MAX_REQUEST_BYTES,
    }),
    answers: &[Answer {
        status: 201,
        about: "decided and durable",
        contents: &[json(SchemaGenerator::subschema_for::<CommittedView>)],
    }],
    paged: false,
    tagged: false,
    refusals: &[403, 409, 422],
};
/// `GET /v1/packages`.
pub const PACKAGES: Operation = Operation {
    paged: true,
    ..get("listPackages", "/v1/packages", Access::Member, "Registered packages.", &[], ok!(Vec<PackageView>))
};
/// `PUT /v1/packages/content`.
pub const PUT_PACKAGE: Operation = Operation {
    id: "putPackage",
    verb: Verb::Put,
    path: "/v1/packages/content",
    about: "Verifies a package and stores it by its digest; the answer has the record to be signed and submitted.",
    access: Access::Provider,
    parameters: &[],
    body: Some(Body {
        contents: &[
            Content { media_type: "application/octet-stream", shape: Shape::Bytes },
            Content { media_type: "application/gzip", shape: Shape::Bytes },
        ],
        max_bytes: MAX_PACKAGE_BYTES,
    }),
    answers: ok!(PackageView),
    paged: false,
    tagged: false,
    refusals: &[409, 422, 507],
};
/// `GET /v1/intents`.
pub const INTENTS: Operation = Operation {
    paged: true,
    ..get("listIntents", "/v1/intents", Access::Tenant, "Intents, newest first.", &[], ok!(Vec<IntentView>))
};
/// `GET /v1/intents/{id}`.
pub const INTENT: Operation = Operation {
    refusals: NOT_FOUND,
    ..get(
        "getIntent",
        "/v1/intents/{id}",
        Access::Tenant,
        "An intent and what became of it.",
        &[path("id", "intent id")],
        ok!(IntentView),
    )
};
/// `POST /v1/plan`.
pub const PLAN: Operation = Operation {
    id: "planIntent",
    verb: Verb::Post,
    path: "/v1/plan",
    about: "What would be done about an intent, signed or not, if it were approved now: steps, placement, and the reason \
            against every other site. Whether the policy would approve it is not asked; nothing is done or reserved.",
    access: Access::Tenant,
    parameters: &[],
    body: Some(Body {
        contents: &[json(|_| schemars::json_schema!({ "type": "object" }))],
        max_bytes: MAX_INTENT_BYTES,
    }),
    answers: ok!(PlanView),
    paged: false,
    tagged: false,
    refusals: &[409, 422],
};
/// `POST /v1/approvals`.
pub const DELIVER: Operation = Operation {
    id: "deliverApproval",
    verb: Verb::Post,
    path: "/v1/approvals",
    about: "Takes an approval that was carried here by hand, through the same verification as the ledger's stream.",
    access: Access::Operator,
    parameters: &[],
    body: Some(Body {
        contents: &[json(SchemaGenerator::subschema_for::<ProvenEntry>)],
        max_bytes: MAX_APPROVAL_BYTES,
    }),
    answers: &[Answer {
        status: 202,
        about: "accepted and journaled",
        contents: &[json(SchemaGenerator::subschema_for::<DeliveredView>)],
    }],
    paged: false,
    tagged: false,
    refusals: &[409, 422],
};
/// `GET /v1/ledger/head`.
pub const LEDGER_HEAD: Operation = get(
    "getLedgerHead",
    "/v1/ledger/head",
    Access::Member,
    "The ledger's newest checkpoint.",
    &[],
    ok!(CheckpointView),
);
/// `GET /v1/ledger/consistency/{position}`.
pub const LEDGER_CONSISTENCY: Operation = Operation {
    refusals: NOT_FOUND,
    ..get(
        "getLedgerConsistency",
        "/v1/ledger/consistency/{position}",
        Access::Member,
        "The newest checkpoint with the consistency proof from the tree of so many entries to it.",
        &[POSITION],
        ok!(ConsistencyView),
    )
};
/// `GET /v1/ledger/entries`.
pub const LEDGER_ENTRIES: Operation = Operation {
    paged: true,
    ..get(
        "listLedgerEntries",
        "/v1/ledger/entries",
        Access::Operator,
        "Ledger entries, exact bytes, oldest first.",
        &[number("from", "position of the first")],
        ok!(EntriesView),
    )
};
/// `GET /v1/ledger/entries/{position}`.
pub const LEDGER_ENTRY: Operation = Operation {
    refusals: NOT_FOUND,
    ..get(
        "getLedgerEntry",
        "/v1/ledger/entries/{position}",
        Access::Operator,
        "A ledger entry with its inclusion proof.",
        &[POSITION],
        ok!(ProvenEntry),
    )
};
/// `GET /v1/policy`.
pub const POLICY: Operation =
    get("getPolicy", "/v1/policy", Access::Member, "The policy bundle in force.", &[], ok!(PolicyView));
