//! Frames and capture files for the tests, made and read without the code under test.

#![allow(dead_code, clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::{fs, path::Path};

/// Header of a capture file: the classic format, little endian, microseconds, version 2.4, Ethernet.
const PCAP_HEADER: [u8; 24] =
    [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];

/// A datagram of UDP over IPv4 with `payload` zeroes; the UDP checksum is left out, as IPv4 allows.
pub fn udp4(source: [u8; 4], destination: [u8; 4], ports: (u16, u16), payload: usize) -> Vec<u8> {
    let (length, total) = ((8 + payload) as u16, (28 + payload) as u16);
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip.extend(source.iter().chain(&destination));
    let sum: u32 = ip.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![2, 0, 0, 0, 0, 0xee, 2, 0, 0, 0, 0, 0xcc, 8, 0];
    frame.extend(ip);
    for word in [ports.0, ports.1, length, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.resize((frame.len() + payload).max(60), 0);
    frame
}

/// Writes a capture.
pub fn write_pcap(to: &Path, frames: &[Vec<u8>]) {
    let mut bytes = PCAP_HEADER.to_vec();
    for frame in frames {
        let length = (frame.len() as u32).to_le_bytes();
        bytes.extend([[0; 4], [0; 4], length, length].concat());
        bytes.extend(frame);
    }
    fs::write(to, bytes).unwrap();
}

/// Reads a capture as libpcap writes it on a little-endian machine.
pub fn read_pcap(from: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(from).unwrap();
    let mut rest = bytes.get(PCAP_HEADER.len()..).unwrap_or_default();
    let mut frames = vec![];
    while let Some((header, tail)) = rest.split_first_chunk::<16>() {
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        frames.push(tail[..length].to_vec());
        rest = &tail[length..];
    }
    frames
}
