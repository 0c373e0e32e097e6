//! Every state that nova gives a server, and what is made of it.
//!
//! | nova's status | seen as | `ensure` | `remove` |
//! |---|---|---|---|
//! | `ACTIVE` | running | keeps it | deletes |
//! | `BUILD` `REBUILD` `REBOOT` `HARD_REBOOT` `PASSWORD` `RESIZE` `REVERT_RESIZE` `MIGRATING` | down, silent | waits, then looks again | deletes |
//! | `SHUTOFF` | down, gone | starts it | deletes |
//! | `PAUSED` | down, silent | unpauses it | deletes |
//! | `SUSPENDED` | down, silent | resumes it | deletes |
//! | `RESCUE` | down, replaced | ends the rescue | deletes |
//! | `SHELVED` `SHELVED_OFFLOADED` | down, gone | unshelves it | deletes |
//! | `VERIFY_RESIZE` | down, replaced | reverts: somebody else chose that size | deletes |
//! | `ERROR` | down, gone | another instance | deletes |
//! | `SOFT_DELETED` | down, gone | another instance | deletes at once (`forceDelete`) |
//! | `DELETED` | absent | makes it | nothing |
//! | `UNKNOWN`, anything else | down, silent | refuses, [`Unknown`](vim::Disposition::Unknown) | deletes |
//!
//! A task (`OS-EXT-STS:task_state`) that goes on is waited for first, except in `ERROR`. Tests: below, each of them.

use vim::ProcessState;

/// What `ensure` does with a server as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ensure {
    Keep,
    Wait,
    /// An action that brings it back, and nova's name of it.
    Act(&'static str),
    Replace,
    Make,
    Refuse,
}

/// What `remove` does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remove {
    Delete,
    ForceDelete,
    Nothing,
}

/// A state, judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub process: ProcessState,
    pub ensure: Ensure,
    pub remove: Remove,
}

/// Every status of nova's API that is known here.
#[cfg(test)]
pub(crate) const KNOWN: [&str; 20] = [
    "ACTIVE",
    "BUILD",
    "DELETED",
    "ERROR",
    "HARD_REBOOT",
    "MIGRATING",
    "PASSWORD",
    "PAUSED",
    "REBOOT",
    "REBUILD",
    "RESCUE",
    "RESIZE",
    "REVERT_RESIZE",
    "SHELVED",
    "SHELVED_OFFLOADED",
    "SHUTOFF",
    "SOFT_DELETED",
    "SUSPENDED",
    "UNKNOWN",
    "VERIFY_RESIZE",
];

/// Judges a server's status, whatever its task.
fn of_status(status: &str) -> Verdict {
    use ProcessState::{Answers, Gone, Replaced, Silent};
    let (process, ensure) = match status {
        "ACTIVE" => (Answers, Ensure::Keep),
        "BUILD" | "REBUILD" | "REBOOT" | "HARD_REBOOT" | "PASSWORD" | "RESIZE" | "REVERT_RESIZE"
        | "MIGRATING" => (Silent, Ensure::Wait),
        "SHUTOFF" => (Gone, Ensure::Act("os-start")),
        "PAUSED" => (Silent, Ensure::Act("unpause")),
        "SUSPENDED" => (Silent, Ensure::Act("resume")),
        "RESCUE" => (Replaced, Ensure::Act("unrescue")),
        "SHELVED" | "SHELVED_OFFLOADED" => (Gone, Ensure::Act("unshelve")),
        "VERIFY_RESIZE" => (Replaced, Ensure::Act("revertResize")),
        "ERROR" | "SOFT_DELETED" => (Gone, Ensure::Replace),
        "DELETED" => (Gone, Ensure::Make),
        _ => (Silent, Ensure::Refuse),
    };
    let remove = match status {
        "DELETED" => Remove::Nothing,
        "SOFT_DELETED" => Remove::ForceDelete,
        _ => Remove::Delete,
    };
    Verdict { process, ensure, remove }
}

/// Judges a server.
pub(crate) fn verdict(status: &str, task: Option<&str>) -> Verdict {
    let it = of_status(status);
    let settled = matches!(it.ensure, Ensure::Replace | Ensure::Make);
    match task {
        Some(_) if !settled => Verdict { ensure: Ensure::Wait, ..it },
        _ => it,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head's table, row by row, is what the code does.
    #[test]
    fn every_state_is_judged_as_the_table_says() {
        let rows = include_str!("states.rs").lines().filter_map(|l| l.strip_prefix("//! | `"));
        let mut seen = Vec::new();
        for row in rows {
            let columns: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
            let names = columns[0].split(',').next().unwrap_or_default();
            for status in names.split(['`', ' ']).filter(|s| !s.is_empty()) {
                let it = verdict(status, None);
                seen.push(status.to_owned());
                let ensure = match columns[2] {
                    "keeps it" => Ensure::Keep,
                    "waits, then looks again" => Ensure::Wait,
                    "another instance" => Ensure::Replace,
                    "makes it" => Ensure::Make,
                    "starts it" => Ensure::Act("os-start"),
                    "unpauses it" => Ensure::Act("unpause"),
                    "resumes it" => Ensure::Act("resume"),
                    "ends the rescue" => Ensure::Act("unrescue"),
                    "unshelves it" => Ensure::Act("unshelve"),
                    t if t.starts_with("reverts") => Ensure::Act("revertResize"),
                    _ => Ensure::Refuse,
                };
                assert_eq!(it.ensure, ensure, "{status}");
                let process = match columns[1] {
                    "running" => ProcessState::Answers,
                    "down, silent" => ProcessState::Silent,
                    "down, replaced" => ProcessState::Replaced,
                    _ => ProcessState::Gone,
                };
                assert_eq!(it.process, process, "{status}");
                let remove = match columns[3] {
                    "deletes" => Remove::Delete,
                    "nothing" => Remove::Nothing,
                    _ => Remove::ForceDelete,
                };
                assert_eq!(it.remove, remove, "{status}");
            }
        }
        seen.sort();
        assert_eq!(seen, KNOWN);
    }

    #[test]
    fn a_task_is_waited_for_and_the_unknown_is_refused() {
        for status in KNOWN {
            let ensure = verdict(status, Some("spawning")).ensure;
            let settled = ["ERROR", "SOFT_DELETED", "DELETED"].contains(&status);
            assert_eq!(ensure == Ensure::Wait, !settled, "{status}");
        }
        assert_eq!(verdict("NEW_IN_ZED", None).ensure, Ensure::Refuse);
        assert_eq!(verdict("NEW_IN_ZED", None).remove, Remove::Delete);
    }
}
