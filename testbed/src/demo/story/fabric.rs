//! The main job with a Hyperledger Fabric channel as the ledger: two organisations, both endorse, three orderers.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{Act, OTHER_TENANT, Story, TENANT, text};
use crate::{
    cli::Net,
    command, ui,
    up::{
        fabric::{self, Network, Plan},
        tpm::Swtpm,
    },
};

pub(super) const ACTS: &[Act] = &[
    ("consortium: a Fabric network with the contract", Story::consortium),
    ("operator: found the ledger on the channel", Story::init_on_channel),
    ("operator: a TPM for each site", Story::tpms),
    ("operator: start the orchestrator", Story::serve),
    ("operator: register the sites' attestation keys", Story::enrol),
    ("provider: pack, sign and register three packages", Story::packages),
    ("tenant: deploy, attested, measured, anchored", Story::deploy),
    ("auditor: verify the evidence offline, from the channel's configuration block", Story::evidence),
    ("auditor: find every flipped byte", Story::tamper),
    ("tenant: two more backends", Story::scale),
    ("anybody: kill the firewall; it comes back by itself", Story::heal),
    ("tenant: update, roll back; the bad one is refused", Story::rollback),
    ("crash: kill the orchestrator in mid-deploy", Story::crash),
    ("attack: another binary in the firewall's place", Story::changed_binary),
    ("attack: another rule set behind our back", Story::changed_rules),
    ("attack: an old quote for a new challenge", Story::old_quote),
    ("attack: a quote by a key that was replaced", Story::stale_key),
    ("refused: approvals", Story::approvals_refused),
    ("refused: requests and packages", Story::requests_refused),
    ("tenant: move the service to the other site", Story::migrate),
    ("tenant: cut it off, with a capture", Story::isolate),
    ("tenant: terminate everything", Story::terminate),
];

const FETCH_LIMIT: Duration = Duration::from_secs(30);

/// A network of ours; it ends with the demo, however that ends.
pub(super) struct Consortium(Network);

impl Drop for Consortium {
    fn drop(&mut self) {
        if let Err(e) = self.0.end() {
            ui::error(&e);
        }
    }
}

impl Consortium {
    fn variable(&self, name: &str) -> anyhow::Result<String> {
        let all = self.0.variables(true);
        let found = all.into_iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| value).with_context(|| format!("the network has no {name}"))
    }

    /// What the network says of itself.
    fn info(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.variable("FABRIC_NETWORK")?)?)?)
    }

    /// The channel's configuration block, as an administrator fetches it.
    fn configuration(&self, to: &std::path::Path) -> anyhow::Result<()> {
        let bin = PathBuf::from(self.variable("FABRIC_BIN")?);
        let mut c = Command::new(bin.join("peer"));
        c.args(["channel", "fetch", "config"]).arg(to);
        c.args(["-c", &self.variable("CHANNEL")?, "-o", &self.variable("ORDERER")?, "--tls", "--cafile"]);
        c.arg(self.variable("ORDERER_CA")?).envs(self.0.variables(true));
        command::succeed(&mut c, FETCH_LIMIT).map(drop)
    }
}

/// The only file of a directory of an MSP.
fn only(dir: &str, of: &str) -> anyhow::Result<PathBuf> {
    let dir = PathBuf::from(dir).join(of);
    let mut entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let first = entries.next().with_context(|| format!("{} is empty", dir.display()))??;
    Ok(first.path())
}

impl Story {
    fn consortium(&mut self) -> anyhow::Result<String> {
        let plan = Plan { net: Net::Full, ..Plan::default() };
        let network = Consortium(Network::start(&fabric::root_for_tests()?, plan)?);
        let info = network.info()?;
        self.network = Some(network);
        Ok(format!("channel {}, {}", text(&info, "channel")?, text(&info, "policy")?))
    }

    fn init_on_channel(&mut self) -> anyhow::Result<String> {
        let network = self.network.as_ref().context("there is no network")?;
        let channel = network.variable("CHANNEL")?;
        let mut line: Vec<String> =
            ["init", "--tenant", TENANT, "--tenant", OTHER_TENANT, "--ledger", &channel]
                .map(str::to_owned)
                .to_vec();
        for (site, properties) in self.sites {
            line.extend(["--site".into(), format!("{site}={properties}")]);
            line.extend(["--tpm".into(), format!("{site}={}", Swtpm::at(&self.stage.tpms(), site).tcti())]);
        }
        self.stage.mandate.ask(&line)?;
        let section = section(&network.info()?)?;
        let path = self.stage.mandate.home().join("config.toml");
        let text_before = fs::read_to_string(&path)?;
        fs::write(&path, format!("{text_before}\n{section}"))?;
        let block = self.stage.path("channel.block");
        network.configuration(&block)?;
        let join =
            ["ledger", "join", "--block", &block.display().to_string(), "--chaincode"].map(str::to_owned);
        let chaincode = network.variable("CC_NAME")?;
        let joined = self.stage.mandate.ask(&[join.as_slice(), &[chaincode]].concat())?;
        // The same again finds it founded.
        let again = self.stage.mandate.ask(&[join.as_slice(), &[network.variable("CC_NAME")?]].concat())?;
        ensure!(again["transaction"] == joined["transaction"], "founded twice: {joined}, {again}");
        Ok(format!("{channel}: {}", text(&joined, "transaction")?))
    }
}

/// `[fabric]` for a member of the first organisation, who transacts through both of its peers.
fn section(info: &Value) -> anyhow::Result<String> {
    let organisations = info["organizations"].as_array().context("no organisations")?;
    let ours = organisations.first().context("no organisation")?;
    let user = text(ours, "user_msp")?;
    let mut out = format!(
        "[fabric]\nmsp_id = {:?}\ncertificate = {:?}\nkey = {:?}\n",
        text(ours, "msp_id")?,
        only(&user, "signcerts")?.display().to_string(),
        only(&user, "keystore")?.display().to_string()
    );
    for organisation in organisations {
        for peer in organisation["peers"].as_array().into_iter().flatten() {
            out.push_str(&format!(
                "\n[[fabric.peer]]\naddress = {:?}\nmsp_id = {:?}\ntls_ca = {:?}\n",
                text(peer, "address")?,
                text(organisation, "msp_id")?,
                text(organisation, "tls_ca")?
            ));
        }
    }
    Ok(out)
}
