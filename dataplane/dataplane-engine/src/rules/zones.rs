//! Zones: which VLANs of which port have a name, and what a rule's `from` and `to` come to.

use std::collections::BTreeMap;

use dataplane_control::config::{ConfigError, Firewall, Rule};

use crate::key::Side;

/// VLAN ids.
const VLANS: usize = 1 << 12;
/// In [`Path`]: any zone, or none.
pub(super) const ANYWHERE: u8 = u8::MAX;

/// Of each VLAN of each port, its zone's number: 0, none; from 1 in the order of the configuration, each port by itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Zones(Option<[Box<[u8]>; 2]>);

/// Between which zones a rule's connections go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    pub side: Side,
    /// Number of the zone, or [`ANYWHERE`].
    pub from: u8,
    /// As `from`, on the other side.
    pub to: u8,
}

impl Zones {
    pub(super) fn compile(firewall: &Firewall) -> Self {
        if firewall.zones.is_empty() {
            return Self(None);
        }
        Self(Some([&firewall.outside, &firewall.inside].map(|port| {
            let zones = || (1..).zip(firewall.zones.iter().filter(|z| z.port == *port));
            let rest = zones().find(|(_, z)| z.vlans.is_empty()).map_or(0, |(number, _)| number);
            let mut of = vec![rest; VLANS].into_boxed_slice();
            for (number, zone) in zones() {
                for vlan in &zone.vlans {
                    of.iter_mut().skip(usize::from(*vlan)).take(1).for_each(|of| *of = number);
                }
            }
            of
        })))
    }

    /// Numbers of the zones of a frame with this outer VLAN id that comes in on `side`, and of where it leaves.
    #[inline]
    pub(super) fn of(&self, outer: u32, side: Side) -> (u8, u8) {
        let Some(both) = &self.0 else { return (0, 0) };
        let zone = |side: Side| both[side as usize].get(outer as usize).copied().unwrap_or(0);
        (zone(side), zone(side.other()))
    }
}

/// What the names in rules stand for.
#[derive(Debug)]
pub(super) struct Places<'a> {
    firewall: &'a Firewall,
    of: BTreeMap<&'a str, (Side, u8)>,
}

impl<'a> Places<'a> {
    pub(super) fn of(firewall: &'a Firewall) -> Self {
        let ports = [(&firewall.outside, Side::Near), (&firewall.inside, Side::Far)];
        let zones = ports.into_iter().flat_map(|(port, side)| {
            let zones = firewall.zones.iter().filter(move |z| z.port == *port);
            (1..).zip(zones).map(move |(number, zone)| (zone.id.as_str(), (side, number)))
        });
        let ports = ports.into_iter().map(|(port, side)| (port.as_str(), (side, ANYWHERE)));
        Self { firewall, of: zones.chain(ports).collect() }
    }

    /// # Errors
    /// A name is neither a port nor a zone, or `to` is on the side of `from`.
    pub(super) fn path(&self, rule: &Rule, index: u32) -> Result<Path, ConfigError> {
        let unknown = |field: &str, name: &str| unknown(self.firewall, index, field, name);
        let from = self.of.get(rule.from.as_str());
        let (side, from) = *from.ok_or_else(|| unknown("from", &rule.from))?;
        let Some(name) = &rule.to else { return Ok(Path { side, from, to: ANYWHERE }) };
        match self.of.get(name.as_str()) {
            Some((other, to)) if *other != side => Ok(Path { side, from, to: *to }),
            _ => Err(unknown("to", name)),
        }
    }
}

fn unknown(firewall: &Firewall, index: u32, field: &str, name: &str) -> ConfigError {
    ConfigError::Invalid {
        path: format!("firewall.rules[{index}].{field}"),
        problem: format!(
            "`{name}` is neither `{}` nor `{}` nor a zone on that side",
            firewall.outside, firewall.inside
        ),
    }
}
