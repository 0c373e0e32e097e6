//! The conformance suite on the fake, the suite on fakes that break a promise, and the fake's faults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::time::{Duration, Instant};

use async_trait::async_trait;
use trust::Digest;
use vim::{
    Capabilities, Disposition, DriverError, ImageSpec, Inventory, Kind, NetworkSpec, ObjectKey, Observed,
    Resources, Scope, Spec, VimDriver, VnfControl,
    conformance::{self, Fixture},
    fake::{Call, FakeVim, Fault},
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
            _ => self.vim.remove(key, kind).await,
        }
    }
    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError> {
        self.vim.observe(if self.how == Broken::ScopeIgnored { &Scope::All } else { scope }).await
    }
}

struct Fake(Broke);

#[async_trait]
impl Fixture for Fake {
    fn driver(&self) -> &dyn VimDriver {
        &self.0
    }
    fn control(&self) -> &dyn VnfControl {
        &self.0.vim
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
    let report = conformance::run(async || Ok(Fake(Broke { vim: fake(), how })), None).await;
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
        (Broken::SilentlyAccepts, "errors_carry_code_and_disposition"),
    ] {
        let failures = run(how).await;
        assert!(failures.iter().any(|f| f.starts_with(case)), "{case} not among {failures:?}");
    }
}

fn net() -> (ObjectKey, Spec) {
    let key = ObjectKey::new("ns/link").unwrap();
    (key, Spec::Network(NetworkSpec { name: "link".into(), mtu: 1500, interconnect: None }))
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
    let spec = Spec::Image(ImageSpec { name: "i".into(), digest: images()[0] });
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
