//! What needs a real Hyperledger Fabric, on networks that are started for it and ended after it: see [`SUITES`], which is the place to add to.
//! A network that `cargo testbed up fabric` has started is left alone. Without `FABRIC_BIN` it is skipped.

use std::{env, time::Duration};

use super::{Tally, output};
use crate::{
    cli::{ChaincodeTls, Net, Play},
    interrupt,
    ui::{self, Paint},
    up::fabric::{self, BIN, Network, Plan},
    workspace,
};

/// What all of it takes on a slow machine.
pub const MINUTES: u64 = 20;
const BUILD_LIMIT: Duration = Duration::from_secs(1500);
/// One program: nodes are killed, and waited for.
const LIMIT: Duration = Duration::from_secs(900);

/// Who runs a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    /// With Fabric's own commands.
    Administrator,
    /// With our client.
    Member,
}

/// A program of tests, which finds the network in its environment (docs/fabric.md), with a chaincode of its own.
struct Program {
    package: &'static str,
    test: &'static str,
    /// Only tests with this in their names.
    filter: &'static str,
    user: As,
    /// The variable that names its chaincode.
    chaincode: &'static str,
}

const fn program(package: &'static str, test: &'static str, filter: &'static str, user: As) -> Program {
    Program { package, test, filter, user, chaincode: "CC_NAME" }
}

/// A network and what runs there.
struct Suite {
    name: &'static str,
    net: Net,
    chaincode_tls: ChaincodeTls,
    /// Timeout in ms, and transactions of a full block.
    blocks: (u32, u32),
    programs: &'static [Program],
}

/// All of it.
const SUITES: &[Suite] = &[
    Suite {
        name: "one organisation, one peer, one orderer",
        net: Net::Minimal,
        chaincode_tls: ChaincodeTls::Server,
        blocks: (100, 10),
        programs: &[
            program("mandate-chaincode", "fabric", "a_real_fabric", As::Administrator),
            program("ledger-fabric", "fabric", "", As::Member),
            program("ledger-fabric", "port", "", As::Member),
        ],
    },
    Suite {
        name: "two organisations of two peers, both endorse, three orderers",
        net: Net::Full,
        chaincode_tls: ChaincodeTls::Mutual,
        blocks: (200, 10),
        programs: &[
            program("mandate-chaincode", "fabric", "a_real_fabric", As::Administrator),
            program("ledger-fabric", "fabric", "", As::Member),
            program("ledger-fabric", "port", "", As::Member),
            program("ledger-fabric", "peer", "", As::Member),
            program("ledger-fabric", "faults", "", As::Member),
        ],
    },
    Suite {
        name: "the same with blocks of 40, after seconds",
        net: Net::Full,
        chaincode_tls: ChaincodeTls::None,
        blocks: (3_000, 40),
        programs: &[Program {
            chaincode: "CC_NAME_FORTY",
            ..program("mandate-chaincode", "fabric", "of_forty", As::Administrator)
        }],
    },
];

impl Suite {
    fn plan(&self) -> Plan {
        let names = (1..=self.programs.len()).map(|n| format!("mandate-{n}"));
        Plan {
            net: self.net,
            chaincode_tls: self.chaincode_tls,
            chaincodes: names.collect(),
            batch_timeout_ms: self.blocks.0,
            max_message_count: self.blocks.1,
            ..Plan::default()
        }
    }
}

/// Runs it.
pub fn run() -> anyhow::Result<Tally> {
    if env::var_os(BIN).is_none_or(|dir| dir.is_empty()) {
        ui::say(&format!(
            "SKIPPED: Fabric: set {BIN} to the directory of its programs (`bin` of a release of Hyperledger Fabric 2.5)"
        ));
        return Ok(Tally::skipped());
    }
    for Program { package, test, .. } in SUITES.iter().flat_map(|s| s.programs) {
        // Not while a network waits for it.
        super::cargo(&["test", "--locked", "--no-run", "--package", package, "--test", test], BUILD_LIMIT)?;
    }
    let root = fabric::root_for_tests()?;
    let mut total = Tally::default();
    for suite in SUITES {
        interrupt::check()?;
        ui::say(&Paint::Bold.err(suite.name));
        let network = Network::start(&root, suite.plan())?;
        let tally = programs(suite, &network);
        if tally.as_ref().is_ok_and(|t| t.failed > 0) {
            ui::say(&network.last_words());
        }
        network.end()?;
        total += tally?;
    }
    ui::say("demo --play fabric");
    total += super::scenario(Play::Fabric)?;
    Ok(total)
}

fn programs(suite: &Suite, network: &Network) -> anyhow::Result<Tally> {
    let mut total = Tally::default();
    for (program, name) in suite.programs.iter().zip(suite.plan().chaincodes) {
        let mut c = workspace::cargo();
        c.args(["test", "--locked", "--package", program.package, "--test", program.test, program.filter]);
        // One network: what one test kills another needs.
        c.args(["--", "--show-output", "--test-threads", "1"]);
        c.envs(network.variables(program.user == As::Administrator)).env(program.chaincode, name);
        total += output::run_shown(&mut c, LIMIT)?;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_of_a_suite_is_there_and_has_a_chaincode_of_its_own() {
        let root = workspace::root().unwrap();
        for suite in SUITES {
            let mut names = suite.plan().chaincodes;
            assert_eq!(names.len(), suite.programs.len());
            names.dedup();
            assert_eq!(names.len(), suite.programs.len());
            for program in suite.programs {
                let file = format!("ledger-bridge/{}/tests/{}.rs", program.package, program.test);
                let text = std::fs::read_to_string(root.join(&file)).expect(&file);
                assert!(text.contains(&format!("fn {}", program.filter)), "{file}: {}", program.filter);
            }
        }
    }
}
