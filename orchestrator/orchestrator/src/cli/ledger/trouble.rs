//! What goes wrong with a ledger's directory, as failures of the commands that touch it: the hint depends on which
//! directory was named by whom, the home's own or another.

use std::{io, path::Path};

use ledger::LedgerError;

use super::super::failure::{Failure, chain};

/// What was being done, to which directories.
#[derive(Debug, Clone, Copy)]
pub enum Doing<'a> {
    /// Something to the home's own ledger.
    Own,
    /// Checking a directory that was named.
    CheckDir(&'a Path),
    /// Copying the home's ledger.
    Backup {
        /// The directory that was named.
        to: &'a Path,
    },
    /// Putting a backup in the place of the home's ledger.
    Restore {
        /// The directory that was named.
        from: &'a Path,
        /// The home's ledger.
        own: &'a Path,
    },
}

/// An error of the ledger's directory as a failure of the command.
pub fn failure(error: &LedgerError, doing: Doing<'_>) -> Failure {
    let text = chain(error);
    match error {
        LedgerError::Locked { dir, .. } => {
            Failure::usage("IN_USE", "The ledger is in use", text).hint(in_use(dir, doing))
        }
        LedgerError::Missing { dir } => {
            let detail = format!("there is no ledger in {}", dir.display());
            Failure::usage("NO_LEDGER", "There is no ledger to read", detail).hint(missing(dir, doing))
        }
        LedgerError::OldFormat { .. } => Failure::usage("NO_LEDGER", "There is no ledger to read", text)
            .hint("only the ledger of a home can be converted: `mandate serve --home DIR`"),
        LedgerError::Exists { dir } => exists(dir, doing),
        LedgerError::Inside { .. } => Failure::usage("EXISTS", "Nothing is overwritten", text)
            .hint("name a directory outside of the home, best on another disk"),
        LedgerError::OtherBackup { .. } => {
            Failure::refused("OTHER_LEDGER", "Not a backup of this ledger", text)
                .hint("name a new directory; is --home DIR the home that you mean?")
        }
        LedgerError::Witness { .. } => Failure::refused("COSIGNATURE", "The cosignature is refused", text)
            .hint("`mandate ledger witness list` names the witnesses; what is cosigned must be a checkpoint of this ledger: `mandate ledger head`"),
        LedgerError::Corrupt { .. } | LedgerError::Key(_) => {
            Failure::refused("LEDGER_DAMAGED", "The ledger is damaged", text).hint(damaged(doing))
        }
        LedgerError::Storage { doing: what, path, source } | LedgerError::Full { doing: what, path, source } => {
            storage(what, path, source, doing)
        }
        _ => Failure::internal("LEDGER", text)
            .hint("nothing was changed; try again, and `mandate ledger fsck` if it stays"),
    }
}

fn in_use(dir: &Path, doing: Doing<'_>) -> String {
    match doing {
        Doing::CheckDir(_) | Doing::Restore { .. } => {
            format!("somebody works on {}: wait for that, or stop it", dir.display())
        }
        Doing::Own | Doing::Backup { .. } => "stop `mandate serve`, or check a backup: `mandate ledger backup DIR`, then `mandate ledger fsck --dir DIR`".into(),
    }
}

/// A home that was named instead of its ledger, a file, or nothing at all.
fn missing(dir: &Path, doing: Doing<'_>) -> String {
    let inner = dir.join("ledger");
    let instead = match doing {
        Doing::Own | Doing::Backup { .. } => {
            return "name the home with --home DIR; a ledger that is lost comes back with `mandate ledger restore BACKUP`".into();
        }
        Doing::CheckDir(_) if inner.join("tail").exists() => {
            return format!("that is a home; its ledger is in it: --dir {}", inner.display());
        }
        Doing::CheckDir(_) => "name the directory of a ledger, or of a backup of one, with --dir DIR",
        Doing::Restore { .. } if inner.join("tail").exists() => {
            return format!("that is a home; its ledger is in it: {}", inner.display());
        }
        Doing::Restore { .. } => "name the directory that `mandate ledger backup DIR` wrote",
    };
    match std::fs::symlink_metadata(dir) {
        Err(_) => format!("it does not exist; {instead}"),
        Ok(m) if m.is_file() => format!("that is a file; {instead}"),
        Ok(_) => instead.into(),
    }
}

fn exists(dir: &Path, doing: Doing<'_>) -> Failure {
    let dir = dir.display();
    let fail = |detail: String| Failure::usage("EXISTS", "Nothing is overwritten", detail);
    match doing {
        Doing::Restore { own, .. } => fail(format!("{dir} is not empty; a ledger is restored only where none is")).hint(
            format!("if that ledger is lost for good, stop `mandate serve` and move it away: mv {0} {0}.lost; another home is named with --home DIR", own.display()),
        ),
        _ => fail(format!("{dir} is not empty, and no backup of this ledger"))
            .hint("name a new or empty directory, or an earlier backup of this ledger"),
    }
}

fn damaged(doing: Doing<'_>) -> String {
    match doing {
        Doing::Own | Doing::Backup { .. } => {
            "stop `mandate serve`; `mandate ledger fsck` looks at everything and says what to do".into()
        }
        Doing::CheckDir(dir) | Doing::Restore { from: dir, .. } => {
            format!("it cannot be checked further; take another copy than {}", dir.display())
        }
    }
}

/// The machine's trouble with a file: who may do what about it depends on which directory the file is in.
fn storage(what: &str, path: &Path, source: &io::Error, doing: Doing<'_>) -> Failure {
    let detail = format!("cannot {what} {}: {source}", path.display());
    let written = match doing {
        Doing::Backup { to, .. } => Some(to),
        Doing::Restore { own, .. } => own.parent(),
        Doing::Own | Doing::CheckDir(_) => None,
    };
    // What is made on the way to the directory is above it.
    match written.filter(|dir| path.starts_with(dir) || dir.starts_with(path)) {
        Some(_) => {
            Failure::usage("UNWRITABLE", "Nothing was copied", detail).hint(unwritable(source.kind(), doing))
        }
        None => Failure::usage("UNREADABLE", "Cannot read a file", detail)
            .hint("run it as a user who may read and lock what is there; is the disk well?"),
    }
}

fn unwritable(kind: io::ErrorKind, doing: Doing<'_>) -> &'static str {
    let restoring = matches!(doing, Doing::Restore { .. });
    match (kind, restoring) {
        (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, true) => {
            "make room for the ledger in the home; nothing was left there"
        }
        (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, false) => {
            "make room there, or name a directory on another file system; nothing was left there"
        }
        (io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists, false) => {
            "that is a file: name a new or empty directory"
        }
        (_, true) => "is --home DIR the right home? it must be a directory that you may write to",
        (_, false) => "name a directory that you may write to; nothing was left there",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(error: &LedgerError, doing: Doing<'_>) -> String {
        failure(error, doing).problem.hint.unwrap_or_default()
    }

    #[test]
    fn every_hint_is_about_the_directory_that_was_named() {
        let (own, named) = (Path::new("/home/ledger"), Path::new("/named"));
        let all = [
            Doing::Own,
            Doing::CheckDir(named),
            Doing::Backup { to: named },
            Doing::Restore { from: named, own },
        ];
        for doing in all {
            let path = named.join("tail");
            let io = |kind: io::ErrorKind| io::Error::from(kind);
            for error in [
                LedgerError::Missing { dir: named.into() },
                LedgerError::Locked { dir: named.into(), lock: path.clone() },
                LedgerError::Exists { dir: named.into() },
                LedgerError::OldFormat { dir: named.into() },
                LedgerError::Inside { dir: named.into() },
                LedgerError::Growing,
                LedgerError::Witness { problem: "x".into() },
                LedgerError::Corrupt { path: path.clone(), place: "1".into(), problem: "x".into() },
                LedgerError::Storage {
                    doing: "read",
                    path: path.clone(),
                    source: io(io::ErrorKind::NotFound),
                },
                LedgerError::Full {
                    doing: "write",
                    path: path.clone(),
                    source: io(io::ErrorKind::StorageFull),
                },
            ] {
                assert!(!hint(&error, doing).is_empty(), "{error} {doing:?}");
            }
        }
        let missing = LedgerError::Missing { dir: "/named".into() };
        assert!(hint(&missing, all[0]).contains("--home"));
        assert!(hint(&missing, all[1]).contains("--dir") && !hint(&missing, all[1]).contains("--home"));
        assert!(hint(&missing, all[3]).contains("mandate ledger backup"));
        let exists = LedgerError::Exists { dir: own.into() };
        assert!(hint(&exists, all[3]).contains("mv /home/ledger"), "{}", hint(&exists, all[3]));
        assert!(hint(&exists, all[2]).contains("new or empty"));
    }
}
