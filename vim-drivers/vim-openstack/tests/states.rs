//! Every state of a server, on a real Yoga: those that its API can put a server in for real, and every other one through
//! [`Lossy`], which has nova say it. And what can be had of a server that failed: its console.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{path::Path, sync::Arc};

use common::{Cloud, NOVA, TwoImages, clouds, config, home, id, lossy::Lossy, residue, text};
use serde_json::{Value, json};
use vim::{
    ComputeSpec, ComputeState, Disposition, DriverError, ImageSpec, Kind, ObjectKey, Observed, Spec,
    VimDriver as _,
};
use vim_openstack::{Call, OpenStackConfig, OpenStackVim};

/// What the fake hypervisor's consoles say.
const CONSOLE: &str = "FAKE CONSOLE OUTPUT";

struct Site {
    vim: OpenStackVim,
    cloud: Cloud,
    lossy: Lossy,
    images: Arc<TwoImages>,
    home: String,
}

impl Site {
    async fn new(clouds: &Path, boot_timeout_s: u64) -> Self {
        let (images, home) = (TwoImages::make(), home());
        let direct = config(clouds, &home, &images);
        let (lossy, cloud) = Lossy::start(&direct.cloud).await;
        let vim = OpenStackVim::new(OpenStackConfig { cloud, boot_timeout_s, ..direct }).unwrap();
        let it = Self { vim, cloud: Cloud::of(clouds, "mandate"), lossy, images, home };
        let image = Spec::Image(ImageSpec::new("vnf", it.images.digests[0]));
        it.vim.ensure(&key("image"), &image).await.unwrap();
        it
    }

    async fn ensure(&self, name: &str) -> Result<Observed, DriverError> {
        let spec = ComputeSpec { disk_gib: 1, ..ComputeSpec::new("vdu", self.images.digests[0], 1, 128) };
        self.vim.ensure(&key(name), &Spec::Compute(spec)).await
    }

    async fn made(&self, name: &str) -> String {
        let Observed::Compute(made) = self.ensure(name).await.unwrap() else { panic!() };
        assert_eq!(made.state, ComputeState::Active);
        made.whereabouts.unwrap().id
    }

    /// Calls of a shape since the last time that what is lost was said.
    fn asked(&self, shape: &str) -> usize {
        self.lossy.counts().get(shape).copied().unwrap_or_default()
    }

    fn pretend(&self, status: &str, task: Value) {
        self.lossy.lose([]);
        self.lossy.pretend(Some((status, task)));
    }

    async fn closed(self) {
        self.lossy.pretend(None);
        for name in ["vdu", "other"] {
            self.vim.remove(&key(name), Kind::Compute).await.unwrap();
        }
        self.vim.remove(&key("image"), Kind::Image).await.unwrap();
        let left = residue(&self.cloud, &self.home).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(format!("states/{name}")).unwrap()
}

/// What `ensure` asks nova for, of each state in which it asks for something.
const BROUGHT_BACK: [(&str, &str); 7] = [
    ("SHUTOFF", "os-start"),
    ("PAUSED", "unpause"),
    ("SUSPENDED", "resume"),
    ("RESCUE", "unrescue"),
    ("SHELVED", "unshelve"),
    ("SHELVED_OFFLOADED", "unshelve"),
    ("VERIFY_RESIZE", "revertResize"),
];
/// States in which something goes on.
const GOES_ON: [&str; 8] =
    ["BUILD", "REBUILD", "REBOOT", "HARD_REBOOT", "PASSWORD", "RESIZE", "REVERT_RESIZE", "MIGRATING"];

/// nova says each state for a moment; `ensure` asks for what brings the server back, waits, or leaves it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_state_is_answered_with_what_brings_the_server_back() {
    let Some(clouds) = clouds() else { return };
    let site = Site::new(&clouds, 60).await;
    let server = site.made("vdu").await;
    let back = async |site: &Site, until: &str| {
        // nova goes on telling the truth once the driver did something about it.
        for _ in 0..600 {
            if site.asked(until) > 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        site.lossy.pretend(None);
    };
    for (status, action) in BROUGHT_BACK {
        site.pretend(status, Value::Null);
        let action = format!("POST v2.1/servers/*/action {action}");
        let (found, ()) = tokio::join!(site.ensure("vdu"), back(&site, &action));
        let Observed::Compute(found) = found.unwrap() else { panic!() };
        assert_eq!((found.state, site.asked(&action)), (ComputeState::Active, 1), "{status}");
        assert_eq!(found.whereabouts.unwrap().id, server, "{status}");
    }
    for status in GOES_ON {
        site.pretend(status, json!("working"));
        let (found, ()) = tokio::join!(site.ensure("vdu"), back(&site, "GET v2.1/servers/*"));
        let Observed::Compute(found) = found.unwrap() else { panic!() };
        assert_eq!(found.whereabouts.unwrap().id, server, "{status}");
        let changes = site.lossy.changes();
        assert!(changes.is_empty(), "{status}: {changes:?}");
    }
    for status in ["UNKNOWN", "NEW_IN_ZED"] {
        site.pretend(status, Value::Null);
        let error = site.ensure("vdu").await.unwrap_err();
        assert_eq!((error.code.as_str(), error.disposition), ("SERVER_BUSY", Disposition::Retry), "{error}");
        assert!(error.reason.contains(status), "{error}");
    }
    site.lossy.pretend(None);
    // What is as good as gone makes place for another.
    for status in ["ERROR", "SOFT_DELETED"] {
        let before = site.cloud.server(&site.made("vdu").await).await.unwrap();
        site.pretend(status, Value::Null);
        let delete = match status {
            "ERROR" => "DELETE v2.1/servers/*",
            _ => "POST v2.1/servers/*/action forceDelete",
        };
        let (found, ()) = tokio::join!(site.ensure("vdu"), back(&site, delete));
        let Observed::Compute(found) = found.unwrap() else { panic!() };
        assert_ne!(found.whereabouts.unwrap().id, id(&before), "{status}");
    }
    site.closed().await;
}

/// The real ones that the port's suite does not go through: a size that somebody else chose, and a reboot under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_size_that_somebody_else_chose_is_taken_back() {
    let Some(clouds) = clouds() else { return };
    let site = Site::new(&clouds, 120).await;
    let server = site.made("vdu").await;
    let name = format!("larger-{}", site.home);
    let body = json!({ "flavor": { "name": name, "vcpus": 2, "ram": 256, "disk": 1 } });
    let larger = id(&site.cloud.post(NOVA, "flavors", body).await.unwrap()["flavor"]);
    site.cloud.action(&server, json!({ "resize": { "flavorRef": larger } })).await.unwrap();
    site.cloud.becomes(&server, "VERIFY_RESIZE").await.unwrap();
    assert_eq!(site.made("vdu").await, server);
    let now = site.cloud.server(&server).await.unwrap();
    assert_eq!(now["flavor"]["vcpus"], 1, "{now}");
    site.cloud.action(&server, json!({ "reboot": { "type": "HARD" } })).await.unwrap();
    assert_eq!(site.made("vdu").await, server, "a reboot under way is waited for");
    site.cloud.delete(NOVA, &format!("flavors/{larger}")).await.unwrap();
    site.closed().await;
}

/// What does not come up is deleted, and its console's last words are the error's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_of_what_failed_is_in_the_error() {
    let Some(clouds) = clouds() else { return };
    let site = Site::new(&clouds, 12).await;
    site.pretend("BUILD", json!("spawning"));
    let stuck = site.ensure("vdu").await.unwrap_err();
    assert_eq!((stuck.code.as_str(), stuck.disposition), ("SERVER_STUCK", Disposition::Unknown), "{stuck}");
    assert!(stuck.reason.contains(CONSOLE) && stuck.reason.contains("it was deleted"), "{stuck}");
    site.lossy.pretend(None);
    let list = Call::get(NOVA, "servers").query("tags", format!("mandate-{}", site.home));
    let left = site.cloud.list(list, "servers").await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    // One that runs when nova says that it failed.
    let failing = async {
        loop {
            let list = Call::get(NOVA, "servers").query("tags", format!("mandate-{}", site.home));
            let all = site.cloud.list(list.query("status", "ACTIVE"), "servers").await.unwrap();
            if let Some(server) = all.first() {
                site.pretend("ERROR", Value::Null);
                break text(server, "id");
            }
        }
    };
    site.pretend("BUILD", json!("spawning"));
    let (failed, server) = tokio::join!(site.ensure("other"), failing);
    let failed = failed.unwrap_err();
    assert_eq!(
        (failed.code.as_str(), failed.disposition),
        ("SERVER_FAILED", Disposition::Compensate),
        "{failed}"
    );
    assert!(failed.reason.contains(CONSOLE), "{failed}");
    assert!(site.cloud.server(&server).await.is_err(), "it is left");
    site.closed().await;
}
