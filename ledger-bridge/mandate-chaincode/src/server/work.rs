//! Threads that run transactions' code: it computes for milliseconds at a time, which is not for the threads of the
//! network. They live as long as the server, for what the contract has verified a thread remembers.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

/// Something to run.
type Job = Box<dyn FnOnce() + Send>;

/// The threads.
pub(super) struct Workers {
    jobs: mpsc::Sender<Job>,
}

impl Workers {
    /// Starts so many. They end when this is dropped.
    pub fn start(threads: usize) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for n in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name(format!("decide-{n}")).spawn(move || run(&queue))?;
        }
        Ok(Self { jobs })
    }

    /// Runs something, soon. How much waits is bounded by the transactions that may run.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The threads end after this.
        drop(self.jobs.send(Box::new(job)));
    }
}

fn run(queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // One transaction's fault is not the others'; it is given up when its time is over.
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a transaction's code has a fault and was ended");
        }
    }
}
