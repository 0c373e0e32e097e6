//! Makes a home: identities, trust roots, ledger, journal and configuration — once, and all or nothing.
//!
//! Everything is built in a sibling directory (`.<name>.init`, mode 0700, locked) and renamed into place at the end:
//! a home is complete or absent, whatever interrupts it, and two of us never build the same one. What an
//! interrupted run left behind is removed by the next. It never touches a home that is there already. This is the
//! only place that creates a ledger or a journal. Tests: `tests/init.rs`.

mod identities;
mod staging;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use ledger_contract::{
    policy::OrgPolicy,
    records::{GENESIS_PAYLOAD, Genesis, PolicyBundle},
};
use serde::Serialize;
use trust::{
    Digest, Envelope, Signer, TrustRoots, UnixTime,
    identity::{OrgRoot, Vouches},
    note::NoteSigner,
};

use crate::{
    config::{Config, SiteConfig},
    home::Home,
    journal::Journal,
};

pub use identities::{Member, Organisation, VALID_S};
use staging::Staging;

/// What is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Name of the ledger (origin of its checkpoints).
    pub ledger: String,
    /// The organisation that operates it.
    pub operator: String,
    /// The organisation of the providers and their builder.
    pub provider: String,
    /// One organisation for each tenant, of the same name.
    pub tenants: Vec<String>,
    /// The organisation of the auditors.
    pub auditor: String,
    /// The sites.
    pub sites: Vec<SiteConfig>,
    /// Now.
    pub now: UnixTime,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Made {
    /// The home.
    pub home: PathBuf,
    /// Name of the ledger.
    pub ledger: String,
    /// C2SP verifier key of its checkpoints.
    pub log_key: String,
    /// Digest of the policy bundle in force.
    pub policy: Digest,
    /// Identities, `org/name`, with their role.
    pub identities: Vec<(String, String)>,
    /// Names of the sites.
    pub sites: Vec<String>,
}

/// Why there is no home.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something is there already.
    #[error("{} is there already and not empty; a home is only made where nothing is", .0.display())]
    Exists(PathBuf),
    /// Another `init` is at it.
    #[error("another `mandate init` is making {} right now", .0.display())]
    Busy(PathBuf),
    /// The directory that the home is built in is not ours.
    #[error("{} belongs to somebody else or is not a directory; remove it first", .0.display())]
    Foreign(PathBuf),
    /// A name that cannot be an organisation's.
    #[error("`{name}` cannot be the name of {what}: {rule}")]
    Name {
        /// Of what.
        what: &'static str,
        /// The name.
        name: String,
        /// What is legal.
        rule: &'static str,
    },
    /// A file operation failed.
    #[error("cannot {doing} {}", .path.display())]
    Io {
        /// `create`, `write`, `sync`, …
        doing: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The machine gives no randomness.
    #[error("the machine gives no randomness: {0}")]
    Random(String),
    /// An identity could not be issued.
    #[error("cannot issue {who}")]
    Identity {
        /// For whom.
        who: String,
        /// Why.
        #[source]
        source: trust::identity::IdentityError,
    },
    /// The ledger refused to be founded.
    #[error("cannot create the ledger")]
    Ledger(#[source] ledger::LedgerError),
    /// The journal could not be created.
    #[error("cannot create the journal: {0}")]
    Journal(String),
    /// A document could not be made: its own rules refuse it.
    #[error("cannot make {what}: {problem}")]
    Document {
        /// Which.
        what: &'static str,
        /// Why.
        problem: String,
    },
}

impl InitError {
    fn document(what: &'static str, problem: impl std::fmt::Display) -> Self {
        Self::Document { what, problem: problem.to_string() }
    }
}

/// Makes a home as planned.
pub fn init(home: &Home, plan: &Plan) -> Result<Made, InitError> {
    check(plan)?;
    let staging = Staging::open(home.path())?;
    let built = build(&Home::new(staging.path()), plan)?;
    staging.commit()?;
    Ok(Made { home: home.path().to_owned(), ..built })
}

/// Names that are also tenants, directories and parts of certificates.
fn check(plan: &Plan) -> Result<(), InitError> {
    let orgs =
        [("an operator", &plan.operator), ("a provider", &plan.provider), ("an auditor", &plan.auditor)];
    let mut seen = BTreeSet::new();
    for (what, name) in orgs.into_iter().chain(plan.tenants.iter().map(|t| ("a tenant", t))) {
        let bad = |rule| Err(InitError::Name { what, name: name.clone(), rule });
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !(1..=32).contains(&name.len()) || !name.chars().all(legal) {
            return bad("1 to 32 of a-z 0-9 -");
        }
        if !seen.insert(name) {
            return bad("each organisation needs a name of its own");
        }
    }
    Ok(())
}

fn build(home: &Home, plan: &Plan) -> Result<Made, InitError> {
    let organisations = Organisation::all(plan);
    let mut roots = TrustRoots::default();
    let mut operator = None;
    for org in &organisations {
        let issued = org.issue(home, plan.now)?;
        let vouches = vouches(plan, &org.name);
        let root = OrgRoot { ca: vec![issued.ca], vouches: Some(vouches), ..OrgRoot::default() };
        roots.orgs.insert(org.name.clone(), root);
        operator = operator.or(issued.operator);
    }
    let operator =
        operator.ok_or_else(|| InitError::document("the operator's identity", "nobody has the role"))?;
    let log = NoteSigner::new(&plan.ledger, &identities::seed()?)
        .map_err(|e| InitError::document("the log key", e))?;
    let policy = policy(plan)?;
    found(home, plan, &log, &operator, &roots, &policy)?;
    roots.logs = vec![log.verifier().to_string()];
    write_json(&home.trust(), "trust.json", &roots)?;
    Journal::create(&home.journal()).map_err(|e| InitError::Journal(format!("{e:#}")))?;
    staging::private(&home.journal())?;
    write_config(home, plan, policy.digest())?;
    directories(home, plan)?;
    Ok(Made {
        home: PathBuf::new(),
        ledger: plan.ledger.clone(),
        log_key: log.verifier().to_string(),
        policy: policy.digest(),
        identities: organisations.iter().flat_map(Organisation::listed).collect(),
        sites: plan.sites.iter().map(|s| s.name.clone()).collect(),
    })
}

/// What each organisation's CA may say of its members: its own trade and nothing else.
fn vouches(plan: &Plan, org: &String) -> Vouches {
    let roles: &[&str] = match org {
        o if *o == plan.operator => &["operator", "orchestrator"],
        o if *o == plan.provider => &["provider", "builder"],
        o if *o == plan.auditor => &["auditor"],
        _ => &["tenant"],
    };
    let tenants = plan.tenants.iter().filter(|t| *t == org).cloned().collect();
    Vouches { roles: roles.iter().map(|r| (*r).to_owned()).collect(), tenants }
}

/// The default bundle, with the same limits.
fn policy(plan: &Plan) -> Result<PolicyBundle, InitError> {
    let bundle = PolicyBundle::default_bundle();
    let mut data = bundle.data().map_err(|e| InitError::document("the policy bundle", e))?;
    for org in [&plan.provider, &plan.auditor].into_iter().chain(&plan.tenants) {
        let Vouches { roles, tenants } = vouches(plan, org);
        data.orgs.insert(org.clone(), OrgPolicy { roles, tenants });
    }
    let bundle = bundle.with_data(&data);
    bundle.check().map_err(|e| InitError::document("the policy bundle", e))?;
    Ok(bundle)
}

fn found(
    home: &Home,
    plan: &Plan,
    log: &NoteSigner,
    operator: &Signer,
    roots: &TrustRoots,
    policy: &PolicyBundle,
) -> Result<(), InitError> {
    let genesis = Genesis {
        ledger: plan.ledger.clone(),
        orgs: roots.orgs.clone(),
        operator: plan.operator.clone(),
        policy: policy.clone(),
    };
    let payload = serde_json::to_vec(&genesis).map_err(|e| InitError::document("the genesis", e))?;
    let envelope = Envelope::sign(GENESIS_PAYLOAD, payload, &[operator])
        .map_err(|e| InitError::document("the genesis", e))?;
    ledger::embedded::Log::init(&home.ledger(), log, envelope, plan.now).map_err(InitError::Ledger)
}

fn write_json(path: &Path, what: &'static str, value: &impl Serialize) -> Result<(), InitError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| InitError::document(what, e))?;
    bytes.push(b'\n');
    staging::write(path, &bytes, staging::PRIVATE)
}

fn write_config(home: &Home, plan: &Plan, policy: Digest) -> Result<(), InitError> {
    let config = Config {
        operator: plan.operator.clone(),
        accepted_policies: vec![policy],
        drift: crate::config::Drift::default(),
        placement: crate::config::Placement::default(),
        wan: None,
        fabric: None,
        sites: plan.sites.clone(),
        limits: crate::config::Limits::default(),
        api: None,
        telemetry: None,
        osm: None,
        openstack_policy: None,
        osm_gateway: None,
    };
    let body = toml::to_string(&config).map_err(|e| InitError::document("config.toml", e))?;
    let text = format!(
        "# Configuration of `mandate serve`. Unknown keys are refused; everything is checked before it starts.\n\
         # A site attests when it has a TPM:\n\
         #   [site.host.tpm]\n\
         #   tcti = \"device:/dev/tpmrm0\"\n\n{body}"
    );
    // What we write must be what we accept.
    Config::parse(&text, "config.toml").map_err(|e| InitError::document("config.toml", e))?;
    staging::write(&home.config(), text.as_bytes(), staging::PRIVATE)
}

fn directories(home: &Home, plan: &Plan) -> Result<(), InitError> {
    staging::directory(&home.artifacts())?;
    for site in &plan.sites {
        staging::directory(&home.site(&site.name))?;
    }
    match home.socket().parent() {
        Some(run) => staging::directory(run),
        None => Ok(()),
    }
}

/// Attributes of a member's certificate.
fn attributes(role: &str, tenant: Option<&str>) -> BTreeMap<String, String> {
    let mut out = BTreeMap::from([(trust::identity::ATTR_ROLE.to_owned(), role.to_owned())]);
    out.extend(tenant.map(|t| (trust::identity::ATTR_TENANT.to_owned(), t.to_owned())));
    out
}
