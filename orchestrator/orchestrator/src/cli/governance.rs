//! `mandate governance …`: changing the rules of the ledger, with as many signatures as the rules in force ask for.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use ledger_contract::{
    contract::Request,
    records::{Change, GOVERNANCE_PAYLOAD, Governance, Revocable},
};
use trust::{Digest, Envelope, identity::OrgRoot};

use super::{
    args::{self, MemberName},
    context::Context,
    cosign,
    failure::{Exit, Failure, chain},
    files, intent,
    output::Paint,
    verdict,
};

/// Commands that change the rules.
#[derive(Debug, Subcommand)]
pub enum GovernanceCommand {
    /// An organisation joins, or has new roots or revocations
    Organisation {
        /// Its name
        name: String,
        /// Its roots: {"ca": [PEM…], "revoked": [serial…]}
        #[arg(long, value_name = "FILE", required_unless_present = "leave", conflicts_with = "leave")]
        root: Option<PathBuf>,
        /// It leaves
        #[arg(long)]
        leave: bool,
        #[command(flatten)]
        common: ChangeArgs,
    },
    /// Take back what was approved, granted or registered
    Revoke {
        #[command(flatten)]
        what: RevokeArgs,
        #[command(flatten)]
        common: ChangeArgs,
    },
    /// Hand a signed change, or a signed standing grant, to the ledger
    Submit {
        /// The file
        file: PathBuf,
    },
}

/// What to take back.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct RevokeArgs {
    /// An approved intent that is under way: it is unwound
    #[arg(long, value_name = "ID")]
    intent: Option<String>,
    /// A standing grant
    #[arg(long, value_name = "ID")]
    standing: Option<String>,
    /// A package: no intent may name it any more
    #[arg(long, value_name = "DIGEST")]
    package: Option<Digest>,
    /// A site's attestation key
    #[arg(long, value_name = "SITE")]
    key: Option<String>,
}

/// What every change takes.
#[derive(Debug, clap::Args)]
pub struct ChangeArgs {
    /// Why, for the auditors
    #[arg(long, value_parser = args::reason)]
    reason: String,
    /// As whom: ORG/NAME of an identity in the home directory
    #[arg(long = "as", value_name = "ORG/NAME")]
    who: MemberName,
    /// How long it may wait for its other signatures and the decision
    #[arg(long, default_value = "7d", value_parser = args::seconds, value_name = "DURATION")]
    expires_in: u64,
    /// Where to write it
    #[arg(short, long, value_name = "FILE", default_value = "change.dsse.json")]
    output: PathBuf,
}

/// Runs a command.
pub async fn run(context: &Context, command: GovernanceCommand) -> Result<Exit, Failure> {
    match command {
        GovernanceCommand::Organisation { name, root, leave: _, common } => {
            let root = root.as_deref().map(|file| organisation(&name, file)).transpose()?;
            propose(context, &common, Change::Organisation { name, root })
        }
        GovernanceCommand::Revoke { what, common } => {
            propose(context, &common, Change::Revoke { what: revocable(what)? })
        }
        GovernanceCommand::Submit { file } => submit(context, &file).await,
    }
}

fn organisation(name: &str, file: &Path) -> Result<OrgRoot, Failure> {
    let unusable = |why: String| {
        Failure::usage("ORG_ROOT", "Not an organisation's roots", format!("{}: {why}", file.display()))
            .hint("one entry of trust.json: {\"ca\": [\"-----BEGIN CERTIFICATE-----…\"], \"revoked\": []}")
    };
    let bytes = files::read(file, files::MAX_DOCUMENT_BYTES)?;
    let root = serde_json::from_slice(&bytes).map_err(|e| unusable(e.to_string()))?;
    trust::identity::check_root(name, &root).map_err(|e| unusable(chain(&e)))?;
    Ok(root)
}

fn revocable(what: RevokeArgs) -> Result<Revocable, Failure> {
    let intent = what.intent.map(|id| Revocable::Intent { id });
    let standing = what.standing.map(|id| Revocable::StandingGrant { id });
    let package = what.package.map(|digest| Revocable::Package { digest });
    let key = what.key.map(|site| Revocable::AttestationKey { site });
    // clap lets exactly one through.
    intent.or(standing).or(package).or(key).ok_or_else(|| {
        Failure::usage("USAGE", "Nothing to take back", "name an --intent, --standing, --package or --key")
    })
}

/// `<kind>-<seconds in hex>-<64 random bits in hex>`.
pub fn new_id(kind: &str, now: trust::UnixTime) -> Result<String, Failure> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| Failure::internal("RANDOM", e))?;
    Ok(format!("{kind}-{:08x}-{}", now.0, hex::encode(random)))
}

/// Signs a change as who asks, and writes it for the others to co-sign.
pub fn propose(context: &Context, common: &ChangeArgs, change: Change) -> Result<Exit, Failure> {
    let roots = context.roots(None)?;
    let governance = Governance {
        id: new_id("change", context.now()?)?,
        ledger: super::approval::ledger(&roots)?,
        not_after: context.now()?.plus(common.expires_in),
        reason: common.reason.clone(),
        change,
    };
    let payload = serde_json::to_vec(&governance).map_err(|e| Failure::internal("ENCODE", e))?;
    let signer = context.signer(&common.who)?;
    let envelope = Envelope::sign(GOVERNANCE_PAYLOAD, payload, &[&signer])
        .map_err(|e| Failure::internal("SIGN", chain(&e)))?;
    cosign::write(&common.output, &envelope)?;
    let document = serde_json::json!({ "id": governance.id, "file": common.output });
    let file = common.output.display();
    context.ui.show(&document, |style| {
        format!(
            "{} {} as {}: {file}\nnext: mandate cosign {file} --as ORG/NAME   # another person, if the policy asks for one\n      mandate governance submit {file}\n",
            style.paint(Paint::Green, "proposed"),
            style.paint(Paint::Cyan, &governance.id),
            common.who,
        )
    })
}

/// Hands any signed document that is no intent to the ledger.
pub async fn submit(context: &Context, file: &Path) -> Result<Exit, Failure> {
    let envelope = cosign::read(file)?;
    let id = match cosign::parse(file, &envelope)? {
        Request::Governance(g) => g.id,
        Request::Standing(g) => g.id,
        other => {
            let detail = format!("{} holds a request of kind `{}`", file.display(), other.kind());
            return Err(Failure::usage("NOT_A_CHANGE", "Not a change of the rules", detail)
                .hint("intents: mandate intent submit; packages: mandate package push"));
        }
    };
    let (committed, decided_before) = intent::decided(context, &envelope).await?;
    let document = serde_json::json!({ "id": id, "decided_before": decided_before,
        "position": committed.position, "verdict": committed.verdict });
    context.ui.show(&document, |style| verdict::render_committed(&id, &committed, style))?;
    Ok(if committed.verdict.approved { Exit::Ok } else { Exit::Refused })
}
