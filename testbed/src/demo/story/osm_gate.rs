//! The gate inside a whole OSM and inside the cloud below it, at once: OSM's own clients ask by the gateway, OSM makes the service as a
//! user of its own in a project that the policy files guard, and OSM asked directly, out of band, gets nothing from nova and neutron.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{
    Act, Story, TENANT,
    cloud::INSTANCES,
    osm::account_of,
    osm_faults::{Mess, short},
    service, text,
};
use crate::{
    demo::nbi::Nbi,
    interrupt,
    up::openstack::{GATED, TENANTS, View},
};

pub(super) const ACTS: &[Act] = &[
    ("operator: found ledger, journal and identities", Story::init_in_cloud),
    ("operator: a project, people and a VIM account in OSM", Story::people_in_osm),
    ("operator: the gate in OpenStack and before OSM", Story::both_gates),
    ("operator: start the orchestrator", Story::serve),
    ("operator: policy files for nova, neutron and glance", Story::policy_files),
    ("provider: pack, sign and register three packages", Story::packages),
    ("OSM's client: upload the packages by the gateway", Story::upload_by_gateway),
    ("OSM asked directly, out of band: refused by the cloud", Story::out_of_band),
    ("OSM's client: instantiate by the gateway", Story::instantiate_by_gateway),
    ("OSM's client: scale; OSM asked directly meanwhile", Story::scale_by_gateway),
    ("OSM's client: migrate by the gateway", Story::migrate_by_gateway),
    ("OSM's client: terminate by the gateway", Story::terminate_by_gateway),
    ("nothing is left in OSM and in the cloud", Story::nothing_behind_gates),
];

const PROJECT: &str = "mandate-edge";
const PASSWORD: &str = "Gw-passw0rd!";
/// A person, and Mandate itself.
const PEOPLE: [&str; 2] = ["mandate-alice", "mandate-orch"];
const ACCOUNT: &str = "mandate-gated";
/// Who OSM is in the cloud.
const CLOUD_USER: &str = "osm-gated";
const SERVICE: &str = "edge-gated";
/// OSM looks at what it makes every 15 s.
const LIMIT: Duration = Duration::from_secs(600);
/// How nova and neutron refuse, as OSM repeats it.
const REFUSED: [&str; 3] = ["disallowed by policy", "Policy doesn't allow", "HTTP 403"];
/// Longer than a service takes.
const DEADLINE_S: u64 = 300;

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn scale(way: &str) -> Value {
    let step = json!({ "member-vnf-index": "vlb", "scaling-group-descriptor": "backends" });
    json!({ "scaleType": "SCALE_VNF", "scaleVnfData": { "scaleVnfType": way, "scaleByStepData": step } })
}

/// Takes away what an earlier run left: people and the project.
fn drop_people(osm: &Nbi) -> anyhow::Result<()> {
    for (many, field, names) in [("users", "username", &PEOPLE[..]), ("projects", "name", &[PROJECT])] {
        let all = osm.ask("GET", &format!("admin/v1/{many}"), &Value::Null)?;
        for one in list(&all).filter(|o| names.iter().any(|n| o[field] == *n)) {
            osm.ask("DELETE", &format!("admin/v1/{many}/{}", text(one, "_id")?), &Value::Null)?;
        }
    }
    Ok(())
}

impl Story {
    /// Somebody at OSM itself.
    fn directly(person: &str) -> anyhow::Result<Nbi> {
        Self::osm()?.as_other(None, [person, PASSWORD, PROJECT])
    }

    /// The person as a client whose URL is the gateway's.
    fn by_gateway(&self) -> anyhow::Result<Nbi> {
        Self::osm()?.as_other(Some(&self.gateway), [PEOPLE[0], PASSWORD, PROJECT])
    }

    pub(super) fn people_in_osm(&mut self) -> anyhow::Result<String> {
        let (osm, view) = (Self::osm()?, View::new()?);
        drop_people(&osm)?;
        osm.ask("POST", "admin/v1/projects", &json!({ "name": PROJECT }))?;
        for person in PEOPLE {
            let roles = json!([{ "project": PROJECT, "role": "system_admin" }]);
            let user = json!({ "username": person, "password": PASSWORD, "project_role_mappings": roles });
            osm.ask("POST", "admin/v1/users", &user)?;
        }
        self.mess.get_or_insert_with(Mess::default).users = vec![CLOUD_USER];
        view.user(CLOUD_USER, TENANTS[0], "admin")?;
        let own = Self::directly(PEOPLE[1])?;
        let made = own.make_account(&account_of(ACCOUNT, (CLOUD_USER, TENANTS[0]), json!({}))?)?;
        ensure!(made.enabled, "OSM cannot use the testbed's cloud: {}", made.detail);
        self.mess.iter_mut().for_each(|m| m.accounts.push((own.clone(), ACCOUNT)));
        self.osm_before = own.all()?;
        let site = self.sites.first().context("a site")?.0;
        self.tell_of_osm(&own, &[(site, ACCOUNT)], DEADLINE_S)?;
        Ok(format!("project {PROJECT}; OSM is {CLOUD_USER} in {}", TENANTS[0]))
    }

    pub(super) fn both_gates(&mut self) -> anyhow::Result<String> {
        let view = View::new()?;
        let (port, gateway) = (free_port()?, free_port()?);
        self.gateway = format!("http://127.0.0.1:{gateway}/osm");
        let pki = |file: &str| view.pki(file).display().to_string();
        let user = |name: &str| view.id_of("users", name);
        let policy = format!(
            "\n[openstack_policy]\nlisten = \"127.0.0.1:{port}\"\nurl = \"https://127.0.0.1:{port}\"\ncertificate = {:?}\nkey = {:?}\n\
             client_ca = {:?}\n\n[openstack_policy.cloud.yoga]\nsites = [{:?}]\nprojects = [{:?}]\nusers = [{:?}]\nmano_users = [{:?}]\n\
             service_users = [{:?}]\n",
            pki("policy.crt"),
            pki("policy.key"),
            pki("ca.crt"),
            self.sites.first().context("a site")?.0,
            view.id_of("projects", TENANTS[0])?,
            user("mandate")?,
            user(CLOUD_USER)?,
            user("neutron")?
        );
        let home = self.stage.mandate.home().join("pki").join(TENANT);
        let person = |file: &str| home.join(file).display().to_string();
        let before_osm = format!(
            "\n[osm_gateway]\nlisten = \"127.0.0.1:{gateway}\"\n\n[osm_gateway.project.{PROJECT}]\ntenant = {TENANT:?}\n\
             sla = {{ throughput_kbps = 4000, latency_p95_us = 100000, loss_ppm = 10000 }}\nsensitivity = \"internal\"\nlease_s = 86400\n\n\
             [osm_gateway.identity.\"{}@{PROJECT}\"]\ncertificate = {:?}\nkey = {:?}\n",
            PEOPLE[0],
            person("tenant.crt"),
            person("tenant.key")
        );
        self.configure(&(policy + &before_osm))?;
        Ok(format!("answers on ports {port} and {gateway}"))
    }

    pub(super) fn policy_files(&mut self) -> anyhow::Result<String> {
        let view = View::new()?;
        for service in GATED {
            let file = self.stage.mandate.text(&["openstack", "policy", "--service", service], false)?;
            fs::write(view.policy_file(service), file)?;
        }
        let body = json!({ "network": { "name": "out-of-band" } });
        let (status, said) = view.answer(("admin", "admin"), "neutron", ("POST", "/v2.0/networks", &body))?;
        ensure!(status == 201, "an unmanaged project notices it: {status} {said}");
        view.drop_network(&text(&said["network"], "id")?)?;
        for who in [CLOUD_USER, "mandate", TENANTS[0]] {
            let (status, said) =
                view.answer((who, TENANTS[0]), "neutron", ("POST", "/v2.0/networks", &body))?;
            ensure!(status == 403, "{who} makes a network without an operation: {status} {said}");
        }
        Ok(format!(
            "403 for {CLOUD_USER}, Mandate's own user and the tenant; another project notices nothing"
        ))
    }

    pub(super) fn upload_by_gateway(&mut self) -> anyhow::Result<String> {
        let client = self.by_gateway()?;
        for name in super::setup::PACKAGES {
            let list = if name.ends_with("_ns") {
                "nsd/v1/ns_descriptors_content"
            } else {
                "vnfpkgm/v1/vnf_packages_content"
            };
            let made = client.upload(list, &self.stage.path("provider").join(format!("{name}.tar.gz")))?;
            text(&made, "id")?;
        }
        Ok("three packages, each known to the ledger".into())
    }

    /// What a client asks for; `direct`: of OSM itself.
    fn asked(&self, client: &Nbi, name: &str, direct: bool) -> anyhow::Result<Value> {
        let nsd = client.ask("GET", "nsd/v1/ns_descriptors?id=secure_edge_ns", &Value::Null)?;
        let vim = client.ask("GET", &format!("admin/v1/vim_accounts?name={ACCOUNT}"), &Value::Null)?;
        let rules = json!([{ "id": "https", "from": "outside", "action": "allow", "protocol": 6,
            "destination": "203.0.113.10/32", "destination_ports": "443" }]);
        let vips = json!([{ "id": "https", "address": "203.0.113.10", "protocol": 6, "port": 443 }]);
        let mut ns = json!({ "nsName": name, "nsdId": text(&nsd[0], "_id")?, "vimAccountId": text(&vim[0], "_id")?,
            "nsDescription": "default description" });
        ns["additionalParamsForVnf"] = match direct {
            // What the packages' cloud-init asks for.
            true => ["vfw", "vlb"].map(|m| json!({ "member-vnf-index": m, "additionalParams": { "mandate_day0": ["e30=", "e30="] } })).into(),
            false => json!([{ "member-vnf-index": "vfw", "additionalParams": { "rules": rules } },
                { "member-vnf-index": "vlb", "additionalParams": { "vips": vips } }]),
        };
        Ok(ns)
    }

    /// Waits as `osm --wait` does.
    fn operation_of(client: &Nbi, id: &str) -> anyhow::Result<Value> {
        interrupt::wait_for(&format!("OSM's operation {id} does not end"), LIMIT, || {
            let found = client.ask("GET", &format!("nslcm/v1/ns_lcm_op_occs/{id}"), &Value::Null)?;
            std::thread::sleep(Duration::from_millis(500));
            Ok((found["operationState"] != "PROCESSING").then_some(found))
        })
    }

    pub(super) fn instantiate_by_gateway(&mut self) -> anyhow::Result<String> {
        let client = self.by_gateway()?;
        let made =
            client.ask("POST", "nslcm/v1/ns_instances_content", &self.asked(&client, SERVICE, false)?)?;
        let ended = Self::operation_of(&client, &text(&made, "nslcmop_id")?)?;
        ensure!(ended["operationState"] == "COMPLETED", "{}", ended["errorMessage"]);
        let record = client.ask("GET", &format!("nslcm/v1/ns_instances?name={SERVICE}"), &Value::Null)?;
        ensure!(record[0]["nsState"] == "READY", "its state is {}", record[0]["nsState"]);
        ensure!(record[0]["_id"] == made["id"], "another record: {}", record[0]["_id"]);
        let active = View::new()?.active()?;
        ensure!(active == INSTANCES, "{INSTANCES} servers are to be ACTIVE, and {active} are");
        let operation = self.last_of(SERVICE)?;
        self.verified(&operation)?;
        self.report.evidence.verified = true;
        Ok(format!(
            "COMPLETED and READY for the client, {active} servers ACTIVE, evidence anchored: {}",
            self.in_cloud()?
        ))
    }

    /// The service's last operation, anchored.
    fn last_of(&self, service: &str) -> anyhow::Result<String> {
        let operation = interrupt::wait_for("the operation is not anchored", LIMIT, || {
            let ns = self.ns(service)?;
            let last = list(&ns["operations"]).max_by_key(|o| o["accepted_at_ms"].as_u64()).cloned();
            Ok(last.filter(|o| o["anchored"] == true))
        })?;
        service::completed(&operation)?;
        text(&operation, "id")
    }

    /// OSM does what it is told, as the same user with the same account: nova and neutron refuse it. What OSM says of it.
    fn refused_directly(&self, name: &str, more: &Value) -> anyhow::Result<String> {
        let osm = Self::directly(PEOPLE[0])?;
        let mut asked = self.asked(&osm, name, true)?;
        for (field, value) in more.as_object().into_iter().flatten() {
            asked[field] = value.clone();
        }
        let made = osm.ask("POST", "nslcm/v1/ns_instances_content", &asked)?;
        let ended = Self::operation_of(&osm, &text(&made, "nslcmop_id")?)?;
        let said = [&ended["errorMessage"], &ended["detailed-status"]].map(ToString::to_string).join(" ");
        ensure!(ended["operationState"] == "FAILED", "OSM made it out of band: {ended}");
        ensure!(REFUSED.iter().any(|w| said.contains(w)), "it did not fail for the policy: {said}");
        let ns = text(&made, "id")?;
        let ending = osm.ask("POST", &format!("nslcm/v1/ns_instances/{ns}/terminate"), &json!({}))?;
        Self::operation_of(&osm, &text(&ending, "id")?)?;
        osm.ask("DELETE", &format!("nslcm/v1/ns_instances/{ns}?FORCE=True"), &Value::Null)?;
        Ok(said)
    }

    pub(super) fn out_of_band(&mut self) -> anyhow::Result<String> {
        let before = self.in_cloud()?;
        let said = self.refused_directly("out-of-band", &Value::Null)?;
        let seen = self.in_cloud()?;
        ensure!(seen == before, "and something is there: {seen}");
        Ok(short(&said))
    }

    /// While an operation of the service waits for OSM, OSM makes what that operation planned, on the same links, and nothing else.
    pub(super) fn scale_by_gateway(&mut self) -> anyhow::Result<String> {
        let client = self.by_gateway()?;
        let names = self.in_cloud()?.networks;
        let link =
            |of: &str| names.iter().find(|n| n.contains(of)).with_context(|| format!("no {of} in {names:?}"));
        let (outside, inside, backends) = (link("client_side")?, link("inspected")?, link("backends")?);
        let theirs = json!({
            "vld": [{ "name": "client_side", "vim-network-name": outside }, { "name": "inspected", "vim-network-name": inside }],
            "vnf": [{ "member-vnf-index": "vlb", "internal-vld": [{ "name": "backends", "vim-network-name": backends }] }],
        });
        let scaling = self.ask_gateway(&client, "scale", &scale("SCALE_OUT"))?;
        let said = self.refused_directly("at-the-same-time", &theirs)?;
        ensure!(said.contains("create_port"), "a port is what had to be refused: {said}");
        self.scaled(&client, &scaling, INSTANCES + 1)?;
        let scaling = self.ask_gateway(&client, "scale", &scale("SCALE_IN"))?;
        self.scaled(&client, &scaling, INSTANCES)?;
        Ok(format!("to {} and back; meanwhile, out of band: {}", INSTANCES + 1, short(&said)))
    }

    fn scaled(&self, client: &Nbi, operation: &str, right: usize) -> anyhow::Result<()> {
        let ended = Self::operation_of(client, operation)?;
        ensure!(ended["operationState"] == "COMPLETED", "{}", ended["errorMessage"]);
        let active = View::new()?.active()?;
        ensure!(active == right, "{right} servers are right, and {active} are ACTIVE");
        Ok(())
    }

    fn ask_gateway(&self, client: &Nbi, what: &str, body: &Value) -> anyhow::Result<String> {
        let record = client.ask("GET", &format!("nslcm/v1/ns_instances?name={SERVICE}"), &Value::Null)?;
        let path = format!("nslcm/v1/ns_instances/{}/{what}", text(&record[0], "_id")?);
        text(&client.ask("POST", &path, body)?, "id")
    }

    /// OSM's move to another cloud is one that Mandate refuses, before anything is done.
    pub(super) fn migrate_by_gateway(&mut self) -> anyhow::Result<String> {
        let (client, before) = (self.by_gateway()?, self.in_cloud()?);
        let record = client.ask("GET", &format!("nslcm/v1/ns_instances?name={SERVICE}"), &Value::Null)?;
        let path = format!("nslcm/v1/vnf_instances?nsr-id-ref={}", text(&record[0], "_id")?);
        let vnf = text(&client.ask("GET", &path, &Value::Null)?[0], "_id")?;
        let asked = self.ask_gateway(&client, "migrate", &json!({ "vnfInstanceId": vnf }));
        let said = match asked {
            Ok(id) => {
                let ended = Self::operation_of(&client, &id)?;
                ensure!(ended["operationState"] == "FAILED", "it moved to nowhere: {ended}");
                ended["errorMessage"].to_string()
            }
            Err(e) => format!("{e:#}"),
        };
        let seen = self.in_cloud()?;
        ensure!(seen == before, "it was refused, and something changed: {seen}");
        Ok(short(&said))
    }

    pub(super) fn terminate_by_gateway(&mut self) -> anyhow::Result<String> {
        let client = self.by_gateway()?;
        let record = client.ask("GET", &format!("nslcm/v1/ns_instances?name={SERVICE}"), &Value::Null)?;
        let ns = text(&record[0], "_id")?;
        client.ask("POST", "nslcm/v1/ns_instances_terminate", &json!({ "ns_ids": [ns] }))?;
        interrupt::wait_for("the service does not go", LIMIT, || {
            std::thread::sleep(Duration::from_millis(500));
            let all = client.ask("GET", "nslcm/v1/ns_instances", &Value::Null)?;
            Ok(list(&all).next().is_none().then_some(()))
        })?;
        Ok("ns_instances_terminate; no record for the client".into())
    }

    pub(super) fn nothing_behind_gates(&mut self) -> anyhow::Result<String> {
        interrupt::wait_for("the service's end is not anchored", LIMIT, || {
            let all = self.stage.mandate.ask(&["operation", "list", "--open"])?;
            Ok(list(&all).next().is_none().then_some(()))
        })?;
        self.nothing_left()?;
        if let Some(mess) = self.mess.take() {
            mess.clear()?;
        }
        drop_people(&Self::osm()?)?;
        Ok("no service, package, account, server, network, port, image or allocation; the policy files are gone".into())
    }
}
