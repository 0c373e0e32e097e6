//! A day of virtual time, over the wrap of the millisecond clock, with random traffic, floods and reconfigurations: nothing
//! leaks. After silence no connection is left, every place of the table can be taken again, and memory is what it was after the first hour.
//! `MANDATE_DAY_FRAMES` (per virtual second) and `MANDATE_DAY_CONNECTIONS` make it longer.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use std::time::Instant;

use common::{
    random::{Random, Stream},
    *,
};
use dataplane_control::{Configuration, config::RuleAction};
use dataplane_engine::{DropReason, PacketFunction, Verdict, build};

const SECOND_US: u64 = 1_000_000;
const DAY_S: u64 = 86_400;
/// Half a day before the clock of the connections is 0 again.
const START_US: u64 = ((1 << 32) - 43_200_000) * 1000;
/// What the allocator may keep of what tests like this one do themselves.
const GROWTH_KB: u64 = 2048;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A datagram of a flow that is nobody else's.
fn datagram(n: u64) -> Vec<u8> {
    let [.., a, b, c, d] = n.to_be_bytes();
    let port = u16::from_be_bytes([c, d]) | 1;
    Build::udp((ip(&format!("10.{a}.{b}.{}", 1 + (d & 1))), port), (ip("192.0.2.10"), 53), b"?").frame()
}

/// A function whose configuration alternates.
fn a_day(name: &str, most: u32, configuration: impl Fn(bool) -> Configuration) {
    let began = Instant::now();
    let per_second = number("MANDATE_DAY_FRAMES", 8);
    let mut function = build(&configuration(false)).unwrap();
    let mut random = Random::new(7);
    let mut stream = Stream::new(8);
    let (mut fresh, mut peak, mut frames) = (0, 0, 0_u64);
    let mut first_hour_kb = 0;
    let mut next = stream.next();
    for second in 0..DAY_S {
        let now_us = START_US + second * SECOND_US;
        let mut left = per_second as i64;
        while left > 0 {
            let (far, mut run) = (next.far, vec![]);
            while next.far == far && run.len() < 32 {
                run.push(std::mem::replace(&mut next, stream.next()).frame);
            }
            left -= run.len() as i64;
            frames += run.len() as u64;
            let mut verdicts = vec![Verdict::Drop(DropReason::Untracked); run.len()];
            function.burst(now_us + random.next() % SECOND_US, u16::from(far), &mut run, &mut verdicts);
        }
        // Once an hour, for a minute, somebody opens what he can.
        if second % 3600 > 3540 {
            for _ in 0..u64::from(most) / 20 {
                fresh += 1;
                frames += 1;
                function.process(now_us + SECOND_US, 0, &mut datagram(fresh));
            }
        }
        function.tick(now_us + SECOND_US);
        if random.one_in(600) {
            function.reconfigure(&configuration(second % 2 == 0)).unwrap();
        }
        peak = peak.max(function.connections());
        if second == 3600 {
            first_hour_kb = resident_kb();
        }
    }
    let grown_kb = resident_kb().saturating_sub(first_hour_kb);
    // A sweep looks at a part of the table; in silence, a minute of them.
    let mut now_us = START_US + (DAY_S + 400) * SECOND_US;
    for _ in 0..60_000 {
        now_us += 1000;
        function.tick(now_us);
    }
    assert_eq!(function.connections(), 0, "{name}: connections after silence");
    eprintln!(
        "{name}: {frames} frames, at most {peak} of {most} connections, grown by {grown_kb} kB after the first hour, {:?}",
        began.elapsed()
    );
    assert_eq!(peak, u64::from(most), "{name}: the table was never full");
    assert!(grown_kb <= GROWTH_KB, "{name}: {grown_kb} kB more than after the first hour");
    every_place_is_free(name, &mut *function, now_us, most);
}

fn every_place_is_free(name: &str, function: &mut dyn PacketFunction, now_us: u64, most: u32) {
    for n in 0..u64::from(most) {
        let verdict = function.process(now_us, 0, &mut datagram(1 << 40 | n));
        assert!(matches!(verdict, Verdict::Forward { .. }), "{name}: {verdict:?} for connection {n}");
    }
    assert_eq!(function.connections(), u64::from(most), "{name}");
    // Nobody answered any: the oldest makes room.
    let one_more = function.process(now_us, 0, &mut datagram(u64::from(most)));
    assert!(matches!(one_more, Verdict::Forward { .. }), "{name}: {one_more:?}");
    assert_eq!(function.connections(), u64::from(most), "{name}");
}

#[test]
fn nothing_leaks_in_a_day() {
    let most = number("MANDATE_DAY_CONNECTIONS", 2000) as u32;
    a_day("firewall", most, |other| {
        let denied = rule("no", RuleAction::Deny, Some(6), None, Some("1-79"));
        let allowed = rule("yes", RuleAction::Allow, None, None, None);
        firewall(if other { vec![denied, allowed] } else { vec![allowed] }, most)
    });
    a_day("balancer", most, |other| {
        let vips = vec![
            vip("web", "192.0.2.10", 6, 443),
            vip("dns", "192.0.2.10", 17, 53),
            vip("web6", "2001:db8::10", 6, 443),
        ];
        balancer(vips, (1..=if other { 2 } else { 3 }).map(|n| backend(n, 1)).collect(), most)
    });
}
