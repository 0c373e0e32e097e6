//! Hashing without dependencies: folded multiplication, as wyhash and its kin do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// 64 x 64 -> 128 bit product, folded by XOR.
#[inline]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let [high, low] = halves(u128::from(a) * u128::from(b));
    high ^ low
}

/// High and low half.
#[inline]
pub(crate) fn halves(x: u128) -> [u64; 2] {
    [(x >> 64) as u64, (x & 0xffff_ffff_ffff_ffff) as u64]
}

/// An address in 128 bits; IPv4 as IPv4-mapped, which the parser refuses on the wire, so the two never meet.
#[inline]
pub(crate) fn address_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => v4_bits(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// [`address_bits`] of an IPv4 address.
#[inline]
pub(crate) fn v4_bits(address: u32) -> u128 {
    0xffff_0000_0000 | u128::from(address)
}

/// FNV-1a over the name, finished by a fold; stable for ever (the Maglev permutation depends on it).
pub(crate) fn name_hash(seed: u64, name: &str) -> u64 {
    let fnv = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325 ^ seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    fold(fnv ^ 0x9e37_79b9_7f4a_7c15, seed | 1)
}

/// The address that [`address_bits`] made these bits of.
pub(crate) fn address_of(bits: u128) -> IpAddr {
    match bits >> 32 {
        0xffff => IpAddr::V4(Ipv4Addr::from_bits((bits & 0xffff_ffff) as u32)),
        _ => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}
