//! SOL004 packages without a signature: what is opened, and what is refused with which code.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "tools/csar.rs"]
mod csar;

use csar::{Files, META, files, manifest, zip};
use descriptors::package::{self, PackageError};
use proptest::prelude::*;

fn code(bytes: &[u8]) -> String {
    package::open(bytes).unwrap_err().code().to_owned()
}

fn good() -> (Files, String) {
    let files = files(&common::world());
    let text = manifest(&files);
    (files, text)
}

#[test]
fn opens_as_the_package_it_would_be_in_osm() {
    let (files, text) = good();
    let it = package::open(&csar::csar(&files, text.as_bytes())).unwrap();
    assert_eq!((it.name.as_str(), it.descriptor.id()), ("vfw", "vfw_vnf"));
    assert_eq!(it.descriptor_path, "Definitions/vfw_vnfd.yaml");
    assert_eq!(it.file("images/mandate-dataplane"), Some(csar::IMAGE));
    assert!(it.files.contains_key("cloud_init/vfw.cfg"), "{:?}", it.files.keys());
    assert!(!it.is_signed());
    let vdu = it.descriptor.vnfd().unwrap().vdus.keys().next().unwrap();
    assert!(it.day0(vdu).is_some());
    let report = descriptors::lint::bytes(&csar::csar(&files, text.as_bytes()), "vfw.csar", None);
    assert!(report.diagnostics.iter().all(|d| d.severity == descriptors::Severity::Warning), "{report:?}");
}

#[test]
fn opens_without_metadata_and_in_a_directory() {
    let (files, _) = good();
    let flat: Files = files
        .into_iter()
        .filter(|(p, _)| !p.starts_with("TOSCA"))
        .map(|(p, b)| (p.split_once('/').unwrap().1.to_owned(), b))
        .collect();
    let mut flat = Files::from_iter(flat);
    flat.insert("vfw.mf".into(), manifest(&flat).into_bytes());
    assert_eq!(package::open(&zip(&flat)).unwrap().name, "vfw");
    let inside: Files = flat.into_iter().map(|(p, b)| (format!("vfw_csar/{p}"), b)).collect();
    assert_eq!(package::open(&zip(&inside)).unwrap().name, "vfw_csar");
}

#[test]
fn each_defect_has_its_code() {
    let (files, text) = good();
    let with = |change: &dyn Fn(&mut Files, &mut String)| {
        let (mut files, mut text) = (files.clone(), text.clone());
        change(&mut files, &mut text);
        csar::csar(&files, text.as_bytes())
    };
    let meta = |text: String| {
        move |files: &mut Files, _: &mut String| {
            files.insert("TOSCA-Metadata/TOSCA.meta".into(), text.clone().into_bytes());
        }
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("SOL004_HASH_MISMATCH", with(&|f, _| f.get_mut("Files/images/mandate-dataplane").unwrap().push(0))),
        ("SOL004_FILE_MISSING", with(&|f, _| drop(f.remove("Files/images/mandate-dataplane")))),
        ("SOL004_HASH_ALGORITHM", with(&|_, t| *t = t.replace("SHA-256", "MD5"))),
        ("SOL004_HASH_ALGORITHM", with(&|_, t| *t = t.replace("SHA-256", "SHA-1"))),
        ("SOL004_MANIFEST_SYNTAX", with(&|_, t| *t += "Hash: 00\n")),
        ("SOL004_OTHER_PRODUCT", with(&|_, t| *t = t.replace("vnfd_id: vfw_vnf", "vnfd_id: other"))),
        ("SOL004_TOSCA_META", with(&meta(META.replace("CSAR-Version: 1.1\n", "")))),
        ("SOL004_FILE_MISSING", with(&meta(META.replace("Definitions/vfw", "Definitions/vfx")))),
        (
            "SOL004_MANIFEST_MISSING",
            zip(&files
                .iter()
                .filter(|(p, _)| !p.starts_with("TOSCA"))
                .map(|(p, b)| (p.clone(), b.clone()))
                .collect()),
        ),
        (
            "SOL004_ENTRY_DUPLICATE",
            with(&|f, t| {
                f.insert("images/mandate-dataplane".into(), vec![1]);
                *t = manifest(f);
            }),
        ),
        ("SOL004_ARCHIVE", [with(&|_, _| {}), vec![0]].concat()),
        ("SOL004_ARCHIVE", [vec![b'P', b'K', 3, 4], with(&|_, _| {})].concat()),
        ("SOL004_ARCHIVE", b"PK\x03\x04".to_vec()),
    ];
    for (expected, bytes) in cases {
        let error = package::open(&bytes).unwrap_err();
        assert_eq!(error.code(), expected, "{error}");
    }
}

#[test]
fn a_tosca_descriptor_is_refused_by_name() {
    let (mut files, _) = good();
    files.insert(
        "Definitions/vfw_vnfd.yaml".into(),
        b"tosca_definitions_version: tosca_simple_yaml_1_3\ntopology_template: {}\n".to_vec(),
    );
    let text = manifest(&files);
    match package::open(&csar::csar(&files, text.as_bytes())) {
        Err(PackageError::Descriptor { diagnostics, .. }) => {
            assert!(diagnostics.iter().any(|d| d.message.contains("TOSCA")), "{diagnostics:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// Where a pattern is in an archive.
fn at(bytes: &[u8], pattern: &[u8], nth: usize) -> usize {
    bytes.windows(pattern.len()).enumerate().filter(|(_, w)| *w == pattern).nth(nth).unwrap().0
}

#[test]
fn hostile_archives_are_refused() {
    let small =
        |files: &[(&str, &[u8])]| zip(&files.iter().map(|(p, b)| ((*p).to_owned(), b.to_vec())).collect());
    // Paths.
    let paths = [
        "../x",
        "/x",
        "a/../../x",
        "a\\b",
        "a//b",
        "./x",
        "a\0b",
        "..",
        "C:/x",
        "c:x",
        "a\u{202e}b",
        "\u{200b}",
    ];
    for path in paths {
        // The directory of a name as long as the path is, in both headers.
        let name = "n".repeat(path.len());
        let mut bytes = small(&[(&name, b"x")]);
        for _ in 0..2 {
            let i = at(&bytes, name.as_bytes(), 0);
            bytes[i..i + path.len()].copy_from_slice(path.as_bytes());
        }
        assert!(matches!(package::open(&bytes), Err(PackageError::Entry { .. })), "{path:?}");
    }
    // The same name twice: two names of one length, made one.
    let mut twice = small(&[("aaaa.mf", b"1"), ("bbbb.mf", b"2")]);
    for _ in 0..2 {
        let i = at(&twice, b"bbbb.mf", 0);
        twice[i..i + 4].copy_from_slice(b"aaaa");
    }
    assert_eq!(code(&twice), "SOL004_ENTRY_DUPLICATE");
    // A name that differs in the two headers.
    let mut differs = small(&[("aaaa.mf", b"1")]);
    differs[at(&small(&[("aaaa.mf", b"1")]), b"aaaa.mf", 0)] = b'b';
    assert_eq!(code(&differs), "SOL004_ARCHIVE");
    // A link: UNIX, mode 0120777 in the central directory.
    let mut link = small(&[("aaaa.mf", b"1")]);
    let central = at(&link, b"PK\x01\x02", 0);
    link[central + 5] = 3;
    link[central + 38..central + 42].copy_from_slice(&(0o120_777u32 << 16).to_le_bytes());
    assert!(package::open(&link).unwrap_err().to_string().contains("link"));
    // A device, and a directory with content.
    let mut device = link.clone();
    device[central + 38..central + 42].copy_from_slice(&(0o060_644u32 << 16).to_le_bytes());
    assert!(package::open(&device).unwrap_err().to_string().contains("device"));
    // Encrypted, and compressed otherwise.
    for (offset, value) in [(8, 1), (10, 12)] {
        let mut odd = small(&[("aaaa.mf", b"1")]);
        let central = at(&odd, b"PK\x01\x02", 0);
        odd[central + offset] |= value;
        assert_eq!(code(&odd), "SOL004_ARCHIVE");
    }
    // Two entries with the same data (overlap): the second's local header is the first's.
    let mut overlap = small(&[("aaaa.mf", b"1"), ("bbbb.mf", b"1")]);
    let second = at(&overlap, b"PK\x01\x02", 1);
    overlap[second + 42..second + 46].copy_from_slice(&0u32.to_le_bytes());
    assert_eq!(code(&overlap), "SOL004_ARCHIVE");
    // Bytes between two entries belong to none.
    let one = small(&[("aaaa.mf", b"1"), ("bbbb.mf", b"2")]);
    let mut gap = one.clone();
    let central = at(&one, b"PK\x01\x02", 0);
    gap.splice(central..central, [0; 5]);
    assert_eq!(code(&gap), "SOL004_ARCHIVE");
    // Bytes behind the compressed data of an entry: some readers see them, others do not.
    let mut behind = small(&[("aaaa.mf", b"1")]);
    let record = at(&behind, b"PK\x01\x02", 0);
    let descriptor = at(&behind, b"PK\x07\x08", 0);
    for sizes in [record + 20, descriptor + 8] {
        let packed = u32::from_le_bytes(behind[sizes..sizes + 4].try_into().unwrap()) + 1;
        behind[sizes..sizes + 4].copy_from_slice(&packed.to_le_bytes());
    }
    let end = behind.len() - 22 + 16;
    let directory = u32::from_le_bytes(behind[end..end + 4].try_into().unwrap()) + 1;
    behind[end..end + 4].copy_from_slice(&directory.to_le_bytes());
    behind.insert(descriptor, 0);
    let error = package::open(&behind).unwrap_err().to_string();
    assert!(error.contains("behind its compressed data"), "{error}");
    // A size that lies, in both headers and the descriptor or only in one.
    let mut lies = one.clone();
    lies[central + 24..central + 28].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(package::open(&lies).is_err());
    let promises = &(3u32 << 20).to_le_bytes();
    lies[central + 24..central + 28].copy_from_slice(promises);
    assert!(matches!(package::open(&lies), Err(PackageError::TooLarge { .. })), "more than it may");
    // Two of what a wrapper has one of.
    let inner = zip(&Files::from([("a.mf".to_owned(), Vec::new())]));
    for (a, b) in [("a.csar", "b.zip"), ("a.cms", "b.p7s"), ("a.sigstore", "b.sigstore.json")] {
        let wrapped = small(&[("p.csar", &inner), (a, &inner), (b, &inner)]);
        assert_eq!(code(&wrapped), "SOL004_OUTER_ENTRY", "{a} {b}");
    }
    // A bomb in a bomb, and packages in packages in packages: one zip is opened, and what is in it must be a package.
    let zeros = small(&[("a.mf", &vec![0; 8 << 20])]);
    let mut doll = zeros.clone();
    for _ in 0..30 {
        doll = small(&[("a.csar", &doll)]);
    }
    assert_eq!(code(&doll), "SOL004_MANIFEST_MISSING");
    let stored = [b"PK\x03\x04".to_vec(), vec![0; 900 << 10]].concat();
    let wrapped = small(&[("a.csar", &stored)]);
    assert!(
        matches!(package::open(&wrapped), Err(PackageError::TooLarge { .. })),
        "{:?}",
        package::open(&wrapped)
    );
    // A bomb: 40 MB of zeros in 40 kB.
    let bomb = small(&[("a.mf", &vec![0; 40 << 20])]);
    assert!(matches!(package::open(&bomb), Err(PackageError::TooLarge { .. })));
    // Too many entries.
    let many: Files = (0..1100).map(|n| (format!("f{n}"), Vec::new())).collect();
    assert!(matches!(package::open(&zip(&many)), Err(PackageError::TooLarge { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_changed_byte_is_refused_or_changes_nothing(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (files, text) = good();
        let whole = csar::csar(&files, text.as_bytes());
        let before = package::open(&whole).unwrap();
        let mut bytes = whole;
        let i = at.index(bytes.len());
        bytes[i] ^= 1 << bit;
        if let Ok(after) = package::open(&bytes) {
            // Times, comments and the manifest's own words are covered by a signature only.
            for (path, digest) in before.files.iter().filter(|(p, _)| *p != "vfw.mf") {
                prop_assert_eq!(after.files.get(path), Some(digest));
            }
        }
    }

    #[test]
    fn any_bytes_are_refused(tail in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = [b"PK\x03\x04".as_slice(), &tail].concat();
        prop_assert!(package::open(&bytes).is_err());
    }
}
