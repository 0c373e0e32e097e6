//! What descriptors ask of the infrastructure: pinned CPUs, pages, NUMA, disks, security rules, networks.
//!
//! What OSM makes of it on OpenStack is followed; what OSM ignores and Mandate ignores too is a warning, as far as it
//! changes what the user gets. Every pass is linear in the descriptor. Tests: `tests/platform.rs`, `tests/lint.rs`.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    diagnostic::Code,
    model::{
        AffinityGroup, AffinityScope, Cidr, Hardware, IpProfile, LinkProfile, NumaCell, NumaPolicy, Pages,
        Pinning, ProviderNetwork, SecurityRule, Threads, Volume,
    },
    parse::Reader,
    schema::{boolean, clip},
    yaml::Node,
};

/// VLANs of IEEE 802.1Q: 0 and 4095 are reserved.
const VLANS: std::ops::RangeInclusive<u16> = 1..=4094;
/// Quotas of VMware's VIMs.
const QUOTA: &str = "libvirt has no such quota";

fn truth(node: &Node, key: &str) -> bool {
    node.str(key).and_then(boolean) == Some(true)
}

/// The threads that the cores and threads of a NUMA node imply, the strictest first.
fn implied(policy: Option<&Node>) -> Option<Threads> {
    let nodes = policy.map_or(&[][..], |p| p.items("node"));
    let has = |key: &str| nodes.iter().any(|n| n.get(key).is_some());
    if has("paired-threads") {
        Some(Threads::Require)
    } else if has("num-cores") {
        Some(Threads::Isolate)
    } else {
        has("num-threads").then_some(Threads::Prefer)
    }
}

impl Reader<'_> {
    /// What a `virtual-compute-desc` needs besides CPUs and memory, of which there are that many.
    pub(crate) fn hardware(&mut self, compute: &Node, path: &str, size: (u32, u32)) -> Hardware {
        let (cpu, memory) = (compute.get("virtual-cpu"), compute.get("virtual-memory"));
        let policy = memory.and_then(|m| m.get("numa-node-policy"));
        for (node, key, inner) in [(cpu, "cpu-quota", "virtual-cpu"), (memory, "mem-quota", "virtual-memory")]
        {
            node.into_iter().for_each(|n| self.ignored(n, key, &format!("{path}/{inner}"), QUOTA));
        }
        self.ignored(
            compute,
            "request-additional-capability",
            path,
            "`mandate.vim` in the cloud-init is read",
        );
        let pages = match memory.and_then(|m| m.str("mempage-size")) {
            Some("LARGE") => Some(Pages::Large),
            Some("SMALL") => Some(Pages::Small),
            Some("PREFER_LARGE") => Some(Pages::PreferLarge),
            Some("SIZE_2MB") => Some(Pages::Mib2),
            Some("SIZE_1GB") => Some(Pages::Gib1),
            _ => None,
        };
        let pinning = cpu.and_then(|c| c.get("pinning"));
        let pinning = self.pinning(pinning, implied(policy), &format!("{path}/virtual-cpu/pinning"));
        let place = format!("{path}/virtual-memory/numa-node-policy");
        let numa = policy.and_then(|p| self.numa(p, &place, size));
        Hardware { pinning, pages, numa }
    }

    fn pinning(&mut self, node: Option<&Node>, implied: Option<Threads>, path: &str) -> Option<Pinning> {
        let stated = node.and_then(|n| n.get("thread-policy"));
        let threads = match stated.and_then(Node::text) {
            Some("REQUIRE") => Some(Threads::Require),
            Some("ISOLATE") => Some(Threads::Isolate),
            Some("PREFER") => Some(Threads::Prefer),
            _ => None,
        };
        let found = match node.and_then(|n| n.str("policy")) {
            Some("static") => Some(Pinning::Static(threads.or(implied))),
            Some("dynamic") => Some(Pinning::Dynamic),
            _ => implied.map(|i| Pinning::Static(threads.or(Some(i)))),
        };
        if let (Some(stated), None | Some(Pinning::Dynamic)) = (stated, found) {
            let message = "`thread-policy` of CPUs that are shared: it is left out";
            let found = self.lint.warning(Code::Conflict, path, stated.at, message);
            found.hint("pin them with `policy: static`, or remove it");
        }
        found
    }

    fn numa(&mut self, policy: &Node, path: &str, size: (u32, u32)) -> Option<NumaPolicy> {
        let listed = policy.items("node");
        let stated = policy.str("node-cnt").and_then(|t| t.parse::<u16>().ok()).filter(|n| *n > 0);
        let nodes = u16::try_from(listed.len()).ok().filter(|n| *n > 0).or(stated);
        let Some(nodes) = nodes else {
            self.ignored(
                policy,
                "mem-policy",
                path,
                "there is no `node-cnt` or `node` that it would be about",
            );
            return None;
        };
        if let (Some(count), Some(stated)) = (policy.get("node-cnt"), stated.filter(|s| *s != nodes)) {
            let message = format!("`node-cnt` is {stated}, and there are {nodes} `node`s");
            let found = self.lint.warning(Code::Conflict, path, count.at, message);
            found.hint("OSM counts the `node`s, and so it is done here");
        }
        let cells = self.cells(listed, path, size);
        Some(NumaPolicy { nodes, strict: policy.str("mem-policy") == Some("STRICT"), cells })
    }

    /// The nodes' CPUs and memory, when they are all given; nova takes all of them or none.
    fn cells(&mut self, listed: &[Node], path: &str, (vcpus, memory_mib): (u32, u32)) -> Vec<NumaCell> {
        let mut cells: Vec<(u64, NumaCell)> = listed.iter().filter_map(cell).collect();
        let partly = |n: &Node| n.get("memory-mb").is_some() || !n.items("vcpu").is_empty();
        let Some(first) = listed.iter().find(|n| partly(n)) else { return Vec::new() };
        if cells.len() < listed.len() {
            let message = "CPUs and memory of some NUMA nodes only: they are divided evenly";
            let found = self.lint.warning(Code::Ignored, &format!("{path}/node"), first.at, message);
            found.hint("give every `node` its `vcpu`s and `memory-mb`, or none of them");
            return Vec::new();
        }
        cells.sort_by_key(|(id, _)| *id);
        let numbered = cells.iter().enumerate().all(|(i, (id, _))| u64::try_from(i) == Ok(*id));
        let mut all: Vec<u32> = cells.iter().flat_map(|(_, c)| c.vcpus.iter().copied()).collect();
        all.sort_unstable();
        let memory = cells.iter().map(|(_, c)| u64::from(c.memory_mib)).sum::<u64>();
        if !numbered || !all.iter().copied().eq(0..vcpus) || memory != u64::from(memory_mib) {
            let message = format!(
                "NUMA nodes that are not the whole: ids from 0, CPUs 0 to {} once each, {memory_mib} MiB together",
                vcpus.saturating_sub(1)
            );
            let found = self.lint.error(Code::BadValue, &format!("{path}/node"), first.at, message);
            found.hint("divide what `num-virtual-cpu` and `size` give, no more and no less");
            return Vec::new();
        }
        cells.into_iter().map(|(_, c)| c).collect()
    }

    /// The root disk, GB, and more of them. `descs`: the VDU's `virtual-storage-desc`, with the path of each.
    pub(crate) fn disks(&mut self, descs: &[(&Node, String)]) -> (u32, Vec<Volume>) {
        let (mut root, mut volumes) = (0, Vec::new());
        for (i, (desc, path)) in descs.iter().enumerate() {
            let kind = crate::yaml::local(desc.str("type-of-storage").unwrap_or("root-storage"));
            let Some(size_gib) = self.disk_size(desc, path) else { continue };
            self.ignored(desc, "disk-io-quota", path, QUOTA);
            let mut without_effect = |what: &str| {
                let message = format!("{what} (`{}`)", clip(desc.str("id").unwrap_or_default()));
                let found = self.lint.warning(Code::Ignored, path, desc.at, message);
                found.hint(
                    "what must outlive the instance goes to `persistent-storage` that is not its first disk",
                );
            };
            match (i, kind) {
                (0, "persistent-storage") => without_effect("the root disk ends with its instance"),
                (1.., "ephemeral-storage" | "swap-storage") => {
                    without_effect("ephemeral and swap disks are not made here");
                }
                (1.., "root-storage") => {
                    without_effect("only the first disk is the root disk: it is not made")
                }
                _ => {}
            }
            match (i, kind) {
                (0, _) => root = size_gib,
                (_, "persistent-storage") => {
                    let id = desc.str("id").unwrap_or_default().to_owned();
                    volumes.push(Volume { id, size_gib });
                }
                _ => {}
            }
        }
        (root, volumes)
    }

    fn disk_size(&mut self, desc: &Node, path: &str) -> Option<u32> {
        let size = desc.str("size-of-storage").map_or(Ok(0), str::parse::<u64>).ok()?;
        let persistent =
            desc.str("type-of-storage").is_some_and(|t| crate::yaml::local(t) == "persistent-storage");
        let fits = u32::try_from(size).ok().filter(|s| *s > 0 || !persistent);
        if fits.is_none() {
            let message = format!("a disk of {size} GB");
            let found = self.lint.error(Code::BadValue, path, desc.at, message);
            found.hint("`size-of-storage` is in GB; a persistent disk has at least 1");
        }
        fits
    }

    /// A `security-group-rule`.
    pub(crate) fn security_rule(&mut self, node: &Node, path: &str) -> Option<SecurityRule> {
        let protocol = node.str("protocol").unwrap_or("tcp").to_owned();
        let end = |key: &str| node.str(key).and_then(|t| t.parse::<u16>().ok());
        let (low, high) = (end("port-range-min"), end("port-range-max"));
        let icmp = protocol == "icmp";
        let range = (low.unwrap_or(0), high.unwrap_or(u16::MAX));
        let all = range == (0, u16::MAX);
        let good = if icmp { all || range.0 <= 255 && range.1 <= 255 } else { range.0 <= range.1 };
        if !good {
            let message = format!("the range {} to {} of {protocol}", range.0, range.1);
            let hint = "ports from the lower to the higher one; for ICMP, its type and its code, 255 at most";
            self.lint.error(Code::BadValue, path, node.at, message).hint(hint);
            return None;
        }
        Some(SecurityRule {
            ingress: node.str("direction") != Some("egress"),
            ipv6: node.str("ether-type") == Some("ipv6"),
            protocol,
            ports: (!all).then_some(range),
        })
    }

    /// What a link is to be: of its description, and of its profile in the first flavour.
    pub(crate) fn link_profile(
        &mut self,
        link: (&Node, &str),
        profile: Option<(&Node, String)>,
    ) -> LinkProfile {
        let data = profile.as_ref().and_then(|(p, path)| {
            Some((p.get("virtual-link-protocol-data")?, format!("{path}/virtual-link-protocol-data")))
        });
        if let Some((profile, path)) = &profile {
            for key in ["max-bitrate-requirements", "max-bit-rate-requirements"] {
                self.ignored(profile, key, path, "no VIM limits a link: say `qos` in `mandate.vim.ports`");
            }
        }
        let (l2, l3) = match &data {
            Some((node, _)) => (node.get("l2-protocol-data"), node.get("l3-protocol-data")),
            None => (None, None),
        };
        let at = data.map(|(_, path)| path).unwrap_or_default();
        let mtu = l2.and_then(|n| self.mtu(n, &format!("{at}/l2-protocol-data")));
        let kind = l2.and_then(|n| n.get("network-type"));
        LinkProfile {
            provider: self.provider(link, kind),
            mtu,
            subnet: l3.and_then(|n| self.ip_profile(n, &format!("{at}/l3-protocol-data"))),
        }
    }

    /// IPv4 needs 68 bytes (RFC 791); no NIC takes more than 9216 in a frame.
    fn mtu(&mut self, l2: &Node, path: &str) -> Option<u16> {
        let node = l2.get("mtu")?;
        let mtu = node.text()?.parse::<u16>().ok()?;
        if (68..=9216).contains(&mtu) {
            return Some(mtu);
        }
        let message = format!("an MTU of {mtu}");
        self.lint.error(Code::BadValue, &format!("{path}/mtu"), node.at, message).hint("68 to 9216 bytes");
        None
    }

    fn provider(&mut self, (link, path): (&Node, &str), kind: Option<&Node>) -> Option<ProviderNetwork> {
        let node = link.get("provider-network")?;
        let path = format!("{path}/provider-network");
        let flat = kind.and_then(Node::text) == Some("flat");
        if let Some(kind) = kind.filter(|k| matches!(k.text(), Some("vxlan" | "gre"))) {
            let message = format!("a provider network of type {}", kind.text().unwrap_or_default());
            let found = self.lint.warning(Code::Conflict, &path, kind.at, message);
            found.hint("it is a VLAN here: `network-type` is `vlan` or `flat`");
        }
        let tag = node.get("segmentation_id").filter(|t| t.text().is_some());
        let segment = tag.and_then(|t| t.text()?.parse::<u16>().ok()).filter(|s| VLANS.contains(s));
        if let Some(tag) = tag.filter(|_| segment.is_none() || flat) {
            let message = match segment {
                Some(segment) => format!("VLAN {segment} of a flat network"),
                None => format!("`{}` is no VLAN", clip(tag.text().unwrap_or_default())),
            };
            let found = self.lint.error(Code::BadValue, &format!("{path}/segmentation_id"), tag.at, message);
            found.hint("`segmentation_id` is 1 to 4094, and a flat network has none");
        }
        let physical_network = node.str("physical-network").filter(|n| !n.is_empty()).map(str::to_owned);
        Some(ProviderNetwork { physical_network, segment, flat })
    }

    fn ip_profile(&mut self, l3: &Node, path: &str) -> Option<IpProfile> {
        for (key, why) in [
            ("ip-allocation-pools", "addresses are taken from the whole `cidr`, as OSM does"),
            ("ipv6-address-mode", "guests get their addresses from DHCP or the config drive"),
            (
                "security-group",
                "OSM does not read it: name `security-group-rule`s at the VNF's connection points",
            ),
        ] {
            self.ignored(l3, key, path, why);
        }
        let node = l3.get("cidr")?;
        let place = format!("{path}/cidr");
        let text = node.text()?;
        let found = text.contains('/').then(|| text.parse::<Cidr>().ok()).flatten();
        let version = l3.str("ip-version").unwrap_or("ipv4");
        let Some(cidr) = found.filter(|c| c.address().is_ipv4() == (version == "ipv4")) else {
            let message = format!("`{}` is no prefix of {version}", clip(text));
            let found = self.lint.error(Code::BadValue, &place, node.at, message);
            found.hint("like 192.0.2.0/24; `ip-version: ipv6` for one like 2001:db8::/64");
            return None;
        };
        if cidr.to_string() != text.to_ascii_lowercase() && cidr.address().is_ipv4() {
            let message = format!("`{}` is read as {cidr}", clip(text));
            self.lint.warning(Code::Conflict, &place, node.at, message).hint("clear the host's bits");
        }
        let gateway = l3.get("gateway-ip").and_then(|g| self.gateway(g, cidr, &format!("{path}/gateway-ip")));
        if l3.get("dhcp-enabled").is_none() {
            let message = "no `dhcp-enabled`: SOL006 means true, OSM false, and so it is taken here";
            let found = self.lint.warning(Code::Conflict, path, l3.at, message);
            found.hint("say `dhcp-enabled: true` or `false`");
        }
        Some(IpProfile { cidr, gateway, dhcp: truth(l3, "dhcp-enabled") })
    }

    fn gateway(&mut self, node: &Node, cidr: Cidr, path: &str) -> Option<IpAddr> {
        let address = node.text()?.parse::<IpAddr>().ok()?;
        if cidr.contains(address) {
            return Some(address);
        }
        let message = format!("the gateway {address} is not in {cidr}");
        self.lint.error(Code::BadValue, path, node.at, message).hint("an address of the `cidr`, or none");
        None
    }

    /// The affinity groups of a flavour, by id; one without a type means nothing.
    pub(crate) fn affinity_groups(&self, df: &Node) -> BTreeMap<String, AffinityGroup> {
        let group = |node: &Node| {
            let id = node.str("id")?.to_owned();
            let scope = match node.str("scope") {
                Some("zone-group") => AffinityScope::ZoneGroup,
                Some("zone") => AffinityScope::Zone,
                Some("nfvi-pop") => AffinityScope::NfviPop,
                _ => AffinityScope::NfviNode,
            };
            let anti = node.str("type")? == "anti-affinity";
            Some((id.clone(), AffinityGroup { id, anti, scope }))
        };
        df.items("affinity-or-anti-affinity-group").iter().filter_map(group).collect()
    }

    /// What OSM does not read of a connection point, and Mandate takes from the cloud-init instead.
    pub(crate) fn unread_of_cpd(&mut self, cpd: &Node, path: &str, asked: &crate::model::PortRequests) {
        let elsewhere = "OSM does not read it: say it in `mandate.vim.ports` of the cloud-init";
        if asked.qos.is_none() {
            self.ignored(cpd, "bitrate-requirement", path, elsewhere);
        }
        if truth(cpd, "trunk-mode") && asked.subports.is_empty() {
            self.ignored(cpd, "trunk-mode", path, elsewhere);
        }
        for (i, protocol) in cpd.items("protocol").iter().enumerate() {
            for (j, data) in protocol.items("address-data").iter().enumerate() {
                let Some(l3) = data.get("l3-address-data") else { continue };
                if truth(l3, "floating-ip-activated") && asked.floating.is_none() {
                    let path = format!("{path}/protocol/{i}/address-data/{j}/l3-address-data");
                    let why = "OSM does not read it: say `floating-ip-required` in the NSD's sapd";
                    self.ignored(l3, "floating-ip-activated", &path, why);
                }
            }
        }
    }
}

/// A NUMA node with its id, if both its CPUs and its memory are given.
fn cell(node: &Node) -> Option<(u64, NumaCell)> {
    let id = node.str("id")?.parse().ok()?;
    let number = |v: &Node| v.str("id").and_then(|t| t.parse().ok());
    let mut vcpus: Vec<u32> = node.items("vcpu").iter().filter_map(number).collect();
    vcpus.sort_unstable();
    let memory_mib = node.str("memory-mb")?.parse().ok()?;
    (!vcpus.is_empty()).then_some((id, NumaCell { vcpus, memory_mib }))
}
