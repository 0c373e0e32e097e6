//! Links between sites of this machine: the wide-area networks that the sites of one home share.
//!
//! A home has an exchange, the namespace `mdx-<home>`, with a bridge per wide-area network and segment
//! (`mandate-exchange <home> <wan>/<segment>`). A site joins a link by a veth pair, its *trunk*: one end in the link's
//! bridge in the site's fabric (`mandate <site> <key>@<wan>/<segment>`), the other in the segment's bridge
//! (`mandate-part <site> <key>`). A segment's bridge goes with its last part, the exchange with its last segment;
//! what a crash left of either goes with the next change of any part.
//!
//! Sites may be driven by several processes: who changes the exchange holds an abstract UNIX socket address, which
//! the kernel gives back when its holder dies and of which no file is left.
//!
//! Never: two links of a site in one segment; a trunk into a bridge without our alias.
//!
//! Tests: `tests/wan.rs`, with every half-made state; the conformance suite, with frames.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket},
};
use trust::Digest;
use vim::{Interconnect, ObjectKey};

use crate::{
    Site, blocking,
    error::HostError,
    link::{Link, Links, Shape},
    netns,
};

/// Longest wait for another site's change of the exchange.
const WAIT: Duration = Duration::from_secs(30);
/// How often it is asked for.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// Segments: those of a VLAN id, so that any network can carry them.
const SEGMENTS: std::ops::RangeInclusive<u16> = 1..=4094;
/// Longest name of a wide-area network, characters: it is part of an alias (255 bytes) with a key (200).
const MAX_WAN: usize = 16;

/// Longest alias of a link (IFALIASZ of linux/if.h, less its end), bytes.
const MAX_ALIAS: usize = 255;

/// The exchange, held against other changes.
struct Held {
    links: Links,
    /// Its address is the lock.
    _lock: OwnedFd,
}

/// Alias of a trunk's end in the fabric.
pub(crate) fn trunk_alias(site: &str, key: &ObjectKey, to: &Interconnect) -> String {
    format!("mandate {site} {key}@{}/{}", to.wan, to.segment)
}

/// The key and the segment in a trunk's alias.
pub(crate) fn parse_trunk(site: &str, alias: &str) -> Option<(ObjectKey, Interconnect)> {
    let rest = alias.strip_prefix("mandate ")?.strip_prefix(site)?.strip_prefix(' ')?;
    let (key, segment) = rest.split_once('@')?;
    Some((ObjectKey::new(key).ok()?, parse_segment(segment)?))
}

fn parse_segment(text: &str) -> Option<Interconnect> {
    let (wan, segment) = text.rsplit_once('/')?;
    Some(Interconnect { wan: wan.into(), segment: segment.parse().ok()? })
}

fn part_alias(site: &str, key: &ObjectKey) -> String {
    format!("mandate-part {site} {key}")
}

/// Names of a trunk's ends: in the fabric, in the exchange (where other sites' keys may be the same).
pub(crate) fn trunk_name(key: &ObjectKey) -> String {
    key.short("w")
}

fn part_name(site: &str, key: &ObjectKey) -> String {
    format!("p{}", &Digest::of(format!("{site} {key}")).hex()[..10])
}

fn segment_alias(home: &str, to: &Interconnect) -> String {
    format!("mandate-exchange {home} {}/{}", to.wan, to.segment)
}

fn segment_name(to: &Interconnect) -> String {
    format!("x{}", &Digest::of(format!("{}/{}", to.wan, to.segment)).hex()[..10])
}

/// Name of a home's exchange.
pub(crate) fn exchange(home: &str) -> String {
    format!("mdx-{home}")
}

impl Site {
    /// Refuses a segment that this site cannot have.
    pub(crate) fn check_join(
        &self,
        key: &ObjectKey,
        to: &Interconnect,
        all: &[Link],
    ) -> Result<(), HostError> {
        let bad = |problem: String| Err(HostError::BadSpec { problem });
        if self.config.home.is_none() {
            return Err(HostError::NoWan { site: self.name.clone(), wan: to.wan.clone() });
        }
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if to.wan.is_empty() || to.wan.len() > MAX_WAN || !to.wan.chars().all(legal) {
            return bad(format!("`{}` is no wide-area network: 1 to {MAX_WAN} of a-z 0-9 -", to.wan));
        }
        if !SEGMENTS.contains(&to.segment) {
            return bad(format!("segment {}; 1 to 4094", to.segment));
        }
        if trunk_alias(&self.name, key, to).len() > MAX_ALIAS {
            return bad("site, key and wide-area network have names that are too long together".into());
        }
        let same = |(other, at): (ObjectKey, Interconnect)| (at == *to && other != *key).then_some(other);
        match self.trunks(all).filter_map(|(_, trunk)| same(trunk)).next() {
            Some(other) => Err(HostError::SegmentInUse { wan: to.wan.clone(), segment: to.segment, other }),
            None => Ok(()),
        }
    }

    /// The trunks among the fabric's links.
    pub(crate) fn trunks<'l>(
        &self,
        all: &'l [Link],
    ) -> impl Iterator<Item = (&'l Link, (ObjectKey, Interconnect))> + use<'l, '_> {
        all.iter().filter_map(|l| Some((l, parse_trunk(&self.name, l.alias.as_deref()?)?)))
    }

    /// Is it this key's trunk, by alias or (half made) by name alone?
    pub(crate) fn is_trunk_of(&self, link: &Link, key: &ObjectKey) -> bool {
        match link.alias.as_deref() {
            Some(alias) => parse_trunk(&self.name, alias).is_some_and(|(k, _)| k == *key),
            None => link.name == trunk_name(key),
        }
    }

    /// The link's bridge is joined to this segment, or to none. The caller holds the fabric lock.
    pub(crate) async fn join(
        &self,
        links: &Links,
        key: &ObjectKey,
        bridge: &Link,
        to: Option<&Interconnect>,
    ) -> Result<(), HostError> {
        let all = links.dump().await?;
        let (Some(home), Some(to)) = (&self.config.home, to) else {
            return match all.iter().any(|l| self.is_trunk_of(l, key)) {
                true => self.part(links, key).await,
                false => Ok(()),
            };
        };
        let parts = self.parts().await?;
        let mtu_is = |l: &Link| l.mtu == bridge.mtu;
        let whole = self.trunks(&all).any(|(l, (k, at))| {
            k == *key && at == *to && l.bridge == Some(bridge.index) && mtu_is(l) && l.carries
        });
        if whole && parts.get(key) == Some(to) {
            return Ok(());
        }
        let held = self.hold(home).await?;
        let joined = self.make_trunk(links, &held.links, home, key, bridge, to).await;
        let swept = sweep(&held.links, home).await;
        held.links.close().await;
        joined.and(swept.map(drop))
    }

    async fn make_trunk(
        &self,
        links: &Links,
        exchange: &Links,
        home: &str,
        key: &ObjectKey,
        bridge: &Link,
        to: &Interconnect,
    ) -> Result<(), HostError> {
        // Whatever is there of it is made anew: a trunk costs less than to know what is wrong with it.
        self.delete_trunks(links, key).await?;
        let segment = make_segment(exchange, home, to, bridge.mtu).await?;
        let (near, far) = (trunk_name(key), part_name(&self.name, key));
        let name = exchange.namespace().to_owned();
        let gone = HostError::Internal(format!("namespace {name} is not there once made"));
        let file = blocking(move || netns::open(&name)).await?.ok_or(gone)?;
        links.add_trunk(&near, bridge, &file, &far).await?;
        let vanished = |name: &str| HostError::Internal(format!("link {name} is not there once made"));
        let far_end = find(&exchange.dump().await?, &far).ok_or_else(|| vanished(&far))?;
        exchange.attach(far_end.index, segment, &part_alias(&self.name, key), bridge.mtu).await?;
        let near_end = find(&links.dump().await?, &near).ok_or_else(|| vanished(&near))?;
        links.settle(near_end.index, &trunk_alias(&self.name, key, to), bridge.mtu, true).await
    }

    /// The key's link is joined to nothing. The caller holds the fabric lock.
    pub(crate) async fn part(&self, links: &Links, key: &ObjectKey) -> Result<(), HostError> {
        self.delete_trunks(links, key).await?;
        self.sweep_exchange().await
    }

    async fn delete_trunks(&self, links: &Links, key: &ObjectKey) -> Result<(), HostError> {
        for link in links.dump().await?.iter().filter(|l| self.is_trunk_of(l, key)) {
            links.delete(link).await?;
        }
        Ok(())
    }

    /// Removes what has no part any more: segments, then the exchange.
    pub(crate) async fn sweep_exchange(&self) -> Result<(), HostError> {
        let Some(home) = &self.config.home else { return Ok(()) };
        let name = exchange(home);
        if !blocking(move || Ok(netns::path(&name).exists())).await? {
            return Ok(());
        }
        let held = self.hold(home).await?;
        let swept = sweep(&held.links, home).await;
        let name = held.links.namespace().to_owned();
        held.links.close().await;
        if swept? {
            blocking(move || netns::remove(&name)).await?;
        }
        drop(held._lock);
        Ok(())
    }

    /// The parts that this site has in the exchange, and in which segment: one dump.
    pub(crate) async fn parts(&self) -> Result<BTreeMap<ObjectKey, Interconnect>, HostError> {
        let Some(home) = &self.config.home else { return Ok(BTreeMap::new()) };
        let Some(links) = Links::open(&exchange(home)).await? else { return Ok(BTreeMap::new()) };
        let all = links.dump().await;
        links.close().await;
        let all = all?;
        let prefix = format!("mandate-exchange {home} ");
        let segment = |l: &Link| {
            let named = parse_segment(l.alias.as_deref()?.strip_prefix(&prefix)?)?;
            (l.kind == Shape::Bridge && l.up).then_some((l.index, named))
        };
        let segments: BTreeMap<u32, Interconnect> = all.iter().filter_map(segment).collect();
        let own = format!("mandate-part {} ", self.name);
        let part = |l: &Link| {
            let key = ObjectKey::new(l.alias.as_deref()?.strip_prefix(&own)?).ok()?;
            Some((key, segments.get(&l.bridge?)?.clone())).filter(|_| l.up)
        };
        Ok(all.iter().filter_map(part).collect())
    }

    async fn hold(&self, home: &str) -> Result<Held, HostError> {
        let lock = lock(home).await?;
        let name = exchange(home);
        let made = name.clone();
        blocking(move || netns::ensure(&made)).await?;
        let gone = || HostError::Internal(format!("namespace {name} is not there once made"));
        let links = Links::open(&name).await?.ok_or_else(gone)?;
        Ok(Held { links, _lock: lock })
    }
}

/// Waits for the home's lock.
async fn lock(home: &str) -> Result<OwnedFd, HostError> {
    let problem = |e: Errno| HostError::ExchangeBusy { home: home.into(), source: e.into() };
    let address = UnixAddr::new_abstract(format!("mandate-exchange-{home}").as_bytes()).map_err(problem)?;
    let start = Instant::now();
    loop {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::Datagram, flags, None).map_err(problem)?;
        match bind(fd.as_raw_fd(), &address) {
            Ok(()) => return Ok(fd),
            Err(Errno::EADDRINUSE) if start.elapsed() < WAIT => tokio::time::sleep(ASK_EVERY).await,
            Err(e) => return Err(problem(e)),
        }
    }
}

/// The segment's bridge, up; its index.
async fn make_segment(exchange: &Links, home: &str, to: &Interconnect, mtu: u32) -> Result<u32, HostError> {
    let (name, alias) = (segment_name(to), segment_alias(home, to));
    if find(&exchange.dump().await?, &name).is_none() {
        exchange.add_bridge(&name, u16::try_from(mtu).unwrap_or(u16::MAX)).await?;
    }
    let vanished = || HostError::Internal(format!("bridge {name} is not there once made"));
    let bridge = find(&exchange.dump().await?, &name).ok_or_else(vanished)?;
    match bridge.alias.as_deref() {
        None => exchange.settle(bridge.index, &alias, mtu, true).await?,
        Some(found) if found == alias && bridge.up => {}
        Some(found) if found == alias => exchange.settle(bridge.index, &alias, mtu, true).await?,
        Some(found) => {
            let namespace = exchange.namespace().to_owned();
            return Err(HostError::Foreign { link: name, namespace, alias: found.into() });
        }
    }
    Ok(bridge.index)
}

/// Deletes segments without a part; true: none is left. The exchange is held.
async fn sweep(exchange: &Links, home: &str) -> Result<bool, HostError> {
    let all = exchange.dump().await?;
    let used: BTreeSet<u32> = all.iter().filter_map(|l| l.bridge).collect();
    let prefix = format!("mandate-exchange {home} ");
    let ours = |l: &&Link| {
        let name_only = || l.alias.is_none() && l.name.len() == 11 && l.name.starts_with('x');
        l.kind == Shape::Bridge && (l.alias.as_deref().is_some_and(|a| a.starts_with(&prefix)) || name_only())
    };
    for segment in all.iter().filter(ours).filter(|l| !used.contains(&l.index)) {
        exchange.delete(segment).await?;
    }
    Ok(exchange.dump().await?.iter().all(|l| l.kind == Shape::Other))
}

fn find(all: &[Link], name: &str) -> Option<Link> {
    all.iter().find(|l| l.name == name).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trunks_alias_names_key_and_segment_and_is_no_other_alias() {
        let (key, to) =
            (ObjectKey::new("ns-1/net.a").unwrap(), Interconnect { wan: "wan-1".into(), segment: 7 });
        let alias = trunk_alias("east", &key, &to);
        assert_eq!(parse_trunk("east", &alias), Some((key.clone(), to)));
        assert_eq!(parse_trunk("eas", &alias), None);
        assert_eq!(crate::link::parse_alias("east", &alias), None);
        assert_eq!(parse_trunk("east", &crate::link::alias("east", &key, Some(1))), None);
        assert!(trunk_name(&key).len() <= 15 && part_name("s", &key).len() <= 15);
    }
}
