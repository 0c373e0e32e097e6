//! What a VNF descriptor means: references, limits, and what could not be deployed.
//!
//! Reads a tree that [`crate::schema`] has checked; skips what that has reported. Tests: `tests/lint.rs`.

mod images;

use std::collections::{BTreeMap, HashMap};

use dataplane_control::day0 as delivery;
pub(crate) use images::PLACEHOLDER;

use crate::{
    coherence, day0,
    diagnostic::{Code, Lint},
    model::{
        AffinityGroup, AffinityScope, CpRef, Hardware, IntCpd, InternalLink, PortRequests, PortSecurity,
        Requests, ScalingAspect, SecurityRule, Vdu, VduProfile, VnfFlavour, Vnfd, Volume,
    },
    parse::{Names, Reader, Within},
    schema::{boolean, clip, thousandths},
    yaml::{Mark, Node},
};

/// SOL006's default of `virtual-memory.size`: 1 GiB.
const DEFAULT_MEMORY_MIB: u32 = 1024;

/// What a `virtual-compute-desc` gives: vCPUs, memory (MiB) and the rest; `None` if it cannot be given.
type Compute = Option<(u32, u32, Hardware)>;

/// Ids of the named lists, before anything refers to them.
struct Ids<'a> {
    computes: Names<'a>,
    storages: Names<'a>,
    images: Names<'a>,
    links: Names<'a>,
    vdus: Names<'a>,
    ext_cps: Names<'a>,
    /// `int-cpd`s by VDU.
    cpds: HashMap<&'a str, Names<'a>>,
    storage_nodes: HashMap<&'a str, &'a Node>,
    security_rules: Names<'a>,
    /// The first `ext-cpd` of each (VDU, `int-cpd`), with its place.
    externals: HashMap<(&'a str, &'a str), (usize, &'a Node)>,
}

fn ids<'a>(node: &'a Node, key: &str) -> Names<'a> {
    Names::of(node, key, "id")
}

fn by_id<'a>(node: &'a Node, key: &str) -> impl Iterator<Item = (&'a str, &'a Node)> {
    node.items(key).iter().filter_map(|n| Some((n.str("id")?, n)))
}

/// `ext-cpd` -> (VDU, `int-cpd`).
fn behind(external: &Node) -> Option<(&str, &str)> {
    let target = external.get("int-cpd")?;
    Some((target.str("vdu-id")?, target.str("cpd")?))
}

impl<'a> Ids<'a> {
    fn of(root: &'a Node) -> Self {
        // From the last: of several, the first one stays, as in OSM.
        let externals = root.items("ext-cpd").iter().enumerate().rev();
        let externals = externals.filter_map(|(i, n)| Some((behind(n)?, (i, n)))).collect();
        Self {
            computes: ids(root, "virtual-compute-desc"),
            storages: ids(root, "virtual-storage-desc"),
            images: ids(root, "sw-image-desc"),
            links: ids(root, "int-virtual-link-desc"),
            vdus: ids(root, "vdu"),
            ext_cps: ids(root, "ext-cpd"),
            cpds: by_id(root, "vdu").map(|(id, v)| (id, ids(v, "int-cpd"))).collect(),
            storage_nodes: by_id(root, "virtual-storage-desc").collect(),
            security_rules: ids(root, "security-group-rule"),
            externals,
        }
    }
}

/// The model of a VNFD; `None` only when nothing can be said about it at all.
pub(crate) fn build(root: &Node, path: &str, within: Option<Within<'_>>, lint: &mut Lint) -> Option<Vnfd> {
    let (computes, rules) = Default::default();
    let mut it = Vnf { r: Reader { lint }, ids: Ids::of(root), root, within, computes, rules };
    it.knf(path);
    it.described(path);
    let id = it.r.required(root, "id", path);
    let text = |key: &str| root.str(key).unwrap_or_default().to_owned();
    let images = it.images(path);
    let vdus = it.vdus(path);
    let external_cps = it.external_cps(path, &vdus);
    it.management_cp(path);
    it.monitoring_references(path);
    let flavours = it.flavours(path, &vdus);
    coherence::vnfd(root, path, it.r.lint);
    let id = id?;
    let vnfd = Vnfd {
        product_name: root.str("product-name").unwrap_or(&id).to_owned(),
        provider: text("provider"),
        version: text("version"),
        software_version: text("software-version"),
        internal_links: it.internal_links(path),
        id,
        vdus,
        external_cps,
        images,
        flavours,
    };
    it.check_day0(&vnfd, path);
    Some(vnfd)
}

struct Vnf<'a, 'l> {
    r: Reader<'l>,
    ids: Ids<'a>,
    root: &'a Node,
    within: Option<Within<'a>>,
    computes: HashMap<&'a str, Compute>,
    rules: HashMap<&'a str, SecurityRule>,
}

impl Vnf<'_, '_> {
    /// What is described once and used by several VDUs.
    fn described(&mut self, path: &str) {
        let root = self.root;
        for (i, node) in root.items("virtual-compute-desc").iter().enumerate() {
            let Some(id) = node.str("id") else { continue };
            let compute = self.compute_desc(node, &format!("{path}/virtual-compute-desc/{i}"));
            self.computes.insert(id, compute);
        }
        for (i, node) in root.items("security-group-rule").iter().enumerate() {
            let Some(id) = node.str("id") else { continue };
            if let Some(rule) = self.r.security_rule(node, &format!("{path}/security-group-rule/{i}")) {
                self.rules.insert(id, rule);
            }
        }
    }

    fn internal_links(&mut self, path: &str) -> Vec<InternalLink> {
        let root = self.root;
        let profiles: HashMap<&str, (&Node, String)> =
            root.items("df").first().map_or_else(HashMap::new, |df| {
                let all = df.items("virtual-link-profile").iter().enumerate().rev();
                let at = |i| format!("{path}/df/0/virtual-link-profile/{i}");
                all.filter_map(|(i, p)| Some((p.str("id")?, (p, at(i))))).collect()
            });
        let mut out: Vec<InternalLink> = Vec::new();
        let mut seen = Names::default();
        for (i, node) in root.items("int-virtual-link-desc").iter().enumerate() {
            let Some(id) = node.str("id").filter(|id| !seen.contains(id)) else { continue };
            seen.extend([id]);
            let place = format!("{path}/int-virtual-link-desc/{i}");
            let profile = self.r.link_profile((node, &place), profiles.get(id).cloned());
            out.push(InternalLink { id: id.to_owned(), profile });
        }
        out
    }

    fn knf(&mut self, path: &str) {
        if let Some(node) = self.root.get("kdu").or_else(|| self.root.get("k8s-cluster")) {
            let message = "a KNF: its deployment units are Helm charts or Juju bundles";
            self.r
                .lint
                .warning(Code::Unsupported, path, node.at, message)
                .hint("OSM deploys it; for Mandate, write it as VDUs");
        } else if self.root.items("vdu").is_empty() {
            let message = "no `vdu`: there is nothing to deploy";
            self.r.not_here(path, self.root.at, message, "describe its VDUs");
        }
        for (i, kdu) in self.root.items("kdu").iter().enumerate() {
            if let Some(chart) = kdu.get("helm-chart") {
                self.helm_chart(chart, &format!("{path}/kdu/{i}/helm-chart"));
            }
        }
    }

    fn helm_chart(&mut self, chart: &Node, path: &str) {
        let Some(text) = chart.text().filter(|t| !is_helm_chart(t)) else { return };
        let message = format!("`{}` is not the name of a Helm chart", clip(text));
        let hint = "`repository/chart` in lower case, or a URL";
        self.r.lint.error(Code::BadValue, path, chart.at, message).hint(hint).osm();
    }

    fn vdus(&mut self, path: &str) -> BTreeMap<String, Vdu> {
        let root = self.root;
        let mut out = BTreeMap::new();
        for (i, node) in root.items("vdu").iter().enumerate() {
            let path = format!("{path}/vdu/{i}");
            if let Some(vdu) = self.vdu(node, &path) {
                out.insert(vdu.id.clone(), vdu);
            }
        }
        out
    }

    fn vdu(&mut self, node: &Node, path: &str) -> Option<Vdu> {
        if let Some(pdu) = node.get("pdu-type") {
            let message = "a physical deployment unit (`pdu-type`)";
            self.r.not_here(path, pdu.at, message, "only virtual deployment units are deployed here");
            return None;
        }
        let id = node.str("id")?.to_owned();
        let (disk_gib, volumes) = self.storages(node, path);
        let image = self.vdu_image(node, path);
        let compute = self.compute(node, path);
        let day0 = self.day0(node, path);
        // What is wrong with it is said when all of the VNF is known.
        let requests = day0.as_deref().and_then(|text| day0::requests(text).ok()).unwrap_or_default();
        let cpds = self.int_cpds(node, path, &id, &requests);
        self.r.ignored(node, "nfvi-constraint", path, "`mandate.vim` in the cloud-init is read");
        let (vcpus, memory_mib, hardware) = compute?;
        let name = node.str("name").unwrap_or(&id).to_owned();
        let image = image?;
        Some(Vdu { id, name, image, vcpus, memory_mib, hardware, disk_gib, volumes, cpds, day0, requests })
    }

    fn vdu_image(&mut self, node: &Node, path: &str) -> Option<String> {
        let alternatives = node.items("alternative-sw-image-desc");
        for (i, one) in alternatives.iter().enumerate() {
            // Alternatives are for other kinds of VIM: without one, the first image is still deployed.
            if let Some(name) = one.text().filter(|name| !self.ids.images.contains(name)) {
                let path = format!("{path}/alternative-sw-image-desc/{i}");
                let message = format!("there is no sw-image-desc `{}`", clip(name));
                self.r
                    .lint
                    .warning(Code::DanglingReference, &path, one.at, message)
                    .hint("define it or remove it");
            }
        }
        let Some(image) = node.get("sw-image-desc") else {
            self.r.not_deployable(
                path,
                node.at,
                "no `sw-image-desc`: nothing to start",
                "name one of the descriptor's images",
            );
            return None;
        };
        self.r.resolve("sw-image-desc", image, &format!("{path}/sw-image-desc"), &self.ids.images, false)
    }

    fn storages(&mut self, node: &Node, path: &str) -> (u32, Vec<Volume>) {
        let mut found = Vec::new();
        for (i, one) in node.items("virtual-storage-desc").iter().enumerate() {
            let path = format!("{path}/virtual-storage-desc/{i}");
            let id = self.r.resolve("virtual-storage-desc", one, &path, &self.ids.storages, true);
            let desc = id.and_then(|id| self.ids.storage_nodes.get(id.as_str()).copied());
            found.extend(desc.map(|d| (d, path)));
        }
        self.r.disks(&found)
    }

    fn compute(&mut self, node: &Node, path: &str) -> Compute {
        let Some(target) = node.get("virtual-compute-desc") else {
            self.r.not_deployable(path, node.at, "no `virtual-compute-desc`: no CPU and memory", "name one");
            return None;
        };
        let place = format!("{path}/virtual-compute-desc");
        let id = self.r.resolve("virtual-compute-desc", target, &place, &self.ids.computes, true)?;
        self.computes.get(id.as_str()).cloned()?
    }

    fn compute_desc(&mut self, compute: &Node, path: &str) -> Compute {
        let vcpus = compute.get("virtual-cpu").and_then(|c| self.r.number(c, "num-virtual-cpu")).unwrap_or(1);
        let memory = compute.get("virtual-memory").and_then(|m| m.get("size"));
        let memory_mib = memory.map_or(Some(DEFAULT_MEMORY_MIB), |size| mebibytes(size.text()?));
        if memory_mib.is_none_or(|m| m == 0) {
            let message = "memory of 0, or more than can be counted";
            self.r.not_deployable(path, compute.at, message, "`virtual-memory: {size: …}` is in GiB");
        }
        let hardware = self.r.hardware(compute, path, (vcpus, memory_mib.unwrap_or(0)));
        Some((vcpus, memory_mib?, hardware))
    }

    fn int_cpds(&mut self, node: &Node, path: &str, vdu: &str, requests: &Requests) -> Vec<IntCpd> {
        let mut out = Vec::new();
        let nothing = PortRequests::default();
        for (i, cpd) in node.items("int-cpd").iter().enumerate() {
            let Some(id) = cpd.str("id") else { continue };
            let path = format!("{path}/int-cpd/{i}");
            self.r.unread_of_cpd(cpd, &path, requests.ports.get(id).unwrap_or(&nothing));
            out.push(self.int_cpd(cpd, &path, (vdu, id)));
        }
        out
    }

    fn int_cpd(&mut self, cpd: &Node, path: &str, (vdu, id): (&str, &str)) -> IntCpd {
        let internal_link = cpd.get("int-virtual-link-desc").and_then(|link| {
            let path = format!("{path}/int-virtual-link-desc");
            self.r.resolve("int-virtual-link-desc", link, &path, &self.ids.links, true)
        });
        let interfaces = cpd.items("virtual-network-interface-requirement");
        if let [_, second, ..] = interfaces {
            let path = format!("{path}/virtual-network-interface-requirement/1");
            let message = "a second interface of one `int-cpd`: only the first is made";
            self.r
                .lint
                .warning(Code::Ignored, &path, second.at, message)
                .hint("give it an `int-cpd` of its own");
        }
        let interface = interfaces.first();
        let text = |key: &str| interface.and_then(|n| n.str(key));
        if let Some(node) = interface {
            let path = format!("{path}/virtual-network-interface-requirement/0");
            let why = "libvirt has no such quota: say `qos` in `mandate.vim.ports`";
            self.r.ignored(node, "vif-quota", &path, why);
        }
        let interface_type = interface.and_then(|n| n.get("virtual-interface")?.str("type"));
        let external = self.ids.externals.get(&(vdu, id)).copied();
        let (security, rules) = self.security(cpd, external, path);
        IntCpd {
            id: id.to_owned(),
            internal_link,
            interface_type: interface_type.unwrap_or("PARAVIRT").to_owned(),
            interface: text("name").unwrap_or(id).to_owned(),
            position: interface.and_then(|n| self.r.number(n, "position")),
            // One that is none is reported with the others.
            mac: text("mac-address").and_then(|t| t.parse().ok()),
            address: text("ip-address").and_then(|t| t.parse().ok()),
            security,
            rules,
        }
    }

    /// As OSM does it: what the external connection point says counts before what the internal one says.
    fn security(
        &mut self,
        cpd: &Node,
        external: Option<(usize, &Node)>,
        path: &str,
    ) -> (PortSecurity, Vec<SecurityRule>) {
        let said = |key: &str| external.and_then(|(_, e)| e.str(key)).or_else(|| cpd.str(key));
        let off = said("port-security-enabled").and_then(boolean) == Some(false);
        let pairs = said("port-security-disable-strategy") == Some("allow-address-pairs");
        let security = match (off, pairs) {
            (false, _) => PortSecurity::On,
            (true, true) => PortSecurity::AnyAddress,
            (true, false) => PortSecurity::Off,
        };
        let mut rules: Vec<SecurityRule> = Vec::new();
        let places = [Some((cpd, path.to_owned())), external.map(|(i, e)| (e, format!("/vnfd/ext-cpd/{i}")))];
        for (node, path) in places.into_iter().flatten() {
            let Some(target) = node.get("security-group-rule-id") else { continue };
            let path = format!("{path}/security-group-rule-id");
            let known = &self.ids.security_rules;
            let Some(id) = self.r.resolve("security-group-rule", target, &path, known, false) else {
                continue;
            };
            rules.extend(self.rules.get(id.as_str()).filter(|r| !rules.contains(r)).cloned());
            if security == PortSecurity::Off {
                let message = "a security rule of a connection point without port security: it has no effect";
                self.r.lint.warning(Code::Conflict, &path, target.at, message).hint("remove one of the two");
            }
        }
        (security, rules)
    }

    fn day0(&mut self, node: &Node, path: &str) -> Option<String> {
        if let Some(inline) = node.str("cloud-init") {
            return Some(inline.to_owned());
        }
        let (named, within) = (node.get("cloud-init-file")?, self.within?);
        let name = format!("cloud_init/{}", named.text()?);
        let path = format!("{path}/cloud-init-file");
        let Some(bytes) = within.files.get(&name) else {
            let message = format!("`{name}` is not in the package");
            self.r
                .lint
                .error(Code::File, &path, named.at, message)
                .hint("put it there, or remove the key")
                .osm();
            return None;
        };
        let text = String::from_utf8(bytes.clone());
        if text.is_err() {
            self.r
                .lint
                .error(Code::File, &path, named.at, format!("`{name}` is not UTF-8 text"))
                .hint("save it as UTF-8");
        }
        text.ok()
    }

    /// What the planner reads of the day-0 files must fit the VDUs.
    fn check_day0(&mut self, vnfd: &Vnfd, path: &str) {
        let root = self.root;
        for (i, node) in root.items("vdu").iter().enumerate() {
            let vdu = node.str("id").and_then(|id| vnfd.vdus.get(id));
            let Some((vdu, text)) = vdu.and_then(|v| Some((v, v.day0.as_deref()?))) else { continue };
            let checked = day0::read(text).and_then(|section| section.check(vdu, vnfd).map(|()| section));
            let (key, at) = match (node.get("cloud-init"), node.get("cloud-init-file")) {
                (Some(inline), _) => ("cloud-init", inline.at),
                (None, Some(named)) => ("cloud-init-file", named.at),
                (None, None) => continue,
            };
            let file = node.str("cloud-init-file").filter(|_| key == "cloud-init-file");
            let place = file.map_or_else(String::new, |f| format!("cloud_init/{}: ", clip(f)));
            let path = format!("{path}/vdu/{i}/{key}");
            match checked {
                Ok(section) => self.check_template(section.function.is_some(), text, (&path, at, &place)),
                Err(e) => {
                    let lint = &mut self.r.lint;
                    lint.error(Code::Day0, &path, at, format!("{place}{e}"))
                        .hint("correct the VDU's cloud-init");
                }
            }
        }
    }

    /// OSM renders a cloud-init as Jinja2, Mandate fills in the configuration document: the same must come of both.
    fn check_template(&mut self, configured: bool, text: &str, (path, at, place): (&str, Mark, &str)) {
        if configured && !delivery::asks(text) {
            let message = format!("{place}the VDU has a function and its configuration is nowhere written");
            let hint = format!(
                "have `write_files` write {} with `encoding: b64` and `content: '{}'`: OSM has no other way to give it",
                delivery::PATH,
                delivery::EXPRESSION
            );
            self.r.lint.warning(Code::Day0, path, at, message).hint(hint);
        }
        if let Some(other) = delivery::foreign(text) {
            let message = format!("{place}`{}` is for OSM's Jinja2 alone", clip(other));
            let hint = "without OSM the guest gets it as it stands: write it out, or wrap it in a script";
            self.r.lint.warning(Code::Day0, path, at, message).hint(hint);
        }
    }

    fn external_cps(&mut self, path: &str, vdus: &BTreeMap<String, Vdu>) -> BTreeMap<String, CpRef> {
        let mut out = BTreeMap::new();
        for (i, node) in self.root.items("ext-cpd").iter().enumerate() {
            let path = format!("{path}/ext-cpd/{i}");
            let Some(id) = node.str("id") else { continue };
            if let Some(cp) = self.external_cp(node, &path, vdus) {
                out.insert(id.to_owned(), cp);
            }
        }
        out
    }

    fn external_cp(&mut self, node: &Node, path: &str, vdus: &BTreeMap<String, Vdu>) -> Option<CpRef> {
        let Some(target) = node.get("int-cpd") else {
            if node.get("k8s-cluster-net").is_none() {
                let message = "an external connection point without `int-cpd`: no VDU is behind it";
                self.r.not_here(path, node.at, message, "give `int-cpd: {vdu-id: …, cpd: …}`");
            }
            return None;
        };
        let path = format!("{path}/int-cpd");
        let (vdu, cpd) = (target.str("vdu-id").unwrap_or_default(), target.str("cpd").unwrap_or_default());
        // Read from the tree: a VDU that is itself in error still has its connection points.
        let cpds = self.ids.cpds.get(vdu);
        let found = cpds.is_some_and(|known| known.contains(cpd));
        if !found {
            let (vdu, cpd) = (clip(vdu), clip(cpd));
            let message = format!("VDU `{vdu}` with `int-cpd` `{cpd}` does not exist");
            let hint = match cpds {
                _ if self.r.lint.is_full() => String::new(),
                None => self.ids.vdus.hint("vdu", &vdu),
                Some(known) => known.hint("int-cpd", &cpd),
            };
            self.r.lint.error(Code::DanglingReference, &path, target.at, message).hint(hint).osm();
            return None;
        }
        let found = vdus.get(vdu)?;
        let asked = found.requests.ports.get(cpd).cloned().unwrap_or_default();
        self.r.unread_of_cpd(node, path.trim_end_matches("/int-cpd"), &asked);
        Some(CpRef { vdu: vdu.to_owned(), cpd: cpd.to_owned() })
    }

    /// OSM wants `mgmt-cp` of every VNFD that has VDUs.
    fn management_cp(&mut self, path: &str) {
        match self.root.get("mgmt-cp") {
            None if !self.ids.vdus.is_empty() => {
                let message = "`mgmt-cp` is missing";
                let found = self.r.lint.error(Code::MissingMandatory, path, self.root.at, message);
                found.hint("OSM wants one: name an ext-cpd").osm();
            }
            Some(cp) if !self.ids.vdus.is_empty() && cp.text().is_none() => {
                let message = "`mgmt-cp` is not the name of one `ext-cpd`";
                let found =
                    self.r.lint.error(Code::DanglingReference, &format!("{path}/mgmt-cp"), cp.at, message);
                found.hint(self.ids.ext_cps.hint("ext-cpd", "")).osm();
            }
            Some(cp) if !self.ids.vdus.is_empty() => {
                self.r.resolve("ext-cpd", cp, &format!("{path}/mgmt-cp"), &self.ids.ext_cps, true);
            }
            _ => {}
        }
    }

    fn monitoring_references(&mut self, path: &str) {
        let root = self.root;
        let holders = root.items("vdu").iter().chain(root.items("df"));
        let links = root.items("int-virtual-link-desc").iter();
        let parameters = holders.flat_map(|n| n.items("monitoring-parameter"));
        let parameters = parameters.chain(links.flat_map(|n| n.items("monitoring-parameters")));
        let known: Names<'_> = parameters.filter_map(|p| p.str("id")).collect();
        for (d, df) in root.items("df").iter().enumerate() {
            for (a, aspect) in df.items("scaling-aspect").iter().enumerate() {
                for policy in aspect.items("scaling-policy") {
                    for target in policy
                        .items("scaling-criteria")
                        .iter()
                        .filter_map(|c| c.get("vnf-monitoring-param-ref"))
                    {
                        let path = format!("{path}/df/{d}/scaling-aspect/{a}");
                        self.r.resolve("monitoring-parameter", target, &path, &known, true);
                    }
                }
            }
        }
    }

    fn flavours(&mut self, path: &str, vdus: &BTreeMap<String, Vdu>) -> Vec<VnfFlavour> {
        let found = self.root.items("df");
        if found.is_empty() {
            self.r.not_deployable(
                path,
                self.root.at,
                "no deployment flavour (`df`)",
                "give at least `df: [{id: default-df}]`",
            );
        }
        let found = self.r.flavours(found, path);
        let flavours =
            found.iter().enumerate().filter_map(|(i, df)| self.flavour(df, &format!("{path}/df/{i}"), vdus));
        flavours.collect()
    }

    fn flavour(&mut self, df: &Node, path: &str, vdus: &BTreeMap<String, Vdu>) -> Option<VnfFlavour> {
        let id = df.str("id")?.to_owned();
        let levels = self.initial_level(df, path);
        let mut profiles = self.profiles(df, path, &levels);
        let mut initial = BTreeMap::new();
        for vdu in vdus.keys() {
            let profile = *profiles.entry(vdu.clone()).or_insert_with(|| {
                let n = levels.get(vdu).copied().unwrap_or(1).max(1);
                VduProfile { min: n.min(1), max: n }
            });
            let n = levels.get(vdu).copied().unwrap_or(profile.min);
            if profile.min <= profile.max && !(profile.min..=profile.max).contains(&n) {
                let message = format!(
                    "{n} instances of `{vdu}` at first; its profile allows {} to {}",
                    profile.min, profile.max
                );
                self.r
                    .lint
                    .error(Code::BadValue, path, df.at, message)
                    .hint("change the level or the profile");
            }
            initial.insert(vdu.clone(), n);
        }
        let aspects = self.aspects(df, path, &profiles, &initial);
        self.healing(df, path);
        let configured = df.get("lcm-operations-configuration").and_then(|l| l.get("operate-vnf-op-config"));
        if let Some(operate) = configured {
            let path = format!("{path}/lcm-operations-configuration/operate-vnf-op-config");
            self.r.ignored(operate, "day1-2", &path, "charms and execution environments are OSM's to run");
        }
        let groups = self.groups(df, path);
        Some(VnfFlavour { id, profiles, initial, aspects, groups })
    }

    /// Instances by VDU at the default instantiation level.
    fn initial_level(&mut self, df: &Node, path: &str) -> BTreeMap<String, u32> {
        let all = df.items("instantiation-level");
        let named = df.get("default-instantiation-level").and_then(|target| {
            let known = ids(df, "instantiation-level");
            self.r.resolve(
                "instantiation-level",
                target,
                &format!("{path}/default-instantiation-level"),
                &known,
                false,
            )
        });
        let level =
            all.iter().find(|l| named.is_some() && l.str("id") == named.as_deref()).or_else(|| all.first());
        let mut out = BTreeMap::new();
        for (i, one) in level.map_or(&[][..], |l| l.items("vdu-level")).iter().enumerate() {
            let Some(target) = one.get("vdu-id") else { continue };
            let path = format!("{path}/instantiation-level/vdu-level/{i}");
            let Some(vdu) = self.r.resolve("vdu", target, &path, &self.ids.vdus, false) else {
                continue;
            };
            out.insert(vdu, self.r.number(one, "number-of-instances").unwrap_or(1));
        }
        out
    }

    /// Without a stated maximum, as many as the minimum and the first level need (SOL006's default is 1).
    fn profiles(
        &mut self,
        df: &Node,
        path: &str,
        levels: &BTreeMap<String, u32>,
    ) -> BTreeMap<String, VduProfile> {
        let mut out = BTreeMap::new();
        let groups = ids(df, "affinity-or-anti-affinity-group");
        for (i, node) in df.items("vdu-profile").iter().enumerate() {
            let path = format!("{path}/vdu-profile/{i}");
            let Some(target) = node.get("id") else { continue };
            let Some(vdu) = self.r.resolve("vdu", target, &path, &self.ids.vdus, false) else {
                continue;
            };
            let first = levels.get(&vdu).copied().unwrap_or(0);
            let min = self.r.number(node, "min-number-of-instances").unwrap_or(1);
            let max = self.r.number(node, "max-number-of-instances").unwrap_or_else(|| min.max(first).max(1));
            if max < min || max == 0 {
                let message = format!("at least {min} and at most {max} instances");
                let hint =
                    "`min-number-of-instances` is not above `max-number-of-instances`, which is at least 1";
                self.r.lint.error(Code::BadValue, &path, node.at, message).hint(hint);
            }
            for group in node.items("affinity-or-anti-affinity-group").iter().filter_map(|g| g.get("id")) {
                self.r.resolve("affinity-or-anti-affinity-group", group, &path, &groups, false);
            }
            out.insert(vdu, VduProfile { min, max });
        }
        out
    }

    /// The group of each VDU that is in one. OSM asks for the first of them, and for its hosts whatever its scope.
    fn groups(&mut self, df: &Node, path: &str) -> BTreeMap<String, AffinityGroup> {
        let found = self.r.affinity_groups(df);
        let mut out = BTreeMap::new();
        for (i, profile) in df.items("vdu-profile").iter().enumerate() {
            let path = format!("{path}/vdu-profile/{i}");
            let rule = "local-affinity-or-anti-affinity-rule";
            self.r.ignored(profile, rule, &path, "as in OSM: name an `affinity-or-anti-affinity-group`");
            let mut named = profile.items("affinity-or-anti-affinity-group").iter();
            let group = named.next().and_then(|g| found.get(g.str("id")?));
            let (Some(vdu), Some(group)) = (profile.str("id"), group) else { continue };
            if group.scope != AffinityScope::NfviNode {
                let message = format!("the group `{}` is held by host, whatever its scope", clip(&group.id));
                let found = self.r.lint.warning(Code::Ignored, &path, profile.at, message);
                found.hint("as in OSM: make it `scope: nfvi-node`");
            }
            if named.next().is_some() {
                let message = "more than one affinity group: only the first is asked for";
                let found = self.r.lint.warning(Code::Ignored, &path, profile.at, message);
                found.hint("as in OSM: an instance has one group");
            }
            out.insert(vdu.to_owned(), group.clone());
        }
        out
    }

    fn aspects(
        &mut self,
        df: &Node,
        path: &str,
        profiles: &BTreeMap<String, VduProfile>,
        initial: &BTreeMap<String, u32>,
    ) -> BTreeMap<String, ScalingAspect> {
        let mut out = BTreeMap::new();
        for (i, node) in df.items("scaling-aspect").iter().enumerate() {
            let path = format!("{path}/scaling-aspect/{i}");
            let Some(aspect) = self.aspect(node, &path) else { continue };
            self.reach(&aspect, node, &path, profiles, initial);
            out.insert(aspect.id.clone(), aspect);
        }
        out
    }

    fn aspect(&mut self, node: &Node, path: &str) -> Option<ScalingAspect> {
        let id = node.str("id")?.to_owned();
        let deltas = node.get("aspect-delta-details").map_or(&[][..], |d| d.items("deltas"));
        let mut delta = BTreeMap::new();
        for one in deltas.first().map_or(&[][..], |d| d.items("vdu-delta")) {
            let Some(target) = one.get("id") else { continue };
            let known = &self.ids.vdus;
            let Some(vdu) = self.r.resolve("vdu", target, &format!("{path}/vdu-delta"), known, false) else {
                continue;
            };
            let more = self.r.number(one, "number-of-instances").unwrap_or(0);
            if more > 0 {
                delta.insert(vdu, more);
            }
        }
        let max_level = self.r.number(node, "max-scale-level");
        if delta.is_empty() || max_level.is_none() {
            let what =
                if delta.is_empty() { "a `vdu-delta` that adds instances" } else { "`max-scale-level`" };
            let message =
                format!("scaling aspect `{id}` without {what}: it cannot be scaled and is left out");
            self.r.lint.warning(Code::Scaling, path, node.at, message).hint("complete it or remove it");
            return None;
        }
        if deltas.len() > 1 {
            let message = "only the first of `deltas` is used, for every step";
            self.r
                .lint
                .warning(Code::Scaling, path, node.at, message)
                .hint("one delta that says what one step adds");
        }
        Some(ScalingAspect { id, max_level: max_level?, delta })
    }

    fn reach(
        &mut self,
        aspect: &ScalingAspect,
        node: &Node,
        path: &str,
        profiles: &BTreeMap<String, VduProfile>,
        initial: &BTreeMap<String, u32>,
    ) {
        for (vdu, more) in &aspect.delta {
            let (Some(profile), Some(first)) = (profiles.get(vdu), initial.get(vdu)) else { continue };
            let top = first.saturating_add(more.saturating_mul(aspect.max_level));
            if top > profile.max {
                let message = format!(
                    "level {} would be {top} instances of `{vdu}`; its profile allows {}",
                    aspect.max_level, profile.max
                );
                let found = self.r.lint.warning(Code::Scaling, path, node.at, message);
                found.hint("raise `max-number-of-instances` or lower `max-scale-level`");
            }
        }
    }

    fn healing(&mut self, df: &Node, path: &str) {
        for (i, aspect) in df.items("healing-aspect").iter().enumerate() {
            for policy in aspect.items("healing-policy") {
                let Some(target) = policy.get("vdu-id") else { continue };
                let path = format!("{path}/healing-aspect/{i}");
                self.r.resolve("vdu", target, &path, &self.ids.vdus, true);
            }
        }
    }
}

/// What OSM takes for a chart: a URL, or at most two names of lower-case letters, digits and inner dashes.
fn is_helm_chart(text: &str) -> bool {
    let url =
        text.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.starts_with('/'));
    let part = |p: &str| {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !p.is_empty() && p.bytes().all(good) && !p.starts_with('-') && !p.ends_with('-')
    };
    url || text.split('/').count() <= 2 && text.split('/').all(part)
}

/// GiB as a decimal to MiB, rounded up.
fn mebibytes(gib: &str) -> Option<u32> {
    u32::try_from(thousandths(gib)?.checked_mul(1024)?.div_ceil(1000)).ok()
}

#[cfg(test)]
mod tests {
    use super::mebibytes;

    #[test]
    fn memory_is_gib() {
        assert_eq!(mebibytes("0.25"), Some(256));
        assert_eq!(mebibytes("1.0"), Some(1024));
        assert_eq!(mebibytes("0.0001"), Some(2));
        assert_eq!(mebibytes("99999999999999"), None);
    }
}
