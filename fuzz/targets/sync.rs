//! What a balancer tells its standby: datagrams, and what a balancer makes of the connections in them.
#![no_main]

use std::cell::RefCell;

use dataplane_control::{
    config::Configuration,
    sync::{Datagram, Key},
};
use dataplane_engine::{PacketFunction, build};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static BALANCER: RefCell<Box<dyn PacketFunction>> = RefCell::new(balancer());
}

fn balancer() -> Box<dyn PacketFunction> {
    let port = |name: &str| format!(r#"{{"name":"{name}","driver":{{"null":{{}}}},"mac":"02:00:00:00:00:02"}}"#);
    let text = format!(
        r#"{{"instance":"lb","generation":1,"ports":[{},{}],"function":{{"load_balancer":{{"client":"c","backend":"b",
        "idle_ms":300000,"max_connections":64,"table_size":251,
        "vips":[{{"id":"web","address":"192.0.2.10","protocol":6,"port":443}}],
        "backends":[{{"id":"one","number":1,"mac":"02:00:00:00:01:01","weight":1}}]}}}}}}"#,
        port("c"),
        port("b")
    );
    build(&Configuration::parse(text.as_bytes()).expect("a configuration")).expect("a balancer")
}

fuzz_target!(|data: &[u8]| {
    let key = Key::new(&[7; 32]).expect("a key");
    assert!(key.open(data).is_err(), "nobody knows the key");
    let Ok(datagram) = Datagram::parse(data) else { return };
    assert_eq!(datagram.to_bytes(), data, "what is read is written again");
    assert_eq!(key.open(&key.seal(&datagram)).as_ref(), Ok(&datagram));
    BALANCER.with_borrow_mut(|balancer| {
        let part = usize::from(datagram.part);
        balancer.adopt(datagram.at_ms % (1 << 50), part, datagram.connections());
        assert!(balancer.connections() <= 64);
        balancer.tick(datagram.at_ms % (1 << 50));
    });
});
