//! The HTTP API over a UNIX socket: SOL013's conventions (problem+json, ETag) on our own resources.
//!
//! It translates and bounds, nothing else: every decision is [`Service`]'s. It never trusts a length it was told,
//! and never answers anything but JSON, an evidence bundle or a problem. Access control is the socket's directory
//! (mode 0700); who asks for a change is proven by the signature inside the request, never by the connection.
//!
//! Tests: `tests/api.rs`, over a real socket.

mod reply;
mod routes;

use std::{sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::UnixListener,
    sync::{Semaphore, watch},
};

use crate::service::Service;

pub use routes::{
    ChangeView, CheckpointView, EntriesView, HealthView, IndexView, PolicyView, ROUTES, RotateQuery,
};

/// Largest request document, bytes: the ledger's bound on a payload in base64, and room for its signatures.
pub const MAX_REQUEST_BYTES: usize = 8 << 20;
/// Largest approval document, bytes: an entry holds a request.
pub const MAX_APPROVAL_BYTES: usize = 16 << 20;
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
const DRAIN: Duration = Duration::from_secs(5);

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

/// What every handler sees.
#[derive(Clone)]
struct Context {
    service: Arc<dyn Service>,
    bounds: Bounds,
    uploads: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

/// The routes over a service; long polls end when `stop` becomes true.
pub fn router(service: Arc<dyn Service>, bounds: Bounds, stop: watch::Receiver<bool>) -> Router {
    let bounds = Bounds { package_bytes: bounds.package_bytes.min(MAX_PACKAGE_BYTES) };
    routes::all().with_state(Context {
        service,
        bounds,
        uploads: Arc::new(Semaphore::new(CONCURRENT_UPLOADS)),
        stop,
    })
}

/// Serves with default bounds until `stop` becomes true (or its sender is gone).
pub async fn serve(
    listener: UnixListener,
    service: Arc<dyn Service>,
    stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    serve_with(listener, service, stop, Bounds::default()).await
}

/// Serves until `stop` becomes true (or its sender is gone); what is under way then has a few seconds to finish.
pub async fn serve_with(
    listener: UnixListener,
    service: Arc<dyn Service>,
    stop: watch::Receiver<bool>,
    bounds: Bounds,
) -> std::io::Result<()> {
    let app = router(service, bounds, stop.clone());
    let server = axum::serve(listener, app).with_graceful_shutdown(stopped(stop.clone())).into_future();
    tokio::select! {
        done = server => done,
        () = async { stopped(stop).await; tokio::time::sleep(DRAIN).await } => Ok(()),
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stop.wait_for(|s| *s).await;
}
