//! `mandate ledger join`: a Fabric channel becomes the ledger of a home.

use std::{collections::BTreeSet, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use fabric::channel::Channel;
use ledger::{Ledger as _, embedded::Log};
use ledger_contract::{evidence::ProvenEntry, records::Entry};
use trust::{Envelope, identity::ChannelRoot};

use super::super::{
    context::Context,
    failure::{Exit, Failure, chain},
    files,
    output::{Cell, Paint, Table},
};
use crate::{config::Config, wiring};

/// Largest configuration block: some KiB for each organisation.
const MAX_BLOCK_BYTES: u64 = 16 << 20;

/// Which channel, and what is believed of it.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The channel's newest configuration block, from somebody you trust: `peer channel fetch config FILE`
    #[arg(long, value_name = "FILE")]
    block: PathBuf,
    /// Name of the contract's chaincode on the channel
    #[arg(long, default_value = "mandate", value_name = "NAME")]
    chaincode: String,
    /// An organisation that must have endorsed, by MSP id; may be repeated [default: every organisation of the channel]
    #[arg(long = "endorser", value_name = "MSP")]
    endorsers: Vec<String>,
}

fn refused(detail: impl std::fmt::Display) -> Failure {
    Failure::usage("LEDGER_JOIN", "The channel is not joined", detail)
}

/// Founds the ledger on the channel, or finds it founded, and writes the channel into the trust roots.
pub async fn join(context: &Context, args: &JoinArgs) -> Result<Exit, Failure> {
    let bytes = files::read(&args.block, MAX_BLOCK_BYTES)?;
    let channel = Channel::from_block(&bytes).map_err(|e| {
        refused(format!("{}: {}", args.block.display(), chain(&e)))
            .hint("`peer channel fetch config FILE -o ORDERER -c CHANNEL …` writes one")
    })?;
    let endorsers: BTreeSet<String> = args.endorsers.iter().cloned().collect();
    if let Some(unknown) = endorsers.iter().find(|e| !channel.organisations().any(|o| o == e.as_str())) {
        let known: Vec<_> = channel.organisations().collect();
        return Err(refused(format!("`{unknown}` is no organisation of channel `{}`", channel.name()))
            .hint(format!("its organisations are {}", known.join(", "))));
    }
    let root =
        ChannelRoot { configuration: STANDARD.encode(&bytes), chaincode: args.chaincode.clone(), endorsers };
    let mut roots = context.roots(None)?;
    if roots.channel.as_ref().is_some_and(|known| *known != root) {
        return Err(refused("this home trusts a channel already").hint(
            "its trust.json names it; another channel is for another home (`mandate init --home DIR`)",
        ));
    }
    let (name, genesis) = genesis(context).await?;
    if name != channel.name() {
        return Err(refused(format!("the ledger is `{name}`, the channel `{}`", channel.name()))
            .hint("a ledger on a channel has the channel's name: `mandate init --ledger CHANNEL`"));
    }
    let founded = found(context, &root, &genesis).await?;
    roots.channel = Some(root);
    let mut json = serde_json::to_vec_pretty(&roots).map_err(|e| Failure::internal("JSON", e))?;
    json.push(b'\n');
    files::write(&context.home.trust(), &json)?;
    let organisations: Vec<&str> = channel.organisations().collect();
    let document = serde_json::json!({ "channel": name, "configuration_block": channel.number(),
        "organisations": organisations, "genesis": genesis.digest(), "transaction": founded });
    context.ui.show(&document, |style| {
        let mut table = Table::new(&["", ""], "");
        for (what, value) in [
            ("channel", name.clone()),
            ("trusted from", format!("configuration block {}", channel.number())),
            ("organisations", organisations.join(", ")),
            ("founded by", founded.clone()),
        ] {
            table.row([Cell::new(Paint::Dim, what), value.into()]);
        }
        format!(
            "{}\n{}; start it: `mandate serve`\n",
            table.render(style),
            style.paint(Paint::Green, "joined")
        )
    })
}

/// Name of the ledger that `mandate init` founded, and the request that did.
async fn genesis(context: &Context) -> Result<(String, Envelope), Failure> {
    let unusable = |e: &ledger::LedgerError| super::trouble::failure(e, super::trouble::Doing::Own);
    let log = Log::open(&context.home.ledger(), crate::engine::now).map_err(|e| unusable(&e))?;
    let entries = log.range(0, 2).await.map_err(|e| unusable(&e))?;
    let [first] = entries.as_slice() else {
        let detail = "the embedded log has decided more than its own founding, which would be lost";
        return Err(refused(detail)
            .hint("join a channel with a new home: `mandate init --home DIR --ledger CHANNEL`"));
    };
    let first: Entry = serde_json::from_str(first).map_err(|e| Failure::internal("ENTRY_FORMAT", e))?;
    Ok((first.ledger, first.request))
}

/// Submits the genesis; the transaction that founded the ledger, now or before.
async fn found(context: &Context, root: &ChannelRoot, genesis: &Envelope) -> Result<String, Failure> {
    let path = context.home.config();
    let text = files::text(&path, files::MAX_DOCUMENT_BYTES)?;
    let config = Config::parse(&text, &path.display().to_string())
        .map_err(|e| Failure::usage("CONFIG", "The configuration is refused", e))?;
    let Some(section) = &config.fabric else {
        return Err(refused("config.toml does not say how the channel is reached")
            .hint(format!("write a section [fabric] into {}: docs/fabric.md has one", path.display())));
    };
    let ledger = wiring::fabric::open(&context.home, section, root.clone())
        .map_err(|e| refused(format!("{e:#}")).hint("correct [fabric] in config.toml"))?;
    let unreachable = |e: ledger::LedgerError| refused(chain(&e)).hint("nothing was changed here; try again");
    ledger.caught_up().await.map_err(unreachable)?;
    let committed = ledger.submit(genesis.clone()).await.map_err(unreachable)?;
    let verdict = &committed.entry.verdict;
    if !verdict.approved {
        return Err(refused(format!(
            "the channel's contract refuses ({}): {}",
            verdict.code(),
            verdict.detail()
        ))
        .hint("another genesis founded the ledger of this channel: ask who operates it for a home of it"));
    }
    let ProvenEntry { channel: Some(proof), .. } = &committed.proven else {
        return Err(Failure::internal("LEDGER_JOIN", "the founding has no proof of its channel"));
    };
    Ok(proof.told())
}
