//! How a decision looks.

use ledger_contract::records::Verdict;

use super::output::{Cell, Paint, Style, Table};
use crate::views::CommittedView;

/// Every rule with its result, and the policy that decided.
#[must_use]
pub fn render(verdict: &Verdict, style: Style) -> String {
    let mut table = Table::new(&["", "RULE", "RESULT", "DETAIL"], "no rule was evaluated");
    for rule in &verdict.rules {
        let (mark, paint) = if rule.passed { ("ok", Paint::Green) } else { ("no", Paint::Red) };
        let result = if rule.passed { "passed" } else { rule.code.as_str() };
        table.row([
            Cell::new(paint, mark),
            Cell::new(Paint::Plain, &rule.rule),
            Cell::new(paint, result),
            Cell::new(Paint::Dim, &rule.detail),
        ]);
    }
    let end = if verdict.approved {
        style.paint(Paint::Green, "approved")
    } else {
        format!("{} {}", style.paint(Paint::Red, "refused"), style.paint(Paint::Bold, verdict.code()))
    };
    format!(
        "{}\n{end} by policy {}\n",
        table.render(style),
        style.paint(Paint::Dim, &verdict.policy.to_string())
    )
}

/// The same for a request that was just decided.
#[must_use]
pub fn render_committed(what: &str, committed: &CommittedView, style: Style) -> String {
    format!(
        "{}{what}: ledger entry {} at {}\n",
        render(&committed.verdict, style),
        committed.position,
        committed.time
    )
}

#[cfg(test)]
mod tests {
    use ledger_contract::records::RuleResult;
    use trust::Digest;

    use super::*;

    #[test]
    fn a_refusal_shows_every_rule_and_its_code() {
        let rule = |name: &str, passed: bool, code: &str| RuleResult {
            rule: name.into(),
            passed,
            code: code.into(),
            detail: "16 of 8".into(),
        };
        let rules = vec![rule("authorization/role", true, ""), rule("quota/vcpus", false, "QUOTA_EXCEEDED")];
        let verdict = Verdict { approved: false, rules, policy: Digest([0; 32]) };
        let text = render(&verdict, Style { color: false, unicode: false });
        assert_eq!(
            text,
            "    RULE                RESULT          DETAIL\n\
             ok  authorization/role  passed          16 of 8\n\
             no  quota/vcpus         QUOTA_EXCEEDED  16 of 8\n\
             \n\
             refused QUOTA_EXCEEDED by policy \
             sha256:0000000000000000000000000000000000000000000000000000000000000000\n"
        );
    }
}
