//! Opening: the derived state that belongs to the log, brought up to the head or made again.

use std::{path::Path, sync::Arc, time::Instant};

use tokio::sync::mpsc;
use trust::{UnixTime, merkle};

use super::{
    MAX_BATCH, Shared,
    decide::{Again, again},
    layout::{self, Kind, TILE_WIDTH},
    reader::View,
    state::{self, Changes, Covers, State, StateError},
    store::{Head, corrupt},
    writer::Job,
};
use crate::LedgerError;

/// A state of so many bytes is read whole before the log opens: less than a second. A larger one while it is open.
pub const MAX_SCAN_BYTES: u64 = 32 << 20;
/// Entries decided again between two lines in the log.
const REPORT_ENTRIES: u64 = 20_000;

/// The state as the head left it.
pub(super) struct Recovered {
    pub state: State,
    pub last_time: UnixTime,
    /// Is it too large to have been read whole?
    pub scan_later: bool,
}

/// Finds the state, or makes it again.
pub(super) fn recover(
    dir: &Path,
    name: &str,
    view: &View<'_>,
    head: &Head,
) -> Result<Recovered, LedgerError> {
    let path = dir.join(layout::STATE);
    let found = match path.exists() {
        true => usable(&path, name, view, head)?,
        false => {
            tracing::info!(entries = head.size(), "making the ledger's derived state");
            None
        }
    };
    let (state, scan_later) = match found {
        Some(found) => found,
        None => (State::create(&path, name)?, false),
    };
    match catch_up(dir, name, view, head, &state) {
        Err(Again::Entry(problem)) => return Err(LedgerError::State { problem }),
        Err(Again::State(e)) => {
            state::remove(&path);
            return Err(e.into());
        }
        Ok(Err(e)) => return Err(e),
        Ok(Ok(())) => {}
    }
    Ok(Recovered { last_time: last_time(view, head)?, state, scan_later })
}

/// The state that is there, if it is whole and of this tree; is it still to be scanned?
fn usable(
    path: &Path,
    name: &str,
    view: &View<'_>,
    head: &Head,
) -> Result<Option<(State, bool)>, LedgerError> {
    let opened = State::open(path, name).and_then(|state| Ok((state.covers()?, state)));
    let why = match opened {
        Err(e) => e.to_string(),
        Ok((covers, _)) if covers.size > head.size() => {
            format!("it covers {} entries, the ledger has {}", covers.size, head.size())
        }
        Ok((covers, _)) if merkle::root(view, covers.size)? != covers.root => {
            format!("it was made from another tree of {} entries", covers.size)
        }
        Ok((_, state)) => {
            let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
            if bytes > MAX_SCAN_BYTES {
                return Ok(Some((state, true)));
            }
            match state.scan() {
                Ok(_) => return Ok(Some((state, false))),
                Err(e) => e.to_string(),
            }
        }
    };
    tracing::warn!(file = %path.display(), reason = %why, "the ledger's derived state is not used; making it again from entry 0");
    Ok(None)
}

/// Decides every entry again that the state does not cover.
fn catch_up(
    dir: &Path,
    name: &str,
    view: &View<'_>,
    head: &Head,
    state: &State,
) -> Result<Result<(), LedgerError>, Again> {
    let (mut at, size) = (state.covers()?.size, head.size());
    let start = Instant::now();
    let (mut time, mut v) = match at.checked_sub(1).map(|last| stamp(view, last)) {
        None => (UnixTime(0), 0),
        Some(Ok(last)) => (last.time, last.v),
        Some(Err(e)) => return Ok(Err(e)),
    };
    let mut reported = at;
    while at < size {
        let end = size.min(at + MAX_BATCH as u64);
        let mut changes = Changes::default();
        for position in at..end {
            let text = match view.entry(position) {
                Ok(text) => text.unwrap_or_default(),
                Err(e) => return Ok(Err(e)),
            };
            let wrong = |problem: String| {
                let path = layout::tile(dir, Kind::Entries, position / TILE_WIDTH);
                corrupt(&path, &format!("entry {position}"), problem)
            };
            match again(&text, position, name, state, &mut changes) {
                Ok(entry) if entry.time < time => {
                    return Ok(Err(wrong(format!("its time {} is before {time}", entry.time))));
                }
                Ok(entry) if entry.v < v => {
                    let problem = format!("version {} of the rules decided it, after version {v}", entry.v);
                    return Ok(Err(wrong(problem)));
                }
                Ok(entry) => (time, v) = (entry.time, entry.v),
                Err(Again::Entry(problem)) => return Ok(Err(wrong(problem))),
                Err(e) => return Err(e),
            }
        }
        let root = match merkle::root(view, end) {
            Ok(root) => root,
            Err(e) => return Ok(Err(e)),
        };
        state.apply(&changes, &Covers { size: end, root })?;
        at = end;
        if at - reported >= REPORT_ENTRIES {
            tracing::info!(
                entries = at,
                of = size,
                seconds = start.elapsed().as_secs(),
                "deciding the ledger again"
            );
            reported = at;
        }
    }
    Ok(Ok(()))
}

/// What never goes back from one entry to the next.
#[derive(serde::Deserialize)]
struct Stamp {
    v: u32,
    time: UnixTime,
}

fn stamp(view: &View<'_>, position: u64) -> Result<Stamp, LedgerError> {
    let text = view.entry(position)?.unwrap_or_default();
    serde_json::from_str(&text)
        .map_err(|e| LedgerError::State { problem: format!("entry {position} cannot be read: {e}") })
}

fn last_time(view: &View<'_>, head: &Head) -> Result<UnixTime, LedgerError> {
    match head.size().checked_sub(1) {
        Some(last) => Ok(stamp(view, last)?.time),
        None => Ok(UnixTime(0)),
    }
}

/// Reads the whole state while the log is open; when it is damaged the log closes, and opening it makes a new one.
pub(super) fn scan_in_background(
    path: &Path,
    name: &str,
    shared: &Arc<Shared>,
    writer: mpsc::WeakSender<Job>,
) -> std::io::Result<()> {
    let (path, name, shared) = (path.to_owned(), name.to_owned(), Arc::downgrade(shared));
    let scan = move || {
        let scanned = State::open(&path, &name).and_then(|state| state.scan());
        let Err(e) = scanned else { return };
        let Some(shared) = shared.upgrade() else { return };
        if matches!(e, StateError::Database(rusqlite::Error::SqliteFailure(f, _)) if f.code == rusqlite::ErrorCode::DatabaseBusy)
        {
            return;
        }
        state::remove(&path);
        shared.stop(&name, &e.into());
        if let Some(writer) = writer.upgrade() {
            let _ = writer.blocking_send(Job::Stop);
        }
    };
    std::thread::Builder::new().name("ledger-scan".to_owned()).spawn(scan).map(|_| ())
}
