//! The main job on OpenStack, made by OSM: the same service as in [`super::cloud`], by an OSM that `OSM_NBI_URL` names (NBI, LCM
//! and RO, which must reach the testbed's OpenStack). Nothing is left in the cloud or in OSM.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{Act, Story, cloud, service, text};
use crate::{
    demo::nbi::Nbi,
    up::openstack::{self, TENANTS},
};

pub(super) const ACTS: &[Act] = &[
    ("operator: found ledger, journal and identities", Story::init_in_cloud),
    ("operator: a VIM account in OSM for the site", Story::account_in_osm),
    ("operator: start the orchestrator", Story::serve),
    ("provider: pack, sign and register three packages", Story::packages),
    ("tenant: deploy by OSM, read back, anchored", Story::deploy_to_cloud),
    ("OSM has one service of that name, and says that it runs", Story::made_by_osm),
    ("anybody: delete a server; it comes back by itself", Story::heal_in_cloud),
    ("tenant: one more backend, and one less", Story::scale_by_osm),
    ("crash: kill the orchestrator in mid-deploy", Story::crash_in_cloud),
    ("refused: what must be attested", Story::unattested),
    ("tenant: terminate everything", Story::terminate_in_cloud),
    ("nothing is left in OSM", Story::empty_osm),
];

/// OSM's VIM account for the testbed's cloud.
const ACCOUNT: &str = "mandate-testbed";
/// What the testbed's cloud has SR-IOV on.
const PHYSICAL: &str = "physnet2";
/// Longer than anything here takes.
const DEADLINE_S: u64 = 600;

/// The testbed's cloud as OSM wants it told.
pub fn account() -> anyhow::Result<serde_json::Value> {
    account_of(ACCOUNT, ("mandate", TENANTS[0]), json!({}))
}

/// The same for somebody in a project, with more that RO is to know.
pub(super) fn account_of(name: &str, (user, project): (&str, &str), more: Value) -> anyhow::Result<Value> {
    let file = openstack::clouds()?.context("no cloud is up: `cargo testbed up openstack`")?;
    let text = fs::read_to_string(&file)?;
    // Every user of it has the same password, and every cloud the same CA.
    let word = |key: &str| {
        let line = text.lines().find_map(|l| l.trim().strip_prefix(&format!("{key}: ")));
        line.map(str::to_owned).with_context(|| format!("{}: no {key}", file.display()))
    };
    let mut config = json!({ "ca_cert_content": fs::read_to_string(word("cacert")?)?, "dataplane_physical_net": PHYSICAL });
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
    Ok(json!({
        "name": name, "vim_type": "openstack", "vim_url": word("auth_url")?,
        "vim_user": user, "vim_password": word("password")?, "vim_tenant_name": project,
        "config": config,
    }))
}

impl Story {
    pub(super) fn osm() -> anyhow::Result<Nbi> {
        Nbi::named()?.context(
            "no OSM: set OSM_NBI_URL (and OSM_NBI_USER, OSM_NBI_PASSWORD, OSM_NBI_PROJECT, OSM_NBI_CA)",
        )
    }

    pub(super) fn account_in_osm(&mut self) -> anyhow::Result<String> {
        let osm = Self::osm()?;
        let made = osm.make_account(&account()?)?;
        ensure!(made.enabled, "OSM cannot use the testbed's cloud: {}", made.detail);
        self.osm_before = osm.all()?;
        let sites: Vec<(&str, &str)> = cloud::SITES.iter().map(|(site, _)| (*site, ACCOUNT)).collect();
        self.tell_of_osm(&osm, &sites, DEADLINE_S)?;
        Ok(format!("{ACCOUNT} at {}", osm.url()))
    }

    /// Writes `[osm]`: as whom, which account of OSM's for which site, and how long an operation may take.
    pub(super) fn tell_of_osm(
        &self,
        osm: &Nbi,
        sites: &[(&str, &str)],
        deadline_s: u64,
    ) -> anyhow::Result<()> {
        let password = self.stage.path("osm.password");
        osm.password_file(&password)?;
        let [user, _, project] = &osm.login;
        let mut section = format!(
            "\n[osm]\nurl = {:?}\nusername = {user:?}\npassword_file = {:?}\nproject = {project:?}\ndeadline_s = {deadline_s}\n",
            osm.url(),
            password.display().to_string()
        );
        match osm.ca() {
            Some(ca) => section += &format!("cacert = {ca:?}\n"),
            None if osm.url().starts_with("http:") => section += "allow_plain_http = true\n",
            None => {}
        }
        section += "\n[osm.sites]\n";
        for (site, account) in sites {
            section += &format!("{site} = {account:?}\n");
        }
        self.configure(&section)
    }

    /// Writes at the end of `config.toml`, as an operator with an editor does.
    pub(super) fn configure(&self, section: &str) -> anyhow::Result<()> {
        let config = self.stage.mandate.home().join("config.toml");
        Ok(OpenOptions::new().append(true).open(config)?.write_all(section.as_bytes())?)
    }

    /// What OSM says of it: one service, as many instances, and nothing else.
    pub(super) fn made_by_osm(&mut self) -> anyhow::Result<String> {
        let osm = Self::osm()?;
        let ns = self.first()?.ns.clone();
        let all = osm.ask("GET", &format!("nslcm/v1/ns_instances?name={ns}"), &Value::Null)?;
        let records = all.as_array().map_or(0, Vec::len);
        ensure!(records == 1, "{records} network services are called {ns} in OSM");
        let state = text(&all[0]["_admin"], "nsState")?;
        ensure!(state == "INSTANTIATED", "{ns} is {state} in OSM");
        Ok(format!("{ns}: {}", text(&all[0], "nsState")?))
    }

    pub(super) fn scale_by_osm(&mut self) -> anyhow::Result<String> {
        let out = self.scale_in_cloud()?;
        let mut line = service::scale_by("edge-1", "1").to_vec();
        line.push("--in");
        let (operation, _) = self.carried_out(&line)?;
        self.verified(&text(&operation, "id")?)?;
        Ok(out)
    }

    pub(super) fn empty_osm(&mut self) -> anyhow::Result<String> {
        let osm = Self::osm()?;
        self.nothing_in(&osm)?;
        osm.drop_account(ACCOUNT)?;
        Ok("no service, package or account".into())
    }

    /// Nothing is in OSM that was not there before.
    pub(super) fn nothing_in(&self, osm: &Nbi) -> anyhow::Result<()> {
        let left: Vec<String> = osm.all()?.into_iter().filter(|o| !self.osm_before.contains(o)).collect();
        ensure!(left.is_empty(), "left in OSM: {left:?}");
        Ok(())
    }
}
