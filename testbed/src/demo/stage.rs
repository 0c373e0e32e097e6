//! Where the demo plays: a directory of its own, two software TPMs, one orchestrator; all of it gone at the end.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::{
    mandate::{Mandate, Serve},
    traces::Places,
};
use crate::{up::tpm, workspace};

/// The built programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `mandate`.
    pub mandate: PathBuf,
    /// `mandate-dataplane`, as it was built.
    pub dataplane: PathBuf,
    /// The checkout, for packages and the lockfile.
    pub root: PathBuf,
}

/// The stage. Dropping it clears it, unless it is kept.
#[derive(Debug)]
pub struct Stage {
    /// Everything of this demo is below.
    pub dir: PathBuf,
    /// The programs.
    pub programs: Programs,
    /// The product, as its users call it.
    pub mandate: Mandate,
    /// Names of the sites; the first is the nearest one.
    pub sites: Vec<String>,
    /// Where traces of it would be.
    pub places: Places,
    /// The orchestrator, while it runs.
    pub serve: Option<Serve>,
    record: Record,
    kept: bool,
}

impl Stage {
    /// Makes the directory. Nothing runs yet.
    pub fn new(programs: Programs, dir: Option<&Path>, sites: &[&str]) -> anyhow::Result<Self> {
        let (dir, made) = match dir {
            Some(dir) => (named(dir)?, false),
            None => (fresh()?, true),
        };
        let home = dir.join("home");
        let sites: Vec<String> = sites.iter().map(|s| (*s).to_owned()).collect();
        Ok(Self {
            mandate: Mandate::new(programs.mandate.clone(), home.clone()),
            places: Places { sites: sites.clone(), home },
            record: Record::write(&dir, made, &sites)?,
            dir,
            programs,
            sites,
            serve: None,
            kept: false,
        })
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where the TPMs are.
    pub fn tpms(&self) -> PathBuf {
        self.path("tpm")
    }

    /// Starts the orchestrator, in the place of one that was stopped or killed.
    pub fn start_serve(&mut self) -> anyhow::Result<()> {
        let log = self.path("serve.log");
        self.serve = Some(self.mandate.serve(&log)?);
        Ok(())
    }

    /// Stops it in order.
    pub fn stop_serve(&mut self) {
        self.serve = None;
    }

    /// Kills it as a power cut would.
    pub fn crash_serve(&mut self) -> anyhow::Result<()> {
        self.serve.take().context("the orchestrator is not running")?.crash();
        Ok(())
    }

    /// Leaves everything running, for looking around; `cargo testbed down` ends it.
    pub fn keep(mut self) {
        if let Some(serve) = self.serve.take() {
            serve.keep();
        }
        self.kept = true;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.kept {
            self.serve = None;
            self.record.clear();
        }
    }
}

/// What `cargo testbed down` needs to know of a demo that was kept or killed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    /// Everything of it is below.
    dir: PathBuf,
    /// Did we make the directory?
    made: bool,
    sites: Vec<String>,
    /// This file.
    #[serde(skip)]
    file: PathBuf,
}

impl Record {
    fn write(dir: &Path, made: bool, sites: &[String]) -> anyhow::Result<Self> {
        let records = records()?;
        fs::create_dir_all(&records)?;
        let file = records.join(format!("{}.json", std::process::id()));
        let it = Self { dir: dir.to_owned(), made, sites: sites.to_vec(), file };
        fs::write(&it.file, serde_json::to_vec(&it)?)
            .with_context(|| format!("cannot write {}", it.file.display()))?;
        Ok(it)
    }

    /// Ends and removes everything; what is gone already is no error.
    fn clear(&self) {
        let home = self.dir.join("home");
        end_orchestrators(&home);
        Places { sites: self.sites.clone(), home: home.clone() }.clear();
        let _gone = tpm::stop_all(&self.dir.join("tpm"));
        let _gone = fs::remove_dir_all(if self.made { &self.dir } else { &home });
        let _gone = fs::remove_file(&self.file);
    }
}

fn records() -> anyhow::Result<PathBuf> {
    Ok(workspace::state_dir()?.join("demos"))
}

/// Ends every demo that was kept or killed; returns how many.
pub fn down_all() -> anyhow::Result<usize> {
    let Ok(entries) = fs::read_dir(records()?) else { return Ok(0) };
    let mut ended = 0;
    for entry in entries {
        let file = entry?.path();
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let record: Record = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
        Record { file, ..record }.clear();
        ended += 1;
    }
    Ok(ended)
}

/// SIGKILL to each `mandate --home HOME … serve`: an orchestrator can always be killed.
fn end_orchestrators(home: &Path) {
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for pid in entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok()) {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments: Vec<&[u8]> = arguments.split(|b| *b == 0).collect();
        let ours =
            arguments.windows(2).any(|w| w[0] == b"--home" && w[1] == home.as_os_str().as_encoded_bytes());
        if ours && arguments.contains(&&b"serve"[..]) {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// An existing directory, or one that can be made; a home in it would be another demo's.
fn named(dir: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let dir = dir.canonicalize()?;
    ensure!(
        !dir.join("home").exists(),
        "{} holds a demo already: `cargo testbed down` ends it, or name another directory",
        dir.display()
    );
    Ok(dir)
}

/// A new directory, only ours to read. Short: UNIX sockets are below it.
fn fresh() -> anyhow::Result<PathBuf> {
    let base = env::temp_dir();
    for n in 0..100 {
        let dir = base.join(format!("mandate-demo-{}-{n}", std::process::id()));
        if fs::create_dir(&dir).is_ok() {
            // Instances with uids of their own pass through it to what they are given.
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))?;
            return Ok(dir);
        }
    }
    anyhow::bail!("cannot make a directory in {}", base.display())
}
