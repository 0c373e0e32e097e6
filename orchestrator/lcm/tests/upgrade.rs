//! Journals that version 0.1 wrote open, and what was in flight in them finishes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, sync::Arc};

use crate::common::*;
use crate::world::*;
use lcm::{Command, Event, NsRecord, Operation, fold, operation::FinalState};
use ledger_contract::{IntentKind, intent::ScaleDirection::ScaleOut};
use trust::{Signer, UnixTime, issue};

fn journal(name: &str) -> Vec<Event> {
    let path = format!("{}/tests/fixtures/journal-0.1-{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn signer() -> Signer {
    let (from, to) = (UnixTime(0), UnixTime(2_000_000_000));
    let ca = issue::ca("op", &[1; 32], from, to).unwrap();
    let it = issue::member(&ca, "orchestrator", BTreeMap::new(), &[2; 32], &[2], (from, to)).unwrap();
    Signer::from_pem(&it.key_pem, &it.certificate_pem).unwrap()
}

#[test]
fn a_deployment_of_the_former_version_is_the_service_that_it_was() {
    let operation = Operation::fold(&journal("deploy")).unwrap();
    assert!(operation.is_anchored());
    let record = operation.record().unwrap();
    assert_eq!(record.site, "edge-a");
    assert!(record.objects.iter().all(|o| o.site == "edge-a"), "everything was at the one site");
    assert_eq!(record.objects.len(), 8);
    assert_eq!(record.aks.keys().collect::<Vec<_>>(), ["edge-a"]);
    assert!(record.isolated.is_empty() && record.flows == 64);
    // What is written now says the same.
    let again: NsRecord = serde_json::from_slice(&serde_json::to_vec(&record).unwrap()).unwrap();
    assert_eq!(again, record);
    let body = fold::body(&operation, &signer()).unwrap();
    // A line for each step, as it was closed: what was submitted before an upgrade is submitted again as the same bytes.
    let lines = body.iter().filter(|b| **b == b'\n').count();
    let told = operation.plan.as_ref().unwrap().steps.len();
    assert_eq!(lines, told + 3, "decision, plan, each step, outcome");
    assert_eq!(
        fold::step_lines(&operation).values().copied().collect::<Vec<_>>(),
        (3..told + 3).collect::<Vec<_>>()
    );
}

#[test]
fn every_operation_goes_on_from_it_and_no_mac_changes() {
    let before = Operation::fold(&journal("deploy")).unwrap().record().unwrap();
    let setup = Setup::joined().observing(&before, |_, _| ());
    let scaled = setup
        .plan(
            IntentKind::Scale(match scale(1, ScaleOut) {
                IntentKind::Scale(s) => s,
                _ => unreachable!(),
            }),
            Some(&before),
        )
        .unwrap();
    let whats: Vec<_> = scaled.steps.iter().map(|s| s.what.as_str()).collect();
    assert_eq!(
        whats,
        [
            "attest (as it was)",
            "start vlb/backend/2",
            "start probe/client",
            "measure (baseline)",
            "reconfigure vlb/vlb/0",
            "attest",
            "measure",
            "stop the probe"
        ]
    );
    let kept = setup.plan(heal(vec![]), Some(&before)).unwrap();
    assert_eq!(kept.after.unwrap().objects, before.objects, "an upgrade is no drift");
    for action in
        [update("ns", other_params()), migrate(&[], &[]), isolate(vec![], 0), IntentKind::Terminate {}]
    {
        setup.plan(action, Some(&before)).unwrap();
    }
}

#[test]
fn what_was_in_flight_finishes_or_unwinds_as_it_would_have() {
    for (name, expected) in
        [("scale-half-way", FinalState::Completed), ("scale-unwinding", FinalState::RolledBack)]
    {
        let events = journal(name);
        let mut operation = Operation::fold(&events).unwrap();
        let plan: Arc<lcm::Plan> = operation.plan.clone().unwrap();
        let mut runner = Runner::new(&plan, None, 4);
        runner.journal = events;
        // What the journal says was done stands.
        for step in &plan.steps {
            if let (lcm::Action::Ensure { key, spec }, Some(lcm::operation::StepState::Done(_))) =
                (&step.action, operation.step_state(step.id))
            {
                runner.world.objects.insert(("edge-a".into(), key.to_string()), (**spec).clone());
            }
        }
        operation = runner.run(&[3]);
        assert_eq!(operation.outcome.as_ref().unwrap().state, expected, "{name}");
        let record = operation.record().unwrap();
        assert_eq!(runner.world.objects, objects_of(&record).into_iter().collect(), "{name}");
        assert_eq!(operation.next(&runner.retries, runner.clock, &[]), [Command::Anchor]);
        assert!(fold::body(&operation, &signer()).is_ok());
    }
}
