//! Zones: which VLANs of which port have a name, and what a rule's `from` and `to` come to.

use dataplane_control::config::{ConfigError, Firewall, Rule};

use crate::table::Side;

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

impl Path {
    /// # Errors
    /// A name is neither a port nor a zone.
    pub(super) fn of(firewall: &Firewall, rule: &Rule, index: u32) -> Result<Self, ConfigError> {
        let (side, from) =
            place(firewall, &rule.from).ok_or_else(|| unknown(firewall, index, "from", &rule.from))?;
        let Some(name) = &rule.to else { return Ok(Self { side, from, to: ANYWHERE }) };
        match place(firewall, name) {
            Some((other, to)) if other != side => Ok(Self { side, from, to }),
            _ => Err(unknown(firewall, index, "to", name)),
        }
    }
}

fn place(firewall: &Firewall, name: &str) -> Option<(Side, u8)> {
    match name {
        _ if name == firewall.outside => return Some((Side::Near, ANYWHERE)),
        _ if name == firewall.inside => return Some((Side::Far, ANYWHERE)),
        _ => {}
    }
    let port = &firewall.zones.iter().find(|z| z.id == name)?.port;
    let (number, _) =
        (1..).zip(firewall.zones.iter().filter(|z| z.port == *port)).find(|(_, z)| z.id == name)?;
    Some((if *port == firewall.outside { Side::Near } else { Side::Far }, number))
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
