//! A service's question, as oslo.policy asks it: `rule`, `target` and `credentials` as JSON, in a form or in one JSON
//! document.
//!
//! What the target says is the service's, partly in the caller's words (a description that is being changed): of it only
//! ids of projects and keys of ours are read. Bounds: the body's length ([`MAX_BODY_BYTES`]), and serde_json's on depth.

use std::borrow::Cow;

use dataplane_control::MacAddr;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use vim::ObjectKey;

/// Largest question, bytes: a port with all its attributes has some KiB; the plugin sends at most 32 KiB.
pub const MAX_BODY_BYTES: usize = 256 << 10;
/// Longest id that is taken over, bytes.
const MAX_ID: usize = 128;
/// A mark is `mandate:HOME:KEY`: neutron's objects have it as their description, images as a tag, with `~` for each slash.
const MARK: &str = "mandate:";
/// The key of metadata that has a key.
const KEY: &str = "mandate.key";

/// Who asks the service for something.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actor {
    /// Id of the user.
    pub user_id: String,
    /// Id of the project that the token is for; empty: none.
    pub project_id: String,
}

/// What is concerned, as far as it was shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// Id of the project that it belongs to; empty: not shown.
    pub project_id: String,
    /// Id of the object; empty: not shown.
    pub id: String,
    /// Our keys on it.
    pub keys: Vec<ObjectKey>,
    /// It carries our mark with something that is no key.
    pub bad_key: Option<String>,
    /// The caller says what the mark is to be: it need not be what the object has.
    pub as_asked: bool,
    /// MAC address of a port, where it is shown.
    pub mac: Option<MacAddr>,
}

/// Actor and target of a question.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Question {
    /// Who.
    pub actor: Actor,
    /// What.
    pub target: Target,
}

/// A question that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("UNREADABLE: {0}")]
pub struct Unreadable(pub String);

/// A question in one JSON document; the rule's name is in the URL, because neutron does not always say it here.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    target: Value,
    #[serde(default)]
    credentials: Value,
}

impl Question {
    /// Reads a body of this media type.
    pub fn parse(media_type: &str, body: &[u8]) -> Result<Self, Unreadable> {
        let (target, credentials) = match media_type.split(';').next().unwrap_or_default().trim() {
            "application/x-www-form-urlencoded" => form(body)?,
            "application/json" => {
                let all: Document = json("the body", body)?;
                (all.target, all.credentials)
            }
            other => return Err(Unreadable(format!("a body of `{}`", short(other)))),
        };
        if !credentials.is_object() {
            return Err(Unreadable("no credentials".into()));
        }
        let actor =
            Actor { user_id: id(&credentials, "user_id"), project_id: id(&credentials, "project_id") };
        Ok(Self { actor, target: Target::of(&target) })
    }
}

/// `target` and `credentials` of a form: each once, each JSON.
fn form(body: &[u8]) -> Result<(Value, Value), Unreadable> {
    let (mut target, mut credentials) = (None, None);
    for (name, value) in form_urlencoded::parse(body) {
        let field = match &*name {
            "target" => &mut target,
            "credentials" => &mut credentials,
            _ => continue,
        };
        if field.replace(json(&name, value.as_bytes())?).is_some() {
            return Err(Unreadable(format!("{name} is there twice")));
        }
    }
    Ok((target.unwrap_or_default(), credentials.unwrap_or_default()))
}

fn json<T: DeserializeOwned>(what: &str, text: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(text).map_err(|e| Unreadable(format!("{what}: {e}")))
}

/// At most so much of somebody else's text.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_ID).collect()
}

fn id(of: &Value, field: &str) -> String {
    of[field].as_str().map(short).unwrap_or_default()
}

impl Target {
    fn of(target: &Value) -> Self {
        let project = ["project_id", "tenant_id", "owner"].iter().map(|f| id(target, f));
        let object = ["id", "image_id", "instance_id"].iter().map(|f| id(target, f));
        let mut it = Self {
            project_id: project.into_iter().find(|p| !p.is_empty()).unwrap_or_default(),
            id: object.into_iter().find(|i| !i.is_empty()).unwrap_or_default(),
            ..Self::default()
        };
        marks(target).for_each(|mark| it.marked(&mark));
        let changed = target["attributes_to_update"].as_array().into_iter().flatten();
        it.mac = target["mac_address"].as_str().and_then(|m| m.parse().ok());
        it.as_asked = changed.filter_map(Value::as_str).any(|a| ["description", "tags"].contains(&a));
        it
    }

    fn marked(&mut self, mark: &str) {
        // A home's name and a key have no colon.
        let key = mark.split_once(':').map_or(mark, |(_home, key)| key);
        match ObjectKey::new(key) {
            Ok(key) if self.keys.contains(&key) => {}
            Ok(key) => self.keys.push(key),
            Err(_) => self.bad_key = Some(short(mark)),
        }
    }
}

/// Whatever says that it is a key of ours: description, tags, metadata.
fn marks(target: &Value) -> impl Iterator<Item = Cow<'_, str>> {
    let described = target["description"].as_str().and_then(|d| d.strip_prefix(MARK));
    let tags = target["tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let tagged = tags.filter_map(|t| Some(Cow::from(t.strip_prefix(MARK)?.replace('~', "/"))));
    let inside = target["metadata"][KEY].as_str();
    described.into_iter().chain(inside).chain(target[KEY].as_str()).map(Cow::from).chain(tagged)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn asked(target: &Value) -> Target {
        let credentials = json!({"user_id": "u", "project_id": "p", "roles": ["member"]});
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("rule", "\"update_port\"")
            .append_pair("target", &target.to_string())
            .append_pair("credentials", &credentials.to_string())
            .finish();
        let form = Question::parse("application/x-www-form-urlencoded", body.as_bytes()).unwrap();
        let all = json!({"rule": null, "target": target, "credentials": credentials}).to_string();
        let whole = Question::parse("application/json; charset=utf-8", all.as_bytes()).unwrap();
        assert_eq!(form, whole);
        assert_eq!(form.actor, Actor { user_id: "u".into(), project_id: "p".into() });
        form.target
    }

    #[test]
    fn keys_are_found_wherever_the_driver_writes_them() {
        let key = ObjectKey::new("ns-1/vnf/vdu/0").unwrap();
        for target in [
            json!({"description": "mandate:ns-1/vnf/vdu/0", "id": "x"}),
            json!({"description": "mandate:home-1:ns-1/vnf/vdu/0"}),
            json!({"tags": ["mandate-abc", "mandate:home-1:ns-1~vnf~vdu~0"]}),
            json!({"metadata": {"mandate.key": "ns-1/vnf/vdu/0"}}),
            json!({"mandate.key": "ns-1/vnf/vdu/0", "description": "mandate:home-1:ns-1/vnf/vdu/0"}),
        ] {
            assert_eq!(asked(&target).keys, std::slice::from_ref(&key), "{target}");
        }
        let two = asked(&json!({"description": "mandate:h:ns-1/a", "tags": ["mandate:h:ns-2~b"]}));
        assert_eq!(two.keys.len(), 2);
        let bad = asked(&json!({"description": "mandate:../x"}));
        assert_eq!((bad.keys.len(), bad.bad_key.as_deref()), (0, Some("../x")));
        assert_eq!(asked(&json!({"description": "a web server", "tags": [1, null]})), Target::default());
    }

    #[test]
    fn projects_are_found_under_each_services_name() {
        for (target, project) in [
            (json!({"project_id": "a", "user_id": "u"}), "a"),
            (json!({"tenant_id": "b"}), "b"),
            (json!({"project_id": null, "owner": "c", "image_id": "i"}), "c"),
            (json!({}), ""),
            (Value::Null, ""),
        ] {
            assert_eq!(asked(&target).project_id, project, "{target}");
        }
    }

    #[test]
    fn what_is_no_question_is_refused() {
        let form = "application/x-www-form-urlencoded";
        for (media_type, body) in [
            ("text/plain", "target={}"),
            (form, "target={}"),
            (form, "target={&credentials={}"),
            (form, "credentials={}&credentials={}"),
            (form, "credentials=[]"),
            ("application/json", "{"),
            ("application/json", "[]"),
            ("application/json", r#"{"target": {}}"#),
        ] {
            Question::parse(media_type, body.as_bytes()).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..300), form in any::<bool>()) {
            let media_type = if form { "application/x-www-form-urlencoded" } else { "application/json" };
            let _ = Question::parse(media_type, &body);
        }
    }
}
