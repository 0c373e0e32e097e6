//! A log of some hundred entries to read, damage and copy: made once per test program.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "../../../ledger-contract/tests/common/mod.rs"]
pub mod common;
mod kept;

use std::{fs, path::Path, sync::OnceLock};

use common::*;
use kept::Kept;
use ledger::{Ledger, embedded::Log};
use ledger_contract::records::{AK_PAYLOAD, PACKAGE_PAYLOAD};
use tempfile::TempDir;

pub fn block<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(f)
}

pub fn open(path: &Path) -> Log {
    Log::open(path, || NOW).unwrap()
}

/// Refused requests are entries too, and cheap.
pub async fn grow(log: &Log, w: &World, positions: std::ops::Range<u64>) {
    for i in positions {
        log.submit(sign(AK_PAYLOAD, &ak(&format!("site-{i}")), &w.acme)).await.unwrap();
    }
}

/// A full tile of hashes, a full bundle, partial ones, and an entry that no bundle can hold.
fn long() -> &'static Kept {
    static LONG: OnceLock<Kept> = OnceLock::new();
    LONG.get_or_init(|| {
        let w = world();
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("ledger");
        Log::init(&path, &w.log, genesis(&w, policy()), NOW).unwrap();
        let log = open(&path);
        let mut big = vnf(&w, "big_vnf");
        big.images = vec![image(&w); 40];
        block(async {
            log.submit(sign(PACKAGE_PAYLOAD, &big, &w.provider)).await.unwrap();
            for p in [vnf(&w, "vfw_vnf"), vnf(&w, "vlb_vnf"), nsd()] {
                log.submit(sign(PACKAGE_PAYLOAD, &p, &w.provider)).await.unwrap();
            }
            let done = log.submit(signed(&w, &deploy_intent("intent-0001", "edge"))).await.unwrap();
            assert!(done.entry.verdict.approved);
            // So much that the tail was replaced after the first full bundle.
            for i in 6..176 {
                let mut package = vnf(&w, &format!("vnf-{i}"));
                package.images = vec![image(&w); 30];
                log.submit(sign(PACKAGE_PAYLOAD, &package, &w.provider)).await.unwrap();
            }
            grow(&log, &w, 176..300).await;
        });
        drop(log);
        let tail = fs::metadata(path.join("tail")).unwrap().len();
        assert!(tail < 1 << 20, "the tail was not replaced: {tail} bytes");
        Kept::of(&path)
    })
}

/// A copy of [`long`].
pub fn copy() -> TempDir {
    let dir = TempDir::new().unwrap();
    long().write(&dir.path().join("ledger"));
    dir
}
