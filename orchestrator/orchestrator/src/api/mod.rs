//! The HTTP API over a UNIX socket, and over mutual TLS where configured: SOL013's conventions (problem+json, ETag,
//! opaque page markers) on our own resources.
//!
//! It translates and bounds, nothing else: every decision is [`Service`]'s. Read top-down: [`catalogue`] (every
//! operation as data) -> [`openapi`] (the document made from it) -> `gate` (who calls, once and only once) ->
//! `routes` (the handlers). It never trusts a length it was told, never answers anything but what the catalogue
//! says, and nobody changes anything by reaching it: who asks for a change is proven by the signature inside the
//! request.
//!
//! Tests: `tests/api.rs` and `tests/openapi.rs`, over a real socket; `cargo testbed test api` has schemathesis look
//! for what they miss.

pub mod caller;
pub mod catalogue;
mod events;
mod gate;
pub mod openapi;
pub mod page;
mod reply;
mod routes;
pub mod tls;

use std::{sync::Arc, time::Duration};

use axum::{Router, middleware};
use tokio::{
    net::UnixListener,
    sync::{Semaphore, watch},
};

use crate::{service::Service, telemetry::metrics::Metrics};

pub use events::{MAX_BEHIND, MAX_STREAMS};
pub use routes::RotateQuery;

/// Largest request document, bytes: the ledger's bound on a payload in base64, and room for its signatures.
pub const MAX_REQUEST_BYTES: usize = 8 << 20;
/// Largest approval document, bytes: an entry holds a request.
pub const MAX_APPROVAL_BYTES: usize = 16 << 20;
/// Largest direction, bytes: a reason and its JSON.
pub const MAX_DIRECTION_BYTES: usize = 16 << 10;
/// Largest list of strays to be removed, bytes: 1000 keys of 200, their sites and a reason.
pub const MAX_CLEANING_BYTES: usize = 512 << 10;
/// No package may be larger, whatever is configured: it is held in memory while it is verified.
pub const MAX_PACKAGE_BYTES: usize = 1 << 30;
/// Uploads handled at once; each may hold a whole package in memory.
pub const CONCURRENT_UPLOADS: usize = 2;
/// Longest wait of `GET /v1/changes`.
pub const LONG_POLL: Duration = Duration::from_secs(30);
/// Longest time in which a body must arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(300);
/// Most items of a list.
pub const MAX_PAGE: usize = 1000;
/// Items of a list when nobody says how many.
pub const DEFAULT_PAGE: usize = 100;
/// How long connections may finish what they do when the server stops.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Bounds that an installation may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Largest package accepted, bytes; at most [`MAX_PACKAGE_BYTES`].
    pub package_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { package_bytes: 256 << 20 }
    }
}

/// When the API refuses new work, and when it ends.
#[derive(Debug, Clone)]
pub struct Signals {
    /// True: whatever would change something is answered with 503.
    pub draining: watch::Receiver<bool>,
    /// True, or its sender gone: the server ends, and long polls and streams with it.
    pub stop: watch::Receiver<bool>,
}

/// The API over a service; each listener is served by a clone of it.
#[derive(Clone)]
pub struct Api {
    context: Context,
}

/// What every handler sees.
#[derive(Clone)]
struct Context {
    service: Arc<dyn Service>,
    metrics: Arc<Metrics>,
    bounds: Bounds,
    uploads: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    busy: gate::Busy,
    draining: watch::Receiver<bool>,
    stop: watch::Receiver<bool>,
}

impl Api {
    /// The API over a service, which says who is known over TCP.
    #[must_use]
    pub fn new(service: Arc<dyn Service>, signals: Signals) -> Self {
        Self {
            context: Context {
                service,
                metrics: Arc::default(),
                bounds: Bounds::default(),
                uploads: Arc::new(Semaphore::new(CONCURRENT_UPLOADS)),
                streams: Arc::new(Semaphore::new(events::MAX_STREAMS)),
                busy: gate::Busy::default(),
                draining: signals.draining,
                stop: signals.stop,
            },
        }
    }

    /// With these bounds.
    #[must_use]
    pub fn bounds(mut self, bounds: Bounds) -> Self {
        self.context.bounds = Bounds { package_bytes: bounds.package_bytes.min(MAX_PACKAGE_BYTES) };
        self
    }

    /// Counts into these metrics, and shows them.
    #[must_use]
    pub fn metrics(mut self, metrics: Arc<Metrics>) -> Self {
        self.context.metrics = metrics;
        self
    }

    fn router(&self) -> Router {
        let gate = middleware::from_fn_with_state(self.context.clone(), gate::pass);
        routes::all().layer(gate).with_state(self.context.clone())
    }

    /// Serves the operator until `stop`; what is under way then has a few seconds to finish.
    pub async fn serve_unix(self, listener: UnixListener) -> std::io::Result<()> {
        let app = self.router().into_make_service_with_connect_info::<caller::Peer>();
        let server = axum::serve(listener, app).with_graceful_shutdown(self.stopped());
        self.until_stop(server.into_future()).await
    }

    /// Serves members over TCP until `stop`.
    pub async fn serve_tls(self, listener: tls::TlsListener) -> std::io::Result<()> {
        let app = self.router().into_make_service_with_connect_info::<caller::Peer>();
        let server = axum::serve(listener, app).with_graceful_shutdown(self.stopped());
        self.until_stop(server.into_future()).await
    }

    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.context.stop.clone();
        async move {
            // An error means that the sender is gone, which is a stop too.
            let _ = stop.wait_for(|s| *s).await;
        }
    }

    async fn until_stop(&self, server: impl Future<Output = std::io::Result<()>>) -> std::io::Result<()> {
        tokio::select! {
            done = server => done,
            () = async { self.stopped().await; tokio::time::sleep(LAST_WORDS).await } => Ok(()),
        }
    }
}
