//! `mandate-chaincode`: the policy contract as Fabric chaincode, run as a service.
//!
//! Never: a file that it writes, a connection that it opens.

use std::{io::IsTerminal as _, path::PathBuf};

use anyhow::Context as _;
use clap::Parser;
use mandate_chaincode::{
    Contract,
    server::{Options, serve},
    tls::{TlsFiles, acceptor},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use trust::Digest;

/// The policy contract as Fabric chaincode, run as a service: the peers connect to it
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Id of the installed package, as `peer lifecycle chaincode queryinstalled` shows it
    #[arg(long, env = "CHAINCODE_ID", value_name = "LABEL:DIGEST")]
    id: String,
    /// Where the peers connect to
    #[arg(long, env = "CHAINCODE_SERVER_ADDRESS", value_name = "HOST:PORT")]
    listen: String,
    /// The server's certificate, with its chain, PEM; without it: in the clear
    #[arg(long, env = "CHAINCODE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of that, PEM
    #[arg(long, env = "CHAINCODE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// CA of the certificates that the peers must show, PEM
    #[arg(long, env = "CHAINCODE_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// The one genesis that is taken, by the SHA-256 of its envelope [default: the first]
    #[arg(long, env = "MANDATE_GENESIS", value_name = "HEX", value_parser = digest)]
    genesis: Option<Digest>,
    /// Threads that decide [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
}

fn digest(text: &str) -> Result<Digest, String> {
    Digest::from_hex(text.strip_prefix("sha256:").unwrap_or(text)).map_err(|e| e.to_string())
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_ansi(terminal).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let tls = match (args.tls_cert, args.tls_key) {
        (Some(certificate), Some(key)) => {
            Some(acceptor(&TlsFiles { certificate, key, client_ca: args.client_ca })?)
        }
        _ => None,
    };
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let listener =
        TcpListener::bind(&args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    tracing::info!(id = args.id, address = args.listen, tls = tls.is_some(), "ready for peers");
    let options = Options {
        package_id: args.id,
        listener,
        tls,
        contract: Contract { genesis: args.genesis },
        threads: args.threads.map_or_else(processors, usize::from),
    };
    serve(options, async {
        tokio::select! {
            _ = terminate.recv() => {}
            // Without a handler for it, it ends the process anyway.
            _ = tokio::signal::ctrl_c() => {}
        }
    })
    .await
}
