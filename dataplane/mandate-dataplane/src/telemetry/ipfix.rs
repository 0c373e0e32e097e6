//! Messages of IPFIX (RFC 7011): templates, and records of connections that were opened and closed.
//!
//! A record has no counts of packets or octets: the connection table keeps none. Tests: below, and `tests/telemetry.rs` has
//! messages decoded by tshark where it is installed.

use std::net::IpAddr;

/// Largest message, bytes: within any link's packets (RFC 7011 §10.3.3).
const MAX_MESSAGE_BYTES: usize = 1400;
const HEADER_BYTES: usize = 16;
const VERSION: u16 = 10;
/// RFC 7011 §3.3.2
const TEMPLATE_SET: u16 = 2;
const OPTIONS_SET: u16 = 3;
const TEMPLATE_V4: u16 = 256;
const TEMPLATE_V6: u16 = 257;
const TEMPLATE_SAMPLING: u16 = 258;
/// RFC 7011 §7
const VARIABLE: u16 = 65_535;

/// Information elements of IANA's registry, in the order of a record, and their lengths.
const BEFORE_ADDRESSES: [(u16, u16); 4] = [
    // flowStartMilliseconds, flowEndMilliseconds
    (152, 8),
    (153, 8),
    // firewallEvent, ingressInterface
    (233, 1),
    (10, 4),
];
/// sourceIPv4Address, destinationIPv4Address
const ADDRESSES_V4: [(u16, u16); 2] = [(8, 4), (12, 4)];
/// sourceIPv6Address, destinationIPv6Address
const ADDRESSES_V6: [(u16, u16); 2] = [(27, 16), (28, 16)];
const AFTER_ADDRESSES: [(u16, u16); 4] = [
    // sourceTransportPort, destinationTransportPort, protocolIdentifier
    (7, 2),
    (11, 2),
    (4, 1),
    // selectorName: the rule or backend
    (335, VARIABLE),
];
/// observationDomainId (the scope), samplingInterval, samplingAlgorithm
const SAMPLING: [(u16, u16); 3] = [(149, 4), (34, 4), (35, 1)];
/// samplingAlgorithm: random.
const RANDOM: u8 = 2;
/// Longest name kept of a rule, bytes: a length below 255 takes one byte (RFC 7011 §7).
const MAX_NAME_BYTES: usize = 254;

/// A connection, for a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow<'n> {
    /// ms since 1970.
    pub start_ms: u64,
    /// ms since 1970.
    pub end_ms: u64,
    /// firewallEvent (233): 1 created, 2 deleted, 3 denied, 4 alert.
    pub event: u8,
    /// From 1.
    pub ingress: u32,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ports: (u16, u16),
    pub protocol: u8,
    /// Rule or backend.
    pub chosen: &'n str,
}

/// Puts records into messages.
#[derive(Debug)]
pub struct Exporter {
    domain: u32,
    every: u32,
    /// Data records sent so far, modulo 2^32 (RFC 7011 §3.1).
    sequence: u32,
    message: Vec<u8>,
    records: u32,
    /// The data set that is open: its template, and where it begins.
    set: Option<(u16, usize)>,
}

impl Exporter {
    /// For one connection in `every`; `domain` tells exporting processes of one address apart.
    pub fn new(domain: u32, every: u32) -> Self {
        Self { domain, every, sequence: 0, message: vec![0; HEADER_BYTES], records: 0, set: None }
    }

    /// Begins the message with templates and how flows are sampled; over UDP they are told again and again (RFC 7011 §8.1).
    pub fn templates(&mut self) {
        let v4 = [&BEFORE_ADDRESSES[..], &ADDRESSES_V4, &AFTER_ADDRESSES].concat();
        let v6 = [&BEFORE_ADDRESSES[..], &ADDRESSES_V6, &AFTER_ADDRESSES].concat();
        self.begin_set(TEMPLATE_SET);
        for (template, fields) in [(TEMPLATE_V4, &v4), (TEMPLATE_V6, &v6)] {
            self.put(&template.to_be_bytes());
            self.fields(fields);
        }
        self.begin_set(OPTIONS_SET);
        self.put(&TEMPLATE_SAMPLING.to_be_bytes());
        let [count, scopes] = [3_u16, 1];
        self.put(&count.to_be_bytes());
        self.put(&scopes.to_be_bytes());
        SAMPLING.iter().for_each(|f| self.field(*f));
        self.begin_set(TEMPLATE_SAMPLING);
        self.put(&self.domain.to_be_bytes());
        self.put(&self.every.to_be_bytes());
        self.put(&[RANDOM]);
        self.records += 1;
    }

    /// Adds a record; false, and nothing was added: it has no room, so send the message and add it again.
    pub fn add(&mut self, flow: &Flow<'_>) -> bool {
        let name = flow.chosen.as_bytes();
        let name = name.get(..MAX_NAME_BYTES).unwrap_or(name);
        // The longest record, and a set's head.
        if self.message.len() + 4 + 8 + 8 + 1 + 4 + 32 + 5 + 1 + name.len() > MAX_MESSAGE_BYTES {
            return false;
        }
        let template = if flow.source.is_ipv4() { TEMPLATE_V4 } else { TEMPLATE_V6 };
        if self.set.is_none_or(|(open, _)| open != template) {
            self.begin_set(template);
        }
        self.put(&flow.start_ms.to_be_bytes());
        self.put(&flow.end_ms.to_be_bytes());
        self.put(&[flow.event]);
        self.put(&flow.ingress.to_be_bytes());
        for address in [flow.source, flow.destination] {
            match address {
                IpAddr::V4(a) => self.put(&a.octets()),
                IpAddr::V6(a) => self.put(&a.octets()),
            }
        }
        self.put(&flow.ports.0.to_be_bytes());
        self.put(&flow.ports.1.to_be_bytes());
        self.put(&[flow.protocol, u8::try_from(name.len()).unwrap_or(0)]);
        self.put(name);
        self.records += 1;
        true
    }

    /// The message, complete, if there is anything in it; the next one begins.
    pub fn finish(&mut self, now_s: u32) -> Option<Vec<u8>> {
        self.end_set();
        if self.message.len() == HEADER_BYTES {
            return None;
        }
        let length = u16::try_from(self.message.len()).ok()?;
        let mut message = std::mem::replace(&mut self.message, vec![0; HEADER_BYTES]);
        let head = [
            &VERSION.to_be_bytes()[..],
            &length.to_be_bytes(),
            &now_s.to_be_bytes(),
            &self.sequence.to_be_bytes(),
            &self.domain.to_be_bytes(),
        ]
        .concat();
        message.get_mut(..HEADER_BYTES)?.copy_from_slice(&head);
        self.sequence = self.sequence.wrapping_add(std::mem::take(&mut self.records));
        Some(message)
    }

    fn fields(&mut self, fields: &[(u16, u16)]) {
        let count = u16::try_from(fields.len()).unwrap_or(0);
        self.put(&count.to_be_bytes());
        fields.iter().for_each(|f| self.field(*f));
    }

    fn field(&mut self, (element, length): (u16, u16)) {
        self.put(&element.to_be_bytes());
        self.put(&length.to_be_bytes());
    }

    fn begin_set(&mut self, id: u16) {
        self.end_set();
        self.set = Some((id, self.message.len()));
        self.put(&id.to_be_bytes());
        self.put(&[0; 2]);
    }

    fn end_set(&mut self) {
        let Some((_, start)) = self.set.take() else { return };
        let length = u16::try_from(self.message.len() - start).unwrap_or(0).to_be_bytes();
        if let Some(place) = self.message.get_mut(start + 2..start + 4) {
            place.copy_from_slice(&length);
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.message.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(address: &str) -> Flow<'static> {
        Flow {
            start_ms: 1,
            end_ms: 2,
            event: 1,
            ingress: 1,
            source: address.parse().unwrap(),
            destination: address.parse().unwrap(),
            ports: (1000, 53),
            protocol: 17,
            chosen: "dns",
        }
    }

    fn word(of: &[u8], at: usize) -> usize {
        usize::from(u16::from_be_bytes(*of[at..].first_chunk().unwrap()))
    }

    /// The sets of a message: identifier and length, which must fill it.
    fn sets(message: &[u8]) -> Vec<(usize, usize)> {
        assert_eq!((word(message, 0), word(message, 2)), (10, message.len()));
        let (mut at, mut sets) = (HEADER_BYTES, vec![]);
        while at < message.len() {
            sets.push((word(message, at), word(message, at + 2)));
            at += word(message, at + 2);
        }
        assert_eq!(at, message.len());
        sets
    }

    #[test]
    fn records_are_in_sets_of_their_template_and_counted() {
        let mut exporter = Exporter::new(7, 100);
        assert_eq!(exporter.finish(1), None);
        exporter.templates();
        for address in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "192.0.2.3"] {
            assert!(exporter.add(&flow(address)));
        }
        let message = exporter.finish(1_700_000_000).unwrap();
        let record = |addresses: usize| 8 + 8 + 1 + 4 + 2 * addresses + 5 + 4;
        assert_eq!(
            sets(&message),
            [
                (2, 4 + 2 * (4 + 10 * 4)),
                (3, 4 + 6 + 3 * 4),
                (258, 4 + 9),
                (256, 4 + 2 * record(4)),
                (257, 4 + record(16)),
                (256, 4 + record(4)),
            ]
        );
        assert_eq!(&message[8..16], [0, 0, 0, 0, 0, 0, 0, 7]);
        assert!(exporter.add(&flow("192.0.2.1")));
        let next = exporter.finish(1_700_000_001).unwrap();
        assert_eq!(&next[8..12], [0, 0, 0, 5], "five data records went before");
    }

    #[test]
    fn a_message_fits_a_packet_and_long_names_are_cut() {
        let mut exporter = Exporter::new(7, 1);
        let long = "x".repeat(300);
        let flow = Flow { chosen: &long, ..flow("2001:db8::1") };
        let mut count = 0;
        while exporter.add(&flow) {
            count += 1;
        }
        assert_eq!(count, 4);
        assert!(exporter.finish(1).unwrap().len() <= MAX_MESSAGE_BYTES);
        assert!(exporter.add(&flow), "there is room again");
    }
}
