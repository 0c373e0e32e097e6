//! From descriptors and parameters to the configuration of every data-plane process.
//!
//! A VDU's role comes from its day-0 document; rules, services and weights from the intent's parameters of the
//! member. MAC addresses are derived from object keys, so that the whole plan is known before anything exists.

use std::{collections::BTreeMap, net::IpAddr};

use dataplane_control::{
    Configuration, Function, MacAddr,
    config::{Backend, Firewall, LoadBalancer, Port, PortDriver, Reflector, Rule},
};
use descriptors::{
    day0::{Day0, Day0Function},
    model::Vdu,
};
use ledger_contract::intent::VnfParams;
use trust::Digest;
use vim::{ObjectKey, port_interface};

/// Size of the Maglev table the planner configures (a prime; issue: 65,537 entries, weights within 1 %).
pub const TABLE_SIZE: u32 = 65_537;

/// A locally administered unicast MAC for a connection point of an instance at a site: while a member moves, it stands
/// at two of them, perhaps on one link.
#[must_use]
pub fn mac_of(site: &str, instance: &ObjectKey, cpd: &str) -> MacAddr {
    let d = Digest::of_parts([site.as_bytes(), instance.as_str().as_bytes(), cpd.as_bytes()]).0;
    MacAddr([0x02, d[0], d[1], d[2], d[3], d[4]])
}

/// Why an instance cannot be configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{vdu}: {problem}")]
pub struct FunctionError {
    /// `member/vdu`.
    pub vdu: String,
    /// What is missing, and where to add it.
    pub problem: String,
}

/// What the configuration of one instance is made of.
#[derive(Debug, Clone)]
pub struct Instance<'a> {
    /// Its key.
    pub key: &'a ObjectKey,
    /// `member/vdu`, for messages.
    pub label: String,
    /// Its VDU.
    pub vdu: &'a Vdu,
    /// Its day-0 document.
    pub day0: &'a Day0,
    /// Its ports, in the order of its connection points.
    pub ports: Vec<Port>,
    /// Its member's parameters.
    pub params: &'a VnfParams,
    /// Number of the instance within its VDU, from 0.
    pub index: u32,
    /// The backends, for a load balancer.
    pub backends: Vec<Backend>,
    /// All services of the NS (a reflector answers for them).
    pub addresses: Vec<IpAddr>,
    /// Generation of the configuration.
    pub generation: u64,
}

impl Instance<'_> {
    fn role(&self, role: &str) -> Result<String, FunctionError> {
        let cpd = self.day0.ports.get(role).cloned().ok_or_else(|| {
            self.bad(format!("its cloud-init has no `mandate.ports.{role}`: name the int-cpd that plays it"))
        })?;
        if self.vdu.cpds.iter().any(|c| c.id == cpd) {
            Ok(cpd)
        } else {
            Err(self.bad(format!("`mandate.ports.{role}` is `{cpd}`, which is no int-cpd of the VDU")))
        }
    }

    fn bad(&self, problem: String) -> FunctionError {
        FunctionError { vdu: self.label.clone(), problem }
    }

    /// The configuration document.
    pub fn configuration(&self) -> Result<Configuration, FunctionError> {
        let function = match self.day0.function {
            Day0Function::Firewall => Function::Firewall(self.firewall()?),
            Day0Function::LoadBalancer => Function::LoadBalancer(self.load_balancer()?),
            Day0Function::Reflector => Function::Reflector(Reflector {
                port: self.role("port")?,
                number: backend_number(self.index),
                addresses: self.addresses.clone(),
            }),
        };
        let it = Configuration {
            instance: self.key.to_string(),
            generation: self.generation,
            ports: self.ports.clone(),
            function,
        };
        it.check().map_err(|e| self.bad(e.to_string()))?;
        Ok(it)
    }

    fn firewall(&self) -> Result<Firewall, FunctionError> {
        let (outside, inside) = (self.role("outside")?, self.role("inside")?);
        let port =
            |rule: &Rule, field: &str, name: &str| match name {
                "outside" => Ok(outside.clone()),
                "inside" => Ok(inside.clone()),
                other => Err(self
                    .bad(format!("rule `{}` has `{field}` `{other}`; it is `outside` or `inside`", rule.id))),
            };
        let mut rules = Vec::with_capacity(self.params.rules.len());
        for rule in &self.params.rules {
            let from = port(rule, "from", &rule.from)?;
            let to = rule.to.as_deref().map(|name| port(rule, "to", name)).transpose()?;
            rules.push(Rule { from, to, ..rule.clone() });
        }
        // The defaults of the configuration format, spelled out so that they are measured.
        Ok(Firewall {
            outside,
            inside,
            rules,
            max_connections: 65_536,
            tcp_idle_ms: 300_000,
            other_idle_ms: 60_000,
            ..Firewall::default()
        })
    }

    fn load_balancer(&self) -> Result<LoadBalancer, FunctionError> {
        if self.params.vips.is_empty() {
            return Err(
                self.bad("it has no service: give the member `vips` in the intent's parameters".into())
            );
        }
        let (vips, backends) = (self.params.vips.clone(), self.backends.clone());
        Ok(LoadBalancer {
            table_size: TABLE_SIZE,
            max_connections: 65_536,
            idle_ms: 300_000,
            ..LoadBalancer::new(&self.role("client")?, &self.role("backend")?, vips, backends)
        })
    }
}

/// The port behind the `index`-th connection point.
#[must_use]
pub fn port(index: usize, cpd: &str, mac: MacAddr) -> Port {
    Port { name: cpd.to_owned(), driver: PortDriver::AfPacket { interface: port_interface(index) }, mac }
}

/// The number that backend instance `index` stamps into probes: from 1, because 0 means "not answered".
#[must_use]
pub fn backend_number(index: u32) -> u16 {
    u16::try_from(index.saturating_add(1)).unwrap_or(u16::MAX)
}

/// The backend entry of an instance.
#[must_use]
pub fn backend(key: &ObjectKey, mac: MacAddr, index: u32, weights: &[u32]) -> Backend {
    let weight = usize::try_from(index).ok().and_then(|i| weights.get(i)).copied().unwrap_or(1);
    Backend::new(key.as_str(), backend_number(index), mac, weight)
}

/// All service addresses of a deployment, sorted, once each.
#[must_use]
pub fn addresses(params: &BTreeMap<String, VnfParams>) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = params.values().flat_map(|p| p.vips.iter().map(|v| v.address)).collect();
    all.sort_unstable();
    all.dedup();
    all
}
