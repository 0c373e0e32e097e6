//! The fourth host: a real Fabric network, through its own `peer` command.
//!
//! It runs where `FABRIC_BIN` names a directory with `peer`, and the environment is that of an administrator's shell on
//! a channel with the chaincode (`CORE_PEER_ADDRESS`, …, `CHANNEL`, `ORDERER`, `ORDERER_CA`; `CC_NAME` [mandate], `CC_NAME_FORTY`).
//! The chaincode must be new there, a name for each test: what is decided is compared with the embedded log from the genesis on.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod asking;
#[path = "../../ledger-contract/tests/common/mod.rs"]
mod common;
mod peer;

use std::{collections::BTreeMap, env, path::PathBuf, process::Command};

use asking::{Asker, Bare, Embedded, approved, ask};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::*;
use ledger_contract::{
    intent::INTENT_PAYLOAD,
    records::PolicyBundle,
    transaction::{Answer, Before, Decided, request_key},
};
use mandate_chaincode::{Row, Was};
use peer::{State, TxHead, transient};
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};
use trust::{
    Envelope, Signer, UnixTime,
    issue::{ca, member},
};

/// An administrator's shell on a channel.
struct Shell {
    peer: PathBuf,
    channel: String,
    chaincode: String,
}

impl Shell {
    /// With the chaincode that the variable names; `None`: there is no network, and it was said.
    fn open(chaincode: &str, default: Option<&str>) -> Option<Self> {
        let skipped = |why: &str| {
            eprintln!("SKIPPED: {why}");
            None
        };
        let Some(bin) = env::var_os("FABRIC_BIN") else {
            return skipped("set FABRIC_BIN to a directory with Fabric's peer, and start a network");
        };
        if env::var_os("CORE_PEER_ADDRESS").is_none() {
            return skipped(
                "FABRIC_BIN is set, but CORE_PEER_ADDRESS is not: start a network and take over its shell",
            );
        }
        let Some(chaincode) = env::var(chaincode).ok().or_else(|| default.map(str::to_owned)) else {
            return skipped(&format!(
                "deploy the chaincode under another name too, and set {chaincode} to it"
            ));
        };
        let channel = env::var("CHANNEL").unwrap_or_else(|_| "evidence".to_owned());
        Some(Self { peer: PathBuf::from(bin).join("peer"), channel, chaincode })
    }

    fn chaincode(&self, verb: &str, args: &[&str], more: &[String]) -> (bool, String, String) {
        let call = serde_json::json!({ "Args": args }).to_string();
        let mut command = Command::new(&self.peer);
        command.args(["chaincode", verb, "-C", &self.channel, "-n", &self.chaincode, "-c", &call]).args(more);
        command.env("FABRIC_LOGGING_SPEC", "info");
        let done = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (done.status.success(), text(done.stdout), text(done.stderr))
    }

    fn query<T: serde::de::DeserializeOwned>(&self, args: &[&str]) -> T {
        let (good, out, problem) = self.chaincode("query", args, &[]);
        assert!(good, "{problem}");
        serde_json::from_str(&out).unwrap()
    }

    /// Submits requests and waits until they are committed; otherwise what `peer` said.
    fn try_submit(&self, requests: &[Envelope]) -> Result<Answer, String> {
        let transient: BTreeMap<_, _> =
            transient(requests, None).into_iter().map(|(k, v)| (k, STANDARD.encode(v))).collect();
        let mut more = vec!["--transient".to_owned(), serde_json::to_string(&transient).unwrap()];
        let orderer = ["-o", "$ORDERER", "--tls", "--cafile", "$ORDERER_CA", "--waitForEvent"];
        more.extend(
            orderer.map(|a| a.strip_prefix('$').map_or(a.to_owned(), |name| env::var(name).unwrap())),
        );
        // Endorsers of several organisations, when there are: `--peerAddresses …`.
        more.extend(env::var("PEERS_ARGS").unwrap_or_default().split_whitespace().map(str::to_owned));
        let (good, _, said) = self.chaincode("invoke", &["submit"], &more);
        if !good {
            return Err(said);
        }
        let payload = said.split("payload:\"").nth(1).and_then(|p| p.rsplit_once('"')).unwrap().0;
        Ok(serde_json::from_str(&unquoted(payload)).unwrap_or_else(|e| panic!("{e}: {payload}")))
    }

    fn submit(&self, requests: &[Envelope]) -> Answer {
        self.try_submit(requests).unwrap_or_else(|said| panic!("{said}"))
    }

    /// Submits each request in a transaction of its own, all at once; how many were invalidated by another.
    fn at_once(&self, requests: &[Envelope]) -> usize {
        let submitted = |request| match self.try_submit(std::slice::from_ref(request)) {
            Ok(answer) => {
                assert!(approved(&answer.decided[0]), "{answer:?}");
                0
            }
            Err(said) => {
                assert!(said.contains("MVCC_READ_CONFLICT"), "{said}");
                1
            }
        };
        std::thread::scope(|scope| {
            let all: Vec<_> = requests.iter().map(|r| scope.spawn(move || submitted(r))).collect();
            all.into_iter().map(|t| t.join().unwrap()).sum()
        })
    }

    fn state(&self) -> State {
        let (mut all, mut after) = (State::new(), String::new());
        loop {
            let rows: Vec<Row> = self.query(&["prefix", "", &after, "7"]);
            let Some(last) = rows.last() else { return all };
            after.clone_from(&last.key);
            all.extend(rows.into_iter().map(|r| (r.key, r.value.get().as_bytes().to_vec())));
        }
    }
}

/// A text as protobuf prints bytes.
fn unquoted(text: &str) -> String {
    let (mut out, mut bytes) = (Vec::new(), text.bytes());
    while let Some(b) = bytes.next() {
        let octal =
            |first: u8, rest: [u8; 2]| [first, rest[0], rest[1]].iter().fold(0, |n, d| n * 8 + (d - b'0'));
        out.push(match b {
            b'\\' => match bytes.next().unwrap() {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                d @ b'0'..=b'7' => octal(d, [bytes.next().unwrap(), bytes.next().unwrap()]),
                other => other,
            },
            other => other,
        });
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn a_real_fabric_decides_as_the_embedded_log_does() {
    let Some(shell) = Shell::open("CC_NAME", Some("mandate")) else { return };
    assert_eq!(shell.state(), State::new(), "the channel is not new");
    let mut asker = Asker::new(&shell.channel);
    let founding = asker.founding();
    let mut batches = vec![founding.clone()];
    let mut runner = TestRunner::deterministic();
    let asks = proptest::collection::vec(proptest::collection::vec(ask(), 1..5), 20).new_tree(&mut runner);
    batches.extend(asks.unwrap().current().iter().map(|b| b.iter().map(|a| asker.envelope(a)).collect()));
    let (mut bare, mut embedded) = (Bare::default(), None);
    let (mut entries, mut refused) = (0, 0);
    for batch in &batches {
        let answer = shell.submit(batch);
        // A transaction in which nothing was decided has no entry that says when it was.
        let made = answer.decided.iter().zip(batch).find_map(|(d, r)| match d {
            Decided::Entry { entry } => Some((entry.time, r.digest())),
            _ => None,
        });
        let head = made.map(|(time, request)| {
            let before: Before = shell.query(&["state", &request_key(&request)]);
            TxHead { channel: shell.channel.clone(), id: before.tx, time }
        });
        let head = head.unwrap_or_else(|| TxHead::new(&shell.channel, 0, UnixTime(1_795_000_000)));
        for (index, (request, decided)) in batch.iter().zip(&answer.decided).enumerate() {
            assert_eq!(*decided, bare.decide(request, &head, index));
            let log = embedded.get_or_insert_with(|| Embedded::new(&shell.channel, &founding[0], head.time));
            log.compare(request, head.time, decided);
            entries += usize::from(matches!(decided, Decided::Entry { .. }));
            refused += usize::from(!approved(decided));
        }
        let mut state = shell.state();
        state.retain(|k, _| !k.starts_with("request/"));
        assert_eq!(state, bare.state);
    }
    embedded.unwrap().compare_state(&bare.state);
    let past: Vec<Was> = shell.query(&["history", "usage/acme", "1000"]);
    assert!(!past.is_empty());
    println!(
        "{} transactions: {entries} entries, {refused} requests not approved, {} former usages",
        batches.len(),
        past.len()
    );
    assert!(entries > 30 && refused > 10);
}

const IN_FLIGHT: usize = 40;

/// The network should cut its blocks so late that all of them are endorsed before the first is committed.
#[test]
fn of_forty_in_flight_none_invalidates_another() {
    let Some(shell) = Shell::open("CC_NAME_FORTY", None) else { return };
    assert_eq!(shell.state(), State::new(), "the channel is not new");
    let asker = Asker::new(&shell.channel);
    let tenants: Vec<String> = (0..IN_FLIGHT).map(|n| format!("tenant-{n}")).collect();
    let mut founding = asker.founding();
    founding[0] = {
        let mut data = policy().data().unwrap();
        data.orgs.get_mut("acme").unwrap().tenants.extend(tenants.iter().cloned());
        let quota = data.quotas.get_mut("default").unwrap();
        (quota.services, quota.instances, quota.vcpus, quota.memory_mib) = (100, 1000, 1000, 1 << 20);
        asker.genesis(PolicyBundle::default_bundle().with_data(&data))
    };
    assert!(shell.submit(&founding).decided.iter().all(approved));
    let authority = ca("acme", &[3; 32], FROM, TO).unwrap();
    let deploy = |n: usize, tenant: &str, round: &str| {
        let attrs = [("mandate.role", "tenant"), ("mandate.tenant", tenant)];
        let attrs = attrs.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let serial = [7, u8::try_from(n).unwrap()];
        let it = member(&authority, tenant, attrs, &[u8::try_from(n + 50).unwrap(); 32], &serial, (FROM, TO))
            .unwrap();
        let signer = Signer::from_pem(&it.key_pem, &it.certificate_pem).unwrap();
        let mut intent = deploy_intent(&format!("intent-{round}-{n:04}"), &format!("{round}-{n}"));
        intent.tenant = tenant.to_owned();
        sign(INTENT_PAYLOAD, &intent, &signer)
    };
    let each: Vec<_> = tenants.iter().enumerate().map(|(n, t)| deploy(n, t, "each")).collect();
    let of_one = |round| (0..IN_FLIGHT).map(|n| deploy(n, &tenants[0], round)).collect::<Vec<_>>();
    let conflicts = shell.at_once(&each);
    let shared = shell.submit(&of_one("shared"));
    assert!(shared.decided.iter().all(approved), "{shared:?}");
    let alone = shell.at_once(&of_one("alone"));
    println!(
        "{IN_FLIGHT} intents at once, invalidated: {conflicts} of {IN_FLIGHT} tenants; 0 of one tenant in one transaction; \
         {alone} of one tenant in a transaction each"
    );
    assert_eq!(conflicts, 0);
}
