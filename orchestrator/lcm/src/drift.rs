//! Desired against observed: what is not as it should be.
//!
//! [`Desired`] is a service's record reduced to what an observation can tell: digests instead of documents. It is a
//! few hundred bytes for each instance and compares without hashing, parsing or allocating while all is well, so that
//! ten thousand services are looked through in one interval.
//!
//! Tests: `tests/drift.rs`.

use std::{collections::BTreeMap, fmt};

use dataplane_control::MacAddr;
use serde::{Deserialize, Serialize};
use trust::Digest;
use vim::{ComputeState, Interconnect, Inventory, Kind, ObjectKey, Observed, ObservedCompute, Spec};

use crate::record::NsRecord;

/// What must be observed of a service, by site and key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    service: String,
    /// Sorted by site, then key.
    objects: Vec<(String, ObjectKey, Wanted)>,
}

/// What must be observed of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// These bytes.
    Image(Digest),
    /// Up, with this MTU, joined to this segment or to none.
    Network(u16, Option<Interconnect>),
    /// An instance.
    Compute {
        /// Image.
        image: Digest,
        /// Configuration document.
        configuration: Digest,
        /// Connection points: name, MAC and the link they are on.
        ports: Box<[(String, MacAddr, ObjectKey)]>,
        /// Cut off on purpose.
        isolated: bool,
    },
}

/// How an object is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deviation {
    /// It is not there.
    Missing,
    /// It is there and does not work.
    Down,
    /// It is not what was asked for: other bytes, another configuration, other connection points.
    Wrong,
    /// Its traffic is cut, and nobody asked for it; or it is not, and somebody did.
    Isolation,
    /// It carries the service's name and is not in its record.
    Extra,
}

/// One object that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// Where.
    pub site: String,
    /// Object.
    pub key: ObjectKey,
    /// Its kind.
    pub kind: Kind,
    /// How.
    pub deviation: Deviation,
    /// Found and wanted, for people.
    pub detail: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.key, self.site, self.detail)
    }
}

impl Wanted {
    /// What must be observed of an object that was asked for.
    #[must_use]
    pub fn of(spec: &Spec, isolated: bool) -> Self {
        match spec {
            Spec::Image(i) => Self::Image(i.digest),
            Spec::Network(n) => Self::Network(n.mtu, n.interconnect.clone()),
            Spec::Compute(c) => Self::Compute {
                image: c.image,
                configuration: Digest::of(c.configuration.as_bytes()),
                ports: c.ports.iter().map(|p| (p.name.clone(), p.mac, p.network.clone())).collect(),
                isolated,
            },
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Image(_) => Kind::Image,
            Self::Network(..) => Kind::Network,
            Self::Compute { .. } => Kind::Compute,
        }
    }

    /// Is what was observed what is wanted?
    pub fn check(&self, observed: &Observed) -> Result<(), (Deviation, String)> {
        match (self, observed) {
            (Self::Image(d), Observed::Image { digest }) if d == digest => Ok(()),
            (Self::Network(..), Observed::Network { up: false, .. }) => {
                Err((Deviation::Down, "the link is down".into()))
            }
            (Self::Network(mtu, joined), Observed::Network { mtu: m, interconnect, .. })
                if mtu == m && joined == interconnect =>
            {
                Ok(())
            }
            (Self::Compute { isolated, .. }, Observed::Compute(o)) => match (o.state, isolated) {
                (ComputeState::Isolated, false) => {
                    Err((Deviation::Isolation, "its traffic is cut: it is Isolated, not active".into()))
                }
                (ComputeState::Active, true) => {
                    Err((Deviation::Isolation, "its traffic is to be cut, and is not".into()))
                }
                (ComputeState::Down, false) => {
                    let state = o.process;
                    Err((Deviation::Down, format!("the instance is Down, not active (process: {state:?})")))
                }
                // The process is kept as it is; what became of it is for forensics to say.
                (ComputeState::Isolated | ComputeState::Down, true) => Ok(()),
                (ComputeState::Active, false) => {
                    self.check_running(o).map_err(|detail| (Deviation::Wrong, detail))
                }
            },
            _ => Err((Deviation::Wrong, format!("found {observed:?}"))),
        }
    }

    fn check_running(&self, o: &ObservedCompute) -> Result<(), String> {
        let Self::Compute { image, configuration, ports, .. } = self else { return Ok(()) };
        if o.image != *image {
            return Err(format!("it runs image {}, asked for {image}", o.image));
        }
        if o.configuration != Some(*configuration) {
            return Err(format!("it runs configuration {:?}, asked for {configuration}", o.configuration));
        }
        if !ports.iter().all(|(name, mac, _)| o.ports.get(name) == Some(mac)) {
            return Err(format!("its connection points are {:?}", o.ports));
        }
        // A driver that cannot see links says nothing about them.
        let plugged = |(name, _, network): &(String, MacAddr, ObjectKey)| match o.links.get(name) {
            Some(link) => link.up && link.network.as_ref() == Some(network),
            None => o.links.is_empty(),
        };
        match ports.iter().find(|p| !plugged(p)) {
            Some((name, _, network)) => {
                Err(format!("its connection point `{name}` is not up on {network}: {:?}", o.links.get(name)))
            }
            None => Ok(()),
        }
    }
}

impl Desired {
    /// Of a record.
    #[must_use]
    pub fn of(record: &NsRecord) -> Self {
        let of = |o: &crate::record::Object| {
            (o.site.clone(), o.key.clone(), Wanted::of(&o.spec, record.is_isolated(o)))
        };
        let mut objects: Vec<_> = record.objects.iter().map(of).collect();
        objects.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        Self { service: record.id.clone(), objects }
    }

    /// NS instance.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Sites that hold something of it.
    pub fn sites(&self) -> impl Iterator<Item = &str> {
        let mut last = None;
        self.objects.iter().map(|(s, ..)| s.as_str()).filter(move |s| last.replace(*s) != Some(*s))
    }

    /// What is not as it should be at one site. Of the inventory, only what is of this service is looked at.
    #[must_use]
    pub fn differences(&self, site: &str, inventory: &Inventory) -> Vec<Difference> {
        let mut out = Vec::new();
        let mut wanted = self.objects.iter().filter(|(s, ..)| s == site).peekable();
        let mut found = of_service(&inventory.objects, &self.service).peekable();
        loop {
            let order = match (wanted.peek(), found.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((_, w, _)), Some((f, _))) => w.cmp(f),
            };
            let w = if order.is_le() { wanted.next() } else { None };
            let f = if order.is_ge() { found.next() } else { None };
            out.extend(difference(site, w, f));
        }
        let strays = inventory.extra.iter().filter(|s| s.key.service() == self.service);
        out.extend(strays.map(|s| Difference {
            site: site.to_owned(),
            key: s.key.clone(),
            kind: s.kind,
            deviation: Deviation::Extra,
            detail: format!("a {} that belongs to nothing: {}", s.what, s.place),
        }));
        out
    }
}

/// The range of a service's keys in a sorted inventory.
fn of_service<'a>(
    objects: &'a BTreeMap<ObjectKey, Observed>,
    service: &'a str,
) -> impl Iterator<Item = (&'a ObjectKey, &'a Observed)> {
    // `-` is the least character that a key may have.
    let first = ObjectKey::new(format!("{service}/-")).ok();
    let range = match first {
        Some(first) => objects.range(first..),
        None => objects.range(..),
    };
    range.take_while(move |(k, _)| k.service() == service)
}

fn difference(
    site: &str,
    wanted: Option<&(String, ObjectKey, Wanted)>,
    found: Option<(&ObjectKey, &Observed)>,
) -> Option<Difference> {
    let (key, kind, deviation, detail) = match (wanted, found) {
        (Some((_, key, w)), None) => (key, w.kind(), Deviation::Missing, "it is not there".to_owned()),
        (None, Some((key, o))) => (key, o.kind(), Deviation::Extra, "nobody asked for it".to_owned()),
        (Some((_, key, w)), Some((_, o))) => {
            let (deviation, detail) = w.check(o).err()?;
            (key, w.kind(), deviation, detail)
        }
        (None, None) => return None,
    };
    Some(Difference { site: site.to_owned(), key: key.clone(), kind, deviation, detail })
}
