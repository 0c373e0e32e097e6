//! Packages: what is registered on the ledger goes to OSM by Mandate's own onboarding, in one piece and marked; nothing else does.

use std::sync::Arc;

use axum::{
    http::{HeaderMap, header},
    response::Response,
};
use ledger_contract::records::{PackageKind, PackageRecord};
use serde_json::{Value, json};
use trust::Digest;

use crate::{
    Gateway, Refused, codes,
    lifecycle::Call,
    reply::{self, Form},
    resolve::collection,
};

/// Largest package, bytes: as large as OSM gets one from us; images are not in it.
pub(crate) const MAX_PACKAGE: usize = 64 << 20;

/// What is done with packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upload<'a> {
    /// A new one, in one piece.
    New(PackageKind),
    /// Another version of this one.
    Again(PackageKind, &'a str),
}

impl<'a> Upload<'a> {
    pub(crate) fn of(method: &str, parts: &[&'a str]) -> Option<Self> {
        use PackageKind::{Ns, Vnf};
        match (method, parts) {
            ("POST", ["vnfpkgm", "v1", "vnf_packages_content"]) => Some(Self::New(Vnf)),
            ("POST", ["nsd", "v1", "ns_descriptors_content"]) => Some(Self::New(Ns)),
            ("PUT", ["vnfpkgm", "v1", "vnf_packages", id, "package_content"]) => Some(Self::Again(Vnf, id)),
            ("PUT", ["nsd", "v1", "ns_descriptors", id, "nsd_content"]) => Some(Self::Again(Ns, id)),
            _ => None,
        }
    }
}

/// A package that is to be deleted.
pub(crate) fn deleted<'a>(method: &str, parts: &[&'a str]) -> Option<(PackageKind, &'a str)> {
    match (method, parts) {
        ("DELETE", ["vnfpkgm", "v1", "vnf_packages" | "vnf_packages_content", id]) => {
            Some((PackageKind::Vnf, id))
        }
        ("DELETE", ["nsd", "v1", "ns_descriptors" | "ns_descriptors_content", id]) => {
            Some((PackageKind::Ns, id))
        }
        _ => None,
    }
}

impl Gateway {
    pub(crate) async fn upload(
        self: &Arc<Self>,
        call: &Call<'_>,
        upload: Upload<'_>,
    ) -> Result<Response, Refused> {
        self.signer(call.m)?;
        if let Some((name, _)) = call.asked.query.first() {
            return Err(Refused::not_carried(
                &format!("?{name}"),
                "a registered package is onboarded as it is: overriding changes it",
            ));
        }
        for name in ["content-range", "transaction-id"] {
            if call.headers.contains_key(name) {
                return Err(Refused::not_carried(name, "a package is uploaded in one piece"));
            }
        }
        let digest = Digest::of(call.body);
        match self.port.package(&digest).await? {
            Some(package) => self.onboard(call, upload, &package).await,
            None => {
                let detail = format!(
                    "{digest} is not registered on the ledger: `mandate package push FILE --as ORG/NAME` (signature, SBOM and provenance are checked there), then upload the same file again"
                );
                Err(Refused::new(409, codes::PACKAGE, detail))
            }
        }
    }

    async fn onboard(
        &self,
        call: &Call<'_>,
        upload: Upload<'_>,
        package: &PackageRecord,
    ) -> Result<Response, Refused> {
        let (Upload::New(kind) | Upload::Again(kind, _)) = upload;
        let (topic, _) = collection(kind);
        if package.kind != kind {
            let detail = format!("`{}` is no package for {topic}", package.descriptor_id);
            return Err(Refused::new(422, codes::PACKAGE, detail));
        }
        if let Upload::Again(_, id) = upload {
            let there = self.nbi.ask(&format!("{topic}/{}", http_peer::segment(id)), call.headers).await?;
            let Some(there) = there else {
                return Err(Refused::new(
                    404,
                    codes::NOT_FOUND,
                    format!("Not found any {topic} with filter='{{'_id': '{id}'}}'"),
                ));
            };
            let descriptor = there.get("id").and_then(Value::as_str).unwrap_or_default();
            if descriptor != package.descriptor_id {
                let detail = format!(
                    "{id} is `{descriptor}`, the file is `{}`: upload it as a package of its own",
                    package.descriptor_id
                );
                return Err(Refused::new(409, codes::PACKAGE, detail));
            }
        }
        let id = self.port.onboard(package).await?;
        match upload {
            Upload::Again(..) => Ok(reply::nothing()),
            Upload::New(_) => {
                let answer = reply::answer(201, Form::of(call.headers), &json!({ "id": id }));
                Ok(reply::located(answer, &format!("/osm/{topic}/{id}")))
            }
        }
    }

    /// OSM refuses what is in use; what a draft of ours is made from is in use too.
    pub(crate) async fn may_delete(&self, call: &Call<'_>, id: &str) -> Result<(), Refused> {
        self.signer(call.m)?;
        if let Some((name, _)) = call.asked.query.first() {
            return Err(Refused::not_carried(&format!("?{name}"), "what is in use stays"));
        }
        let own = self.owns(call.m).await?.into_iter().find(|o| o.row.nsd.1 == id);
        match own {
            Some(own) => {
                let detail = format!(
                    "there is at least one NS using this descriptor: `{}`; delete it first",
                    own.row.name
                );
                Err(Refused::new(409, codes::STATE, detail))
            }
            None => Ok(()),
        }
    }
}

/// Does the client send a package? Then more of it is read than of a document.
pub(crate) fn is_form(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    given.to_ascii_lowercase().contains("multipart/")
}
