//! What is measured, by name.

use dataplane_control::config::Mode;

/// What arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Segments of established TCP connections, both ways in turn.
    Established,
    /// Each frame opens a UDP connection; those before age.
    New,
    /// One frame in ten opens a UDP connection, the others are of established TCP connections.
    Mixed,
    /// Each frame is a SYN that nobody answers.
    Flood,
}

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    Firewall,
    /// Between clients and backends.
    Balancer(Mode),
    /// A firewall, and behind it a balancer at layer 2, in one process.
    Chain,
}

/// What a case is measured beside, in the same process and the same rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Nothing but the reference.
    Nothing,
    /// Another case.
    Case(&'static str),
    /// The first function of the chain alone, on the same frames.
    Alone,
    /// The same function with flow records and published counters off.
    Silence,
    /// The same in one thread, where the case has two.
    OneWorker,
    /// It is not: configurations are swapped while frames pass.
    Swaps,
}

/// A case.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub function: Function,
    pub load: Load,
    pub flows: u32,
    pub rules: u32,
    pub length: usize,
    /// IP version 6.
    pub v6: bool,
    pub beside: Beside,
    /// Something is promised of it.
    pub bar: bool,
}

/// The shortest Ethernet frame without FCS, the shortest of TCP over IPv6, and the longest.
const SHORTEST: usize = 60;
const SHORTEST_V6: usize = 74;
pub const LONGEST: usize = 1514;
/// A mix of lengths.
pub const IMIX: usize = 0;

const fn bar(name: &'static str, load: Load, flows: u32, rules: u32) -> Case {
    Case { bar: true, ..case(name, load, flows, rules, SHORTEST) }
}

const fn balanced(name: &'static str, load: Load, flows: u32, bar: bool) -> Case {
    let function = Function::Balancer(Mode::L2);
    Case { function, bar, ..case(name, load, flows, 0, SHORTEST) }
}

const fn case(name: &'static str, load: Load, flows: u32, rules: u32, length: usize) -> Case {
    let (function, beside) = (Function::Firewall, Beside::Nothing);
    Case { name, function, load, flows, rules, length, v6: false, beside, bar: false }
}

const fn version_6(name: &'static str, flows: u32, beside: &'static str) -> Case {
    Case {
        v6: true,
        beside: Beside::Case(beside),
        ..case(name, Load::Established, flows, 1_000, SHORTEST_V6)
    }
}

const fn mode(name: &'static str, mode: Mode, flows: u32, beside: &'static str) -> Case {
    let function = Function::Balancer(mode);
    Case { function, beside: Beside::Case(beside), ..balanced(name, Load::Established, flows, false) }
}

const fn beside(name: &'static str, function: Function, load: Load, flows: u32, beside: Beside) -> Case {
    Case { function, beside, ..bar(name, load, flows, 1_000) }
}

/// Those that have bars, and others.
pub const CASES: &[Case] = &[
    bar("firewall-established-1k", Load::Established, 1_000, 1_000),
    bar("firewall-established-100k", Load::Established, 100_000, 1_000),
    bar("firewall-established-1m", Load::Established, 1_000_000, 1_000),
    bar("firewall-new", Load::New, 1_000_000, 1_000),
    balanced("balancer-established-1k", Load::Established, 1_000, true),
    balanced("balancer-established-100k", Load::Established, 100_000, true),
    balanced("balancer-established-1m", Load::Established, 1_000_000, true),
    beside("chain-established-1k", Function::Chain, Load::Established, 1_000, Beside::Alone),
    beside("chain-established-100k", Function::Chain, Load::Established, 100_000, Beside::Alone),
    beside(
        "firewall-established-100k-telemetry",
        Function::Firewall,
        Load::Established,
        100_000,
        Beside::Silence,
    ),
    beside("firewall-new-telemetry", Function::Firewall, Load::New, 1_000_000, Beside::Silence),
    Case {
        rules: 10_000,
        ..beside("firewall-swap-10k-rules", Function::Firewall, Load::Established, 100_000, Beside::Swaps)
    },
    beside(
        "firewall-established-100k-two-workers",
        Function::Firewall,
        Load::Established,
        100_000,
        Beside::OneWorker,
    ),
    balanced("balancer-new", Load::New, 1_000_000, false),
    mode("balancer-established-1k-nat", Mode::Nat, 1_000, "balancer-established-1k"),
    mode("balancer-established-100k-nat", Mode::Nat, 100_000, "balancer-established-100k"),
    mode("balancer-established-1k-ipip", Mode::Ipip, 1_000, "balancer-established-1k"),
    mode("balancer-established-100k-ipip", Mode::Ipip, 100_000, "balancer-established-100k"),
    mode("balancer-established-1k-gue", Mode::Gue, 1_000, "balancer-established-1k"),
    mode("balancer-established-100k-gue", Mode::Gue, 100_000, "balancer-established-100k"),
    version_6("firewall-established-1k-ipv6", 1_000, "firewall-established-1k"),
    version_6("firewall-established-100k-ipv6", 100_000, "firewall-established-100k"),
    case("firewall-established-1", Load::Established, 1, 1_000, SHORTEST),
    case("firewall-established-100k-10-rules", Load::Established, 100_000, 10, SHORTEST),
    case("firewall-established-100k-10k-rules", Load::Established, 100_000, 10_000, SHORTEST),
    case("firewall-established-1k-100k-rules", Load::Established, 1_000, 100_000, SHORTEST),
    case("firewall-established-100k-imix", Load::Established, 100_000, 1_000, IMIX),
    case("firewall-established-100k-1518", Load::Established, 100_000, 1_000, LONGEST),
    case("firewall-new-10-rules", Load::New, 1_000_000, 10, SHORTEST),
    case("firewall-new-10k-rules", Load::New, 100_000, 10_000, SHORTEST),
    case("firewall-new-100k-rules", Load::New, 20_000, 100_000, SHORTEST),
    case("firewall-mixed-100k", Load::Mixed, 100_000, 1_000, SHORTEST),
    case("firewall-mixed-1m", Load::Mixed, 1_000_000, 1_000, SHORTEST),
    case("firewall-flood", Load::Flood, 1_000_000, 1_000, SHORTEST),
];

impl Case {
    pub fn named(name: &str) -> Option<&'static Self> {
        CASES.iter().find(|c| c.name == name)
    }

    /// Whether the reference can do it, too: IPv4, one function, at layer 2.
    pub fn has_reference(&self) -> bool {
        let alike = matches!(self.function, Function::Firewall | Function::Balancer(Mode::L2));
        alike && !self.v6 && self.beside == Beside::Nothing
    }

    /// What it is measured beside, for people and for programs.
    pub fn base(&self) -> Option<&'static str> {
        Some(match self.beside {
            Beside::Nothing | Beside::Swaps => return None,
            Beside::Case(name) => name,
            Beside::Alone => "the firewall alone",
            Beside::Silence => "telemetry off",
            Beside::OneWorker => "one worker",
        })
    }
}
