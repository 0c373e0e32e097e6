//! Descriptors that were read from verified packages, by the package's digest.
//!
//! What a package says never changes under its digest, so it is opened once: planning needs no package store, and no
//! verdict waits for a disk. A digest is only ever entered with the bytes that it was computed from. A name is never
//! looked up here: who asks for a VNFD by its id compares the id with the descriptor each time. Whether a package may
//! (still) be used is the ledger's to say, in the grant. Tests: below, and `tests/engine/store.rs` (no package store).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use descriptors::{
    model::{Nsd, SwImage},
    package::Package,
};
use lcm::planner::VnfPackage;
use trust::Digest;

/// Packages remembered at most. A descriptor is some 10 to 100 KiB in memory; files and images are not kept.
pub(super) const MAX_PACKAGES: usize = 128;

/// What planning needs of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// A network service's descriptor.
    Ns(Box<Nsd>),
    /// A function's descriptor, with what belongs to it.
    Vnf(Box<VnfPackage>),
}

impl Content {
    /// What an opened package says; `None` when it is a package of neither.
    pub(super) fn of(package: &Package) -> Option<Self> {
        match package.descriptor.nsd() {
            Some(nsd) => Some(Self::Ns(Box::new(nsd.clone()))),
            None => vnf(package).map(|v| Self::Vnf(Box::new(v))),
        }
    }
}

fn vnf(package: &Package) -> Option<VnfPackage> {
    let vnfd = package.descriptor.vnfd()?.clone();
    let day0 = vnfd.vdus.keys().filter_map(|v| package.day0(v).map(|d| (v.clone(), d))).collect();
    let digest_of = |i: &SwImage| i.sha256.or_else(|| package.files.get(&i.image).copied());
    let images = vnfd.images.values().filter_map(|i| digest_of(i).map(|d| (i.id.clone(), d))).collect();
    Some(VnfPackage { digest: package.digest, vnfd, day0, images })
}

/// The memory.
#[derive(Debug, Default)]
pub(super) struct Verified(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    known: HashMap<Digest, (u64, Arc<Content>)>,
    /// Counts uses: the least recently used goes first.
    clock: u64,
}

impl Verified {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        // An entry is put in whole: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Content>> {
        let mut it = self.lock();
        it.clock += 1;
        let now = it.clock;
        let (used, content) = it.known.get_mut(digest)?;
        *used = now;
        Some(content.clone())
    }

    /// Remembers what the package of this digest says; who calls has computed the digest from its bytes.
    pub(super) fn put(&self, digest: Digest, content: Arc<Content>) {
        let mut it = self.lock();
        it.clock += 1;
        let now = it.clock;
        it.known.insert(digest, (now, content));
        if it.known.len() > MAX_PACKAGES {
            let oldest = it.known.iter().min_by_key(|(_, (used, _))| *used).map(|(d, _)| *d);
            oldest.map(|d| it.known.remove(&d));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Arc<Content> {
        let text = String::new;
        let (links, saps, flavours) = Default::default();
        Arc::new(Content::Ns(Box::new(Nsd {
            id: text(),
            name: text(),
            version: text(),
            designer: text(),
            vnfd_ids: vec![],
            links,
            saps,
            flavours,
        })))
    }

    #[test]
    fn the_least_recently_used_is_forgotten() {
        let memory = Verified::default();
        let digest = |n: usize| Digest::of(n.to_be_bytes());
        for n in 0..MAX_PACKAGES {
            memory.put(digest(n), content());
        }
        assert!(memory.get(&digest(0)).is_some(), "used again");
        for n in MAX_PACKAGES..MAX_PACKAGES + 10 {
            memory.put(digest(n), content());
            assert!(memory.lock().known.len() <= MAX_PACKAGES);
        }
        assert!(memory.get(&digest(0)).is_some());
        assert!((1..=10).all(|n| memory.get(&digest(n)).is_none()));
        assert!(memory.get(&digest(11)).is_some());
    }
}
