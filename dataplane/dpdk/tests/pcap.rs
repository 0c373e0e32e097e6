//! Captures replayed byte for byte: what `net_pcap` reads from one file is what it writes to another.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::{fs, path::Path};

use dpdk::{Burst, Eal, EalConfig, Memory, Pool, Port, Vdev};

/// The classic format, little endian, microseconds, version 2.4, Ethernet.
const HEADER: [u8; 24] =
    [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
const FRAMES: usize = 100;

fn frames() -> Vec<Vec<u8>> {
    (0..FRAMES).map(|i| (0..60 + i * 14).map(|b| (b ^ i) as u8).collect()).collect()
}

fn write_capture(to: &Path, frames: &[Vec<u8>]) {
    let mut bytes = HEADER.to_vec();
    for frame in frames {
        let length = (frame.len() as u32).to_le_bytes();
        bytes.extend([[0; 4], [0; 4], length, length].concat());
        bytes.extend(frame);
    }
    fs::write(to, bytes).unwrap();
}

fn read_capture(from: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(from).unwrap();
    let mut rest = &bytes[HEADER.len()..];
    let mut frames = vec![];
    while let Some((header, tail)) = rest.split_first_chunk::<16>() {
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        frames.push(tail[..length].to_vec());
        rest = &tail[length..];
    }
    frames
}

#[test]
fn a_capture_comes_through_byte_for_byte() {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("in.pcap"), directory.path().join("out.pcap"));
    write_capture(&from, &frames());
    let device = Vdev::pcap(0, from.to_str(), to.to_str()).unwrap();
    let config =
        EalConfig { memory: Memory::Ordinary { size_mb: 16 }, cpus: vec![0], vdevs: vec![device.clone()] };
    let eal = Eal::init(&config).unwrap();
    let pool = Pool::new(&eal, 255).unwrap();
    let mut port = Port::open(&pool, device.name()).unwrap();
    let mut burst = Burst::new();
    let mut passed = 0;
    while port.rx(&mut burst) > 0 {
        passed += port.tx(&mut burst);
    }
    assert_eq!(passed, FRAMES);
    drop(port);
    assert_eq!(pool.in_use(), 0);
    assert_eq!(read_capture(&to), frames());
}
