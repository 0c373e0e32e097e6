//! What the model says of the infrastructure: one service with everything, and any text at all.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use descriptors::{
    day0,
    model::{
        AffinityScope, Cidr, Hardware, LinkProfile, Nsd, NumaPolicy, Pages, Pinning, PortSecurity, Threads,
        Vnfd, Volume,
    },
    parse,
};
use proptest::prelude::*;

/// `$` stands for lines that a case adds to the VNFD's `virtual-compute-desc`.
const VNFD: &str = r"
vnfd:
  id: fw
  mgmt-cp: oam
  vdu:
  - id: vm
    name: vm
    sw-image-desc: img
    virtual-compute-desc: big
    virtual-storage-desc: [root, log]
    cloud-init: |
      #cloud-config
      mandate:
        vim:
          zone: z1
          pci: {qat: 1}
          ports:
            left: {trusted: true, qos: {max_egress_kbps: 1000}}
            oam: {floating: public, address_pairs: [{address: 192.0.2.9}], subports: {voice: 100}}
    int-cpd:
    - id: oam
      port-security-enabled: true
      security-group-rule-id: ssh
      virtual-network-interface-requirement: [{name: oam, position: 1, mac-address: 'fa:16:3e:00:00:01'}]
    - id: left
      port-security-enabled: false
      virtual-network-interface-requirement: [{name: left, position: 2, virtual-interface: {type: SR-IOV}}]
    - id: voice
      int-virtual-link-desc: inner
      port-security-enabled: false
      port-security-disable-strategy: allow-address-pairs
      virtual-network-interface-requirement: [{name: voice, ip-address: 10.0.0.9}]
  virtual-compute-desc:
  - id: big
$
  virtual-storage-desc:
  - {id: root, size-of-storage: 10}
  - {id: log, type-of-storage: 'etsi-nfv-descriptors:persistent-storage', size-of-storage: 20}
  sw-image-desc:
  - {id: img, name: img, version: '1', image: img, disk-format: raw}
  security-group-rule:
  - {id: ssh, port-range-min: 22, port-range-max: 22}
  - {id: ping, protocol: icmp, direction: egress, ether-type: ipv6}
  int-virtual-link-desc:
  - id: inner
    provider-network: {segmentation_id: 30}
  ext-cpd:
  - {id: oam, int-cpd: {vdu-id: vm, cpd: oam}, security-group-rule-id: ping}
  - {id: left, int-cpd: {vdu-id: vm, cpd: left}, port-security-enabled: true}
  df:
  - id: df
    vdu-profile:
    - {id: vm, max-number-of-instances: 2, affinity-or-anti-affinity-group: [{id: apart}]}
    affinity-or-anti-affinity-group:
    - {id: apart, type: anti-affinity, scope: nfvi-node}
    virtual-link-profile:
    - id: inner
      flavour: f
      virtual-link-protocol-data:
        l2-protocol-data: {mtu: 9000}
        l3-protocol-data: {cidr: 10.0.0.0/24, gateway-ip: 10.0.0.1, dhcp-enabled: true}
";

const NSD: &str = r"
nsd:
  nsd:
  - id: ns
    vnfd-id: [fw]
    virtual-link-desc:
    - {id: mgmt, mgmt-network: true}
    - {id: left, provider-network: {physical-network: physnet2, segmentation_id: 100}}
    - {id: old, vim-network-name: legacy}
    sapd:
    - {id: sap, virtual-link-desc: mgmt, floating-ip-required: true}
    df:
    - id: df
      affinity-or-anti-affinity-group: [{id: sites, type: anti-affinity, scope: nfvi-pop}]
      virtual-link-profile:
      - {id: left, virtual-link-desc-id: left, virtual-link-protocol-data: {l2-protocol-data: {network-type: vlan}}}
      vnf-profile:
      - id: '1'
        vnfd-id: fw
        affinity-or-anti-affinity-group: [{id: sites}]
        virtual-link-connectivity:
        - virtual-link-profile-id: mgmt
          constituent-cpd-id:
          - {constituent-base-element-id: '1', constituent-cpd-id: oam, ip-address: [192.0.2.7]}
        - virtual-link-profile-id: left
          constituent-cpd-id: [{constituent-base-element-id: '1', constituent-cpd-id: left}]
";

const PINNED: &str = "
    virtual-cpu: {num-virtual-cpu: 4, pinning: {policy: static, thread-policy: ISOLATE}}
    virtual-memory:
      size: 4
      mempage-size: SIZE_1GB
      numa-node-policy:
        mem-policy: STRICT
        node:
        - {id: 1, vcpu: [{id: 2}, {id: 3}], memory-mb: 3072}
        - {id: 0, vcpu: [{id: 1}, {id: 0}], memory-mb: 1024}";

fn vnfd(compute: &str) -> Vnfd {
    let parsed = parse::vnfd(&VNFD.replace('$', compute), "vnfd.yaml");
    parsed.value.unwrap_or_else(|| panic!("{:?}", parsed.diagnostics))
}

fn nsd() -> Nsd {
    let parsed = parse::nsd(NSD, "nsd.yaml");
    parsed.value.unwrap_or_else(|| panic!("{:?}", parsed.diagnostics))
}

fn hardware(compute: &str) -> Hardware {
    vnfd(compute).vdus["vm"].hardware.clone()
}

#[test]
fn a_vdu_says_what_it_needs_of_its_machine() {
    let it = hardware(PINNED);
    assert_eq!(it.pinning, Some(Pinning::Static(Some(Threads::Isolate))));
    assert_eq!(it.pages, Some(Pages::Gib1));
    let Some(NumaPolicy { nodes: 2, strict: true, cells }) = it.numa else { panic!("{:?}", it.numa) };
    assert_eq!((cells[0].vcpus.as_slice(), cells[0].memory_mib), (&[0, 1][..], 1024));
    assert_eq!((cells[1].vcpus.as_slice(), cells[1].memory_mib), (&[2, 3][..], 3072));
}

/// As OSM does: cores, threads and paired threads of NUMA nodes pin the CPUs, unless `pinning` says otherwise.
#[test]
fn cores_and_threads_of_numa_nodes_pin_cpus() {
    let numa =
        |node: &str| format!("    virtual-memory: {{numa-node-policy: {{node: [{{id: 0, {node}}}]}}}}");
    for (node, threads) in [
        ("num-cores: 2", Threads::Isolate),
        ("num-threads: 2", Threads::Prefer),
        ("paired-threads: {num-paired-threads: 1}", Threads::Require),
    ] {
        let it = hardware(&numa(node));
        assert_eq!(it.pinning, Some(Pinning::Static(Some(threads))), "{node}");
        assert_eq!(it.numa, Some(NumaPolicy { nodes: 1, strict: false, cells: Vec::new() }));
        let shared = format!("{}\n    virtual-cpu: {{pinning: {{policy: dynamic}}}}", numa(node));
        assert_eq!(hardware(&shared).pinning, Some(Pinning::Dynamic), "{node}");
    }
    assert_eq!(hardware("    virtual-cpu: {num-virtual-cpu: 1}"), Hardware::default());
    let counted = "    virtual-memory: {numa-node-policy: {node-cnt: 2, mem-policy: PREFERRED}}";
    assert_eq!(hardware(counted).numa, Some(NumaPolicy { nodes: 2, strict: false, cells: Vec::new() }));
}

#[test]
fn disks_ports_and_rules_are_read() {
    let it = vnfd(PINNED);
    let vm = &it.vdus["vm"];
    assert_eq!((vm.disk_gib, &vm.volumes[..]), (10, &[Volume { id: "log".into(), size_gib: 20 }][..]));
    let [oam, left, voice] = &vm.cpds[..] else { panic!() };
    assert_eq!((oam.position, oam.mac.unwrap().to_string().as_str()), (Some(1), "fa:16:3e:00:00:01"));
    let rules: Vec<_> = oam.rules.iter().map(|r| (r.ingress, r.ipv6, r.protocol.as_str(), r.ports)).collect();
    assert_eq!(rules, [(true, false, "tcp", Some((22, 22))), (false, true, "icmp", None)]);
    // The external connection point's word counts, as in OSM.
    assert_eq!((left.security, left.interface_type.as_str()), (PortSecurity::On, "SR-IOV"));
    assert_eq!(voice.security, PortSecurity::AnyAddress);
    assert_eq!(voice.address, "10.0.0.9".parse().ok());
    assert_eq!(it.images["img"].disk_format, "raw");
    let group = &it.flavours[0].groups["vm"];
    assert_eq!((group.anti, group.scope, group.id.as_str()), (true, AffinityScope::NfviNode, "apart"));
    let profile = &it.internal_links[0].profile;
    assert_eq!((profile.mtu, profile.provider.as_ref().unwrap().segment), (Some(9000), Some(30)));
    let subnet = profile.subnet.as_ref().unwrap();
    assert_eq!((subnet.cidr.to_string().as_str(), subnet.dhcp), ("10.0.0.0/24", true));
    let asked = &vm.requests;
    assert_eq!((asked.zone.as_deref(), asked.carrier("voice")), (Some("z1"), Some(("oam", 100))));
    assert!(asked.ports["left"].trusted && asked.ports["oam"].floating.is_some());
}

#[test]
fn links_and_members_are_read() {
    let it = nsd();
    let left = it.links["left"].profile.provider.as_ref().unwrap();
    assert_eq!(
        (left.physical_network.as_deref(), left.segment, left.flat),
        (Some("physnet2"), Some(100), false)
    );
    assert_eq!(it.links["mgmt"].profile, LinkProfile::default());
    assert_eq!(it.links["old"].vim_network.as_deref(), Some("legacy"));
    let member = &it.flavours[0].members["1"];
    assert_eq!(member.addresses["oam"], ["192.0.2.7".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(member.floating.iter().collect::<Vec<_>>(), ["oam"]);
    assert!(member.groups.contains("sites"));
    assert_eq!(it.flavours[0].groups["sites"].scope, AffinityScope::NfviPop);
}

#[test]
fn models_are_read_back_and_old_ones_open() {
    let (vnf, ns) = (vnfd(PINNED), nsd());
    let text = serde_json::to_string(&vnf).unwrap();
    assert_eq!(serde_json::from_str::<Vnfd>(&text).unwrap(), vnf);
    let text = serde_json::to_string(&ns).unwrap();
    assert_eq!(serde_json::from_str::<Nsd>(&text).unwrap(), ns);
    let old = r#"{"id":"a","internal_link":null,"interface_type":"PARAVIRT"}"#;
    let cpd: descriptors::model::IntCpd = serde_json::from_str(old).unwrap();
    assert_eq!((cpd.security, cpd.position), (PortSecurity::On, None));
}

fn leaf() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("static".to_owned()),
        Just("SIZE_1GB".to_owned()),
        Just("{}".to_owned()),
        Just("[]".to_owned()),
        Just("-1".to_owned()),
        Just("65536".to_owned()),
        Just("18446744073709551615".to_owned()),
        Just("::/0".to_owned()),
        "[a-z0-9:./-]{0,12}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever stands in place of a value, the descriptor is read or refused, and what is read can be written.
    #[test]
    fn any_value_is_read_or_refused(at in 0_usize..200, value in leaf(), of_vnf: bool) {
        let text = if of_vnf { VNFD.replace('$', PINNED) } else { NSD.to_owned() };
        let colons: Vec<usize> = text.match_indices(": ").map(|(i, _)| i + 2).collect();
        let start = colons[at % colons.len()];
        let rest = &text[start..];
        let end = start + rest.find(['\n', ',', '}']).unwrap_or(rest.len());
        let text = format!("{}{value}{}", &text[..start], &text[end..]);
        if let Some(it) = parse::vnfd(&text, "d").value {
            let back: Vnfd = serde_json::from_str(&serde_json::to_string(&it).unwrap()).unwrap();
            prop_assert_eq!(back, it);
        }
        if let Some(it) = parse::nsd(&text, "d").value {
            let back: Nsd = serde_json::from_str(&serde_json::to_string(&it).unwrap()).unwrap();
            prop_assert_eq!(back, it);
        }
    }

    #[test]
    fn any_day0_is_read_or_refused(text in "[a-z0-9:{}, \n-]{0,80}") {
        let _ = day0::requests(&format!("#cloud-config\nmandate:\n  vim:\n    {text}"));
        let _ = day0::parse(&format!("#cloud-config\nmandate: {{vim: {{ports: {{{text}}}}}}}"));
    }

    #[test]
    fn a_prefix_holds_its_addresses(address: u32, length in 0_u8..=32) {
        let it = Cidr::of(std::net::Ipv4Addr::from(address).into(), length).unwrap();
        prop_assert!(it.contains(std::net::Ipv4Addr::from(address).into()));
    }
}
