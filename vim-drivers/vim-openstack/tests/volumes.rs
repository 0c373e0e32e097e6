//! Volumes on a real Yoga with a real cinder: `cargo testbed up cinder`, then with `TESTBED_OPENSTACK`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{Cloud, NOVA, TwoImages, clouds, config, home, text};
use reqwest::Method;
use serde_json::{Value, json};
use vim::{
    Adoption, ComputeSpec, ComputeState, Feature, ImageSpec, Kind, ObjectKey, Observed, ObservedCompute,
    Scope, Spec, VimDriver as _, VolumeSpec,
};
use vim_openstack::{Call, OpenStackVim, Service};

const CINDER: Service = Service::Volume;

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

struct Site {
    vim: OpenStackVim,
    cloud: Cloud,
    images: Arc<TwoImages>,
    home: String,
}

impl Site {
    fn spec(&self, sizes: &[(&str, u32)]) -> ComputeSpec {
        let volumes =
            sizes.iter().map(|(name, size_gib)| VolumeSpec { name: (*name).into(), size_gib: *size_gib });
        ComputeSpec {
            disk_gib: 1,
            volumes: volumes.collect(),
            ..ComputeSpec::new("vdu", self.images.digests[0], 1, 512)
        }
    }

    async fn make(&self, spec: &ComputeSpec) -> ObservedCompute {
        match self.vim.ensure(&key("disk/vdu"), &Spec::Compute(spec.clone())).await.unwrap() {
            Observed::Compute(c) => c,
            other => panic!("{other:?}"),
        }
    }

    /// Those of this home, by name: id, status, size.
    async fn volumes(&self) -> BTreeMap<String, (String, String, u64)> {
        let all = self.cloud.list(Call::get(CINDER, "volumes/detail"), "volumes").await.unwrap();
        let ours = all.into_iter().filter(|v| v["metadata"]["mandate.home"] == self.home.as_str());
        let one = |v: Value| {
            let name = v["metadata"]["mandate.volume"].as_str().unwrap().to_owned();
            (name, (text(&v, "id"), text(&v, "status"), v["size"].as_u64().unwrap()))
        };
        ours.map(one).collect()
    }

    async fn seen(&self) -> ObservedCompute {
        match self.vim.observe(&Scope::All).await.unwrap().objects.remove(&key("disk/vdu")).unwrap() {
            Observed::Compute(c) => c,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_made_kept_found_and_gone() {
    let Some(clouds) = clouds() else { return };
    let (images, home) = (TwoImages::make(), home());
    let config = config(&clouds, &home, &images);
    let cloud = Cloud::of(&clouds, "mandate");
    let site = Site { vim: OpenStackVim::new(config).unwrap(), cloud, images, home };
    if !site.vim.capabilities().await.unwrap().features.contains(&Feature::Volumes) {
        eprintln!("SKIPPED: no cinder; `cargo testbed up cinder` adds it");
        return;
    }
    let image = Spec::Image(ImageSpec::new("vnf", site.images.digests[0]));
    site.vim.ensure(&key("disk/image"), &image).await.unwrap();

    // Made, attached and read back by name.
    let two = site.spec(&[("data", 1), ("log", 2)]);
    let made = site.make(&two).await;
    assert_eq!(made.state, ComputeState::Active, "{made:?}");
    let there = site.volumes().await;
    let ids: BTreeMap<String, String> = there.iter().map(|(n, v)| (n.clone(), v.0.clone())).collect();
    assert_eq!(made.whereabouts.as_ref().unwrap().volumes, ids);
    assert!(there.values().all(|v| v.1 == "in-use"), "{there:?}");
    assert_eq!((there["data"].2, there["log"].2), (1, 2));
    assert_eq!(site.seen().await, made);
    assert_eq!(site.make(&two).await, made, "again: nothing is made");

    // Detached behind its back: seen, and put right.
    let server = made.whereabouts.as_ref().unwrap().id.clone();
    let attachment = format!("servers/{server}/os-volume_attachments/{}", ids["log"]);
    site.cloud.delete(NOVA, &attachment).await.unwrap();
    while site.volumes().await["log"].1 != "available" {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    assert_eq!(site.seen().await.state, ComputeState::Down);
    assert_eq!(site.make(&two).await, made, "attached again");

    // The server goes behind its back: another has the same volumes.
    site.cloud.gone(&server).await.unwrap();
    let another = site.make(&two).await;
    let place = another.whereabouts.as_ref().unwrap();
    assert!(place.id != server && place.volumes == ids, "{place:?}");

    // Another specification: one is larger, one is gone, none is new.
    let grown = site.make(&site.spec(&[("data", 3)])).await;
    let there = site.volumes().await;
    assert_eq!((there.len(), &there["data"].0, there["data"].2), (1, &ids["data"], 3), "{there:?}");
    assert_eq!(grown.whereabouts.unwrap().volumes, [("data".to_owned(), ids["data"].clone())].into());

    // Gone with the instance; a volume of somebody else's stays.
    let body =
        json!({ "volume": { "name": "theirs", "size": 1, "metadata": { "mandate.key": "disk/vdu" } } });
    let theirs = site.cloud.post(CINDER, "volumes", body).await.unwrap()["volume"]["id"].take();
    site.vim.remove(&key("disk/vdu"), Kind::Compute).await.unwrap();
    assert!(site.volumes().await.is_empty());
    let theirs = format!("volumes/{}", theirs.as_str().unwrap());
    assert_eq!(site.cloud.ask(Call::get(CINDER, theirs.clone())).await.unwrap()["volume"]["name"], "theirs");

    // One without an instance is a stray, and goes by its key.
    let marks = json!({ "mandate.home": site.home, "mandate.key": "disk/lost", "mandate.volume": "data" });
    let body = json!({ "volume": { "name": "lost", "size": 1, "metadata": marks } });
    site.cloud.post(CINDER, "volumes", body).await.unwrap();
    let extra = site.vim.observe(&Scope::All).await.unwrap().extra;
    assert!(extra.iter().any(|s| s.what == "volume" && s.key == key("disk/lost")), "{extra:?}");
    site.vim.remove(&key("disk/lost"), Kind::Compute).await.unwrap();
    assert!(site.volumes().await.is_empty());

    adopted(&site).await;
    site.cloud.delete(CINDER, &theirs).await.unwrap();
    site.vim.remove(&key("disk/image"), Kind::Image).await.unwrap();
    let left = site.vim.observe(&Scope::All).await.unwrap();
    assert!(left.objects.is_empty() && left.extra.is_empty(), "{left:?}");
}

/// What a MANO made with a volume is ours with it.
async fn adopted(site: &Site) {
    let images = Call::get(common::GLANCE, "images").query("mandate_home", &site.home);
    let image = text(&site.cloud.list(images, "images").await.unwrap()[0], "id");
    let flavor =
        json!({ "flavor": { "name": format!("osm-{}", site.home), "vcpus": 1, "ram": 512, "disk": 1 } });
    let flavor = text(&site.cloud.post(NOVA, "flavors", flavor).await.unwrap()["flavor"], "id");
    let volume = site.cloud.post(CINDER, "volumes", json!({ "volume": { "size": 2 } })).await.unwrap();
    let volume = text(&volume["volume"], "id");
    while site.cloud.ask(Call::get(CINDER, format!("volumes/{volume}"))).await.unwrap()["volume"]["status"]
        != "available"
    {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    let body = json!({ "server": { "name": "disk-vdu-0", "imageRef": image, "flavorRef": flavor, "networks": "none" } });
    let server = text(&site.cloud.post(NOVA, "servers", body).await.unwrap()["server"], "id");
    site.cloud.becomes(&server, "ACTIVE").await.unwrap();
    let body = json!({ "volumeAttachment": { "volumeId": volume } });
    let path = format!("servers/{server}/os-volume_attachments");
    site.cloud.tell(Call::new(NOVA, Method::POST, path).json(&body)).await.unwrap();
    let one = |size| Adoption {
        key: key("disk/vdu"),
        spec: Spec::Compute(site.spec(&[("data", size)])),
        id: server.clone(),
    };
    assert_eq!(site.vim.adopt(&[one(7)]).await.unwrap_err().code, "NOT_ADOPTABLE");
    let taken = site.vim.adopt(&[one(2)]).await.unwrap();
    let Observed::Compute(taken) = &taken[&key("disk/vdu")] else { panic!("{taken:?}") };
    assert_eq!(taken.whereabouts.as_ref().unwrap().volumes, [("data".to_owned(), volume)].into());
    assert_eq!(site.seen().await, *taken);
    site.vim.remove(&key("disk/vdu"), Kind::Compute).await.unwrap();
    assert!(site.volumes().await.is_empty());
    site.cloud.delete(NOVA, &format!("flavors/{flavor}")).await.unwrap();
}
