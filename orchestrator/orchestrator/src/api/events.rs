//! Events: in pages, or as they happen (server-sent events, WHATWG HTML 9.2), as CloudEvents.
//!
//! A stream reads the journal's feed at the speed of its client: nothing waits in memory but one page for each, and a
//! client that comes back names the last number that it saw (`Last-Event-ID`), over a restart of the orchestrator
//! too. Who is further behind than [`MAX_BEHIND`] is told so by a `lagged` event and goes on with the newest.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse as _, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{
    Context,
    caller::Caller,
    page::{Page, Paging},
    reply::{self, Asked},
};
use crate::{
    engine,
    problem::Problem,
    service::Service,
    views::{CloudEvent, EventView},
};

/// Events read at once, and held for one client.
const PAGE: usize = 128;
/// Most events that a stream catches up with; a client further behind reads the timelines instead.
pub const MAX_BEHIND: u64 = 10_000;
/// Events looked at for one page of a reader to whom few belong.
const MAX_SCAN: usize = 20_000;
/// Silence after which a comment is sent: proxies give up connections that are silent for a minute.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a client waits before it comes back, ms.
const RETRY: Duration = Duration::from_millis(1_000);
/// Streams at once; each costs a task and a page.
pub const MAX_STREAMS: usize = 256;

/// Which events a reader wants and may see.
#[derive(Debug, Clone)]
pub struct Filter {
    /// The reader.
    pub caller: Caller,
    /// Only of this NS instance.
    pub ns: Option<String>,
    /// Only of this operation; its stream ends with its anchor.
    pub operation: Option<String>,
}

impl Filter {
    fn lets(&self, event: &EventView) -> bool {
        let operation = event.operation.as_ref().map(|o| &o.id);
        self.caller.sees(&event.tenant)
            && self.ns.as_ref().is_none_or(|ns| event.ns_instance_id.as_ref() == Some(ns))
            && self.operation.as_ref().is_none_or(|o| operation == Some(o))
    }

    fn ends(&self, event: &EventView) -> bool {
        self.operation.is_some() && event.event == "anchored"
    }
}

/// Answers in the form that the client accepts.
pub async fn answer(
    c: &Context,
    asked: &Asked,
    filter: Filter,
    after: Option<u64>,
    paging: &Paging,
) -> Result<Response, Problem> {
    let after = last_event_id(&asked.headers)?.or(after);
    let accept = asked.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if accept.contains("text/event-stream") {
        return stream(c, filter, after).await;
    }
    let from = paging.after()?.and_then(|k| k.parse().ok()).or(after).unwrap_or(0);
    let page = page(c.service.as_ref(), &filter, from, paging.limit()?).await?;
    reply::list(asked, page)
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number =
        value.to_str().ok().and_then(|v| v.parse().ok()).filter(|n| *n <= super::catalogue::MAX_NUMBER);
    match number {
        Some(number) => Ok(Some(number)),
        None => {
            Err(Problem::new(400, "LAST_EVENT_ID", "The request is malformed", "Last-Event-ID is a number")
                .hint("send the `id` of the last event that was received, or leave it out"))
        }
    }
}

async fn page(
    service: &dyn Service,
    filter: &Filter,
    mut from: u64,
    limit: usize,
) -> Result<Page<CloudEvent>, Problem> {
    let (mut items, mut scanned) = (Vec::new(), 0);
    loop {
        let events = service.events(from, PAGE).await?;
        let last = events.len() < PAGE;
        for (number, event) in events {
            (from, scanned) = (number, scanned + 1);
            if filter.lets(&event) {
                items.push(cloud_event(number, event));
            }
            if items.len() == limit || scanned == MAX_SCAN {
                return Ok(Page { items, next: Some(from.to_string()) });
            }
        }
        if last {
            return Ok(Page { items, next: None });
        }
    }
}

/// CloudEvents 1.0.2, JSON format.
fn cloud_event(number: u64, data: EventView) -> CloudEvent {
    let (source, kind) = match &data.operation {
        Some(o) => (format!("/v1/operations/{}", o.id), format!("dev.mandate.operation.{}", data.event)),
        None => ("/v1/approvals".to_owned(), format!("dev.mandate.approval.{}", data.event)),
    };
    CloudEvent {
        specversion: "1.0".into(),
        id: number.to_string(),
        source,
        kind,
        subject: data.ns_instance_id.clone(),
        time: rfc3339(data.at_ms),
        datacontenttype: "application/json".into(),
        data,
    }
}

fn rfc3339(at_ms: u64) -> String {
    let seconds = trust::UnixTime(at_ms / 1_000).to_string();
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), at_ms % 1_000)
}

async fn stream(c: &Context, filter: Filter, after: Option<u64>) -> Result<Response, Problem> {
    let Ok(place) = c.streams.clone().try_acquire_owned() else {
        let detail = format!("{MAX_STREAMS} streams are open");
        return Err(Problem::new(503, "STREAMS", "Too many streams", detail).hint("close one, or read pages"));
    };
    let newest = c.service.newest_event().await?;
    let reader = Reader {
        c: c.clone(),
        filter,
        changes: c.service.changes(),
        stop: c.stop.clone(),
        // A number from the future is of another journal: from now on, then.
        from: after.unwrap_or(newest).min(newest),
        waiting: VecDeque::new(),
        over: false,
        _place: place,
    };
    let keep_alive = KeepAlive::new().interval(HEARTBEAT).text("heartbeat");
    let sse = Sse::new(reader.events()).keep_alive(keep_alive);
    // Proxies must not collect what is meant to arrive now.
    Ok((StatusCode::OK, [("x-accel-buffering", "no")], sse).into_response())
}

/// One client's place in the feed.
struct Reader {
    c: Context,
    filter: Filter,
    changes: watch::Receiver<u64>,
    stop: watch::Receiver<bool>,
    from: u64,
    waiting: VecDeque<Event>,
    over: bool,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    fn events(mut self) -> impl Stream<Item = Result<Event, Infallible>> {
        // The first line says where the stream is, so that a client that sees nothing can still come back.
        self.waiting.push_back(Event::default().retry(RETRY).id(self.from.to_string()).comment("mandate"));
        futures::stream::unfold(self, |mut reader| async move {
            let event = reader.next().await?;
            Some((Ok(event), reader))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if self.over || *self.stop.borrow() {
                return None;
            }
            // Marked first: what happens while the feed is read wakes us at once.
            self.changes.mark_unchanged();
            match self.read().await {
                Err(problem) => {
                    // Never silently: the client sees why, and comes back where it was.
                    let text = serde_json::to_string(&problem).unwrap_or_default();
                    self.over = true;
                    return Some(Event::default().event("problem").data(text));
                }
                Ok(true) => {}
                Ok(false) => self.wait().await,
            }
        }
    }

    /// Reads the next page; false when there was nothing.
    async fn read(&mut self) -> Result<bool, Problem> {
        // A stream may outlive its reader's certificate.
        self.filter.caller.still(self.c.service.as_ref(), engine::now())?;
        let newest = self.c.service.newest_event().await?;
        let behind = newest.saturating_sub(self.from);
        if behind > MAX_BEHIND {
            self.from = newest;
            let data = serde_json::json!({ "missed": behind, "continues_after": newest });
            let lagged = Event::default().event("lagged").id(newest.to_string()).data(data.to_string());
            self.waiting.push_back(lagged);
            return Ok(true);
        }
        let events = self.c.service.events(self.from, PAGE).await?;
        let any = !events.is_empty();
        for (number, event) in events {
            self.from = number;
            if self.over || !self.filter.lets(&event) {
                continue;
            }
            self.over = self.filter.ends(&event);
            let name = event.event.clone();
            let data = serde_json::to_string(&cloud_event(number, event))
                .map_err(|e| Problem::internal("ENCODING", e))?;
            self.waiting.push_back(Event::default().event(name).id(number.to_string()).data(data));
        }
        Ok(any)
    }

    async fn wait(&mut self) {
        tokio::select! {
            // A sender that is gone is a stop.
            changed = self.changes.changed() => if changed.is_err() { self.over = true },
            _ = self.stop.wait_for(|s| *s) => self.over = true,
            // Refused approvals change no operation.
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc3339_with_milliseconds() {
        assert_eq!(rfc3339(1_800_000_000_007), "2027-01-15T08:00:00.007Z");
    }

    #[test]
    fn the_last_event_is_a_number_that_json_can_hold() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("last-event-id", value.parse().unwrap());
            last_event_id(&headers)
        };
        let most = crate::api::catalogue::MAX_NUMBER;
        assert_eq!(last_event_id(&HeaderMap::new()).unwrap(), None);
        assert_eq!(of("0").unwrap(), Some(0));
        assert_eq!(of(&most.to_string()).unwrap(), Some(most));
        for bad in
            [(most + 1).to_string(), "-1".into(), "1e3".into(), " ".into(), "\u{e4}".into(), "1,2".into()]
        {
            assert_eq!(of(&bad).unwrap_err().code, "LAST_EVENT_ID", "{bad}");
        }
    }
}
