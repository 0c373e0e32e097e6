//! A home of its own for the built `mandate`, and what tests do with it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

const START_LIMIT: Duration = Duration::from_secs(20);

pub struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_mandate"));
        c.args(arguments).env("MANDATE_HOME", self.path("home"));
        c.env_remove("MANDATE_SOCKET").env_remove("MANDATE_TENANT").stdin(Stdio::null());
        c
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Must end with this code; what it answered in JSON (the problem when it failed).
    pub fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let out = self.run(&[arguments, &["--json"]].concat());
        let (stdout, stderr) =
            (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
        assert_eq!(out.status.code(), Some(code), "{arguments:?}\n{stdout}\n{stderr}");
        let text = if stdout.is_empty() { &stderr } else { &stdout };
        serde_json::from_str(text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
    }

    pub fn code(&self, code: i32, arguments: &[&str]) -> String {
        self.json(code, arguments)["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn serve(&self) -> Serve {
        // Nothing is launched in these tests, but the orchestrator wants its launcher to be there.
        let config = self.path("home/config.toml");
        let text = fs::read_to_string(&config).unwrap();
        if !text.contains("launcher = ") {
            let with = text.replace("instances = 32", "instances = 32\nlauncher = \"/bin/true\"");
            fs::write(&config, with).unwrap();
        }
        let log = fs::File::create(self.path("serve.log")).unwrap();
        let mut child = self.command(&["serve"]).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let since = Instant::now();
        while !self.run(&["site", "list"]).status.success() {
            let log = || fs::read_to_string(self.path("serve.log")).unwrap();
            assert!(child.try_wait().unwrap().is_none(), "serve ended: {}", log());
            assert!(since.elapsed() < START_LIMIT, "serve does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Serve(child)
    }
}

pub struct Serve(Child);

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub fn packed(h: &Home, name: &str) -> String {
    let source = root().join("descriptors/packages").join(name).display().to_string();
    let lockfile = root().join("Cargo.lock").display().to_string();
    let (plain, signed) = (h.path(&format!("{name}.plain.tar.gz")), h.path(&format!("{name}.tar.gz")));
    let mut line = vec!["package", "pack", &source, "-o", &plain];
    let image = h.path("image");
    fs::write(&image, b"an image that nobody runs").unwrap();
    let image = format!("mandate-dataplane={image}");
    if name != "secure_edge_ns" {
        line.extend(["--image", &image, "--lockfile", &lockfile, "--root-package", "mandate-dataplane"]);
        line.extend(["--builder", "provider/builder"]);
    }
    h.json(0, &line);
    h.json(0, &["package", "sign", &plain, "--as", "provider/provider", "-o", &signed]);
    assert_eq!(h.json(0, &["package", "verify", &signed])["verified"], true);
    signed
}

pub fn intent(h: &Home, file: &str, signer: &str, arguments: &[&str]) -> String {
    let (plain, signed) = (h.path(file), h.path(&format!("{file}.dsse")));
    let made = h.json(0, &[&["intent", "new"], arguments, &["-o", &plain]].concat());
    let named = h.json(0, &["intent", "sign", &plain, "--as", signer, "-o", &signed]);
    assert_eq!(made["id"], named["id"]);
    signed
}
