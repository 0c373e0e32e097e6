//! The gate inside OSM: stands in front of the northbound interface (NBI) for the clients that people already use.
//!
//! In a *managed project* reads pass through and a call that would change something becomes an intent under the caller's
//! identity, answered as OSM would answer it; the operation that the client polls follows the intent. Every other project
//! passes through. [`request`] takes a request apart as the NBI would, [`caller`] asks the NBI who sent it, [`translate`] says what it asks
//! for, [`lifecycle`] has the ledger decide, [`reads`] shows our services among OSM's records under the client's ids.
//!
//! What it must never do: believe a name that a request says; let a write into a managed project that it did not decide
//! about; pass over a part of a request; answer before what it answers is durable; try a client's request twice.
//!
//! It knows no engine and no VIM: the orchestrator is behind [`Orchestrator`]. Tests: beside the code; the orchestrator's
//! `tests/osm_gateway.rs` with its engine, against an NBI that misbehaves on demand and, where `OSM_NBI_URL` names one, a real one.

pub mod caller;
pub mod config;
mod fields;
mod filter;
pub mod ids;
mod lifecycle;
mod own;
mod packages;
pub mod port;
mod reads;
mod records;
mod refusal;
mod reply;
mod request;
mod resolve;
mod server;
mod split;
mod translate;
mod upstream;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
};

pub use config::{GatewayConfig, ManagedProject, PersonKey, Upstream};
pub use port::{Decision, Governed, NsRow, OpRow, Orchestrator, Progress, RefusedCall, Trouble};
pub use refusal::{Refused, codes};

use caller::{Caller, Callers};
use trust::Signer;
use upstream::Nbi;

/// Most records of a project, and services of a tenant, that are shown: as many as the orchestrator lists.
pub const MAX_SERVICES: usize = 1000;
/// Ids of OSM's that are remembered.
const MAX_KNOWN: usize = 10_000;

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The way to the NBI.
    #[error("[osm] {0}")]
    Upstream(#[from] http_peer::BadConfig),
    /// A person's certificate or key.
    #[error("[osm_gateway.identity.\"{who}\"] {problem}")]
    Identity {
        /// Whose.
        who: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The gateway.
pub struct Gateway {
    config: GatewayConfig,
    /// Our sites and OSM's VIM account for each, by name.
    sites: BTreeMap<String, String>,
    nbi: Nbi,
    callers: Callers,
    port: Arc<dyn Orchestrator>,
    /// One change of a record at a time.
    turns: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// NS instance -> its id in OSM, as last seen.
    known: Mutex<HashMap<String, String>>,
}

/// A caller in a managed project.
#[derive(Debug, Clone)]
pub(crate) struct Managed<'a> {
    pub(crate) caller: Caller,
    /// What the project is called in the configuration: its name in OSM, or its id.
    pub(crate) key: &'a str,
    pub(crate) project: &'a ManagedProject,
}

impl Gateway {
    /// Checks that every key can be used; asks nothing yet.
    pub fn new(
        config: GatewayConfig,
        upstream: &Upstream,
        port: Arc<dyn Orchestrator>,
    ) -> Result<Arc<Self>, StartError> {
        for (who, key) in &config.identities {
            signer(key).map_err(|problem| StartError::Identity { who: who.clone(), problem })?;
        }
        Ok(Arc::new(Self {
            config,
            sites: upstream.sites.clone(),
            nbi: Nbi::new(upstream)?,
            callers: Callers::default(),
            port,
            turns: Mutex::default(),
            known: Mutex::default(),
        }))
    }

    fn managed<'a>(&'a self, caller: &Caller) -> Option<Managed<'a>> {
        let by = |name: &str| self.config.projects.get_key_value(name);
        let (key, project) = by(&caller.project).or_else(|| by(&caller.project_id))?;
        Some(Managed { caller: caller.clone(), key, project })
    }

    /// The person's key, read anew: certificates are short-lived.
    fn signer(&self, m: &Managed<'_>) -> Result<Signer, Refused> {
        let name = format!("{}@{}", m.caller.user, m.key);
        let nobody = || {
            let detail = format!(
                "no certificate and key are kept for `{name}`: nothing can be asked for in its name; the operator adds [osm_gateway.identity.\"{name}\"], or the tenant uses `mandate intent`"
            );
            Refused::new(401, codes::IDENTITY, detail)
        };
        let key = self.config.identities.get(&name).ok_or_else(nobody)?;
        if key.user_id.as_ref().is_some_and(|id| *id != m.caller.user_id) {
            return Err(nobody());
        }
        signer(key).map_err(|problem| {
            tracing::error!(who = name, problem, "a person's key cannot be used");
            Refused::new(
                503,
                codes::KEY,
                format!("the key of `{name}` cannot be used: {problem}; the operator mends it"),
            )
        })
    }

    fn turn(&self, what: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(what).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(what.to_owned(), Arc::downgrade(&turn));
        turn
    }

    fn know(&self, ns: &str, osm_id: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(ns.to_owned(), osm_id.to_owned());
    }

    fn known(&self, ns: &str) -> Option<String> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(ns).cloned()
    }
}

fn signer(key: &PersonKey) -> Result<Signer, String> {
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
    };
    let (private, certificate) = (read(&key.key)?, read(&key.certificate)?);
    Signer::from_pem(&private, &certificate).map_err(|e| format!("{}: {e}", key.key.display()))
}

impl From<Trouble> for Refused {
    fn from(t: Trouble) -> Self {
        match t.later {
            true => Self::new(
                503,
                codes::BACKEND,
                format!("{}: {}; nothing was done: try again", t.code, t.detail),
            ),
            false => Self::new(409, &t.code, t.detail),
        }
    }
}
