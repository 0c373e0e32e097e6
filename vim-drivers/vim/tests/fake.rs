//! The conformance suite on the fake, the suite on fakes that break a promise, and the fake's faults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use attestation::Evidence;
use dataplane_control::{
    protocol::Status,
    traffic::{TrafficProfile, TrafficReport},
};
use trust::Digest;
use vim::{
    Capabilities, Capture, CaptureSpec, Changed, ComputeState, Disposition, DriverError, ImageSpec,
    Inventory, Kind, NetworkSpec, ObjectKey, Observed, ObservedCompute, ProcessState, Resources, Scope, Spec,
    Stray, VimDriver, VnfControl,
    conformance::{self, Fixture},
    fake::{Call, FakeVim, Fault, Wans},
};

fn images() -> [Digest; 2] {
    [Digest::of(b"one"), Digest::of(b"two")]
}

fn fake() -> FakeVim {
    FakeVim::new(Resources { vcpus: 8, memory_mib: 1024, instances: 8 }).with_images(images())
}

/// Which promise a driver breaks.
#[derive(Clone, Copy, PartialEq)]
enum Broken {
    None,
    RemoveAbsentFails,
    RemoveDoesNothing,
    ScopeIgnored,
    HalfMadeStays,
    SilentlyAccepts,
    DriftUnseen,
    StraysStay,
    NeverTold,
    CaptureEmpty,
}

struct Broke {
    vim: FakeVim,
    how: Broken,
}

#[async_trait]
impl VimDriver for Broke {
    async fn capabilities(&self) -> Result<Capabilities, DriverError> {
        self.vim.capabilities().await
    }
    async fn ensure(&self, key: &ObjectKey, spec: &Spec) -> Result<Observed, DriverError> {
        let there = self.vim.left().contains(key);
        if self.how == Broken::HalfMadeStays && there {
            let all = self.vim.observe(&Scope::All).await?;
            return Ok(all.objects[key].clone());
        }
        let result = self.vim.ensure(key, spec).await;
        match (self.how, result) {
            (Broken::SilentlyAccepts, Err(_)) => {
                Ok(Observed::Network { up: true, mtu: 0, interconnect: None })
            }
            (_, other) => other,
        }
    }
    async fn remove(&self, key: &ObjectKey, kind: Kind) -> Result<(), DriverError> {
        let there = self.vim.left().contains(key);
        match self.how {
            Broken::RemoveAbsentFails if !there => Err(self.vim.status(key).await.expect_err("absent")),
            Broken::RemoveDoesNothing => Ok(()),
            Broken::StraysStay if !there => Ok(()),
            _ => self.vim.remove(key, kind).await,
        }
    }
    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError> {
        self.vim.observe(if self.how == Broken::ScopeIgnored { &Scope::All } else { scope }).await
    }
    async fn changed(&self, after: u64) -> Changed {
        match self.how {
            Broken::NeverTold => std::future::pending().await,
            _ => self.vim.changed(after).await,
        }
    }
}

#[async_trait]
impl VnfControl for Broke {
    async fn status(&self, key: &ObjectKey) -> Result<Status, DriverError> {
        self.vim.status(key).await
    }
    async fn attest(&self, keys: &[ObjectKey], nonce: &Digest) -> Result<Evidence, DriverError> {
        self.vim.attest(keys, nonce).await
    }
    async fn run_traffic(&self, key: &ObjectKey, p: &TrafficProfile) -> Result<TrafficReport, DriverError> {
        self.vim.run_traffic(key, p).await
    }
    async fn isolate(&self, key: &ObjectKey, on: bool) -> Result<(), DriverError> {
        self.vim.isolate(key, on).await
    }
    async fn announce(&self, key: &ObjectKey) -> Result<(), DriverError> {
        self.vim.announce(key).await
    }
    async fn capture(&self, key: &ObjectKey, spec: &CaptureSpec) -> Result<Capture, DriverError> {
        if self.how == Broken::CaptureEmpty {
            self.vim.capture(key, spec).await?;
        }
        self.vim.capture(key, spec).await
    }
}

struct Fake(Broke, Option<Arc<Wans>>);

fn stray(key: &str) -> Stray {
    let key = ObjectKey::new(key).unwrap();
    Stray { key, kind: Kind::Compute, what: "process".into(), place: "4711".into() }
}

#[async_trait]
impl Fixture for Fake {
    fn driver(&self) -> &dyn VimDriver {
        &self.0
    }
    fn control(&self) -> &dyn VnfControl {
        &self.0
    }
    fn images(&self) -> [Digest; 2] {
        images()
    }
    async fn leave_half_made(&mut self, key: &ObjectKey, spec: &Spec, way: usize) -> Result<bool, String> {
        if way == 0 && spec.kind() != Kind::Image {
            self.0.vim.leave_half_made(key, spec);
        }
        Ok(way == 0 && spec.kind() != Kind::Image)
    }
    async fn crash(&mut self, key: &ObjectKey) -> Result<(), String> {
        self.0.vim.crash(key);
        Ok(())
    }
    async fn make_foreign(&mut self) -> Result<(), String> {
        Ok(())
    }
    async fn foreign_intact(&mut self) -> Result<bool, String> {
        Ok(true)
    }
    async fn emit(&self, key: &ObjectKey, port: usize, frame: &[u8]) -> Result<(), String> {
        self.0.vim.emit(key, port, frame);
        Ok(())
    }
    async fn alter(
        &mut self,
        instance: &ObjectKey,
        network: &ObjectKey,
        image: &ObjectKey,
        way: usize,
    ) -> Result<Option<String>, String> {
        let vim = &self.0.vim;
        if self.0.how == Broken::DriftUnseen && way == 0 {
            return Ok(Some("nothing".into()));
        }
        let compute = |f: fn(&mut ObservedCompute)| {
            vim.alter(instance, |o| {
                if let Observed::Compute(c) = o {
                    f(c)
                }
            })
        };
        let what = match way {
            0 => vim.crash(instance),
            1 => compute(|c| (c.state, c.process) = (ComputeState::Down, ProcessState::Replaced)),
            2 => compute(|c| (c.state, c.process) = (ComputeState::Down, ProcessState::Silent)),
            3 => compute(|c| (c.configuration, c.generation) = (Some(Digest::of(b"?")), Some(5))),
            4 => compute(|c| c.image = Digest::of(b"?")),
            5 => compute(|c| c.state = ComputeState::Isolated),
            6 => compute(|c| c.ports.clear()),
            7 => compute(|c| c.links.values_mut().for_each(|l| l.mtu = 900)),
            8 => vim.alter(network, |o| *o = Observed::Network { up: false, mtu: 1500, interconnect: None }),
            9 => vim.alter(image, |o| *o = Observed::Image { digest: Digest::of(b"?") }),
            10 => vim.vanish(image),
            11 => vim.add_stray(stray("drift/vdu")),
            _ => return Ok(None),
        };
        Ok(Some(format!("way {way} {what:?}")))
    }
    async fn make_stray(&mut self, way: usize) -> Result<Option<String>, String> {
        let Some(key) = ["stays/vdu-9", "gone/vdu", "stray/i0123456789"].get(way) else { return Ok(None) };
        self.0.vim.add_stray(stray(key));
        Ok(Some((*key).into()))
    }
    async fn other_site(&mut self) -> Result<Option<Self>, String> {
        let Some(wans) = &self.1 else { return Ok(None) };
        Ok(Some(Self(Broke { vim: fake().with_wans(wans), how: self.0.how }, Some(wans.clone()))))
    }
    async fn restart(&mut self) -> Result<(), String> {
        Ok(())
    }
    async fn residue(&mut self) -> Result<Vec<String>, String> {
        Ok(self.0.vim.left().iter().map(ToString::to_string).collect())
    }
    async fn close(self) -> Result<(), String> {
        Ok(())
    }
}

async fn run(how: Broken) -> Vec<String> {
    let report = conformance::run(
        async || {
            let wans = Arc::new(Wans::default());
            Ok(Fake(Broke { vim: fake().with_wans(&wans), how }, Some(wans)))
        },
        None,
    )
    .await;
    assert!(report.cases.len() >= 15, "{} cases ran", report.cases.len());
    report.failures()
}

#[tokio::test]
async fn the_fake_conforms() {
    assert_eq!(run(Broken::None).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_suite_finds_each_broken_promise() {
    for (how, case) in [
        (Broken::RemoveAbsentFails, "removing_what_is_absent_succeeds"),
        (Broken::RemoveDoesNothing, "a_removed_service_leaves_nothing"),
        (Broken::ScopeIgnored, "observe_lists_ours_in_scope"),
        (Broken::HalfMadeStays, "ensure_completes_what_is_half_made"),
        (Broken::DriftUnseen, "every_change_behind"),
        (Broken::StraysStay, "strays_are_found"),
        (Broken::NeverTold, "an_end_is_noticed"),
        (Broken::CaptureEmpty, "a_capture_has"),
        (Broken::CaptureEmpty, "joined_links_carry"),
        (Broken::SilentlyAccepts, "errors_carry_code_and_disposition"),
    ] {
        let failures = run(how).await;
        assert!(failures.iter().any(|f| f.starts_with(case)), "{case} not among {failures:?}");
    }
}

fn net() -> (ObjectKey, Spec) {
    let key = ObjectKey::new("ns/link").unwrap();
    (key, Spec::Network(NetworkSpec::new("link", 1500)))
}

#[tokio::test]
async fn faults_come_before_in_the_middle_and_after_the_effect() {
    let vim = fake();
    let (key, spec) = net();
    let faults = [
        Fault::Before(Disposition::Retry),
        Fault::Half(Disposition::Unknown),
        Fault::After(Disposition::Unknown),
    ];
    vim.script(Call::Ensure, Some(&key), faults);
    let before = vim.ensure(&key, &spec).await.unwrap_err();
    assert_eq!((before.code.as_str(), before.disposition), ("INJECTED", Disposition::Retry));
    assert_eq!((vim.effects(&key).made, vim.left().len()), (0, 0));
    vim.ensure(&key, &spec).await.unwrap_err();
    assert_eq!((vim.effects(&key).made, vim.effects(&key).completed), (1, 0));
    let down = vim.observe(&Scope::All).await.unwrap();
    assert_eq!(down.objects[&key], Observed::Network { up: false, mtu: 1500, interconnect: None });
    vim.ensure(&key, &spec).await.unwrap_err();
    assert_eq!((vim.effects(&key).made, vim.effects(&key).completed), (1, 1));
    vim.ensure(&key, &spec).await.unwrap();
    assert_eq!((vim.effects(&key).made, vim.effects(&key).completed), (1, 1));

    vim.script(Call::Remove, None, [Fault::Half(Disposition::Unknown), Fault::After(Disposition::Unknown)]);
    vim.remove(&key, Kind::Network).await.unwrap_err();
    assert_eq!(vim.left(), std::slice::from_ref(&key));
    vim.remove(&key, Kind::Network).await.unwrap_err();
    assert_eq!((vim.left().len(), vim.effects(&key).removed), (0, 1));
    vim.remove(&key, Kind::Network).await.unwrap();
    assert_eq!(vim.effects(&key).removed, 1);
    assert!(vim.done_twice().is_empty());
}

#[tokio::test]
async fn doing_it_twice_is_seen() {
    let vim = fake();
    let (key, spec) = net();
    vim.ensure(&key, &spec).await.unwrap();
    vim.leave_half_made(&key, &spec);
    assert_eq!(vim.done_twice().len(), 1);
}

#[tokio::test]
async fn a_delayed_call_happens_later_and_a_script_is_used_up() {
    let vim = fake();
    let key = ObjectKey::new("ns/image").unwrap();
    let spec = Spec::Image(ImageSpec::new("i", images()[0]));
    vim.script(Call::Ensure, None, [Fault::Delay(Duration::from_millis(50))]);
    let start = Instant::now();
    vim.ensure(&key, &spec).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(50));
    let cut = tokio::time::timeout(Duration::from_millis(10), async {
        vim.script(Call::Remove, None, [Fault::Delay(Duration::from_secs(1))]);
        vim.remove(&key, Kind::Image).await
    });
    assert!(cut.await.is_err(), "a caller may stop waiting");
    vim.remove(&key, Kind::Image).await.unwrap();
    assert_eq!(vim.calls().len(), 3);
}

#[tokio::test]
async fn ten_thousand_services_are_made_altered_observed_and_removed_in_no_time() {
    const SERVICES: usize = 10_000;
    let vim = FakeVim::new(Resources::default()).without_call_list();
    let key = |i: usize| ObjectKey::new(format!("ns-{i}/link")).unwrap();
    let (_, spec) = net();
    let start = Instant::now();
    for i in 0..SERVICES {
        vim.ensure(&key(i), &spec).await.unwrap();
    }
    assert_eq!(vim.observe(&Scope::All).await.unwrap().objects.len(), SERVICES);
    for i in 0..SERVICES {
        assert_eq!(vim.observe(&Scope::Service(format!("ns-{i}"))).await.unwrap().objects.len(), 1);
        vim.remove(&key(i), Kind::Network).await.unwrap();
    }
    assert_eq!(vim.observe(&Scope::All).await.unwrap().objects.len(), 0);
    let counts = [Call::Ensure, Call::Remove, Call::Observe].map(|c| vim.count(c));
    assert_eq!(counts, [SERVICES as u64, SERVICES as u64, SERVICES as u64 + 2]);
    assert!(vim.calls().is_empty() && start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn no_room_is_for_another_site_and_latency_is_of_every_call() {
    let vim = fake();
    let (key, spec) = net();
    vim.script(Call::Ensure, Some(&key), [Fault::NoRoom]);
    let refused = vim.ensure(&key, &spec).await.unwrap_err();
    assert_eq!((refused.code.as_str(), refused.disposition), ("NO_VALID_HOST", Disposition::Elsewhere));
    assert_eq!(vim.effects(&key).made, 0);
    vim.latency(Call::Ensure, Duration::from_millis(30));
    let start = Instant::now();
    let all = (0..200).map(|_| vim.ensure(&key, &spec));
    futures::future::join_all(all).await.into_iter().for_each(|r| drop(r.unwrap()));
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(30) && elapsed < Duration::from_secs(3), "{elapsed:?}");
}
