//! How a command ends: an exit code that means something, and a [`Problem`] that says what to do next.

use std::path::Path;

use crate::problem::Problem;

/// The exit codes of `mandate`, as its help documents them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Refused: the policy denied, a verification failed, a descriptor has errors.
    Refused = 1,
    /// Wrong usage, unreadable or unusable input.
    Usage = 2,
    /// `mandate serve` is not reachable.
    Unreachable = 3,
    /// The operation was accepted and did not complete, or a site could not do its part.
    OperationFailed = 4,
    /// A defect or the machine's trouble.
    Internal = 5,
    /// The operation waits for a person (FAILED_TEMP).
    Undecided = 6,
}

/// What `--help` says about the exit codes.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused: by the policy, a verification or lint; or there is no plan
  2  wrong usage, or input that cannot be read
  3  `mandate serve` is not reachable
  4  the operation was accepted and did not complete (in time), a site could not do its part, or
     the orchestrator is not ready (status)
  5  internal error
  6  the operation waits for a person: mandate operation retry, rollback or fail

Errors go to stderr; with --json as one problem document (RFC 9457).
A refusal is an answer: on stdout. What the policy refused or lint rejected
ends with exit code 1 and an empty stderr.";

/// Why a command did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What is said.
    pub problem: Problem,
}

impl Failure {
    /// The arguments or an input are unusable.
    pub fn usage(code: &str, title: &str, detail: impl std::fmt::Display) -> Self {
        Self { exit: Exit::Usage, problem: Problem::new(400, code, title, detail) }
    }

    /// Something did not verify, or was denied.
    pub fn refused(code: &str, title: &str, detail: impl std::fmt::Display) -> Self {
        Self { exit: Exit::Refused, problem: Problem::new(422, code, title, detail) }
    }

    /// A defect of ours or the machine's trouble.
    pub fn internal(code: &str, detail: impl std::fmt::Display) -> Self {
        Self { exit: Exit::Internal, problem: Problem::new(500, code, "mandate failed", detail) }
    }

    /// A file that cannot be read.
    pub fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "run it as a user who may read that file",
            std::io::ErrorKind::IsADirectory => "name a file: that is a directory",
            _ => "check the name; a file is looked for from the directory you are in",
        };
        Self::usage("UNREADABLE", "Cannot read a file", format!("{}: {error}", path.display())).hint(hint)
    }

    /// A file that cannot be written.
    pub fn unwritable(path: &Path, error: &std::io::Error) -> Self {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "make its directory first, or name another file",
            std::io::ErrorKind::StorageFull => "make room there, or name a file on another file system",
            _ => "name a file in a directory that you may write to",
        };
        Self::usage("UNWRITABLE", "Cannot write a file", format!("{}: {error}", path.display())).hint(hint)
    }

    /// With what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.problem = self.problem.hint(hint);
        self
    }
}

/// What the server refused, as an exit code: the caller's input, the policy, or the server's own trouble.
impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit = match problem.status {
            400 | 404 | 405 | 411 | 413 | 414 | 415 => Exit::Usage,
            401..=499 => Exit::Refused,
            // A site could not do its part; the orchestrator is well.
            502 => Exit::OperationFailed,
            _ => Exit::Internal,
        };
        Self { exit, problem }
    }
}

/// The whole chain of an error, causes after colons.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The innermost cause: what a person can do something about when the layers between are a library's.
pub fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut it = error;
    while let Some(cause) = it.source() {
        it = cause;
    }
    it.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_exit_code() {
        let all = [
            Exit::Ok,
            Exit::Refused,
            Exit::Usage,
            Exit::Unreachable,
            Exit::OperationFailed,
            Exit::Internal,
            Exit::Undecided,
        ];
        for (n, exit) in all.into_iter().enumerate() {
            assert_eq!(exit as usize, n);
            assert!(EXIT_CODES.contains(&format!("\n  {n}  ")), "{n}");
        }
    }

    #[test]
    fn the_servers_refusals_have_their_exit_codes() {
        for (status, exit) in [
            (400, Exit::Usage),
            (404, Exit::Usage),
            (403, Exit::Refused),
            (409, Exit::Refused),
            (422, Exit::Refused),
            (500, Exit::Internal),
            (502, Exit::OperationFailed),
            (503, Exit::Internal),
        ] {
            assert_eq!(Failure::from(Problem::new(status, "X", "x", "x")).exit, exit, "{status}");
        }
    }
}
