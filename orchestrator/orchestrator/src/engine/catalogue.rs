//! Packages: taken in, verified, stored by digest, and read back for planning.

use std::{collections::BTreeMap, sync::Arc};

use descriptors::{PackageError, VerifiedPackage, model::Nsd, package};
use lcm::planner::{Catalogue, VnfPackage};
use ledger_contract::{
    records::PackageRecord,
    state::{PackageEntry, decode},
};
use trust::{Digest, UnixTime};

use super::{Engine, now, storage::Incoming, verified::Content};
use crate::{
    artifacts::ArtifactError,
    problem::Problem,
    record::{self, Constituent, RecordError},
    views::PackageView,
};

/// State keys of packages.
const PREFIX: &str = "package/";

/// Why a service's descriptors cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The bytes are not here, or not what they were.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A package does not read.
    #[error("package {digest}: {source}")]
    Package {
        /// Which.
        digest: Digest,
        /// Why.
        #[source]
        source: Box<PackageError>,
    },
    /// Another kind of package than expected.
    #[error("package {digest} is not a package of {expected}")]
    Kind {
        /// Which.
        digest: Digest,
        /// `an NSD` or the VNFD's id.
        expected: String,
    },
}

impl Engine {
    /// The descriptors of a service, from the packages that its grant names by digest.
    pub(super) fn catalogue(
        &self,
        nsd_package: Digest,
        packages: &BTreeMap<String, Digest>,
    ) -> Result<Catalogue, CatalogueError> {
        let kind = |digest, expected: &str| CatalogueError::Kind { digest, expected: expected.into() };
        let ns = self.content(&nsd_package)?;
        let Content::Ns(nsd) = &*ns else { return Err(kind(nsd_package, "an NSD")) };
        let mut vnfs = BTreeMap::new();
        for id in &nsd.vnfd_ids {
            let digest = packages.get(id).copied().ok_or_else(|| kind(nsd_package, id))?;
            match &*self.content(&digest)? {
                // The grant says under which name; the descriptor must say the same.
                Content::Vnf(vnf) if vnf.vnfd.id == *id => vnfs.insert(id.clone(), VnfPackage::clone(vnf)),
                _ => return Err(kind(digest, id)),
            };
        }
        Ok(Catalogue { nsd: Nsd::clone(nsd), nsd_package, vnfs })
    }

    /// What the package of this digest says: remembered, or read from the store and digested again.
    fn content(&self, digest: &Digest) -> Result<Arc<Content>, CatalogueError> {
        if let Some(known) = self.verified.get(digest) {
            return Ok(known);
        }
        let bytes = self.artifacts.get(digest)?;
        let package = package::open(&bytes)
            .map_err(|source| CatalogueError::Package { digest: *digest, source: Box::new(source) })?;
        let kind = || CatalogueError::Kind { digest: *digest, expected: "an NSD or VNFD".into() };
        let content = Arc::new(Content::of(&package).ok_or_else(kind)?);
        self.verified.put(*digest, content.clone());
        Ok(content)
    }

    /// Verifies and stores a package with its images; the answer has the record that its content makes.
    pub(super) async fn take_package(&self, content: Vec<u8>) -> Result<PackageView, Problem> {
        let roots = self.roots();
        let verified = blocking(move || {
            let verified = package::verify(&content, &roots, now()).map_err(refused_package)?;
            Ok((verified, content))
        });
        let (verified, content) = verified.await?;
        let record = self.record_of_package(&verified, &BTreeMap::new()).await?;
        let size_bytes = content.len() as u64;
        let images = verified.images.iter().filter_map(|i| verified.package.file(&i.path));
        let mut contents: BTreeMap<_, _> = images.map(|b| (Digest::of(b), b.to_vec())).collect();
        contents.insert(record.digest, content);
        let org = verified.signer.org.clone();
        self.store(Incoming { org, package: record.digest, contents }).await?;
        if let Some(content) = Content::of(&verified.package) {
            self.verified.put(record.digest, Arc::new(content));
        }
        let registered = self.registered(&record.digest).await?.is_some();
        Ok(view(record, &verified.signer.to_string(), size_bytes, registered))
    }

    /// The record that the content makes. An NSD's constituents are those pinned by digest; without a pin, the newest
    /// package of that VNFD by the same organisation, and of anybody only when that has none.
    async fn record_of_package(
        &self,
        verified: &VerifiedPackage,
        pinned: &BTreeMap<String, Digest>,
    ) -> Result<PackageRecord, Problem> {
        let mut best: BTreeMap<String, (u8, Constituent)> = BTreeMap::new();
        let own = format!("@{}", verified.signer.org);
        for (signer, record) in self.package_records().await? {
            let rank = match pinned.get(&record.descriptor_id) {
                Some(digest) if *digest == record.digest => 2,
                _ => u8::from(signer.ends_with(&own)),
            };
            let known = best.get(&record.descriptor_id).map_or(0, |(rank, _)| *rank);
            if rank >= known {
                best.insert(record.descriptor_id.clone(), (rank, Constituent::from(&record)));
            }
        }
        let constituents = best.into_iter().map(|(id, (_, c))| (id, c)).collect();
        record::record(verified, &constituents).map_err(|e| {
            let problem = Problem::new(409, "PACKAGE_RECORD", "The package cannot be registered", &e);
            match e {
                RecordError::Constituent { .. } => {
                    problem.hint("`mandate package push` the VNF package first")
                }
                _ => problem,
            }
        })
    }

    /// All registered packages, oldest first, with who registered them.
    async fn package_records(&self) -> Result<Vec<(String, PackageRecord)>, Problem> {
        let all = self.ledger.state_prefix(PREFIX).await.map_err(super::service::ledger_problem)?;
        let mut out = Vec::with_capacity(all.len());
        for (key, value) in all {
            let entry: PackageEntry =
                decode(&key, &value).map_err(|e| Problem::internal("LEDGER_STATE", e))?;
            let record = entry.record().map_err(|e| Problem::internal("LEDGER_STATE", e))?;
            out.push((self.number_of(entry.position).await?, signer_of(&entry.request), record));
        }
        out.sort_by_key(|(position, ..)| *position);
        Ok(out.into_iter().map(|(_, signer, record)| (signer, record)).collect())
    }

    pub(super) async fn registered(&self, digest: &Digest) -> Result<Option<PackageRecord>, Problem> {
        let key = ledger_contract::state::package_key(digest);
        let value = self.ledger.state(&key).await.map_err(super::service::ledger_problem)?;
        let entry: Option<PackageEntry> = match value {
            Some(v) => Some(decode(&key, &v).map_err(|e| Problem::internal("LEDGER_STATE", e))?),
            None => None,
        };
        entry.map(|e| e.record().map_err(|e| Problem::internal("LEDGER_STATE", e))).transpose()
    }

    /// The record of a registered package.
    pub async fn registered_package(&self, digest: &Digest) -> Result<Option<PackageRecord>, Problem> {
        self.registered(digest).await
    }

    /// Has the MANO hold a package; its id there.
    pub async fn onboard(&self, package: &mano::PackageSpec) -> Result<String, Problem> {
        let Some(mano) = &self.mano else {
            return Err(Problem::new(409, "NO_MANO", "There is no MANO", "no [osm] is configured")
                .hint("name OSM under [osm] in config.toml"));
        };
        let made = mano.ensure_package(package).await;
        made.map(|package| package.mano_id).map_err(|e| {
            let status = if e.disposition == vim::Disposition::Retry { 503 } else { 409 };
            Problem::new(status, &e.code, "The package was not onboarded", e.to_string())
        })
    }

    pub(super) async fn list_packages(&self) -> Result<Vec<PackageView>, Problem> {
        let records = self.package_records().await?;
        Ok(records
            .into_iter()
            .map(|(provider, record)| {
                let size = self.artifacts.size(&record.digest);
                view(record, &provider, size, true)
            })
            .collect())
    }

    /// A record is registered only when its content is here and says the same.
    pub(super) async fn check_registration(&self, payload: &[u8], at: UnixTime) -> Result<(), Problem> {
        let title = "The package cannot be registered";
        let claimed: PackageRecord = serde_json::from_slice(payload)
            .map_err(|e| Problem::new(400, "PACKAGE_RECORD", title, format!("the record: {e}")))?;
        let bytes = self.artifacts.get(&claimed.digest).map_err(|e| {
            Problem::new(409, "PACKAGE_CONTENT", title, e)
                .hint("upload the content first: `mandate package push`")
        })?;
        let roots = self.roots();
        let verified = blocking(move || package::verify(&bytes, &roots, at).map_err(refused_package)).await?;
        // The provider's own choice among what is registered counts, not ours.
        let computed = self.record_of_package(&verified, &claimed.constituents).await?;
        if claimed == computed {
            return Ok(());
        }
        Err(Problem::new(409, "PACKAGE_RECORD", title, "the record is not what the content makes")
            .hint("a constituent may have been registered since: push again"))
    }
}

fn view(record: PackageRecord, provider: &str, size_bytes: u64, registered: bool) -> PackageView {
    PackageView {
        digest: record.digest,
        descriptor_id: record.descriptor_id.clone(),
        version: record.version.clone(),
        provider: provider.to_owned(),
        size_bytes,
        registered,
        record,
    }
}

fn signer_of(request: &trust::Envelope) -> String {
    let claimed = request.signatures.first().and_then(|s| trust::identity::claimed(&s.certificate).ok());
    claimed.map_or_else(String::new, |(org, name)| format!("{name}@{org}"))
}

fn refused_package(e: PackageError) -> Problem {
    Problem::new(422, "PACKAGE_REFUSED", "The package is refused", e)
        .hint("see `mandate package verify FILE`; pack and sign it again from its source")
}

/// Work that would hold up the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(f).await.map_err(|e| Problem::internal("TASK", e))?
}
