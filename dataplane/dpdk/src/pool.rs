//! Pools of packet buffers.

use std::{
    ffi::CString,
    marker::PhantomData,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{BURST, DpdkError, Eal, Mbuf, eal::last_error, log, mbuf::Burst};

/// Largest frame a buffer holds, bytes: 2 KiB, a driver's usual receive unit.
pub const MAX_FRAME_BYTES: u16 = 2048;
/// Most buffers of a pool (4 GiB of ordinary pages, as none crosses a page).
pub const MAX_BUFFERS: u32 = 1 << 20;
/// Most buffers kept aside per core; DPDK wants 1.5 times of it to be at most the pool.
const MAX_CACHE: u32 = 256;

/// Packet buffers of one size. Everything that comes from it borrows it.
#[derive(Debug)]
pub struct Pool<'e> {
    raw: NonNull<dpdk_sys::rte_mempool>,
    pub(crate) eal: &'e Eal,
}

// SAFETY: DPDK's pools are for many threads at once: their ring takes several producers and consumers, and what is kept aside
// for a core belongs to the one thread that is registered as it (`Registered`). The EAL behind it is only asked which ports are
// open, under a lock. JUSTIFICATION: packet threads allocate and free, one pool each.
unsafe impl Sync for Pool<'_> {}

/// A thread that DPDK knows, so that pools keep buffers aside for it; until this is dropped, on the same thread.
#[derive(Debug)]
pub struct Registered(PhantomData<*const ()>);

impl Registered {
    /// Registers the calling thread, unless it is the one that started the EAL, which is known already.
    pub fn this_thread(_eal_runs: &Pool<'_>) -> Result<Self, DpdkError> {
        // SAFETY: the EAL runs, as the pool shows. JUSTIFICATION: without it, every buffer is taken from the shared ring.
        match unsafe { dpdk_sys::rte_thread_register() } {
            0 => Ok(Self(PhantomData)),
            _ => Err(DpdkError::Thread { cause: last_error() }),
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: this thread was registered, and nothing of the pools' is kept by it. JUSTIFICATION: the number goes back.
        unsafe { dpdk_sys::rte_thread_unregister() };
    }
}

impl<'e> Pool<'e> {
    /// A pool of `buffers` (a power of two less one wastes nothing), each for a frame of [`MAX_FRAME_BYTES`].
    pub fn new(eal: &'e Eal, buffers: u32) -> Result<Self, DpdkError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let fail = |cause| DpdkError::Pool { buffers, cause, log: log::appendix() };
        if !(1..=MAX_BUFFERS).contains(&buffers) {
            return Err(fail(format!("1 to {MAX_BUFFERS} are possible")));
        }
        let name = CString::new(format!("pool{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
            .map_err(|e| fail(e.to_string()))?;
        let cache = (buffers / 2).min(MAX_CACHE);
        let room = MAX_FRAME_BYTES.saturating_add(headroom());
        // SAFETY: the EAL runs, as `eal` shows; the name is NUL-terminated and copied. JUSTIFICATION: the only way to
        // memory that drivers accept.
        let raw =
            unsafe { dpdk_sys::rte_pktmbuf_pool_create(name.as_ptr(), buffers, cache, 0, room, ANY_SOCKET) };
        NonNull::new(raw).map(|raw| Self { raw, eal }).ok_or_else(|| fail(last_error()))
    }

    /// An empty buffer, or `None` when all are in use.
    pub fn alloc(&self) -> Option<Mbuf<'_>> {
        let mut one = Burst::new();
        self.fill(&mut one, 1);
        one.drain().next()
    }

    /// Adds up to `count` empty buffers to the burst, all or none; says how many.
    pub fn fill<'p>(&'p self, burst: &mut Burst<'p>, count: usize) -> usize {
        let count = count.min(BURST - burst.len());
        let Ok(wanted) = u32::try_from(count) else { return 0 };
        // SAFETY: the free part of the burst has room for `count` pointers, and DPDK writes all of them or none, each
        // to a buffer that is ours from then on. JUSTIFICATION: one call a burst instead of one a packet.
        let result =
            unsafe { dpdk_sys::mandate_alloc_bulk(self.as_ptr(), burst.free_part().as_mut_ptr(), wanted) };
        if result != 0 {
            return 0;
        }
        // SAFETY: just written. JUSTIFICATION: as above.
        unsafe { burst.grow(count) };
        count
    }

    /// Buffers that are not in the pool: held by us or by drivers.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives. JUSTIFICATION: the only way to ask.
        unsafe { dpdk_sys::rte_mempool_in_use_count(self.as_ptr()) }
    }

    pub(crate) fn as_ptr(&self) -> *mut dpdk_sys::rte_mempool {
        self.raw.as_ptr()
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        // A port can be forgotten (`mem::forget`) and outlive its borrow: then its driver still holds buffers.
        if !self.eal.is_quiet() {
            return;
        }
        // SAFETY: no port is open and buffers borrow the pool, so nobody uses one of its buffers after this.
        // JUSTIFICATION: memory of the EAL is not the allocator's.
        unsafe { dpdk_sys::rte_mempool_free(self.as_ptr()) };
    }
}

/// `SOCKET_ID_ANY`: whichever NUMA node has memory.
pub(crate) const ANY_SOCKET: i32 = -1;

fn headroom() -> u16 {
    u16::try_from(dpdk_sys::RTE_PKTMBUF_HEADROOM).unwrap_or(u16::MAX)
}
