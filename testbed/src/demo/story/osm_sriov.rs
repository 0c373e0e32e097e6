//! A pair of whole guests with virtual functions, made by an OSM: on different hosts, with pinned CPUs and 1 GiB pages, each function bound
//! and trusted, the management port guarded; read back, and gone without a trace.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{Act, Story, TENANT, osm_faults::Mess, service, text};
use crate::up::openstack::{TENANTS, View};

pub(super) const ACTS: &[Act] = &[
    ("operator: a management network in the cloud", Story::management),
    ("operator: found ledger, journal and identities", Story::init_in_cloud),
    ("operator: a VIM account in OSM for the site", Story::account_in_osm),
    ("operator: start the orchestrator", Story::serve),
    ("provider: pack, sign and register two packages", Story::sriov_packages),
    ("tenant: a firewall pair with virtual functions by OSM", Story::deploy_pair),
    ("tenant: terminate it", Story::terminate_pair),
    ("nothing is left in OSM", Story::empty_osm),
    ("operator: the management network goes", Story::no_management),
];

const SERVICE: &str = "pair";
const INSTANCES: usize = 2;
/// Connection points that are virtual functions.
const FUNCTIONS: [&str; 2] = ["inside", "outside"];
/// A disk that nothing boots from: the testbed's hosts boot nothing.
const DISK_BYTES: usize = 1 << 20;

impl Story {
    pub(super) fn management(&mut self) -> anyhow::Result<String> {
        let network = View::new()?.network(TENANTS[0], "mgmt", "10.250.0.0/24")?;
        self.mess.get_or_insert_with(Mess::default).networks = vec![network];
        Ok("mgmt".into())
    }

    pub(super) fn no_management(&mut self) -> anyhow::Result<String> {
        self.mess.take().map_or(Ok(()), |mess| mess.clear())?;
        Ok("mgmt".into())
    }

    pub(super) fn sriov_packages(&mut self) -> anyhow::Result<String> {
        let disk: PathBuf = self.stage.path("fw-image.qcow2");
        let bytes: Vec<u8> = b"QFI\xfb".iter().copied().chain(std::iter::repeat_n(0, DISK_BYTES)).collect();
        fs::write(&disk, bytes)?;
        let image = format!("fw-image={}", disk.display());
        self.register(&["sriov_fw_vnf", "sriov_edge_ns"], &image)?;
        Ok("SBOM, SLSA provenance, signature".into())
    }

    pub(super) fn deploy_pair(&mut self) -> anyhow::Result<String> {
        let line: Vec<&str> = vec![
            "deploy",
            "--service",
            SERVICE,
            "--nsd",
            "sriov_edge_ns",
            "--tenant",
            TENANT,
            "--throughput-kbps",
            "4000",
            "--latency-p95-us",
            "100000",
            "--loss-ppm",
            "10000",
            "--jurisdiction",
            "DE",
            "--sensitivity",
            "internal",
            "--lease",
            "24h",
            "--expires-in",
            "1h",
        ];
        let (operation, _) = self.carried_out(&line)?;
        let seen = self.in_cloud()?;
        ensure!(seen.servers.len() == INSTANCES, "{INSTANCES} instances, and {seen}");
        let (bundle, _) = self.verified(&text(&operation, "id")?)?;
        self.report.evidence.verified = true;
        let claims = service::steps(&fs::read(bundle)?);
        let pair: Vec<&Value> = claims.iter().filter(|c| c["action"] == "ensure compute").collect();
        ensure!(pair.len() == INSTANCES, "{} instances in the evidence", pair.len());
        let mut hosts = BTreeSet::new();
        let mut said = Vec::new();
        for claim in pair {
            let found = &claim["observed"];
            let host = text(&found["whereabouts"], "host")?;
            ensure!(found["whereabouts"]["group"]["satisfied"] == true, "not apart: {found}");
            let functions = FUNCTIONS
                .iter()
                .map(|name| function(found, name, &host))
                .collect::<anyhow::Result<Vec<_>>>()?;
            let oam = &found["links"]["oam"]["binding"];
            ensure!(oam["vnic"] == "normal" && oam["unguarded"] != true, "management is not guarded: {oam}");
            said.push(format!("{host}: {}", functions.join(" ")));
            hosts.insert(host);
        }
        ensure!(hosts.len() == INSTANCES, "both halves are on {hosts:?}");
        Ok(format!("{seen}; read back: {}", said.join(", ")))
    }

    pub(super) fn terminate_pair(&mut self) -> anyhow::Result<String> {
        let (operation, _) = self.carried_out(&["terminate", "--service", SERVICE, "--tenant", TENANT])?;
        self.verified(&text(&operation, "id")?)?;
        let left = self.in_cloud()?;
        ensure!(left == crate::up::openstack::Seen::default(), "left behind: {left}: {left:?}");
        Ok("no server, port, network, image, group or allocation is left".into())
    }
}

/// The PCI address of a connection point that is a virtual function: bound on its instance's host, trusted, without filters.
fn function(found: &Value, name: &str, host: &str) -> anyhow::Result<String> {
    let binding = &found["links"][name]["binding"];
    let slot =
        binding["pci_slot"].as_str().with_context(|| format!("{name} has no PCI address: {binding}"))?;
    let bound = binding["vnic"] == "direct" && binding["vif_type"] == "hw_veb" && binding["host"] == host;
    ensure!(bound, "{name} is not bound as a function of {host}: {binding}");
    ensure!(
        binding["trusted"] == true && binding["unguarded"] == true,
        "{name} is not as asked for: {binding}"
    );
    Ok(slot.to_owned())
}
