//! A request's document, taken apart field by field: what nobody took is refused by name, never passed over.

use axum::http::{HeaderMap, header};
use serde_json::{Map, Value};

use crate::{ids, refusal::Refused};

/// Largest document of a request, bytes: the ledger takes no larger intent.
pub(crate) const MAX_DOCUMENT: usize = 1 << 20;
/// Words of a query that say as whom, not what.
pub(crate) const ADMIN_WORDS: [&str; 4] = ["ADMIN", "SET_PROJECT", "FORCE", "PUBLIC"];

/// An object's fields, and where it is.
#[derive(Debug)]
pub(crate) struct Fields {
    at: String,
    map: Map<String, Value>,
}

/// The document of a request, as the NBI reads it: JSON where it says so, else YAML; none is an empty one.
pub(crate) fn document(headers: &HeaderMap, body: &[u8]) -> Result<Fields, Refused> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if given.contains("form") || given.contains("multipart") {
        return Err(Refused::new(
            415,
            crate::codes::REQUEST,
            format!("`Content-Type: {given}`: send JSON or YAML"),
        ));
    }
    let text = std::str::from_utf8(body).map_err(|e| Refused::request(format!("the document: {e}")))?;
    let bad = |form: &str, e: String| Refused::request(format!("Invalid {form} format {e}"));
    let value = match (text.trim().is_empty(), given.contains("application/json")) {
        (true, _) => Value::Object(Map::new()),
        (_, true) => serde_json::from_str(text).map_err(|e| bad("json", e.to_string()))?,
        (_, false) => yaml(text).map_err(|e| bad("yaml", e))?,
    };
    match value {
        Value::Object(map) => Ok(Fields { at: String::new(), map }),
        Value::Null => Ok(Fields { at: String::new(), map: Map::new() }),
        _ => Err(Refused::request("the document is no object".into())),
    }
}

/// JSON is tried first: it is what clients send, and numbers keep their form.
pub(crate) fn yaml(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).or_else(|_| serde_saphyr::from_str::<Value>(text).map_err(|e| e.to_string()))
}

impl Fields {
    /// Of a value that must be an object.
    pub(crate) fn of(at: &str, value: Value) -> Result<Self, Refused> {
        match value {
            Value::Object(map) => Ok(Self { at: format!("{at}."), map }),
            _ => Err(Refused::new(422, crate::codes::REQUEST, format!("{at}: an object"))),
        }
    }

    /// With what the query says: the NBI has it override the document (`_update_input_with_kwargs`).
    pub(crate) fn with_query(mut self, query: &[(String, String)]) -> Result<Self, Refused> {
        for (name, value) in query {
            match name.as_str() {
                word if ADMIN_WORDS.contains(&word) => {
                    let off = value.eq_ignore_ascii_case("false");
                    if !off {
                        return Err(Refused::not_carried(
                            &format!("?{word}"),
                            "an intent is made as yourself, in your project, by the rules",
                        ));
                    }
                }
                deep if deep.contains('.') => {
                    return Err(Refused::not_carried(&format!("?{deep}"), "say it in the document"));
                }
                _ => {
                    let value = match value.to_ascii_lowercase().as_str() {
                        "true" => Value::Bool(true),
                        "false" => Value::Bool(false),
                        _ => yaml(value).unwrap_or_else(|_| Value::String(value.clone())),
                    };
                    self.map.insert(name.clone(), value);
                }
            }
        }
        Ok(self)
    }

    /// As it came, for the record.
    pub(crate) fn as_value(&self) -> Value {
        Value::Object(self.map.clone())
    }

    fn wrong(&self, name: &str, what: &str) -> Refused {
        Refused::new(422, crate::codes::REQUEST, format!("Format error at '{}{name}': {what}", self.at))
    }

    /// Null is absent.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|v| !v.is_null())
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, Refused> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "a text")),
        }
    }

    pub(crate) fn needed(&mut self, name: &str) -> Result<String, Refused> {
        let found = self.text(name)?;
        found.ok_or_else(|| self.wrong(name, "is required"))
    }

    pub(crate) fn id(&mut self, name: &str) -> Result<Option<String>, Refused> {
        match self.text(name)? {
            Some(id) if !ids::is_uuid(&id) => Err(self.wrong(name, "an id")),
            found => Ok(found),
        }
    }

    pub(crate) fn needed_id(&mut self, name: &str) -> Result<String, Refused> {
        let found = self.id(name)?;
        found.ok_or_else(|| self.wrong(name, "is required"))
    }

    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, Refused> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    pub(crate) fn number(&mut self, name: &str) -> Result<Option<u64>, Refused> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong(name, "a whole number")),
            },
        }
    }

    pub(crate) fn list(&mut self, name: &str) -> Result<Vec<Value>, Refused> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(self.wrong(name, "a list")),
        }
    }

    /// A list of objects.
    pub(crate) fn objects(&mut self, name: &str) -> Result<Vec<Self>, Refused> {
        let at = format!("{}{name}", self.at);
        let items = self.list(name)?.into_iter().enumerate();
        items.map(|(i, item)| Self::of(&format!("{at}[{i}]"), item)).collect()
    }

    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Self>, Refused> {
        let at = format!("{}{name}", self.at);
        self.take(name).map(|value| Self::of(&at, value)).transpose()
    }

    /// Where a field is, for messages.
    pub(crate) fn at(&self, name: &str) -> String {
        format!("{}{name}", self.at)
    }

    /// `false` says what is so anyway; anything else is refused.
    pub(crate) fn only_false(&mut self, name: &str, why: &str) -> Result<(), Refused> {
        match self.take(name) {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(_) => Err(Refused::not_carried(&self.at(name), why)),
        }
    }

    /// Everything was taken. What says nothing (null, and nothing else) is passed over.
    pub(crate) fn done(self) -> Result<(), Refused> {
        let left: Vec<String> = self
            .map
            .iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(name, _)| format!("{}{name}", self.at))
            .take(8)
            .collect();
        match left.is_empty() {
            true => Ok(()),
            false => Err(Refused::not_carried(
                &left.join(", "),
                "no intent carries it; leave it away (docs/osm-gateway.md says what is carried)",
            )),
        }
    }
}
