//! `submit`: deciding requests, in order, each over the state that the one before left.
//!
//! Fabric's reads do not see a transaction's own writes, so what was read and decided is kept here until all is decided;
//! then it is written, each key once. A request that makes no entry writes nothing. Tests: `tests/hosts.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fabric::{
    message::{DelState, GetState, PutState},
    shim::{Answer as Reply, Done, Got, Invocation, TxKey, Want},
};
use ledger_contract::{
    TxInfo,
    contract::{Outcome, Prepared, Reading, decide_prepared},
    records::{ENTRY_VERSION, Entry, GENESIS_PAYLOAD},
    transaction::{
        Answer, Before, COLLECTION, Decided, EVENT, MAX_REQUESTS, Notice, REQUESTS, SealedEntry,
        TRANSACTION_VERSION, position_of, request_key,
    },
};
use trust::{Digest, Envelope, UnixTime};

use crate::contract::{Transaction, failed, refuse};

/// Why a transaction ends early.
type Ends<T> = Result<T, Box<Done>>;

/// The state as it is in this transaction.
#[derive(Default)]
struct View {
    values: BTreeMap<String, Option<Vec<u8>>>,
    written: BTreeSet<String>,
}

/// A request that is being decided.
struct Current {
    digest: Digest,
    prepared: Prepared,
    reading: Reading,
    /// The key of the contract's that the peer was asked for.
    wants: Option<String>,
}

/// The transaction.
pub(crate) struct Submit {
    genesis: Option<Digest>,
    key: TxKey,
    time: UnixTime,
    collection: String,
    waiting: VecDeque<Envelope>,
    current: Option<Current>,
    view: View,
    /// The key that the peer was asked for.
    asked: Option<String>,
    answer: Answer,
    notice: Notice,
    /// Envelopes that became entries, for the private data collection.
    kept: Vec<PutState>,
    /// What is left to write, once all is decided.
    writes: Option<VecDeque<Want>>,
}

impl Submit {
    pub fn new(genesis: Option<Digest>, it: &Invocation, time: UnixTime) -> Ends<Self> {
        let requests = it.transient.get(REQUESTS).map(Vec::as_slice).unwrap_or_default();
        let waiting: VecDeque<Envelope> = serde_json::from_slice(requests).map_err(|e| {
            refuse(400, format!("the transient data `{REQUESTS}` is no list of envelopes: {e}"))
        })?;
        if !(1..=MAX_REQUESTS).contains(&waiting.len()) {
            let text = format!("{} requests; 1 to {MAX_REQUESTS} go into a transaction", waiting.len());
            return Err(refuse(400, text));
        }
        let collection = it.transient.get(COLLECTION).cloned().unwrap_or_default();
        let collection = String::from_utf8(collection)
            .map_err(|_| refuse(400, format!("the transient data `{COLLECTION}` is not UTF-8")))?;
        Ok(Self {
            genesis,
            key: it.key.clone(),
            time,
            collection,
            waiting,
            current: None,
            view: View::default(),
            asked: None,
            answer: Answer { v: TRANSACTION_VERSION, decided: Vec::new() },
            notice: Notice { v: TRANSACTION_VERSION, events: Vec::new(), others: Vec::new() },
            kept: Vec::new(),
            writes: None,
        })
    }

    /// Takes what the peer said.
    fn take(&mut self, reply: Option<Reply>) -> Ends<()> {
        match (reply, self.asked.take()) {
            (None, None) => Ok(()),
            (Some(Ok(Got::Value(value))), Some(key)) => {
                self.view.values.insert(key, value);
                Ok(())
            }
            (Some(Ok(Got::Written)), None) if self.writes.is_some() => Ok(()),
            (Some(other), _) => Err(Box::new(failed(&other))),
            (None, Some(_)) => Err(refuse(500, "nothing was answered")),
        }
    }

    /// Decides until something must be read; `None`: all is decided.
    fn decide(&mut self) -> Ends<Option<String>> {
        loop {
            let mut current = match self.current.take() {
                Some(current) => current,
                None => match self.waiting.pop_front() {
                    None => return Ok(None),
                    Some(envelope) => match self.open(envelope) {
                        Ok(current) => current,
                        Err(problem) => {
                            self.answer.decided.push(Decided::Malformed { problem });
                            continue;
                        }
                    },
                },
            };
            match self.step(&mut current)? {
                Step::Ask(key) => {
                    self.current = Some(current);
                    return Ok(Some(key));
                }
                Step::Decided(decided) => self.answer.decided.push(decided),
                Step::Read => self.conclude(current)?,
            }
        }
    }

    fn open(&self, envelope: Envelope) -> Result<Current, String> {
        let digest = envelope.digest();
        let prepared = Prepared::read(envelope).map_err(|e| e.to_string())?;
        if founds(&prepared) && self.genesis.is_some_and(|g| g != digest) {
            return Err("it is another genesis than this chaincode was started for".to_owned());
        }
        Ok(Current { digest, prepared, reading: Reading::default(), wants: None })
    }

    fn step(&self, current: &mut Current) -> Ends<Step> {
        let seen = request_key(&current.digest);
        match self.view.values.get(&seen) {
            None => return Ok(Step::Ask(seen)),
            Some(Some(bytes)) => {
                let before = serde_json::from_slice(bytes)
                    .map_err(|e| refuse(500, format!("the ledger's record `{seen}` cannot be read: {e}")))?;
                return Ok(Step::Decided(Decided::Before { before }));
            }
            Some(None) => {}
        }
        loop {
            let key = match current.wants.take() {
                Some(key) => key,
                None => match current.reading.next(&current.prepared) {
                    Ok(Some(key)) => key,
                    Ok(None) => return Ok(Step::Read),
                    Err(e) => return Ok(Step::Decided(Decided::Malformed { problem: e.to_string() })),
                },
            };
            match self.view.values.get(&key) {
                Some(value) => current.reading.answer(key, value.clone()),
                None => {
                    current.wants = Some(key.clone());
                    return Ok(Step::Ask(key));
                }
            }
        }
    }

    fn conclude(&mut self, current: Current) -> Ends<()> {
        let Current { digest, prepared, reading, .. } = current;
        let position = match founds(&prepared) {
            true => 0,
            false => position_of(&self.key.tx_id, self.answer.decided.len())
                .ok_or_else(|| refuse(400, "the transaction id is not hexadecimal"))?,
        };
        let tx = TxInfo { v: ENTRY_VERSION, ledger: self.key.channel.clone(), position, time: self.time };
        let outcome = decide_prepared(&prepared, &reading.into_snapshot(), &tx);
        if !outcome.verdict.authenticated() {
            self.answer.decided.push(Decided::Unauthenticated { verdict: outcome.verdict });
            return Ok(());
        }
        let request = prepared.into_envelope();
        if !self.collection.is_empty() {
            let (key, value) = (request_key(&digest), request.to_json());
            self.kept.push(PutState { key, value, collection: self.collection.clone() });
        }
        let before = Before { v: TRANSACTION_VERSION, tx: self.key.tx_id.clone(), position };
        // Text and numbers always encode.
        self.view.write(request_key(&digest), Some(serde_json::to_vec(&before).unwrap_or_default()));
        let entry = self.entry(tx, request, outcome);
        self.answer.decided.push(Decided::Entry { entry: Box::new(SealedEntry::seal(entry)) });
        Ok(())
    }

    /// Takes up what was decided.
    fn entry(&mut self, tx: TxInfo, request: Envelope, outcome: Outcome) -> Entry {
        let positions =
            if outcome.event.is_some() { &mut self.notice.events } else { &mut self.notice.others };
        positions.push(tx.position);
        let (entry, writes) = outcome.into_entry(tx, request);
        for (key, value) in writes {
            self.view.write(key, value);
        }
        entry
    }

    fn done(&self) -> Done {
        // Records always encode.
        let payload = serde_json::to_vec(&self.answer).unwrap_or_default();
        let made = !(self.notice.events.is_empty() && self.notice.others.is_empty());
        let event = made.then(|| (EVENT.to_owned(), serde_json::to_vec(&self.notice).unwrap_or_default()));
        Done { event, ..Done::ok(payload) }
    }

    fn next(&mut self, reply: Option<Reply>) -> Ends<Want> {
        self.take(reply)?;
        if self.writes.is_none() {
            if let Some(key) = self.decide()? {
                self.asked = Some(key.clone());
                return Ok(Want::Get(GetState { key, collection: String::new() }));
            }
            let kept = std::mem::take(&mut self.kept).into_iter().map(Want::Put);
            self.writes = Some(self.view.writes().chain(kept).collect());
        }
        let next = self.writes.as_mut().and_then(VecDeque::pop_front);
        Ok(next.unwrap_or_else(|| Want::Done(self.done())))
    }
}

impl Transaction for Submit {
    fn resume(&mut self, reply: Option<Reply>) -> Want {
        self.next(reply).unwrap_or_else(|done| Want::Done(*done))
    }
}

/// What comes next for a request.
enum Step {
    /// To read this.
    Ask(String),
    /// Nothing: there was nothing to decide.
    Decided(Decided),
    /// To be decided: everything is there.
    Read,
}

fn founds(request: &Prepared) -> bool {
    request.envelope().payload_type == GENESIS_PAYLOAD
}

impl View {
    fn write(&mut self, key: String, value: Option<Vec<u8>>) {
        self.values.insert(key.clone(), value);
        self.written.insert(key);
    }

    /// Everything that was written, as it is in the end, by key.
    fn writes(&self) -> impl Iterator<Item = Want> {
        self.written.iter().map(|key| {
            let (key, collection) = (key.clone(), String::new());
            match self.values.get(&key).cloned().flatten() {
                Some(value) => Want::Put(PutState { key, value, collection }),
                None => Want::Delete(DelState { key, collection }),
            }
        })
    }
}
