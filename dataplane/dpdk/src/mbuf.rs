//! Packet buffers: [`Mbuf`], one of them, and [`Burst`], up to [`BURST`] of them in order.
//!
//! Neither is `Send`, `Sync` nor `Clone`. A buffer is in exactly one place: with its owner here, in a driver's queue, or
//! in its pool; `Drop` puts it back. Tests: `tests/null.rs` and `tests/ring.rs` (every buffer back at the end).

use std::{iter::FusedIterator, marker::PhantomData, ptr, ptr::NonNull, slice};

use dataplane_engine::Frame;
use dpdk_sys::{mandate_mbuf, rte_mbuf};

use crate::Pool;

/// Packets handled at once: what one waits for from memory the others wait for at the same time. Drivers see it as their largest
/// request.
pub const BURST: usize = 64;

/// One packet buffer.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf<'p> {
    raw: NonNull<rte_mbuf>,
    _pool: PhantomData<&'p Pool<'p>>,
}

impl Mbuf<'_> {
    #[inline]
    fn header(&self) -> &mandate_mbuf {
        // SAFETY: an owned buffer's header is valid and nobody else writes it; the C compiler has asserted that its
        // fields are where `mandate_mbuf` has them. JUSTIFICATION: per packet, so a field access and not a call into C
        // (3 ns each).
        unsafe { self.raw.cast().as_ref() }
    }

    #[inline]
    fn data(&self) -> *mut u8 {
        let header = self.header();
        header.buf_addr.cast::<u8>().wrapping_add(usize::from(header.data_off))
    }

    /// Whether the frame is all in this buffer; [`Mbuf::frame`] shows the first part only if it is not.
    #[must_use]
    #[inline]
    pub fn is_contiguous(&self) -> bool {
        self.header().nb_segs == 1
    }

    /// Bytes of the frame.
    #[must_use]
    #[inline]
    pub fn len(&self) -> u16 {
        self.header().data_len
    }

    /// No bytes: as allocated.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes a frame in this buffer may have.
    #[must_use]
    pub fn capacity(&self) -> u16 {
        self.header().buf_len.saturating_sub(self.header().data_off)
    }

    /// The frame.
    #[must_use]
    #[inline]
    pub fn frame(&self) -> &[u8] {
        // SAFETY: DPDK keeps data_off + data_len within the buffer, and `set_len` does; the bytes are initialised
        // memory of the pool. JUSTIFICATION: frames are read in place, never copied.
        unsafe { slice::from_raw_parts(self.data(), usize::from(self.len())) }
    }

    /// The frame, to change in place.
    #[must_use]
    #[inline]
    pub fn frame_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `frame`; the buffer is ours alone. JUSTIFICATION: as in `frame`.
        unsafe { slice::from_raw_parts_mut(self.data(), usize::from(self.len())) }
    }

    /// Empty, and where a frame begins in a buffer that was just allocated.
    pub fn reset(&mut self) {
        let headroom = u16::try_from(dpdk_sys::RTE_PKTMBUF_HEADROOM).unwrap_or(u16::MAX);
        self.place(Some(usize::from(headroom)), 0);
    }

    /// Makes the frame longer (the new bytes are whatever was there) or shorter; false, and no change, if it does not
    /// fit or the frame is in several buffers.
    #[must_use]
    #[inline]
    pub fn set_len(&mut self, length: u16) -> bool {
        if length > self.capacity() || !self.is_contiguous() {
            return false;
        }
        let header = self.header_mut();
        header.data_len = length;
        header.pkt_len = u32::from(length);
        true
    }

    fn header_mut(&mut self) -> &mut mandate_mbuf {
        // SAFETY: as in `header`, and it is ours alone. JUSTIFICATION: as in `header`.
        unsafe { self.raw.cast().as_mut() }
    }

    /// Moves the frame to other bytes of the buffer; false, and no change, if they are not in it.
    fn place(&mut self, begin: Option<usize>, length: usize) -> bool {
        let Some(begin) = begin.filter(|b| b + length <= usize::from(self.header().buf_len)) else {
            return false;
        };
        let (Ok(begin), Ok(length)) = (u16::try_from(begin), u16::try_from(length)) else { return false };
        if !self.is_contiguous() {
            return false;
        }
        let header = self.header_mut();
        header.data_off = begin;
        header.data_len = length;
        header.pkt_len = u32::from(length);
        true
    }
}

/// Of a frame that is all in this buffer: of another one it is the first part, and nothing but its bytes can be changed.
impl Frame for Mbuf<'_> {
    #[inline]
    fn bytes(&self) -> &[u8] {
        self.frame()
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.frame_mut()
    }

    fn prepend(&mut self, count: usize) -> bool {
        let (begin, length) = (usize::from(self.header().data_off), usize::from(self.len()));
        self.place(begin.checked_sub(count), length + count)
    }

    fn trim_front(&mut self, count: usize) -> bool {
        let (begin, length) = (usize::from(self.header().data_off), usize::from(self.len()));
        match length.checked_sub(count) {
            Some(rest) if rest > 0 => self.place(Some(begin + count), rest),
            _ => false,
        }
    }

    #[inline]
    fn resize(&mut self, length: usize) -> bool {
        u16::try_from(length).is_ok_and(|length| self.set_len(length))
    }
}

impl Drop for Mbuf<'_> {
    fn drop(&mut self) {
        let mut raw = self.raw.as_ptr();
        // SAFETY: ours, and not used after this. JUSTIFICATION: goes back to its pool, not to the allocator.
        unsafe { dpdk_sys::mandate_free_bulk(&raw mut raw, 1) };
    }
}

/// Up to [`BURST`] buffers, in order.
#[derive(Debug)]
pub struct Burst<'p> {
    /// The first `length` are owned and not null.
    raw: [*mut rte_mbuf; BURST],
    length: usize,
    _pool: PhantomData<&'p Pool<'p>>,
}

impl Default for Burst<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'p> Burst<'p> {
    /// Empty.
    #[must_use]
    pub const fn new() -> Self {
        Self { raw: [ptr::null_mut(); BURST], length: 0, _pool: PhantomData }
    }

    /// Buffers in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether there is room for none.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.length == BURST
    }

    /// Adds a buffer at the end; gives it back if the burst is full.
    pub fn push(&mut self, buffer: Mbuf<'p>) -> Result<(), Mbuf<'p>> {
        let Some(slot) = self.raw.get_mut(self.length) else { return Err(buffer) };
        *slot = buffer.raw.as_ptr();
        std::mem::forget(buffer);
        self.length += 1;
        Ok(())
    }

    /// Takes all buffers out, first in first out; those not taken go back to their pools.
    pub fn drain(&mut self) -> Drain<'_, 'p> {
        let end = std::mem::take(&mut self.length);
        Drain { burst: self, next: 0, end }
    }

    /// The buffers, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Mbuf<'p>> {
        let owned = &self.raw[..self.length];
        // SAFETY: an `Mbuf` is a transparent non-null pointer and those below `length` are owned, not null, and stay
        // so while borrowed. JUSTIFICATION: in-place access without a wrapper array.
        unsafe { slice::from_raw_parts(owned.as_ptr().cast::<Mbuf<'p>>(), owned.len()) }.iter()
    }

    /// The buffers, in order, to change in place.
    pub fn buffers_mut(&mut self) -> &mut [Mbuf<'p>] {
        let owned = &mut self.raw[..self.length];
        // SAFETY: as in `iter`; whatever is put in the place of a buffer is one, too. JUSTIFICATION: as in `iter`.
        unsafe { slice::from_raw_parts_mut(owned.as_mut_ptr().cast::<Mbuf<'p>>(), owned.len()) }
    }

    /// Puts all buffers back into their pools.
    pub fn clear(&mut self) {
        let owned = std::mem::take(&mut self.length);
        free(&mut self.raw[..owned]);
    }

    pub(crate) fn free_part(&mut self) -> &mut [*mut rte_mbuf] {
        &mut self.raw[self.length..]
    }

    pub(crate) fn owned_part(&mut self) -> &mut [*mut rte_mbuf] {
        &mut self.raw[..self.length]
    }

    /// # Safety
    /// The first `count` of [`Self::free_part`] must be valid buffers nobody else owns.
    pub(crate) unsafe fn grow(&mut self, count: usize) {
        self.length += count;
    }

    /// Forgets the first `count` buffers, which a driver owns now, and closes the gap.
    pub(crate) fn forget_first(&mut self, count: usize) {
        self.raw.copy_within(count..self.length, 0);
        self.length -= count;
    }
}

impl Drop for Burst<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What [`Burst::drain`] gives.
#[derive(Debug)]
pub struct Drain<'b, 'p> {
    burst: &'b mut Burst<'p>,
    next: usize,
    end: usize,
}

impl<'p> Iterator for Drain<'_, 'p> {
    type Item = Mbuf<'p>;

    fn next(&mut self) -> Option<Mbuf<'p>> {
        if self.next == self.end {
            return None;
        }
        let raw = NonNull::new(self.burst.raw[self.next])?;
        self.next += 1;
        Some(Mbuf { raw, _pool: PhantomData })
    }
}

impl FusedIterator for Drain<'_, '_> {}

impl Drop for Drain<'_, '_> {
    fn drop(&mut self) {
        free(&mut self.burst.raw[self.next..self.end]);
    }
}

/// Frees buffers the caller owned and forgets.
fn free(buffers: &mut [*mut rte_mbuf]) {
    let Ok(count) = u32::try_from(buffers.len()) else { return };
    if count > 0 {
        // SAFETY: callers pass owned buffers and have given up their count of them before. JUSTIFICATION: one call a
        // burst.
        unsafe { dpdk_sys::mandate_free_bulk(buffers.as_mut_ptr(), count) };
    }
}
