//! Round trips and arrivals, in memory that is bounded before the run.

/// Round trips below this are counted exactly, µs.
const EXACT: u64 = 1 << EXACT_BITS;
const EXACT_BITS: u32 = 14;
/// Above: buckets per power of two, an error below 0.8 %.
const SUB_BITS: u32 = 7;
/// Longest round trip told apart, µs (over an hour).
const LONGEST: u64 = u32::MAX as u64;
const BUCKETS: usize = (1 << EXACT_BITS) + ((32 - EXACT_BITS as usize) << SUB_BITS);

/// A histogram of round trips.
#[derive(Debug)]
pub(super) struct Histogram {
    counts: Vec<u32>,
    total: u64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }

    pub(super) fn record(&mut self, value_us: u64) {
        if let Some(count) = self.counts.get_mut(bucket(value_us)) {
            *count = count.saturating_add(1);
            self.total += 1;
        }
    }

    /// The smallest value that `percent` of the samples do not exceed (nearest rank); 0 without samples.
    pub(super) fn percentile(&self, percent: u64) -> u64 {
        let rank = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (i, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                return upper(i);
            }
        }
        0
    }
}

fn bucket(value_us: u64) -> usize {
    let value = value_us.min(LONGEST);
    if value < EXACT {
        return usize::try_from(value).unwrap_or(0);
    }
    let octave = value.ilog2();
    let sub = (value >> (octave - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    let beyond = u64::from(octave - EXACT_BITS) << SUB_BITS | sub;
    usize::try_from(EXACT + beyond).unwrap_or(BUCKETS - 1)
}

/// Largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < EXACT {
        return bucket;
    }
    let beyond = bucket - EXACT;
    let shift = EXACT_BITS - SUB_BITS + u32::try_from(beyond >> SUB_BITS).unwrap_or(0);
    let sub = beyond & ((1 << SUB_BITS) - 1);
    (((1 << SUB_BITS) | sub) << shift) + (1 << shift) - 1
}

/// Which frames came back: one bit each, so that a duplicate counts once.
#[derive(Debug)]
pub(super) struct Seen(Vec<u64>);

impl Seen {
    pub(super) fn new(frames: u64) -> Self {
        Self(vec![0; usize::try_from(frames.div_ceil(64)).unwrap_or(0)])
    }

    /// Whether this is the first time.
    pub(super) fn insert(&mut self, sequence: u64) -> bool {
        let word = usize::try_from(sequence / 64).ok().and_then(|i| self.0.get_mut(i));
        let Some(word) = word else { return false };
        let bit = 1 << (sequence % 64);
        let first = *word & bit == 0;
        *word |= bit;
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn percentiles_are_nearest_ranks(mut values in proptest::collection::vec(0u64..2_000_000, 1..300)) {
            let mut histogram = Histogram::new();
            values.iter().for_each(|v| histogram.record(*v));
            values.sort_unstable();
            for percent in [1, 50, 95, 99, 100] {
                let exact = values[(values.len() * percent).div_ceil(100) - 1];
                let got = histogram.percentile(percent as u64);
                prop_assert!(got >= exact && got - exact <= exact / 128, "{got} for {exact}");
                prop_assert!(exact >= EXACT || got == exact);
            }
        }

        #[test]
        fn buckets_are_in_order(a in 0..LONGEST, b in 0..LONGEST) {
            prop_assert!(bucket(a.min(b)) <= bucket(a.max(b)));
            prop_assert!(bucket(a) < BUCKETS && bucket(upper(bucket(a))) == bucket(a));
        }
    }

    #[test]
    fn a_duplicate_counts_once() {
        let mut seen = Seen::new(65);
        assert!(seen.insert(64) && !seen.insert(64) && seen.insert(63) && !seen.insert(128));
        assert_eq!(Histogram::new().percentile(99), 0);
    }
}
