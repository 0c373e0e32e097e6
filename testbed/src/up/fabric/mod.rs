//! Hyperledger Fabric from the programs that `FABRIC_BIN` names, on 127.0.0.1, with this workspace's contract as chaincode.
//!
//! Everything is the real thing: orderers in Raft, peers, TLS, keys of cryptogen. Each organisation runs its own contract, as a
//! consortium's does, so that one can be stopped, or started otherwise, without the others; so each has an address and a package of its
//! own. Below `.testbed/fabric/`; all of it goes with `down`, and with an `up` that fails. It must never listen beyond 127.0.0.1, and
//! never end a process that it did not start. Tests: `cargo testbed test fabric`.

mod config;
mod deploy;
mod info;
mod layout;
mod nodes;
mod plan;
mod shell;

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};

pub use self::plan::{BIN, Plan};
use self::{info::Info, layout::Layout, plan::available, shell::Shell};
use super::process;
use crate::{
    cli::{FabricOptions, NodeOptions},
    command, interrupt,
    ui::{self, Step},
    workspace,
};

/// The longest `up`, with the contract's build.
const LOCK_LIMIT: Duration = Duration::from_secs(900);
const BUILD_LIMIT: Duration = Duration::from_secs(1500);
/// Before the id of a process, the directory of its networks.
const OF_TESTS: &str = "fabric-of-";
/// The program of this workspace that is the contract.
const CONTRACT: &str = "mandate-chaincode";

fn root() -> anyhow::Result<PathBuf> {
    Ok(workspace::state_dir()?.join("fabric"))
}

/// A network that runs.
pub struct Network(Layout);

impl Network {
    /// Starts a new one below a directory that does not exist; nothing of it is left when that fails.
    pub fn start(root: &Path, plan: Plan) -> anyhow::Result<Self> {
        let bin = available()?;
        let contract = step("the contract", || contract(plan.release))?;
        let it = Self(Layout::new(root, plan, bin, contract)?);
        match it.make() {
            Ok(()) => Ok(it),
            Err(e) => {
                let _said_below = it.end().inspect_err(ui::error);
                Err(e)
            }
        }
    }

    fn make(&self) -> anyhow::Result<()> {
        let layout = &self.0;
        step("keys, first block, configuration", || {
            config::make(layout)?;
            layout.write()
        })?;
        step("orderers, contracts, peers", || nodes::start(layout, &layout.nodes()))?;
        step("the channel", || {
            deploy::join_orderers(layout)?;
            nodes::leader(layout)?;
            deploy::join_peers(layout)
        })?;
        step("the contract on the channel", || {
            deploy::install(layout)?;
            layout.plan.chaincodes.iter().try_for_each(|name| deploy::define(layout, name))?;
            layout.plan.chaincodes.iter().try_for_each(|name| deploy::ready(layout, name))
        })?;
        self.write_shells()
    }

    fn write_shells(&self) -> anyhow::Result<()> {
        let layout = &self.0;
        for org in layout.organizations() {
            let shell = Shell::of(layout, layout::Node::Peer(org, 0));
            config::put(&layout.shell(org), &shell.file())?;
        }
        config::put(&layout.info(), &serde_json::to_string_pretty(&Info::of(layout))?)?;
        let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
        let (testbed, root) = (std::env::current_exe()?, quoted(&layout.root));
        let script = format!("#!/bin/sh\nexec {} node --dir {root} \"$@\"\n", quoted(&testbed));
        config::executable(&layout.control(), &script)
    }

    /// Variables of a member's shell, or of an administrator's, of the first organisation.
    pub fn variables(&self, administrator: bool) -> Vec<(&'static str, String)> {
        match administrator {
            true => Shell::of(&self.0, layout::Node::Peer(1, 0)).variables(),
            false => Shell::member(&self.0, 1).variables(),
        }
    }

    /// What each node said last.
    pub fn last_words(&self) -> String {
        let said = |node| format!("{node}:\n{}\n", self.0.process(node).last_words());
        self.0.nodes().into_iter().map(said).collect()
    }

    /// Ends it and removes everything; how many processes ran.
    pub fn end(&self) -> anyhow::Result<usize> {
        end(&self.0.root)
    }
}

fn contract(release: bool) -> anyhow::Result<PathBuf> {
    let mut c = workspace::cargo();
    c.args(["build", "--locked", "--package", CONTRACT]);
    if release {
        c.arg("--release");
    }
    command::succeed(&mut c, BUILD_LIMIT)?;
    let metadata = workspace::Metadata::load(&workspace::root()?)?;
    Ok(metadata.target_directory.join(if release { "release" } else { "debug" }).join(CONTRACT))
}

fn end(root: &Path) -> anyhow::Result<usize> {
    let ended = process::stop_all(&Layout::processes(root)?, layout::rank);
    match fs::remove_dir_all(root) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", root.display()))
        }
        _ => Ok(ended),
    }
}

/// One `up` or `down` at a time: kept until it is dropped.
fn alone() -> anyhow::Result<Flock<fs::File>> {
    let file = root()?.with_extension("lock");
    let open = || fs::File::options().create(true).append(true).open(&file);
    interrupt::wait_for("another `up` or `down` of Fabric goes on", LOCK_LIMIT, || {
        Ok(Flock::lock(open()?, FlockArg::LockExclusiveNonblock).ok())
    })
}

/// `up fabric`: a new network, or what has ended of the one that is up.
pub fn up(options: &FabricOptions) -> anyhow::Result<()> {
    let _alone = alone()?;
    let (root, plan) = (root()?, Plan::of(options));
    let network = match Layout::read(&root)? {
        Some(layout) if layout.info().is_file() => again(layout, options, &plan)?,
        // What an `up` that was killed has left.
        _ => {
            end(&root)?;
            Network::start(&root, plan)?
        }
    };
    let info = Info::of(&network.0);
    if options.json {
        println!("{}", serde_json::to_string(&info)?);
    } else {
        println!("{}", info.table(ui::coloured(io::stdout().is_terminal())));
        ui::say(
            "take over an organisation's shell with the line beside its name; end it with `cargo testbed down fabric`",
        );
    }
    Ok(())
}

/// The network that is up: the same is wanted, or nothing in particular.
fn again(layout: Layout, options: &FabricOptions, plan: &Plan) -> anyhow::Result<Network> {
    let anything = FabricOptions { json: options.json, ..FabricOptions::default() };
    if *options != anything && *plan != layout.plan {
        bail!("another network is up, with other options: `cargo testbed down fabric` first");
    }
    step("what has ended", || nodes::start(&layout, &layout.nodes()))?;
    Ok(Network(layout))
}

/// `down fabric`: how many processes were ended, those of tests that were killed included.
pub fn down() -> anyhow::Result<usize> {
    let _alone = alone()?;
    let mut ended = end(&root()?)?;
    for entry in fs::read_dir(workspace::state_dir()?)? {
        let dir = entry?.path();
        let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.strip_prefix(OF_TESTS).is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            ended += end(&dir)?;
        }
    }
    Ok(ended)
}

/// Where a network of tests goes: the name says whose it is.
pub fn root_for_tests() -> anyhow::Result<PathBuf> {
    Ok(workspace::state_dir()?.join(format!("{OF_TESTS}{}", std::process::id())))
}

/// `status`: each process; false when one does not run.
pub fn status() -> anyhow::Result<bool> {
    let root = root()?;
    let layout = Layout::read(&root)?.filter(|l| l.info().is_file());
    let nodes = match &layout {
        Some(layout) => layout.nodes().into_iter().map(|node| layout.process(node)).collect(),
        None => Layout::processes(&root)?,
    };
    Ok(process::status("fabric", &nodes))
}

/// `node`: stops or starts one, or says which orderer leads.
pub fn node(options: &NodeOptions) -> anyhow::Result<()> {
    let root = options.dir.clone().map_or_else(root, Ok)?;
    let Some(layout) = Layout::read(&root)? else { bail!("no network is up: `cargo testbed up fabric`") };
    println!("{}", nodes::control(&layout, &options.action)?);
    Ok(())
}

fn step<T>(name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let step = Step::begin(name);
    let done = work();
    step.end(done.is_ok(), "");
    done.with_context(|| format!("fabric: {name}"))
}
