//! The catalogue: every operation of the API once, as data.
//!
//! The router, the OpenAPI document, the check of who may call what, the labels of the metrics and our own client are
//! all made from it, so that none of them can say something else than the others. What a handler answers is checked
//! against it in `tests/openapi.rs`, and from outside by schemathesis (`cargo testbed test api`).

mod gate;
mod life;
mod parts;
mod process;
mod sites;

use schemars::{Schema, SchemaGenerator};

pub use self::{
    gate::*,
    life::*,
    parts::{IDEMPOTENCY_KEY, IF_NONE_MATCH, LIMIT, MARKER},
    process::*,
    sites::*,
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
    NS_DRIFT,
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
    SITE_TIMELINE,
    STRAYS,
    CLEAN,
    MITIGATIONS,
    CHANGES,
];

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
