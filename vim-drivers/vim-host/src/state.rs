//! Files under the state directory: written whole or not at all, and read back.
//!
//! ```text
//! <state>/lock                            held while a driver lives
//! <state>/images/<hex>                    image bytes, 0555
//! <state>/image-refs/<short>.json         one per image key
//! <state>/instances/<short>/record.json   written before anything of the instance is made, removed last
//! <state>/instances/<short>/configuration.json   the document, exactly as measured
//! <state>/instances/<short>/process.json  process id and start time
//! <state>/instances/<short>/log           what the data plane says, cut to its end when it is too long
//! <run>/<short>/control                   its control socket, in a directory that the instance's user owns
//! ```

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use trust::Digest;
use vim::{ComputeSpec, ObjectKey};

use crate::error::{HostError, LOG_TAIL_BYTES, state};

/// Longest log of an instance that is left alone, bytes.
pub(crate) const MAX_LOG_BYTES: u64 = 8 << 20;
/// What is kept of a longer one, bytes: its end.
const KEPT_LOG_BYTES: u64 = 1 << 20;

/// What was asked for under a key, without the configuration document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub key: ObjectKey,
    /// As asked, with an empty `configuration`.
    pub spec: ComputeSpec,
    /// User and group id that it runs as.
    pub user: Option<u32>,
    /// Its ports are to be down: written before they are taken down, and after they were taken up again.
    #[serde(default)]
    pub isolated: bool,
}

/// An image reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageRef {
    pub key: ObjectKey,
    pub name: String,
    pub digest: Digest,
}

/// Where everything is.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub state: PathBuf,
    pub run: PathBuf,
}

/// Where everything of one instance is.
#[derive(Debug, Clone)]
pub(crate) struct InstancePaths {
    pub dir: PathBuf,
    pub run: PathBuf,
}

impl Layout {
    /// Makes the directories, 0700.
    pub(crate) fn prepare(&self) -> Result<(), HostError> {
        for dir in [&self.state, &self.images(), &self.image_refs(), &self.instances()] {
            make_dir(dir, 0o700)?;
        }
        Ok(())
    }

    /// Makes the run directory, 0711: instances reach their own part of it. It goes with the last instance.
    pub(crate) fn prepare_run(&self) -> Result<(), HostError> {
        make_dir(&self.run, 0o711)
    }

    /// Removes the run directory if nothing is left in it, and the one above if it is ours by name.
    pub(crate) fn drop_empty_run(&self) {
        // What is not empty stays: that is the test.
        if fs::remove_dir(&self.run).is_ok()
            && let Some(parent) = self.run.parent().filter(|p| p.ends_with("run/mandate"))
        {
            let _others = fs::remove_dir(parent);
        }
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    pub(crate) fn image(&self, digest: &Digest) -> PathBuf {
        self.images().join(digest.hex())
    }

    pub(crate) fn image_refs(&self) -> PathBuf {
        self.state.join("image-refs")
    }

    pub(crate) fn image_ref(&self, key: &ObjectKey) -> PathBuf {
        self.image_refs().join(format!("{}.json", key.short("m")))
    }

    pub(crate) fn instances(&self) -> PathBuf {
        self.state.join("instances")
    }

    pub(crate) fn instance(&self, key: &ObjectKey) -> InstancePaths {
        self.instance_named(&key.short("i"))
    }

    /// Where everything of the instance with this short name is.
    pub(crate) fn instance_named(&self, short: &str) -> InstancePaths {
        InstancePaths { dir: self.instances().join(short), run: self.run.join(short) }
    }

    /// Every image reference.
    pub(crate) fn all_image_refs(&self) -> Result<Vec<ImageRef>, HostError> {
        let files = names(&self.image_refs())?.into_iter().filter(|n| n.ends_with(".json"));
        files.filter_map(|name| read_json(&self.image_refs().join(name)).transpose()).collect()
    }

    /// Cuts every log that is too long, whoever writes to it.
    pub(crate) fn trim_logs(&self) {
        for name in names(&self.instances()).unwrap_or_default() {
            let paths = InstancePaths { dir: self.instances().join(&name), run: self.run.join(&name) };
            if let Err(e) = paths.trim_log() {
                tracing::warn!(log = %paths.log().display(), "cannot cut it to its end: {e}");
            }
        }
    }

    /// Every instance record.
    pub(crate) fn all_records(&self) -> Result<Vec<Record>, HostError> {
        let dirs = names(&self.instances())?;
        dirs.iter()
            .filter_map(|name| read_json(&self.instances().join(name).join("record.json")).transpose())
            .collect()
    }
}

impl InstancePaths {
    pub(crate) fn record(&self) -> PathBuf {
        self.dir.join("record.json")
    }
    pub(crate) fn configuration(&self) -> PathBuf {
        self.dir.join("configuration.json")
    }
    pub(crate) fn process(&self) -> PathBuf {
        self.dir.join("process.json")
    }
    pub(crate) fn pidfile(&self) -> PathBuf {
        self.dir.join("pid")
    }
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
    pub(crate) fn control(&self) -> PathBuf {
        self.run.join("control")
    }

    /// A new empty log. Only appended to: what is cut from it while a process writes stays cut.
    pub(crate) fn new_log(&self) -> io::Result<File> {
        remove_if_there(&self.log())?;
        OpenOptions::new().append(true).create_new(true).mode(0o600).open(self.log())
    }

    /// Cuts a log that is longer than it may be to its end. Absent is success.
    pub(crate) fn trim_log(&self) -> io::Result<()> {
        let mut file = match OpenOptions::new().read(true).append(true).open(self.log()) {
            Err(e) if absent(&e) => return Ok(()),
            file => file?,
        };
        let length = file.metadata()?.len();
        if length <= MAX_LOG_BYTES {
            return Ok(());
        }
        let kept = end_of(&mut file, KEPT_LOG_BYTES)?;
        // What is written between these two is kept too, out of order.
        file.set_len(0)?;
        let cut = length.saturating_sub(KEPT_LOG_BYTES);
        file.write_all(format!("[the first {cut} bytes were cut: a log has {MAX_LOG_BYTES}]\n").as_bytes())?;
        file.write_all(&kept)
    }

    /// The end of its log, for people.
    pub(crate) fn log_tail(&self) -> String {
        let read = || end_of(&mut File::open(self.log())?, LOG_TAIL_BYTES);
        match read().map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()) {
            Ok(text) if !text.is_empty() => text,
            Ok(_) => "(none)".into(),
            Err(e) => format!("({}: {e})", self.log().display()),
        }
    }

    /// Removes everything; the record last, so that a crash leaves what names the rest.
    pub(crate) fn remove(&self) -> Result<(), HostError> {
        remove_dir_all(&self.run)?;
        if !exists(&self.dir)? {
            return Ok(());
        }
        for name in names(&self.dir)?.into_iter().filter(|n| n != "record.json") {
            remove_file(&self.dir.join(name))?;
        }
        remove_file(&self.record())?;
        remove_dir_all(&self.dir)
    }
}

fn end_of(file: &mut File, bytes: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut end = Vec::new();
    file.take(bytes).read_to_end(&mut end)?;
    Ok(end)
}

/// Writes a file whole: temporary file, fsync, rename, fsync of the directory.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), HostError> {
    let temporary = temporary(path);
    let write = || -> io::Result<()> {
        let mut file = create(&temporary, mode)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    };
    write().map_err(state("write", path))
}

/// The name that a file has while it is written.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

/// A new empty file with this mode, whatever was there.
pub(crate) fn create(path: &Path, mode: u32) -> io::Result<File> {
    remove_if_there(path)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads JSON; `None` when there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, HostError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if absent(&e) => return Ok(None),
        Err(e) => return Err(state("read", path)(e)),
    };
    let corrupt =
        |e: serde_json::Error| HostError::StateCorrupt { path: path.into(), problem: e.to_string() };
    serde_json::from_slice(&bytes).map(Some).map_err(corrupt)
}

pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), HostError> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|e| HostError::Internal(e.to_string()))?;
    write_atomic(path, &bytes, 0o600)
}

pub(crate) fn remove_file(path: &Path) -> Result<(), HostError> {
    match fs::remove_file(path) {
        Err(e) if !absent(&e) => Err(state("remove", path)(e)),
        _ => Ok(()),
    }
}

fn remove_dir_all(path: &Path) -> Result<(), HostError> {
    match fs::remove_dir_all(path) {
        Err(e) if !absent(&e) => Err(state("remove", path)(e)),
        _ => Ok(()),
    }
}

fn exists(path: &Path) -> Result<bool, HostError> {
    path.try_exists().map_err(state("look at", path))
}

/// Names in a directory, sorted; empty when there is no such directory.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, HostError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if absent(&e) => return Ok(Vec::new()),
        Err(e) => return Err(state("list", dir)(e)),
    };
    let name = |e: io::Result<fs::DirEntry>| e.map(|e| e.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = entries.map(name).collect::<io::Result<_>>().map_err(state("list", dir))?;
    names.sort_unstable();
    Ok(names)
}

pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), HostError> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                make_dir_all_searchable(parent)?;
            }
            fs::create_dir(path).map_err(state("make", path))?;
        }
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(state("make", path)(e)),
        _ => {}
    }
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(state("set the mode of", path))
}

/// Makes missing parents 0755, touches none that are there.
fn make_dir_all_searchable(path: &Path) -> Result<(), HostError> {
    fs::create_dir_all(path).map_err(state("make", path))
}

fn absent(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_or_absent_and_a_leftover_temporary_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        fs::write(temporary(&path), b"half").unwrap();
        assert_eq!(read_json::<u32>(&path).unwrap(), None);
        write_json(&path, &7u32).unwrap();
        write_json(&path, &8u32).unwrap();
        assert_eq!(read_json::<u32>(&path).unwrap(), Some(8));
        assert_eq!(names(dir.path()).unwrap(), ["record.json"]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, b"{").unwrap();
        assert_eq!(read_json::<u32>(&path).unwrap_err().code(), "STATE_CORRUPT");
    }

    #[test]
    fn a_log_keeps_its_end_while_it_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { state: dir.path().join("state"), run: dir.path().join("run") };
        layout.prepare().unwrap();
        let paths = layout.instance(&ObjectKey::new("a/b").unwrap());
        make_dir(&paths.dir, 0o700).unwrap();
        layout.trim_logs();
        let mut writer = paths.new_log().unwrap();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        for _ in 0..MAX_LOG_BYTES / 1024 {
            writer.write_all(&line).unwrap();
        }
        let length = || fs::metadata(paths.log()).unwrap().len();
        layout.trim_logs();
        assert_eq!(length(), MAX_LOG_BYTES, "as long as it may be");
        writer.write_all(b"the last words\n").unwrap();
        layout.trim_logs();
        assert!(length() < KEPT_LOG_BYTES + 128, "{}", length());
        // The writer goes on at the end, not where it was: no hole that grows again at once.
        writer.write_all(b"and more\n").unwrap();
        let text = fs::read_to_string(paths.log()).unwrap();
        assert!(text.starts_with("[the first 7340047 bytes were cut"), "{}", &text[..80]);
        assert!(text.ends_with("the last words\nand more\n") && !text.contains('\0'));
        assert_eq!(paths.new_log().unwrap().metadata().unwrap().len(), 0);
    }

    #[test]
    fn an_instance_is_removed_from_any_state() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { state: dir.path().join("state"), run: dir.path().join("run") };
        layout.prepare().unwrap();
        layout.prepare_run().unwrap();
        let paths = layout.instance(&ObjectKey::new("a/b").unwrap());
        paths.remove().unwrap();
        make_dir(&paths.dir, 0o700).unwrap();
        paths.remove().unwrap();
        make_dir(&paths.dir, 0o700).unwrap();
        make_dir(&paths.run, 0o700).unwrap();
        fs::write(paths.log(), b"words").unwrap();
        assert_eq!(paths.log_tail(), "words");
        paths.remove().unwrap();
        assert!(names(&layout.instances()).unwrap().is_empty() && names(&layout.run).unwrap().is_empty());
    }
}
