//! The configuration of `mandate serve`: TOML, unknown keys refused, checked as a whole before any socket opens.

mod fabric;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use osm_gateway::GatewayConfig;
use serde::{Deserialize, Serialize};

pub use fabric::{FabricPeer, FabricSection};

use crate::{osm_notifications::NotificationsConfig, remote_policy::PolicyConfig};

/// `config.toml` in the home directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The organisation that operates this orchestrator.
    pub operator: String,
    /// Digests (`sha256:…`) of the policy bundles whose decisions are carried out.
    pub accepted_policies: Vec<trust::Digest>,
    /// A Hyperledger Fabric channel as the ledger; without it the embedded log is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fabric: Option<FabricSection>,
    /// Where services can run; at least one.
    #[serde(rename = "site")]
    pub sites: Vec<SiteConfig>,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// Comparison of what should be with what is.
    #[serde(default)]
    pub drift: Drift,
    /// What things cost where services are placed.
    #[serde(default)]
    pub placement: Placement,
    /// What joins the sites; without it a service stays within one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wan: Option<WanConfig>,
    /// The API over TCP; without it there is the UNIX socket alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiConfig>,
    /// Traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<TelemetryConfig>,
    /// Who makes whole services at the sites that it names: Open Source MANO; without it we make everything ourselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub osm: Option<OsmSection>,
    /// Where OSM's own clients are answered; without it they talk to OSM alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub osm_gateway: Option<GatewayConfig>,
    /// Where OpenStack's own policy checks are answered; without it no service is to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openstack_policy: Option<PolicyConfig>,
}

/// The API over mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiConfig {
    /// `ADDRESS:PORT`.
    pub listen: String,
    /// Certificate chain, PEM; default: the orchestrator's own identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Its key, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// Open Source MANO, by its northbound interface. What is not said here is as its driver has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OsmSection {
    /// `https://osm.example:9999/osm`.
    pub url: String,
    /// Our user there.
    pub username: String,
    /// File that holds its password.
    pub password_file: PathBuf,
    /// Project, by name or id; absent: `admin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The CA that certified it, PEM; absent: those that browsers know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cacert: Option<PathBuf>,
    /// Without TLS: token and password cross the network readable. For one on this machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_plain_http: bool,
    /// Longest that one of its operations may take, s; absent: 1800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
    /// Our sites and the name of OSM's VIM account for each.
    pub sites: BTreeMap<String, String>,
    /// Where it notifies us; absent: its operations are only looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notifications: Option<NotificationsConfig>,
}

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// An OpenTelemetry collector's OTLP/HTTP endpoint, for example `http://127.0.0.1:4318`.
    pub otlp: String,
}

/// The wide-area network between the sites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WanConfig {
    /// Its name, as every site's VIM knows it.
    pub name: String,
    /// Which sites it connects, and how well.
    #[serde(rename = "connection")]
    pub connections: Vec<lcm::placement::Connection>,
}

/// Prices of the cost function (Z = sum of SLA penalties + alpha x unused capacity + vCPUs at their sites' cost and latency).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Alpha, per mille: price of the capacity that stays unused at the sites that are in use; 0 to 1,000,000.
    pub alpha_permille: u32,
    /// Penalty for each µs by which the way through the service is longer than the latency that its intent promises; 0
    /// to 1,000.
    pub sla_penalty_per_us: u32,
}

/// Highest alpha, per mille: Z stays countable for 128 sites.
const MAX_ALPHA_PERMILLE: u32 = 1_000_000;
/// Highest penalty per µs: Z stays countable for ways of some seconds.
const MAX_SLA_PENALTY: u32 = 1_000;

/// How drift is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drift {
    /// Time between two looks at every site, s. A VIM that tells of changes is looked at sooner.
    pub interval_s: u64,
}

impl Default for Drift {
    fn default() -> Self {
        // A look costs some milliseconds per hundred instances.
        Self { interval_s: 10 }
    }
}

/// One site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteConfig {
    /// 1 to 16 of `a-z 0-9 -`.
    pub name: String,
    /// ISO 3166-1 alpha-2.
    pub jurisdiction: String,
    /// Latency from the tenants, µs.
    pub latency_us: u64,
    /// Relative cost of one vCPU, for placement.
    pub cost: u32,
    /// Operations with effects there at once, 1 to 5: a VIM's control plane has its limits.
    #[serde(default = "default_site_operations")]
    pub concurrent_operations: usize,
    /// It takes nothing new; what runs there stays. For maintenance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// The trusted execution environment that its machines have: `sev-snp`, `tdx`, `sgx`, `cca`; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tee: Option<String>,
    /// This machine as a VIM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostSite>,
    /// An OpenStack cloud as a VIM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openstack: Option<OpenStackSite>,
}

/// A site's VIM: there is exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VimSite<'a> {
    /// This machine.
    Host(&'a HostSite),
    /// An OpenStack cloud.
    OpenStack(&'a OpenStackSite),
}

impl SiteConfig {
    /// Its VIM; an error says what is wrong.
    pub fn vim(&self) -> Result<VimSite<'_>, &'static str> {
        match (&self.host, &self.openstack) {
            (Some(host), None) => Ok(VimSite::Host(host)),
            (None, Some(cloud)) => Ok(VimSite::OpenStack(cloud)),
            (None, None) => Err("it has no VIM: write [site.host] or [site.openstack]"),
            (Some(_), Some(_)) => Err("it has two VIMs: keep [site.host] or [site.openstack]"),
        }
    }

    /// What it gives where a descriptor names nothing.
    #[must_use]
    pub fn defaults(&self) -> lcm::placement::Defaults {
        let of = |cloud: &OpenStackSite| lcm::placement::Defaults {
            management_network: cloud.management_network.clone(),
            physical_network: cloud.physical_network.clone(),
            external_network: cloud.external_network.clone(),
            zone: cloud.zone.clone(),
        };
        self.openstack.as_ref().map(of).unwrap_or_default()
    }

    /// Longest that a step at the site may take, s, whatever the limits say: a guest boots, and is deleted when it does not.
    #[must_use]
    pub fn step_timeout_s(&self) -> u64 {
        let boots = |c: &OpenStackSite| c.boot_timeout_s.saturating_mul(2).saturating_add(CLOUD_MARGIN_S);
        self.openstack.as_ref().map_or(0, boots)
    }

    /// The TPM of its machine.
    #[must_use]
    pub fn tpm(&self) -> Option<&TpmSite> {
        self.host.as_ref().and_then(|h| h.tpm.as_ref())
    }
}

/// The OpenStack VIM of a site: a cloud of `clouds.yaml`, as `openstack` and the SDK read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenStackSite {
    /// Path of the `clouds.yaml`.
    pub clouds: PathBuf,
    /// Name of the cloud in it.
    pub cloud: String,
    /// What to give out at most; absent: what the project's quota and the hosts have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<vim::Resources>,
    /// Longest boot of a guest, s; one that takes longer is deleted.
    #[serde(default = "default_boot_timeout_s")]
    pub boot_timeout_s: u64,
    /// Availability zone of instances that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The network of links that a descriptor calls `mgmt-network` without naming one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management_network: Option<String>,
    /// The physical network (`provider:physical_network`) that carries SR-IOV ports of links whose descriptor names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical_network: Option<String>,
    /// The external network of floating addresses whose descriptor names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_network: Option<String>,
    /// Virtual functions that each host has, by physical network: nova does not tell.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub virtual_functions: BTreeMap<String, u32>,
    /// The physical network that each wide-area network (`[wan]`) is here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub wan: BTreeMap<String, String>,
}

/// Time beyond two boots (one that fails and its deletion) that a step has: ports, volumes, reading back.
const CLOUD_MARGIN_S: u64 = 300;

fn default_boot_timeout_s() -> u64 {
    300
}

impl OpenStackSite {
    /// A cloud, all of it.
    #[must_use]
    pub fn new(clouds: PathBuf, cloud: String) -> Self {
        let (capacity, zone, external_network) = (None, None, None);
        let (management_network, physical_network) = (None, None);
        let (virtual_functions, wan) = (BTreeMap::new(), BTreeMap::new());
        let boot_timeout_s = default_boot_timeout_s();
        Self {
            clouds,
            cloud,
            capacity,
            boot_timeout_s,
            zone,
            management_network,
            physical_network,
            external_network,
            virtual_functions,
            wan,
        }
    }
}

/// The trusted execution environments that a site may have.
const TEES: [&str; 4] = ["sev-snp", "tdx", "sgx", "cca"];

/// Most operations at one site at once.
const MAX_SITE_OPERATIONS: usize = 5;

fn default_site_operations() -> usize {
    2
}

/// The host VIM of a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSite {
    /// Virtual CPUs to give out.
    pub vcpus: u32,
    /// Memory to give out, MiB.
    pub memory_mib: u32,
    /// VDU instances at most.
    pub instances: u32,
    /// First uid (and gid) of the range that instances run as; 0: keep ours (in a user namespace).
    #[serde(default = "default_uid")]
    pub first_uid: u32,
    /// `mandate-launcher`; default: beside the running executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launcher: Option<PathBuf>,
    /// The machine's TPM; without it the site cannot attest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmSite>,
}

fn default_uid() -> u32 {
    200_000
}

/// A TPM 2.0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmSite {
    /// TCTI: `device:/dev/tpmrm0`, `swtpm:path=/run/…/tpm.sock`.
    pub tcti: String,
    /// The PCR that the launcher extends; nobody else may.
    #[serde(default = "default_pcr")]
    pub pcr: u8,
    /// Quote with this generation of the attestation key instead of the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ak_generation: Option<u32>,
}

fn default_pcr() -> u8 {
    13
}

/// Bounds, with the reason for each default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Attempts of one step before it counts as failed (transient VIM errors rarely outlast three tries).
    pub step_attempts: u32,
    /// Pause before the second attempt, ms; doubles each time.
    pub retry_ms: u64,
    /// Longest a single step may take, s (a data-plane process starts in under a second; images are local).
    pub step_timeout_s: u64,
    /// Operations that have begun and are not over, at all sites together: each holds some 100 KiB.
    pub concurrent_operations: usize,
    /// Operations of one tenant that begin per minute on average; isolation and repair do not count.
    pub tenant_operations_per_minute: u32,
    /// Operations of one tenant that may begin at once after a rest.
    pub tenant_burst: u32,
    /// Packages and images of one provider in the package store, MiB (16 packages of the largest size).
    pub provider_store_mib: u64,
    /// Packages of one provider in the package store: each costs a look at the ledger now and then.
    pub provider_packages: u64,
    /// All packages and images in the package store, MiB: what the disk can spare.
    pub store_mib: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            step_attempts: 3,
            retry_ms: 200,
            step_timeout_s: 60,
            concurrent_operations: 16,
            tenant_operations_per_minute: 600,
            tenant_burst: 60,
            provider_store_mib: 4096,
            provider_packages: 256,
            store_mib: 32_768,
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML, or unknown or missing keys; the text says where.
    #[error("{file}: {message}")]
    Syntax {
        /// The file.
        file: String,
        /// What and where.
        message: String,
    },
    /// Values that cannot be.
    #[error("{file}: {key}: {problem}")]
    Value {
        /// The file.
        file: String,
        /// Which key.
        key: String,
        /// What is wrong and what is right.
        problem: String,
    },
}

impl Config {
    /// Parses and checks; `file` is for messages.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        let it: Self = toml::from_str(text)
            .map_err(|e| ConfigError::Syntax { file: file.into(), message: e.to_string() })?;
        it.check(file)?;
        Ok(it)
    }

    fn check(&self, file: &str) -> Result<(), ConfigError> {
        let bad = |key: String, problem: &str| {
            Err(ConfigError::Value { file: file.into(), key, problem: problem.into() })
        };
        if let Some(api) = &self.api {
            if api.listen.parse::<std::net::SocketAddr>().is_err() {
                return bad("api.listen".into(), "ADDRESS:PORT, for example 127.0.0.1:8443 or [::]:8443");
            }
            if api.certificate.is_some() != api.key.is_some() {
                return bad("api".into(), "certificate and key belong together: name both or neither");
            }
        }
        let otlp = self.telemetry.as_ref().map(|t| t.otlp.as_str());
        if otlp.is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
            return bad("telemetry.otlp".into(), "a URL: http://127.0.0.1:4318");
        }
        if let Some(fabric) = &self.fabric {
            fabric.check().or_else(|(key, problem)| bad(key, problem))?;
        }
        if self.sites.is_empty() {
            return bad("site".into(), "at least one [[site]] is needed");
        }
        if self.accepted_policies.is_empty() {
            return bad(
                "accepted_policies".into(),
                "at least one policy digest is needed (mandate init writes it)",
            );
        }
        let mut seen = BTreeSet::new();
        for site in &self.sites {
            let key = |k: &str| format!("site `{}`, {k}", site.name);
            let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if site.name.is_empty() || site.name.len() > 16 || !site.name.chars().all(legal) {
                return bad(key("name"), "1 to 16 of a-z 0-9 -");
            }
            if !seen.insert(&site.name) {
                return bad(key("name"), "there twice");
            }
            if !(1..=MAX_SITE_OPERATIONS).contains(&site.concurrent_operations) {
                return bad(key("concurrent_operations"), "1 to 5");
            }
            if site.tee.as_ref().is_some_and(|t| !TEES.contains(&t.as_str())) {
                return bad(key("tee"), &format!("one of {}", TEES.join(", ")));
            }
            if site.jurisdiction.len() != 2 || !site.jurisdiction.chars().all(|c| c.is_ascii_uppercase()) {
                return bad(key("jurisdiction"), "two capital letters (ISO 3166-1 alpha-2)");
            }
            let known = |t: &&TpmSite| {
                ["device:/", "swtpm:path=/", "swtpm:host=", "swtpm:port="]
                    .iter()
                    .any(|p| t.tcti.starts_with(p))
            };
            if let Err(problem) = site.vim() {
                return bad(key("vim"), problem);
            }
            if let Some(tpm) = site.tpm().filter(|t| !known(t)) {
                let right = "device:/dev/tpmrm0, swtpm:path=/SOCKET or swtpm:host=HOST,port=PORT";
                return bad(key("host.tpm.tcti"), &format!("`{}` is no TPM; write {right}", tpm.tcti));
            }
            if site.tpm().is_some_and(|t| t.pcr > 15) {
                return bad(key("host.tpm.pcr"), "0 to 15 (software can reset the others)");
            }
        }
        for site in self.osm.iter().flat_map(|o| o.sites.keys()) {
            let found = self.sites.iter().find(|s| s.name == *site);
            if found.is_none_or(|s| s.openstack.is_none()) {
                return bad("osm.sites".into(), &format!("`{site}` is no [[site]] of [site.openstack]"));
            }
        }
        if let Some(notifications) = self.osm.as_ref().and_then(|o| o.notifications.as_ref()) {
            let checked = notifications.check();
            checked.or_else(|(key, problem)| bad(format!("osm.notifications.{key}"), problem))?;
        }
        if let Some(gateway) = &self.osm_gateway {
            if self.osm.is_none() {
                return bad("osm_gateway".into(), "there is no OSM behind it: write [osm]");
            }
            gateway.check().or_else(|(key, problem)| bad(key, &problem))?;
        }
        if let Some(policy) = &self.openstack_policy {
            let sites = seen.iter().map(|s| s.as_str()).collect();
            policy.check(&sites).or_else(|(key, problem)| bad(key, &problem))?;
        }
        for end in self.wan.iter().flat_map(|w| &w.connections).flat_map(|c| [&c.a, &c.b]) {
            if !seen.contains(end) {
                return bad("wan.connection".into(), &format!("`{end}` is no [[site]]"));
            }
        }
        if !(1..=86_400).contains(&self.drift.interval_s) {
            return bad("drift.interval_s".into(), "1 to 86400 seconds");
        }
        if self.placement.alpha_permille > MAX_ALPHA_PERMILLE {
            return bad("placement.alpha_permille".into(), &format!("at most {MAX_ALPHA_PERMILLE}"));
        }
        if self.placement.sla_penalty_per_us > MAX_SLA_PENALTY {
            return bad("placement.sla_penalty_per_us".into(), &format!("at most {MAX_SLA_PENALTY}"));
        }
        let limits = &self.limits;
        let least = [limits.step_attempts, limits.tenant_operations_per_minute, limits.tenant_burst];
        if least.contains(&0) || limits.concurrent_operations == 0 {
            let keys = "step_attempts, concurrent_operations, tenant_operations_per_minute and tenant_burst";
            return bad("limits".into(), &format!("{keys} must be at least 1"));
        }
        if [limits.provider_store_mib, limits.provider_packages, limits.store_mib].contains(&0) {
            let keys = "provider_store_mib, provider_packages and store_mib";
            return bad("limits".into(), &format!("{keys} must be at least 1"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"
operator = "edge-org"
accepted_policies = ["sha256:0000000000000000000000000000000000000000000000000000000000000000"]

[[site]]
name = "edge"
jurisdiction = "DE"
latency_us = 500
cost = 1
concurrent_operations = 2

[site.host]
vcpus = 8
memory_mib = 4096
instances = 8
tpm = { tcti = "swtpm:path=/run/tpm.sock", pcr = 13 }

[limits]
step_attempts = 3

[drift]
interval_s = 10

[api]
listen = "[::]:8443"

[telemetry]
otlp = "http://127.0.0.1:4318"
"#;

    proptest! {
        /// Whatever a line becomes: read, or refused with the file's name.
        #[test]
        fn a_changed_configuration_is_read_or_refused(
            at in any::<prop::sample::Index>(),
            cut in 0..20usize,
            with in "(?s)[\\[\\]{}=\"'.,#\\n\\PC]{0,8}|= -1\\n|\\[\\[site\\]\\]\n|99999999999999999999",
        ) {
            let starts: Vec<usize> = GOOD.char_indices().map(|(i, _)| i).collect();
            let i = at.index(starts.len());
            let end = starts.get(i + cut).copied().unwrap_or(GOOD.len());
            let text = format!("{}{with}{}", &GOOD[..starts[i]], &GOOD[end..]);
            if let Err(e) = Config::parse(&text, "config.toml") {
                prop_assert!(e.to_string().starts_with("config.toml"), "{e}");
            }
        }
    }

    #[test]
    fn an_unknown_key_is_refused_wherever_it_is() {
        assert!(Config::parse(GOOD, "config.toml").is_ok());
        for section in
            ["", "[[site]]\n", "[site.host]\n", "[limits]\n", "[drift]\n", "[api]\n", "[telemetry]\n"]
        {
            let text = match section {
                "" => format!("unknown = 1\n{GOOD}"),
                section => GOOD.replacen(section, &format!("{section}unknown = 1\n"), 1),
            };
            let error = Config::parse(&text, "config.toml").unwrap_err().to_string();
            assert!(error.contains("unknown"), "{section}: {error}");
        }
    }

    #[test]
    fn deep_and_large_configurations_end() {
        for text in
            ["[".repeat(1 << 16), "a=".to_owned() + &"[".repeat(1 << 16), "a.".repeat(1 << 16) + "b=1"]
        {
            assert!(Config::parse(&text, "config.toml").is_err());
        }
    }
}
