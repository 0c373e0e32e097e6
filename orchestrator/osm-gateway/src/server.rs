//! The door: who calls, in which project, and which way the call goes.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, header, request::Parts},
    response::Response,
};
use tokio::time::Instant;

use crate::{
    Gateway, Managed, Refused, RefusedCall,
    caller::Caller,
    codes,
    fields::{ADMIN_WORDS, MAX_DOCUMENT},
    lifecycle::Call,
    packages::{self, MAX_PACKAGE, Upload},
    reads::Topic,
    reply,
    request::{Asked, is_form},
};

/// Longest time in which the document of a request must arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The same of a package.
const PACKAGE_TIMEOUT: Duration = Duration::from_secs(300);
/// Packages that are read at once: each is held in memory.
const MAX_PACKAGES: usize = 2;

/// Which way a request went, for the metrics.
type Went = (&'static str, Result<Response, Refused>);

impl Gateway {
    /// Everything below `/osm`.
    pub fn router(self: &Arc<Self>) -> Router {
        let packages = Arc::new(tokio::sync::Semaphore::new(MAX_PACKAGES));
        Router::new().fallback(answer).with_state((self.clone(), packages))
    }

    async fn route(
        self: &Arc<Self>,
        parts: &Parts,
        body: Body,
        packages: &tokio::sync::Semaphore,
    ) -> (Went, Seen) {
        let mut seen = Seen { method: parts.method.clone(), ..Seen::default() };
        let asked = match Asked::of(&parts.method, &parts.uri) {
            Ok(asked) => asked,
            Err(refused) => return (("refused", Err(refused)), seen),
        };
        (seen.topic, seen.method) = (asked.topic(), asked.method.clone());
        seen.id = asked.path.get(3).cloned();
        let went = match asked.parts()[..] {
            // These act outside of the table of URLs, one of them without a token.
            ["test" | "token" | "new_token", ..] => {
                ("refused", Err(Refused::new(405, codes::NOT_ALLOWED, "this URL is for OSM's own tests")))
            }
            ["admin", "v1", "tokens", ..] => ("passed", self.tokens(&asked, &parts.headers, body).await),
            _ if asked.reads() => self.reads(&asked, &parts.headers, &mut seen).await,
            _ => self.writes(&asked, &parts.headers, body, packages, &mut seen).await,
        };
        (went, seen)
    }

    /// Logins and logouts are OSM's; what is remembered of callers is not true any more.
    async fn tokens(&self, asked: &Asked, headers: &HeaderMap, body: Body) -> Result<Response, Refused> {
        let body = (!asked.reads()).then_some(body);
        let changes = asked.method != Method::GET;
        if changes {
            self.callers.forget();
        }
        let passed = self.nbi.pass(asked, headers, body).await;
        if changes {
            self.callers.forget();
        }
        Ok(passed?.relay())
    }

    async fn reads(self: &Arc<Self>, asked: &Asked, headers: &HeaderMap, seen: &mut Seen) -> Went {
        let topic = Topic::of(&asked.parts()).filter(|_| asked.method == Method::GET);
        let read = async {
            let Some(topic) = topic else { return Ok(self.nbi.pass(asked, headers, None).await?.relay()) };
            let caller = self.callers.of(&self.nbi, headers, self.port.now_ms()).await?;
            match caller.as_ref().and_then(|c| self.managed(c)) {
                Some(m) => {
                    seen.caller = Some(m.caller.clone());
                    self.read(&m, topic, asked, headers).await
                }
                None => Ok(self.nbi.pass(asked, headers, None).await?.relay()),
            }
        };
        ("read", read.await)
    }

    async fn writes(
        self: &Arc<Self>,
        asked: &Asked,
        headers: &HeaderMap,
        body: Body,
        packages: &tokio::sync::Semaphore,
        seen: &mut Seen,
    ) -> Went {
        let caller = match self.callers.of(&self.nbi, headers, self.port.now_ms()).await {
            Ok(Some(caller)) => caller,
            Ok(None) => return ("refused", Err(nobody(headers))),
            Err(refused) => return ("refused", Err(refused)),
        };
        seen.caller = Some(caller.clone());
        let Some(m) = self.managed(&caller) else {
            return ("passed", self.unmanaged(&caller, asked, headers, body).await);
        };
        if self.port.draining() {
            let detail = "the orchestrator is stopping; nothing new is taken: try again";
            return ("refused", Err(Refused::new(503, codes::BUSY, detail)));
        }
        if is_form(headers) {
            let detail =
                "a form's fields would be parameters of the URL: send JSON, YAML or the package itself";
            return ("refused", Err(Refused::new(415, codes::REQUEST, detail)));
        }
        self.governed(&m, asked, headers, body, packages).await
    }

    /// Another project's business, as long as it stays there.
    async fn unmanaged(
        &self,
        caller: &Caller,
        asked: &Asked,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, Refused> {
        let off = |value: &str| value.eq_ignore_ascii_case("false");
        let reaches = asked.query.iter().any(|(name, value)| {
            matches!(name.as_str(), "ADMIN" | "SET_PROJECT") && !off(value) && *value != caller.project_id
        });
        let package = packages::is_form(headers)
            && matches!(asked.path.first().map(String::as_str), Some("vnfpkgm" | "nsd"));
        if reaches || (caller.admin && is_form(headers) && !package) {
            let detail = format!(
                "a write with {} reaches managed projects too: take a token of the project that it is about",
                if reaches { "ADMIN or SET_PROJECT" } else { "a form, whose fields may say ADMIN," }
            );
            return Err(Refused::new(401, codes::ADMIN_REACH, detail));
        }
        let passed = self.nbi.pass(asked, headers, Some(body)).await;
        if asked.path.first().is_some_and(|p| p == "admin") {
            self.callers.forget();
        }
        Ok(passed?.relay())
    }

    async fn governed(
        self: &Arc<Self>,
        m: &Managed<'_>,
        asked: &Asked,
        headers: &HeaderMap,
        body: Body,
        packages: &tokio::sync::Semaphore,
    ) -> Went {
        let (parts, method) = (asked.parts(), asked.method.as_str());
        let may_pass = m.project.pass.contains(&parts.iter().take(3).copied().collect::<Vec<_>>().join("/"));
        if may_pass || matches!(parts[..], ["nslcm", "v1", "subscriptions", ..]) {
            return ("passed", self.listed(asked, headers, body).await);
        }
        let upload = Upload::of(method, &parts);
        let read = match upload {
            Some(_) => read_package(body, packages).await,
            None => read(body, MAX_DOCUMENT, BODY_TIMEOUT).await,
        };
        let body = match read {
            Ok(body) => body,
            Err(refused) => return ("refused", Err(refused)),
        };
        let call = Call { m, asked, headers, body: &body };
        if let Some(upload) = upload {
            return ("package", self.upload(&call, upload).await);
        }
        if let Some((_, id)) = packages::deleted(method, &parts) {
            let deleted = async {
                self.may_delete(&call, id).await?;
                Ok(self.nbi.pass(asked, headers, None).await?.relay())
            };
            return ("package", deleted.await);
        }
        let answer = match (method, &parts[..]) {
            ("POST", ["nslcm", "v1", "ns_instances"]) => self.draft(&call).await,
            ("POST", ["nslcm", "v1", "ns_instances_content"]) => self.one_shot(&call).await,
            ("POST", ["nslcm", "v1", "ns_instances_terminate"]) => self.terminate_all(&call).await,
            ("POST", ["nslcm", "v1", "ns_instances", id, verb]) => self.operate(&call, id, verb).await,
            ("POST", ["nslcm", "v1", "ns_lcm_op_occs", id, "cancel"]) => self.cancel(&call, id).await,
            ("DELETE", ["nslcm", "v1", "ns_instances", id]) => self.remove(&call, id).await,
            ("DELETE", ["nslcm", "v1", "ns_instances_content", id]) => {
                self.terminate_and_remove(&call, id).await
            }
            _ => Err(not_allowed(m, asked)),
        };
        ("intent", answer)
    }

    /// What the operator listed, in this project alone.
    async fn listed(&self, asked: &Asked, headers: &HeaderMap, body: Body) -> Result<Response, Refused> {
        if let Some((word, _)) = asked.query.iter().find(|(name, _)| ADMIN_WORDS.contains(&name.as_str())) {
            return Err(Refused::new(
                401,
                codes::ADMIN_REACH,
                format!("?{word} is not for a managed project"),
            ));
        }
        let passed = self.nbi.pass(asked, headers, Some(body)).await;
        if asked.path.first().is_some_and(|p| p == "admin") {
            self.callers.forget();
        }
        Ok(passed?.relay())
    }

    /// On record, with the service that it was about, if any.
    fn note(&self, seen: &Seen, refused: &Refused) {
        let row = seen.id.as_ref().and_then(|id| self.port.record(id).ok().flatten());
        let (user, project) =
            seen.caller.as_ref().map(|c| (c.user.clone(), c.project.clone())).unwrap_or_default();
        self.port.refused(RefusedCall {
            topic: seen.topic.clone(),
            method: seen.method.to_string(),
            user,
            project,
            code: refused.code.clone(),
            detail: refused.detail.clone(),
            ns: row.and_then(|r| r.ns),
        });
    }
}

/// What is known of a request when it is refused.
#[derive(Default)]
struct Seen {
    topic: String,
    method: Method,
    id: Option<String>,
    caller: Option<Caller>,
}

async fn answer(
    State((gateway, packages)): State<(Arc<Gateway>, Arc<tokio::sync::Semaphore>)>,
    request: Request,
) -> Response {
    let began = Instant::now();
    let (parts, body) = request.into_parts();
    let ((kind, outcome), seen) = gateway.route(&parts, body, &packages).await;
    let response = outcome.unwrap_or_else(|refused| {
        tracing::debug!(topic = seen.topic, method = %seen.method, %refused, "refused");
        // A read that fails is nobody's attempt at anything.
        if kind != "read" && seen.caller.is_some() {
            gateway.note(&seen, &refused);
        }
        reply::refusal(&parts.headers, &refused)
    });
    gateway.port.answered(kind, response.status().as_u16(), began.elapsed());
    response
}

/// A body within bounds.
async fn read(body: Body, most: usize, within: Duration) -> Result<Vec<u8>, Refused> {
    let read = tokio::time::timeout(within, to_bytes(body, most)).await;
    let read = read.map_err(|_| {
        Refused::new(408, codes::REQUEST, format!("it did not arrive within {} s", within.as_secs()))
    })?;
    let read = read.map_err(|e| Refused::new(413, codes::REQUEST, format!("{e} (at most {most} bytes)")))?;
    Ok(read.to_vec())
}

async fn read_package(body: Body, packages: &tokio::sync::Semaphore) -> Result<Vec<u8>, Refused> {
    let Ok(_place) = packages.try_acquire() else {
        return Err(Refused::new(
            503,
            codes::BUSY,
            format!("{MAX_PACKAGES} packages are arriving; try again"),
        ));
    };
    read(body, MAX_PACKAGE, PACKAGE_TIMEOUT).await
}

/// In the NBI's words: clients log in again by them.
fn nobody(headers: &HeaderMap) -> Refused {
    let detail = match headers.contains_key(header::AUTHORIZATION) {
        true => "Invalid Token or Authorization HTTP header",
        false => "Needed a token or Authorization http header",
    };
    Refused::new(401, "", detail)
}

fn not_allowed(m: &Managed<'_>, asked: &Asked) -> Refused {
    let detail = format!(
        "{} {}: project {} is managed, and this is nothing that an intent does; the operator may list it under `pass` in [osm_gateway.project.{}]",
        asked.method,
        asked.topic(),
        m.key,
        m.key
    );
    Refused::new(401, codes::NOT_ALLOWED, detail)
}
