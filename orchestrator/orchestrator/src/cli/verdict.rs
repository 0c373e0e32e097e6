//! How a decision looks.

use ledger_contract::{contract::NOT_EVALUATED, records::Verdict};

use super::output::{Cell, Paint, Style, Table};
use crate::views::CommittedView;

/// Every rule with its result, and the policy that decided.
#[must_use]
pub fn render(verdict: &Verdict, style: Style) -> String {
    let mut table = Table::new(&["", "RULE", "RESULT", "DETAIL"], "no rule was evaluated");
    let skipped = verdict.rules.iter().filter(|r| r.code == NOT_EVALUATED).count();
    for rule in verdict.rules.iter().filter(|r| r.code != NOT_EVALUATED) {
        let (mark, paint) = if rule.passed { ("ok", Paint::Green) } else { ("no", Paint::Red) };
        let result = if rule.passed { "passed" } else { rule.code.as_str() };
        table.row([
            Cell::new(paint, mark),
            Cell::new(Paint::Plain, &rule.rule),
            Cell::new(paint, result),
            Cell::new(Paint::Dim, &rule.detail),
        ]);
    }
    if skipped > 0 {
        table.row([
            Cell::new(Paint::Dim, "-"),
            Cell::new(Paint::Dim, format!("{skipped} more")),
            Cell::new(Paint::Dim, NOT_EVALUATED),
            Cell::new(Paint::Dim, "they need what did not pass"),
        ]);
    }
    let policy = style.paint(Paint::Dim, &verdict.policy.to_string());
    let end = match verdict.approved {
        true => format!("{} by policy {policy}\n", style.paint(Paint::Green, "approved")),
        false => {
            format!("{} by policy {policy}\n{}", style.paint(Paint::Red, "refused"), refusal(verdict, style))
        }
    };
    format!("{}\n{end}", table.render(style))
}

/// What did not pass, below forty lines that did, and what to do about the first of it.
fn refusal(verdict: &Verdict, style: Style) -> String {
    let failed = verdict.rules.iter().filter(|r| !r.passed && r.code != NOT_EVALUATED);
    let mut out = String::new();
    for r in failed {
        out.push_str(&format!(
            "  {}: {}\n",
            style.paint(Paint::Bold, &r.code),
            style.paint(Paint::Plain, &r.detail)
        ));
    }
    format!("{out}next: {}\n", hint(verdict.code()))
}

/// What whoever asked can do about a refusal of this code.
pub fn hint(code: &str) -> &'static str {
    match code {
        "SIGNATURES_TOO_FEW" | "ORGANISATIONS_TOO_FEW" | "SIGNER_NOT_SEPARATE" => {
            "another person co-signs the same file (mandate cosign FILE --as ORG/NAME); then submit it again"
        }
        "POLICY_SUPERSEDED" => "propose it again over the policy in force (mandate policy propose DIR)",
        "POLICY_UNCHANGED" | "REVOKED_BEFORE" => "nothing: it is so already",
        "NO_STANDING_GRANT" => "mandate standing list",
        "NO_SUCH_INTENT" => "mandate intent list",
        "OPERATION_ENDED" => {
            "ask for the opposite, for example a rollback, a scale the other way or a terminate"
        }
        "OPERATOR_LOCKED_OUT" => "leave the operator a root that knows who signs this change",
        "RULES_LOCKED_OUT" => {
            "have as many sign this change as the new rules ask for, or let the rules ask for fewer"
        }
        "PACKAGE_REVOKED" => {
            "name another version of the package: this one was taken back (mandate package list)"
        }
        "POLICY_TESTS_FAILED" => "mandate policy test DIR",
        "DIGEST_REFUSED" => "ask with another package or configuration: a rollback has left this one behind",
        "NO_SUCH_REVISION" | "REVISION_MISMATCH" => {
            "name a former revision and exactly its package and configuration"
        }
        "OUTSIDE_WINDOW" => "submit it within the window, or declare an emergency if the policy lets you",
        "BAD_SIGNATURE" => "sign it again; a signed document cannot be changed",
        c if c.starts_with("IDENTITY_") => {
            "sign as a member whose certificate the ledger accepts at this time (--as ORG/NAME)"
        }
        "ORG_NOT_ALLOWED" | "TENANT_MISMATCH" | "ROLE_NOT_ALLOWED" => {
            "sign as a member of the organisation and role that may ask for this (--as ORG/NAME)"
        }
        "EXPIRED" => "make a new one with a later end (--expires-in 1h) and sign it",
        "INTENT_ID_REUSED" | "REPLAYED" => "make a new one (`mandate intent new` gives it an id of its own)",
        "SERVICE_EXISTS" => "scale or terminate that service, or name another with --service",
        "NO_SUCH_SERVICE" | "SERVICE_NOT_ACTIVE" => "mandate ns list --all",
        "OPERATION_IN_FLIGHT" => {
            "wait until its operation is closed (mandate ns timeline TENANT/SERVICE); only isolate and terminate do not wait"
        }
        "PACKAGE_NOT_REGISTERED" | "CONSTITUENT_NOT_REGISTERED" | "CONSTITUENT_MISMATCH" | "PACKAGE_KIND" => {
            "register the packages first, VNFs before the NS (mandate package push); see `mandate package list`"
        }
        "PACKAGE_EXISTS" => "it is registered (mandate package list); another content needs another version",
        "SBOM_MISSING" | "PROVENANCE_INVALID" | "BUILDER_NOT_TRUSTED" | "SLSA_LEVEL_TOO_LOW" => {
            "pack it again with --image, --lockfile and a builder that the policy trusts, and sign it"
        }
        "QUOTA_EXCEEDED" => {
            "terminate or scale in what is not needed, or ask the operator for a larger quota"
        }
        "LEASE_TOO_LONG" => "ask again with a shorter --lease",
        "LEASE_ENDED" => "terminate the service and deploy it again",
        "JURISDICTION_NOT_ALLOWED" | "JURISDICTION_REQUIRED" => {
            "ask again with a --jurisdiction that the policy allows (mandate site list)"
        }
        "NO_ATTESTATION_KEY" => {
            "the operator registers a site's key first: mandate site enrol SITE --as ORG/NAME"
        }
        "NO_TEE" => {
            "ask for a lower --sensitivity, or have the consortium ask for less in `assurance` (mandate policy propose)"
        }
        "INVALID_ATTESTATION_KEY" => "see the rule that did not pass, for example a shorter --valid-for",
        "NO_SUCH_ASPECT" | "SCALE_LEVEL" => {
            "see what stands now (mandate ns show TENANT/SERVICE) and ask for another member, aspect or --steps"
        }
        _ => "correct what the rule that did not pass names, and submit it again",
    }
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
        let mut rules =
            vec![rule("authorization/role", true, ""), rule("quota/vcpus", false, "QUOTA_EXCEEDED")];
        rules.extend(["a", "b"].map(|name| rule(name, false, NOT_EVALUATED)));
        let verdict = Verdict { approved: false, rules, policy: Digest([0; 32]) };
        let text = render(&verdict, Style { color: false, unicode: false });
        assert_eq!(
            text,
            "    RULE                RESULT          DETAIL\n\
             ok  authorization/role  passed          16 of 8\n\
             no  quota/vcpus         QUOTA_EXCEEDED  16 of 8\n\
             -   2 more              NOT_EVALUATED   they need what did not pass\n\
             \n\
             refused by policy \
             sha256:0000000000000000000000000000000000000000000000000000000000000000\n  \
               QUOTA_EXCEEDED: 16 of 8\n\
             next: terminate or scale in what is not needed, or ask the operator for a larger quota\n"
        );
    }
}
