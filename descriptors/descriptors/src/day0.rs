//! What a VDU's cloud-init file tells our planner: which packet function runs, and which port has which role.
//!
//! ```yaml
//! #cloud-config
//! mandate:                                   # cloud-init ignores a key it does not know
//!   function: firewall                       # firewall | load_balancer | reflector
//!   ports: {outside: client, inside: server} # role -> int-cpd of this VDU
//! ```
//!
//! A load balancer has the roles `client` and `backend` and names its `backends`; a reflector has the role `port`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::model::{CpRef, Vdu, Vnfd};

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
}

#[derive(Deserialize)]
struct RawFile {
    mandate: Option<Raw>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    function: Day0Function,
    ports: BTreeMap<String, String>,
    backends: Option<RawCp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCp {
    vdu: String,
    cpd: String,
}

/// Reads a day-0 file; `None` if it is no cloud-config with a line that starts with `mandate:`.
pub fn parse(text: &str) -> Result<Option<Day0>, Day0Error> {
    if text.len() > MAX_DAY0_BYTES {
        return Err(Day0Error::TooLarge(text.len()));
    }
    // Scripts, MIME archives and templates that are no YAML yet are user data too, but none of ours.
    if !text.starts_with("#cloud-config") || !text.lines().any(|l| l.starts_with("mandate:")) {
        return Ok(None);
    }
    let file: RawFile = serde_saphyr::from_str(text).map_err(|e| yaml_error(&e))?;
    file.mandate.map(Day0::try_from).transpose()
}

fn yaml_error(e: &serde_saphyr::Error) -> Day0Error {
    let (line, column) = e.location().map_or((0, 0), |l| (l.line(), l.column()));
    let text = e.to_string();
    let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    // The place is said already.
    let message = message.trim_start_matches(&format!("line {line} column {column}: ")).to_owned();
    Day0Error::Yaml { line, column, message }
}

impl TryFrom<Raw> for Day0 {
    type Error = Day0Error;

    fn try_from(raw: Raw) -> Result<Self, Day0Error> {
        let roles = raw.function.roles();
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
        let wants = raw.function == Day0Function::LoadBalancer;
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
        Ok(Self { function: raw.function, ports: raw.ports, backends })
    }
}

impl Day0 {
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

#[cfg(test)]
mod tests {
    use super::*;

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
