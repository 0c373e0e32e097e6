//! What an adopted instance's connection points ask for and a MANO did not make: security groups, QoS policies, trusted virtual
//! functions.
//!
//! Groups and policies are made before the server is marked: what is there then and it is not, a call that was cut off left, and no port
//! uses it. A port is trusted when it is plugged, so that nova gives it a device for which the operator allows that: it is unplugged and
//! plugged again, with those after it, which keeps the order in which a guest finds them. Tests: on a real cloud, by a whole OSM
//! (`cargo testbed demo --play osm-sriov`).

use reqwest::Method;
use serde_json::json;
use vim::{ComputeSpec, ObjectKey};

use crate::{
    client::{Call, Service, segment},
    cloud::{Port, Server},
    driver::Site,
    error::CloudError,
    marks,
    port::Wanted,
    security::ties,
    wait::Pace,
};

const NOVA: Service = Service::Compute;

impl Site {
    /// The ports of a server, and of the marked ones without a server those that were unplugged and not plugged again.
    pub(crate) fn with_loose(spec: &ComputeSpec, has: &[Port], marked: &[Port]) -> Vec<Port> {
        let some = spec.ports.iter().any(|p| p.trusted) && has.len() < spec.ports.len();
        let loose = marked.iter().filter(|p| some && p.device_id.is_empty());
        has.iter().chain(loose).cloned().collect()
    }

    /// What guards the connection points of an instance that is about to be marked.
    pub(crate) async fn guard_adopted(
        &self,
        key: &ObjectKey,
        spec: &ComputeSpec,
        server: &Server,
    ) -> Result<(), CloudError> {
        if !ties(spec) || server.mark(marks::KEY) == key.as_str() {
            return Ok(());
        }
        let left = self.find_tied(key).await?;
        self.drop_after_ports(&left).await?;
        self.make_guards(key, spec).await.map(drop)
    }

    /// Plugs the first port that is not as trusted as it is to be, and all after it, again; true: there was one.
    pub(crate) async fn entrust(
        &self,
        server: &str,
        paired: &[(&Wanted<'_>, &Port)],
    ) -> Result<bool, CloudError> {
        let unlike = |(want, port): &(&Wanted<'_>, &Port)| {
            want.spec.trusted != port.trusted() || port.device_id.is_empty()
        };
        let Some(first) = paired.iter().position(unlike) else { return Ok(false) };
        let again = paired.get(first..).unwrap_or_default();
        for (_, port) in again.iter().filter(|(_, p)| !p.device_id.is_empty()) {
            let path = format!("servers/{}/os-interface/{}", segment(server), segment(&port.id));
            self.client.delete(NOVA, path).await?;
            self.plugged(&port.id, "").await?;
        }
        for (want, port) in again {
            let profile = if want.spec.trusted { json!({ "trusted": "true" }) } else { json!({}) };
            self.put("ports", &port.id, "port", json!({ "binding:profile": profile })).await?;
            let body = json!({ "interfaceAttachment": { "port_id": port.id } });
            let call = Call::new(NOVA, Method::POST, format!("servers/{}/os-interface", segment(server)));
            self.client.tell(&call.json(&body)).await?;
            self.plugged(&port.id, server).await?;
        }
        Ok(true)
    }

    /// Waits until a port is plugged into this server, or none.
    async fn plugged(&self, port: &str, server: &str) -> Result<(), CloudError> {
        let mut pace = Pace::new(self.boot_limit(), Some(&self.bindings));
        loop {
            let found: Vec<Port> = self.own("ports", &[("id", port)]).await?;
            match found.first() {
                Some(found) if found.device_id == server => {
                    pace.done();
                    return Ok(());
                }
                Some(_) if pace.next().await => {}
                _ => {
                    let (what, seconds) =
                        (if server.is_empty() { "unplugged" } else { "plugged" }, pace.seconds());
                    let problem = format!("port {port} is not {what} after {seconds} s");
                    return Err(CloudError::NotAdoptable { problem });
                }
            }
        }
    }
}
