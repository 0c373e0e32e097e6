//! Where everything lives: one home directory, mode 0700.

use std::path::{Path, PathBuf};

/// The home directory of a Mandate installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// A home at this path (absolute).
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// `config.toml`.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }
    /// `trust.json`: [`trust::TrustRoots`].
    #[must_use]
    pub fn trust(&self) -> PathBuf {
        self.0.join("trust.json")
    }
    /// The embedded ledger.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.0.join("ledger")
    }
    /// The mirror of a Fabric channel.
    #[must_use]
    pub fn mirror(&self) -> PathBuf {
        self.0.join("fabric")
    }
    /// The journal (SQLite).
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal.db")
    }
    /// Content-addressed packages and images.
    #[must_use]
    pub fn artifacts(&self) -> PathBuf {
        self.0.join("artifacts")
    }
    /// State of a site's host VIM.
    #[must_use]
    pub fn site(&self, name: &str) -> PathBuf {
        self.0.join("sites").join(name)
    }
    /// The API's UNIX socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.0.join("run").join("mandate.sock")
    }
    /// Key and certificate of a member: `pki/<org>/<name>.key`, `.crt`.
    #[must_use]
    pub fn identity(&self, org: &str, name: &str) -> (PathBuf, PathBuf) {
        let dir = self.0.join("pki").join(org);
        (dir.join(format!("{name}.key")), dir.join(format!("{name}.crt")))
    }
}
