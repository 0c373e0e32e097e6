//! Packets written by hand: what goes in, byte by byte, and what must come out.
// Helpers outside of #[test] functions; small values.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use crate::common::*;
use dataplane_engine::{DropReason, PacketFunction, Verdict, build};

/// The whole frame that comes back.
fn answer(f: &mut dyn PacketFunction, hex: &str) -> Result<Vec<u8>, DropReason> {
    let mut frame = unhex(hex);
    match f.process(0, 0, &mut frame) {
        Verdict::Forward { port: 0 } => Ok(frame),
        Verdict::Forward { port, .. } => panic!("left by port {port}"),
        Verdict::Drop(reason) => Err(reason),
    }
}

fn vips() -> Box<dyn PacketFunction> {
    let vips = vec![vip("v4", "192.0.2.10", 6, 443), vip("v6", "2001:db8::10", 6, 443)];
    build(&balancer(vips, vec![backend(1, 1)], 10)).unwrap()
}

#[test]
fn an_arp_request_for_a_vip_is_answered_with_our_mac() {
    let request =
        "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 c6336401 000000000000 c000020a";
    let reply =
        "020000000001 020000000200 0806 0001 0800 06 04 0002 020000000200 c000020a 020000000001 c6336401";
    assert_eq!(answer(&mut *vips(), request), Ok(unhex(reply)));
    // Behind a VLAN tag the tag stays.
    let tagged = request.replace(" 0806 ", " 8100 000a 0806 ");
    assert_eq!(answer(&mut *vips(), &tagged), Ok(unhex(&reply.replace(" 0806 ", " 8100 000a 0806 "))));
    // Not a VIP; a gratuitous announcement; a reply; on the backend side.
    for other in [
        request.replace("c000020a", "c000020b"),
        request.replace("c6336401", "c000020a"),
        request.replace("04 0001", "04 0002"),
    ] {
        assert_eq!(answer(&mut *vips(), &other), Err(DropReason::NeighbourIgnored));
    }
    assert_eq!(vips().process(0, 1, &mut unhex(request)), Verdict::Drop(DropReason::NeighbourIgnored));
    assert_eq!(answer(&mut *vips(), &request.replace("06 04", "06 10")), Err(DropReason::Arp));
}

#[test]
fn a_neighbour_solicitation_for_a_vip_is_answered_with_a_solicited_advertisement() {
    let head = "3333ff000010 020000000001 86dd 60000000 0020 3a ff 20010db8000100000000000000000001 ff0200000000000000000001ff000010";
    // Both checksums were confirmed by tcpdump -vv ("icmp6 sum ok").
    let request = format!("{head} 8700 1c0a 00000000 20010db8000000000000000000000010 01 01 020000000001");
    let reply = "020000000001 020000000200 86dd 60000000 0020 3a ff 20010db8000000000000000000000010 \
                 20010db8000100000000000000000001 8800 8856 60000000 20010db8000000000000000000000010 \
                 02 01 020000000200";
    assert_eq!(answer(&mut *vips(), &request), Ok(unhex(reply)));
    // A hop limit below 255 came from elsewhere; a wrong checksum is no question.
    for (from, to) in [("3a ff", "3a fe"), ("ff000010 8700", "ff000010 8701")] {
        assert_eq!(answer(&mut *vips(), &request.replacen(from, to, 1)), Err(DropReason::NeighbourDiscovery));
    }
    assert_eq!(vips().process(0, 1, &mut unhex(&request)), Verdict::Drop(DropReason::NeighbourIgnored));
}

#[test]
fn a_balancer_that_moved_announces_each_address_once_by_arp_and_by_neighbour_advertisement() {
    let balancer = vips();
    let told = |index| {
        let mut buffer = [0xaa; 1600];
        balancer.announcement(index, &mut buffer).map(|(port, n)| (port, buffer[..usize::from(n)].to_vec()))
    };
    // RFC 5227: a request from the address for itself; padded to the shortest frame.
    let arp =
        "ffffffffffff 020000000200 0806 0001 0800 06 04 0001 020000000200 c000020a 000000000000 c000020a";
    let mut arp = unhex(arp);
    arp.resize(60, 0);
    assert_eq!(told(0), Some((0, arp)));
    // RFC 4861, 7.2.6: to all nodes, overriding, not solicited. The checksum was computed apart from this code.
    let advertisement = "333300000001 020000000200 86dd 60000000 0020 3a ff 20010db8000000000000000000000010 \
                         ff020000000000000000000000000001 8800 f70d 20000000 20010db8000000000000000000000010 \
                         02 01 020000000200";
    assert_eq!(told(1), Some((0, unhex(advertisement))));
    assert_eq!(told(2), None);
    let mut short = [0; 40];
    assert!(balancer.announcement(0, &mut short).is_none() && balancer.announcement(1, &mut short).is_none());
    let reflector = build(&reflector(7, &["192.0.2.10"])).unwrap();
    assert_eq!(reflector.announcement(0, &mut [0; 1600]), None);
}

#[test]
fn an_ipv4_header_checksum_as_in_the_textbook() {
    // The example of RFC 1071's usual exercise: 4500 0073 0000 4000 4011 .... c0a8 0001 c0a8 00c7 has checksum b861.
    let udp = "0035 0035 005f 0000".to_owned() + &"00".repeat(87);
    let frame = |sum: &str| {
        format!("020000000101 020000000001 0800 4500 0073 0000 4000 4011 {sum} c0a80001 c0a800c7 {udp}")
    };
    let rules = || vec![rule("all", dataplane_control::config::RuleAction::Allow, None, None, None)];
    let mut fw = build(&firewall(rules(), 10)).unwrap();
    let mut passes = unhex(&frame("b861"));
    assert_eq!(fw.process(0, 0, &mut passes), Verdict::Forward { port: 1 });
    assert_eq!(passes, unhex(&frame("b861")));
    assert_eq!(fw.process(0, 0, &mut unhex(&frame("b862"))), Verdict::Drop(DropReason::Ipv4Checksum));
}

/// Frames to the reflector (its MAC is 02:00:00:03:00:07) and back.
fn reflected(build_it: Build) -> Result<Vec<u8>, DropReason> {
    let mut end = build(&reflector(7, &["192.0.2.10", "2001:db8::10"])).unwrap();
    let mut frame = build_it.macs(backend_mac(7), LB_BACKEND_MAC).frame();
    match end.process(0, 0, &mut frame) {
        Verdict::Forward { port: 0 } => Ok(frame),
        Verdict::Forward { .. } => panic!("another port"),
        Verdict::Drop(reason) => Err(reason),
    }
}

/// The parts of an answer: `expected` with the answer's IPv4 identification, which is the request's.
fn same_packet(got: &[u8], expected: Build) {
    let wanted = expected.macs(LB_BACKEND_MAC, backend_mac(7)).frame();
    let padding = got.strip_prefix(&wanted[..]);
    assert!(padding.is_some_and(|p| p.iter().all(|b| *b == 0)), "\n got {got:02x?}\nwant {wanted:02x?}");
}

#[test]
fn the_reflector_echoes_udp_and_icmp() {
    for (client, service) in [("198.51.100.1", "192.0.2.10"), ("2001:db8:1::1", "2001:db8::10")] {
        let (c, s) = ((ip(client), 5000), (ip(service), 53));
        same_packet(&reflected(Build::udp(c, s, b"question")).unwrap(), Build::udp(s, c, b"question"));
        let (ask, reply) = if c.0.is_ipv4() { (8, 0) } else { (128, 129) };
        let rest = [0, 9, 0, 1, 0xaa, 0xbb, 0xcc];
        same_packet(
            &reflected(Build::icmp(c.0, s.0, ask, 0, &rest)).unwrap(),
            Build::icmp(s.0, c.0, reply, 0, &rest),
        );
        // Its own reply does not come back again, nor does what is for another address or damaged.
        assert_eq!(reflected(Build::icmp(c.0, s.0, reply, 0, &rest)), Err(DropReason::NoService));
        assert_eq!(reflected(Build::udp(s, c, b"x")), Err(DropReason::NoService));
        let mut damaged = Build::udp(c, s, b"question");
        damaged.checksum_at = None;
        damaged.transport[6] = 1;
        assert_eq!(reflected(damaged), Err(DropReason::TransportChecksum));
    }
}

#[test]
fn the_reflector_stamps_probes() {
    let mut payload = *b"MNDPRB01\0\x01\0\0\0\0\0\x02........________";
    let mut stamped = payload;
    stamped[11] = 7;
    for (client, service) in [("198.51.100.1", "192.0.2.10"), ("2001:db8:1::1", "2001:db8::10")] {
        let (c, s) = ((ip(client), 5000), (ip(service), 53));
        same_packet(&reflected(Build::udp(c, s, &payload)).unwrap(), Build::udp(s, c, &stamped));
    }
    // A datagram without checksum stays without.
    let (c, s) = ((ip("198.51.100.1"), 5000), (ip("192.0.2.10"), 53));
    let none = |b: Build| Build { checksum_at: None, ..b };
    same_packet(&reflected(none(Build::udp(c, s, &payload))).unwrap(), none(Build::udp(s, c, &stamped)));
    payload[0] = b'X';
    same_packet(&reflected(Build::udp(c, s, &payload)).unwrap(), Build::udp(s, c, &payload));
}

fn numbered(mut b: Build, sequence: u32, acknowledged: u32) -> Build {
    b.transport[4..8].copy_from_slice(&sequence.to_be_bytes());
    b.transport[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    b
}

#[test]
fn the_reflector_speaks_tcp() {
    for (client, service) in [("198.51.100.1", "192.0.2.10"), ("2001:db8:1::1", "2001:db8::10")] {
        let (c, s) = ((ip(client), 5000), (ip(service), 443));
        let (syn, fin, psh_ack, fin_ack) = (2, 0x11, 0x18, 0x11);
        // SYN with an MSS option, which does not come back; the initial sequence number is whatever it is.
        let mut with_option = Build::tcp(c, s, syn, &[2, 4, 5, 0xb4]);
        with_option.transport[12] = 6 << 4;
        let got = reflected(with_option).unwrap();
        let at = if c.0.is_ipv4() { 34 } else { 54 };
        let isn = u32::from_be_bytes(got[at + 4..at + 8].try_into().unwrap());
        same_packet(&got, numbered(Build::tcp(s, c, 0x12, &[]), isn, 1001));
        // Data 1000..1005, acknowledging 2000; then FIN; acknowledgements and resets end here.
        let got = reflected(Build::tcp(c, s, psh_ack, b"hello")).unwrap();
        same_packet(&got, numbered(Build::tcp(s, c, psh_ack, b"hello"), 2000, 1005));
        let got = reflected(Build::tcp(c, s, fin, b"bye")).unwrap();
        same_packet(&got, numbered(Build::tcp(s, c, fin_ack, b"bye"), 2000, 1004));
        for flags in [0x10, 4, 0x14, 0x12] {
            assert_eq!(reflected(Build::tcp(c, s, flags, &[])), Err(DropReason::Consumed));
        }
    }
}

#[test]
fn a_generator_is_no_packet_function() {
    let mut c = reflector(1, &["192.0.2.10"]);
    c.function = dataplane_control::Function::Generator(dataplane_control::config::Generator {
        port: "service".into(),
    });
    let problem = build(&c).err().unwrap().to_string();
    assert!(problem.contains("traffic::Session"), "{problem}");
}
