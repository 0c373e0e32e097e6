//! Why a frame is dropped: one flat list with static labels, so that the hot path only increments an array element.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident => $label:literal,)*) => {
        /// Why a frame does not go on. Counted as `drop.<label>`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $name,)* }

        impl DropReason {
            /// Every reason, in the order of [`DropReason::index`].
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The counter's name after `drop.`; never changes once published.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label),* }
            }
        }
    };
}

reasons! {
    /// Shorter than its headers say, or longer than any frame we take.
    Truncated => "truncated",
    /// An unknown EtherType, or more than two VLAN tags.
    EtherType => "ethertype",
    /// An IPv4 header with a wrong version, header length or total length.
    Ipv4Header => "ipv4_header",
    /// The IPv4 header checksum does not match.
    Ipv4Checksum => "ipv4_checksum",
    /// IPv4 loose or strict source routing (RFC 7126 §4.3, §4.4).
    SourceRoute => "source_route",
    /// An IPv6 header with a wrong version or payload length.
    Ipv6Header => "ipv6_header",
    /// IPv6 extension headers in a forbidden order, too many, too long, or with a routing header still in use.
    Ipv6Extension => "ipv6_extension",
    /// A source that is multicast, broadcast or loopback, or an IPv4-mapped IPv6 address on the wire.
    Address => "address",
    /// A fragment other than the first.
    Fragment => "fragment",
    /// The first fragment of a packet whose rest would not pass.
    FirstFragment => "first_fragment",
    /// A fragment that came before its datagram's first, or after it was forgotten: there is no verdict to share.
    FragmentEarly => "fragment_early",
    /// A fragment that overlaps one that passed, or is one again (RFC 5722).
    FragmentOverlap => "fragment_overlap",
    /// A fragment that could hide or rewrite a transport header (RFC 1858, RFC 3128, RFC 7112).
    FragmentTiny => "fragment_tiny",
    /// A fragment that no datagram has room for, that contradicts its length, or is one of too many loose pieces.
    FragmentSize => "fragment_size",
    /// A TCP header with a wrong data offset.
    TcpHeader => "tcp_header",
    /// A combination of TCP flags that no TCP sends (SYN with FIN or RST, none of SYN, ACK and RST).
    TcpFlags => "tcp_flags",
    /// A UDP header whose length contradicts the packet.
    UdpHeader => "udp_header",
    /// A transport header shorter than its protocol's.
    TransportHeader => "transport_header",
    /// An ICMP or ICMPv6 type that neither opens nor belongs to anything.
    IcmpType => "icmp_type",
    /// An ICMP error that quotes no tracked connection.
    IcmpUnrelated => "icmp_unrelated",
    /// An ARP packet that is not Ethernet/IPv4 request or reply.
    Arp => "arp",
    /// Neighbour discovery that RFC 4861 §7.1 tells to discard.
    NeighbourDiscovery => "neighbour_discovery",
    /// A transport checksum that does not match (only where we are the end point).
    TransportChecksum => "transport_checksum",
    /// Came in on a port that the function does not use.
    UnknownPort => "unknown_port",
    /// Not addressed to our MAC address.
    NotOurs => "not_ours",
    /// A rule denies it.
    Denied => "denied",
    /// No rule matches: default deny.
    NoRule => "no_rule",
    /// TCP of no tracked connection and not a SYN.
    TcpNotSyn => "tcp_not_syn",
    /// A segment that the connection's TCP state does not allow.
    TcpState => "tcp_state",
    /// A segment outside of its connection's windows (RFC 9293 §3.10.7.4, RFC 5961; only where TCP is strict).
    TcpWindow => "tcp_window",
    /// Of a TCP connection that was reset, or an ICMP error about it: only a new SYN opens it again.
    TcpReset => "tcp_reset",
    /// The connection's rule, VIP or backend is no longer in the configuration.
    Revoked => "revoked",
    /// A new connection, but the table is full.
    TableFull => "table_full",
    /// A new connection of a source that holds as many as one may.
    SourceLimit => "source_limit",
    /// A new connection of a source that opens them faster than one may.
    SourceRate => "source_rate",
    /// A SYN, but as many connections as may be are half open.
    HalfOpen => "half_open",
    /// A new connection beyond its rule's limit.
    RuleRate => "rule_rate",
    /// From the backends, but of no tracked connection.
    Untracked => "untracked",
    /// Not addressed to a service or to one of our addresses.
    NoService => "no_service",
    /// The service has no backend.
    NoBackend => "no_backend",
    /// ARP or neighbour discovery that is not for us to answer.
    NeighbourIgnored => "neighbour_ignored",
    /// Longer than the path to its backend takes, and its sender was told often enough.
    TooBig => "too_big",
    /// At the end of its time to live or hop limit.
    HopLimit => "hop_limit",
    /// No room before it in its buffer for the headers of a tunnel or an ICMP error.
    Headroom => "headroom",
    /// Taken in by us as its end point; nothing to send in return (a TCP acknowledgement).
    Consumed => "consumed",
    /// Sent to and fro between the functions of a chain.
    ChainLoop => "chain_loop",
}

impl DropReason {
    /// Position in [`DropReason::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_is_the_position_and_labels_are_unique() {
        let labels: std::collections::BTreeSet<_> = DropReason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), DropReason::COUNT);
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), i);
        }
    }
}
