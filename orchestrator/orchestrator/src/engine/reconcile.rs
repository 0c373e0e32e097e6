//! Drift: looks at every site in turn, compares with what should be there, and mitigates within what was granted.
//!
//! One look is one observation of every site at once. A service that an operation worked on at any moment of the look is
//! left out of it. What is found leads to one of four decisions, each on record with who, what and why: *repair*, as
//! an intent of our own under a standing grant ([`super::guard`]); *hold*, until cool-down or budget allow it; *propose*
//! an intent for the tenant to sign; or nothing, when what was wrong is right again. What may be something else than
//! what was approved is cut off, not repaired.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lcm::drift::{self, Desired, Difference};
use ledger_contract::{
    Intent, IntentKind,
    intent::{API_VERSION, Heal, INTENT_PAYLOAD, Isolate, StandingUse},
    records::StandingGrant,
};
use tokio::sync::watch;
use trust::{Envelope, UnixTime};
use vim::{Inventory, Scope};

use super::{
    Engine, EngineError,
    guard::{self, Case, Done, Leave},
    now, now_ms,
    service::journal_problem,
};
use crate::{
    journal::{JournalError, Mitigation, Proposal, ServiceRow},
    problem::Problem,
    views::{MAX_MITIGATIONS, NsDriftView},
};

/// How long an intent of ours waits for its decision, s.
const INTENT_VALID_S: u64 = 600;
/// Capture before an isolation of ours, ms.
const CAPTURE_MS: u32 = 1000;
/// Mitigations of a service that its guard looks back at: a day, or the longest window of a grant if that is longer.
const HISTORY_S: u64 = 24 * 3600;
/// Least time between two looks that were called for by a VIM, ms: a flapping instance must not keep us busy.
const LEAST_PAUSE_MS: u64 = 500;

/// What one look found.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    /// When, ms; 0: there was none yet.
    pub at_ms: u64,
    /// How long it took, ms.
    pub took_ms: u64,
    /// Services that were compared.
    pub services: usize,
    /// Sites that could not be observed, and why.
    pub unseen: BTreeMap<String, String>,
    /// Every difference, by NS instance.
    pub findings: BTreeMap<String, Vec<Difference>>,
}

/// What is to be done about a service.
struct Wrong {
    row: ServiceRow,
    action: &'static str,
    findings: Vec<Difference>,
    reason: String,
}

impl Engine {
    /// Looks every interval, or when a VIM says that something changed, until `stop`.
    pub(super) async fn reconcile(
        self: Arc<Self>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), EngineError> {
        let interval = Duration::from_secs(self.config.drift.interval_s);
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        loop {
            let told = tokio::select! {
                biased;
                _ = stop.wait_for(|s| *s) => return Ok(()),
                () = tokio::time::sleep(interval) => false,
                () = self.something_changed(&mut seen) => true,
            };
            if told {
                tokio::time::sleep(Duration::from_millis(LEAST_PAUSE_MS)).await;
            }
            let look = self.look().await;
            self.looked.send_replace(look.clone());
            self.mitigate(&look).await?;
            self.changed();
        }
    }

    async fn something_changed(&self, seen: &mut BTreeMap<String, u64>) {
        let waits = self.sites.iter().map(|(name, site)| {
            let after = seen.get(name).copied().unwrap_or_default();
            Box::pin(async move { (name.clone(), site.vim.changed(after).await.count) })
        });
        let ((site, count), ..) = futures::future::select_all(waits).await;
        seen.insert(site, count);
    }

    /// Observes every site at once and compares.
    pub(super) async fn look(&self) -> Look {
        let began = now_ms();
        let (before, _) = self.read().desired();
        let observed = self
            .sites
            .iter()
            .map(|(name, site)| async move { (name.clone(), site.vim.observe(&Scope::All).await) });
        let (mut seen, mut unseen) = (BTreeMap::<String, Inventory>::new(), BTreeMap::new());
        for (site, inventory) in futures::future::join_all(observed).await {
            match inventory {
                Ok(inventory) => drop(seen.insert(site, inventory)),
                Err(e) => drop(unseen.insert(site, e.to_string())),
            }
        }
        let (after, mut busy) = self.read().desired();
        // What an operation changed since we began was not the same all the time.
        let same = |ns: &String, d: &Arc<Desired>| before.get(ns).is_some_and(|b| Arc::ptr_eq(b, d));
        busy.extend(after.iter().filter(|(ns, d)| !same(ns, d)).map(|(ns, _)| ns.clone()));
        busy.extend(before.keys().filter(|ns| !after.contains_key(*ns)).cloned());
        let findings = drift::compare(after.values().map(|d| &**d), &seen, &busy);
        let took_ms = now_ms().saturating_sub(began);
        Look { at_ms: now_ms(), took_ms, services: after.len(), unseen, findings }
    }

    async fn mitigate(self: &Arc<Self>, look: &Look) -> Result<(), EngineError> {
        let mut wrong = self.what_is_wrong(look);
        let named: BTreeSet<String> = wrong.iter().map(|w| w.row.id.clone()).collect();
        for (ns, _) in self.journal.proposals()? {
            if !named.contains(&ns) && !self.read().is_busy(&ns) {
                self.journal.propose(&ns, None)?;
            }
        }
        // In the order of their names, so that a restart does not change who comes first under a common budget.
        wrong.sort_by(|a, b| a.row.id.cmp(&b.row.id));
        for case in wrong {
            self.mitigate_one(case).await?;
        }
        Ok(())
    }

    /// Services with findings, or whose lease has ended.
    fn what_is_wrong(&self, look: &Look) -> Vec<Wrong> {
        let book = self.read();
        let mut out = Vec::new();
        for row in book.services().filter(|r| r.state == "INSTANTIATED" && !book.is_busy(&r.id)) {
            let findings = look.findings.get(&row.id).cloned().unwrap_or_default();
            let ended = row.lease_until.filter(|end| *end < now());
            let (action, reason) = match (ended, findings.first()) {
                (Some(end), _) => ("terminate", format!("its lease ended at {end}")),
                (None, None) => continue,
                (None, Some(first)) => {
                    let suspicious = findings.iter().find(|f| f.deviation.suspicious());
                    let f = suspicious.unwrap_or(first);
                    let more = match findings.len() {
                        1 => String::new(),
                        n => format!(" ({} more)", n - 1),
                    };
                    let action = if suspicious.is_some() { "isolate" } else { "heal" };
                    (action, format!("{} at {}: {}: {}{more}", f.key, f.site, f.deviation.code(), f.detail))
                }
            };
            out.push(Wrong { row: row.clone(), action, findings, reason });
        }
        out
    }

    async fn mitigate_one(self: &Arc<Self>, case: Wrong) -> Result<(), EngineError> {
        let (grants, before) = self.guarded(&case.row.id)?;
        let objects = case.findings.iter().map(|f| f.key.to_string()).collect();
        let asked = Case {
            tenant: &case.row.tenant,
            service: &case.row.service,
            action: case.action,
            objects: &objects,
            now: now(),
        };
        let answer = guard::leave(&asked, &grants, &history(&before));
        tracing::warn!(ns = case.row.id, reason = case.reason, ?answer, "drift");
        match answer {
            Leave::Repair(grant) => self.repair(case, &grant).await,
            Leave::Later(until, why) => {
                let reason = format!("{}; not before {until}: {why}", case.reason);
                self.leave_on_record(&before, &case, "HOLD", None, None, reason)
            }
            Leave::Propose(code, why) => self.propose(&before, case, code, why),
        }
    }

    /// Standing grants, and what was done about a service as far back as they look.
    fn guarded(&self, ns: &str) -> Result<(Vec<StandingGrant>, Vec<Mitigation>), JournalError> {
        let grants: Vec<_> = self.journal.standing()?.into_iter().map(|s| s.grant).collect();
        let back = grants.iter().map(|g| g.window_s).max().unwrap_or_default().max(HISTORY_S);
        let from_ms = now_ms().saturating_sub(back.saturating_mul(1000));
        Ok((grants, self.journal.mitigations(Some(ns), from_ms)?))
    }

    /// Drift of one service, what was done about it, and what may be done about it without asking.
    pub(super) fn drift_of(&self, row: ServiceRow) -> Result<NsDriftView, Problem> {
        let (grants, lately) = self.guarded(&row.id).map_err(journal_problem)?;
        let mut mitigations = self.journal.mitigations(Some(&row.id), 0).map_err(journal_problem)?;
        let proposals = self.journal.proposals().map_err(journal_problem)?;
        let (at_ms, findings) = {
            let look = self.looked.borrow();
            (look.at_ms, look.findings.get(&row.id).cloned().unwrap_or_default())
        };
        let history = history(&lately);
        Ok(NsDriftView {
            at_ms,
            findings,
            proposal: proposals.into_iter().find(|(ns, _)| *ns == row.id).map(|(_, p)| p),
            mitigations: mitigations.split_off(mitigations.len().saturating_sub(MAX_MITIGATIONS)),
            grants: guard::left(&row.tenant, &row.service, now(), &grants, &history),
            flaps: guard::flaps(now(), &history),
            ns_instance_id: row.id,
            tenant: row.tenant,
            service: row.service,
        })
    }

    /// Signs an intent under the standing grant and submits it, or begins without the ledger when that is down.
    async fn repair(self: &Arc<Self>, case: Wrong, grant: &str) -> Result<(), EngineError> {
        let mut intent = self.intent(&case)?;
        intent.standing =
            Some(StandingUse { grant: grant.to_owned(), observed_at: now(), reason: shorten(&case.reason) });
        let payload = serde_json::to_vec(&intent).map_err(|e| EngineError::Encode(e.to_string()))?;
        let request = Envelope::sign(INTENT_PAYLOAD, payload, &[&self.signer])
            .map_err(|e| EngineError::Encode(e.to_string()))?;
        let id = Some(intent.id.clone());
        match self.ledger.submit(request.clone()).await {
            Ok(committed) if committed.entry.verdict.approved => {
                self.leave_on_record(&[], &case, "REPAIR", Some(grant), id, case.reason.clone())
            }
            Ok(committed) => {
                let verdict = &committed.entry.verdict;
                let why = format!("the ledger refuses it ({}): {}", verdict.code(), verdict.detail());
                self.propose(&[], case, "REFUSED", why)
            }
            Err(error) if error.retryable() => {
                let reason = format!("{}; the ledger does not answer ({error})", case.reason);
                if !self.begin_standing(&intent, request, grant, &case.row.id)? {
                    let why = "no grant of what runs, or none to act by itself, is on record here".to_owned();
                    return self.propose(&[], case, "REFUSED", why);
                }
                // Each one counts, also of the same finding: by this record alone the guard knows of it.
                self.leave_on_record(&[], &case, "REPAIR", Some(grant), id, reason)
            }
            Err(error) => self.propose(&[], case, "REFUSED", error.to_string()),
        }
    }

    fn propose(
        &self,
        before: &[Mitigation],
        case: Wrong,
        code: &str,
        why: String,
    ) -> Result<(), EngineError> {
        let known = self.journal.proposals()?;
        let same = |p: &Proposal| p.code == code && p.findings == case.findings;
        if known.iter().any(|(ns, p)| *ns == case.row.id && same(p)) {
            return Ok(());
        }
        let reason = format!("{}; {why}", case.reason);
        let proposal = Proposal {
            at_ms: now_ms(),
            code: code.to_owned(),
            reason: reason.clone(),
            findings: case.findings.clone(),
            intent: self.intent(&case)?,
        };
        self.journal.propose(&case.row.id, Some(&proposal))?;
        let id = Some(proposal.intent.id);
        self.leave_on_record(before, &case, "PROPOSE", None, id, reason)
    }

    fn intent(&self, case: &Wrong) -> Result<Intent, EngineError> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| EngineError::Encode(format!("no randomness: {e}")))?;
        let reason = shorten(&case.reason);
        let action = match case.action {
            "isolate" => IntentKind::Isolate(Isolate { targets: Vec::new(), capture_ms: CAPTURE_MS, reason }),
            "terminate" => IntentKind::Terminate {},
            _ => IntentKind::Heal(Heal { targets: Vec::new(), cause: reason }),
        };
        Ok(Intent {
            api_version: API_VERSION.into(),
            id: format!("auto-{}-{}", action.name(), hex::encode(random)),
            tenant: case.row.tenant.clone(),
            service: case.row.service.clone(),
            not_after: now().plus(INTENT_VALID_S),
            depends_on: Vec::new(),
            emergency: None,
            standing: None,
            action,
        })
    }

    /// Who, what, why. The same decision about the same findings is on record once.
    fn leave_on_record(
        &self,
        before: &[Mitigation],
        case: &Wrong,
        decision: &str,
        grant: Option<&str>,
        intent_id: Option<String>,
        reason: String,
    ) -> Result<(), EngineError> {
        let same = |m: &Mitigation| m.decision == decision && m.findings == case.findings;
        if before.last().is_some_and(same) {
            return Ok(());
        }
        self.journal.mitigated(&Mitigation {
            at_ms: now_ms(),
            ns: case.row.id.clone(),
            tenant: case.row.tenant.clone(),
            service: case.row.service.clone(),
            who: format!("{}/orchestrator", self.config.operator),
            action: case.action.to_owned(),
            decision: decision.to_owned(),
            grant: grant.map(str::to_owned),
            intent_id,
            reason,
            findings: case.findings.clone(),
        })?;
        self.changed();
        Ok(())
    }
}

fn history(before: &[Mitigation]) -> Vec<Done> {
    let repaired = before.iter().filter(|m| m.decision == "REPAIR");
    repaired
        .map(|m| Done {
            at: UnixTime(m.at_ms / 1000),
            grant: m.grant.clone().unwrap_or_default(),
            objects: m.objects(),
        })
        .collect()
}

/// A reason that fits into an intent.
fn shorten(text: &str) -> String {
    let most = ledger_contract::intent::MAX_REASON_BYTES;
    match text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= most).last() {
        Some(end) if end < text.len() => text[..end].to_owned(),
        _ => text.to_owned(),
    }
}
