//! Statements of a descriptor that are each valid and do not go together: what OSM deploys and an operator regrets.
//!
//! All of them are warnings: the descriptor says what to do, and it can be done. Every pass is linear in the
//! descriptor. Tests: `tests/golden/coherence-*.yaml`.

use std::collections::{HashMap, HashSet};

use crate::{
    diagnostic::{Code, Lint},
    schema::{boolean, clip, thousandths},
    yaml::{Node, Value},
};

/// A thousandth of a GiB, in which [`thousandths`] counts memory.
const GIB: u64 = 1000;

/// Items of a list with their paths and ids.
fn items<'a>(node: &'a Node, list: &str, at: &str) -> impl Iterator<Item = (&'a Node, String, &'a str)> {
    let at = format!("{at}/{list}");
    let all = node.items(list).iter().enumerate();
    all.filter_map(move |(i, n)| Some((n, format!("{at}/{i}"), n.str("id")?)))
}

/// Checks a VNF descriptor.
pub(crate) fn vnfd(root: &Node, at: &str, lint: &mut Lint) {
    let interfaces = interfaces(root, at);
    management(root, &interfaces, lint);
    external(root, at, &interfaces, lint);
    internal(root, at, &interfaces, lint);
    addresses(root, &interfaces, lint);
    positions(&interfaces, lint);
    unused(root, at, lint);
    vdus(root, at, lint);
    for (df, path, _) in items(root, "df", at) {
        for (aspect, path, _) in items(df, "scaling-aspect", &path) {
            policies(aspect, &path, lint);
        }
    }
}

/// A VDU's connection point and its first interface.
struct Interface<'a> {
    vdu: &'a str,
    cpd: &'a str,
    node: &'a Node,
    path: String,
}

impl<'a> Interface<'a> {
    fn requirement(&self) -> Option<&'a Node> {
        self.node.items("virtual-network-interface-requirement").first()
    }

    fn place(&self) -> String {
        format!("{}/virtual-network-interface-requirement/0", self.path)
    }

    fn hardware(&self) -> Option<&'a Node> {
        let kind = self.requirement()?.get("virtual-interface")?.get("type")?;
        kind.text().filter(|t| matches!(*t, "SR-IOV" | "PCI-PASSTHROUGH")).map(|_| kind)
    }

    fn internal_link(&self) -> Option<&'a Node> {
        self.node.get("int-virtual-link-desc")
    }
}

fn interfaces<'a>(root: &'a Node, at: &str) -> Vec<Interface<'a>> {
    let mut out = Vec::new();
    for (vdu, path, id) in items(root, "vdu", at) {
        for (node, path, cpd) in items(vdu, "int-cpd", &path) {
            out.push(Interface { vdu: id, cpd, node, path });
        }
    }
    out
}

/// `ext-cpd` -> (VDU, `int-cpd`).
fn behind(cp: &Node) -> Option<(&str, &str)> {
    let target = cp.get("int-cpd")?;
    Some((target.str("vdu-id")?, target.str("cpd")?))
}

/// Management networks are looked up, not made, and have no physical functions behind them.
fn management(root: &Node, interfaces: &[Interface<'_>], lint: &mut Lint) {
    let Some(name) = root.str("mgmt-cp") else { return };
    let cp = root.items("ext-cpd").iter().find(|cp| cp.str("id") == Some(name));
    let Some((vdu, cpd)) = cp.and_then(behind) else { return };
    for it in interfaces.iter().filter(|it| it.vdu == vdu && it.cpd == cpd) {
        let Some(kind) = it.hardware() else { continue };
        let message = format!(
            "the management connection point `{}` is an interface of type {}",
            clip(name),
            kind.text().unwrap_or_default()
        );
        let path = format!("{}/virtual-interface/type", it.place());
        lint.warning(Code::ManagementNetwork, &path, kind.at, message)
            .hint("make it PARAVIRT: management networks of a VIM seldom have a physical network");
    }
}

/// One external connection point per interface, and not on an internal link too.
fn external(root: &Node, at: &str, interfaces: &[Interface<'_>], lint: &mut Lint) {
    let linked: HashSet<(&str, &str)> =
        interfaces.iter().filter(|it| it.internal_link().is_some()).map(|it| (it.vdu, it.cpd)).collect();
    let mut seen: HashMap<(&str, &str), &str> = HashMap::new();
    for (cp, path, id) in items(root, "ext-cpd", at) {
        let Some(target) = behind(cp) else { continue };
        if let Some(other) = seen.insert(target, id) {
            let message = format!("`{}` and `{}` are the same interface", clip(other), clip(id));
            lint.warning(Code::Conflict, &path, cp.at, message)
                .hint("an interface has one external connection point: remove one");
        }
        if linked.contains(&target) {
            let message = format!("`{}` is on an internal virtual link too", clip(target.1));
            lint.warning(Code::Conflict, &path, cp.at, message)
                .hint("an interface is on one network: remove the `ext-cpd` or the `int-virtual-link-desc`");
        }
    }
}

/// Interfaces on no network, and internal links that connect nothing.
fn internal(root: &Node, at: &str, interfaces: &[Interface<'_>], lint: &mut Lint) {
    let outside: HashSet<(&str, &str)> = root.items("ext-cpd").iter().filter_map(behind).collect();
    let mut ends: HashMap<&str, usize> = HashMap::new();
    for it in interfaces {
        match it.internal_link().and_then(Node::text) {
            Some(link) => *ends.entry(link).or_default() += 1,
            None if !outside.contains(&(it.vdu, it.cpd)) => {
                let message = format!("interface `{}` is on no network", clip(it.cpd));
                lint.warning(Code::Unused, &it.path, it.node.at, message)
                    .hint("give it an `int-virtual-link-desc` or an `ext-cpd`");
            }
            None => {}
        }
    }
    for (link, path, id) in items(root, "int-virtual-link-desc", at) {
        if !ends.contains_key(id) {
            let message = format!("no `int-cpd` is on the internal virtual link `{}`", clip(id));
            lint.warning(Code::Unused, &path, link.at, message).hint("connect one or remove the link");
        }
    }
}

/// Fixed addresses are those of one instance, once.
fn addresses(root: &Node, interfaces: &[Interface<'_>], lint: &mut Lint) {
    let many = scaled(root);
    for (key, what) in [("ip-address", "IP address"), ("mac-address", "MAC address")] {
        let mut seen: HashMap<String, &str> = HashMap::new();
        for it in interfaces {
            let Some(node) = it.requirement().and_then(|r| r.get(key)) else { continue };
            let Some(text) = node.text() else { continue };
            let path = format!("{}/{key}", it.place());
            if key == "mac-address" && !is_mac(text) {
                let message = format!("`{}` is not a MAC address", clip(text));
                lint.warning(Code::BadValue, &path, node.at, message)
                    .hint("six pairs of hexadecimal digits, the first one even: `fa:16:3e:00:00:01`");
            }
            if many.contains(it.vdu) {
                let message = format!("a fixed {what} for `{}`, of which there may be several", clip(it.vdu));
                lint.warning(Code::Conflict, &path, node.at, message)
                    .hint("leave it out, or allow one instance only");
            }
            if let Some(other) = seen.insert(text.to_ascii_lowercase(), it.cpd) {
                let message = format!("`{}` has the {what} `{}` already", clip(other), clip(text));
                lint.warning(Code::Conflict, &path, node.at, message).hint("give each its own");
            }
        }
    }
}

/// VDUs that some profile or level allows more than one instance of.
fn scaled(root: &Node) -> HashSet<&str> {
    let more = |n: &Node, key: &str| n.str(key).and_then(|t| t.parse::<u64>().ok()).is_some_and(|n| n > 1);
    let mut out = HashSet::new();
    for df in root.items("df") {
        let profiles = df.items("vdu-profile").iter();
        out.extend(profiles.filter(|p| more(p, "max-number-of-instances")).filter_map(|p| p.str("id")));
        for level in df.items("instantiation-level") {
            let vdus = level.items("vdu-level").iter();
            out.extend(vdus.filter(|v| more(v, "number-of-instances")).filter_map(|v| v.str("vdu-id")));
        }
    }
    out
}

/// Unicast, in the usual notation.
fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let pair = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
    let unicast = u8::from_str_radix(parts[0], 16).is_ok_and(|first| first & 1 == 0);
    parts.len() == 6 && parts.iter().all(pair) && unicast
}

/// The order of a VDU's interfaces decides which is which inside the guest.
fn positions(interfaces: &[Interface<'_>], lint: &mut Lint) {
    let mut seen: HashMap<(&str, &str), &str> = HashMap::new();
    for it in interfaces {
        let Some(position) = it.requirement().and_then(|r| r.get("position")) else { continue };
        let Some(number) = position.text() else { continue };
        if let Some(other) = seen.insert((it.vdu, number), it.cpd) {
            let message =
                format!("`{}` and `{}` are both at position {}", clip(other), clip(it.cpd), clip(number));
            lint.warning(Code::Conflict, &format!("{}/position", it.place()), position.at, message)
                .hint("number the interfaces of a VDU differently");
        }
    }
}

/// Descriptions that no VDU uses.
fn unused(root: &Node, at: &str, lint: &mut Lint) {
    for list in ["virtual-compute-desc", "virtual-storage-desc", "sw-image-desc"] {
        let mut used: HashSet<&str> = HashSet::new();
        for user in root.items("vdu").iter().chain(root.items("virtual-storage-desc")) {
            used.extend(user.str(list));
            used.extend(user.items(list).iter().filter_map(Node::text));
            used.extend(user.items(&format!("alternative-{list}")).iter().filter_map(Node::text));
        }
        for (node, path, id) in items(root, list, at).filter(|(_, _, id)| !used.contains(id)) {
            let message = format!("no VDU uses `{}`", clip(id));
            lint.warning(Code::Unused, &path, node.at, message)
                .hint(format!("name it in a VDU's `{list}`, or remove it"));
        }
    }
}

fn vdus(root: &Node, at: &str, lint: &mut Lint) {
    let by_id = |list: &str| -> HashMap<&str, &Node> {
        root.items(list).iter().filter_map(|c| Some((c.str("id")?, c))).collect()
    };
    let (computes, images) = (by_id("virtual-compute-desc"), by_id("sw-image-desc"));
    let storages = by_id("virtual-storage-desc");
    for (vdu, path, _) in items(root, "vdu", at) {
        if let (Some(_), Some(file)) = (vdu.get("cloud-init"), vdu.get("cloud-init-file")) {
            let message = "`cloud-init` beside `cloud-init-file`: only one of them reaches the VDU";
            lint.warning(Code::Conflict, &format!("{path}/cloud-init-file"), file.at, message)
                .hint("keep one");
        }
        if let Some(compute) = vdu.str("virtual-compute-desc").and_then(|id| computes.get(id)) {
            pages(compute, &path, lint);
        }
        let Some(image) = vdu.str("sw-image-desc").and_then(|id| images.get(id)) else { continue };
        let disk = vdu.items("virtual-storage-desc").first().and_then(Node::text);
        let disk = disk.and_then(|id| storages.get(id)).and_then(|d| d.get("size-of-storage"));
        room(image, ("min-disk", disk), &path, lint);
        let memory = vdu.str("virtual-compute-desc").and_then(|id| computes.get(id));
        room(image, ("min-ram", memory.and_then(|c| c.get("virtual-memory")?.get("size"))), &path, lint);
    }
}

/// An image says what it needs at least, and a VIM refuses less. A disk of 0 is as large as the image.
fn room(image: &Node, (least, given): (&str, Option<&Node>), vdu: &str, lint: &mut Lint) {
    let needed = image.str(least).and_then(thousandths);
    let (Some(needed), Some(given)) = (needed, given) else { return };
    if given.text().and_then(thousandths).is_some_and(|n| n > 0 && n < needed) {
        let message = format!(
            "{} GB is less than the image's `{least}`, {} GB",
            clip(given.text().unwrap_or_default()),
            clip(image.str(least).unwrap_or_default())
        );
        lint.warning(Code::Conflict, &format!("{vdu}/sw-image-desc"), given.at, message)
            .hint("the VIM refuses the instance: give it more, or correct the image's need");
    }
}

/// Huge pages of 1 GiB come whole.
fn pages(compute: &Node, vdu: &str, lint: &mut Lint) {
    let Some(memory) = compute.get("virtual-memory") else { return };
    let Some(size) = memory.get("size") else { return };
    let whole = size.text().and_then(thousandths).is_none_or(|n| n % GIB == 0);
    if memory.str("mempage-size") == Some("SIZE_1GB") && !whole {
        let message = "1 GiB pages for memory that is no whole number of GiB";
        lint.warning(Code::Conflict, &format!("{vdu}/virtual-compute-desc"), size.at, message)
            .hint("round the `size` up, or take SIZE_2MB pages");
    }
}

/// Automatic scaling that never happens, or never ends.
fn policies(aspect: &Node, at: &str, lint: &mut Lint) {
    for (p, policy) in aspect.items("scaling-policy").iter().enumerate() {
        let path = format!("{at}/scaling-policy/{p}");
        let criteria = policy.items("scaling-criteria");
        if policy.str("scaling-type") == Some("automatic") && criteria.is_empty() {
            lint.warning(Code::Scaling, &path, policy.at, "automatic scaling without `scaling-criteria`")
                .hint("say which measurement starts it, or make it manual");
        }
        for (c, one) in criteria.iter().enumerate() {
            let threshold = |key: &str| one.str(key).and_then(thousandths);
            let (inward, outward) = (threshold("scale-in-threshold"), threshold("scale-out-threshold"));
            let below = matches!(one.str("scale-in-relational-operation"), Some("LT" | "LE"));
            let above = matches!(one.str("scale-out-relational-operation"), Some("GT" | "GE"));
            if inward.zip(outward).is_some_and(|(i, o)| i >= o) && below && above {
                let message = "it scales in below a value that is not under the one it scales out above";
                lint.warning(Code::Scaling, &format!("{path}/scaling-criteria/{c}"), one.at, message)
                    .hint("keep `scale-in-threshold` well under `scale-out-threshold`");
            }
        }
    }
}

/// Checks an NS descriptor.
pub(crate) fn nsd(root: &Node, at: &str, lint: &mut Lint) {
    let mut used: HashSet<&str> = HashSet::new();
    let mut joined: HashSet<&str> = HashSet::new();
    for (df, path, _) in items(root, "df", at) {
        let profiles = df.items("virtual-link-profile").iter();
        let links: HashMap<&str, &str> =
            profiles.filter_map(|p| Some((p.str("id")?, p.str("virtual-link-desc-id")?))).collect();
        for (member, path, id) in items(df, "vnf-profile", &path) {
            used.extend(member.str("vnfd-id"));
            let connections = member.items("virtual-link-connectivity").iter();
            let names = connections.filter_map(|c| c.str("virtual-link-profile-id"));
            joined.extend(names.map(|n| links.get(n).copied().unwrap_or(n)));
            instances(member, &path, id, lint);
        }
    }
    for sap in root.items("sapd") {
        joined.extend(sap.str("virtual-link-desc"));
    }
    unreferenced(root, at, &used, lint);
    for (link, path, id) in items(root, "virtual-link-desc", at) {
        network(link, &path, lint);
        if !joined.contains(id) {
            let message = format!("no member is on the virtual link `{}`", clip(id));
            lint.warning(Code::Unused, &path, link.at, message)
                .hint("connect a member with `virtual-link-connectivity`, or remove it");
        }
    }
}

fn instances(member: &Node, at: &str, id: &str, lint: &mut Lint) {
    let number = |key: &str| member.str(key).and_then(|t| t.parse::<u64>().ok());
    let (min, max) = (number("min-number-of-instances"), number("max-number-of-instances"));
    if min.zip(max).is_some_and(|(min, max)| min > max) {
        lint.warning(Code::Conflict, at, member.at, "more instances at least than at most")
            .hint("`min-number-of-instances` is not above `max-number-of-instances`");
    }
    if member.items("virtual-link-connectivity").is_empty() {
        let message = format!("member `{}` is on no virtual link", clip(id));
        lint.warning(Code::Unused, at, member.at, message)
            .hint("connect it with `virtual-link-connectivity`");
    }
}

fn unreferenced(root: &Node, at: &str, used: &HashSet<&str>, lint: &mut Lint) {
    for (i, node) in root.items("vnfd-id").iter().enumerate() {
        let Some(id) = node.text().filter(|id| !used.contains(id)) else { continue };
        let message = format!("no member is an instance of `{}`", clip(id));
        lint.warning(Code::Unused, &format!("{at}/vnfd-id/{i}"), node.at, message)
            .hint("give it a `vnf-profile`, or remove it");
    }
}

/// A provider network is what OSM puts SR-IOV ports on; a management network is looked up by its name.
fn network(link: &Node, at: &str, lint: &mut Lint) {
    let management = link.str("mgmt-network").and_then(boolean) == Some(true);
    let Some(provider) = link.get("provider-network").filter(|p| matches!(p.value, Value::Map(_))) else {
        return;
    };
    if management {
        let message = "a management network that is a provider network, which OSM makes for SR-IOV ports";
        lint.warning(Code::ManagementNetwork, &format!("{at}/provider-network"), provider.at, message)
            .hint("name the VIM's network in `vim-network-name`, or drop `mgmt-network`");
    }
}
