//! What happens, in order. Each step is what one of the users does, and what must come of it.

mod attacks;
mod cloud;
mod crash;
mod crowd;
mod ending;
mod fabric;
mod guest;
mod life;
mod osm;
mod osm_faults;
mod osm_gate;
mod osm_sriov;
mod refusals;
mod service;
mod setup;
mod wan;

pub use osm::account as osm_account;

use anyhow::Context as _;
use serde_json::Value;

use super::{
    report::{Report, StepResult},
    stage::Stage,
    traces::Traces,
};
use crate::{
    cli::{DemoOptions, Play},
    interrupt, ui,
    up::{SITES, openstack::Seen},
};

/// The tenant whose services these are.
const TENANT: &str = "acme";
/// Another one.
const OTHER_TENANT: &str = "globex";

/// The demo as it goes.
pub struct Story {
    stage: Stage,
    report: Report,
    json: bool,
    keep: bool,
    /// Have the sites TPMs?
    attests: bool,
    acts: &'static [Act],
    /// Names of the sites, and what `init` is told of each.
    sites: &'static [(&'static str, &'static str)],
    /// The step that is shown.
    step: Option<ui::Step>,
    /// What was on the machine when nothing was deployed.
    empty: Traces,
    /// What was in the cloud before.
    cloud: Seen,
    /// Does an OSM make the services?
    by_osm: bool,
    /// What was in OSM before.
    osm_before: Vec<String>,
    /// What was changed in the cloud and in OSM.
    mess: Option<osm_faults::Mess>,
    /// Where OSM's clients are answered.
    gateway: String,
    /// What one service is, as the first was found.
    one: Traces,
    /// The first service.
    first: Option<Deployed>,
    /// Approvals, exported while they were good.
    approvals: Vec<(&'static str, std::path::PathBuf)>,
    /// Services that live.
    alive: Vec<&'static str>,
    /// The Fabric whose channel is the ledger. The stage, whose orchestrator uses it, ends before it.
    network: Option<fabric::Consortium>,
}

/// A deployment that was carried out.
#[derive(Debug, Clone)]
struct Deployed {
    /// NS instance.
    ns: String,
    /// The operation.
    operation: String,
    /// Position of its decision on the ledger.
    position: u64,
    /// The site chosen.
    site: String,
}

/// Country, latency from the tenants and cost of the two sites of the main job.
const MAIN_SITES: &[(&str, &str)] =
    &[(SITES[0], "DE,latency-us=2000,cost=10"), (SITES[1], "FR,latency-us=8000,cost=8")];

/// What is played, and on which sites.
fn plot(play: Play) -> (&'static [Act], &'static [(&'static str, &'static str)]) {
    match play {
        Play::Main => (ACTS, MAIN_SITES),
        Play::Wan => (wan::ACTS, wan::SITES),
        Play::Fabric => (fabric::ACTS, MAIN_SITES),
        Play::Cloud => (cloud::ACTS, cloud::SITES),
        Play::Crowd => (crowd::ACTS, cloud::SITES),
        Play::Osm => (osm::ACTS, cloud::SITES),
        Play::OsmSriov => (osm_sriov::ACTS, cloud::SITES),
        Play::OsmGate => (osm_gate::ACTS, cloud::SITES),
        Play::OsmFaults => (osm_faults::ACTS, osm_faults::SITES),
        Play::Guest => (guest::ACTS, guest::SITES),
    }
}

/// Names of the sites that a play needs.
pub fn sites(play: Play) -> Vec<&'static str> {
    plot(play).1.iter().map(|(name, _)| *name).collect()
}

/// A step: its name, and what it does; it returns what there is to say of it.
type Act = (&'static str, fn(&mut Story) -> anyhow::Result<String>);

const ACTS: &[Act] = &[
    ("operator: found ledger, journal and identities", Story::init),
    ("operator: a TPM for each site", Story::tpms),
    ("operator: start the orchestrator", Story::serve),
    ("operator: register the sites' attestation keys", Story::enrol),
    ("provider: pack, sign and register three packages", Story::packages),
    ("tenant: deploy, attested, measured, anchored", Story::deploy),
    ("auditor: verify the evidence offline", Story::evidence),
    ("auditor: the same with openssl and jq alone", Story::by_hand),
    ("auditor: find every flipped byte", Story::tamper),
    ("tenant: two more backends", Story::scale),
    ("anybody: kill the firewall; it comes back by itself", Story::heal),
    ("tenant: update, roll back; the bad one is refused", Story::rollback),
    ("crash: kill the orchestrator in mid-deploy", Story::crash),
    ("attack: another binary in the firewall's place", Story::changed_binary),
    ("attack: another rule set behind our back", Story::changed_rules),
    ("attack: an old quote for a new challenge", Story::old_quote),
    ("attack: a quote by a key that was replaced", Story::stale_key),
    ("refused: approvals", Story::approvals_refused),
    ("refused: requests and packages", Story::requests_refused),
    ("tenant: move the service to the other site", Story::migrate),
    ("tenant: cut it off, with a capture", Story::isolate),
    ("tenant: terminate everything", Story::terminate),
];

/// What is deployed for somebody who wants to look around.
const KEPT: Act = ("tenant: deploy a service to look at", Story::deploy_kept);
/// Its name.
const KEPT_SERVICE: &str = "edge-5";

impl Story {
    /// On an empty stage.
    pub fn new(stage: Stage, options: &DemoOptions) -> Self {
        let (acts, sites) = plot(options.play);
        Self {
            stage,
            report: Report::default(),
            json: options.json,
            keep: options.keep,
            attests: matches!(options.play, Play::Main | Play::Wan | Play::Fabric),
            acts,
            sites,
            step: None,
            empty: Traces::default(),
            cloud: Seen::default(),
            osm_before: Vec::new(),
            mess: None,
            gateway: String::new(),
            by_osm: options.play.by_osm(),
            one: Traces::default(),
            first: None,
            approvals: Vec::new(),
            alive: Vec::new(),
            network: None,
        }
    }

    /// What came of it.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// All acts, until one does not hold.
    pub fn play(&mut self) {
        let start = std::time::Instant::now();
        let held = self.acts.iter().chain(self.keep.then_some(&KEPT)).all(|act| self.act(act));
        self.report.ok = held && self.report.evidence.verified;
        if held {
            self.ending(start.elapsed());
        }
    }

    fn act(&mut self, (name, act): &Act) -> bool {
        self.step = Some(ui::Step::begin(name));
        let outcome = interrupt::check().and_then(|()| act(self));
        let (ok, detail) = match &outcome {
            Ok(detail) => (true, detail.clone()),
            Err(_) => (false, String::new()),
        };
        let ms = self.step.take().map_or(0, |step| step.end(ok, &detail));
        self.report.steps.push(StepResult { name: (*name).to_owned(), ok, ms });
        if let Err(e) = outcome {
            ui::error(&e);
            self.report.problem = Some(format!("{e:#}"));
            let log = self.stage.path("serve.log");
            if log.exists() {
                ui::say(&format!("the orchestrator's last words:\n{}", super::mandate::tail(&log)));
            }
        }
        ok
    }

    /// What goes on within a step.
    fn note(&self, text: &str) {
        if let Some(step) = &self.step {
            step.note(text);
        }
    }

    fn first(&self) -> anyhow::Result<&Deployed> {
        self.first.as_ref().context("no service was deployed")
    }

    /// Leaves it running.
    pub fn keep(self) {
        self.stage.keep();
    }
}

/// A text field of an answer.
fn text(value: &Value, key: &str) -> anyhow::Result<String> {
    value[key].as_str().map(str::to_owned).with_context(|| format!("the answer has no `{key}`: {value}"))
}
