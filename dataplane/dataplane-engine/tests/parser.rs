//! Whatever the bytes: no function panics, grows a frame or reads beyond it.
// Helpers outside of #[test] functions; small values.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use crate::common::{
    traffic::{any_frame, mutated, random},
    *,
};
use dataplane_control::{
    config::RuleAction,
    traffic::{Expectation, FlowGroup, TrafficProfile},
};
use dataplane_engine::{PacketFunction, Verdict, build, traffic::Session};
use proptest::prelude::*;

fn functions() -> Vec<Box<dyn PacketFunction>> {
    let vips = vec![vip("a", "192.0.2.10", 6, 443), vip("b", "2001:db8::10", 17, 53)];
    let mut end = reflector(1, &["192.0.2.10", "2001:db8::10"]);
    // Takes what the generated frames are addressed to.
    end.ports[0].mac = LB_CLIENT_MAC;
    vec![
        build(&firewall(vec![rule("all", RuleAction::Allow, None, None, None)], 64)).unwrap(),
        build(&balancer(vips, vec![backend(1, 1), backend(2, 3)], 64)).unwrap(),
        build(&end).unwrap(),
    ]
}

fn session() -> Session {
    let group = |id: &str, protocol, source: &str, destination: &str| FlowGroup {
        id: id.into(),
        protocol,
        source: ip(source),
        destination: ip(destination),
        destination_port: 443,
        first: 0,
        count: 4,
        expect: Expectation::Balanced { backends: vec![backend(1, 1)], table_size: 251 },
    };
    let groups =
        vec![group("a", 6, "198.51.100.1", "192.0.2.10"), group("b", 17, "2001:db8:1::1", "2001:db8::10")];
    let profile = TrafficProfile {
        groups,
        frame_bytes: 64,
        rate_pps: 1000,
        duration_ms: 1000,
        drain_ms: 1,
        next_hop: None,
    };
    Session::new(profile, LB_CLIENT_MAC, 0).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn nothing_panics_and_no_frame_grows(frames in proptest::collection::vec(
        prop_oneof![any_frame(), mutated(), random()], 1..40,
    )) {
        let mut all = functions();
        let mut generator = session();
        let mut buffer = [0; 1600];
        for (now, sent) in (0u64..).step_by(700).zip(&frames) {
            for (f, function) in all.iter_mut().enumerate() {
                let mut bytes = sent.frame.clone();
                if let Verdict::Forward { port } = function.process(now, u16::from(sent.far), &mut bytes) {
                    prop_assert!(bytes.len() <= sent.frame.len());
                    prop_assert!(f == 2 && port == 0 || f < 2 && port < 2);
                }
            }
            generator.receive(now, &sent.frame);
            while generator.next_frame(now, &mut buffer).is_some() {}
        }
        let _ = generator.report();
    }

    #[test]
    fn the_reflector_answers_with_valid_packets(sent in any_frame()) {
        let mut end = functions().remove(2);
        let mut bytes = sent.frame.clone();
        if let Verdict::Forward { .. } = end.process(0, 0, &mut bytes) {
            let reply = &bytes[..];
            prop_assert!(naive::read(reply) != naive::Seen::Bad, "{reply:02x?}");
            prop_assert_eq!(&reply[6..12], &LB_CLIENT_MAC.0);
        }
    }
}
