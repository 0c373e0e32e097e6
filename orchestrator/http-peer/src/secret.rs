//! Secrets, each in a file of its own.

use std::{fmt, fs, path::PathBuf};

use serde::Deserialize;

use crate::{BadConfig, bad};

/// Longest secret that is read, bytes.
const MAX_SECRET_BYTES: u64 = 4096;

/// A secret, and where it is from.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "PathBuf")]
pub enum Secret {
    /// A file with nothing else in it, read each time: who rotates it need not restart us.
    File(PathBuf),
    /// As it stood in another program's configuration.
    Given(String),
}

impl From<PathBuf> for Secret {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

/// Never the secret itself.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Given(_) => f.write_str("given"),
        }
    }
}

impl Secret {
    /// The secret; of a file without the newline that editors leave.
    pub fn read(&self, field: &'static str) -> Result<String, BadConfig> {
        let path = match self {
            Self::Given(secret) => return Ok(secret.clone()),
            Self::File(path) => path,
        };
        let trouble = |e: std::io::Error| BadConfig { field, problem: format!("{}: {e}", path.display()) };
        if fs::metadata(path).map_err(trouble)?.len() > MAX_SECRET_BYTES {
            return bad(field, format!("{} is longer than {MAX_SECRET_BYTES} bytes", path.display()));
        }
        let text = fs::read_to_string(path).map_err(trouble)?;
        match text.trim_end_matches(['\r', '\n']) {
            "" => bad(field, format!("{} is empty", path.display())),
            secret => Ok(secret.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn secrets_are_one_line_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let secret = Secret::File(path.clone());
        assert!(secret.read("password_file").is_err());
        fs::write(&path, "\n").unwrap();
        assert!(secret.read("password_file").unwrap_err().problem.contains("is empty"));
        fs::write(&path, "s3cr3t \n").unwrap();
        assert_eq!(secret.read("password_file").unwrap(), "s3cr3t ");
        fs::write(&path, vec![b'a'; 5000]).unwrap();
        assert!(secret.read("password_file").is_err());
        assert_eq!(format!("{:?}", Secret::Given("s3cr3t".into())), "given");
    }
}
