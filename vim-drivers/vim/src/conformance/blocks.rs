//! What cases are built of: an instance to make, calls whose errors are told, and what must be left.

use dataplane_control::{
    Configuration, Function, MacAddr,
    config::{Port, PortDriver, Reflector},
};
use trust::Digest;

use super::Fixture;
use crate::{
    ComputeSpec, ComputeState, Disposition, DriverError, ImageSpec, Interconnect, Inventory, Kind,
    NetworkSpec, ObjectKey, Observed, ObservedCompute, PortSpec, PortState, ProcessState, Resources, Scope,
    Spec,
};

/// Cases about what only a driver sees that reaches into its instances.
pub(super) fn needs_functions(case: &str) -> bool {
    case == "an_end_is_noticed_and_our_own_doing_is_not"
}

pub(super) async fn functions<F: Fixture>(f: &F) -> bool {
    f.driver().capabilities().await.is_ok_and(|c| c.functions)
}

/// An object without what is the VIM's own of it: where it came to be and how it is bound.
pub(super) fn plain(object: &Observed) -> Observed {
    let mut out = object.clone();
    if let Observed::Compute(c) = &mut out {
        c.whereabouts = None;
        c.links.values_mut().for_each(|l| l.binding = None);
    }
    out
}

pub(super) fn plainly(found: &Inventory, key: &ObjectKey) -> Option<Observed> {
    found.objects.get(key).map(plain)
}

/// The same without what others change meanwhile: room on hosts.
pub(super) fn ours(found: Inventory) -> Inventory {
    Inventory { hosts: Default::default(), ..found }
}

/// What a VIM of several machines says of an instance that runs: where it is, and that each port is bound there.
pub(super) fn located(object: &Observed) -> Result<(), String> {
    let Observed::Compute(c) = object else { return Ok(()) };
    let Some(at) = &c.whereabouts else { return Ok(()) };
    check!(!at.id.is_empty() && !at.host.is_empty(), "nowhere: {at:?}");
    for (name, link) in &c.links {
        let Some(binding) = &link.binding else { return Err(format!("{name} says nothing of its binding")) };
        let bound = !["", "unbound", "binding_failed"].contains(&binding.vif_type.as_str());
        check!(bound && binding.host == at.host, "{name} is not bound on {}: {binding:?}", at.host);
    }
    Ok(())
}

pub(super) fn key(text: &str) -> Result<ObjectKey, String> {
    ObjectKey::new(text).map_err(|e| e.to_string())
}

pub(super) fn image(digest: Digest) -> Spec {
    Spec::Image(ImageSpec::new("dataplane", digest))
}

pub(super) fn network(mtu: u16) -> Spec {
    Spec::Network(NetworkSpec::new("link", mtu))
}

pub(super) fn joined(mtu: u16, interconnect: Option<Interconnect>) -> Observed {
    Observed::Network { up: true, mtu, interconnect }
}

/// A reflector with one port on `<service>/net`.
pub(super) struct Instance {
    pub(super) key: ObjectKey,
    pub(super) image: Digest,
    pub(super) generation: u64,
    pub(super) number: u16,
    pub(super) mac: MacAddr,
    pub(super) driver: PortDriver,
}

impl Instance {
    pub(super) fn new<F: Fixture>(f: &F, service: &str, name: &str) -> Result<Self, String> {
        let key = key(&format!("{service}/{name}"))?;
        let [a, b, c, ..] = Digest::of(key.as_str()).0;
        let mac = MacAddr([2, 0, 0, a, b, c]);
        Ok(Self { key, image: f.images()[0], generation: 1, number: 1, mac, driver: f.port_driver(0) })
    }

    pub(super) fn document(&self) -> String {
        let port = Port { name: "eth".into(), driver: self.driver.clone(), mac: self.mac };
        let reflector =
            Reflector { port: "eth".into(), number: self.number, addresses: vec![[192, 0, 2, 10].into()] };
        let document = Configuration {
            instance: self.key.to_string(),
            generation: self.generation,
            ports: vec![port],
            function: Function::Reflector(reflector),
        };
        String::from_utf8_lossy(&document.to_bytes()).into_owned()
    }

    pub(super) fn digest(&self) -> Digest {
        Configuration::digest(self.document().as_bytes())
    }

    pub(super) fn compute(&self) -> Result<ComputeSpec, String> {
        let network = key(&format!("{}/net", self.key.service()))?;
        let port = PortSpec::new("eth", network, self.mac);
        Ok(ComputeSpec {
            ports: vec![port],
            configuration: self.document(),
            ..ComputeSpec::new("reflector", self.image, 1, 64)
        })
    }

    pub(super) fn spec(&self) -> Result<Spec, String> {
        self.compute().map(Spec::Compute)
    }

    pub(super) fn expected(&self) -> Observed {
        Observed::Compute(ObservedCompute {
            state: ComputeState::Active,
            process: ProcessState::Answers,
            image: self.image,
            configuration: Some(self.digest()),
            generation: Some(self.generation),
            ports: [("eth".to_owned(), self.mac)].into(),
            links: [(
                "eth".to_owned(),
                PortState { up: true, mtu: 1500, network: self.network(), binding: None },
            )]
            .into(),
            whereabouts: None,
        })
    }

    pub(super) fn network(&self) -> Option<ObjectKey> {
        ObjectKey::new(format!("{}/net", self.key.service())).ok()
    }
}

pub(super) async fn ensure<F: Fixture>(f: &F, key: &ObjectKey, spec: &Spec) -> Result<Observed, String> {
    f.driver().ensure(key, spec).await.map_err(|e| format!("{} {e}", e.code))
}

pub(super) async fn remove<F: Fixture>(f: &F, key: &ObjectKey, kind: Kind) -> Result<(), String> {
    f.driver().remove(key, kind).await.map_err(|e| format!("{} {e}", e.code))
}

pub(super) async fn observe<F: Fixture>(f: &F, scope: &Scope) -> Result<Inventory, String> {
    f.driver().observe(scope).await.map(ours).map_err(|e| format!("{} {e}", e.code))
}

pub(super) async fn pid<F: Fixture>(f: &F, key: &ObjectKey) -> Result<String, String> {
    f.incarnation(key).await
}

/// The image and the network that an [`Instance`] of this service needs.
pub(super) async fn ground<F: Fixture>(f: &F, service: &str) -> Result<(), String> {
    ensure(f, &key(&format!("{service}/image"))?, &image(f.images()[0])).await?;
    ensure(f, &key(&format!("{service}/net"))?, &network(1500)).await.map(drop)
}

pub(super) async fn start<F: Fixture>(f: &F, service: &str) -> Result<Instance, String> {
    ground(f, service).await?;
    let instance = Instance::new(f, service, "vdu")?;
    let observed = ensure(f, &instance.key, &instance.spec()?).await?;
    check!(plain(&observed) == instance.expected(), "made {observed:?}, expected {:?}", instance.expected());
    located(&observed)?;
    Ok(instance)
}

pub(super) async fn clear<F: Fixture>(f: &F, service: &str) -> Result<(), String> {
    let found = observe(f, &Scope::Service(service.into())).await?;
    for kind in [Kind::Compute, Kind::Network, Kind::Image] {
        for (key, object) in &found.objects {
            if kind_of(object) == kind {
                remove(f, key, kind).await?;
            }
        }
    }
    Ok(())
}

pub(super) fn kind_of(object: &Observed) -> Kind {
    match object {
        Observed::Image { .. } => Kind::Image,
        Observed::Network { .. } => Kind::Network,
        Observed::Compute(_) => Kind::Compute,
    }
}

pub(super) async fn nothing_left<F: Fixture>(f: &mut F) -> Result<(), String> {
    let found = observe(f, &Scope::All).await?;
    check!(found.objects.is_empty(), "still observed: {:?}", found.objects);
    check!(found.used == Resources::default(), "still used: {:?}", found.used);
    let residue = f.residue().await?;
    check!(residue.is_empty(), "left behind: {residue:?}");
    Ok(())
}

pub(super) fn refused<T: std::fmt::Debug>(
    result: Result<T, DriverError>,
    disposition: Disposition,
    what: &str,
) -> Result<(), String> {
    let error = match result {
        Ok(it) => return Err(format!("{what}: accepted, {it:?}")),
        Err(e) => e,
    };
    let code_ok = !error.code.is_empty()
        && error.code.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    check!(code_ok, "{what}: `{}` is no UPPER_SNAKE_CASE code", error.code);
    check!(!error.operation.is_empty() && !error.key.is_empty(), "{what}: does not say where: {error:?}");
    check!(error.reason.len() > 8, "{what}: does not say why: {error:?}");
    check!(
        error.disposition == disposition,
        "{what}: {:?}, expected {disposition:?}: {error}",
        error.disposition
    );
    Ok(())
}
