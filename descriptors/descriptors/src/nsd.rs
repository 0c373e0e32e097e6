//! What an NS descriptor means: members, virtual links, and who is connected to which.
//!
//! Reads a tree that [`crate::schema`] has checked; skips what that has reported. Tests: `tests/lint.rs`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use crate::{
    coherence,
    diagnostic::{Code, Lint},
    model::{AffinityScope, LinkProfile, Member, NsFlavour, Nsd, VirtualLink},
    parse::{Names, Reader},
    schema::{boolean, clip},
    yaml::Node,
};

/// The model of an NSD; `None` only when nothing can be said about it at all.
pub(crate) fn build(root: &Node, path: &str, lint: &mut Lint) -> Option<Nsd> {
    let mut it = Ns { r: Reader { lint }, root, floating: Floating::of(root) };
    it.r.ignored(root, "vnffgd", path, "forwarding graphs are made of virtual links here");
    it.r.ignored(root, "ns-configuration", path, "charms and execution environments are OSM's to run");
    it.undeployable(path);
    let id = it.r.required(root, "id", path);
    for key in ["version", "name"] {
        if root.get(key).is_none() {
            let message = format!("`{key}` is missing");
            it.r.lint
                .warning(Code::MissingMandatory, path, root.at, message)
                .hint("OSM shows it to every operator");
        }
    }
    let vnfd_ids = it.vnfd_ids(path);
    let links = it.links(path);
    let saps = it.saps(path, &links);
    let known = vnfd_ids.iter().map(String::as_str).collect();
    let flavours = it.flavours(path, &known, &links);
    coherence::nsd(root, path, it.r.lint);
    let id = id?;
    let text = |key: &str| root.str(key).unwrap_or_default().to_owned();
    Some(Nsd {
        name: root.str("name").unwrap_or(&id).to_owned(),
        version: text("version"),
        designer: text("designer"),
        id,
        vnfd_ids,
        links,
        saps,
        flavours,
    })
}

fn names<V>(of: &BTreeMap<String, V>) -> Names<'_> {
    of.keys().map(String::as_str).collect()
}

struct Ns<'a, 'l> {
    r: Reader<'l>,
    root: &'a Node,
    floating: Floating<'a>,
}

/// What service access points need a floating address for.
#[derive(Default)]
struct Floating<'a> {
    /// Every connection point on these links.
    links: HashSet<&'a str>,
    /// These external connection points, of any VNFD or of one.
    cps: HashSet<(Option<&'a str>, &'a str)>,
}

impl<'a> Floating<'a> {
    fn of(root: &'a Node) -> Self {
        let mut it = Self::default();
        for sap in root.items("sapd") {
            if sap.str("floating-ip-required").and_then(boolean) != Some(true) {
                continue;
            }
            let vnf = sap.get("vnf");
            match vnf.and_then(|v| v.str("ext-cpd-id")) {
                Some(cp) => drop(it.cps.insert((vnf.and_then(|v| v.str("vnfd-id")), cp))),
                None => it.links.extend(sap.str("virtual-link-desc")),
            }
        }
        it
    }

    /// Those of a member of that VNFD.
    fn at(&self, vnfd: &str, links: &BTreeMap<String, String>) -> BTreeSet<String> {
        let named = |cp: &str| self.cps.contains(&(Some(vnfd), cp)) || self.cps.contains(&(None, cp));
        let asked = |(cp, link): &(&String, &String)| self.links.contains(link.as_str()) || named(cp);
        links.iter().filter(asked).map(|(cp, _)| cp.clone()).collect()
    }
}

impl Ns<'_, '_> {
    fn undeployable(&mut self, path: &str) {
        for (key, what) in
            [("nested-nsd-id", "nested network services"), ("pnfd-id", "physical network functions")]
        {
            if let Some(found) = self.root.get(key).filter(|_| !self.root.items(key).is_empty()) {
                let message = format!("{what} (`{key}`)");
                let hint = "they are not deployed here: use VNFs";
                self.r.not_here(&format!("{path}/{key}"), found.at, message, hint);
            }
        }
    }

    fn vnfd_ids(&mut self, path: &str) -> Vec<String> {
        let found: Vec<String> =
            self.root.items("vnfd-id").iter().filter_map(|n| n.text().map(str::to_owned)).collect();
        if found.is_empty() {
            self.r.not_deployable(
                path,
                self.root.at,
                "no `vnfd-id`: there is nothing to deploy",
                "list the VNFDs it is made of",
            );
        }
        found
    }

    fn links(&mut self, path: &str) -> BTreeMap<String, VirtualLink> {
        let root = self.root;
        let profiles: HashMap<&str, (&Node, String)> =
            root.items("df").first().map_or_else(HashMap::new, |df| {
                // From the last: of several profiles of a link, OSM takes the first.
                let all = df.items("virtual-link-profile").iter().enumerate().rev();
                let at = |i| format!("{path}/df/0/virtual-link-profile/{i}");
                all.filter_map(|(i, p)| Some((p.str("virtual-link-desc-id")?, (p, at(i))))).collect()
            });
        let mut out = BTreeMap::new();
        for (i, node) in root.items("virtual-link-desc").iter().enumerate() {
            let Some(id) = node.str("id") else { continue };
            let path = format!("{path}/virtual-link-desc/{i}");
            let management = node.str("mgmt-network").and_then(boolean).unwrap_or(false);
            let vim_network = node.str("vim-network-name").filter(|n| !n.is_empty()).map(str::to_owned);
            let profile = self.r.link_profile((node, &path), profiles.get(id).cloned());
            if let Some(name) = vim_network.as_deref().filter(|_| profile != LinkProfile::default()) {
                let message = format!(
                    "the VIM's network `{}` is used as it is: the link's other properties have no effect",
                    clip(name)
                );
                let found = self.r.lint.warning(Code::Conflict, &path, node.at, message);
                found.hint("remove them, or `vim-network-name`");
            }
            out.insert(id.to_owned(), VirtualLink { id: id.to_owned(), management, vim_network, profile });
        }
        out
    }

    fn saps(&mut self, path: &str, links: &BTreeMap<String, VirtualLink>) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        let known = names(links);
        for (i, node) in self.root.items("sapd").iter().enumerate() {
            let path = format!("{path}/sapd/{i}");
            let Some(id) = node.str("id") else { continue };
            let Some(target) = node.get("virtual-link-desc") else {
                let message =
                    format!("service access point `{id}` has no `virtual-link-desc` and is left out");
                self.r
                    .lint
                    .warning(Code::Ignored, &path, node.at, message)
                    .hint("name the virtual link it gives access to");
                continue;
            };
            let path = format!("{path}/virtual-link-desc");
            if let Some(link) = self.r.resolve("virtual-link-desc", target, &path, &known, false) {
                out.insert(id.to_owned(), link);
            }
        }
        out
    }

    fn flavours(
        &mut self,
        path: &str,
        vnfds: &Names<'_>,
        links: &BTreeMap<String, VirtualLink>,
    ) -> Vec<NsFlavour> {
        let found = self.root.items("df");
        if found.is_empty() {
            self.r.not_deployable(
                path,
                self.root.at,
                "no deployment flavour (`df`)",
                "give one with its `vnf-profile`s",
            );
        }
        let found = self.r.flavours(found, path);
        let mut out = Vec::new();
        for (i, df) in found.iter().enumerate() {
            let path = format!("{path}/df/{i}");
            let Some(id) = df.str("id") else { continue };
            let targets = self.profile_links(df, &path, links);
            let members = self.members(df, &path, vnfds, &targets);
            let groups = self.r.affinity_groups(df);
            self.held_by_site(df, &path);
            out.push(NsFlavour { id: id.to_owned(), members, groups });
        }
        out
    }

    /// OSM reads no affinity of an NSD; Mandate places by site.
    fn held_by_site(&mut self, df: &Node, path: &str) {
        let groups = self.r.affinity_groups(df);
        for (i, node) in df.items("affinity-or-anti-affinity-group").iter().enumerate() {
            let Some(group) = node.str("id").and_then(|id| groups.get(id)) else { continue };
            let (kind, hint) = match (group.anti, group.scope) {
                (true, AffinityScope::NfviPop)
                | (false, AffinityScope::NfviPop | AffinityScope::NfviNode)
                | (true, AffinityScope::NfviNode) => continue,
                (true, _) => ("is held by host", "`scope: nfvi-pop` keeps members at different sites"),
                (false, _) => ("is held by site", "`scope: nfvi-node` keeps members on one host"),
            };
            let path = format!("{path}/affinity-or-anti-affinity-group/{i}");
            let message = format!("the group `{}` {kind}: zones are not asked for", clip(&group.id));
            self.r.lint.warning(Code::Ignored, &path, node.at, message).hint(hint);
        }
    }

    /// What a `virtual-link-profile-id` can mean: a profile's link, or (OSM's habit) a link itself.
    fn profile_links(
        &mut self,
        df: &Node,
        path: &str,
        links: &BTreeMap<String, VirtualLink>,
    ) -> BTreeMap<String, String> {
        let mut out: BTreeMap<String, String> = links.keys().map(|id| (id.clone(), id.clone())).collect();
        let known = names(links);
        for (i, profile) in df.items("virtual-link-profile").iter().enumerate() {
            let path = format!("{path}/virtual-link-profile/{i}");
            let (Some(id), Some(target)) = (profile.str("id"), profile.get("virtual-link-desc-id")) else {
                continue;
            };
            if let Some(link) = self.r.resolve("virtual-link-desc", target, &path, &known, false) {
                out.insert(id.to_owned(), link);
            }
        }
        out
    }

    fn members(
        &mut self,
        df: &Node,
        path: &str,
        vnfds: &Names<'_>,
        targets: &BTreeMap<String, String>,
    ) -> BTreeMap<String, Member> {
        let mut out = BTreeMap::new();
        let profiles = df.items("vnf-profile");
        if profiles.is_empty() {
            self.r.not_deployable(
                path,
                df.at,
                "a flavour without `vnf-profile`: it has no members",
                "give one per member VNF",
            );
        }
        for (i, node) in profiles.iter().enumerate() {
            let path = format!("{path}/vnf-profile/{i}");
            let Some(index) = node.str("id") else { continue };
            let vnfd = self.member_vnfd(node, &path, vnfds);
            let mut member = Member { index: index.to_owned(), ..Member::default() };
            self.connectivity(node, &path, targets, &mut member);
            let named = node.items("affinity-or-anti-affinity-group").iter();
            member.groups = named.filter_map(|g| g.str("id").map(str::to_owned)).collect();
            if let Some(vnfd) = vnfd {
                member.floating = self.floating.at(&vnfd, &member.links);
                member.vnfd = vnfd;
                out.insert(index.to_owned(), member);
            }
        }
        out
    }

    fn member_vnfd(&mut self, node: &Node, path: &str, vnfds: &Names<'_>) -> Option<String> {
        let Some(target) = node.get("vnfd-id") else {
            self.r.not_deployable(
                path,
                node.at,
                "a member without `vnfd-id`",
                "say which VNFD it is an instance of",
            );
            return None;
        };
        self.r.resolve("vnfd-id", target, &format!("{path}/vnfd-id"), vnfds, true)
    }

    fn connectivity(
        &mut self,
        node: &Node,
        path: &str,
        targets: &BTreeMap<String, String>,
        member: &mut Member,
    ) {
        let known = names(targets);
        for (i, one) in node.items("virtual-link-connectivity").iter().enumerate() {
            let path = format!("{path}/virtual-link-connectivity/{i}");
            let Some(target) = one.get("virtual-link-profile-id") else { continue };
            let profile = self.r.resolve(
                "virtual-link-desc",
                target,
                &format!("{path}/virtual-link-profile-id"),
                &known,
                false,
            );
            let link = profile.and_then(|p| targets.get(&p));
            for cp in one.items("constituent-cpd-id") {
                let Some(id) = self.constituent(cp, &member.index, &path) else { continue };
                let Some(link) = link else { continue };
                let texts = cp.items("ip-address").iter().filter_map(|a| a.text()?.parse::<IpAddr>().ok());
                let addresses: Vec<IpAddr> = texts.collect();
                if !addresses.is_empty() {
                    member.addresses.insert(id.clone(), addresses);
                }
                if let Some(other) = member.links.insert(id.clone(), link.clone()) {
                    let message =
                        format!("`{id}` is on `{other}` already: a connection point has one virtual link");
                    let hint = "keep one of the two connections";
                    self.r.lint.error(Code::Duplicate, &path, cp.at, message).hint(hint);
                }
            }
        }
    }

    fn constituent(&mut self, cp: &Node, index: &str, path: &str) -> Option<String> {
        let base = cp.get("constituent-base-element-id")?;
        if base.text() != Some(index) {
            let message =
                format!("`{}` is not this member (`{index}`)", clip(base.text().unwrap_or_default()));
            let path = format!("{path}/constituent-cpd-id");
            // OSM does not look at it, and what it is inside of says it already.
            let found = self.r.lint.warning(Code::DanglingReference, &path, base.at, message);
            found.hint("`constituent-base-element-id` is the id of the vnf-profile around it");
        }
        cp.str("constituent-cpd-id").map(str::to_owned)
    }
}
