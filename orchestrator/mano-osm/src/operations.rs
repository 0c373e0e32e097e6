//! OSM's operations: started by a POST, watched by looking, cancelled at our deadline.
//!
//! An operation that was begun just now is looked at first a little before the last one of its kind was over, or late when none was
//! seen yet: OSM takes tens of seconds for the quickest. Then looks come further and further apart, with jitter. An NBI that does
//! not answer in between (it restarts) is looked at again until the deadline. An operation that is gone has ended: with `autoremove`, which others may use, the NBI takes the operation
//! away with its service. A notification ([`crate::notify`]) is a reason to look at once.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use mano::{Operation, OperationKind, OperationState};
use serde_json::{Value, json};
use tokio::time::timeout;
use vim::Disposition;

use crate::{
    Osm,
    client::{ApiError, Call},
    error::Trouble,
    lock,
    records::Occurrence,
};

const PATH: &str = "nslcm/v1/ns_lcm_op_occs";
/// The longest pause between two looks, in pauses of the configuration.
const MAX_PAUSES: u32 = 32;
/// The first look at what was begun just now and never seen before, likewise.
const BEGUN_PAUSES: u32 = 16;
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

/// What looking at an operation has shown.
#[derive(Debug, Default)]
struct Seen {
    looks: u32,
    last: Option<Occurrence>,
}

/// How long operations of each kind took lately.
#[derive(Debug, Default)]
pub(crate) struct Lately(Mutex<BTreeMap<String, Duration>>);

impl Lately {
    /// Half of what is new goes in. What was over at the first look was over before that, nobody knows for how long.
    fn learn(&self, kind: &str, took: Duration, at_first: bool) {
        let mut all = lock(&self.0);
        let before = all.get(kind).copied();
        let now = match before {
            _ if at_first => took / 4 * 3,
            None => took,
            Some(before) => (before + took) / 2,
        };
        all.insert(kind.to_owned(), now);
    }

    /// The first look at an operation that begins now, and the pause after it.
    fn pace(&self, kind: &str, poll: Duration) -> (Duration, Duration) {
        match lock(&self.0).get(kind) {
            Some(took) => ((*took / 8 * 7).max(poll), (*took / 16).max(poll)),
            None => (poll * BEGUN_PAUSES, poll * BEGUN_PAUSES),
        }
    }
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

    /// Waits until an operation that somebody began has ended, or has been cancelled at `until`.
    pub(crate) async fn wait(&self, id: &str, until: Instant) -> Result<Ended, Trouble> {
        let poll = self.client.config().poll();
        let ended = self.watch(id, until, (http_peer::jittered(poll), poll)).await?.1;
        self.or_cancelled(id, ended).await
    }

    /// The same for one that was begun just now; with what OSM said of it last.
    pub(crate) async fn wait_begun(
        &self,
        kind: &str,
        id: &str,
        until: Instant,
    ) -> Result<(Ended, Option<Occurrence>), Trouble> {
        let begun = Instant::now();
        let pace = self.lately.pace(kind, self.client.config().poll());
        let (seen, ended) = self.watch(id, until, pace).await?;
        if matches!(ended, Some(Ended::Done)) {
            self.lately.learn(kind, begun.elapsed(), seen.looks == 1);
        }
        Ok((self.or_cancelled(id, ended).await?, seen.last))
    }

    async fn or_cancelled(&self, id: &str, ended: Option<Ended>) -> Result<Ended, Trouble> {
        if let Some(ended) = ended {
            return Ok(ended);
        }
        self.cancel(id).await?;
        let poll = self.client.config().poll();
        let until = Instant::now() + CANCEL_GRACE.min(self.client.config().deadline());
        match self.watch(id, until, (http_peer::jittered(poll), poll)).await?.1 {
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

    /// Looks, after a first pause and then others that grow; `None`: it was not over at `until`.
    async fn watch(
        &self,
        id: &str,
        until: Instant,
        (mut next, mut pause): (Duration, Duration),
    ) -> Result<(Seen, Option<Ended>), Trouble> {
        let most = self.client.config().poll() * MAX_PAUSES;
        let bell = self.bells.of(id);
        let mut seen = Seen::default();
        loop {
            let pause_now = next.min(until.saturating_duration_since(Instant::now()));
            // Rung or not, it is looked.
            let _ = timeout(pause_now, bell.heard()).await;
            seen.looks += 1;
            match self
                .client
                .find::<Occurrence>(&Call::get(format!("{PATH}/{}", http_peer::segment(id))))
                .await
            {
                Ok(None) => return Ok((seen, Some(Ended::Gone))),
                Ok(Some(found)) => {
                    let ended = match state(&found.state) {
                        OperationState::Processing => None,
                        OperationState::Completed | OperationState::Partial => Some(Ended::Done),
                        OperationState::Failed => Some(Ended::Failed(words(&found))),
                    };
                    seen.last = Some(found);
                    if ended.is_some() {
                        return Ok((seen, ended));
                    }
                }
                Err(e) if e.is_lost() || e.did_nothing() => {}
                Err(e) => return Err(e.into()),
            }
            if Instant::now() >= until {
                return Ok((seen, None));
            }
            next = http_peer::jittered(pause.min(most));
            pause = (pause * 2).min(most);
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
