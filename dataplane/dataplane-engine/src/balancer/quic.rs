//! Which backend a QUIC datagram's connection id names (QUIC-LB: draft-ietf-quic-load-balancers, plaintext, §5.2).
//!
//! A server puts its number into the connection ids that it issues, so a connection stays with it when the client's address
//! changes. An id in an Initial or 0-RTT packet may be the client's choice (RFC 9000 §7.2) and names nobody; nor does an id of a
//! configuration, version or number that is not known. Such datagrams go by their addresses and ports.
//!
//! Tests: below, and `tests/balancer_modes.rs`.

use dataplane_control::config::QuicIds;

const LONG_HEADER: u8 = 0x80;
/// RFC 9000 and RFC 9369.
const VERSION_1: u32 = 1;
const VERSION_2: u32 = 0x6b33_43cf;
/// Longest connection id of both versions, bytes.
const MAX_ID: usize = 20;
/// Shortest nonce behind a server id, bytes (QUIC-LB §3).
const MIN_NONCE: usize = 4;

/// How a service's connection ids are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ids {
    /// Bytes of the server id by an id's three highest bits; 0: not in use.
    widths: [u8; 8],
}

impl Ids {
    pub fn new(all: &[QuicIds]) -> Self {
        let mut widths = [0; 8];
        for ids in all {
            widths[usize::from(ids.rotation % 8)] = ids.server_id_bytes;
        }
        Self { widths }
    }

    /// Whether the service is QUIC.
    #[inline]
    pub fn are_read(&self) -> bool {
        self.widths != [0; 8]
    }

    /// The number of the backend that a datagram (a UDP payload) is for, if it says so.
    pub fn server(&self, datagram: &[u8]) -> Option<u16> {
        let id = destination_id(datagram)?;
        let (first, rest) = id.split_first()?;
        let width = usize::from(self.widths[usize::from(first >> 5)]);
        let (server, nonce) = rest.split_at_checked(width)?;
        let (high, low) = server.split_at(width.saturating_sub(2));
        if width == 0 || nonce.len() < MIN_NONCE || high.iter().any(|b| *b != 0) {
            return None;
        }
        Some(low.iter().fold(0, |n, b| n << 8 | u16::from(*b)))
    }
}

/// The destination connection id if a server chose it; of a short header with what follows, whose length only the server knows.
fn destination_id(datagram: &[u8]) -> Option<&[u8]> {
    let (first, rest) = datagram.split_first()?;
    if first & LONG_HEADER == 0 {
        return rest.get(..rest.len().min(MAX_ID));
    }
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first()?;
    let kind = first >> 4 & 3;
    let chosen_by_server = match u32::from_be_bytes(*version) {
        // Initial, 0-RTT, Handshake, Retry (from a server only).
        VERSION_1 => kind == 2,
        // Retry, Initial, 0-RTT, Handshake (RFC 9369 §3.2).
        VERSION_2 => kind == 3,
        _ => false,
    };
    let length = usize::from(*length);
    if chosen_by_server && length <= MAX_ID { rest.get(..length) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(all: &[(u8, u8)]) -> Ids {
        let one = |(rotation, server_id_bytes): &(u8, u8)| QuicIds {
            rotation: *rotation,
            server_id_bytes: *server_id_bytes,
        };
        Ids::new(&all.iter().map(one).collect::<Vec<_>>())
    }

    fn long(kind: u8, version: u32, id: &[u8]) -> Vec<u8> {
        let mut out = vec![0xc0 | kind << 4];
        out.extend(version.to_be_bytes());
        out.push(u8::try_from(id.len()).unwrap());
        out.extend(id);
        out.extend([0; 40]);
        out
    }

    #[test]
    fn a_short_header_names_the_backend_of_its_configuration() {
        let ids = ids(&[(0, 1), (2, 2), (6, 15)]);
        let short = |id: &[u8]| [&[0x40], id, &[0xee; 30]].concat();
        assert_eq!(ids.server(&short(&[0x07, 9, 1, 2, 3, 4])), Some(9));
        assert_eq!(ids.server(&short(&[0x5f, 1, 2, 1, 2, 3, 4])), Some(0x102));
        let wide = [&[0xc0][..], &[0; 13], &[1, 2], &[0xaa; 4]].concat();
        assert_eq!(ids.server(&short(&wide)), Some(0x102));
        // A number beyond any, a configuration that is not in use, "none", too short for a nonce.
        let beyond = [&[0xc0, 1][..], &[0; 12], &[1, 2], &[0xaa; 4]].concat();
        assert_eq!(ids.server(&short(&beyond)), None);
        assert_eq!(ids.server(&short(&[0x20, 9, 1, 2, 3, 4])), None);
        assert_eq!(ids.server(&short(&[0xe0, 9, 1, 2, 3, 4])), None);
        assert_eq!(ids.server(&[0x40, 0x00, 9, 1, 2, 3]), None);
        assert_eq!(ids.server(&[0x40]), None);
        assert_eq!(ids.server(&[]), None);
    }

    #[test]
    fn what_a_client_may_have_chosen_names_nobody() {
        let ids = ids(&[(0, 2)]);
        let id = [0x08, 0, 7, 1, 2, 3, 4, 5];
        let named = |version| (0..4).map(|kind| ids.server(&long(kind, version, &id))).collect::<Vec<_>>();
        assert_eq!(named(VERSION_1), [None, None, Some(7), None]);
        assert_eq!(named(VERSION_2), [None, None, None, Some(7)]);
        assert_eq!(named(0), [None; 4]);
        assert_eq!(named(0xff00_001d), [None; 4]);
        // Longer than any id, and cut off.
        let mut datagram = long(2, VERSION_1, &id);
        datagram[5] = 21;
        assert_eq!(ids.server(&datagram), None);
        assert_eq!(ids.server(&datagram[..10]), None);
        assert_eq!(ids.server(&long(2, VERSION_1, &id[..6])), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
            ids(&[(0, 1), (1, 2), (3, 15), (6, 4)]).server(&bytes);
        }
    }
}
