//! `quote` and `ak`: what leaves the machine. It judges nothing that the verifier judges; tests are in
//! `tests/lifecycle/`.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use attestation::{Claim, Evidence, appraise::MAX_CLAIMS_BYTES};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use trust::Digest;

use crate::{
    ak,
    cli::{Ak, Quote},
    error::Error,
    eventlog::{EventLog, peek_baseline},
    launch::tell,
    tpm::Tpm,
};

/// What an operator registers for a site; site and validity are the operator's to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AkReport {
    /// SubjectPublicKeyInfo, DER, base64.
    pub public_key: String,
    /// The PCR.
    pub pcr: u8,
    /// Its value before the first measurement.
    pub pcr_baseline: Digest,
    /// Generation of the key.
    pub generation: u32,
}

/// Takes a quote under the log's lock, so that log and PCR agree.
pub fn quote(args: &Quote) -> Result<Evidence, Error> {
    let claims = read_claims(&args.claims)?;
    let (log, mut tpm) = EventLog::open(&args.site.log, args.site.pcr, &args.site.tpm)?;
    tell(&log.recovered);
    if let Err(mismatch) = log.check() {
        eprintln!("mandate-launcher: {mismatch}. Quoted all the same: the verifier decides");
    }
    let qualifying = Evidence::qualifying_data(&args.nonce, &claims);
    let (quote, public_key) = ak::quote(&mut tpm, args.ak_generation, args.site.pcr, &qualifying)?;
    Ok(Evidence {
        attest: STANDARD.encode(&quote.attest),
        signature: quote.signature,
        ak: public_key,
        pcr: args.site.pcr,
        pcr_baseline: log.baseline(),
        log: log.into_lines(),
        claims,
    })
}

/// Loads, makes or rotates the attestation key.
pub fn attestation_key(args: &Ak) -> Result<AkReport, Error> {
    let mut tpm = Tpm::open(&args.tpm)?;
    let made = if args.rotate { ak::rotate(&mut tpm)? } else { ak::load_or_create(&mut tpm)? };
    let pcr_baseline = baseline(args, &mut tpm)?;
    let (pcr, public_key, generation) = (args.pcr, made.key.public_key, made.generation);
    Ok(AkReport { public_key, pcr, pcr_baseline, generation })
}

fn baseline(args: &Ak, tpm: &mut Tpm) -> Result<Digest, Error> {
    let reset_count = tpm.reset_count()?;
    if let Some(path) = &args.log
        && let Some(baseline) = peek_baseline(path, args.pcr, reset_count)?
    {
        return Ok(baseline);
    }
    Ok(tpm.pcr_read(args.pcr)?)
}

/// The exact bytes; a document that the verifier would refuse is refused here, where it can be mended.
fn read_claims(path: &Path) -> Result<String, Error> {
    let file = |source| Error::File { what: "claims", path: path.into(), source };
    let input: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).map_err(file)?),
    };
    let mut text = String::new();
    input.take(MAX_CLAIMS_BYTES as u64 + 1).read_to_string(&mut text).map_err(file)?;
    let problem = match serde_json::from_str::<Vec<Claim>>(&text) {
        _ if text.len() > MAX_CLAIMS_BYTES => format!("more than {MAX_CLAIMS_BYTES} bytes"),
        Ok(_) => return Ok(text),
        Err(e) => e.to_string(),
    };
    Err(Error::Claims { path: path.into(), problem })
}
