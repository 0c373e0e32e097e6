//! Affinity groups: nova's server groups, of our key by their name, there as long as an instance is in them.
//!
//! A server joins its group when it is ordered; from when the group is looked up until then nobody removes it
//! ([`Site::group_lock`]). Tests: below; the scenarios on a real cloud.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};
use vim::{Group, GroupState};

use crate::{
    client::{Call, Service},
    cloud::{Server, ServerGroup},
    driver::Site,
    error::CloudError,
    marks,
    server::policy_name,
};

const NOVA: Service = Service::Compute;

/// Are the hosts what the policy wants?
pub(crate) fn satisfied(policy: &str, hosts: &BTreeMap<String, String>) -> bool {
    let different: BTreeSet<&String> = hosts.values().collect();
    match policy {
        "affinity" | "soft-affinity" => different.len() <= 1,
        "anti-affinity" | "soft-anti-affinity" => different.len() == hosts.len(),
        _ => false,
    }
}

impl Site {
    /// Our server groups.
    pub(crate) async fn groups(&self) -> Result<Vec<ServerGroup>, CloudError> {
        let all: Vec<ServerGroup> =
            self.client.all(Call::get(NOVA, "os-server-groups"), "server_groups").await?;
        Ok(all.into_iter().filter(|g| self.marks.read(&g.name).is_some()).collect())
    }

    /// The group is there, with this policy. The caller holds the service's lock.
    pub(crate) async fn ensure_server_group(&self, group: &Group) -> Result<ServerGroup, CloudError> {
        let (name, policy) = (self.marks.of(&group.key), policy_name(group.policy));
        let named: Vec<ServerGroup> = self.groups().await?.into_iter().filter(|g| g.name == name).collect();
        for old in named.iter().filter(|g| g.policy != policy) {
            if !old.members.is_empty() {
                let problem =
                    format!("group {} has instances and the policy {}, not {policy}", group.key, old.policy);
                return Err(CloudError::BadSpec { problem });
            }
            self.drop_server_group(&old.id).await?;
        }
        if let Some(found) = named.into_iter().find(|g| g.policy == policy) {
            return Ok(found);
        }
        let call = Call::new(NOVA, Method::POST, "os-server-groups")
            .json(&json!({ "server_group": { "name": name, "policy": policy } }));
        let mut answer: Value = match self.client.ask(&call).await {
            Ok(answer) => answer,
            Err(e) if e.is_lost() => {
                let found = self.groups().await?.into_iter().find(|g| g.name == name);
                return found.ok_or(CloudError::LostAnswer(Box::new(e)));
            }
            Err(e) => return Err(e.into()),
        };
        serde_json::from_value(answer["server_group"].take()).map_err(|e| CloudError::Internal(e.to_string()))
    }

    /// Removes the groups of a service that nobody is in.
    pub(crate) async fn drop_empty_groups(&self, service: &str) -> Result<(), CloudError> {
        let _lock = self.group_lock(service).lock().await;
        for group in self.groups().await? {
            let of_it = self.marks.read(&group.name).is_some_and(|key| key.service() == service);
            if of_it && group.members.is_empty() {
                self.drop_server_group(&group.id).await?;
            }
        }
        Ok(())
    }

    async fn drop_server_group(&self, id: &str) -> Result<(), CloudError> {
        Ok(self.client.delete(NOVA, format!("os-server-groups/{id}")).await?)
    }

    /// How it stands with the group of a server; `None`: it is in none of that key. One that a MANO made is in the MANO's, which
    /// counts when its policy is the one asked for.
    pub(crate) async fn group_state(
        &self,
        group: &Group,
        server: &Server,
    ) -> Result<Option<GroupState>, CloudError> {
        let name = self.marks.of(&group.key);
        let all: Vec<ServerGroup> =
            self.client.all(Call::get(NOVA, "os-server-groups"), "server_groups").await?;
        let is = |g: &ServerGroup| {
            let manos = server.adopted() && g.policy == policy_name(group.policy);
            g.members.contains(&server.id) && (g.name == name || manos)
        };
        let Some(found) = all.into_iter().find(is) else { return Ok(None) };
        let tag = crate::compute::service_tag(group.key.service());
        let tags = format!("{},{tag}", self.marks.tag());
        let servers: Vec<Server> =
            self.client.all(Call::get(NOVA, "servers/detail").query("tags", tags), "servers").await?;
        Ok(Some(state_of(&found, &servers)))
    }
}

/// A group as its servers are.
pub(crate) fn state_of(group: &ServerGroup, servers: &[Server]) -> GroupState {
    let placed = servers.iter().filter(|s| group.members.contains(&s.id) && !s.mark(marks::KEY).is_empty());
    let hosts: BTreeMap<String, String> =
        placed.filter_map(|s| Some((s.id.clone(), s.host.clone().filter(|h| !h.is_empty())?))).collect();
    GroupState { id: group.id.clone(), satisfied: satisfied(&group.policy, &hosts), hosts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_satisfied_by_where_instances_are() {
        let hosts = |all: &[&str]| -> BTreeMap<String, String> {
            all.iter().enumerate().map(|(n, h)| (n.to_string(), (*h).to_owned())).collect()
        };
        for (policy, all, is) in [
            ("affinity", &["a", "a"][..], true),
            ("affinity", &["a", "b"], false),
            ("anti-affinity", &["a", "b"], true),
            ("soft-anti-affinity", &["a", "b", "a"], false),
            ("anti-affinity", &[], true),
            ("unheard-of", &["a"], false),
        ] {
            assert_eq!(satisfied(policy, &hosts(all)), is, "{policy} {all:?}");
        }
    }
}
