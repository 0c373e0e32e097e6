//! How one site of OpenStack is driven.

use std::{collections::BTreeMap, sync::Arc};

use vim::{Artifacts, Resources};

use crate::{config::CloudConfig, error::CloudError, marks};

/// Longest wait that may be configured, s: an hour, for machines that are powered on first.
const MAX_WAIT_S: u64 = 3600;

/// How one site is driven: a project of a cloud.
#[derive(Clone)]
pub struct OpenStackConfig {
    /// The cloud, and who we are there.
    pub cloud: CloudConfig,
    /// Name of the site, for people.
    pub site: String,
    /// Whose objects these are: 1 to 32 of `a-z 0-9 -`. Everything made carries it, and nothing without it is changed or
    /// removed. Two orchestrators (or sites) in one project need two.
    pub home: String,
    /// Where image bytes come from.
    pub artifacts: Arc<dyn Artifacts>,
    /// The most that the site may use of the cloud; `None`: all that placement and the project's quota give. With it the room
    /// is counted by our own servers, without the cloud's administration.
    pub capacity: Option<Resources>,
    /// Wide-area networks: name and the physical network that carries their segments as VLANs.
    pub wans: BTreeMap<String, String>,
    /// Virtual functions of each host on a physical network: nova does not tell how many there are.
    pub virtual_functions: BTreeMap<String, u32>,
    /// Longest boot, rebuild or start, s. A server that takes longer is deleted.
    pub boot_timeout_s: u64,
    /// Longest deletion, s.
    pub delete_timeout_s: u64,
}

impl std::fmt::Debug for OpenStackConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenStackConfig")
            .field("cloud", &self.cloud)
            .field("site", &self.site)
            .field("home", &self.home)
            .finish_non_exhaustive()
    }
}

impl OpenStackConfig {
    /// The whole of a project, without limits of our own.
    #[must_use]
    pub fn new(
        cloud: CloudConfig,
        site: impl Into<String>,
        home: impl Into<String>,
        artifacts: Arc<dyn Artifacts>,
    ) -> Self {
        Self {
            cloud,
            site: site.into(),
            home: home.into(),
            artifacts,
            capacity: None,
            wans: BTreeMap::new(),
            virtual_functions: BTreeMap::new(),
            boot_timeout_s: 300,
            delete_timeout_s: 120,
        }
    }

    pub(crate) fn check(&self) -> Result<(), CloudError> {
        let bad = |field, problem: String| Err(CloudError::BadConfig { field, problem });
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        for (field, name) in [("site", &self.site), ("home", &self.home)] {
            let edge = name.starts_with('-') || name.ends_with('-');
            if !(1..=marks::MAX_HOME).contains(&name.len()) || !name.chars().all(legal) || edge {
                return bad(
                    field,
                    format!("`{name}` is not a name of 1 to {} of a-z 0-9 -", marks::MAX_HOME),
                );
            }
        }
        for (field, seconds) in
            [("boot_timeout_s", self.boot_timeout_s), ("delete_timeout_s", self.delete_timeout_s)]
        {
            if !(1..=MAX_WAIT_S).contains(&seconds) {
                return bad(field, format!("{seconds} is not 1 to {MAX_WAIT_S}"));
            }
        }
        if let Some((wan, _)) = self.wans.iter().find(|(_, physical)| physical.is_empty()) {
            return bad("wans", format!("`{wan}` names no physical network"));
        }
        Ok(())
    }
}
