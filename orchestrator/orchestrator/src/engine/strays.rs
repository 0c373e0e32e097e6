//! Strays: what carries our mark at a site and belongs to no service, and its removal by a person's word.
//!
//! Only what one look of this moment shows to be of no service is removed, by its key, through the site's VIM: never what
//! a service wants, an operation is working on, or is broken, and never what does not carry our mark (a VIM does not show
//! that). Who, what and why is journaled before anything goes, and what became of it after. Tests:
//! `tests/engine/strays.rs`.

use std::{collections::BTreeSet, time::Duration};

use lcm::drift::Difference;
use vim::Kind;

use super::{Engine, now_ms, service::journal_problem};
use crate::{
    journal::Mitigation,
    problem::Problem,
    views::{Cleaned, CleaningView, MAX_CLEANED, StraysView},
};

/// Action of a [`Mitigation`] that is a cleaning.
const CLEAN: &str = "clean";
/// Former cleanings that are shown.
const SHOWN: usize = 20;

impl Engine {
    /// One look at every site: what belongs to no service.
    pub(super) async fn find_strays(&self) -> Result<StraysView, Problem> {
        let look = self.look().await;
        let (desired, busy) = self.read().desired();
        let of_nobody =
            |ns: &String| !desired.contains_key(ns) && !busy.contains(ns) && !self.read().is_busy(ns);
        let found = look.findings.into_iter().filter(|(ns, _)| of_nobody(ns)).flat_map(|(_, f)| f);
        let mut cleaned = self.journal.mitigations(None, 0).map_err(journal_problem)?;
        cleaned.retain(|m| m.action == CLEAN);
        let cleaned = cleaned.split_off(cleaned.len().saturating_sub(SHOWN));
        Ok(StraysView { strays: found.collect(), unseen: look.unseen, cleaned })
    }

    /// Removes strays: instances first, then links, then images. No plan is made meanwhile.
    pub(super) async fn remove_strays(
        &self,
        by: &str,
        asked: &CleaningView,
    ) -> Result<Vec<Cleaned>, Problem> {
        if asked.keys.is_empty() || asked.keys.len() > MAX_CLEANED {
            let detail = format!("name 1 to {MAX_CLEANED} keys");
            return Err(
                Problem::new(422, "KEYS", "Nothing was removed", detail).hint("see `mandate site strays`")
            );
        }
        let _alone = self.planning.lock().await;
        let found = self.find_strays().await?.strays;
        let wanted: BTreeSet<&str> = asked.keys.iter().map(String::as_str).collect();
        let named =
            |d: &Difference, key: &str| key == d.key.as_str() || key == format!("{}@{}", d.key, d.site);
        if let Some(other) = wanted.iter().find(|key| !found.iter().any(|d| named(d, key))) {
            let detail =
                format!("`{other}` is no stray: it is not there, it belongs to a service, or it is not ours");
            return Err(Problem::new(409, "NOT_A_STRAY", "Nothing was removed", detail)
                .hint("see `mandate site strays`; a service is ended with `mandate intent new terminate`"));
        }
        let mut going: Vec<Difference> =
            found.into_iter().filter(|d| wanted.iter().any(|key| named(d, key))).collect();
        going.sort_by_key(|d| (order(d.kind), d.site.clone(), d.key.clone()));
        going.dedup_by(|a, b| (&a.site, &a.key, a.kind) == (&b.site, &b.key, b.kind));
        let mut cleaned = Vec::with_capacity(going.len());
        for stray in going {
            self.on_record(by, "REMOVE", &asked.reason, &stray)?;
            let problem = self.remove_stray(&stray).await.err();
            let (decision, reason) = match &problem {
                None => ("REMOVED", asked.reason.clone()),
                Some(problem) => ("FAILED", format!("{}: {problem}", asked.reason)),
            };
            self.on_record(by, decision, &reason, &stray)?;
            cleaned.push(Cleaned { site: stray.site, key: stray.key.to_string(), problem });
        }
        Ok(cleaned)
    }

    async fn remove_stray(&self, stray: &Difference) -> Result<(), String> {
        let site = self.sites.get(&stray.site).ok_or("its site is not configured any more")?;
        let limit = Duration::from_secs(self.config.limits.step_timeout_s);
        // On record already: a gate in front of the site is to let it pass.
        let _cleaning = self.cleaning(stray);
        match tokio::time::timeout(limit, site.vim.remove(&stray.key, stray.kind)).await {
            Ok(removed) => removed.map_err(|e| format!("{}: {}", e.code, e.reason)),
            Err(_) => Err(format!("TIMEOUT: it took longer than {} s", limit.as_secs())),
        }
    }

    fn on_record(&self, by: &str, decision: &str, reason: &str, stray: &Difference) -> Result<(), Problem> {
        tracing::info!(who = by, decision, reason, key = %stray.key, site = stray.site, "stray");
        let row = Mitigation {
            at_ms: now_ms(),
            ns: stray.key.service().to_owned(),
            tenant: String::new(),
            service: String::new(),
            who: by.to_owned(),
            action: CLEAN.to_owned(),
            decision: decision.to_owned(),
            grant: None,
            intent_id: None,
            reason: reason.to_owned(),
            findings: vec![stray.clone()],
        };
        self.journal.mitigated(&row).map_err(journal_problem)?;
        self.changed();
        Ok(())
    }
}

/// What hangs on something goes before it.
fn order(kind: Kind) -> u8 {
    match kind {
        Kind::Compute => 0,
        Kind::Network => 1,
        Kind::Image => 2,
    }
}
