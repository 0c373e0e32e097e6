//! The ids that clients see: UUIDs (OSM's client takes nothing else for one), derived where there is something to derive
//! them from, so that a restart finds them again.

use trust::Digest;

/// What a member of a service that OSM does not have is known by.
#[must_use]
pub fn vnf(ns: &str, member: &str) -> String {
    of(&["vnf", ns, member])
}

/// What an operation is known by: a function of its intent's id.
#[must_use]
pub fn operation(intent_id: &str) -> String {
    of(&["operation", intent_id])
}

/// What a service is known by that nobody made here (`mandate intent submit`): a function of its NS instance id.
#[must_use]
pub fn service(ns: &str) -> String {
    of(&["service", ns])
}

/// A new one.
pub fn random() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(shaped(&hex::encode(bytes)))
}

fn of(parts: &[&str]) -> String {
    shaped(&Digest::of_parts(parts.iter().map(|p| p.as_bytes())).hex())
}

/// RFC 9562: version 4's form, whose other bits are anybody's.
fn shaped(hex: &str) -> String {
    let at = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-4{}-a{}-{}", at(0, 8), at(8, 12), at(13, 16), at(17, 20), at(20, 32))
}

/// Is it one, as OSM's schemas have them?
#[must_use]
pub fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let hex = |g: &&str| g.bytes().all(|b| b.is_ascii_hexdigit());
    groups.iter().map(|g| g.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_found_again_and_differ() {
        assert_eq!(operation("i-1"), operation("i-1"));
        assert!(operation("i-1") != operation("i-2") && operation("x") != service("x"));
        for id in [operation("i-1"), service("ns-1"), vnf("ns-1", "vfw"), random().unwrap_or_default()] {
            assert!(is_uuid(&id), "{id}");
            assert_eq!(id.len(), 36);
        }
        assert!(!is_uuid("ns-0123") && !is_uuid("0123456789abcdef0123456789abcdef"));
    }
}
