//! Several gateways as one: a transaction is carried until it is in a block, or it is known what became of it.
//!
//! What is done next is decided without I/O, by [`Health`] (through which gateway) and [`Course`] (whether, and when); here
//! it is done. Not endorsed, or invalidated by another: it is proposed again, as a new transaction. Open: the same envelope is
//! sent again through another gateway, which is the same transaction, and what became of it is asked for; so too when
//! it is in no block after a while, for an orderer that took it may have died with it. Never: a new transaction while it is open
//! what became of the one before. Tests: `pool/health.rs`, `pool/course.rs`; `tests/faults.rs` on a network whose nodes
//! are killed.

mod course;
mod health;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fabric::{
    gateway::{
        Call, Code, CommitError, Committed, EndorseError, Endorsed, EvaluateError, Outcome, Refusal, Retry,
        SubmitError, Submitted,
    },
    message::Response,
};
use tokio::time::{sleep, timeout};

pub use self::{
    course::{Course, Limits},
    health::{Health, State},
};
use crate::{
    gateway::{Gateway, Member, Options},
    tls::OpenError,
};

/// A transaction in a block, and valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transacted {
    /// Which block.
    pub committed: Committed,
    /// The chaincode's answer, and its event.
    pub endorsed: Endorsed,
    /// Transactions that were proposed, this one included.
    pub proposals: u32,
}

/// Why a transaction is not in a block and valid, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum TransactError {
    /// Nothing has happened.
    #[error("nothing has happened (proposal {proposals}): {source}")]
    NotEndorsed {
        /// How often it was proposed, until now.
        proposals: u32,
        /// The last one's error.
        source: EndorseError,
    },
    /// Nothing has happened: what was endorsed is not wanted ([`Pool::transact_if`]).
    #[error("nothing has happened: transaction {} is not wanted as it was endorsed", endorsed.tx_id())]
    Unwanted {
        /// It.
        endorsed: Box<Endorsed>,
    },
    /// Nothing has happened.
    #[error("nothing has happened (proposal {proposals}): {source}")]
    NotOrdered {
        /// How often it was proposed, until now.
        proposals: u32,
        /// The last one's error.
        source: SubmitError,
    },
    /// In a block, without effect, and so were those before it.
    #[error("without effect (proposal {proposals}): {source}")]
    Invalid {
        /// How often it was proposed, until now.
        proposals: u32,
        /// The last one's error.
        source: CommitError,
    },
    /// It may be in a block, now or later.
    #[error(
        "transaction {} may be in a block or not, {} ms after it was first sent: {source}; look it up, or send the same request \
         again and see whether it was decided before", submitted.tx_id(), open_for.as_millis()
    )]
    Open {
        /// To look it up ([`Pool::look_up`]).
        submitted: Box<Submitted>,
        /// Since when.
        open_for: Duration,
        /// The last error.
        source: Cause,
    },
}

impl TransactError {
    /// What helps.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotEndorsed { source, .. } => source.retry(),
            Self::Unwanted { .. } => Retry::Never,
            Self::NotOrdered { source, .. } => source.retry(),
            Self::Invalid { source, .. } => source.retry(),
            Self::Open { .. } => Retry::LookUp,
        }
    }

    /// Is it known what became of it?
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::NotEndorsed { .. } | Self::Unwanted { .. } | Self::NotOrdered { .. } => Outcome::Nothing,
            Self::Invalid { .. } => Outcome::Invalid,
            Self::Open { .. } => Outcome::Unknown,
        }
    }
}

/// Several gateways of one channel, through which one member transacts. To be shared.
pub struct Pool {
    gateways: Vec<Gateway>,
    health: Mutex<Health>,
    limits: Limits,
}

/// Which gateway was asked, and since when.
#[derive(Clone, Copy)]
struct Asked {
    place: usize,
    at: Instant,
}

/// A sent transaction that is not in a block and valid.
enum Sent {
    Refused(SubmitError),
    Invalid(CommitError),
    Open(Box<Submitted>, Cause),
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Pool {
    /// Gateways whose options are sound, the preferred one first; each is connected to when it is needed. Within a Tokio
    /// runtime.
    pub fn open(options: &[Options], member: &Member, limits: Limits) -> Result<Self, OpenError> {
        let gateways = options.iter().map(|o| Gateway::open(o, member.clone()));
        let gateways = gateways.collect::<Result<Vec<_>, _>>()?;
        if gateways.is_empty() {
            return Err(OpenError::NoGateways);
        }
        let health = Mutex::new(Health::new(gateways.len()));
        Ok(Self { gateways, health, limits })
    }

    /// Of each gateway, in the order of the options.
    #[must_use]
    pub fn states(&self) -> Vec<State> {
        self.health().states(Instant::now())
    }

    /// Carries a call until it is in a block. Dropped before it ends, it leaves the outcome open.
    pub async fn transact(&self, call: &Call) -> Result<Transacted, TransactError> {
        self.transact_if(call, &|_| true).await
    }

    /// As [`Self::transact`], when what was endorsed is wanted; otherwise it is [`TransactError::Unwanted`].
    pub async fn transact_if(
        &self,
        call: &Call,
        wanted: &(dyn Fn(&Endorsed) -> bool + Sync),
    ) -> Result<Transacted, TransactError> {
        let mut course = Course::new(self.limits, Instant::now());
        loop {
            let error = match self.once(call, &mut course, wanted).await {
                Ok(transacted) => return Ok(transacted),
                Err(error) => error,
            };
            match course.propose(error.retry(), Instant::now(), random()) {
                Some(after) => sleep(after).await,
                None => return Err(error),
            }
        }
    }

    /// What became of a transaction whose outcome was open; each gateway is asked until one knows.
    pub async fn look_up(&self, submitted: &Submitted) -> Result<Committed, CommitError> {
        let mut course = Course::new(self.limits, Instant::now());
        loop {
            let error = match self.status(submitted).await {
                Err(error) if error.outcome() == Outcome::Unknown => error,
                known => return known,
            };
            match course.look_up(Instant::now(), random()) {
                Some(after) => sleep(after).await,
                None => return Err(error),
            }
        }
    }

    /// Asks the chaincode on one peer; nothing is written.
    pub async fn evaluate(&self, call: &Call) -> Result<Response, EvaluateError> {
        let mut course = Course::new(self.limits, Instant::now());
        loop {
            let (asked, gateway) = self.choose();
            let error = match gateway.evaluate(call.clone()).await {
                Ok(response) => {
                    self.good(asked);
                    return Ok(response);
                }
                Err(error) => error,
            };
            match &error {
                EvaluateError::Refused(refusal) => self.judge(asked, refusal),
                EvaluateError::Altered(_) => self.bad(asked),
                EvaluateError::Signing(_) => {}
            }
            match course.propose(error.retry(), Instant::now(), random()) {
                Some(after) => sleep(after).await,
                None => return Err(error),
            }
        }
    }

    /// One transaction, until its outcome is known or there is no time to wait for it.
    async fn once(
        &self,
        call: &Call,
        course: &mut Course,
        wanted: &(dyn Fn(&Endorsed) -> bool + Sync),
    ) -> Result<Transacted, TransactError> {
        let proposals = course.proposals();
        let endorsed = self.endorse(call).await;
        let endorsed = endorsed.map_err(|source| TransactError::NotEndorsed { proposals, source })?;
        if !wanted(&endorsed) {
            return Err(TransactError::Unwanted { endorsed: Box::new(endorsed) });
        }
        let begin = Instant::now();
        let mut open = None;
        loop {
            let (submitted, source) = match self.send(&endorsed).await {
                Ok(committed) => return Ok(Transacted { committed, endorsed, proposals }),
                Err(Sent::Invalid(source)) => return Err(TransactError::Invalid { proposals, source }),
                Err(Sent::Open(submitted, source)) => (submitted, source),
                Err(Sent::Refused(source)) => match open.take() {
                    None => return Err(TransactError::NotOrdered { proposals, source }),
                    // Refused now, it may have been taken before.
                    Some(submitted) => (submitted, source.into()),
                },
            };
            let Some(after) = course.look_up(Instant::now(), random()) else {
                return Err(TransactError::Open { submitted, open_for: begin.elapsed(), source });
            };
            open = Some(submitted);
            sleep(after).await;
        }
    }

    async fn endorse(&self, call: &Call) -> Result<Endorsed, EndorseError> {
        let (asked, gateway) = self.choose();
        let endorsed = match gateway.propose(call.clone()) {
            Ok(proposed) => gateway.endorse(&proposed).await,
            Err(error) => Err(error),
        };
        match &endorsed {
            Ok(_) => self.good(asked),
            Err(EndorseError::Refused(refusal)) => self.judge(asked, refusal),
            Err(EndorseError::Altered(_)) => self.bad(asked),
            Err(EndorseError::Signing(_)) => {}
        }
        endorsed
    }

    /// Sends it to be ordered, for the first time or again, and waits for its block.
    async fn send(&self, endorsed: &Endorsed) -> Result<Committed, Sent> {
        let (asked, gateway) = self.choose();
        let submitted = match gateway.submit(endorsed).await {
            Ok(submitted) => submitted,
            Err(SubmitError::Refused(refusal)) => {
                self.judge(asked, &refusal);
                return Err(Sent::Refused(SubmitError::Refused(refusal)));
            }
            Err(SubmitError::Unknown { refusal, submitted }) => {
                self.judge(asked, &refusal);
                return Err(Sent::Open(submitted, refusal.into()));
            }
        };
        match self.status(&submitted).await {
            Err(error) if error.outcome() == Outcome::Invalid => Err(Sent::Invalid(error)),
            Err(error) => Err(Sent::Open(Box::new(submitted), error.into())),
            Ok(committed) => Ok(committed),
        }
    }

    async fn status(&self, submitted: &Submitted) -> Result<Committed, CommitError> {
        let (asked, gateway) = self.choose();
        let limit = self.limits.resend;
        let known = timeout(limit, gateway.commit_status(submitted)).await.unwrap_or_else(|_| {
            let message = format!("in no block that the gateway knows after {limit:?}");
            Err(CommitError::Unknown(Refusal { code: Code::DeadlineExceeded, message, details: Vec::new() }))
        });
        match &known {
            Err(CommitError::Unknown(refusal)) => self.judge(asked, refusal),
            Ok(_) | Err(CommitError::Invalid { .. }) => self.good(asked),
            Err(CommitError::Signing(_) | CommitError::NotValidated { .. }) => {}
        }
        known
    }

    fn choose(&self) -> (Asked, &Gateway) {
        let at = Instant::now();
        let place = self.health().choose(at);
        (Asked { place, at }, &self.gateways[place])
    }

    fn good(&self, asked: Asked) {
        self.health().good(asked.place);
    }

    fn bad(&self, asked: Asked) {
        self.health().bad(asked.place, asked.at, Instant::now(), random());
    }

    /// What its own answer says of a gateway.
    fn judge(&self, asked: Asked, refusal: &Refusal) {
        if health::speaks_against(refusal) {
            self.bad(asked);
        } else {
            self.good(asked);
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        // What it has is whole after each of its functions.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For back-offs alone: without randomness they are as long as they may be.
fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX)
}
