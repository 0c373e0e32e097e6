//! What there is to use, for people and for programs.

use std::path::PathBuf;

use serde::Serialize;

use super::layout::{Layout, Node};
use crate::ui::Paint;

/// A network.
#[derive(Debug, Serialize)]
pub struct Info {
    channel: String,
    chaincodes: Vec<String>,
    /// Who must endorse.
    policy: String,
    batch_timeout_ms: u32,
    max_message_count: u32,
    genesis_block: PathBuf,
    /// Stops and starts nodes: `control kill NAME`.
    control: PathBuf,
    orderers: Vec<Service>,
    orderer_tls_ca: PathBuf,
    organizations: Vec<Organization>,
}

/// Something that listens.
#[derive(Debug, Serialize)]
struct Service {
    name: String,
    address: String,
}

/// An organisation with peers.
#[derive(Debug, Serialize)]
struct Organization {
    msp_id: String,
    peers: Vec<Service>,
    /// Its contract.
    chaincode: Service,
    tls_ca: PathBuf,
    admin_msp: PathBuf,
    /// A member who is no administrator.
    user_msp: PathBuf,
    /// Variables of its administrator's shell.
    shell: PathBuf,
}

impl Info {
    /// Of a network.
    pub fn of(layout: &Layout) -> Self {
        let plan = &layout.plan;
        let service = |node: Node| Service { name: node.to_string(), address: layout.address(node) };
        let organization = |org| Organization {
            msp_id: format!("Org{org}MSP"),
            peers: layout
                .peers()
                .filter(|n| matches!(n, Node::Peer(of, _) if *of == org))
                .map(service)
                .collect(),
            chaincode: service(Node::Chaincode(org)),
            tls_ca: layout.tls_ca(org),
            admin_msp: layout.user(org, "Admin"),
            user_msp: layout.user(org, "User1"),
            shell: layout.shell(org),
        };
        Self {
            channel: plan.channel.clone(),
            chaincodes: plan.chaincodes.clone(),
            policy: plan.policy(),
            batch_timeout_ms: plan.batch_timeout_ms,
            max_message_count: plan.max_message_count,
            genesis_block: layout.genesis(),
            control: layout.control(),
            orderers: layout.orderers().map(Node::Orderer).map(service).collect(),
            orderer_tls_ca: layout.tls_ca(0),
            organizations: layout.organizations().map(organization).collect(),
        }
    }

    /// For people.
    pub fn table(&self, colour: bool) -> String {
        let mut rows = vec![
            ("channel".to_owned(), self.channel.clone()),
            ("contract".to_owned(), format!("{}, {}", self.chaincodes.join(", "), self.policy)),
        ];
        let of = |s: &Service| (s.name.clone(), s.address.clone());
        rows.extend(self.orderers.iter().map(of));
        rows.push(("  TLS CA".to_owned(), self.orderer_tls_ca.display().to_string()));
        for org in &self.organizations {
            rows.push((org.msp_id.clone(), format!(". {}", org.shell.display())));
            rows.extend(
                org.peers
                    .iter()
                    .chain([&org.chaincode])
                    .map(|s| (format!("  {}", s.name), s.address.clone())),
            );
            rows.push(("  TLS CA".to_owned(), org.tls_ca.display().to_string()));
            rows.push(("  member's MSP".to_owned(), org.user_msp.display().to_string()));
        }
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let line = |(name, value): (String, String)| {
            format!("{}  {value}", Paint::Cyan.paint(&format!("{name:width$}"), colour))
        };
        rows.into_iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
