//! Flavors: one of the cloud's with exactly this content, or one of ours.
//!
//! Names and values are those that OSM gives (`vimconn_openstack`), so that the same VNFD gets the same flavor by either way.
//! Ours is private to the project, named after the digest of its content, and goes when no server uses it. Tests: below; the
//! conformance suite.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::RwLockReadGuard;
use trust::Digest;
use vim::{ComputeSpec, CpuPolicy, Hardware, PageSize, ThreadPolicy};

use crate::{
    client::{Call, Service, segment},
    cloud::{Flavor, Identified},
    driver::Site,
    error::CloudError,
    marks,
};

const NOVA: Service = Service::Compute;
/// How long a cloud that had no flavor of some content is taken to have none.
const KEEP: Duration = Duration::from_secs(300);

/// What a flavor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    vcpus: u32,
    memory_mib: u32,
    disk_gib: u32,
    specs: BTreeMap<String, String>,
}

impl Content {
    pub(crate) fn of(spec: &ComputeSpec, image_gib: u32) -> Self {
        let (vcpus, memory_mib) = (spec.vcpus, spec.memory_mib);
        let disk_gib = if spec.disk_gib == 0 { image_gib } else { spec.disk_gib };
        Self { vcpus, memory_mib, disk_gib, specs: specs(&spec.hardware) }
    }

    fn digest(&self) -> Digest {
        let text = json!([self.vcpus, self.memory_mib, self.disk_gib, self.specs]).to_string();
        Digest::of(text)
    }

    fn is(&self, it: &Flavor) -> bool {
        let swap = it.swap.as_u64().unwrap_or(0);
        (it.vcpus, it.ram, it.disk) == (self.vcpus, self.memory_mib, self.disk_gib)
            && (it.ephemeral, swap, it.disabled) == (0, 0, false)
            && it.extra_specs == self.specs
    }
}

/// Extra specs, by OSM's table.
fn specs(hardware: &Hardware) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut put = |name: &str, value: &str| out.insert(name.to_owned(), value.to_owned());
    match hardware.cpu_policy {
        Some(CpuPolicy::Dedicated) => drop(put("hw:cpu_policy", "dedicated")),
        Some(CpuPolicy::Shared) => drop(put("hw:cpu_policy", "shared")),
        None => {}
    }
    if let Some(policy) = hardware.thread_policy {
        let name = match policy {
            ThreadPolicy::Prefer => "prefer",
            ThreadPolicy::Isolate => "isolate",
            ThreadPolicy::Require => "require",
        };
        put("hw:cpu_thread_policy", name);
    }
    if let Some(size) = hardware.page_size {
        let name = match size {
            PageSize::Small => "small",
            PageSize::Large => "large",
            PageSize::PreferLarge => "any",
            PageSize::Mib2 => "2MB",
            PageSize::Gib1 => "1GB",
        };
        put("hw:mem_page_size", name);
    }
    if let Some(numa) = &hardware.numa {
        put("hw:numa_nodes", &numa.nodes.to_string());
        if numa.strict_memory {
            put("hw:numa_mempolicy", "strict");
        }
        for (n, cell) in numa.cells.iter().enumerate() {
            let cpus: Vec<String> = cell.vcpus.iter().map(u32::to_string).collect();
            put(&format!("hw:numa_cpus.{n}"), &cpus.join(","));
            put(&format!("hw:numa_mem.{n}"), &cell.memory_mib.to_string());
        }
    }
    if !hardware.pci.is_empty() {
        let devices: Vec<String> = hardware.pci.iter().map(|d| format!("{}:{}", d.alias, d.count)).collect();
        put("pci_passthrough:alias", &devices.join(","));
    }
    for (name, value) in &hardware.aggregate {
        put(&format!("aggregate_instance_extra_specs:{name}"), value);
    }
    out
}

impl Site {
    /// The flavor's id, and what keeps it from being deleted until the server that wants it is accepted.
    pub(crate) async fn flavor(
        &self,
        content: &Content,
    ) -> Result<(String, RwLockReadGuard<'_, ()>), CloudError> {
        let using = self.flavor_use.read().await;
        let digest = content.digest();
        let remembered = || self.known(|k| k.flavors.get(&digest).cloned());
        if let Some(id) = remembered() {
            return Ok((id, using));
        }
        let _make = self.flavor_make.lock().await;
        if let Some(id) = remembered() {
            return Ok((id, using));
        }
        let found = match self.known(|k| k.no_flavor_since.get(&digest).copied()) {
            Some(at) if at.elapsed() < KEEP => None,
            _ => self.flavors().await?.into_iter().find(|f| content.is(f)).map(|f| f.id),
        };
        let id = match found {
            Some(found) => found,
            None => {
                self.known(|k| k.no_flavor_since.insert(digest, Instant::now()));
                self.make_flavor(content).await?
            }
        };
        self.known(|k| k.flavors.insert(digest, id.clone()));
        Ok((id, using))
    }

    /// Every flavor that may be used: not those of other homes, which go when no server of theirs needs them.
    async fn flavors(&self) -> Result<Vec<Flavor>, CloudError> {
        let ours = self.marks.flavors();
        let usable = |f: &Flavor| !f.id.starts_with(marks::FLAVORS) || f.id.starts_with(&ours);
        let all: Vec<Flavor> =
            self.client.all(Call::get(NOVA, "flavors/detail").query("is_public", "None"), "flavors").await?;
        Ok(all.into_iter().filter(usable).collect())
    }

    /// Ids of ours. Who may not list private flavors has none.
    pub(crate) async fn own_flavors(&self) -> Result<Vec<String>, CloudError> {
        let call = Call::get(NOVA, "flavors").query("is_public", "None");
        let all: Vec<Identified> = self.client.all(call, "flavors").await?;
        let prefix = self.marks.flavors();
        Ok(all.into_iter().map(|f| f.id).filter(|id| id.starts_with(&prefix)).collect())
    }

    /// Ours: its name says its content. One without its extra specs, which a crash leaves, gets them.
    async fn make_flavor(&self, content: &Content) -> Result<String, CloudError> {
        let id = format!("{}{}", self.marks.flavors(), &content.digest().hex()[..16]);
        let body = json!({ "flavor": {
            "id": id,
            "name": id,
            "description": "made for services of Mandate, by content",
            "vcpus": content.vcpus,
            "ram": content.memory_mib,
            "disk": content.disk_gib,
            "os-flavor-access:is_public": false,
        } });
        // Its id is ours: made already is as good as made now, also by a call whose answer was lost.
        let made = self.client.tell(&Call::new(NOVA, Method::POST, "flavors").json(&body).repeatable()).await;
        made.or_else(|e| if e.is_conflict() { Ok(()) } else { Err(e) })?;
        if !content.specs.is_empty() {
            let path = format!("flavors/{}/os-extra_specs", segment(&id));
            let call = Call::new(NOVA, Method::POST, path)
                .json(&json!({ "extra_specs": content.specs }))
                .repeatable();
            if let Err(e) = self.client.tell(&call).await {
                // A flavor that cannot have them is none of ours.
                let _gone = self.client.delete(NOVA, format!("flavors/{}", segment(&id))).await;
                return Err(match e.status().is_some_and(|s| s == reqwest::StatusCode::BAD_REQUEST) {
                    true => CloudError::BadSpec { problem: e.to_string() },
                    false => e.into(),
                });
            }
        }
        Ok(id)
    }

    /// Deletes a flavor of ours that no server uses any more; others are left.
    pub(crate) async fn drop_unused_flavor(&self, name: &str) -> Result<(), CloudError> {
        if !name.starts_with(&self.marks.flavors()) {
            return Ok(());
        }
        let _nobody_takes_it = self.flavor_use.write().await;
        let call = Call::get(NOVA, "servers").query("flavor", name).query("limit", "1");
        let mut answer: Value = match self.client.ask(&call).await {
            Ok(answer) => answer,
            Err(e) if e.is_absent() || e.status() == Some(reqwest::StatusCode::BAD_REQUEST) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let users: Vec<Identified> = serde_json::from_value(answer["servers"].take()).unwrap_or_default();
        if !users.is_empty() {
            return Ok(());
        }
        self.known(|k| k.flavors.retain(|_, id| id != name));
        Ok(self.client.delete(NOVA, format!("flavors/{}", segment(name))).await?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use vim::{Numa, NumaCell, PciDevices};

    use super::*;

    #[test]
    fn the_same_vnfd_has_the_extra_specs_that_osm_gives() {
        let hardware = Hardware {
            cpu_policy: Some(CpuPolicy::Dedicated),
            thread_policy: Some(ThreadPolicy::Require),
            page_size: Some(PageSize::Gib1),
            numa: Some(Numa {
                nodes: 2,
                strict_memory: true,
                cells: vec![
                    NumaCell { vcpus: vec![0, 1], memory_mib: 1024 },
                    NumaCell { vcpus: vec![2, 3], memory_mib: 2048 },
                ],
            }),
            pci: vec![PciDevices { alias: "qat".into(), count: 2 }],
            aggregate: [("ssd".to_owned(), "true".to_owned())].into(),
        };
        let expected = [
            ("aggregate_instance_extra_specs:ssd", "true"),
            ("hw:cpu_policy", "dedicated"),
            ("hw:cpu_thread_policy", "require"),
            ("hw:mem_page_size", "1GB"),
            ("hw:numa_cpus.0", "0,1"),
            ("hw:numa_cpus.1", "2,3"),
            ("hw:numa_mem.0", "1024"),
            ("hw:numa_mem.1", "2048"),
            ("hw:numa_mempolicy", "strict"),
            ("hw:numa_nodes", "2"),
            ("pci_passthrough:alias", "qat:2"),
        ];
        let found = specs(&hardware);
        assert_eq!(found.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect::<Vec<_>>(), expected);
        assert!(specs(&Hardware::default()).is_empty());
    }

    #[test]
    fn a_flavor_of_the_same_size_and_other_content_is_another() {
        let spec = ComputeSpec::new("vdu", Digest::of(b"i"), 2, 1024);
        let content = Content::of(&spec, 3);
        let flavor = |text: &str| serde_json::from_str::<Flavor>(text).unwrap();
        let same =
            r#"{"id": "1", "vcpus": 2, "ram": 1024, "disk": 3, "swap": 0, "OS-FLV-EXT-DATA:ephemeral": 0}"#;
        assert!(content.is(&flavor(same)));
        for (from, to) in [
            ("\"swap\": 0", "\"swap\": 512"),
            ("ephemeral\": 0", "ephemeral\": 1"),
            ("\"disk\": 3", "\"disk\": 4"),
            ("\"swap\": 0", "\"extra_specs\": {\"hw:cpu_policy\": \"dedicated\"}"),
            ("\"swap\": 0", "\"OS-FLV-DISABLED:disabled\": true"),
        ] {
            assert!(!content.is(&flavor(&same.replace(from, to))), "{to}");
        }
        assert_eq!(Content::of(&ComputeSpec { disk_gib: 7, ..spec }, 3).disk_gib, 7);
    }
}
