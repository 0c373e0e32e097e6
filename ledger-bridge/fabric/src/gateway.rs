//! A client's side of `gateway.Gateway`, as types: [`Proposed`] -> [`Endorsed`] -> [`Submitted`] -> [`Committed`].
//!
//! Each is made only from the one before and the gateway's answer, so nothing can be submitted that was not endorsed. Each
//! phase has its error, which says whether it is known what became of the transaction ([`Outcome`]) and what helps
//! ([`Retry`]). Before ordering nothing has happened; once a transaction was sent to be ordered and no answer came, it may
//! be committed at any time: it is looked up, never proposed again blindly.
//!
//! A gateway is trusted with availability alone: what it gives to sign is compared with what was proposed, and signed as
//! it came; signed bytes are never encoded again. That a transaction is valid is one peer's word here. Never: I/O, a clock,
//! randomness, a key. Tests: `tests/gateway.rs`; against a real gateway those of `ledger-fabric`.

mod error;
pub mod message;
mod phase;
mod refusal;

pub use error::{CommitError, EndorseError, EvaluateError, SignError, SubmitError};
pub(crate) use phase::proposal_payload;
pub use phase::{Call, Committed, Creator, Endorsed, NONCE_BYTES, Proposed, Submitted};
pub use refusal::{Code, Outcome, Refusal, Retry, back_off};
