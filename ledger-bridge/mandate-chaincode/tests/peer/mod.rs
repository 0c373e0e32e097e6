//! A peer in memory, for tests: state, history, pages, and transactions that write when they are endorsed.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap};

use fabric::{
    message::*,
    shim::{Action, Invocation, Session},
};
use ledger_contract::transaction::{Answer, COLLECTION, REQUESTS};
use mandate_chaincode::Contract;
use prost::Message as _;
use trust::{Digest, Envelope, UnixTime};

/// Rows of a page; a real peer has 100.
const PAGE: usize = 3;

pub type State = BTreeMap<String, Vec<u8>>;

/// What a transaction has done so far.
#[derive(Default)]
struct Open {
    writes: BTreeMap<String, Option<Vec<u8>>>,
    private: BTreeMap<(String, String), Vec<u8>>,
    queries: HashMap<String, Vec<Vec<u8>>>,
}

#[derive(Default)]
pub struct Peer {
    pub state: State,
    pub private: BTreeMap<(String, String), Vec<u8>>,
    pub history: BTreeMap<String, Vec<KeyModification>>,
    open: HashMap<String, Open>,
    queries: usize,
    /// Requests of the chaincode, by kind.
    pub asked: BTreeMap<Kind, usize>,
}

/// What came of a transaction.
pub struct Ended {
    pub response: Response,
    pub event: Option<ChaincodeEvent>,
}

pub fn message(kind: Kind, tx: &TxHead, payload: Vec<u8>) -> ChaincodeMessage {
    ChaincodeMessage {
        kind: kind.into(),
        payload,
        txid: tx.id.clone(),
        channel_id: tx.channel.clone(),
        ..ChaincodeMessage::default()
    }
}

/// Which transaction, and when.
#[derive(Clone)]
pub struct TxHead {
    pub channel: String,
    pub id: String,
    pub time: UnixTime,
}

impl TxHead {
    pub fn new(channel: &str, n: usize, time: UnixTime) -> Self {
        let id = Digest::of(format!("transaction {n}")).hex();
        Self { channel: channel.to_owned(), id, time }
    }
}

/// A transaction as a peer sends it.
pub fn transaction(tx: &TxHead, args: &[&str], transient: BTreeMap<String, Vec<u8>>) -> ChaincodeMessage {
    let seconds = i64::try_from(tx.time.0).unwrap();
    let channel = ChannelHeader {
        kind: 3,
        timestamp: Some(Timestamp { seconds, nanos: 5 }),
        channel_id: tx.channel.clone(),
        tx_id: tx.id.clone(),
        ..ChannelHeader::default()
    };
    let header = Header {
        channel_header: channel.encode_to_vec(),
        signature_header: SignatureHeader::default().encode_to_vec(),
    };
    let payload = ChaincodeProposalPayload { input: vec![], transient_map: transient };
    let proposal =
        Proposal { header: header.encode_to_vec(), payload: payload.encode_to_vec(), extension: vec![] };
    let signed = SignedProposal { proposal_bytes: proposal.encode_to_vec(), signature: vec![] };
    let args = args.iter().map(|a| a.as_bytes().to_vec()).collect();
    let input = ChaincodeInput { args, ..ChaincodeInput::default() };
    ChaincodeMessage { proposal: Some(signed), ..message(Kind::Transaction, tx, input.encode_to_vec()) }
}

pub fn transient(requests: &[Envelope], collection: Option<&str>) -> BTreeMap<String, Vec<u8>> {
    let requests = (REQUESTS.to_owned(), serde_json::to_vec(requests).unwrap());
    let collection = collection.map(|c| (COLLECTION.to_owned(), c.as_bytes().to_vec()));
    [requests].into_iter().chain(collection).collect()
}

impl Peer {
    /// Answers what the chaincode asks for; at the end of a transaction, what came of it.
    pub fn answer(&mut self, it: &ChaincodeMessage) -> Result<ChaincodeMessage, Box<Ended>> {
        let kind = Kind::try_from(it.kind).unwrap();
        *self.asked.entry(kind).or_default() += 1;
        let tx = TxHead { channel: it.channel_id.clone(), id: it.txid.clone(), time: UnixTime(0) };
        let bytes = it.payload.as_slice();
        let open = self.open.entry(it.txid.clone()).or_default();
        let answer = match kind {
            Kind::GetState => {
                let get = GetState::decode(bytes).unwrap();
                assert_eq!(get.collection, "");
                self.state.get(&get.key).cloned().unwrap_or_default()
            }
            Kind::PutState => {
                let put = PutState::decode(bytes).unwrap();
                assert!(!put.key.is_empty() && !put.value.is_empty());
                match put.collection.as_str() {
                    "" => drop(open.writes.insert(put.key, Some(put.value))),
                    "unknown" => return Ok(message(Kind::Error, &tx, b"collection not defined".to_vec())),
                    _ => drop(open.private.insert((put.collection, put.key), put.value)),
                }
                vec![]
            }
            Kind::DelState => {
                open.writes.insert(DelState::decode(bytes).unwrap().key, None);
                vec![]
            }
            Kind::GetStateByRange => {
                let range = GetStateByRange::decode(bytes).unwrap();
                let rows = self.state.range(range.start_key..range.end_key);
                let row = |(key, value): (&String, &Vec<u8>)| {
                    KeyValue { namespace: "cc".into(), key: key.clone(), value: value.clone() }
                        .encode_to_vec()
                };
                let rows = rows.map(row).collect();
                self.page(&it.txid, None, rows)
            }
            Kind::GetHistoryForKey => {
                let key = GetHistoryForKey::decode(bytes).unwrap().key;
                let past = self.history.get(&key).cloned().unwrap_or_default();
                self.page(&it.txid, None, past.iter().rev().map(prost::Message::encode_to_vec).collect())
            }
            Kind::QueryStateNext => {
                let id = QueryState::decode(bytes).unwrap().id;
                let rows = open.queries.remove(&id).unwrap();
                self.page(&it.txid, Some(id), rows)
            }
            Kind::QueryStateClose => {
                let id = QueryState::decode(bytes).unwrap().id;
                open.queries.remove(&id).unwrap();
                QueryResponse { id, ..QueryResponse::default() }.encode_to_vec()
            }
            Kind::Completed => return Err(Box::new(self.end(it))),
            other => panic!("the chaincode sent {other:?}"),
        };
        Ok(message(Kind::Response, &tx, answer))
    }

    fn page(&mut self, tx: &str, id: Option<String>, mut rows: Vec<Vec<u8>>) -> Vec<u8> {
        self.queries += 1;
        let id = id.unwrap_or_else(|| format!("q{}", self.queries));
        let rest = rows.split_off(rows.len().min(PAGE));
        let has_more = !rest.is_empty();
        if has_more {
            self.open.get_mut(tx).unwrap().queries.insert(id.clone(), rest);
        }
        let results = rows.into_iter().map(|result_bytes| QueryResultBytes { result_bytes }).collect();
        QueryResponse { results, has_more, id }.encode_to_vec()
    }

    fn end(&mut self, it: &ChaincodeMessage) -> Ended {
        let open = self.open.remove(&it.txid).unwrap();
        assert!(open.queries.is_empty(), "a query was left open");
        let response = Response::decode(it.payload.as_slice()).unwrap();
        if response.status < 400 {
            self.private.extend(open.private);
            for (key, value) in open.writes {
                let was = KeyModification {
                    tx_id: it.txid.clone(),
                    value: value.clone().unwrap_or_default(),
                    timestamp: None,
                    is_delete: value.is_none(),
                };
                self.history.entry(key.clone()).or_default().push(was);
                match value {
                    Some(value) => drop(self.state.insert(key, value)),
                    None => drop(self.state.remove(&key)),
                }
            }
        }
        Ended { response, event: it.chaincode_event.clone() }
    }

    /// The contract's state: all but the host's own records.
    pub fn contract_state(&self) -> State {
        self.state
            .iter()
            .filter(|(k, _)| !k.starts_with("request/"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }
}

/// The chaincode's machine and a peer, without a network between them: every message is encoded and decoded.
pub struct Machine {
    pub peer: Peer,
    pub contract: Contract,
    session: Session,
}

impl Machine {
    pub fn new(contract: Contract) -> Self {
        let (mut session, _) = Session::open("mandate:00");
        for kind in [Kind::Registered, Kind::Ready] {
            let it = ChaincodeMessage { kind: kind.into(), ..ChaincodeMessage::default() };
            assert_eq!(session.receive(it, std::time::Duration::ZERO).unwrap(), Action::Nothing);
        }
        Self { peer: Peer::default(), contract, session }
    }

    pub fn run(&mut self, tx: &TxHead, args: &[&str], transient: BTreeMap<String, Vec<u8>>) -> Ended {
        let mut next = transaction(tx, args, transient);
        let mut code = None;
        loop {
            let sent = ChaincodeMessage::decode(next.encode_to_vec().as_slice()).unwrap();
            let (key, want) = match self.session.receive(sent, std::time::Duration::ZERO).unwrap() {
                Action::Begin(it) => {
                    let key = Invocation::clone(&it).key;
                    let mut begun = self.contract.begin(*it, tx.time);
                    let want = begun.resume(None);
                    code = Some(begun);
                    (key, want)
                }
                Action::Resume(key, answer) => (key, code.as_mut().unwrap().resume(Some(answer))),
                other => panic!("{other:?}"),
            };
            let asked = self.session.want(&key, want).unwrap();
            let asked = ChaincodeMessage::decode(asked.encode_to_vec().as_slice()).unwrap();
            match self.peer.answer(&asked) {
                Ok(answer) => next = answer,
                Err(ended) => return *ended,
            }
        }
    }

    /// Submits requests; they must be endorsed.
    pub fn submit(&mut self, tx: &TxHead, requests: &[Envelope]) -> (Answer, Option<ChaincodeEvent>) {
        let ended = self.run(tx, &["submit"], transient(requests, None));
        assert_eq!(ended.response.status, 200, "{}", ended.response.message);
        (serde_json::from_slice(&ended.response.payload).unwrap(), ended.event)
    }
}
