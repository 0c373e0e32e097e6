//! Where OSM sends its notifications (`[osm.notifications]`), which have whoever waits for an operation look at once.
//!
//! A notification decides nothing: what is looked at is the NBI itself, so a forged one costs a look, and plain HTTP is enough
//! for the one secret there is, a password made at each start that OSM sends along. (OSM trusts the public CAs alone, so TLS with
//! a private one would keep it from notifying; who wants TLS puts it before this.) Before OSM takes a subscription it asks the address for 204.
//!
//! Tests: below; `mano-osm`'s `tests/notifications.rs` on a real NBI.

use std::{io, net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use mano_osm::{Callback, MAX_NOTIFICATION_BYTES, Osm};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch};
use trust::Digest;

const USER: &str = "osm";

/// Where OSM's notifications are taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotificationsConfig {
    /// `ADDRESS:PORT`.
    pub listen: String,
    /// The same as OSM reaches it: `http://mandate.example:8446/`.
    pub url: String,
}

impl NotificationsConfig {
    /// The key that is wrong, and what would be right.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.listen.parse::<SocketAddr>().is_err() {
            return Err(("listen", "ADDRESS:PORT, for example 0.0.0.0:8446 or [::]:8446"));
        }
        let host = self.url.strip_prefix("http://").or_else(|| self.url.strip_prefix("https://"));
        if host.is_none_or(|h| h.is_empty() || h.starts_with('/')) {
            return Err(("url", "http://HOST:PORT/, as OSM's NBI reaches it"));
        }
        Ok(())
    }
}

/// A listener that the driver's waits are woken by.
pub struct Listener {
    tcp: TcpListener,
    heard: Arc<Heard>,
}

struct Heard {
    osm: Arc<Osm>,
    /// Of the `Authorization` header that OSM sends.
    authorization: Digest,
}

impl Listener {
    /// Listens, and has OSM told where before each first instantiation of an NSD.
    pub async fn bind(config: &NotificationsConfig, osm: Arc<Osm>) -> Result<Self> {
        let named = || format!("[osm.notifications]: listening on {}", config.listen);
        let tcp = TcpListener::bind(&config.listen).await.with_context(named)?;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
        let password = hex::encode(random);
        let authorization = Digest::of(format!("Basic {}", STANDARD.encode(format!("{USER}:{password}"))));
        osm.call_back(Callback { url: config.url.clone(), username: USER.into(), password });
        Ok(Self { tcp, heard: Arc::new(Heard { osm, authorization }) })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves until `stop`; then OSM is asked to tell no more.
    pub async fn serve(self, mut stop: watch::Receiver<bool>) -> io::Result<()> {
        let app = Router::new()
            .fallback_service(get(asked).post(told).with_state(self.heard.clone()))
            .layer(DefaultBodyLimit::max(MAX_NOTIFICATION_BYTES));
        let mut ended = stop.clone();
        let stopped = async move { drop(ended.wait_for(|s| *s).await) };
        let server = axum::serve(self.tcp, app).with_graceful_shutdown(stopped).into_future();
        let served = tokio::select! {
            served = server => served,
            // Nothing that is in flight here matters to anybody.
            _ = stop.wait_for(|s| *s) => Ok(()),
        };
        self.heard.osm.unsubscribe().await;
        served
    }
}

impl Heard {
    fn admits(&self, headers: &HeaderMap) -> StatusCode {
        let sent = headers.get(header::AUTHORIZATION).map(|v| Digest::of(v.as_bytes()));
        // Digests: how long the comparison takes tells nothing of the password.
        if sent == Some(self.authorization) { StatusCode::NO_CONTENT } else { StatusCode::UNAUTHORIZED }
    }
}

async fn asked(State(heard): State<Arc<Heard>>, headers: HeaderMap) -> StatusCode {
    heard.admits(&headers)
}

async fn told(State(heard): State<Arc<Heard>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let status = heard.admits(&headers);
    if status == StatusCode::NO_CONTENT {
        let awaited = heard.osm.notified(&body);
        tracing::debug!(awaited, "OSM notified us");
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_with_its_key() {
        let check = |listen: &str, url: &str| {
            NotificationsConfig { listen: listen.into(), url: url.into() }.check().map_err(|(key, _)| key)
        };
        assert_eq!(check("0.0.0.0:8446", "http://mandate:8446/"), Ok(()));
        assert_eq!(check("[::]:8446", "https://mandate/osm"), Ok(()));
        assert_eq!(check("mandate:8446", "http://mandate:8446/"), Err("listen"));
        for url in ["mandate:8446", "ftp://mandate", "http://", "http:///x"] {
            assert_eq!(check("0.0.0.0:1", url), Err("url"), "{url}");
        }
    }

    #[tokio::test]
    async fn only_who_knows_the_password_is_heard() {
        let sites = [("here", "vim")];
        let said = serde_json::json!({
            "url": "http://127.0.0.1:1", "username": "u", "password_file": "/nowhere", "allow_plain_http": true,
            "sites": std::collections::BTreeMap::from(sites),
        });
        let client = mano_osm::client::Client::new(serde_json::from_value(said).unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let artifacts = crate::artifacts::ArtifactStore::new(dir.path().to_owned());
        let osm = Arc::new(Osm::new(client, Arc::new(artifacts)));
        let config = NotificationsConfig { listen: "127.0.0.1:0".into(), url: "http://here/".into() };
        let mut listener = Listener::bind(&config, osm).await.unwrap();
        // What it is, only OSM knows.
        Arc::get_mut(&mut listener.heard).unwrap().authorization = Digest::of("Basic b3NtOnNlY3JldA==");
        let url = format!("http://{}/any/path", listener.address().unwrap());
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(listener.serve(stopped));
        // Whoever was first has installed one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::new();
        let ask = async |post: bool, password: Option<&str>, length: usize| {
            let request = if post { http.post(&url).body("x".repeat(length)) } else { http.get(&url) };
            let request = match password {
                Some(p) => request.basic_auth("osm", Some(p)),
                None => request,
            };
            request.send().await.unwrap().status().as_u16()
        };
        assert_eq!(ask(false, Some("secret"), 0).await, 204);
        assert_eq!(ask(true, Some("secret"), 10).await, 204, "whatever it says");
        assert_eq!(ask(true, Some("guess"), 10).await, 401);
        assert_eq!(ask(false, None, 0).await, 401);
        assert_eq!(ask(true, Some("secret"), MAX_NOTIFICATION_BYTES + 1).await, 413);
        stop.send_replace(true);
        server.await.unwrap().unwrap();
    }
}
