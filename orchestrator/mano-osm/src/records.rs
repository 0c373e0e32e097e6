//! The NBI's records, as far as we read them. Unknown fields are passed over, and no field is taken for granted that an NBI may
//! lack: [`serde`] defaults stand for absent and null alike.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Absent and null are the default.
fn lax<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

/// What an instruction that makes something answers.
#[derive(Debug, Deserialize)]
pub(crate) struct Made {
    pub(crate) id: String,
}

/// `admin/v1/vim_accounts`, `admin/v1/k8sclusters`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Account {
    #[serde(rename = "_id")]
    pub(crate) id: String,
    pub(crate) name: String,
    #[serde(rename = "_admin", default, deserialize_with = "lax")]
    pub(crate) admin: AccountAdmin,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct AccountAdmin {
    #[serde(rename = "operationalState", default, deserialize_with = "lax")]
    pub(crate) state: String,
    #[serde(rename = "detailed-status", default, deserialize_with = "lax")]
    pub(crate) detail: String,
}

/// `nslcm/v1/subscriptions`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Subscription {
    #[serde(rename = "_id")]
    pub(crate) id: String,
    #[serde(rename = "CallbackUri", default, deserialize_with = "lax")]
    pub(crate) callback: String,
    #[serde(default, deserialize_with = "lax")]
    pub(crate) filter: SubscriptionFilter,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct SubscriptionFilter {
    #[serde(rename = "nsInstanceSubscriptionFilter", default, deserialize_with = "lax")]
    pub(crate) instances: InstancesFilter,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct InstancesFilter {
    #[serde(rename = "nsdIds", default, deserialize_with = "lax")]
    pub(crate) nsds: Vec<String>,
}

/// `vnfpkgm/v1/vnf_packages`, `nsd/v1/ns_descriptors`: the descriptor itself, and `_admin`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Package {
    #[serde(rename = "_id")]
    pub(crate) mano_id: String,
    /// The descriptor's; none before there is content.
    #[serde(default, deserialize_with = "lax")]
    pub(crate) id: String,
    #[serde(rename = "_admin", default, deserialize_with = "lax")]
    pub(crate) admin: PackageAdmin,
    #[serde(default, deserialize_with = "lax")]
    pub(crate) df: Vec<Flavour>,
    #[serde(default, deserialize_with = "lax")]
    pub(crate) vdu: Vec<Vdu>,
    #[serde(rename = "sw-image-desc", default, deserialize_with = "lax")]
    pub(crate) images: Vec<SwImage>,
}

/// `sw-image-desc` of a VNFD: what RO looks for.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct SwImage {
    #[serde(default, deserialize_with = "lax")]
    pub(crate) image: String,
    #[serde(default)]
    pub(crate) checksum: Option<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct PackageAdmin {
    #[serde(rename = "userDefinedData", default, deserialize_with = "lax")]
    pub(crate) user: Value,
    #[serde(rename = "usageState", default, deserialize_with = "lax")]
    pub(crate) usage: String,
    #[serde(default, deserialize_with = "lax")]
    pub(crate) revision: u64,
}

/// `df` of a VNFD.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Flavour {
    #[serde(default, deserialize_with = "lax")]
    pub(crate) id: String,
    #[serde(rename = "vdu-profile", default, deserialize_with = "lax")]
    pub(crate) profiles: Vec<VduProfile>,
    #[serde(rename = "instantiation-level", default, deserialize_with = "lax")]
    pub(crate) levels: Vec<Level>,
    #[serde(rename = "scaling-aspect", default, deserialize_with = "lax")]
    pub(crate) aspects: Vec<Aspect>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct VduProfile {
    pub(crate) id: String,
    #[serde(rename = "min-number-of-instances", default)]
    pub(crate) least: Option<Number>,
    #[serde(rename = "max-number-of-instances", default)]
    pub(crate) most: Option<Number>,
    #[serde(rename = "affinity-or-anti-affinity-group", default, deserialize_with = "lax")]
    pub(crate) groups: Vec<Named>,
}

/// A number, which pyangbind writes as text now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number(pub(crate) u32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(d)?;
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        let number = number.and_then(|n| u32::try_from(n).ok());
        number.map(Self).ok_or_else(|| serde::de::Error::custom(format!("{value} is no count")))
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Named {
    pub(crate) id: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Level {
    #[serde(rename = "vdu-level", default, deserialize_with = "lax")]
    pub(crate) vdus: Vec<VduLevel>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct VduLevel {
    #[serde(rename = "vdu-id")]
    pub(crate) vdu: String,
    #[serde(rename = "number-of-instances")]
    pub(crate) count: Number,
}

/// `scaling-aspect`. The NBI looks for it by id, the LCM by name.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Aspect {
    pub(crate) id: String,
    #[serde(default, deserialize_with = "lax")]
    pub(crate) name: String,
    #[serde(rename = "aspect-delta-details", default, deserialize_with = "lax")]
    pub(crate) details: Deltas,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Deltas {
    #[serde(default, deserialize_with = "lax")]
    pub(crate) deltas: Vec<Delta>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Delta {
    #[serde(rename = "vdu-delta", default, deserialize_with = "lax")]
    pub(crate) vdus: Vec<VduDelta>,
    #[serde(rename = "kdu-resource-delta", default, deserialize_with = "lax")]
    pub(crate) kdus: Vec<Value>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct VduDelta {
    pub(crate) id: String,
    #[serde(rename = "number-of-instances", default)]
    pub(crate) count: Option<Number>,
}

/// `vdu` of a VNFD.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Vdu {
    pub(crate) id: String,
}

/// `nslcm/v1/ns_instances`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Service {
    #[serde(rename = "_id")]
    pub(crate) id: String,
    #[serde(default, deserialize_with = "lax")]
    pub(crate) name: String,
    #[serde(rename = "additionalParamsForNs", default, deserialize_with = "lax")]
    pub(crate) parameters: BTreeMap<String, Value>,
    #[serde(rename = "nsState", default, deserialize_with = "lax")]
    pub(crate) state: String,
    #[serde(rename = "errorDescription", default, deserialize_with = "lax")]
    pub(crate) error: String,
    #[serde(rename = "errorDetail", default, deserialize_with = "lax")]
    pub(crate) error_detail: String,
    #[serde(rename = "create-time", default, deserialize_with = "lax")]
    pub(crate) created: f64,
    #[serde(default, deserialize_with = "lax")]
    pub(crate) vld: Vec<Link>,
    #[serde(rename = "_admin", default, deserialize_with = "lax")]
    pub(crate) admin: ServiceAdmin,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct ServiceAdmin {
    /// The LCM's, not the NBI's: it is not there, or of before, while an operation waits to begin.
    #[serde(rename = "nsState", default, deserialize_with = "lax")]
    pub(crate) state: String,
}

/// A `vld` of a service or of a VNF, with what became of it at each VIM (`vim:<account>`).
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Link {
    pub(crate) id: String,
    #[serde(default, deserialize_with = "lax")]
    pub(crate) vim_info: BTreeMap<String, Option<AtVim>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct AtVim {
    #[serde(default, deserialize_with = "lax")]
    pub(crate) vim_id: String,
    #[serde(default, deserialize_with = "lax")]
    pub(crate) interfaces: Vec<Option<AtPort>>,
    #[serde(default, deserialize_with = "lax")]
    pub(crate) interfaces_vim_ids: Vec<Option<String>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct AtPort {
    #[serde(rename = "vim_interface_id", default, deserialize_with = "lax")]
    pub(crate) id: String,
    #[serde(rename = "mac_address", default, deserialize_with = "lax")]
    pub(crate) mac: String,
}

/// `nslcm/v1/vnf_instances`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Vnf {
    #[serde(rename = "_id")]
    pub(crate) id: String,
    #[serde(rename = "nsr-id-ref")]
    pub(crate) service: String,
    #[serde(rename = "member-vnf-index-ref")]
    pub(crate) member: String,
    #[serde(rename = "vnfd-id", default, deserialize_with = "lax")]
    pub(crate) package: String,
    #[serde(default, deserialize_with = "lax")]
    pub(crate) revision: u64,
    #[serde(default, deserialize_with = "lax")]
    pub(crate) vdur: Vec<Vdur>,
    #[serde(default, deserialize_with = "lax")]
    pub(crate) vld: Vec<Link>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Vdur {
    #[serde(rename = "vdu-id-ref")]
    pub(crate) vdu: String,
    #[serde(rename = "vdu-name", default, deserialize_with = "lax")]
    pub(crate) name: String,
    #[serde(rename = "count-index", default, deserialize_with = "lax")]
    pub(crate) index: u32,
    #[serde(default, deserialize_with = "lax")]
    pub(crate) status: String,
    #[serde(default, deserialize_with = "lax")]
    pub(crate) interfaces: Vec<Interface>,
    #[serde(default, deserialize_with = "lax")]
    pub(crate) vim_info: BTreeMap<String, Option<AtVim>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Interface {
    pub(crate) name: String,
    #[serde(rename = "mac-address", default, deserialize_with = "lax")]
    pub(crate) mac: String,
}

/// `nslcm/v1/ns_lcm_op_occs`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Occurrence {
    #[serde(rename = "_id")]
    pub(crate) id: String,
    #[serde(rename = "nsInstanceId", default, deserialize_with = "lax")]
    pub(crate) service: String,
    #[serde(rename = "lcmOperationType", default, deserialize_with = "lax")]
    pub(crate) kind: String,
    #[serde(rename = "operationState", default, deserialize_with = "lax")]
    pub(crate) state: String,
    #[serde(rename = "startTime", default, deserialize_with = "lax")]
    pub(crate) started: f64,
    #[serde(rename = "detailed-status", default, deserialize_with = "lax")]
    pub(crate) detail: Value,
    #[serde(rename = "errorMessage", default, deserialize_with = "lax")]
    pub(crate) error: String,
    #[serde(rename = "operationParams", default, deserialize_with = "lax")]
    pub(crate) parameters: Value,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_an_nbi_lacks_is_nothing() {
        let service: Service = serde_json::from_str(r#"{"_id": "1"}"#).unwrap();
        assert_eq!((service.state.as_str(), service.admin.state.as_str()), ("", ""));
        let nulls = r#"{"_id": "1", "name": null, "additionalParamsForNs": null, "vld": null, "_admin": null, "errorDetail": null}"#;
        serde_json::from_str::<Service>(nulls).unwrap();
        let vnf = r#"{"_id": "1", "nsr-id-ref": "2", "member-vnf-index-ref": "a", "vdur": [
            {"vdu-id-ref": "vm", "vim_info": {"vim:x": {"vim_id": null, "interfaces": [null]}, "vim:y": null}}]}"#;
        assert_eq!(serde_json::from_str::<Vnf>(vnf).unwrap().vdur[0].index, 0);
        assert_eq!(serde_json::from_str::<Number>("\"3\"").unwrap(), Number(3));
        assert!(serde_json::from_str::<Number>("-1").is_err());
    }
}
