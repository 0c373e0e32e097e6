//! Removal: everything that carries the key's mark, users before what they use, whatever of it is there.
//!
//! Tests: the conformance suite.

use vim::ObjectKey;

use crate::{cloud::Port, driver::Site, error::CloudError, marks};

impl Site {
    /// Nothing of the instance is left. A port of ours that others attached to a server of theirs stays, and is said.
    pub(crate) async fn remove_compute(&self, key: &ObjectKey) -> Result<(), CloudError> {
        let found = self.find(key).await;
        let (mut servers, ports, tied) = self.everything(key).await?;
        if let Ok(found) = &found
            && let Some(untagged) = found.server.clone().filter(|s| servers.iter().all(|o| o.id != s.id))
        {
            servers.push(untagged);
        }
        for server in &servers {
            self.delete_server(server).await?;
        }
        // Of a server without any there is none; without a server nobody knows.
        if servers.is_empty() || servers.iter().any(|s| !s.mark(marks::VOLUMES).is_empty()) {
            self.drop_volumes(key).await?;
        }
        self.drop_before_ports(&tied).await?;
        let ours = |p: &&Port| {
            !p.device_owner.starts_with("compute:") || servers.iter().any(|s| s.id == p.device_id)
        };
        let (mine, taken): (Vec<&Port>, Vec<&Port>) = ports.iter().partition(|p| ours(p));
        self.drop_ports(&mine).await?;
        if let Some(port) = taken.first() {
            return Err(CloudError::PortTaken { port: port.id.clone(), other: port.device_id.clone() });
        }
        self.drop_after_ports(&tied).await?;
        self.drop_empty_groups(key.service()).await
    }
}
