//! Who asks, and may they: the rules that come first in every decision.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use supply::sigstore::Claim;

use trust::{
    Digest, Envelope, Identity, TrustRoots, UnixTime,
    dsse::DsseError,
    identity::{IdentityError, OrgRoot},
};

use crate::{
    built::Supplier,
    contract::TxInfo,
    memo::{ByBytes, Memo, remembered},
    policy::PolicyData,
    prepared::Prepared,
    records::{AUTHENTICATION, PolicyBundle, ProvenanceBundle},
    state::{BadRecord, GENESIS, GenesisRecord, POLICY_ACTIVE, Snapshot, decode, policy_key},
    verdict::{Checked, Rules, fault},
};

/// The rules of [`Context::authorize`], in order.
pub(crate) const AUTHORITY_RULES: [&str; 3] =
    [AUTHENTICATION, "authorization/role", "authorization/organisation"];

/// Signed records that the decisions of a thread remember to have verified: those of some hundred packages.
const MAX_VERIFIED: usize = 1024;

/// Sets of organisations that a thread remembers parsed: those that sign together.
const MAX_ROOTS: usize = 64;
/// Policies that a thread remembers parsed: the one in force, and some before when a log is decided again.
const MAX_POLICIES: usize = 8;

/// A bundle of the state and its data, parsed.
type Policy = (Rc<PolicyBundle>, Rc<PolicyData>);

thread_local! {
    static VERIFIED: RefCell<ByBytes<Result<Vec<Identity>, DsseError>>> =
        RefCell::new(ByBytes::new(MAX_VERIFIED));
    static BUNDLES: RefCell<Memo<Result<(Claim, String), String>>> = RefCell::new(Memo::new(MAX_VERIFIED));
    static ROOTS: RefCell<Memo<Result<Rc<TrustRoots>, BadRecord>>> = RefCell::new(Memo::new(MAX_ROOTS));
    static POLICIES: RefCell<ByBytes<Result<Policy, NoContext>>> = RefCell::new(ByBytes::new(MAX_POLICIES));
}

/// Everybody who signed a request.
pub(crate) struct Signers {
    who: Identity,
    rest: Vec<Identity>,
}

impl Signers {
    /// Who asks: the first signature.
    pub fn who(&self) -> &Identity {
        &self.who
    }

    /// Everybody else.
    pub fn rest(&self) -> &[Identity] {
        &self.rest
    }
}

/// What every decision but the genesis starts from.
pub(crate) struct Context<'a> {
    pub state: &'a Snapshot,
    pub tx: &'a TxInfo,
    pub request: &'a Envelope,
    prepared: &'a Prepared,
    pub genesis: GenesisRecord,
    pub policy: Digest,
    pub bundle: Rc<PolicyBundle>,
    pub data: Rc<PolicyData>,
    roots: Rc<TrustRoots>,
    /// Of all organisations that were read.
    roots_digest: Digest,
}

/// Why there is no context.
#[derive(Debug, Clone)]
pub(crate) struct NoContext {
    pub code: &'static str,
    pub detail: String,
    pub policy: Digest,
}

impl NoContext {
    fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), policy: Digest([0; 32]) }
    }
}

impl From<BadRecord> for NoContext {
    fn from(e: BadRecord) -> Self {
        Self::new("STATE_DAMAGED", e.to_string())
    }
}

impl<'a> Context<'a> {
    /// Reads genesis, policy and organisations.
    pub fn new(prepared: &'a Prepared, state: &'a Snapshot, tx: &'a TxInfo) -> Result<Self, NoContext> {
        let request = prepared.envelope();
        let Some(genesis) = state.get::<GenesisRecord>(GENESIS)? else {
            return Err(NoContext::new("NO_GENESIS", "the ledger has not been founded"));
        };
        if genesis.ledger != tx.ledger {
            let detail = format!("this is ledger `{}`, the state is of `{}`", tx.ledger, genesis.ledger);
            return Err(NoContext::new("WRONG_LEDGER", detail));
        }
        let Some(policy) = state.get::<Digest>(POLICY_ACTIVE)? else {
            return Err(NoContext::new("POLICY_ERROR", "no policy bundle is in force"));
        };
        let (bundle, data) = in_force(state, policy)?;
        let roots_digest = roots_digest(state);
        let roots = remembered(|f| ROOTS.with_borrow_mut(f), &roots_digest, || roots(state).map(Rc::new))?;
        Ok(Self { state, tx, request, prepared, genesis, policy, bundle, data, roots, roots_digest })
    }

    /// Authenticates the request and demands one of some roles; the first signature is who asks.
    pub fn authorize(&self, rules: &mut Rules, roles: &[&str]) -> Option<Signers> {
        let verified = self.prepared.verify(&self.roots, &self.roots_digest, self.tx.time);
        let signers = rules.value(AUTHENTICATION, authenticate(verified));
        let Some(signers) = signers else {
            rules.not_evaluated(AUTHORITY_RULES.into_iter().skip(1));
            return None;
        };
        let has_role = rules.check("authorization/role", demand_role(signers.who(), roles));
        let vouched = rules.check("authorization/organisation", self.vouched(signers.who()));
        (has_role && vouched).then_some(signers)
    }

    /// Do those who signed fulfil what the policy asks for `what`, which concerns `tenant`?
    pub fn cosigned(
        &self,
        what: &str,
        signers: &Signers,
        tenant: Option<&str>,
        suppliers: &[Supplier],
    ) -> Checked<String> {
        self.data.signing(what).fulfilled(&self.entitled(signers, tenant), suppliers)
    }

    /// Who asks, and every co-signer whose organisation may vouch for it; of tenants, those whose matter it is.
    fn entitled(&self, signers: &Signers, tenant: Option<&str>) -> Vec<Identity> {
        let concerned = |who: &&Identity| who.role() != "tenant" || tenant.is_none_or(|t| who.tenant() == t);
        let rest = signers.rest.iter().filter(concerned).filter(|who| self.vouched(who).is_ok());
        std::iter::once(&signers.who).chain(rest).cloned().collect()
    }

    /// Who signed a stored record, all signatures verified as of `at`: the same for the same bytes, time and roots.
    pub fn signers(&self, envelope: &Envelope, at: UnixTime) -> Result<Vec<Identity>, DsseError> {
        let at_bytes = at.0.to_be_bytes();
        let name = envelope.signatures.first().map_or(&[][..], |s| &s.sig);
        let signed =
            [name, &self.roots_digest.0[..], &at_bytes, envelope.payload_type.as_bytes(), &envelope.payload];
        let signatures =
            envelope.signatures.iter().flat_map(|s| [s.sig.as_slice(), s.certificate.as_slice()]);
        remembered(
            |f| VERIFIED.with_borrow_mut(f),
            signed.into_iter().chain(signatures).collect::<Vec<_>>().as_slice(),
            || envelope.verify(&self.roots, at).map(|v| v.signers),
        )
    }

    /// Who signed the provenance of an image in a Sigstore bundle, for the organisation that its record names, and the
    /// builder that it names.
    pub fn bundled(&self, it: &ProvenanceBundle, image: &Digest) -> Result<(Claim, String), String> {
        let parts = [&self.roots_digest.0[..], it.org.as_bytes(), it.bundle.as_bytes(), &image.0];
        let verify = || {
            let unknown = || format!("organisation `{}` is not on the ledger", it.org);
            let root = self.roots.orgs.get(&it.org).ok_or_else(unknown)?.clone();
            let roots = TrustRoots {
                orgs: BTreeMap::from([(it.org.clone(), root)]),
                logs: Vec::new(),
                channel: None,
            };
            supply::provenance::bundled(it.bundle.as_bytes(), &roots, image).map_err(|e| e.to_string())
        };
        remembered(|f| BUNDLES.with_borrow_mut(f), &Digest::of_parts(parts), verify)
    }

    /// May an organisation vouch for one of those roles?
    pub fn vouched_roles(&self, org: &str, roles: &[&str]) -> Result<(), String> {
        let refuse = || Err(format!("the policy lets `{org}` vouch for no {}", roles.join(" or ")));
        let own = self.roots.orgs.get(org).and_then(|root| root.vouches.as_ref());
        let policy = self.data.orgs.get(org);
        let any = |allowed: &BTreeSet<String>| roles.iter().any(|role| allowed.contains(*role));
        match (own, policy) {
            (Some(own), _) if !any(&own.roles) => refuse(),
            (_, Some(policy)) if !any(&policy.roles) => refuse(),
            (_, None) if !self.data.orgs.is_empty() => refuse(),
            _ => Ok(()),
        }
    }

    /// May the signer's organisation vouch for that role, and for that tenant?
    pub fn vouched(&self, who: &Identity) -> Checked<String> {
        vouched(&self.genesis.operator, &self.data, who)
    }
}

/// May the signer's organisation vouch for that role, and for that tenant?
pub(crate) fn vouched(operator: &str, data: &PolicyData, who: &Identity) -> Checked<String> {
    let (org, role) = (&who.org, who.role());
    if matches!(role, "operator" | "orchestrator") {
        return match *org == operator {
            true => Ok(format!("`{org}` operates this ledger")),
            false => {
                fault("ORG_NOT_ALLOWED", format!("`{org}` has no {role}s: `{operator}` operates this ledger"))
            }
        };
    }
    if data.orgs.is_empty() {
        return Ok(format!("the policy lets every organisation vouch for its members; `{org}` is one"));
    }
    let allowed = data.orgs.get(org).is_some_and(|policy| {
        policy.roles.contains(role) && (role != "tenant" || policy.tenants.contains(who.tenant()))
    });
    match allowed {
        true => Ok(format!("`{org}` may vouch for a {role}")),
        false => fault(
            "ORG_NOT_ALLOWED",
            format!("the policy does not let `{org}` vouch for {role} `{}`", who.tenant()),
        ),
    }
}

/// The policy of that digest, as the state has it.
fn in_force(state: &Snapshot, policy: Digest) -> Result<Policy, NoContext> {
    let policy_error = |detail: String| NoContext { code: "POLICY_ERROR", detail, policy };
    let missing = || policy_error(format!("policy bundle {policy} is not in the state"));
    let key = policy_key(&policy);
    let bytes = state.0.get(&key).ok_or_else(missing)?;
    remembered(
        |f| POLICIES.with_borrow_mut(f),
        [key.as_bytes(), bytes].as_slice(),
        || {
            let bundle: PolicyBundle = decode(&key, bytes)?;
            if bundle.digest() != policy {
                return Err(missing());
            }
            let data = bundle.data().map_err(|e| policy_error(e.to_string()))?;
            Ok((Rc::new(bundle), Rc::new(data)))
        },
    )
}

fn roots_digest(state: &Snapshot) -> Digest {
    let orgs = state.0.iter().filter(|(key, _)| key.starts_with("org/"));
    Digest::of_parts(orgs.flat_map(|(key, value)| [key.as_bytes(), value.as_slice()]))
}

fn roots(state: &Snapshot) -> Result<TrustRoots, BadRecord> {
    let mut orgs = BTreeMap::new();
    for key in state.0.keys() {
        if let Some(name) = key.strip_prefix("org/")
            && let Some(root) = state.get::<OrgRoot>(key)?
        {
            orgs.insert(name.to_owned(), root);
        }
    }
    Ok(TrustRoots { orgs, logs: Vec::new(), channel: None })
}

/// When all signatures verify, the first signer is who asks.
pub(crate) fn authenticate(verified: Result<Vec<Identity>, DsseError>) -> Checked<(Signers, String)> {
    match verified {
        Err(e) => fault(dsse_code(&e), e_chain(&e)),
        Ok(verified) => {
            let mut all = verified.into_iter();
            let Some(who) = all.next() else { return fault("BAD_SIGNATURE", "there is no signature") };
            let detail = format!("signed by {who}, certificate {}", who.serial);
            Ok((Signers { who, rest: all.collect() }, detail))
        }
    }
}

fn e_chain(e: &DsseError) -> String {
    match e {
        // Its Display has the source already.
        DsseError::Identity { .. } | DsseError::BadSignature { .. } => e.to_string(),
        other => format!("the envelope does not verify: {other}"),
    }
}

/// Stable code of a verification failure.
pub(crate) fn dsse_code(e: &DsseError) -> &'static str {
    match e {
        DsseError::Identity { source, .. } => match source {
            IdentityError::UnknownOrganisation(_) => "IDENTITY_UNKNOWN_ORG",
            IdentityError::NotIssuedBy(_) => "IDENTITY_NOT_ISSUED",
            IdentityError::NotValidAt { .. } => "IDENTITY_NOT_VALID",
            IdentityError::Revoked(_) => "IDENTITY_REVOKED",
            IdentityError::NotVouched { .. } => "IDENTITY_NOT_VOUCHED",
            IdentityError::Usage => "IDENTITY_USAGE",
            IdentityError::Malformed(_) | IdentityError::KeyMismatch => "IDENTITY_MALFORMED",
        },
        _ => "BAD_SIGNATURE",
    }
}

pub(crate) fn demand_role(who: &Identity, roles: &[&str]) -> Checked<String> {
    let role = who.role();
    match roles.contains(&role) {
        true => Ok(format!("{who} has the role {role}")),
        false => fault(
            "ROLE_NOT_ALLOWED",
            format!("{who} has the role `{role}`; this needs `{}`", roles.join("` or `")),
        ),
    }
}
