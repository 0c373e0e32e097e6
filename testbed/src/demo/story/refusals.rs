//! Point 10: what must be refused, attempted for real, each with its stable code.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use trust::{Digest, merkle, note::NoteSigner};

use super::{OTHER_TENANT, Story, TENANT, service};

/// An expiry of two seconds is over: ledger time has whole seconds, and the last one still counts.
const EXPIRY: Duration = Duration::from_millis(3100);

impl Story {
    pub(super) fn approvals_refused(&mut self) -> anyhow::Result<String> {
        let expiring = Instant::now();
        let expired = self.expiring_approval()?;
        let approval = self.approval("edge-1")?;
        self.deliver("replayed approval", &approval, &["APPROVAL_REPLAYED"])?;
        let altered = self.altered(&approval)?;
        // Of a channel, no transaction has decided it; a log of the forger's own is none of a channel.
        let (bytes, own): (&[_], &[_]) = match self.network {
            None => (&["INCLUSION", "ENTRY_FORMAT"], &["CHECKPOINT_SIGNATURE"]),
            Some(_) => (&["TRANSACTION"], &["CHANNEL"]),
        };
        self.deliver("forged approval: altered bytes", &altered, bytes)?;
        let rogue = self.rogue(&altered)?;
        self.deliver("forged approval: a ledger of the forger's own", &rogue, own)?;
        thread::sleep(EXPIRY.saturating_sub(expiring.elapsed()));
        self.deliver("expired approval", &expired, &["EXPIRED"])?;
        Ok("altered, by a rogue ledger, replayed, expired".into())
    }

    fn approval(&self, name: &str) -> anyhow::Result<PathBuf> {
        let found = self.approvals.iter().find(|(n, _)| *n == name);
        Ok(found.with_context(|| format!("no approval of {name}"))?.1.clone())
    }

    fn deliver(&mut self, case: &str, file: &std::path::Path, codes: &[&str]) -> anyhow::Result<()> {
        let refusal = self.stage.mandate.refused(&["approval", "deliver", &file.display().to_string()])?;
        self.case(case, &refusal.code, codes)
    }

    fn case(&mut self, case: &str, code: &str, expected: &[&str]) -> anyhow::Result<()> {
        ensure!(
            expected.iter().any(|e| code.starts_with(e)),
            "{case}: refused with {code}, expected {expected:?}"
        );
        self.report.refused(case, code);
        Ok(())
    }

    /// Ten times the lease.
    fn altered(&self, approval: &std::path::Path) -> anyhow::Result<PathBuf> {
        let mut proven: Value = serde_json::from_slice(&fs::read(approval)?)?;
        let entry = proven["entry"].as_str().context("an approval has an entry")?;
        let altered = entry.replacen("\"not_after\":", "\"not_after\":9", 1);
        ensure!(altered != entry, "the entry has no `not_after` to alter");
        proven["entry"] = altered.into();
        let file = self.stage.path("altered.approval.json");
        fs::write(&file, serde_json::to_vec(&proven)?)?;
        Ok(file)
    }

    /// The altered entry, included in a tree and under a checkpoint of the same name, signed by another key.
    fn rogue(&self, altered: &std::path::Path) -> anyhow::Result<PathBuf> {
        let mut proven: Value = serde_json::from_slice(&fs::read(altered)?)?;
        let entry = proven["entry"].as_str().context("an approval has an entry")?;
        let ledger = serde_json::from_str::<Value>(entry)?;
        let signer =
            NoteSigner::new(ledger["ledger"].as_str().context("an entry names its ledger")?, &[0x66; 32])?;
        let position = proven["proof"]["index"].as_u64().context("a proof has an index")?;
        let mut tree = merkle::Tree::default();
        for _ in 0..position {
            tree.push(merkle::leaf_hash(b"filler"));
        }
        tree.push(merkle::leaf_hash(entry.as_bytes()));
        let path: Vec<Digest> = tree.inclusion(position, position + 1).context("the leaf is in the tree")?;
        if let Some(fields) = proven.as_object_mut() {
            fields.remove("channel");
        }
        proven["proof"]["path"] = serde_json::to_value(path)?;
        proven["proof"]["checkpoint"] = signer.sign_checkpoint(tree.size(), tree.root())?.into();
        let file = self.stage.path("rogue.approval.json");
        fs::write(&file, serde_json::to_vec(&proven)?)?;
        Ok(file)
    }

    /// An approval that is good now, and is not [`EXPIRY`] later.
    fn expiring_approval(&mut self) -> anyhow::Result<PathBuf> {
        let line = ["terminate", "--service", "edge-3", "--tenant", TENANT, "--expires-in", "2s"];
        let (id, signed) = self.intent(TENANT, &line)?;
        let (position, _) = self.submit(&signed)?;
        self.alive.retain(|s| *s != "edge-3");
        service::completed(&self.anchored(&id)?)?;
        self.export_approval("edge-3", position)?;
        self.approval("edge-3")
    }

    pub(super) fn requests_refused(&mut self) -> anyhow::Result<String> {
        let params = self.params();
        // Another tenant's member signs for acme.
        let line = self.deployment("theirs", &params, "10m");
        self.submit_refused(
            "a tenant acting for another",
            OTHER_TENANT,
            &line,
            &["TENANT_MISMATCH", "TENANT"],
        )?;
        let line = service::scale_by("edge-1", "200");
        self.submit_refused("over-quota intent", TENANT, &line, &["QUOTA"])?;
        let line = self.deployment("late", &params, "1s");
        let (_, late) = self.intent(TENANT, &line)?;
        thread::sleep(EXPIRY - Duration::from_secs(1));
        let refusal = self.stage.mandate.refused(&["intent", "submit", &late.display().to_string()])?;
        self.case("expired intent", &refusal.code, &["EXPIRED", "INTENT_EXPIRED"])?;
        self.changed_package()?;
        Ok("for another tenant, over quota, too late, one byte changed".into())
    }

    fn submit_refused(&mut self, case: &str, who: &str, line: &[&str], codes: &[&str]) -> anyhow::Result<()> {
        let (_, signed) = self.intent(who, line)?;
        let refusal = self.stage.mandate.refused(&["intent", "submit", &signed.display().to_string()])?;
        self.case(case, &refusal.code, codes)
    }

    /// One byte in the middle of a signed package.
    fn changed_package(&mut self) -> anyhow::Result<()> {
        let good = fs::read(self.stage.path("provider/vfw_vnf.tar.gz"))?;
        let changed = self.stage.path("provider/changed.tar.gz");
        let mut bytes = good;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&changed, &bytes)?;
        let line = ["package", "push", &changed.display().to_string(), "--as", "provider/provider"];
        let refusal = self.stage.mandate.refused(&line)?;
        self.report.refused("package with one byte changed", &refusal.code);
        Ok(())
    }
}
