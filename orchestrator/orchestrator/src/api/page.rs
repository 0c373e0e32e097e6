//! Lists in pages: `limit`, SOL013's `nextpage_opaque_marker`, and a `Link` to the next.
//!
//! A marker names the last item that was seen, never a place in the list: what comes or goes meanwhile neither hides
//! an item nor shows one twice.

use axum::http::{HeaderValue, Uri};

use super::{DEFAULT_PAGE, MAX_PAGE};
use crate::problem::Problem;

/// Longest marker, bytes before encoding.
const MAX_MARKER_BYTES: usize = 256;

/// What a list is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paging {
    limit: Option<usize>,
    nextpage_opaque_marker: Option<String>,
}

/// A page, and where the next one begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Key of the last item, when there is more.
    pub next: Option<String>,
}

impl Paging {
    /// From the values of a query.
    #[must_use]
    pub fn new(limit: Option<usize>, nextpage_opaque_marker: Option<String>) -> Self {
        Self { limit, nextpage_opaque_marker }
    }

    /// Most items.
    pub fn limit(&self) -> Result<usize, Problem> {
        match self.limit.unwrap_or(DEFAULT_PAGE) {
            n @ 1..=MAX_PAGE => Ok(n),
            n => {
                let detail = format!("limit={n}; 1 to {MAX_PAGE}");
                Err(Problem::new(400, "LIMIT", "The query is malformed", detail))
            }
        }
    }

    /// Key of the last item that the client has seen.
    pub fn after(&self) -> Result<Option<String>, Problem> {
        let Some(marker) = &self.nextpage_opaque_marker else { return Ok(None) };
        let fits = (2..=2 * MAX_MARKER_BYTES).contains(&marker.len());
        let lower = !marker.bytes().any(|b| b.is_ascii_uppercase());
        match hex::decode(marker) {
            // What is no key of ours is after nothing.
            Ok(bytes) if fits && lower => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            _ => {
                let detail = "nextpage_opaque_marker is not one of ours";
                Err(Problem::new(400, "MARKER", "The query is malformed", detail)
                    .hint("take it from the `Link` header as it is, or leave it out to begin anew"))
            }
        }
    }

    /// The page of `all` that is asked for, of the items that `keep` lets through.
    pub fn of<T>(
        &self,
        all: impl IntoIterator<Item = T>,
        key: impl Fn(&T) -> String,
        keep: impl Fn(&T) -> bool,
    ) -> Result<Page<T>, Problem> {
        let (limit, after) = (self.limit()?, self.after()?);
        let mut rest = all.into_iter();
        if let Some(after) = after {
            rest.find(|item| key(item) == after);
        }
        let mut items = Vec::new();
        for item in rest.filter(|item| keep(item)) {
            if items.len() == limit {
                let next = items.last().map(&key);
                return Ok(Page { items, next });
            }
            items.push(item);
        }
        Ok(Page { items, next: None })
    }
}

/// The `Link` header to the page after `key`: the same query with another marker.
pub fn link(uri: &Uri, key: &str) -> Option<HeaderValue> {
    let kept = uri.query().unwrap_or_default().split('&');
    let mut query: Vec<String> = kept
        .filter(|p| !p.is_empty() && !p.starts_with("nextpage_opaque_marker="))
        .map(str::to_owned)
        .collect();
    query.push(format!("nextpage_opaque_marker={}", hex::encode(key)));
    HeaderValue::from_str(&format!("<{}?{}>; rel=\"next\"", uri.path(), query.join("&"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paging(limit: usize, after: Option<&str>) -> Paging {
        Paging { limit: Some(limit), nextpage_opaque_marker: after.map(hex::encode) }
    }

    proptest::proptest! {
        #[test]
        fn pages_put_together_are_the_list(n in 0usize..40, limit in 1usize..9, odd: bool) {
            let all: Vec<String> = (0..n).map(|i| format!("item {i}")).collect();
            let keep = |s: &String| !odd || s.len() % 2 == 1;
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = paging(limit, after.as_deref()).of(all.clone(), Clone::clone, keep).unwrap();
                proptest::prop_assert!(page.items.len() <= limit);
                seen.extend(page.items);
                match page.next { Some(next) => after = Some(next), None => break }
            }
            let expected: Vec<_> = all.into_iter().filter(keep).collect();
            proptest::prop_assert_eq!(seen, expected);
        }

        #[test]
        fn no_marker_is_a_panic(text in "\\PC{0,40}|[0-9a-fA-F]{0,40}") {
            let p = Paging { limit: None, nextpage_opaque_marker: Some(text) };
            let _ = p.of(["a".to_owned()], Clone::clone, |_| true);
        }
    }

    #[test]
    fn a_link_keeps_the_query_and_replaces_the_marker() {
        let uri: Uri = "/v1/ns?all=true&nextpage_opaque_marker=00&limit=2".parse().unwrap();
        let link = link(&uri, "ns-1").unwrap();
        assert_eq!(
            link.to_str().unwrap(),
            "</v1/ns?all=true&limit=2&nextpage_opaque_marker=6e732d31>; rel=\"next\""
        );
    }
}
