//! Documents of nova, neutron, glance and placement, as far as they are read. Nothing outside this crate sees them.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Deserialize;
use serde_json::Value;

/// A server of `servers/detail`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Server {
    pub id: String,
    pub status: String,
    #[serde(rename = "OS-EXT-STS:task_state", default)]
    pub task: Option<String>,
    #[serde(default)]
    pub name: String,
    #[serde(rename = "OS-EXT-SRV-ATTR:host", default)]
    pub host: Option<String>,
    #[serde(rename = "OS-EXT-AZ:availability_zone", default)]
    pub zone: Option<String>,
    #[serde(rename = "OS-EXT-SRV-ATTR:user_data", default)]
    pub user_data: Option<String>,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub fault: Option<ServerFault>,
    #[serde(default)]
    pub flavor: ServerFlavor,
    /// `""` when it was booted from a volume.
    #[serde(default)]
    pub image: Value,
    #[serde(default)]
    pub created: String,
    #[serde(rename = "os-extended-volumes:volumes_attached", default)]
    pub volumes: Vec<Identified>,
}

impl Server {
    pub fn mark(&self, name: &str) -> &str {
        self.metadata.get(name).map_or("", String::as_str)
    }

    pub fn adopted(&self) -> bool {
        !self.mark(crate::marks::ADOPTED).is_empty()
    }

    pub fn image_id(&self) -> &str {
        self.image.get("id").and_then(Value::as_str).unwrap_or_default()
    }
}

/// Why a server is in `ERROR`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ServerFault {
    #[serde(default)]
    pub message: String,
}

/// The flavor that a server was given, as it was then.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct ServerFlavor {
    #[serde(default)]
    pub original_name: String,
    #[serde(default)]
    pub vcpus: u32,
    #[serde(default)]
    pub ram: u32,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Identified {
    pub id: String,
}

/// A volume of `volumes/detail`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Volume {
    pub id: String,
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub size: u32,
    #[serde(default)]
    pub created_at: Option<String>,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// A flavor of `flavors/detail`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Flavor {
    pub id: String,
    pub vcpus: u32,
    pub ram: u32,
    pub disk: u32,
    #[serde(rename = "OS-FLV-EXT-DATA:ephemeral", default)]
    pub ephemeral: u32,
    /// Older microversions write `""` for none.
    #[serde(default)]
    pub swap: Value,
    #[serde(rename = "OS-FLV-DISABLED:disabled", default)]
    pub disabled: bool,
    #[serde(default)]
    pub extra_specs: BTreeMap<String, String>,
}

/// A server group.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ServerGroup {
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub policy: String,
    #[serde(default)]
    pub members: Vec<String>,
}

/// A network.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Network {
    pub id: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub admin_state_up: bool,
    #[serde(default)]
    pub mtu: u16,
    #[serde(default = "yes")]
    pub port_security_enabled: bool,
    #[serde(default)]
    pub subnets: Vec<String>,
    #[serde(rename = "provider:network_type", default)]
    pub network_type: Option<String>,
    #[serde(rename = "provider:physical_network", default)]
    pub physical_network: Option<String>,
    #[serde(rename = "provider:segmentation_id", default)]
    pub segment: Option<u32>,
}

impl Network {
    pub fn up(&self) -> bool {
        self.admin_state_up && self.status == "ACTIVE"
    }
}

/// A subnet.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Subnet {
    pub id: String,
    pub cidr: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub gateway_ip: Option<IpAddr>,
    #[serde(default)]
    pub enable_dhcp: bool,
}

/// A port.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Port {
    pub id: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub description: String,
    pub network_id: String,
    pub mac_address: String,
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub admin_state_up: bool,
    #[serde(default)]
    pub device_id: String,
    #[serde(default)]
    pub device_owner: String,
    #[serde(default)]
    pub fixed_ips: Vec<FixedIp>,
    #[serde(default)]
    pub security_groups: Vec<String>,
    #[serde(default = "yes")]
    pub port_security_enabled: bool,
    #[serde(default)]
    pub allowed_address_pairs: Vec<Pair>,
    #[serde(default)]
    pub qos_policy_id: Option<String>,
    #[serde(rename = "binding:vnic_type", default)]
    pub vnic_type: String,
    #[serde(rename = "binding:vif_type", default)]
    pub vif_type: String,
    #[serde(rename = "binding:host_id", default)]
    pub host: String,
    #[serde(rename = "binding:profile", default)]
    pub profile: Value,
    /// Of a port that carries others.
    #[serde(default)]
    pub trunk_details: Option<TrunkDetails>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct TrunkDetails {
    #[serde(default)]
    pub sub_ports: Vec<Carried>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Carried {
    pub port_id: String,
}

fn yes() -> bool {
    true
}

impl Port {
    pub fn trusted(&self) -> bool {
        match self.profile.get("trusted") {
            Some(Value::Bool(b)) => *b,
            Some(Value::String(s)) => s.eq_ignore_ascii_case("true"),
            _ => false,
        }
    }

    pub fn pci_slot(&self) -> Option<String> {
        self.profile.get("pci_slot").and_then(Value::as_str).map(str::to_owned)
    }

    /// Is it carried in a VLAN of one of these?
    pub fn is_subport_of<'a>(&self, ports: impl IntoIterator<Item = &'a Port>) -> bool {
        let carries = |t: &TrunkDetails| t.sub_ports.iter().any(|s| s.port_id == self.id);
        ports.into_iter().any(|p| p.trunk_details.as_ref().is_some_and(carries))
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct FixedIp {
    pub ip_address: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct Pair {
    pub ip_address: String,
    #[serde(default)]
    pub mac_address: String,
}

/// A security group, a QoS policy, a trunk or a floating IP: what all of them have.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Marked {
    pub id: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub description: String,
    /// Of a trunk and of a floating IP.
    #[serde(default)]
    pub port_id: Option<String>,
    /// Of a floating IP.
    #[serde(default)]
    pub floating_ip_address: Option<IpAddr>,
}

/// An image.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Image {
    pub id: String,
    pub status: String,
    #[serde(default)]
    pub size: Option<u64>,
    #[serde(default)]
    pub virtual_size: Option<u64>,
    #[serde(default)]
    pub os_hash_algo: Option<String>,
    #[serde(default)]
    pub os_hash_value: Option<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub min_disk: u32,
    #[serde(flatten)]
    pub properties: BTreeMap<String, Value>,
}

impl Image {
    pub fn property(&self, name: &str) -> &str {
        self.properties.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}
