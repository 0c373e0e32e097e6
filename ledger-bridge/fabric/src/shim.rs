//! The chaincode side of the shim protocol, as a machine: one [`Session`] is one stream of one peer.
//!
//! The chaincode speaks first: REGISTER with its package's id. Once the peer has said REGISTERED and READY it sends
//! transactions, as many at once as it likes. While it runs, a transaction asks the peer for one thing at a time, for the
//! peer tells answers apart by channel and transaction alone. It ends with COMPLETED.
//!
//! Who holds a session does what each [`Action`] says: sends a message, or lets the transaction's code run with what it
//! waited for, and tells the session what it wants next ([`Session::want`]); code of several transactions may run at the
//! same time. A transaction that takes longer than [`EXECUTION_LIMIT`] is given up, here as at the peer. Never: I/O, a
//! clock, knowledge of what the transactions do. Tests: below, and those of `mandate-chaincode` against a real peer.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use prost::Message as _;

use crate::message::{
    ChaincodeEvent, ChaincodeId, ChaincodeInput, ChaincodeMessage, ChaincodeProposalPayload, ChannelHeader,
    DelState, GetHistoryForKey, GetState, GetStateByRange, Header, KeyModification, KeyValue, Kind, Proposal,
    PutState, QueryResponse, QueryState, Response, SignatureHeader, SignedProposal, Timestamp,
};

/// Longest a transaction runs. The peer gives up after 30 s (`chaincode.executetimeout`); an answer that comes a little
/// before says why.
pub const EXECUTION_LIMIT: Duration = Duration::from_secs(28);
/// Most transactions of one peer at once; a peer's own limit for its endorser is 2500.
pub const MAX_RUNNING: usize = 512;

/// Which transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TxKey {
    /// Channel.
    pub channel: String,
    /// Transaction id.
    pub tx_id: String,
}

/// What a transaction is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// Which.
    pub key: TxKey,
    /// The function's name first.
    pub args: Vec<Vec<u8>>,
    /// Is it the initialisation?
    pub init: bool,
    /// Time that the submitter signed.
    pub time: Timestamp,
    /// Are the proposal's headers in the one encoding that [`crate::proof`] takes?
    pub canonical: bool,
    /// The submitter: a serialised identity, verified by the peer.
    pub creator: Vec<u8>,
    /// What the ledger does not keep.
    pub transient: BTreeMap<String, Vec<u8>>,
}

/// What a transaction wants of the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// A value: [`Got::Value`].
    Get(GetState),
    /// To write: [`Got::Written`].
    Put(PutState),
    /// To delete: [`Got::Written`].
    Delete(DelState),
    /// The keys of a range, in order: [`Got::Keys`].
    Range(GetStateByRange),
    /// What a key was, newest first: [`Got::History`].
    History(GetHistoryForKey),
    /// The next page of a query: as the first.
    Next(String),
    /// No more of a query that has more: [`Got::Written`].
    Close(String),
    /// Nothing: it is over.
    Done(Done),
}

/// The end of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Its result.
    pub response: Response,
    /// Name and payload of what it emits.
    pub event: Option<(String, Vec<u8>)>,
}

impl Done {
    /// An error: the transaction is not endorsed.
    #[must_use]
    pub fn error(status: i32, message: impl Into<String>) -> Self {
        Self { response: Response { status, message: message.into(), payload: Vec::new() }, event: None }
    }

    /// A result.
    #[must_use]
    pub fn ok(payload: Vec<u8>) -> Self {
        Self { response: Response { status: 200, message: String::new(), payload }, event: None }
    }
}

/// A page of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// In the query's order.
    pub rows: Vec<T>,
    /// The query, when there is another page.
    pub more: Option<String>,
}

/// What the peer answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    /// A value; Fabric has no empty ones.
    Value(Option<Vec<u8>>),
    /// It is done.
    Written,
    /// Keys.
    Keys(Page<KeyValue>),
    /// A key's past.
    History(Page<KeyModification>),
}

/// What the peer answers, or why it does not.
pub type Answer = Result<Got, String>;

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send this.
    Send(ChaincodeMessage),
    /// Run this transaction's code for the first time, and say what it wants.
    Begin(Box<Invocation>),
    /// Run it on with what it waited for, and say what it wants next.
    Resume(TxKey, Answer),
    /// Nothing.
    Nothing,
}

/// The peer does not follow the protocol; the stream is to be ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A message that has no place there.
    #[error("the peer sent {kind} {when}; end the stream, the peer connects again")]
    Unexpected {
        /// Its kind.
        kind: String,
        /// `before it was registered`, …
        when: &'static str,
    },
    /// It does not know the package.
    #[error(
        "the peer refuses the chaincode `{id}`: {reason}; start it with the id that `peer lifecycle chaincode queryinstalled` shows"
    )]
    Refused {
        /// The id it was told.
        id: String,
        /// What it said.
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Registering,
    Registered,
    Ready,
}

/// What kind of answer is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// Its code runs.
    Nothing,
    Value,
    Written,
    Keys,
    History,
}

#[derive(Debug)]
struct Running {
    begun: Duration,
    waits: Waits,
    /// Queries with more pages, and what they are of.
    queries: HashMap<String, Waits>,
}

/// One stream.
#[derive(Debug)]
pub struct Session {
    id: String,
    phase: Phase,
    running: HashMap<TxKey, Running>,
    draining: bool,
}

impl Session {
    /// Of the chaincode with this package id, with the first message to send.
    #[must_use]
    pub fn open(package_id: &str) -> (Self, ChaincodeMessage) {
        let it = Self {
            id: package_id.to_owned(),
            phase: Phase::Registering,
            running: HashMap::new(),
            draining: false,
        };
        let id = ChaincodeId { name: package_id.to_owned(), ..ChaincodeId::default() };
        let register = message(Kind::Register, id.encode_to_vec());
        (it, register)
    }

    /// How many transactions run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Takes no new transactions from now on; the stream may end when none runs.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Takes a message of the peer; `now` is any clock that does not go back.
    pub fn receive(&mut self, it: ChaincodeMessage, now: Duration) -> Result<Action, Broken> {
        let kind = Kind::try_from(it.kind).unwrap_or(Kind::Undefined);
        match (self.phase, kind) {
            (_, Kind::Keepalive) => Ok(Action::Send(it)),
            (Phase::Registering, Kind::Registered) => Ok(self.enter(Phase::Registered)),
            (Phase::Registering, Kind::Error) => {
                let reason = String::from_utf8_lossy(&it.payload).into_owned();
                Err(Broken::Refused { id: self.id.clone(), reason })
            }
            (Phase::Registered, Kind::Ready) => Ok(self.enter(Phase::Ready)),
            (Phase::Ready, Kind::Transaction | Kind::Init) => Ok(self.begin(it, now)),
            (Phase::Ready, Kind::Response | Kind::Error) => Ok(self.answered(it, kind)),
            (phase, _) => {
                let kind = it.kind;
                let kind = Kind::try_from(kind).map_or_else(|_| format!("type {kind}"), |k| format!("{k:?}"));
                let when = match phase {
                    Phase::Registering => "before it was registered",
                    Phase::Registered => "before it was ready",
                    Phase::Ready => "to a chaincode that is ready",
                };
                Err(Broken::Unexpected { kind, when })
            }
        }
    }

    /// Takes what a transaction's code wants; the message to send, unless the transaction was given up meanwhile.
    pub fn want(&mut self, key: &TxKey, want: Want) -> Option<ChaincodeMessage> {
        let running = self.running.get_mut(key).filter(|r| r.waits == Waits::Nothing)?;
        let (kind, payload, waits) = match want {
            Want::Get(it) => (Kind::GetState, it.encode_to_vec(), Waits::Value),
            Want::Put(it) => (Kind::PutState, it.encode_to_vec(), Waits::Written),
            Want::Delete(it) => (Kind::DelState, it.encode_to_vec(), Waits::Written),
            Want::Range(it) => (Kind::GetStateByRange, it.encode_to_vec(), Waits::Keys),
            Want::History(it) => (Kind::GetHistoryForKey, it.encode_to_vec(), Waits::History),
            Want::Next(id) => {
                // An unknown one is for the peer to refuse.
                let waits = running.queries.get(&id).copied().unwrap_or(Waits::Keys);
                (Kind::QueryStateNext, QueryState { id }.encode_to_vec(), waits)
            }
            Want::Close(id) => {
                running.queries.remove(&id);
                (Kind::QueryStateClose, QueryState { id }.encode_to_vec(), Waits::Written)
            }
            Want::Done(done) => {
                self.running.remove(key);
                return Some(completed(key, done));
            }
        };
        running.waits = waits;
        Some(of(key, message(kind, payload)))
    }

    /// Gives up what has run too long; the messages that say so.
    pub fn expire(&mut self, now: Duration) -> Vec<ChaincodeMessage> {
        let late = |r: &Running| now.saturating_sub(r.begun) >= EXECUTION_LIMIT;
        let mut keys: Vec<TxKey> =
            self.running.iter().filter(|(_, r)| late(r)).map(|(key, _)| key.clone()).collect();
        keys.sort();
        let text =
            format!("the transaction took longer than {} s and was given up", EXECUTION_LIMIT.as_secs());
        keys.into_iter()
            .map(|key| {
                self.running.remove(&key);
                completed(&key, Done::error(504, text.clone()))
            })
            .collect()
    }

    fn enter(&mut self, phase: Phase) -> Action {
        self.phase = phase;
        Action::Nothing
    }

    fn begin(&mut self, it: ChaincodeMessage, now: Duration) -> Action {
        let key = TxKey { channel: it.channel_id, tx_id: it.txid };
        let refuse = |status, text: &str| Action::Send(completed(&key, Done::error(status, text)));
        if self.running.contains_key(&key) {
            // Answering COMPLETED would end the one that runs.
            let text = b"this transaction runs already".to_vec();
            return Action::Send(of(&key, message(Kind::Error, text)));
        }
        if self.draining {
            return refuse(503, "the chaincode is being stopped; try again");
        }
        if self.running.len() >= MAX_RUNNING {
            return refuse(503, "the chaincode is busy; try again");
        }
        match invocation(&key, &it.payload, it.proposal.as_ref()) {
            Ok(invocation) => {
                let running = Running { begun: now, waits: Waits::Nothing, queries: HashMap::new() };
                self.running.insert(key, running);
                Action::Begin(Box::new(invocation))
            }
            Err(problem) => refuse(400, &format!("the peer's transaction cannot be read: {problem}")),
        }
    }

    fn answered(&mut self, it: ChaincodeMessage, kind: Kind) -> Action {
        let key = TxKey { channel: it.channel_id, tx_id: it.txid };
        let Some(running) = self.running.get_mut(&key).filter(|r| r.waits != Waits::Nothing) else {
            // To one that was given up.
            return Action::Nothing;
        };
        let waits = std::mem::replace(&mut running.waits, Waits::Nothing);
        let answer = match kind {
            Kind::Error => Err(String::from_utf8_lossy(&it.payload).into_owned()),
            _ => got(&it.payload, waits, &mut running.queries)
                .map_err(|e| format!("the peer's answer cannot be read: {e}")),
        };
        Action::Resume(key, answer)
    }
}

fn message(kind: Kind, payload: Vec<u8>) -> ChaincodeMessage {
    ChaincodeMessage { kind: kind.into(), payload, ..ChaincodeMessage::default() }
}

fn of(key: &TxKey, it: ChaincodeMessage) -> ChaincodeMessage {
    ChaincodeMessage { channel_id: key.channel.clone(), txid: key.tx_id.clone(), ..it }
}

fn completed(key: &TxKey, done: Done) -> ChaincodeMessage {
    let event = done.event.map(|(event_name, payload)| ChaincodeEvent {
        event_name,
        payload,
        ..ChaincodeEvent::default()
    });
    let it = message(Kind::Completed, done.response.encode_to_vec());
    of(key, ChaincodeMessage { chaincode_event: event, ..it })
}

fn got(
    payload: &[u8],
    waits: Waits,
    queries: &mut HashMap<String, Waits>,
) -> Result<Got, prost::DecodeError> {
    Ok(match waits {
        Waits::Value => Got::Value((!payload.is_empty()).then(|| payload.to_vec())),
        Waits::Nothing | Waits::Written => Got::Written,
        Waits::Keys => Got::Keys(page(payload, waits, queries)?),
        Waits::History => Got::History(page(payload, waits, queries)?),
    })
}

fn page<T: prost::Message + Default>(
    payload: &[u8],
    waits: Waits,
    queries: &mut HashMap<String, Waits>,
) -> Result<Page<T>, prost::DecodeError> {
    let it = QueryResponse::decode(payload)?;
    let rows = it.results.iter().map(|r| T::decode(r.result_bytes.as_slice())).collect::<Result<_, _>>()?;
    match it.has_more {
        true => drop(queries.insert(it.id.clone(), waits)),
        false => drop(queries.remove(&it.id)),
    }
    Ok(Page { rows, more: it.has_more.then_some(it.id) })
}

/// What the peer says of a transaction, and what its submitter signed of it.
fn invocation(
    key: &TxKey,
    input: &[u8],
    proposal: Option<&SignedProposal>,
) -> Result<Invocation, prost::DecodeError> {
    let input = ChaincodeInput::decode(input)?;
    // Without one there is no time and no creator, and what needs them refuses.
    let proposal = Proposal::decode(proposal.map_or(&[][..], |p| &p.proposal_bytes))?;
    let header = Header::decode(proposal.header.as_slice())?;
    let channel = ChannelHeader::decode(header.channel_header.as_slice())?;
    let signature = SignatureHeader::decode(header.signature_header.as_slice())?;
    let canonical = channel.encode_to_vec() == header.channel_header
        && signature.encode_to_vec() == header.signature_header;
    let payload = ChaincodeProposalPayload::decode(proposal.payload.as_slice())?;
    Ok(Invocation {
        key: key.clone(),
        args: input.args,
        init: input.is_init,
        time: channel.timestamp.unwrap_or_default(),
        canonical,
        creator: signature.creator,
        transient: payload.transient_map,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::QueryResultBytes;

    const T0: Duration = Duration::from_secs(100);

    fn key(n: u8) -> TxKey {
        TxKey { channel: "ch".into(), tx_id: format!("tx{n}") }
    }

    fn transaction(n: u8) -> ChaincodeMessage {
        let header = ChannelHeader {
            timestamp: Some(Timestamp { seconds: 7, nanos: 8 }),
            tx_id: key(n).tx_id,
            ..ChannelHeader::default()
        };
        let signature = SignatureHeader { creator: b"somebody".to_vec(), nonce: vec![1] };
        let header =
            Header { channel_header: header.encode_to_vec(), signature_header: signature.encode_to_vec() };
        let payload = ChaincodeProposalPayload {
            input: vec![],
            transient_map: BTreeMap::from([("requests".to_owned(), b"[]".to_vec())]),
        };
        let proposal =
            Proposal { header: header.encode_to_vec(), payload: payload.encode_to_vec(), extension: vec![] };
        let input = ChaincodeInput { args: vec![b"submit".to_vec()], ..ChaincodeInput::default() };
        let signed = SignedProposal { proposal_bytes: proposal.encode_to_vec(), signature: vec![] };
        let it = message(Kind::Transaction, input.encode_to_vec());
        of(&key(n), ChaincodeMessage { proposal: Some(signed), ..it })
    }

    fn ready() -> Session {
        let (mut it, register) = Session::open("label:abc");
        assert_eq!(register.kind, i32::from(Kind::Register));
        assert_eq!(ChaincodeId::decode(register.payload.as_slice()).unwrap().name, "label:abc");
        for kind in [Kind::Registered, Kind::Ready] {
            assert_eq!(it.receive(message(kind, vec![]), T0).unwrap(), Action::Nothing);
        }
        it
    }

    fn begun(session: &mut Session, n: u8) {
        let Action::Begin(it) = session.receive(transaction(n), T0).unwrap() else { panic!("not begun") };
        assert_eq!((it.key, it.args), (key(n), vec![b"submit".to_vec()]));
        assert_eq!((it.time.seconds, it.creator), (7, b"somebody".to_vec()));
        assert_eq!(it.transient["requests"], b"[]");
    }

    fn response(n: u8, payload: Vec<u8>) -> ChaincodeMessage {
        of(&key(n), message(Kind::Response, payload))
    }

    fn get(k: &str) -> Want {
        Want::Get(GetState { key: k.into(), collection: String::new() })
    }

    fn status(it: &ChaincodeMessage) -> i32 {
        assert_eq!(it.kind, i32::from(Kind::Completed));
        Response::decode(it.payload.as_slice()).unwrap().status
    }

    #[test]
    fn a_transaction_reads_writes_and_ends() {
        let mut it = ready();
        begun(&mut it, 1);
        let sent = it.want(&key(1), get("a")).unwrap();
        assert_eq!((sent.kind, sent.txid.as_str(), sent.channel_id.as_str()), (8, "tx1", "ch"));
        let got = it.receive(response(1, b"v".to_vec()), T0).unwrap();
        assert_eq!(got, Action::Resume(key(1), Ok(Got::Value(Some(b"v".to_vec())))));
        it.want(&key(1), get("b")).unwrap();
        let got = it.receive(response(1, vec![]), T0).unwrap();
        assert_eq!(got, Action::Resume(key(1), Ok(Got::Value(None))));
        let put = PutState { key: "b".into(), value: b"w".to_vec(), collection: String::new() };
        assert_eq!(it.want(&key(1), Want::Put(put)).unwrap().kind, 9);
        assert_eq!(it.receive(response(1, vec![]), T0).unwrap(), Action::Resume(key(1), Ok(Got::Written)));
        let done = Done { event: Some(("e".into(), b"p".to_vec())), ..Done::ok(b"r".to_vec()) };
        let end = it.want(&key(1), Want::Done(done)).unwrap();
        assert_eq!((status(&end), it.running()), (200, 0));
        assert_eq!(end.chaincode_event.unwrap().event_name, "e");
        assert_eq!(it.want(&key(1), get("a")), None);
    }

    #[test]
    fn one_request_is_in_flight_and_transactions_are_told_apart() {
        let mut it = ready();
        (1..4).for_each(|n| begun(&mut it, n));
        assert!(it.want(&key(1), get("a")).is_some());
        assert_eq!(it.want(&key(1), get("b")), None, "it waits for an answer");
        assert!(it.want(&key(2), get("a")).is_some());
        let got = it.receive(response(2, b"2".to_vec()), T0).unwrap();
        assert_eq!(got, Action::Resume(key(2), Ok(Got::Value(Some(b"2".to_vec())))));
        assert_eq!(it.receive(response(3, vec![]), T0).unwrap(), Action::Nothing, "3 asked for nothing");
        let no = of(&key(1), message(Kind::Error, b"no".to_vec()));
        assert_eq!(it.receive(no, T0).unwrap(), Action::Resume(key(1), Err("no".into())));
    }

    #[test]
    fn queries_go_page_by_page_and_are_closed() {
        let mut it = ready();
        begun(&mut it, 1);
        let rows = |n: u8| KeyValue { key: format!("k{n}"), ..KeyValue::default() };
        let answer = |n: u8, has_more| QueryResponse {
            results: vec![QueryResultBytes { result_bytes: rows(n).encode_to_vec() }],
            has_more,
            id: "q".into(),
        };
        let range = GetStateByRange { start_key: "k".into(), end_key: "l".into(), collection: String::new() };
        assert_eq!(it.want(&key(1), Want::Range(range)).unwrap().kind, 14);
        for (n, more) in [(1, true), (2, true), (3, false)] {
            let got = it.receive(response(1, answer(n, more).encode_to_vec()), T0).unwrap();
            let page = Page { rows: vec![rows(n)], more: more.then(|| "q".to_owned()) };
            assert_eq!(got, Action::Resume(key(1), Ok(Got::Keys(page))));
            if more {
                assert_eq!(it.want(&key(1), Want::Next("q".into())).unwrap().kind, 16);
            }
        }
        assert_eq!(it.want(&key(1), Want::History(GetHistoryForKey { key: "k".into() })).unwrap().kind, 19);
        let past = KeyModification { tx_id: "t".into(), ..KeyModification::default() };
        let answer = QueryResponse {
            results: vec![QueryResultBytes { result_bytes: past.encode_to_vec() }],
            has_more: true,
            id: "h".into(),
        };
        let got = it.receive(response(1, answer.encode_to_vec()), T0).unwrap();
        let page = Page { rows: vec![past], more: Some("h".to_owned()) };
        assert_eq!(got, Action::Resume(key(1), Ok(Got::History(page))));
        assert_eq!(it.want(&key(1), Want::Close("h".into())).unwrap().kind, 17);
        assert_eq!(it.receive(response(1, vec![]), T0).unwrap(), Action::Resume(key(1), Ok(Got::Written)));
    }

    #[test]
    fn what_takes_too_long_is_given_up_and_late_answers_are_nobodys() {
        let mut it = ready();
        begun(&mut it, 1);
        it.want(&key(1), get("a")).unwrap();
        assert_eq!(it.expire(T0 + EXECUTION_LIMIT - Duration::from_millis(1)), []);
        let ended = it.expire(T0 + EXECUTION_LIMIT);
        assert_eq!((ended.iter().map(status).collect::<Vec<_>>(), it.running()), (vec![504], 0));
        assert_eq!(it.receive(response(1, vec![]), T0).unwrap(), Action::Nothing);
        assert_eq!(it.want(&key(1), Want::Done(Done::ok(vec![]))), None);
    }

    #[test]
    fn a_draining_session_ends_what_runs_and_takes_nothing_new() {
        let mut it = ready();
        begun(&mut it, 1);
        it.drain();
        let Action::Send(refused) = it.receive(transaction(2), T0).unwrap() else { panic!("taken") };
        assert_eq!((status(&refused), it.running()), (503, 1));
        assert_eq!(status(&it.want(&key(1), Want::Done(Done::ok(vec![]))).unwrap()), 200);
        assert_eq!(it.running(), 0);
    }

    #[test]
    fn no_more_than_so_many_run() {
        let mut it = ready();
        for n in 0..MAX_RUNNING {
            let mut tx = transaction(1);
            tx.txid = format!("t{n}");
            assert!(matches!(it.receive(tx, T0).unwrap(), Action::Begin(_)));
        }
        let Action::Send(refused) = it.receive(transaction(1), T0).unwrap() else { panic!("taken") };
        assert_eq!(status(&refused), 503);
    }

    #[test]
    fn the_same_transaction_twice_does_not_disturb_the_first() {
        let mut it = ready();
        begun(&mut it, 1);
        let Action::Send(error) = it.receive(transaction(1), T0).unwrap() else { panic!("taken") };
        assert_eq!((error.kind, it.running()), (i32::from(Kind::Error), 1));
        assert!(it.want(&key(1), get("a")).is_some());
    }

    #[test]
    fn what_breaks_the_protocol_ends_the_stream_and_keepalives_come_back() {
        let (mut it, _) = Session::open("x");
        let alive = message(Kind::Keepalive, vec![]);
        assert_eq!(it.receive(alive.clone(), T0).unwrap(), Action::Send(alive));
        let refused = it.receive(message(Kind::Error, b"unknown".to_vec()), T0).unwrap_err();
        assert!(refused.to_string().contains("unknown"));
        for kind in [Kind::Ready, Kind::Transaction, Kind::Response] {
            assert!(it.receive(message(kind, vec![]), T0).is_err(), "{kind:?}");
        }
        let mut it = ready();
        for kind in [Kind::Register, Kind::Ready, Kind::Completed, Kind::GetState, Kind::Undefined] {
            assert!(it.receive(message(kind, vec![]), T0).is_err(), "{kind:?}");
        }
        let unknown = ChaincodeMessage { kind: 24, ..ChaincodeMessage::default() };
        assert!(it.receive(unknown, T0).unwrap_err().to_string().contains("type 24"));
    }

    proptest! {
        /// Whatever the peer sends, nothing panics, and no transaction has two requests in flight.
        #[test]
        fn any_message_is_taken_or_refused(
            messages in prop::collection::vec((0_i32..26, 0_u8..3, prop::collection::vec(any::<u8>(), 0..12)), 0..60),
        ) {
            let mut it = ready();
            let mut asked = std::collections::HashSet::new();
            for (kind, n, payload) in messages {
                let message = ChaincodeMessage { kind, payload, ..transaction(n) };
                match it.receive(message, T0) {
                    Err(_) | Ok(Action::Send(_) | Action::Nothing) => {}
                    Ok(Action::Begin(i)) => {
                        prop_assert!(it.want(&i.key, get("k")).is_some());
                        prop_assert!(asked.insert(i.key));
                    }
                    Ok(Action::Resume(k, _)) => {
                        prop_assert!(asked.contains(&k));
                        prop_assert!(it.want(&k, get("k")).is_some());
                        prop_assert!(it.want(&k, get("k")).is_none());
                    }
                }
            }
        }
    }
}
