//! Counters in Prometheus' text exposition format, version 0.0.4.
//!
//! Names follow the format's conventions: `mandate_dataplane_…_total`, base units, one family after the other with its HELP and
//! TYPE. Tests: below, and `tests/telemetry.rs` (Prometheus' own `promtool` where it is installed).

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::Arc,
};

use super::BURST_BOUNDS;
use crate::report::{Report, merged};

/// Families with one label, by the first part of a counter's name.
const LABELLED: &[(&str, &str, &str, &str)] = &[
    ("rx_frames", "port_rx_frames", "port", "Frames received."),
    ("tx_frames", "port_tx_frames", "port", "Frames sent."),
    ("tx_dropped", "port_tx_dropped_frames", "port", "Frames that the driver did not take in time."),
    (
        "rx_missed",
        "port_rx_missed_frames",
        "port",
        "Frames lost before or in the receive queue, as the driver says.",
    ),
    ("tx_errors", "port_tx_errors", "port", "Frames not sent for an error, as the driver says."),
    ("drop", "dropped_frames", "reason", "Frames dropped, by reason."),
    ("rule", "rule_frames", "rule", "Frames that a rule allowed or denied."),
    ("vip", "vip_frames", "vip", "Frames to a service."),
    ("backend", "backend_frames", "backend", "Frames sent to a backend."),
];

/// Families of each packet thread: counter, family, help, and by what its unit is divided.
const OF_WORKERS: &[(&str, &str, &str)] = &[
    ("worker.polls", "worker_polls_total", "Rounds over all ports."),
    ("worker.polls_busy", "worker_polls_busy_total", "Rounds over all ports that found frames."),
    ("worker.commands", "worker_commands_total", "Commands that the packet thread obeyed."),
    ("worker.capture_missed", "worker_capture_missed_frames_total", "Frames that a capture could not take."),
    ("worker.events_missed", "worker_flow_events_missed_total", "Flow events that found no room."),
    (
        "worker.log_lines",
        "worker_rule_log_lines_total",
        "Decisions of rules with log that were written down.",
    ),
    (
        "worker.log_suppressed",
        "worker_rule_log_suppressed_total",
        "Decisions of rules with log beyond what is written down.",
    ),
];
/// The same in µs, shown in seconds.
const SECONDS_OF_WORKERS: &[(&str, &str, &str)] = &[
    ("worker.busy_us", "worker_busy_seconds_total", "Time of rounds that found frames."),
    ("worker.command_us", "worker_command_seconds_total", "Time that commands kept frames waiting."),
];

/// The exposition of what the packet threads last left on their boards; `now_us` is on their clock.
pub fn exposition(reports: &[Arc<Report>], now_us: u64) -> String {
    let Some(status) = merged(reports.iter().map(|r| &**r)) else { return String::new() };
    let mut text = Text::default();
    let info = [
        ("instance", status.instance.as_str()),
        ("function", &status.function),
        ("configuration", &status.configuration.to_string()),
        ("version", env!("CARGO_PKG_VERSION")),
    ];
    text.family("info", "gauge", "What runs; always 1.");
    text.sample("info", &info, 1);
    text.family("generation", "gauge", "Generation of the running configuration.");
    text.sample("generation", &[], status.generation);
    text.family("isolated", "gauge", "Whether traffic is cut.");
    text.sample("isolated", &[], u8::from(status.isolated));
    text.family("connections", "gauge", "Connections tracked now.");
    text.sample("connections", &[], status.connections);
    let sum = |of: fn(&Report) -> u64| reports.iter().map(|r| of(r)).sum::<u64>();
    text.family("connections_max", "gauge", "Connections that there is room for.");
    text.sample("connections_max", &[], sum(Report::max_connections));
    text.family(
        "connections_half_open",
        "gauge",
        "TCP connections of firewalls whose handshake is not complete.",
    );
    text.sample("connections_half_open", &[], sum(Report::half_open));
    counters(&mut text, &status.counters);
    workers(&mut text, reports, now_us);
    text.0
}

fn counters(text: &mut Text, counters: &BTreeMap<String, u64>) {
    for (first, family, label, help) in LABELLED {
        let of = |(name, value): (&'_ String, &u64)| {
            let rest = name.strip_prefix(first)?.strip_prefix('.')?;
            Some((rest.to_owned(), *value))
        };
        let samples: Vec<(String, u64)> = counters.iter().filter_map(of).collect();
        let family = format!("{family}_total");
        if !samples.is_empty() {
            text.family(&family, "counter", help);
        }
        for (value, count) in samples {
            text.sample(&family, &[(label, value.as_str())], count);
        }
    }
    let known = |name: &str| {
        let first = name.split('.').next().unwrap_or(name);
        matches!(first, "worker" | "burst") || LABELLED.iter().any(|l| l.0 == first)
    };
    let others: Vec<_> = counters.iter().filter(|(name, _)| !known(name)).collect();
    if !others.is_empty() {
        text.family("events_total", "counter", "What else the function counts, by name.");
    }
    for (name, count) in others {
        text.sample("events_total", &[("event", name.as_str())], *count);
    }
}

fn workers(text: &mut Text, reports: &[Arc<Report>], now_us: u64) {
    let named: Vec<(String, &Report)> =
        (0..).zip(reports).map(|(i, r): (u32, _)| (i.to_string(), &**r)).collect();
    let count = |report: &Report, name: &str| report.counters.get(name).copied().unwrap_or(0);
    text.family("report_age_seconds", "gauge", "Age of what is shown here.");
    for (worker, report) in &named {
        let age = Seconds(now_us.saturating_sub(report.at_us));
        text.sample("report_age_seconds", &[("worker", worker)], age);
    }
    for (name, family, help) in OF_WORKERS {
        text.family(family, "counter", help);
        for (worker, report) in &named {
            text.sample(family, &[("worker", worker)], count(report, name));
        }
    }
    for (name, family, help) in SECONDS_OF_WORKERS {
        text.family(family, "counter", help);
        for (worker, report) in &named {
            text.sample(family, &[("worker", worker)], Seconds(count(report, name)));
        }
    }
    text.family("worker_burst_frames", "histogram", "Frames of a burst.");
    for (worker, report) in &named {
        let mut bursts = 0;
        for bound in BURST_BOUNDS {
            bursts += count(report, &format!("burst.{bound}"));
            let labels = [("worker", worker.as_str()), ("le", &bound.to_string())];
            text.sample("worker_burst_frames_bucket", &labels, bursts);
        }
        text.sample("worker_burst_frames_bucket", &[("worker", worker), ("le", "+Inf")], bursts);
        text.sample("worker_burst_frames_sum", &[("worker", worker)], report.received());
        text.sample("worker_burst_frames_count", &[("worker", worker)], bursts);
    }
}

/// µs, shown in seconds.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// The lines so far. Writing to a string does not fail.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(
            self.0,
            "# HELP mandate_dataplane_{name} {help}\n# TYPE mandate_dataplane_{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        let _ = write!(self.0, "mandate_dataplane_{name}");
        for (i, (label, of)) in labels.iter().enumerate() {
            let before = if i == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", Escaped(of));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}

/// A label's value, as the format wants it.
struct Escaped<'t>(&'t str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_and_times_have_their_unit() {
        let mut text = Text::default();
        text.sample("a", &[("rule", "x\"y\\z\n"), ("b", "c")], Seconds(1_000_042));
        assert_eq!(text.0, "mandate_dataplane_a{rule=\"x\\\"y\\\\z\\n\",b=\"c\"} 1.000042\n");
    }

    #[test]
    fn every_counter_is_in_one_family() {
        let of = |pairs: &[(&str, u64)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect();
        let mut text = Text::default();
        let all = [
            ("drop.no_rule", 1),
            ("rule.a.b", 2),
            ("tx_frames.p", 3),
            ("worker.polls", 4),
            ("firewall.opened", 5),
        ];
        counters(&mut text, &of(&all));
        for line in [
            "# TYPE mandate_dataplane_dropped_frames_total counter",
            "mandate_dataplane_dropped_frames_total{reason=\"no_rule\"} 1",
            "mandate_dataplane_rule_frames_total{rule=\"a.b\"} 2",
            "mandate_dataplane_port_tx_frames_total{port=\"p\"} 3",
            "mandate_dataplane_events_total{event=\"firewall.opened\"} 5",
        ] {
            assert!(text.0.lines().any(|l| l == line), "{line} in {}", text.0);
        }
        assert!(!text.0.contains("polls"));
    }
}
