//! Volumes in cinder: made before the server that has them, found by their mark, kept when it is made anew, gone with its removal.
//!
//! A volume carries our mark in its metadata, set by the call that makes it. What is attached to a server of somebody else's is left
//! to them, mark or not. A volume that is smaller than wanted is extended; one that is larger stays as it is: nothing that is in it
//! is lost. Tests: the scenarios on a cloud with cinder.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use reqwest::Method;
use serde_json::{Value, json};
use vim::{ObjectKey, VolumeSpec};

use crate::{
    client::{Call, Service, segment},
    cloud::{Server, Volume},
    driver::Site,
    error::CloudError,
    marks,
    wait::Pace,
};

const CINDER: Service = Service::Volume;
const NOVA: Service = Service::Compute;

impl Site {
    /// Every volume of ours; none where there is no cinder.
    pub(crate) async fn volumes(&self) -> Result<Vec<Volume>, CloudError> {
        if !self.client.has(&[CINDER]).await? {
            return Ok(Vec::new());
        }
        let all: Vec<Volume> = self.client.all(Call::get(CINDER, "volumes/detail"), "volumes").await?;
        Ok(all.into_iter().filter(|v| v.mark(marks::HOME) == self.marks.home()).collect())
    }

    /// Those of a key, the older of two first.
    pub(crate) async fn volumes_of(&self, key: &ObjectKey) -> Result<Vec<Volume>, CloudError> {
        let mut all = self.volumes().await?;
        all.retain(|v| v.mark(marks::KEY) == key.as_str());
        all.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
        Ok(all)
    }

    /// The volumes that are asked for, by name: those that are there, and the missing made. What else carries the key's mark goes.
    /// What `server` has not is nobody's, and ready to be attached.
    pub(crate) async fn ensure_volumes(
        &self,
        key: &ObjectKey,
        wanted: &[VolumeSpec],
        server: Option<&Server>,
    ) -> Result<BTreeMap<String, String>, CloudError> {
        let has = |v: &Volume| server.is_some_and(|s| s.volumes.iter().any(|o| o.id == v.id));
        let mut found = self.volumes_of(key).await?;
        let mut out = BTreeMap::new();
        for volume in wanted {
            let it = |v: &Volume| v.mark(marks::VOLUME) == volume.name && !v.failed();
            let there = found.iter().position(it).map(|at| found.remove(at));
            let id = match there {
                Some(there) if has(&there) => there.id,
                Some(there) => self.large_enough(there, volume).await?,
                None => self.make_volume(key, volume).await?,
            };
            out.insert(volume.name.clone(), id);
        }
        // Of two of one name, which a lost answer can make, and of another specification.
        try_join_all(found.iter().map(|v| self.drop_volume(v))).await?;
        Ok(out)
    }

    /// One that is there, extended if it must be. Nothing that is in it is given up because that does not work.
    async fn large_enough(&self, there: Volume, wanted: &VolumeSpec) -> Result<String, CloudError> {
        let there = self.volume_ready(there).await?;
        if there.size >= wanted.size_gib {
            return Ok(there.id);
        }
        let body = json!({ "os-extend": { "new_size": wanted.size_gib } });
        let call = Call::new(CINDER, Method::POST, format!("volumes/{}/action", there.id));
        self.client.tell(&call.json(&body)).await?;
        let now = self.volume(&there.id).await?;
        Ok(self.volume_ready(now.unwrap_or(there)).await?.id)
    }

    async fn make_volume(&self, key: &ObjectKey, volume: &VolumeSpec) -> Result<String, CloudError> {
        let body = json!({ "volume": {
            "name": format!("{}-{}", key.label(), volume.name),
            "size": volume.size_gib,
            "metadata": {
                (marks::HOME): self.marks.home(),
                (marks::KEY): key.as_str(),
                (marks::VOLUME): volume.name,
            },
        } });
        let call = Call::new(CINDER, Method::POST, "volumes").json(&body);
        let mut answer: Value = self.client.ask(&call).await?;
        let made: Volume = serde_json::from_value(answer["volume"].take())
            .map_err(|e| CloudError::Internal(format!("cinder's volume: {e}")))?;
        Ok(self.volume_ready(made).await?.id)
    }

    /// The volumes that a MANO gave a server, for those that are wanted: by their marks, else the next of the size.
    pub(crate) async fn paired_volumes(
        &self,
        key: &ObjectKey,
        wanted: &[VolumeSpec],
        server: &Server,
    ) -> Result<Vec<(String, String)>, CloudError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let all: Vec<Volume> = self.client.all(Call::get(CINDER, "volumes/detail"), "volumes").await?;
        let of_it = server.volumes.iter().filter_map(|v| all.iter().find(|o| o.id == v.id));
        let mut free: Vec<&Volume> = of_it.collect();
        let mut out = Vec::new();
        for volume in wanted {
            let ours = |v: &&Volume| {
                let home = v.mark(marks::HOME);
                home.is_empty() || home == self.marks.home() && v.mark(marks::KEY) == key.as_str()
            };
            let named = free.iter().position(|v| ours(v) && v.mark(marks::VOLUME) == volume.name);
            let sized = || free.iter().position(|v| ours(v) && v.size == volume.size_gib);
            let Some(at) = named.or_else(sized) else {
                let problem = format!(
                    "server {} has no volume for {} of {} GiB",
                    server.id, volume.name, volume.size_gib
                );
                return Err(CloudError::NotAdoptable { problem });
            };
            out.push((volume.name.clone(), free.remove(at).id.clone()));
        }
        Ok(out)
    }

    /// Our mark on volumes that a MANO made.
    pub(crate) async fn mark_volumes(
        &self,
        key: &ObjectKey,
        paired: &[(String, String)],
    ) -> Result<(), CloudError> {
        for (name, id) in paired {
            let body = json!({ "metadata": {
                (marks::HOME): self.marks.home(), (marks::KEY): key.as_str(), (marks::VOLUME): name,
            } });
            let call = Call::new(CINDER, Method::POST, format!("volumes/{}/metadata", segment(id)));
            self.client.tell(&call.json(&body).repeatable()).await?;
        }
        Ok(())
    }

    async fn volume(&self, id: &str) -> Result<Option<Volume>, CloudError> {
        match self.client.ask::<Value>(&Call::get(CINDER, format!("volumes/{}", segment(id)))).await {
            Ok(mut answer) => serde_json::from_value(answer["volume"].take())
                .map(Some)
                .map_err(|e| CloudError::Internal(format!("cinder's volume: {e}"))),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until nobody has it and nothing goes on with it; one that could not be made is deleted.
    async fn volume_ready(&self, mut volume: Volume) -> Result<Volume, CloudError> {
        let mut pace = Pace::new(self.boot_limit(), Some(&self.volume_waits));
        loop {
            match volume.status.as_str() {
                "available" => {
                    pace.done();
                    return Ok(volume);
                }
                _ if volume.failed() => {
                    self.drop_volume(&volume).await?;
                    return Err(CloudError::VolumeFailed { name: volume.id, status: volume.status });
                }
                _ => {}
            }
            // What was tried with it failed; what is in it is there.
            let kept = volume.status.starts_with("error");
            if kept || !pace.next().await {
                return Err(CloudError::VolumeFailed { name: volume.id, status: volume.status });
            }
            let name = volume.id.clone();
            let now = self.volume(&volume.id).await?;
            volume = now.ok_or(CloudError::VolumeFailed { name, status: "gone".to_owned() })?;
        }
    }

    /// Attaches what a server lacks; true: something was.
    pub(crate) async fn attach_volumes(
        &self,
        server: &Server,
        volumes: &BTreeMap<String, String>,
    ) -> Result<bool, CloudError> {
        let missing = volumes.values().filter(|id| !server.volumes.iter().any(|v| v.id == **id));
        let mut attached = false;
        for id in missing {
            let body = json!({ "volumeAttachment": { "volumeId": id } });
            let path = format!("servers/{}/os-volume_attachments", server.id);
            match self.client.tell(&Call::new(NOVA, Method::POST, path).json(&body)).await {
                Err(e) if e.is_lost() || e.is_conflict() => {}
                other => other?,
            }
            attached = true;
        }
        Ok(attached)
    }

    /// Deletes a volume, once nobody has it, and waits until it is gone.
    pub(crate) async fn drop_volume(&self, volume: &Volume) -> Result<(), CloudError> {
        let mut pace = Pace::new(self.delete_limit(), Some(&self.volume_waits));
        let mut seen = volume.clone();
        let mut told = false;
        loop {
            if !told && !["in-use", "detaching", "creating"].contains(&seen.status.as_str()) {
                match self.client.delete(CINDER, format!("volumes/{}", seen.id)).await {
                    // Cinder is at work on it: it is told again after the next look.
                    Err(e) if e.is_conflict() || e.status().is_some_and(|s| s.as_u16() == 400) => {}
                    other => {
                        other?;
                        told = true;
                    }
                }
            }
            if !pace.next().await {
                return Err(CloudError::StillInUse { what: "volume", id: seen.id });
            }
            match self.volume(&seen.id).await? {
                None => {
                    pace.done();
                    return Ok(());
                }
                Some(now) => {
                    // Told, and it failed: told again.
                    told &= now.status != "error_deleting";
                    seen = now;
                }
            }
        }
    }

    /// Deletes all of a key's volumes.
    pub(crate) async fn drop_volumes(&self, key: &ObjectKey) -> Result<(), CloudError> {
        let all = self.volumes_of(key).await?;
        try_join_all(all.iter().map(|v| self.drop_volume(v))).await.map(drop)
    }
}

impl Volume {
    /// Whose it is, and the like.
    pub(crate) fn mark(&self, name: &str) -> &str {
        self.metadata.get(name).map_or("", String::as_str)
    }

    /// It was never made.
    fn failed(&self) -> bool {
        self.status == "error"
    }
}
