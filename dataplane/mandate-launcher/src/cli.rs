//! The command line: stable, because drivers call it.

use std::path::PathBuf;

use caps::Capability;
use clap::{Args, Parser, Subcommand};
use trust::Digest;

use crate::{confine::User, tpm::tcti::Tcti};

/// Measures a binary and its configuration into a TPM, gives privileges up, executes what it measured.
///
/// Exit codes: 0 done (`launch` never comes back: the process becomes the function, with the same pid); 2 wrong
/// arguments; 3 refused, the image is not the expected one (nothing was measured or started); 4 the TPM; 5 the event
/// log, or it does not agree with its PCR; 6 a file that cannot be used; 7 the confinement or the execution.
#[derive(Debug, Parser)]
#[command(name = "mandate-launcher", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Action,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Measure an image and a configuration, then become that image, confined.
    ///
    /// The executed command line is `mandate-dataplane --config /proc/self/fd/N --control SOCKET EXTRA…`; image and
    /// configuration are sealed copies in memory. It has standard input from /dev/null, output and error of the
    /// caller, an empty environment, / as its directory, umask 007, a session of its own, no other file descriptors.
    ///
    /// Without --tpm, --log and --pcr (a machine that has no TPM) the image is still compared and confined, but nothing is
    /// measured, and no evidence will ever speak of it; standard error says so.
    ///
    /// The caller waits for the control socket to answer; a launch that fails ends with a message on standard error
    /// and an exit code before that. Needs root (or a user namespace with the ids mapped).
    Launch(Box<Launch>),
    /// Record that a running function is given another configuration. Call it before the control protocol's
    /// `configure`, so that no configuration ever runs unmeasured.
    Measure(Measure),
    /// Print evidence (JSON, one line) on standard output: a quote that binds nonce and claims, the event log, the
    /// claims.
    Quote(Quote),
    /// Load the attestation key (made at the first call) and print what an operator registers for the site, as JSON.
    Ak(Ak),
}

/// The machine's TPM, PCR and event log; the same for every instance of a site.
#[derive(Debug, Args)]
pub struct Site {
    /// The TPM: swtpm:path=SOCKET, swtpm:host=HOST,port=PORT or device:/dev/tpmrm0.
    #[arg(long, value_name = "TCTI")]
    pub tpm: Tcti,
    /// The event log, one per PCR and machine; FILE.lock is kept beside it. Its directory must exist.
    #[arg(long, value_name = "FILE")]
    pub log: PathBuf,
    /// The PCR (SHA-256 bank), 0 to 15, that nothing else extends: from 16 on software can reset them.
    #[arg(long, value_name = "N", value_parser = pcr())]
    pub pcr: u8,
}

/// [`Site`], where a machine may have no TPM.
#[derive(Debug, Args)]
pub struct SiteIfAny {
    /// The TPM: swtpm:path=SOCKET, swtpm:host=HOST,port=PORT or device:/dev/tpmrm0; --log and --pcr go with it.
    #[arg(long, value_name = "TCTI", requires_all = ["log", "pcr"])]
    pub tpm: Option<Tcti>,
    /// The event log, one per PCR and machine; FILE.lock is kept beside it. Its directory must exist.
    #[arg(long, value_name = "FILE", requires_all = ["tpm", "pcr"])]
    pub log: Option<PathBuf>,
    /// The PCR (SHA-256 bank), 0 to 15, that nothing else extends: from 16 on software can reset them.
    #[arg(long, value_name = "N", value_parser = pcr(), requires_all = ["tpm", "log"])]
    pub pcr: Option<u8>,
}

impl SiteIfAny {
    /// All three, or none: the parser refuses anything between.
    #[must_use]
    pub fn site(&self) -> Option<Site> {
        Some(Site { tpm: self.tpm.clone()?, log: self.log.clone()?, pcr: self.pcr? })
    }
}

/// Arguments of `launch`.
#[derive(Debug, Args)]
pub struct Launch {
    /// TPM, log and PCR: all three, or none on a machine without a TPM.
    #[command(flatten)]
    pub site: SiteIfAny,
    /// Object key of the instance; the configuration's `instance` must be the same.
    #[arg(long, value_name = "KEY", value_parser = instance)]
    pub instance: String,
    /// The executable (ELF); a symbolic link is refused.
    #[arg(long, value_name = "FILE")]
    pub image: PathBuf,
    /// What the executable's digest must be.
    #[arg(long, value_name = "sha256:HEX")]
    pub expect_image: Digest,
    /// The configuration document; a symbolic link is refused.
    #[arg(long, value_name = "FILE")]
    pub configuration: PathBuf,
    /// Network namespace to run in: a name of `ip netns`, or a path.
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: String,
    /// User and group to run as, numbers.
    #[arg(long, value_name = "UID:GID")]
    pub user: User,
    /// The function's control socket. It makes it; its directory must be writable for the user above.
    #[arg(long, value_name = "SOCKET")]
    pub control: PathBuf,
    /// Capabilities to keep, all others are gone for good: net_raw,ipc_lock.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = crate::confine::capability)]
    pub cap: Vec<Capability>,
    /// Write the process id here, after measuring and before executing.
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// Enter this cgroup (version 2) first: what is read and what runs is then within its limits.
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Arguments for the image, after `--`.
    #[arg(last = true, value_name = "EXTRA")]
    pub extra: Vec<String>,
}

/// Arguments of `measure`.
#[derive(Debug, Args)]
pub struct Measure {
    /// TPM, log and PCR.
    #[command(flatten)]
    pub site: Site,
    /// Object key of the instance.
    #[arg(long, value_name = "KEY", value_parser = instance)]
    pub instance: String,
    /// The new configuration document, as it will be sent; a symbolic link is refused.
    #[arg(long, value_name = "FILE")]
    pub configuration: PathBuf,
}

/// Arguments of `quote`.
#[derive(Debug, Args)]
pub struct Quote {
    /// TPM, log and PCR.
    #[command(flatten)]
    pub site: Site,
    /// The verifier's nonce.
    #[arg(long, value_name = "sha256:HEX")]
    pub nonce: Digest,
    /// The claims: a JSON list of {instance, image, configuration, generation, isolated}; `-` is standard input. Its
    /// exact bytes are bound by the quote.
    #[arg(long, value_name = "FILE|-")]
    pub claims: PathBuf,
    /// Quote with an earlier attestation key. A verifier refuses it, unless that one is registered.
    #[arg(long, value_name = "N")]
    pub ak_generation: Option<u32>,
}

/// Arguments of `ak`.
#[derive(Debug, Args)]
pub struct Ak {
    /// The TPM, as for `launch`.
    #[arg(long, value_name = "TCTI")]
    pub tpm: Tcti,
    /// The PCR, as for `launch`.
    #[arg(long, value_name = "N", value_parser = pcr())]
    pub pcr: u8,
    /// The event log, as for `launch`. Give it when something was measured since the machine started: the baseline
    /// is in the log then. Without it, the PCR's value of now is printed as the baseline.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Make the next generation of the key the current one. Register it: evidence of the old one is stale.
    #[arg(long)]
    pub rotate: bool,
}

fn pcr() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(0..=i64::from(attestation::log::MAX_PCR))
}

fn instance(key: &str) -> Result<String, String> {
    attestation::log::check_instance(key).map(|()| key.to_owned())
}
