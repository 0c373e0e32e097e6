//! The checkpoint that was verified last on this machine: a ledger that shows an older or another one is noticed.
//!
//! Kept per log in the home directory, `verified/`; whoever removes it forgets. A home that cannot be written to
//! remembers nothing, and says so once.

use std::path::PathBuf;

use trust::{
    Digest, TrustRoots,
    continuity::{Discontinuity, continues},
    note::Checkpoint,
};

use super::super::{context::Context, failure::Failure, files, proof};
use crate::{
    client::{Client, ClientError},
    views::ConsistencyView,
};

/// Largest checkpoint read, bytes: 64 signatures of 200 bytes and some.
const MAX_NOTE_BYTES: u64 = 64 << 10;

fn path(context: &Context, origin: &str) -> PathBuf {
    let name = Digest::of(origin).hex();
    context.home.path().join("verified").join(format!("{}.checkpoint", &name[..16]))
}

fn gone_back(error: &Discontinuity) -> Failure {
    Failure::refused(error.code(), "This is not the ledger that was verified before", error).hint(
        "ask its operator which copy is genuine, and restore that (`mandate ledger restore`); \
         what was verified before is in the directory `verified` of this home",
    )
}

/// Fetches the newest checkpoint, verified, and held against the one before; remembers it.
pub async fn head(
    context: &Context,
    client: &Client,
    roots: &TrustRoots,
) -> Result<(String, Checkpoint), Failure> {
    let newest = client.ledger_head().await.map_err(|e| context.client_failure(e))?;
    let head = proof::checkpoint(roots, &newest)?;
    let file = path(context, &head.origin);
    let known = match file.exists() {
        true => Some(proof::checkpoint(roots, &files::text(&file, MAX_NOTE_BYTES)?)?),
        false => None,
    };
    let (note, head) = match known {
        Some(known) => continued(context, client, roots, &known, newest, head).await?,
        None => (newest, head),
    };
    remember(context, &file, &note);
    Ok((note, head))
}

async fn continued(
    context: &Context,
    client: &Client,
    roots: &TrustRoots,
    known: &Checkpoint,
    newest: String,
    head: Checkpoint,
) -> Result<(String, Checkpoint), Failure> {
    if head.size <= known.size {
        continues(known, &head, &[]).map_err(|e| gone_back(&e))?;
        return Ok((newest, head));
    }
    let found: Result<ConsistencyView, ClientError> = client.ledger_consistency(known.size).await;
    let found = found.map_err(|e| context.client_failure(e))?;
    let head = proof::checkpoint(roots, &found.checkpoint)?;
    continues(known, &head, &found.proof).map_err(|e| gone_back(&e))?;
    Ok((found.checkpoint, head))
}

fn remember(context: &Context, file: &std::path::Path, note: &str) {
    let made = file.parent().map_or(Ok(()), std::fs::create_dir_all);
    if made.is_err() || files::write(file, note.as_bytes()).is_err() {
        context.ui.note(&format!("{} cannot be written: this checkpoint is not remembered", file.display()));
    }
}
