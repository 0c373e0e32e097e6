//! Copies of frames for a file: chosen and copied by the packet thread into spare buffers, written by the thread of the connection that
//! asked.
//!
//! The buffers go round: the writer hands in a fixed number, the packet thread fills one a frame, the writer gives it back. Without a
//! spare one, or room in the queue, a frame is counted as missed. A frame is kept as it came in, with what became of it as a comment.
//!
//! Tests: below, and `tests/telemetry.rs`.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use dataplane_control::{
    Configuration,
    capture::{Capture, CaptureFilter, CaptureReport},
    config::{PortRange, Prefix},
};
use dataplane_engine::{DropReason, headers::Headers};
use dpdk::BURST;

use super::pcapng::{Captured, PcapngWriter};
use crate::{
    clock::Clock,
    command::{ANSWER_WITHIN, Command, Handle},
    error::Refusal,
};

/// Frames of one packet thread between the two threads: some milliseconds of a million a second.
const SPARE: usize = 4096;
/// How long the writer waits for a frame before it looks at the time, and writes out what it has.
const WAIT: Duration = Duration::from_millis(20);

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Sent, through the port of this index.
    Forward(u16),
    /// Dropped by the function.
    Drop(DropReason),
    /// Dropped because traffic is cut.
    Isolated,
    /// Taken in by the generator.
    Taken,
}

/// A filter, compiled.
#[derive(Debug, Clone)]
pub struct Filter {
    port: Option<u16>,
    protocol: Option<u8>,
    prefixes: (Option<Prefix>, Option<Prefix>),
    ports: (Option<PortRange>, Option<PortRange>),
    both_ways: bool,
    verdict: Wanted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Any,
    Forward,
    Drop,
    Reason(DropReason),
}

impl Filter {
    /// Names become indices.
    pub fn compile(filter: &CaptureFilter, configuration: &Configuration) -> Result<Self, Refusal> {
        let port = match &filter.port {
            None => None,
            Some(name) => Some(port_index(name, configuration)?),
        };
        Ok(Self {
            port,
            protocol: filter.protocol,
            prefixes: (filter.source, filter.destination),
            ports: (filter.source_ports, filter.destination_ports),
            both_ways: filter.both_ways,
            verdict: wanted(filter.verdict.as_deref())?,
        })
    }

    /// Whether a frame that came in on `port` is meant, whatever becomes of it.
    fn meets(&self, port: u16, frame: &[u8]) -> bool {
        if self.port.is_some_and(|p| p != port) {
            return false;
        }
        if self.protocol.is_none() && self.prefixes == (None, None) && self.ports == (None, None) {
            return true;
        }
        let headers = Headers::read(frame);
        let protocol = self.protocol.is_none_or(|p| headers.protocol == Some(p));
        protocol && (self.ends(&headers, false) || self.both_ways && self.ends(&headers, true))
    }

    fn ends(&self, headers: &Headers, reversed: bool) -> bool {
        let turn = |(a, b)| if reversed { (b, a) } else { (a, b) };
        let turn_ports = |(a, b)| if reversed { (b, a) } else { (a, b) };
        let addresses = headers.addresses.map(turn);
        let ports = headers.ports.map(turn_ports);
        let (source, destination) = self.prefixes;
        let (from, to) = self.ports;
        source.is_none_or(|p| addresses.is_some_and(|(a, _)| contains(p, a)))
            && destination.is_none_or(|p| addresses.is_some_and(|(_, a)| contains(p, a)))
            && from.is_none_or(|r| ports.is_some_and(|(p, _)| (r.first..=r.last).contains(&p)))
            && to.is_none_or(|r| ports.is_some_and(|(_, p)| (r.first..=r.last).contains(&p)))
    }

    fn wants(&self, fate: Fate) -> bool {
        match self.verdict {
            Wanted::Any => true,
            Wanted::Forward => matches!(fate, Fate::Forward(_)),
            Wanted::Drop => matches!(fate, Fate::Drop(_) | Fate::Isolated),
            Wanted::Reason(reason) => fate == Fate::Drop(reason),
        }
    }
}

fn port_index(name: &str, configuration: &Configuration) -> Result<u16, Refusal> {
    let found = configuration.ports.iter().position(|p| p.name == name);
    found.and_then(|i| u16::try_from(i).ok()).ok_or_else(|| {
        let names: Vec<&str> = configuration.ports.iter().map(|p| p.name.as_str()).collect();
        refused(format!("capture.filter.port: no port `{name}` among {names:?}"))
    })
}

fn wanted(verdict: Option<&str>) -> Result<Wanted, Refusal> {
    match verdict {
        None => Ok(Wanted::Any),
        Some("forward") => Ok(Wanted::Forward),
        Some("drop") => Ok(Wanted::Drop),
        Some(label) => {
            let reason = DropReason::ALL.iter().find(|r| r.label() == label).ok_or_else(|| {
                let labels: Vec<&str> = DropReason::ALL.iter().map(|r| r.label()).collect();
                let labels = labels.join(", ");
                refused(format!(
                    "capture.filter.verdict: `{label}` is not `forward`, `drop`, or one of {labels}"
                ))
            })?;
            Ok(Wanted::Reason(*reason))
        }
    }
}

fn contains(prefix: Prefix, address: IpAddr) -> bool {
    let (network, address, width) = match (prefix.address, address) {
        (IpAddr::V4(n), IpAddr::V4(a)) => (u128::from(n.to_bits()), u128::from(a.to_bits()), 32),
        (IpAddr::V6(n), IpAddr::V6(a)) => (n.to_bits(), a.to_bits(), 128),
        _ => return false,
    };
    let host_bits = width - u32::from(prefix.length).min(width);
    (network ^ address).checked_shr(host_bits).unwrap_or(0) == 0
}

/// A copy on its way to the writer.
struct Copied {
    worker: usize,
    port: u16,
    at_us: u64,
    length: u32,
    fate: Fate,
    bytes: Vec<u8>,
}

/// The packet thread's end.
pub struct Tap {
    worker: usize,
    filter: Filter,
    snaplen: usize,
    spare: Receiver<Vec<u8>>,
    full: SyncSender<Copied>,
    missed: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    /// Buffers that came back at once; as many as a burst at most.
    kept: Vec<Vec<u8>>,
    /// Of the burst that is being decided on, by position.
    pending: [Option<(u32, Vec<u8>)>; BURST],
}

impl Tap {
    /// A frame came in: copies it if it is meant.
    pub fn before(&mut self, at: usize, port: u16, frame: &[u8]) {
        if !self.filter.meets(port, frame) {
            return;
        }
        let Some(mut bytes) = self.kept.pop().or_else(|| self.spare.try_recv().ok()) else {
            self.miss();
            return;
        };
        bytes.clear();
        bytes.extend_from_slice(frame.get(..self.snaplen).unwrap_or(frame));
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        if let Some(slot) = self.pending.get_mut(at) {
            *slot = Some((length, bytes));
        }
    }

    /// What became of it.
    pub fn after(&mut self, at: usize, port: u16, at_us: u64, fate: Fate) {
        let Some((length, bytes)) = self.pending.get_mut(at).and_then(Option::take) else { return };
        if !self.filter.wants(fate) {
            self.kept.push(bytes);
            return;
        }
        let copied = Copied { worker: self.worker, port, at_us, length, fate, bytes };
        if let Err(TrySendError::Full(c) | TrySendError::Disconnected(c)) = self.full.try_send(copied) {
            self.kept.push(c.bytes);
            self.miss();
        }
    }

    /// Whether nobody wants more.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn miss(&self) {
        // Nobody else writes it while we count; the writer reads it at the end.
        self.missed.fetch_add(1, Ordering::Relaxed);
    }
}

/// The writer's end.
struct Collector {
    full: Receiver<Copied>,
    spare: Vec<SyncSender<Vec<u8>>>,
    missed: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn channel(workers: usize, filter: &Filter, snaplen: u16) -> (Vec<Tap>, Collector) {
    let (into, full) = mpsc::sync_channel(SPARE * workers.max(1));
    let (missed, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let snaplen = usize::from(snaplen);
    let (taps, spare) = (0..workers)
        .map(|worker| {
            let (give, spare) = mpsc::sync_channel(SPARE);
            for _ in 0..SPARE {
                // As many as the channel has room for.
                let _ = give.try_send(Vec::with_capacity(snaplen));
            }
            let (full, missed, over) = (into.clone(), missed.clone(), over.clone());
            let (kept, pending) = (Vec::with_capacity(BURST), [const { None }; BURST]);
            (Tap { worker, filter: filter.clone(), snaplen, spare, full, missed, over, kept, pending }, give)
        })
        .unzip();
    (taps, Collector { full, spare, missed, over })
}

/// Captures until it is over; on the thread that asked.
pub fn run(
    capture: &Capture,
    configuration: &Configuration,
    workers: &[Handle],
    clock: Clock,
) -> Result<CaptureReport, Refusal> {
    capture.check().map_err(|e| refused(e.to_string()))?;
    let filter = Filter::compile(&capture.filter, configuration)?;
    let failed = |e: io::Error| {
        Refusal::new(
            "CAPTURE_FILE",
            format!("{}: {e}; name a new file in a directory that this user may write to", capture.path),
        )
    };
    let file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&capture.path).map_err(failed)?;
    let names: Vec<&str> = configuration.ports.iter().map(|p| p.name.as_str()).collect();
    let application = concat!("mandate-dataplane ", env!("CARGO_PKG_VERSION"));
    let mut writer = PcapngWriter::new(BufWriter::new(file), application, &names, capture.snaplen.into())
        .map_err(failed)?;
    let (taps, collector) = channel(workers.len(), &filter, capture.snaplen);
    for (worker, tap) in workers.iter().zip(taps) {
        worker.ask(|reply| Command::Capture { tap: Box::new(tap), reply }, ANSWER_WITHIN)?;
    }
    let frames = collect(&collector, capture, &names, &mut writer, clock).map_err(failed)?;
    let missed = collector.missed.load(Ordering::Relaxed);
    Ok(CaptureReport { frames, missed, file_bytes: writer.written() })
}

fn collect(
    collector: &Collector,
    capture: &Capture,
    names: &[&str],
    writer: &mut PcapngWriter<impl io::Write>,
    clock: Clock,
) -> io::Result<u64> {
    let until = Instant::now() + Duration::from_millis(capture.duration_ms.into());
    let epoch_us = epoch_us(clock);
    let mut by_port = vec![0_u64; names.len()];
    let mut frames = 0;
    while frames < u64::from(capture.limit) {
        let now = Instant::now();
        let copied = match collector.full.recv_timeout(WAIT.min(until.saturating_duration_since(now))) {
            Ok(copied) => copied,
            Err(RecvTimeoutError::Timeout) if now < until => {
                writer.flush()?;
                continue;
            }
            // The time is over, or the packet threads are gone.
            Err(_) => break,
        };
        let packet = Captured {
            interface: copied.port.into(),
            at_us: epoch_us + copied.at_us,
            length: copied.length,
            bytes: &copied.bytes,
            comment: &words(copied.fate, names),
        };
        writer.packet(&packet)?;
        frames += 1;
        if let Some(count) = by_port.get_mut(usize::from(copied.port)) {
            *count += 1;
        }
        if let Some(spare) = collector.spare.get(copied.worker) {
            // It came from there, so there is room.
            let _ = spare.try_send(copied.bytes);
        }
        if Instant::now() >= until {
            break;
        }
    }
    let missed = collector.missed.load(Ordering::Relaxed);
    for (interface, received) in (0..).zip(by_port) {
        // What was missed is not known by port: all of it is told at the first.
        let missed = if interface == 0 { missed } else { 0 };
        writer.statistics(interface, epoch_us + clock.now_us(), received, missed)?;
    }
    writer.flush()?;
    Ok(frames)
}

/// µs since 1970 when the clock began.
fn epoch_us(clock: Clock) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    u64::try_from(now).unwrap_or(u64::MAX).saturating_sub(clock.now_us())
}

fn words(fate: Fate, names: &[&str]) -> String {
    match fate {
        Fate::Forward(port) => format!("forward: {}", names.get(usize::from(port)).unwrap_or(&"?")),
        Fate::Drop(reason) => format!("drop: {}", reason.label()),
        Fate::Isolated => "drop: isolated".into(),
        Fate::Taken => "taken".into(),
    }
}

fn refused(message: String) -> Refusal {
    Refusal::new("CAPTURE_REFUSED", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(source: u8, destination: u8, ports: (u16, u16)) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, source, 192, 0, 2, destination]);
        frame.extend([ports.0.to_be_bytes(), ports.1.to_be_bytes(), [0, 8], [0, 0]].concat());
        frame
    }

    fn filter(json: &str) -> Filter {
        let configuration: Configuration = serde_json::from_str(
            r#"{"instance":"i","generation":1,"ports":[
                {"name":"a","driver":{"null":{}},"mac":"02:00:00:00:00:01"},
                {"name":"b","driver":{"null":{}},"mac":"02:00:00:00:00:02"}],
                "function":{"generator":{"port":"a"}}}"#,
        )
        .unwrap();
        Filter::compile(&serde_json::from_str(json).unwrap(), &configuration).unwrap()
    }

    #[test]
    fn all_that_is_asked_for_must_hold() {
        let there = frame(1, 9, (1000, 53));
        let back = frame(9, 1, (53, 1000));
        for (json, meets_there, meets_back) in [
            ("{}", true, true),
            (r#"{"port":"b"}"#, false, false),
            (r#"{"port":"a","protocol":17}"#, true, true),
            (r#"{"protocol":6}"#, false, false),
            (r#"{"source":"192.0.2.0/30"}"#, true, false),
            (r#"{"source":"192.0.2.0/30","both_ways":true}"#, true, true),
            (r#"{"source":"0.0.0.0/0"}"#, true, true),
            (r#"{"source":"::/0"}"#, false, false),
            (r#"{"destination_ports":"50-60"}"#, true, false),
            (r#"{"destination_ports":"50-60","source_ports":"1000","both_ways":true}"#, true, true),
            (r#"{"destination_ports":"54-60","both_ways":true}"#, false, false),
            (r#"{"destination":"192.0.2.9/32","source_ports":"1000"}"#, true, false),
        ] {
            let filter = filter(json);
            assert_eq!(
                (filter.meets(0, &there), filter.meets(0, &back)),
                (meets_there, meets_back),
                "{json}"
            );
        }
    }

    #[test]
    fn verdicts_are_names_of_counters() {
        let (no_rule, forward) = (Fate::Drop(DropReason::NoRule), Fate::Forward(1));
        for (json, of_drop, of_forward) in [
            ("{}", true, true),
            (r#"{"verdict":"forward"}"#, false, true),
            (r#"{"verdict":"drop"}"#, true, false),
            (r#"{"verdict":"no_rule"}"#, true, false),
            (r#"{"verdict":"denied"}"#, false, false),
        ] {
            let filter = filter(json);
            assert_eq!((filter.wants(no_rule), filter.wants(forward)), (of_drop, of_forward), "{json}");
        }
        assert!(wanted(Some("no_such")).unwrap_err().message.contains("no_rule"));
    }

    #[test]
    fn what_cannot_be_taken_is_counted_and_buffers_go_round() {
        let (mut taps, collector) = channel(1, &filter(r#"{"verdict":"drop"}"#), 40);
        let mut tap = taps.remove(0);
        let frame = frame(1, 9, (1, 2));
        for fate in [Fate::Drop(DropReason::NoRule), Fate::Forward(0)] {
            tap.before(3, 0, &frame);
            tap.after(3, 0, 7, fate);
        }
        tap.after(3, 0, 7, Fate::Isolated);
        let wanted = collector.full.try_recv().unwrap();
        assert_eq!((wanted.length, wanted.bytes.as_slice()), (42, &frame[..40]));
        assert!(collector.full.try_recv().is_err());
        // One buffer is out: so many are left.
        for _ in 0..SPARE {
            tap.before(0, 0, &frame);
            tap.after(0, 0, 7, Fate::Isolated);
        }
        assert_eq!(collector.missed.load(Ordering::Relaxed), 1);
        assert!(!tap.is_over());
        drop(collector);
        assert!(tap.is_over());
    }
}
