//! The attestation key: a restricted P-256 signing key, numbered by generation.
//!
//! Every generation is a primary key in the owner hierarchy, derived from the TPM's seed and the generation's number:
//! nothing secret is stored anywhere, and the same number gives the same key until the owner hierarchy is cleared.
//! The current generation is the one at a persistent handle, [`FIRST_HANDLE`] + generation; rotating makes the next
//! one persistent and takes the old one away, in this order, so that a crash between the two leaves both and the
//! higher counts. An old key quotes only when it is asked for by its generation; what makes it worthless is that the
//! verifier no longer registers it. Tests are in `tests/lifecycle/`.

use trust::Digest;

use crate::tpm::{Key, SignedQuote, Tpm, TpmError};

/// First persistent handle of ours, inside the owner's range (81000000 to 817fffff, TPM 2.0 handle registry).
pub const FIRST_HANDLE: u32 = 0x8100_d000;
/// Last generation: one rotation a week for 78 years.
pub const MAX_GENERATION: u32 = 0xfff;

/// The key of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestationKey {
    /// Counted from 0.
    pub generation: u32,
    /// The key.
    pub key: Key,
}

/// The current key; made when there is none.
pub fn load_or_create(tpm: &mut Tpm) -> Result<AttestationKey, TpmError> {
    match current(tpm)? {
        Some(generation) => load(tpm, generation),
        None => make(tpm, 0),
    }
}

/// Makes the next generation the current one; the first when there is none.
pub fn rotate(tpm: &mut Tpm) -> Result<AttestationKey, TpmError> {
    match current(tpm)? {
        Some(generation) => make(tpm, generation + 1),
        None => make(tpm, 0),
    }
}

/// Quotes with the current key, or with that of a generation. Returns the key's public half too.
pub fn quote(
    tpm: &mut Tpm,
    generation: Option<u32>,
    pcr: u8,
    qualifying: &Digest,
) -> Result<(SignedQuote, String), TpmError> {
    let now = current(tpm)?.ok_or(TpmError::NoKey)?;
    if generation.is_none_or(|wanted| wanted == now) {
        let key = load(tpm, now)?.key;
        return Ok((tpm.quote(key.handle, pcr, qualifying)?, key.public_key));
    }
    let wanted = generation.filter(|g| *g < now).ok_or(TpmError::Generation(generation.unwrap_or(now)))?;
    let key = tpm.create_primary(&unique(wanted))?;
    let quote = tpm.quote(key.handle, pcr, qualifying);
    tpm.flush(key.handle)?;
    Ok((quote?, key.public_key))
}

/// Ours among the persistent handles, ascending.
fn persistent(tpm: &mut Tpm) -> Result<Vec<u32>, TpmError> {
    let ours = FIRST_HANDLE..=FIRST_HANDLE + MAX_GENERATION;
    Ok(tpm.handles(FIRST_HANDLE)?.into_iter().filter(|h| ours.contains(h)).collect())
}

fn current(tpm: &mut Tpm) -> Result<Option<u32>, TpmError> {
    Ok(persistent(tpm)?.last().map(|h| h - FIRST_HANDLE))
}

fn load(tpm: &mut Tpm, generation: u32) -> Result<AttestationKey, TpmError> {
    Ok(AttestationKey { generation, key: tpm.read_public(FIRST_HANDLE + generation)? })
}

fn make(tpm: &mut Tpm, generation: u32) -> Result<AttestationKey, TpmError> {
    if generation > MAX_GENERATION {
        return Err(TpmError::Generation(generation));
    }
    let before = persistent(tpm)?;
    let made = tpm.create_primary(&unique(generation))?;
    let kept = tpm.evict_control(made.handle, FIRST_HANDLE + generation);
    tpm.flush(made.handle)?;
    kept?;
    for old in before {
        tpm.evict_control(old, old)?;
    }
    load(tpm, generation)
}

/// What sets a generation's derivation apart.
fn unique(generation: u32) -> Digest {
    Digest::of(format!("mandate attestation key {generation}"))
}
