//! The network below a directory: who belongs to it, where each listens, where its files are.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use crate::up::{
    ports,
    process::{self, Process},
};

/// First ports to try: below those that a kernel gives to clients.
const BASES: std::ops::Range<u16> = 19_000..20_000;
const STEP: usize = 50;
/// Of one node.
const PORTS: u16 = 4;

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// Of the ordering service, from 0.
    Orderer(u16),
    /// Of an organisation (from 1), from 0.
    Peer(u16, u16),
    /// The contract of an organisation (from 1).
    Chaincode(u16),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Orderer(i) => write!(f, "orderer{i}"),
            Self::Peer(org, i) => write!(f, "peer{i}.org{org}"),
            Self::Chaincode(org) => write!(f, "chaincode.org{org}"),
        }
    }
}

/// Those that use others end before them.
pub fn rank(name: &str) -> u8 {
    match name {
        peer if peer.starts_with("peer") => 0,
        chaincode if chaincode.starts_with("chaincode") => 1,
        _ => 2,
    }
}

/// The network below a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The directory of everything.
    pub root: PathBuf,
    /// What was asked for.
    pub plan: Plan,
    /// Fabric's programs.
    pub bin: PathBuf,
    /// The contract's program.
    pub contract: PathBuf,
    base: u16,
}

impl Layout {
    /// A new one, on ports that are free.
    pub fn new(root: &Path, plan: Plan, bin: PathBuf, contract: PathBuf) -> anyhow::Result<Self> {
        let mut it = Self { root: root.to_owned(), plan, bin, contract, base: 0 };
        let nodes = u16::try_from(it.nodes().len())?;
        it.base = ports::row(BASES.step_by(STEP), nodes * PORTS)?;
        Ok(it)
    }

    /// The one that `up` has written down; `None`: there is none.
    pub fn read(root: &Path) -> anyhow::Result<Option<Self>> {
        let file = Self::file(root);
        let Ok(text) = fs::read_to_string(&file) else { return Ok(None) };
        let it = serde_json::from_str(&text);
        it.map(Some).with_context(|| {
            format!("{} is of another version: `cargo testbed down fabric`, then up again", file.display())
        })
    }

    /// Writes it down.
    pub fn write(&self) -> anyhow::Result<()> {
        let file = Self::file(&self.root);
        fs::write(&file, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", file.display()))
    }

    fn file(root: &Path) -> PathBuf {
        root.join("network.json")
    }

    /// In the order in which they are started.
    pub fn nodes(&self) -> Vec<Node> {
        let orderers = self.orderers().map(Node::Orderer);
        let contracts = self.organizations().map(Node::Chaincode);
        orderers.chain(contracts).chain(self.peers()).collect()
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> anyhow::Result<Node> {
        let nodes = self.nodes();
        let found = nodes.iter().find(|n| n.to_string() == name).copied();
        found.with_context(|| {
            let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            format!("no node `{name}`: there are {}", names.join(", "))
        })
    }

    /// Numbers of the orderers.
    pub fn orderers(&self) -> std::ops::Range<u16> {
        0..self.plan.net.orderers()
    }

    /// Numbers of the organisations.
    pub fn organizations(&self) -> std::ops::RangeInclusive<u16> {
        1..=self.plan.net.organizations()
    }

    /// All of all organisations.
    pub fn peers(&self) -> impl Iterator<Item = Node> + '_ {
        let each = self.plan.net.peers();
        self.organizations().flat_map(move |org| (0..each).map(move |i| Node::Peer(org, i)))
    }

    /// Where a node serves others.
    pub fn port(&self, node: Node) -> u16 {
        let place = self.nodes().iter().position(|n| *n == node).unwrap_or_default();
        self.base + PORTS * u16::try_from(place).unwrap_or_default()
    }

    /// The same with its host.
    pub fn address(&self, node: Node) -> String {
        format!("127.0.0.1:{}", self.port(node))
    }

    /// Where an orderer takes its administrator's calls, and a peer its chaincode's.
    pub fn second(&self, node: Node) -> u16 {
        self.port(node) + 1
    }

    /// Metrics of an orderer or peer.
    pub fn operations(&self, node: Node) -> u16 {
        self.port(node) + 2
    }

    /// Ports on which a node listens when it is ready.
    pub fn listens(&self, node: Node) -> Vec<u16> {
        match node {
            Node::Chaincode(_) => vec![self.port(node)],
            Node::Orderer(_) | Node::Peer(..) => vec![self.port(node), self.second(node)],
        }
    }

    /// The process of a node.
    pub fn process(&self, node: Node) -> Process {
        Process::at(&self.root, &node.to_string())
    }

    /// Every process that was started, users before what they use.
    pub fn processes(root: &Path) -> anyhow::Result<Vec<Process>> {
        process::all(root, rank)
    }

    /// One of Fabric's programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Configuration of a node, or of the commands (`cli`).
    pub fn etc(&self, name: &str) -> PathBuf {
        self.root.join("etc").join(name)
    }

    /// What a node keeps.
    pub fn data(&self, name: &str) -> PathBuf {
        self.root.join("data").join(name)
    }

    /// The channel's first block.
    pub fn genesis(&self) -> PathBuf {
        self.root.join("genesis.block")
    }

    /// What cryptogen has made of an organisation: 0 are the orderers.
    pub fn org(&self, org: u16) -> PathBuf {
        let crypto = self.root.join("crypto");
        match org {
            0 => crypto.join("ordererOrganizations/orderer.local"),
            _ => crypto.join(format!("peerOrganizations/org{org}.local")),
        }
    }

    /// The CA of an organisation's TLS certificates.
    pub fn tls_ca(&self, org: u16) -> PathBuf {
        let of = if org == 0 { "orderer".to_owned() } else { format!("org{org}") };
        self.org(org).join(format!("tlsca/tlsca.{of}.local-cert.pem"))
    }

    /// MSP and TLS certificate of an orderer or peer.
    pub fn identity(&self, node: Node) -> PathBuf {
        match node {
            Node::Peer(org, i) => self.org(org).join(format!("peers/peer{i}.org{org}.local")),
            _ => self.org(0).join(format!("orderers/{node}.orderer.local")),
        }
    }

    /// MSP of a user of an organisation: `Admin` or `User1`.
    pub fn user(&self, org: u16, user: &str) -> PathBuf {
        self.org(org).join(format!("users/{user}@org{org}.local/msp"))
    }

    /// TLS certificate of the contract (`server`), and of peers that connect to it (`peer`).
    pub fn contract_tls(&self, whose: &str) -> PathBuf {
        let crypto = self.root.join("crypto/ordererOrganizations/chaincode.local");
        crypto.join(format!("orderers/{whose}.chaincode.local/tls"))
    }

    /// An organisation's package.
    pub fn package(&self, org: u16) -> PathBuf {
        self.root.join(format!("packages/org{org}.tar.gz"))
    }

    /// Variables of an organisation's shell.
    pub fn shell(&self, org: u16) -> PathBuf {
        self.root.join(format!("org{org}.env"))
    }

    /// What there is and how it is reached, for programs.
    pub fn info(&self) -> PathBuf {
        self.root.join("info.json")
    }

    /// The program that stops and starts nodes of this network.
    pub fn control(&self) -> PathBuf {
        self.root.join("control")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Net;

    #[test]
    fn no_two_nodes_share_a_port_and_each_is_found_by_its_name() {
        for (net, nodes) in [(Net::Minimal, 3), (Net::Full, 9)] {
            let plan = Plan { net, ..Plan::default() };
            let it = Layout::new(Path::new("/n"), plan, "/bin".into(), "/cc".into()).unwrap();
            let all = it.nodes();
            assert_eq!(all.len(), nodes);
            let mut ports: Vec<u16> = all.iter().flat_map(|n| it.listens(*n)).collect();
            ports.extend(all.iter().map(|n| it.operations(*n)));
            let before = ports.len();
            ports.sort_unstable();
            ports.dedup();
            assert_eq!(ports.len(), before);
            for node in all {
                assert_eq!(it.node(&node.to_string()).unwrap(), node);
            }
            assert!(it.node("peer9.org1").unwrap_err().to_string().contains("peer0.org1"));
        }
    }
}
