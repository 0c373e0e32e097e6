//! What a processor and a kernel are asked for that changes nothing but speed.
//!
//! The engine has no unsafe code, and both need some: whoever runs it brings them ([`crate::build_on`], [`set_huge_pages`]).

use std::{mem::MaybeUninit, ops::Range, sync::OnceLock};

/// How a processor is told what is read soon.
pub trait Machine: Send + 'static {
    /// Brings the line of this value nearer.
    fn prefetch<T>(of: &T);

    /// Which of some numbers are this one: a bit each, the lowest the first's.
    #[inline]
    fn equal(numbers: &[u16; 8], this: u16) -> u32 {
        numbers.iter().rev().fold(0, |bits, number| bits << 1 | u32::from(*number == this))
    }

    /// Does this work, compiled for what the processor can do if it is not every processor's.
    #[inline]
    fn run(work: impl Work) {
        work.done();
    }
}

/// What is compiled anew for each kind of processor, if it is always inlined.
pub trait Work {
    /// Does it.
    fn done(self);
}

/// A machine that is told nothing.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Machine for Plain {
    #[inline]
    fn prefetch<T>(_: &T) {}
}

static HUGE_PAGES: OnceLock<fn(Range<usize>)> = OnceLock::new();

/// From now on the addresses of tables are told to `advise` before they are used, so that it can ask the kernel for huge pages there.
/// The first call counts.
pub fn set_huge_pages(advise: fn(Range<usize>)) {
    // Whoever comes second asks for the same.
    let _set_before = HUGE_PAGES.set(advise);
}

/// A table will be here.
pub(crate) fn announce<T>(memory: &mut [MaybeUninit<T>]) {
    if let Some(advise) = HUGE_PAGES.get() {
        let range = memory.as_ptr_range();
        advise(range.start.addr()..range.end.addr());
    }
}
