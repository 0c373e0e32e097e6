//! What says how an image came to be: SBOMs of every form, and in-toto layouts with their links.
//!
//! A layout's input is the layout and its links, one behind the other with `MARK` between them.
#![no_main]

use std::{collections::BTreeMap, sync::LazyLock};

use descriptors::{layout, sbom};
use libfuzzer_sys::fuzz_target;
use trust::{Digest, TrustRoots, UnixTime, identity::OrgRoot};

const MARK: &[u8] = b"\x1e\x1e\x1e\x1e";
/// When the seeds are in time.
const NOW: UnixTime = UnixTime(1_795_300_000);
/// What the seeds are about.
const IMAGE: &[u8] = b"an image that is not one";

static ROOTS: LazyLock<TrustRoots> = LazyLock::new(|| {
    let owner =
        |pem: &str| OrgRoot { keys: BTreeMap::from([("owner".into(), pem.into())]), ..OrgRoot::default() };
    let orgs = [
        ("ed25519".to_owned(), owner(include_str!("../keys/owner-ed25519.pem"))),
        ("rsa".to_owned(), owner(include_str!("../keys/owner-rsa.pem"))),
        ("ecdsa".to_owned(), owner(include_str!("../keys/owner-ecdsa.pem"))),
    ];
    TrustRoots { orgs: BTreeMap::from(orgs), logs: Vec::new(), channel: None }
});

fn split(data: &[u8]) -> Vec<&[u8]> {
    let (mut out, mut rest) = (Vec::new(), data);
    while let Some(at) = rest.windows(MARK.len()).position(|w| w == MARK) {
        out.push(&rest[..at]);
        rest = &rest[at + MARK.len()..];
    }
    out.push(rest);
    out
}

fuzz_target!(|data: &[u8]| {
    let image = Digest::of(IMAGE);
    if let Ok(read) = sbom::read(data) {
        assert!(read.components.len() <= sbom::MAX_COMPONENTS);
        let first = read.summary(&image);
        if let Ok(it) = &first {
            assert_eq!(it.complete, it.missing.is_empty());
            assert!(it.missing.len() <= sbom::MAX_MISSING + 1);
            assert!(read.summary(&Digest::of(b"another image")).is_err());
        }
        assert_eq!(first, sbom::summary(data, &image), "the same document, the same summary");
    }
    let parts = split(data);
    let Some((root, links)) = parts.split_first() else { return };
    let links = links.iter().map(|bytes| ("a.link", *bytes));
    if let Ok(it) = layout::verify(root, links, &ROOTS, NOW) {
        assert!(ROOTS.orgs.contains_key(&it.org), "signed by nobody");
        let _ = it.steps_to(&image);
    }
});
