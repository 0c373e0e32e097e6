//! OpenStack as a VIM: keystone, nova, neutron, glance, placement and, where it is there, cinder, up to Yoga.
//!
//! An [`OpenStackVim`] drives one *site*: a project of a cloud. Truth is the cloud's: everything is read back from it, and what is
//! remembered here only saves calls. Everything made carries the mark of one *home* and the object's key, set by the call that
//! makes it (`marks.rs`); only what carries it is changed or removed. Find, make, wait, read back: a call that is repeated
//! after any crash or lost answer goes on from what is there. A caller that stops waiting does not stop an operation.
//!
//! The cloud does not let us into guests: no status, evidence, traffic or capture. A server's configuration document is in its
//! user data, a file in the guest; another document is another boot of it (nova's rebuild), with the same ports and addresses.
//! Isolation takes the ports down (`admin_state_up`).
//!
//! Never: touch what is not marked; make twice what may have been made; ask in a loop without growing pauses; take nova's
//! `ACTIVE` for bound ports.
//!
//! # Errors
//!
//! | code | disposition | when |
//! |---|---|---|
//! | `BAD_CONFIG` | Escalate | a value of [`OpenStackConfig`] |
//! | `CLOUD_UNREACHABLE` | Retry | an endpoint was not reached: nothing happened |
//! | `CLOUD_BUSY` | Retry | 429 or 503, asked again and still |
//! | `CLOUD_LOST_ANSWER` | Unknown | a call was sent and there is no answer: it is looked for by our mark |
//! | `CLOUD_CREDENTIALS` | Escalate | 401, or the secret cannot be read |
//! | `CLOUD_FORBIDDEN` | Compensate | 403: the cloud's policy |
//! | `CLOUD_NO_ENDPOINT` | Escalate | the catalogue lacks a service |
//! | `CLOUD_TOO_OLD` | Elsewhere | the cloud's microversion is older than what is asked for |
//! | `CLOUD_REFUSED` | Compensate | another refusal of a service, in its words |
//! | `QUOTA_EXCEEDED` | Elsewhere | a quota, by its name |
//! | `NO_VALID_HOST` | Elsewhere | no host has room, or every one that was tried failed for want of it (virtual functions, NUMA) |
//! | `SERVER_FAILED` | Compensate | `ERROR` with another fault; console's last words |
//! | `SERVER_STUCK` | Unknown | not built within `boot_timeout_s`; deleted |
//! | `SERVER_BUSY` | Retry | something else goes on with the server, or its state is unknown |
//! | `REMOVE_STUCK` | Unknown | not deleted within `delete_timeout_s` |
//! | `PORT_NOT_BOUND` | Elsewhere | `binding_failed` |
//! | `PORT_TAKEN` | Escalate | a port of ours is attached to what is not ours |
//! | `VOLUME_FAILED` | Elsewhere | cinder could not make a volume, or does not come to an end with it |
//! | `IMAGE_UNKNOWN` | Compensate | no artifact has the digest |
//! | `IMAGE_DIGEST` | Compensate | the artifact's bytes are others |
//! | `IMAGE_CHANGED` | Retry | glance's hash is not that of what was sent |
//! | `IMAGE_ABSENT` | Compensate | the service has not ensured the instance's image |
//! | `NETWORK_ABSENT` | Compensate | a port's virtual link is not there |
//! | `NETWORK_UNKNOWN` | Elsewhere | the cloud has no network of that name |
//! | `NETWORK_IN_USE` | Retry | removed, or to be another segment, before its instances are gone |
//! | `STILL_IN_USE` | Retry | a port, security group or QoS policy of an instance is used by what came late |
//! | `KEY_IN_USE` | Compensate | the key names an object of another kind |
//! | `SEGMENT_IN_USE` | Compensate | another network has the segment |
//! | `NO_WAN` | Elsewhere | a link to be joined to a wide-area network that is not mapped here |
//! | `CAPACITY` | Elsewhere | beyond the capacity set for the site |
//! | `BAD_SPEC` | Compensate | a specification that contradicts itself, or that the cloud calls invalid |
//! | `UNSUPPORTED_FEATURE` | Elsewhere | it asks for a [`vim::Feature`] that this cloud does not have |
//! | `CONFIGURATION_REFUSED` | Compensate | generation not above that of the running one |
//! | `INSTANCE_ABSENT` | Compensate | control of what was never made |
//! | `NOT_ISOLATED` | Unknown | neutron does not show an instance's ports down (or up) once told so |
//! | `UNSUPPORTED` | Compensate | status, evidence, traffic or capture of a guest |
//! | `NOT_ADOPTABLE` | Compensate | what a MANO made is not what the plan asks for |
//! | `STATE_IO` | Retry | an artifact cannot be read |
//! | `INTERNAL` | Escalate | a defect of this driver |
//!
//! Tests: beside the code; `tests/session.rs` (a cloud that misbehaves on demand), `tests/conformance.rs` (the port's suite on
//! a real Yoga) and `tests/scenarios.rs` (SR-IOV, groups, exhaustion, quotas, concurrency, crashes there).

mod adopt;
mod adopt_ports;
pub mod client;
mod cloud;
mod compute;
mod config;
mod driver;
mod error;
mod flavor;
mod gather;
mod group;
mod image;
mod looks;
mod marks;
mod network;
mod observe;
mod port;
mod remove;
mod room;
mod security;
mod server;
mod settings;
mod states;
mod sweep;
mod userdata;
mod volume;
mod wait;

pub use client::{ApiError, Call, Calls, Client, Fault, Microversion, Service};
pub use config::{Auth, BadConfig, CloudConfig, Interface, Secret};
pub use driver::OpenStackVim;
pub use settings::OpenStackConfig;
