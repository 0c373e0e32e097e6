//! Links over netlink (rtnetlink, netlink-packet-route), as seen from inside the site's fabric namespace.
//!
//! One dump shows every bridge and every outer end of a veth pair; inner ends are read through the namespace id that
//! the kernel gives with the outer end, without entering any namespace. Ours is what carries our alias; a link of
//! ours by name and without any alias is what a crash between making and naming it left.
//!
//! Never: a link outside the fabric namespace and the instances' namespaces.

use std::{fs::File, future::Future, os::fd::AsRawFd};

use futures::{StreamExt, TryStreamExt, stream};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{
        BridgeStpState, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
        LinkMessage,
    },
};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
};
use tokio::task::JoinHandle;
use vim::{ObjectKey, PortSpec, port_interface};

use crate::{error::HostError, netns};

/// Most inner ends asked for at once; the kernel's socket buffer holds as many answers.
const INNER_AT_ONCE: usize = 32;

/// A link of the fabric namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    pub alias: Option<String>,
    pub kind: Shape,
    pub mtu: u32,
    pub up: bool,
    /// It is up and so is what it is connected to.
    pub carries: bool,
    pub mac: Vec<u8>,
    /// Index of the bridge it is in.
    pub bridge: Option<u32>,
    /// The other end of a veth pair: namespace id, link index.
    pub peer: Option<(i32, u32)>,
}

/// What a link is, as far as we care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Shape {
    Bridge,
    Veth,
    #[default]
    Other,
}

/// A netlink connection into a namespace. It keeps the namespace alive while it is open: close it.
pub(crate) struct Links {
    namespace: String,
    handle: Handle,
    task: JoinHandle<()>,
}

/// The alias of what belongs to a key (of its `port`-th connection point).
pub(crate) fn alias(site: &str, key: &ObjectKey, port: Option<usize>) -> String {
    match port {
        None => format!("mandate {site} {key}"),
        Some(port) => format!("mandate {site} {key}#{port}"),
    }
}

/// The key in an alias of ours, and its port.
pub(crate) fn parse_alias(site: &str, alias: &str) -> Option<(ObjectKey, Option<usize>)> {
    let rest = alias.strip_prefix("mandate ")?.strip_prefix(site)?.strip_prefix(' ')?;
    let (key, port) = match rest.split_once('#') {
        None => (rest, None),
        Some((key, port)) => (key, Some(port.parse().ok()?)),
    };
    Some((ObjectKey::new(key).ok()?, port))
}

/// Name of the outer end behind an instance's `port`-th connection point.
pub(crate) fn outer_name(key: &ObjectKey, port: usize) -> String {
    format!("{}p{port}", key.short("v"))
}

impl Link {
    /// Is it this key's, by alias or (half made) by name alone?
    pub(crate) fn belongs(
        &self,
        site: &str,
        key: &ObjectKey,
        port: Option<usize>,
        name: &str,
    ) -> Result<bool, Owner> {
        match &self.alias {
            Some(found) if *found == alias(site, key, port) => Ok(true),
            None => Ok(self.name == name),
            Some(_) if self.name != name => Ok(false),
            Some(found) => match parse_alias(site, found) {
                Some((other, _)) => Err(Owner::Other(other)),
                None => Err(Owner::Stranger(found.clone())),
            },
        }
    }
}

/// Whose a link with our name is, when it is not ours.
#[derive(Debug)]
pub(crate) enum Owner {
    /// Another key of ours with the same short name.
    Other(ObjectKey),
    /// Not ours; its alias.
    Stranger(String),
}

impl Owner {
    pub(crate) fn into_error(self, namespace: &str, link: &str) -> HostError {
        match self {
            Self::Other(key) => HostError::KeyCollision { short: link.into(), other: key.to_string() },
            Self::Stranger(alias) => {
                HostError::Foreign { link: link.into(), namespace: namespace.into(), alias }
            }
        }
    }
}

impl Links {
    /// Opens a connection inside the namespace; `None` when there is no such namespace.
    pub(crate) async fn open(namespace: &str) -> Result<Option<Self>, HostError> {
        let (name, runtime) = (namespace.to_owned(), tokio::runtime::Handle::current());
        let open = move || -> Result<_, HostError> {
            let Some(file) = netns::open(&name)? else { return Ok(None) };
            let connect = move || {
                let _runtime = runtime.enter();
                rtnetlink::new_connection()
            };
            netns::inside(file, &name, connect).map(Some)
        };
        let Some((connection, handle, _)) = crate::blocking(open).await? else { return Ok(None) };
        let task = tokio::spawn(connection);
        Ok(Some(Self { namespace: namespace.into(), handle, task }))
    }

    /// Where it is.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Closes it and waits until the kernel's side is gone.
    pub(crate) async fn close(self) {
        drop(self.handle);
        self.task.abort();
        let _ended = self.task.await;
    }

    /// Every link of the namespace: one dump, without counters, which are half of it and nobody reads.
    pub(crate) async fn dump(&self) -> Result<Vec<Link>, HostError> {
        let mask = vec![LinkExtentMask::SkipStats];
        let all = self.handle.link().get().set_filter_mask(AddressFamily::Unspec, mask);
        let links: Vec<LinkMessage> = self.act("list links", all.execute().try_collect()).await?;
        Ok(links.iter().map(read).collect())
    }

    /// The other ends of these outer ends, in the same order; `None` where there is none.
    pub(crate) async fn inner_ends(&self, outer: &[&Link]) -> Result<Vec<Option<Link>>, HostError> {
        let asked: Vec<_> = outer.iter().map(|l| inner_end(self.handle.clone(), l.peer)).collect();
        let answers = stream::iter(asked).buffered(INNER_AT_ONCE).try_collect().await;
        answers.map_err(|e| self.problem("ask for inner ends", e))
    }

    /// Makes a bridge that adds no traffic of its own; it is not up and has no alias yet.
    pub(crate) async fn add_bridge(&self, name: &str, mtu: u16) -> Result<(), HostError> {
        let bridge = LinkMessageBuilder::<LinkBridge>::new(name)
            .mtu(u32::from(mtu))
            .stp_state(BridgeStpState::Disabled)
            .forward_delay(0)
            .mcast_snooping(false);
        let action = format!("make bridge {name}");
        self.act(&action, self.handle.link().add(bridge.build()).execute()).await
    }

    /// Sets alias and MTU, and takes it up or down.
    pub(crate) async fn settle(&self, index: u32, alias: &str, mtu: u32, up: bool) -> Result<(), HostError> {
        let change = LinkUnspec::new_with_index(index).mtu(mtu).alias(alias);
        let change = if up { change.up() } else { change.down() };
        let action = format!("set up link {index} ({alias})");
        self.act(&action, self.handle.link().change(change.build()).execute()).await
    }

    /// Sets the MTU of a link.
    pub(crate) async fn set_mtu(&self, name: &str, mtu: u32) -> Result<(), HostError> {
        let change = LinkUnspec::new_with_name(name).mtu(mtu);
        let action = format!("set the MTU of {name}");
        self.act(&action, self.handle.link().change(change.build()).execute()).await
    }

    /// Takes a link up or down. One that is gone neither takes nor gives anything: success.
    pub(crate) async fn switch(&self, link: &Link, up: bool) -> Result<(), HostError> {
        let change = LinkUnspec::new_with_index(link.index);
        let change = if up { change.up() } else { change.down() };
        match self.handle.link().change(change.build()).execute().await {
            Err(e) if !is_absent(&e) => {
                Err(self.problem(&format!("take {} {}", link.name, if up { "up" } else { "down" }), e))
            }
            _ => Ok(()),
        }
    }

    /// Takes a link up, promiscuous: what is addressed to others is for the data plane too.
    pub(crate) async fn listen(&self, name: &str) -> Result<(), HostError> {
        let change = LinkUnspec::new_with_name(name).promiscuous(true).up();
        let action = format!("take {name} up");
        self.act(&action, self.handle.link().change(change.build()).execute()).await
    }

    /// Makes a veth pair in one message: the outer end here and in the bridge, the inner end in the instance's
    /// namespace, with its name and address. Neither is up: the kernel pairs them only after it has set both up.
    pub(crate) async fn add_port(
        &self,
        name: &str,
        bridge: &Link,
        namespace: &File,
        index: usize,
        port: &PortSpec,
    ) -> Result<(), HostError> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(port_interface(index)),
            LinkAttribute::Address(port.mac.0.to_vec()),
            LinkAttribute::Mtu(bridge.mtu),
            LinkAttribute::NetNsFd(namespace.as_raw_fd()),
        ];
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name)
            .mtu(bridge.mtu)
            .controller(bridge.index)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        let action = format!("make port {name} (`{}`)", port.name);
        self.act(&action, self.handle.link().add(pair.build()).execute()).await
    }

    /// Makes a veth pair between a bridge here and another namespace. Neither end is up.
    pub(crate) async fn add_trunk(
        &self,
        name: &str,
        bridge: &Link,
        namespace: &File,
        peer_name: &str,
    ) -> Result<(), HostError> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(peer_name.into()),
            LinkAttribute::Mtu(bridge.mtu),
            LinkAttribute::NetNsFd(namespace.as_raw_fd()),
        ];
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name)
            .mtu(bridge.mtu)
            .controller(bridge.index)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        let action = format!("make trunk {name}");
        self.act(&action, self.handle.link().add(pair.build()).execute()).await
    }

    /// Puts a link into a bridge, names it, and takes it up.
    pub(crate) async fn attach(
        &self,
        index: u32,
        bridge: u32,
        alias: &str,
        mtu: u32,
    ) -> Result<(), HostError> {
        let change = LinkUnspec::new_with_index(index).controller(bridge).mtu(mtu).alias(alias).up();
        let action = format!("attach link {index} ({alias}) to bridge {bridge}");
        self.act(&action, self.handle.link().change(change.build()).execute()).await
    }

    /// Deletes a link (of a pair, both ends); absent is success.
    pub(crate) async fn delete(&self, link: &Link) -> Result<(), HostError> {
        match self.handle.link().del(link.index).execute().await {
            Err(e) if is_absent(&e) => Ok(()),
            Err(e) => Err(self.problem(&format!("delete link {}", link.name), e)),
            Ok(()) => Ok(()),
        }
    }

    async fn act<T>(
        &self,
        action: &str,
        request: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, HostError> {
        request.await.map_err(|e| self.problem(action, e))
    }

    fn problem(&self, action: &str, e: rtnetlink::Error) -> HostError {
        let problem = match &e {
            rtnetlink::Error::NetlinkError(m) => m.to_io().to_string(),
            other => other.to_string(),
        };
        HostError::Netlink { action: action.into(), namespace: self.namespace.clone(), problem }
    }
}

fn is_absent(e: &rtnetlink::Error) -> bool {
    matches!(e, rtnetlink::Error::NetlinkError(e) if e.raw_code() == -(nix::Error::ENODEV as i32))
}

async fn inner_end(handle: Handle, peer: Option<(i32, u32)>) -> Result<Option<Link>, rtnetlink::Error> {
    let Some((namespace, index)) = peer else { return Ok(None) };
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::IfNetnsId(namespace));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(message));
    request.header.flags = NLM_F_REQUEST;
    let mut handle = handle;
    let answer = handle.request(request)?.next().await;
    match answer.map(|a| a.payload) {
        Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link))) => Ok(Some(read(&link))),
        // Gone, or its namespace is.
        _ => Ok(None),
    }
}

fn read(message: &LinkMessage) -> Link {
    let mut link = Link { index: message.header.index, ..Link::default() };
    link.up = message.header.flags.contains(LinkFlags::Up);
    link.carries = link.up && message.header.flags.contains(LinkFlags::LowerUp);
    let (mut peer_namespace, mut peer_index) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::Controller(index) => link.bridge = Some(*index),
            LinkAttribute::Link(index) => peer_index = Some(*index),
            LinkAttribute::LinkNetNsId(id) => peer_namespace = Some(*id),
            LinkAttribute::LinkInfo(infos) => link.kind = shape(infos),
            _ => {}
        }
    }
    link.peer = peer_namespace.zip(peer_index);
    link
}

fn shape(infos: &[LinkInfo]) -> Shape {
    let kind = infos.iter().find_map(|i| if let LinkInfo::Kind(kind) = i { Some(kind) } else { None });
    match kind {
        Some(InfoKind::Bridge) => Shape::Bridge,
        Some(InfoKind::Veth) => Shape::Veth,
        _ => Shape::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_name_the_key_and_only_this_sites() {
        let key = ObjectKey::new("ns-1/vdu/fw.0").unwrap();
        assert_eq!(parse_alias("east", &alias("east", &key, None)), Some((key.clone(), None)));
        assert_eq!(parse_alias("east", &alias("east", &key, Some(3))), Some((key.clone(), Some(3))));
        for other in
            ["", "east", "mandate east", "mandate east-1 ns-1/vdu", "mandate eas t/x", "uplink of a/b"]
        {
            assert_eq!(parse_alias("east", other), None, "{other}");
        }
        assert!(alias("a-site-with-a-rather-long-name--", &key, Some(31)).len() < 256);
        assert!(outer_name(&key, 31).len() <= 15, "IFNAMSIZ");
    }

    #[test]
    fn a_link_with_our_name_is_ours_half_made_anothers_or_a_strangers() {
        let (key, other) = (ObjectKey::new("a/b").unwrap(), ObjectKey::new("a/c").unwrap());
        let link = |name: &str, alias: Option<String>| Link { name: name.into(), alias, ..Link::default() };
        let owner = |l: Link| l.belongs("s", &key, None, "b0");
        assert!(owner(link("b0", Some(alias("s", &key, None)))).unwrap());
        assert!(owner(link("b0", None)).unwrap());
        assert!(!owner(link("b1", None)).unwrap());
        assert!(!owner(link("b1", Some(alias("s", &other, None)))).unwrap());
        assert!(
            matches!(owner(link("b0", Some(alias("s", &other, None)))), Err(Owner::Other(k)) if k == other)
        );
        assert!(matches!(owner(link("b0", Some("lab".into()))), Err(Owner::Stranger(a)) if a == "lab"));
    }
}
