//! Healing and moving instances.
//!
//! OSM has no key for an operation either. A healing carries ours in its `cause`; a move has no field for one, and is known
//! by its target: the last move of the instance, when nothing that makes instances anew came after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use mano::{ObservedService, OperationState, ServiceKey, ServiceState};
use serde_json::{Value, json};
use vim::ObjectKey;

use crate::{
    Osm,
    client::Call,
    error::{Trouble, failed, refuse},
    mark::Mark,
    observe::standing,
    operations::{Ended, operation, state},
    records::{Made, Occurrence, Service, Vnf},
};

/// A service that is there, with everything that an action on it needs.
struct Target {
    mark: Mark,
    record: Service,
    vnfs: Vec<Vnf>,
    operations: Vec<Occurrence>,
}

/// An instance in OSM's terms.
struct Place {
    vnf: String,
    vdu: String,
    index: u32,
}

impl Target {
    /// Where an instance is. Its VDU's name must be its id: the NBI looks for the id, RO for the name.
    fn place(&self, key: &ObjectKey) -> Result<Place, Trouble> {
        let none = || refuse("OSM_NO_INSTANCE", format!("{} has no instance {key}", self.mark.key));
        let Some((member, vdu, index)) = self.mark.find(key) else { return none() };
        let vnf = self.vnfs.iter().find(|v| v.member == member);
        let found = vnf.and_then(|v| Some((v, v.vdur.iter().find(|r| r.vdu == vdu && r.index == index)?)));
        let Some((vnf, vdur)) = found else { return none() };
        if !vdur.name.is_empty() && vdur.name != vdur.vdu {
            return refuse(
                "OSM_UNSUPPORTED",
                format!(
                    "VDU {vdu} of member {member} is named {}: OSM heals only VDUs whose name is their id",
                    vdur.name
                ),
            );
        }
        Ok(Place { vnf: vnf.id.clone(), vdu: vdu.to_owned(), index })
    }
}

impl Osm {
    async fn target(&self, key: &ServiceKey) -> Result<Target, Trouble> {
        let Some((mark, record)) = self.services(Some(key)).await?.into_iter().next() else {
            return refuse("OSM_NO_SERVICE", format!("OSM has no service {key} of ours"));
        };
        let operations = self.operations(Some(&record.id)).await?;
        let vnfs = self.vnfs(Some(&record.id)).await?;
        Ok(Target { mark, record, vnfs, operations })
    }

    /// Waits for what runs; then the service must be there.
    async fn ready(&self, key: &ServiceKey, until: Instant) -> Result<Target, Trouble> {
        loop {
            let target = self.target(key).await?;
            match target.operations.iter().find(|o| o.runs()) {
                Some(running) => drop(self.wait(&running.id, until).await?),
                None if standing(&target.record, target.operations.last())
                    == ServiceState::NotInstantiated =>
                {
                    return refuse("OSM_NO_SERVICE", format!("service {key} is not instantiated"));
                }
                None => return Ok(target),
            }
        }
    }

    fn seen(&self, target: &Target) -> ObservedService {
        self.observed(&target.mark, &target.record, &target.vnfs, &target.operations)
    }

    /// What came of an action that OSM has carried out already.
    fn told(&self, target: &Target, done: &Occurrence) -> Result<ObservedService, Trouble> {
        let told = operation(done);
        if told.state == OperationState::Failed {
            return Err(failed(&done.kind, &told.detail));
        }
        Ok(ObservedService { operation: Some(told), ..self.seen(target) })
    }

    pub(crate) async fn heal_step(
        &self,
        key: &ServiceKey,
        action: &str,
        instances: &BTreeSet<ObjectKey>,
    ) -> Result<ObservedService, Trouble> {
        let until = Instant::now() + self.client.config().deadline();
        let target = self.ready(key, until).await?;
        let cause = cause(action);
        if let Some(done) = target.operations.iter().rev().find(|o| o.kind == "heal" && caused(o, &cause)) {
            return self.told(&target, done);
        }
        if instances.is_empty() {
            return refuse("OSM_NO_INSTANCE", "no instance is named");
        }
        let mut vnfs: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for instance in instances {
            let place = target.place(instance)?;
            let vdu = json!({ "vdu-id": place.vdu, "count-index": place.index, "run-day1": false });
            vnfs.entry(place.vnf).or_default().push(vdu);
        }
        let data: Vec<Value> = vnfs
            .into_iter()
            .map(|(vnf, vdu)| json!({ "vnfInstanceId": vnf, "cause": cause, "additionalParams": { "vdu": vdu } }))
            .collect();
        self.act(key, &target, "heal", &json!({ "healVnfData": data }), until).await
    }

    pub(crate) async fn migrate_step(
        &self,
        key: &ServiceKey,
        instance: &ObjectKey,
        host: &str,
    ) -> Result<ObservedService, Trouble> {
        let until = Instant::now() + self.client.config().deadline();
        let target = self.ready(key, until).await?;
        let place = target.place(instance)?;
        if host.is_empty() {
            // The LCM calls a move to nowhere COMPLETED and does nothing.
            return refuse("OSM_SPEC", format!("no host to move {instance} to"));
        }
        let vdu = json!({ "vduId": place.vdu, "vduCountIndex": place.index });
        let body = json!({ "vnfInstanceId": place.vnf, "migrateToHost": host, "vdu": vdu });
        let anew = |o: &&Occurrence| ["instantiate", "heal", "scale", "update"].contains(&o.kind.as_str());
        let same = |o: &&Occurrence| {
            o.kind == "migrate"
                && o.parameters.get("vdu") == body.get("vdu")
                && o.parameters.get("vnfInstanceId") == body.get("vnfInstanceId")
        };
        let last = target.operations.iter().rev().take_while(|o| !anew(o)).find(same);
        let there = |o: &&Occurrence| {
            o.parameters.get("migrateToHost") == body.get("migrateToHost")
                && state(&o.state) == OperationState::Completed
        };
        if let Some(done) = last.filter(there) {
            return self.told(&target, done);
        }
        self.act(key, &target, "migrate", &body, until).await
    }

    async fn act(
        &self,
        key: &ServiceKey,
        target: &Target,
        what: &str,
        body: &Value,
        until: Instant,
    ) -> Result<ObservedService, Trouble> {
        let path = format!("nslcm/v1/ns_instances/{}/{what}", http_peer::segment(&target.record.id));
        let made: Made = self.client.ask(&Call::post(path, body)).await?;
        match self.wait_begun(what, &made.id, until).await?.0 {
            Ended::Failed(words) | Ended::Cancelled(words) => Err(failed(what, &words)),
            Ended::Done | Ended::Gone => Ok(self.seen(&self.target(key).await?)),
        }
    }
}

/// Our name of an action in OSM's operation: without what the NBI refuses.
fn cause(action: &str) -> String {
    let clean = action.chars().map(|c| if c.is_control() || "'\"".contains(c) { '-' } else { c });
    "Mandate ".chars().chain(clean).take(255).collect()
}

fn caused(o: &Occurrence, cause: &str) -> bool {
    let data = o.parameters.get("healVnfData").and_then(Value::as_array);
    data.is_some_and(|all| all.iter().any(|d| d.get("cause").and_then(Value::as_str) == Some(cause)))
}
