//! What a client of OSM must survive, one test per trap, and every call's answer lost in turn.
//!
//! With `OSM_NBI_URL` set they run on that NBI; without it on what was recorded when they did (`tests/recorded/`, from the NBI of
//! osm-capk 35936ae with an LCM that plays what facts of the real one say): the driver must make the same calls.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Fault, World};
use mano::{Mano, ObservedService, OperationState, Scope, ServiceKey, ServiceState, conformance::Fixture};
use mano_osm::client::Call;
use reqwest::Method;
use serde_json::{Value, json};
use vim::{Disposition, DriverError};

/// One at a time: they share the names of their packages.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The calls of making a service, in order: which one is the creation, which the instantiation.
const CREATE: usize = 4;
const INSTANTIATE: usize = 5;

fn key(name: &str) -> ServiceKey {
    ServiceKey::new(name).unwrap()
}

async fn ensure(w: &World, key: &ServiceKey, count: u32) -> Result<ObservedService, DriverError> {
    w.osm.ensure_service(key, &w.service_spec(key, count)).await
}

/// Leaves the service as a crash after that call of making it would.
async fn crashed_after(w: &World, key: &ServiceKey, n: usize, call: &str) {
    let other = w.another();
    assert!(w.crash(n, Fault::Hang, other.ensure_service(key, &w.service_spec(key, 1))).await);
    let last = w.peer.calls().pop().unwrap();
    assert!(last.starts_with(call), "{last}");
}

/// Records of that name, as OSM has them.
async fn records(w: &World, key: &ServiceKey) -> Vec<Value> {
    let all = w.list("nslcm/v1/ns_instances").await;
    all.into_iter().filter(|r| r["name"] == key.as_str()).collect()
}

/// Operations on a service, by kind.
async fn operations(w: &World, id: &Value, kind: &str) -> Vec<Value> {
    let all = w.list("nslcm/v1/ns_lcm_op_occs").await;
    all.into_iter().filter(|o| o["nsInstanceId"] == *id && o["lcmOperationType"] == kind).collect()
}

async fn cleared(w: World) {
    for key in w.osm.observe(&Scope::All).await.unwrap().services.keys() {
        w.osm.remove_service(key).await.unwrap();
    }
    for spec in [&w.packages.ns, &w.packages.vnf[0]] {
        w.osm.remove_package(spec.kind, &spec.id).await.unwrap();
    }
    let mut w = w;
    assert_eq!(w.residue().await.unwrap(), Vec::<String>::new());
    w.close().await.unwrap();
}

#[tokio::test]
async fn a_whole_life_and_what_it_costs() {
    let _turn = TURN.lock().await;
    let w = World::new("life").await;
    let calls = || w.osm.client().calls();
    let start = calls();
    w.ground().await;
    println!("packages: {}", calls().since(&start));
    let key = key("life");
    let before = calls();
    let made = ensure(&w, &key, 1).await.unwrap();
    let cost = calls().since(&before);
    let resources = made.objects.values().flatten().map(|o| 1 + o.ports.len() as u64).sum::<u64>();
    println!("deploy of {resources} resources: {cost}");
    assert_eq!(resources, 3, "a server, its port, a network: {:?}", made.objects);
    assert!(cost.total() <= 2 * resources + 6, "{cost} for {resources} resources");
    assert!(made.decided.iter().any(|d| d.contains("member 1 at site here")), "{:?}", made.decided);
    for (what, count) in [("scale out by 2", 3), ("scale in by 2", 1)] {
        let before = calls();
        assert_eq!(ensure(&w, &key, count).await.unwrap().counts["1"]["vm"], count);
        println!("{what}: {}", calls().since(&before));
    }
    let instance = w.service_spec(&key, 1).members["1"].vdus["vm"].instances[0].key.clone();
    let server = |o: &ObservedService| o.objects[&instance][0].id.clone();
    let before = calls();
    let healed = w.osm.heal(&key, "heal-1", &[instance.clone()].into()).await.unwrap();
    println!("heal: {}", calls().since(&before));
    assert_ne!(server(&healed), server(&made), "another server");
    let before = calls();
    w.osm.migrate(&key, &instance, "compute-2").await.unwrap();
    println!("migrate: {}", calls().since(&before));
    let before = calls();
    w.osm.observe(&Scope::All).await.unwrap();
    println!("observe everything: {}", calls().since(&before));
    let before = calls();
    w.osm.remove_service(&key).await.unwrap();
    println!("remove: {}", calls().since(&before));
    cleared(w).await;
}

/// What OSM would render for an instance is what was planned for it.
#[tokio::test]
async fn day0_documents_reach_every_instance() {
    let _turn = TURN.lock().await;
    let w = World::new("day0").await;
    w.ground().await;
    let key = key("day0");
    ensure(&w, &key, 2).await.unwrap();
    let id = records(&w, &key).await[0]["_id"].as_str().unwrap().to_owned();
    let call = Call::get("nslcm/v1/vnf_instances").query("nsr-id-ref", id);
    let vnfs: Vec<Value> = w.raw.ask(&call).await.unwrap();
    let spec = w.service_spec(&key, 2);
    for (n, vdur) in vnfs[0]["vdur"].as_array().unwrap().iter().enumerate() {
        use base64::Engine as _;
        let index = usize::try_from(vdur["count-index"].as_u64().unwrap()).unwrap();
        assert_eq!(index, n);
        let planned = &spec.members["1"].vdus["vm"].instances[index];
        let document = vdur["additionalParams"]["mandate_day0"][index].as_str().unwrap();
        assert_eq!(
            base64::engine::general_purpose::STANDARD.decode(document).unwrap(),
            planned.day0.as_bytes()
        );
        let mac = vdur["interfaces"][0]["mac-address"].as_str().unwrap();
        assert_eq!(mac, planned.interfaces["eth0"].mac.to_string(), "counted up as planned");
    }
    cleared(w).await;
}

/// The NBI accepts a second instantiation until the LCM has begun with the first.
#[tokio::test]
async fn a_second_instantiation_is_never_asked_for() {
    let _turn = TURN.lock().await;
    let w = World::new("second").await;
    w.ground().await;
    let (key, theirs) = (key("second"), key("second-theirs"));
    // A crash right after the first: whoever comes next waits for it.
    crashed_after(&w, &key, INSTANTIATE, "POST nslcm/v1/ns_instances/").await;
    let observed = ensure(&w, &key, 1).await.unwrap();
    assert_eq!(observed.state, ServiceState::Instantiated);
    assert_eq!(operations(&w, &records(&w, &key).await[0]["_id"], "instantiate").await.len(), 1);
    // Somebody else's second one is accepted by the NBI, and cancelled by us.
    crashed_after(&w, &theirs, CREATE, "POST nslcm/v1/ns_instances").await;
    let record = records(&w, &theirs).await.remove(0);
    let body =
        json!({ "nsName": record["name"], "nsdId": record["nsd-id"], "vimAccountId": record["datacenter"] });
    let path = format!("nslcm/v1/ns_instances/{}/instantiate", record["_id"].as_str().unwrap());
    for _ in 0..2 {
        w.raw.tell(&Call::post(&path, &body)).await.unwrap();
    }
    ensure(&w, &theirs, 1).await.unwrap();
    // The LCM leaves a service whose second instantiation was cancelled as broken: it is built anew, once.
    let left = records(&w, &theirs).await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(operations(&w, &left[0]["_id"], "instantiate").await.len(), 1);
    cleared(w).await;
}

/// The LCM says INSTANTIATED before there is anything at the VIM.
#[tokio::test]
async fn a_state_that_is_set_too_early_is_not_believed() {
    let _turn = TURN.lock().await;
    let w = World::new("early").await;
    w.ground().await;
    let key = key("early");
    crashed_after(&w, &key, INSTANTIATE, "POST nslcm/v1/ns_instances/").await;
    let (mut early, mut looks) = (0, 0);
    loop {
        let said = records(&w, &key).await.remove(0)["_admin"]["nsState"] == "INSTANTIATED";
        let seen = w.osm.observe(&Scope::Service(key.clone())).await.unwrap().services.remove(&key).unwrap();
        let running = seen.operation.as_ref().is_some_and(|o| o.state == OperationState::Processing);
        assert_eq!(seen.state == ServiceState::Changing, running, "{seen:?}");
        early += u32::from(said && running);
        looks += 1;
        if !running || looks > 200 {
            break;
        }
    }
    println!("OSM said INSTANTIATED too early at {early} of {looks} looks");
    cleared(w).await;
}

/// A build that fails leaves an NS that nobody asked for.
#[tokio::test]
async fn a_failed_build_leaves_no_orphan() {
    let _turn = TURN.lock().await;
    let w = World::new("orphan").await;
    if !w.lcm("on") {
        println!("SKIPPED: this LCM cannot be made to fail; set OSM_NBI_FAIL");
        return;
    }
    w.ground().await;
    let key = key("orphan");
    let error = ensure(&w, &key, 1).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.disposition), ("OSM_FAILED", Disposition::Elsewhere), "{error}");
    assert!(error.reason.contains("NoValidHost"), "{error}");
    assert!(records(&w, &key).await.is_empty(), "its record is gone");
    w.lcm("off");
    ensure(&w, &key, 1).await.unwrap();
    cleared(w).await;
}

/// With autoremove the NBI removes the operation too, under the eyes of who polls it.
#[tokio::test]
async fn an_operation_that_is_gone_has_ended() {
    let _turn = TURN.lock().await;
    let w = World::new("autoremove").await;
    w.ground().await;
    let key = key("autoremove");
    ensure(&w, &key, 1).await.unwrap();
    let id = records(&w, &key).await[0]["_id"].as_str().unwrap().to_owned();
    let path = format!("nslcm/v1/ns_instances/{id}/terminate");
    w.raw.tell(&Call::post(path, &json!({ "autoremove": true }))).await.unwrap();
    w.osm.remove_service(&key).await.unwrap();
    assert!(records(&w, &key).await.is_empty());
    cleared(w).await;
}

/// DELETE of `ns_instances_content` answers 204 and deletes nothing of what was never instantiated.
#[tokio::test]
async fn a_record_without_a_service_is_really_deleted() {
    let _turn = TURN.lock().await;
    let w = World::new("content").await;
    w.ground().await;
    let key = key("content");
    crashed_after(&w, &key, CREATE, "POST nslcm/v1/ns_instances").await;
    let id = records(&w, &key).await[0]["_id"].as_str().unwrap().to_owned();
    w.raw.tell(&Call::new(Method::DELETE, format!("nslcm/v1/ns_instances_content/{id}"))).await.unwrap();
    assert_eq!(records(&w, &key).await.len(), 1, "the trap");
    w.osm.remove_service(&key).await.unwrap();
    assert!(records(&w, &key).await.is_empty());
    cleared(w).await;
}

/// The NBI deletes a record in the middle of a build, and what is built stays at the VIM.
#[tokio::test]
async fn nothing_is_deleted_while_it_is_built() {
    let _turn = TURN.lock().await;
    let w = World::new("midbuild").await;
    w.ground().await;
    let key = key("midbuild");
    crashed_after(&w, &key, INSTANTIATE, "POST nslcm/v1/ns_instances/").await;
    let before = w.peer.calls().len();
    w.osm.remove_service(&key).await.unwrap();
    let calls = w.peer.calls().split_off(before);
    let at = |what: &str| {
        calls.iter().position(|c| c.contains(what)).unwrap_or_else(|| panic!("no {what} in {calls:?}"))
    };
    assert!(at("/cancel") < at("/terminate") && at("/terminate") < at("DELETE"), "{calls:?}");
    cleared(w).await;
}

/// Two records under one name, as a creation whose answer was lost for long leaves them.
#[tokio::test]
async fn of_two_records_one_stays() {
    let _turn = TURN.lock().await;
    let w = World::new("twins").await;
    w.ground().await;
    let key = key("twins");
    ensure(&w, &key, 1).await.unwrap();
    let record = records(&w, &key).await.remove(0);
    let body = json!({ "nsName": record["name"], "nsdId": record["nsd-id"], "vimAccountId": record["datacenter"],
        "additionalParamsForNs": record["additionalParamsForNs"] });
    w.raw.tell(&Call::post("nslcm/v1/ns_instances", &body)).await.unwrap();
    assert_eq!(records(&w, &key).await.len(), 2);
    ensure(&w, &key, 1).await.unwrap();
    let left = records(&w, &key).await;
    assert!(left.len() == 1 && left[0]["_id"] == record["_id"], "the one that was built stays: {left:?}");
    cleared(w).await;
}

/// OSM checks no package's integrity: what it holds is read.
#[tokio::test]
async fn a_package_that_was_changed_in_osm_is_found() {
    let _turn = TURN.lock().await;
    let w = World::new("package").await;
    w.ground().await;
    let spec = &w.packages.vnf[0];
    let before = w.peer.calls().len();
    let there = w.osm.ensure_package(spec).await.unwrap();
    let again = w.peer.calls().split_off(before);
    assert!(again.len() == 2 && again.iter().all(|c| c.starts_with("GET")), "looked and read: {again:?}");
    // Somebody puts other bytes in its place; our mark stays on it.
    let mut other = common::world::vnfd("6.6");
    other["vnfd"]["vdu"][0].as_object_mut().unwrap().remove("cloud-init-file");
    let path = format!("vnfpkgm/v1/vnf_packages/{}/package_content", there.mano_id);
    w.raw.tell(&Call::new(Method::PUT, path).json(&other)).await.unwrap();
    let before = w.peer.calls().len();
    assert_eq!(w.osm.ensure_package(spec).await.unwrap().digest, spec.digest);
    let again = w.peer.calls().split_off(before);
    assert_eq!(again.iter().filter(|c| c.starts_with("PUT")).count(), 1, "uploaded in one piece: {again:?}");
    cleared(w).await;
}

/// Names of others never become parameters: `METHOD` in a query would override the verb.
#[tokio::test]
async fn a_name_cannot_become_a_verb() {
    let _turn = TURN.lock().await;
    let w = World::new("verb").await;
    w.ground().await;
    for id in ["x&METHOD=DELETE", "x?METHOD=DELETE", "../ns_descriptors?METHOD=DELETE", "x,mandate-t-fw"] {
        w.osm.remove_package(mano::PackageKind::Vnf, id).await.unwrap();
    }
    assert_eq!(w.osm.observe(&Scope::All).await.unwrap().packages.len(), 2, "both are there");
    cleared(w).await;
}

/// The LCM does nothing: our own deadline ends the wait.
#[tokio::test]
async fn a_deadline_of_our_own() {
    let _turn = TURN.lock().await;
    let w = World::new("deadline").await;
    w.ground().await;
    if !w.lcm("stop") {
        println!("SKIPPED: this LCM cannot be stopped; set OSM_NBI_FAIL");
        return;
    }
    let key = key("deadline");
    // One look, at the deadline.
    let hasty = w.with(|c| (c.deadline_s, c.poll_ms) = (1, 5000));
    let error = hasty.ensure_service(&key, &w.service_spec(&key, 1)).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.disposition),
        ("OSM_DEADLINE", Disposition::Compensate),
        "{error}"
    );
    w.lcm("off");
    w.osm.remove_service(&key).await.unwrap();
    assert!(records(&w, &key).await.is_empty());
    cleared(w).await;
}

/// What OSM would accept and fail with later is refused before.
#[tokio::test]
async fn what_cannot_work_is_refused_before() {
    let _turn = TURN.lock().await;
    let w = World::new("refused").await;
    w.ground().await;
    let key = key("refused");
    let spec = w.service_spec(&key, 1);
    let refused = async |spec: &mano::ServiceSpec, osm: &mano_osm::Osm| {
        osm.ensure_service(&key, spec).await.unwrap_err().code
    };
    let mut odd = spec.clone();
    odd.members.get_mut("1").unwrap().vdus.get_mut("vm").unwrap().instances[1]
        .interfaces
        .get_mut("eth0")
        .unwrap()
        .mac = dataplane_control::MacAddr([2, 0, 0, 0, 9, 9]);
    assert_eq!(refused(&odd, &w.osm).await, "OSM_ADDRESSES");
    let mut spanning = spec.clone();
    spanning.links.get_mut("data").unwrap().sites.insert("there".into(), mano::SiteLink::Made);
    let two = w.with(|c| drop(c.sites.insert("there".into(), common::world::ACCOUNT.into())));
    assert_eq!(refused(&spanning, &two).await, "OSM_LINK");
    assert_eq!(refused(&spanning, &w.osm).await, "OSM_SITE", "a site that is not configured");
    let elsewhere = w.with(|c| drop(c.sites.insert("here".into(), "no-such-account".into())));
    assert_eq!(refused(&spec, &elsewhere).await, "OSM_SITE", "an account that OSM has not");
    let mut named = spec.clone();
    named.parameters.insert("not-an-identifier".into(), json!(1));
    assert_eq!(refused(&named, &w.osm).await, "OSM_SPEC");
    let mut grouped = spec.clone();
    grouped.members.get_mut("1").unwrap().groups.insert("spread".into(), "id".into());
    assert_eq!(refused(&grouped, &w.osm).await, "OSM_GROUPS");
    let mut flavoured = spec.clone();
    flavoured.flavour = "large".into();
    assert_eq!(refused(&flavoured, &w.osm).await, "OSM_SPEC");
    assert!(records(&w, &key).await.is_empty(), "nothing was made");
    cleared(w).await;
}

/// Makes a service of two, removes it, and asserts that each thing happened once; the calls that it took.
async fn once(w: &World, key: &ServiceKey) -> Vec<String> {
    let before = w.peer.calls().len();
    ensure(w, key, 2).await.unwrap();
    let made = records(w, key).await;
    assert_eq!(made.len(), 1, "{key}: one record");
    for kind in ["instantiate", "scale"] {
        assert_eq!(operations(w, &made[0]["_id"], kind).await.len(), 1, "{key}: one {kind}");
    }
    w.osm.remove_service(key).await.unwrap();
    assert!(records(w, key).await.is_empty(), "{key} is gone");
    w.peer.no_faults();
    w.peer.calls().split_off(before)
}

/// Every call of making, scaling and removing a service that changes something, lost in turn.
async fn lost(name: &str, fault: Fault) {
    let _turn = TURN.lock().await;
    let w = World::new(name).await;
    w.ground().await;
    let clean = once(&w, &key("lost-none")).await;
    let changes: Vec<&String> = clean.iter().filter(|c| !c.starts_with("GET")).collect();
    let kinds = [
        "POST nslcm/v1/ns_instances",
        "/instantiate",
        "/scale",
        "/terminate",
        "DELETE nslcm/v1/ns_instances",
    ];
    assert!(
        changes.len() == kinds.len() && changes.iter().zip(kinds).all(|(c, k)| c.contains(k)),
        "{changes:?}"
    );
    for n in 0..changes.len() {
        w.peer.fault_change(n, fault);
        once(&w, &key(&format!("lost-{n}"))).await;
    }
    println!("{} changes lost in turn ({fault:?}), each happened once", changes.len());
    cleared(w).await;
}

#[tokio::test]
async fn every_changes_answer_is_lost_once() {
    lost("lost-answer", Fault::LoseAnswer).await;
}

#[tokio::test]
async fn every_change_is_lost_once() {
    lost("lost-call", Fault::LoseCall).await;
}

/// Every call there is, looks included, on a real NBI only.
#[tokio::test]
async fn every_call_is_lost_once() {
    if common::upstream().is_none() {
        println!(
            "SKIPPED: no OSM; set OSM_NBI_URL to lose every call of a real NBI's (those that change something are replayed)"
        );
        return;
    }
    let _turn = TURN.lock().await;
    let w = World::new("none").await;
    w.ground().await;
    let mut n = 0;
    loop {
        w.peer.fault(n, if n % 2 == 0 { Fault::LoseAnswer } else { Fault::LoseCall });
        let calls = once(&w, &key(&format!("lost-{n}"))).await;
        n += 1;
        if n >= calls.len() {
            break;
        }
    }
    println!("{n} calls lost in turn, each thing happened once");
    w.clear().await;
}
