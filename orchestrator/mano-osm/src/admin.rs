//! What an operator sets up once: VIM accounts and Kubernetes clusters; and which account is which of our sites.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::sleep;
use vim::DriverError;

use crate::{
    Osm, Secret,
    client::{ApiError, Call},
    error::{Trouble, refuse},
    records::{Account, Made},
};

const ACCOUNTS: &str = "admin/v1/vim_accounts";
const CLUSTERS: &str = "admin/v1/k8sclusters";
/// How long OSM may take to try an account or a cluster.
const ENABLING: Duration = Duration::from_secs(120);
/// First pause between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// A VIM account that OSM is to have for a site of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VimAccount {
    /// Its name in OSM.
    pub name: String,
    /// `openstack`, ….
    #[serde(rename = "vim_type")]
    pub kind: String,
    /// Its API: `https://keystone.example:5000/v3`.
    #[serde(rename = "vim_url")]
    pub url: String,
    /// Project.
    #[serde(rename = "vim_tenant_name")]
    pub tenant: String,
    /// User.
    #[serde(rename = "vim_user")]
    pub user: String,
    /// What RO is to know: `dataplane_physical_net`, `management_network_name`, `ca_cert`, ….
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, Value>,
}

/// An account or a cluster as OSM has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enabled {
    /// OSM's id.
    pub id: String,
    /// Did OSM reach it? Otherwise OSM's words are in `detail`.
    pub enabled: bool,
    /// OSM's words.
    pub detail: String,
}

impl Osm {
    /// Makes OSM have this VIM account and waits until OSM has tried it. One of that name that is there is used as it is: OSM gives
    /// no password back that could be compared.
    pub async fn ensure_vim_account(
        &self,
        account: &VimAccount,
        password: &Secret,
    ) -> Result<Enabled, DriverError> {
        let body = || {
            let secret = password.read("vim_password");
            let secret = secret.map_err(|e| Trouble::Refused {
                code: "OSM_LOGIN",
                reason: e.to_string(),
                disposition: vim::Disposition::Escalate,
            })?;
            let mut body = serde_json::to_value(account).unwrap_or_default();
            body["vim_password"] = secret.into();
            Ok(body)
        };
        self.ensure_account(ACCOUNTS, &account.name, body)
            .await
            .map_err(|e| e.about(&account.name, "ensure_vim_account"))
    }

    /// Makes OSM have this Kubernetes cluster (`name`, `credentials`, `vim_account`, `k8s_version`, `nets`, …) and waits until
    /// OSM has tried it.
    pub async fn ensure_cluster(&self, name: &str, document: &Value) -> Result<Enabled, DriverError> {
        let body = || {
            let mut body = document.clone();
            body["name"] = name.into();
            Ok(body)
        };
        self.ensure_account(CLUSTERS, name, body).await.map_err(|e| e.about(name, "ensure_cluster"))
    }

    /// Removes a VIM account; absent is success. One that services use stays (`OSM_CONFLICT`).
    pub async fn remove_vim_account(&self, name: &str) -> Result<(), DriverError> {
        self.remove_account(ACCOUNTS, name).await.map_err(|e| e.about(name, "remove_vim_account"))
    }

    /// Removes a Kubernetes cluster; absent is success.
    pub async fn remove_cluster(&self, name: &str) -> Result<(), DriverError> {
        self.remove_account(CLUSTERS, name).await.map_err(|e| e.about(name, "remove_cluster"))
    }

    async fn account(&self, list: &str, name: &str) -> Result<Option<Account>, ApiError> {
        let all: Vec<Account> = self.client.ask(&Call::get(list).query("name", name)).await?;
        Ok(all.into_iter().find(|a| a.name == name))
    }

    async fn ensure_account(
        &self,
        list: &str,
        name: &str,
        body: impl Fn() -> Result<Value, Trouble>,
    ) -> Result<Enabled, Trouble> {
        let mut lost = 0;
        let until = Instant::now() + ENABLING;
        let mut pause = LOOK;
        loop {
            let found = self.account(list, name).await?;
            match &found {
                Some(a) if a.admin.state != "PROCESSING" || Instant::now() >= until => {
                    let (enabled, detail) = (a.admin.state == "ENABLED", a.admin.detail.clone());
                    return Ok(Enabled { id: a.id.clone(), enabled, detail });
                }
                Some(_) => {
                    sleep(http_peer::jittered(pause)).await;
                    pause = (pause * 2).min(LOOK * 16);
                }
                None => {
                    let made = self.client.ask::<Made>(&Call::post(list, &body()?)).await;
                    match made {
                        // Names are unique: somebody made it meanwhile.
                        Err(e) if e.is_conflict() => {}
                        Err(e) => self.settle(e.into(), &mut lost).await?,
                        Ok(_) => {}
                    }
                }
            }
        }
    }

    async fn remove_account(&self, list: &str, name: &str) -> Result<(), Trouble> {
        let until = Instant::now() + ENABLING;
        let mut pause = LOOK;
        // Deletion is an operation of its own: the account is there until it is done.
        while let Some(account) = self.account(list, name).await? {
            match self
                .client
                .tell(&Call::new(Method::DELETE, format!("{list}/{}", http_peer::segment(&account.id))))
                .await
            {
                Err(e) if e.is_absent() => {}
                other => other?,
            }
            if Instant::now() >= until {
                return refuse(
                    "OSM_DEADLINE",
                    format!("{name} is being deleted for {} s", ENABLING.as_secs()),
                );
            }
            sleep(http_peer::jittered(pause)).await;
            pause = (pause * 2).min(LOOK * 16);
        }
        Ok(())
    }

    /// OSM's accounts of these sites, which must be there and enabled; one call.
    pub(crate) async fn accounts(
        &self,
        sites: impl Iterator<Item = &str>,
    ) -> Result<BTreeMap<String, String>, Trouble> {
        let all: Vec<Account> = self.client.ask(&Call::get(ACCOUNTS)).await?;
        let mut out = BTreeMap::new();
        for site in sites.collect::<BTreeSet<_>>() {
            let Some(name) = self.client.config().sites.get(site) else {
                return refuse(
                    "OSM_SITE",
                    format!("site {site} is not configured for this OSM: add it to its `sites`"),
                );
            };
            let Some(account) = all.iter().find(|a| a.name == *name) else {
                return refuse(
                    "OSM_SITE",
                    format!("OSM has no VIM account {name} (site {site}): make it, or correct `sites`"),
                );
            };
            if account.admin.state != "ENABLED" {
                let (state, detail) = (&account.admin.state, &account.admin.detail);
                return refuse(
                    "OSM_SITE",
                    format!("OSM's VIM account {name} (site {site}) is {state}: {detail}"),
                );
            }
            out.insert(site.to_owned(), account.id.clone());
        }
        self.know_accounts(&all);
        Ok(out)
    }
}
