//! What Fabric's users have in their shell: who they are, and which peer they speak to.

use std::process::Command;

use super::layout::{Layout, Node};

/// Of a user of an organisation, at one of its peers.
pub struct Shell<'a> {
    layout: &'a Layout,
    org: u16,
    peer: Node,
    user: &'static str,
}

impl<'a> Shell<'a> {
    /// The administrator of a peer's organisation.
    pub fn of(layout: &'a Layout, peer: Node) -> Self {
        let org = if let Node::Peer(org, _) = peer { org } else { 1 };
        Self { layout, org, peer, user: "Admin" }
    }

    /// A member of an organisation who administrates nothing.
    pub fn member(layout: &'a Layout, org: u16) -> Self {
        Self { user: "User1", ..Self::of(layout, Node::Peer(org, 0)) }
    }

    /// The variables.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let layout = self.layout;
        let members: Vec<String> = layout.organizations().map(|org| format!("Org{org}MSP")).collect();
        vec![
            ("FABRIC_BIN", layout.bin.display().to_string()),
            ("FABRIC_CFG_PATH", layout.etc("cli").display().to_string()),
            ("FABRIC_LOGGING_SPEC", "warn".to_owned()),
            ("CORE_PEER_TLS_ENABLED", "true".to_owned()),
            ("CORE_PEER_ADDRESS", layout.address(self.peer)),
            ("CORE_PEER_LOCALMSPID", format!("Org{}MSP", self.org)),
            ("CORE_PEER_MSPCONFIGPATH", layout.user(self.org, self.user).display().to_string()),
            ("CORE_PEER_TLS_ROOTCERT_FILE", layout.tls_ca(self.org).display().to_string()),
            ("ORDERER", layout.address(Node::Orderer(0))),
            ("ORDERER_CA", layout.tls_ca(0).display().to_string()),
            ("CHANNEL", layout.plan.channel.clone()),
            ("CC_NAME", layout.plan.chaincodes.first().cloned().unwrap_or_default()),
            ("ENDORSERS", members.join(",")),
            ("PEERS_ARGS", Self::one_of_each(layout).join(" ")),
            ("FABRIC_NETWORK", layout.info().display().to_string()),
            ("FABRIC_CONTROL", layout.control().display().to_string()),
        ]
    }

    /// Arguments of `peer` for endorsement by every organisation.
    pub fn one_of_each(layout: &Layout) -> Vec<String> {
        let of = |org| {
            let address = layout.address(Node::Peer(org, 0));
            [
                "--peerAddresses".to_owned(),
                address,
                "--tlsRootCertFiles".to_owned(),
                layout.tls_ca(org).display().to_string(),
            ]
        };
        layout.organizations().flat_map(of).collect()
    }

    /// `peer` with them.
    pub fn peer(&self, arguments: &[&str]) -> Command {
        let mut c = Command::new(self.layout.program("peer"));
        c.envs(self.variables()).args(arguments);
        c
    }

    /// A file for `.` of a shell.
    pub fn file(&self) -> String {
        let lines = self
            .variables()
            .into_iter()
            .map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', r"'\''")));
        lines.chain(["export PATH=\"$FABRIC_BIN:$PATH\"\n".to_owned()]).collect()
    }
}
