//! What a hostile input may cost: each case runs in a process of its own, which reports its peak memory and its time.
//!
//! The bounds are generous (debug builds, busy machines); what they catch is a cost that grows faster than the input.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::{fmt::Write as _, io::Write as _, process::Command};

use descriptors::{Code, Report, lint};
use flate2::{
    Compression, Crc,
    write::{DeflateEncoder, GzEncoder},
};

/// Most CPU time of one case, ms.
const MAX_CPU_MS: u64 = 5_000;
/// Most memory beyond the input, MiB: a tree of [`lint::MAX_DESCRIPTOR_BYTES`] and what is made of it.
const MAX_TEXT_MIB: u64 = 160;
/// Most memory for a package that unpacks to a hundred times its size, MiB.
const MAX_PACKAGE_MIB: u64 = 400;
/// Most memory for what is refused by its header, MiB: that of the process itself.
const MAX_NAME_MIB: u64 = 24;
/// Names the case to the process that runs it.
const CASE: &str = "MANDATE_BOUNDS_CASE";
/// Names a directory that is to have each case as a file, for measuring `mandate package lint` itself.
const FILES: &str = "MANDATE_BOUNDS_FILES";

/// Name, what is made, and the code it is refused with (none: whatever the verdict is, it comes in time).
type Case = (&'static str, fn() -> Vec<u8>, Option<Code>, u64);

const CASES: [Case; 32] = [
    ("alias bomb", aliases, Some(Code::YamlBounds), MAX_TEXT_MIB),
    ("alias chain", alias_chain, Some(Code::YamlBounds), MAX_TEXT_MIB),
    ("deep flow", || "[".repeat(1 << 20).into(), Some(Code::YamlBounds), MAX_TEXT_MIB),
    ("deep block", || "- ".repeat(1 << 19).into(), Some(Code::YamlBounds), MAX_TEXT_MIB),
    ("huge text", || vec![b'a'; 100 << 20], Some(Code::YamlBounds), 100 + MAX_TEXT_MIB),
    ("one line", || format!("vnfd: {{id: {}}}", "x".repeat(1_000_000)).into(), None, MAX_TEXT_MIB),
    ("one quoted line", || format!("vnfd: {{id: \"{}\"}}", "\\n".repeat(500_000)).into(), None, MAX_TEXT_MIB),
    ("keys", || many("vnfd: {", |i| format!("k{i}: 1,"), "}", 49_000), Some(Code::UnknownKey), MAX_TEXT_MIB),
    ("same keys", || many("vnfd: {", |_| "k: 1,".into(), "}", 49_000), Some(Code::UnknownKey), MAX_TEXT_MIB),
    ("values", || many("vnfd: {vnfm-info: [", |i| format!("v{i},"), "]}", 99_000), None, MAX_TEXT_MIB),
    ("vdus and flavours", vdus_and_flavours, Some(Code::NotDeployable), MAX_TEXT_MIB),
    ("dangling", dangling, Some(Code::DanglingReference), MAX_TEXT_MIB),
    ("interfaces", interfaces, None, MAX_TEXT_MIB),
    ("anchors", || many("vnfd: {vnfm-info: [", |i| format!("&a{i} v{i},"), "]}", 45_000), None, MAX_TEXT_MIB),
    ("comments", || "#\n".repeat(1 << 19).into(), Some(Code::WrongType), MAX_TEXT_MIB),
    (
        "no text",
        || [b"vnfd: {id: ".to_vec(), vec![0xff; 1_000_000]].concat(),
        Some(Code::YamlSyntax),
        MAX_TEXT_MIB,
    ),
    ("gzip bomb", || zeros("p/zeros", tar::EntryType::Regular, 1 << 30), Some(Code::Archive), MAX_TEXT_MIB),
    (
        "gzip bomb of a name",
        || zeros("././@LongLink", tar::EntryType::GNULongName, 1 << 30),
        Some(Code::Archive),
        MAX_NAME_MIB,
    ),
    (
        "gzip bomb of pax records",
        || zeros("p/PaxHeaders/x", tar::EntryType::XHeader, 1 << 30),
        Some(Code::Archive),
        MAX_NAME_MIB,
    ),
    (
        "gzip of nothing",
        || [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0].repeat(500_000),
        Some(Code::Archive),
        MAX_PACKAGE_MIB,
    ),
    ("symbolic link", || tar_of("p/x", tar::EntryType::Symlink), Some(Code::Archive), MAX_TEXT_MIB),
    ("hard link", || tar_of("p/x", tar::EntryType::Link), Some(Code::Archive), MAX_TEXT_MIB),
    ("device", || tar_of("p/x", tar::EntryType::Block), Some(Code::Archive), MAX_TEXT_MIB),
    ("absolute path", || tar_of("/etc/passwd", tar::EntryType::Regular), Some(Code::Archive), MAX_TEXT_MIB),
    ("path out of it", || tar_of("p/../../x", tar::EntryType::Regular), Some(Code::Archive), MAX_TEXT_MIB),
    // What an archive promises beyond its bound is not unpacked: these cost what making them does.
    ("zip bomb", zip_bomb, Some(Code::Archive), MAX_TEXT_MIB),
    ("overlapping zip", || overlapping(1000, 8 << 20), Some(Code::Archive), MAX_TEXT_MIB),
    ("overlapping a bit", || overlapping(60, 64 << 10), Some(Code::Archive), MAX_TEXT_MIB),
    ("zip in zips", zips_in_zips, Some(Code::Archive), MAX_TEXT_MIB),
    ("100 MiB of gzip", || large(&[0x1f, 0x8b, 8, 0]), Some(Code::Archive), 100 + MAX_TEXT_MIB),
    ("100 MiB of zip", || large(b"PK\x03\x04"), Some(Code::Archive), 100 + MAX_TEXT_MIB),
    ("100 MiB in a zip", large_in_zip, Some(Code::Archive), 200 + MAX_TEXT_MIB),
];

fn many(start: &str, item: impl Fn(usize) -> String, end: &str, count: usize) -> Vec<u8> {
    let mut text = start.to_owned();
    (0..count).for_each(|i| text.push_str(&item(i)));
    text.push_str(end);
    text.into()
}

fn aliases() -> Vec<u8> {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for i in 1..40 {
        let row = vec![format!("*a{}", i - 1); 9].join(", ");
        writeln!(text, "a{i}: &a{i} [{row}]").unwrap();
    }
    text.into()
}

fn alias_chain() -> Vec<u8> {
    many("a0: &a0 [x]\n", |i| format!("a{}: &a{} [*a{i}]\n", i + 1, i + 1), "", 20_000)
}

/// Each flavour would hold a line per VDU.
fn vdus_and_flavours() -> Vec<u8> {
    let vdus = many("vnfd: {id: x, vdu: [", |i| format!("{{id: v{i}}},"), "], df: [", 15_000);
    [vdus, many("", |i| format!("{{id: d{i}}},"), "]}", 15_000)].concat()
}

fn dangling() -> Vec<u8> {
    let head = "vnfd: {id: x, sw-image-desc: [";
    let images = many(head, |i| format!("{{id: image-{i}}},"), "], vdu: [", 10_000);
    let vdus = many("", |i| format!("{{id: v{i}, sw-image-desc: imagee-{i}}},"), "]}", 12_000);
    [images, vdus].concat()
}

/// One VDU with very many connection points, each with an external one.
fn interfaces() -> Vec<u8> {
    let head = "vnfd: {id: x, vdu: [{id: v, int-cpd: [";
    let inner = many(head, |i| format!("{{id: e{i}}},"), "]}], ext-cpd: [", 8_000);
    [inner, many("", |i| format!("{{id: x{i}, int-cpd: {{vdu-id: v, cpd: e{i}}}}},"), "]}", 8_000)].concat()
}

fn zeros(path: &str, kind: tar::EntryType, bytes: usize) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path).unwrap();
    header.set_entry_type(kind);
    header.set_size(bytes as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut out = GzEncoder::new(Vec::new(), Compression::best());
    out.write_all(header.as_bytes()).unwrap();
    let block = vec![0; 1 << 20];
    (0..bytes >> 20).for_each(|_| out.write_all(&block).unwrap());
    out.finish().unwrap()
}

/// An archive of one entry without content; the tar crate itself would refuse some of the paths.
fn tar_of(path: &str, kind: tar::EntryType) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(0o644);
    if kind == tar::EntryType::Symlink || kind == tar::EntryType::Link {
        header.set_link_name("/etc/passwd").unwrap();
    }
    header.set_cksum();
    let mut out = GzEncoder::new(Vec::new(), Compression::best());
    out.write_all(header.as_bytes()).unwrap();
    out.write_all(&[0; 1024]).unwrap();
    out.finish().unwrap()
}

/// A file of that many zeros: CRC and deflated bytes.
fn deflated_zeros(size: u32) -> (u32, Vec<u8>) {
    let (mut crc, mut out) = (Crc::new(), DeflateEncoder::new(Vec::new(), Compression::best()));
    let block = vec![0; 64 << 10];
    for _ in 0..size / (64 << 10) {
        crc.update(&block);
        out.write_all(&block).unwrap();
    }
    (crc.sum(), out.finish().unwrap())
}

/// What both headers of an entry have: method, CRC, sizes, the length of the name.
fn common(method: u16, crc: u32, packed: u32, size: u32, name: &str) -> Vec<u8> {
    let mut it = [20, 0, method, 0, 0].map(u16::to_le_bytes).concat();
    it.extend([crc, packed, size].map(u32::to_le_bytes).concat());
    it.extend((name.len() as u16).to_le_bytes());
    it
}

fn central(common: &[u8], name: &str, at: u32) -> Vec<u8> {
    let zeros = [0; 12];
    [b"PK\x01\x02\x14\0", common, &zeros, &at.to_le_bytes(), name.as_bytes()].concat()
}

fn end(zip: &mut Vec<u8>, directory: &[u8], count: u16) {
    let at = zip.len() as u32;
    zip.extend(directory);
    zip.extend(b"PK\x05\x06\0\0\0\0");
    zip.extend([count, count].map(u16::to_le_bytes).concat());
    zip.extend([directory.len() as u32, at].map(u32::to_le_bytes).concat());
    zip.extend([0, 0]);
}

/// A well-formed zip of one entry.
fn zip_of(name: &str, method: u16, crc: u32, data: &[u8], size: u32) -> Vec<u8> {
    let common = common(method, crc, data.len() as u32, size, name);
    let mut zip = [b"PK\x03\x04", &common[..], &[0, 0], name.as_bytes(), data].concat();
    end(&mut zip, &central(&common, name, 0), 1);
    zip
}

/// A descriptor of 256 MiB of zeros, deflated to a thousandth.
fn zip_bomb() -> Vec<u8> {
    let size = 256_u32 << 20;
    let (crc, data) = deflated_zeros(size);
    zip_of("a.yaml", 8, crc, &data, size)
}

/// Entries that share their data: the extra field of each is the headers of all that follow.
fn overlapping(count: u16, size: u32) -> Vec<u8> {
    let (crc, data) = deflated_zeros(size);
    let (mut zip, mut directory) = (Vec::new(), Vec::new());
    let header = 30 + 5;
    for i in 0..count {
        let name = format!("f{i:04}");
        let common = common(8, crc, data.len() as u32, size, &name);
        let extra = (count - 1 - i) * header;
        directory.extend(central(&common, &name, zip.len() as u32));
        zip.extend([b"PK\x03\x04", &common[..], &extra.to_le_bytes(), name.as_bytes()].concat());
    }
    zip.extend(&data);
    end(&mut zip, &directory, count);
    zip
}

/// Sixteen levels, each a tenth of what is in it.
fn zips_in_zips() -> Vec<u8> {
    let mut inner = zip_of("a.mf", 8, 0, &[3, 0], 0);
    for _ in 0..16 {
        inner.resize(inner.len().max(1 << 20) * 2 % (64 << 20), 0);
        let (mut crc, mut out) = (Crc::new(), DeflateEncoder::new(Vec::new(), Compression::best()));
        crc.update(&inner);
        out.write_all(&inner).unwrap();
        inner = zip_of("a.csar", 8, crc.sum(), &out.finish().unwrap(), inner.len() as u32);
    }
    inner
}

/// 100 MiB that begin like an archive.
fn large(start: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(100 << 20);
    out.extend(start);
    out.resize(100 << 20, 0xa5);
    out
}

/// A zip with a file of 100 MiB, stored.
fn large_in_zip() -> Vec<u8> {
    let data = large(b"");
    let mut crc = Crc::new();
    crc.update(&data);
    zip_of("a.yaml", 0, crc.sum(), &data, data.len() as u32)
}

/// Peak of this process, KiB, as the kernel counted it.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// CPU time of this thread, ms, in the kernel's ticks of 10 ms: a busy machine makes nothing slower by it.
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum()
}

/// The process of one case; nothing without its name.
#[test]
fn child() {
    let Ok(name) = std::env::var(CASE) else { return };
    let (_, make, code, _) = CASES.into_iter().find(|c| c.0 == name).unwrap();
    let input = make();
    let start = cpu_ms();
    let report = lint::bytes(&input, "d", None);
    let elapsed = cpu_ms() - start;
    refused(&report, code);
    let first = report.diagnostics.first().map(ToString::to_string).unwrap_or_default();
    println!("\nSAID {first}");
    println!("RESULT {} {} {elapsed}", input.len(), peak_kib());
}

fn refused(report: &Report, code: Option<Code>) {
    let Some(code) = code else { return };
    assert!(!report.is_accepted());
    assert!(report.diagnostics.iter().any(|d| d.code == code), "{:?}", report.diagnostics.first());
    assert!(report.diagnostics.len() <= 2 * descriptors::diagnostic::MAX_DIAGNOSTICS);
}

#[test]
fn hostile_inputs_cost_their_bound_at_most() {
    if !cfg!(target_os = "linux") {
        eprintln!("SKIPPED: peak memory is read from /proc, which only Linux has; run it there");
        return;
    }
    let program = std::env::current_exe().unwrap();
    for (name, _, _, max_mib) in CASES {
        let mut it = Command::new(&program);
        it.args(["--exact", "child", "--nocapture", "--test-threads=1"]).env(CASE, name);
        let out = it.output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let line = text.lines().find_map(|l| l.strip_prefix("RESULT "));
        let Some(line) = line else { panic!("{name}: {text}{}", String::from_utf8_lossy(&out.stderr)) };
        let [bytes, peak_kib, ms]: [u64; 3] =
            line.split(' ').map(|n| n.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap();
        println!("{name:18} {:>9} KiB in, peak {:>6} KiB, {ms:>6} ms CPU", bytes >> 10, peak_kib);
        assert!(peak_kib < max_mib << 10, "{name}: {peak_kib} KiB");
        assert!(ms < MAX_CPU_MS, "{name}: {ms} ms");
    }
}

/// Ten thousand lines: a thousand VDUs with a connection point each.
fn ten_thousand_lines() -> String {
    let mut text = String::from("vnfd:\n  id: x\n  mgmt-cp: m0\n  vdu:\n");
    for i in 0..1100 {
        write!(text, "  - id: v{i}\n    name: v{i}\n    sw-image-desc: i\n    virtual-compute-desc: c\n    int-cpd:\n    - id: e\n").unwrap();
    }
    text.push_str(
        "  virtual-compute-desc:\n  - id: c\n  sw-image-desc:\n  - id: i\n    name: i\n  ext-cpd:\n",
    );
    for i in 0..1100 {
        writeln!(text, "  - id: m{i}\n    int-cpd:\n      vdu-id: v{i}\n      cpd: e").unwrap();
    }
    text.push_str("  df:\n  - id: d\n");
    text
}

/// Writes the cases when it is asked to.
#[test]
fn files() {
    let Some(dir) = std::env::var_os(FILES).map(std::path::PathBuf::from) else { return };
    std::fs::create_dir_all(&dir).unwrap();
    for (name, make, _, _) in CASES {
        std::fs::write(dir.join(name.replace(' ', "-")), make()).unwrap();
    }
    std::fs::write(dir.join("ten-thousand-lines"), ten_thousand_lines()).unwrap();
}

/// What a person waits for.
#[test]
fn ten_thousand_lines_are_read_in_a_moment() {
    if !cfg!(target_os = "linux") {
        eprintln!("SKIPPED: CPU time is read from /proc, which only Linux has; run it there");
        return;
    }
    let text = ten_thousand_lines();
    assert!(text.lines().count() > 10_000, "{}", text.lines().count());
    let start = cpu_ms();
    let report = lint::bytes(text.as_bytes(), "d", None);
    let elapsed = cpu_ms() - start;
    println!("{} lines: {elapsed} ms CPU", text.lines().count());
    assert!(report.is_deployable(), "{:?}", report.diagnostics);
    assert!(elapsed < 5_000, "{elapsed} ms");
}
