//! Images in glance: one for each digest, with a tag for each key that refers to it; gone with the last.
//!
//! The bytes are verified before they are sent (our digest, SHA-256), and again by what glance says that it received
//! (`os_hash_value`, SHA-512), now and whenever they are observed: against the artifact where it is still here, else against
//! what was recorded when it was sent. Tests: the conformance suite.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use reqwest::Method;
use serde_json::{Map, Value, json};
use sha2::Digest as _;
use trust::Digest;
use vim::{ImageSpec, ObjectKey, Observed};

use crate::{
    client::{Call, Service, segment},
    cloud::Image,
    driver::Site,
    error::CloudError,
    marks,
    wait::LATE,
};

const GLANCE: Service = Service::Image;
/// Bytes hashed at a time.
const BLOCK_BYTES: usize = 1 << 20;
/// Looks of one call: one that is lost when it is made, repaired when it is found, and one more.
const MAX_TRIES: u32 = 4;
const GIB: u64 = 1 << 30;

/// An image that a service holds.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub id: String,
    /// Root disk that it needs, GiB.
    pub disk_gib: u32,
}

/// SHA-512 of artifacts, which never change under their digest.
#[derive(Default)]
pub(crate) struct Hashes(Mutex<BTreeMap<Digest, String>>);

impl Hashes {
    fn get(&self, digest: &Digest) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    fn put(&self, digest: Digest, sha512: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, sha512.to_owned());
    }
}

/// Both hashes of a file.
async fn hash(path: PathBuf) -> Result<(Digest, String), CloudError> {
    let read = move || -> std::io::Result<_> {
        let mut file = std::fs::File::open(&path)?;
        let (mut short, mut long) = (sha2::Sha256::new(), sha2::Sha512::new());
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            match file.read(&mut block)? {
                0 => break,
                n => {
                    short.update(&block[..n]);
                    long.update(&block[..n]);
                }
            }
        }
        Ok((Digest(short.finalize().into()), hex::encode(long.finalize())))
    };
    let done = tokio::task::spawn_blocking(read).await.map_err(|e| CloudError::Internal(e.to_string()))?;
    done.map_err(|e| CloudError::Artifact { path: "the artifact".into(), problem: e.to_string() })
}

impl Site {
    /// Our images: of this digest, or all.
    pub(crate) async fn images(&self, digest: Option<&Digest>) -> Result<Vec<Image>, CloudError> {
        let project = self.client.project_id().await?;
        let mut call = Call::get(GLANCE, "images").query(marks::IMAGE_HOME, self.marks.home());
        call = call.query("owner", project);
        if let Some(digest) = digest {
            call = call.query(marks::IMAGE_DIGEST, digest.to_string());
        }
        Ok(self.client.all::<Image>(call, "images").await?.into_iter().filter(is_whole).collect())
    }

    /// The image of this digest that a service holds.
    pub(crate) async fn held_image(&self, service: &str, digest: &Digest) -> Result<Held, CloudError> {
        let place = (service.to_owned(), *digest);
        if let Some(held) = self.known(|k| k.images.get(&place).cloned()) {
            return Ok(held);
        }
        let absent = || CloudError::ImageAbsent { digest: *digest, service: service.to_owned() };
        let ours = |i: &Image| self.image_keys(i).any(|key| key.service() == service);
        let found = self.images(Some(digest)).await?.into_iter().find(|i| i.status == "active" && ours(i));
        let held = held(&found.ok_or_else(absent)?);
        self.known(|k| k.images.insert(place, held.clone()));
        Ok(held)
    }

    /// The keys that refer to it.
    pub(crate) fn image_keys(&self, image: &Image) -> impl Iterator<Item = ObjectKey> {
        image.tags.iter().filter_map(|t| self.marks.read_image_tag(t)).collect::<Vec<_>>().into_iter()
    }

    /// The digest of an image's bytes, as far as it can be known: ours if glance's own hash is what it must be, else another.
    pub(crate) fn image_digest(&self, image: &Image) -> Option<Digest> {
        let found = image.os_hash_value.as_deref().filter(|_| image.status == "active")?;
        let named: Digest = image.property(marks::IMAGE_DIGEST).parse().ok()?;
        let expected =
            self.sha512.get(&named).unwrap_or_else(|| image.property(marks::IMAGE_SHA512).to_owned());
        let same = image.os_hash_algo.as_deref() == Some("sha512") && found == expected;
        Some(if same { named } else { Digest::of(found) })
    }

    pub(crate) async fn ensure_image(
        &self,
        key: &ObjectKey,
        spec: &ImageSpec,
    ) -> Result<Observed, CloudError> {
        let _images = self.image_lock.lock().await;
        check(spec)?;
        for _ in 0..MAX_TRIES {
            let wanted = |i: &Image| i.property(marks::IMAGE_DIGEST) == spec.digest.to_string();
            let (found, others): (Vec<_>, Vec<_>) = self.images(None).await?.into_iter().partition(wanted);
            // A key names one image: what it named before is no longer its own.
            for image in others.iter().filter(|i| self.image_keys(i).any(|k| k == *key)) {
                self.release(key, image).await?;
            }
            let (whole, broken): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|i| self.image_digest(i) == Some(spec.digest));
            for image in &broken {
                self.repair_or_delete(image, spec).await?;
            }
            let mut whole = whole.into_iter();
            let first = whole.next();
            // A second one, of a call that was carried out long after it was given up, goes unless somebody else refers to it.
            for double in whole.filter(|i| self.image_keys(i).all(|k| k == *key)) {
                self.release(key, &double).await?;
            }
            let image = match first {
                Some(image) => image,
                // What was repaired is looked at before another is made.
                None if !broken.is_empty() => continue,
                None => match self.make_image(key, spec).await {
                    // Found by its marks in the next turn.
                    Err(CloudError::LostAnswer(_)) => {
                        tokio::time::sleep(LATE).await;
                        continue;
                    }
                    other => other?,
                },
            };
            if self.image_digest(&image) != Some(spec.digest) {
                continue;
            }
            self.refer(key, &image).await?;
            let place = (key.service().to_owned(), spec.digest);
            self.known(|k| k.images.insert(place, held(&image)));
            return Ok(Observed::Image { digest: spec.digest });
        }
        Err(CloudError::ImageChanged { digest: spec.digest, found: "of nothing, or of other bytes".into() })
    }

    /// The key's tag on it.
    async fn refer(&self, key: &ObjectKey, image: &Image) -> Result<(), CloudError> {
        let tag = self.marks.image_tag(key);
        if image.tags.contains(&tag) {
            return Ok(());
        }
        let path = format!("images/{}/tags/{}", image.id, segment(&tag));
        Ok(self.client.tell(&Call::new(GLANCE, Method::PUT, path)).await?)
    }

    async fn images_of(&self, key: &ObjectKey) -> Result<Vec<Image>, CloudError> {
        let call = Call::get(GLANCE, "images").query("tag", self.marks.image_tag(key));
        let all: Vec<Image> = self.client.all(call, "images").await?;
        let ours = |i: &Image| i.property(marks::IMAGE_HOME) == self.marks.home();
        Ok(all.into_iter().filter(|i| ours(i) && is_whole(i)).collect())
    }

    async fn make_image(&self, key: &ObjectKey, spec: &ImageSpec) -> Result<Image, CloudError> {
        let (path, sha512) = self.artifact(&spec.digest).await?;
        let body = self.document(key, spec, &sha512);
        let made: Image = self.client.ask(&Call::new(GLANCE, Method::POST, "images").json(&body)).await?;
        self.send(&made.id, &path).await?;
        Ok(self.client.ask(&Call::get(GLANCE, format!("images/{}", made.id))).await?)
    }

    /// The artifact, verified, and what glance's hash of it is.
    async fn artifact(&self, digest: &Digest) -> Result<(PathBuf, String), CloudError> {
        let unknown = || CloudError::ImageUnknown { digest: *digest };
        let path = self.config.artifacts.path(digest).ok_or_else(unknown)?;
        let (found, sha512) = hash(path.clone()).await.map_err(|e| artifact(&path, e))?;
        if found != *digest {
            return Err(CloudError::ImageDigest { digest: *digest, found });
        }
        self.sha512.put(*digest, &sha512);
        Ok((path, sha512))
    }

    /// What glance's hash of these bytes is.
    pub(crate) async fn sha512_of(&self, digest: &Digest) -> Result<String, CloudError> {
        match self.sha512.get(digest) {
            Some(known) => Ok(known),
            None => Ok(self.artifact(digest).await?.1),
        }
    }

    async fn send(&self, id: &str, path: &Path) -> Result<(), CloudError> {
        let call = Call::new(GLANCE, Method::PUT, format!("images/{id}/file")).file(path);
        match self.client.tell(&call).await {
            // Whether it arrived is read from its hash.
            Err(e) if e.is_conflict() || e.is_lost() => Ok(()),
            other => Ok(other?),
        }
    }

    fn document(&self, key: &ObjectKey, spec: &ImageSpec, sha512: &str) -> Value {
        let mut out: Map<String, Value> =
            spec.properties.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let own = json!({
            "name": spec.vim_name(),
            "container_format": "bare",
            "disk_format": spec.disk_format.as_deref().unwrap_or("raw"),
            "visibility": "private",
            "tags": [self.marks.image_tag(key)],
            (marks::IMAGE_HOME): self.marks.home(),
            (marks::IMAGE_DIGEST): spec.digest.to_string(),
            (marks::IMAGE_SHA512): sha512,
        });
        out.extend(own.as_object().cloned().unwrap_or_default());
        Value::Object(out)
    }

    /// One that does not hold the bytes: sent again while it has none, switched on again, else deleted.
    async fn repair_or_delete(&self, image: &Image, spec: &ImageSpec) -> Result<(), CloudError> {
        let path = self.config.artifacts.path(&spec.digest);
        match (image.status.as_str(), path) {
            ("queued", Some(path)) => self.send(&image.id, &path).await,
            ("deactivated", _) => {
                let path = format!("images/{}/actions/reactivate", image.id);
                Ok(self.client.tell(&Call::new(GLANCE, Method::POST, path)).await?)
            }
            _ => {
                self.known(|k| k.images.clear());
                Ok(self.client.delete(GLANCE, format!("images/{}", image.id)).await?)
            }
        }
    }

    /// The key no longer refers to it; without any, it goes.
    async fn release(&self, key: &ObjectKey, image: &Image) -> Result<(), CloudError> {
        self.known(|k| k.images.clear());
        match self.image_keys(image).any(|k| k != *key) {
            true => {
                let path = format!("images/{}/tags/{}", image.id, segment(&self.marks.image_tag(key)));
                Ok(self.client.delete(GLANCE, path).await?)
            }
            false => Ok(self.client.delete(GLANCE, format!("images/{}", image.id)).await?),
        }
    }

    pub(crate) async fn remove_image(&self, key: &ObjectKey) -> Result<(), CloudError> {
        let _images = self.image_lock.lock().await;
        for image in self.images_of(key).await? {
            self.release(key, &image).await?;
        }
        Ok(())
    }
}

/// A snapshot of a server inherits the properties of its image, and with them our marks; it is whoever's that made it.
fn is_whole(image: &Image) -> bool {
    image.property("image_type") != "snapshot" && image.property("base_image_ref").is_empty()
}

fn held(image: &Image) -> Held {
    let bytes = image.virtual_size.or(image.size).unwrap_or_default();
    let gib = u32::try_from(bytes.div_ceil(GIB)).unwrap_or(u32::MAX);
    Held { id: image.id.clone(), disk_gib: gib.max(image.min_disk).max(1) }
}

fn artifact(path: &Path, error: CloudError) -> CloudError {
    match error {
        CloudError::Artifact { problem, .. } => {
            CloudError::Artifact { path: path.display().to_string(), problem }
        }
        other => other,
    }
}

fn check(spec: &ImageSpec) -> Result<(), CloudError> {
    match spec.properties.keys().find(|name| name.starts_with("mandate")) {
        Some(name) => Err(CloudError::BadSpec { problem: format!("image property `{name}` is ours") }),
        None => Ok(()),
    }
}
