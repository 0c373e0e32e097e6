//! One server: ordered, waited for, acted upon, deleted; and what its failure means.
//!
//! Tests: below; the scenarios on a real cloud.

use std::{collections::BTreeMap, time::Duration};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::RwLockReadGuard;
use vim::GroupPolicy;

use crate::{
    client::{ApiError, Call, Service},
    cloud::{Port, Server, ServerGroup},
    compute::{Want, image_mark},
    driver::Site,
    error::CloudError,
    image::Held,
    marks,
    states::{self, Ensure, Remove},
    wait::{Learned, Pace},
};

const NOVA: Service = Service::Compute;
/// Lines of a console's log that are repeated in an error.
const CONSOLE_LINES: u32 = 20;
/// Longest of them, characters.
const MAX_CONSOLE: usize = 1500;
/// Looks for a server whose order was lost, and the pause before the first of them.
const LOST_LOOKS: u32 = 4;
const LOST_PAUSE: Duration = Duration::from_millis(500);

/// A server to be.
pub(crate) struct Order<'a> {
    pub want: &'a Want<'a>,
    pub held: &'a Held,
    /// In the order of the specification.
    pub ports: &'a [Port],
    /// By their names in the descriptor.
    pub volumes: &'a BTreeMap<String, String>,
    pub flavor: String,
    /// Keeps the flavor from being deleted until the order is accepted.
    pub using: RwLockReadGuard<'a, ()>,
}

pub(crate) fn policy_name(policy: GroupPolicy) -> &'static str {
    match policy {
        GroupPolicy::Affinity => "affinity",
        GroupPolicy::AntiAffinity => "anti-affinity",
        GroupPolicy::SoftAffinity => "soft-affinity",
        GroupPolicy::SoftAntiAffinity => "soft-anti-affinity",
    }
}

/// A fault of nova's, judged. Elsewhere it may work when it is about room.
pub(crate) fn is_no_room(fault: &str) -> bool {
    let fault = fault.to_lowercase();
    [
        "no valid host",
        "not enough hosts",
        "exceeded maximum number of retries",
        "insufficient compute resources",
        "pci device request",
        "requested instance numa topology",
        "no suitable host",
        "not enough resources",
        // Its hosts are all out of service.
        "requested availability zone is not available",
    ]
    .iter()
    .any(|words| fault.contains(words))
}

/// nova keeps to itself why each host failed.
fn explained(fault: String) -> String {
    match fault.contains("maximum number of retries") {
        true => format!(
            "{fault} Each host's reason is in its nova-compute's log: no virtual function left, a port that could not be bound, …"
        ),
        false => fault,
    }
}

impl Site {
    /// Orders the server; its id. `None`: whether it was is for the next look to say.
    pub(crate) async fn order(&self, order: Order<'_>) -> Result<Option<String>, CloudError> {
        let ordered = self.order_of(&order).await;
        let Order { flavor, using, .. } = order;
        drop(using);
        if ordered.is_err() {
            self.drop_unused_flavor(&flavor).await?;
        }
        ordered
    }

    async fn order_of(&self, order: &Order<'_>) -> Result<Option<String>, CloudError> {
        let spec = order.want.spec;
        let _group_lock = match &spec.group {
            Some(group) => Some(self.group_lock(group.key.service()).lock().await),
            None => None,
        };
        let group = match &spec.group {
            Some(group) => Some(self.ensure_server_group(group).await?),
            None => None,
        };
        let body = self.order_document(order, group.as_ref());
        match self.client.ask::<Value>(&Call::new(NOVA, Method::POST, "servers").json(&body)).await {
            Ok(answer) => Ok(Some(answer["server"]["id"].as_str().unwrap_or_default().to_owned())),
            Err(e) if e.is_lost() => self.find_lost(order, e).await.map(|()| None),
            Err(e) => Err(self.refused_order(e)),
        }
    }

    fn order_document(&self, order: &Order<'_>, group: Option<&ServerGroup>) -> Value {
        let (want, spec) = (order.want, order.want.spec);
        let networks = match order.ports {
            [] => json!("none"),
            ports => ports.iter().map(|p| json!({ "port": p.id })).collect(),
        };
        let mut server = json!({
            "name": want.key.label(),
            "imageRef": order.held.id,
            "flavorRef": order.flavor,
            "networks": networks,
            "config_drive": true,
            "tags": self.tags(want.key),
            "metadata": {
                (marks::HOME): self.marks.home(),
                (marks::KEY): want.key.as_str(),
                (marks::IMAGE): image_mark(&spec.image, &order.held.id),
                (marks::SHAPE): want.shape.to_string(),
                (marks::CONFIGURATION): want.configuration.to_string(),
            },
        });
        if let Some(data) = &want.user_data {
            server["user_data"] = json!(data);
        }
        if let Some(zone) = &spec.zone {
            server["availability_zone"] = json!(zone);
        }
        if let Some(host) = &spec.host {
            server["host"] = json!(host);
        }
        if !order.volumes.is_empty() {
            server["metadata"][marks::VOLUMES] = json!(order.volumes.len().to_string());
            server["block_device_mapping_v2"] = disks(order);
        }
        let hints = group.map_or_else(|| json!({}), |g| json!({ "group": g.id }));
        json!({ "server": server, "os:scheduler_hints": hints })
    }

    /// What nova does not take at all.
    fn refused_order(&self, error: ApiError) -> CloudError {
        let status = error.status();
        let message = error.message().to_lowercase();
        if status == Some(StatusCode::BAD_REQUEST) {
            if is_no_room(&message) {
                return CloudError::NoValidHost { problem: error.to_string() };
            }
            // Remembered, and no longer there: looked for the next time.
            self.known(|k| *k = crate::driver::Known::default());
            return CloudError::BadSpec { problem: error.to_string() };
        }
        error.into()
    }

    /// The answer was lost: nova may still be at it.
    async fn find_lost(&self, order: &Order<'_>, error: ApiError) -> Result<(), CloudError> {
        for look in 0..LOST_LOOKS {
            tokio::time::sleep(LOST_PAUSE * 2_u32.pow(look)).await;
            if !self.servers_of(order.want.key).await?.is_empty() {
                return Ok(());
            }
        }
        Err(CloudError::LostAnswer(Box::new(error)))
    }

    /// Waits until it is built. One that failed or takes too long is deleted; its console's last words are kept.
    pub(crate) async fn built(&self, want: &Want<'_>, id: &str) -> Result<Server, CloudError> {
        let mut watch = self.watch(Some(want.key), id, self.boot_limit(), &self.boots);
        loop {
            let look = watch.next().await?;
            let Some(server) = look.server else {
                return Err(CloudError::ServerFailed {
                    fault: "it was deleted while it was built".into(),
                    console: String::new(),
                });
            };
            let verdict = states::verdict(&server.status, server.task.as_deref());
            match verdict.ensure {
                Ensure::Wait if !look.last => {}
                Ensure::Wait => return Err(self.stuck(server, watch.seconds()).await),
                Ensure::Replace => return Err(self.failed(want, server).await),
                _ => {
                    watch.done();
                    return Ok(server);
                }
            }
        }
    }

    async fn failed(&self, want: &Want<'_>, server: Server) -> CloudError {
        let fault = server.fault.as_ref().map_or_else(|| "no reason given".to_owned(), |f| f.message.clone());
        let console = self.console(&server.id).await;
        if let Err(error) = self.delete_server(&server).await {
            tracing::warn!(site = %self.config.site, key = %want.key, "a server that failed is left: {error}");
        }
        match is_no_room(&fault) {
            true => CloudError::NoValidHost { problem: explained(fault) },
            false => CloudError::ServerFailed { fault, console },
        }
    }

    async fn stuck(&self, server: Server, seconds: u64) -> CloudError {
        let console = self.console(&server.id).await;
        let left = match self.delete_server(&server).await {
            Ok(()) => "it was deleted".to_owned(),
            Err(error) => format!("it could not be deleted ({error})"),
        };
        let task = server.task.unwrap_or_default();
        CloudError::ServerStuck { status: server.status, task, seconds, left, console }
    }

    /// The last words of its console, as far as there are any.
    async fn console(&self, id: &str) -> String {
        let body = json!({ "os-getConsoleOutput": { "length": CONSOLE_LINES } });
        let call = Call::new(NOVA, Method::POST, format!("servers/{id}/action")).json(&body);
        let answer: Value = match self.client.ask(&call).await {
            Ok(answer) => answer,
            Err(e) => return format!("none ({})", e.message()),
        };
        let text = answer["output"].as_str().unwrap_or_default().trim();
        let start = text.char_indices().rev().nth(MAX_CONSOLE).map_or(0, |(at, _)| at);
        text[start..].to_owned()
    }

    pub(crate) async fn act(&self, id: &str, body: Value) -> Result<(), CloudError> {
        let call = Call::new(NOVA, Method::POST, format!("servers/{id}/action")).json(&body);
        match self.client.tell(&call).await {
            // Something else goes on with it, or it is as wanted already: the next look says.
            Err(e) if e.is_conflict() || e.is_lost() => Ok(()),
            other => Ok(other?),
        }
    }

    /// Waits until nothing goes on with it.
    pub(crate) async fn settled(&self, server: &Server, learned: &Learned) -> Result<(), CloudError> {
        let mut watch = self.watch_server(server, self.boot_limit(), learned);
        loop {
            let look = watch.next().await?;
            let Some(now) = look.server else { return Ok(()) };
            if states::verdict(&now.status, now.task.as_deref()).ensure != Ensure::Wait {
                watch.done();
                return Ok(());
            }
            if look.last {
                return Err(self.stuck(now, watch.seconds()).await);
            }
        }
    }

    /// Deletes it, and waits until it is gone and placement knows.
    pub(crate) async fn delete_server(&self, server: &Server) -> Result<(), CloudError> {
        let verdict = states::verdict(&server.status, server.task.as_deref());
        match verdict.remove {
            Remove::Nothing => return Ok(()),
            Remove::Delete => self.client.delete(NOVA, format!("servers/{}", server.id)).await?,
            Remove::ForceDelete => self.act(&server.id, json!({ "forceDelete": null })).await?,
        }
        let mut watch = self.watch_server(server, self.delete_limit(), &self.deletions);
        loop {
            let look = watch.next().await?;
            match look.server {
                None => break,
                Some(now) if now.status == "SOFT_DELETED" => {
                    self.act(&server.id, json!({ "forceDelete": null })).await?;
                }
                Some(now) if look.last => {
                    return Err(CloudError::RemoveStuck {
                        id: server.id.clone(),
                        seconds: watch.seconds(),
                        status: now.status,
                        host: now.host.unwrap_or_else(|| "no host".to_owned()),
                    });
                }
                Some(_) => {}
            }
        }
        watch.done();
        drop(watch);
        self.released(&server.id).await?;
        self.drop_unused_flavor(&server.flavor.original_name).await
    }

    /// nova forgets a server before it gives its resources back.
    async fn released(&self, id: &str) -> Result<(), CloudError> {
        let mut pace = Pace::new(self.delete_limit(), None);
        loop {
            let call = Call::get(Service::Placement, format!("allocations/{id}"));
            match self.client.ask::<Value>(&call).await {
                Ok(answer) if answer["allocations"].as_object().is_none_or(|a| a.is_empty()) => return Ok(()),
                Ok(_) => {}
                // Only administrators see it.
                Err(e) if e.status() == Some(StatusCode::FORBIDDEN) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
            if !pace.next().await {
                tracing::warn!(site = %self.config.site, server = id, "placement still counts a server that is gone");
                return Ok(());
            }
        }
    }
}

/// The root disk from the image, and the volumes, which outlive the server.
fn disks(order: &Order<'_>) -> Value {
    let root = json!({
        "boot_index": 0, "uuid": order.held.id, "source_type": "image", "destination_type": "local",
        "delete_on_termination": true,
    });
    let others = order.volumes.values().map(|id| {
        json!({
            "boot_index": -1, "uuid": id, "source_type": "volume", "destination_type": "volume",
            "delete_on_termination": false,
        })
    });
    std::iter::once(root).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_room_is_told_from_other_faults() {
        for fault in [
            "No valid host was found. There are not enough hosts available.",
            "Exceeded maximum number of retries. Exhausted all hosts available for retrying build failures for instance 1.",
            "Insufficient compute resources: Claim pci failed.",
        ] {
            assert!(is_no_room(fault), "{fault}");
        }
        for fault in [
            "Image 1 is unacceptable: converted to raw",
            "Failed to allocate the network(s), not rescheduling.",
            "",
        ] {
            assert!(!is_no_room(fault), "{fault}");
        }
    }
}
