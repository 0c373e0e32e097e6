//! `mandate openstack …`: what the gate inside OpenStack needs in the cloud itself.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    context::Context,
    failure::{Exit, Failure},
    files,
};
use crate::{
    config::Config,
    remote_policy::{
        PolicyConfig,
        file::{Asking, PolicyFile},
        rules::Service,
    },
};

/// Commands on OpenStack clouds.
#[derive(Debug, Subcommand)]
pub enum OpenstackCommand {
    /// Print the policy file that has a service ask Mandate before anything changes in a managed project
    Policy(PolicyArgs),
}

/// Arguments of `openstack policy`.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// Whose policy file
    #[arg(long, value_enum)]
    service: Service,
    /// Which of the configured clouds [default: the only one]
    #[arg(long, value_name = "NAME")]
    cloud: Option<String>,
    /// Ask with what oslo.policy has by itself, without the package mandate-oslo-policy
    #[arg(long, conflicts_with = "plugin")]
    https: bool,
    /// Ask with the package mandate-oslo-policy (the default)
    #[arg(long)]
    plugin: bool,
    /// The service's own policy file, if it has one: its rules are wrapped instead of the defaults
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
    /// The deployment sets `enforce_new_defaults`: without the deprecated defaults
    #[arg(long)]
    new_defaults: bool,
}

/// What `--json` answers.
#[derive(Serialize)]
struct Printed<'a> {
    cloud: &'a str,
    service: &'static str,
    file: &'a str,
}

/// Runs a command.
pub fn run(context: &Context, command: &OpenstackCommand) -> Result<Exit, Failure> {
    let OpenstackCommand::Policy(args) = command;
    let config = configured(context)?;
    let name = chosen(&config, args.cloud.as_deref())?;
    let base = args.base.as_deref().map(own_rules).transpose()?.unwrap_or_default();
    let file = PolicyFile {
        config: &config,
        name,
        cloud: &config.clouds[name],
        service: args.service,
        asking: if args.https { Asking::Https } else { Asking::Plugin },
        base: &base,
        new_defaults: args.new_defaults,
    };
    let text = file.render();
    let printed = Printed { cloud: name, service: args.service.name(), file: &text };
    context.ui.show(&printed, |_| text.clone())
}

fn configured(context: &Context) -> Result<PolicyConfig, Failure> {
    let path = context.home.config();
    let text = files::text(&path, files::MAX_DOCUMENT_BYTES)?;
    let config = Config::parse(&text, &path.display().to_string()).map_err(|e| {
        Failure::usage("CONFIG", "The configuration is refused", e)
            .hint(format!("correct {}", path.display()))
    })?;
    config.openstack_policy.ok_or_else(|| {
        let detail = format!("{} has no [openstack_policy]", path.display());
        Failure::usage("NO_OPENSTACK_POLICY", "No cloud asks this orchestrator", detail)
            .hint("add it: docs/openstack-policy.md")
    })
}

fn chosen<'c>(config: &'c PolicyConfig, asked: Option<&str>) -> Result<&'c str, Failure> {
    let names: Vec<&str> = config.clouds.keys().map(String::as_str).collect();
    let found = match (asked, &names[..]) {
        (Some(name), _) => names.iter().find(|n| **n == name),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    found.copied().ok_or_else(|| {
        let detail = format!("configured are {}", names.join(", "));
        Failure::usage("CLOUD_UNKNOWN", "Which cloud?", detail).hint("name one with --cloud NAME")
    })
}

/// The rules of a policy file, YAML or JSON: names and checks.
fn own_rules(path: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let text = files::text(path, files::MAX_DOCUMENT_BYTES)?;
    let read: Result<Option<BTreeMap<String, String>>, _> = serde_saphyr::from_str(&text);
    read.map(Option::unwrap_or_default).map_err(|e| {
        let detail = format!("{}: {e}", path.display());
        Failure::usage("POLICY_FILE", "This is no policy file of oslo.policy", detail)
            .hint("a file of lines NAME: CHECK, as the service itself reads it")
    })
}
