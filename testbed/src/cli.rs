//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

/// The demo, the tests and the real peers they need.
#[derive(Debug, Parser)]
#[command(name = "cargo testbed", bin_name = "cargo testbed", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Install what is missing on this machine, or start peers.
    Up {
        /// `deps`: packages by apt. `tpm`: a software TPM per site, under .testbed/.
        /// `signing`: Python's signing tools, under .testbed/. `openstack`: OpenStack Yoga on 127.0.0.1, under .testbed/.
        /// `fabric`: Hyperledger Fabric of the programs that FABRIC_BIN names, with the contract, under .testbed/.
        #[arg(value_enum, default_value_t = Peer::Deps)]
        what: Peer,
        #[command(flatten)]
        fabric: FabricOptions,
    },
    /// End every peer that `up` started, and remove what interrupted demos left behind.
    Down {
        /// Only this peer.
        #[arg(value_enum)]
        what: Option<Peer>,
    },
    /// Which peers run; fails when a process of one has ended by itself.
    Status,
    /// Stop, kill or start a node of the Fabric network that is up.
    Node(NodeOptions),
    /// Play the main job end to end: from a signed intent to anchored, verified evidence.
    Demo(DemoOptions),
    /// Check the workspace: dependency directions, unsafe code, purity, licences, and that documented commands and tests exist.
    Check,
    /// Run everything that must hold: lints, architecture, licences, every crate's tests, the demo, real peers.
    Test(TestOptions),
    /// What `test systemd` runs in its guest.
    #[command(hide = true)]
    Inside,
    /// Measure what is promised of speed, and compare: fails when a bar is missed.
    Bench(BenchOptions),
}

/// What `up` brings up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// Packages of the distribution that the build and the demo need.
    Deps,
    /// One swtpm per site.
    Tpm,
    /// The tools that providers sign with, for the tests of foreign signatures.
    Signing,
    /// A control plane of OpenStack Yoga with two hosts that boot nothing.
    Openstack,
    /// The same with cinder, whose volumes hold nothing.
    Cinder,
    /// A network of Hyperledger Fabric with the contract.
    Fabric,
}

/// A network of `up fabric`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Options of `up fabric`")]
pub struct FabricOptions {
    /// How large [default: minimal].
    #[arg(long, value_enum)]
    pub net: Option<Net>,
    /// Name of the channel, which is the ledger's too [default: evidence].
    #[arg(long, value_name = "NAME")]
    pub channel: Option<String>,
    /// Name under which the contract is deployed, with a state of its own; several times: several [default: mandate].
    #[arg(long = "chaincode", value_name = "NAME")]
    pub chaincodes: Vec<String>,
    /// TLS between the peers and the contract [default: mutual].
    #[arg(long, value_enum)]
    pub chaincode_tls: Option<ChaincodeTls>,
    /// The one genesis that the contract takes, by the SHA-256 of its envelope [default: the first].
    #[arg(long, value_name = "HEX")]
    pub genesis: Option<String>,
    /// Longest that an orderer waits for a block to fill, ms [default: 200].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=600_000))]
    pub batch_timeout_ms: Option<u32>,
    /// Transactions of a full block [default: 10].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_message_count: Option<u32>,
    /// The contract as a release build.
    #[arg(long)]
    pub release: bool,
    /// One JSON document on stdout instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// How large a Fabric network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Net {
    /// One orderer, one organisation with one peer.
    Minimal,
    /// Three orderers in Raft, two organisations with two peers each, both of which must endorse.
    Full,
}

/// TLS between Fabric's peers and the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChaincodeTls {
    /// In the clear.
    None,
    /// The contract shows a certificate.
    Server,
    /// Both do.
    Mutual,
}

/// A node of the Fabric network.
#[derive(Debug, Args)]
pub struct NodeOptions {
    /// The network's directory, when it is not that of `up fabric`.
    #[arg(long, hide = true)]
    pub dir: Option<PathBuf>,
    /// What is done to it.
    #[command(subcommand)]
    pub action: NodeAction,
}

/// What is done to a node of the Fabric network. Names are those of `status`: `orderer0`, `peer1.org2`, `chaincode.org1`.
#[derive(Debug, Subcommand)]
pub enum NodeAction {
    /// Start it again, and wait until it listens.
    Start {
        /// Which.
        name: String,
        /// Added to its command line.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// SIGTERM, and wait for its end.
    Stop {
        /// Which.
        name: String,
    },
    /// SIGKILL.
    Kill {
        /// Which.
        name: String,
    },
    /// SIGSTOP: it keeps its connections, and answers nobody.
    Pause {
        /// Which.
        name: String,
    },
    /// SIGCONT.
    Resume {
        /// Which.
        name: String,
    },
    /// Which orderer leads the others.
    Leader,
}

/// How the demo is played.
#[derive(Debug, Clone, Default, Args)]
pub struct DemoOptions {
    /// Progress on stderr; the last line on stdout is one JSON document.
    #[arg(long)]
    pub json: bool,
    /// Leave the orchestrator and a deployed service running; `cargo testbed down` ends them.
    #[arg(long)]
    pub keep: bool,
    /// Play in this directory (short: UNIX sockets are below it); a new temporary one otherwise.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Use the release build.
    #[arg(long)]
    pub release: bool,
    /// What is played.
    #[arg(long, value_enum, default_value_t = Play::Main)]
    pub play: Play,
}

/// What is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Play {
    /// The main job, end to end.
    #[default]
    Main,
    /// One service on two sites, a member of which moves to a third under a client's traffic.
    Wan,
    /// The main job on a Hyperledger Fabric channel, in a network of its own (`FABRIC_BIN`).
    Fabric,
    /// The main job on OpenStack (`cargo testbed up openstack` first).
    Cloud,
    /// Twenty services of five tenants at once, there.
    Crowd,
    /// The same, its instances made by an OSM (`OSM_NBI_URL`) that reaches that cloud.
    Osm,
    /// A pair of guests with virtual functions, made by that OSM.
    OsmSriov,
    /// What goes wrong inside that OSM, and members at two VIM accounts (`OSM_CONTROL` kills its services).
    OsmFaults,
    /// The gates before that OSM and inside that cloud, asked by OSM's clients.
    OsmGate,
    /// A home with packages and signed intents, for a guest.
    #[value(skip)]
    Guest,
}

impl Play {
    /// Does an OSM make its services?
    pub fn by_osm(self) -> bool {
        matches!(self, Self::Osm | Self::OsmSriov | Self::OsmFaults | Self::OsmGate)
    }

    /// As the command line calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Wan => "wan",
            Self::Fabric => "fabric",
            Self::Cloud => "cloud",
            Self::Crowd => "crowd",
            Self::Osm => "osm",
            Self::OsmSriov => "osm-sriov",
            Self::OsmFaults => "osm-faults",
            Self::OsmGate => "osm-gate",
            Self::Guest => "guest",
        }
    }
}

/// Which tests.
#[derive(Debug, Args)]
pub struct TestOptions {
    /// Only these parts or crates; none: all of it, but for `systemd`, which takes a guest.
    pub names: Vec<String>,
    /// Leave out, and say so, the long parts that would not end this many minutes from now.
    #[arg(long, value_name = "MINUTES", env = "TESTBED_MINUTES")]
    pub within: Option<u64>,
}

/// What is measured, and how much of it.
#[derive(Debug, Args)]
pub struct BenchOptions {
    /// `control`: gate, ledger, engine, evidence and observation; `policy`: the gate inside OpenStack; `dataplane`: packets;
    /// `ledger`: the contract on a real Fabric (FABRIC_BIN).
    #[arg(value_enum)]
    pub subject: Subject,
    /// One JSON document on stdout instead of the table; `dataplane` always ends with it, and has its table on stderr.
    #[arg(long)]
    pub json: bool,
    /// Fewer of everything: minutes instead of an hour.
    #[arg(long)]
    pub quick: bool,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// The control plane.
    Control,
    /// The gate inside OpenStack.
    Policy,
    /// The contract on a real Fabric: latency and throughput.
    Ledger,
    /// The packet functions.
    Dataplane,
}
