//! Images: copied in by digest, verified while they are copied and whenever they are read back, kept while a key
//! refers to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Mutex, PoisonError},
};

use sha2::Digest as _;
use trust::Digest;
use vim::{Artifacts, ImageSpec, ObjectKey};

use crate::{
    error::{HostError, state},
    state::{ImageRef, Layout, create, names, read_json, remove_file, sync_parent, temporary, write_json},
};

/// Bytes copied or hashed at a time.
const BLOCK_BYTES: usize = 1 << 20;
/// Most digests remembered; beyond it, all are forgotten and computed again.
const MAX_REMEMBERED: usize = 1024;

/// Identity of a file's content as far as the kernel keeps it: any write changes the change time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Identity([i128; 5]);

/// Digests of files, remembered while nothing wrote to them.
#[derive(Default)]
pub(crate) struct Digests(Mutex<BTreeMap<Identity, Digest>>);

impl Digests {
    /// The digest of a file's content; `None` when there is no such file.
    pub(crate) fn of(&self, path: &Path) -> Result<Option<Digest>, HostError> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(state("read", path)(e)),
        };
        let known = identity(&file).map_err(state("look at", path))?;
        if let Some(digest) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&known) {
            return Ok(Some(*digest));
        }
        let digest = copy_hashed(&mut file, &mut io::sink()).map_err(state("read", path))?;
        // Remembered only if nothing wrote to it while it was read.
        if identity(&file).map_err(state("look at", path))? == known {
            let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if map.len() >= MAX_REMEMBERED {
                map.clear();
            }
            map.insert(known, digest);
        }
        Ok(Some(digest))
    }
}

fn identity(file: &File) -> io::Result<Identity> {
    let m = file.metadata()?;
    let ns = |s: i64, n: i64| i128::from(s) * 1_000_000_000 + i128::from(n);
    let times = [ns(m.mtime(), m.mtime_nsec()), ns(m.ctime(), m.ctime_nsec())];
    Ok(Identity([i128::from(m.dev()), i128::from(m.ino()), i128::from(m.size()), times[0], times[1]]))
}

/// The digest of a file's content now, whatever is remembered.
pub(crate) fn hash(path: &Path) -> Result<Digest, HostError> {
    let mut file = File::open(path).map_err(state("read", path))?;
    copy_hashed(&mut file, &mut io::sink()).map_err(state("read", path))
}

fn copy_hashed(from: &mut impl Read, to: &mut impl Write) -> io::Result<Digest> {
    let mut hasher = sha2::Sha256::new();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match from.read(&mut block) {
            Ok(0) => return Ok(Digest(hasher.finalize().into())),
            Ok(n) => {
                hasher.update(&block[..n]);
                to.write_all(&block[..n])?;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Images of one site. Callers hold the site's image lock.
pub(crate) struct Images<'a> {
    pub layout: &'a Layout,
    pub digests: &'a Digests,
    pub artifacts: &'a dyn Artifacts,
}

impl Images<'_> {
    /// The image is there, verified, and the key refers to it.
    pub(crate) fn ensure(&self, key: &ObjectKey, spec: &ImageSpec) -> Result<Digest, HostError> {
        let wanted = ImageRef { key: key.clone(), name: spec.name.clone(), digest: spec.digest };
        let found = self.reference(key)?;
        if self.digests.of(&self.layout.image(&spec.digest))? != Some(spec.digest) {
            self.fetch(&spec.digest)?;
        }
        if found.as_ref() != Some(&wanted) {
            write_json(&self.layout.image_ref(key), &wanted)?;
            self.sweep()?;
        }
        match self.digests.of(&self.layout.image(&spec.digest))? {
            Some(found) if found == spec.digest => Ok(found),
            _ => Err(HostError::Internal(format!("image {} is not there after it was copied", spec.digest))),
        }
    }

    /// The key refers to nothing; what nothing refers to is gone.
    pub(crate) fn remove(&self, key: &ObjectKey) -> Result<(), HostError> {
        match self.reference(key) {
            Ok(_) => remove_file(&self.layout.image_ref(key))?,
            // Another key's reference: ours is absent.
            Err(HostError::KeyCollision { .. }) => {}
            Err(e) => return Err(e),
        }
        self.sweep()
    }

    /// The key's reference.
    pub(crate) fn reference(&self, key: &ObjectKey) -> Result<Option<ImageRef>, HostError> {
        match read_json::<ImageRef>(&self.layout.image_ref(key))? {
            Some(r) if r.key != *key => {
                Err(HostError::KeyCollision { short: key.short("m"), other: r.key.to_string() })
            }
            other => Ok(other),
        }
    }

    /// References of one service to this image.
    pub(crate) fn held_by(&self, service: &str, digest: &Digest) -> Result<bool, HostError> {
        let held = |r: &ImageRef| r.key.service() == service && r.digest == *digest;
        Ok(self.layout.all_image_refs()?.iter().any(held))
    }

    fn fetch(&self, digest: &Digest) -> Result<(), HostError> {
        let unknown = || HostError::ImageUnknown { digest: *digest };
        let source = self.artifacts.path(digest).ok_or_else(unknown)?;
        let (target, new) = (self.layout.image(digest), temporary(&self.layout.image(digest)));
        let mut from = File::open(&source).map_err(state("read", &source))?;
        let mut to = create(&new, 0o555).map_err(state("write", &new))?;
        let found = copy_hashed(&mut from, &mut to).map_err(state("write", &new))?;
        if found != *digest {
            remove_file(&new)?;
            return Err(HostError::ImageDigest { digest: *digest, found });
        }
        let settle = || -> io::Result<()> {
            to.sync_all()?;
            std::fs::rename(&new, &target)?;
            sync_parent(&target)
        };
        settle().map_err(state("write", &target))
    }

    /// Removes files that no key refers to, half-written ones among them.
    pub(crate) fn sweep(&self) -> Result<(), HostError> {
        let kept: BTreeSet<String> = self.layout.all_image_refs()?.iter().map(|r| r.digest.hex()).collect();
        for name in names(&self.layout.images())?.iter().filter(|n| !kept.contains(*n)) {
            remove_file(&self.layout.images().join(name))?;
        }
        for name in names(&self.layout.image_refs())?.iter().filter(|n| !n.ends_with(".json")) {
            remove_file(&self.layout.image_refs().join(name))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    struct OneFile(PathBuf);
    impl Artifacts for OneFile {
        fn path(&self, _: &Digest) -> Option<PathBuf> {
            Some(self.0.clone())
        }
    }

    #[test]
    fn bytes_are_verified_on_the_way_in_and_when_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { state: dir.path().join("state"), run: dir.path().join("run") };
        layout.prepare().unwrap();
        let artifacts = OneFile(dir.path().join("artifact"));
        let images = Images { layout: &layout, digests: &Digests::default(), artifacts: &artifacts };
        let spec = ImageSpec::new("dp", Digest::of(b"right"));
        let (one, two) = (ObjectKey::new("a/i").unwrap(), ObjectKey::new("b/i").unwrap());
        fs::write(&artifacts.0, b"wrong").unwrap();
        assert_eq!(images.ensure(&one, &spec).unwrap_err().code(), "IMAGE_DIGEST");
        assert!(names(&layout.images()).unwrap().is_empty());
        fs::write(&artifacts.0, b"right").unwrap();
        images.ensure(&one, &spec).unwrap();
        images.ensure(&two, &spec).unwrap();
        // Changed on disk behind our back: seen, and copied again.
        fs::remove_file(layout.image(&spec.digest)).unwrap();
        fs::write(layout.image(&spec.digest), b"wrung").unwrap();
        assert_eq!(images.digests.of(&layout.image(&spec.digest)).unwrap(), Some(Digest::of(b"wrung")));
        assert_eq!(images.ensure(&one, &spec).unwrap(), spec.digest);
        images.remove(&one).unwrap();
        images.remove(&one).unwrap();
        assert!(images.held_by("b", &spec.digest).unwrap() && !images.held_by("a", &spec.digest).unwrap());
        assert_eq!(names(&layout.images()).unwrap(), [spec.digest.hex()]);
        images.remove(&two).unwrap();
        assert!(
            names(&layout.images()).unwrap().is_empty() && names(&layout.image_refs()).unwrap().is_empty()
        );
    }
}
