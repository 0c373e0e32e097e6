//! The policy rules of nova, neutron and glance (Yoga): their defaults, and what each is asked for.
//!
//! One line each in `rules/SERVICE.tsv`: name, class, default, and where there is one the deprecated name and default,
//! which count as well as long as a deployment does not set `enforce_new_defaults`. That the lists are those of the real
//! Yoga, with none missing and none unknown, is a test of `tests/openstack_policy.rs`.

use std::{fmt, str::FromStr};

use vim::Kind;

use super::running::Effect;

const NOVA: &str = include_str!("rules/nova.tsv");
const NEUTRON: &str = include_str!("rules/neutron.tsv");
const GLANCE: &str = include_str!("rules/glance.tsv");

/// A service that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Service {
    /// Compute.
    Nova,
    /// Network.
    Neutron,
    /// Image.
    Glance,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nova, Self::Neutron, Self::Glance];

    /// As its configuration and URLs name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nova => "nova",
            Self::Neutron => "neutron",
            Self::Glance => "glance",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Nova => NOVA,
            Self::Neutron => NEUTRON,
            Self::Glance => GLANCE,
        }
    }

    /// Its rules, in order of their names.
    pub fn rules(self) -> impl Iterator<Item = Rule> {
        self.text().lines().filter_map(move |line| Rule::parse(self, line))
    }

    /// The rule of this name.
    #[must_use]
    pub fn rule(self, name: &str) -> Option<Rule> {
        // The lists are in order of bytes.
        let lines = self.text();
        let line = lines.lines().find(|l| l.split('\t').next() == Some(name))?;
        Rule::parse(self, line)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Service {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|it| it.name() == s).ok_or(())
    }
}

/// What a rule is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Makes something.
    Create,
    /// Changes something.
    Update,
    /// Removes something.
    Delete,
    /// Has something do something.
    Action,
    /// Looks.
    Read,
    /// Asked together with a rule of the classes above, for one of a call's attributes.
    Part,
    /// How much a project may use: the cloud operator's, and no resource.
    Limit,
    /// A name that other rules use; no call asks for it.
    Alias,
}

impl Class {
    fn of(text: &str) -> Option<Self> {
        Some(match text {
            "create" => Self::Create,
            "update" => Self::Update,
            "delete" => Self::Delete,
            "action" => Self::Action,
            "read" => Self::Read,
            "part" => Self::Part,
            "limit" => Self::Limit,
            "alias" => Self::Alias,
            _ => return None,
        })
    }

    /// Is it only allowed for an operation?
    #[must_use]
    pub fn gated(self) -> bool {
        matches!(self, Self::Create | Self::Update | Self::Delete | Self::Action)
    }

    /// Can it be part of this effect? What removes something creates nothing, and what cuts traffic neither creates nor
    /// deletes the instance, though perhaps rules on its ports.
    #[must_use]
    pub fn fits(self, effect: Effect) -> bool {
        match effect {
            Effect::Ensure => true,
            Effect::Remove => self != Self::Create,
            Effect::Isolate => matches!(self, Self::Update | Self::Action),
        }
    }
}

/// A policy rule of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Whose.
    pub service: Service,
    /// Its name.
    pub name: &'static str,
    /// What it is asked for.
    pub class: Class,
    /// The service's own check.
    pub default: &'static str,
    /// Name and check that it had before, which are still good.
    pub deprecated: Option<(&'static str, &'static str)>,
}

/// Calls for which neutron has a name and no rule of its own: it uses the rule `default`.
pub const WITHOUT_RULE: [&str; 5] = [
    "add_addresses",
    "create_address_group",
    "delete_address_group",
    "remove_addresses",
    "update_address_group",
];

/// neutron's resources that are networks and what belongs to them; all else is ports and what belongs to them.
const NETWORKS: [&str; 9] = [
    "network",
    "subnet",
    "subnetpool",
    "segment",
    "address_scope",
    "network_segment_range",
    "auto_allocated_topology",
    "network_subnets",
    "prefixes",
];

impl Rule {
    fn parse(service: Service, line: &'static str) -> Option<Self> {
        let mut fields = line.split('\t');
        let (name, class, default) = (fields.next()?, Class::of(fields.next()?)?, fields.next()?);
        let deprecated = (fields.next()?, fields.next()?);
        let deprecated = (deprecated.0 != "-").then_some(deprecated);
        Some(Self { service, name, class, default, deprecated })
    }

    /// What neutron's rule is about: `port` of `create_port`.
    #[must_use]
    pub fn resource(&self) -> &'static str {
        self.name.split_once('_').map_or(self.name, |(_, resource)| resource)
    }

    /// Kinds of objects that a call of this rule may be made for.
    #[must_use]
    pub fn kinds(&self) -> &'static [Kind] {
        match self.service {
            Service::Nova => &[Kind::Compute],
            Service::Glance => &[Kind::Image],
            Service::Neutron if NETWORKS.contains(&self.resource()) => &[Kind::Network],
            // A router, a security group or a QoS policy may come with a link or with an instance.
            Service::Neutron => &[Kind::Compute, Kind::Network],
        }
    }

    /// Does nova ask for it as its own user, on behalf of who asked for a server?
    #[must_use]
    pub fn asked_by_nova(&self) -> bool {
        self.service == Service::Neutron && self.resource() == "port"
    }

    /// Can the service itself ask over `https:`? Most targets of neutron and glance (of what is to be created there, and of
    /// an image that is there) cannot be copied or written as JSON by oslo.policy: the call ends as 500 before anybody is
    /// asked. Named here is what was seen to work.
    #[must_use]
    pub fn plain_https(&self) -> bool {
        match self.service {
            Service::Nova => true,
            Service::Neutron => {
                self.class == Class::Delete
                    || ["update_network", "update_subnet", "update_port"].contains(&self.name)
            }
            Service::Glance => self.name == "add_image",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_rule_and_every_service_has_its_calls() {
        for service in Service::ALL {
            let rules: Vec<Rule> = service.rules().collect();
            assert_eq!(rules.len(), service.text().lines().count(), "{service}");
            for rule in &rules {
                assert_eq!(service.rule(rule.name), Some(*rule));
                let name_says = ["get_", "list_"].iter().any(|p| rule.name.starts_with(p))
                    || [":index", ":show", ":list", ":detail"].iter().any(|s| rule.name.ends_with(s));
                // It makes what it is asked to show.
                let makes = rule.name == "get_auto_allocated_topology";
                assert!(makes || !name_says || !rule.class.gated(), "a read is not gated: {}", rule.name);
            }
        }
        let class = |service: Service, name| service.rule(name).unwrap().class;
        assert_eq!(class(Service::Nova, "os_compute_api:servers:create"), Class::Create);
        assert_eq!(class(Service::Nova, "os_compute_api:servers:reboot"), Class::Action);
        assert_eq!(class(Service::Nova, "os_compute_api:os-console-output"), Class::Read);
        assert_eq!(class(Service::Neutron, "update_port"), Class::Update);
        assert_eq!(class(Service::Neutron, "update_port:binding:host_id"), Class::Part);
        assert_eq!(class(Service::Neutron, "update_quota"), Class::Limit);
        assert_eq!(class(Service::Glance, "upload_image"), Class::Update);
        assert_eq!(Service::Nova.rule("os_compute_api:servers:explode"), None);
    }

    #[test]
    fn removing_creates_nothing() {
        assert!(!Class::Create.fits(Effect::Remove) && Class::Update.fits(Effect::Remove));
        assert!(!Class::Delete.fits(Effect::Isolate) && Class::Delete.fits(Effect::Ensure));
    }
}
