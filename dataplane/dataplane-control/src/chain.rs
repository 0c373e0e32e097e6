//! Functions one after the other in one process, joined by links that exist only there.

use serde::{Deserialize, Serialize};

use crate::{
    config::{ConfigError, Configuration, Function, MacAddr, invalid},
    port::{Port, PortDriver, shortest_frame},
};

/// Most functions of a chain.
pub const MAX_FUNCTIONS: usize = 4;

/// A chain: the far side of each function (inside; towards the backends) is the near side of the next (outside; towards the
/// clients), by a link whose name both give where they would name a port. The first one's near side and the last one's far
/// side are ports of the process.
///
/// ```json
/// {"chain": {"links": [{"name": "dmz", "mac": "02:00:00:00:00:03"}], "functions": [
///   {"firewall": {"outside": "wan", "inside": "dmz", "rules": []}},
///   {"load_balancer": {"client": "dmz", "backend": "lan", "vips": [], "backends": []}}]}}
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// Between the functions, in order: one less than there are functions.
    pub links: Vec<Link>,
    /// Firewalls and load balancers, the one that clients meet first before the others.
    pub functions: Vec<Function>,
}

/// A link inside the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Its name, which no port has.
    pub name: String,
    /// The address, on it, of a function that has one: the load balancer's towards the clients.
    pub mac: MacAddr,
}

impl Function {
    /// The functions of a chain, in order; of any other, itself alone.
    #[must_use]
    pub fn row(&self) -> &[Self] {
        match self {
            Self::Chain(chain) => &chain.functions,
            alone => std::slice::from_ref(alone),
        }
    }

    /// Connections that it may track at once, on each packet thread; of a chain those of its functions together.
    #[must_use]
    pub fn max_connections(&self) -> u64 {
        match self {
            Self::Firewall(f) => f.max_connections.into(),
            Self::LoadBalancer(l) => l.max_connections.into(),
            Self::Chain(c) => c.functions.iter().map(Self::max_connections).sum(),
            Self::Reflector(_) | Self::Generator(_) => 0,
        }
    }

    /// Names of the ports on its near side (outside; towards the clients) and its far side, if it stands between two.
    #[must_use]
    pub fn sides(&self) -> Option<(&str, &str)> {
        match self {
            Self::Firewall(f) => Some((&f.outside, &f.inside)),
            Self::LoadBalancer(l) => Some((&l.client, &l.backend)),
            Self::Chain(c) => Some((c.functions.first()?.sides()?.0, c.functions.last()?.sides()?.1)),
            Self::Reflector(_) | Self::Generator(_) => None,
        }
    }
}

impl Chain {
    /// What the function at `index` is configured with as if it ran alone: its two ports, near side first, links among them.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] if a side has no port or link of that name.
    pub fn part(&self, whole: &Configuration, index: usize) -> Result<Configuration, ConfigError> {
        let path = format!("chain.functions[{index}]");
        let function = self.functions.get(index).ok_or_else(|| invalid(&path, "does not exist"))?;
        let Some((near, far)) = function.sides().filter(|_| !matches!(function, Function::Chain(_))) else {
            return Err(invalid(path, "must be a firewall or a load balancer: it stands between two sides"));
        };
        let port = |name: &str| {
            let link = || self.links.iter().find(|l| l.name == name).map(Link::as_port);
            let found = whole.ports.iter().find(|p| p.name == name).cloned().or_else(link);
            found.ok_or_else(|| invalid(&path, format!("no port or link `{name}`")))
        };
        Ok(Configuration {
            instance: whole.instance.clone(),
            generation: whole.generation,
            ports: vec![port(near)?, port(far)?],
            function: function.clone(),
        })
    }

    /// Links lead from each function to the next, ends are ports, and each function is right by itself.
    pub(crate) fn check(&self, whole: &Configuration) -> Result<(), ConfigError> {
        if !(2..=MAX_FUNCTIONS).contains(&self.functions.len()) {
            let problem = format!("{} functions; a chain has 2 to {MAX_FUNCTIONS}", self.functions.len());
            return Err(invalid("chain.functions", problem));
        }
        if self.links.len() + 1 != self.functions.len() {
            let problem = format!(
                "{} links between {} functions; one less is needed",
                self.links.len(),
                self.functions.len()
            );
            return Err(invalid("chain.links", problem));
        }
        for (i, link) in self.links.iter().enumerate() {
            let taken = whole.ports.iter().any(|p| p.name == link.name)
                || self.links.iter().take(i).any(|l| l.name == link.name);
            if taken {
                let problem = format!("`{}` is a port's or another link's name", link.name);
                return Err(invalid(format!("chain.links[{i}].name"), problem));
            }
        }
        for index in 0..self.functions.len() {
            let part = self.part(whole, index)?;
            self.check_place(&part, index)?;
            part.check().map_err(|e| within(e, index))?;
        }
        Ok(())
    }

    /// The near side is the link from the function before, the far side the link to the next.
    fn check_place(&self, part: &Configuration, index: usize) -> Result<(), ConfigError> {
        let before = index.checked_sub(1).and_then(|i| self.links.get(i));
        let after = self.links.get(index);
        for (side, port, wanted) in [("near", part.ports.first(), before), ("far", part.ports.get(1), after)]
        {
            let Some(port) = port else { continue };
            let is_link = self.links.iter().any(|l| l.name == port.name);
            let problem = match wanted {
                Some(link) if link.name != port.name => format!("must be link `{}`", link.name),
                None if is_link => "must be a port of the process".to_owned(),
                _ => continue,
            };
            let path = format!("chain.functions[{index}]");
            return Err(invalid(path, format!("its {side} side is `{}`, and {problem}", port.name)));
        }
        Ok(())
    }
}

impl Link {
    fn as_port(&self) -> Port {
        let driver = PortDriver::Null { frame_bytes: shortest_frame() };
        Port { name: self.name.clone(), driver, mac: self.mac }
    }
}

/// An error of a part, with the part's place.
fn within(error: ConfigError, index: usize) -> ConfigError {
    match error {
        ConfigError::Invalid { path, problem } => {
            invalid(format!("chain.functions[{index}].{path}"), problem)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn document(links: Value, first: (&str, &str), second: (&str, &str)) -> Value {
        let port = |name: &str| json!({ "name": name, "driver": { "null": {} }, "mac": "02:00:00:00:00:01" });
        json!({
            "instance": "i", "generation": 3, "ports": [port("lan"), port("wan")],
            "function": { "chain": { "links": links, "functions": [
                { "firewall": { "outside": first.0, "inside": first.1, "rules": [] } },
                { "load_balancer": { "client": second.0, "backend": second.1, "vips": [], "backends": [] } },
            ] } },
        })
    }

    fn parse(document: &Value) -> Result<Configuration, ConfigError> {
        Configuration::parse(&serde_json::to_vec(document).unwrap())
    }

    fn dmz() -> Value {
        json!([{ "name": "dmz", "mac": "02:00:00:00:00:03" }])
    }

    #[test]
    fn a_part_is_configured_as_if_it_ran_alone() {
        let whole = parse(&document(dmz(), ("wan", "dmz"), ("dmz", "lan"))).unwrap();
        assert_eq!(parse(&serde_json::from_slice(&whole.to_bytes()).unwrap()).unwrap(), whole);
        assert_eq!(whole.function.sides(), Some(("wan", "lan")));
        let Function::Chain(chain) = &whole.function else { panic!() };
        let second = chain.part(&whole, 1).unwrap();
        let names: Vec<&str> = second.ports.iter().map(|p| p.name.as_str()).collect();
        assert_eq!((names, second.generation), (vec!["dmz", "lan"], 3));
        assert_eq!(second.ports[0].mac, MacAddr([2, 0, 0, 0, 0, 3]));
    }

    #[test]
    fn what_is_no_row_is_refused_with_its_place() {
        for (bad, words) in [
            (document(json!([]), ("wan", "lan"), ("wan", "lan")), "chain.links: 0 links between 2"),
            (
                document(dmz(), ("wan", "lan"), ("dmz", "lan")),
                "chain.functions[0]: its far side is `lan`, and must be link `dmz`",
            ),
            (
                document(dmz(), ("dmz", "dmz"), ("dmz", "lan")),
                "chain.functions[0]: its near side is `dmz`, and must be a port",
            ),
            (
                document(dmz(), ("wan", "dmz"), ("dmz", "nowhere")),
                "chain.functions[1]: no port or link `nowhere`",
            ),
            (
                document(
                    json!([{ "name": "lan", "mac": "02:00:00:00:00:03" }]),
                    ("wan", "lan"),
                    ("lan", "lan"),
                ),
                "chain.links[0].name: `lan` is a port's",
            ),
        ] {
            let error = parse(&bad).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let mut wrong = document(dmz(), ("wan", "dmz"), ("dmz", "lan"));
        wrong["function"]["chain"]["functions"][1]["load_balancer"]["table_size"] = json!(4);
        let error = parse(&wrong).unwrap_err().to_string();
        assert!(error.contains("chain.functions[1].load_balancer.table_size"), "{error}");
        wrong["function"]["chain"]["functions"][1] = json!({ "generator": { "port": "lan" } });
        let error = parse(&wrong).unwrap_err().to_string();
        assert!(error.contains("chain.functions[1]: must be a firewall or a load balancer"), "{error}");
    }
}
