//! A port with one or several pairs of a receive and a transmit queue, owned by value: [`Port`], and [`Queue`], which goes to the
//! thread that will use it.

use std::{
    ffi::{CString, c_int},
    marker::PhantomData,
    mem::MaybeUninit,
};

use dpdk_sys as sys;

use crate::{BURST, Burst, DpdkError, Pool, eal::error_text, log, pool::ANY_SOCKET};

/// Queue length asked for; the driver may choose another.
const DESCRIPTORS: u16 = 512;
/// Most queue pairs of a port.
pub const MAX_QUEUES: u16 = 64;
/// Repeated, it makes Toeplitz hashing symmetric: both directions of a connection have the same hash (Woo and Park, 2012).
const SYMMETRIC_KEY: [u8; 2] = [0x6d, 0x5a];
/// Bytes of a key where the device does not say, and at most.
const KEY_BYTES: u8 = 40;
const MAX_KEY_BYTES: usize = 64;

/// An open, started port. Closed when dropped.
#[derive(Debug)]
pub struct Port<'p> {
    name: String,
    number: u16,
    /// Of each receive queue; at least one.
    pools: Vec<&'p Pool<'p>>,
    _this_thread_only: PhantomData<*const ()>,
}

/// A receive queue and a transmit queue of a port, for one thread at a time.
#[derive(Debug)]
pub struct Queue<'q> {
    number: u16,
    queue: u16,
    _port: PhantomData<&'q Port<'q>>,
}

// SAFETY: drivers want each queue used by one thread at a time, whichever it is: a queue is owned by value, and there is one of
// each (`Port::queues` borrows the port mutably). JUSTIFICATION: one thread for each core.
unsafe impl Send for Queue<'_> {}

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
    /// Opens and starts the port that a device given to [`crate::Eal::init`] became, with one queue pair; received frames are
    /// in buffers of `pool`. Its interface must be up, and promiscuous if frames to other addresses shall come in: see
    /// [`crate::hold_interfaces`].
    pub fn open(pool: &'p Pool<'p>, name: &str) -> Result<Self, DpdkError> {
        Self::open_with(vec![pool], name)
    }

    /// [`Port::open`] with a queue pair for each of `pools`. Where the device can, it spreads flows over the queues so that both
    /// directions of each meet in the queue of the same index, here and at another such port; other drivers have their own way.
    pub fn open_with(pools: Vec<&'p Pool<'p>>, name: &str) -> Result<Self, DpdkError> {
        let number = find(name)?;
        let Some(pool) = pools.first() else {
            let problem = "at least one queue, and a pool for each, must be given";
            return Err(DpdkError::Argument { what: "port", text: name.to_owned(), problem });
        };
        if !pool.eal.opened(number) {
            return Err(DpdkError::PortTaken { port: name.to_owned() });
        }
        // From here on `Drop` closes it.
        let it = Self { name: name.to_owned(), number, pools, _this_thread_only: PhantomData };
        it.configure()?;
        // SAFETY: a configured port of our own. JUSTIFICATION: set-up call.
        it.step("start", unsafe { sys::rte_eth_dev_start(number) })?;
        Ok(it)
    }

    fn configure(&self) -> Result<(), DpdkError> {
        let number = self.number;
        let queues = self.queue_count();
        let mut device = sys::rte_eth_dev_info::default();
        // SAFETY: writes one structure of ours. JUSTIFICATION: set-up call.
        self.step("device information", unsafe { sys::rte_eth_dev_info_get(number, &raw mut device) })?;
        let most = device.max_rx_queues.min(device.max_tx_queues).min(MAX_QUEUES);
        if queues > most {
            let cause =
                format!("{queues} queues are wanted, one for each packet thread, and it has {most} at most");
            return Err(self.failed("queues", cause));
        }
        let mut key = SYMMETRIC_KEY.repeat(MAX_KEY_BYTES / SYMMETRIC_KEY.len());
        let config = self.device_config(&device, &mut key);
        // SAFETY: `config` and the key it points to outlive the call, which copies them. JUSTIFICATION: set-up call.
        self.step("configure", unsafe {
            sys::rte_eth_dev_configure(number, queues, queues, &raw const config)
        })?;
        let (mut rx, mut tx) = (DESCRIPTORS, DESCRIPTORS);
        // SAFETY: two numbers of ours are read and written. JUSTIFICATION: set-up call.
        self.step("queue sizes", unsafe {
            sys::rte_eth_dev_adjust_nb_rx_tx_desc(number, &raw mut rx, &raw mut tx)
        })?;
        let socket = ANY_SOCKET.cast_unsigned();
        for (queue, pool) in (0..queues).zip(&self.pools) {
            // SAFETY: the pool outlives the port, which borrows it; no queue configuration means the driver's own.
            // JUSTIFICATION: set-up call.
            self.step("receive queue", unsafe {
                sys::rte_eth_rx_queue_setup(number, queue, rx, socket, std::ptr::null(), pool.as_ptr())
            })?;
            // SAFETY: as above. JUSTIFICATION: set-up call.
            self.step("transmit queue", unsafe {
                sys::rte_eth_tx_queue_setup(number, queue, tx, socket, std::ptr::null())
            })?;
        }
        Ok(())
    }

    /// DPDK's defaults, and symmetric hashing if there are several queues and the device hashes. It points to `key`.
    fn device_config(&self, device: &sys::rte_eth_dev_info, key: &mut [u8]) -> sys::rte_eth_conf {
        // SAFETY: zeroes are DPDK's defaults for this plain structure. JUSTIFICATION: C has no other initialiser.
        let mut config: sys::rte_eth_conf = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: returns numbers. JUSTIFICATION: macros of DPDK's headers, which differ between releases.
        let (mode, fields) = unsafe { (sys::mandate_mq_rss(), sys::mandate_rss_fields()) };
        let fields = fields & device.flow_type_rss_offloads;
        if self.pools.len() > 1 && fields != 0 {
            let bytes = if device.hash_key_size == 0 { KEY_BYTES } else { device.hash_key_size };
            config.rxmode.mq_mode = mode;
            config.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
            config.rx_adv_conf.rss_conf.rss_key_len = bytes.min(u8::try_from(key.len()).unwrap_or(KEY_BYTES));
            config.rx_adv_conf.rss_conf.rss_hf = fields;
        }
        config
    }

    fn queue_count(&self) -> u16 {
        u16::try_from(self.pools.len()).unwrap_or(u16::MAX)
    }

    fn failed(&self, step: &'static str, cause: String) -> DpdkError {
        DpdkError::Port { port: self.name.clone(), step, cause, log: log::appendix() }
    }

    /// Gives the port up as it is, and with it its buffers' pool and the EAL, until the process ends, which should be soon. For
    /// drivers that cannot be closed while their peer is: memif's is told of that by DPDK's interrupt thread, which then uses what
    /// closing frees (DPDK 22.11).
    pub fn abandon(self) {
        std::mem::forget(self);
    }

    /// Its queue pairs, each for a thread; the buffers of each come from the pool it was opened with.
    pub fn queues(&mut self) -> Vec<Queue<'_>> {
        let number = self.number;
        (0..self.queue_count()).map(|queue| Queue { number, queue, _port: PhantomData }).collect()
    }

    /// The first queue pair, for a thread that has all of the port.
    fn first(&self) -> Queue<'p> {
        Queue { number: self.number, queue: 0, _port: PhantomData }
    }

    fn step(&self, step: &'static str, result: c_int) -> Result<(), DpdkError> {
        if result >= 0 {
            return Ok(());
        }
        Err(self.failed(step, error_text(result)))
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// [`Queue::rx`] of the first queue.
    pub fn rx(&mut self, burst: &mut Burst<'p>) -> usize {
        self.first().rx(burst)
    }

    /// [`Queue::tx`] of the first queue.
    pub fn tx(&mut self, burst: &mut Burst<'p>) -> usize {
        self.first().tx(burst)
    }

    /// [`Queue::stats`].
    #[must_use]
    pub fn stats(&self) -> PortStats {
        self.first().stats()
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

impl<'q> Queue<'q> {
    /// Whether it is the port's first.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.queue == 0
    }

    /// Receives as many frames as there are and the burst has room for, after those in it; says how many. Does not
    /// wait.
    pub fn rx(&mut self, burst: &mut Burst<'q>) -> usize {
        let room = burst.free_part();
        let most = count(room.len());
        // SAFETY: the port is started and only this thread uses its queue; `room` has `most` slots. DPDK writes that
        // many owned, non-null buffers as it returns. JUSTIFICATION: one call a burst.
        let received =
            usize::from(unsafe { sys::mandate_rx_burst(self.number, self.queue, room.as_mut_ptr(), most) });
        // SAFETY: just written. JUSTIFICATION: as above.
        unsafe { burst.grow(received) };
        received
    }

    /// Sends from the front of the burst; says how many. What was not sent stays in the burst, in order, to be retried
    /// or dropped.
    pub fn tx(&mut self, burst: &mut Burst<'q>) -> usize {
        if burst.is_empty() {
            return 0;
        }
        let owned = burst.owned_part();
        let most = count(owned.len());
        // SAFETY: the port is started and only this thread uses its queue; the first `sent` buffers belong to the
        // driver afterwards, and `forget_first` gives them up. The port borrows the same pool life as the buffers.
        // JUSTIFICATION: one call a burst.
        let sent =
            usize::from(unsafe { sys::mandate_tx_burst(self.number, self.queue, owned.as_mut_ptr(), most) });
        burst.forget_first(sent);
        sent
    }

    /// What the driver counted, over all queues of the port.
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
}

impl Drop for Port<'_> {
    fn drop(&mut self) {
        // SAFETY: our own port, not used after this; buffers its queues hold go back to pools it borrows.
        // JUSTIFICATION: sockets and shared memory are released now and not at exit.
        unsafe {
            sys::rte_eth_dev_stop(self.number);
            sys::rte_eth_dev_close(self.number);
        }
        if let Some(pool) = self.pools.first() {
            pool.eal.closed(self.number);
        }
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
