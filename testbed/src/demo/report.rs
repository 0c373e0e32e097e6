//! What the demo found: every step, every refusal, the measurement, the evidence.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The outcome. Its JSON is the last line of `cargo testbed demo --json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Did all of it hold?
    pub ok: bool,
    /// In order.
    pub steps: Vec<StepResult>,
    /// What was refused, as it must be.
    pub refused: Vec<RefusedCase>,
    /// The last measurement of the first service.
    pub measurement: Value,
    /// The evidence of the first deployment.
    pub evidence: Evidence,
    /// Why it does not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A step of the demo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepResult {
    /// Stable name.
    pub name: String,
    /// Did it hold?
    pub ok: bool,
    /// How long it took, ms.
    pub ms: u64,
}

/// Something that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedCase {
    /// What was tried.
    pub case: String,
    /// The stable code of the refusal.
    pub code: String,
}

/// An evidence bundle.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// Where it is.
    pub bundle: PathBuf,
    /// Did it verify offline, with the trust roots alone?
    pub verified: bool,
}

impl Report {
    /// Steps and refusals that held.
    pub fn passed(&self) -> usize {
        self.steps.iter().filter(|s| s.ok).count() + self.refused.len()
    }

    /// Steps that did not; at least one when the demo did not hold.
    pub fn failed(&self) -> usize {
        let steps = self.steps.iter().filter(|s| !s.ok).count();
        if self.ok { steps } else { steps.max(1) }
    }

    /// Notes a refusal.
    pub fn refused(&mut self, case: &str, code: &str) {
        self.refused.push(RefusedCase { case: case.to_owned(), code: code.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_has_the_promised_shape() {
        let mut report = Report { ok: true, ..Report::default() };
        report.steps.push(StepResult { name: "init".into(), ok: true, ms: 5 });
        report.refused("forged approval", "CHECKPOINT_SIGNATURE");
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(
            json,
            r#"{"ok":true,"steps":[{"name":"init","ok":true,"ms":5}],"refused":[{"case":"forged approval","code":"CHECKPOINT_SIGNATURE"}],"measurement":null,"evidence":{"bundle":"","verified":false}}"#
        );
        assert_eq!((report.passed(), report.failed()), (2, 0));
        report.ok = false;
        assert_eq!(report.failed(), 1, "a demo that broke between two steps has failed");
    }
}
