//! The tools that others sign with: `openssl` of the system, and Python's from PyPI in a virtual environment.
#![allow(missing_docs, dead_code, clippy::unwrap_used, clippy::print_stderr)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use trust::{
    UnixTime,
    identity::{OrgRoot, SigstoreIdentity, SigstoreTrust},
};

/// Names the Python with sigstore, in-toto, securesystemslib, spdx-tools and cyclonedx-python-lib.
pub const PYTHON: &str = "MANDATE_SIGNING_PYTHON";

pub fn now() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs())
}

/// Whether openssl 3 is there; says loudly when it is not.
pub fn has_openssl() -> bool {
    let there =
        Command::new("openssl").arg("version").output().is_ok_and(|o| o.stdout.starts_with(b"OpenSSL 3"));
    if !there {
        eprintln!("SKIPPED: needs OpenSSL 3 (cargo testbed up)");
    }
    there
}

/// The Python with the tools; says loudly when there is none.
pub fn python() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.testbed/signing-tools/bin/python");
    let found = std::env::var_os(PYTHON).map(PathBuf::from).or(Some(beside)).filter(|p| p.exists());
    if found.is_none() {
        eprintln!("SKIPPED: needs Python's signing tools (cargo testbed up signing, or set {PYTHON})");
    }
    found
}

/// Runs a command in a directory; its output if it succeeded.
pub fn run(dir: &Path, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Vec<u8> {
    let out = Command::new(program.as_ref()).args(args).current_dir(dir).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{:?} {args:?}\n{stdout}\n{stderr}", program.as_ref());
    out.stdout
}

/// Our Python scripts; each says at its head what it makes.
pub const SIGSTORE_WORLD: &str = include_str!("sigstore_world.py");
pub const LAYOUT_WORLD: &str = include_str!("layout_world.py");
pub const SBOM_WORLD: &str = include_str!("sbom_world.py");

/// Runs one of them in a directory, with the directory and another argument.
pub fn script(python: &Path, dir: &Path, text: &str, argument: &str) {
    run(dir, python, &["-c", text, dir.to_str().unwrap(), argument]);
}

/// A miniature Sigstore in a directory, with its bundles over an artifact (`NAME.sigstore.json`), and an organisation that
/// trusts it: the identity `release@vendor.example` and the key `cosign`. `None`: the tools are missing.
pub fn sigstore_world(artifact: &[u8]) -> Option<(tempfile::TempDir, OrgRoot)> {
    let python = python().filter(|_| has_openssl())?;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("artifact"), artifact).unwrap();
    script(&python, dir.path(), SIGSTORE_WORLD, "artifact");
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let identity = SigstoreIdentity {
        issuer: "https://accounts.example".into(),
        subject: "release@vendor.example".into(),
    };
    let trusted_root = serde_json::from_str(&read("trusted_root.json")).unwrap();
    let root = OrgRoot {
        keys: BTreeMap::from([("cosign".to_owned(), read("key.pem"))]),
        sigstore: Some(SigstoreTrust { trusted_root, identities: vec![identity] }),
        ..OrgRoot::default()
    };
    Some((dir, root))
}

/// A root, an intermediate and a signer, as files `root`, `inter`, `leaf` with `.pem` and `.key`.
pub struct Ca {
    pub dir: tempfile::TempDir,
    pub algorithm: &'static str,
}

pub const P256: &str = "ec -pkeyopt ec_paramgen_curve:P-256";
pub const P384: &str = "ec -pkeyopt ec_paramgen_curve:P-384";
pub const RSA: &str = "rsa:2048";
pub const ED25519: &str = "ed25519";

impl Ca {
    pub fn new(algorithm: &'static str) -> Self {
        let it = Self { dir: tempfile::tempdir().unwrap(), algorithm };
        it.request("root", "/O=vendor/CN=Vendor Root");
        let ca = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n";
        let end = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash\n";
        std::fs::write(it.path("ca.cnf"), ca).unwrap();
        std::fs::write(it.path("leaf.cnf"), end).unwrap();
        it.openssl("x509 -req -in root.csr -signkey root.key -days 3650 -extfile ca.cnf -out root.pem");
        it.issue("inter", "/O=vendor/CN=Vendor Signing CA", "root", "ca.cnf", "3000");
        it.issue("leaf", "/O=vendor/CN=release", "inter", "leaf.cnf", "1000");
        it
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    pub fn openssl(&self, args: &str) -> Vec<u8> {
        run(self.dir.path(), "openssl", &args.split(' ').collect::<Vec<_>>())
    }

    pub fn request(&self, name: &str, subject: &str) {
        let mut args = vec!["req", "-newkey"];
        args.extend(self.algorithm.split(' '));
        let (key, csr) = (format!("{name}.key"), format!("{name}.csr"));
        args.extend(["-nodes", "-keyout", &key, "-out", &csr, "-subj", subject]);
        run(self.dir.path(), "openssl", &args);
    }

    pub fn issue(&self, name: &str, subject: &str, issuer: &str, extensions: &str, days: &str) {
        self.request(name, subject);
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -CAcreateserial -days {days} \
             -extfile {extensions} -out {name}.pem"
        ));
    }

    /// `openssl cms -sign` over content, with more arguments; the signature.
    pub fn sign(&self, content: &[u8], more: &str) -> Vec<u8> {
        std::fs::write(self.path("content"), content).unwrap();
        let common = "cms -sign -in content -signer leaf.pem -inkey leaf.key -out signature";
        self.openssl(format!("{common} {more}").trim_end());
        self.read("signature")
    }
}
