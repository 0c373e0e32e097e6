//! OSM's operations: started by a POST, watched by looking, cancelled at our deadline.
//!
//! Looks come further and further apart, with jitter. An NBI that does not answer in between (it restarts) is looked at again until
//! the deadline. An operation that is gone has ended: with `autoremove`, which others may use, the NBI takes the operation
//! away with its service. A notification ([`crate::notify`]) is a reason to look at once.

use std::time::{Duration, Instant};

use mano::{Operation, OperationKind, OperationState};
use serde_json::{Value, json};
use tokio::time::timeout;
use vim::Disposition;

use crate::{
    Osm,
    client::{ApiError, Call},
    error::Trouble,
    records::Occurrence,
};

const PATH: &str = "nslcm/v1/ns_lcm_op_occs";
/// The longest pause between two looks is so many times the first.
const MAX_PAUSES: u32 = 16;
/// How long a cancelled operation may take to end; no longer than it may take itself.
const CANCEL_GRACE: Duration = Duration::from_secs(120);

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// As it should, wholly or in part.
    Done,
    /// Not, in OSM's words.
    Failed(String),
    /// We cancelled it at our deadline, and it ended.
    Cancelled(String),
    /// It is not there any more, and so its service.
    Gone,
}

impl Osm {
    /// Operations of a service (or all), oldest first; one call.
    pub(crate) async fn operations(&self, service: Option<&str>) -> Result<Vec<Occurrence>, ApiError> {
        let call = Call::get(PATH);
        let call = match service {
            Some(id) => call.query("nsInstanceId", id),
            None => call,
        };
        let mut all: Vec<Occurrence> = self.client.ask(&call).await?;
        all.retain(|o| service.is_none_or(|id| o.service == id));
        all.sort_by(|a, b| a.started.total_cmp(&b.started));
        Ok(all)
    }

    /// Waits until the operation has ended, or has been cancelled at `until`.
    pub(crate) async fn wait(&self, id: &str, until: Instant) -> Result<Ended, Trouble> {
        if let Some(ended) = self.watch(id, until).await? {
            return Ok(ended);
        }
        self.cancel(id).await?;
        match self.watch(id, Instant::now() + CANCEL_GRACE.min(self.client.config().deadline())).await? {
            Some(Ended::Failed(words)) => Ok(Ended::Cancelled(words)),
            Some(ended) => Ok(ended),
            None => {
                let s = self.client.config().deadline_s;
                let reason = format!(
                    "operation {id} did not end in {s} s and cannot be cancelled: look at OSM's LCM; asked again, it is waited for"
                );
                Err(Trouble::Refused { code: "OSM_DEADLINE", reason, disposition: Disposition::Unknown })
            }
        }
    }

    async fn watch(&self, id: &str, until: Instant) -> Result<Option<Ended>, Trouble> {
        let first = self.client.config().poll();
        let mut pause = first;
        let bell = self.bells.of(id);
        loop {
            let pause_now = http_peer::jittered(pause).min(until.saturating_duration_since(Instant::now()));
            // Rung or not, it is looked.
            let _ = timeout(pause_now, bell.heard()).await;
            match self
                .client
                .find::<Occurrence>(&Call::get(format!("{PATH}/{}", http_peer::segment(id))))
                .await
            {
                Ok(None) => return Ok(Some(Ended::Gone)),
                Ok(Some(found)) => match state(&found.state) {
                    OperationState::Processing => {}
                    OperationState::Completed | OperationState::Partial => return Ok(Some(Ended::Done)),
                    OperationState::Failed => return Ok(Some(Ended::Failed(words(&found)))),
                },
                Err(e) if e.is_lost() || e.did_nothing() => {}
                Err(e) => return Err(e.into()),
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            pause = (pause * 2).min(first * MAX_PAUSES);
        }
    }

    /// Asks for an end. One that has ended, or that an older NBI cannot cancel, is left alone.
    pub(crate) async fn cancel(&self, id: &str) -> Result<(), ApiError> {
        let call = Call::post(
            format!("{PATH}/{}/cancel", http_peer::segment(id)),
            &json!({ "cancelMode": "GRACEFUL" }),
        );
        match self.client.tell(&call).await {
            Err(e) if e.status().is_some_and(|s| s.is_client_error()) && !e.did_nothing() => Ok(()),
            Err(e) if e.is_lost() => Ok(()),
            other => other,
        }
    }
}

/// SOL005's states and OSM's.
pub(crate) fn state(text: &str) -> OperationState {
    match text {
        "COMPLETED" => OperationState::Completed,
        "PARTIALLY_COMPLETED" => OperationState::Partial,
        "FAILED" | "FAILED_TEMP" | "ROLLED_BACK" => OperationState::Failed,
        // STARTING, PROCESSING, ROLLING_BACK; what is not known has not ended.
        _ => OperationState::Processing,
    }
}

impl Occurrence {
    pub(crate) fn runs(&self) -> bool {
        state(&self.state) == OperationState::Processing
    }
}

/// What OSM says of it: `errorMessage` or `detailed-status`; `detailedStatus` stays null.
fn words(o: &Occurrence) -> String {
    let detail = match &o.detail {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    match (o.error.is_empty(), detail.is_empty()) {
        (false, _) => o.error.clone(),
        (true, false) => detail,
        (true, true) => format!("{} without a word", o.state),
    }
}

pub(crate) fn operation(o: &Occurrence) -> Operation {
    let kind = match o.kind.as_str() {
        "instantiate" => OperationKind::Instantiate,
        "scale" => OperationKind::Scale,
        "update" => OperationKind::Update,
        "heal" => OperationKind::Heal,
        "migrate" => OperationKind::Migrate,
        "terminate" => OperationKind::Terminate,
        other => OperationKind::Other(other.to_owned()),
    };
    let detail = if o.runs() { String::new() } else { words(o) };
    Operation { id: o.id.clone(), kind, state: state(&o.state), detail }
}
