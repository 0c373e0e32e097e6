//! Why a phase was not reached; for each whether the outcome is known, and what helps.

use super::{
    message::ValidationCode,
    phase::Submitted,
    refusal::{Outcome, Refusal, Retry},
};

/// Why a key has not signed.
pub type SignError = Box<dyn std::error::Error + Send + Sync>;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The key has not signed.
    #[error("the question could not be signed")]
    Signing(#[source] SignError),
    /// The gateway, or the chaincode, has refused it.
    #[error("the gateway gives no answer: {0}")]
    Refused(Refusal),
    /// The gateway answers something else.
    #[error("the gateway's answer is not one to the question: {0}")]
    Altered(&'static str),
}

impl EvaluateError {
    /// What helps.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Signing(_) | Self::Altered(_) => Retry::Never,
            Self::Refused(refusal) => refusal.before_ordering(),
        }
    }
}

/// Why a transaction was not endorsed. Nothing has happened.
#[derive(Debug, thiserror::Error)]
pub enum EndorseError {
    /// The key has not signed.
    #[error("the transaction could not be signed")]
    Signing(#[source] SignError),
    /// The gateway, the endorsers or the chaincode have refused it.
    #[error("the proposal was not endorsed: {0}")]
    Refused(Refusal),
    /// What the gateway gave to sign is not what was proposed. It was not signed.
    #[error("the gateway gave another transaction to sign: {0}; use another gateway")]
    Altered(&'static str),
}

impl EndorseError {
    /// Always [`Outcome::Nothing`].
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        Outcome::Nothing
    }

    /// What helps.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Signing(_) | Self::Altered(_) => Retry::Never,
            Self::Refused(refusal) => refusal.before_ordering(),
        }
    }
}

/// Why it is not known that an orderer has the transaction.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// None has taken it.
    #[error("the transaction was not taken for ordering: {0}")]
    Refused(Refusal),
    /// One may have: the transaction can be looked up, or the same request sent again.
    #[error("transaction {} may be ordered or not: {refusal}", submitted.tx_id())]
    Unknown {
        /// Why.
        refusal: Refusal,
        /// To look it up.
        submitted: Box<Submitted>,
    },
}

impl SubmitError {
    /// Is it known what became of it?
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Refused(_) => Outcome::Nothing,
            Self::Unknown { .. } => Outcome::Unknown,
        }
    }

    /// What helps.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused(refusal) => refusal.before_ordering(),
            Self::Unknown { .. } => Retry::LookUp,
        }
    }
}

/// Why it is not known that the transaction is in a block and valid.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The key has not signed.
    #[error("the question for the transaction could not be signed")]
    Signing(#[source] SignError),
    /// No answer.
    #[error("the transaction may be in a block or not: {0}")]
    Unknown(Refusal),
    /// The peer has the block, and has not validated it.
    #[error("the transaction is in block {block}, which the peer has not validated")]
    NotValidated {
        /// The block's number.
        block: u64,
    },
    /// In a block, without effect.
    #[error("the transaction is invalid in block {block}: {code:?}")]
    Invalid {
        /// Why.
        code: ValidationCode,
        /// The block's number.
        block: u64,
    },
}

impl CommitError {
    /// Is it known what became of it?
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            // The same id is in a block already, and that one may be valid.
            Self::Invalid { code: ValidationCode::DuplicateTxid, .. } => Outcome::Unknown,
            Self::Invalid { .. } => Outcome::Invalid,
            Self::Signing(_) | Self::Unknown(_) | Self::NotValidated { .. } => Outcome::Unknown,
        }
    }

    /// What helps.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Signing(_) | Self::Unknown(_) | Self::NotValidated { .. } => Retry::LookUp,
            Self::Invalid { code, .. } => match code {
                ValidationCode::DuplicateTxid => Retry::LookUp,
                // Another transaction wrote what it read, or another definition of the chaincode was committed.
                ValidationCode::MvccReadConflict
                | ValidationCode::PhantomReadConflict
                | ValidationCode::ExpiredChaincode
                | ValidationCode::ChaincodeVersionConflict => Retry::Anew,
                _ => Retry::Never,
            },
        }
    }
}
