//! What the kernel is told of memory; it changes nothing that is there.
//!
//! Tests: below.

use std::ops::Range;

/// Bytes of a huge page (x86-64 and arm64 with 4 KiB pages).
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Asks the kernel for huge pages at these addresses of ours: with small ones, each line of a large table costs a walk of the page
/// tables besides. A kernel that does not have them, or is set to `never`, gives small ones.
pub fn prefer_huge_pages(addresses: Range<usize>) {
    let start = addresses.start.next_multiple_of(HUGE_PAGE_BYTES);
    let end = addresses.end / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    if start < end {
        let at = std::ptr::without_provenance_mut(start);
        // SAFETY: changes how the pages are backed and not what is in them; addresses without a mapping are an error that
        // nobody needs to hear of. JUSTIFICATION: the standard library has no such call.
        let _advice_only = unsafe { libc::madvise(at, end - start, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_changes_nothing_that_is_there() {
        let mut memory = vec![7_u8; 5 * HUGE_PAGE_BYTES];
        let range = memory.as_ptr_range();
        prefer_huge_pages(range.start.addr()..range.end.addr());
        prefer_huge_pages(3..HUGE_PAGE_BYTES * 2);
        memory[HUGE_PAGE_BYTES + 1] = 8;
        assert_eq!(memory.iter().map(|b| usize::from(*b)).sum::<usize>(), 7 * memory.len() + 1);
    }
}
