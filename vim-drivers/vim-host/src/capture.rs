//! Captures: what passes at an instance's connection points, recorded from outside of it.
//!
//! A packet socket (packet(7)) per port, bound to the outer end of its veth pair in the fabric namespace, where the
//! instance cannot reach. The kernel hands each socket a copy and stamps it; when a socket's buffer is full the copy
//! is dropped and counted (SO_RXQ_OVFL), never the frame. Frames are put in order of their time stamps at the end.
//!
//! The kernel takes a VLAN tag out of a frame before any socket sees it: what is captured is without it. At a port
//! that is cut nothing passes, so nothing is captured: capture first, then isolate.
//!
//! Never: more memory than the bound asked for (and as much again while it is written); longer than asked for; the
//! key's lock, so that an instance can be isolated while it is captured.
//!
//! Tests: `tests/capture.rs`, read back by tcpdump; the conformance suite.

use std::{
    collections::BTreeMap,
    io::{self, IoSliceMut},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind,
            recvmsg, setsockopt, socket,
            sockopt::{RcvBuf, RcvBufForce, ReceiveTimestampns, RxqOvfl},
        },
        time::TimeSpec,
    },
};
use vim::{Capture, CaptureSpec, ObjectKey, pcapng};

use crate::{Site, blocking, error::HostError, link::outer_name, netns};

/// Longest capture: it holds a thread.
const MAX_DURATION: Duration = Duration::from_secs(600);
/// Largest capture: it is in memory, twice while it is written.
const MAX_BYTES: u64 = 64 << 20;
/// Captures that run at once; another one waits.
pub(crate) const AT_ONCE: usize = 8;
/// What the kernel keeps for us of a port while we are not scheduled: 80 ms of 10 Gbit/s would be 100 MB; this is
/// what a loaded machine needs for a virtual port.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// The largest frame there is: one that a segmentation offload has not cut yet.
const MAX_FRAME_BYTES: usize = 1 << 17;
/// Most frames taken from one port before the others are looked at.
const BURST: usize = 256;
/// An enhanced packet block around a frame, and its padding.
const BLOCK_BYTES: u64 = 36;

impl Site {
    /// Records an instance's frames.
    pub(crate) async fn capture(&self, key: &ObjectKey, spec: CaptureSpec) -> Result<Capture, HostError> {
        check(&spec)?;
        let record = self.record(key).await?.ok_or(HostError::InstanceAbsent)?;
        let names: Vec<String> = record.spec.ports.iter().map(|p| p.name.clone()).collect();
        let outer: Vec<String> = (0..names.len()).map(|i| outer_name(key, i)).collect();
        let _permit = self.captures.acquire().await.map_err(|e| HostError::Internal(e.to_string()))?;
        let fabric = self.fabric();
        blocking(move || {
            let file = netns::open(&fabric)?;
            let taps = match file {
                Some(file) => netns::inside(file, &fabric, move || open(&outer))?,
                // Without the fabric there is nothing to record, for as long as asked.
                None => Vec::new(),
            };
            record_frames(&taps, &names, &spec).map_err(|source| HostError::Capture { source })
        })
        .await
    }
}

fn check(spec: &CaptureSpec) -> Result<(), HostError> {
    let bad = |problem: String| Err(HostError::BadSpec { problem });
    if Duration::from_millis(u64::from(spec.duration_ms)) > MAX_DURATION {
        return bad(format!("a capture of {} ms; at most {}", spec.duration_ms, MAX_DURATION.as_millis()));
    }
    if spec.max_bytes > MAX_BYTES {
        return bad(format!("a capture of {} bytes; at most {MAX_BYTES}", spec.max_bytes));
    }
    if spec.snap_bytes == 0 {
        return bad("a capture of 0 bytes of each frame; at least 1".into());
    }
    Ok(())
}

/// A socket that sees what passes at one port.
struct Tap {
    socket: OwnedFd,
    port: u32,
    interface: usize,
}

/// Frames so far.
struct Recording {
    frames: Vec<pcapng::Frame>,
    bytes: u64,
    max_bytes: u64,
    snap_bytes: usize,
    /// Dropped by the kernel: its own running count.
    dropped: BTreeMap<u32, u64>,
    /// Seen, and not kept for want of room.
    beyond: BTreeMap<u32, u64>,
}

/// Opens a tap per link that is there. Inside the namespace.
fn open(outer: &[String]) -> io::Result<Vec<Tap>> {
    let addresses: BTreeMap<String, LinkAddr> =
        getifaddrs()?.filter_map(|i| Some((i.interface_name, *i.address?.as_link_addr()?))).collect();
    let mut taps = Vec::new();
    for (port, name) in (0u32..).zip(outer) {
        let Some(address) = addresses.get(name) else { continue };
        taps.push(Tap { socket: tap(address)?, port, interface: address.ifindex() });
    }
    Ok(taps)
}

fn tap(address: &LinkAddr) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    if setsockopt(&fd, RcvBufForce, &SOCKET_BUFFER_BYTES).is_err() {
        // Inside a user namespace: as much as anyone may have.
        setsockopt(&fd, RcvBuf, &SOCKET_BUFFER_BYTES)?;
    }
    setsockopt(&fd, ReceiveTimestampns, &true)?;
    setsockopt(&fd, RxqOvfl, &1)?;
    // With protocol 0 in the address, the socket keeps its own.
    bind(fd.as_raw_fd(), address)?;
    Ok(fd)
}

fn record_frames(taps: &[Tap], names: &[String], spec: &CaptureSpec) -> io::Result<Capture> {
    let until = Instant::now() + Duration::from_millis(u64::from(spec.duration_ms));
    let snap_bytes = usize::try_from(spec.snap_bytes).unwrap_or(usize::MAX);
    let max_bytes = spec.max_bytes;
    let (frames, dropped, beyond) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    let mut recording = Recording { frames, bytes: 0, max_bytes, snap_bytes, dropped, beyond };
    let mut buffer = vec![0; MAX_FRAME_BYTES];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let mut ready: Vec<PollFd<'_>> =
            taps.iter().map(|t| PollFd::new(t.socket.as_fd(), PollFlags::POLLIN)).collect();
        // At least 1 ms: rounded down it would spin at the end.
        let timeout = PollTimeout::try_from(left.as_millis().max(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut ready, timeout) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
        for tap in taps {
            recording.drain(tap, &mut buffer, until)?;
        }
    }
    Ok(recording.write(names, spec))
}

impl Recording {
    /// Takes what waits at a tap, but not for ever.
    fn drain(&mut self, tap: &Tap, buffer: &mut [u8], until: Instant) -> io::Result<()> {
        for _ in 0..BURST {
            if Instant::now() >= until {
                break;
            }
            match self.take(tap, buffer) {
                Ok(()) | Err(Errno::EINTR) => {}
                // Nothing more; the link is down, or gone.
                Err(Errno::EAGAIN | Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV) => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn take(&mut self, tap: &Tap, buffer: &mut [u8]) -> Result<(), Errno> {
        let mut control = nix::cmsg_space!(TimeSpec, u32);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = recvmsg::<LinkAddr>(
            tap.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT,
        )?;
        let (wire, from) = (message.bytes, message.address);
        let mut at_ns = None;
        for one in message.cmsgs()? {
            match one {
                ControlMessageOwned::ScmTimestampns(time) => at_ns = nanoseconds(&time),
                ControlMessageOwned::RxqOvfl(dropped) => {
                    self.dropped.insert(tap.port, u64::from(dropped));
                }
                _ => {}
            }
        }
        // Between its making and its binding a socket sees every port.
        if from.is_none_or(|f| f.ifindex() == tap.interface) {
            self.keep(tap.port, at_ns.unwrap_or_else(now_ns), wire, buffer);
        }
        Ok(())
    }

    fn keep(&mut self, interface: u32, at_ns: u64, wire: usize, bytes: &[u8]) {
        let kept = &bytes[..wire.min(self.snap_bytes).min(bytes.len())];
        // Beyond the bound only that there was a frame is kept.
        self.bytes = self.bytes.saturating_add(kept.len() as u64 + BLOCK_BYTES);
        if self.bytes > self.max_bytes.saturating_add(MAX_FRAME_BYTES as u64) {
            *self.beyond.entry(interface).or_default() += 1;
            return;
        }
        let wire_bytes = u32::try_from(wire).unwrap_or(u32::MAX);
        self.frames.push(pcapng::Frame { interface, at_ns, wire_bytes, bytes: kept.to_vec() });
    }

    fn write(mut self, names: &[String], spec: &CaptureSpec) -> Capture {
        self.frames.sort_by_key(|f| f.at_ns);
        let mut writer = pcapng::Writer::new(names, spec.snap_bytes, spec.max_bytes);
        for frame in &self.frames {
            writer.add(frame.interface, frame.at_ns, frame.wire_bytes, &frame.bytes);
        }
        for (interface, frames) in self.dropped.iter().chain(&self.beyond) {
            writer.lost(*interface, *frames);
        }
        writer.finish(now_ns())
    }
}

fn nanoseconds(time: &TimeSpec) -> Option<u64> {
    let seconds = u64::try_from(time.tv_sec()).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(u64::try_from(time.tv_nsec()).ok()?)
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
