//! A case's connections as captures, for devices that read them again and again (`net_pcap`, `infinite_rx`).
//!
//! One capture has an acknowledging segment of each connection as its initiator sends it, the other the same as the other end sends
//! it, each in another order.

use std::{fs, io::Write as _, path::Path};

use anyhow::{Context as _, bail};

/// Of an untagged IPv4 frame without options.
const ADDRESSES: usize = 26;
const PORTS: usize = 34;
const FLAGS: usize = 47;
const ACK: u8 = 16;

/// Writes both captures from the frames that open a case's connections; how many connections they have.
pub fn write(warm: &Path, outside: &Path, inside: &Path) -> anyhow::Result<usize> {
    let bytes = fs::read(warm).with_context(|| format!("cannot read {}", warm.display()))?;
    let frames = acknowledgements(&bytes);
    if frames.is_empty() {
        bail!("{} opens no TCP connection", warm.display());
    }
    let step = stride(frames.len());
    let count = frames.len();
    let order = |from: usize| (0..count).map(move |n| (from + n * step) % count);
    capture(outside, order(0).map(|n| frames[n].clone()))?;
    capture(inside, order(count / 2).map(|n| answer(&frames[n])))?;
    Ok(count)
}

/// Frames of side 0 that only acknowledge: the third of each handshake.
fn acknowledgements(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = bytes.get(4..).unwrap_or_default();
    let mut out = Vec::new();
    while let [a, b, side, _, tail @ ..] = rest {
        let (frame, tail) = tail.split_at(usize::from(u16::from_le_bytes([*a, *b])).min(tail.len()));
        if *side == 0 && frame.get(FLAGS) == Some(&ACK) {
            out.push(frame.to_vec());
        }
        rest = tail;
    }
    out
}

/// Ones' complement sums do not mind who is the source.
fn answer(frame: &[u8]) -> Vec<u8> {
    let mut out = frame.to_vec();
    for (at, width) in [(0, 6), (ADDRESSES, 4), (PORTS, 2)] {
        let (first, second) = (frame[at..at + width].to_vec(), frame[at + width..at + 2 * width].to_vec());
        out[at..at + width].copy_from_slice(&second);
        out[at + width..at + 2 * width].copy_from_slice(&first);
    }
    out
}

/// Near the golden section of `count`, and without a common divisor: neighbours in the file are none in any table.
fn stride(count: usize) -> usize {
    let divides = |mut a: usize, mut b: usize| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a > 1
    };
    let near = count * 618 / 1000;
    (near.max(1)..).find(|n| !divides(*n, count)).unwrap_or(1)
}

fn capture(to: &Path, frames: impl Iterator<Item = Vec<u8>>) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(fs::File::create(to)?);
    // The classic format: version 2.4, snapshots of 65,535 bytes, Ethernet.
    for word in [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 0xffff, 1] {
        out.write_all(&word.to_le_bytes())?;
    }
    for frame in frames {
        let length = u32::try_from(frame.len())?;
        for word in [0, 0, length, length] {
            out.write_all(&word.to_le_bytes())?;
        }
        out.write_all(&frame)?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_same_frame_from_the_other_end() {
        let frame: Vec<u8> = (0..60).collect();
        let back = answer(&frame);
        assert_eq!((&back[..6], &back[6..12]), (&frame[6..12], &frame[..6]));
        assert_eq!((&back[26..30], &back[30..34]), (&frame[30..34], &frame[26..30]));
        assert_eq!((&back[34..36], &back[36..38]), (&frame[36..38], &frame[34..36]));
        assert_eq!((&back[12..26], &back[38..]), (&frame[12..26], &frame[38..]));
        assert_eq!(answer(&back), frame);
    }

    #[test]
    fn every_connection_is_in_both_orders() {
        for count in [1, 2, 3, 1000, 1001, 99_991] {
            let step = stride(count);
            let seen: std::collections::BTreeSet<usize> = (0..count).map(|n| n * step % count).collect();
            assert_eq!(seen.len(), count);
        }
    }
}
