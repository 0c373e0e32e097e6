//! A small world: a provider and a builder with certificates, and the packages we ship with a made-up image.
#![allow(missing_docs, dead_code, clippy::unwrap_used)]

use std::{collections::BTreeMap, path::Path};

use descriptors::{
    dir::{self, SourceDir},
    package::{self, ImageInput, PackInputs},
    provenance::{self, Build},
    sbom,
};
use trust::{
    Digest, Signer, TrustRoots, UnixTime,
    identity::OrgRoot,
    issue::{ca, member},
};

pub const FROM: UnixTime = UnixTime(1_700_000_000);
pub const TO: UnixTime = UnixTime(1_900_000_000);
pub const NOW: UnixTime = UnixTime(1_800_000_000);
pub const LOCK: &str = "version = 4\n[[package]]\nname = \"mandate-dataplane\"\nversion = \"0.1.0\"\ndependencies = [\"a\"]\n\
                        [[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"aa\"\n";

pub struct World {
    pub roots: TrustRoots,
    pub provider: Signer,
    pub builder: Signer,
}

pub fn world() -> World {
    let authority = ca("provider-org", &[3; 32], FROM, TO).unwrap();
    let signer = |name: &str, seed: u8| {
        let attrs = BTreeMap::from([("mandate.role".to_owned(), "provider".to_owned())]);
        let it = member(&authority, name, attrs, &[seed; 32], &[seed], (FROM, TO)).unwrap();
        Signer::from_pem(&it.key_pem, &it.certificate_pem).unwrap()
    };
    let root = OrgRoot { ca: vec![authority.certificate_pem.clone()], ..OrgRoot::default() };
    World {
        roots: TrustRoots {
            orgs: BTreeMap::from([("provider-org".into(), root)]),
            logs: vec![],
            channel: None,
        },
        provider: signer("provider", 7),
        builder: signer("builder", 8),
    }
}

pub fn source(name: &str) -> SourceDir {
    dir::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../packages").join(name)).unwrap()
}

pub fn build(image: &[u8]) -> Build<'static> {
    Build {
        image: "mandate-dataplane",
        digest: Digest::of(image),
        builder: "https://builder.example/1",
        package: "mandate-dataplane",
        profile: "release",
        cargo_lock: Digest::of(LOCK),
        git: Some(("git+https://example.org/mandate", "0123456789abcdef0123456789abcdef01234567")),
        times: (FROM, NOW),
    }
}

pub fn image_input(world: &World, bytes: &[u8]) -> ImageInput {
    ImageInput {
        bytes: bytes.to_vec(),
        sbom: sbom::cyclonedx(LOCK, "mandate-dataplane", Digest::of(bytes), NOW).unwrap(),
        provenance: provenance::statement(&build(bytes)).sign(&world.builder).unwrap(),
    }
}

pub fn inputs(world: &World, bytes: &[u8]) -> PackInputs {
    PackInputs { images: BTreeMap::from([("mandate-dataplane".into(), image_input(world, bytes))]) }
}

pub fn signed(world: &World, name: &str, image: &[u8]) -> Vec<u8> {
    let inputs = if name.ends_with("_ns") { PackInputs::default() } else { inputs(world, image) };
    package::sign(&package::pack(&source(name), &inputs).unwrap(), &world.provider).unwrap()
}
