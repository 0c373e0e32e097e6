//! A request as the NBI would understand it, before anything is decided about it.
//!
//! The NBI (CherryPy) reads more into a URL than its path: it drops empty parts, takes `;` for `&`, lets `?METHOD=` override
//! the verb, and lets a query or a form name what the path did not (`/osm/nslcm/v1?topic=ns_instances`). So the request is
//! taken apart here, and what goes on is put together from the parts alone: what we decide about is what the NBI gets.
//! Whatever could be understood in two ways is refused. Tests: below.

use axum::http::{HeaderMap, Method, Uri, header};

use crate::refusal::{Refused, codes};

/// Longest URL, bytes: a filter with a hundred ids.
const MAX_URL: usize = 16 << 10;
/// Most parts of a path and most parameters.
const MAX_PARTS: usize = 64;
/// What the NBI's handler calls the parts of a path: a query that names one would be a path of its own.
const PATH_NAMES: [&str; 5] = ["main_topic", "version", "topic", "item", "args"];

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What is done, whatever the verb said.
    pub method: Method,
    /// Parts of the path below `/osm`.
    pub path: Vec<String>,
    /// Parameters, in order, without `METHOD`.
    pub query: Vec<(String, String)>,
}

impl Asked {
    /// Takes a request apart.
    pub fn of(verb: &Method, uri: &Uri) -> Result<Self, Refused> {
        let bad = |detail: String| Refused::request(detail);
        if uri.path().len() + uri.query().map_or(0, str::len) > MAX_URL {
            return Err(bad(format!("a URL of more than {MAX_URL} bytes")));
        }
        let mut path = Vec::new();
        for part in uri.path().split('/').filter(|p| !p.is_empty()) {
            let part = decoded(part).ok_or_else(|| bad(format!("`{part}` is not UTF-8")))?;
            if part == "." || part == ".." || part.contains('/') || part.chars().any(char::is_control) {
                return Err(bad(format!("`{part}` in a path")));
            }
            path.push(part);
        }
        if path.first().map(String::as_str) != Some("osm") {
            return Err(Refused::new(404, codes::REQUEST, "everything of OSM is below /osm"));
        }
        path.remove(0);
        let mut query = parameters(uri.query().unwrap_or_default());
        if path.len().max(query.len()) > MAX_PARTS {
            return Err(bad(format!("more than {MAX_PARTS} parts")));
        }
        if let Some((name, _)) = query.iter().find(|(name, _)| PATH_NAMES.contains(&name.as_str())) {
            return Err(bad(format!("`{name}` in a query would be a part of the path: write it there")));
        }
        let method = overridden(verb, &mut query)?;
        // `?_id=X` of a collection is the record X to the NBI.
        if path.len() == 3
            && let Some(at) = query.iter().position(|(name, _)| name == "_id")
        {
            let (_, id) = query.remove(at);
            if query.iter().any(|(name, _)| name == "_id")
                || id.is_empty()
                || id.contains(['/', ','])
                || id == ".."
            {
                return Err(bad("`_id` in a query names one record".into()));
            }
            path.push(id);
        } else if query.iter().any(|(name, _)| name == "_id") {
            return Err(bad("`_id` in a query beside an id in the path".into()));
        }
        Ok(Self { method, path, query })
    }

    /// The path's parts, for matching.
    pub fn parts(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }

    /// `nslcm/v1/ns_instances`: what the request is about, without ids; for records and metrics.
    #[must_use]
    pub fn topic(&self) -> String {
        let known = |p: &&String| p.len() <= 32 && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        self.path.iter().take(3).filter(known).cloned().collect::<Vec<_>>().join("/")
    }

    /// Does it read?
    #[must_use]
    pub fn reads(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS)
    }

    /// Path and query below the NBI's base, put together anew.
    #[must_use]
    pub fn target(&self) -> String {
        let path: Vec<String> = self.path.iter().map(|p| segment(p)).collect();
        match self.query.is_empty() {
            true => path.join("/"),
            false => format!("{}?{}", path.join("/"), encoded(&self.query)),
        }
    }
}

/// A query's text.
#[must_use]
pub fn encoded(query: &[(String, String)]) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    query.iter().for_each(|(name, value)| {
        out.append_pair(name, value);
    });
    out.finish()
}

/// One part of a path; a dot stays, because an escaped one is a directory to whoever normalises paths.
fn segment(text: &str) -> String {
    http_peer::segment(text).replace("%2E", ".")
}

fn decoded(part: &str) -> Option<String> {
    let mut out = Vec::with_capacity(part.len());
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let pair = [bytes.next()?, bytes.next()?];
                out.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

/// As CherryPy splits them.
fn parameters(query: &str) -> Vec<(String, String)> {
    let pairs = query.split(['&', ';']).filter(|p| !p.is_empty());
    pairs.flat_map(|p| form_urlencoded::parse(p.as_bytes()).into_owned()).collect()
}

/// The NBI does what `?METHOD=` says, if that is one of five verbs; said twice it would be a list and mean nothing.
fn overridden(verb: &Method, query: &mut Vec<(String, String)>) -> Result<Method, Refused> {
    let said: Vec<String> = query.iter().filter(|(n, _)| n == "METHOD").map(|(_, v)| v.clone()).collect();
    query.retain(|(name, _)| name != "METHOD");
    match said.as_slice() {
        [] => Ok(verb.clone()),
        [one] => match one.as_str() {
            "GET" => Ok(Method::GET),
            "POST" => Ok(Method::POST),
            "PUT" => Ok(Method::PUT),
            "PATCH" => Ok(Method::PATCH),
            "DELETE" => Ok(Method::DELETE),
            other => Err(Refused::request(format!("METHOD={other}: GET, POST, PUT, PATCH or DELETE"))),
        },
        _ => Err(Refused::request("METHOD is said twice".into())),
    }
}

/// Headers that are of one connection, not of the request (RFC 9110, 7.6.1), and those that we set anew.
const HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
];

/// The headers that go on.
#[must_use]
pub fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(',').map(|n| n.trim().to_ascii_lowercase()).collect::<Vec<_>>())
        .collect();
    let goes = |name: &str| !HOP.contains(&name) && !named.iter().any(|n| n == name);
    headers.iter().filter(|(n, _)| goes(n.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect()
}

/// Is it a form? CherryPy makes parameters of its fields, which then say more than the URL.
#[must_use]
pub fn is_form(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let given = given.to_ascii_lowercase();
    given.contains("form-urlencoded") || given.contains("multipart/")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn asked(verb: Method, uri: &str) -> Result<Asked, Refused> {
        Asked::of(&verb, &uri.parse().unwrap())
    }

    #[test]
    fn it_is_understood_as_the_nbi_does() {
        let a = asked(Method::GET, "/osm//nslcm/v1/ns_instances/?name=a+b;x=%2C&METHOD=POST").unwrap();
        assert_eq!((a.method.clone(), a.parts()), (Method::POST, vec!["nslcm", "v1", "ns_instances"]));
        assert_eq!(a.query, [("name".into(), "a b".into()), ("x".into(), ",".into())]);
        assert_eq!(a.target(), "nslcm/v1/ns_instances?name=a+b&x=%2C");
        let a = asked(Method::GET, "/osm/nslcm/v1/ns_instances?_id=abc").unwrap();
        assert_eq!(a.target(), "nslcm/v1/ns_instances/abc");
        assert_eq!(asked(Method::GET, "/osm/%74est/x").unwrap().parts(), ["test", "x"]);
        assert_eq!(asked(Method::GET, "/osm/a/b%20c.d").unwrap().target(), "a/b%20c.d");
    }

    #[test]
    fn what_has_two_meanings_is_refused() {
        for uri in [
            "/osm/nslcm/v1?topic=ns_instances",
            "/osm/nslcm/v1/ns_instances?item=terminate",
            "/osm/a?METHOD=GET&METHOD=POST",
            "/osm/a?METHOD=",
            "/osm/a?METHOD=HEAD",
            "/osm/nslcm/v1/ns_instances/x?_id=y",
            "/osm/nslcm/v1/ns_instances?_id=x&_id=y",
            "/osm/a/%2e%2e/b",
            "/osm/a%2fb",
            "/osm/%ff",
            "/osm/%0a",
            "/other",
            "/",
        ] {
            assert!(asked(Method::GET, uri).is_err(), "{uri}");
        }
    }

    proptest! {
        /// What goes on is understood as what came in.
        #[test]
        fn what_goes_on_is_what_was_decided(
            path in proptest::collection::vec("[a-zA-Z0-9_.%;&= ~é-]{1,8}", 3..6),
            query in proptest::collection::vec(("[a-z.]{1,6}", "[a-zA-Z0-9,;&=%+ é]{0,8}"), 0..5),
        ) {
            prop_assume!(path.iter().all(|p| p != "." && p != ".."));
            let it = Asked { method: Method::GET, path, query };
            prop_assume!(!it.query.iter().any(|(n, _)| PATH_NAMES.contains(&n.as_str())));
            let uri = format!("/osm/{}", it.target());
            prop_assert_eq!(Asked::of(&Method::GET, &uri.parse().unwrap()).unwrap(), it);
        }

        /// Any URL is understood or refused.
        #[test]
        fn no_url_is_too_strange(tail in "[!-~]{0,80}") {
            if let Ok(uri) = format!("/osm/{tail}").parse::<Uri>()
                && let Ok(it) = Asked::of(&Method::GET, &uri)
            {
                    let again = Asked::of(&it.method, &format!("/osm/{}", it.target()).parse().unwrap()).unwrap();
                    prop_assert_eq!(again, it);
            }
        }
    }

    #[test]
    fn headers_of_a_connection_stay() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Mine"),
            ("x-mine", "1"),
            ("transfer-encoding", "chunked"),
            ("host", "gateway"),
            ("authorization", "Bearer x"),
            ("cookie", "session_id=1"),
        ] {
            headers.insert(axum::http::HeaderName::from_static(name), value.parse().unwrap());
        }
        let mut on: Vec<_> = passed_on(&headers).keys().map(|k| k.as_str().to_owned()).collect();
        on.sort();
        assert_eq!(on, ["authorization", "cookie"]);
    }
}
