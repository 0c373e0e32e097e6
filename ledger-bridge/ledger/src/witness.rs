//! The witnesses of a log: whose cosignatures it keeps, and the newest checkpoint that they cosigned.

use std::path::{Path, PathBuf};

/// The newest cosigned checkpoint of the log in `dir`.
pub(crate) fn cosigned_path(dir: &Path) -> PathBuf {
    dir.join("witness").join("checkpoint")
}
