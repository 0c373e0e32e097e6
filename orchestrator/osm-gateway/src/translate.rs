//! OSM's requests as intents: what each document says, whole or refused.
//!
//! Pure: ids of OSM's (packages, VIM accounts, VNF records) stay ids here; [`crate::resolve`] finds out what they are. Whatever a
//! document says that no intent can carry is refused by name. Tests: below (any document; one key too many anywhere).

use std::collections::BTreeMap;

use ledger_contract::intent::{PlacementHints, ScaleDirection, Sensitivity, Sla, VnfParams};
use serde::Deserialize;
use serde_json::Value;
use trust::Digest;

use crate::{
    fields::{Fields, yaml},
    refusal::Refused,
};

/// Longest time that a client may give an operation, s.
const MAX_TIMEOUT_S: u64 = 86_400;
/// Shortest: a decision and a start take that long.
const MIN_TIMEOUT_S: u64 = 10;
/// Longest `nsName`, and description, characters (OSM's schemas).
const MAX_NAME: usize = 255;
/// Most members that a request may speak of.
const MAX_ITEMS: usize = 256;

/// What OSM's forms have no field for, in `additionalParamsForNs.mandate`: an object, or the same as JSON or YAML text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Extra {
    /// Name of the service, where `nsName` gives no good one.
    pub(crate) service: Option<String>,
    pub(crate) sla: Option<Sla>,
    pub(crate) sensitivity: Option<Sensitivity>,
    pub(crate) lease_s: Option<u64>,
    pub(crate) placement: Option<PlacementHints>,
    /// Break-glass, with its reason.
    pub(crate) emergency: Option<String>,
}

/// A network service to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deployment {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) nsd: String,
    pub(crate) account: String,
    pub(crate) extra: Extra,
    pub(crate) params: BTreeMap<String, VnfParams>,
    pub(crate) timeout_s: Option<u64>,
}

pub(crate) fn deployment(mut f: Fields) -> Result<Deployment, Refused> {
    // What a client repeats of its own URL.
    f.text("lcmOperationType")?;
    f.id("nsInstanceId")?;
    let name = f.needed("nsName")?;
    if !(1..=MAX_NAME).contains(&name.chars().count())
        || name.chars().any(|c| ",;()'\"".contains(c) || c.is_control())
    {
        return Err(Refused::request("nsName: 1 to 255 characters without , ; ( ) ' \"".into()));
    }
    let description = f.text("nsDescription")?.unwrap_or_default();
    if description.chars().count() > MAX_NAME {
        return Err(Refused::request(format!("nsDescription: at most {MAX_NAME} characters")));
    }
    let (nsd, account) = (f.needed_id("nsdId")?, f.needed_id("vimAccountId")?);
    f.only_false("wimAccountId", "the links between sites are Mandate's ([wan] in its config.toml)")?;
    for mut vnf in f.objects("vnf")? {
        vnf.needed("member-vnf-index")?;
        let at = vnf.at("vimAccountId");
        if vnf.id("vimAccountId")?.is_some_and(|id| id != account) {
            return Err(Refused::not_carried(
                &at,
                "an intent binds no single member to a site: name the sites in additionalParamsForNs.mandate.placement, Mandate places the members",
            ));
        }
        vnf.done()?;
    }
    let extra = extra(&mut f)?;
    let params = parameters(&mut f)?;
    let timeout_s = timeout(&mut f, "timeout_ns_deploy")?;
    f.done()?;
    Ok(Deployment { name, description, nsd, account, extra, params, timeout_s })
}

fn extra(f: &mut Fields) -> Result<Extra, Refused> {
    let Some(mut all) = f.object("additionalParamsForNs")? else { return Ok(Extra::default()) };
    let at = all.at("mandate");
    let bad = |e: String| Refused::new(422, crate::codes::NOT_CARRIED, format!("{at}: {e}"));
    let given = match all.take("mandate") {
        Some(Value::String(text)) => yaml(&text).map_err(bad)?,
        Some(given) => given,
        None => Value::Object(serde_json::Map::new()),
    };
    all.done()?;
    serde_json::from_value(given).map_err(|e| bad(e.to_string()))
}

fn parameters(f: &mut Fields) -> Result<BTreeMap<String, VnfParams>, Refused> {
    let mut out = BTreeMap::new();
    for mut vnf in f.objects("additionalParamsForVnf")? {
        let member = vnf.needed("member-vnf-index")?;
        let at = vnf.at("additionalParams");
        let params = vnf.take("additionalParams").unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let params: VnfParams = serde_json::from_value(params).map_err(|e| {
            Refused::not_carried(&at, &format!("{e}; an intent carries rules, vips and weights"))
        })?;
        vnf.done()?;
        if out.insert(member.clone(), params).is_some() {
            return Err(Refused::request(format!("additionalParamsForVnf: `{member}` is there twice")));
        }
    }
    Ok(out)
}

/// How long the intent is good: an operation that takes longer unwinds.
fn timeout(f: &mut Fields, name: &str) -> Result<Option<u64>, Refused> {
    match f.number(name)? {
        None => Ok(None),
        Some(s) if (MIN_TIMEOUT_S..=MAX_TIMEOUT_S).contains(&s) => Ok(Some(s)),
        Some(s) => Err(Refused::request(format!("{name}: {s}: {MIN_TIMEOUT_S} to {MAX_TIMEOUT_S} seconds"))),
    }
}

/// What is to be done with a service that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    Scale {
        member: String,
        aspect: String,
        direction: ScaleDirection,
        vnf: Option<String>,
    },
    /// VNF record, its VDUs' instances (none: all), and the cause.
    Heal {
        vnfs: Vec<(String, Vec<(String, u32)>)>,
        cause: String,
    },
    /// VNF record -> where to, if that was said.
    Migrate {
        vnf: String,
        to: Option<String>,
    },
    /// VNF record -> VNF package, both by OSM's ids.
    ChangePackage {
        vnf: String,
        vnfd: String,
    },
    Terminate {
        autoremove: bool,
    },
}

impl Operation {
    /// `lcmOperationType`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Scale { .. } => "scale",
            Self::Heal { .. } => "heal",
            Self::Migrate { .. } => "migrate",
            Self::ChangePackage { .. } => "update",
            Self::Terminate { .. } => "terminate",
        }
    }
}

/// An operation, and how long it may take.
pub(crate) fn operation(verb: &str, mut f: Fields) -> Result<(Operation, Option<u64>), Refused> {
    f.text("lcmOperationType")?;
    f.id("nsInstanceId")?;
    let it = match verb {
        "scale" => (scale(&mut f)?, timeout(&mut f, "timeout_ns_scale")?),
        "heal" => (heal(&mut f)?, timeout(&mut f, "timeout_ns_heal")?),
        "migrate" => (migrate(&mut f)?, None),
        "update" => (update(&mut f)?, timeout(&mut f, "timeout_ns_update")?),
        "terminate" => (terminate(&mut f)?, timeout(&mut f, "timeout_ns_terminate")?),
        "action" => {
            return Err(Refused::not_carried(
                "action",
                "functions are configured by their intent's parameters, not by primitives: `mandate intent new update`",
            ));
        }
        other => {
            return Err(Refused::new(405, crate::codes::REQUEST, format!("Unexpected URL item {other}")));
        }
    };
    f.done()?;
    Ok(it)
}

fn scale(f: &mut Fields) -> Result<Operation, Refused> {
    let kind = f.needed("scaleType")?;
    if kind != "SCALE_VNF" {
        return Err(Refused::request(format!("scaleType: {kind}: SCALE_VNF")));
    }
    let missing = |what: &str| Refused::request(format!("Format error at '{what}': is required"));
    let mut data = f.object("scaleVnfData")?.ok_or_else(|| missing("scaleVnfData"))?;
    let direction = match data.needed("scaleVnfType")?.as_str() {
        "SCALE_OUT" => ScaleDirection::ScaleOut,
        "SCALE_IN" => ScaleDirection::ScaleIn,
        other => return Err(Refused::request(format!("scaleVnfType: {other}: SCALE_OUT or SCALE_IN"))),
    };
    let vnf = data.text("vnfInstanceId")?;
    let mut step = data.object("scaleByStepData")?.ok_or_else(|| missing("scaleByStepData"))?;
    let (aspect, member) = (step.needed("scaling-group-descriptor")?, step.needed("member-vnf-index")?);
    step.done()?;
    data.done()?;
    Ok(Operation::Scale { member, aspect, direction, vnf })
}

fn heal(f: &mut Fields) -> Result<Operation, Refused> {
    const DAY1: &str = "functions are configured by their intent's parameters, not by primitives";
    let (mut vnfs, mut causes) = (Vec::new(), Vec::new());
    for mut item in f.objects("healVnfData")? {
        let vnf = item.needed_id("vnfInstanceId")?;
        causes.extend(item.text("cause")?);
        let mut vdus = Vec::new();
        if let Some(mut params) = item.object("additionalParams")? {
            params.only_false("run-day1", DAY1)?;
            for mut vdu in params.objects("vdu")? {
                vdu.only_false("run-day1", DAY1)?;
                let at = vdu.at("count-index");
                let (id, index) = (vdu.needed("vdu-id")?, vdu.number("count-index")?);
                let index = index.and_then(|i| u32::try_from(i).ok());
                let index = index.ok_or_else(|| Refused::not_carried(&at, "say which instance"))?;
                vdu.done()?;
                vdus.push((id, index));
            }
            params.done()?;
        }
        item.done()?;
        vnfs.push((vnf, vdus));
    }
    if vnfs.is_empty() || vnfs.len() > MAX_ITEMS {
        return Err(Refused::request(format!("healVnfData: 1 to {MAX_ITEMS} items")));
    }
    causes.dedup();
    let cause = if causes.is_empty() { "asked for in OSM".to_owned() } else { causes.join("; ") };
    Ok(Operation::Heal { vnfs, cause: cause.chars().take(MAX_NAME).collect() })
}

fn migrate(f: &mut Fields) -> Result<Operation, Refused> {
    let vnf = f.needed_id("vnfInstanceId")?;
    let to = f.text("migrateToHost")?;
    let at = f.at("vdu");
    if f.take("vdu").is_some() {
        return Err(Refused::not_carried(&at, "a member moves as a whole, to another site"));
    }
    Ok(Operation::Migrate { vnf, to })
}

fn update(f: &mut Fields) -> Result<Operation, Refused> {
    let kind = f.needed("updateType")?;
    if kind != "CHANGE_VNFPKG" {
        return Err(Refused::not_carried(
            &format!("updateType {kind}"),
            "CHANGE_VNFPKG alone is an intent; for anything else `mandate intent new update`, `isolate` or `migrate`",
        ));
    }
    let data = f.object("changeVnfPackageData")?;
    let mut data =
        data.ok_or_else(|| Refused::request("Format error at 'changeVnfPackageData': is required".into()))?;
    let (vnf, vnfd) = (data.needed_id("vnfInstanceId")?, data.needed_id("vnfdId")?);
    data.done()?;
    Ok(Operation::ChangePackage { vnf, vnfd })
}

fn terminate(f: &mut Fields) -> Result<Operation, Refused> {
    f.only_false("skip_terminate_primitives", "there are no primitives that could be skipped")?;
    Ok(Operation::Terminate { autoremove: f.flag("autoremove")? })
}

/// A service's name for the ledger: `nsName` itself where it is one (1 to 32 of `a-z 0-9 -`), else what is left of it and six digits that tell it
/// from others of which the same is left.
pub(crate) fn service_name(ns_name: &str) -> String {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=32).contains(&ns_name.len()) && ns_name.chars().all(legal) {
        return ns_name.to_owned();
    }
    let lower = ns_name.to_lowercase();
    let left: String = lower.chars().map(|c| if legal(c) { c } else { '-' }).take(25).collect();
    format!("{left}-{}", &Digest::of(ns_name).hex()[..6])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const ID: &str = "1c94f304-5bec-4b86-b53e-807c961e8b61";

    fn fields(value: &Value) -> Fields {
        crate::fields::document(&Default::default(), value.to_string().as_bytes()).unwrap()
    }

    fn whole() -> Value {
        json!({
            "nsName": "edge-1", "nsdId": ID, "vimAccountId": ID, "nsDescription": "d", "wimAccountId": false,
            "timeout_ns_deploy": 600, "ssh_keys": null,
            "vnf": [{ "member-vnf-index": "vfw", "vimAccountId": ID }],
            "additionalParamsForNs": { "mandate": { "lease_s": 5, "placement": { "sites": ["a"] }, "sla": { "throughput_kbps": 1, "latency_p95_us": 2, "loss_ppm": 3 } } },
            "additionalParamsForVnf": [{ "member-vnf-index": "vfw", "additionalParams": { "rules": [
                { "id": "web", "from": "outside", "action": "allow", "protocol": 6, "destination_ports": "80" }] } }],
        })
    }

    fn operations() -> Vec<(&'static str, Value)> {
        vec![
            (
                "scale",
                json!({ "scaleType": "SCALE_VNF", "timeout_ns_scale": 60, "scaleVnfData": { "scaleVnfType": "SCALE_OUT",
                "scaleByStepData": { "scaling-group-descriptor": "b", "member-vnf-index": "vlb" } } }),
            ),
            (
                "heal",
                json!({ "healVnfData": [{ "vnfInstanceId": ID, "cause": "c", "additionalParams": { "run-day1": false,
                "vdu": [{ "vdu-id": "v", "count-index": 0, "run-day1": false }] } }] }),
            ),
            ("migrate", json!({ "vnfInstanceId": ID, "migrateToHost": "edge-b" })),
            (
                "update",
                json!({ "updateType": "CHANGE_VNFPKG", "changeVnfPackageData": { "vnfInstanceId": ID, "vnfdId": ID } }),
            ),
            (
                "terminate",
                json!({ "autoremove": true, "timeout_ns_terminate": 60, "skip_terminate_primitives": false }),
            ),
        ]
    }

    #[test]
    fn everything_that_an_intent_carries_is_carried() {
        let it = deployment(fields(&whole())).unwrap();
        assert_eq!((it.name.as_str(), it.timeout_s, it.extra.lease_s), ("edge-1", Some(600), Some(5)));
        assert_eq!(it.params["vfw"].rules[0].id, "web");
        assert_eq!(it.extra.placement.unwrap().sites, ["a"]);
        let mut text = whole();
        text["additionalParamsForNs"]["mandate"] = json!("lease_s: 5\nsensitivity: restricted\n");
        let it = deployment(fields(&text)).unwrap();
        assert_eq!((it.extra.lease_s, it.extra.sensitivity), (Some(5), Some(Sensitivity::Restricted)));
        for (verb, body) in operations() {
            assert_eq!(operation(verb, fields(&body)).unwrap().0.kind(), verb);
        }
    }

    #[test]
    fn what_it_cannot_is_refused_by_name() {
        for (name, value) in [
            ("ssh_keys", json!(["ssh-ed25519 x"])),
            ("vld", json!([{ "name": "mgmt", "vim-network-name": "x" }])),
            (
                "vnf",
                json!([{ "member-vnf-index": "a", "vimAccountId": "584b5f4f-9a84-4262-a1be-72f90a6fe46b" }]),
            ),
            ("vnf", json!([{ "member-vnf-index": "a", "vdu": [{ "id": "v" }] }])),
            ("wimAccountId", json!(true)),
            ("placement-engine", json!("PLA")),
            ("additionalParamsForNs", json!({ "other": 1 })),
            ("additionalParamsForNs", json!({ "mandate": { "leas_s": 1 } })),
            (
                "additionalParamsForVnf",
                json!([{ "member-vnf-index": "vfw", "additionalParams": { "rulez": [] } }]),
            ),
            ("k8s-namespace", json!("x")),
        ] {
            let mut body = whole();
            body[name] = value.clone();
            let error = deployment(fields(&body)).unwrap_err();
            assert_eq!(
                (error.status, error.code.as_str()),
                (422, crate::codes::NOT_CARRIED),
                "{name}: {value}"
            );
            assert!(error.detail.contains(name), "{error}");
        }
    }

    /// Every place at which a document has an object.
    fn objects(value: &Value, at: &str, out: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                out.push(at.to_owned());
                map.iter().for_each(|(k, v)| objects(v, &format!("{at}/{k}"), out));
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(i, v)| objects(v, &format!("{at}/{i}"), out));
            }
            _ => {}
        }
    }

    #[test]
    fn one_key_too_many_is_found_wherever_it_is() {
        let mut all = operations();
        all.push(("instantiate", whole()));
        let mut tried = 0;
        for (verb, body) in all {
            let mut places = Vec::new();
            objects(&body, "", &mut places);
            for place in places {
                let mut changed = body.clone();
                let object =
                    if place.is_empty() { &mut changed } else { changed.pointer_mut(&place).unwrap() };
                object["surplus"] = json!(1);
                let refused = match verb {
                    "instantiate" => deployment(fields(&changed)).is_err(),
                    verb => operation(verb, fields(&changed)).is_err(),
                };
                assert!(refused, "{verb}: surplus at `{place}` was passed over");
                tried += 1;
            }
        }
        assert!(tried > 15, "{tried}");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            Just(json!(ID)),
            "[a-zA-Z0-9_ -]{0,12}".prop_map(Value::from),
        ];
        let key = prop_oneof![
            Just("nsName".to_owned()),
            Just("nsdId".to_owned()),
            Just("vimAccountId".to_owned()),
            Just("vnf".to_owned()),
            Just("member-vnf-index".to_owned()),
            Just("additionalParamsForNs".to_owned()),
            Just("mandate".to_owned()),
            Just("additionalParamsForVnf".to_owned()),
            Just("scaleType".to_owned()),
            Just("scaleVnfData".to_owned()),
            Just("healVnfData".to_owned()),
            Just("vnfInstanceId".to_owned()),
            Just("autoremove".to_owned()),
            "[a-z-]{1,8}",
        ];
        leaf.prop_recursive(4, 32, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((key.clone(), inner), 0..6)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Any document: read or refused, and one that is read has no key that nobody knows.
        #[test]
        fn any_document_is_read_or_refused(body in any_json()) {
            prop_assume!(body.is_object());
            let known = ["nsName", "nsdId", "vimAccountId", "nsDescription", "wimAccountId", "vnf", "nsInstanceId",
                "lcmOperationType", "additionalParamsForNs", "additionalParamsForVnf", "timeout_ns_deploy"];
            let says = |k: &String| !body[k].is_null();
            if deployment(fields(&body)).is_ok() {
                for key in body.as_object().unwrap().keys().filter(|k| says(k)) {
                    prop_assert!(known.contains(&key.as_str()), "{key}");
                }
            }
            for (verb, _) in operations() {
                let _ = operation(verb, fields(&body));
            }
        }

        #[test]
        fn a_name_becomes_a_name(name in "\\PC{1,60}") {
            let service = service_name(&name);
            prop_assert!((1..=32).contains(&service.len()), "{service}");
            prop_assert!(service.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert_eq!(&service_name(&service), &service);
        }
    }
}
