//! What a site answers: evidence signed with a software key over what its VIM runs, and traffic as a profile asks.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, Weak},
};

use attestation::{AkRecord, Claim, Evidence, Measurement, MeasurementKind, ak, log};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use dataplane_control::traffic::{Expectation, GroupReport, TrafficProfile, TrafficReport};
use futures::FutureExt as _;
use trust::{
    Digest, Signer, UnixTime,
    identity::public_key,
    issue::{ca, member},
};
use vim::{ObjectKey, Observed, Scope, VimDriver as _, fake::FakeVim};

const PCR: u8 = 13;
const BASELINE: Digest = Digest([0; 32]);

/// What is wrong with the next evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tamper {
    /// It answers an older challenge.
    Nonce,
    /// Another key than the registered one signs.
    Key,
    /// Another binary was started.
    Image,
    /// Another rule set is in force.
    Configuration,
}

/// What happens to the traffic of the next measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// As promised.
    Good,
    /// It follows the rules, too slowly.
    Slow,
    /// A flow that no rule allows comes back.
    Leak,
    /// A flow is answered by another backend than Maglev names.
    Misrouted,
}

/// The answers of one site.
pub struct Answers {
    /// One for each challenge; `None` answers as it should be.
    pub tampers: Mutex<VecDeque<Option<Tamper>>>,
    pub traffic: Mutex<VecDeque<Traffic>>,
}

/// Lets a site answer, and gives the script of what goes wrong.
pub fn answer(site: &str, vim: &Arc<FakeVim>) -> Arc<Answers> {
    let answers = Arc::new(Answers { tampers: Mutex::default(), traffic: Mutex::default() });
    let (own, weak, key) = (answers.clone(), Arc::downgrade(vim), signer(site));
    vim.answer_attest(move |keys, nonce| {
        let tamper = own.tampers.lock().unwrap().pop_front().flatten();
        Ok(evidence(&key, &running(&weak), keys, nonce, tamper))
    });
    let own = answers.clone();
    vim.answer_traffic(move |_, profile| {
        let next = own.traffic.lock().unwrap().pop_front();
        Ok(report(profile, next.unwrap_or(Traffic::Good)))
    });
    answers
}

/// The site's attestation key as the operator registers it.
pub fn record(site: &str, from: UnixTime) -> AkRecord {
    AkRecord {
        site: site.to_owned(),
        public_key: spki(&signer(site)),
        pcr: PCR,
        pcr_baseline: BASELINE,
        not_before: from,
        not_after: from.plus(90 * 86_400),
    }
}

/// A software key, the same for a site of this name wherever it is needed.
fn signer(site: &str) -> Signer {
    let valid = (UnixTime(1_700_000_000), UnixTime(2_000_000_000));
    let authority = ca("tpm", &[9; 32], valid.0, valid.1).unwrap();
    let issued = member(&authority, site, BTreeMap::new(), &Digest::of(site).0, &[1], valid).unwrap();
    Signer::from_pem(&issued.key_pem, &issued.certificate_pem).unwrap()
}

fn spki(signer: &Signer) -> String {
    let point = public_key(signer.certificate()).unwrap().to_sec1_point(false);
    ak::public_key(point.x().unwrap(), point.y().unwrap()).unwrap()
}

fn running(vim: &Weak<FakeVim>) -> BTreeMap<ObjectKey, Observed> {
    let vim = vim.upgrade().unwrap();
    vim.observe(&Scope::All).now_or_never().unwrap().unwrap().objects
}

fn claim(key: &ObjectKey, found: &Observed) -> Claim {
    let Observed::Compute(it) = found else { panic!("{key} is no instance") };
    Claim {
        instance: key.to_string(),
        image: it.image,
        configuration: it.configuration.unwrap(),
        generation: it.generation.unwrap(),
        isolated: it.state == vim::ComputeState::Isolated,
    }
}

fn evidence(
    signer: &Signer,
    running: &BTreeMap<ObjectKey, Observed>,
    keys: &[ObjectKey],
    nonce: &Digest,
    tamper: Option<Tamper>,
) -> Evidence {
    let mut claims: Vec<Claim> = keys.iter().map(|k| claim(k, &running[k])).collect();
    match tamper {
        Some(Tamper::Image) => claims[0].image = Digest::of("another binary"),
        Some(Tamper::Configuration) => claims[0].configuration = Digest::of("another rule set"),
        _ => {}
    }
    let launch = |(seq, c): (usize, &Claim)| {
        let (instance, image, configuration) = (c.instance.clone(), c.image, c.configuration);
        let kind = MeasurementKind::Launch { instance, image, configuration };
        log::encode(&Measurement { seq: seq as u64, kind })
    };
    let lines: Vec<String> = claims.iter().enumerate().map(launch).collect();
    let claims = serde_json::to_string(&claims).unwrap();
    let nonce = if tamper == Some(Tamper::Nonce) { Digest::of("yesterday's") } else { *nonce };
    let value = log::replay(&BASELINE, lines.iter().map(String::as_str)).unwrap().value;
    let attest = quote(&Evidence::qualifying_data(&nonce, &claims).0, &log::quoted_digest(&value).0);
    let other = self::signer("another machine");
    let signer = if tamper == Some(Tamper::Key) { &other } else { signer };
    Evidence {
        signature: STANDARD.encode(signer.sign_bytes(&attest)),
        attest: STANDARD.encode(&attest),
        ak: spki(signer),
        pcr: PCR,
        pcr_baseline: BASELINE,
        log: lines,
        claims,
    }
}

/// `TPMS_ATTEST` of a quote over one PCR of the SHA-256 bank.
fn quote(extra: &[u8; 32], pcr_digest: &[u8; 32]) -> Vec<u8> {
    let mut select = [0; 3];
    select[usize::from(PCR / 8)] = 1 << (PCR % 8);
    let header = [0xff, 0x54, 0x43, 0x47, 0x80, 0x18, 0, 0, 0, 32];
    let clock_and_firmware = [&[0; 16][..], &[1], &[0x20; 8]].concat();
    [&header[..], extra, &clock_and_firmware, &[0, 0, 0, 1, 0, 0x0b, 3], &select, &[0, 32], pcr_digest]
        .concat()
}

fn report(profile: &TrafficProfile, traffic: Traffic) -> TrafficReport {
    let mut groups: BTreeMap<String, GroupReport> = BTreeMap::new();
    for group in &profile.groups {
        let frames = u64::from(group.count) * 8;
        let mut it = GroupReport { flows: group.count, tx_frames: frames, ..GroupReport::default() };
        if let Expectation::Balanced { backends, .. } = &group.expect {
            it.arrived = group.count;
            it.rx_frames = frames;
            it.misrouted = u32::from(traffic == Traffic::Misrouted);
            for flow in 0..group.count as usize {
                *it.backends.entry(backends[flow % backends.len()].number).or_default() += 1;
            }
        } else if traffic == Traffic::Leak {
            (it.arrived, it.rx_frames) = (1, 8);
        }
        groups.insert(group.id.clone(), it);
    }
    let carried: u64 = groups.values().map(|g| g.rx_frames).sum();
    let all: u64 = groups.values().map(|g| g.tx_frames).sum();
    let bits = (u64::from(profile.frame_bytes) + 4) * 8;
    TrafficReport {
        elapsed_us: u64::from(profile.duration_ms) * 1_000,
        tx_frames: carried,
        rx_frames: carried,
        loss_ppm: 0,
        throughput_kbps: u64::from(profile.rate_pps) * bits / 1_000 * carried / all.max(1),
        shortfall_frames: 0,
        latency_p50_us: 100,
        latency_p95_us: if traffic == Traffic::Slow { 10_000_000 } else { 200 },
        latency_p99_us: 10_000_001,
        jitter_us: 10,
        groups,
        neighbours: BTreeMap::new(),
    }
}
