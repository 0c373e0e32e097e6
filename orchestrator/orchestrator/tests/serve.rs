//! `mandate serve` as a service manager runs it: the built binary, told to stop by a signal, talking to a socket that
//! is systemd's in all but name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

use std::{
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(60);

struct Serve(Child);

impl Drop for Serve {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn mandate(home: &Path) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_mandate"));
    c.arg("--home").arg(home).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    c.env_remove("MANDATE_HOME").env_remove("MANDATE_SOCKET").env_remove("MANDATE_URL");
    c
}

/// A home whose sites need no launcher, because nothing is deployed.
fn home(dir: &Path) -> std::path::PathBuf {
    let home = dir.join("home");
    assert!(mandate(&home).arg("init").status().unwrap().success());
    let config = home.join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("[site.host]\n", "[site.host]\nlauncher = \"/bin/true\"\n");
    std::fs::write(&config, format!("{text}\n[api]\nlisten = \"127.0.0.1:0\"\n")).unwrap();
    home
}

/// Messages until one of them says this; all of them.
fn until(socket: &UnixDatagram, wanted: &str) -> Vec<String> {
    let (mut all, since) = (Vec::new(), Instant::now());
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    while since.elapsed() < LIMIT {
        let mut buffer = [0; 4096];
        let n = socket.recv(&mut buffer).unwrap();
        all.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
        if all.last().unwrap().contains(wanted) {
            return all;
        }
    }
    panic!("no {wanted}: {all:?}");
}

#[test]
fn it_says_when_it_is_ready_alive_and_stopping_and_ends_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let home = home(dir.path());
    let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    let mut command = mandate(&home);
    command.arg("serve").env("NOTIFY_SOCKET", dir.path().join("notify")).env("WATCHDOG_USEC", "2000000");
    let mut serve = Serve(command.spawn().unwrap());
    until(&socket, "READY=1");
    let alive = until(&socket, "WATCHDOG=1");
    // Its sites have no TPM: that is said, and is no reason to be restarted.
    let said = "STATUS=0 operations open; not well: site/edge-a, site/edge-b";
    assert!(alive.iter().any(|m| m.contains(said)), "{alive:?}");
    // The second is sent within half of what systemd waits for.
    until(&socket, "WATCHDOG=1");
    assert_eq!(mandate(&home).arg("status").status().unwrap().code(), Some(0));

    let pid = nix::unistd::Pid::from_raw(i32::try_from(serve.0.id()).unwrap());
    let reload = |expected: &str| {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
        let begun = until(&socket, "RELOADING=1");
        assert!(begun.last().unwrap().contains("MONOTONIC_USEC="), "{begun:?}");
        let done = until(&socket, "READY=1");
        assert!(done.last().unwrap().contains(expected), "{done:?}");
    };
    reload("STATUS=reloaded: certificate, key and CAs");
    let trust = home.join("trust.json");
    let good = std::fs::read(&trust).unwrap();
    std::fs::write(&trust, "{").unwrap();
    reload("STATUS=RELOAD: TLS goes on as it was");
    std::fs::write(&trust, good).unwrap();
    let certificate = home.join("pki/operator/orchestrator.crt");
    let good = std::fs::read(&certificate).unwrap();
    std::fs::write(&certificate, "no certificate").unwrap();
    reload("STATUS=RELOAD: TLS goes on as it was");
    std::fs::write(&certificate, good).unwrap();
    reload("STATUS=reloaded: certificate, key and CAs");
    assert_eq!(mandate(&home).arg("status").status().unwrap().code(), Some(0));

    let since = Instant::now();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    until(&socket, "STOPPING=1");
    assert_eq!(serve.0.wait().unwrap().code(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
    assert!(!home.join("run/mandate.sock").exists());
    assert_eq!(mandate(&home).arg("status").status().unwrap().code(), Some(3), "nobody is there");
}
