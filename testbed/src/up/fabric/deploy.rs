//! The channel and the contract on it, by Fabric's own commands.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use fabric::package::{Connection, Package, Tls, build};

use super::{
    layout::{Layout, Node},
    shell::Shell,
};
use crate::{
    cli::ChaincodeTls,
    command::{self, Output},
    interrupt,
};

/// One command: an approval waits for its block.
const LIMIT: Duration = Duration::from_secs(60);
/// Until gossip has told each peer of all others.
const SPREAD_LIMIT: Duration = Duration::from_secs(90);
const LABEL: &str = "mandate_1.0";
const VERSION: &str = "1.0";

/// An organisation's package: each runs its own contract, so each has an address and a package of its own.
pub fn package(layout: &Layout, org: u16) -> anyhow::Result<Package> {
    let read = |name: &str| {
        let file = layout.contract_tls("peer").join(name);
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    };
    let tls = match layout.plan.chaincode_tls {
        ChaincodeTls::None => None,
        ChaincodeTls::Server => Some(Tls { root: read("ca.crt")?, client: None }),
        ChaincodeTls::Mutual => {
            let client = Some((read("server.crt")?, read("server.key")?));
            Some(Tls { root: read("ca.crt")?, client })
        }
    };
    Ok(build(LABEL, &Connection { address: layout.address(Node::Chaincode(org)), tls })?)
}

/// Each orderer joins the channel.
pub fn join_orderers(layout: &Layout) -> anyhow::Result<()> {
    for node in layout.orderers().map(Node::Orderer) {
        let tls = layout.identity(node).join("tls");
        let mut c = Command::new(layout.program("osnadmin"));
        c.args(["channel", "join", "--channelID", &layout.plan.channel, "-o"]);
        c.arg(format!("127.0.0.1:{}", layout.second(node)));
        c.arg("--config-block").arg(layout.genesis()).arg("--ca-file").arg(layout.tls_ca(0));
        c.arg("--client-cert").arg(tls.join("server.crt")).arg("--client-key").arg(tls.join("server.key"));
        let out = command::succeed(&mut c, LIMIT)?;
        // It says so of a refusal too, and ends well.
        ensure!(out.stdout.contains("Status: 201"), "{node} did not join the channel: {}", out.stdout.trim());
    }
    Ok(())
}

/// Each peer joins the channel.
pub fn join_peers(layout: &Layout) -> anyhow::Result<()> {
    for node in layout.peers() {
        let mut c = Shell::of(layout, node).peer(&["channel", "join", "-b"]);
        command::succeed(c.arg(layout.genesis()), LIMIT)?;
    }
    Ok(())
}

/// Each organisation's package, on each of its peers.
pub fn install(layout: &Layout) -> anyhow::Result<()> {
    for org in layout.organizations() {
        let file = layout.package(org);
        fs::write(&file, package(layout, org)?.bytes)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    for node in layout.peers() {
        let Node::Peer(org, _) = node else { continue };
        let mut c = Shell::of(layout, node).peer(&["lifecycle", "chaincode", "install"]);
        command::succeed(c.arg(layout.package(org)), LIMIT)?;
    }
    Ok(())
}

/// One definition, approved by each organisation and committed.
pub fn define(layout: &Layout, chaincode: &str) -> anyhow::Result<()> {
    for org in layout.organizations() {
        let mut c =
            Shell::of(layout, Node::Peer(org, 0)).peer(&["lifecycle", "chaincode", "approveformyorg"]);
        definition(layout, chaincode, &mut c);
        command::succeed(c.args(["--package-id", &package(layout, org)?.id]), LIMIT)?;
    }
    let mut c = Shell::of(layout, Node::Peer(1, 0)).peer(&["lifecycle", "chaincode", "commit"]);
    definition(layout, chaincode, &mut c);
    c.args(Shell::one_of_each(layout));
    command::succeed(&mut c, LIMIT).map(drop)
}

fn definition(layout: &Layout, chaincode: &str, c: &mut Command) {
    let plan = &layout.plan;
    c.args(["-o", &layout.address(Node::Orderer(0)), "--tls", "--cafile"]).arg(layout.tls_ca(0));
    c.args(["-C", &plan.channel, "-n", chaincode, "-v", VERSION, "--sequence", "1"]);
    c.args(["--signature-policy", &plan.policy()]);
}

/// Waits until each peer's contract answers, and each peer's gateway knows who can endorse.
pub fn ready(layout: &Layout, chaincode: &str) -> anyhow::Result<()> {
    for node in layout.peers() {
        let mut c = Shell::of(layout, node).peer(&["chaincode", "query", "-C", &layout.plan.channel]);
        c.args(["-n", chaincode, "-c", r#"{"Args":["prefix","","","1"]}"#]);
        until(&format!("the contract `{chaincode}` does not answer {node}"), &mut c, |out| {
            out.status.success()
        })?;
        let mut c = discover(layout, node, chaincode);
        until(&format!("{node} does not know who can endorse `{chaincode}`"), &mut c, |out| {
            out.stdout.contains("Layouts")
        })?;
    }
    Ok(())
}

fn until(what: &str, c: &mut Command, good: impl Fn(&Output) -> bool) -> anyhow::Result<()> {
    let mut said = String::new();
    let waited = interrupt::wait_for(what, SPREAD_LIMIT, || {
        let out = command::capture(c, LIMIT)?;
        said = out.tail(5);
        Ok(good(&out).then_some(()))
    });
    waited.with_context(|| format!("the last answer: {said}"))
}

/// Who must endorse, as a peer's discovery service has it.
fn discover(layout: &Layout, node: Node, chaincode: &str) -> Command {
    let Node::Peer(org, _) = node else { return Command::new("false") };
    let msp = layout.user(org, "Admin");
    let mut c = Command::new(layout.program("discover"));
    c.arg("--peerTLSCA").arg(layout.tls_ca(org)).arg("--MSP").arg(format!("Org{org}MSP"));
    c.arg("--userKey").arg(msp.join("keystore/priv_sk"));
    c.arg("--userCert").arg(msp.join(format!("signcerts/Admin@org{org}.local-cert.pem")));
    c.args(["endorsers", "--channel", &layout.plan.channel, "--chaincode", chaincode, "--server"]);
    c.arg(layout.address(node));
    c
}
