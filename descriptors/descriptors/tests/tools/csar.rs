//! CSARs as a provider makes them, from the packages we ship.
#![allow(missing_docs, dead_code, clippy::unwrap_used)]

use std::{collections::BTreeMap, io::Write as _};

use descriptors::package;
use rawzip::{CompressionMethod, ZipArchiveWriter};
use trust::{Digest, TrustRoots, identity::OrgRoot};

use crate::common::{World, inputs, source};

pub type Files = BTreeMap<String, Vec<u8>>;

pub const IMAGE: &[u8] = b"an image that is not one";
pub const META: &str = "TOSCA-Meta-File-Version: 1.0\nCSAR-Version: 1.1\nCreated-By: vendor\n\
                        Entry-Definitions: Definitions/vfw_vnfd.yaml\nETSI-Entry-Manifest: vfw.mf\n";

pub fn zip(files: &Files) -> Vec<u8> {
    let mut out = Vec::new();
    let mut archive = ZipArchiveWriter::new(&mut out);
    for (path, bytes) in files {
        let (mut entry, config) =
            archive.new_file(path.as_str()).compression_method(CompressionMethod::DEFLATE).start().unwrap();
        let encoder = flate2::write::DeflateEncoder::new(&mut entry, flate2::Compression::default());
        let mut writer = config.wrap(encoder);
        writer.write_all(bytes).unwrap();
        let (encoder, descriptor) = writer.finish().unwrap();
        encoder.finish().unwrap();
        entry.finish(descriptor).unwrap();
    }
    archive.finish().unwrap();
    out
}

/// The files of our firewall as a SOL004 package has them, without its manifest.
pub fn files(world: &World) -> Files {
    let packed = package::pack(&source("vfw_vnf"), &inputs(world, IMAGE)).unwrap();
    let it = package::open(&packed).unwrap();
    let mut out = Files::from([("TOSCA-Metadata/TOSCA.meta".to_owned(), META.as_bytes().to_vec())]);
    for path in it.files.keys().filter(|p| *p != "checksums.txt") {
        let place = match path.split('/').next().unwrap() {
            "vfw_vnfd.yaml" => "Definitions/",
            "cloud_init" => "Scripts/",
            _ => "Files/",
        };
        out.insert(format!("{place}{path}"), it.file(path).unwrap().to_vec());
    }
    out
}

pub fn manifest(files: &Files) -> String {
    let mut out =
        "metadata:\n  vnf_product_name: vfw\n  vnf_provider_id: vendor\n  vnf_package_version: 1.0\n\
                   \x20 vnf_release_date_time: 2026-01-01T00:00:00Z\n  vnfd_id: vfw_vnf\n\n"
            .to_owned();
    for (path, bytes) in files {
        let digest = Digest::of(bytes).hex();
        out += &format!("Source: {path}\nAlgorithm: SHA-256\nHash: {digest}\n\n");
    }
    out
}

/// A CSAR with that text as its manifest.
pub fn csar(files: &Files, manifest: &[u8]) -> Vec<u8> {
    let mut all = files.clone();
    all.insert("vfw.mf".into(), manifest.to_vec());
    zip(&all)
}

/// The world's roots, and the vendor's.
pub fn roots(world: &World, root_pem: &str) -> TrustRoots {
    let mut roots = world.roots.clone();
    roots.orgs.insert("vendor".into(), OrgRoot { ca: vec![root_pem.to_owned()], ..OrgRoot::default() });
    roots
}
