//! Virtual links: bridges in the site's fabric namespace, which is made with the first and removed with the last.

use std::collections::BTreeMap;

use vim::{Interconnect, NetworkSpec, ObjectKey, Observed, port_interface};

use crate::{
    Site,
    error::HostError,
    link::{Link, Links, Owner, Shape, alias, parse_alias},
    netns,
};

/// Smallest MTU of a bridge that carries IPv4 (RFC 791), bytes.
const MIN_MTU: u16 = 68;

impl Site {
    /// The virtual link is there, up, with this MTU. Holds the fabric lock.
    pub(crate) async fn ensure_network(
        &self,
        key: &ObjectKey,
        spec: &NetworkSpec,
    ) -> Result<Observed, HostError> {
        if spec.mtu < MIN_MTU {
            return Err(HostError::BadSpec {
                problem: format!("an MTU of {} bytes; at least {MIN_MTU}", spec.mtu),
            });
        }
        let _fabric = self.fabric_lock.lock().await;
        let name = self.fabric();
        crate::blocking(move || netns::ensure(&name)).await?;
        let links = Links::open(&self.fabric()).await?.ok_or_else(|| vanished(key))?;
        let made = self.make_network(&links, key, spec).await;
        links.close().await;
        made
    }

    async fn make_network(
        &self,
        links: &Links,
        key: &ObjectKey,
        spec: &NetworkSpec,
    ) -> Result<Observed, HostError> {
        let to = spec.interconnect.as_ref();
        if let Some(to) = to {
            self.check_join(key, to, &links.dump().await?)?;
        }
        let bridge = self.make_bridge(links, key, spec.mtu).await?;
        self.join(links, key, &bridge, to).await?;
        let all = links.dump().await?;
        let parts = if to.is_some() { self.parts().await? } else { BTreeMap::new() };
        self.networks(&all, &parts).remove(key).ok_or_else(|| vanished(key))
    }

    async fn make_bridge(&self, links: &Links, key: &ObjectKey, mtu: u16) -> Result<Link, HostError> {
        if self.bridge(&links.dump().await?, key)?.is_none() {
            links.add_bridge(&key.short("b"), mtu).await?;
        }
        let all = links.dump().await?;
        let bridge = self.bridge(&all, key)?.ok_or_else(|| vanished(key))?;
        let mtu = u32::from(mtu);
        if bridge.alias.is_none() || !bridge.up || bridge.mtu != mtu {
            links.settle(bridge.index, &alias(&self.name, key, None), mtu, true).await?;
        }
        for port in all.iter().filter(|l| l.bridge == Some(bridge.index) && l.mtu != mtu) {
            links.set_mtu(&port.name, mtu).await?;
            self.set_inner_mtu(port, mtu).await?;
        }
        let all = links.dump().await?;
        self.bridge(&all, key)?.cloned().ok_or_else(|| vanished(key))
    }

    async fn set_inner_mtu(&self, outer: &Link, mtu: u32) -> Result<(), HostError> {
        let named = outer.alias.as_deref().and_then(|a| parse_alias(&self.name, a));
        let Some((key, Some(port))) = named else { return Ok(()) };
        let Some(links) = Links::open(&self.namespace(&key)).await? else { return Ok(()) };
        let set = links.set_mtu(&port_interface(port), mtu).await;
        links.close().await;
        set
    }

    /// The virtual link is gone, and the fabric with the last.
    pub(crate) async fn remove_network(&self, key: &ObjectKey) -> Result<(), HostError> {
        let _fabric = self.fabric_lock.lock().await;
        if let Some(links) = Links::open(&self.fabric()).await? {
            let deleted = self.delete_bridge(&links, key).await;
            links.close().await;
            deleted?;
        }
        self.sweep_exchange().await?;
        self.drop_empty_fabric().await
    }

    async fn delete_bridge(&self, links: &Links, key: &ObjectKey) -> Result<(), HostError> {
        let all = links.dump().await?;
        for trunk in all.iter().filter(|l| self.is_trunk_of(l, key)) {
            links.delete(trunk).await?;
        }
        let bridge = match self.bridge(&all, key) {
            Ok(Some(bridge)) => bridge,
            // Not this key's, or nobody's: absent.
            Ok(None) | Err(HostError::KeyCollision { .. } | HostError::Foreign { .. }) => return Ok(()),
            Err(e) => return Err(e),
        };
        let port = |l: &&Link| l.bridge == Some(bridge.index) && !self.is_trunk_of(l, key);
        let ports: Vec<_> = all.iter().filter(port).collect();
        match ports.first() {
            None => links.delete(bridge).await,
            Some(first) => {
                let first = first.alias.clone().unwrap_or_else(|| first.name.clone());
                Err(HostError::NetworkInUse { ports: ports.len(), first })
            }
        }
    }

    /// Removes the fabric namespace when no bridge and no port is left in it. The caller holds the fabric lock.
    pub(crate) async fn drop_empty_fabric(&self) -> Result<(), HostError> {
        if let Some(links) = Links::open(&self.fabric()).await? {
            let all = links.dump().await;
            links.close().await;
            if all?.iter().any(|l| l.kind != Shape::Other) {
                return Ok(());
            }
        }
        let name = self.fabric();
        crate::blocking(move || netns::remove(&name)).await
    }

    /// The bridge of this key among these links.
    pub(crate) fn bridge<'l>(&self, all: &'l [Link], key: &ObjectKey) -> Result<Option<&'l Link>, HostError> {
        let name = key.short("b");
        for link in all {
            match link.belongs(&self.name, key, None, &name) {
                Ok(true) if link.kind == Shape::Bridge => return Ok(Some(link)),
                Ok(true) => {
                    let alias = link.alias.clone().unwrap_or_default();
                    return Err(Owner::Stranger(alias).into_error(&self.fabric(), &link.name));
                }
                Ok(false) => {}
                Err(owner) => return Err(owner.into_error(&self.fabric(), &link.name)),
            }
        }
        Ok(None)
    }

    /// All virtual links among these links, with the segments that they are wholly joined to.
    pub(crate) fn networks(
        &self,
        all: &[Link],
        parts: &BTreeMap<ObjectKey, Interconnect>,
    ) -> BTreeMap<ObjectKey, Observed> {
        let trunk = |(link, (key, to)): (&Link, (ObjectKey, Interconnect))| {
            let whole = link.carries && parts.get(&key) == Some(&to);
            whole.then_some(((key, link.bridge?), to))
        };
        let joined: BTreeMap<(ObjectKey, u32), Interconnect> = self.trunks(all).filter_map(trunk).collect();
        let ours = |l: &Link| match parse_alias(&self.name, l.alias.as_deref()?)? {
            (key, None) if l.kind == Shape::Bridge => {
                let interconnect = joined.get(&(key.clone(), l.index)).cloned();
                let mtu = u16::try_from(l.mtu).unwrap_or(u16::MAX);
                Some((key, Observed::Network { up: l.up, mtu, interconnect }))
            }
            _ => None,
        };
        all.iter().filter_map(ours).collect()
    }
}

fn vanished(key: &ObjectKey) -> HostError {
    HostError::Netlink {
        action: format!("read back network {key}"),
        namespace: "of the fabric".into(),
        problem: "something else removed it: do it again".into(),
    }
}
