//! What descriptors ask of the infrastructure, in plans: the shipped SR-IOV service as a golden file, and what becomes of the
//! same descriptors at sites that lack something. `UPDATE_GOLDEN=1 cargo test -p lcm --test all platform::` writes the file anew.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common;
use std::{collections::BTreeMap, fs, path::Path};

use crate::common::{Setup, deploy, intent, map};
use descriptors::{day0, parse};
use lcm::{
    NsRecord, Plan,
    drift::{Deviation, Wanted},
    placement::Defaults,
    planner::{Catalogue, Refusal, VnfPackage},
};
use ledger_contract::{IntentKind, intent::VnfParams};
use trust::Digest;
use vim::{
    ComputeSpec, ComputeState, CpuPolicy, Feature, GroupPolicy, HostRoom, NetworkSpec, Observed,
    ObservedCompute, PageSize, PortSecurity, ProcessState, Room, Spec, Vnic,
};

const VNFD: &str = include_str!("../../../descriptors/packages/sriov_fw_vnf/sriov_fw_vnfd.yaml");
const NSD: &str = include_str!("../../../descriptors/packages/sriov_edge_ns/sriov_edge_nsd.yaml");
const DAY0: &str = include_str!("../../../descriptors/packages/sriov_fw_vnf/cloud_init/fw.cfg");

/// The descriptors' text changed, the cloud-init inside.
fn catalogue(edit: impl Fn(&str) -> String) -> Catalogue {
    let inline: String = DAY0.lines().map(|l| format!("      {l}\n")).collect();
    let text = edit(VNFD).replace("    cloud-init-file: fw.cfg\n", &format!("    cloud-init: |\n{inline}"));
    let text = text.replace("@sha256:images/fw-image@", &Digest::of("fw").hex());
    let vnfd = parse::vnfd(&text, "vnfd");
    let vnfd = vnfd.value.unwrap_or_else(|| panic!("{:?}", vnfd.diagnostics));
    let nsd = parse::nsd(&edit(NSD), "nsd");
    let nsd = nsd.value.unwrap_or_else(|| panic!("{:?}", nsd.diagnostics));
    let functions =
        vnfd.vdus.iter().filter_map(|(id, v)| Some((id.clone(), day0::parse(v.day0.as_deref()?).unwrap()?)));
    let package = VnfPackage {
        digest: Digest::of("vfw"),
        day0: functions.collect(),
        vnfd,
        images: map(vec![("fw-image", Digest::of("fw"))]),
    };
    Catalogue { nsd, nsd_package: Digest::of("ns"), vnfs: map(vec![("sriov_fw_vnf", package)]) }
}

fn setup(edit: impl Fn(&str) -> String) -> Setup {
    let images = vec![Digest::of("fw")];
    let mut it = Setup { catalogue: catalogue(edit), images, attested: false, ..Setup::default() };
    for site in &mut it.sites {
        site.capabilities.driver = "openstack".into();
        (site.capabilities.functions, site.capabilities.attestation, site.ak) = (false, false, None);
        site.capabilities.features = Feature::ALL.into();
    }
    it
}

fn try_plan(setup: &Setup) -> Result<Plan, Refusal> {
    let deploy = ledger_contract::intent::Deploy { vnf_params: BTreeMap::new(), ..deploy() };
    setup.plan_intent(&intent(IntentKind::Deploy(Box::new(deploy))), None)
}

fn objects(setup: &Setup) -> NsRecord {
    try_plan(setup).unwrap().after.unwrap()
}

fn as_shipped(text: &str) -> String {
    text.to_owned()
}

fn networks(record: &NsRecord) -> BTreeMap<String, NetworkSpec> {
    let of = |o: &lcm::Object| match &o.spec {
        Spec::Network(n) => Some((n.name.clone(), n.clone())),
        _ => None,
    };
    record.objects.iter().filter_map(of).collect()
}

fn instances(record: &NsRecord) -> Vec<ComputeSpec> {
    let of = |o: &lcm::Object| match &o.spec {
        Spec::Compute(c) => Some(c.clone()),
        _ => None,
    };
    record.objects.iter().filter_map(of).collect()
}

#[test]
fn the_shipped_service_on_openstack() {
    let record = objects(&setup(as_shipped));
    let text = serde_json::to_string_pretty(&record.objects).unwrap() + "\n";
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sriov.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(golden).unwrap());
    let [one, two] = &instances(&record)[..] else { panic!() };
    assert_eq!(
        (one.hardware.cpu_policy, one.hardware.page_size),
        (Some(CpuPolicy::Dedicated), Some(PageSize::Gib1))
    );
    assert_eq!(one.group.as_ref().unwrap().policy, GroupPolicy::AntiAffinity);
    assert_eq!(one.group, two.group);
    assert_eq!((one.configuration.as_str(), one.user_data.as_deref().unwrap()), ("", DAY0));
    let ports: Vec<_> = one.ports.iter().map(|p| (p.name.as_str(), p.vnic, p.trusted)).collect();
    assert_eq!(
        ports,
        [("oam", Vnic::Normal, false), ("outside", Vnic::Direct, true), ("inside", Vnic::Direct, true)]
    );
    assert_eq!(one.ports[1].security, PortSecurity::Off);
    let vlan = |n: &str| networks(&record)[n].provider.clone().unwrap().segment;
    assert_eq!((vlan("outside"), vlan("inside")), (Some(310), Some(311)));
    assert_eq!(networks(&record)["mgmt"].existing.as_deref(), Some("mgmt"));
    assert_eq!(
        try_plan(&setup(as_shipped)).unwrap().to_bytes(),
        try_plan(&setup(as_shipped)).unwrap().to_bytes()
    );
}

/// Each instance would fit on a host; all of them together are more than the site has left.
#[test]
fn virtual_functions_of_all_instances_are_counted() {
    let with = |total: u64, used: u64| {
        let mut it = setup(as_shipped);
        for site in &mut it.sites {
            let room = [("VF:physnet2".to_owned(), Room { total, used, most: 0 })].into();
            site.inventory.hosts = [("compute1".to_owned(), HostRoom { enabled: true, room })].into();
        }
        it
    };
    assert_eq!(instances(&objects(&with(8, 4))).len(), 2, "two for each of two");
    let refused = try_plan(&with(8, 5)).unwrap_err();
    assert_eq!(refused.code, "NO_SITE", "{}", refused.detail);
    assert!(refused.detail.contains("needs 4 virtual functions, 3 of 8 are free"), "{}", refused.detail);
    // Who counts none is asked.
    assert_eq!(instances(&objects(&setup(as_shipped))).len(), 2);
}

/// As OSM does it: the site's networks stand in for what the descriptor leaves open.
#[test]
fn a_site_names_what_a_descriptor_leaves_open() {
    let bare = |t: &str| {
        t.replace("        physical-network: physnet2\n", "").replace(
            "      virtual-link-desc: outside\n\n",
            "      virtual-link-desc: outside\n      floating-ip-required: true\n\n",
        )
    };
    let mut it = setup(bare);
    let refused = try_plan(&it).unwrap_err();
    assert_eq!(refused.code, "NO_SITE");
    assert!(refused.detail.contains("names a physical network"), "{refused}");
    for site in &mut it.sites {
        let some = |n: &str| Some(n.to_owned());
        site.defaults = Defaults {
            management_network: some("oam-net"),
            physical_network: some("physnet9"),
            external_network: some("public"),
            zone: some("az1"),
        };
    }
    let record = objects(&it);
    assert_eq!(networks(&record)["mgmt"].existing.as_deref(), Some("oam-net"));
    assert_eq!(networks(&record)["inside"].provider.as_ref().unwrap().physical_network, "physnet9");
    assert_eq!(instances(&record)[0].ports[1].floating.as_deref(), Some("public"));
    assert_eq!(instances(&record)[0].zone.as_deref(), Some("az1"));
}

#[test]
fn a_site_that_lacks_something_says_what() {
    for (missing, words) in [
        (Feature::SrIov, "SR-IOV"),
        (Feature::CpuPinning, "dedicated CPUs"),
        (Feature::HugePages, "huge pages"),
        (Feature::Numa, "NUMA"),
        (Feature::Groups, "affinity groups"),
        (Feature::ProviderNetworks, "provider networks"),
        (Feature::Guests, "whole guests"),
    ] {
        let mut it = setup(as_shipped);
        it.sites[0].capabilities.features.remove(&missing);
        let plan = try_plan(&it).unwrap();
        assert_eq!(plan.site, "edge-b", "{missing}");
        let (site, why) = &plan.refused[0];
        assert!(site == "edge-a" && why.contains(words), "{site}: {why}");
    }
    let mut it = setup(as_shipped);
    it.sites.iter_mut().for_each(|s| s.capabilities.features.clear());
    assert_eq!(try_plan(&it).unwrap_err().code, "NO_SITE");
}

/// Links without filters and addresses need none taken away: a site without guests makes the same objects as ever.
#[test]
fn plain_descriptors_ask_nothing_of_a_site_without_guests() {
    let mut it = Setup::default();
    let plain = it.plan(IntentKind::Deploy(Box::new(deploy())), None).unwrap();
    for package in it.catalogue.vnfs.values_mut() {
        for vdu in package.vnfd.vdus.values_mut() {
            vdu.disk_gib = 1;
            vdu.day0 = Some("#cloud-config\n".into());
            vdu.cpds.iter_mut().for_each(|c| c.security = descriptors::model::PortSecurity::Off);
        }
        package.vnfd.images.values_mut().for_each(|i| i.disk_format = "qcow2".into());
    }
    let cidr = "192.0.2.0/24".parse().unwrap();
    for link in it.catalogue.nsd.links.values_mut() {
        link.management = true;
        link.profile.mtu = Some(9000);
        link.profile.subnet = Some(descriptors::model::IpProfile { cidr, gateway: None, dhcp: true });
    }
    let same = it.plan(IntentKind::Deploy(Box::new(deploy())), None).unwrap();
    assert_eq!(plain.to_bytes(), same.to_bytes());
}

/// A service of Mandate's own functions on a site that boots guests: the configuration, and the cloud-init beside it.
#[test]
fn functions_in_guests_have_both() {
    let mut it = Setup::default();
    for package in it.catalogue.vnfs.values_mut() {
        package.vnfd.vdus.values_mut().for_each(|v| v.day0 = Some("#cloud-config\n".into()));
    }
    for site in &mut it.sites {
        site.capabilities.features = Feature::ALL.into();
    }
    let record = it.plan(IntentKind::Deploy(Box::new(deploy())), None).unwrap().after.unwrap();
    assert!(instances(&record).iter().all(|c| !c.configuration.is_empty() && c.user_data.is_some()));
    let subnets: Vec<_> =
        networks(&record).into_values().flat_map(|n| n.subnets).map(|s| s.cidr.to_string()).collect();
    assert_eq!(subnets.len(), 3);
    assert!(subnets.iter().all(|s| s.starts_with("192.168.")), "{subnets:?}");
    let unique: std::collections::BTreeSet<_> = subnets.iter().collect();
    assert_eq!(unique.len(), 3, "each link its own: {subnets:?}");
    // Scaling leaves what is there as it is, whether or not its site can be asked for what it has.
    let scaled = it.plan(common::scale(1, ledger_contract::intent::ScaleDirection::ScaleOut), Some(&record));
    let scaled = scaled.unwrap().after.unwrap();
    assert_eq!(networks(&scaled), networks(&record));
}

#[test]
fn rules_for_a_guest_are_refused() {
    let it = setup(as_shipped);
    let params = map(vec![(
        "fw",
        VnfParams { vips: deploy().vnf_params["vlb"].vips.clone(), ..VnfParams::default() },
    )]);
    let deploy = ledger_contract::intent::Deploy { vnf_params: params, ..deploy() };
    let refused = it.plan(IntentKind::Deploy(Box::new(deploy)), None).unwrap_err();
    assert_eq!(refused.code, "PARAMETERS", "{refused}");
}

#[test]
fn members_that_an_nsd_keeps_apart_are_at_different_sites() {
    let edit = |scope: &'static str| {
        move |t: &str| {
            let (before, member) = t.split_once("      - id: fw\n        vnfd-id").unwrap_or((t, ""));
            if member.is_empty() {
                return t.to_owned();
            }
            let member = format!(
                "      - id: fw\n        affinity-or-anti-affinity-group: [{{id: apart}}]\n        vnfd-id{member}"
            );
            let second =
                member.replace("- id: fw\n", "- id: fw2\n").replace("element-id: fw\n", "element-id: fw2\n");
            let head = before.replace(
                "    df:\n    - id: default-df\n",
                &format!("    df:\n    - id: default-df\n      affinity-or-anti-affinity-group: [{{id: apart, type: anti-affinity, scope: {scope}}}]\n"),
            );
            format!("{head}{member}{second}")
        }
    };
    let mut it = setup(edit("nfvi-pop"));
    it.wan = Setup::joined().wan;
    it.sites.iter_mut().for_each(|s| s.capabilities.inter_site_links = true);
    let record = objects(&it);
    let of =
        |m: &str| record.objects.iter().find(|o| o.key.as_str().contains(m)).map(|o| o.site.clone()).unwrap();
    assert_ne!(of("/fw/fw/0"), of("/fw2/fw/0"));
    // By host: in one group, where the VNF descriptor has none of its own.
    let none = |t: &str| {
        edit("nfvi-node")(&t.replace("      affinity-or-anti-affinity-group:\n      - id: pair\n", ""))
    };
    let record = objects(&setup(none));
    let groups: Vec<_> = instances(&record).into_iter().map(|c| c.group.unwrap()).collect();
    assert_eq!(groups.len(), 4);
    assert!(groups.iter().all(|g| g == &groups[0] && g.key.as_str().ends_with("/group/apart")), "{groups:?}");
}

#[test]
fn a_guest_is_as_it_should_be_without_a_configuration() {
    let record = objects(&setup(as_shipped));
    let spec = record.objects.iter().map(|o| &o.spec).find(|s| matches!(s, Spec::Compute(_))).unwrap();
    let Spec::Compute(c) = spec else { panic!() };
    let mut seen = ObservedCompute {
        state: ComputeState::Active,
        process: ProcessState::Answers,
        image: c.image,
        configuration: None,
        generation: None,
        ports: c.ports.iter().map(|p| (p.name.clone(), p.mac)).collect(),
        links: BTreeMap::new(),
        whereabouts: None,
    };
    assert_eq!(Wanted::of(spec, false).check(&Observed::Compute(seen.clone())), Ok(()));
    seen.image = Digest::of("other");
    let wrong = Wanted::of(spec, false).check(&Observed::Compute(seen)).unwrap_err();
    assert_eq!(wrong.0, Deviation::ImageChanged);
    assert_eq!(lcm::plan::workload(spec), None);
    let existing =
        Spec::Network(NetworkSpec { existing: Some("oam".into()), ..NetworkSpec::new("mgmt", 1500) });
    let seen = Observed::Network { up: true, mtu: 9000, interconnect: None };
    assert_eq!(Wanted::of(&existing, false).check(&seen), Ok(()));
}

/// As OSM does it: interfaces by position, addresses and MAC addresses counted up from the first instance's.
#[test]
fn interfaces_are_as_in_osm() {
    let edit = |t: &str| {
        t.replace("        position: 1\n", "        position: 9\n        mac-address: fa:16:3e:00:00:ff\n")
            .replace(
                "            constituent-cpd-id: inside\n",
                "            constituent-cpd-id: inside\n            ip-address: [198.51.100.7]\n",
            )
    };
    let all = instances(&objects(&setup(edit)));
    let names: Vec<_> = all[0].ports.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["outside", "inside", "oam"]);
    assert_eq!(all[1].ports[1].addresses, ["198.51.100.8".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(all[1].ports[2].mac.to_string(), "fa:16:3e:00:01:00");
}
