//! `mandate cosign`: one more signature on an envelope, by another person; and signing of documents that are no intents.

use std::path::{Path, PathBuf};

use ledger_contract::contract::Request;
use trust::{Envelope, Signer, dsse::MAX_SIGNATURES};

use super::{
    args::MemberName,
    context::Context,
    failure::{Exit, Failure, chain},
    files,
    output::Paint,
};

/// What `mandate cosign` takes.
#[derive(Debug, clap::Args)]
pub struct CosignArgs {
    /// The signed document (an intent, a change of the rules, a standing grant, …)
    file: PathBuf,
    /// As whom: ORG/NAME of an identity in the home directory
    #[arg(long = "as", value_name = "ORG/NAME")]
    who: MemberName,
    /// Where to write it [default: over the file]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Adds the signature, after saying what is signed.
pub fn run(context: &Context, args: &CosignArgs) -> Result<Exit, Failure> {
    let mut envelope = read(&args.file)?;
    let request = parse(&args.file, &envelope)?;
    let signer = context.signer(&args.who)?;
    once(&args.file, &envelope, &args.who, &signer)?;
    envelope.cosign(&signer).map_err(|e| {
        Failure::usage("SIGN", "Cannot sign", chain(&e))
            .hint(format!("an envelope has room for {MAX_SIGNATURES} signatures"))
    })?;
    let path = args.output.clone().unwrap_or_else(|| args.file.clone());
    write(&path, &envelope)?;
    let signers = signers(&envelope);
    let document = serde_json::json!({ "kind": request.kind(), "file": path, "signers": signers });
    context.ui.show(&document, |style| {
        format!(
            "{} this {} as {}: {} signatures ({})\n",
            style.paint(Paint::Green, "co-signed"),
            request.kind(),
            args.who,
            signers.len(),
            signers.join(", ")
        )
    })
}

/// A person's second signature counts for nothing.
pub fn once(file: &Path, envelope: &Envelope, who: &MemberName, signer: &Signer) -> Result<(), Failure> {
    if !envelope.signatures.iter().any(|s| s.certificate == signer.certificate()) {
        return Ok(());
    }
    let detail = format!("{} carries a signature of {who} already", file.display());
    Err(Failure::usage("SIGNED_BEFORE", "Signed before", detail)
        .hint("a person counts once: somebody else has to co-sign (--as ORG/NAME)"))
}

/// A signed document.
pub fn read(file: &Path) -> Result<Envelope, Failure> {
    let bytes = files::read(file, files::MAX_DOCUMENT_BYTES)?;
    Envelope::from_json(&bytes).map_err(|e| {
        Failure::usage(
            "NOT_AN_ENVELOPE",
            "Not a signed document",
            format!("{}: {}", file.display(), chain(&e)),
        )
        .hint("sign it first, for example with `mandate intent sign FILE --as ORG/NAME`")
    })
}

/// What it asks of the ledger.
pub fn parse(file: &Path, envelope: &Envelope) -> Result<Request, Failure> {
    Request::parse(envelope).map_err(|e| {
        Failure::usage("INVALID_REQUEST", "No request to the ledger", format!("{}: {e}", file.display()))
            .hint("is it the file that was signed for the ledger?")
    })
}

/// Writes an envelope as one line.
pub fn write(path: &Path, envelope: &Envelope) -> Result<(), Failure> {
    let mut json = envelope.to_json();
    json.push(b'\n');
    files::write(path, &json)
}

/// Who claims to have signed, `org/name` each.
pub fn signers(envelope: &Envelope) -> Vec<String> {
    let claimed = |s: &trust::dsse::Signature| trust::identity::claimed(&s.certificate);
    let name = |(org, name): (String, String)| format!("{org}/{name}");
    envelope.signatures.iter().map(|s| claimed(s).map_or_else(|_| "?".to_owned(), name)).collect()
}
