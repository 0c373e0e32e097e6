//! A port: one receive queue, one transmit queue, owned by value.

use std::{
    ffi::{CString, c_int},
    marker::PhantomData,
    mem::MaybeUninit,
};

use dpdk_sys as sys;

use crate::{BURST, Burst, DpdkError, Pool, eal::error_text, log, pool::ANY_SOCKET};

/// Queue length asked for; the driver may choose another.
const DESCRIPTORS: u16 = 512;
const QUEUE: u16 = 0;

/// An open, started port. Closed when dropped.
#[derive(Debug)]
pub struct Port<'p> {
    name: String,
    number: u16,
    pool: &'p Pool<'p>,
    _this_thread_only: PhantomData<*const ()>,
}

/// What the driver counted since the port was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortStats {
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames lost before the receive queue.
    pub rx_missed: u64,
    /// Received in error.
    pub rx_errors: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Not sent for an error.
    pub tx_errors: u64,
}

/// A port's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Whether frames can pass.
    pub up: bool,
    /// Mbit/s as the driver says; a virtual one makes it up.
    pub speed_mbps: u32,
}

impl<'p> Port<'p> {
    /// Opens and starts the port that a device given to [`crate::Eal::init`] became; received frames are in buffers of
    /// `pool`. Its interface must be up, and promiscuous if frames to other addresses shall come in: see
    /// [`crate::hold_interfaces`].
    pub fn open(pool: &'p Pool<'p>, name: &str) -> Result<Self, DpdkError> {
        let number = find(name)?;
        if !pool.eal.open.borrow_mut().insert(number) {
            return Err(DpdkError::PortTaken { port: name.to_owned() });
        }
        // From here on `Drop` closes it.
        let it = Self { name: name.to_owned(), number, pool, _this_thread_only: PhantomData };
        it.configure()?;
        // SAFETY: a configured port of our own. JUSTIFICATION: set-up call.
        it.step("start", unsafe { sys::rte_eth_dev_start(number) })?;
        Ok(it)
    }

    fn configure(&self) -> Result<(), DpdkError> {
        let number = self.number;
        // SAFETY: zeroes are DPDK's defaults for this plain structure. JUSTIFICATION: C has no other initialiser.
        let config: sys::rte_eth_conf = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: `config` outlives the call, which copies it. JUSTIFICATION: set-up call.
        self.step("configure", unsafe { sys::rte_eth_dev_configure(number, 1, 1, &raw const config) })?;
        let (mut rx, mut tx) = (DESCRIPTORS, DESCRIPTORS);
        // SAFETY: two numbers of ours are read and written. JUSTIFICATION: set-up call.
        self.step("queue sizes", unsafe {
            sys::rte_eth_dev_adjust_nb_rx_tx_desc(number, &raw mut rx, &raw mut tx)
        })?;
        let socket = ANY_SOCKET.cast_unsigned();
        // SAFETY: the pool outlives the port, which borrows it; no queue configuration means the driver's own.
        // JUSTIFICATION: set-up call.
        self.step("receive queue", unsafe {
            sys::rte_eth_rx_queue_setup(number, QUEUE, rx, socket, std::ptr::null(), self.pool.as_ptr())
        })?;
        // SAFETY: as above. JUSTIFICATION: set-up call.
        self.step("transmit queue", unsafe {
            sys::rte_eth_tx_queue_setup(number, QUEUE, tx, socket, std::ptr::null())
        })
    }

    fn step(&self, step: &'static str, result: c_int) -> Result<(), DpdkError> {
        if result >= 0 {
            return Ok(());
        }
        Err(DpdkError::Port {
            port: self.name.clone(),
            step,
            cause: error_text(result),
            log: log::appendix(),
        })
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Receives as many frames as there are and the burst has room for, after those in it; says how many. Does not
    /// wait.
    pub fn rx(&mut self, burst: &mut Burst<'p>) -> usize {
        let room = burst.free_part();
        let most = count(room.len());
        // SAFETY: the port is started and only this thread uses its queue; `room` has `most` slots. DPDK writes that
        // many owned, non-null buffers as it returns. JUSTIFICATION: one call a burst.
        let received =
            usize::from(unsafe { sys::mandate_rx_burst(self.number, QUEUE, room.as_mut_ptr(), most) });
        // SAFETY: just written. JUSTIFICATION: as above.
        unsafe { burst.grow(received) };
        received
    }

    /// Sends from the front of the burst; says how many. What was not sent stays in the burst, in order, to be retried
    /// or dropped.
    pub fn tx(&mut self, burst: &mut Burst<'p>) -> usize {
        if burst.is_empty() {
            return 0;
        }
        let owned = burst.owned_part();
        let most = count(owned.len());
        // SAFETY: the port is started and only this thread uses its queue; the first `sent` buffers belong to the
        // driver afterwards, and `forget_first` gives them up. The port borrows the same pool life as the buffers.
        // JUSTIFICATION: one call a burst.
        let sent =
            usize::from(unsafe { sys::mandate_tx_burst(self.number, QUEUE, owned.as_mut_ptr(), most) });
        burst.forget_first(sent);
        sent
    }

    /// What the driver counted.
    #[must_use]
    pub fn stats(&self) -> PortStats {
        let mut raw = sys::rte_eth_stats::default();
        // SAFETY: writes one structure of ours. JUSTIFICATION: rare.
        if unsafe { sys::rte_eth_stats_get(self.number, &raw mut raw) } != 0 {
            return PortStats::default();
        }
        PortStats {
            rx_frames: raw.ipackets,
            rx_bytes: raw.ibytes,
            rx_missed: raw.imissed,
            rx_errors: raw.ierrors,
            tx_frames: raw.opackets,
            tx_bytes: raw.obytes,
            tx_errors: raw.oerrors,
        }
    }

    /// The link as the driver sees it now.
    #[must_use]
    pub fn link(&self) -> Link {
        let mut speed_mbps = 0;
        // SAFETY: writes one number of ours. JUSTIFICATION: rare.
        let up = unsafe { sys::mandate_link(self.number, &raw mut speed_mbps) } != 0;
        Link { up, speed_mbps }
    }

    /// The interface's own Ethernet address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        let mut raw = sys::rte_ether_addr::default();
        // SAFETY: writes six bytes of ours. JUSTIFICATION: rare.
        unsafe { sys::rte_eth_macaddr_get(self.number, &raw mut raw) };
        raw.addr_bytes
    }
}

impl Drop for Port<'_> {
    fn drop(&mut self) {
        // SAFETY: our own port, not used after this; buffers its queues hold go back to pools it borrows.
        // JUSTIFICATION: sockets and shared memory are released now and not at exit.
        unsafe {
            sys::rte_eth_dev_stop(self.number);
            sys::rte_eth_dev_close(self.number);
        }
        self.pool.eal.open.borrow_mut().remove(&self.number);
    }
}

fn find(name: &str) -> Result<u16, DpdkError> {
    let missing = || DpdkError::NoPort { port: name.to_owned(), log: log::appendix() };
    let text = CString::new(name).map_err(|_| missing())?;
    let mut number = 0;
    // SAFETY: a NUL-terminated name and a number of ours. JUSTIFICATION: set-up call.
    match unsafe { sys::rte_eth_dev_get_port_by_name(text.as_ptr(), &raw mut number) } {
        0 => Ok(number),
        _ => Err(missing()),
    }
}

fn count(length: usize) -> u16 {
    // A burst has at most 32.
    u16::try_from(length.min(BURST)).unwrap_or(0)
}
