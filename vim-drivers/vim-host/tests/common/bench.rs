//! A bench for tests of what only this VIM promises, with the stand-in of `examples/`: objects and their end.

use dataplane_control::{
    Configuration, Function, MacAddr,
    config::{Port, PortDriver, Reflector},
};
use trust::Digest;
use vim::{
    ComputeSpec, Disposition, DriverError, ImageSpec, Kind, NetworkSpec, ObjectKey, PortSpec, Scope, Spec,
    VimDriver, conformance::Fixture, port_interface,
};

use super::{Host, Recipe, TwoImages, is_root, key, standin};

pub struct Bench {
    pub recipe: Recipe,
    _dir: tempfile::TempDir,
}

pub fn bench() -> Option<Bench> {
    if !is_root() {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = TwoImages::of(&standin(), dir.path());
    let recipe =
        Recipe { launcher: standin(), images, tpm: None, run_as: None, dataplane_arguments: Vec::new() };
    Some(Bench { recipe, _dir: dir })
}

pub fn network(mtu: u16) -> Spec {
    Spec::Network(NetworkSpec::new("net", mtu))
}

/// A reflector with a port on each of these networks.
pub fn compute(host: &Host, instance: &ObjectKey, networks: &[&str]) -> Spec {
    let mac = |i: usize| {
        let [a, b, c, ..] = Digest::of(format!("{instance} {i}")).0;
        MacAddr([2, 0, 0, a, b, c])
    };
    let port = |(i, _): (usize, &&str)| Port {
        name: format!("eth{i}"),
        driver: PortDriver::AfPacket { interface: port_interface(i) },
        mac: mac(i),
    };
    let spec = |(i, network): (usize, &&str)| PortSpec::new(format!("eth{i}"), key(network), mac(i));
    let function = Function::Reflector(Reflector { port: "eth0".into(), number: 1, addresses: Vec::new() });
    let ports = networks.iter().enumerate().map(port).collect();
    let document = Configuration { instance: instance.to_string(), generation: 1, ports, function };
    Spec::Compute(ComputeSpec {
        ports: networks.iter().enumerate().map(spec).collect(),
        configuration: String::from_utf8(document.to_bytes()).unwrap(),
        ..ComputeSpec::new("vdu", host.images()[0], 1, 64)
    })
}

pub async fn ground(host: &Host) {
    let image = Spec::Image(ImageSpec::new("dataplane", host.images()[0]));
    host.vim().ensure(&key("ns/image"), &image).await.unwrap();
    host.vim().ensure(&key("ns/net"), &network(1500)).await.unwrap();
}

pub async fn finish(mut host: Host) {
    let found = host.vim().observe(&Scope::All).await.unwrap().objects;
    for kind in [Kind::Compute, Kind::Network, Kind::Image] {
        for key in found.keys() {
            host.vim().remove(key, kind).await.unwrap();
        }
    }
    assert_eq!(host.residue().await.unwrap(), Vec::<String>::new());
}

pub fn verdict(error: &DriverError) -> (&str, Disposition) {
    (&error.code, error.disposition)
}
