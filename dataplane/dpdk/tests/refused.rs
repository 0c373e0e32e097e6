//! An interface that is not there: the EAL starts, the port does not, and the error says what DPDK said.

use dpdk::{DpdkError, Eal, EalConfig, Memory, Pool, Port, Vdev};

#[test]
fn a_missing_interface_is_named() {
    dpdk::hold_interfaces().unwrap();
    let device = Vdev::af_packet(0, "no-such-if").unwrap();
    let config =
        EalConfig { memory: Memory::Ordinary { size_mb: 16 }, cpus: vec![0], vdevs: vec![device.clone()] };
    let eal = Eal::init(&config).unwrap();
    let pool = Pool::new(&eal, 127).unwrap();
    let error = Port::open(&pool, device.name()).unwrap_err();
    assert!(matches!(error, DpdkError::NoPort { .. }));
    let text = error.to_string();
    assert!(text.contains("net_af_packet0"), "{text}");

    let too_large = Pool::new(&eal, 1 << 20).unwrap_err();
    assert!(too_large.to_string().contains("1048576"), "{too_large}");
}
