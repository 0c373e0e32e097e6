//! Day-0 documents through OSM's cloud-init.
//!
//! OSM renders a VDU's `cloud-init-file` with Jinja2, once per instance, from the parameters that the service was made with
//! (`additionalParamsForVdu`, those of the VDU alone: they replace the VNF's). It renders with autoescape, so a quote becomes
//! `&#34;`, and with StrictUndefined, so a name that is missing fails the operation. All instances of a VDU share one file
//! and one set of parameters; what differs is `OSM.count_index`, which the LCM sets for each before it renders, at
//! instantiation, when it scales out and when it heals. So:
//!
//! - the parameter `mandate_day0` is a list: the documents by count-index, each in base64, whose alphabet survives escaping;
//! - the file picks its own ([`dataplane_control::day0`]), as it does where Mandate boots the server itself.
//!
//! The parameters are kept with the service: scaling out cannot bring new ones. Documents of instances to come are therefore given
//! at once ([`mano::VduSpec::instances`] beyond its count), and one beyond them fails in the LCM before anything is made.
//!
//! Read from NBI `_format_additional_params`, LCM `_instantiate_ng_ro` and `scale`, RO `_parse_jinja2` and
//! `_process_recreate_vdu_params`. Run: `tests/nbi.rs` has the NBI take the list and give it back; on a whole OSM, `cargo testbed test osm`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mano::VduSpec;
use serde_json::{Value, json};

/// The parameter's value; none when no instance has a document.
pub(crate) fn parameter(vdu: &VduSpec) -> Option<Value> {
    let documents: Vec<String> = vdu.instances.iter().map(|i| STANDARD.encode(&i.day0)).collect();
    documents.iter().any(|d| !d.is_empty()).then(|| json!(documents))
}
