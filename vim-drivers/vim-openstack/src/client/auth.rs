//! keystone v3: the token, when to renew it, and the catalogue that comes with it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, Call, Client, Fault, Service, again, answer};
use crate::config::{Auth, CloudConfig, Secret};

/// A token is renewed so long before it expires: longer than any one call takes.
const EARLY: Duration = Duration::from_secs(120);
/// A token that says nothing sensible about its end is kept so long.
const SHORT: Duration = Duration::from_secs(300);
/// Longest token document that is read, bytes: a large cloud's catalogue.
const MAX_TOKEN_BYTES: usize = 4 << 20;

/// A token, and what it opens.
pub(super) struct Session {
    token: String,
    /// When it is renewed.
    until: Instant,
    pub(super) project_id: String,
    catalogue: Vec<Entry>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("project_id", &self.project_id).finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize)]
struct Answer {
    token: Token,
}

#[derive(Debug, Deserialize)]
struct Token {
    issued_at: String,
    expires_at: String,
    project: Option<Project>,
    #[serde(default)]
    catalog: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Project {
    id: String,
}

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    interface: String,
    region_id: Option<String>,
    url: String,
}

impl Session {
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Is one of these services in the catalogue?
    pub(super) fn has(&self, services: &[Service]) -> bool {
        self.catalogue.iter().any(|e| services.iter().any(|s| s.types().contains(&e.kind.as_str())))
    }

    /// The endpoint of a service in the configured region, ending in a slash.
    pub(super) fn endpoint(&self, service: Service, config: &CloudConfig) -> Result<Url, ApiError> {
        let place = || format!("{} endpoint", service.project());
        let none = |problem: String| ApiError::new(place(), Fault::NoEndpoint { problem });
        let wanted = (config.interface.name(), config.region_name.as_deref());
        let all = self
            .catalogue
            .iter()
            .filter(|e| service.types().contains(&e.kind.as_str()))
            .flat_map(|e| &e.endpoints);
        let fits = |e: &&Endpoint| {
            e.interface == wanted.0 && wanted.1.is_none_or(|region| e.region_id.as_deref() == Some(region))
        };
        let mut found = all.clone().filter(fits);
        let Some(first) = found.next() else {
            let there: Vec<String> = all
                .map(|e| format!("{} in {}", e.interface, e.region_id.as_deref().unwrap_or("no region")))
                .collect();
            let there = if there.is_empty() { "none at all".to_owned() } else { there.join(", ") };
            return Err(none(format!(
                "the catalogue has no {} endpoint of `{}` in region {}; it has {there}: check region_name and interface",
                wanted.0,
                service.catalogue_type(),
                wanted.1.unwrap_or("(any)")
            )));
        };
        if let Some(other) = found.find(|e| e.region_id != first.region_id) {
            return Err(none(format!(
                "the catalogue has `{}` in several regions ({}, {}): name one as region_name",
                service.catalogue_type(),
                first.region_id.as_deref().unwrap_or("-"),
                other.region_id.as_deref().unwrap_or("-")
            )));
        }
        let mut text = first.url.trim_end_matches('/').to_owned();
        // neutron's and glance's endpoints are their roots; the version is part of every path.
        let version = match service {
            Service::Network => "v2.0",
            Service::Image => "v2",
            _ => "",
        };
        if !version.is_empty() && !text.ends_with(&format!("/{version}")) {
            text = format!("{text}/{version}");
        }
        let url =
            Url::parse(&format!("{text}/")).map_err(|e| none(format!("`{}` is no URL: {e}", first.url)))?;
        config.allowed(&url).map_err(none)?;
        Ok(url)
    }
}

/// The document that asks for a token.
fn request(auth: &Auth) -> Result<Value, String> {
    let read = |field, secret: &Secret| secret.read(field).map_err(|e| e.to_string());
    Ok(match auth {
        Auth::Password { username, user_domain_name, password, project_name, project_domain_name } => {
            json!({ "auth": {
            "identity": { "methods": ["password"], "password": { "user": {
                "name": username, "domain": { "name": user_domain_name }, "password": read("password_file", password)?,
            } } },
            "scope": { "project": { "name": project_name, "domain": { "name": project_domain_name } } },
        } })
        }
        Auth::ApplicationCredential { application_credential_id, secret } => json!({ "auth": {
            "identity": { "methods": ["application_credential"], "application_credential": {
                "id": application_credential_id, "secret": read("secret_file", secret)?,
            } },
        } }),
    })
}

/// Seconds between two times as keystone writes them (`2026-11-20T10:00:00.000000Z`). By its own clock alone: ours may differ.
fn lifetime(issued: &str, expires: &str) -> Option<Duration> {
    let seconds = |text: &str| {
        let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
        let (y, mo, d) = (number(0..4)?, number(5..7)?, number(8..10)?);
        let (h, mi, s) = (number(11..13)?, number(14..16)?, number(17..19)?);
        // Days since an epoch, by the civil calendar; only the difference counts.
        let (y, mo) = if mo <= 2 { (y - 1, mo + 12) } else { (y, mo) };
        let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * (mo - 3) + 2) / 5 + d;
        Some(days * 86_400 + h * 3600 + mi * 60 + s)
    };
    u64::try_from(seconds(expires)? - seconds(issued)?).ok().map(Duration::from_secs)
}

/// keystone answers 404 to an application credential that is gone: who asked for something else is not to take that for
/// the absence of it.
fn unauthorised(mut error: ApiError) -> ApiError {
    if let Fault::Refused { status, .. } = &mut error.fault
        && *status == StatusCode::NOT_FOUND
    {
        *status = StatusCode::UNAUTHORIZED;
    }
    error
}

impl Client {
    /// The session; got when there is none or it ends soon. Who asks at the same time waits for the same one.
    pub(super) async fn session(&self) -> Result<Arc<Session>, ApiError> {
        let mut held = self.inner.session.lock().await;
        if let Some(session) = held.as_ref().filter(|s| Instant::now() < s.until) {
            return Ok(Arc::clone(session));
        }
        let mut tries = 1;
        let session = loop {
            match self.login().await {
                Ok(session) => break Arc::new(session),
                // A token that nobody got changes nothing.
                Err(error) => match again(&error, true, tries) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(error),
                },
            }
            tries += 1;
        };
        *held = Some(Arc::clone(&session));
        Ok(session)
    }

    /// The token was refused: the next call gets another one.
    pub(super) async fn forget(&self) {
        *self.inner.session.lock().await = None;
    }

    async fn login(&self) -> Result<Session, ApiError> {
        let call = Call::new(Service::Identity, Method::POST, "auth/tokens");
        let error = |fault| ApiError::new(call.place(), fault);
        let body = request(&self.inner.config.auth).map_err(|problem| error(Fault::Secret { problem }))?;
        let url = self.inner.identity.join("auth/tokens");
        let url = url.map_err(|e| error(Fault::NoEndpoint { problem: e.to_string() }))?;
        self.count(Service::Identity);
        let sent = Instant::now();
        let answer = self.inner.http.post(url).json(&body).send().await;
        let answer = answer.map_err(|e| ApiError::sent(call.place(), &e))?;
        let answer = answer::checked(answer, &call).await.map_err(unauthorised)?;
        let token = answer.headers().get("X-Subject-Token").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let unreadable = |problem: &str| error(Fault::Unreadable { problem: problem.to_owned() });
        let token = token.ok_or_else(|| unreadable("no X-Subject-Token"))?;
        let bytes = answer::bounded(answer, MAX_TOKEN_BYTES, &call).await?;
        let it: Answer = serde_json::from_slice(&bytes).map_err(|e| unreadable(&e.to_string()))?;
        let it = it.token;
        let life = lifetime(&it.issued_at, &it.expires_at).unwrap_or(SHORT);
        let project = it.project.ok_or_else(|| {
            unreadable(
                "the token has no project: give the user a role in the project, or scope the credential",
            )
        })?;
        Ok(Session {
            token,
            until: sent + life.saturating_sub(EARLY).max(life / 2),
            project_id: project.id,
            catalogue: it.catalog,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_life_is_the_difference_of_its_times() {
        let life = |a, b| lifetime(a, b).map(|d| d.as_secs());
        assert_eq!(life("2026-11-20T10:00:00.000000Z", "2026-11-20T11:00:00.000000Z"), Some(3600));
        assert_eq!(life("2026-12-31T23:59:59.000000Z", "2027-01-01T00:00:09.000000Z"), Some(10));
        assert_eq!(life("2028-02-28T00:00:00Z", "2028-03-01T00:00:00Z"), Some(2 * 86_400));
        assert_eq!(life("2026-11-20T11:00:00Z", "2026-11-20T10:00:00Z"), None);
        assert_eq!(life("soon", "2026-11-20T10:00:00Z"), None);
        assert_eq!(life("", ""), None);
    }
}
