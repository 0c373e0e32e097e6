//! Values that several commands take.

use std::str::FromStr;

/// A member of an organisation whose key is in the home directory: `ORG/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberName {
    /// Organisation.
    pub org: String,
    /// Name.
    pub name: String,
}

/// Is this safe as one component of a path, and legal in a certificate?
#[must_use]
pub fn component(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    (1..=64).contains(&text.len()) && text.chars().all(legal) && !text.starts_with('.')
}

impl FromStr for MemberName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((org, name)) if component(org) && component(name) => {
                Ok(Self { org: org.to_owned(), name: name.to_owned() })
            }
            _ => Err("expected ORG/NAME, for example tenant/tenant".into()),
        }
    }
}

impl std::fmt::Display for MemberName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.org, self.name)
    }
}

/// A country: two capital letters. Whether there is a site in it, the policy and the plan say.
pub fn country(text: &str) -> Result<String, String> {
    if text.len() == 2 && text.chars().all(|c| c.is_ascii_uppercase()) {
        return Ok(text.to_owned());
    }
    Err("expected two capital letters (ISO 3166-1 alpha-2), for example DE".into())
}

/// Longest duration that anything is given, days: no certificate, key or grant of ours is to outlive ten years.
pub const MAX_DAYS: u64 = 3650;
/// Most throughput that is asked for, kbit/s: 1 Tbit/s, beyond any port that is driven.
pub const MAX_THROUGHPUT_KBPS: u64 = 1_000_000_000;
/// Longest latency that is asked for, µs: a minute.
pub const MAX_LATENCY_US: u64 = 60_000_000;
/// All of it, parts per million.
pub const MAX_LOSS_PPM: u64 = 1_000_000;
/// Most steps of one scaling.
pub const MAX_STEPS: u32 = 1_000;

/// Seconds from `90d`, `24h`, `15m` or `30s`; at least 1, at most [`MAX_DAYS`]. A number alone could mean any of them.
pub fn seconds(text: &str) -> Result<u64, String> {
    let bad = || "expected a duration like 90d, 24h, 15m or 30s".to_owned();
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None if text.is_empty() => return Err(bad()),
        None => return Err(format!("a number needs its unit: {text}h, {text}m or {text}s")),
    };
    let factor = match unit {
        "d" => 86_400,
        "h" => 3_600,
        "m" => 60,
        "s" => 1,
        _ => return Err(bad()),
    };
    if digits.is_empty() {
        return Err(bad());
    }
    // Digits that are too many for a number are too many for a duration.
    let seconds = digits.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(factor);
    match seconds {
        0 => Err("expected a duration of 1s or more".into()),
        s if s > MAX_DAYS * 86_400 => {
            Err(format!("expected at most {MAX_DAYS}d (ten years); `{text}` is longer"))
        }
        s => Ok(s),
    }
}

/// A whole number up to a bound, in a unit.
fn bounded(text: &str, most: u64, unit: &str) -> Result<u64, String> {
    let number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(n) if n <= most => Ok(n),
        _ if number => Err(format!("expected at most {most} {unit}")),
        _ => Err(format!("expected a whole number of {unit}, at most {most}")),
    }
}

/// A throughput.
pub fn throughput_kbps(text: &str) -> Result<u64, String> {
    bounded(text, MAX_THROUGHPUT_KBPS, "kbit/s")
}

/// A latency.
pub fn latency_us(text: &str) -> Result<u64, String> {
    bounded(text, MAX_LATENCY_US, "µs")
}

/// A loss.
pub fn loss_ppm(text: &str) -> Result<u64, String> {
    bounded(text, MAX_LOSS_PPM, "parts per million")
}

/// The name of a thing, whatever it is: an empty one is a variable of a script that was not set.
pub fn name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("expected a name; this is empty".into()) } else { Ok(text.to_owned()) }
}

/// A position in the ledger.
pub fn position(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected a position: a whole number, as `mandate ledger log` shows".into())
}

/// The address of an orchestrator over TCP.
pub fn url(text: &str) -> Result<String, String> {
    let wrong = || "expected https://HOST:PORT".to_owned();
    let url = reqwest::Url::parse(text).map_err(|_| wrong())?;
    let plain = url.username().is_empty() && url.query().is_none() && url.fragment().is_none();
    if url.scheme() != "https" || !url.has_host() || url.path() != "/" || !plain {
        return Err(wrong());
    }
    Ok(text.to_owned())
}

/// A reason that says something, as long as the ledger takes it.
pub fn reason(text: &str) -> Result<String, String> {
    let most = ledger_contract::intent::MAX_REASON_BYTES;
    if text.trim().is_empty() || text.len() > most {
        return Err(format!("expected a reason that says something, in {most} bytes at most"));
    }
    Ok(text.to_owned())
}

/// `KEY=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_duration_is_its_number_times_its_unit(n in 1u64..1_000_000, unit in "[dhms]") {
            let factor = match unit.as_str() { "d" => 86_400, "h" => 3_600, "m" => 60, _ => 1 };
            let found = seconds(&format!("{n}{unit}"));
            match n * factor <= MAX_DAYS * 86_400 {
                true => proptest::prop_assert_eq!(found, Ok(n * factor)),
                false => proptest::prop_assert!(found.is_err_and(|e| e.contains("3650d"))),
            }
        }

        #[test]
        fn no_text_makes_a_member_outside_of_its_directory(text in "\\PC{0,24}|[a./~]{0,12}") {
            let Ok(member) = text.parse::<MemberName>() else { return Ok(()) };
            let home = crate::home::Home::new("/h");
            let (key, _) = home.identity(&member.org, &member.name);
            proptest::prop_assert_eq!(key.components().count(), 5, "{:?}", key);
            proptest::prop_assert!(key.components().all(|c| c != std::path::Component::ParentDir));
        }

        #[test]
        fn no_text_is_a_panic(text in "\\PC{0,24}") {
            let _ = (seconds(&text), pair(&text));
        }
    }

    #[test]
    fn durations() {
        let good: Vec<_> = ["90d", "24h", "15m", "30s", "7s"].iter().map(|t| seconds(t).unwrap()).collect();
        assert_eq!(good, [7_776_000, 86_400, 900, 30, 7]);
        for bad in
            ["", "0", "0s", "24", "-1", "1w", "d", "1.5h", "99999999999999999999d", "18446744073709551615d"]
        {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn absurd_numbers_are_refused_with_bound_and_unit() {
        let huge = "18446744073709551615";
        for (parse, most, unit) in [
            (throughput_kbps as fn(&str) -> Result<u64, String>, MAX_THROUGHPUT_KBPS, "kbit/s"),
            (latency_us, MAX_LATENCY_US, "µs"),
            (loss_ppm, MAX_LOSS_PPM, "parts per million"),
        ] {
            assert_eq!(parse(&most.to_string()), Ok(most));
            assert_eq!(parse("0"), Ok(0));
            for bad in [&(most + 1).to_string(), huge, "99999999999999999999999", "-1", "", "1.5", "x"] {
                let said = parse(bad).unwrap_err();
                assert!(said.contains(&most.to_string()) && said.contains(unit), "{bad}: {said}");
            }
        }
        assert_eq!(seconds("3650d"), Ok(3650 * 86_400));
        for bad in ["3651d", "99999d", "87601h", "18446744073709551615s", "99999999999999999999999d"] {
            let said = seconds(bad).unwrap_err();
            assert!(said.contains("at most 3650d") && said.contains(bad), "{said}");
        }
    }

    #[test]
    fn a_reason_says_something() {
        assert_eq!(reason("CVE-2026-1").unwrap(), "CVE-2026-1");
        for bad in ["", " \t", &"x".repeat(1025)] {
            assert!(reason(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_is_https_and_nothing_more() {
        for good in ["https://h:1", "https://10.0.0.1:8443/", "https://[::1]:8443", "https://h"] {
            assert_eq!(url(good).as_deref(), Ok(good));
        }
        for bad in
            ["", "h:1", "foo", "http://h:1", "https://", "https://u@h:1", "https://h:1/v1", "https://h?x"]
        {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_and_positions_say_something() {
        assert!(name("x").is_ok() && name("").is_err() && name(" ").is_err());
        assert_eq!(position("7"), Ok(7));
        assert!(["", "x", "-1", "1.5", "99999999999999999999"].iter().all(|p| position(p).is_err()));
    }

    #[test]
    fn a_country_is_two_capital_letters() {
        assert_eq!(country("DE").unwrap(), "DE");
        for bad in ["", "de", "D", "DEU", "Germany", "D1", "ÄE"] {
            assert!(country(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_member_is_two_safe_components() {
        assert_eq!("tenant/t.1".parse::<MemberName>().unwrap().to_string(), "tenant/t.1");
        for bad in ["", "a", "a/", "/a", "../b", "a/..", "a/b/c", "a b/c", "a\0/b"] {
            assert!(bad.parse::<MemberName>().is_err(), "{bad}");
        }
    }
}
