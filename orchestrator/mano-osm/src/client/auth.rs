//! Tokens: got once, renewed before they expire, and a wrong password tried once only.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use trust::Digest;

use super::{ApiError, Call, Client, Fault};

/// A token is renewed so long before it expires: longer than any one call takes.
const EARLY: Duration = Duration::from_secs(120);
/// A token that says nothing of its end (a user's that must change the password) is kept so long.
const SHORT: Duration = Duration::from_secs(300);
/// So long a locked account is not asked for: every try is another entry in the operator's log.
const LOCKED: Duration = Duration::from_secs(300);

/// What is known of our way in.
#[derive(Default)]
pub(super) struct Held {
    session: Option<Session>,
    refused: Option<Refused>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("session", &self.session.is_some()).finish_non_exhaustive()
    }
}

struct Session {
    token: Arc<str>,
    /// When it is renewed.
    until: Instant,
}

/// A login that was refused, and is not tried again with the same password.
struct Refused {
    password: Digest,
    until: Option<Instant>,
    fault: Fault,
}

#[derive(Deserialize)]
struct Answer {
    id: String,
    expires: Option<f64>,
    issued_at: Option<f64>,
    message: Option<String>,
}

impl Answer {
    /// How long the token lives, by the NBI's own clock: ours may differ.
    fn life(&self) -> Duration {
        let life = self.expires.zip(self.issued_at).map(|(expires, issued)| expires - issued);
        life.and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or(SHORT)
    }
}

impl Client {
    /// A token; got when there is none or it ends soon. Who asks at the same time waits for the same one.
    pub(super) async fn token(&self) -> Result<Arc<str>, ApiError> {
        let mut held = self.inner.session.lock().await;
        if let Some(session) = held.session.as_ref().filter(|s| Instant::now() < s.until) {
            return Ok(Arc::clone(&session.token));
        }
        let call = Call::new(Method::POST, "admin/v1/tokens");
        let secret = self.inner.config.password.read("password_file");
        let password =
            secret.map_err(|e| ApiError::new(call.place(), Fault::Secret { problem: e.to_string() }))?;
        let digest = Digest::of(&password);
        let again = |r: &Refused| r.password == digest && r.until.is_none_or(|until| Instant::now() < until);
        if let Some(refused) = held.refused.as_ref().filter(|r| again(r)) {
            return Err(ApiError::new(call.place(), refused.fault.clone()));
        }
        match self.login(&call, &password).await {
            Ok(session) => {
                let token = Arc::clone(&session.token);
                *held = Held { session: Some(session), refused: None };
                Ok(token)
            }
            Err(error) => {
                if let Fault::Login { locked, .. } = &error.fault {
                    let until = locked.then(|| Instant::now() + LOCKED);
                    held.refused = Some(Refused { password: digest, until, fault: error.fault.clone() });
                }
                Err(error)
            }
        }
    }

    /// The token was refused: the next call gets another one, unless somebody has already.
    pub(super) async fn forget(&self, token: &str) {
        let mut held = self.inner.session.lock().await;
        if held.session.as_ref().is_some_and(|s| *s.token == *token) {
            held.session = None;
        }
    }

    /// Asks as often as the NBI is not reached; never twice with a password that it has seen.
    async fn login(&self, call: &Call, password: &str) -> Result<Session, ApiError> {
        let config = &self.inner.config;
        // The key is `project_id` and takes the name; Basic authentication is refused.
        let body = json!({ "username": config.username, "password": password, "project_id": config.project });
        let sent = Instant::now();
        let answer = self
            .exchange(call, self.request(call)?.json(&body))
            .await
            .map_err(|e| let_in(e, &config.username))?;
        let unreadable =
            |e: serde_json::Error| ApiError::new(call.place(), Fault::Unreadable { problem: e.to_string() });
        let answer: Answer = serde_json::from_slice(&answer.body).map_err(unreadable)?;
        if answer.message.as_deref() == Some("change_password") {
            tracing::warn!(
                user = config.username,
                "OSM wants this user's password changed: set another one with `osm user-update` and in password_file"
            );
        }
        let life = answer.life();
        Ok(Session { token: answer.id.into(), until: sent + life.saturating_sub(EARLY).max(life / 2) })
    }
}

/// The error of a login that was refused for good.
fn let_in(error: ApiError, user: &str) -> ApiError {
    if error.status() != Some(StatusCode::UNAUTHORIZED) {
        return error;
    }
    let detail = error.detail().to_owned();
    let locked = detail.contains("locked");
    let advice = match locked {
        true => "have an administrator unlock it (`osm user-update --unlock`)",
        false => {
            "check username, project and password_file; it is not tried again until the password is another one"
        }
    };
    let problem = format!("OSM does not let {user} in: {detail}; {advice}");
    ApiError::new(error.call, Fault::Login { problem, locked })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_tokens_life_is_the_difference_of_its_times() {
        let life = |text: &str| serde_json::from_str::<Answer>(text).unwrap().life().as_secs();
        assert_eq!(life(r#"{"id": "a", "issued_at": 1795258127.5, "expires": 1795261727.5}"#), 3600);
        assert_eq!(life(r#"{"id": "a", "message": "change_password", "user_id": "b"}"#), 300);
        assert_eq!(life(r#"{"id": "a", "issued_at": 2.0, "expires": 1.0}"#), 300);
        assert_eq!(life(r#"{"id": "a", "issued_at": 0.0, "expires": 1e300}"#), 300);
    }
}
