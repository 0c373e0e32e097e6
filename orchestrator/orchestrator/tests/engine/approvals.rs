//! Approvals: the genuine one counts once, however it arrives; whatever else arrives has no effect.

#[path = "../../../../ledger-bridge/ledger-contract/tests/common/forgery.rs"]
mod forgery;

use std::{collections::BTreeMap, fs, sync::Arc};

use forgery::Forgery;
use ledger::Ledger as _;
use ledger_contract::{
    Intent, IntentKind,
    evidence::ProvenEntry,
    intent::INTENT_PAYLOAD,
    records::{Change, Entry, Event},
};
use orchestrator::service::Service as _;
use trust::{Digest, Signer, UnixTime, issue, note::NoteSigner};

use crate::{
    life::Life,
    outage::Line,
    world::{LEDGER, TENANT, World, now, ns_of, plain, sign},
};

/// Somebody who controls the log: its key and every entry before the one that is forged.
struct Forger {
    forgery: Forgery,
    tenant: Signer,
    other_tenant: Signer,
}

impl std::ops::Deref for Forger {
    type Target = Forgery;

    fn deref(&self) -> &Forgery {
        &self.forgery
    }
}

impl Forger {
    async fn of(world: &World, line: &Line, genuine: &ProvenEntry) -> Self {
        let entry: Entry = serde_json::from_str(&genuine.entry).unwrap();
        let text = fs::read_to_string(world.home.ledger().join("log.key")).unwrap();
        let seed = Digest::from_hex(text.trim_end().lines().last().unwrap()).unwrap();
        let before = line.inner.range(0, usize::try_from(entry.position).unwrap()).await.unwrap();
        Self {
            forgery: Forgery::of(&before, &genuine.entry, NoteSigner::new(LEDGER, &seed.0).unwrap()),
            tenant: world.signer(TENANT, "tenant"),
            other_tenant: world.signer("globex", "tenant"),
        }
    }

    fn everything(&self, genuine: &ProvenEntry) -> Vec<(&'static str, ProvenEntry)> {
        let altered = |change: fn(&mut ProvenEntry)| {
            let mut it = genuine.clone();
            change(&mut it);
            it
        };
        let rogue = NoteSigner::new(LEDGER, &[7; 32]).unwrap();
        let other = NoteSigner::new("operator/another", &self.key.seed()).unwrap();
        let stranger = stranger();
        vec![
            ("INCLUSION", altered(|a| a.entry = a.entry.replace("\"deploy\"", "\"delete\""))),
            ("INCLUSION", altered(|a| a.entry.push(' '))),
            ("INCLUSION", altered(|a| a.proof.index += 1)),
            ("INCLUSION", altered(|a| a.proof.path.truncate(1))),
            (
                "CHECKPOINT_SIGNATURE",
                altered(|a| a.proof.checkpoint = a.proof.checkpoint.replacen('/', "-", 1)),
            ),
            ("CHECKPOINT_SIGNATURE", self.log(genuine.entry.clone(), &rogue)),
            ("CHECKPOINT_SIGNATURE", self.log(genuine.entry.clone(), &other)),
            ("ENTRY_FORMAT", self.log("{}".into(), &self.key)),
            ("ENTRY_FORMAT", self.log(format!(" {}", genuine.entry), &self.key)),
            ("WRONG_LEDGER", self.entry(|e| e.ledger = "operator/another".into())),
            ("POSITION", self.entry(|e| e.position += 1)),
            ("NOT_AN_INTENT", self.entry(|e| e.request.payload_type = "text/plain".into())),
            ("INTENT_SIGNATURE", self.entry(|e| e.request.payload.push(b' '))),
            ("INTENT_SIGNATURE", self.intent(&stranger, |_| ())),
            ("TENANT_MISMATCH", self.intent(&self.other_tenant, |_| ())),
            ("NOT_APPROVED", self.entry(|e| e.verdict.approved = false)),
            ("NOT_APPROVED", self.entry(|e| e.event = None)),
            ("GRANT_MISMATCH", self.grant(|g| g.ns_instance_id = "ns-000000000000".into())),
            ("GRANT_MISMATCH", self.grant(|g| g.attestation_required = false)),
            ("GRANT_MISMATCH", self.grant(|g| g.not_after = g.not_after.plus(3_600))),
            ("POLICY_NOT_ACCEPTED", self.lenient_policy()),
            ("EXPIRED", self.intent(&self.tenant, |i| i.not_after = UnixTime(now().0 - 1))),
            ("NOT_YET", self.later(1_000)),
        ]
    }

    fn lenient_policy(&self) -> ProvenEntry {
        let other = Digest::of("everything is allowed");
        self.entry(|e| {
            e.verdict.policy = other;
            if let Some(Event::IntentApproved { grant }) = &mut e.event {
                grant.policy = other;
            }
        })
    }

    fn later(&self, seconds: u64) -> ProvenEntry {
        let intent_until = now().plus(seconds + 10);
        let mut at = self.genuine.time.plus(seconds);
        at = at.max(now().plus(seconds));
        let mut intent: Intent = serde_json::from_slice(&self.genuine.request.payload).unwrap();
        intent.not_after = intent_until;
        self.entry(|e| {
            e.time = at;
            e.request = sign(INTENT_PAYLOAD, &intent, &self.tenant);
            if let Some(Event::IntentApproved { grant }) = &mut e.event {
                grant.intent = Digest::of(&e.request.payload);
                grant.not_after = intent_until;
                grant.lease_until = Some(at.plus(3_600));
            }
        })
    }
}

/// A tenant by its own word.
fn stranger() -> Signer {
    let valid = (UnixTime(now().0 - 100), now().plus(10_000));
    let authority = issue::ca(TENANT, &[3; 32], valid.0, valid.1).unwrap();
    let attributes = BTreeMap::from([
        (trust::identity::ATTR_ROLE.to_owned(), "tenant".to_owned()),
        (trust::identity::ATTR_TENANT.to_owned(), TENANT.to_owned()),
    ]);
    let issued = issue::member(&authority, "tenant", attributes, &[4; 32], &[1], valid).unwrap();
    Signer::from_pem(&issued.key_pem, &issued.certificate_pem).unwrap()
}

/// A life whose ledger tells nobody of an approval that is there, and the approval.
async fn held(world: &World) -> (Arc<Line>, Life, Intent, ProvenEntry) {
    let line = Line::to(world);
    line.held.send_replace(true);
    let life = Life::of(world.parts(line.clone(), plain));
    let intent = world.deploy("edge");
    let position = life.submit(world, &intent).await.position;
    let approval = life.engine.ledger_entry(position).await.unwrap();
    (line, life, intent, approval)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_genuine_approval_counts_once() {
    let world = World::new();
    let (line, life, intent, approval) = held(&world).await;
    let operation = life.engine.deliver(approval.clone()).await.unwrap().operation_id;
    let replayed = life.engine.deliver(approval.clone()).await.unwrap_err();
    assert_eq!(
        (replayed.status, replayed.code.as_str()),
        (409, "APPROVAL_REPLAYED"),
        "while it is carried out"
    );
    let done = life.anchored(&intent.id).await;
    assert_eq!((done.id.as_str(), done.state.as_str()), (operation.as_str(), "COMPLETED"));
    let replayed = life.engine.deliver(approval.clone()).await.unwrap_err();
    assert_eq!((replayed.status, replayed.code.as_str()), (409, "APPROVAL_REPLAYED"), "afterwards");
    let calls = world.vim().calls().len();

    // The stream's copy is a no-op, and so is the anchor's event: both only move the checkpoint.
    line.held.send_replace(false);
    let end = world.deploy("another");
    life.carry_out(&world, &end).await;
    assert_eq!(life.engine.ns("acme/edge").await.unwrap().operations.len(), 1);
    assert!(
        world.vim().calls()[calls..].iter().flat_map(|c| &c.1).all(|k| k.service() != done.ns_instance_id)
    );
    life.end().await;
    let last = line.inner.events(None, 1_000).await.unwrap();
    // A new life finds nothing to do, and looks at nothing again.
    drop(line);
    let calls = world.vim().calls().len();
    let life = Life::start(&world);
    let replayed = life.engine.deliver(approval).await.unwrap_err();
    assert_eq!(replayed.code, "APPROVAL_REPLAYED", "after a restart");
    let head = last.last().unwrap().proof.index;
    for _ in 0..200 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        if !life.engine.intents(None, None, 1).await.unwrap().is_empty() {
            break;
        }
    }
    life.end().await;
    assert_eq!(
        world.journal().checkpoint().unwrap(),
        Some(head),
        "events with nothing to do move the checkpoint"
    );
    assert_eq!(world.vim().calls().len(), calls);
    assert_eq!(world.journal().operations().unwrap().len(), 2);
    assert_eq!(world.journal().refusals(10).unwrap(), []);
    world.nothing_twice();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_journal_took_is_found_before_memory_has_it() {
    let world = World::new();
    let (_line, life, intent, approval) = held(&world).await;
    let entry: Entry = serde_json::from_str(&approval.entry).unwrap();
    let Some(Event::IntentApproved { grant }) = entry.event else { panic!("an approved intent") };
    let ns = grant.ns_instance_id.clone();
    let accepted = lcm::operation::Event::Accepted {
        operation_id: "op-taken".into(),
        authority: lcm::operation::Authority::Approval(Box::new(approval)),
        grant,
        decided_at: entry.time,
        at_ms: now().0 * 1_000,
    };
    // As between the journal's commit and the next line of the engine.
    life.engine.journal().accept(&accepted, entry.position, false).unwrap();
    assert_eq!(life.engine.intent(&intent.id).await.unwrap().operation.unwrap().ns_instance_id, ns);
    assert_eq!(life.engine.timeline(&ns).await.unwrap()[0].operation_id, "op-taken");
    assert_eq!(life.engine.ns(&ns).await.unwrap().operations.len(), 1);
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_not_genuine_has_no_effect() {
    let world = World::new();
    let (line, life, intent, approval) = held(&world).await;
    let forger = Forger::of(&world, &line, &approval).await;
    let honest = life.engine.operation("op-000000000000").await.unwrap_err();
    assert_eq!(honest.status, 404);
    let forged = forger.everything(&approval);
    for (n, (code, forged)) in forged.iter().enumerate() {
        let refused = life.engine.deliver(forged.clone()).await.unwrap_err();
        assert_eq!((refused.status, refused.code.as_str()), (403, *code), "{n}: {refused}");
    }
    assert_eq!(world.vim().calls(), [], "the VIM was not even looked at");
    assert!(life.engine.services(&orchestrator::journal::Listing::of(true)).await.unwrap().is_empty());
    // None of it stands in the way of the genuine one.
    line.held.send_replace(false);
    assert_eq!(life.anchored(&intent.id).await.state, "COMPLETED");
    life.end().await;
    drop(line);
    let mut refusals = world.journal().refusals(100).unwrap();
    refusals.reverse();
    let codes: Vec<_> = refusals.iter().map(|r| r.code.as_str()).collect();
    assert_eq!(codes, forged.iter().map(|(c, _)| *c).collect::<Vec<_>>(), "each is remembered");
    world.nothing_twice();
}

/// A ledger client that lies: what it says is looked at once, refused, and never asked for again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_lies_has_no_effect() {
    let world = World::new();
    let (line, life, intent, approval) = held(&world).await;
    let forger = Forger::of(&world, &line, &approval).await;
    let position = approval.proof.index;
    let lie = forger.grant(|g| g.ns_instance_id = "ns-000000000000".into());
    line.forged.lock().unwrap().insert(position, lie);
    line.held.send_replace(false);
    let honest = world.deploy("honest");
    assert_eq!(life.carry_out(&world, &honest).await.state, "COMPLETED");
    assert!(life.engine.intent(&intent.id).await.unwrap().operation.is_none());
    assert!(world.left_of(&ns_of(&intent)).is_empty());
    // The genuine one can still be carried here by hand.
    life.engine.deliver(approval).await.unwrap();
    assert_eq!(life.anchored(&intent.id).await.state, "COMPLETED");
    life.end().await;
    drop(line);
    let refusals = world.journal().refusals(10).unwrap();
    assert_eq!(
        refusals.iter().map(|r| (r.position, r.code.as_str())).collect::<Vec<_>>(),
        [(position, "GRANT_MISMATCH")]
    );
}

/// Who controls the log has a lenient policy of the past decide once more. It was accepted once, and is in force no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_of_the_past_entitles_to_nothing() {
    let world = World::new();
    let past = world.change_policy(|data| data.quotas.values_mut().for_each(|q| q.services = 3)).await;
    let (line, life, intent, approval) = held(&world).await;
    let forger = Forger::of(&world, &line, &approval).await;
    let lie = forger.entry(|e| {
        e.verdict.policy = past;
        let Some(Event::IntentApproved { grant }) = &mut e.event else { panic!("{:?}", e.event) };
        grant.policy = past;
    });
    line.forged.lock().unwrap().insert(approval.proof.index, lie);
    line.held.send_replace(false);
    let view = life.anchored(&intent.id).await;
    assert_eq!(view.state, "ROLLED_BACK");
    assert!(view.problem.as_ref().is_some_and(|p| p.starts_with("POLICY_NOT_ACCEPTED")), "{view:?}");
    assert_eq!(world.left(), []);
    // What is decided by the policy in force is carried out.
    assert_eq!(life.carry_out(&world, &world.deploy("another")).await.state, "COMPLETED");
    life.end().await;
}

/// A tenant asks for the end of its own service, and whoever controls the log grants it the end of another tenant's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_reaches_no_other_tenants_service() {
    let world = World::new();
    let line = Line::to(&world);
    let life = Life::of(world.parts(line.clone(), plain));
    let [victim, own] = [TENANT, "globex"].map(|t| world.deploy_for(t, "edge"));
    for intent in [&victim, &own] {
        assert_eq!(life.carry_out(&world, intent).await.state, "COMPLETED");
    }
    line.held.send_replace(true);
    let end = crate::world::intent("globex", "edge", IntentKind::Terminate {});
    let position = life.submit(&world, &end).await.position;
    let approval = life.engine.ledger_entry(position).await.unwrap();
    let forger = Forger::of(&world, &line, &approval).await;
    let before = world.left_of(&ns_of(&victim));
    let lie = forger.grant(|g| g.ns_instance_id = ns_of(&victim));
    let refused = life.engine.deliver(lie).await.unwrap_err();
    assert_eq!(refused.code, "GRANT_MISMATCH");
    // The genuine one ends what it is about, and nothing else.
    line.held.send_replace(false);
    assert_eq!(life.anchored(&end.id).await.state, "COMPLETED");
    assert_eq!(world.left_of(&ns_of(&victim)), before);
    assert!(world.left_of(&ns_of(&own)).is_empty() && !before.is_empty());
    life.end().await;
}

/// Rules that were changed are followed again after a restart, before anything is judged by them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_under_a_changed_policy_outlives_a_restart() {
    let mut world = World::new();
    world.change_policy(|data| data.quotas.values_mut().for_each(|q| q.services = 3)).await;
    let limits = world.config.limits.clone();
    (world.config.limits.tenant_burst, world.config.limits.tenant_operations_per_minute) = (1, 1);
    let life = Life::start(&world);
    let [first, second] = ["first", "second"].map(|s| world.deploy(s));
    life.submit(&world, &first).await;
    life.submit(&world, &second).await;
    life.anchored(&first.id).await;
    life.until(&second.id, |o| o.state == "STARTING").await;
    life.end().await;
    world.config.limits = limits;
    let life = Life::start(&world);
    let view = life.anchored(&second.id).await;
    assert_eq!((view.state.as_str(), view.problem), ("COMPLETED", None));
    life.end().await;
}

/// Its signer was revoked after the decision: nothing is done under it, and nothing stays reserved for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_of_who_was_revoked_since_gives_back_what_it_reserved() {
    let world = World::new();
    let (line, life, intent, approval) = held(&world).await;
    life.end().await;
    let signer = world.signer(TENANT, "tenant");
    let roots = world.roots();
    let serial = roots.verify(signer.certificate(), now()).unwrap().serial;
    let mut root = roots.orgs[TENANT].clone();
    root.revoked.insert(serial);
    let change = Change::Organisation { name: TENANT.into(), root: Some(root) };
    world.govern(&line.inner, "not-any-more", change).await;
    assert!(line.inner.state("service/acme/edge").await.unwrap().is_some());
    line.held.send_replace(false);
    let life = Life::of(world.parts(line.clone(), plain));
    let view = life.anchored(&intent.id).await;
    assert_eq!(view.state, "ROLLED_BACK");
    assert!(view.problem.as_ref().is_some_and(|p| p.starts_with("SIGNER_REVOKED")), "{view:?}");
    assert_eq!(world.left(), []);
    assert!(line.inner.state("service/acme/edge").await.unwrap().is_none());
    let replayed = life.engine.deliver(approval).await.unwrap_err();
    assert_eq!(replayed.code, "SIGNER_REVOKED");
    life.end().await;
}
