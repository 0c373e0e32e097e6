//! A ring port receives what it sent: order, lengths, bytes, what does not fit stays with the caller, and buffers that
//! are in a queue when the port is closed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use dpdk::{BURST, Burst, Eal, EalConfig, Memory, Pool, Port, Vdev};

const BUFFERS: u32 = 8191;

#[test]
fn what_was_sent_comes_back_and_what_was_not_stays() {
    let device = Vdev::ring(0);
    let config =
        EalConfig { memory: Memory::Ordinary { size_mb: 64 }, cpus: vec![0], vdevs: vec![device.clone()] };
    let eal = Eal::init(&config).unwrap();
    let pool = Pool::new(&eal, BUFFERS).unwrap();
    let mut port = Port::open(&pool, device.name()).unwrap();
    // The name on the command line is the one of both ends.
    let (mut out, mut back) = (Burst::new(), Burst::new());
    assert_eq!(port.rx(&mut back), 0);

    number_frames(&pool, &mut out, 0);
    assert_eq!(port.tx(&mut out), BURST);
    assert_eq!(port.rx(&mut back), BURST);
    for (i, buffer) in back.drain().enumerate() {
        assert_eq!(buffer.frame(), vec![i as u8; 60 + i]);
    }

    // Fill the ring until it takes no more.
    let mut queued = 0;
    for round in 0.. {
        number_frames(&pool, &mut out, round);
        queued += port.tx(&mut out);
        if !out.is_empty() {
            break;
        }
        assert!(queued < BUFFERS as usize, "the ring is bounded");
    }
    let left = out.len();
    let first_left = out.iter().next().unwrap().frame()[0];
    assert_eq!(usize::from(first_left), BURST - left, "the rest is the end of the burst, in order");
    assert_eq!(port.rx(&mut back), BURST);
    back.clear();
    assert_eq!(port.tx(&mut out), left, "the retry passes");
    assert_eq!(pool.in_use() as usize, queued + left - BURST, "what is queued is the driver's");
}

fn number_frames<'p>(pool: &'p Pool<'p>, burst: &mut Burst<'p>, _round: usize) {
    for i in 0..BURST {
        let mut buffer = pool.alloc().unwrap();
        assert!(buffer.set_len(60 + i as u16));
        buffer.frame_mut().fill(i as u8);
        burst.push(buffer).unwrap();
    }
}
