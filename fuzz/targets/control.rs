//! The control protocol of the data plane: configurations and frames.
#![no_main]

use dataplane_control::{
    config::Configuration,
    protocol::{Request, Response, read_frame, write_frame},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(it) = Configuration::parse(data) {
        let bytes = it.to_bytes();
        assert_eq!(Configuration::parse(&bytes).expect("what was written is read"), it);
    }
    let _ = read_frame::<Response>(&mut &data[..]);
    if let Ok(Some(request)) = read_frame::<Request>(&mut &data[..]) {
        let mut out = Vec::new();
        write_frame(&mut out, &request).expect("a request fits a frame");
    }
});
