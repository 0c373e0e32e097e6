//! Known traffic: what the generator sends, what must arrive, and what did.
//!
//! Terms of RFC 2544 and ETSI GS NFV-TST 009: throughput counts frames that came back through the service; loss is
//! transmitted minus received, in parts per million; latency is the round trip from the generator's transmit call to
//! its receive call; jitter is the mean absolute difference between consecutive round trips of one flow (RFC 3393).

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::config::{Backend, MacAddr};

/// What to send and what to expect of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficProfile {
    /// Groups of flows.
    pub groups: Vec<FlowGroup>,
    /// Size of a probe frame without FCS, bytes (an Ethernet size less 4); raised to what the probe payload needs.
    pub frame_bytes: u16,
    /// Frames per second, over all flows.
    pub rate_pps: u32,
    /// How long to send, ms.
    pub duration_ms: u32,
    /// How long to wait for the last answers, ms.
    pub drain_ms: u32,
    /// Send everything to this MAC and resolve nothing: while a function stands at two sites of one link, the answer to
    /// "who has its address" is not the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<MacAddr>,
}

/// Flows that differ only in source port and address: flow `i` (from `first`) has source address
/// `source + i / 16384` and source port `49152 + i % 16384`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowGroup {
    /// Unique name, used in the report.
    pub id: String,
    /// 6 or 17. A TCP flow opens with SYN, SYN-ACK, ACK and then sends data.
    pub protocol: u8,
    /// First source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port.
    pub destination_port: u16,
    /// Index of the first flow.
    pub first: u32,
    /// Number of flows.
    pub count: u32,
    /// Must they come back?
    pub expect: Expectation,
}

/// What must become of a group's frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expectation {
    /// No frame of it may come back.
    Blocked,
    /// Every flow comes back, from the backend that Maglev names.
    Balanced {
        /// The balancer's backends when the flows began.
        backends: Vec<Backend>,
        /// Size of its Maglev table.
        table_size: u32,
    },
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficReport {
    /// Time from the first to the last transmission, µs.
    pub elapsed_us: u64,
    /// Probe frames sent in groups that must arrive.
    pub tx_frames: u64,
    /// Of those, came back.
    pub rx_frames: u64,
    /// Lost, parts per million of `tx_frames`.
    pub loss_ppm: u64,
    /// Layer-2 rate of what came back (frame bytes + 4 FCS), kbit/s.
    pub throughput_kbps: u64,
    /// Frames the generator could not send in time; a trial with a shortfall over 1 % measures the generator.
    pub shortfall_frames: u64,
    /// Round trip, median, µs.
    pub latency_p50_us: u64,
    /// Round trip, 95th percentile, µs.
    pub latency_p95_us: u64,
    /// Round trip, 99th percentile, µs.
    pub latency_p99_us: u64,
    /// Mean absolute difference of consecutive round trips of a flow, µs.
    pub jitter_us: u64,
    /// By group id.
    pub groups: BTreeMap<String, GroupReport>,
    /// MAC the destination resolved to (ARP or neighbour discovery through the chain), by address.
    pub neighbours: BTreeMap<IpAddr, MacAddr>,
}

/// What happened to a group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupReport {
    /// Flows sent.
    pub flows: u32,
    /// Flows of which at least one probe came back.
    pub arrived: u32,
    /// Probe frames sent.
    pub tx_frames: u64,
    /// Probe frames that came back.
    pub rx_frames: u64,
    /// Flows by the number of the backend that answered.
    #[serde(deserialize_with = "by_number")]
    pub backends: BTreeMap<u16, u32>,
    /// Flows answered by another backend than expected, or by more than one.
    pub misrouted: u32,
}

/// JSON has text keys only, and inside a tagged enum (an answer of the control protocol) serde does not read numbers
/// from them by itself.
fn by_number<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<u16, u32>, D::Error> {
    let texts = BTreeMap::<String, u32>::deserialize(from)?;
    texts.into_iter().map(|(k, v)| k.parse().map(|k| (k, v)).map_err(de::Error::custom)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Response;

    #[test]
    fn a_report_survives_the_control_protocol() {
        let group = GroupReport { flows: 3, backends: [(1, 2), (40, 1)].into(), ..GroupReport::default() };
        let report = TrafficReport {
            elapsed_us: 1,
            tx_frames: 2,
            rx_frames: 2,
            loss_ppm: 0,
            throughput_kbps: 3,
            shortfall_frames: 0,
            latency_p50_us: 4,
            latency_p95_us: 5,
            latency_p99_us: 6,
            jitter_us: 7,
            groups: [("g".to_owned(), group)].into(),
            neighbours: [("2001:db8::1".parse().unwrap(), MacAddr([2; 6]))].into(),
        };
        let response = Response::Report(Box::new(report));
        let json = serde_json::to_string(&response).unwrap();
        assert!(json.contains(r#""backends":{"1":2,"40":1}"#), "{json}");
        assert_eq!(serde_json::from_str::<Response>(&json).unwrap(), response);
    }
}
