//! Functions in a row, as one: what the first lets pass goes to the second where it lies, with no copy and no queue.
//!
//! A burst goes through function by function; the frames that pass are few runs, each of which is a burst of the next function.
//! Each function has two ports of its own, 0 on its near side and 1 on its far side ([`Chain::part`](dataplane_control::chain::Chain::part)). A frame
//! that a function sends back (an answer of its own to a neighbour, an ICMP error) goes through the ones before it the other way,
//! after the frames of its burst that those have seen: as over a wire between two processes.
//!
//! All functions are configured, prepared and swapped as a whole; which backends are down concerns the balancers only, all of them. Counters of the same name are added up; a frame is dropped once.
//!
//! Tests: `tests/in_a_row.rs` (against the same functions joined by hand), `tests/chain.rs` of `mandate-dataplane`.

use std::collections::BTreeSet;

use dataplane_control::{Configuration, Function, chain::Chain as ChainConfig, config::ConfigError};

use crate::{
    DropReason, Frame, Machine, PacketFunction, PortIndex, Verdict, build_on,
    common::{self, Drops, PortPair},
    events::{Events, Logged, Ring},
    prepare::{self, Basis, Kind, Prepared, Retired, Snapshot},
};

/// Frames taken through the row together: a bit each in a word.
const BURST: usize = 64;
/// A function's ports.
const NEAR: PortIndex = 0;
const FAR: PortIndex = 1;

/// See the module's head.
pub(crate) struct Chain<'f, F> {
    functions: Vec<Box<dyn PacketFunction<F> + 'f>>,
    /// The ports of the process at the two ends.
    pair: PortPair,
    drops: Drops,
}

/// As configured; each function is built as if it ran alone.
pub(crate) fn build<'f, M: Machine, F: Frame + 'f>(
    whole: &Configuration,
    config: &ChainConfig,
    seed: u64,
) -> Result<Chain<'f, F>, ConfigError> {
    let part = |i| build_on::<M, F>(&config.part(whole, i)?, seed);
    Ok(Chain {
        functions: (0..config.functions.len()).map(part).collect::<Result<_, _>>()?,
        pair: ends(whole, config)?,
        drops: Drops::default(),
    })
}

/// Where a frame is about to enter a function, or that it leaves the row.
enum Place {
    Into(usize, PortIndex),
    Out(PortIndex),
}

impl<F: Frame> Chain<'_, F> {
    /// Where a frame goes that leaves the function at `at` on `port`.
    fn beyond(&self, at: usize, port: PortIndex) -> Place {
        match (port, at.checked_sub(1)) {
            (NEAR, None) => Place::Out(self.pair.near.index),
            (NEAR, Some(before)) => Place::Into(before, FAR),
            _ if at + 1 < self.functions.len() => Place::Into(at + 1, NEAR),
            _ => Place::Out(self.pair.far.index),
        }
    }

    /// Takes one frame on from there to where it leaves or is dropped.
    fn walk(&mut self, now_us: u64, mut place: Place, frame: &mut F) -> Verdict {
        // There and back; a frame that still goes round after that is answered for ever.
        for _ in 0..2 * self.functions.len() {
            let (at, ingress) = match place {
                Place::Out(port) => return Verdict::Forward { port },
                Place::Into(at, ingress) => (at, ingress),
            };
            let Some(function) = self.functions.get_mut(at) else { break };
            match function.process(now_us, ingress, frame) {
                Verdict::Forward { port } => place = self.beyond(at, port),
                dropped @ Verdict::Drop(_) => return dropped,
            }
        }
        match place {
            Place::Out(port) => Verdict::Forward { port },
            Place::Into(..) => self.drops.drop(DropReason::ChainLoop),
        }
    }

    /// Takes the frames that `passing` names through one function; those that do not go on are decided then.
    fn stage(
        &mut self,
        now_us: u64,
        (at, ingress): (usize, PortIndex),
        frames: &mut [F],
        verdicts: &mut [Verdict],
        passing: &mut u64,
    ) {
        let onward = if ingress == NEAR { FAR } else { NEAR };
        let mut left = *passing;
        while left != 0 {
            // The next run of frames that are still there.
            let first = left.trailing_zeros() as usize;
            let length = (left >> first).trailing_ones() as usize;
            let run = first..first + length;
            left &= !bits(&run);
            let (Some(some), Some(out)) = (frames.get_mut(run.clone()), verdicts.get_mut(run.clone())) else {
                return;
            };
            let Some(function) = self.functions.get_mut(at) else { return };
            function.burst(now_us, ingress, some, out);
            for ((i, frame), verdict) in run.zip(some).zip(out) {
                match *verdict {
                    Verdict::Forward { port } if port == onward => continue,
                    Verdict::Forward { port } => *verdict = self.walk(now_us, self.beyond(at, port), frame),
                    Verdict::Drop(_) => {}
                }
                *passing &= !(1 << i);
            }
        }
    }
}

/// One bit for each.
fn bits(run: &std::ops::Range<usize>) -> u64 {
    u64::MAX.checked_shr(u32::try_from(BURST - run.len()).unwrap_or(0)).unwrap_or(0) << run.start
}

fn ends(whole: &Configuration, config: &ChainConfig) -> Result<PortPair, ConfigError> {
    let ends = config
        .functions
        .first()
        .and_then(Function::sides)
        .zip(config.functions.last().and_then(Function::sides));
    let ((near, _), (_, far)) = ends.ok_or_else(|| common::invalid("chain.functions", "has no two ends"))?;
    PortPair::find(whole, "chain.functions", near, far)
}

/// For each function the next configuration.
pub(crate) fn prepare(parts: &[Basis], whole: &Configuration) -> Result<Vec<Option<Prepared>>, ConfigError> {
    let Function::Chain(config) = &whole.function else { return Err(common::other_function("chain")) };
    if config.functions.len() != parts.len() {
        let problem = format!("{} of them run; another number needs a new process", parts.len());
        return Err(common::invalid("chain.functions", problem));
    }
    parts.iter().enumerate().map(|(i, basis)| basis.prepare(&config.part(whole, i)?).map(Some)).collect()
}

/// These backends of the balancer at `index` down. All balancers are swapped, whichever it is about, see [`Chain::swap`].
pub(crate) fn prepare_health(
    parts: &[Basis],
    index: usize,
    down: &BTreeSet<String>,
) -> Result<Vec<Option<Prepared>>, ConfigError> {
    if index >= parts.len() {
        return Err(common::invalid("chain.functions", format!("has no function {index}")));
    }
    let next = |(i, basis): (usize, &Basis)| match i == index {
        true => basis.prepare_health(0, down).map(Some),
        false => basis.balancer_again(),
    };
    parts.iter().enumerate().map(next).collect()
}

impl<F: Frame> PacketFunction<F> for Chain<'_, F> {
    fn process(&mut self, now_us: u64, ingress: PortIndex, frame: &mut F) -> Verdict {
        match ingress {
            i if i == self.pair.near.index => self.walk(now_us, Place::Into(0, NEAR), frame),
            i if i == self.pair.far.index => {
                self.walk(now_us, Place::Into(self.functions.len().saturating_sub(1), FAR), frame)
            }
            _ => self.drops.drop(DropReason::UnknownPort),
        }
    }

    fn burst(&mut self, now_us: u64, ingress: PortIndex, frames: &mut [F], verdicts: &mut [Verdict]) {
        let (enters, leaves) = match ingress {
            i if i == self.pair.near.index => (NEAR, self.pair.far.index),
            i if i == self.pair.far.index => (FAR, self.pair.near.index),
            _ => {
                let all = verdicts.iter_mut().zip(frames);
                return all.for_each(|(verdict, _)| *verdict = self.drops.drop(DropReason::UnknownPort));
            }
        };
        let last = self.functions.len().saturating_sub(1);
        for (frames, verdicts) in frames.chunks_mut(BURST).zip(verdicts.chunks_mut(BURST)) {
            let mut passing = bits(&(0..frames.len().min(verdicts.len())));
            for step in 0..=last {
                let at = if enters == NEAR { step } else { last - step };
                self.stage(now_us, (at, enters), frames, verdicts, &mut passing);
            }
            for (i, verdict) in verdicts.iter_mut().enumerate() {
                if passing >> i & 1 == 1 {
                    *verdict = Verdict::Forward { port: leaves };
                }
            }
        }
    }

    fn tick(&mut self, now_us: u64) {
        self.functions.iter_mut().for_each(|f| f.tick(now_us));
    }

    fn reseed(&mut self, seed: u64) {
        self.functions.iter_mut().for_each(|f| f.reseed(seed));
    }

    fn basis(&self) -> prepare::Basis {
        Basis(Kind::Chain(self.functions.iter().map(|f| f.basis()).collect()))
    }

    fn swap(&mut self, prepared: Prepared) -> Result<Retired, ConfigError> {
        let parts = match prepared.0 {
            Kind::Chain(parts) if parts.len() == self.functions.len() => parts,
            other => return Err(common::prepared_for(other.name(), "chain")),
        };
        // Whatever came in between was swapped into all functions or into all balancers: if the first balancer is fresh, all of them
        // are; in a row without any, if the first function is.
        let (balancers, others): (Vec<_>, Vec<_>) = self
            .functions
            .iter_mut()
            .zip(parts)
            .filter_map(|(function, part)| Some((function, part?)))
            .partition(|(_, part)| matches!(part.0, Kind::Balancer(_)));
        let all = balancers.into_iter().chain(others);
        let before = all.map(|(function, part)| function.swap(part).map(|old| Some(old.0)));
        Ok(Retired(Prepared(Kind::Chain(before.collect::<Result<_, _>>()?))))
    }

    fn announcement(&self, index: usize, buffer: &mut [u8]) -> Option<(PortIndex, u16)> {
        let mut index = index;
        for function in &self.functions {
            if let Some((port, length)) = function.announcement(index, buffer) {
                // Neighbours beyond a link are those beyond the row's end.
                let port = if port == NEAR { self.pair.near.index } else { self.pair.far.index };
                return Some((port, length));
            }
            // Past the end of this one's: how many it has is found by asking.
            index -= (0..index).take_while(|i| function.announcement(*i, buffer).is_some()).count();
        }
        None
    }

    fn snapshot(&self) -> Snapshot {
        let parts: Vec<Snapshot> = self.functions.iter().map(|f| f.snapshot()).collect();
        Snapshot {
            drops: self.drops.clone(),
            totals: vec![],
            connections: self.connections(),
            half_open: parts.iter().map(Snapshot::half_open).sum(),
            named: Kind::Chain(parts),
        }
    }

    fn connections(&self) -> u64 {
        self.functions.iter().map(|f| f.connections()).sum()
    }

    /// Of the first that keeps any: a connection through the row is one.
    fn events(&mut self) -> Option<&mut Events> {
        self.functions.iter_mut().find_map(|f| f.events())
    }

    fn log(&mut self, index: usize) -> Option<&mut Ring<Logged>> {
        self.functions.get_mut(index)?.log(0)
    }
}
