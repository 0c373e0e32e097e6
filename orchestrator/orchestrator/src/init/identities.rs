//! The small PKI of a new home: a CA for each organisation, and its members.

use trust::{
    Signer, UnixTime,
    issue::{self, Issued, Seed},
};

use super::{InitError, Plan, attributes, staging};
use crate::home::Home;

/// How long a CA is valid, seconds (ten years; UTCTime ends in 2049).
const CA_VALID_S: u64 = 10 * 365 * 86_400;
/// How long a member is valid, seconds (two years).
pub const VALID_S: u64 = 2 * 365 * 86_400;
/// Certificates begin this long before now, seconds: another machine's clock may be behind.
const CLOCK_SKEW_S: u64 = 300;
/// Seeds outside of the curve's order have a chance of 2^-32; four in a row mean a broken source.
const MAX_DRAWS: usize = 4;

/// An organisation to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organisation {
    /// Its name.
    pub name: String,
    /// Its members.
    pub members: Vec<Member>,
}

/// A member to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// Its role.
    pub role: &'static str,
    /// The tenant it speaks for.
    pub tenant: Option<String>,
}

/// What issuing an organisation gives.
pub(super) struct IssuedOrganisation {
    /// CA certificate, PEM.
    pub ca: String,
    /// Who signs the genesis, when this is the operator's organisation.
    pub operator: Option<Signer>,
}

/// 32 random bytes.
pub(super) fn seed() -> Result<Seed, InitError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| InitError::Random(e.to_string()))?;
    Ok(seed)
}

/// A positive serial number of 16 bytes without a leading zero.
fn serial() -> Result<[u8; 16], InitError> {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|e| InitError::Random(e.to_string()))?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn draw(
    who: &str,
    make: impl Fn(&Seed) -> Result<Issued, trust::identity::IdentityError>,
) -> Result<Issued, InitError> {
    let mut last = None;
    for _ in 0..MAX_DRAWS {
        match make(&seed()?) {
            Ok(issued) => return Ok(issued),
            Err(e) => last = Some(e),
        }
    }
    let source = last.unwrap_or(trust::identity::IdentityError::Usage);
    Err(InitError::Identity { who: who.to_owned(), source })
}

impl Organisation {
    /// Everybody a plan asks for.
    #[must_use]
    pub fn all(plan: &Plan) -> Vec<Self> {
        let member = |name, role| Member { name, role, tenant: None };
        let mut out = vec![
            Self {
                name: plan.operator.clone(),
                members: vec![member("operator", "operator"), member("orchestrator", "orchestrator")],
            },
            Self {
                name: plan.provider.clone(),
                members: vec![member("provider", "provider"), member("builder", "builder")],
            },
        ];
        out.extend(plan.tenants.iter().map(|t| Self {
            name: t.clone(),
            members: vec![Member { name: "tenant", role: "tenant", tenant: Some(t.clone()) }],
        }));
        out.push(Self { name: plan.auditor.clone(), members: vec![member("auditor", "auditor")] });
        out
    }

    /// (`org/name`, role) of each member.
    pub(super) fn listed(&self) -> Vec<(String, String)> {
        self.members.iter().map(|m| (format!("{}/{}", self.name, m.name), m.role.to_owned())).collect()
    }

    /// Issues its CA and members, and writes them.
    pub(super) fn issue(&self, home: &Home, now: UnixTime) -> Result<IssuedOrganisation, InitError> {
        let from = UnixTime(now.0.saturating_sub(CLOCK_SKEW_S));
        let ca = draw(&self.name, |seed| issue::ca(&self.name, seed, from, now.plus(CA_VALID_S)))?;
        self.save(home, "ca", &ca)?;
        let mut operator = None;
        for member in &self.members {
            let who = format!("{}/{}", self.name, member.name);
            let serial = serial()?;
            let attrs = attributes(member.role, member.tenant.as_deref());
            let valid = (from, now.plus(VALID_S));
            let issued =
                draw(&who, |seed| issue::member(&ca, member.name, attrs.clone(), seed, &serial, valid))?;
            self.save(home, member.name, &issued)?;
            if member.role == "operator" {
                let signer = Signer::from_pem(&issued.key_pem, &issued.certificate_pem);
                operator = Some(signer.map_err(|source| InitError::Identity { who, source })?);
            }
        }
        Ok(IssuedOrganisation { ca: ca.certificate_pem, operator })
    }

    fn save(&self, home: &Home, name: &str, issued: &Issued) -> Result<(), InitError> {
        let (key, certificate) = home.identity(&self.name, name);
        staging::write(&key, issued.key_pem.as_bytes(), staging::PRIVATE)?;
        staging::write(&certificate, issued.certificate_pem.as_bytes(), staging::PUBLIC)
    }
}
