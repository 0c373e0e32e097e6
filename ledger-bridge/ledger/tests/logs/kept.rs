//! A directory kept in memory: what a test program makes once must not stay behind in the file system.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Paths inside the directory; `None`: a directory.
pub struct Kept(Vec<(PathBuf, Option<Vec<u8>>)>);

impl Kept {
    pub fn of(dir: &Path) -> Self {
        let mut found = Vec::new();
        Self::read(dir, dir, &mut found);
        Self(found)
    }

    fn read(root: &Path, dir: &Path, found: &mut Vec<(PathBuf, Option<Vec<u8>>)>) {
        found.push((dir.strip_prefix(root).unwrap().to_owned(), None));
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => Self::read(root, &path, found),
                false => {
                    found.push((path.strip_prefix(root).unwrap().to_owned(), Some(fs::read(&path).unwrap())));
                }
            }
        }
    }

    /// Makes it again.
    pub fn write(&self, to: &Path) {
        for (path, bytes) in &self.0 {
            let path = to.join(path);
            match bytes {
                None => fs::create_dir_all(path).unwrap(),
                Some(bytes) => {
                    let mut file =
                        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
                    file.write_all(bytes).unwrap();
                }
            }
        }
    }
}
