//! The packages we ship, end to end: packed, signed, verified, and refused when anything is changed.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod common;

use std::{collections::BTreeMap, time::Instant};

use common::{NOW, World, image_input, inputs, signed, source, world};
use descriptors::{
    PackageError,
    day0::Day0Function,
    model::CpRef,
    package::{PackInputs, SIGNATURE, open, pack, sign, verify},
    parse::Kind,
};
use trust::{Digest, TrustRoots, UnixTime};

const IMAGE: &[u8] = b"\x7fELF a data plane";

#[test]
fn our_packages_are_whole_and_deployable() {
    let w = world();
    let open = |name: &str| open(&signed(&w, name, IMAGE)).unwrap();
    let (vfw, vlb, ns) = (open("vfw_vnf"), open("vlb_vnf"), open("secure_edge_ns"));
    assert_eq!((vfw.kind, ns.kind, vfw.name.as_str()), (Kind::Vnf, Kind::Ns, "vfw_vnf"));
    for package in [&vfw, &vlb, &ns] {
        assert_eq!(package.diagnostics, [], "{}", package.name);
    }
    let firewall = vfw.descriptor.vnfd().unwrap();
    assert_eq!((firewall.vdus["vfw"].vcpus, firewall.vdus["vfw"].memory_mib), (1, 256));
    assert_eq!(firewall.images["mandate-dataplane"].sha256, Some(Digest::of(IMAGE)));
    assert_eq!(vfw.file("images/mandate-dataplane"), Some(IMAGE));
    assert_eq!(vfw.day0("vfw").unwrap().ports["outside"], "client");
    let balancer = vlb.descriptor.vnfd().unwrap();
    let flavour = &balancer.flavours[0];
    assert_eq!(flavour.initial, BTreeMap::from([("vlb".into(), 1), ("backend".into(), 2)]));
    assert_eq!((flavour.profiles["backend"].max, flavour.aspects["backends"].max_level), (8, 6));
    let day0 = vlb.day0("vlb").unwrap();
    assert_eq!(day0.function, Day0Function::LoadBalancer);
    assert_eq!(day0.backends, Some(CpRef { vdu: "backend".into(), cpd: "service".into() }));
    assert_eq!(vlb.day0("backend").unwrap().function, Day0Function::Reflector);
    // The service refers to what the VNFDs have.
    let service = ns.descriptor.nsd().unwrap();
    let members = &service.flavours[0].members;
    for (member, vnfd) in [("vfw", firewall), ("vlb", balancer)] {
        assert_eq!(members[member].vnfd, vnfd.id);
        assert!(members[member].links.keys().all(|cp| vnfd.external_cps.contains_key(cp)));
    }
    assert_eq!(service.saps["client"], "client_side");
}

#[test]
fn sources_lint_clean_but_for_the_placeholder() {
    for name in ["vfw_vnf", "vlb_vnf", "secure_edge_ns", "sriov_fw_vnf", "sriov_edge_ns"] {
        let found = descriptors::lint::source(&source(name)).diagnostics;
        assert!(found.iter().all(|d| d.code == descriptors::Code::Placeholder), "{found:?}");
    }
    let mut broken = source("vlb_vnf");
    let text = "#cloud-config\nmandate: {function: reflector, ports: {port: nowhere}}\n";
    broken.files.insert("cloud_init/backend.cfg".into(), text.into());
    assert!(descriptors::lint::source(&broken).diagnostics.iter().any(|d| d.code == descriptors::Code::Day0));
}

/// The example for OpenStack: a guest of a disk image, with what it asks of its site.
#[test]
fn the_guest_is_packed_with_its_disk() {
    let w = world();
    let mut images = inputs(&w, IMAGE).images;
    let image = images.pop_first().unwrap().1;
    let packed =
        pack(&source("sriov_fw_vnf"), &PackInputs { images: [("fw-image".to_owned(), image)].into() });
    let package = open(&packed.unwrap()).unwrap();
    assert_eq!(package.diagnostics, []);
    assert_eq!(package.day0("fw"), None, "none of our functions is in it");
    let vdu = &package.descriptor.vnfd().unwrap().vdus["fw"];
    assert!(vdu.requests.ports["outside"].trusted && vdu.day0.is_some());
    let ns = open(&pack(&source("sriov_edge_ns"), &PackInputs::default()).unwrap()).unwrap();
    assert_eq!(ns.diagnostics, []);
}

#[test]
fn the_same_inputs_make_the_same_bytes() {
    let w = world();
    let make = || pack(&source("vlb_vnf"), &inputs(&w, IMAGE)).unwrap();
    let packed = make();
    assert_eq!(packed, make());
    let once = sign(&packed, &w.provider).unwrap();
    assert_eq!(once, sign(&packed, &w.provider).unwrap());
    assert_eq!(once, sign(&once, &w.provider).unwrap(), "signing again replaces the signature");
    assert_ne!(once, packed);
    // A package's own files are a source: packing them again changes nothing.
    let opened = open(&once).unwrap();
    let files = opened.files.keys().map(|p| (p.clone(), opened.file(p).unwrap().to_vec())).collect();
    let again = descriptors::dir::SourceDir { name: opened.name.clone(), files };
    assert_eq!(pack(&again, &PackInputs::default()).unwrap(), packed);
}

#[test]
fn a_good_package_verifies_and_says_who_made_it() {
    let w = world();
    let bytes = signed(&w, "vlb_vnf", IMAGE);
    let verified = verify(&bytes, &w.roots, NOW).unwrap();
    assert_eq!(verified.signer.to_string(), "provider@provider-org");
    assert_eq!(verified.signer.kind, descriptors::package::SignatureKind::Dsse);
    assert_eq!(verified.package.digest, Digest::of(&bytes));
    let [image] = verified.images.as_slice() else { panic!("{:?}", verified.images) };
    assert_eq!((image.image.as_str(), image.digest), ("mandate-dataplane", Digest::of(IMAGE)));
    assert_eq!(image.builder, "https://builder.example/1");
    assert_eq!(image.provenance_signer.name, "builder");
    assert!(verify(&signed(&w, "secure_edge_ns", IMAGE), &w.roots, NOW).unwrap().images.is_empty());
}

/// Every byte of the smallest package, and every bit of some: nothing can change unnoticed.
#[test]
fn every_flipped_byte_is_refused() {
    let w = world();
    let bytes = signed(&w, "secure_edge_ns", IMAGE);
    let mut changed = bytes.clone();
    for i in 0..bytes.len() {
        for mask in if i % 16 == 0 { &[1, 2, 4, 8, 16, 32, 64, 128][..] } else { &[0xff][..] } {
            changed[i] = bytes[i] ^ mask;
            assert!(verify(&changed, &w.roots, NOW).is_err(), "byte {i} of {} ^ {mask:#x}", bytes.len());
        }
        changed[i] = bytes[i];
    }
    for cut in [1, 8, 100, bytes.len() / 2] {
        assert!(verify(&bytes[..bytes.len() - cut], &w.roots, NOW).is_err());
    }
    for more in [&b"\0"[..], &[0; 512], b"x", &bytes] {
        assert!(verify(&[&bytes, more].concat(), &w.roots, NOW).is_err());
    }
}

#[test]
fn flipped_bytes_of_a_vnf_package_are_refused() {
    let w = world();
    let image: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let bytes = signed(&w, "vfw_vnf", &image);
    let mut changed = bytes.clone();
    for i in (0..bytes.len()).step_by(bytes.len() / 200) {
        changed[i] ^= 0x10;
        assert!(verify(&changed, &w.roots, NOW).is_err(), "byte {i}");
        changed[i] ^= 0x10;
    }
}

/// Repacks with other files but the old signature, as an attacker would.
fn forged(w: &World, edit: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) -> PackageError {
    let good = open(&signed(w, "vfw_vnf", IMAGE)).unwrap();
    let mut files: BTreeMap<_, _> =
        good.files.keys().map(|p| (p.clone(), good.file(p).unwrap().to_vec())).collect();
    edit(&mut files);
    verify(&tar_gz(files.iter().map(|(p, b)| (format!("vfw_vnf/{p}"), b.clone()))), &w.roots, NOW)
        .unwrap_err()
}

fn tar_gz(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

#[test]
fn an_error_names_the_file_that_was_changed() {
    let w = world();
    let mismatch = |e: PackageError| match e {
        PackageError::Mismatch { file, .. } => file,
        other => panic!("{other}"),
    };
    assert_eq!(
        mismatch(forged(&w, |f| f.get_mut("images/mandate-dataplane").unwrap()[3] ^= 1)),
        "images/mandate-dataplane"
    );
    assert_eq!(mismatch(forged(&w, |f| f.get_mut("README.md").unwrap().push(b' '))), "README.md");
    let added = forged(&w, |f| drop(f.insert("scripts/x.sh".into(), vec![])));
    assert!(matches!(added, PackageError::Uncovered { file } if file == "scripts/x.sh"));
    let removed = forged(&w, |f| drop(f.remove("README.md")));
    assert!(matches!(removed, PackageError::Missing { file, .. } if file == "README.md"));
    let unsigned = forged(&w, |f| drop(f.remove(SIGNATURE)));
    assert!(matches!(unsigned, PackageError::Missing { file, .. } if file == SIGNATURE));
    // The same files in another archive: not the bytes that were signed.
    assert!(matches!(forged(&w, |_| ()), PackageError::Mismatch { what, .. } if what.contains("archive")));
}

#[test]
fn signatures_of_strangers_and_of_the_past_are_refused() {
    let w = world();
    let bytes = signed(&w, "secure_edge_ns", IMAGE);
    let signature = |e| matches!(e, PackageError::Signature { file, .. } if file == SIGNATURE);
    assert!(signature(verify(&bytes, &TrustRoots::default(), NOW).unwrap_err()));
    assert!(signature(verify(&bytes, &w.roots, UnixTime(1)).unwrap_err()));
}

/// A provider signs a package whose evidence is wrong: the signature is good, the package is not.
#[test]
fn evidence_must_be_about_the_image() {
    let w = world();
    let attempt = |edit: &dyn Fn(&mut PackInputs)| {
        let mut inputs = inputs(&w, IMAGE);
        edit(&mut inputs);
        let bytes = sign(&pack(&source("vfw_vnf"), &inputs).unwrap(), &w.provider).unwrap();
        verify(&bytes, &w.roots, NOW).unwrap_err()
    };
    let other = image_input(&w, b"another image");
    let sbom = attempt(&|i| i.images.values_mut().for_each(|x| x.sbom = other.sbom.clone()));
    assert!(matches!(&sbom, PackageError::Evidence { file, .. } if file.starts_with("sbom/")), "{sbom}");
    let provenance =
        attempt(&|i| i.images.values_mut().for_each(|x| x.provenance = other.provenance.clone()));
    assert!(
        matches!(&provenance, PackageError::Evidence { file, .. } if file.starts_with("provenance/")),
        "{provenance}"
    );
    let garbage = attempt(&|i| i.images.values_mut().for_each(|x| x.sbom = b"{}".to_vec()));
    assert!(matches!(garbage, PackageError::Evidence { .. }));
}

#[test]
fn a_descriptor_without_checksum_or_with_a_wrong_one_is_refused() {
    let w = world();
    let edited = |from: &str, to: &str| {
        let mut source = source("vfw_vnf");
        let text = String::from_utf8(source.files["vfw_vnfd.yaml"].clone()).unwrap();
        assert!(text.contains(from));
        source.files.insert("vfw_vnfd.yaml".into(), text.replace(from, to).into_bytes());
        pack(&source, &inputs(&w, IMAGE))
    };
    let wrong = edited("@sha256:images/mandate-dataplane@", &Digest::of(b"x").hex());
    assert!(matches!(wrong, Err(PackageError::Descriptor { .. })), "{wrong:?}");
    let unknown = edited("@sha256:images/mandate-dataplane@", "@sha256:images/other@");
    assert!(matches!(unknown, Err(PackageError::Missing { file, .. }) if file == "images/other"));
    let none = edited(
        "    checksum:\n      algorithm: sha-256\n      hash: '@sha256:images/mandate-dataplane@'\n",
        "",
    );
    let bytes = sign(&none.unwrap(), &w.provider).unwrap();
    assert!(
        matches!(verify(&bytes, &w.roots, NOW), Err(PackageError::Missing { file, .. }) if file.contains("checksum"))
    );
    let no_image = pack(&source("vfw_vnf"), &PackInputs::default());
    assert!(matches!(no_image, Err(PackageError::Missing { .. })));
}

/// Not an assertion on this machine's speed, but a figure: 10 MB that compress as executables do.
#[test]
fn ten_megabytes_verify_in_a_moment() {
    let w = world();
    let image: Vec<u8> =
        (0..10_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> (24 - i % 7)) as u8).collect();
    let packed = Instant::now();
    let bytes = signed(&w, "vfw_vnf", &image);
    let packed = packed.elapsed();
    let start = Instant::now();
    verify(&bytes, &w.roots, NOW).unwrap();
    let took = start.elapsed();
    println!("10 MB image, {} bytes packed: pack and sign {packed:?}, verify {took:?}", bytes.len());
    assert!(took.as_secs() < 20, "{took:?}");
}
