//! Functions in a row, as one: what the first lets pass goes to the second where it lies, with no copy and no queue.
//!
//! A burst goes through function by function; the frames that pass are few runs, each of which is a burst of the next function. Their headers
//! are read once, all functions look for their connections at the same time, and again after a function that changes headers
//! ([`InRow::keeps_headers`]).
//! Each function has two ports of its own, 0 on its near side and 1 on its far side ([`Chain::part`](dataplane_control::chain::Chain::part)). A frame
//! that a function sends back (an answer of its own to a neighbour, an ICMP error) goes through the ones before it the other way,
//! after the frames of its burst that those have seen: as over a wire between two processes.
//!
//! All functions are configured, prepared and swapped as a whole; which backends are down concerns the balancers only, all of them.
//! Counters of the same name are added up; a frame is dropped once.
//!
//! Tests: `tests/in_a_row.rs` (against the same functions joined by hand), `tests/chain.rs` of `mandate-dataplane`.

use std::collections::BTreeSet;

use dataplane_control::{
    Configuration, Function, chain::Chain as ChainConfig, config::ConfigError, sync::Told,
};

use crate::{
    DropReason, Frame, Machine, PacketFunction, PortIndex, Verdict,
    balancer::Balancer,
    common::{self, Drops, PortPair},
    events::{Events, Logged, Ring},
    firewall::Firewall,
    key::Side,
    packet::Header,
    prepare::{self, Basis, Kind, Prepared, Retired, Snapshot},
};

/// Frames taken through the row together: a bit each in a word.
const BURST: usize = 64;
/// A function's ports.
const NEAR: PortIndex = 0;
const FAR: PortIndex = 1;

/// A function that may stand in a row: between two networks. A burst of at most 64 frames goes through it in steps, so that all functions of
/// the row wait for memory at the same time.
pub(crate) trait InRow<F: Frame>: PacketFunction<F> {
    /// Asks for where the connections are that frames from `side` with these headers are of.
    fn seek_all(&mut self, now_us: u64, side: Side, headers: &[Header]);

    /// Asks for the connections. `frames` are those whose headers they were, or were on their way here.
    fn find_all(&mut self, now_us: u64, side: Side, frames: &[F]);

    /// [`PacketFunction::burst`] of some of the frames, the `first`-th and those behind it; a bit for each that goes on to the other side.
    fn judge_run(
        &mut self,
        now_us: u64,
        side: Side,
        first: usize,
        frames: &mut [F],
        verdicts: &mut [Verdict],
    ) -> u64;

    /// The burst is over.
    fn settle(&mut self);

    /// Whether the frames that it lets pass have the headers that they came with, but for MAC addresses.
    fn keeps_headers(&self) -> bool;
}

/// See the module's head.
pub(crate) struct Chain<'f, F> {
    functions: Vec<Box<dyn InRow<F> + 'f>>,
    /// The ports of the process at the two ends.
    pair: PortPair,
    drops: Drops,
    /// Of the frames of a burst.
    headers: Box<[Header; BURST]>,
    /// Of all tables.
    seed: u64,
}

/// As configured; each function is built as if it ran alone.
pub(crate) fn build<'f, M: Machine, F: Frame + 'f>(
    whole: &Configuration,
    config: &ChainConfig,
    seed: u64,
) -> Result<Chain<'f, F>, ConfigError> {
    let part = |i| {
        let part = config.part(whole, i)?;
        part.check()?;
        Ok(match &part.function {
            Function::Firewall(f) => Box::new(Firewall::<M>::new(&part, f, seed)?) as Box<dyn InRow<F> + 'f>,
            Function::LoadBalancer(_) => Box::new(Balancer::<M>::new(&part, seed)?),
            _ => return Err(common::invalid("chain.functions", "is neither a firewall nor a load balancer")),
        })
    };
    Ok(Chain {
        functions: (0..config.functions.len()).map(part).collect::<Result<_, _>>()?,
        pair: ends(whole, config)?,
        drops: Drops::default(),
        headers: Box::new([Header::NOTHING; BURST]),
        seed,
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

    /// Lets the functions at these places look for the connections of frames on their way from `side`.
    fn look_ahead(&mut self, now_us: u64, side: Side, at: std::ops::Range<usize>, frames: &[F]) {
        for (frame, header) in frames.iter().zip(&mut *self.headers) {
            *header = Header::read(frame.bytes(), side, self.seed);
        }
        let headers = self.headers.get(..frames.len()).unwrap_or(&*self.headers);
        let functions = self.functions.get_mut(at).unwrap_or_default();
        functions.iter_mut().for_each(|function| function.seek_all(now_us, side, headers));
        functions.iter_mut().for_each(|function| function.find_all(now_us, side, frames));
    }

    /// Takes the frames that `passing` names through one function; those that do not go on are decided then.
    fn stage(
        &mut self,
        now_us: u64,
        (which, side): (usize, Side),
        frames: &mut [F],
        verdicts: &mut [Verdict],
        passing: &mut u64,
    ) {
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
            let Some(function) = self.functions.get_mut(which) else { return };
            let mut ends = bits(&run) & !(function.judge_run(now_us, side, first, some, out) << first);
            *passing &= !ends;
            while ends != 0 {
                let at = ends.trailing_zeros() as usize;
                ends &= ends - 1;
                if let (Some(frame), Some(verdict)) = (frames.get_mut(at), verdicts.get_mut(at))
                    && let Verdict::Forward { port } = *verdict
                {
                    *verdict = self.walk(now_us, self.beyond(which, port), frame);
                }
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
        let (side, leaves) = match ingress {
            i if i == self.pair.near.index => (Side::Near, self.pair.far.index),
            i if i == self.pair.far.index => (Side::Far, self.pair.near.index),
            _ => return self.drops.unknown_port(frames.len(), verdicts),
        };
        let count = self.functions.len();
        let forward = Verdict::Forward { port: leaves };
        for (frames, verdicts) in frames.chunks_mut(BURST).zip(verdicts.chunks_mut(BURST)) {
            let all = bits(&(0..frames.len().min(verdicts.len())));
            let mut passing = all;
            let mut looked_ahead = 0;
            for step in 0..count {
                if step == looked_ahead {
                    // As far as the headers stay what they are.
                    let at = |step: usize| if side == Side::Near { step } else { count - 1 - step };
                    let keeps =
                        |step: &usize| self.functions.get(at(*step)).is_some_and(|f| f.keeps_headers());
                    looked_ahead = step + 1 + (step..count - 1).take_while(keeps).count();
                    let places = match side {
                        Side::Near => step..looked_ahead,
                        Side::Far => count - looked_ahead..count - step,
                    };
                    self.look_ahead(now_us, side, places, frames);
                }
                let which = if side == Side::Near { step } else { count - 1 - step };
                self.stage(now_us, (which, side), frames, verdicts, &mut passing);
            }
            self.functions.iter_mut().for_each(|function| function.settle());
            if passing == all {
                verdicts.fill(forward);
                continue;
            }
            for (i, verdict) in verdicts.iter_mut().enumerate() {
                if passing >> i & 1 == 1 {
                    *verdict = forward;
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

    fn sync(&mut self, index: usize) -> Option<&mut Ring<Told>> {
        self.functions.get_mut(index)?.sync(0)
    }

    fn adopt(&mut self, now_us: u64, index: usize, told: &[Told]) {
        if let Some(function) = self.functions.get_mut(index) {
            function.adopt(now_us, 0, told);
        }
    }
}
