//! Which crate of ours may depend on which.

use super::Finding;
use crate::workspace::Metadata;

/// Every crate may depend on these.
const FOR_ALL: &[&str] = &["trust"];

/// Crate and what it may depend on besides [`FOR_ALL`], dev-dependencies apart. Later crates are listed already.
const TABLE: &[(&str, &[&str])] = &[
    ("trust", &[]),
    // what the data plane and the orchestrator share
    ("attestation", &[]),
    ("dataplane-control", &[]),
    // the gate
    ("ledger-contract", &["attestation", "dataplane-control", "supply", "fabric"]),
    ("ledger", &["ledger-contract"]),
    // what Fabric speaks, for both sides of it
    ("fabric", &[]),
    ("ledger-fabric", &["fabric", "ledger", "ledger-contract"]),
    ("mandate-chaincode", &["fabric", "ledger-contract"]),
    // what providers upload
    ("supply", &[]),
    ("descriptors", &["supply", "dataplane-control"]),
    // clients of foreign HTTP APIs
    ("http-peer", &[]),
    // infrastructure
    ("vim", &["attestation", "dataplane-control"]),
    ("vim-host", &["vim", "attestation", "dataplane-control"]),
    ("vim-openstack", &["vim", "attestation", "dataplane-control", "sriov", "http-peer"]),
    ("vim-kubevirt", &["vim", "attestation", "dataplane-control"]),
    ("sriov", &[]),
    // the orchestrator
    ("mano", &["vim", "dataplane-control"]),
    ("mano-osm", &["mano", "vim", "dataplane-control", "http-peer"]),
    // the gate inside OSM: it knows neither engine nor VIM
    ("osm-gateway", &["ledger-contract", "http-peer"]),
    ("lcm", &["ledger-contract", "descriptors", "vim", "mano", "dataplane-control", "attestation"]),
    (
        "orchestrator",
        &[
            "lcm",
            "ledger-contract",
            "ledger",
            "fabric",
            "ledger-fabric",
            "vim",
            "vim-host",
            "vim-openstack",
            "vim-kubevirt",
            "mano",
            "mano-osm",
            "osm-gateway",
            "descriptors",
            "dataplane-control",
            "attestation",
        ],
    ),
    // packets
    ("dataplane-engine", &["dataplane-control"]),
    ("dpdk-sys", &[]),
    ("dpdk", &["dpdk-sys", "dataplane-engine"]),
    ("mandate-dataplane", &["dataplane-engine", "dpdk", "dataplane-control", "attestation"]),
    ("mandate-launcher", &["dataplane-control", "attestation"]),
    // drives the product from outside
    ("testbed", &["dataplane-control", "fabric"]),
];

/// Normal and build dependencies of our crates on each other, against the table.
pub fn check(metadata: &Metadata) -> Vec<Finding> {
    let ours: Vec<&str> = metadata.members().map(|p| p.name.as_str()).collect();
    let mut findings = Vec::new();
    for package in metadata.members() {
        let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == package.name) else {
            findings.push(Finding::new(
                &package.name,
                "is not in the table of testbed/src/check/graph.rs: say there what it may depend on",
            ));
            continue;
        };
        for d in package.dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev")) {
            let name = d.name.as_str();
            if ours.contains(&name) && !allowed.contains(&name) && !FOR_ALL.contains(&name) {
                let allowed = [allowed, FOR_ALL].concat().join(", ");
                findings.push(Finding::new(
                    &package.name,
                    format!("must not depend on {name}; it may on {allowed} (docs/architecture.md)"),
                ));
            }
        }
    }
    findings
}
