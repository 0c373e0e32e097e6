//! The port on a cloud: what every call has in common (locks, what is remembered, running to the end), and the calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use attestation::Evidence;
use dataplane_control::{
    protocol::Status,
    traffic::{TrafficProfile, TrafficReport},
};
use tokio::sync::{Mutex, OnceCell, RwLock};
use trust::Digest;
use vim::{
    Adoption, Capabilities, Capture, CaptureSpec, DriverError, Enforced, Feature, Inventory, Kind, ObjectKey,
    Observed, Scope, Spec, Stray, VimDriver, VnfControl,
};

use crate::{
    adopt::Looked,
    client::{Call, Calls, Client, Service},
    cloud::{Network, Port, Server},
    error::CloudError,
    gather::Gather,
    image::Held,
    looks::Looks,
    marks::Marks,
    room::Inventories,
    settings::OpenStackConfig,
    wait::{LATE, Learned},
};

/// Locks over all keys; two keys that share one wait for each other, no more.
const KEY_LOCKS: usize = 64;
/// Most entries of each of the things remembered; beyond it, all are forgotten and asked for again.
const MAX_REMEMBERED: usize = 4096;

const NO_FUNCTIONS: &str = "a cloud does not reach into its guests: what runs in them is asked over a network of the service's own, or at \
     a site of another kind";
const NO_CAPTURE: &str = "this VIM cannot capture traffic: isolate without a capture";

/// OpenStack as the VIM of one site.
///
/// Must be used on a tokio runtime. What it made outlives it; nothing that matters is remembered here alone.
#[derive(Clone)]
pub struct OpenStackVim {
    site: Arc<Site>,
}

impl std::fmt::Debug for OpenStackVim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OpenStackVim").field(&self.site.config).finish()
    }
}

/// What saves calls. Forgotten when the cloud says otherwise.
#[derive(Default)]
pub(crate) struct Known {
    pub images: BTreeMap<(String, Digest), Held>,
    pub networks: BTreeMap<ObjectKey, Network>,
    pub flavors: BTreeMap<Digest, String>,
    /// Contents that the cloud had no flavor of.
    pub no_flavor_since: BTreeMap<Digest, Instant>,
}

pub(crate) struct Site {
    pub config: OpenStackConfig,
    pub client: Client,
    pub marks: Marks,
    key_locks: [Mutex<()>; KEY_LOCKS],
    /// Per service: held from when a group is looked up until the server that joins it is accepted.
    group_locks: [Mutex<()>; KEY_LOCKS],
    pub image_lock: Mutex<()>,
    /// Read while a server is made of a flavor, written while an unused one is deleted.
    pub flavor_use: RwLock<()>,
    pub flavor_make: Mutex<()>,
    known: std::sync::Mutex<Known>,
    extensions: OnceCell<BTreeSet<String>>,
    pub inventories: Inventories,
    pub sha512: crate::image::Hashes,
    pub looks: Looks,
    pub adopting: Looked,
    pub servers: Gather<Server>,
    pub ports: Gather<Port>,
    pub networks: Gather<Network>,
    pub boots: Learned,
    pub rebuilds: Learned,
    pub bindings: Learned,
    pub deletions: Learned,
    pub volume_waits: Learned,
}

/// What every cloud has that this driver speaks with.
fn always(feature: &Feature) -> bool {
    use Feature::{CpuPinning, Groups, Guests, HugePages, Numa, PciDevices, Subnets};
    matches!(feature, CpuPinning | HugePages | Numa | PciDevices | Subnets | Groups | Guests)
}

impl OpenStackVim {
    /// Takes the site; nothing is asked of the cloud before the first call.
    ///
    /// # Errors
    /// `BAD_CONFIG`.
    pub fn new(config: OpenStackConfig) -> Result<Self, DriverError> {
        let place = format!("site {}", config.site);
        let site = Site::new(config).map_err(|e| e.at(place, "open"))?;
        Ok(Self { site: Arc::new(site) })
    }

    /// Calls of the cloud's services so far.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.site.client.calls()
    }

    /// Runs an operation to its end whether or not the caller goes on waiting.
    async fn run<T: Send + 'static>(
        &self,
        key: impl ToString,
        operation: &'static str,
        f: impl Future<Output = Result<T, CloudError>> + Send + 'static,
    ) -> Result<T, DriverError> {
        let (key, context) = (key.to_string(), vim::trace::current());
        if let Some(traceparent) = &context {
            tracing::info!(site = self.site.config.site, key, operation, %traceparent, "called");
        }
        let f = vim::calls::counted(vim::calls::current(), f);
        let result = match tokio::spawn(vim::trace::within(context, f)).await {
            Ok(result) => result,
            Err(e) => Err(CloudError::Internal(e.to_string())),
        };
        result.map_err(|e| e.at(key, operation))
    }

    fn place(&self) -> String {
        format!("site {}", self.site.config.site)
    }
}

impl Site {
    fn new(config: OpenStackConfig) -> Result<Self, CloudError> {
        config.check()?;
        let client = Client::new(config.cloud.clone())
            .map_err(|e| CloudError::BadConfig { field: e.field, problem: e.problem })?;
        Ok(Self {
            client,
            marks: Marks::new(&config.home),
            config,
            key_locks: std::array::from_fn(|_| Mutex::new(())),
            group_locks: std::array::from_fn(|_| Mutex::new(())),
            image_lock: Mutex::default(),
            flavor_use: RwLock::default(),
            flavor_make: Mutex::default(),
            known: std::sync::Mutex::default(),
            extensions: OnceCell::new(),
            inventories: Inventories::default(),
            sha512: crate::image::Hashes::default(),
            looks: Looks::default(),
            adopting: Looked::default(),
            servers: Gather::default(),
            ports: Gather::default(),
            networks: Gather::default(),
            boots: Learned::default(),
            rebuilds: Learned::default(),
            bindings: Learned::default(),
            deletions: Learned::default(),
            volume_waits: Learned::default(),
        })
    }

    fn key_lock(&self, key: &ObjectKey) -> &Mutex<()> {
        &self.key_locks[usize::from(Digest::of(key.as_str()).0[0]) % KEY_LOCKS]
    }

    pub(crate) fn group_lock(&self, service: &str) -> &Mutex<()> {
        &self.group_locks[usize::from(Digest::of(service).0[0]) % KEY_LOCKS]
    }

    /// Looks at what is remembered, or changes it.
    pub(crate) fn known<T>(&self, f: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let flavors = known.flavors.len().max(known.no_flavor_since.len());
        let too_many = known.images.len().max(known.networks.len()).max(flavors);
        if too_many > MAX_REMEMBERED {
            *known = Known::default();
        }
        f(&mut known)
    }

    /// Longest boot, rebuild or start.
    pub(crate) fn boot_limit(&self) -> Duration {
        Duration::from_secs(self.config.boot_timeout_s)
    }

    /// Longest deletion.
    pub(crate) fn delete_limit(&self) -> Duration {
        Duration::from_secs(self.config.delete_timeout_s)
    }

    /// neutron's extensions by alias; asked once.
    async fn extensions(&self) -> Result<&BTreeSet<String>, CloudError> {
        #[derive(serde::Deserialize)]
        struct Extension {
            alias: String,
        }
        let ask = || async {
            let all: Vec<Extension> =
                self.client.all(Call::get(Service::Network, "extensions"), "extensions").await?;
            Ok(all.into_iter().map(|e| e.alias).collect())
        };
        self.extensions.get_or_try_init(ask).await
    }

    /// What the cloud has of what a descriptor may ask for.
    pub(crate) async fn features(&self) -> Result<BTreeSet<Feature>, CloudError> {
        let extensions = self.extensions().await?;
        let volumes = self.client.has(&[Service::Volume]).await?;
        let has = |feature: &Feature| match feature {
            Feature::SrIov | Feature::PciPassthrough => extensions.contains("binding"),
            Feature::ProviderNetworks => extensions.contains("provider"),
            Feature::PortSecurity => ["port-security", "security-group", "allowed-address-pairs"]
                .iter()
                .all(|e| extensions.contains(*e)),
            Feature::Qos => extensions.contains("qos"),
            Feature::Trunks => extensions.contains("trunk"),
            Feature::FloatingIps => extensions.contains("router"),
            Feature::Volumes => volumes,
            other => always(other),
        };
        Ok(Feature::ALL.into_iter().filter(has).collect())
    }

    /// Refuses what the cloud lacks.
    async fn refuse_unsupported(&self, spec: &Spec) -> Result<(), CloudError> {
        let needs: BTreeSet<Feature> = spec.needs().into_iter().filter(|f| !always(f)).collect();
        if needs.is_empty() {
            return Ok(());
        }
        match needs.difference(&self.features().await?).next() {
            Some(feature) => Err(CloudError::Unsupported { feature: *feature }),
            None => Ok(()),
        }
    }

    async fn ensure(&self, key: &ObjectKey, spec: &Spec) -> Result<Observed, CloudError> {
        let _key = self.key_lock(key).lock().await;
        self.adopting.forget(key.service());
        if key.service() == Stray::SERVICE {
            return Err(CloudError::BadSpec {
                problem: format!("`{}` is no service's name", Stray::SERVICE),
            });
        }
        self.refuse_unsupported(spec).await?;
        let made = match spec {
            Spec::Image(image) => self.ensure_image(key, image).await,
            Spec::Network(network) => self.ensure_network(key, network).await,
            Spec::Compute(compute) => self.ensure_compute(key, compute).await,
        };
        if matches!(made, Err(CloudError::LostAnswer(_))) {
            // Whoever asks again at once would look for it too early.
            tokio::time::sleep(LATE).await;
        }
        made
    }

    async fn remove(&self, key: &ObjectKey, kind: Kind) -> Result<(), CloudError> {
        let _key = self.key_lock(key).lock().await;
        self.adopting.forget(key.service());
        if key.service() == Stray::SERVICE {
            // A flavor, by its id: nothing else is found without a key.
            let id = key.as_str().trim_start_matches(Stray::SERVICE).trim_start_matches('/');
            return self.drop_unused_flavor(id).await;
        }
        match kind {
            Kind::Image => self.remove_image(key).await,
            Kind::Network => self.remove_network(key).await,
            Kind::Compute => self.remove_compute(key).await,
        }
    }

    async fn adopt(&self, found: &[Adoption]) -> Result<BTreeMap<ObjectKey, Observed>, CloudError> {
        let mut out = BTreeMap::new();
        for one in found {
            let _key = self.key_lock(&one.key).lock().await;
            let taken = self.adopt_one(one).await;
            if taken.is_err() {
                // Whoever tries again is to see what came of it.
                self.adopting.forget(one.key.service());
            }
            out.insert(one.key.clone(), taken?);
        }
        Ok(out)
    }

    async fn isolate(&self, key: &ObjectKey, on: bool) -> Result<(), CloudError> {
        let _key = self.key_lock(key).lock().await;
        self.adopting.forget(key.service());
        self.isolate_compute(key, on).await
    }
}

#[async_trait]
impl VimDriver for OpenStackVim {
    async fn capabilities(&self) -> Result<Capabilities, DriverError> {
        let site = self.site.clone();
        let features = self.run(self.place(), "capabilities", async move { site.features().await }).await?;
        Ok(Capabilities {
            driver: "openstack".into(),
            attestation: false,
            inter_site_links: !self.site.config.wans.is_empty(),
            capture: false,
            enforced: Enforced { vcpus: true, memory: true, why_not: String::new() },
            functions: false,
            features,
        })
    }

    async fn ensure(&self, key: &ObjectKey, spec: &Spec) -> Result<Observed, DriverError> {
        let (site, owned, spec) = (self.site.clone(), key.clone(), spec.clone());
        self.run(key, "ensure", async move { site.ensure(&owned, &spec).await }).await
    }

    async fn remove(&self, key: &ObjectKey, kind: Kind) -> Result<(), DriverError> {
        let (site, owned) = (self.site.clone(), key.clone());
        self.run(key, "remove", async move { site.remove(&owned, kind).await }).await
    }

    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError> {
        let (site, owned) = (self.site.clone(), scope.clone());
        let what = match scope {
            Scope::All => self.place(),
            Scope::Service(service) => service.clone(),
        };
        self.run(what, "observe", async move { site.observe(&owned).await }).await
    }

    async fn adopt(&self, found: &[Adoption]) -> Result<BTreeMap<ObjectKey, Observed>, DriverError> {
        let (site, owned) = (self.site.clone(), found.to_vec());
        let what = found.first().map_or_else(|| self.place(), |a| a.key.to_string());
        self.run(what, "adopt", async move { site.adopt(&owned).await }).await
    }

    async fn fault(&self, id: &str) -> Result<Option<String>, DriverError> {
        let (site, owned) = (self.site.clone(), id.to_owned());
        let fault = async move {
            let server = site.server(&owned).await?;
            Ok(server.and_then(|s| s.fault).map(|f| f.message).filter(|m| !m.is_empty()))
        };
        self.run(id, "fault", fault).await
    }
}

impl OpenStackVim {
    /// What reaches into a guest: said of an instance that is there, and of none that is not.
    async fn no_functions<T: Send + 'static>(
        &self,
        key: &ObjectKey,
        operation: &'static str,
        why: &'static str,
    ) -> Result<T, DriverError> {
        let (site, owned) = (self.site.clone(), key.clone());
        let look = async move {
            match site.find_server(&owned).await? {
                Some(_) => Err(CloudError::NoFunctions(why)),
                None => Err(CloudError::InstanceAbsent),
            }
        };
        self.run(key, operation, look).await
    }
}

#[async_trait]
impl VnfControl for OpenStackVim {
    async fn status(&self, key: &ObjectKey) -> Result<Status, DriverError> {
        self.no_functions(key, "status", NO_FUNCTIONS).await
    }

    async fn attest(&self, keys: &[ObjectKey], _nonce: &Digest) -> Result<Evidence, DriverError> {
        let what = keys.first().map_or_else(|| self.place(), |k| k.service().to_owned());
        Err(CloudError::NoFunctions(NO_FUNCTIONS).at(what, "attest"))
    }

    async fn run_traffic(
        &self,
        key: &ObjectKey,
        _profile: &TrafficProfile,
    ) -> Result<TrafficReport, DriverError> {
        self.no_functions(key, "run_traffic", NO_FUNCTIONS).await
    }

    async fn isolate(&self, key: &ObjectKey, on: bool) -> Result<(), DriverError> {
        let (site, owned) = (self.site.clone(), key.clone());
        self.run(key, "isolate", async move { site.isolate(&owned, on).await }).await
    }

    async fn capture(&self, key: &ObjectKey, _spec: &CaptureSpec) -> Result<Capture, DriverError> {
        self.no_functions(key, "capture", NO_CAPTURE).await
    }
}
