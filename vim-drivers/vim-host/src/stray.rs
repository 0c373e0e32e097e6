//! Strays: what carries this site's mark and belongs to no object that is recorded. Remains of what a crash left half
//! removed, and what somebody added behind our back.
//!
//! Marks are names that only this site gives: namespaces, aliases of links, control sockets in a process's arguments,
//! directories of the state and run directories. Where a mark is a short name from which no key can be read, the
//! stray's key is `stray/<short name>`, and [`Site::remove_stray`] takes it.
//!
//! Never: anything without our mark; anything that a recorded object has under that name.
//!
//! Tests: `tests/drift.rs`; the conformance suite.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use vim::{Kind, ObjectKey, Stray};

use crate::{
    Site, blocking,
    compute::Fabric,
    error::HostError,
    link::{Link, Links, Shape, parse_alias},
    look::Looker,
    netns,
    process::{self, Process},
    state::{InstancePaths, Record, names, read_json, remove_file},
};

/// Digits of a short name.
const DIGITS: usize = 10;

/// What is recorded, by the short names that follow from it.
struct Known {
    /// Instances by `i<digits>`.
    instances: BTreeMap<String, Arc<Record>>,
    site: String,
}

/// The digits of a short name with this prefix.
fn digits<'n>(name: &'n str, prefix: &str) -> Option<&'n str> {
    let rest = name.strip_prefix(prefix)?;
    (rest.len() == DIGITS && rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
        .then_some(rest)
}

/// The key of a stray that is known by a short name alone.
fn nameless(short: &str) -> Option<ObjectKey> {
    ObjectKey::new(format!("{}/{short}", Stray::SERVICE)).ok()
}

impl Known {
    fn stray(&self, short: &str, what: &str, place: String) -> Option<Stray> {
        let key = nameless(short)?;
        Some(Stray { key, kind: Kind::Compute, what: what.into(), place })
    }

    fn namespaces(&self) -> Result<Vec<Stray>, HostError> {
        let prefix = format!("mdt-{}-", self.site);
        let stray = |name: String| {
            let short = name.strip_prefix(&prefix).filter(|s| digits(s, "i").is_some())?;
            let known = self.instances.contains_key(short);
            (!known)
                .then(|| self.stray(short, "network namespace", netns::path(&name).display().to_string()))?
        };
        Ok(names(Path::new(netns::DIR))?.into_iter().filter_map(stray).collect())
    }

    fn directories(&self, dir: &Path) -> Result<Vec<Stray>, HostError> {
        let stray = |name: String| {
            let unknown = digits(&name, "i").is_some() && !self.instances.contains_key(&name);
            unknown.then(|| self.stray(&name, "directory", dir.join(&name).display().to_string()))?
        };
        Ok(names(dir)?.into_iter().filter_map(stray).collect())
    }

    /// Processes on control sockets of ours that are not the recorded ones.
    fn processes(&self, looker: &Looker) -> Result<Vec<Stray>, HostError> {
        let mut strays = Vec::new();
        for (process, socket) in process::on_sockets_in(&looker.layout.run) {
            let Some(short) = socket.parent().and_then(Path::file_name).and_then(|n| n.to_str()) else {
                continue;
            };
            let place = format!("{} on {}", process.pid, socket.display());
            let Some(record) = self.instances.get(short) else {
                strays.extend(self.stray(short, "process", place));
                continue;
            };
            let recorded = read_json::<Process>(&looker.layout.instance(&record.key).process())?;
            if recorded != Some(process) {
                let (key, kind) = (record.key.clone(), Kind::Compute);
                strays.push(Stray { key, kind, what: "process".into(), place });
            }
        }
        Ok(strays)
    }

    fn links(&self, fabric: &Fabric, namespace: &str) -> Vec<Stray> {
        fabric.links.iter().filter_map(|l| self.link(l, fabric, namespace)).collect()
    }

    fn link(&self, link: &Link, fabric: &Fabric, namespace: &str) -> Option<Stray> {
        let (key, kind) = match link.alias.as_deref() {
            Some(alias) => match parse_alias(&self.site, alias) {
                Some((key, Some(port))) => {
                    let record = self.instances.get(&key.short("i")).filter(|r| r.key == key);
                    if record.is_some_and(|r| port < r.spec.ports.len()) {
                        return None;
                    }
                    (key, Kind::Compute)
                }
                Some((_, None)) => return None,
                None => {
                    let (key, _) = crate::wan::parse_trunk(&self.site, alias)?;
                    if fabric.networks.values().any(|n| *n == key) {
                        return None;
                    }
                    (key, Kind::Network)
                }
            },
            None => self.unnamed(link)?,
        };
        Some(Stray { key, kind, what: "link".into(), place: format!("{} in {namespace}", link.name) })
    }

    /// A link that a crash left between its making and its naming.
    fn unnamed(&self, link: &Link) -> Option<(ObjectKey, Kind)> {
        let is_network = |prefix| digits(&link.name, prefix).is_some();
        if is_network("b") && link.kind == Shape::Bridge || is_network("w") {
            return Some((nameless(&link.name)?, Kind::Network));
        }
        let (short, _port) = link.name.split_once('p')?;
        let short = format!("i{}", digits(short, "v")?);
        match self.instances.contains_key(&short) {
            // Its instance is half made: seen there, and put right with it.
            true => None,
            false => Some((nameless(&short)?, Kind::Compute)),
        }
    }
}

/// Files that no image reference names.
fn files(looker: &Looker) -> Result<Vec<Stray>, HostError> {
    let kept: BTreeSet<String> = looker.references()?.iter().map(|r| r.digest.hex()).collect();
    let dir = looker.layout.images();
    let stray = |name: String| {
        let key = nameless(name.trim_start_matches('.'))?;
        let place = dir.join(&name).display().to_string();
        (!kept.contains(&name)).then(|| Stray { key, kind: Kind::Image, what: "file".into(), place })
    };
    Ok(names(&dir)?.into_iter().filter_map(stray).collect())
}

impl Site {
    /// Every stray of this site, sorted.
    pub(crate) async fn strays(
        &self,
        records: &[Arc<Record>],
        fabric: &Fabric,
    ) -> Result<Vec<Stray>, HostError> {
        let instances = records.iter().map(|r| (r.key.short("i"), r.clone())).collect();
        let known = Known { instances, site: self.name.clone() };
        let mut strays = known.links(fabric, &self.fabric());
        let (looker, limits) = (self.looker(), self.limits().0.clone());
        let others = move || {
            let mut found = known.namespaces()?;
            found.extend(known.directories(&looker.layout.run)?);
            found.extend(known.directories(&looker.layout.instances())?);
            found.extend(known.processes(&looker)?);
            if let Some(limits) = limits {
                found.extend(known.directories(&limits.dir())?);
            }
            found.extend(files(&looker)?);
            Ok(found)
        };
        strays.extend(blocking(others).await?);
        strays.sort();
        self.without_work_in_progress(strays).await
    }

    /// What was made since the records were read, or is being worked on now, is no stray.
    async fn without_work_in_progress(&self, mut strays: Vec<Stray>) -> Result<Vec<Stray>, HostError> {
        if strays.is_empty() {
            return Ok(strays);
        }
        let looker = self.looker();
        let records = blocking(move || looker.records()).await?;
        let named: BTreeSet<_> = records.iter().filter_map(|r| nameless(&r.key.short("i"))).collect();
        strays.retain(|s| !named.contains(&s.key) && self.key_lock(&s.key).try_lock().is_ok());
        Ok(strays)
    }

    /// Removes what has this short name, unless a recorded object has it too.
    pub(crate) async fn remove_stray(&self, key: &ObjectKey, kind: Kind) -> Result<(), HostError> {
        let short = key.as_str().split_once('/').map_or("", |(_, rest)| rest).to_owned();
        match kind {
            Kind::Compute => self.remove_nameless_instance(&short).await,
            Kind::Network => {
                let _fabric = self.fabric_lock.lock().await;
                if digits(&short, "b").or_else(|| digits(&short, "w")).is_some() {
                    self.delete_unnamed(|l| l.name == short).await?;
                }
                self.sweep_exchange().await?;
                self.drop_empty_fabric().await
            }
            // What no reference names goes with any removal of an image.
            Kind::Image => self.with_images(|images| images.sweep()).await,
        }
    }

    async fn remove_nameless_instance(&self, short: &str) -> Result<(), HostError> {
        let Some(digits) = digits(short, "i").map(ToOwned::to_owned) else { return Ok(()) };
        let looker = self.looker();
        let records = blocking(move || looker.records()).await?;
        if records.iter().any(|r| r.key.short("i") == short) {
            return Ok(());
        }
        let paths = self.layout.instance_named(short);
        let socket = paths.control();
        for process in blocking(move || Ok(process::with_control(&socket))).await? {
            process.end().await?;
        }
        let prefix = format!("v{digits}p");
        let _fabric = self.fabric_lock.lock().await;
        self.delete_unnamed(|l| l.name.starts_with(&prefix)).await?;
        let (namespace, layout) = (format!("mdt-{}-{short}", self.name), self.layout.clone());
        let (limits, short) = (self.limits().0.clone(), short.to_owned());
        blocking(move || {
            netns::remove(&namespace)?;
            limits.map_or(Ok(()), |l| l.remove(&short))?;
            remove_all(&paths)?;
            layout.drop_empty_run();
            Ok(())
        })
        .await?;
        self.drop_empty_fabric().await
    }

    async fn delete_unnamed(&self, which: impl Fn(&Link) -> bool + Send) -> Result<(), HostError> {
        let Some(links) = Links::open(&self.fabric()).await? else { return Ok(()) };
        let deleted = async {
            for link in links.dump().await?.iter().filter(|l| l.alias.is_none() && which(l)) {
                links.delete(link).await?;
            }
            Ok(())
        };
        let deleted = deleted.await;
        links.close().await;
        deleted
    }
}

fn remove_all(paths: &InstancePaths) -> Result<(), HostError> {
    // Without a record: anything may be in it.
    for name in names(&paths.dir)? {
        let path = paths.dir.join(name);
        if !path.is_dir() {
            remove_file(&path)?;
        }
    }
    let _gone_below = fs::remove_dir_all(&paths.dir);
    paths.remove()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::outer_name;

    #[test]
    fn only_short_names_are_marks() {
        assert_eq!(digits("i0123456789", "i"), Some("0123456789"));
        for other in ["i012345678", "i01234567890", "iabcdefghij", "x0123456789", "i012345678A", ""] {
            assert_eq!(digits(other, "i"), None, "{other}");
        }
        let key = ObjectKey::new("a/b").unwrap();
        let name = outer_name(&key, 3);
        let (short, port) = name.split_once('p').unwrap();
        assert_eq!((digits(short, "v").map(|d| format!("i{d}")), port), (Some(key.short("i")), "3"));
    }
}
