//! Break-glass: which rules an emergency may waive at all, and what a policy lets it waive.
//!
//! Never who asks, what was asked for, replay, digests and the signatures of the software: without those nobody would
//! know afterwards what was done. A waived rule stands in the verdict with what it found, in the grant, and so in the
//! evidence. Tests: `tests/emergency.rs`.

/// Groups and rules that a policy may list in `emergency.waives`. Groups end in `/*`.
pub const WAIVABLE: [&str; 14] = [
    "authorization/attributes",
    "authorization/signatures",
    "provenance/sbom",
    "provenance/sbom-complete",
    "provenance/slsa-level",
    "provenance/supplier",
    "provenance/licences",
    "provenance/denied",
    "compliance/lease",
    "compliance/window",
    "compliance/sovereignty",
    "compliance/dependencies",
    "quota/*",
    "tenant/*",
];

fn covers(pattern: &str, rule: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(group) => rule.strip_prefix(group).is_some_and(|name| !name.is_empty()),
        None => pattern == rule,
    }
}

/// May any policy let that rule, or that group, be waived?
#[must_use]
pub fn waivable(rule: &str) -> bool {
    WAIVABLE.iter().any(|w| *w == rule || covers(w, rule))
}

/// Does a list of rules and groups waive that rule?
pub(crate) fn waives<'a>(list: impl IntoIterator<Item = &'a String>, rule: &str) -> bool {
    waivable(rule) && list.into_iter().any(|pattern| covers(pattern, rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_and_what_is_never_waived() {
        for rule in [
            "authentication/signature",
            "authorization/role",
            "authorization/tenant",
            "form/intent",
            "freshness/replay",
            "freshness/expiry",
            "provenance/signature",
            "provenance/registered",
            "compliance/state",
            "*",
            "provenance/*",
            "quota",
        ] {
            assert!(!waivable(rule) && !waives(&[rule.to_owned()], rule), "{rule}");
        }
        assert!(waives(&["quota/*".to_owned()], "quota/vcpus"));
        assert!(!waives(&["quota/vcpus".to_owned()], "quota/memory"));
        assert!(!waives(&["quota/*".to_owned()], "quota/"));
    }
}
