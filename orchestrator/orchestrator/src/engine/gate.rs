//! The engine as what the gate inside OpenStack asks: what runs now, and the record of what was refused.
//!
//! The answer comes from memory, and neither the book nor the journal is waited for. Tests:
//! `tests/engine/gate.rs`, `tests/remote_policy.rs`.

use std::sync::{Arc, PoisonError};

use lcm::drift::Difference;

use super::Engine;
use crate::remote_policy::{
    RefusedCall, Source,
    refusals::Counted,
    running::{Effect, Open, Running, RunningOperation},
};

impl Source for Engine {
    fn running(&self) -> Arc<Running> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, refused: &[(RefusedCall, Counted)]) -> Result<Vec<RefusedCall>, String> {
        let new = self.journal.keep_refused(refused).map_err(|e| e.to_string())?;
        self.changed();
        Ok(new)
    }
}

/// The removal of a stray, as long as it lasts.
pub(super) struct Cleaning<'e> {
    engine: &'e Engine,
    id: String,
}

impl Drop for Cleaning<'_> {
    fn drop(&mut self) {
        self.engine.write().runs(&self.id, None);
    }
}

impl Engine {
    /// Has the removal of a stray pass: it is no operation, but somebody's word that is on record.
    pub(super) fn cleaning(&self, stray: &Difference) -> Cleaning<'_> {
        let id = format!("cleaning {}@{}", stray.key, stray.site);
        let open = Open {
            site: stray.site.clone(),
            key: stray.key.clone(),
            kind: stray.kind,
            effect: Effect::Remove,
        };
        let running = RunningOperation {
            id: id.clone(),
            ns_instance_id: stray.key.service().to_owned(),
            open: vec![open],
            objects: [(stray.site.clone(), stray.key.clone())].into(),
            ..RunningOperation::default()
        };
        self.write().runs(&id, Some(running));
        Cleaning { engine: self, id }
    }
}
