//! The configuration document: its bytes are read once, parsed, and known by their digest from then on.

use std::{fs::File, io::Read, path::Path};

use dataplane_control::{Configuration, config::MAX_CONFIGURATION_BYTES};
use trust::Digest;

use crate::error::StartError;

/// A configuration and the digest of the bytes it was parsed from.
#[derive(Debug)]
pub struct Document {
    pub configuration: Configuration,
    pub digest: Digest,
}

impl Document {
    /// Reads a file once: it may be a descriptor that the launcher measured (`/proc/self/fd/N`).
    pub fn read(path: &Path) -> Result<Self, StartError> {
        let failed = |source| StartError::Read { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        // One more than allowed, so that too much is seen and refused by the parser.
        let most = u64::try_from(MAX_CONFIGURATION_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
        let configuration = Configuration::parse(&bytes)
            .map_err(|source| StartError::Configuration { path: path.to_owned(), source })?;
        Ok(Self { configuration, digest: Configuration::digest(&bytes) })
    }
}
