//! Archives nobody should send: each is refused by name, none costs more than its bound, no bytes make it panic.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod common;

use std::io::Write as _;

use descriptors::{
    PackageError, day0,
    package::{MAX_FILES, open},
    parse,
};
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use tar::{EntryType, Header};

const NSD: &[u8] = b"nsd: {nsd: [{id: a, name: a, version: '1', vnfd-id: [v], df: [{id: d, vnf-profile: [{id: m, vnfd-id: v}]}]}]}\n";

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// An entry with exactly this path: the tar crate itself would refuse some of them.
fn entry(path: &[u8], kind: EntryType, bytes: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.set_entry_type(kind);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn file(path: &[u8], bytes: &[u8]) -> Vec<u8> {
    entry(path, EntryType::Regular, bytes)
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    gz(&[entries.concat(), vec![0; 1024]].concat())
}

fn with(extra: Vec<u8>) -> Result<descriptors::Package, PackageError> {
    open(&archive(&[file(b"p/p.yaml", NSD), extra]))
}

fn problem(extra: Vec<u8>) -> &'static str {
    match with(extra) {
        Err(PackageError::Entry { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_plain_archive_is_opened() {
    let package = with(file(b"p/README.md", b"x")).unwrap();
    assert_eq!(package.file("README.md"), Some(&b"x"[..]));
    assert_eq!(with(entry(b"p/icons/", EntryType::Directory, b"")).unwrap().files.len(), 1);
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    assert!(problem(file(b"p/../../etc/passwd", b"x")).contains("out of the package"));
    assert!(problem(file(b"../p/x", b"x")).contains("out of the package"));
    assert!(problem(file(b"/p/x", b"x")).contains("absolute"));
    assert!(problem(file(b"./p/x", b"x")).contains("`.`"));
    assert!(problem(file(b"p//x", b"x")).contains("empty"));
    assert!(problem(file(b"p/a\\b", b"x")).contains("backslash"));
    assert!(problem(file(b"p/a\nb", b"x")).contains("control"));
    assert!(problem(file(b"p/\xff", b"x")).contains("UTF-8"));
    assert!(problem(file(b"C:/p/x", b"x")).contains("drive letter"));
    assert!(problem(file(b"c:x", b"x")).contains("drive letter"));
    for hidden in ["p/a\u{202e}lmay.x", "p/a\u{200b}", "p/\u{feff}a", "p/a\u{ad}b"] {
        assert!(problem(file(hidden.as_bytes(), b"x")).contains("invisible"), "{hidden:?}");
    }
    // What only looks like a way out is a name like any other.
    for odd in ["p/\u{2025}/x", "p/\u{ff0e}\u{ff0e}/x", "p/\u{2215}etc", "p/...", "p/ä"] {
        assert!(with(file(odd.as_bytes(), b"x")).unwrap().files.contains_key(&odd[2..]), "{odd:?}");
    }
    assert!(problem(file(b"x", b"x")).contains("outside"));
    assert!(problem(file(b"q/x", b"x")).contains("second top-level"));
}

#[test]
fn entries_that_are_no_files_are_refused() {
    for (kind, text) in [
        (EntryType::Symlink, "link"),
        (EntryType::Link, "link"),
        (EntryType::Char, "neither"),
        (EntryType::Block, "neither"),
        (EntryType::Fifo, "neither"),
        (EntryType::GNUSparse, "neither"),
    ] {
        let found = with(entry(b"p/x", kind, b""));
        assert!(
            matches!(&found, Err(PackageError::Entry { problem, .. }) if problem.contains(text))
                || matches!(&found, Err(PackageError::Damaged { .. })),
            "{kind:?}: {found:?}"
        );
    }
}

#[test]
fn what_two_readers_read_differently_is_refused() {
    assert!(problem(file(b"p/p.yaml", NSD)).contains("twice"));
    assert!(problem([file(b"p/a", b"1"), file(b"p/a/b", b"2")].concat()).contains("both"));
    assert!(problem(file(b"p/q.yaml", NSD)).contains("second descriptor"));
    assert!(problem(file(b"p/q.json", b"{}")).contains("second descriptor"));
    let pax = entry(b"p/PaxHeaders/x", EntryType::XHeader, b"11 size=10\n");
    assert!(problem([pax, file(b"p/x", b"0123456789")].concat()).contains("size"));
    let hidden = [file(b"p/p.yaml", NSD), vec![0; 1024], file(b"p/hidden", b"x"), vec![0; 1024]].concat();
    assert!(matches!(open(&gz(&hidden)), Err(PackageError::Damaged { .. })));
    let second = [archive(&[file(b"p/p.yaml", NSD)]), archive(&[file(b"p/hidden", b"x")])].concat();
    assert!(matches!(open(&second), Err(PackageError::Damaged { .. })));
}

#[test]
fn other_formats_are_refused_by_name() {
    let refused = |bytes: &[u8]| match open(bytes) {
        Err(PackageError::Format { found, .. }) => found,
        other => panic!("{other:?}"),
    };
    assert!(refused(&file(b"p/p.yaml", NSD)).contains("tar"));
    assert!(refused(b"").contains("no gzip"));
    assert!(matches!(open(&archive(&[])), Err(PackageError::Damaged { .. })));
    assert!(matches!(open(&archive(&[file(b"p/x", b"x")])), Err(PackageError::Missing { .. })));
    let json = archive(&[file(b"p/p.json", b"{}")]);
    assert!(matches!(open(&json), Err(PackageError::Entry { problem, .. }) if problem.contains("JSON")));
}

#[test]
fn bombs_are_stopped_at_their_bound() {
    let zeros = with(file(b"p/zeros", &vec![0; 64 << 20]));
    assert!(matches!(&zeros, Err(PackageError::TooLarge { .. })), "{zeros:?}");
    // A header that promises more than there is, and one that promises more than there may be.
    let liar = |size: u64| {
        let mut it = file(b"p/x", b"");
        let mut header = Header::from_byte_slice(&it[..512]).clone();
        header.set_size(size);
        header.set_cksum();
        it[..512].copy_from_slice(header.as_bytes());
        with(it)
    };
    assert!(matches!(liar(1 << 19), Err(PackageError::Damaged { .. })));
    assert!(matches!(liar(1 << 40), Err(PackageError::TooLarge { .. })));
    let many: Vec<Vec<u8>> = (0..=MAX_FILES).map(|i| file(format!("p/{i}").as_bytes(), b"")).collect();
    assert!(matches!(open(&archive(&many)), Err(PackageError::TooLarge { what: "entries", .. })));
    // Refused by its header: of the zeros nothing is unpacked.
    let early = with(file(b"p/zeros", &vec![0; 3 << 20]));
    assert!(matches!(early, Err(PackageError::TooLarge { found, .. }) if found > 3 << 20), "{early:?}");
    // A long name that fills the memory.
    let long = entry(b"././@LongLink", EntryType::GNULongName, &vec![b'a'; 64 << 20]);
    let found = with([long, file(b"p/x", b"")].concat());
    assert!(matches!(found, Err(PackageError::TooLarge { limit: 256, .. })), "{found:?}");
    let pax = entry(b"p/PaxHeaders/x", EntryType::XHeader, &vec![b'1'; 70_000]);
    let found = with([pax, file(b"p/x", b"")].concat());
    assert!(matches!(found, Err(PackageError::TooLarge { limit: 65_536, .. })), "{found:?}");
}

#[test]
fn long_names_are_read_in_both_forms() {
    let path = format!("p/{}/x", "d".repeat(250));
    let gnu = entry(b"././@LongLink", EntryType::GNULongName, format!("{path}\0").as_bytes());
    let record = format!("path={path}\n");
    let pax =
        entry(b"p/PaxHeaders/x", EntryType::XHeader, format!("{} {record}", record.len() + 4).as_bytes());
    for ahead in [&gnu, &pax] {
        assert!(with([ahead, &file(b"p/short", b"1")[..]].concat()).is_ok());
    }
    // Longer by one, twice, or of nothing.
    let longer = entry(b"././@LongLink", EntryType::GNULongName, format!("{path}yy\0").as_bytes());
    assert!(matches!(with([longer, file(b"p/x", b"")].concat()), Err(PackageError::TooLarge { .. })));
    for twice in [&gnu, &pax] {
        let found = with([&twice[..], twice, &file(b"p/x", b"")].concat());
        assert!(matches!(found, Err(PackageError::Damaged { .. })), "{found:?}");
    }
    assert!(matches!(with(gnu), Err(PackageError::Damaged { .. })));
}

fn yaml() -> impl Strategy<Value = String> {
    let texts = ["vfw_vnf/vfw_vnfd.yaml", "vlb_vnf/vlb_vnfd.yaml", "secure_edge_ns/secure_edge_nsd.yaml"];
    let texts = texts.map(|p| {
        let (package, file) = p.split_once('/').unwrap();
        String::from_utf8(common::source(package).files[file].clone()).unwrap()
    });
    let pieces = [
        "- ", ": ", "\n", "  ", "{", "}", "[", "]", "&a ", "*a", "'", "\"", "|\n", "~", "-1", "!!x ", "\t",
        "é", "vdu", "id: x",
    ];
    let edits = prop::collection::vec(
        (any::<prop::sample::Index>(), 0..8usize, prop::sample::select(pieces.to_vec())),
        1..6,
    );
    (prop::sample::select(texts.to_vec()), edits).prop_map(|(mut text, edits)| {
        for (at, cut, piece) in edits {
            let starts: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
            let i = at.index(starts.len());
            let end = starts.get(i + cut).copied().unwrap_or(text.len());
            text.replace_range(starts[i]..end, piece);
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// There is a value exactly if there is no error, and every finding has a place in the file.
    #[test]
    fn mutated_descriptors_are_judged(text in yaml()) {
        let lines = text.lines().count() as u32 + 1;
        let vnf = parse::vnfd(&text, "t");
        let ns = parse::nsd(&text, "t");
        for (value, found) in [(vnf.value.is_some(), &vnf.diagnostics), (ns.value.is_some(), &ns.diagnostics)] {
            prop_assert_eq!(value, !descriptors::diagnostic::has_errors(found), "{:?}", found);
            prop_assert!(found.iter().all(|d| d.line >= 1 && d.line <= lines && d.column >= 1));
        }
    }

    #[test]
    fn random_text_never_panics(text in "(?s).{0,200}") {
        let _ = parse::vnfd(&text, "t");
        let _ = parse::nsd(&text, "t");
        let _ = day0::parse(&format!("#cloud-config\nmandate: {text}"));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = open(&bytes);
        let _ = open(&gz(&bytes));
    }

    #[test]
    fn mutated_archives_never_panic(at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let mut tar = [file(b"p/p.yaml", NSD), file(b"p/a/b", b"x"), vec![0; 1024]].concat();
        let i = at.index(tar.len());
        tar[i] = with;
        let _ = open(&gz(&tar));
    }
}
