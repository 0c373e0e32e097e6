//! Every node: how it is started, stopped and found ready.

use std::{
    env,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;

use super::{
    deploy,
    layout::{Layout, Node, rank},
};
use crate::{
    cli::{ChaincodeTls, NodeAction},
    interrupt,
    up::{ports, process},
};

/// From its start until it listens, on a busy machine.
const LISTEN_LIMIT: Duration = Duration::from_secs(60);
/// Three Raft ticks of election and more.
const LEADER_LIMIT: Duration = Duration::from_secs(60);
/// Without colours.
const LOG_FORMAT: &str = "%{time:2006-01-02T15:04:05.000Z07:00} %{level} [%{module}] %{message}";
/// Variables that a node or the contract reads begin with these.
const OF_SHELLS: [&str; 5] = ["CORE_", "ORDERER_", "CHAINCODE_", "MANDATE_", "FABRIC_LOGGING"];
/// Metrics of a node.
const METRICS_LIMIT: Duration = Duration::from_secs(2);

/// Starts those that do not run, and waits until they listen.
pub fn start(layout: &Layout, nodes: &[Node]) -> anyhow::Result<()> {
    for node in nodes {
        begin(layout, *node, &[])?;
    }
    nodes.iter().try_for_each(|node| listening(layout, *node))
}

fn begin(layout: &Layout, node: Node, more: &[String]) -> anyhow::Result<()> {
    let mut c = Command::new(program(layout, node));
    // Who starts it may have a user's shell, which would say who this node is.
    for (name, _) in
        env::vars_os().filter(|(name, _)| OF_SHELLS.iter().any(|of| name.to_string_lossy().starts_with(of)))
    {
        c.env_remove(name);
    }
    arguments(layout, node, &mut c)?;
    c.args(more).current_dir(&layout.root);
    layout.process(node).start(&mut c).with_context(|| format!("starting {node}"))
}

fn listening(layout: &Layout, node: Node) -> anyhow::Result<()> {
    let there = || layout.listens(node).into_iter().all(ports::listens);
    layout.process(node).wait(LISTEN_LIMIT, there)
}

fn program(layout: &Layout, node: Node) -> PathBuf {
    match node {
        Node::Orderer(_) => layout.program("orderer"),
        Node::Peer(..) => layout.program("peer"),
        Node::Chaincode(_) => layout.contract.clone(),
    }
}

fn arguments(layout: &Layout, node: Node, c: &mut Command) -> anyhow::Result<()> {
    c.env("FABRIC_CFG_PATH", layout.etc(&node.to_string())).env("FABRIC_LOGGING_FORMAT", LOG_FORMAT);
    match node {
        Node::Orderer(_) => {}
        Node::Peer(..) => drop(c.args(["node", "start"])),
        Node::Chaincode(org) => contract(layout, org, c)?,
    }
    Ok(())
}

/// The contract of an organisation.
fn contract(layout: &Layout, org: u16, c: &mut Command) -> anyhow::Result<()> {
    c.args(["--id", &deploy::package(layout, org)?.id, "--listen", &layout.address(Node::Chaincode(org))]);
    let tls = layout.contract_tls("server");
    if layout.plan.chaincode_tls != ChaincodeTls::None {
        c.arg("--tls-cert").arg(tls.join("server.crt")).arg("--tls-key").arg(tls.join("server.key"));
    }
    if layout.plan.chaincode_tls == ChaincodeTls::Mutual {
        c.arg("--client-ca").arg(tls.join("ca.crt"));
    }
    if let Some(genesis) = &layout.plan.genesis {
        c.args(["--genesis", genesis]);
    }
    Ok(())
}

/// What is done to a node; returns what there is to say.
pub fn control(layout: &Layout, action: &NodeAction) -> anyhow::Result<String> {
    let of = |name: &String| anyhow::Ok(layout.process(layout.node(name)?));
    let ran = |ran: bool| if ran { "done" } else { "it did not run" };
    Ok(match action {
        NodeAction::Leader => leader(layout)?.to_string(),
        NodeAction::Start { name, arguments } => {
            let node = layout.node(name)?;
            begin(layout, node, arguments)?;
            listening(layout, node)?;
            "done".to_owned()
        }
        NodeAction::Stop { name } => ran(process::stop_all(&[of(name)?], rank) > 0).to_owned(),
        NodeAction::Kill { name } => ran(of(name)?.kill()).to_owned(),
        NodeAction::Pause { name } => ran(of(name)?.signal(Signal::SIGSTOP)).to_owned(),
        NodeAction::Resume { name } => ran(of(name)?.signal(Signal::SIGCONT)).to_owned(),
    })
}

/// The orderer that leads the others, once there is one.
pub fn leader(layout: &Layout) -> anyhow::Result<Node> {
    interrupt::wait_for("no orderer leads the channel", LEADER_LIMIT, || {
        Ok(layout.orderers().map(Node::Orderer).find(|node| leads(layout, *node)))
    })
}

fn leads(layout: &Layout, node: Node) -> bool {
    let metric = format!("consensus_etcdraft_is_leader{{channel=\"{}\"}} 1", layout.plan.channel);
    metrics(layout.operations(node)).is_ok_and(|text| text.lines().any(|l| l == metric))
}

fn metrics(port: u16) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(METRICS_LIMIT))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if !text.contains(" 200 ") {
        bail!("port {port} has no metrics");
    }
    Ok(text)
}
