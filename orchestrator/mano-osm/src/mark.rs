//! Our key on OSM's records, which have no place for one.
//!
//! A service carries it as its name (by which it is found), in its description (for people), and in `additionalParamsForNs` as the
//! document [`Mark`]: a record is ours when that document says the same key as its name. The document has all that is
//! needed to say which of OSM's records is which of our objects, so nothing is lost when we are. A package carries it in
//! `_admin.userDefinedData`.
//!
//! The parameter is one text: the NBI turns a parameter that is an object into `!!yaml …`.

use std::collections::BTreeMap;

use mano::{PackageKind, ServiceKey, ServiceSpec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trust::Digest;
use vim::ObjectKey;

use crate::records;

/// Name of the parameter of a service.
pub(crate) const PARAMETER: &str = "mandate";
/// Longest description that the NBI takes, characters.
const MAX_DESCRIPTION: usize = 255;

/// What a service's record says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) key: ServiceKey,
    /// [`ServiceSpec::fixed_digest`].
    pub(crate) fixed: Digest,
    /// Member -> VDU -> keys of the planned instances.
    pub(crate) instances: BTreeMap<String, BTreeMap<String, Vec<ObjectKey>>>,
    /// Link -> key.
    pub(crate) links: BTreeMap<String, ObjectKey>,
    /// Member -> link within it -> key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) inner: BTreeMap<String, BTreeMap<String, ObjectKey>>,
    /// Member -> package's digest.
    #[serde(default)]
    pub(crate) packages: BTreeMap<String, Digest>,
}

impl Mark {
    pub(crate) fn of(key: &ServiceKey, spec: &ServiceSpec) -> Self {
        let keys = |vdu: &mano::VduSpec| vdu.instances.iter().map(|i| i.key.clone()).collect();
        let vdus = |m: &mano::MemberSpec| m.vdus.iter().map(|(id, v)| (id.clone(), keys(v))).collect();
        let links = |all: &BTreeMap<String, mano::LinkSpec>| {
            all.iter().map(|(id, l)| (id.clone(), l.key.clone())).collect()
        };
        let inner = spec.members.iter().filter(|(_, m)| !m.links.is_empty());
        Self {
            key: key.clone(),
            fixed: spec.fixed_digest(),
            instances: spec.members.iter().map(|(index, m)| (index.clone(), vdus(m))).collect(),
            links: links(&spec.links),
            inner: inner.map(|(index, m)| (index.clone(), links(&m.links))).collect(),
            packages: spec.members.iter().map(|(index, m)| (index.clone(), m.vnfd.digest)).collect(),
        }
    }

    /// As the parameter's value.
    pub(crate) fn text(&self) -> String {
        // A struct of texts always encodes.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The mark of a record that is ours.
    pub(crate) fn read(record: &records::Service) -> Option<Self> {
        let text = record.parameters.get(PARAMETER)?.as_str()?;
        serde_json::from_str::<Self>(text).ok().filter(|mark| mark.key.as_str() == record.name)
    }

    /// The key of a member's instance.
    pub(crate) fn instance(&self, member: &str, vdu: &str, index: u32) -> Option<&ObjectKey> {
        self.instances.get(member)?.get(vdu)?.get(usize::try_from(index).ok()?)
    }

    /// Where an instance is: member, VDU, count-index.
    pub(crate) fn find(&self, key: &ObjectKey) -> Option<(&str, &str, u32)> {
        self.instances.iter().find_map(|(member, vdus)| {
            vdus.iter().find_map(|(vdu, keys)| {
                let index = keys.iter().position(|k| k == key)?;
                Some((member.as_str(), vdu.as_str(), u32::try_from(index).ok()?))
            })
        })
    }
}

/// The description for people: without what the NBI refuses.
pub(crate) fn description(key: &ServiceKey, name: &str) -> String {
    let clean = name.chars().map(|c| if c.is_control() || "'\"".contains(c) { ' ' } else { c });
    format!("Mandate {key}: ").chars().chain(clean).take(MAX_DESCRIPTION).collect()
}

/// The mark of a package.
pub(crate) fn package(kind: PackageKind, id: &str, digest: &Digest) -> Value {
    json!({ "mandate": tag(kind, id), "mandate_sha256": digest.hex() })
}

/// What a package's mark is found by.
pub(crate) fn tag(kind: PackageKind, id: &str) -> String {
    match kind {
        PackageKind::Vnf => format!("vnf/{id}"),
        PackageKind::Ns => format!("ns/{id}"),
    }
}

/// Is this package ours? Then the digest that its mark says.
pub(crate) fn of_package(kind: PackageKind, record: &records::Package) -> Option<(String, Digest)> {
    let text = |name: &str| record.admin.user.get(name).and_then(Value::as_str);
    let prefix = tag(kind, "");
    let id = text("mandate")?.strip_prefix(&prefix)?;
    let digest = Digest::from_hex(text("mandate_sha256")?).ok()?;
    Some((id.to_owned(), digest))
}
