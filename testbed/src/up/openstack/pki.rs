//! A CA of the cloud's own: what the endpoints show, and what the services show when a policy asks elsewhere.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, time::Duration};

use anyhow::Context as _;

use crate::command;

const LIMIT: Duration = Duration::from_secs(30);
const DAYS: &str = "3650";
const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
/// Certificates of the CA: name, purpose, subjects' names. `policy` is for who answers the services' policy checks.
const LEAVES: [(&str, &str, &str); 3] = [
    ("api", "serverAuth", "IP:127.0.0.1,DNS:localhost"),
    ("services", "clientAuth", "DNS:services.openstack.testbed"),
    ("policy", "serverAuth", "IP:127.0.0.1,DNS:localhost"),
];

/// Makes them in `dir`; those that are there stay.
pub fn make(dir: &Path) -> anyhow::Result<()> {
    if dir.join("api.pem").exists() {
        return Ok(());
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    let mut ca = openssl(dir, "ca", "/CN=OpenStack testbed CA");
    ca.args([
        "-addext",
        "basicConstraints=critical,CA:TRUE",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
    ]);
    command::succeed(&mut ca, LIMIT)?;
    for (name, purpose, names) in LEAVES {
        let mut leaf = openssl(dir, name, &format!("/CN={name}"));
        leaf.args(["-CA", "ca.crt", "-CAkey", "ca.key"]);
        for extension in [
            "basicConstraints=critical,CA:FALSE".to_owned(),
            "keyUsage=critical,digitalSignature".to_owned(),
            format!("extendedKeyUsage={purpose}"),
            format!("subjectAltName={names}"),
        ] {
            leaf.arg("-addext").arg(extension);
        }
        command::succeed(&mut leaf, LIMIT)?;
    }
    let bundle = [fs::read(dir.join("api.crt"))?, fs::read(dir.join("api.key"))?].concat();
    fs::write(dir.join("api.pem"), bundle).context("cannot write the endpoints' certificate")
}

fn openssl(dir: &Path, name: &str, subject: &str) -> Command {
    let mut c = Command::new("openssl");
    c.current_dir(dir).args(["req", "-x509", "-days", DAYS, "-subj", subject]).args(KEY);
    c.arg("-keyout").arg(format!("{name}.key")).arg("-out").arg(format!("{name}.crt"));
    c
}
