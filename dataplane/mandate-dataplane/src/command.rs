//! What other threads ask of the worker: a bounded queue, looked at once per burst, and a pipe that wakes it.
//!
//! The worker owns everything it works with, so nothing is locked on the packet path and an answer is always of one
//! moment. It answers between two bursts, within microseconds, or within its [`ANSWER_WITHIN`].

use std::{
    io::{self, PipeReader, PipeWriter, Read, Write},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    time::Duration,
};

use dataplane_control::{protocol::Status, sync::Told, traffic::TrafficReport};
use dataplane_engine::traffic::Session;

use crate::{
    error::Refusal,
    report::{Next, Report, Running, Swapped, merged},
    telemetry::capture::Tap,
};

/// Commands waiting at once; there are at most a handful of connections, each with one request.
const QUEUE: usize = 32;
/// Longest time a running worker may take to answer: a connection table of the largest size, moved.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Where an answer goes. The asker may have given up.
pub type Reply<T> = SyncSender<Result<T, Refusal>>;

/// A command.
pub enum Command {
    /// What runs now?
    Status { reply: Reply<Report> },
    /// What is the next configuration prepared against?
    Running { reply: Reply<Running> },
    /// Swap the configuration.
    Configure { next: Box<Next>, reply: Reply<Swapped> },
    /// Cut or restore traffic.
    Isolate { on: bool, reply: Reply<Report> },
    /// Tell the link whose addresses are here.
    Announce { reply: Reply<Report> },
    /// New randomness for the function's secrets.
    Reseed { seed: u64 },
    /// Take connections that another process told; they come back to be freed.
    Adopt { part: usize, told: Vec<Told>, reply: Reply<Vec<Told>> },
    /// Copy frames from now on.
    Capture { tap: Box<Tap>, reply: Reply<()> },
    /// Send traffic; answered when it is over.
    Run { session: Box<Session>, reply: Reply<TrafficReport> },
    /// Drain and end.
    Shutdown,
}

/// The asking side.
#[derive(Clone)]
pub struct Handle {
    queue: SyncSender<Command>,
    bell: Arc<PipeWriter>,
}

/// The worker's side.
pub struct Inbox {
    queue: Receiver<Command>,
    /// Readable when there may be a command.
    pub bell: PipeReader,
}

/// Both sides.
pub fn channel() -> io::Result<(Handle, Inbox)> {
    let (sender, queue) = mpsc::sync_channel(QUEUE);
    let (bell, ringer) = io::pipe()?;
    Ok((Handle { queue: sender, bell: Arc::new(ringer) }, Inbox { queue, bell }))
}

impl Handle {
    /// Asks and waits for the answer, at most `within`.
    pub fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command, within: Duration) -> Result<T, Refusal> {
        let (reply, answer) = mpsc::sync_channel(1);
        let gone = || Refusal::new("SHUTTING_DOWN", "the data plane is shutting down; start it again");
        self.send(command(reply)).map_err(|()| gone())?;
        match answer.recv_timeout(within) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
            Err(RecvTimeoutError::Timeout) => Err(Refusal::new(
                "WORKER_STALLED",
                format!(
                    "the packet thread did not answer within {} s; restart the process",
                    within.as_secs()
                ),
            )),
        }
    }

    /// Asks for the end.
    pub fn shutdown(&self) {
        // A worker that is gone has ended already.
        let _ = self.send(Command::Shutdown);
    }

    fn send(&self, command: Command) -> Result<(), ()> {
        self.queue.send(command).map_err(|_| ())?;
        (&*self.bell).write_all(&[0]).map_err(|_| ())
    }
}

/// The asking side of all packet threads, in their order; at least one.
#[derive(Clone)]
pub struct Workers(Arc<[Handle]>);

impl Workers {
    /// `None` without any.
    pub fn new(all: Vec<Handle>) -> Option<Self> {
        if all.is_empty() { None } else { Some(Self(all.into())) }
    }

    /// Each of them.
    pub fn each(&self) -> &[Handle] {
        &self.0
    }

    /// Asks each, and adds their reports up.
    pub fn status(&self, command: impl Fn(Reply<Report>) -> Command) -> Result<Status, Refusal> {
        let reports: Vec<Report> =
            self.0.iter().map(|one| one.ask(&command, ANSWER_WITHIN)).collect::<Result<_, _>>()?;
        merged(&reports).ok_or_else(|| Refusal::new("SHUTTING_DOWN", "no packet thread is left"))
    }

    /// Gives all of them the same new randomness: whichever sees the answer to a packet knows it. False: one is gone.
    pub fn reseed(&self, seed: u64) -> bool {
        self.0.iter().all(|one| one.send(Command::Reseed { seed }).is_ok())
    }

    /// Asks all of them for the end.
    pub fn shutdown(&self) {
        self.0.iter().for_each(Handle::shutdown);
    }
}

impl Inbox {
    /// The next command, if any.
    pub fn next(&self) -> Option<Command> {
        self.queue.try_recv().ok()
    }

    /// Takes the rings out of the pipe; to be called when it is readable, or it blocks.
    pub fn silence(&mut self) -> io::Result<()> {
        self.bell.read(&mut [0; 2 * QUEUE]).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_back_and_a_missing_worker_is_said() {
        let (handle, mut inbox) = channel().unwrap();
        let worker = std::thread::spawn(move || {
            inbox.silence().unwrap();
            while let Some(command) = inbox.next() {
                if let Command::Isolate { reply, on } = command {
                    reply.send(Err(Refusal::new("TEST", on.to_string()))).unwrap();
                }
            }
        });
        let answer = handle.ask(|reply| Command::Isolate { on: true, reply }, ANSWER_WITHIN);
        assert_eq!(answer.unwrap_err(), Refusal::new("TEST", "true"));
        worker.join().unwrap();
        let late = handle.ask(|reply| Command::Status { reply }, ANSWER_WITHIN);
        assert_eq!(late.unwrap_err().code, "SHUTTING_DOWN");
    }

    #[test]
    fn a_worker_that_does_not_answer_is_said_to_be_stalled() {
        let (handle, _inbox) = channel().unwrap();
        let answer = handle.ask(|reply| Command::Status { reply }, Duration::from_millis(10));
        assert_eq!(answer.unwrap_err().code, "WORKER_STALLED");
    }
}
