//! Captures as others read them: tcpdump's word for what `vim-host` recorded. Launcher and data plane are the stand-in
//! of `examples/`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{process::Command, time::Duration};

use common::{
    Host,
    bench::{bench, compute, finish, ground, verdict},
    key, missing, wire,
};
use vim::{CaptureSpec, Disposition, VimDriver, VnfControl, pcapng};

/// An IPv4/UDP frame to everybody, with a number in its payload.
fn datagram(number: u16) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    frame.extend([0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    frame.extend([0x03, 0xe8, 0x07, 0xd0, 0, 12, 0, 0, 0, 0]);
    frame.extend(number.to_be_bytes());
    frame
}

/// Both ports of an instance, thousands of frames: all there, named, in order, and tcpdump agrees.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcpdump_reads_every_frame_of_both_ports() {
    const FRAMES: u16 = 5000;
    let Some(bench) = bench() else { return };
    let host = Host::new(&bench.recipe).unwrap();
    ground(&host).await;
    let (vdu, other) = (key("ns/vdu"), key("ns/other"));
    host.vim().ensure(&vdu, &compute(&host, &vdu, &["ns/net", "ns/net"])).await.unwrap();
    host.vim().ensure(&other, &compute(&host, &other, &["ns/net"])).await.unwrap();
    let spec = CaptureSpec { duration_ms: 2500, snap_bytes: 64, max_bytes: 4 << 20 };
    let (vim, at, sender) = (host.vim().clone(), vdu.clone(), host.namespace(&other));
    let capture = tokio::spawn(async move { vim.capture(&at, &spec).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let frames: Vec<_> = (0..FRAMES).map(datagram).collect();
    tokio::task::spawn_blocking(move || wire::emit(&sender, "cp0", &frames)).await.unwrap().unwrap();
    // What the links count is what was sent: nothing was held up or lost by being looked at.
    let shown = common::sh(&format!("ip -n {} -s -j link show cp0", host.namespace(&vdu))).unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown[0]["stats64"]["rx"]["packets"].as_u64(), Some(u64::from(FRAMES)), "{shown}");
    let captured = capture.await.unwrap().unwrap();
    let read = pcapng::read(&captured.pcapng).unwrap();
    assert_eq!(read.interfaces, ["eth0", "eth1"]);
    // Two ports in one bridge: one copy each.
    assert_eq!((captured.frames, captured.dropped), (2 * u64::from(FRAMES), 0));
    assert!(read.frames.is_sorted_by_key(|f| f.at_ns));
    for port in 0..2 {
        let seen: Vec<_> = read.frames.iter().filter(|f| f.interface == port).map(|f| f.wire_bytes).collect();
        assert!(
            seen.len() == usize::from(FRAMES) && seen.iter().all(|b| *b == 46),
            "port {port}: {} frames",
            seen.len()
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("capture.pcapng");
    std::fs::write(&file, &captured.pcapng).unwrap();
    match Command::new("tcpdump").args(["-nn", "-tt", "--nano", "-r"]).arg(&file).output() {
        Err(_) => missing("needs tcpdump (`apt-get install tcpdump`)"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let words = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{words}");
            let ours = text.lines().filter(|l| l.contains("192.0.2.1.1000 > 192.0.2.2.2000: UDP")).count();
            assert_eq!(
                ours,
                2 * usize::from(FRAMES),
                "{}\n{words}",
                text.lines().take(3).collect::<String>()
            );
        }
    }
    finish(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_is_bounded_and_does_not_hold_up_isolation() {
    let Some(bench) = bench() else { return };
    let host = Host::new(&bench.recipe).unwrap();
    ground(&host).await;
    let vdu = key("ns/vdu");
    host.vim().ensure(&vdu, &compute(&host, &vdu, &["ns/net"])).await.unwrap();
    let good = CaptureSpec { duration_ms: 1500, snap_bytes: 64, max_bytes: 4096 };
    for bad in [
        CaptureSpec { duration_ms: 700_000, ..good },
        CaptureSpec { snap_bytes: 0, ..good },
        CaptureSpec { max_bytes: 1 << 40, ..good },
    ] {
        let refused = host.vim().capture(&vdu, &bad).await.unwrap_err();
        assert_eq!(verdict(&refused), ("BAD_SPEC", Disposition::Compensate), "{refused}");
    }
    let (vim, at) = (host.vim().clone(), vdu.clone());
    let capture = tokio::spawn(async move { vim.capture(&at, &good).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let frames: Vec<_> = (0..2000).map(datagram).collect();
    wire::emit(&host.namespace(&vdu), "cp0", &frames).unwrap();
    // The link goes down under it, and away.
    host.vim().isolate(&vdu, true).await.unwrap();
    host.vim().remove(&vdu, vim::Kind::Compute).await.unwrap();
    assert!(!capture.is_finished(), "isolation and removal waited for the capture");
    let captured = capture.await.unwrap().unwrap();
    assert!(captured.pcapng.len() <= 4096 && captured.frames > 0, "{} bytes", captured.pcapng.len());
    assert_eq!(captured.frames + captured.dropped, 2000);
    finish(host).await;
}
