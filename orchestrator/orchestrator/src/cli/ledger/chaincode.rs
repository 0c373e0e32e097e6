//! `mandate ledger package-chaincode`: the package that tells Fabric's peers where the contract runs.

use std::path::{Path, PathBuf};

use clap::Args;
use fabric::package::{Connection, Package, Tls, build};

use super::super::{
    context::Context,
    failure::{Exit, Failure, chain},
    files,
};

/// Largest PEM file.
const MAX_PEM_BYTES: u64 = 64 << 10;

/// What the package says.
#[derive(Debug, Args)]
pub struct PackageArgs {
    /// Where `mandate-chaincode` listens, as the peers reach it
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
    /// Label of the package; its id begins with it
    #[arg(long, default_value = concat!("mandate_", env!("CARGO_PKG_VERSION")))]
    label: String,
    /// TLS: CA of the chaincode's certificate, PEM
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Mutual TLS: the certificate that the peers show, PEM
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "peer_key"])]
    peer_cert: Option<PathBuf>,
    /// Mutual TLS: the key of that, PEM; every administrator of the package can read it
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "peer_cert"])]
    peer_key: Option<PathBuf>,
    /// Where the package goes
    #[arg(long, short, default_value = "mandate-chaincode.tar.gz", value_name = "FILE")]
    output: PathBuf,
}

/// Makes the package and says its id.
pub fn package(context: &Context, args: &PackageArgs) -> Result<Exit, Failure> {
    let Package { bytes, id } = made(args)?;
    files::write(&args.output, &bytes)?;
    let document = serde_json::json!({ "id": id, "file": args.output, "bytes": bytes.len() });
    if args.output == Path::new("-") {
        context.ui.note(&id);
        return Ok(Exit::Ok);
    }
    context.ui.show(&document, |_| {
        format!(
            "{id}\n{}: install it on the peers (`peer lifecycle chaincode install`), then start `mandate-chaincode --id {id}`\n",
            args.output.display()
        )
    })
}

fn made(args: &PackageArgs) -> Result<Package, Failure> {
    let client = match (&args.peer_cert, &args.peer_key) {
        (Some(certificate), Some(key)) => Some((pem(certificate)?, pem(key)?)),
        _ => None,
    };
    let tls = match &args.tls_ca {
        Some(ca) => Some(Tls { root: pem(ca)?, client }),
        None => None,
    };
    let connection = Connection { address: args.address.clone(), tls };
    build(&args.label, &connection).map_err(|e| {
        Failure::usage("CHAINCODE_PACKAGE", "There is no package", chain(&e))
            .hint("for example: mandate ledger package-chaincode --address cc.example:9999")
    })
}

fn pem(path: &Path) -> Result<String, Failure> {
    let text = files::text(path, MAX_PEM_BYTES)?;
    match text.contains("-----BEGIN ") {
        true => Ok(text),
        false => {
            let detail = format!("{}: it is not PEM", path.display());
            Err(Failure::usage("CHAINCODE_PACKAGE", "There is no package", detail)
                .hint("a certificate or key in PEM begins with -----BEGIN"))
        }
    }
}
