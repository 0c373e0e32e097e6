//! Keys, certificates, the channel's first block, and the configuration of every node.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::layout::{Layout, Node};
use crate::command;

const LIMIT: Duration = Duration::from_secs(60);
const CORE: &str = include_str!("../../../fabric/core.yaml");
const ORDERER: &str = include_str!("../../../fabric/orderer.yaml");
/// How peers find chaincode that runs as a service.
const BUILDER: [(&str, &str); 3] = [
    ("detect", include_str!("../../../fabric/builder/detect")),
    ("build", include_str!("../../../fabric/builder/build")),
    ("release", include_str!("../../../fabric/builder/release")),
];

/// Makes all of it.
pub fn make(layout: &Layout) -> anyhow::Result<()> {
    for name in ["run", "log", "data", "packages", "builder/bin"] {
        let dir = layout.root.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    for (name, script) in BUILDER {
        executable(&layout.root.join("builder/bin").join(name), script)?;
    }
    for node in layout.nodes() {
        match node {
            Node::Orderer(_) => put(&layout.etc(&format!("{node}/orderer.yaml")), &orderer(layout, node))?,
            Node::Peer(..) => put(&layout.etc(&format!("{node}/core.yaml")), &core(layout, node))?,
            Node::Chaincode(_) => {}
        }
    }
    // The commands' own: whose they are, the environment says.
    put(&layout.etc("cli/core.yaml"), &core(layout, Node::Peer(1, 0)))?;
    keys(layout)?;
    block(layout)
}

/// A script.
pub fn executable(file: &Path, text: &str) -> anyhow::Result<()> {
    put(file, text)?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Writes a file, and the directory that it is in.
pub fn put(file: &Path, text: &str) -> anyhow::Result<()> {
    let write = || {
        file.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(file, text)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

fn filled(template: &str, words: &[(&str, String)]) -> String {
    words
        .iter()
        .fold(template.to_owned(), |text, (name, word)| text.replace(&format!("{{{{{name}}}}}"), word))
}

fn orderer(layout: &Layout, node: Node) -> String {
    let words = [
        ("port", layout.port(node).to_string()),
        ("admin", format!("127.0.0.1:{}", layout.second(node))),
        ("operations", format!("127.0.0.1:{}", layout.operations(node))),
        ("identity", layout.identity(node).display().to_string()),
        ("ca", layout.tls_ca(0).display().to_string()),
        ("data", layout.data(&node.to_string()).display().to_string()),
    ];
    filled(ORDERER, &words)
}

fn core(layout: &Layout, node: Node) -> String {
    let Node::Peer(org, i) = node else { return String::new() };
    // Gossip begins at the organisation's other peer, or at itself.
    let other = if layout.plan.net.peers() > 1 && i == 0 { 1 } else { 0 };
    let words = [
        ("name", node.to_string()),
        ("address", layout.address(node)),
        ("chaincode", format!("127.0.0.1:{}", layout.second(node))),
        ("operations", format!("127.0.0.1:{}", layout.operations(node))),
        ("bootstrap", layout.address(Node::Peer(org, other))),
        ("identity", layout.identity(node).display().to_string()),
        ("msp_id", format!("Org{org}MSP")),
        ("data", layout.data(&node.to_string()).display().to_string()),
        ("builder", layout.root.join("builder").display().to_string()),
    ];
    filled(CORE, &words)
}

/// Every organisation's CAs and members. The contract's TLS certificates are those of an organisation of orderers that
/// has none, for those have no users.
fn keys(layout: &Layout) -> anyhow::Result<()> {
    let local = json!(["localhost", "127.0.0.1"]);
    let host = |name: String| json!({ "Hostname": name, "SANS": local });
    let orderers: Vec<Value> = layout.orderers().map(|i| host(Node::Orderer(i).to_string())).collect();
    let contract = ["server", "peer"].map(|name| host(name.to_owned()));
    let organizations = layout.organizations().map(|org| {
        json!({
            "Name": format!("Org{org}"), "Domain": format!("org{org}.local"), "EnableNodeOUs": true,
            "Users": { "Count": 1 }, "Template": { "Count": layout.plan.net.peers(), "SANS": local },
        })
    });
    let config = json!({
        "OrdererOrgs": [
            { "Name": "Orderer", "Domain": "orderer.local", "EnableNodeOUs": true, "Specs": orderers },
            { "Name": "Chaincode", "Domain": "chaincode.local", "Specs": contract },
        ],
        "PeerOrgs": organizations.collect::<Vec<_>>(),
    });
    // JSON is YAML.
    let file = layout.etc("crypto-config.yaml");
    put(&file, &serde_json::to_string_pretty(&config)?)?;
    let mut c = Command::new(layout.program("cryptogen"));
    c.arg("generate").arg("--config").arg(&file).arg("--output").arg(layout.root.join("crypto"));
    command::succeed(&mut c, LIMIT).map(drop)
}

fn block(layout: &Layout) -> anyhow::Result<()> {
    put(&layout.etc("configtx.yaml"), &serde_json::to_string_pretty(&channel(layout))?)?;
    let mut c = Command::new(layout.program("configtxgen"));
    c.args(["-profile", "Channel", "-channelID", &layout.plan.channel, "-outputBlock"]).arg(layout.genesis());
    c.env("FABRIC_CFG_PATH", layout.root.join("etc")).env("FABRIC_LOGGING_SPEC", "error");
    command::succeed(&mut c, LIMIT).map(drop)
}

/// `configtx.yaml`: who is in the channel, who must agree to what, how blocks are cut.
fn channel(layout: &Layout) -> Value {
    let plan = &layout.plan;
    let consenters = layout.orderers().map(|i| {
        let node = Node::Orderer(i);
        let certificate = layout.identity(node).join("tls/server.crt");
        json!({
            "Host": "127.0.0.1", "Port": layout.port(node), "ClientTLSCert": certificate, "ServerTLSCert": certificate,
        })
    });
    let endpoints: Vec<String> = layout.orderers().map(|i| layout.address(Node::Orderer(i))).collect();
    let members = layout.organizations().map(|org| {
        let msp_id = format!("Org{org}MSP");
        json!({
            "Name": format!("Org{org}"), "ID": msp_id, "MSPDir": layout.org(org).join("msp"),
            "Policies": own_policies(&msp_id),
            // By which organisations find each other's peers.
            "AnchorPeers": [{ "Host": "127.0.0.1", "Port": layout.port(Node::Peer(org, 0)) }],
        })
    });
    json!({ "Profiles": { "Channel": {
        "Policies": shared_policies(&[]),
        "Capabilities": { "V2_0": true },
        "Orderer": {
            "OrdererType": "etcdraft",
            "BatchTimeout": format!("{}ms", plan.batch_timeout_ms),
            "BatchSize": {
                "MaxMessageCount": plan.max_message_count, "AbsoluteMaxBytes": "10 MB", "PreferredMaxBytes": "2 MB",
            },
            "EtcdRaft": {
                "Options": {
                    "TickInterval": "100ms", "ElectionTick": 10, "HeartbeatTick": 1, "MaxInflightBlocks": 5,
                    "SnapshotIntervalSize": "16 MB",
                },
                "Consenters": consenters.collect::<Vec<_>>(),
            },
            "Policies": shared_policies(&[("BlockValidation", "ANY Writers")]),
            "Capabilities": { "V2_0": true },
            "Organizations": [{
                "Name": "Orderer", "ID": "OrdererMSP", "MSPDir": layout.org(0).join("msp"),
                "Policies": own_policies("OrdererMSP"), "OrdererEndpoints": endpoints,
            }],
        },
        "Application": {
            "Capabilities": { "V2_5": true },
            "Policies": shared_policies(&[
                ("LifecycleEndorsement", "MAJORITY Endorsement"),
                ("Endorsement", "MAJORITY Endorsement"),
            ]),
            "Organizations": members.collect::<Vec<_>>(),
        },
    } } })
}

/// What an organisation's members may do.
fn own_policies(msp_id: &str) -> Value {
    let rule = |role: &str| json!({ "Type": "Signature", "Rule": format!("OR('{msp_id}.{role}')") });
    json!({
        "Readers": rule("member"), "Writers": rule("member"), "Admins": rule("admin"), "Endorsement": rule("member"),
    })
}

/// How many organisations must agree.
fn shared_policies(more: &[(&str, &str)]) -> Value {
    let usual = [("Readers", "ANY Readers"), ("Writers", "ANY Writers"), ("Admins", "MAJORITY Admins")];
    let rule =
        |(name, rule): &(&str, &str)| ((*name).to_owned(), json!({ "Type": "ImplicitMeta", "Rule": rule }));
    Value::Object(usual.iter().chain(more).map(rule).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::Net, up::fabric::plan::Plan};

    #[test]
    fn no_word_of_a_template_is_left() {
        let plan = Plan { net: Net::Full, ..Plan::default() };
        let layout = Layout::new(Path::new("/n"), plan, "/b".into(), "/c".into()).unwrap();
        for text in [core(&layout, Node::Peer(2, 1)), orderer(&layout, Node::Orderer(2))] {
            assert!(!text.lines().filter(|l| !l.starts_with('#')).any(|l| l.contains("{{")), "{text}");
        }
        assert!(core(&layout, Node::Peer(2, 1)).contains("localMspId: Org2MSP"));
        let channel = channel(&layout);
        let orderers = &channel["Profiles"]["Channel"]["Orderer"];
        assert_eq!(orderers["EtcdRaft"]["Consenters"].as_array().unwrap().len(), 3);
    }
}
