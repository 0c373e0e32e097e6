//! What a load balancer tells its standby: connections, in datagrams that nobody makes without the key.
//!
//! Big-endian, at most [`MAX_DATAGRAM_BYTES`]:
//!
//! ```text
//! "MLBS"  version  part  octets of the instance  connections | session: 8  sequence: 8  at_ms: 8 | instance | connections | HMAC-SHA-256: 32
//! connection: 4 or 6  protocol  ends  0 | client's MAC: 6  client's port: 2  service's port: 2  backend: 2 | VLANs: 4  idle_ms: 4 | client  service
//! ```
//!
//! The version is compared first, then the authentication code (RFC 2104), over all that is before it; only then is anything decoded. Each datagram
//! stands for itself: what is lost is told again. What is decoded is written again to the same octets.
//!
//! Tests: below; `fuzz/targets/sync.rs`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Of this form.
pub const VERSION: u8 = 1;
/// Longest datagram: fits an Ethernet frame with any headers below it.
pub const MAX_DATAGRAM_BYTES: usize = 1_400;
/// Shortest key (RFC 2104 §3: as long as the hash's result).
pub const MIN_KEY_BYTES: usize = 32;
/// What of an instance's name is told.
pub const MAX_INSTANCE_BYTES: usize = 64;

const MAGIC: &[u8; 4] = b"MLBS";
const HEADER_BYTES: usize = 32;
const TAG_BYTES: usize = 32;
const CONNECTION_BYTES: usize = 24;
/// VLAN ids of two tags.
const MAX_VLANS: u32 = 1 << 24;

/// The client sent its last segment.
pub const FIN_FROM_CLIENT: u8 = 1;
/// The backend did.
pub const FIN_FROM_BACKEND: u8 = 2;
/// One of them reset it.
pub const RESET: u8 = 4;

/// A connection that was heard of from both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Address of the client.
    pub client: IpAddr,
    /// Its port.
    pub client_port: u16,
    /// Address of the service, of the same IP version.
    pub service: IpAddr,
    /// Its port.
    pub service_port: u16,
    /// IP protocol: 6 or 17.
    pub protocol: u8,
    /// VLAN ids, the outer one in the higher 12 bits of 24; 0: no tag.
    pub vlans: u32,
    /// Where frames to the client go.
    pub client_mac: [u8; 6],
    /// [`FIN_FROM_CLIENT`], [`FIN_FROM_BACKEND`], [`RESET`].
    pub ends: u8,
    /// The configured number of its backend.
    pub backend: u16,
    /// Since its last packet, ms.
    pub idle_ms: u32,
}

/// Connections of one function of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Drawn when the process started.
    pub session: u64,
    /// Grows by one with each datagram of a session.
    pub sequence: u64,
    /// When it was sent, ms since 1970.
    pub at_ms: u64,
    /// Which function of a row tells; 0 of one that is alone.
    pub part: u8,
    instance: String,
    connections: Vec<Told>,
    bytes: usize,
}

/// Why a datagram, or a key, is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// A short key is guessed.
    #[error(
        "the key has {bytes} bytes, not {MIN_KEY_BYTES} or more; make one with `head -c 32 /dev/urandom`"
    )]
    ShortKey {
        /// How many it has.
        bytes: usize,
    },
    /// Something else sends here.
    #[error("a datagram that is none of state sync; keep others off this port")]
    Foreign,
    /// Told by another release.
    #[error("version {version} of state sync, not {VERSION}; let both ends run the same release")]
    Version {
        /// What it says.
        version: u8,
    },
    /// Made with another key, or changed on its way.
    #[error("a wrong authentication code; give both ends the same --sync-key")]
    Code,
    /// Who has the key made it wrong.
    #[error("malformed: {0}; let both ends run the same release")]
    Malformed(&'static str),
}

impl Datagram {
    /// Without connections.
    #[must_use]
    pub fn new(session: u64, part: u8, instance: &str) -> Self {
        let cut =
            (0..=instance.len().min(MAX_INSTANCE_BYTES)).rev().find(|at| instance.is_char_boundary(*at));
        let instance = instance.get(..cut.unwrap_or(0)).unwrap_or_default().to_owned();
        let bytes = HEADER_BYTES + instance.len() + TAG_BYTES;
        Self { session, sequence: 0, at_ms: 0, part, instance, connections: Vec::new(), bytes }
    }

    /// The same with this sequence number and time.
    #[must_use]
    pub fn numbered(self, sequence: u64, at_ms: u64) -> Self {
        Self { sequence, at_ms, ..self }
    }

    /// Who tells.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// What is told.
    #[must_use]
    pub fn connections(&self) -> &[Told] {
        &self.connections
    }

    /// Takes the connections.
    #[must_use]
    pub fn into_connections(self) -> Vec<Told> {
        self.connections
    }

    /// Adds one; false: there is no room, and nothing was added.
    #[must_use]
    pub fn push(&mut self, told: Told) -> bool {
        let bytes = self.bytes + told.bytes();
        if bytes > MAX_DATAGRAM_BYTES {
            return false;
        }
        self.bytes = bytes;
        self.connections.push(told);
        true
    }

    /// Without connections, for the next ones.
    pub fn clear(&mut self) {
        self.connections.clear();
        self.bytes = HEADER_BYTES + self.instance.len() + TAG_BYTES;
    }

    /// Without its authentication code.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes);
        out.extend(MAGIC);
        // Both fit: MAX_INSTANCE_BYTES, MAX_DATAGRAM_BYTES.
        let octet = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
        out.extend([VERSION, self.part, octet(self.instance.len()), octet(self.connections.len())]);
        for word in [self.session, self.sequence, self.at_ms] {
            out.extend(word.to_be_bytes());
        }
        out.extend(self.instance.bytes());
        self.connections.iter().for_each(|told| told.write(&mut out));
        out
    }

    /// Reads what [`Datagram::to_bytes`] wrote, and nothing else.
    ///
    /// # Errors
    /// [`SyncError`]: it is not that.
    pub fn parse(bytes: &[u8]) -> Result<Self, SyncError> {
        version_of(bytes)?;
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(TOO_SHORT)?;
        let [_, _, _, _, _, part, length, count, numbers @ ..] = header;
        let word = |at: usize| {
            u64::from_be_bytes(std::array::from_fn(|i| numbers.get(8 * at + i).copied().unwrap_or(0)))
        };
        let (instance, mut rest) = rest.split_at_checked(usize::from(*length)).ok_or(TOO_SHORT)?;
        let instance =
            std::str::from_utf8(instance).map_err(|_| SyncError::Malformed("the instance is no UTF-8"))?;
        if instance.len() > MAX_INSTANCE_BYTES {
            return Err(SyncError::Malformed("the instance is too long"));
        }
        let mut it = Self::new(word(0), *part, instance);
        (it.sequence, it.at_ms) = (word(1), word(2));
        for _ in 0..*count {
            let (told, after) = Told::read(rest)?;
            rest = after;
            if !it.push(told) {
                return Err(SyncError::Malformed("too long"));
            }
        }
        if rest.is_empty() { Ok(it) } else { Err(SyncError::Malformed("octets behind the last connection")) }
    }
}

const TOO_SHORT: SyncError = SyncError::Malformed("too short");

fn version_of(bytes: &[u8]) -> Result<(), SyncError> {
    match bytes {
        [a, b, c, d, version, ..] if [*a, *b, *c, *d] == *MAGIC => match *version {
            VERSION => Ok(()),
            version => Err(SyncError::Version { version }),
        },
        _ => Err(SyncError::Foreign),
    }
}

impl Told {
    fn bytes(&self) -> usize {
        CONNECTION_BYTES + if self.client.is_ipv4() { 8 } else { 32 }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let v4 = self.client.is_ipv4();
        out.extend([if v4 { 4 } else { 6 }, self.protocol, self.ends, 0]);
        out.extend(self.client_mac);
        for word in [self.client_port, self.service_port, self.backend] {
            out.extend(word.to_be_bytes());
        }
        for word in [self.vlans, self.idle_ms] {
            out.extend(word.to_be_bytes());
        }
        for address in [self.client, self.service] {
            match address {
                IpAddr::V4(a) => out.extend(a.octets()),
                IpAddr::V6(a) => out.extend(a.octets()),
            }
        }
    }

    fn read(bytes: &[u8]) -> Result<(Self, &[u8]), SyncError> {
        let (fixed, rest) = bytes.split_first_chunk::<CONNECTION_BYTES>().ok_or(TOO_SHORT)?;
        let [version, protocol, ends, zero, a, b, c, d, e, f, numbers @ ..] = *fixed;
        let [c1, c0, s1, s0, b1, b0, v3, v2, v1, v0, i3, i2, i1, i0] = numbers;
        let (client, service, rest) = match version {
            4 => {
                let (both, rest) = rest.split_first_chunk::<8>().ok_or(TOO_SHORT)?;
                let [a, b, c, d, e, f, g, h] = *both;
                (Ipv4Addr::new(a, b, c, d).into(), Ipv4Addr::new(e, f, g, h).into(), rest)
            }
            6 => {
                let (client, rest) = rest.split_first_chunk::<16>().ok_or(TOO_SHORT)?;
                let (service, rest) = rest.split_first_chunk::<16>().ok_or(TOO_SHORT)?;
                (v6(*client)?, v6(*service)?, rest)
            }
            _ => return Err(SyncError::Malformed("no IP version")),
        };
        let it = Self {
            client,
            client_port: u16::from_be_bytes([c1, c0]),
            service,
            service_port: u16::from_be_bytes([s1, s0]),
            protocol,
            vlans: u32::from_be_bytes([v3, v2, v1, v0]),
            client_mac: [a, b, c, d, e, f],
            ends,
            backend: u16::from_be_bytes([b1, b0]),
            idle_ms: u32::from_be_bytes([i3, i2, i1, i0]),
        };
        match () {
            () if !matches!(protocol, 6 | 17) => Err(SyncError::Malformed("neither TCP nor UDP")),
            () if ends & !(FIN_FROM_CLIENT | FIN_FROM_BACKEND | RESET) | zero != 0 => {
                Err(SyncError::Malformed("unknown flags"))
            }
            () if it.vlans >= MAX_VLANS => Err(SyncError::Malformed("no VLAN ids")),
            () => Ok((it, rest)),
        }
    }
}

/// IPv4 in its other form would be taken for IPv4.
fn v6(octets: [u8; 16]) -> Result<IpAddr, SyncError> {
    let address = Ipv6Addr::from(octets);
    match address.to_ipv4_mapped() {
        None => Ok(address.into()),
        Some(_) => Err(SyncError::Malformed("an IPv4-mapped address")),
    }
}

/// What both ends have; its text never shows it.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// Of at least [`MIN_KEY_BYTES`].
    ///
    /// # Errors
    /// [`SyncError::ShortKey`].
    pub fn new(bytes: &[u8]) -> Result<Self, SyncError> {
        let short = SyncError::ShortKey { bytes: bytes.len() };
        if bytes.len() < MIN_KEY_BYTES {
            return Err(short);
        }
        Hmac::new_from_slice(bytes).map(Self).map_err(|_| short)
    }

    /// A datagram with its authentication code, as it is sent.
    #[must_use]
    pub fn seal(&self, datagram: &Datagram) -> Vec<u8> {
        let mut bytes = datagram.to_bytes();
        let code = self.0.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend(code);
        bytes
    }

    /// What was received, if it was [`Key::seal`]ed with this key.
    ///
    /// # Errors
    /// [`SyncError`] says what it is instead.
    pub fn open(&self, bytes: &[u8]) -> Result<Datagram, SyncError> {
        version_of(bytes)?;
        let (told, code) = bytes.split_last_chunk::<TAG_BYTES>().ok_or(TOO_SHORT)?;
        self.0.clone().chain_update(told).verify_slice(code).map_err(|_| SyncError::Code)?;
        Datagram::parse(told)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(octet: u8) -> Key {
        Key::new(&[octet; MIN_KEY_BYTES]).unwrap()
    }

    fn told() -> impl Strategy<Value = Told> {
        let v4 = any::<[[u8; 4]; 2]>().prop_map(|ends| ends.map(IpAddr::from));
        let v6 = any::<[[u8; 16]; 2]>().prop_map(|ends| ends.map(IpAddr::from));
        let v6 = v6.prop_filter("mapped", |ends| ends.iter().all(|a| a.to_canonical() == *a));
        let numbers = (any::<[u16; 3]>(), 0..MAX_VLANS, any::<u32>());
        (prop_oneof![v4, v6], numbers, any::<[u8; 6]>(), any::<bool>(), 0..8_u8).prop_map(
            |(
                [client, service],
                ([client_port, service_port, backend], vlans, idle_ms),
                client_mac,
                tcp,
                ends,
            )| {
                let protocol = if tcp { 6 } else { 17 };
                Told {
                    client,
                    client_port,
                    service,
                    service_port,
                    protocol,
                    vlans,
                    client_mac,
                    ends,
                    backend,
                    idle_ms,
                }
            },
        )
    }

    fn datagram() -> impl Strategy<Value = Datagram> {
        (any::<[u64; 3]>(), any::<u8>(), ".{0,40}", proptest::collection::vec(told(), 0..50)).prop_map(
            |([session, sequence, at_ms], part, instance, all)| {
                let mut it = Datagram::new(session, part, &instance).numbered(sequence, at_ms);
                for told in all {
                    let _full = !it.push(told);
                }
                it
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened_and_nothing_else(
            it in datagram(), at: prop::sample::Index, change in 1..=255_u8, noise in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = key(1).seal(&it);
            prop_assert!(bytes.len() <= MAX_DATAGRAM_BYTES, "{}", bytes.len());
            prop_assert_eq!(key(1).open(&bytes), Ok(it.clone()));
            prop_assert_eq!(key(2).open(&bytes), Err(SyncError::Code));
            let at = at.index(bytes.len());
            prop_assert!(key(1).open(&bytes[..at]).is_err());
            bytes[at] ^= change;
            prop_assert!(key(1).open(&bytes).is_err());
            // Whoever has the key may write what they like.
            let mut unsealed = it.to_bytes();
            let at = at % unsealed.len();
            unsealed[at] ^= change;
            for bytes in [unsealed, [&it.to_bytes()[..8], &noise].concat(), noise] {
                if let Ok(read) = Datagram::parse(&bytes) {
                    prop_assert_eq!(read.to_bytes(), bytes);
                }
            }
        }
    }

    #[test]
    fn a_datagram_is_this_to_the_octet() {
        let mut it = Datagram::new(1, 0, "lb").numbered(2, 3);
        let told = Told {
            client: [198, 51, 100, 7].into(),
            client_port: 40_000,
            service: [192, 0, 2, 10].into(),
            service_port: 443,
            protocol: 6,
            vlans: 0x00_1002,
            client_mac: [2, 0, 0, 0, 0, 9],
            ends: FIN_FROM_CLIENT,
            backend: 258,
            idle_ms: 4_000,
        };
        assert!(it.push(told));
        let header = *b"MLBS\x01\x00\x02\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03lb";
        let connection = [
            4, 6, 1, 0, 2, 0, 0, 0, 0, 9, 0x9c, 0x40, 1, 187, 1, 2, 0, 0, 0x10, 2, 0, 0, 0x0f, 0xa0, 198, 51,
            100, 7, 192, 0, 2, 10,
        ];
        assert_eq!(it.to_bytes(), [&header[..], &connection].concat());
        let mut many = it.clone();
        let more = (0..100).take_while(|_| many.push(told)).count();
        assert_eq!(more + 1, (1_400 - 64 - 2) / 32, "as many as fit");
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(Key::new(&[0; 31]).unwrap_err(), SyncError::ShortKey { bytes: 31 });
        assert_eq!(format!("{:?}", key(1)), "Key");
        let sealed = key(1).seal(&Datagram::new(1, 0, &"ü".repeat(64)));
        assert_eq!(sealed.len(), 32 + 64 + 32, "cut between two letters");
        let other = [&sealed[..4], &[2], &sealed[5..]].concat();
        assert_eq!(key(1).open(&other), Err(SyncError::Version { version: 2 }));
        assert_eq!(key(1).open(b"GET / HTTP/1.1"), Err(SyncError::Foreign));
        assert_eq!(key(1).open(&[]), Err(SyncError::Foreign));
    }
}
