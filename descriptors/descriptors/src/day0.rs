//! What a VDU's cloud-init file tells our planner: which packet function runs, and which port has which role.
//!
//! ```yaml
//! #cloud-config
//! mandate:                                   # cloud-init ignores a key it does not know
//!   function: firewall                       # firewall | load_balancer | reflector
//!   ports: {outside: client, inside: server} # role -> int-cpd of this VDU
//! ```
//!
//! A load balancer has the roles `client` and `backend` and names its `backends`; a reflector has the role `port`. A VDU of
//! another provider has no `function`. Either may ask the VIM for what descriptors have no word for ([`Requests`]):
//!
//! ```yaml
//! mandate:
//!   vim:
//!     zone: edge-1                           # availability zone
//!     aggregate: {nic: e810}                 # properties of the host's aggregate
//!     pci: {qat: 1}                          # devices by the VIM's alias
//!     ports:                                 # by int-cpd of this VDU
//!       client: {trusted: true, qos: {max_egress_kbps: 1000000}}
//!       oam: {floating: public, address_pairs: [{address: 192.0.2.1}], subports: {voice: 100}}
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::{
    model::{CpRef, PortRequests, Requests, Vdu, Vnfd},
    schema::clip,
};

/// Largest day-0 file, bytes: EC2 and OpenStack take 64 KiB of user data at most.
pub const MAX_DAY0_BYTES: usize = 64 << 10;

/// The `mandate` key of a day-0 file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Day0 {
    /// What the VDU does with packets.
    pub function: Day0Function,
    /// Role of [`Day0Function::roles`] -> `int-cpd` id of the same VDU; every role exactly once.
    pub ports: BTreeMap<String, String>,
    /// Load balancer only: which VDU of the same VNF serves, on which `int-cpd`.
    pub backends: Option<CpRef>,
}

/// A packet function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Day0Function {
    /// Stateful firewall between `outside` and `inside`.
    Firewall,
    /// Load balancer between `client` and `backend`.
    LoadBalancer,
    /// Answers what comes to `port`.
    Reflector,
}

impl Day0Function {
    /// The roles its ports have.
    #[must_use]
    pub fn roles(self) -> &'static [&'static str] {
        match self {
            Self::Firewall => &["outside", "inside"],
            Self::LoadBalancer => &["client", "backend"],
            Self::Reflector => &["port"],
        }
    }
}

/// Why a day-0 file is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Day0Error {
    /// Too large.
    #[error("{0} bytes; a day-0 file has at most {MAX_DAY0_BYTES}")]
    TooLarge(usize),
    /// Not YAML, or `mandate` is not what it should be.
    #[error("line {line}, column {column}: {message}")]
    Yaml {
        /// Counted from 1; 0 if the parser does not say.
        line: u64,
        /// Counted from 1; 0 if the parser does not say.
        column: u64,
        /// What is wrong.
        message: String,
    },
    /// A role is missing, unknown, or shares its port.
    #[error("`mandate.ports`: {0}")]
    Ports(String),
    /// `backends` where there are none, or none where they are needed.
    #[error("`mandate.backends`: {0}")]
    Backends(String),
    /// What is asked of the VIM cannot be asked, or not of this VDU.
    #[error("`mandate.vim`: {0}")]
    Vim(String),
    /// Neither a function nor anything for the VIM.
    #[error("`mandate` says nothing: give `function` and `ports`, or `vim`")]
    Empty,
}

#[derive(Deserialize)]
struct RawFile {
    mandate: Option<Raw>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    function: Option<Day0Function>,
    #[serde(default)]
    ports: BTreeMap<String, String>,
    backends: Option<RawCp>,
    vim: Option<Requests>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCp {
    vdu: String,
    cpd: String,
}

/// What the `mandate` key says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Section {
    pub function: Option<Day0>,
    pub requests: Requests,
}

/// Reads what a day-0 file says of the packet function; `None` if it is no cloud-config with a line that starts with
/// `mandate:`, or names no function there.
pub fn parse(text: &str) -> Result<Option<Day0>, Day0Error> {
    Ok(read(text)?.function)
}

/// Reads what a day-0 file asks of the VIM. What depends on the VDU is checked when its descriptor is read.
pub fn requests(text: &str) -> Result<Requests, Day0Error> {
    Ok(read(text)?.requests)
}

pub(crate) fn read(text: &str) -> Result<Section, Day0Error> {
    if text.len() > MAX_DAY0_BYTES {
        return Err(Day0Error::TooLarge(text.len()));
    }
    // Scripts, MIME archives and templates that are no YAML yet are user data too, but none of ours.
    if !text.starts_with("#cloud-config") || !text.lines().any(|l| l.starts_with("mandate:")) {
        return Ok(Section::default());
    }
    let file: RawFile = serde_saphyr::from_str(text).map_err(|e| yaml_error(&e))?;
    file.mandate.map_or(Ok(Section::default()), Section::try_from)
}

fn yaml_error(e: &serde_saphyr::Error) -> Day0Error {
    let (line, column) = e.location().map_or((0, 0), |l| (l.line(), l.column()));
    let text = e.to_string();
    let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    // The place is said already.
    let message = message.trim_start_matches(&format!("line {line} column {column}: ")).to_owned();
    Day0Error::Yaml { line, column, message }
}

impl TryFrom<Raw> for Section {
    type Error = Day0Error;

    fn try_from(mut raw: Raw) -> Result<Self, Day0Error> {
        let requests = raw.vim.take();
        let Some(function) = raw.function else {
            if !raw.ports.is_empty() || raw.backends.is_some() {
                return Err(Day0Error::Ports("roles of no function: add `function`, or remove them".into()));
            }
            return requests.map_or(Err(Day0Error::Empty), |requests| Ok(Self { function: None, requests }));
        };
        let function = Some(Day0::of(function, raw)?);
        Ok(Self { function, requests: requests.unwrap_or_default() })
    }
}

impl Day0 {
    fn of(function: Day0Function, raw: Raw) -> Result<Self, Day0Error> {
        let roles = function.roles();
        for role in roles {
            if !raw.ports.contains_key(*role) {
                return Err(Day0Error::Ports(format!(
                    "role `{role}` is missing; there must be: {}",
                    roles.join(", ")
                )));
            }
        }
        if let Some(other) = raw.ports.keys().find(|k| !roles.contains(&k.as_str())) {
            return Err(Day0Error::Ports(format!(
                "role `{other}` is unknown; there must be: {}",
                roles.join(", ")
            )));
        }
        let mut cpds: Vec<&String> = raw.ports.values().collect();
        cpds.sort();
        if let Some(twice) = cpds.windows(2).find(|w| w[0] == w[1]) {
            return Err(Day0Error::Ports(format!("two roles on the one port `{}`", twice[0])));
        }
        let wants = function == Day0Function::LoadBalancer;
        match (&raw.backends, wants) {
            (None, true) => {
                return Err(Day0Error::Backends("a load balancer needs `{vdu: …, cpd: …}`".into()));
            }
            (Some(_), false) => {
                return Err(Day0Error::Backends("only a load balancer has any: remove it".into()));
            }
            _ => {}
        }
        let backends = raw.backends.map(|b| CpRef { vdu: b.vdu, cpd: b.cpd });
        Ok(Self { function, ports: raw.ports, backends })
    }

    /// Whether it fits the VDU it belongs to; says what does not.
    pub fn check(&self, vdu: &Vdu, vnfd: &Vnfd) -> Result<(), Day0Error> {
        for (role, cpd) in &self.ports {
            if !vdu.cpds.iter().any(|c| c.id == *cpd) {
                let known = vdu.cpds.iter().map(|c| c.id.as_str()).collect::<Vec<_>>().join(", ");
                let message = format!("role `{role}` is on `{cpd}`; VDU `{}` has: {known}", vdu.id);
                return Err(Day0Error::Ports(message));
            }
        }
        self.backends.as_ref().map_or(Ok(()), |b| self.check_backends(b, vdu, vnfd))
    }

    /// The balancer must reach its backends: same internal virtual link.
    fn check_backends(&self, backends: &CpRef, vdu: &Vdu, vnfd: &Vnfd) -> Result<(), Day0Error> {
        let bad = |message: String| Err(Day0Error::Backends(message));
        let Some(serving) = vnfd.vdus.get(&backends.vdu) else {
            return bad(format!("there is no VDU `{}`", backends.vdu));
        };
        let Some(service) = serving.cpds.iter().find(|c| c.id == backends.cpd) else {
            return bad(format!("VDU `{}` has no int-cpd `{}`", backends.vdu, backends.cpd));
        };
        let port = self.ports.get("backend").and_then(|id| vdu.cpds.iter().find(|c| c.id == *id));
        let shared =
            port.is_some_and(|p| p.internal_link.is_some() && p.internal_link == service.internal_link);
        if backends.vdu == vdu.id || !shared {
            let message = "`{}` of `{}` is not on the internal virtual link of this VDU's `backend` port";
            return bad(message.replacen("{}", &backends.cpd, 1).replacen("{}", &backends.vdu, 1));
        }
        Ok(())
    }
}

/// Longest name that is passed on to a VIM: none of them takes a longer one.
const MAX_NAME: usize = 255;
/// Most address pairs, and VLANs, of a connection point: neutron's own limit of pairs is 10 unless it is raised.
const MAX_AT_A_PORT: usize = 64;

fn vim<T>(message: String) -> Result<T, Day0Error> {
    Err(Day0Error::Vim(message))
}

impl Section {
    /// Whether it fits the VDU it belongs to; says what does not.
    pub(crate) fn check(&self, vdu: &Vdu, vnfd: &Vnfd) -> Result<(), Day0Error> {
        self.function.as_ref().map_or(Ok(()), |f| f.check(vdu, vnfd))?;
        let asked = &self.requests;
        let names = asked.zone.iter().chain(asked.pci.keys());
        let names = names.chain(asked.aggregate.iter().flat_map(|(k, v)| [k, v]));
        let names = names.chain(asked.ports.values().filter_map(|p| p.floating.as_ref()));
        for name in names {
            if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
                return vim(format!("`{}` is no name of a VIM: 1 to {MAX_NAME} characters", clip(name)));
            }
        }
        if let Some((alias, _)) = asked.pci.iter().find(|(_, count)| **count == 0) {
            return vim(format!("`pci.{}`: at least 1 device", clip(alias)));
        }
        for (cpd, port) in &asked.ports {
            self.check_port(cpd, port, vdu)?;
        }
        self.check_carried(vdu)
    }

    fn check_port(&self, cpd: &str, port: &PortRequests, vdu: &Vdu) -> Result<(), Day0Error> {
        let at = format!("`ports.{}`", clip(cpd));
        let Some(found) = vdu.cpds.iter().find(|c| c.id == cpd) else {
            return vim(format!("{at}: VDU `{}` has no such int-cpd", vdu.id));
        };
        if port.trusted && found.interface_type != "SR-IOV" {
            let kind = &found.interface_type;
            return vim(format!("{at}: only an SR-IOV interface can be trusted, and its type is {kind}"));
        }
        if port.address_pairs.len() > MAX_AT_A_PORT || port.subports.len() > MAX_AT_A_PORT {
            return vim(format!("{at}: at most {MAX_AT_A_PORT} address pairs, and as many subports"));
        }
        let Some(qos) = port.qos else { return Ok(()) };
        if qos.dscp.is_some_and(|mark| mark > 63) {
            return vim(format!("{at}: `dscp` is 0 to 63"));
        }
        if qos.max_egress_kbps != 0 && qos.min_egress_kbps > qos.max_egress_kbps {
            return vim(format!("{at}: `min_egress_kbps` is above `max_egress_kbps`"));
        }
        Ok(())
    }

    /// What is carried in a VLAN is a connection point of its own, of no function and carried once.
    fn check_carried(&self, vdu: &Vdu) -> Result<(), Day0Error> {
        let roles = self.function.iter().flat_map(|f| f.ports.values()).collect::<BTreeSet<_>>();
        let mut carried: BTreeSet<&str> = BTreeSet::new();
        for (carrier, port) in &self.requests.ports {
            let at = format!("`ports.{}.subports`", clip(carrier));
            let mut vlans = BTreeSet::new();
            for (cpd, vlan) in &port.subports {
                let Some(found) = vdu.cpds.iter().find(|c| c.id == *cpd) else {
                    return vim(format!("{at}: VDU `{}` has no int-cpd `{}`", vdu.id, clip(cpd)));
                };
                let hardware = matches!(found.interface_type.as_str(), "SR-IOV" | "PCI-PASSTHROUGH");
                let other = self.requests.ports.get(cpd);
                let bare = other.is_none_or(|p| *p == PortRequests::default());
                if hardware || !bare || roles.contains(cpd) || cpd == carrier {
                    return vim(format!(
                        "{at}: `{}` is an interface of its own: carried are PARAVIRT ones without a role or requests",
                        clip(cpd)
                    ));
                }
                if !(1..=4094).contains(vlan) || !vlans.insert(*vlan) || !carried.insert(cpd) {
                    return vim(format!("{at}: `{}`: one VLAN of 1 to 4094 of its own", clip(cpd)));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::IntCpd;

    fn day0(mandate: &str) -> Result<Option<Day0>, Day0Error> {
        parse(&format!("#cloud-config\nhostname: x\nmandate: {mandate}\n"))
    }

    #[test]
    fn reads_ours_and_leaves_the_rest() {
        let fw = day0("{function: firewall, ports: {outside: client, inside: server}}").unwrap().unwrap();
        assert_eq!(fw.function, Day0Function::Firewall);
        assert_eq!(fw.ports["outside"], "client");
        assert_eq!(parse("#cloud-config\npackages: [nginx]\n"), Ok(None));
        assert_eq!(parse("#!/bin/sh\necho {{\n"), Ok(None));
    }

    #[test]
    fn a_vdu_of_another_provider_asks_the_vim_only() {
        let text = "#cloud-config\nmandate:\n  vim: {zone: z1, pci: {qat: 2}, ports: {a: {trusted: true}}}\n";
        let it = read(text).unwrap();
        assert_eq!((it.function, it.requests.zone.as_deref()), (None, Some("z1")));
        assert_eq!(requests(text).unwrap().pci["qat"], 2);
        assert_eq!(parse(text), Ok(None));
        assert_eq!(day0("{}"), Err(Day0Error::Empty));
        assert!(matches!(day0("{ports: {port: a}}"), Err(Day0Error::Ports(_))));
        assert!(matches!(day0("{vim: {host: x}}"), Err(Day0Error::Yaml { .. })));
    }

    #[test]
    fn requests_fit_the_vdu() {
        let cpd =
            |id: &str, kind: &str| IntCpd { id: id.into(), interface_type: kind.into(), ..IntCpd::default() };
        let cpds = vec![cpd("a", "SR-IOV"), cpd("b", "PARAVIRT"), cpd("c", "PARAVIRT")];
        let vdu = Vdu { id: "v".into(), cpds, ..Vdu::default() };
        let vnfd = Vnfd::default();
        let check = |vim: &str| {
            read(&format!("#cloud-config\nmandate: {{vim: {vim}}}\n")).and_then(|s| s.check(&vdu, &vnfd))
        };
        let good =
            "{aggregate: {nic: x}, ports: {a: {trusted: true}, b: {subports: {c: 100}, qos: {dscp: 46}}}}";
        assert_eq!(check(good), Ok(()));
        for bad in [
            "{zone: ''}",
            "{pci: {qat: 0}}",
            "{ports: {x: {}}}",
            "{ports: {b: {trusted: true}}}",
            "{ports: {b: {qos: {dscp: 64}}}}",
            "{ports: {b: {qos: {max_egress_kbps: 1, min_egress_kbps: 2}}}}",
            "{ports: {b: {subports: {b: 1}}}}",
            "{ports: {b: {subports: {a: 1}}}}",
            "{ports: {b: {subports: {x: 1}}}}",
            "{ports: {b: {subports: {c: 0}}}}",
            "{ports: {b: {subports: {c: 4095}}}}",
            "{ports: {a: {subports: {c: 1}}, b: {subports: {c: 2}}}}",
            "{ports: {b: {subports: {c: 1}}, c: {floating: public}}}",
        ] {
            assert!(matches!(check(bad), Err(Day0Error::Vim(_))), "{bad}: {:?}", check(bad));
        }
    }

    #[test]
    fn refuses_what_could_not_be_planned() {
        assert!(matches!(day0("{function: router, ports: {}}"), Err(Day0Error::Yaml { line: 3, .. })));
        assert!(matches!(day0("{function: firewall, ports: {}, x: 1}"), Err(Day0Error::Yaml { .. })));
        assert!(matches!(day0("{function: reflector, ports: {}}"), Err(Day0Error::Ports(_))));
        assert!(matches!(
            day0("{function: reflector, ports: {port: a, other: b}}"),
            Err(Day0Error::Ports(_))
        ));
        assert!(matches!(
            day0("{function: firewall, ports: {outside: a, inside: a}}"),
            Err(Day0Error::Ports(_))
        ));
        let balancer = "{function: load_balancer, ports: {client: a, backend: b}}";
        assert!(matches!(day0(balancer), Err(Day0Error::Backends(_))));
        let reflector = "{function: reflector, ports: {port: a}, backends: {vdu: a, cpd: b}}";
        assert!(matches!(day0(reflector), Err(Day0Error::Backends(_))));
    }
}
