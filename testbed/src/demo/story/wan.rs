//! One service on two sites that a wide-area network joins; its balancer moves to a third while a client talks to it.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};

use super::{Act, Deployed, Story, TENANT, service, text};
use crate::demo::{
    client::{Client, Counts, Traffic},
    traces::Traces,
};

/// The first has room for the firewall and the probe only, so that the rest goes elsewhere.
pub(super) const SITES: &[(&str, &str)] = &[
    ("metro", "DE,latency-us=1000,cost=4,vcpus=2"),
    ("core-1", "DE,latency-us=5000,cost=8,first-uid=210000"),
    ("core-2", "DE,latency-us=6000,cost=9,first-uid=220000"),
];

pub(super) const ACTS: &[Act] = &[
    ("operator: found ledger, journal and identities", Story::init),
    ("operator: join three sites by a wide-area network", Story::join_sites),
    ("operator: a TPM for each site", Story::tpms),
    ("operator: start the orchestrator", Story::serve),
    ("operator: register the sites' attestation keys", Story::enrol),
    ("provider: pack, sign and register three packages", Story::packages),
    ("tenant: deploy across two sites, measured across", Story::deploy_across),
    ("client: talk to it over the wide-area network", Story::talk),
    ("tenant: move the balancer under traffic", Story::move_balancer),
    ("tenant: cut it off at both sites, with captures", Story::isolate_across),
    ("tenant: terminate everything", Story::terminate_across),
];

const SERVICE: &str = "spread";
/// The client's addresses, in the networks of the services.
const CLIENT: [&str; 2] = ["203.0.113.200/24", "2001:db8::200/64"];
/// What it talks to: `testbed/scenarios/wan.params.yaml`.
const SERVICES: [&str; 2] = ["203.0.113.10:7", "[2001:db8::53]:7"];
/// One in so many datagrams may be lost while a member moves: this machine has other work too.
const MOST_LOST: usize = 100;
/// What the client sends before and after a change.
const AROUND: Duration = Duration::from_millis(1500);
const JOINED: &str = r#"
[wan]
name = "metro-wan"

[[wan.connection]]
a = "metro"
b = "core-1"
latency_us = 900

[[wan.connection]]
a = "metro"
b = "core-2"
latency_us = 1200

[[wan.connection]]
a = "core-1"
b = "core-2"
latency_us = 400
"#;

impl Story {
    pub(super) fn join_sites(&mut self) -> anyhow::Result<String> {
        let path = self.stage.mandate.home().join("config.toml");
        let text = fs::read_to_string(&path)?;
        fs::write(&path, text + JOINED).with_context(|| format!("cannot write {}", path.display()))?;
        Ok("metro, core-1, core-2".into())
    }

    pub(super) fn deploy_across(&mut self) -> anyhow::Result<String> {
        let params = self.stage.programs.root.join("testbed/scenarios/wan.params.yaml").display().to_string();
        let line = [
            "deploy",
            "--service",
            SERVICE,
            "--nsd",
            "secure_edge_ns",
            "--tenant",
            TENANT,
            "--params",
            &params,
            "--throughput-kbps",
            "4000",
            "--latency-p95-us",
            "100000",
            "--loss-ppm",
            "10000",
        ];
        let (operation, position) = self.carried_out(&line)?;
        self.first = Some(Deployed {
            ns: text(&operation, "ns_instance_id")?,
            operation: text(&operation, "id")?,
            position,
            site: text(&operation, "site")?,
        });
        self.at("vfw", "metro")?;
        self.at("vlb", "core-1")?;
        let (bundle, _) = self.verified(&text(&operation, "id")?)?;
        self.report.evidence.verified = true;
        let measured = service::measurement(&fs::read(bundle)?).context("it was not measured")?;
        service::check_traffic(&measured)?;
        let found = self.stage.places.look().beyond(&self.empty);
        Ok(format!("firewall at metro, balancer at core-1: {found}; {}", service::slo_words(&measured)))
    }

    /// The first instance of a member answers at this site.
    fn at(&self, member: &str, site: &str) -> anyhow::Result<()> {
        let found = self.instance(SERVICE, &format!("/{member}/{member}/"))?;
        let here = found.control.starts_with(self.stage.places.run_dir(site));
        ensure!(here, "{member} answers at {}, not at {site}", found.control.display());
        Ok(())
    }

    fn client(&self) -> anyhow::Result<Client> {
        let fabric = format!("mdt-{}-fabric", self.stage.places.machine_wide("metro"));
        Client::plug(&fabric, &format!("{}/vl/client_side", self.first()?.ns), &CLIENT)
    }

    pub(super) fn talk(&mut self) -> anyhow::Result<String> {
        let client = self.client()?;
        let traffic = client.talk(&SERVICES)?;
        std::thread::sleep(AROUND);
        let counts = traffic.end()?;
        ensure!(counts.lost * MOST_LOST <= counts.sent && counts.twice == 0, "{}", words(&counts));
        Ok(words(&counts))
    }

    pub(super) fn move_balancer(&mut self) -> anyhow::Result<String> {
        let client = self.client()?;
        let traffic: Traffic = client.talk(&SERVICES)?;
        std::thread::sleep(AROUND);
        let moved = self.carried_out(&[
            "migrate",
            "--service",
            SERVICE,
            "--tenant",
            TENANT,
            "--member",
            "vlb",
            "--site",
            "core-2",
        ]);
        std::thread::sleep(AROUND);
        let counts = traffic.end()?;
        self.note(&words(&counts));
        let (operation, _) = moved?;
        // Who makes before he breaks loses next to nothing; a client that is not told loses all until it asks again.
        ensure!(counts.lost * MOST_LOST <= counts.sent, "moved, and the client noticed: {}", words(&counts));
        self.verified(&text(&operation, "id")?)?;
        self.at("vfw", "metro")?;
        self.at("vlb", "core-2")?;
        Ok(format!("core-1 to core-2 while a client talks: {}", words(&counts)))
    }

    pub(super) fn isolate_across(&mut self) -> anyhow::Result<String> {
        let before = self.stage.places.look();
        let (operation, _) = self.carried_out(&[
            "isolate",
            "--service",
            SERVICE,
            "--tenant",
            TENANT,
            "--capture-ms",
            "300",
            "--reason",
            "drill",
        ])?;
        let after = self.stage.places.look();
        ensure!(before.processes == after.processes, "processes were not kept: {}", before.beyond(&after));
        let (bundle, _) = self.verified(&text(&operation, "id")?)?;
        let claims = service::steps(&fs::read(bundle)?);
        let captures = claims.iter().filter(|c| c["action"] == "capture" && c["state"] == "DONE").count();
        ensure!(
            captures == after.processes.len(),
            "{captures} captures of {} instances",
            after.processes.len()
        );
        let client = self.client()?;
        let traffic = client.talk(&SERVICES)?;
        std::thread::sleep(AROUND);
        let counts = traffic.end()?;
        ensure!(counts.lost == counts.sent, "cut, and yet {}", words(&counts));
        Ok(format!("{captures} captures; then {}", words(&counts)))
    }

    pub(super) fn terminate_across(&mut self) -> anyhow::Result<String> {
        let (operation, _) = self.carried_out(&["terminate", "--service", SERVICE, "--tenant", TENANT])?;
        self.verified(&text(&operation, "id")?)?;
        let left: Traces = self.stage.places.look().beyond(&self.empty);
        ensure!(left.is_empty(), "left behind: {left}: {left:?}");
        Ok("no namespace, link, process or file is left, the exchange neither".into())
    }
}

fn words(c: &Counts) -> String {
    format!("{} datagrams, {} lost, {} twice, longest outage {} ms", c.sent, c.lost, c.twice, c.outage_ms)
}
