//! What can go wrong at the ledger port, where, and what to do about it.

use std::{io, path::PathBuf};

use ledger_contract::{contract::Malformed, records::Verdict};
use trust::{UnixTime, note::NoteError};

/// Why a call to the ledger has no result. A refusal by policy is not an error: it is an entry, unless nobody that the
/// ledger knows has asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The envelope is no request; nothing was recorded.
    #[error("the ledger takes no such request; nothing was recorded: {0}")]
    Malformed(#[source] Malformed),
    /// Refused before it was known who asks; nothing was recorded, for otherwise any stranger could make the log grow.
    #[error("the ledger refuses the request ({}): {}; nothing was recorded: sign it with an identity of one of the ledger's organisations", .verdict.code(), .verdict.detail())]
    Unauthenticated {
        /// The contract's verdict, with every rule.
        verdict: Box<Verdict>,
    },
    /// The machine's clock has jumped ahead since the log was opened.
    #[error(
        "the clock shows {shows}, but by the machine's uptime since the ledger was opened it is {expected}; nothing was recorded: set the clock right and try again, or restart `mandate serve` if it is right now"
    )]
    Clock {
        /// What it shows.
        shows: UnixTime,
        /// What it should show.
        expected: UnixTime,
    },
    /// The clock is further ahead of the last entry than a ledger is usually idle.
    #[error("the clock shows {shows}, but the last entry of the ledger in {} is of {last}: set the clock right, or confirm it with `mandate serve --accept-clock`; ledger time never goes back", .dir.display())]
    ClockAtOpening {
        /// The ledger's directory.
        dir: PathBuf,
        /// What the clock shows.
        shows: UnixTime,
        /// Time of the last entry.
        last: UnixTime,
    },
    /// The log is closed: shut down, or stopped after an error of its storage.
    #[error("the ledger is closed: {reason}; open it again, then submit the same envelope again")]
    Closed {
        /// Why.
        reason: String,
    },
    /// Who keeps the ledger does not answer, or says that it cannot.
    #[error("the ledger `{ledger}` cannot be reached: {problem}")]
    Unavailable {
        /// Its name.
        ledger: String,
        /// Why, and what is known of what was asked for.
        problem: String,
    },
    /// Who keeps the ledger refuses, and would again.
    #[error("the ledger `{ledger}` refuses: {problem}")]
    Refused {
        /// Its name.
        ledger: String,
        /// Why.
        problem: String,
    },
    /// A shared ledger keeps the digest of an entry's request; the request itself is with who submitted it.
    #[error(
        "entry {position} cannot be shown: its request is not kept here; ask who submitted it, and submit the same request here"
    )]
    Elsewhere {
        /// Which entry.
        position: u64,
    },
    /// An operation on a file failed.
    #[error("cannot {doing} {}; nothing that was not confirmed counts as committed", .path.display())]
    Storage {
        /// `open`, `append to`, `sync`, …
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no room for the file.
    #[error("cannot {doing} {}: the disk is full; nothing that was not confirmed counts as committed: make room, then start again", .path.display())]
    Full {
        /// `append to`, `write`, …
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The derived state failed. It is made again from the log.
    #[error(
        "the ledger's derived state cannot be used: {problem}; start again: what is damaged is made again from the log"
    )]
    State {
        /// What is wrong.
        problem: String,
    },
    /// The entry would be too long.
    #[error(
        "the entry would have {bytes} bytes, more than {most}; nothing was recorded: make the request smaller"
    )]
    TooLarge {
        /// How long.
        bytes: usize,
        /// How long it may be.
        most: usize,
    },
    /// Somebody else writes this log.
    #[error("the ledger in {} is in use by another process; stop that one first (its lock is {})", .dir.display(), .lock.display())]
    Locked {
        /// The ledger's directory.
        dir: PathBuf,
        /// The lock file.
        lock: PathBuf,
    },
    /// `init` where something already is.
    #[error("{} is not empty; a ledger is only created in a new or empty directory", .dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// A backup into the ledger that it is of.
    #[error("{} is in the ledger itself; a backup needs a directory of its own", .dir.display())]
    Inside {
        /// The directory.
        dir: PathBuf,
    },
    /// `open` where no ledger is.
    #[error("there is no ledger in {}; `mandate init` creates one", .dir.display())]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// A log of the format before tiles, where one in tiles is needed.
    #[error("the ledger in {} is of the format of one file: start `mandate serve` once, which converts it", .dir.display())]
    OldFormat {
        /// The directory.
        dir: PathBuf,
    },
    /// A witness's key or cosignature that is not taken.
    #[error("the cosignature is not kept: {problem}")]
    Witness {
        /// Why.
        problem: String,
    },
    /// A directory with the backup of another log, or of a later or other state of this one.
    #[error("{} holds a backup {theirs}, which is not in the past of this ledger, {ours}; use another directory, and find out which of them is genuine", .dir.display())]
    OtherBackup {
        /// The directory.
        dir: PathBuf,
        /// What it holds.
        theirs: String,
        /// What was to be copied.
        ours: String,
    },
    /// The files contradict each other or their signatures.
    #[error("the ledger's file {} is damaged ({place}): {problem}; restore it from a replica or backup, nothing was changed", .path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        place: String,
        /// What contradicts what.
        problem: String,
    },
    /// The log's key is unusable.
    #[error("the log key cannot be used")]
    Key(#[source] NoteError),
    /// The genesis was refused by the contract.
    #[error("the genesis is refused ({code}): {detail}")]
    Genesis {
        /// Code of the rule.
        code: String,
        /// What was compared with what.
        detail: String,
    },
    /// The ledger grew whenever it was looked at.
    #[error("the ledger grows faster than its head can be proven; try again")]
    Growing,
    /// A size beyond the log's.
    #[error("the log has {size} entries, not {asked}")]
    Range {
        /// What was asked for.
        asked: u64,
        /// What there is.
        size: u64,
    },
}

impl LedgerError {
    /// May the same call succeed later without anybody doing something? Submissions are idempotent: trying again with
    /// the same envelope is always safe.
    #[must_use]
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Locked { .. } | Self::Clock { .. } | Self::Growing)
    }
}
