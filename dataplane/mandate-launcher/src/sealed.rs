//! Files opened once and copied into sealed memory: what is hashed here is what runs.
//!
//! The path is followed once (a symbolic link as its last part is refused), its bytes go into a memfd, the memfd is
//! sealed against writing, growing, shrinking and further sealing, and then it is hashed. Whoever can write the
//! file, or puts another in its place afterwards, changes nothing any more. Tests are below and in
//! `tests/lifecycle/` (the file is replaced while it runs).

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use sha2::Digest as _;
use trust::Digest;

/// Largest executable, bytes: ten times a debug build of the data plane.
pub const MAX_IMAGE_BYTES: u64 = 1 << 30;
/// `MFD_EXEC` (Linux 6.3): say that this one is to be executed, where `vm.memfd_noexec` asks for it.
const MFD_EXEC: u32 = 0x0010;
/// Read at once while hashing, bytes.
const CHUNK_BYTES: usize = 256 << 10;

/// Why a file could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A file operation failed.
    #[error("{what} {path}: cannot {action}")]
    Io {
        /// `image` or `configuration`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A directory, device, pipe.
    #[error("{what} {path} is not a regular file")]
    NotRegular {
        /// `image` or `configuration`.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Too large.
    #[error("{what} {path} has more than {max_bytes} bytes")]
    TooLong {
        /// `image` or `configuration`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The bound.
        max_bytes: u64,
    },
}

/// Immutable bytes in memory, and their digest.
#[derive(Debug)]
pub struct Sealed {
    /// The memfd, positioned at its beginning.
    pub file: File,
    /// Of all of it.
    pub digest: Digest,
}

/// What a file is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be executed; closed by the execution.
    Image,
    /// To be read by what is executed.
    Configuration,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Configuration => "configuration",
        }
    }

    fn flags(self) -> MFdFlags {
        match self {
            Self::Image => {
                MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC | MFdFlags::from_bits_retain(MFD_EXEC)
            }
            Self::Configuration => MFdFlags::MFD_ALLOW_SEALING,
        }
    }
}

/// Takes a file into sealed memory.
pub fn seal(path: &Path, purpose: Purpose, max_bytes: u64) -> Result<Sealed, SealError> {
    let what = purpose.word();
    let io = |action| move |source| SealError::Io { what, path: path.into(), action, source };
    // Not blocking: a FIFO would wait for its writer.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let source = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io("open it"))?;
    if !source.metadata().map_err(io("look at it"))?.is_file() {
        return Err(SealError::NotRegular { what, path: path.into() });
    }
    let mut memory = memory(purpose).map_err(io("make memory for it"))?;
    let copied = io::copy(&mut source.take(max_bytes + 1), &mut memory).map_err(io("copy it"))?;
    if copied > max_bytes {
        return Err(SealError::TooLong { what, path: path.into(), max_bytes });
    }
    let all =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(all)).map_err(io::Error::from).map_err(io("seal its copy"))?;
    let digest = digest(&mut memory).map_err(io("read its copy"))?;
    Ok(Sealed { file: memory, digest })
}

fn memory(purpose: Purpose) -> io::Result<File> {
    let name = match purpose {
        Purpose::Image => c"mandate-image",
        Purpose::Configuration => c"mandate-configuration",
    };
    let flags = purpose.flags();
    match memfd_create(name, flags) {
        // Before Linux 6.3 there is no MFD_EXEC; every memfd can be executed there.
        Err(Errno::EINVAL) => Ok(memfd_create(name, flags - MFdFlags::from_bits_retain(MFD_EXEC))?.into()),
        other => Ok(other?.into()),
    }
}

fn digest(file: &mut File) -> io::Result<Digest> {
    file.rewind()?;
    let mut hasher = sha2::Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            n => hasher.update(&chunk[..n]),
        }
    }
    file.rewind()?;
    Ok(Digest(hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn sealed_bytes_cannot_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules");
        std::fs::write(&path, "allow").unwrap();
        let mut sealed = seal(&path, Purpose::Configuration, 5).unwrap();
        assert_eq!(sealed.digest, Digest::of("allow"));
        assert!(sealed.file.write_all(b"deny!").is_err());
        assert!(sealed.file.set_len(0).is_err() && sealed.file.set_len(9).is_err());
        std::fs::write(&path, "deny!").unwrap();
        let mut text = String::new();
        sealed.file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "allow");
    }

    #[test]
    fn refuses_links_directories_and_too_much() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        std::fs::write(&file, "123456").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(matches!(seal(&link, Purpose::Image, 9), Err(SealError::Io { .. })));
        assert!(matches!(seal(directory.path(), Purpose::Image, 9), Err(SealError::NotRegular { .. })));
        assert!(matches!(seal(&file, Purpose::Image, 5), Err(SealError::TooLong { .. })));
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(seal(&fifo, Purpose::Image, 9), Err(SealError::NotRegular { .. })));
    }
}
