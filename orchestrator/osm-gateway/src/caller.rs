//! Who calls: whoever the NBI says that the request's credentials are.
//!
//! The NBI is asked with exactly what the client sent (its home page answers with the token), so there is no second reading
//! of a header. What it said is believed for [`BELIEVED`] and never beyond the token's end; whatever deletes or changes
//! tokens, users or projects and passes here makes all of it forgotten at once. Nothing of the request itself names a caller.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use trust::Digest;

use crate::{
    refusal::{Refused, codes},
    upstream::{Nbi, unreadable},
};

/// How long the NBI's word is believed.
const BELIEVED: Duration = Duration::from_secs(5);
/// Callers that are remembered; beyond, all are forgotten.
const MAX_CALLERS: usize = 4096;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub user: String,
    /// Its id.
    pub user_id: String,
    /// Project of the token.
    pub project: String,
    /// Its id.
    pub project_id: String,
    /// May it look into other projects?
    pub admin: bool,
}

impl Caller {
    /// `USER@PROJECT`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}@{}", self.user, self.project)
    }
}

/// As the NBI says it.
#[derive(Deserialize)]
struct Token {
    username: String,
    #[serde(default)]
    user_id: String,
    project_name: String,
    #[serde(default)]
    project_id: String,
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    expires: f64,
}

/// Whom the NBI has named lately.
#[derive(Default)]
pub struct Callers {
    known: Mutex<HashMap<Digest, (Caller, Instant)>>,
    /// Counts what is forgotten: an answer that was asked for before is not remembered.
    forgotten: std::sync::atomic::AtomicU64,
}

impl Callers {
    /// Who sent these headers; `None`: the NBI does not know either.
    pub async fn of(&self, nbi: &Nbi, headers: &HeaderMap, now_ms: u64) -> Result<Option<Caller>, Refused> {
        let key = key(headers)?;
        let before = self.forgotten.load(std::sync::atomic::Ordering::SeqCst);
        if let Some((caller, until)) = self.lock().get(&key)
            && Instant::now() < *until
        {
            return Ok(Some(caller.clone()));
        }
        let answer = nbi.ask_for("", headers, "application/json").await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Ok(None),
            _ => return Err(answer.into_refusal().await),
        }
        let body = answer.whole().await?;
        let token: Token =
            serde_json::from_slice(&body).map_err(|e| unreadable("who calls", &e.to_string()))?;
        let left_s = token.expires - now_ms as f64 / 1000.0;
        let caller = Caller {
            user: token.username,
            user_id: token.user_id,
            project: token.project_name,
            project_id: token.project_id,
            admin: token.admin,
        };
        let believed = if token.expires > 0.0 { left_s.clamp(0.0, BELIEVED.as_secs_f64()) } else { 0.0 };
        let mut known = self.lock();
        if known.len() >= MAX_CALLERS {
            known.clear();
        }
        if self.forgotten.load(std::sync::atomic::Ordering::SeqCst) == before {
            known.insert(key, (caller.clone(), Instant::now() + Duration::from_secs_f64(believed)));
        }
        Ok(Some(caller))
    }

    /// Everybody is asked about anew.
    pub fn forget(&self) {
        self.forgotten.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, (Caller, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the credentials are remembered by.
fn key(headers: &HeaderMap) -> Result<Digest, Refused> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for name in [header::AUTHORIZATION, header::COOKIE] {
        let mut all = headers.get_all(&name).iter();
        parts.push(all.next().map_or(b"", |v| v.as_bytes()));
        if name == header::AUTHORIZATION && all.next().is_some() {
            return Err(Refused::new(400, codes::REQUEST, "more than one Authorization header"));
        }
        all.for_each(|v| parts.push(v.as_bytes()));
    }
    Ok(Digest::of_parts(parts))
}
