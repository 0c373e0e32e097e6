//! What the launcher can fail at, and its exit codes.

use std::path::PathBuf;

use nix::errno::Errno;
use trust::Digest;

use crate::{confine::ConfineError, eventlog::EventLogError, sealed::SealError, tpm::TpmError};

/// Why nothing was started, measured or quoted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image is not the one that was approved.
    #[error(
        "refused: image {path} is {found}, expected {expected}. Nothing was measured or started; put the approved image \
         there, or have this one approved"
    )]
    UnexpectedImage {
        /// The file.
        path: PathBuf,
        /// `--expect-image`.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The event log.
    #[error(transparent)]
    Log(EventLogError),
    /// Image or configuration cannot be taken.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Not a configuration of this instance.
    #[error("configuration {path}: {problem}")]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Not claims.
    #[error("claims {path}: {problem}; expected a JSON list of claims")]
    Claims {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The control socket cannot be made there.
    #[error("control socket {path}: {problem}")]
    Control {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Another file.
    #[error("{what} {path}")]
    File {
        /// Which.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// An argument that no process can be given.
    #[error("an argument after -- has a NUL byte")]
    NulInArgument,
    /// Privileges could not be given up.
    #[error("confinement: {0}. Nothing was executed")]
    Confine(#[from] ConfineError),
    /// The kernel would not execute it.
    #[error("cannot execute {path}: is it an ELF executable for this machine?")]
    Execute {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Errno,
    },
}

impl From<EventLogError> for Error {
    fn from(error: EventLogError) -> Self {
        match error {
            EventLogError::Tpm(tpm) => Self::Tpm(tpm),
            other => Self::Log(other),
        }
    }
}

impl Error {
    /// The process's exit code; `--help` lists them.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::UnexpectedImage { .. } => 3,
            Self::Tpm(_) => 4,
            Self::Log(_) => 5,
            Self::Seal(_)
            | Self::Configuration { .. }
            | Self::Claims { .. }
            | Self::Control { .. }
            | Self::File { .. }
            | Self::NulInArgument => 6,
            Self::Confine(_) | Self::Execute { .. } => 7,
        }
    }
}
