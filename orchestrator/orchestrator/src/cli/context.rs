//! What a command works with: the home, the client, the clock, keys and trust roots.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use trust::{Signer, TrustRoots, UnixTime};

use super::{
    Global,
    args::MemberName,
    failure::{Exit, Failure, chain, root},
    files,
    output::Ui,
};
use crate::{
    client::{Client, ClientError, Endpoint, ServerIdentity},
    home::Home,
    problem::Problem,
};

/// Largest `trust.json`, key or certificate read, bytes.
const MAX_TRUST_BYTES: u64 = 4 << 20;

/// The surroundings of one command.
#[derive(Debug)]
pub struct Context {
    /// The home directory (which may not exist yet).
    pub home: Home,
    /// How to talk to the person or program.
    pub ui: Ui,
    server: Endpoint,
    client: Option<MemberName>,
}

/// Runs a command that talks: one thread is enough.
pub fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|e| Failure::internal("RUNTIME", e))?.block_on(work))
}

impl Context {
    /// Resolves the home directory.
    pub fn new(global: Global, ui: Ui) -> Result<Self, Failure> {
        let path = match global.home {
            Some(path) => path,
            None => default_home()?,
        };
        let absolute = |p: &Path| {
            std::path::absolute(p)
                .map_err(|e| Failure::usage("HOME", "Unusable path", format!("{}: {e}", p.display())))
        };
        let home = Home::new(absolute(&path)?);
        let server = match (global.url, global.socket) {
            (Some(url), _) => Endpoint::Url(url),
            (None, Some(path)) => Endpoint::Socket(absolute(&path)?),
            (None, None) => Endpoint::Socket(home.socket()),
        };
        Ok(Self { home, ui, server, client: global.client })
    }

    /// A client of this home's orchestrator.
    pub fn client(&self) -> Result<Client, Failure> {
        let client = match &self.server {
            Endpoint::Socket(socket) => Client::new(socket),
            Endpoint::Url(url) => {
                let member = self.client.as_ref().ok_or_else(|| {
                    Failure::usage("CLIENT", "Who are you?", format!("{url} wants a certificate"))
                        .hint("name it with --client ORG/NAME, for example --client tenant/tenant")
                })?;
                let (key, certificate) = self.home.identity(&member.org, &member.name);
                let read = |path: &Path| files::text(path, MAX_TRUST_BYTES).map_err(|f| self.members_hint(f));
                let (key_pem, certificate_pem) = (read(&key)?, read(&certificate)?);
                let roots = self.roots(None)?;
                let who =
                    ServerIdentity { certificate_pem: &certificate_pem, key_pem: &key_pem, roots: &roots };
                Client::over_tls(url, &who)
            }
        };
        client.map_err(|e| self.client_failure(e))
    }

    /// The wall clock.
    pub fn now(&self) -> Result<UnixTime, Failure> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let since = since.map_err(|_| Failure::internal("CLOCK", "the clock is before 1970"))?;
        Ok(UnixTime(since.as_secs()))
    }

    /// A member's key and certificate from the home directory.
    pub fn signer(&self, member: &MemberName) -> Result<Signer, Failure> {
        let (key, certificate) = self.home.identity(&member.org, &member.name);
        let signer = load_signer(&key, &certificate).map_err(|f| self.members_hint(f))?;
        counts(&signer, self.now()?, &member.to_string())?;
        Ok(signer)
    }

    /// Who is not here is mostly somebody else who is.
    fn members_hint(&self, failure: Failure) -> Failure {
        if failure.problem.code != "UNREADABLE" {
            return failure;
        }
        let members = files::members(&self.home);
        let members = members.map_or_else(|| "none; run `mandate init`".into(), |m| m.join(", "));
        failure.hint(format!("identities in {}: {members}", self.home.path().display()))
    }

    /// The trust roots: from the file named, or the home's.
    pub fn roots(&self, file: Option<&Path>) -> Result<TrustRoots, Failure> {
        let path = file.map_or_else(|| self.home.trust(), Path::to_owned);
        let bytes = files::read(&path, MAX_TRUST_BYTES)
            .map_err(|f| f.hint("name the trust roots with --trust FILE, or the home with --home DIR"))?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Failure::usage("TRUST_ROOTS", "Not trust roots", format!("{}: {e}", path.display()))
                .hint("name the trust.json that `mandate init` wrote into the home, with --trust FILE")
        })
    }

    /// A client's error as a failure of the command.
    pub fn client_failure(&self, error: ClientError) -> Failure {
        let text = chain(&error);
        match error {
            ClientError::Problem(problem) => problem.into(),
            ClientError::NotRunning { server, source } => {
                let why = source.as_ref().map_or_else(String::new, |e| format!(": {}", root(e)));
                let detail = format!("nobody listens on {server}{why}");
                let problem = Problem::new(503, "SERVE_NOT_RUNNING", "mandate serve is not running", detail);
                let next = if matches!(server, Endpoint::Url(_)) {
                    "is that the address in [api] of its config.toml, and can it be reached from here?".to_owned()
                } else if self.home.config().exists() {
                    format!("start it with `mandate serve --home {}`", self.home.path().display())
                } else {
                    format!(
                        "there is no home in {}; name it with --home, or make one with `mandate init`",
                        self.home.path().display()
                    )
                };
                Failure { exit: Exit::Unreachable, problem: problem.hint(next) }
            }
            ClientError::Broken { server, source } => Failure {
                exit: Exit::Unreachable,
                problem: Problem::new(
                    504,
                    "NO_ANSWER",
                    "mandate serve did not answer",
                    format!("on {server}: {}", root(&source)),
                )
                .hint("the request is idempotent: look at `mandate intent list`, then try again"),
            },
            ClientError::Handshake { server, refused: true, reason } => Failure::refused(
                "TLS_REFUSED",
                "mandate serve does not accept our certificate",
                format!("{server}: {reason}"),
            )
            .hint("connect as a member whose certificate is valid and of one of its organisations (--client ORG/NAME)"),
            ClientError::Handshake { server, refused: false, reason } => Failure::refused(
                "TLS_UNTRUSTED",
                "This is not an orchestrator of the trust roots",
                format!("{server}: {reason}"),
            )
            .hint(format!("is {} the trust.json of its operator? another home is named with --home DIR", self.home.trust().display())),
            ClientError::Tls(e) => Failure::usage("TLS", "No TLS", e)
                .hint("name the identity to connect with as --client ORG/NAME, and check trust.json"),
            ClientError::Answer { .. } => Failure::internal("ANSWER", text)
                .hint("is that socket `mandate serve`'s, of the same version? see `mandate --version`"),
        }
    }
}

/// Reads a key and its certificate.
pub fn load_signer(key: &Path, certificate: &Path) -> Result<Signer, Failure> {
    let (key_pem, certificate_pem) =
        (files::text(key, MAX_TRUST_BYTES)?, files::text(certificate, MAX_TRUST_BYTES)?);
    Signer::from_pem(&key_pem, &certificate_pem).map_err(|e| {
        let where_ = format!("{} with {}: {e}", key.display(), certificate.display());
        Failure::usage("IDENTITY", "Unusable identity", where_)
            .hint("the key and the certificate must be PEM and belong together")
    })
}

/// What is signed with a certificate that does not count now is refused by everybody, later and elsewhere.
pub fn counts(signer: &Signer, now: UnixTime, who: &str) -> Result<(), Failure> {
    let (not_before, not_after) = trust::identity::validity(signer.certificate())
        .map_err(|e| Failure::usage("IDENTITY", "Unusable identity", format!("{who}: {e}")))?;
    let refuse = |detail: String, hint: &str| {
        Err(Failure::refused("CERTIFICATE_NOT_VALID", "Nothing was signed", detail).hint(hint))
    };
    if now > not_after {
        return refuse(
            format!("the certificate of {who} expired {not_after}; it is {now}"),
            "have the organisation's CA issue a new certificate for the key, put it in the place of the old one (pki/ORG/NAME.crt in the home), and sign again",
        );
    }
    if now < not_before {
        return refuse(
            format!("the certificate of {who} counts from {not_before} on; it is {now}"),
            "is this machine's clock right? otherwise wait until then, and sign again",
        );
    }
    Ok(())
}

fn default_home() -> Result<PathBuf, Failure> {
    if nix::unistd::geteuid().is_root() {
        return Ok("/var/lib/mandate".into());
    }
    let unset = || {
        Failure::usage("HOME", "No home directory", "HOME is not set")
            .hint("name one with --home DIR or MANDATE_HOME")
    };
    let home = std::env::var_os("HOME").filter(|h| !h.is_empty()).ok_or_else(unset)?;
    Ok(PathBuf::from(home).join(".local/share/mandate"))
}
