//! The processor as the packet functions use it: what it is told of memory, and code compiled for what it can do.
//!
//! Tests: below.

use dataplane_engine::{Machine, Work};

/// This processor.
#[derive(Debug, Clone, Copy)]
pub struct Processor;

impl Machine for Processor {
    #[inline]
    fn prefetch<T>(of: &T) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint: it reads nothing that the program sees and never faults. JUSTIFICATION: per packet; plain reads in its
        // place cost a quarter to a third of all packets (docs/dataplane.md).
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<{ _MM_HINT_T0 }>(std::ptr::from_ref(of).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = of;
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn equal(numbers: &[u16; 8], this: u16) -> u32 {
        use std::arch::x86_64::{
            _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
        };
        // SAFETY: every x86-64 processor has SSE2, and the array is as long as what is read. JUSTIFICATION: per packet; the compiler makes
        // three times as many instructions of a comparison of each.
        let bytes = unsafe {
            let all = _mm_loadu_si128(numbers.as_ptr().cast());
            let same = _mm_cmpeq_epi16(all, _mm_set1_epi16(this.cast_signed()));
            _mm_movemask_epi8(_mm_packs_epi16(same, same))
        };
        bytes.cast_unsigned() & 0xff
    }

    #[inline]
    fn run(work: impl Work) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
        {
            // SAFETY: the processor has what the function is compiled for. JUSTIFICATION: the same work takes a tenth less.
            return unsafe { with_avx2(work) };
        }
        work.done();
    }
}

/// What is inlined into this is compiled for these extensions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn with_avx2(work: impl Work) {
    work.done();
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane_engine::Plain;

    #[test]
    fn what_is_equal_is_so_on_any_machine() {
        let numbers = [1, 0, 0x8000, 1, 0xffff, 7, 0x7fff, 1];
        for this in [0, 1, 2, 7, 0x7fff, 0x8000, 0xff, 0xffff] {
            assert_eq!(Processor::equal(&numbers, this), Plain::equal(&numbers, this), "{this}");
        }
        assert_eq!(Plain::equal(&numbers, 1), 0b1000_1001);
    }

    #[test]
    fn what_is_run_is_done_once_and_what_is_prefetched_stays() {
        struct Count<'m>(&'m mut Vec<u8>);
        impl Work for Count<'_> {
            fn done(self) {
                self.0.iter_mut().for_each(|b| *b += 1);
            }
        }
        let mut memory = vec![7_u8; 1000];
        Processor::prefetch(&memory);
        Processor::run(Count(&mut memory));
        assert!(memory.iter().all(|b| *b == 8));
    }
}
