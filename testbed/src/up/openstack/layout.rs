//! Where everything of the cloud is, and on which ports it listens.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{config, pki};
use crate::up::ports;

/// The APIs: service, its type in the catalogue, and the path after host and port.
pub const APIS: [(&str, &str, &str); 5] = [
    ("keystone", "identity", "/v3"),
    ("glance", "image", ""),
    ("placement", "placement", ""),
    ("nova", "compute", "/v2.1"),
    ("neutron", "network", ""),
];
/// Compute hosts.
pub const HOSTS: [&str; 2] = ["compute1", "compute2"];
/// Projects with a user of the same name, besides the administrator's.
pub const TENANTS: [&str; 2] = ["tenant-a", "tenant-b"];
/// Databases, each of one service; nova's API has one of its own, and there are two cells.
pub const DATABASES: [&str; 8] =
    ["keystone", "glance", "placement", "nova_api", "nova_cell0", "nova_cell1", "neutron", "cinder"];

/// Public endpoints first, then the same services without TLS, then what only services use.
const OTHERS: [&str; 4] = ["mysql", "rabbit", "epmd", "distribution"];
const PORTS: u16 = 16;
/// First ports to try: below those that a kernel gives to clients.
const BASES: std::ops::Range<u16> = 15_500..16_500;
const STEP: usize = 20;
/// Between a service's public port and the one without TLS.
const INNER: u16 = 5;

/// The cloud below a directory.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
    base: u16,
    secret: String,
}

impl Layout {
    /// Chooses ports and a password at the first time, and writes the configuration.
    pub fn make(root: &Path) -> anyhow::Result<Self> {
        let cache = root.join("cache");
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o700))?;
        let secret = kept(&cache.join("secret"), secret)?;
        let base = base(root, &cache.join("ports"))?;
        let it = Self { root: root.to_owned(), base, secret };
        pki::make(&it.pki())?;
        config::write(&it)?;
        Ok(it)
    }

    /// Has a cloud been begun here that was not ended?
    pub fn begun(&self) -> bool {
        self.data("planted").exists()
    }

    /// What every user's password is.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Of a service, without TLS, or of one of [`OTHERS`].
    pub fn port(&self, name: &str) -> u16 {
        let services = APIS.iter().map(|(service, ..)| *service);
        let place = services.chain(OTHERS).position(|n| n == name).unwrap_or_default();
        self.base + INNER + u16::try_from(place).unwrap_or_default()
    }

    /// Where users reach a service.
    pub fn public(&self, service: &str) -> u16 {
        self.port(service) - INNER
    }

    /// Of cinder, without TLS; users reach it at the port before.
    pub fn volumes(&self) -> u16 {
        self.base + PORTS - 1
    }

    /// The first port.
    pub fn base(&self) -> u16 {
        self.base
    }

    /// The directory of everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Of the running cloud: databases, images.
    pub fn data(&self, name: &str) -> PathBuf {
        self.root.join("data").join(name)
    }

    /// Configuration.
    pub fn etc(&self, name: &str) -> PathBuf {
        self.root.join("etc").join(name)
    }

    /// Logs, one for each process.
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("log").join(name)
    }

    /// A program of the Python packages.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.root.join("cache/venv/bin").join(name)
    }

    /// What the databases were when they were first made.
    pub fn seed(&self) -> PathBuf {
        self.root.join("cache/seed")
    }

    /// For clients.
    pub fn clouds(&self) -> PathBuf {
        self.root.join("clouds.yaml")
    }

    /// The CA and what it signed.
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// How services reach a database.
    pub fn database(&self, name: &str) -> String {
        format!("{}/{name}", self.databases())
    }

    /// The same without a name.
    pub fn databases(&self) -> String {
        format!("mysql+pymysql://openstack:{}@127.0.0.1:{}", self.secret, self.port("mysql"))
    }

    /// How services reach each other.
    pub fn messages(&self) -> String {
        format!("rabbit://openstack:{}@127.0.0.1:{}/", self.secret, self.port("rabbit"))
    }
}

/// What the file has, or what `make` makes, kept there for its owner alone.
fn kept(file: &Path, make: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<String> {
    if let Ok(text) = fs::read_to_string(file) {
        return Ok(text);
    }
    let text = make()?;
    fs::write(file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    Ok(text)
}

fn secret() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// The first port: of the cloud that runs; else the one used before, if all are free; else the first that are.
fn base(root: &Path, file: &Path) -> anyhow::Result<u16> {
    let before = fs::read_to_string(file).ok().and_then(|t| t.parse().ok());
    let running = root.join("data/planted").exists();
    if let Some(base) = before.filter(|base| running || ports::free(*base, PORTS)) {
        return Ok(base);
    }
    let base = ports::row(BASES.step_by(STEP), PORTS)?;
    fs::write(file, base.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_listen_on_the_same_port() {
        let it = Layout { root: PathBuf::new(), base: 15_500, secret: String::new() };
        let mut ports: Vec<u16> = APIS.iter().flat_map(|(s, ..)| [it.port(s), it.public(s)]).collect();
        ports.extend(OTHERS.map(|name| it.port(name)));
        ports.extend([it.volumes() - 1, it.volumes()]);
        ports.sort_unstable();
        assert_eq!(ports, (15_500..15_500 + PORTS).collect::<Vec<_>>());
    }
}
