//! The event log on disk and its PCR, for every process of a machine: one lock, and a protocol that survives a crash.
//!
//! The file's first line is a [`Header`] (which PCR, its value before the first measurement, the TPM's reset count);
//! each line after it is a measurement. Under an exclusive `flock` on `FILE.lock`:
//!
//! 1. the line is appended and synced, 2. the PCR is extended with its digest, 3. the PCR is read back.
//!
//! Whoever opens the log next, replays it against the PCR and finishes what a crash cut short:
//!
//! | died | the file ends | PCR | what is done |
//! |---|---|---|---|
//! | in 1 | in a line without its newline | replay | the torn line is cut off: it was never extended |
//! | between 1 and 2 | with a whole line | replay without that line | the line is extended now |
//! | in 2 or after it | with a whole line | replay | nothing |
//! | (machine restarted) | | began anew | the file is set aside as `FILE.reset-COUNT`, a new one begins |
//!
//! Anything else means that somebody else extended the PCR or edited the file: [`EventLog::append`] refuses then, and
//! a quote is still possible, since the verifier decides. It never removes a whole line. Tests:
//! `tests/lifecycle/crash.rs` (killed at both points, torn at many, on swtpm).

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use attestation::{
    Measurement, MeasurementKind,
    evidence::MAX_MEASUREMENTS,
    log::{self, LogError, MAX_LINE_BYTES, MAX_PCR, Replay},
};
use serde::{Deserialize, Serialize};
use trust::Digest;

use crate::tpm::{
    Tpm, TpmError,
    tcti::{Backoff, Tcti},
};

/// Longest wait for the lock, ms: the lock is held for a few TPM commands at a time.
pub const LOCK_MS: u64 = 30_000;
/// Version of the file's format.
const VERSION: u32 = 1;
/// Longest file read, bytes.
const MAX_FILE_BYTES: u64 = (MAX_MEASUREMENTS as u64 + 1) * (MAX_LINE_BYTES as u64 + 1);

/// First line of the file; it is not measured, the baseline is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Format version.
    pub mandate_event_log: u32,
    /// Which PCR.
    pub pcr: u8,
    /// Its value before the first measurement.
    pub pcr_baseline: Digest,
    /// The TPM's reset count when the file began.
    pub reset_count: u32,
}

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EventLogError {
    /// A file operation failed.
    #[error("event log {path}: cannot {action}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Held by another process for too long.
    #[error("event log {path} stayed locked for {LOCK_MS} ms: which process holds it? (`fuser {path}.lock`)")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Not a log of ours, or damaged.
    #[error(
        "event log {path} does not read: {problem}. Keep it for an inquiry, restart the machine, begin another"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The log is for another PCR.
    #[error("event log {path} is for PCR {found}, not {asked}: one log per PCR")]
    OtherPcr {
        /// The file.
        path: PathBuf,
        /// What the header says.
        found: u8,
        /// What was asked for.
        asked: u8,
    },
    /// A PCR that proves nothing.
    #[error("PCR {0} can be reset by software: use one from 0 to {MAX_PCR} that nothing else extends")]
    ResettablePcr(u8),
    /// Full.
    #[error(
        "event log {path} is full ({MAX_MEASUREMENTS} measurements): restart the machine to begin another"
    )]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else extended the PCR, or edited the file.
    #[error(
        "event log {path} replays to {replayed}, but PCR {pcr} is {found}: another program extends it, or the file was \
         edited. No more can be proved until the machine (or swtpm) restarts"
    )]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Which PCR.
        pcr: u8,
        /// According to the file.
        replayed: Digest,
        /// According to the TPM.
        found: Digest,
    },
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
}

/// What opening had to repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// A line without its newline was cut off.
    TornLineCut,
    /// The last line was extended now.
    LastLineExtended,
    /// The machine restarted; the old file is there.
    SetAside(PathBuf),
}

/// The log, locked until dropped.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    file: File,
    header: Header,
    lines: Vec<String>,
    replay: Replay,
    /// The PCR as last read.
    pcr_value: Digest,
    /// What opening had to repair.
    pub recovered: Vec<Recovery>,
    _lock: File,
}

impl EventLog {
    /// Locks, opens (or begins) and recovers the log of a PCR. The TPM is opened inside the lock, so that the
    /// machine's launchers take turns.
    pub fn open(path: &Path, pcr: u8, tcti: &Tcti) -> Result<(Self, Tpm), EventLogError> {
        if pcr > MAX_PCR {
            return Err(EventLogError::ResettablePcr(pcr));
        }
        let lock = lock(path)?;
        let mut tpm = Tpm::open(tcti)?;
        let header = Header {
            mandate_event_log: VERSION,
            pcr,
            pcr_baseline: tpm.pcr_read(pcr)?,
            reset_count: tpm.reset_count()?,
        };
        let mut recovered = Vec::new();
        let text = match read(path, &mut recovered)? {
            Some(text) if first_line(path, &text)?.reset_count == header.reset_count => text,
            Some(text) => {
                let old = first_line(path, &text)?.reset_count;
                recovered.push(Recovery::SetAside(set_aside(path, old)?));
                begin(path, &header)?
            }
            None => begin(path, &header)?,
        };
        let mut it = Self::from_text(path, &text, lock, header.pcr_baseline)?;
        it.check_pcr(pcr)?;
        it.recovered = recovered;
        it.extend_last(&mut tpm)?;
        Ok((it, tpm))
    }

    fn from_text(path: &Path, text: &str, lock: File, pcr_value: Digest) -> Result<Self, EventLogError> {
        let header = first_line(path, text)?;
        let lines: Vec<String> = text.lines().skip(1).map(str::to_owned).collect();
        let replay = log::replay(&header.pcr_baseline, lines.iter().map(String::as_str)).map_err(|e| {
            let problem = e.to_string();
            match e {
                LogError::TooMany(_) => EventLogError::Full { path: path.into() },
                _ => EventLogError::Malformed { path: path.into(), problem },
            }
        })?;
        let append = OpenOptions::new().append(true).custom_flags(NOFOLLOW).open(path);
        let file = append.map_err(|e| io_error(path, "open it for appending", e))?;
        let path = path.to_owned();
        Ok(Self { path, file, header, lines, replay, pcr_value, recovered: Vec::new(), _lock: lock })
    }

    fn check_pcr(&self, asked: u8) -> Result<(), EventLogError> {
        match self.header.pcr {
            found if found == asked => Ok(()),
            found => Err(EventLogError::OtherPcr { path: self.path.clone(), found, asked }),
        }
    }

    /// The line was written, then the process died: it is extended now.
    fn extend_last(&mut self, tpm: &mut Tpm) -> Result<(), EventLogError> {
        let Some(last) = self.lines.last() else { return Ok(()) };
        if self.agrees() || self.pcr_value != self.replay.before_last {
            return Ok(());
        }
        tpm.pcr_extend(self.header.pcr, &log::event_digest(last))?;
        self.pcr_value = tpm.pcr_read(self.header.pcr)?;
        self.recovered.push(Recovery::LastLineExtended);
        Ok(())
    }

    /// Does the file replay to the PCR?
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.pcr_value == self.replay.value
    }

    /// [`EventLogError::Mismatch`] when the file does not replay to the PCR.
    pub fn check(&self) -> Result<(), EventLogError> {
        if self.agrees() {
            return Ok(());
        }
        Err(EventLogError::Mismatch {
            path: self.path.clone(),
            pcr: self.header.pcr,
            replayed: self.replay.value,
            found: self.pcr_value,
        })
    }

    /// Appends a measurement and extends the PCR with it.
    pub fn append(&mut self, kind: MeasurementKind, tpm: &mut Tpm) -> Result<(), EventLogError> {
        self.check()?;
        let line = self.write_line(kind)?;
        tpm.pcr_extend(self.header.pcr, &log::event_digest(&line))?;
        self.pcr_value = tpm.pcr_read(self.header.pcr)?;
        self.check()
    }

    /// Step 1 of the protocol.
    fn write_line(&mut self, kind: MeasurementKind) -> Result<String, EventLogError> {
        if self.lines.len() >= MAX_MEASUREMENTS {
            return Err(EventLogError::Full { path: self.path.clone() });
        }
        let line = log::encode(&Measurement { seq: self.lines.len() as u64, kind: kind.clone() });
        let written = self.file.write_all(format!("{line}\n").as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(|e| io_error(&self.path, "append a measurement", e))?;
        self.replay.before_last = self.replay.value;
        self.replay.value = log::extend(&self.replay.value, &log::event_digest(&line));
        self.replay.measurements.push(Measurement { seq: self.lines.len() as u64, kind });
        self.lines.push(line.clone());
        Ok(line)
    }

    /// Value of the PCR before the first measurement.
    #[must_use]
    pub fn baseline(&self) -> Digest {
        self.header.pcr_baseline
    }

    /// The measurements' lines.
    #[must_use]
    pub fn into_lines(self) -> Vec<String> {
        self.lines
    }
}

/// The baseline of a log that has begun since the last restart, without locking or changing anything.
pub fn peek_baseline(path: &Path, pcr: u8, reset_count: u32) -> Result<Option<Digest>, EventLogError> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    let header = first_line(path, &text)?;
    Ok(Some(header).filter(|h| h.pcr == pcr && h.reset_count == reset_count).map(|h| h.pcr_baseline))
}

const NOFOLLOW: i32 = nix::libc::O_NOFOLLOW;

fn io_error(path: &Path, action: &'static str, source: io::Error) -> EventLogError {
    EventLogError::Io { path: path.into(), action, source }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn lock(path: &Path) -> Result<File, EventLogError> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600).custom_flags(NOFOLLOW);
    let file = options.open(beside(path, ".lock")).map_err(|e| io_error(path, "open its lock", e))?;
    let mut backoff = Backoff::new(LOCK_MS);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if backoff.again() => {}
            Err(TryLockError::WouldBlock) => return Err(EventLogError::Locked { path: path.into() }),
            Err(TryLockError::Error(e)) => return Err(io_error(path, "lock it", e)),
        }
    }
}

/// The whole file up to its last newline; what follows that is cut off.
fn read(path: &Path, recovered: &mut Vec<Recovery>) -> Result<Option<String>, EventLogError> {
    let Some(mut text) = read_text(path)? else { return Ok(None) };
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    if whole < text.len() {
        cut(path, whole as u64).map_err(|e| io_error(path, "cut a torn line off", e))?;
        text.truncate(whole);
        recovered.push(Recovery::TornLineCut);
    }
    Ok(Some(text))
}

fn read_text(path: &Path) -> Result<Option<String>, EventLogError> {
    let file = match OpenOptions::new().read(true).custom_flags(NOFOLLOW).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error(path, "open it", e)),
    };
    let mut text = String::new();
    let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
    match read.map_err(|e| io_error(path, "read it", e))? as u64 {
        0..=MAX_FILE_BYTES => Ok(Some(text)),
        _ => Err(EventLogError::Full { path: path.into() }),
    }
}

fn cut(path: &Path, length: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(NOFOLLOW).open(path)?;
    file.set_len(length)?;
    file.sync_all()
}

fn first_line(path: &Path, text: &str) -> Result<Header, EventLogError> {
    let bad = |problem: String| EventLogError::Malformed { path: path.into(), problem };
    let line = text.lines().next().ok_or_else(|| bad("it is empty".into()))?;
    let header: Header = serde_json::from_str(line).map_err(|e| bad(format!("first line: {e}")))?;
    match header.mandate_event_log {
        VERSION => Ok(header),
        other => Err(bad(format!("format version {other}; this launcher reads {VERSION}"))),
    }
}

/// Writes a new file with its header beside, then moves it into place: a log without a header never exists.
fn begin(path: &Path, header: &Header) -> Result<String, EventLogError> {
    // A struct of numbers and digests always encodes.
    let text = format!("{}\n", serde_json::to_string(header).unwrap_or_default());
    let fresh = beside(path, ".new");
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600).custom_flags(NOFOLLOW);
    let write = || -> io::Result<()> {
        let mut file = options.open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        sync_directory(path)
    };
    write().map_err(|e| io_error(path, "begin it (does its directory exist?)", e))?;
    Ok(text)
}

fn set_aside(path: &Path, reset_count: u32) -> Result<PathBuf, EventLogError> {
    let old = beside(path, &format!(".reset-{reset_count}"));
    let moved = fs::rename(path, &old).and_then(|()| sync_directory(path));
    moved.map_err(|e| io_error(path, "set the last boot's log aside", e))?;
    Ok(old)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}
