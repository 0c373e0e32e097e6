//! `[fabric]`: a Hyperledger Fabric channel as the ledger.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How the channel is reached, and who we are on it. Which channel it is, and what is believed of it, is in `trust.json`
/// (`mandate ledger join` writes it there).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FabricSection {
    /// MSP id of our organisation.
    pub msp_id: String,
    /// Our certificate there, PEM (`signcerts`).
    pub certificate: PathBuf,
    /// Its key, PEM (`keystore`).
    pub key: PathBuf,
    /// Certificate that we show to peers that ask for one (mutual TLS), PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<PathBuf>,
    /// Its key, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// Private data collection that keeps requests for the other organisations; absent: they see digests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// Peers: those of our organisation are transacted through; of each other organisation whose word on a transaction's
    /// validity counts, one at least.
    #[serde(rename = "peer")]
    pub peers: Vec<FabricPeer>,
}

/// A peer of the channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FabricPeer {
    /// `HOST:PORT`.
    pub address: String,
    /// MSP id of its organisation.
    pub msp_id: String,
    /// TLS CA of its organisation, PEM.
    pub tls_ca: PathBuf,
    /// Name in its certificate, when it is not the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

impl FabricSection {
    pub(super) fn check(&self) -> Result<(), (String, &'static str)> {
        let bad = |key: &str, problem| Err((format!("fabric.{key}"), problem));
        if self.msp_id.is_empty() {
            return bad("msp_id", "the MSP id of our organisation, for example Org1MSP");
        }
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            return bad("tls_certificate", "certificate and key belong together: name both or neither");
        }
        let no_port =
            |p: &FabricPeer| p.address.rsplit_once(':').is_none_or(|(_, n)| n.parse::<u16>().is_err());
        if self.peers.iter().any(no_port) {
            return bad("peer.address", "HOST:PORT, for example peer0.org1.example:7051");
        }
        if !self.peers.iter().any(|p| p.msp_id == self.msp_id) {
            return bad("peer", "one at least must be of our organisation: it is transacted through");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
msp_id = "Org1MSP"
certificate = "/msp/signcerts/cert.pem"
key = "/msp/keystore/key.pem"

[[peer]]
address = "peer0.org1.example:7051"
msp_id = "Org1MSP"
tls_ca = "/msp/tlscacerts/ca.pem"
"#;

    fn refused(from: &str, to: &str) -> String {
        let section: FabricSection = toml::from_str(&GOOD.replacen(from, to, 1)).unwrap();
        section.check().unwrap_err().0
    }

    #[test]
    fn what_cannot_be_is_refused_where_it_is() {
        assert_eq!(toml::from_str::<FabricSection>(GOOD).unwrap().check(), Ok(()));
        assert_eq!(refused("Org1MSP", ""), "fabric.msp_id");
        assert_eq!(refused("key =", "tls_key = \"/k\"\nkey ="), "fabric.tls_certificate");
        assert_eq!(refused(":7051", ""), "fabric.peer.address");
        assert_eq!(refused("Org1MSP", "Org2MSP"), "fabric.peer");
        assert!(toml::from_str::<FabricSection>(&format!("unknown = 1{GOOD}")).is_err());
    }
}
