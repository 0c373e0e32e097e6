//! Desired against observed: what is not as it should be.
//!
//! [`Desired`] is a service's record reduced to what an observation can tell: digests instead of documents. It is a
//! few hundred bytes for each instance and compares without hashing, parsing or allocating while all is well, so that
//! ten thousand services are looked through in one interval.
//!
//! Tests: `tests/drift.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use dataplane_control::MacAddr;
use serde::{Deserialize, Serialize};
use trust::Digest;
use vim::{
    ComputeState, Interconnect, Inventory, Kind, ObjectKey, Observed, ObservedCompute, PortState,
    ProcessState, Spec,
};

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
    /// Up, with this MTU (`None`: of whatever MTU: it is somebody else's network, or nobody said), joined to this segment or to none.
    Network(Option<u16>, Option<Interconnect>),
    /// An instance.
    Compute {
        /// Image.
        image: Digest,
        /// Configuration document; `None`: it has none of ours.
        configuration: Option<Digest>,
        /// Connection points: name, MAC and the link they are on.
        ports: Box<[(String, MacAddr, ObjectKey)]>,
        /// Cut off on purpose.
        isolated: bool,
    },
}

/// How an object is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Deviation {
    /// It is not there.
    Missing,
    /// The instance's process is gone, or parts of it are.
    Down,
    /// The instance's process does not answer.
    Silent,
    /// Another process is in the instance's place.
    Replaced,
    /// The instance runs another image, or the image's bytes are others.
    ImageChanged,
    /// The instance runs another configuration: a rule, a backend, a generation.
    ConfigurationChanged,
    /// A connection point is missing, has another MAC address, MTU or link, or is down.
    PortChanged,
    /// A virtual link is down, has another MTU or another interconnect.
    LinkChanged,
    /// Traffic is cut, though nobody isolated it.
    Cut,
    /// Traffic is not cut, though it was isolated.
    NotCut,
    /// Something of ours that nobody asked for.
    Extra,
}

impl Deviation {
    /// As in `UPPER_SNAKE_CASE` codes.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "MISSING",
            Self::Down => "DOWN",
            Self::Silent => "SILENT",
            Self::Replaced => "REPLACED",
            Self::ImageChanged => "IMAGE_CHANGED",
            Self::ConfigurationChanged => "CONFIGURATION_CHANGED",
            Self::PortChanged => "PORT_CHANGED",
            Self::LinkChanged => "LINK_CHANGED",
            Self::Cut => "CUT",
            Self::NotCut => "NOT_CUT",
            Self::Extra => "EXTRA",
        }
    }

    /// Does it mean that something else than what was approved may run? Then it is to be cut off, not repaired in
    /// silence.
    #[must_use]
    pub fn suspicious(self) -> bool {
        matches!(self, Self::Replaced | Self::NotCut)
    }
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
            Spec::Network(n) => {
                let ours = n.existing.is_none().then_some(n.mtu);
                Self::Network(ours.filter(|mtu| *mtu != 0), n.interconnect.clone())
            }
            Spec::Compute(c) => Self::Compute {
                image: c.image,
                configuration: (!c.configuration.is_empty()).then(|| Digest::of(c.configuration.as_bytes())),
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
        let wrong = match (self, observed) {
            (Self::Image(want), Observed::Image { digest }) => (want != digest)
                .then(|| (Deviation::ImageChanged, format!("its bytes are {digest}, expected {want}"))),
            (Self::Network(mtu, joined), Observed::Network { up, mtu: is, interconnect }) => {
                link(*up, (*mtu, joined.as_ref()), (*is, interconnect.as_ref()))
            }
            (Self::Compute { image, configuration, ports, isolated }, Observed::Compute(o)) => {
                process(o, *isolated)
                    .or_else(|| software(o, *isolated, image, configuration.as_ref()))
                    .or_else(|| ports.iter().find_map(|p| port(o, p, *isolated)))
            }
            (_, other) => Some((Deviation::Missing, format!("there is {:?} in its place", other.kind()))),
        };
        wrong.map_or(Ok(()), Err)
    }
}

fn link(
    up: bool,
    (mtu, joined): (Option<u16>, Option<&Interconnect>),
    (is, found): (u16, Option<&Interconnect>),
) -> Option<(Deviation, String)> {
    let wrong = if !up {
        "the link is down".to_owned()
    } else if let Some(mtu) = mtu.filter(|m| *m != is) {
        format!("its MTU is {is}, expected {mtu}")
    } else if joined != found {
        format!("it is joined to {found:?}, expected {joined:?}")
    } else {
        return None;
    };
    Some((Deviation::LinkChanged, wrong))
}

fn process(o: &ObservedCompute, isolated: bool) -> Option<(Deviation, String)> {
    match (o.process, o.state) {
        (ProcessState::Replaced, _) => {
            Some((Deviation::Replaced, "another process answers in its place".to_owned()))
        }
        // What is isolated is kept as it is, whatever becomes of its process.
        (_, ComputeState::Active) if isolated => {
            Some((Deviation::NotCut, "its traffic is not cut".to_owned()))
        }
        _ if isolated => None,
        (ProcessState::Gone, _) | (_, ComputeState::Down) => {
            Some((Deviation::Down, "it does not run".to_owned()))
        }
        (ProcessState::Silent, _) => Some((Deviation::Silent, "it runs and does not answer".to_owned())),
        (_, ComputeState::Isolated) => Some((Deviation::Cut, "its traffic is cut".to_owned())),
        (ProcessState::Answers, ComputeState::Active) => None,
    }
}

fn software(
    o: &ObservedCompute,
    isolated: bool,
    image: &Digest,
    configuration: Option<&Digest>,
) -> Option<(Deviation, String)> {
    if o.image != *image {
        return Some((Deviation::ImageChanged, format!("it runs image {}, expected {image}", o.image)));
    }
    let configuration = configuration?;
    // An isolated instance that does not answer any more says nothing; what it says must be right.
    match o.configuration {
        Some(is) if is != *configuration => Some((
            Deviation::ConfigurationChanged,
            format!(
                "it runs configuration {is} (generation {}), expected {configuration}",
                o.generation.unwrap_or_default()
            ),
        )),
        None if o.process == ProcessState::Answers && !isolated => Some((
            Deviation::ConfigurationChanged,
            format!("it has no configuration, expected {configuration}"),
        )),
        _ => None,
    }
}

fn port(
    o: &ObservedCompute,
    (name, mac, network): &(String, MacAddr, ObjectKey),
    isolated: bool,
) -> Option<(Deviation, String)> {
    let wrong = match (o.ports.get(name), o.links.get(name)) {
        (None, _) => "is not there".to_owned(),
        (Some(is), _) if is != mac => format!("has the address {is}, expected {mac}"),
        (_, Some(PortState { network: is, .. })) if is.as_ref() != Some(network) => match is {
            Some(is) => format!("is on {is}, expected {network}"),
            None => format!("is on no link of ours, expected {network}"),
        },
        (_, Some(PortState { up: false, .. })) if !isolated => "is down".to_owned(),
        _ => return None,
    };
    Some((Deviation::PortChanged, format!("connection point {name} {wrong}")))
}

impl Desired {
    /// Site and key of each instance.
    pub fn instances(&self) -> impl Iterator<Item = (&str, &ObjectKey)> {
        let computes = self.objects.iter().filter(|(_, _, wanted)| matches!(wanted, Wanted::Compute { .. }));
        computes.map(|(site, key, _)| (site.as_str(), key))
    }

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

/// Every difference between what should be at the sites and one observation of them, by NS instance, sorted; what
/// belongs to no service that is known comes under the service of its key.
///
/// `sites` are those that could be observed: an unseen one says nothing about what is there. `leave_out` are NS
/// instances that an operation is working on, or whose state nobody answers for.
#[must_use]
pub fn compare<'a>(
    desired: impl IntoIterator<Item = &'a Desired>,
    sites: &BTreeMap<String, Inventory>,
    leave_out: &BTreeSet<String>,
) -> BTreeMap<String, Vec<Difference>> {
    let mut out: BTreeMap<String, Vec<Difference>> = BTreeMap::new();
    let mut known: BTreeSet<&str> = leave_out.iter().map(String::as_str).collect();
    for service in desired {
        known.insert(service.service());
        if leave_out.contains(service.service()) {
            continue;
        }
        // At sites where it should have nothing, too.
        for (site, inventory) in sites {
            let found = service.differences(site, inventory);
            if !found.is_empty() {
                out.entry(service.service.clone()).or_default().extend(found);
            }
        }
    }
    for (site, inventory) in sites {
        orphans(site, inventory, &known, &mut out);
    }
    out
}

/// What carries our mark and belongs to no service that is known.
fn orphans(
    site: &str,
    inventory: &Inventory,
    known: &BTreeSet<&str>,
    out: &mut BTreeMap<String, Vec<Difference>>,
) {
    let mut put = |key: &ObjectKey, kind, detail: String| {
        let (site, key, deviation) = (site.to_owned(), key.clone(), Deviation::Extra);
        let of = out.entry(key.service().to_owned()).or_default();
        of.push(Difference { site, key, kind, deviation, detail });
    };
    // Objects are sorted by key, so those of one service follow each other: it is looked up once.
    let mut last: Option<(&str, bool)> = None;
    for (key, found) in &inventory.objects {
        let ns = key.service();
        let foreign = match last {
            Some((same, foreign)) if same == ns => foreign,
            _ => !known.contains(ns),
        };
        last = Some((ns, foreign));
        if foreign {
            put(key, found.kind(), "it is of a service that does not exist".to_owned());
        }
    }
    for stray in inventory.extra.iter().filter(|s| !known.contains(s.key.service())) {
        put(&stray.key, stray.kind, format!("a {} that belongs to nothing: {}", stray.what, stray.place));
    }
}
