//! Evidence bundles: a good one verifies and tells its story; every flipped byte is found and its line named
//! (`--ignored` for all of them). What an orchestrator could lie about: `lies.rs`.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;
mod operation;

use common::*;
use ledger_contract::verify_bundle;
use operation::*;
use trust::Digest;

#[test]
fn a_good_bundle_tells_its_story() {
    let op = operation();
    let it = op.verify().unwrap();
    assert_eq!((it.operation_id.as_str(), it.outcome.as_str(), it.steps), ("op-1", "COMPLETED", 2));
    assert_eq!((it.site.as_deref(), it.attested), (Some("edge-1"), Some(true)));
    assert_eq!(it.tenant_identity.to_string(), "alice@acme");
    assert_eq!(it.orchestrator_identity.to_string(), "orchestrator-1@op");
    assert!(it.slo.iter().all(|o| o.kept) && it.slo.len() == 7);
    assert_eq!(it.anchored, (7, NOW.plus(60)));
    assert!(it.checks.iter().all(|c| c.ok), "{:#?}", it.checks);
    let names: Vec<_> = it.checks.iter().map(|c| c.name.as_str()).collect();
    for expected in [
        "line 1 (decision)",
        "line 3 (steps 1 to 2)",
        "step 2, ensure compute vfw",
        "attestation: NONCE",
        "measurement: loss_ppm",
        "receipt: inclusion",
    ] {
        assert!(names.contains(&expected), "{expected} is not among {names:?}");
    }
}

/// What earlier versions wrote: a line for each step.
#[test]
fn a_line_for_each_step_tells_the_same() {
    let mut op = operation();
    let now = op.verify().unwrap();
    op.a_line_each = true;
    let it = op.verify().unwrap();
    assert_eq!((it.outcome, it.steps, it.attested, it.slo), (now.outcome, now.steps, now.attested, now.slo));
    let names: Vec<_> = it.checks.iter().map(|c| c.name.as_str()).collect();
    assert!(names.contains(&"line 4 (step 2, ensure compute vfw)"), "{names:?}");
}

/// Where a byte of the bundle is: `line n` or `receipt`.
fn part(bytes: &[u8], at: usize) -> String {
    let line = bytes[..at].iter().filter(|b| **b == b'\n').count();
    let lines = bytes.iter().filter(|b| **b == b'\n').count();
    if line + 1 == lines { "receipt".to_owned() } else { format!("line {}", line + 1) }
}

/// Every byte; `a_flipped_byte_is_found_and_named` does a sample of them each time.
#[test]
#[ignore = "takes five minutes: verifies the bundle once for each of its bytes"]
fn every_flipped_byte_is_found_and_named() {
    flip(1);
}

#[test]
fn a_flipped_byte_is_found_and_named() {
    flip(61);
}

fn flip(stride: usize) {
    let op = operation();
    let bytes = op.bundle();
    for i in (0..bytes.len()).filter(|i| i % stride == 0 || bytes[*i] == b'\n') {
        let mut changed = bytes.clone();
        changed[i] ^= 1;
        let Err(error) = verify_bundle(&changed, &op.w.roots) else { panic!("byte {i} went unnoticed") };
        if bytes[i] != b'\n' {
            let named = error.place.split(' ').take(2).collect::<Vec<_>>().join(" ");
            assert_eq!(named, part(&bytes, i), "byte {i}: {error}");
        }
    }
}

#[test]
fn every_cut_is_found() {
    let op = operation();
    let bytes = op.bundle();
    for end in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
        assert!(verify_bundle(&bytes[..end], &op.w.roots).is_err(), "cut at {end}");
    }
    assert!(verify_bundle(&[&bytes[..], b"\n"].concat(), &op.w.roots).is_err());
}

#[test]
fn an_error_says_which_line_and_what() {
    let op = operation();
    let bytes = op.bundle();
    let line = |n: usize| bytes.split(|b| *b == b'\n').take(n).map(|l| l.len() + 1).sum::<usize>();
    let sig = String::from_utf8_lossy(&bytes[line(2)..]).find("\"sig\":\"").unwrap() + line(2) + 40;
    let mut changed = bytes.clone();
    changed[sig] = if changed[sig] == b'A' { b'B' } else { b'A' };
    let error = verify_bundle(&changed, &op.w.roots).unwrap_err().to_string();
    assert!(error.starts_with("line 3 (steps 1 to 2): signature 0 does not verify"), "{error}");
    let path = String::from_utf8_lossy(&bytes).rfind("\"path\":[\"sha256:").unwrap() + 20;
    let mut changed = bytes.clone();
    changed[path] = if changed[path] == b'a' { b'b' } else { b'a' };
    let error = verify_bundle(&changed, &op.w.roots).unwrap_err().to_string();
    assert!(error.starts_with("receipt: inclusion proof of entry 7 of 9"), "{error}");
}

#[test]
fn a_rolled_back_operation_is_evidence_too() {
    let mut op = operation();
    op.step(0).state = "UNDONE".into();
    op.step(1).state = "UNDONE".into();
    op.told.truncate(2);
    op.told.push(failed(3, "attest", ""));
    op.anchor.sla_met = None;
    op.end("ROLLED_BACK");
    let it = op.verify().unwrap();
    assert_eq!(
        (it.outcome.as_str(), it.problem.as_deref(), it.attested),
        ("ROLLED_BACK", Some("no space"), None)
    );
    assert!(it.checks.iter().any(|c| !c.ok && c.name == "step 3, attest"));
}

#[test]
fn a_refused_measurement_is_told_with_its_failure_and_decides_about_the_sla() {
    let mut op = operation();
    op.measure(|m| drop(m.report.groups.remove("in")));
    op.told.push(failed(4, "measure", "probe"));
    op.step(0).state = "UNDONE".into();
    op.step(1).state = "UNDONE".into();
    op.end("ROLLED_BACK");
    assert!(op.problem().contains("SLA met: Some(true), the last measurement: Some(false)"));
    op.anchor.sla_met = None;
    assert!(op.problem().contains("SLA met: None, the last measurement: Some(false)"));
    op.anchor.sla_met = Some(false);
    let it = op.verify().unwrap();
    assert!(it.slo.iter().any(|o| !o.kept));
}

#[test]
fn where_an_instance_was_found_is_shown() {
    let mut op = operation();
    let observed = &mut op.step(1).observed;
    observed["whereabouts"] = serde_json::json!({ "host": "compute-1", "group": { "satisfied": true } });
    observed["links"] = serde_json::json!({
        "mgmt": { "binding": { "vif_type": "ovs" } },
        "sr": { "binding": { "vif_type": "hw_veb", "pci_slot": "0000:81:10.1" } },
    });
    let it = op.verify().unwrap();
    let told = it.checks.iter().find(|c| c.name == "step 2, ensure compute vfw").unwrap();
    let wanted = "DONE: on compute-1, mgmt ovs, sr hw_veb 0000:81:10.1, its group satisfied";
    assert_eq!((told.ok, told.detail.as_str()), (true, wanted));
}

#[test]
fn what_could_not_be_measured_is_said_to_whoever_verifies() {
    let mut op = operation();
    op.plan.steps.pop();
    op.told.pop();
    op.anchor.sla_met = None;
    op.plan.unmeasured = Some("the functions at site edge-1 cannot be asked".into());
    let it = op.verify().unwrap();
    assert_eq!((it.outcome.as_str(), it.slo.len()), ("COMPLETED", 0));
    let told = it.checks.iter().find(|c| c.name == "plan: not measured").unwrap();
    assert!(!told.ok && told.detail.contains("cannot be asked"), "{told:?}");
}

#[test]
fn a_service_that_was_isolated_is_evidence_too() {
    let mut op = operation();
    op.refuse_attestation();
    op.told.truncate(3);
    op.told.extend([failed(3, "attest", ""), Told::Step(step(5, "isolate", "vfw"))]);
    (op.anchor.isolated, op.anchor.sla_met) = (true, None);
    op.end("FAILED");
    let it = op.verify().unwrap();
    assert_eq!((it.outcome.as_str(), it.attested), ("FAILED", Some(false)));
    op.told.pop();
    let problem = op.problem();
    assert!(problem.contains("isolated, but step 5 (isolate vfw) is not told"), "{problem}");
}

#[test]
fn a_scaling_is_evidence_too() {
    let op = scaling();
    assert_eq!(op.verify().unwrap().grant.action, "scale");
}

#[test]
fn evidence_of_another_operation_does_not_fit_this_receipt() {
    let (one, mut two) = (operation(), operation());
    two.plan.plan = Digest::of("another plan");
    let receipt = |bytes: &[u8]| bytes[..bytes.len() - 1].rsplit(|b| *b == b'\n').next().unwrap().to_vec();
    let mixed = [one.body(), receipt(&two.bundle()), b"\n".to_vec()].concat();
    let error = verify_bundle(&mixed, &one.w.roots).unwrap_err().to_string();
    assert!(error.starts_with("receipt: bundle digest: anchored"), "{error}");
}
