//! What OSM's ids in a request are: asked of the NBI as the client, so that nobody finds out, or uses, what it may not see.

use std::collections::BTreeSet;

use axum::http::HeaderMap;
use ledger_contract::records::{PackageKind, PackageRecord};
use serde_json::Value;
use trust::Digest;

use crate::{Gateway, Refused, codes, records::Own, request::encoded};

/// Where packages of a kind are: collection, and the item that is the package itself.
pub(crate) fn collection(kind: PackageKind) -> (&'static str, &'static str) {
    match kind {
        PackageKind::Vnf => ("vnfpkgm/v1/vnf_packages", "package_content"),
        PackageKind::Ns => ("nsd/v1/ns_descriptors", "nsd_content"),
    }
}

impl Gateway {
    /// The registered package that a package of OSM's is: by our mark on it, or by its very bytes.
    pub(crate) async fn package_of(
        &self,
        headers: &HeaderMap,
        kind: PackageKind,
        id: &str,
    ) -> Result<PackageRecord, Refused> {
        let (topic, item) = collection(kind);
        let path = format!("{topic}/{}", http_peer::segment(id));
        let Some(record) = self.nbi.ask(&path, headers).await? else {
            return Err(Refused::new(
                404,
                codes::NOT_FOUND,
                format!("Not found any {topic} with filter='{{'_id': '{id}'}}'"),
            ));
        };
        let descriptor = record.get("id").and_then(Value::as_str).unwrap_or_default();
        let is = |p: &PackageRecord| p.kind == kind && p.descriptor_id == descriptor;
        if let Some(digest) = marked(&record)
            && let Some(found) = self.port.package(&digest).await?.filter(is)
        {
            return Ok(found);
        }
        let answer = self.nbi.ask_for(&format!("{path}/{item}"), headers, "application/zip").await?;
        let digest = match answer.status.is_success() {
            true => Some(Digest::of(answer.whole().await?)),
            false => None,
        };
        if let Some(digest) = digest
            && let Some(found) = self.port.package(&digest).await?.filter(is)
        {
            return Ok(found);
        }
        let detail = format!(
            "`{descriptor}` ({id}) is not registered on the ledger as it is in OSM: `mandate package push FILE --as ORG/NAME`, then upload the same file here"
        );
        Err(Refused::new(409, codes::PACKAGE, detail))
    }

    /// Our sites that a VIM account is.
    pub(crate) async fn sites_of(&self, headers: &HeaderMap, account: &str) -> Result<Vec<String>, Refused> {
        let path = format!("admin/v1/vim_accounts/{}", http_peer::segment(account));
        let name = self.nbi.ask(&path, headers).await?;
        let name = name.as_ref().and_then(|v| v.get("name")?.as_str());
        let Some(name) = name else {
            return Err(Refused::new(
                400,
                codes::VIM,
                format!("Invalid vimAccountId='{account}' not present for the project"),
            ));
        };
        let sites: Vec<String> =
            self.sites.iter().filter(|(_, a)| *a == name).map(|(s, _)| s.clone()).collect();
        match sites.is_empty() {
            true => Err(Refused::new(
                422,
                codes::VIM,
                format!(
                    "the VIM account `{name}` is no site of Mandate's: use one of {}",
                    list(self.sites.values())
                ),
            )),
            false => Ok(sites),
        }
    }

    /// OSM's record of a service, as the client may see it; `None`: OSM has none.
    pub(crate) async fn record_in_osm(
        &self,
        headers: &HeaderMap,
        ns: &str,
    ) -> Result<Option<Value>, Refused> {
        let query = encoded(&[("name".to_owned(), ns.to_owned())]);
        let found = self.nbi.ask(&format!("nslcm/v1/ns_instances?{query}"), headers).await?;
        let Some(Value::Array(items)) = found else { return Ok(None) };
        let found = items.into_iter().find(|r| r.get("name").and_then(Value::as_str) == Some(ns));
        if let Some(id) = found.as_ref().and_then(|r| r.get("_id")?.as_str()) {
            self.know(ns, id);
        }
        Ok(found)
    }

    /// The member that a VNF record is.
    pub(crate) async fn member_of(
        &self,
        headers: &HeaderMap,
        own: &Own,
        vnf: &str,
    ) -> Result<String, Refused> {
        if let Some((_, member)) = own.members().into_iter().find(|(id, _)| id == vnf) {
            return Ok(member);
        }
        let unknown = || {
            Refused::new(400, codes::NOT_FOUND, format!("vnfInstanceId {vnf} is no VNF of NS {}", own.row.id))
        };
        let Some(ns) = &own.row.ns else { return Err(unknown()) };
        let path = format!("nslcm/v1/vnf_instances/{}", http_peer::segment(vnf));
        let record = self.nbi.ask(&path, headers).await?.ok_or_else(unknown)?;
        let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
        if self.known(ns).as_deref() != Some(text("nsr-id-ref")) {
            let there = self.record_in_osm(headers, ns).await?;
            let there = there.as_ref().and_then(|r| r.get("_id")?.as_str());
            if there.is_none_or(|id| id != text("nsr-id-ref")) {
                return Err(unknown());
            }
        }
        Ok(text("member-vnf-index-ref").to_owned())
    }

    /// The site that is meant by its own name or that of its VIM account.
    pub(crate) fn site_named(&self, name: &str) -> Result<String, Refused> {
        let found = self.sites.iter().find(|(site, account)| *site == name || *account == name);
        let sites = || list(self.sites.keys());
        found.map(|(site, _)| site.clone()).ok_or_else(|| {
            Refused::not_carried(
                "migrateToHost",
                &format!("`{name}` is no site: a member moves to another site ({}), not to a host", sites()),
            )
        })
    }
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.collect::<BTreeSet<_>>().into_iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}

/// The digest that our mark on a package says.
fn marked(record: &Value) -> Option<Digest> {
    let user = record.get("_admin")?.get("userDefinedData")?;
    user.get("mandate")?.as_str()?;
    Digest::from_hex(user.get("mandate_sha256")?.as_str()?).ok()
}
