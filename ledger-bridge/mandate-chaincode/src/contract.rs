//! Which function a transaction calls.

use fabric::{
    message::GetState,
    shim::{Answer, Done, Got, Invocation, Want},
};
use ledger_contract::transaction::MAX_SKEW_S;
use trust::{Digest, UnixTime};

use crate::{
    query::{History, Prefix},
    submit::Submit,
};

/// A transaction's code: gets what it wanted, and says what it wants next. It is not called any more when it is done.
pub trait Transaction: Send {
    /// `None`: for the first time.
    fn resume(&mut self, answer: Option<Answer>) -> Want;
}

/// The chaincode. All endorsers must be set up alike, or they endorse different results.
#[derive(Debug, Clone, Default)]
pub struct Contract {
    /// The one genesis that is taken, by the digest of its envelope; `None`: the first that founds the ledger.
    pub genesis: Option<Digest>,
}

impl Contract {
    /// The code of a transaction that arrived at `now`.
    #[must_use]
    pub fn begin(&self, invocation: Invocation, now: UnixTime) -> Box<dyn Transaction> {
        self.function(invocation, now).unwrap_or_else(|refusal| Box::new(Over(Some(*refusal))))
    }

    fn function(&self, it: Invocation, now: UnixTime) -> Result<Box<dyn Transaction>, Box<Done>> {
        let text = |bytes: &[u8]| {
            String::from_utf8(bytes.to_vec()).map_err(|_| refuse(400, "an argument is not UTF-8"))
        };
        let args = it.args.iter().map(|a| text(a)).collect::<Result<Vec<_>, _>>()?;
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Ok(match *args.as_slice() {
            // Founding is a request like others, so there is nothing to initialise.
            _ if it.init => Box::new(Over(Some(Done::ok(Vec::new())))),
            // Endorsed, it could be valid on the channel, and nobody could prove it.
            ["submit"] if !it.canonical => {
                return Err(refuse(400, "the proposal's headers are in an encoding that no proof takes"));
            }
            ["submit"] => Box::new(Submit::new(self.genesis, &it, time(&it, now)?)?),
            ["state", key] => Box::new(Value { key: key.to_owned() }),
            ["prefix", prefix, after, limit] => Box::new(Prefix::new(prefix, after, number(limit)?)),
            ["history", key, limit] => Box::new(History::new(key, number(limit)?)),
            [name @ ("submit" | "state" | "prefix" | "history"), ..] => {
                return Err(refuse(400, format!("wrong arguments of `{name}`")));
            }
            [name, ..] => {
                let known = "this chaincode has submit, state, prefix and history";
                return Err(refuse(404, format!("no function `{name}`: {known}")));
            }
            [] => return Err(refuse(400, "no function is named")),
        })
    }
}

pub(crate) fn refuse(status: i32, message: impl Into<String>) -> Box<Done> {
    Box::new(Done::error(status, message))
}

fn number(text: &str) -> Result<usize, Box<Done>> {
    text.parse().map_err(|_| refuse(400, format!("`{text}` is no number of rows")))
}

/// The time that the submitter signed, as far as the clock here bears it out: every endorser looks at its own.
fn time(it: &Invocation, now: UnixTime) -> Result<UnixTime, Box<Done>> {
    let signed = UnixTime(u64::try_from(it.time.seconds).unwrap_or(0));
    match signed.0.abs_diff(now.0) <= MAX_SKEW_S {
        true => Ok(signed),
        false => Err(refuse(
            409,
            format!(
                "the transaction says {signed}, here it is {now}: more than {MAX_SKEW_S} s apart; set the clock right"
            ),
        )),
    }
}

/// Nothing more to do.
struct Over(Option<Done>);

impl Transaction for Over {
    fn resume(&mut self, _: Option<Answer>) -> Want {
        Want::Done(self.0.take().unwrap_or_else(|| Done::error(500, "the transaction is over")))
    }
}

/// One value.
struct Value {
    key: String,
}

impl Transaction for Value {
    fn resume(&mut self, answer: Option<Answer>) -> Want {
        match answer {
            None => Want::Get(GetState { key: self.key.clone(), collection: String::new() }),
            Some(Ok(Got::Value(Some(value)))) => Want::Done(Done::ok(value)),
            Some(Ok(Got::Value(None))) => Want::Done(Done::error(404, format!("no `{}`", self.key))),
            Some(other) => Want::Done(failed(&other)),
        }
    }
}

/// The peer did not do what was asked for; nothing is endorsed.
pub(crate) fn failed(answer: &Answer) -> Done {
    match answer {
        Ok(_) => Done::error(500, "the peer answers another question"),
        Err(problem) => Done::error(500, format!("the peer's state cannot be used: {problem}")),
    }
}
