//! When each connection is looked at for its age: queues of those that may be given up for others, a timer wheel of the rest, and the
//! slots that nobody has.
//!
//! A packet that renews a connection touches nothing here. A connection is looked at when it would be over had nothing renewed it
//! since, and then put where its new time is: about once in its idle time, whatever its traffic. A slot is in one list at a
//! time; the lists are rings through one array in which each slot and each list has a node, so that a slot leaves whichever
//! list it is in at once.
//!
//! The wheel has [`SPOKES`] lists, 16 ms apart; what is due later than a turn is looked at after a turn. Times are milliseconds that
//! wrap, none further from now than half their range.
//!
//! Tests: below (against a plain list), the table's, and the models of the functions.

use crate::table::{OutOfMemory, filled};

/// Lists of connections that may be given up, each in the order of their beginning: all in one wait for the same time.
pub(crate) const QUEUES: u32 = 5;
/// Lists of the wheel.
const SPOKES: u32 = 4096;
/// Time between two of them: a power of two, ms.
const SPOKE_SHIFT: u32 = 4;
/// Latest time from now when a connection is looked at.
const TURN_MS: u32 = (SPOKES - 2) << SPOKE_SHIFT;
/// Of the count of 16 ms since time 0, which wraps when the time does.
const SPOKE_MASK: u32 = u32::MAX >> SPOKE_SHIFT;

/// Bytes of memory per connection.
pub(crate) const AGE_BYTES: usize = size_of::<Node>();

/// Where a connection waits to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// In this queue, below [`QUEUES`]: may be given up.
    Queue(u32),
    /// On the wheel.
    Wheel,
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    next: u32,
    previous: u32,
    /// When it is looked at, ms.
    due_ms: u32,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Ages {
    /// Of the slots, the free list, the queues, the wheel.
    nodes: Vec<Node>,
    slots: u32,
    /// Slots that somebody has.
    taken: u32,
    /// The wheel's list that is looked at next, as a count of 16 ms.
    spoke: u32,
}

/// Whether `now_ms` is later than `due_ms`.
#[inline]
fn is_over(now_ms: u32, due_ms: u32) -> bool {
    due_ms.wrapping_sub(now_ms) > u32::MAX / 2
}

impl Ages {
    /// Of slots that nobody has.
    pub(crate) fn new(slots: u32) -> Result<Self, OutOfMemory> {
        let lists = 1 + QUEUES + SPOKES;
        let nodes = filled((slots + lists) as usize, Node::default())?;
        let mut it = Self { nodes, slots, taken: 0, spoke: 0 };
        for list in slots..slots + lists {
            *it.node(list) = Node { next: list, previous: list, due_ms: 0 };
        }
        for slot in 0..slots {
            it.append(it.slots, slot, 0);
        }
        Ok(it)
    }

    #[inline]
    fn node(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    #[inline]
    fn next(&self, at: u32) -> u32 {
        self.nodes[at as usize].next
    }

    fn queue(&self, queue: u32) -> u32 {
        self.slots + 1 + queue % QUEUES
    }

    fn list_of_spoke(&self, spoke: u32) -> u32 {
        self.slots + 1 + QUEUES + spoke % SPOKES
    }

    /// Slots that somebody has.
    pub(crate) fn taken(&self) -> usize {
        self.taken as usize
    }

    /// Puts a slot that is in no list at the end of one.
    #[inline]
    fn append(&mut self, list: u32, slot: u32, due_ms: u32) {
        let last = self.node(list).previous;
        *self.node(slot) = Node { next: list, previous: last, due_ms };
        self.node(last).next = slot;
        self.node(list).previous = slot;
    }

    /// Takes a slot out of its list.
    #[inline]
    fn unlink(&mut self, slot: u32) {
        let Node { next, previous, .. } = *self.node(slot);
        self.node(previous).next = next;
        self.node(next).previous = previous;
    }

    /// The slots that [`Ages::take`] gives next.
    #[inline]
    pub(crate) fn free(&self) -> impl Iterator<Item = u32> {
        self.of(self.slots)
    }

    /// The slots of a list.
    #[inline]
    fn of(&self, list: u32) -> impl Iterator<Item = u32> {
        let slots = std::iter::successors(Some(self.next(list)), |at| Some(self.next(*at)));
        slots.take_while(move |at| *at != list)
    }

    /// A slot that nobody has had; it waits to be looked at.
    #[inline]
    pub(crate) fn take(&mut self, age: Age, due_ms: u32, now_ms: u32) -> Option<u32> {
        let slot = self.free().next()?;
        if self.taken == 0 {
            // However long nothing was tracked.
            self.spoke = now_ms >> SPOKE_SHIFT;
        }
        self.taken += 1;
        self.wait(slot, age, due_ms, now_ms);
        Some(slot)
    }

    /// Nobody has the slot any more.
    #[inline]
    pub(crate) fn give_back(&mut self, slot: u32) {
        self.unlink(slot);
        self.taken -= 1;
        // In front: its line was just used.
        let (free, first) = (self.slots, self.next(self.slots));
        *self.node(slot) = Node { next: first, previous: free, due_ms: 0 };
        self.node(first).previous = slot;
        self.node(free).next = slot;
    }

    /// From now on the slot, whatever it waited for, is looked at after `due_ms`.
    #[inline]
    pub(crate) fn wait(&mut self, slot: u32, age: Age, due_ms: u32, now_ms: u32) {
        self.unlink(slot);
        let list = match age {
            Age::Queue(queue) => self.queue(queue),
            Age::Wheel => {
                let ahead =
                    if is_over(now_ms, due_ms) { 0 } else { due_ms.wrapping_sub(now_ms).min(TURN_MS) };
                let spoke = (now_ms.wrapping_add(ahead) >> SPOKE_SHIFT) + 1;
                // Where the wheel is behind, no list is reached twice in a turn.
                let turn = spoke.wrapping_sub(self.spoke) & SPOKE_MASK;
                self.list_of_spoke(self.spoke.wrapping_add(turn.min(SPOKES - 1)))
            }
        };
        self.append(list, slot, due_ms);
    }

    /// The slot that has been in a queue for longest.
    pub(crate) fn oldest(&self, queue: u32) -> Option<u32> {
        self.of(self.queue(queue)).next()
    }

    /// Fills `out` with slots of one list that are to be looked at now; how many. The caller takes each out of its list, by
    /// [`Ages::wait`] or [`Ages::give_back`], before it asks again.
    pub(crate) fn due(&mut self, now_ms: u32, out: &mut [u32]) -> usize {
        for queue in 0..QUEUES {
            let list = self.queue(queue);
            let count = self.first_of(list, out, |node| is_over(now_ms, node.due_ms));
            if count > 0 {
                return count;
            }
        }
        let now = now_ms >> SPOKE_SHIFT;
        loop {
            let ahead = now.wrapping_sub(self.spoke) & SPOKE_MASK;
            if ahead > SPOKE_MASK / 2 {
                return 0;
            }
            if ahead >= SPOKES {
                self.spoke = now.wrapping_sub(SPOKES - 1) & SPOKE_MASK;
            }
            let count = self.first_of(self.list_of_spoke(self.spoke), out, |_| true);
            if count > 0 {
                return count;
            }
            self.spoke = (self.spoke + 1) & SPOKE_MASK;
        }
    }

    #[inline]
    fn first_of(&self, list: u32, out: &mut [u32], due: impl Fn(&Node) -> bool) -> usize {
        let (mut at, mut count) = (self.next(list), 0);
        for out in out {
            if at == list || !due(&self.nodes[at as usize]) {
                break;
            }
            *out = at;
            at = self.next(at);
            count += 1;
        }
        count
    }

    /// Every slot that somebody has and where it waits, in an order in which they can be taken again.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, Age, u32)> {
        let queues = (0..QUEUES).map(|queue| (self.queue(queue), Age::Queue(queue)));
        let wheel = (0..SPOKES).map(|spoke| (self.list_of_spoke(spoke), Age::Wheel));
        queues.chain(wheel).flat_map(move |(list, age)| {
            self.of(list).map(move |at| (at, age, self.nodes[at as usize].due_ms))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Slots in the order in which they are looked at, until nothing is due.
    fn looked_at(ages: &mut Ages, now_ms: u32) -> Vec<u32> {
        let mut all = Vec::new();
        loop {
            let mut out = [0; 3];
            let count = ages.due(now_ms, &mut out);
            if count == 0 {
                return all;
            }
            for slot in &out[..count] {
                ages.give_back(*slot);
            }
            all.extend_from_slice(&out[..count]);
        }
    }

    #[test]
    fn a_queue_is_in_order_and_the_wheel_within_16_ms() {
        for start in [0, 5, u32::MAX - 30, u32::MAX / 2 - 3] {
            let mut ages = Ages::new(10).unwrap();
            assert_eq!(looked_at(&mut ages, start), [0; 0]);
            let queued: Vec<u32> = (0..3)
                .map(|i| ages.take(Age::Queue(1), start.wrapping_add(i * 10), start).unwrap())
                .collect();
            let wheel = ages.take(Age::Wheel, start.wrapping_add(100), start).unwrap();
            assert_eq!((ages.oldest(1), ages.oldest(0), ages.taken()), (Some(queued[0]), None, 4));
            assert_eq!(looked_at(&mut ages, start), [0; 0], "not later than due");
            assert_eq!(looked_at(&mut ages, start.wrapping_add(11)), queued[..2]);
            assert_eq!(looked_at(&mut ages, start.wrapping_add(100)), queued[2..], "start {start}");
            assert_eq!(looked_at(&mut ages, start.wrapping_add(117)), [wheel]);
            assert_eq!(ages.taken(), 0);
        }
    }

    #[test]
    fn what_is_due_after_a_turn_is_looked_at_after_a_turn() {
        let mut ages = Ages::new(2).unwrap();
        let slot = ages.take(Age::Wheel, 10_000_000, 0).unwrap();
        assert_eq!(looked_at(&mut ages, TURN_MS - 16), [0; 0]);
        let mut out = [0];
        assert_eq!((ages.due(TURN_MS + 32, &mut out), out), (1, [slot]));
        ages.wait(slot, Age::Wheel, 10_000_000, TURN_MS + 32);
        // A jump over many turns.
        assert_eq!(looked_at(&mut ages, 10_000_100), [slot]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_is_early(
            ops in proptest::collection::vec((0u8..4, 0u32..6, 0u32..200_000), 0..300),
            start: u32,
        ) {
            let mut ages = Ages::new(20).unwrap();
            let mut now_ms = start;
            looked_at(&mut ages, now_ms);
            let mut model: Vec<(u32, u32)> = Vec::new();
            for (op, queue, time) in ops {
                let age = if queue < QUEUES { Age::Queue(queue) } else { Age::Wheel };
                // A queue's times are in order.
                let time = if queue < QUEUES { 1000 * (queue + 1) } else { time };
                let due_ms = now_ms.wrapping_add(time);
                match op {
                    0 => match ages.take(age, due_ms, now_ms) {
                        Some(slot) => model.push((slot, due_ms)),
                        None => prop_assert_eq!(model.len(), 20),
                    },
                    1 if !model.is_empty() => {
                        let slot = model.swap_remove(time as usize % model.len()).0;
                        ages.give_back(slot);
                    }
                    2 if !model.is_empty() => {
                        let at = time as usize % model.len();
                        model[at].1 = due_ms;
                        ages.wait(model[at].0, age, due_ms, now_ms);
                    }
                    _ => {
                        now_ms = now_ms.wrapping_add(time / 4);
                        let mut out = [0; 7];
                        while let count @ 1.. = ages.due(now_ms, &mut out) {
                            for slot in &out[..count] {
                                let at = model.iter().position(|(s, _)| s == slot).unwrap();
                                if is_over(now_ms, model[at].1) {
                                    model.swap_remove(at);
                                    ages.give_back(*slot);
                                } else {
                                    ages.wait(*slot, Age::Wheel, model[at].1, now_ms);
                                }
                            }
                        }
                        let late: Vec<_> =
                            model.iter().filter(|(_, due)| is_over(now_ms, due.wrapping_add(16))).collect();
                        prop_assert!(late.is_empty(), "{:?} at {}", late, now_ms);
                    }
                }
                prop_assert_eq!(ages.taken(), model.len());
                let mut all: Vec<u32> = ages.all().map(|(slot, _, _)| slot).collect();
                all.sort_unstable();
                let mut known: Vec<u32> = model.iter().map(|(slot, _)| *slot).collect();
                known.sort_unstable();
                prop_assert_eq!(all, known);
            }
        }
    }
}
