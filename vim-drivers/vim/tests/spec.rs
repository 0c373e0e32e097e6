//! Documents that earlier versions wrote open, and are written again as the same bytes: digests are over them.

#![allow(clippy::unwrap_used)]

use vim::{ComputeSpec, Feature, Hardware, Observed, PortSpec, Spec};

const OLD: [&str; 3] = [
    r#"{"kind":"image","name":"dp","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}"#,
    r#"{"kind":"network","name":"net","mtu":1500}"#,
    concat!(
        r#"{"kind":"compute","name":"fw","image":"sha256:0000000000000000000000000000000000000000000000000000000000000000","#,
        r#""vcpus":2,"memory_mib":512,"ports":[{"name":"eth0","network":"ns/vl/a","mac":"02:00:00:00:00:01"}],"configuration":"{}"}"#,
    ),
];

#[test]
fn a_document_without_the_newer_fields_keeps_its_bytes() {
    for text in OLD {
        let spec: Spec = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), text);
    }
    let seen = r#"{"kind":"compute","state":"active","process":"answers","image":"sha256:0000000000000000000000000000000000000000000000000000000000000000","configuration":null,"generation":null,"ports":{},"links":{"e":{"up":true,"mtu":1500,"network":null}}}"#;
    let observed: Observed = serde_json::from_str(seen).unwrap();
    assert_eq!(serde_json::to_string(&observed).unwrap(), seen);
}

#[test]
fn what_is_asked_for_comes_back_as_it_was() {
    let Ok(Spec::Compute(old)) = serde_json::from_str(OLD[2]) else { panic!("no compute") };
    let text = r#"{"cpu_policy":"dedicated","page_size":"1gib","numa":{"nodes":2,"strict_memory":true},"pci":[{"alias":"qat","count":1}]}"#;
    let hardware: Hardware = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&hardware).unwrap(), text);
    let port = r#"{"name":"sr","network":"ns/vl/b","mac":"02:00:00:00:00:02","vnic":"direct","trusted":true,"security":"off","address_pairs":[{"address":"192.0.2.0/24"}],"qos":{"max_egress_kbps":1000,"max_ingress_kbps":0,"min_egress_kbps":0}}"#;
    let port: PortSpec = serde_json::from_str(port).unwrap();
    let spec = Spec::Compute(ComputeSpec { hardware, ports: vec![port], ..old });
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
    assert_eq!(serde_json::to_string(&Feature::SrIov).unwrap(), r#""sr_iov""#);
}

#[test]
fn a_label_is_short_and_tells_keys_apart() {
    let key = |text: &str| vim::ObjectKey::new(text).unwrap();
    assert_eq!(key("ns-1/vl/data").label(), "ns-1-vl-data");
    let (long, longer) = (format!("ns-1/{}", "k".repeat(58)), format!("ns-1/{}", "k".repeat(59)));
    assert_eq!(key(&long).label().len(), 63);
    assert_eq!(key(&longer).label().len(), 63);
    assert_ne!(key(&longer).label(), key(&format!("{longer}x")).label());
}
