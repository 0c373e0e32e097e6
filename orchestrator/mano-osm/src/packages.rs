//! Packages: verified before they are uploaded, uploaded in one piece, read back byte for byte.
//!
//! What OSM's record says of the images is overridden with the upload, as `osm vnfpkg-create --override` does: the bytes stay as they
//! were signed.
//!
//! OSM checks neither `checksums.txt` nor a SOL004 manifest, so what it holds is only known by reading it. A record is made
//! with our mark first (`userDefinedData`) and filled then: a record without content that carries our mark is the rest of
//! a call that was cut off, and is filled or removed. Chunks are not used: the NBI loses the first when it refuses the second.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mano::{NamedImage, ObservedPackage, PackageKind, PackageSpec, Removal};
use reqwest::{Method, StatusCode};
use serde_json::json;
use sha2::{Digest as _, Sha384};
use trust::Digest;

use crate::{
    Osm,
    client::{ApiError, Call, Upload},
    error::{Trouble, escalate, refuse},
    mark,
    records::{Made, Package},
};

/// Longest package that is uploaded, bytes: it is held in memory, and images are not in it.
const MAX_PACKAGE_BYTES: u64 = 64 << 20;

/// Where packages of a kind are.
pub(crate) fn collection(kind: PackageKind) -> &'static str {
    match kind {
        PackageKind::Vnf => "vnfpkgm/v1/vnf_packages",
        PackageKind::Ns => "nsd/v1/ns_descriptors",
    }
}

fn record(kind: PackageKind, id: &str) -> String {
    format!("{}/{}", collection(kind), http_peer::segment(id))
}

fn content(kind: PackageKind, id: &str) -> String {
    let item = match kind {
        PackageKind::Vnf => "package_content",
        PackageKind::Ns => "nsd_content",
    };
    format!("{}/{item}", record(kind, id))
}

impl Osm {
    /// The package's bytes, verified.
    async fn bytes(&self, spec: &PackageSpec) -> Result<Vec<u8>, Trouble> {
        let Some(path) = self.artifacts.path(&spec.digest) else {
            let reason =
                format!("no artifact has digest {}: upload the package to Mandate first", spec.digest);
            return refuse("OSM_PACKAGE_UNKNOWN", reason);
        };
        let read = async {
            let length = tokio::fs::metadata(&path).await?.len();
            if length > MAX_PACKAGE_BYTES {
                return Ok(Err(length));
            }
            tokio::fs::read(&path).await.map(Ok)
        };
        let bytes = match read.await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(length)) => {
                return refuse(
                    "OSM_PACKAGE_FORM",
                    format!("{length} bytes; at most {MAX_PACKAGE_BYTES}: images go to the VIM"),
                );
            }
            Err(e) => return escalate("OSM_PACKAGE_UNKNOWN", format!("{}: {e}", path.display())),
        };
        match Digest::of(&bytes) {
            d if d == spec.digest => Ok(bytes),
            d => escalate(
                "OSM_PACKAGE_BYTES",
                format!("{} has digest {d}, not {}: it was changed", path.display(), spec.digest),
            ),
        }
    }

    /// Our packages of this descriptor id, and what a cut-off call of ours left; one call.
    async fn ours(&self, kind: PackageKind, id: &str) -> Result<Vec<Package>, Trouble> {
        let marked = Call::get(collection(kind)).query("_admin.userDefinedData.mandate", mark::tag(kind, id));
        let marked: Vec<Package> = self.client.ask(&marked).await?;
        let ours = |p: &Package| mark::of_package(kind, p).is_some_and(|(of, _)| of == id);
        let mut ours: Vec<Package> =
            marked.into_iter().filter(|p| ours(p) && (p.id == id || p.id.is_empty())).collect();
        // That with content first.
        ours.sort_by_key(|p| p.id.is_empty());
        Ok(ours)
    }

    /// Packages of these descriptor ids, anybody's; one call.
    async fn named(&self, kind: PackageKind, ids: &[&str]) -> Result<Vec<Package>, Trouble> {
        let all: Vec<Package> =
            self.client.ask(&Call::get(collection(kind)).query("id", ids.join(","))).await?;
        Ok(all.into_iter().filter(|p| ids.contains(&p.id.as_str())).collect())
    }

    /// SHA-256 of what OSM gives out; none when that is no archive: a descriptor that was uploaded by itself is given out as
    /// text only, and is not what we uploaded.
    async fn digest_there(&self, kind: PackageKind, mano_id: &str) -> Result<Option<Digest>, ApiError> {
        match self.client.send(&Call::get(content(kind, mano_id)).file()).await {
            Ok(answer) => Ok(Some(Digest::of(answer.body))),
            Err(e) if e.status() == Some(StatusCode::NOT_ACCEPTABLE) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn fill(&self, spec: &PackageSpec, mano_id: &str, bytes: &[u8]) -> Result<(), Trouble> {
        let content_type = match bytes {
            [0x1f, 0x8b, ..] => "application/gzip",
            [b'P', b'K', 3, 4, ..] => "application/zip",
            _ => {
                return refuse(
                    "OSM_PACKAGE_FORM",
                    "neither gzip nor zip: OSM takes tar.gz packages and SOL004 archives",
                );
            }
        };
        let digest = format!("sha-384={}", STANDARD.encode(Sha384::digest(bytes)));
        let upload = Upload { content_type, bytes: bytes.to_vec(), digest };
        let mut call = Call::new(Method::PUT, content(spec.kind, mano_id)).upload(upload);
        for NamedImage { index, name } in &spec.images {
            // The record says otherwise than the bytes: RO looks for an image by `checksum`, which it compares with the MD5 that
            // the VIM has, before it looks for `image`, a name. An empty value takes a key away.
            call = call.query(format!("sw-image-desc.{index}.image"), name.as_str());
            call = call.query(format!("sw-image-desc.{index}.checksum"), "");
        }
        self.client.tell(&call).await.map_err(Trouble::from)
    }

    async fn remark(&self, spec: &PackageSpec, mano_id: &str) -> Result<(), ApiError> {
        let mark = json!({ "userDefinedData": mark::package(spec.kind, &spec.id, &spec.digest) });
        self.client.tell(&Call::new(Method::PATCH, record(spec.kind, mano_id)).json(&mark)).await
    }

    /// One try; a lost answer is an error, and the next try finds out what came of it.
    pub(crate) async fn package_step(&self, spec: &PackageSpec) -> Result<ObservedPackage, Trouble> {
        let bytes = self.bytes(spec).await?;
        let mut found = self.ours(spec.kind, &spec.id).await?;
        let rest = found.split_off(found.len().min(1));
        for extra in rest.iter().filter(|p| p.id.is_empty()) {
            self.client.delete(record(spec.kind, &extra.mano_id)).await?;
        }
        let there = match found.pop() {
            Some(package) if !package.id.is_empty() => return self.replace(spec, package, &bytes).await,
            Some(empty) => empty.mano_id,
            None => self.create(spec).await?,
        };
        if let Err(e) = self.fill(spec, &there, &bytes).await {
            if e.is_lost() {
                return Err(e);
            }
            // An empty record is of no use to anybody; what this leaves, the next call removes.
            let _ = self.client.delete(record(spec.kind, &there)).await;
            // Somebody else's of this id is in the way: it is taken as it is, or refused by name.
            if !matches!(&e, Trouble::Api(e) if e.is_conflict()) {
                return Err(e);
            }
            return match self.named(spec.kind, &[&spec.id]).await?.pop() {
                Some(package) => self.replace(spec, package, &bytes).await,
                None => Err(e),
            };
        }
        self.verified(spec, &there, false).await
    }

    async fn create(&self, spec: &PackageSpec) -> Result<String, ApiError> {
        let mark = json!({ "userDefinedData": mark::package(spec.kind, &spec.id, &spec.digest) });
        let made: Made = self.client.ask(&Call::post(collection(spec.kind), &mark)).await?;
        Ok(made.id)
    }

    /// Makes the package that is there be the one wanted.
    async fn replace(
        &self,
        spec: &PackageSpec,
        there: Package,
        bytes: &[u8],
    ) -> Result<ObservedPackage, Trouble> {
        let (digest, in_use) = (self.digest_there(spec.kind, &there.mano_id).await?, there.in_use());
        let marked = mark::of_package(spec.kind, &there).map(|(_, digest)| digest);
        if digest == Some(spec.digest) && !there.finds(spec) && marked.is_none() {
            let reason = format!(
                "OSM's {} {} is not Mandate's and does not name its images as they are at the VIM: remove it there",
                spec.kind, spec.id
            );
            return refuse("OSM_PACKAGE_FOREIGN", reason);
        }
        if digest == Some(spec.digest) && there.finds(spec) {
            if marked.is_some_and(|m| m != spec.digest) {
                self.remark(spec, &there.mano_id).await?;
            }
            return Ok(observed(spec, there.mano_id, in_use));
        }
        if marked.is_none() {
            return refuse(
                "OSM_PACKAGE_FOREIGN",
                format!(
                    "OSM has a {} {} with other bytes that is not Mandate's: remove or rename it",
                    spec.kind, spec.id
                ),
            );
        }
        self.fill(spec, &there.mano_id, bytes).await?;
        self.remark(spec, &there.mano_id).await?;
        self.verified(spec, &there.mano_id, in_use).await
    }

    async fn verified(
        &self,
        spec: &PackageSpec,
        mano_id: &str,
        in_use: bool,
    ) -> Result<ObservedPackage, Trouble> {
        match self.digest_there(spec.kind, mano_id).await? {
            Some(d) if d == spec.digest => Ok(observed(spec, mano_id.to_owned(), in_use)),
            d => escalate(
                "OSM_PACKAGE_DIFFERS",
                format!(
                    "OSM gives out {} {} with {}, uploaded was {}: do not use it",
                    spec.kind,
                    spec.id,
                    shown(d),
                    spec.digest
                ),
            ),
        }
    }

    pub(crate) async fn unpackage_step(&self, kind: PackageKind, id: &str) -> Result<Removal, Trouble> {
        let mut removal = Removal::Gone;
        for package in self.ours(kind, id).await? {
            match self.client.delete(record(kind, &package.mano_id)).await {
                Err(e) if e.is_conflict() => removal = Removal::InUse,
                other => other?,
            }
        }
        Ok(removal)
    }

    /// Our packages of a kind, by their marks; one call.
    pub(crate) async fn our_packages(&self, kind: PackageKind) -> Result<Vec<ObservedPackage>, Trouble> {
        let all: Vec<Package> = self.client.ask(&Call::get(collection(kind))).await?;
        let ours = |p: Package| {
            let (_, digest) = mark::of_package(kind, &p).filter(|_| !p.id.is_empty())?;
            let in_use = p.in_use();
            Some(ObservedPackage { kind, id: p.id, digest, mano_id: p.mano_id, in_use })
        };
        Ok(all.into_iter().filter_map(ours).collect())
    }

    /// The packages of these ids, if their digests are these: by their marks, or when they are not ours by their bytes.
    pub(crate) async fn used_packages(
        &self,
        kind: PackageKind,
        wanted: &BTreeMap<&str, Digest>,
    ) -> Result<BTreeMap<String, Package>, Trouble> {
        let ids: Vec<&str> = wanted.keys().copied().collect();
        let mut out = BTreeMap::new();
        for package in self.named(kind, &ids).await? {
            let Some(digest) = wanted.get(package.id.as_str()) else { continue };
            if out.contains_key(&package.id) {
                continue;
            }
            let there = match mark::of_package(kind, &package) {
                Some((_, digest)) => Some(digest),
                None => self.digest_there(kind, &package.mano_id).await?,
            };
            if there != Some(*digest) {
                let reason = format!(
                    "OSM's {kind} {} has {}, not {digest}: ensure it first",
                    package.id,
                    shown(there)
                );
                return refuse("OSM_PACKAGE_ABSENT", reason);
            }
            out.insert(package.id.clone(), package);
        }
        match ids.iter().find(|id| !out.contains_key(**id)) {
            None => Ok(out),
            Some(id) => refuse("OSM_PACKAGE_ABSENT", format!("OSM has no {kind} {id}: ensure it first")),
        }
    }
}

impl Package {
    /// Does its record name the images by which RO will find them?
    fn finds(&self, spec: &PackageSpec) -> bool {
        let named = |n: &NamedImage| {
            self.images.get(n.index).is_some_and(|i| i.image == n.name && i.checksum.is_none())
        };
        spec.images.iter().all(named)
    }

    fn in_use(&self) -> bool {
        self.admin.usage == "IN_USE"
    }
}

fn shown(digest: Option<Digest>) -> String {
    digest.map_or("no archive".to_owned(), |d| d.to_string())
}

fn observed(spec: &PackageSpec, mano_id: String, in_use: bool) -> ObservedPackage {
    ObservedPackage { kind: spec.kind, id: spec.id.clone(), digest: spec.digest, mano_id, in_use }
}
