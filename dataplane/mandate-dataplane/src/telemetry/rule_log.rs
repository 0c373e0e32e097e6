//! Decisions of rules with `log`: a line each, and a flow record where those are exported, on a thread of their own.
//!
//! At most [`LINES_A_SECOND`] of the process are written; how many were not is counted, and said when the second is over. Lines have the
//! tracing target `rule_log` (`MANDATE_LOG=info,rule_log=off` is without them) and that word before their fields:
//!
//! ```text
//! 2026-11-22T03:45:38Z  INFO rule_log at_ms=1795319138012 action="denied" reason="denied" rule="telnet" index=4 generation=7
//!     port="outside" protocol=6 source=198.51.100.1 source_port=40000 destination=192.0.2.10 destination_port=23
//! ```
//!
//! Tests: below, and `tests/telemetry.rs`.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, SyncSender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use dataplane_control::{Configuration, Function};
use dataplane_engine::{
    DropReason,
    events::{LOG_BATCH, Logged, Outcome, Ring},
};

use super::{
    batches::{self, Batch, Given, Taker},
    flows::Decided,
};
use crate::{clock::Clock, document::Document, error::StartError};

/// Written at most; a line is some 250 bytes, so 50 kB a second of text.
const LINES_A_SECOND: u32 = 200;
const SECOND: Duration = Duration::from_secs(1);

/// Of one packet thread.
#[derive(Debug, Default)]
struct Counts {
    lines: AtomicU64,
    beyond: AtomicU64,
}

/// A packet thread's end.
pub struct LogTap {
    taker: Taker<Logged>,
    counts: Arc<Counts>,
}

impl LogTap {
    /// Takes what a function of the row left, if somebody will have it.
    pub fn take(&mut self, part: usize, ring: &mut Ring<Logged>, document: &Arc<Document>) {
        self.taker.take(part, ring, document);
    }

    /// Decisions that were written down.
    pub fn lines(&self) -> u64 {
        self.counts.lines.load(Ordering::Relaxed)
    }

    /// Decisions that were not.
    pub fn suppressed(&self) -> u64 {
        self.counts.beyond.load(Ordering::Relaxed) + self.taker.missed()
    }
}

/// Starts the thread that writes, and ends when all of its packet threads' ends are gone. `records` takes what is to be exported.
pub fn start(
    workers: usize,
    records: Option<SyncSender<Decided>>,
    clock: Clock,
) -> Result<(Vec<LogTap>, JoinHandle<()>), StartError> {
    let (taps, given, writer) = ends(workers, records, clock);
    let thread = thread::Builder::new()
        .name("rule-log".into())
        .spawn(move || writer.run(&given, |line| line.write()))
        .map_err(StartError::System)?;
    Ok((taps, thread))
}

fn ends(
    workers: usize,
    records: Option<SyncSender<Decided>>,
    clock: Clock,
) -> (Vec<LogTap>, Given<Logged>, Writer) {
    let (takers, given) = batches::channel(workers, LOG_BATCH);
    let counts: Vec<Arc<Counts>> = takers.iter().map(|_| Arc::default()).collect();
    let taps =
        takers.into_iter().zip(&counts).map(|(taker, counts)| LogTap { taker, counts: counts.clone() });
    (taps.collect(), given, Writer { counts, records, clock, second: Second::begun() })
}

/// A second's lines.
struct Second {
    began: Instant,
    left: u32,
    suppressed: u64,
}

impl Second {
    fn begun() -> Self {
        Self { began: Instant::now(), left: LINES_A_SECOND, suppressed: 0 }
    }

    /// How long until what was suppressed is said.
    fn rest(&self) -> Duration {
        match self.suppressed {
            0 => Duration::MAX,
            _ => SECOND.saturating_sub(self.began.elapsed()),
        }
    }
}

struct Writer {
    /// By packet thread.
    counts: Vec<Arc<Counts>>,
    records: Option<SyncSender<Decided>>,
    clock: Clock,
    second: Second,
}

impl Writer {
    fn run(mut self, given: &Given<Logged>, mut write: impl FnMut(&Line<'_>)) {
        loop {
            match given.full.recv_timeout(self.second.rest()) {
                Ok(batch) => {
                    self.batch(&batch, &mut write);
                    given.give_back(batch);
                }
                Err(RecvTimeoutError::Timeout) => self.next_second_if_over(&mut write),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.say_suppressed(&mut write);
    }

    fn batch(&mut self, batch: &Batch<Logged>, write: &mut impl FnMut(&Line<'_>)) {
        self.next_second_if_over(write);
        self.second.suppressed += batch.missed;
        let Some(counts) = self.counts.get(batch.worker).cloned() else { return };
        for logged in &batch.all {
            if self.second.left == 0 {
                self.second.suppressed += 1;
                counts.beyond.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            self.second.left -= 1;
            let decision = Decision::of(&batch.document.configuration, batch.part, logged, self.clock);
            write(&Line::Decision(&decision));
            counts.lines.fetch_add(1, Ordering::Relaxed);
            self.export(&decision, logged);
        }
    }

    /// What the exporter has no room for is in the log only.
    fn export(&self, decision: &Decision<'_>, logged: &Logged) {
        let (Some(records), Some(event)) = (&self.records, firewall_event(logged)) else { return };
        let Decision { at_ms, rule, .. } = *decision;
        let _ = records.try_send(Decided { at_ms, event, ends: logged.ends, rule: rule.into() });
    }

    fn next_second_if_over(&mut self, write: &mut impl FnMut(&Line<'_>)) {
        if self.second.began.elapsed() >= SECOND {
            self.say_suppressed(write);
            self.second = Second::begun();
        }
    }

    fn say_suppressed(&mut self, write: &mut impl FnMut(&Line<'_>)) {
        match std::mem::take(&mut self.second.suppressed) {
            0 => {}
            suppressed => write(&Line::Suppressed(suppressed)),
        }
    }
}

/// firewallEvent (IANA's IPFIX element 233); none of a connection whose opening is a flow record already.
fn firewall_event(logged: &Logged) -> Option<u8> {
    match logged.outcome {
        Outcome::Allowed => (!logged.sampled).then_some(1),
        Outcome::Rejected | Outcome::Dropped(_) => Some(3),
        Outcome::Challenged => Some(4),
    }
}

/// A line of the log.
enum Line<'d> {
    Decision(&'d Decision<'d>),
    Suppressed(u64),
}

/// A decision, in words.
#[derive(Debug, PartialEq, Eq)]
struct Decision<'d> {
    /// ms since 1970.
    at_ms: u64,
    action: &'static str,
    reason: Option<&'static str>,
    rule: &'d str,
    index: u32,
    generation: u64,
    /// Where it came in; in a row the name may be a link's.
    port: &'d str,
    protocol: u8,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
}

impl<'d> Decision<'d> {
    fn of(configuration: &'d Configuration, part: usize, logged: &Logged, clock: Clock) -> Self {
        let (rule, port) = match configuration.function.row().get(part) {
            Some(Function::Firewall(f)) => (
                usize::try_from(logged.rule).ok().and_then(|i| f.rules.get(i)).map_or("", |r| r.id.as_str()),
                if logged.ends.from_near { f.outside.as_str() } else { f.inside.as_str() },
            ),
            _ => ("", ""),
        };
        let (action, reason) = match logged.outcome {
            Outcome::Allowed => ("allowed", None),
            Outcome::Challenged => ("challenged", None),
            Outcome::Rejected => ("rejected", None),
            Outcome::Dropped(reason @ DropReason::Denied) => ("denied", Some(reason.label())),
            Outcome::Dropped(reason @ DropReason::RuleRate) => ("limited", Some(reason.label())),
            Outcome::Dropped(reason) => ("dropped", Some(reason.label())),
        };
        Self {
            at_ms: clock.since_1970_ms(logged.at_ms),
            action,
            reason,
            rule,
            index: logged.rule,
            generation: configuration.generation,
            port,
            protocol: logged.ends.protocol,
            source: (logged.ends.source, logged.ends.source_port),
            destination: (logged.ends.destination, logged.ends.destination_port),
        }
    }
}

impl Line<'_> {
    fn write(&self) {
        match self {
            Self::Decision(d) => tracing::info!(
                target: "rule_log",
                at_ms = d.at_ms,
                action = d.action,
                reason = d.reason,
                rule = d.rule,
                index = d.index,
                generation = d.generation,
                port = d.port,
                protocol = d.protocol,
                source = %d.source.0,
                source_port = d.source.1,
                destination = %d.destination.0,
                destination_port = d.destination.1,
                "rule_log"
            ),
            Self::Suppressed(suppressed) => tracing::warn!(
                target: "rule_log",
                suppressed,
                most_a_second = LINES_A_SECOND,
                "rule_log: more decisions than are written down"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use dataplane_engine::events::Ends;
    use serde_json::json;

    use super::*;

    /// Two firewalls in a row.
    fn document() -> Arc<Document> {
        let port = |name: &str, last: u8| json!({ "name": name, "driver": { "null": {} }, "mac": format!("02:00:00:00:00:{last:02x}") });
        let firewall = |outside: &str, inside: &str, id: &str| {
            let rules = json!([{ "id": id, "from": outside, "action": "allow", "log": true }]);
            json!({ "firewall": { "outside": outside, "inside": inside, "rules": rules } })
        };
        let functions = [firewall("outside", "between", "first"), firewall("between", "inside", "second")];
        let document = json!({
            "instance": "row", "generation": 7, "ports": [port("outside", 2), port("inside", 3)],
            "function": { "chain": {
                "functions": functions, "links": [{ "name": "between", "mac": "02:00:00:00:00:04" }],
            } },
        });
        let bytes = serde_json::to_vec(&document).unwrap();
        let configuration = Configuration::parse(&bytes).unwrap();
        Arc::new(Document { configuration, digest: Configuration::digest(&bytes) })
    }

    fn logged(outcome: Outcome, from_near: bool) -> Logged {
        let ends = Ends {
            source: "198.51.100.1".parse().unwrap(),
            destination: "192.0.2.10".parse().unwrap(),
            source_port: 40_000,
            destination_port: 53,
            protocol: 17,
            from_near,
        };
        Logged { at_ms: 0, rule: 0, outcome, ends, sampled: false }
    }

    #[test]
    fn a_decision_is_told_by_its_functions_names_and_exported_once() {
        let (into, records) = mpsc::sync_channel(16);
        let (taps, _given, mut writer) = ends(1, Some(into), Clock::start());
        let cases = [
            (0, logged(Outcome::Allowed, true), "allowed", "first", "outside", Some(1)),
            (1, logged(Outcome::Challenged, true), "challenged", "second", "between", Some(4)),
            (1, logged(Outcome::Rejected, false), "rejected", "second", "inside", Some(3)),
            (
                0,
                logged(Outcome::Dropped(DropReason::RuleRate), false),
                "limited",
                "first",
                "between",
                Some(3),
            ),
            (
                0,
                logged(Outcome::Dropped(DropReason::TableFull), true),
                "dropped",
                "first",
                "outside",
                Some(3),
            ),
            (
                0,
                Logged { sampled: true, ..logged(Outcome::Allowed, true) },
                "allowed",
                "first",
                "outside",
                None,
            ),
        ];
        for (part, logged, action, rule, port, event) in cases {
            let batch = Batch { worker: 0, part, all: vec![logged], document: document(), missed: 0 };
            let mut told = vec![];
            writer.batch(&batch, &mut |line| match line {
                Line::Decision(d) => {
                    told.push((d.action, d.rule.to_owned(), d.port.to_owned(), d.generation))
                }
                Line::Suppressed(n) => panic!("{n} suppressed"),
            });
            assert_eq!(told, [(action, rule.to_owned(), port.to_owned(), 7)]);
            let record = records.try_recv().ok();
            assert_eq!(record.as_ref().map(|r| (r.event, r.rule.as_str())), event.map(|e| (e, rule)));
        }
        assert_eq!((taps[0].lines(), taps[0].suppressed()), (6, 0));
    }

    #[test]
    fn so_many_lines_a_second_and_the_rest_is_said() {
        let (taps, _given, mut writer) = ends(2, None, Clock::start());
        let (mut lines, mut suppressed) = (0, vec![]);
        let mut write = |line: &Line<'_>| match line {
            Line::Decision(_) => lines += 1,
            Line::Suppressed(n) => suppressed.push(*n),
        };
        let all = vec![logged(Outcome::Allowed, true); 150];
        for (worker, missed) in [(0, 0), (1, 5)] {
            writer.batch(
                &Batch { worker, part: 0, all: all.clone(), document: document(), missed },
                &mut write,
            );
        }
        // As if the second were over.
        writer.second.began -= SECOND;
        writer.batch(
            &Batch { worker: 0, part: 0, all: all[..1].to_vec(), document: document(), missed: 0 },
            &mut write,
        );
        assert_eq!(writer.second.rest(), Duration::MAX, "nothing is left to say");
        assert_eq!((lines, suppressed), (201, vec![105]));
        assert_eq!((taps[0].lines(), taps[1].lines(), taps[1].suppressed()), (151, 50, 100));
    }
}
