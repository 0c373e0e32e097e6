//! Is a checkpoint a continuation of one that was verified before? The one question that notices a restored older copy
//! and a log that shows different trees to different people. Pure.

use crate::{Digest, merkle::verify_consistency, note::Checkpoint};

/// The log is not the one that was seen before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Discontinuity {
    /// It is shorter.
    #[error(
        "the ledger's head is {found}, older than {known}, which was verified before: it is an older copy"
    )]
    Older {
        /// What was verified before.
        known: Head,
        /// What it shows now.
        found: Head,
    },
    /// It has another past.
    #[error(
        "the ledger's head is {found}, and not a continuation of {known}, which was verified before: its past was changed"
    )]
    Inconsistent {
        /// What was verified before.
        known: Head,
        /// What it shows now.
        found: Head,
    },
}

/// Size and root, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Entries.
    pub size: u64,
    /// Root over them.
    pub root: Digest,
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} entries with root {}", self.size, self.root)
    }
}

impl Discontinuity {
    /// `LEDGER_ROLLED_BACK` or `LEDGER_FORKED`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Older { .. } => "LEDGER_ROLLED_BACK",
            Self::Inconsistent { .. } => "LEDGER_FORKED",
        }
    }
}

/// Verifies that `found` continues `known`, both signed by the log; `proof` is not looked at when `found` is shorter.
pub fn continues(known: &Checkpoint, found: &Checkpoint, proof: &[Digest]) -> Result<(), Discontinuity> {
    let head = |c: &Checkpoint| Head { size: c.size, root: c.root };
    if found.size < known.size {
        return Err(Discontinuity::Older { known: head(known), found: head(found) });
    }
    verify_consistency(known.size, found.size, known.root, found.root, proof)
        .map_err(|_| Discontinuity::Inconsistent { known: head(known), found: head(found) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::{Tree, leaf_hash};

    #[test]
    fn a_continuation_and_nothing_else() {
        let grow = |salt: u8, n: u8| {
            let mut tree = Tree::default();
            (0..n).for_each(|i| tree.push(leaf_hash(&[if i < 3 { 0 } else { salt }, i])));
            tree
        };
        let at = |t: &Tree| Checkpoint { origin: "l".into(), size: t.size(), root: t.root() };
        let (old, new, other) = (grow(0, 5), grow(0, 9), grow(1, 9));
        assert_eq!(continues(&at(&old), &at(&new), &new.consistency(5, 9).unwrap()), Ok(()));
        assert_eq!(continues(&at(&old), &at(&old), &[]), Ok(()));
        let code = |found: &Tree, known: &Tree| {
            let proof = found.consistency(known.size(), found.size()).unwrap_or_default();
            continues(&at(known), &at(found), &proof).unwrap_err().code()
        };
        assert_eq!(code(&old, &new), "LEDGER_ROLLED_BACK");
        assert_eq!(code(&other, &old), "LEDGER_FORKED");
        assert_eq!(code(&other, &new), "LEDGER_FORKED");
    }
}
