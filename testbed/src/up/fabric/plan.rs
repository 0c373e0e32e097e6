//! What is asked of a network, from the command line.

use std::{env, path::PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::cli::{ChaincodeTls, FabricOptions, Net};

/// Names the directory of Fabric's programs.
pub const BIN: &str = "FABRIC_BIN";
/// Those that are needed.
const PROGRAMS: [&str; 6] = ["peer", "orderer", "configtxgen", "cryptogen", "osnadmin", "discover"];

/// What is asked of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// How large it is.
    pub net: Net,
    /// Name of the channel, which is the ledger's too.
    pub channel: String,
    /// Names under which the contract is deployed, each with a state of its own.
    pub chaincodes: Vec<String>,
    /// Between peers and the contract.
    pub chaincode_tls: ChaincodeTls,
    /// The one genesis that the contract takes, hex.
    pub genesis: Option<String>,
    /// Longest that an orderer waits for a block to fill.
    pub batch_timeout_ms: u32,
    /// Transactions of a full block.
    pub max_message_count: u32,
    /// The contract as a release build.
    pub release: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self::of(&FabricOptions::default())
    }
}

impl Plan {
    /// What the options say, and what they leave open.
    pub fn of(options: &FabricOptions) -> Self {
        let chaincodes = match options.chaincodes.as_slice() {
            [] => vec!["mandate".to_owned()],
            some => some.to_vec(),
        };
        Self {
            net: options.net.unwrap_or(Net::Minimal),
            channel: options.channel.clone().unwrap_or_else(|| "evidence".to_owned()),
            chaincodes,
            chaincode_tls: options.chaincode_tls.unwrap_or(ChaincodeTls::Mutual),
            genesis: options.genesis.clone(),
            batch_timeout_ms: options.batch_timeout_ms.unwrap_or(200),
            max_message_count: options.max_message_count.unwrap_or(10),
            release: options.release,
        }
    }

    /// Who must endorse.
    pub fn policy(&self) -> String {
        let members: Vec<String> =
            (1..=self.net.organizations()).map(|org| format!("'Org{org}MSP.peer'")).collect();
        format!("AND({})", members.join(","))
    }
}

impl Net {
    /// Orderers, in Raft.
    pub fn orderers(self) -> u16 {
        if self == Self::Full { 3 } else { 1 }
    }

    /// Organisations with peers.
    pub fn organizations(self) -> u16 {
        if self == Self::Full { 2 } else { 1 }
    }

    /// Peers of each.
    pub fn peers(self) -> u16 {
        if self == Self::Full { 2 } else { 1 }
    }
}

/// The directory of Fabric's programs.
pub fn programs() -> anyhow::Result<PathBuf> {
    let Some(dir) = env::var_os(BIN).filter(|d| !d.is_empty()) else {
        bail!(
            "set {BIN} to the directory of Fabric's programs ({}): `bin` of a release of Hyperledger Fabric 2.5 \
             (github.com/hyperledger/fabric/releases), or of a build of its source (`make native`)",
            PROGRAMS.join(", ")
        );
    };
    let dir = PathBuf::from(dir);
    let dir = dir.canonicalize().with_context(|| format!("{BIN}: {}", dir.display()))?;
    let missing: Vec<&str> = PROGRAMS.into_iter().filter(|name| !dir.join(name).is_file()).collect();
    ensure!(missing.is_empty(), "{BIN}: {} has no {}", dir.display(), missing.join(", "));
    Ok(dir)
}

/// Why there can be no network on this machine.
pub fn available() -> anyhow::Result<PathBuf> {
    let bin = programs()?;
    let others = nix::ifaddrs::getifaddrs().context("cannot list this machine's addresses")?.any(|one| {
        one.address.as_ref().and_then(|a| a.as_sockaddr_in()).is_some_and(|a| !a.ip().is_loopback())
    });
    ensure!(
        others,
        "Fabric's peer does not start on a machine without an IPv4 address besides 127.0.0.1: give it one \
         (`ip address add 192.0.2.1/32 dev lo`)"
    );
    Ok(bin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_must_endorse() {
        assert_eq!(Plan::default().policy(), "AND('Org1MSP.peer')");
        let full = Plan { net: Net::Full, ..Plan::default() };
        assert_eq!(full.policy(), "AND('Org1MSP.peer','Org2MSP.peer')");
    }
}
