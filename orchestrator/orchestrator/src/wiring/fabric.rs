//! A Fabric channel as the ledger, from `[fabric]` and the channel in `trust.json`.

use std::{fs, os::unix::fs::DirBuilderExt as _, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use fabric::gateway::Creator;
use ledger_fabric::{ChannelOptions, ClientTls, Deadlines, FabricLedger, Member, Node, Options, Tls};
use trust::{Signer, identity::ChannelRoot};

use crate::{
    config::{FabricPeer, FabricSection},
    home::Home,
};

/// Opens the channel. Within a Tokio runtime; nobody has to answer yet.
pub fn open(home: &Home, section: &FabricSection, root: ChannelRoot) -> Result<FabricLedger> {
    let dir = home.mirror();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("creating {}", dir.display()))?;
    let log = ledger::embedded::log_key(&home.ledger())?;
    let client = match (&section.tls_certificate, &section.tls_key) {
        (Some(certificate), Some(key)) => {
            Some(ClientTls { chain_pem: read(certificate)?, key_pem: read(key)? })
        }
        _ => None,
    };
    let nodes = section.peers.iter().map(|peer| node(peer, client.clone())).collect::<Result<_>>()?;
    let options = ChannelOptions {
        root,
        msp_id: section.msp_id.clone(),
        member: member(section)?,
        nodes,
        collection: section.collection.clone(),
        log,
        dir: &dir,
    };
    FabricLedger::open(options).context("[fabric] in config.toml")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("[fabric] in config.toml: reading {}", path.display()))
}

fn member(section: &FabricSection) -> Result<Member> {
    let text = |path: &Path| Ok::<_, anyhow::Error>(String::from_utf8_lossy(&read(path)?).into_owned());
    let certificate = text(&section.certificate)?;
    let signer = Signer::from_pem(&text(&section.key)?, &certificate).with_context(|| {
        format!("[fabric] in config.toml: the identity {}", section.certificate.display())
    })?;
    Ok(Member {
        creator: Creator::new(&section.msp_id, &certificate),
        sign: Arc::new(move |bytes| Ok(signer.sign_bytes(bytes))),
    })
}

fn node(peer: &FabricPeer, client: Option<ClientTls>) -> Result<Node> {
    Ok(Node {
        msp_id: peer.msp_id.clone(),
        options: Options {
            address: peer.address.clone(),
            server_name: peer.server_name.clone(),
            tls: Tls { roots_pem: read(&peer.tls_ca)?, client },
            deadlines: Deadlines::default(),
        },
    })
}
