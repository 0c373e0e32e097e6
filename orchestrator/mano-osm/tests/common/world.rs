//! A service to make through a peer: two packages, one site, and a second way in for what the driver must not do.

use std::{collections::BTreeMap, future::Future, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use dataplane_control::MacAddr;
use mano::{
    InstanceSpec, InterfaceSpec, LinkSpec, Mano, MemberSpec, ObservedService, PackageKind, PackageRef,
    PackageSpec, ServiceKey, ServiceSpec, SiteLink, VduSpec,
    conformance::{Fixture, Packages},
};
use mano_osm::{
    Osm, OsmConfig, Secret, VimAccount,
    client::{Call, Client},
};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use trust::Digest;
use vim::{Artifacts, DriverError, ObjectKey};

use super::{Fault, Peer, setting};

pub const VNFD: &str = "mandate-t-fw";
pub const NSD: &str = "mandate-t-svc";
pub const ACCOUNT: &str = "mandate-t-vim";
const PASSWORD: &str = "test-only";

/// Package files by digest.
struct Files(TempDir, BTreeMap<Digest, PathBuf>);

impl Artifacts for Files {
    fn path(&self, digest: &Digest) -> Option<PathBuf> {
        self.1.get(digest).cloned()
    }
}

/// A VNFD of one VDU, 1 to 3 instances, whose cloud-init takes day-0 documents.
pub fn vnfd(version: &str) -> Value {
    json!({ "vnfd": {
        "id": VNFD, "version": version, "provider": "mandate", "product-name": VNFD, "mgmt-cp": "data",
        "df": [{
            "id": "default",
            "vdu-profile": [{ "id": "vm", "min-number-of-instances": 1, "max-number-of-instances": 3 }],
            "instantiation-level": [{ "id": "default", "vdu-level": [{ "vdu-id": "vm", "number-of-instances": 1 }] }],
            "scaling-aspect": [{ "id": "more", "name": "more", "max-scale-level": 2, "aspect-delta-details": {
                "deltas": [{ "id": "one", "vdu-delta": [{ "id": "vm", "number-of-instances": 1 }] }] } }],
        }],
        "ext-cpd": [{ "id": "data", "int-cpd": { "vdu-id": "vm", "cpd": "eth0" } }],
        "vdu": [{
            "id": "vm", "name": "vm", "cloud-init-file": "mandate.cfg", "sw-image-desc": "image",
            "virtual-compute-desc": "small", "virtual-storage-desc": ["disk"],
            "int-cpd": [{ "id": "eth0", "virtual-network-interface-requirement": [
                { "name": "eth0", "virtual-interface": { "type": "SR-IOV" } }] }],
        }],
        "virtual-compute-desc": [{ "id": "small", "virtual-cpu": { "num-virtual-cpu": 1 }, "virtual-memory": { "size": 1.0 } }],
        "virtual-storage-desc": [{ "id": "disk", "size-of-storage": 2 }],
        "sw-image-desc": [{ "id": "image", "name": "image", "image": "image" }],
    } })
}

pub fn nsd() -> Value {
    json!({ "nsd": { "nsd": [{
        "id": NSD, "name": NSD, "version": "1", "designer": "mandate", "vnfd-id": [VNFD],
        "virtual-link-desc": [{ "id": "data" }],
        "df": [{ "id": "default", "vnf-profile": [{ "id": "1", "vnfd-id": VNFD, "virtual-link-connectivity": [
            { "virtual-link-profile-id": "data", "constituent-cpd-id": [
                { "constituent-base-element-id": "1", "constituent-cpd-id": "data" }] }] }] }],
    }] } })
}

/// Its bytes are in what was recorded.
const CLOUD_INIT: &str = "#cloud-config
write_files:
- path: /etc/mandate/dataplane.json
  owner: root:root
  permissions: '0600'
  encoding: b64
  content: {{ mandate_day0[OSM.count_index] }}
";

/// A package as OSM takes it: everything in one directory. The same bytes every time.
pub fn tarball(id: &str, descriptor: &Value) -> Vec<u8> {
    let gz = flate2::GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::default());
    let mut tar = tar::Builder::new(gz);
    let mut add = |path: String, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, path, bytes).unwrap();
    };
    add(format!("{id}/{id}.yaml"), descriptor.to_string().as_bytes());
    add(format!("{id}/cloud_init/mandate.cfg"), CLOUD_INIT.as_bytes());
    tar.into_inner().unwrap().finish().unwrap()
}

/// A driver on an NBI (or its recording), and all that its tests need.
pub struct World {
    pub peer: Peer,
    pub osm: Arc<Osm>,
    /// A session that the driver knows nothing of.
    pub raw: Client,
    pub packages: Packages,
    files: Arc<Files>,
    foreign: Vec<(&'static str, String, Value)>,
    config: OsmConfig,
}

impl World {
    /// Clean, with the VIM account enabled.
    pub async fn new(name: &str) -> Self {
        let peer = Peer::start(name).await;
        let dir = tempfile::tempdir().unwrap();
        let mut known = BTreeMap::new();
        let mut package = |kind, id: &str, bytes: Vec<u8>| {
            let digest = Digest::of(&bytes);
            let path = dir.path().join(digest.hex());
            std::fs::write(&path, bytes).unwrap();
            known.insert(digest, path);
            PackageSpec { kind, id: id.into(), digest, images: Vec::new() }
        };
        let vnf = ["1.0", "2.0"].map(|v| package(PackageKind::Vnf, VNFD, tarball(VNFD, &vnfd(v))));
        let ns = package(PackageKind::Ns, NSD, tarball(NSD, &nsd()));
        let missing = PackageSpec { digest: Digest::of("nowhere"), ..vnf[0].clone() };
        let packages = Packages { vnf, ns, missing };
        let files = Arc::new(Files(dir, known));
        let config = OsmConfig {
            url: peer.url.clone(),
            username: setting("OSM_NBI_USER", "admin"),
            password: Secret::Given(setting("OSM_NBI_PASSWORD", "admin")),
            project: setting("OSM_NBI_PROJECT", "admin"),
            cacert: None,
            allow_plain_http: true,
            timeout_s: 30,
            sites: [("here".to_owned(), ACCOUNT.to_owned())].into(),
            deadline_s: 120,
            poll_ms: if peer.is_real() { 200 } else { 1 },
        };
        let osm = Arc::new(Osm::new(Client::new(config.clone()).unwrap(), files.clone()));
        let raw = Client::new(config.clone()).unwrap();
        let world = Self { peer, osm, raw, packages, files, foreign: Vec::new(), config };
        if world.peer.is_real() {
            world.clear().await;
            world.peer.begin();
        }
        world.account().await;
        world
    }

    /// The VIM account: made when it is not there (not part of a recording).
    async fn account(&self) {
        let account = VimAccount {
            name: ACCOUNT.into(),
            kind: "openstack".into(),
            url: "https://keystone.example:5000/v3".into(),
            tenant: "tenant".into(),
            user: "mandate".into(),
            config: BTreeMap::new(),
        };
        let enabled = self.osm.ensure_vim_account(&account, &Secret::Given(PASSWORD.into())).await.unwrap();
        assert!(enabled.enabled, "OSM does not enable the VIM account: {}", enabled.detail);
    }

    /// A second driver over the same NBI that knows nothing of the first.
    pub fn another(&self) -> Arc<Osm> {
        Arc::new(Osm::new(Client::new(self.config.clone()).unwrap(), self.files.clone()))
    }

    /// A driver with another configuration.
    pub fn with(&self, f: impl FnOnce(&mut OsmConfig)) -> Arc<Osm> {
        let mut config = self.config.clone();
        f(&mut config);
        Arc::new(Osm::new(Client::new(config).unwrap(), self.files.clone()))
    }

    /// The packages that a service needs.
    pub async fn ground(&self) {
        for spec in [&self.packages.vnf[0], &self.packages.ns] {
            self.osm.ensure_package(spec).await.unwrap();
        }
    }

    pub async fn list(&self, path: &str) -> Vec<Value> {
        self.raw.ask(&Call::get(path)).await.unwrap()
    }

    /// Everything of these tests in the NBI goes, whoever made it.
    pub async fn clear(&self) {
        for ns in self.list("nslcm/v1/ns_instances").await {
            let of_tests = ns["nsd-ref"] == NSD;
            if of_tests {
                let id = ns["_id"].as_str().unwrap();
                self.raw
                    .tell(
                        &Call::new(Method::DELETE, format!("nslcm/v1/ns_instances/{id}"))
                            .query("FORCE", "True"),
                    )
                    .await
                    .unwrap();
            }
        }
        for list in ["nsd/v1/ns_descriptors", "vnfpkgm/v1/vnf_packages"] {
            for package in self.list(list).await {
                let mark = package["_admin"]["userDefinedData"]["mandate"].as_str().unwrap_or_default();
                if package["id"] == NSD || package["id"] == VNFD || mark.contains("mandate-t-") {
                    let id = package["_id"].as_str().unwrap();
                    self.raw
                        .tell(&Call::new(Method::DELETE, format!("{list}/{id}")).query("FORCE", "True"))
                        .await
                        .unwrap();
                }
            }
        }
    }

    pub fn service_spec(&self, key: &ServiceKey, count: u32) -> ServiceSpec {
        service(&self.packages, key, count)
    }

    /// Has the LCM fail instantiations (`on`), do nothing (`stop`), or neither (`off`). It needs one that can be told to:
    /// `OSM_NBI_FAIL` is a command, run with that word. False: this one cannot; a recording was made with one that could.
    pub fn lcm(&self, word: &str) -> bool {
        let Ok(command) = std::env::var("OSM_NBI_FAIL") else { return !self.peer.is_real() };
        if self.peer.is_real() {
            let done = std::process::Command::new("sh").args(["-c", &format!("{command} {word}")]).status();
            assert!(done.unwrap().success(), "{command}");
        }
        true
    }

    /// Runs it and drops it at its `n`-th call (carried out, or not), as a crash of the orchestrator would. False: it
    /// ended before.
    pub async fn crash(
        &self,
        n: usize,
        fault: Fault,
        it: impl Future<Output = Result<ObservedService, DriverError>>,
    ) -> bool {
        self.peer.fault(n, fault);
        let before = self.peer.calls().len();
        let there = async {
            while self.peer.calls().len() <= before + n {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            // Time for it to be carried out.
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        };
        let crashed = tokio::select! {
            done = it => { done.unwrap(); false }
            () = there => true,
        };
        self.peer.no_faults();
        crashed
    }
}

pub fn service(packages: &Packages, key: &ServiceKey, count: u32) -> ServiceSpec {
    let reference = |p: &PackageSpec| PackageRef { id: p.id.clone(), digest: p.digest };
    let object = |path: &str| ObjectKey::new(format!("{key}/{path}")).unwrap();
    let instance = |n: u8| InstanceSpec {
        key: object(&format!("1/vm/{n}")),
        interfaces: [(
            "eth0".to_owned(),
            InterfaceSpec { mac: MacAddr([2, 0, 0, 0, 1, 16 + n]), address: None },
        )]
        .into(),
        day0: format!("{{\"instance\": \"{key}/1/vm/{n}\"}}"),
    };
    let vdu = VduSpec { count, instances: (0..3).map(instance).collect(), flavor: None };
    let member = MemberSpec {
        vnfd: reference(&packages.vnf[0]),
        site: "here".into(),
        vdus: [("vm".to_owned(), vdu)].into(),
        links: BTreeMap::new(),
        groups: BTreeMap::new(),
        parameters: BTreeMap::new(),
    };
    let data =
        LinkSpec { key: object("data"), sites: [("here".to_owned(), SiteLink::Made)].into(), subnet: None };
    ServiceSpec {
        name: "A service's name".into(),
        nsd: reference(&packages.ns),
        flavour: "default".into(),
        members: [("1".to_owned(), member)].into(),
        links: [("data".to_owned(), data)].into(),
        parameters: BTreeMap::new(),
    }
}

/// Points at which a service is left half made: after each call of making one, in order.
const CRASHES: usize = 12;

#[async_trait]
impl Fixture for World {
    fn mano(&self) -> &dyn Mano {
        &*self.osm
    }

    fn packages(&self) -> Packages {
        self.packages.clone()
    }

    fn service(&self, key: &ServiceKey, count: u32) -> ServiceSpec {
        self.service_spec(key, count)
    }

    async fn leave_half_made(
        &mut self,
        key: &ServiceKey,
        spec: &ServiceSpec,
        way: usize,
    ) -> Result<Option<String>, String> {
        if way >= CRASHES {
            return Ok(None);
        }
        let other = self.another();
        // The token of the other driver is no call of the recording.
        let crashed = self.crash(way, Fault::Hang, other.ensure_service(key, spec)).await;
        let calls = self.peer.calls();
        Ok(crashed.then(|| format!("by a crash after {}", calls.last().map_or("nothing", String::as_str))))
    }

    async fn make_foreign(&mut self, key: &ServiceKey, package: bool) -> Result<(), String> {
        let (path, document) = if package {
            let owner = json!({ "userDefinedData": { "owner": "somebody else" } });
            let made: Value = self
                .raw
                .ask(&Call::post("vnfpkgm/v1/vnf_packages", &owner))
                .await
                .map_err(|e| e.to_string())?;
            let id = made["id"].as_str().unwrap_or_default().to_owned();
            // A descriptor by itself: no file in it.
            let mut other = vnfd("9.0");
            other["vnfd"]["vdu"][0].as_object_mut().unwrap().remove("cloud-init-file");
            let put =
                Call::new(Method::PUT, format!("vnfpkgm/v1/vnf_packages/{id}/package_content")).json(&other);
            self.raw.tell(&put).await.map_err(|e| e.to_string())?;
            ("vnfpkgm/v1/vnf_packages", id)
        } else {
            let nsd = self
                .list("nsd/v1/ns_descriptors")
                .await
                .into_iter()
                .find(|d| d["id"] == NSD)
                .ok_or("no NSD")?;
            let vim = self
                .list("admin/v1/vim_accounts")
                .await
                .into_iter()
                .find(|a| a["name"] == ACCOUNT)
                .ok_or("no account")?;
            let body = json!({ "nsName": key.as_str(), "nsdId": nsd["_id"], "vimAccountId": vim["_id"], "nsDescription": format!("Mandate {key}: not") });
            let made: Value =
                self.raw.ask(&Call::post("nslcm/v1/ns_instances", &body)).await.map_err(|e| e.to_string())?;
            ("nslcm/v1/ns_instances", made["id"].as_str().unwrap_or_default().to_owned())
        };
        let there: Value = self.found(path, &document).await.ok_or("made and not there")?;
        self.foreign.push((path, document, there));
        Ok(())
    }

    async fn foreign_intact(&mut self) -> Result<bool, String> {
        let mut intact = true;
        for (path, id, before) in std::mem::take(&mut self.foreign) {
            intact &= self.found(path, &id).await.is_some_and(|now| now == before);
            self.raw.delete(format!("{path}/{id}")).await.map_err(|e| e.to_string())?;
        }
        Ok(intact)
    }

    async fn failing(&mut self, on: bool) -> Result<bool, String> {
        Ok(self.lcm(if on { "on" } else { "off" }))
    }

    async fn restart(&mut self) -> Result<(), String> {
        self.osm = self.another();
        Ok(())
    }

    async fn residue(&mut self) -> Result<Vec<String>, String> {
        let mut out = Vec::new();
        for ns in self.list("nslcm/v1/ns_instances").await {
            if ns["additionalParamsForNs"]["mandate"].is_string() && ns["nsd-ref"] == NSD {
                out.push(format!("NS {} {}", ns["name"], ns["_id"]));
            }
        }
        for list in ["nsd/v1/ns_descriptors", "vnfpkgm/v1/vnf_packages"] {
            let ours = |p: &Value| {
                p["_admin"]["userDefinedData"]["mandate"].as_str().is_some_and(|m| m.contains("mandate-t-"))
            };
            out.extend(
                self.list(list).await.into_iter().filter(ours).map(|p| format!("{list} {}", p["_id"])),
            );
        }
        Ok(out)
    }

    async fn close(self) -> Result<(), String> {
        if self.peer.is_real() {
            self.peer.finish();
            self.clear().await;
            return Ok(());
        }
        self.peer.finish();
        Ok(())
    }
}

impl World {
    /// A record without what changes by itself.
    async fn found(&self, path: &str, id: &str) -> Option<Value> {
        let mut found = self.list(path).await.into_iter().find(|r| r["_id"] == id)?;
        let all = found.as_object_mut()?;
        all.remove("_admin");
        all.remove("_links");
        all.remove("usageState");
        Some(found)
    }
}
