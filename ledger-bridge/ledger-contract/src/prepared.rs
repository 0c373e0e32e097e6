//! A request, read once: all that its bytes alone say.
//!
//! Decisions are made one after the other, each over the state that the one before left. What needs no state is half of
//! their work, and can be done before, for many requests at once: reading ([`Prepared::read`]) and checking the signatures
//! against the keys in their own certificates ([`Prepared::check_signatures`]). Whose certificates those are, and whether
//! they count, the decision finds out; with a prepared request and with a bare envelope it gives the same bytes.
//! Never: anything that depends on state or time. Tests: below, and `tests/remembered.rs`.

use std::cell::RefCell;

use trust::{
    Digest, Envelope, Identity, TrustRoots, UnixTime,
    dsse::{DsseError, verify_bytes},
    identity::{self, IdentityError},
};

use crate::{
    memo::{Memo, remembered},
    request::{Malformed, Request},
    state::org_key,
};

/// Certificates that a thread remembers to have verified: those of who asked within a second, mostly the same.
const MAX_MEMBERS: usize = 256;

thread_local! {
    static MEMBERS: RefCell<Memo<Result<Identity, IdentityError>>> = RefCell::new(Memo::new(MAX_MEMBERS));
}

/// Does a signature fit? `None`: nobody has looked.
type Fits = Option<Result<(), &'static str>>;

/// A request that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    envelope: Envelope,
    request: Request,
    orgs: Vec<String>,
    fits: Vec<Fits>,
}

impl Prepared {
    /// Reads an envelope; says nothing about its signatures.
    pub fn read(envelope: Envelope) -> Result<Self, Malformed> {
        let request = Request::parse(&envelope)?;
        let orgs = signing_orgs(&envelope);
        let fits = vec![None; envelope.signatures.len()];
        Ok(Self { envelope, request, orgs, fits })
    }

    /// Checks each signature against the key of the certificate that it brings along. Optional; the decision does what
    /// was not done.
    pub fn check_signatures(&mut self) {
        let message = self.envelope.signed_bytes();
        let check = |s: &trust::dsse::Signature| {
            let key = identity::public_key(&s.certificate).ok()?;
            Some(verify_bytes(&key, &message, &s.sig))
        };
        self.fits = self.envelope.signatures.iter().map(check).collect();
    }

    /// What was read.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// What was read.
    #[must_use]
    pub fn into_envelope(self) -> Envelope {
        self.envelope
    }

    /// What it asks for.
    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    /// State keys of the organisations that claim to have signed.
    pub(crate) fn orgs(&self) -> &[String] {
        &self.orgs
    }

    /// Everybody who signed, as [`Envelope::verify`] finds them; `digest` is of what `roots` were read from.
    pub(crate) fn verify(
        &self,
        roots: &TrustRoots,
        digest: &Digest,
        at: UnixTime,
    ) -> Result<Vec<Identity>, DsseError> {
        if self.envelope.signatures.is_empty() {
            return Err(DsseError::SignatureCount(0));
        }
        let mut signers = Vec::with_capacity(self.fits.len());
        for (index, (s, fits)) in self.envelope.signatures.iter().zip(&self.fits).enumerate() {
            let key = Digest::of_parts([&digest.0[..], &at.0.to_be_bytes(), &s.certificate]);
            let who = remembered(|f| MEMBERS.with_borrow_mut(f), &key, || roots.verify(&s.certificate, at))
                .map_err(|source| DsseError::Identity { index, source })?;
            let look = || verify_bytes(&who.key, &self.envelope.signed_bytes(), &s.sig);
            fits.unwrap_or_else(look).map_err(|reason| DsseError::BadSignature { index, reason })?;
            signers.push(who);
        }
        Ok(signers)
    }
}

/// State keys of those who claim to have signed. A certificate that cannot be read names no organisation; the decision
/// refuses it.
pub(crate) fn signing_orgs(envelope: &Envelope) -> Vec<String> {
    let claimed = envelope.signatures.iter().filter_map(|s| identity::claimed(&s.certificate).ok());
    claimed.map(|(org, _)| org_key(&org)).collect()
}
