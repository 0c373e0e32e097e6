//! The catalogue: every operation of the API once, as data.
//!
//! The router, the OpenAPI document, the check of who may call what, the labels of the metrics and our own client are
//! all made from it, so that none of them can say something else than the others. What a handler answers is checked
//! against it in `tests/openapi.rs`, and from outside by schemathesis (`cargo testbed test api`).

use attestation::AkRecord;
use ledger_contract::{evidence::ProvenEntry, intent::MAX_INTENT_BYTES};
use schemars::{Schema, SchemaGenerator};
use trust::Envelope;

use super::{MAX_APPROVAL_BYTES, MAX_DIRECTION_BYTES, MAX_PACKAGE_BYTES, MAX_PAGE, MAX_REQUEST_BYTES};
use crate::journal::Mitigation;
use crate::views::{
    AliveView, ChangeView, CheckpointView, CloudEvent, CommittedView, ConsistencyView, DeliveredView,
    DirectionView, DriftView, EntriesView, HealthView, IndexView, IntentView, NsView, OperationView,
    PackageView, PlanView, PolicyView, ReadyView, SiteView, StepView, TimelineLine,
};

/// Largest integer that every JSON parser keeps exactly; positions and numbers are below it.
pub const MAX_NUMBER: u64 = (1 << 53) - 1;

/// HTTP methods that the API has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Reads.
    Get,
    /// Makes or changes; takes an `Idempotency-Key`.
    Post,
    /// Makes, idempotent by what is put.
    Put,
}

impl Verb {
    /// As HTTP writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
        }
    }
}

/// Who may call an operation. Whoever reaches the UNIX socket is the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every member of a known organisation.
    Member,
    /// Tenants, who see what is theirs; operators and auditors, who see everything.
    Tenant,
    /// Providers and operators.
    Provider,
    /// Operators, and auditors when it only reads.
    Operator,
}

impl Access {
    /// For the document.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Member => "For every member.",
            Self::Tenant => "Tenants see their own; operators and auditors everything.",
            Self::Provider => "For providers and operators.",
            Self::Operator => "For operators; auditors may read.",
        }
    }
}

/// Where a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the path.
    Path,
    /// In the query.
    Query,
    /// A header.
    Header,
}

/// What a parameter's value may be.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    /// Any text.
    Text,
    /// Text of this form.
    Pattern(&'static str),
    /// A whole number.
    Number {
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// `true` or `false`.
    Flag,
}

/// A parameter.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// Name.
    pub name: &'static str,
    /// Where.
    pub place: Place,
    /// What it may be.
    pub value: Value,
    /// For people.
    pub about: &'static str,
}

/// The form of a body.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// JSON of this schema.
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// Text.
    Text,
    /// Bytes.
    Bytes,
}

/// A body of a media type.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    /// Media type.
    pub media_type: &'static str,
    /// Its form.
    pub shape: Shape,
}

/// What a request carries.
#[derive(Debug, Clone, Copy)]
pub struct Body {
    /// Any one of them.
    pub contents: &'static [Content],
    /// Largest, bytes.
    pub max_bytes: usize,
}

/// A success.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// For people.
    pub about: &'static str,
    /// Any one of them.
    pub contents: &'static [Content],
}

/// One operation of the API.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// `operationId`.
    pub id: &'static str,
    /// Method.
    pub verb: Verb,
    /// Path, with `{…}` for parameters.
    pub path: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Who may.
    pub access: Access,
    /// Path and query, and headers of its own.
    pub parameters: &'static [Parameter],
    /// What the request carries.
    pub body: Option<Body>,
    /// What comes back.
    pub answers: &'static [Answer],
    /// Is it a list in pages (`limit`, `nextpage_opaque_marker`, `Link`)?
    pub paged: bool,
    /// Has its answer an entity tag?
    pub tagged: bool,
    /// Statuses of its own refusals, beyond those of every operation.
    pub refusals: &'static [u16],
}

const fn json(schema: fn(&mut SchemaGenerator) -> Schema) -> Content {
    Content { media_type: "application/json", shape: Shape::Json(schema) }
}

const fn get(
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
const NOT_FOUND: &[u16] = &[404];

macro_rules! ok {
    ($schema:ty) => {
        ok!("the resource", json(SchemaGenerator::subschema_for::<$schema>))
    };
    ($about:literal, $($content:expr),+) => {
        &[Answer { status: 200, about: $about, contents: &[$($content),+] }]
    };
}

const fn path(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, place: Place::Path, value: Value::Text, about }
}

const POSITION: Parameter = Parameter {
    name: "position",
    place: Place::Path,
    value: Value::Number { min: 0, max: MAX_NUMBER },
    about: "position in the ledger",
};
const NS: Parameter = path("id", "NS instance id, or `tenant/service` with the slash encoded (`%2F`)");
const OPERATION: Parameter = path("id", "operation id");
const SITE: Parameter = path("name", "site");

const fn number(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, place: Place::Query, value: Value::Number { min: 0, max: MAX_NUMBER }, about }
}

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
    refusals: &[409, 422],
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
    ..get("getNs", "/v1/ns/{id}", Access::Tenant, "A network service.", &[NS], ok!(NsView))
};
/// `GET /v1/ns/{id}/timeline`.
pub const TIMELINE: Operation = Operation {
    refusals: NOT_FOUND,
    ..get(
        "getNsTimeline",
        "/v1/ns/{id}/timeline",
        Access::Tenant,
        "Everything that happened to a service, in order.",
        &[NS],
        ok!(Vec<TimelineLine>),
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
        &[OPERATION],
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
        ..get(id, path, Access::Operator, about, &[OPERATION], DIRECTED)
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
        &[OPERATION],
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
        &[OPERATION],
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
        &[OPERATION, AFTER, LAST_EVENT_ID],
        EVENT_ANSWER,
    )
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
/// `GET /v1/drift`.
pub const DRIFT: Operation = get(
    "getDrift",
    "/v1/drift",
    Access::Operator,
    "What the last look at every site found that should not be so, and the intents proposed about it.",
    &[],
    ok!(DriftView),
);
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

/// All of them.
pub const ALL: &[Operation] = &[
    ALIVE,
    READY,
    METRICS,
    OPENAPI,
    INDEX,
    HEALTH,
    SUBMIT,
    PACKAGES,
    PUT_PACKAGE,
    INTENTS,
    INTENT,
    PLAN,
    SERVICES,
    SERVICE,
    TIMELINE,
    OPERATIONS,
    GET_OPERATION,
    RETRY,
    ROLLBACK,
    FAIL,
    STEPS,
    EVIDENCE,
    EVENTS,
    OPERATION_EVENTS,
    SITES,
    ATTESTATION_KEY,
    NEW_ATTESTATION_KEY,
    DELIVER,
    LEDGER_HEAD,
    LEDGER_CONSISTENCY,
    LEDGER_ENTRIES,
    LEDGER_ENTRY,
    POLICY,
    DRIFT,
    MITIGATIONS,
    CHANGES,
];

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

/// The operation behind a matched route.
#[must_use]
pub fn find(method: &str, path: &str) -> Option<&'static Operation> {
    // A HEAD is a GET without its body.
    let method = if method == "HEAD" { "GET" } else { method };
    ALL.iter().find(|o| o.path == path && o.verb.name() == method)
}

impl Operation {
    /// Its path with the parameters filled in, each encoded as one segment.
    #[must_use]
    pub fn fill(&self, values: &[&str]) -> Vec<String> {
        let mut values = values.iter();
        let segment = |s: &str| {
            if s.starts_with('{') {
                values.next().copied().unwrap_or_default().to_owned()
            } else {
                s.to_owned()
            }
        };
        self.path.trim_start_matches('/').split('/').map(segment).collect()
    }

    /// All its parameters, those of its kind included.
    pub fn all_parameters(&self) -> impl Iterator<Item = &'static Parameter> {
        let paged: &'static [Parameter] = if self.paged { &[LIMIT, MARKER] } else { &[] };
        let tagged: &'static [Parameter] = if self.tagged { &[IF_NONE_MATCH] } else { &[] };
        let post: &'static [Parameter] = if self.verb == Verb::Post { &[IDEMPOTENCY_KEY] } else { &[] };
        self.parameters.iter().chain(paged).chain(tagged).chain(post)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_routes_are_there_once_and_paths_name_their_parameters() {
        for (i, a) in ALL.iter().enumerate() {
            for b in &ALL[..i] {
                assert_ne!(a.id, b.id);
                assert!((a.verb, a.path) != (b.verb, b.path), "{}", a.path);
            }
            let in_path = a.parameters.iter().filter(|p| p.place == Place::Path);
            let named: Vec<String> = in_path.map(|p| format!("{{{}}}", p.name)).collect();
            let braces: Vec<_> = a.path.split('/').filter(|s| s.starts_with('{')).collect();
            assert_eq!(named, braces, "{}", a.id);
        }
    }
}
