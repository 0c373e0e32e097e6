//! Buffers through `net_null`, which receives without end and swallows what is sent: every buffer is back at the end.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use dataplane_engine::Frame as _;
use dpdk::{BURST, Burst, DpdkError, Eal, EalConfig, MAX_FRAME_BYTES, Memory, Pool, Port, Vdev};

/// Small, so that leaks run it dry.
const BUFFERS: u32 = 255;
const ROUNDS: usize = 1000;
/// Leaked on purpose by `kept_buffers_are_ours`.
const LEAKED: u32 = BURST as u32;

#[test]
fn every_buffer_is_freed_exactly_once() {
    let device = Vdev::null(0, 60);
    let config = EalConfig {
        memory: Memory::Ordinary { size_mb: 16 },
        cpus: vec![0],
        vdevs: vec![device.clone(), Vdev::null(1, 1500)],
    };
    let eal = Eal::init(&config).unwrap();
    assert!(matches!(Eal::init(&config), Err(DpdkError::AlreadyInitialised)));
    assert!(dpdk::version().starts_with("DPDK "));

    let pool = Pool::new(&eal, BUFFERS).unwrap();
    let mut port = Port::open(&pool, device.name()).unwrap();
    assert!(matches!(Port::open(&pool, device.name()), Err(DpdkError::PortTaken { .. })));
    assert!(port.link().speed_mbps > 0);

    sent_buffers_are_the_drivers(&pool, &mut port);
    kept_buffers_are_ours(&pool, &mut port);
    frames_are_changed_in_place(&pool);
    a_frame_has_room_before_and_behind(&pool);
    a_burst_keeps_order_and_bounds(&pool);
    an_empty_pool_says_so(&pool);

    drop(port);
    let again = Port::open(&pool, device.name());
    assert!(matches!(again, Err(DpdkError::NoPort { .. })), "a closed device is gone: {again:?}");
    assert_eq!(pool.in_use(), LEAKED, "nothing but the leak made on purpose");
}

fn sent_buffers_are_the_drivers<'p>(pool: &'p Pool<'p>, port: &mut Port<'p>) {
    let mut burst = Burst::new();
    for _ in 0..ROUNDS {
        assert_eq!(port.rx(&mut burst), BURST);
        assert_eq!(port.rx(&mut burst), 0, "no room");
        assert_eq!(port.tx(&mut burst), BURST);
        assert!(burst.is_empty());
    }
    assert_eq!(pool.in_use(), 0);
    let stats = port.stats();
    assert_eq!((stats.rx_frames, stats.tx_frames), ((ROUNDS * BURST) as u64, (ROUNDS * BURST) as u64));
}

fn kept_buffers_are_ours<'p>(pool: &'p Pool<'p>, port: &mut Port<'p>) {
    let mut burst = Burst::new();
    for _ in 0..ROUNDS {
        assert_eq!(port.rx(&mut burst), BURST);
        let mut drain = burst.drain();
        let first = drain.next().unwrap();
        assert_eq!(first.len(), 60);
        drop(drain);
        drop(first);
        assert!(burst.is_empty());
    }
    assert_eq!(port.rx(&mut burst), BURST);
    std::mem::forget(burst.drain());
    drop(burst);
    assert_eq!(pool.in_use(), LEAKED, "a forgotten drain leaks and does not free twice");
}

fn frames_are_changed_in_place<'p>(pool: &'p Pool<'p>) {
    let mut buffer = pool.alloc().unwrap();
    assert!(buffer.is_empty() && buffer.is_contiguous() && buffer.capacity() >= MAX_FRAME_BYTES);
    assert!(buffer.set_len(3));
    buffer.frame_mut().copy_from_slice(b"abc");
    assert!(buffer.set_len(2));
    assert_eq!(buffer.frame(), b"ab");
    assert!(!buffer.set_len(buffer.capacity() + 1));
    assert_eq!(buffer.len(), 2);
}

fn a_frame_has_room_before_and_behind<'p>(pool: &'p Pool<'p>) {
    let mut buffer = pool.alloc().unwrap();
    assert!(!buffer.trim_front(1) && buffer.resize(3));
    buffer.bytes_mut().copy_from_slice(b"abc");
    let room = buffer.capacity();
    assert!(buffer.prepend(2) && !buffer.prepend(1000) && buffer.len() == 5);
    buffer.bytes_mut()[..2].copy_from_slice(b"xy");
    assert_eq!((buffer.bytes(), buffer.capacity()), (&b"xyabc"[..], room + 2));
    assert!(buffer.trim_front(3) && !buffer.trim_front(2));
    assert_eq!(buffer.bytes(), b"bc");
    buffer.reset();
    assert_eq!((buffer.len(), buffer.capacity()), (0, room));
}

fn a_burst_keeps_order_and_bounds<'p>(pool: &'p Pool<'p>) {
    let mut burst = Burst::new();
    for i in 0..BURST {
        let mut buffer = pool.alloc().unwrap();
        assert!(buffer.set_len(1));
        buffer.frame_mut()[0] = i as u8;
        burst.push(buffer).unwrap();
    }
    assert!(burst.is_full());
    let refused = burst.push(pool.alloc().unwrap()).unwrap_err();
    assert!(refused.is_empty());
    assert_eq!(
        burst.iter().map(|b| usize::from(b.frame()[0])).collect::<Vec<_>>(),
        (0..BURST).collect::<Vec<_>>()
    );
    let first_three: Vec<u8> = burst.drain().take(3).map(|b| b.frame()[0]).collect();
    assert_eq!(first_three, [0, 1, 2]);
    assert!(burst.is_empty());
}

fn an_empty_pool_says_so<'p>(pool: &'p Pool<'p>) {
    let mut bursts: Vec<Burst<'_>> = Vec::new();
    loop {
        let mut burst = Burst::new();
        if pool.fill(&mut burst, BURST) == 0 {
            break;
        }
        bursts.push(burst);
    }
    assert_eq!(bursts.len() as u32, (BUFFERS - LEAKED) / BURST as u32, "whole bursts of what is left");
}
