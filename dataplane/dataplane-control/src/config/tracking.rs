//! What a firewall keeps of connections, and for how long: time-outs, limits, strictness, fragments.
//!
//! Everything is optional; what is left out means what it meant before there was a choice, and a document that leaves
//! out everything keeps its bytes.
//!
//! Tests: below.

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Longest time-out, ms: half the range of the packet path's wrapping clock, about 24 days.
pub const MAX_TIMEOUT_MS: u64 = (u32::MAX / 2) as u64;
/// Largest rate, tokens a second.
pub const MAX_RATE: u32 = 100_000_000;
/// Largest burst, tokens.
pub const MAX_BURST: u32 = 4_000_000;
/// Most datagrams in pieces that can be tracked at once.
pub const MAX_DATAGRAMS: u32 = 65_536;

/// How connections are tracked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tracking {
    /// Time-outs by state.
    #[serde(skip_serializing_if = "is_default")]
    pub timeouts: Timeouts,
    /// What one source may hold and open; absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_source: Option<PerSource>,
    /// TCP connections whose handshake is not complete; absent: no limit but that of all connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_open: Option<HalfOpen>,
    /// Whether every TCP segment is checked against the windows (RFC 9293 §3.10.7.4, RFC 5961). Costs 32 bytes a
    /// connection and the fast path of TCP.
    #[serde(skip_serializing_if = "is_default")]
    pub strict_tcp: bool,
    /// What becomes of fragments.
    #[serde(skip_serializing_if = "is_default")]
    pub fragments: Fragments,
    /// Datagrams in pieces that are tracked at once, a power of two; absent: 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fragment_datagrams: Option<u32>,
    /// What becomes of a new connection when the table is full.
    #[serde(skip_serializing_if = "is_default")]
    pub when_full: WhenFull,
    /// Whether transport checksums are verified (IPv4 header checksums always are). A fragment's cannot be.
    #[serde(skip_serializing_if = "is_default")]
    pub verify_checksums: bool,
    /// How many packets a second are answered at most, by resets and ICMP errors; absent: 1000, in bursts of 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<Rate>,
}

/// Idle times, ms, after which a connection is forgotten. Absent ones have the value named. That of an established TCP
/// connection is `tcp_idle_ms` of the firewall; none of TCP's is longer than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// TCP until the handshake is complete: 30,000. RFC 5382 REQ-5: not below 240,000 where hosts may be that slow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_handshake_ms: Option<u64>,
    /// TCP after FIN from one side: 120,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_half_closed_ms: Option<u64>,
    /// TCP from RST, or FIN from both sides, on, whatever is sent: 10,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_closing_ms: Option<u64>,
    /// UDP that only one side has been heard of: `other_idle_ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_one_way_ms: Option<u64>,
    /// UDP heard of from both sides: `other_idle_ms`. RFC 4787 REQ-5: not below 120,000 in front of clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_both_ways_ms: Option<u64>,
    /// ICMP echo: `other_idle_ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_ms: Option<u64>,
}

/// Limits of one source: an address, or a network of the given prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerSource {
    /// Most connections it holds at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// How fast it opens new ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_connections: Option<Rate>,
    /// What is one source in IPv4, prefix length.
    #[serde(default = "v4_source", skip_serializing_if = "is_v4_source")]
    pub ipv4_prefix: u8,
    /// What is one source in IPv6, prefix length (RFC 6177: a site has at least a /64).
    #[serde(default = "v6_source", skip_serializing_if = "is_v6_source")]
    pub ipv6_prefix: u8,
}

/// A token bucket: so many a second, and so many at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Tokens that come back a second, from 1.
    pub per_second: u32,
    /// Most tokens there are, from 1.
    pub burst: u32,
}

/// Bounds half-open TCP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HalfOpen {
    /// Most of them at once, below `max_connections`.
    pub limit: u32,
    /// What becomes of a SYN beyond it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub beyond: BeyondHalfOpen,
}

/// What becomes of a SYN when there are too many half-open connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BeyondHalfOpen {
    /// It is answered with a SYN cookie (RFC 4987 §3.6); only who acknowledges that is connected to the server.
    #[default]
    Cookie,
    /// It is dropped.
    Refuse,
}

/// What becomes of fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fragments {
    /// The first is decided as a packet, the others of its datagram share its fate; what overlaps, is tiny or comes
    /// before the first does not pass (RFC 1858, RFC 3128, RFC 5722).
    #[default]
    Track,
    /// None passes.
    Drop,
}

/// What becomes of a new connection when the table is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// It takes the place of the oldest one that is closed, whose handshake is not complete, or that was heard of from one side only, in this
    /// order: an established connection is never evicted. If there is none, it is dropped and counted.
    #[default]
    Evict,
    /// It is dropped and counted.
    Refuse,
}

fn v4_source() -> u8 {
    32
}
fn v6_source() -> u8 {
    64
}
// serde hands over references
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_v4_source(length: &u8) -> bool {
    *length == v4_source()
}
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_v6_source(length: &u8) -> bool {
    *length == v6_source()
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Rate {
    fn check(self, path: &str) -> Result<(), ConfigError> {
        within(&format!("{path}.per_second"), u64::from(self.per_second), 1, u64::from(MAX_RATE))?;
        within(&format!("{path}.burst"), u64::from(self.burst), 1, u64::from(MAX_BURST))
    }
}

impl Tracking {
    /// Ranges. `max_connections` is the firewall's.
    pub(super) fn check(&self, max_connections: u32) -> Result<(), ConfigError> {
        self.timeouts.check()?;
        if let Some(source) = self.per_source {
            source.check(max_connections)?;
        }
        if let Some(half_open) = self.half_open {
            let most = u64::from(max_connections).saturating_sub(1).max(1);
            within("firewall.tracking.half_open.limit", u64::from(half_open.limit), 1, most)?;
        }
        if let Some(datagrams) = self.fragment_datagrams {
            let path = "firewall.tracking.fragment_datagrams";
            within(path, u64::from(datagrams), 8, u64::from(MAX_DATAGRAMS))?;
            if !datagrams.is_power_of_two() {
                return Err(invalid(path, format!("{datagrams} is no power of two")));
            }
        }
        self.answers.map_or(Ok(()), |rate| rate.check("firewall.tracking.answers"))
    }
}

impl Timeouts {
    fn check(&self) -> Result<(), ConfigError> {
        let all = [
            ("tcp_handshake_ms", self.tcp_handshake_ms),
            ("tcp_half_closed_ms", self.tcp_half_closed_ms),
            ("tcp_closing_ms", self.tcp_closing_ms),
            ("udp_one_way_ms", self.udp_one_way_ms),
            ("udp_both_ways_ms", self.udp_both_ways_ms),
            ("icmp_ms", self.icmp_ms),
        ];
        for (name, value) in all {
            let Some(value) = value else { continue };
            within(&format!("firewall.tracking.timeouts.{name}"), value, 1, MAX_TIMEOUT_MS)?;
        }
        Ok(())
    }
}

impl PerSource {
    fn check(&self, max_connections: u32) -> Result<(), ConfigError> {
        const PATH: &str = "firewall.tracking.per_source";
        let path = |name: &str| format!("{PATH}.{name}");
        if self.connections.is_none() && self.new_connections.is_none() {
            return Err(invalid(PATH, "limits nothing; give `connections` or `new_connections`".into()));
        }
        if let Some(connections) = self.connections {
            within(&path("connections"), u64::from(connections), 1, u64::from(max_connections.max(1)))?;
        }
        if let Some(rate) = self.new_connections {
            rate.check(&path("new_connections"))?;
        }
        within(&path("ipv4_prefix"), u64::from(self.ipv4_prefix), 1, 32)?;
        within(&path("ipv6_prefix"), u64::from(self.ipv6_prefix), 1, 128)
    }
}

fn invalid(path: &str, problem: String) -> ConfigError {
    ConfigError::Invalid { path: path.to_owned(), problem }
}

fn within(path: &str, value: u64, least: u64, most: u64) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(invalid(path, format!("{value} is not within {least} to {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Tracking {
        serde_json::from_str(text).unwrap()
    }

    fn refusal(text: &str) -> String {
        parsed(text).check(1000).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_left_out_is_not_written() {
        assert_eq!(serde_json::to_string(&Tracking::default()).unwrap(), "{}");
        assert_eq!(parsed("{}"), Tracking::default());
        let whole = r#"{"timeouts":{"udp_one_way_ms":5000},"per_source":{"connections":10},"half_open":{"limit":7},"strict_tcp":true,"fragments":"drop","when_full":"refuse"}"#;
        assert_eq!(serde_json::to_string(&parsed(whole)).unwrap(), whole);
        assert_eq!(refusal(whole), "");
        assert_eq!(parsed(whole).half_open.map(|h| h.beyond), Some(BeyondHalfOpen::Cookie));
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_its_path() {
        for (text, path) in [
            (r#"{"timeouts":{"tcp_handshake_ms":0}}"#, "timeouts.tcp_handshake_ms: 0 is not within 1 to "),
            (r#"{"timeouts":{"icmp_ms":99999999999}}"#, "timeouts.icmp_ms: 99999999999 is not"),
            (r#"{"per_source":{}}"#, "per_source: limits nothing"),
            (
                r#"{"per_source":{"connections":1001}}"#,
                "per_source.connections: 1001 is not within 1 to 1000",
            ),
            (r#"{"per_source":{"connections":1,"ipv4_prefix":33}}"#, "per_source.ipv4_prefix: 33"),
            (r#"{"per_source":{"connections":1,"ipv6_prefix":0}}"#, "per_source.ipv6_prefix: 0"),
            (
                r#"{"per_source":{"new_connections":{"per_second":0,"burst":1}}}"#,
                "per_source.new_connections.per_second: 0",
            ),
            (r#"{"answers":{"per_second":1,"burst":0}}"#, "answers.burst: 0"),
            (r#"{"half_open":{"limit":1000}}"#, "half_open.limit: 1000 is not within 1 to 999"),
            (r#"{"fragment_datagrams":4}"#, "fragment_datagrams: 4 is not within 8 to 65536"),
            (r#"{"fragment_datagrams":100}"#, "fragment_datagrams: 100 is no power of two"),
        ] {
            let words = refusal(text);
            assert!(words.contains(&format!("firewall.tracking.{path}")), "{text}: {words}");
        }
        assert!(serde_json::from_str::<Tracking>(r#"{"strict":true}"#).is_err());
    }
}
