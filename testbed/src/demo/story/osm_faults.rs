//! What goes wrong inside a whole OSM while it makes services: no host has room any more, a quota is used up, its LCM, RO or NBI is
//! killed and started again, its LCM hangs until our deadline has passed, somebody wants it cancelled; and a service whose members
//! are at two VIM accounts. In the end there are exactly the servers of the plan, or there is a clear failure and nothing.
//!
//! The two sites are two projects of the testbed's cloud, each with a host of its own as its zone. `OSM_CONTROL` names what kills.

use std::{
    env, fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;

use super::{Act, Story, TENANT, cloud::INSTANCES, osm::account_of, service, text};
use crate::{
    demo::nbi::{CONTROL, Nbi},
    interrupt,
    up::openstack::{HOSTS, Seen, TENANTS, View},
};

pub(super) const SITES: &[(&str, &str)] = &[
    ("cloud-a", "DE,latency-us=3000,cost=6,cloud=mandate"),
    ("cloud-b", "DE,latency-us=3000,cost=9,cloud=mandate-b"),
];

pub(super) const ACTS: &[Act] = &[
    ("operator: found ledger, journal and identities", Story::init_in_cloud),
    ("operator: two VIM accounts in OSM for two sites", Story::two_accounts),
    ("operator: start the orchestrator", Story::serve),
    ("provider: pack, sign and register three packages", Story::packages),
    ("no host has room when OSM asks: the next site", Story::no_room),
    ("a quota is used up when OSM asks: it is named", Story::quota_inside),
    ("crash: OSM's NBI in mid-deploy", Story::kill_nbi),
    ("crash: OSM's LCM in mid-deploy", Story::kill_lcm),
    ("crash: OSM's RO in mid-deploy", Story::kill_ro),
    ("OSM's LCM hangs until our deadline has passed", Story::hang_lcm),
    ("operator: take a deployment back in mid-deploy", Story::cancel),
    ("tenant: members at two VIM accounts", Story::apart),
    ("nothing is left in OSM and in the cloud", Story::nothing_of_two),
];

/// OSM's VIM accounts, who it is there, and the zones of one host each.
const ACCOUNTS: [&str; 2] = ["mandate-testbed-a", "mandate-testbed-b"];
const USERS: [&str; 2] = ["osm-a", "osm-b"];
const ZONES: [&str; 2] = ["zone-a", "zone-b"];
/// Longer than OSM takes for one of these services, and not much.
const DEADLINE_S: u64 = 100;
/// Until something of a service is there.
const BEGUN: Duration = Duration::from_secs(90);
/// For what OSM forgot: two deadlines, a cancellation, and RO's locks of 300 s.
const LIMIT: Duration = Duration::from_secs(900);
/// Where the two sites' parts of a link meet.
const JOINED: &str = r#"
[wan]
name = "metro-wan"

[[wan.connection]]
a = "cloud-a"
b = "cloud-b"
latency_us = 900
"#;

/// What these plays change in the cloud and in OSM. Dropped, all of it is as it was.
#[derive(Debug, Default)]
pub(super) struct Mess {
    /// Have OSM's services been killed or stopped?
    services: bool,
    /// Names of VIM accounts, and who made them.
    pub(super) accounts: Vec<(Nbi, &'static str)>,
    /// Names of users of the cloud.
    pub(super) users: Vec<&'static str>,
    /// Ids of networks.
    pub(super) networks: Vec<String>,
}

impl Mess {
    pub(super) fn clear(&self) -> anyhow::Result<()> {
        if self.services {
            for service in ["lcm", "ro", "nbi"] {
                Nbi::control("continue", service)?;
                Nbi::control("start", service)?;
            }
        }
        let view = View::new()?;
        view.drop_policies()?;
        view.flavors_by_members(false)?;
        for (host, zone) in HOSTS.iter().zip(ZONES) {
            view.serve_host(host, true)?;
            view.drop_zone(zone)?;
        }
        TENANTS.iter().try_for_each(|project| view.quota(project, None))?;
        for (osm, account) in &self.accounts {
            osm.again()?.drop_account(account)?;
        }
        self.networks.iter().try_for_each(|network| view.drop_network(network))?;
        self.users.iter().try_for_each(|user| view.drop_user(user))
    }
}

impl Drop for Mess {
    fn drop(&mut self) {
        // What cannot be put back is the next play's error.
        let _tried = self.clear();
    }
}

impl Story {
    pub(super) fn two_accounts(&mut self) -> anyhow::Result<String> {
        let (osm, view) = (Self::osm()?, View::new()?);
        self.mess.get_or_insert_with(Mess::default).users = USERS.to_vec();
        view.flavors_by_members(true)?;
        for (n, account) in ACCOUNTS.into_iter().enumerate() {
            view.zone(ZONES[n], HOSTS[n])?;
            // An administrator would see the images of both projects, which have one name.
            view.user(USERS[n], TENANTS[n], "member")?;
            let document =
                account_of(account, (USERS[n], TENANTS[n]), json!({ "availability_zone": ZONES[n] }))?;
            let made = osm.make_account(&document)?;
            ensure!(made.enabled, "OSM cannot use {}: {}", TENANTS[n], made.detail);
            self.mess.iter_mut().for_each(|m| m.accounts.push((osm.clone(), account)));
        }
        self.osm_before = osm.all()?;
        // A VLAN is once on a physical network of one cloud: the two parts of a link are on two.
        let zones =
            [("cloud = \"mandate\"", ZONES[0], "physnet1"), ("cloud = \"mandate-b\"", ZONES[1], "physnet3")];
        self.edit_config(|line| {
            let zone = zones.iter().find(|(cloud, ..)| line.trim() == *cloud);
            let more = |(_, zone, wan): &(&str, &str, &str)| {
                format!("{line}\nzone = {zone:?}\nwan = {{ metro-wan = {wan:?} }}")
            };
            zone.map_or_else(|| line.to_owned(), more)
        })?;
        let sites: Vec<(&str, &str)> = SITES.iter().zip(ACCOUNTS).map(|((site, _), a)| (*site, a)).collect();
        self.tell_of_osm(&osm, &sites, DEADLINE_S)?;
        self.configure(JOINED)?;
        Ok(format!("{} at {}", ACCOUNTS.join(", "), osm.url()))
    }

    /// Submits a deployment and waits until something of it is there; its intent.
    pub(super) fn begun(
        &mut self,
        name: &'static str,
        more: &[&str],
        there: impl Fn(&Seen, &Seen) -> bool,
    ) -> anyhow::Result<String> {
        let before = self.in_cloud()?;
        let params = self.params();
        let line = [self.cloud_deployment(name, &params).as_slice(), more].concat();
        let (id, signed) = self.intent(TENANT, &line)?;
        self.submit(&signed)?;
        interrupt::wait_for(&format!("nothing of {name} began"), BEGUN, || {
            let seen = self.in_cloud()?;
            Ok(there(&seen, &before).then_some(()))
        })?;
        Ok(id)
    }

    /// How it ended: all of it is there, with its evidence, and then goes; or nothing is.
    fn settled(&mut self, name: &'static str, id: &str) -> anyhow::Result<String> {
        let start = Instant::now();
        let operation = self.anchored_within(id, LIMIT)?;
        let took = start.elapsed().as_secs();
        self.verified(&text(&operation, "id")?)?;
        let state = text(&operation, "state")?;
        match state.as_str() {
            "COMPLETED" => {
                let seen = self.in_cloud()?;
                ensure!(seen.servers.len() == INSTANCES, "{INSTANCES} instances, and {seen}");
                self.ended(name)?;
                Ok(format!("{took} s later completed with {INSTANCES} servers; terminated, nothing is left"))
            }
            "ROLLED_BACK" => {
                self.nothing_left()?;
                let problem = text(&operation, "problem")?;
                Ok(format!("{took} s later taken back, nothing is left: {}", short(&problem)))
            }
            other => bail!("{name} ended {other}: {}", operation["problem"]),
        }
    }

    /// Terminates it; nothing is left of it.
    pub(super) fn ended(&mut self, name: &'static str) -> anyhow::Result<()> {
        let (operation, _) = self.carried_out(&["terminate", "--service", name, "--tenant", TENANT])?;
        self.verified(&text(&operation, "id")?)?;
        self.nothing_left()
    }

    pub(super) fn nothing_left(&self) -> anyhow::Result<()> {
        let left = self.in_cloud()?;
        ensure!(left == Seen::default(), "left behind: {left}: {left:?}");
        match self.mess.as_ref().and_then(|m| m.accounts.first()) {
            Some((osm, _)) => self.nothing_in(&osm.again()?),
            None => self.nothing_in(&Self::osm()?),
        }
    }

    pub(super) fn apart(&mut self) -> anyhow::Result<String> {
        let view = View::new()?;
        // Only so does it fit: the firewall here (and one that would measure), the balancer and its backends there.
        view.quota(TENANTS[0], Some(2))?;
        view.quota(TENANTS[1], Some(INSTANCES - 1))?;
        let params = self.params();
        let done = self.carried_out(&self.cloud_deployment("edge-apart", &params));
        TENANTS.iter().try_for_each(|project| view.quota(project, None))?;
        let (operation, _) = done?;
        let (bundle, _) = self.verified(&text(&operation, "id")?)?;
        let mut of_site = [0; 2];
        let steps = service::steps(&fs::read(bundle)?);
        for claim in steps.iter().filter(|c| c["action"] == "ensure compute") {
            let zone = claim["observed"]["whereabouts"]["zone"].as_str().unwrap_or_default();
            let n = ZONES.iter().position(|z| *z == zone);
            of_site[n.with_context(|| format!("in zone `{zone}`: {claim}"))?] += 1;
        }
        ensure!(of_site == [1, INSTANCES - 1], "instances at the two accounts: {of_site:?}");
        self.report.evidence.verified = true;
        let seen = self.in_cloud()?;
        ensure!(seen.servers.len() == INSTANCES, "{INSTANCES} instances, and {seen}");
        self.ended("edge-apart")?;
        Ok(format!("{} and {} servers, {seen}; terminated, nothing is left", of_site[0], of_site[1]))
    }

    pub(super) fn no_room(&mut self) -> anyhow::Result<String> {
        let view = View::new()?;
        let id = self.begun("edge-room", &[], |now, before| now.networks.len() > before.networks.len())?;
        view.serve_host(HOSTS[0], false)?;
        let operation = self.anchored_within(&id, LIMIT);
        view.serve_host(HOSTS[0], true)?;
        let operation = operation?;
        service::completed(&operation)?;
        ensure!(operation["site"] == "cloud-b", "it is at {}", operation["site"]);
        let (bundle, _) = self.verified(&text(&operation, "id")?)?;
        let bundle = fs::read(bundle)?;
        let plans = service::claims(&bundle, "plan");
        ensure!(plans.len() == 2, "{} plans are in the evidence", plans.len());
        let second = plans[1].to_string();
        ensure!(second.contains("No valid host"), "nova's reason is not in the second plan: {second}");
        let seen = self.in_cloud()?;
        ensure!(seen.servers.len() == INSTANCES, "{INSTANCES} instances, and {seen}");
        self.ended("edge-room")?;
        Ok("No valid host at cloud-a, taken back; planned again for cloud-b and made there; both plans are evidence".into())
    }

    pub(super) fn quota_inside(&mut self) -> anyhow::Result<String> {
        let view = View::new()?;
        let at = ["--site", "cloud-a"];
        let id = self.begun("edge-quota", &at, |now, before| now.networks.len() > before.networks.len())?;
        view.quota(TENANTS[0], Some(1))?;
        let operation = self.anchored_within(&id, LIMIT);
        view.quota(TENANTS[0], None)?;
        let operation = operation?;
        ensure!(operation["state"] == "ROLLED_BACK", "it ended {}", operation["state"]);
        let problem = text(&operation, "problem")?;
        ensure!(problem.contains("Quota exceeded for instances"), "the quota is not named: {problem}");
        self.verified(&text(&operation, "id")?)?;
        self.nothing_left()?;
        Ok(format!("nothing is left: {}", short(&problem)))
    }

    /// Kills one of OSM's services when the first server is there, and starts it again.
    fn killed(&mut self, service: &str, name: &'static str) -> anyhow::Result<String> {
        if let Some(skipped) = self.uncontrolled() {
            return Ok(skipped);
        }
        let id = self.begun(name, &[], |now, before| now.servers.len() > before.servers.len())?;
        Nbi::control("kill", service)?;
        let seen = self.in_cloud()?;
        self.note(&format!("{service} was killed with {seen}"));
        Nbi::control("start", service)?;
        self.settled(name, &id)
    }

    /// Without `OSM_CONTROL` nothing is killed.
    fn uncontrolled(&mut self) -> Option<String> {
        self.mess.iter_mut().for_each(|m| m.services = true);
        let named = env::var_os(CONTROL).is_some_and(|v| !v.is_empty());
        (!named).then(|| {
            self.mess.iter_mut().for_each(|m| m.services = false);
            format!(
                "SKIPPED: set {CONTROL} to a program that is called `kill|start|stop|continue nbi|lcm|ro`"
            )
        })
    }

    pub(super) fn kill_lcm(&mut self) -> anyhow::Result<String> {
        self.killed("lcm", "edge-lcm")
    }

    pub(super) fn kill_ro(&mut self) -> anyhow::Result<String> {
        self.killed("ro", "edge-ro")
    }

    pub(super) fn kill_nbi(&mut self) -> anyhow::Result<String> {
        self.killed("nbi", "edge-nbi")
    }

    pub(super) fn hang_lcm(&mut self) -> anyhow::Result<String> {
        if let Some(skipped) = self.uncontrolled() {
            return Ok(skipped);
        }
        let id = self.begun("edge-hang", &[], |now, before| now.servers.len() > before.servers.len())?;
        Nbi::control("stop", "lcm")?;
        let start = Instant::now();
        let noticed = interrupt::wait_for("nobody noticed that OSM hangs", LIMIT, || {
            let status = self.stage.mandate.ask(&["intent", "status", &id])?;
            let problem = status["operation"]["problem"].as_str().unwrap_or_default().to_owned();
            Ok(problem.contains("OSM_DEADLINE").then_some(problem))
        });
        Nbi::control("continue", "lcm")?;
        let (noticed, after) = (noticed?, start.elapsed().as_secs());
        let ended = self.settled("edge-hang", &id)?;
        ensure!(ended.contains("taken back"), "past the deadline, and {ended}");
        Ok(format!("after {after} s: {}; {ended}", short(&noticed)))
    }

    pub(super) fn cancel(&mut self) -> anyhow::Result<String> {
        let id = self.begun("edge-cancel", &[], |now, before| now.servers.len() > before.servers.len())?;
        let status = self.stage.mandate.ask(&["intent", "status", &id])?;
        let operation = text(&status["operation"], "id")?;
        self.stage.mandate.ask(&["operation", "rollback", &operation, "--reason", "another plan"])?;
        let ended = self.settled("edge-cancel", &id)?;
        ensure!(ended.contains("taken back"), "it was to be taken back, and {ended}");
        Ok(ended)
    }

    pub(super) fn nothing_of_two(&mut self) -> anyhow::Result<String> {
        self.nothing_left()?;
        self.mess.take().map_or(Ok(()), |mess| mess.clear())?;
        Ok("no service, package, account, server, network, port, image or allocation".into())
    }
}

/// The beginning of what somebody says.
pub(super) fn short(text: &str) -> String {
    const LONGEST: usize = 160;
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}
