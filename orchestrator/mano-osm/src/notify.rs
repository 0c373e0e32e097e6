//! OSM's notifications (SOL005, NS lifecycle management, "Subscriptions"): they wake whoever waits for an operation.
//!
//! A notification is a reason to look, never news itself: its body is anybody's, its ids are `N/A` but for those in `_links`,
//! and OSM passes on what its LCM says with `operationParams`, which is of instantiations alone (read in osm-capk's `ns.py`). So
//! looking goes on as without. OSM asks the address for 204 before it takes a subscription, gives up on a notification after five
//! tries, and verifies certificates with the public roots alone.
//!
//! Tests: below, and `tests/notifications.rs` on a real NBI.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    Osm,
    client::{ApiError, Call},
    lock,
    records::{Made, Subscription},
};

const PATH: &str = "nslcm/v1/subscriptions";
/// Longest notification that is read, bytes.
pub const MAX_NOTIFICATION_BYTES: usize = 64 << 10;

/// Where OSM is to send its notifications, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// As OSM reaches it; answers GET and POST with 204.
    pub url: String,
    /// User of its Basic authentication.
    pub username: String,
    /// Password, 1 to 60 characters: OSM keeps it encrypted and sends it with each notification.
    pub password: String,
}

/// Who waits for which operation.
#[derive(Debug, Default)]
pub(crate) struct Bells(Mutex<BTreeMap<String, Weak<Bell>>>);

/// An operation's.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    notify: Notify,
    rang: AtomicBool,
}

impl Bell {
    /// Until it rings.
    pub(crate) async fn heard(&self) {
        self.notify.notified().await;
    }

    /// Did it ever ring?
    pub(crate) fn rang(&self) -> bool {
        self.rang.load(Ordering::Relaxed)
    }

    fn ring(&self) {
        self.rang.store(true, Ordering::Relaxed);
        self.notify.notify_one();
    }
}

impl Bells {
    /// The operation's bell, for as long as it is held.
    pub(crate) fn of(&self, operation: &str) -> Arc<Bell> {
        let mut bells = lock(&self.0);
        bells.retain(|_, bell| bell.strong_count() > 0);
        if let Some(bell) = bells.get(operation).and_then(Weak::upgrade) {
            return bell;
        }
        let bell = Arc::<Bell>::default();
        bells.insert(operation.to_owned(), Arc::downgrade(&bell));
        bell
    }

    fn ring(&self, operation: &str) -> bool {
        let bell = lock(&self.0).get(operation).and_then(Weak::upgrade);
        // Kept for who looks just now, too.
        bell.inspect(|bell| bell.ring()).is_some()
    }
}

/// Whom OSM tells, and of which NSDs: NSD -> subscription.
#[derive(Debug)]
pub(crate) struct Told {
    to: Callback,
    of: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Notification {
    #[serde(rename = "_links")]
    links: Links,
}

#[derive(Deserialize)]
struct Links {
    #[serde(rename = "self")]
    operation: String,
}

/// The operation that a notification is about.
fn about(body: &[u8]) -> Option<String> {
    let read: Notification = serde_json::from_slice(body).ok()?;
    let (_, id) = read.links.operation.rsplit_once("/ns_lcm_op_occs/")?;
    Some(id.to_owned())
}

impl Osm {
    /// Has OSM notify `to` from now on. Asks nothing: a subscription is for one NSD, and is made before the first
    /// instantiation of it, in place of one that a former process of ours left there (its password is not known any more).
    pub fn call_back(&self, to: Callback) {
        *lock(&self.told) = Some(Told { to, of: BTreeMap::new() });
    }

    /// A notification came: who waits for its operation looks at once. False: nobody waits for it, or it is none.
    pub fn notified(&self, body: &[u8]) -> bool {
        about(body).is_some_and(|operation| self.bells.ring(&operation))
    }

    /// Ends the subscriptions that were made, as far as OSM answers: an orderly end.
    pub async fn unsubscribe(&self) {
        let Some(told) = lock(&self.told).take() else { return };
        for id in told.of.into_values() {
            let call = Call::new(Method::DELETE, format!("{PATH}/{}", http_peer::segment(&id)));
            // The next process of ours finds what is left.
            let _ = self.client.tell(&call).await;
        }
    }

    /// Has OSM tell us of instantiations of this NSD. That it does not is no reason not to instantiate.
    pub(crate) async fn have_told(&self, nsd: &str) {
        let to = match &*lock(&self.told) {
            Some(told) if !told.of.contains_key(nsd) => told.to.clone(),
            _ => return,
        };
        match self.subscribe(&to, nsd).await {
            Ok(id) => {
                if let Some(told) = &mut *lock(&self.told) {
                    told.of.insert(nsd.to_owned(), id);
                }
            }
            Err(error) => {
                tracing::warn!(
                    url = to.url,
                    ?error,
                    "OSM takes no subscription: operations are looked at instead"
                );
            }
        }
    }

    /// No notification came of an instantiation of this NSD: an NBI that lost its state tells nobody.
    pub(crate) fn not_told(&self, nsd: &str) {
        if let Some(told) = &mut *lock(&self.told) {
            told.of.remove(nsd);
        }
    }

    async fn subscribe(&self, to: &Callback, nsd: &str) -> Result<String, ApiError> {
        let all: Vec<Subscription> = self.client.ask(&Call::get(PATH)).await?;
        for old in all.iter().filter(|s| s.callback == to.url && s.filter.instances.nsds == [nsd]) {
            self.client.delete(format!("{PATH}/{}", http_peer::segment(&old.id))).await?;
        }
        let body = json!({
            "CallbackUri": to.url,
            "filter": {
                // Without one, nobody is told: what is looked up is the identifier.
                "nsInstanceSubscriptionFilter": { "nsdIds": [nsd] },
                "notificationTypes": ["NsLcmOperationOccurrenceNotification"],
                // One of operationTypes and operationStates is required.
                "operationStates": ["COMPLETED", "PARTIALLY_COMPLETED", "FAILED", "FAILED_TEMP", "ROLLED_BACK"],
            },
            "authentication": {
                "authType": "basic",
                "paramsBasic": { "userName": to.username, "password": to.password },
            },
        });
        Ok(self.client.ask::<Made>(&Call::post(PATH, &body)).await?.id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_operation_is_in_the_links_alone() {
        let said = |links: serde_json::Value| {
            let body = json!({ "nsLcmOpOccId": "N/A", "nsInstanceId": "N/A", "operationState": "COMPLETED", "_links": links });
            about(body.to_string().as_bytes())
        };
        let of = json!({ "self": "/osm/nslcm/v1/ns_lcm_op_occs/4711", "nsInstance": "/osm/nslcm/v1/ns_instances/1" });
        assert_eq!(said(of).as_deref(), Some("4711"));
        assert_eq!(said(json!({ "self": "/osm/nsilcm/v1/nsi_lcm_op_occs/1" })), None);
        assert_eq!(said(json!("N/A")), None);
        assert_eq!(about(b"[1"), None);
    }

    #[tokio::test]
    async fn a_bell_rings_for_who_waits_and_is_gone_after() {
        let bells = Bells::default();
        assert!(!bells.ring("1"), "nobody waits");
        let (bell, same) = (bells.of("1"), bells.of("1"));
        assert!(Arc::ptr_eq(&bell, &same));
        assert!(bells.ring("1"));
        assert!(bell.rang());
        bell.heard().await;
        drop((bell, same));
        assert!(!bells.ring("1"));
        let _other = bells.of("2");
        assert_eq!(lock(&bells.0).len(), 1, "what nobody holds is forgotten");
    }
}
