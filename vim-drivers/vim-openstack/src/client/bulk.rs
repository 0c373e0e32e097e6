//! Lists in pages, and files.

use std::{path::Path, time::Duration};

use reqwest::{RequestBuilder, header};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ApiError, Call, Client, Fault, Service};

/// Entries asked for at a time: nova and glance give no more.
const PAGE: usize = 1000;
/// Most pages of a list: a hundred thousand objects in one project are more than any of the services lists in time.
const MAX_PAGES: usize = 100;
/// Longest upload.
const UPLOAD: Duration = Duration::from_secs(3600);

impl Client {
    /// A whole list, page after page.
    pub async fn all<T: DeserializeOwned>(&self, call: Call, member: &str) -> Result<Vec<T>, ApiError> {
        let unreadable = |problem: String| ApiError::new(call.place(), Fault::Unreadable { problem });
        // neutron gives everything unless it is asked for pages.
        let paged = matches!(call.service, Service::Compute | Service::Image | Service::Volume);
        let first = if paged { call.clone().query("limit", PAGE.to_string()) } else { call.clone() };
        let (mut out, mut next) = (Vec::new(), first.clone());
        for _ in 0..MAX_PAGES {
            let mut page: Value = self.ask(&next).await?;
            let Value::Array(entries) = page[member].take() else {
                return Err(unreadable(format!("no list `{member}`")));
            };
            let more = page.get("next").is_some() || page.get(format!("{member}_links")).is_some();
            let last = entries.last().and_then(|e| e["id"].as_str()).map(str::to_owned);
            for entry in entries {
                out.push(serde_json::from_value(entry).map_err(|e| unreadable(e.to_string()))?);
            }
            match last.filter(|_| more) {
                Some(id) => next = first.clone().query("marker", id),
                None => return Ok(out),
            }
        }
        Err(unreadable(format!("more than {MAX_PAGES} pages")))
    }

    /// Does the catalogue have one of these services?
    pub(crate) async fn has(&self, services: &[Service]) -> Result<bool, ApiError> {
        Ok(self.session().await?.has(services))
    }
}

/// The file as a request's content.
pub(super) async fn with_file(
    request: RequestBuilder,
    file: &Path,
    call: &Call,
) -> Result<RequestBuilder, ApiError> {
    let trouble = |e: std::io::Error| {
        let problem = format!("{}: {e}", file.display());
        ApiError::new(call.place(), Fault::Unreachable { problem })
    };
    let content = tokio::fs::File::open(file).await.map_err(trouble)?;
    let length = content.metadata().await.map_err(trouble)?.len();
    let request = request.header(header::CONTENT_TYPE, "application/octet-stream");
    Ok(request.timeout(UPLOAD).header(header::CONTENT_LENGTH, length).body(content))
}
