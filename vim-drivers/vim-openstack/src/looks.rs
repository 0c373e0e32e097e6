//! Looks at servers that are waited for: one list for all of them, however many wait.
//!
//! Whoever's time it is looks for everybody who waits at the site, and everybody's next look is then at least a pause away: many
//! servers that boot at once cost about as many calls as one that takes as long. One that waits alone is asked for alone. A server
//! that a list does not have (somebody took its tags, or it is gone) is asked for by its id before anything is made of it.
//! Tests: below the pauses (`wait.rs`); the scenario `many_servers` counts the calls on a real cloud.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;
use vim::ObjectKey;

use crate::{
    client::{Call, Service},
    cloud::Server,
    compute::key_tag,
    driver::Site,
    error::CloudError,
    marks,
    wait::{Learned, Pace},
};

/// Servers asked for in one list: their tags are in its URL, which proxies cut at 8 KiB.
const MOST: usize = 64;

/// What a look for others found.
#[derive(Debug, Clone)]
enum Sight {
    There(Box<Server>),
    NotListed,
}

#[derive(Debug)]
struct Waiting {
    id: String,
    /// By which it is listed; `None`: it has none.
    tag: Option<String>,
    seen: watch::Sender<Option<Sight>>,
}

/// Who waits at a site.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    waiting: Mutex<BTreeMap<u64, Waiting>>,
    next: AtomicU64,
    /// Held by who looks for all.
    looking: tokio::sync::Mutex<()>,
}

impl Looks {
    fn waiting<T>(&self, f: impl FnOnce(&mut BTreeMap<u64, Waiting>) -> T) -> T {
        f(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A server at a look.
pub(crate) struct Look {
    /// `None`: it is gone.
    pub server: Option<Server>,
    /// The time is over: there is no other look.
    pub last: bool,
}

/// One that waits for one server.
pub(crate) struct Watch<'a> {
    site: &'a Site,
    id: String,
    ticket: u64,
    seen: watch::Receiver<Option<Sight>>,
    pace: Pace<'a>,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.site.looks.waiting(|w| w.remove(&self.ticket));
    }
}

impl Site {
    /// Waits for a server, of this key if it has one.
    pub(crate) fn watch<'a>(
        &'a self,
        key: Option<&ObjectKey>,
        id: &str,
        limit: Duration,
        learned: &'a Learned,
    ) -> Watch<'a> {
        let (sender, seen) = watch::channel(None);
        let ticket = self.looks.next.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting { id: id.to_owned(), tag: key.map(key_tag), seen: sender };
        self.looks.waiting(|w| w.insert(ticket, waiting));
        Watch { site: self, id: id.to_owned(), ticket, seen, pace: Pace::new(limit, Some(learned)) }
    }

    /// The same for one that is there.
    pub(crate) fn watch_server<'a>(
        &'a self,
        server: &Server,
        limit: Duration,
        learned: &'a Learned,
    ) -> Watch<'a> {
        let key = ObjectKey::new(server.mark(marks::KEY)).ok();
        self.watch(key.as_ref(), &server.id, limit, learned)
    }

    /// Servers with one of these tags.
    pub(crate) async fn tagged(&self, tags: &[String]) -> Result<Vec<Server>, CloudError> {
        let call = Call::get(Service::Compute, "servers/detail").query("tags", self.marks.tag());
        Ok(self.client.all(call.query("tags-any", tags.join(",")), "servers").await?)
    }
}

impl Watch<'_> {
    /// The next look, by whomever.
    pub(crate) async fn next(&mut self) -> Result<Look, CloudError> {
        let last = tokio::select! {
            goes_on = self.pace.next() => {
                self.look().await?;
                !goes_on
            }
            // The sender goes with this.
            Ok(()) = self.seen.changed() => {
                // Seen by `changed`, and new nevertheless.
                self.seen.mark_changed();
                self.pace.seen_by_another();
                false
            }
        };
        // Only what is new: who waits alone now was among others before.
        let new = self.seen.has_changed().unwrap_or_default();
        let sight = self.seen.borrow_and_update().clone().filter(|_| new);
        let server = match sight {
            Some(Sight::There(server)) => Some(*server),
            _ => self.site.server(&self.id).await?,
        };
        Ok(Look { server, last })
    }

    /// Looks for everybody, unless somebody just did.
    async fn look(&mut self) -> Result<(), CloudError> {
        let looks = &self.site.looks;
        let _alone = looks.looking.lock().await;
        if self.seen.has_changed().unwrap_or_default() {
            return Ok(());
        }
        let all: Vec<(u64, String)> =
            looks.waiting(|w| w.iter().filter_map(|(n, w)| Some((*n, w.tag.clone()?))).collect());
        let mine = all.iter().any(|(ticket, _)| *ticket == self.ticket);
        if all.len() < 2 || !mine {
            // Alone: asked for by its id.
            return Ok(());
        }
        for some in all.chunks(MOST) {
            let tags: Vec<String> = some.iter().map(|(_, tag)| tag.clone()).collect();
            let found = self.site.tagged(&tags).await?;
            let asked = |ticket: &u64| some.iter().any(|(n, _)| n == ticket);
            looks.waiting(|w| {
                for waiting in w.iter().filter(|(n, _)| asked(n)).map(|(_, w)| w) {
                    let server = found.iter().find(|s| s.id == waiting.id);
                    let sight = server.map_or(Sight::NotListed, |s| Sight::There(Box::new(s.clone())));
                    waiting.seen.send_replace(Some(sight));
                }
            });
        }
        Ok(())
    }

    /// It is as it was waited for.
    pub(crate) fn done(&self) {
        self.pace.done();
    }

    pub(crate) fn seconds(&self) -> u64 {
        self.pace.seconds()
    }
}
