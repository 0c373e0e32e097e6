//! Software TPMs: one swtpm per site, on a UNIX socket, with its own state.
//!
//! A swtpm here is a real TPM 2.0 implementation (libtpms) in a process; what it lacks is a manufacturer.
//! Tests start one.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{command, interrupt};

const START_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// sun_path (108 bytes) less `.ctrl` and the terminating zero.
const LONGEST_SOCKET_PATH: usize = 102;
/// TPM2_GetRandom of 8 bytes: answered only by a TPM that was started up.
const GET_RANDOM: [u8; 12] = [0x80, 0x01, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 8];

/// A software TPM that runs.
#[derive(Debug)]
pub struct Swtpm {
    dir: PathBuf,
}

impl Swtpm {
    /// The TPM of a site under `base`, whether or not it runs.
    pub fn at(base: &Path, site: &str) -> Self {
        Self { dir: base.join(site) }
    }

    /// Starts the TPM of a site under `base` (or finds it running) and waits until it answers.
    pub fn start(base: &Path, site: &str) -> anyhow::Result<Self> {
        let it = Self::at(base, site);
        if it.pid().is_some() && it.answers().is_ok() {
            return Ok(it);
        }
        it.stop()?;
        let state = it.dir.join("state");
        fs::create_dir_all(&state).with_context(|| format!("cannot create {}", state.display()))?;
        fs::set_permissions(&it.dir, fs::Permissions::from_mode(0o700))?;
        let socket = it.socket();
        ensure!(
            socket.as_os_str().len() <= LONGEST_SOCKET_PATH,
            "{} is too long for a UNIX socket: use a directory with a shorter path",
            socket.display()
        );
        command::succeed(&mut it.command(&state), START_LIMIT)?;
        interrupt::wait_for(&format!("the TPM of {site} does not answer"), START_LIMIT, || {
            Ok(it.answers().ok())
        })?;
        Ok(it)
    }

    fn command(&self, state: &Path) -> Command {
        let mut c = Command::new("swtpm");
        c.args(["socket", "--tpm2", "--daemon", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={},mode=0600", state.display()))
            .arg("--server")
            .arg(format!("type=unixio,path={},mode=0600", self.socket().display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}.ctrl,mode=0600", self.socket().display()))
            .arg("--pid")
            .arg(format!("file={}", self.pid_file().display()))
            .arg("--log")
            .arg(format!("file={},level=1", self.dir.join("log").display()));
        c
    }

    /// How tpm2-tss is told to reach it.
    pub fn tcti(&self) -> String {
        format!("swtpm:path={}", self.socket().display())
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("tpm.sock")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    /// Its process, if the pid file names one that is still a swtpm.
    fn pid(&self) -> Option<Pid> {
        let pid: i32 = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        runs(pid).then(|| Pid::from_raw(pid))
    }

    fn answers(&self) -> anyhow::Result<()> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(&GET_RANDOM)?;
        let mut answer = [0; 20];
        stream.read_exact(&mut answer[..10])?;
        // Tag, size, then the response code, which is zero on success.
        if answer[6..10] != [0; 4] {
            bail!("TPM2_GetRandom answered {:02x?}", &answer[6..10]);
        }
        stream.read_exact(&mut answer[10..])?;
        Ok(())
    }

    /// Ends it; not running is success. Returns whether it ran.
    pub fn stop(&self) -> anyhow::Result<bool> {
        let Some(pid) = self.pid() else { return Ok(false) };
        // Gone in between is what we want.
        let _gone = kill(pid, Signal::SIGTERM);
        let start = std::time::Instant::now();
        while runs(pid.as_raw()) {
            if start.elapsed() > STOP_LIMIT {
                let _gone = kill(pid, Signal::SIGKILL);
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(true)
    }
}

/// Is this process a swtpm that has not ended? (A zombie nobody reaps has.)
fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.contains(" (swtpm) ") && !stat.contains(" (swtpm) Z"))
}

/// Sites under `base` whose TPM runs.
pub fn running(base: &Path) -> anyhow::Result<Vec<String>> {
    let Ok(sites) = fs::read_dir(base) else { return Ok(vec![]) };
    let mut names = Vec::new();
    for site in sites {
        let dir = site?.path();
        let name = dir.file_name().map(|n| n.to_string_lossy().into_owned());
        names.extend(name.filter(|_| Swtpm { dir }.pid().is_some()));
    }
    names.sort();
    Ok(names)
}

/// Ends every TPM under `base` and removes their state; returns how many ran.
pub fn stop_all(base: &Path) -> anyhow::Result<usize> {
    let mut ended = 0;
    let Ok(sites) = fs::read_dir(base) else { return Ok(0) };
    for site in sites {
        ended += usize::from(Swtpm { dir: site?.path() }.stop()?);
    }
    fs::remove_dir_all(base).with_context(|| format!("cannot remove {}", base.display()))?;
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_answers_is_found_again_and_ends() {
        if !command::exists("swtpm") {
            eprintln!("SKIPPED: no swtpm; `cargo testbed up deps` installs it");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("tpm");
        let tpm = Swtpm::start(&base, "edge-a").unwrap();
        let pid = tpm.pid().unwrap();
        assert!(tpm.tcti().starts_with("swtpm:path=/"));
        tpm.answers().unwrap();
        assert_eq!(Swtpm::start(&base, "edge-a").unwrap().pid(), Some(pid), "found, not started twice");
        assert_eq!(stop_all(&base).unwrap(), 1);
        assert!(!runs(pid.as_raw()) && !base.exists());
        assert_eq!(stop_all(&base).unwrap(), 0, "nothing there is success");
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_by_name() {
        let e = Swtpm::start(Path::new(&format!("/tmp/{}", "x".repeat(100))), "edge-a");
        std::fs::remove_dir_all(format!("/tmp/{}", "x".repeat(100))).unwrap();
        assert!(e.unwrap_err().to_string().contains("shorter path"));
    }
}
