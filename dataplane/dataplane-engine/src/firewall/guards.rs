//! What stands between the rules and the table: limits, SYN cookies, windows, fragments. Each is there only where it is
//! configured; arrays beside the table have its slots.
//!
//! Tests: `tests/firewall.rs`, `tests/guards.rs`.

use std::sync::Arc;

use dataplane_control::config::{
    ConfigError, Firewall as Config, LimitPer,
    tracking::{self, BeyondHalfOpen, Rate, WhenFull},
};

use super::{
    fragments::Fragments,
    limits::{Bucket, Refill, RuleSources, SourceLimits, Sources},
    plan::MAX_CONNECTIONS,
    state::{PROXIED, State, is_half_open},
    syn::{Cookies, Proxied},
    tcp::Windows,
};
use crate::{
    DropReason, common,
    packet::TCP,
    table::{Entry, OutOfMemory},
};

/// Answers a second, unless the configuration says otherwise.
const ANSWERS: Rate = Rate { per_second: 1000, burst: 100 };
/// Datagrams in pieces, unless the configuration says otherwise.
const DATAGRAMS: u32 = 1024;

/// [`tracking::Tracking`], compiled.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub sources: Option<SourceLimits>,
    pub half_open: Option<tracking::HalfOpen>,
    pub strict: bool,
    datagrams: Option<u32>,
    pub evict: bool,
    pub verify_checksums: bool,
    answers: Refill,
    /// By the rule's index, ascending.
    rule_limits: Vec<(u32, Refill, LimitPer)>,
}

impl Policy {
    pub(super) fn of(config: &Config) -> Self {
        let wanted = &config.tracking;
        let rules = (0..).zip(&config.rules);
        Self {
            sources: wanted.per_source.as_ref().map(SourceLimits::of),
            half_open: wanted.half_open,
            strict: wanted.strict_tcp,
            datagrams: (wanted.fragments == tracking::Fragments::Track)
                .then_some(wanted.fragment_datagrams.unwrap_or(DATAGRAMS)),
            evict: wanted.when_full == WhenFull::Evict,
            verify_checksums: wanted.verify_checksums,
            answers: Refill::of(wanted.answers.unwrap_or(ANSWERS)),
            rule_limits: rules
                .filter_map(|(i, rule)| rule.limit.as_ref().map(|l| (i, Refill::of_rule(l), l.per)))
                .collect(),
        }
    }

    fn cookies(&self) -> bool {
        self.half_open.is_some_and(|h| h.beyond == BeyondHalfOpen::Cookie)
    }

    fn rule_sources(&self) -> bool {
        self.rule_limits.iter().any(|(_, _, per)| *per == LimitPer::Source)
    }
}

/// What the next configuration needs that the running one has not; afterwards what it replaced.
#[derive(Debug)]
pub(super) struct Room {
    sources: Option<Sources>,
    windows: Option<Vec<Windows>>,
    proxied: Option<Vec<Proxied>>,
    fragments: Option<Fragments>,
    rule_buckets: Vec<Bucket>,
    rule_sources: Option<RuleSources>,
}

/// How much there is beside a table, see [`Guards::extent`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    sources: Option<SourceLimits>,
    windows: usize,
    proxied: usize,
    rule_sources: bool,
    datagrams: Option<u32>,
}

impl Room {
    /// What was moved from leaves with what was replaced.
    pub(super) fn keep(&mut self, moved: Moving) {
        (self.windows, self.proxied) = (Some(moved.windows), Some(moved.proxied));
    }

    /// For a configuration of `max_connections` in place of what is there; the table has, or will have, `capacity` slots.
    pub(super) fn new(
        policy: &Policy,
        before: &Extent,
        max_connections: u32,
        capacity: usize,
        grows: bool,
        seed: u64,
    ) -> Result<Self, ConfigError> {
        let failed = |_: OutOfMemory| common::out_of_memory(MAX_CONNECTIONS, max_connections);
        let needs_sources =
            |limits: &SourceLimits| grows || !before.sources.is_some_and(|b| b.same_sources(limits));
        let sources = policy.sources.filter(needs_sources);
        let (windows, proxied) = (policy.strict, policy.cookies() || before.proxied > 0);
        let rule_sources = policy.rule_sources() && !before.rule_sources;
        let fragments = policy.datagrams.filter(|_| policy.datagrams != before.datagrams);
        Ok(Self {
            sources: sources.map(|s| Sources::new(s, max_connections, seed)).transpose().map_err(failed)?,
            windows: array(windows && before.windows < capacity, capacity).map_err(failed)?,
            proxied: array(proxied && before.proxied < capacity, capacity).map_err(failed)?,
            fragments: fragments
                .map(|datagrams| Fragments::new(datagrams as usize, seed))
                .transpose()
                .map_err(failed)?,
            rule_buckets: vec![Bucket::default(); policy.rule_limits.len()],
            rule_sources: rule_sources.then(|| RuleSources::new(seed)).transpose().map_err(failed)?,
        })
    }
}

fn array<T: Copy + Default>(wanted: bool, count: usize) -> Result<Option<Vec<T>>, OutOfMemory> {
    if !wanted {
        return Ok(None);
    }
    let mut all = Vec::new();
    all.try_reserve_exact(count).map_err(|_| OutOfMemory)?;
    all.resize(count, T::default());
    Ok(Some(all))
}

impl Extent {
    pub(super) const NOTHING: Self =
        Self { sources: None, windows: 0, proxied: 0, rule_sources: false, datagrams: None };
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Guards {
    pub policy: Arc<Policy>,
    /// TCP connections whose handshake is neither complete nor refused.
    half_open: u32,
    sources: Option<Sources>,
    /// Of the counters in `sources`; from 1. Connections that were counted in others are not released from these.
    sources_epoch: u8,
    windows: Vec<Windows>,
    proxied: Vec<Proxied>,
    pub fragments: Option<Fragments>,
    pub cookies: Cookies,
    answers: Bucket,
    rule_buckets: Vec<Bucket>,
    rule_sources: Option<RuleSources>,
}

impl Guards {
    pub(super) fn new(policy: Arc<Policy>, room: Room, seed: u64) -> Self {
        let Room { sources, windows, proxied, fragments, rule_buckets, rule_sources } = room;
        Self {
            policy,
            half_open: 0,
            sources,
            sources_epoch: 1,
            windows: windows.unwrap_or_default(),
            proxied: proxied.unwrap_or_default(),
            fragments,
            cookies: Cookies::new(seed),
            answers: Bucket::default(),
            rule_buckets,
            rule_sources,
        }
    }

    pub(super) fn extent(&self) -> Extent {
        Extent {
            sources: self.sources.as_ref().map(Sources::limits),
            windows: self.windows.len(),
            proxied: self.proxied.len(),
            rule_sources: self.rule_sources.is_some(),
            datagrams: self.policy.datagrams.filter(|_| self.fragments.is_some()),
        }
    }

    /// Takes the next policy and its room; what is replaced is left there. Constant time. If the table `grows`, each of its connections
    /// is to be [`Guards::moved`] afterwards.
    pub(super) fn swap(
        &mut self,
        policy: &Arc<Policy>,
        room: &mut Room,
        max_connections: u32,
        grows: bool,
    ) -> Moving {
        let before = std::mem::replace(&mut self.policy, policy.clone());
        match (&mut self.sources, policy.sources) {
            (Some(sources), Some(limits)) if sources.limits().same_sources(&limits) => {
                sources.change(limits, max_connections, &mut room.sources);
            }
            _ => {
                std::mem::swap(&mut self.sources, &mut room.sources);
                self.sources_epoch = self.sources_epoch.checked_add(1).unwrap_or(1);
            }
        }
        if policy.datagrams != before.datagrams {
            std::mem::swap(&mut self.fragments, &mut room.fragments);
        }
        std::mem::swap(&mut self.rule_buckets, &mut room.rule_buckets);
        if policy.rule_sources() != self.rule_sources.is_some() {
            std::mem::swap(&mut self.rule_sources, &mut room.rule_sources);
        }
        let mut moving = Moving { windows: Vec::new(), proxied: Vec::new() };
        if grows || room.windows.is_some() {
            moving.windows = std::mem::replace(&mut self.windows, room.windows.take().unwrap_or_default());
        }
        if grows || room.proxied.is_some() {
            moving.proxied = std::mem::replace(&mut self.proxied, room.proxied.take().unwrap_or_default());
        }
        moving
    }

    /// A connection went to another slot, or is lost.
    pub(super) fn moved(&mut self, from: &Moving, entry: &Entry<State>, before: usize, after: Option<u32>) {
        let Some(after) = after.map(|slot| slot as usize) else { return self.release(entry) };
        if let (Some(to), Some(from)) = (self.windows.get_mut(after), from.windows.get(before)) {
            *to = *from;
        }
        if let (Some(to), Some(from)) = (self.proxied.get_mut(after), from.proxied.get(before)) {
            *to = *from;
        }
    }

    /// May a packet be answered with another one, now?
    pub(super) fn may_answer(&mut self, now_ms: u32) -> bool {
        self.answers.take(now_ms, self.policy.answers)
    }

    /// A token of a rule's limit for a new connection of a source.
    pub(super) fn rule_allows(&mut self, now_ms: u32, rule: u32, source: u128) -> bool {
        let limits = &self.policy.rule_limits;
        let Ok(at) = limits.binary_search_by_key(&rule, |(rule, ..)| *rule) else { return true };
        let Some((_, refill, per)) = limits.get(at).copied() else { return true };
        match (per, &mut self.rule_sources) {
            (LimitPer::Source, Some(sources)) => sources.take(now_ms, rule, source, refill),
            _ => self.rule_buckets.get_mut(at).is_none_or(|bucket| bucket.take(now_ms, refill)),
        }
    }

    /// TCP connections whose handshake is not complete.
    pub(super) fn half_open(&self) -> u32 {
        self.half_open
    }

    /// What is beyond the half-open connections there may be; `None`: one more may be.
    pub(super) fn beyond_half_open(&self) -> Option<BeyondHalfOpen> {
        self.policy.half_open.filter(|h| self.half_open >= h.limit).map(|h| h.beyond)
    }

    /// Whether a new connection of this protocol is nobody's concern but the rules': no limit, no windows, nothing beyond the half-open
    /// ones there may be.
    #[inline]
    pub(super) fn are_open(&self, protocol: u8) -> bool {
        let tcp = protocol == TCP;
        self.sources.is_none() & !(tcp & (self.policy.strict | self.beyond_half_open().is_some()))
    }

    /// Whether segments of some connections are translated.
    pub(super) fn translate(&self) -> bool {
        !self.proxied.is_empty()
    }

    /// Counts a new connection of a source; what it is counted in.
    pub(super) fn take(&mut self, now_ms: u32, source: u128) -> Result<u8, DropReason> {
        let Some(sources) = &mut self.sources else { return Ok(0) };
        sources.take(now_ms, source)?;
        Ok(self.sources_epoch)
    }

    /// A connection that was counted was not opened after all.
    pub(super) fn give_back(&mut self, counted: u8, source: u128) {
        if let Some(sources) = self.sources.as_mut().filter(|_| counted == self.sources_epoch) {
            sources.release(source);
        }
    }

    /// A connection is there.
    pub(super) fn opened(&mut self, protocol: u8, flags: u16) {
        self.half_open += u32::from(is_half_open(protocol, flags));
    }

    /// A connection's flags change.
    #[inline]
    pub(super) fn changed(&mut self, protocol: u8, before: u16, after: u16) {
        let fewer = is_half_open(protocol, before) && !is_half_open(protocol, after);
        self.half_open = self.half_open.saturating_sub(u32::from(fewer));
    }

    /// A connection is over.
    pub(super) fn release(&mut self, entry: &Entry<State>) {
        let State { flags, counted, .. } = entry.value;
        if is_half_open(entry.key.protocol(), flags) {
            self.half_open = self.half_open.saturating_sub(1);
        }
        if counted != 0 {
            let (source, _, _) = entry.key.as_sent_from(entry.value.initiator());
            self.give_back(counted, source);
        }
    }

    /// Bounded work, about every millisecond.
    pub(super) fn sweep(&mut self, now_ms: u32, budget: usize) {
        if let Some(sources) = &mut self.sources {
            sources.sweep(now_ms, budget);
        }
        if let Some(sources) = &mut self.rule_sources {
            sources.sweep(now_ms, budget);
        }
    }

    /// Of a slot, if they are kept and the connection was seen to open.
    #[inline]
    pub(super) fn windows(&mut self, slot: u32) -> Option<&mut Windows> {
        self.windows.get_mut(slot as usize).filter(|w| w.are_known())
    }

    /// Whether new TCP connections are checked.
    pub(super) fn checks_windows(&self) -> bool {
        self.policy.strict && !self.windows.is_empty()
    }

    pub(super) fn set_windows(&mut self, slot: u32, windows: Windows) {
        if let Some(place) = self.windows.get_mut(slot as usize) {
            *place = windows;
        }
    }

    pub(super) fn proxied(&mut self, slot: u32, state: State) -> Option<&mut Proxied> {
        self.proxied.get_mut(slot as usize).filter(|_| state.flags & PROXIED != 0)
    }

    pub(super) fn set_proxied(&mut self, slot: u32, proxied: Proxied) -> bool {
        self.proxied.get_mut(slot as usize).map(|place| *place = proxied).is_some()
    }
}

/// Arrays that were replaced, to be copied from.
#[derive(Debug)]
pub(super) struct Moving {
    windows: Vec<Windows>,
    proxied: Vec<Proxied>,
}
