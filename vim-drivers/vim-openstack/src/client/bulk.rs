//! Lists in pages, and files.

use std::{path::Path, time::Duration};

use reqwest::{Method, header};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ApiError, Call, Client, Fault, Service, answer};

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
        let paged = matches!(call.service, Service::Compute | Service::Image);
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

    /// Sends a file as the content of something; once.
    pub(crate) async fn upload(&self, service: Service, path: &str, file: &Path) -> Result<(), ApiError> {
        let call = Call::new(service, Method::PUT, path);
        let trouble = |e: std::io::Error| {
            let problem = format!("{}: {e}", file.display());
            ApiError::new(call.place(), Fault::Unreachable { problem })
        };
        let content = tokio::fs::File::open(file).await.map_err(trouble)?;
        let length = content.metadata().await.map_err(trouble)?.len();
        let session = self.session().await?;
        let url = self.endpoint(service).await?.join(path).map_err(|e| {
            ApiError::new(call.place(), Fault::Unreadable { problem: format!("its URL: {e}") })
        })?;
        self.count(service);
        let request = self.inner.http.put(url).timeout(UPLOAD).header("X-Auth-Token", session.token());
        let request = request
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, length)
            .body(content);
        let answer = request.send().await.map_err(|e| ApiError::sent(call.place(), &e))?;
        answer::checked(answer, &call).await.map(drop)
    }

    /// Changes an image: JSON patch, in glance's own form.
    pub(crate) async fn patch(&self, service: Service, path: &str, patch: &Value) -> Result<(), ApiError> {
        let call = Call::new(service, Method::PATCH, path);
        let session = self.session().await?;
        let url = self.endpoint(service).await?.join(path).map_err(|e| {
            ApiError::new(call.place(), Fault::Unreadable { problem: format!("its URL: {e}") })
        })?;
        self.count(service);
        let request = self.inner.http.patch(url).header("X-Auth-Token", session.token());
        let request = request
            .header(header::CONTENT_TYPE, "application/openstack-images-v2.1-json-patch")
            .body(patch.to_string());
        let answer = request.send().await.map_err(|e| ApiError::sent(call.place(), &e))?;
        answer::checked(answer, &call).await.map(drop)
    }

    /// Does the catalogue have one of these types?
    pub(crate) async fn has(&self, types: &[&str]) -> Result<bool, ApiError> {
        Ok(self.session().await?.has(types))
    }
}
