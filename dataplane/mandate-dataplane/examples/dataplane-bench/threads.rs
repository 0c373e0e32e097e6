//! Threads besides the one that is measured, and CPUs for them.

use std::{
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        mpsc::{self, Receiver, Sender},
    },
    thread::Scope,
};

use crate::{
    bench::{Bench, Round, Work},
    cases::Case,
};
use dpdk::{Pool, Registered};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Where the measured thread is.
pub const CPU: usize = 0;
/// All other CPUs.
static OTHERS: OnceLock<CpuSet> = OnceLock::new();

/// Looks which CPUs there are, before DPDK keeps this thread on one.
pub fn look_around() {
    let mut others = sched_getaffinity(Pid::from_raw(0)).unwrap();
    others.unset(CPU).unwrap();
    let is_set = |cpu| others.is_set(cpu).unwrap_or(false);
    if (0..CpuSet::count()).any(is_set) {
        OTHERS.get_or_init(|| others);
    }
}

/// The calling thread leaves the measured one's CPU alone, if there is another.
pub fn elsewhere() {
    if let Some(others) = OTHERS.get() {
        sched_setaffinity(Pid::from_raw(0), others).unwrap();
    }
}

enum Order {
    Load(&'static Case),
    Forget,
    Round(u64),
}

/// A second packet thread, with buffers, function and table of its own.
pub struct Second {
    orders: Sender<Order>,
    answers: Receiver<Round>,
}

impl Second {
    pub fn start<'s>(scope: &'s Scope<'s, '_>, pool: &'s Pool<'_>, directory: &Path) -> Self {
        let (orders, ordered) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let directory: PathBuf = directory.into();
        scope.spawn(move || {
            elsewhere();
            let _known = Registered::this_thread(pool).unwrap();
            let mut bench = None;
            for order in ordered {
                let said = match (order, &mut bench) {
                    (Order::Load(case), _) => {
                        bench = Some(Bench::load(pool, &directory, case, "json"));
                        Round::default()
                    }
                    (Order::Round(count), Some(bench)) => bench.round(count, Work::Decide),
                    (Order::Forget | Order::Round(_), _) => {
                        bench = None;
                        Round::default()
                    }
                };
                answer.send(said).unwrap();
            }
        });
        Self { orders, answers }
    }

    fn ask(&self, order: Order) {
        self.orders.send(order).unwrap();
        self.answers.recv().unwrap();
    }

    pub fn load(&self, case: &'static Case) {
        self.ask(Order::Load(case));
    }

    pub fn forget(&self) {
        self.ask(Order::Forget);
    }

    /// A round of both at the same time: the sum of both rates, each by its thread's CPU time.
    pub fn round(&self, first: &mut Bench<'_>, count: u64) -> Round {
        self.orders.send(Order::Round(count)).unwrap();
        let mut both = first.round(count, Work::Decide);
        both.beside(&self.answers.recv().unwrap());
        both
    }
}
