//! What a MANO left: servers of a service of ours that it made, and that were never taken for ours, because its build failed half-way
//! or it was killed, and its record is gone.
//!
//! OSM names a server `{service}-{member}-{vdu}-{index}`, and a service's key is nobody else's name. A server is taken away when it is
//! called so, carries no mark of anybody, and has an unmarked port on a link of the same service that is about to go; with its
//! ports, which RO makes by themselves. Looked for only when neutron refuses to remove the link. Whatever else uses the link stays, and
//! so do RO's flavors: their names do not say whose they are. Tests: `tests/scenarios.rs`.

use std::collections::BTreeSet;

use vim::ObjectKey;

use crate::{cloud::Port, driver::Site, error::CloudError, marks};

impl Site {
    /// Takes away what a MANO left on a link of ours; true: there was something.
    pub(crate) async fn sweep(&self, key: &ObjectKey, network: &str) -> Result<bool, CloudError> {
        let ports: Vec<Port> = self.own("ports", &[("network_id", network)]).await?;
        let unmarked = |p: &&Port| p.device_owner.starts_with("compute:") && p.description.is_empty();
        let users: BTreeSet<&str> = ports.iter().filter(unmarked).map(|p| p.device_id.as_str()).collect();
        let mut swept = false;
        for id in users {
            swept |= self.sweep_server(key, id).await?;
        }
        Ok(swept)
    }

    async fn sweep_server(&self, key: &ObjectKey, id: &str) -> Result<bool, CloudError> {
        let Some(server) = self.server(id).await? else { return Ok(false) };
        let named = server.name.strip_prefix(key.service()).is_some_and(|rest| rest.starts_with('-'));
        if !named || !server.mark(marks::HOME).is_empty() {
            return Ok(false);
        }
        tracing::warn!(site = %self.config.site, service = key.service(), server = server.name, "a MANO left it: deleted");
        // Looked at before: they outlive the server and then say no more whose they were.
        let held: Vec<Port> = self.own("ports", &[("device_id", id)]).await?;
        self.delete_server(&server).await?;
        let theirs: Vec<&Port> = held.iter().filter(|p| p.description.is_empty()).collect();
        self.drop_ports(&theirs).await?;
        Ok(true)
    }
}
