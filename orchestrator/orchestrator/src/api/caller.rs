//! Who calls, and what that one may.
//!
//! On the UNIX socket it is the operator: the socket's directory lets nobody else in. Over TCP it is who the client
//! certificate says, verified with the same rules as a signature, those that the ledger has changed since included:
//! organisation, role and tenant are the certificate's, as far as its organisation may vouch for them. Roles can only read here: whatever changes the infrastructure anew is proven again by
//! the signature inside the request. What an operator decides about an operation that was approved (retry, rollback, fail)
//! is recorded with this name.

use std::sync::Arc;

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use tokio::net::UnixListener;
use trust::{Identity, UnixTime};

use super::{
    catalogue::{Access, Operation, Verb},
    tls::TlsListener,
};
use crate::{problem::Problem, service::Service};

/// Where a connection comes from.
#[derive(Debug, Clone)]
pub enum Peer {
    /// The UNIX socket.
    Local,
    /// TCP, with the certificate (DER) that the handshake proved possession of.
    Certificate(Arc<[u8]>),
    /// TCP, without a certificate: nobody to this API.
    Unknown,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(_: IncomingStream<'_, UnixListener>) -> Self {
        Self::Local
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        stream.remote_addr().clone()
    }
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Whoever may open the UNIX socket.
    Operator,
    /// A member of an organisation, by this certificate (DER).
    Member(Box<Identity>, Arc<[u8]>),
}

impl Caller {
    /// Verified for each request: a connection may outlive its certificate.
    pub fn of(peer: &Peer, service: &dyn Service, now: UnixTime) -> Result<Self, Problem> {
        match peer {
            Peer::Local => Ok(Self::Operator),
            Peer::Unknown => Err(refused("the connection shows no certificate".into())),
            Peer::Certificate(der) => {
                service.member(der, now).map(|who| Self::Member(Box::new(who), der.clone())).map_err(refused)
            }
        }
    }

    /// Is it still who it was? For answers that last longer than a request.
    pub fn still(&self, service: &dyn Service, now: UnixTime) -> Result<(), Problem> {
        match self {
            Self::Operator => Ok(()),
            Self::Member(_, der) => service.member(der, now).map(|_| ()).map_err(refused),
        }
    }

    /// For the log, for the record of what a person decided, and as the owner of idempotency keys.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Operator => "socket".into(),
            Self::Member(identity, _) => identity.to_string(),
        }
    }

    fn role(&self) -> &str {
        match self {
            Self::Operator => "operator",
            Self::Member(identity, _) => identity.role(),
        }
    }

    /// The tenant it speaks for, or empty.
    #[must_use]
    pub fn tenant(&self) -> &str {
        match self {
            Self::Operator => "",
            Self::Member(identity, _) => identity.tenant(),
        }
    }

    /// May this caller read what is nobody's own?
    #[must_use]
    pub fn sees_all(&self) -> bool {
        matches!(self.role(), "operator" | "auditor" | "orchestrator")
    }

    /// May this caller see what belongs to `tenant`?
    #[must_use]
    pub fn sees(&self, tenant: &str) -> bool {
        match self {
            Self::Member(identity, _) if !self.sees_all() => {
                identity.role() == "tenant" && !tenant.is_empty() && identity.tenant() == tenant
            }
            _ => true,
        }
    }

    /// Is this the organisation that signed?
    #[must_use]
    pub fn speaks_for(&self, org: &str) -> bool {
        match self {
            Self::Operator => true,
            Self::Member(identity, _) => identity.role() == "operator" || identity.org == org,
        }
    }

    /// May this caller call that?
    pub fn may(&self, operation: &Operation) -> Result<(), Problem> {
        let role = self.role();
        let reads = operation.verb == Verb::Get;
        let allowed = match operation.access {
            Access::Member => !role.is_empty(),
            Access::Tenant => self.sees_all() || role == "tenant",
            Access::Provider => matches!(role, "provider" | "operator"),
            Access::Operator => role == "operator" || reads && self.sees_all(),
        };
        if allowed {
            return Ok(());
        }
        let detail = format!("`{}` (role `{role}`) may not call `{}`", self.name(), operation.id);
        Err(Problem::new(403, "FORBIDDEN", "Not allowed", detail).hint(operation.access.sentence()))
    }
}

fn refused(why: String) -> Problem {
    Problem::new(403, "CERTIFICATE", "The certificate is not accepted", why)
        .hint("present a valid certificate of an organisation that the ledger knows now")
}

#[cfg(test)]
mod tests {
    use trust::{
        Signer, TrustRoots,
        identity::OrgRoot,
        issue::{ca, member},
    };

    use super::{super::catalogue::*, *};

    const END: UnixTime = UnixTime(2_000_000_000);

    fn caller(role: &str, tenant: &str) -> Caller {
        let authority = ca("acme", &[1; 32], UnixTime(0), END).unwrap();
        let mut attrs = std::collections::BTreeMap::new();
        for (name, value) in [("mandate.role", role), ("mandate.tenant", tenant)] {
            if !value.is_empty() {
                attrs.insert(name.to_owned(), value.to_owned());
            }
        }
        let issued = member(&authority, "m", attrs, &[2; 32], &[1], (UnixTime(0), END)).unwrap();
        let signer = Signer::from_pem(&issued.key_pem, &issued.certificate_pem).unwrap();
        let root = OrgRoot { ca: vec![authority.certificate_pem], ..OrgRoot::default() };
        let roots = TrustRoots { orgs: [("acme".to_owned(), root)].into(), logs: vec![], channel: None };
        let der = signer.certificate();
        Caller::Member(Box::new(roots.verify(der, UnixTime(5)).unwrap()), der.into())
    }

    #[test]
    fn roles_decide_what_may_be_called_and_seen() {
        // role, calls: member, tenant's, put a package, operator's read, operator's change
        for (role, expected) in [
            ("operator", [true, true, true, true, true]),
            ("auditor", [true, true, false, true, false]),
            ("tenant", [true, true, false, false, false]),
            ("provider", [true, false, true, false, false]),
            ("", [false, false, false, false, false]),
        ] {
            let it = caller(role, "acme");
            let may = [POLICY, SERVICES, PUT_PACKAGE, SITES, DELIVER].map(|o| it.may(&o).is_ok());
            assert_eq!(may, expected, "{role}");
            for direction in [RETRY, ROLLBACK, FAIL] {
                assert_eq!(it.may(&direction).is_ok(), role == "operator", "{role}: {}", direction.id);
            }
        }
        let tenant = caller("tenant", "acme");
        assert!(tenant.sees("acme") && !tenant.sees("other") && !tenant.sees(""));
        assert!(!caller("provider", "acme").sees("acme"));
        assert!(caller("auditor", "").sees("other"));
        assert!(tenant.speaks_for("acme") && !tenant.speaks_for("other"));
        assert!(!caller("tenant", "").sees(""), "no tenant is not a tenant of that name");
    }
}
