//! Reads of a managed project: OSM's records, and among them ours under the ids and names that clients gave them.
//!
//! A list streams through, one record in memory at a time ([`crate::split`]). Of a service of ours OSM's record is shown, if OSM
//! has one that this client may see, merged with what we know; else our own. OSM's operations of such a service are steps of ours and are
//! not shown: the client's are. Filters hold for both: OSM applies them to its records, we to ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{
    Gateway, Managed, Refused, codes,
    filter::Filter,
    records::{Own, operation, replaced},
    reply::{self, Form},
    request::{Asked, encoded},
    split::Splitter,
    upstream::{Answer, credentials, unreadable},
};

/// Records of ours that are asked for in one call.
const NAMES_AT_ONCE: usize = 20;
/// Pieces of an answer that wait to be sent.
const WAITING: usize = 4;
/// As large is a piece at least, bytes: small records go together.
const PIECE: usize = 32 << 10;

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    Services,
    Vnfs,
    Operations,
}

impl Topic {
    /// The lists that show our services.
    pub(crate) fn of(parts: &[&str]) -> Option<Self> {
        match parts {
            ["nslcm", "v1", "ns_instances" | "ns_instances_content", ..] => Some(Self::Services),
            ["nslcm", "v1", "vnf_instances" | "vnfrs", ..] => Some(Self::Vnfs),
            ["nslcm", "v1", "ns_lcm_op_occs", ..] => Some(Self::Operations),
            _ => None,
        }
    }
}

/// What is shown of our services, and what of OSM's records is them.
struct View {
    topic: Topic,
    /// NS instance -> ours.
    owns: BTreeMap<String, Own>,
    /// Without an NS instance: drafts.
    drafts: Vec<Own>,
    /// OSM's id of a service of ours -> NS instance.
    theirs: BTreeMap<String, String>,
    filter: Filter,
}

impl Gateway {
    /// A list or one record; the answer streams.
    pub(crate) async fn read(
        self: &Arc<Self>,
        m: &Managed<'_>,
        topic: Topic,
        asked: &Asked,
        headers: &HeaderMap,
    ) -> Result<Response, Refused> {
        match asked.path.get(3) {
            Some(id) if asked.path.len() == 4 => self.one(m, topic, id, asked, headers).await,
            Some(_) => Err(Refused::new(405, codes::REQUEST, "URL contains unexpected extra items")),
            None => self.list(m, topic, asked, headers).await,
        }
    }

    async fn one(
        &self,
        m: &Managed<'_>,
        topic: Topic,
        id: &str,
        asked: &Asked,
        headers: &HeaderMap,
    ) -> Result<Response, Refused> {
        let form = Form::of(headers);
        let found = match topic {
            Topic::Services => match self.find(m, id).await? {
                Some(own) => Some(self.shown(headers, &own).await?),
                None => None,
            },
            Topic::Operations => {
                let found = self.find_operation(m, id).await?;
                found.map(|(own, op, state)| operation(&op, &own.row.project_id, &state))
            }
            Topic::Vnfs => self.owns(m).await?.iter().flat_map(Own::vnfs).find(|v| v["_id"] == id),
        };
        if let Some(document) = found {
            return Ok(reply::answer(200, form, &document));
        }
        let Some(mut record) = self.nbi.ask(&asked.target(), headers).await? else { return Err(absent(id)) };
        let field = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let of = match topic {
            Topic::Services => field("_id"),
            Topic::Vnfs => field("nsr-id-ref"),
            Topic::Operations => field("nsInstanceId"),
        };
        let view = self.view(m, topic, asked, headers).await?;
        match (topic, view.theirs.get(&of).and_then(|ns| view.owns.get(ns))) {
            (Topic::Vnfs, Some(own)) => replaced(&mut record, &of, &own.row.id),
            // A client knows it by its own id.
            (_, Some(_)) => return Err(absent(id)),
            (Topic::Services, None) if self.is_anothers(m, &record).await? => return Err(absent(id)),
            _ => {}
        }
        Ok(reply::answer(200, form, &record))
    }

    /// As the client sees a service of ours.
    async fn shown(&self, headers: &HeaderMap, own: &Own) -> Result<Value, Refused> {
        let theirs = match own.row.ns.as_ref().filter(|_| own.lives()) {
            Some(ns) => self.record_in_osm(headers, ns).await?,
            None => None,
        };
        Ok(theirs.map_or_else(|| own.alone(), |record| own.merged(record)))
    }

    /// A record of another tenant's service: one that Mandate made, and not for this one.
    async fn is_anothers(&self, m: &Managed<'_>, record: &Value) -> Result<bool, Refused> {
        let Some(name) = record.get("name").and_then(Value::as_str).filter(|n| is_ns(n)) else {
            return Ok(false);
        };
        Ok(self.port.tenant_of(name).await?.is_some_and(|t| t != m.project.tenant))
    }

    async fn view(
        &self,
        m: &Managed<'_>,
        topic: Topic,
        asked: &Asked,
        headers: &HeaderMap,
    ) -> Result<View, Refused> {
        let (mut owns, mut drafts) = (BTreeMap::new(), Vec::new());
        for own in self.owns(m).await? {
            match own.row.ns.clone().filter(|_| own.service.is_some()) {
                Some(ns) => drop(owns.insert(ns, own)),
                None => drafts.push(own),
            }
        }
        let mut view =
            View { topic, owns, drafts, theirs: BTreeMap::new(), filter: Filter::of(&asked.query) };
        // A list of services names them itself.
        if topic != Topic::Services || asked.path.len() > 3 {
            let unknown: Vec<&String> = view.owns.keys().filter(|ns| self.known(ns).is_none()).collect();
            for names in unknown.chunks(NAMES_AT_ONCE) {
                let answer = self.named(headers, names).await?;
                each(answer, |record| {
                    if let (Some(name), Some(id)) = (record["name"].as_str(), record["_id"].as_str()) {
                        self.know(name, id);
                    }
                })
                .await?;
            }
            view.theirs = view.owns.keys().filter_map(|ns| Some((self.known(ns)?, ns.clone()))).collect();
        }
        Ok(view)
    }

    /// OSM's records of these services, as far as the client may see them.
    async fn named(&self, headers: &HeaderMap, names: &[&String]) -> Result<Answer, Refused> {
        let names: Vec<&str> = names.iter().map(|n| n.as_str()).collect();
        let query = encoded(&[("name".to_owned(), names.join(","))]);
        let answer =
            self.nbi.ask_for(&format!("nslcm/v1/ns_instances?{query}"), headers, "application/json").await?;
        if answer.status.is_success() { Ok(answer) } else { Err(answer.into_refusal().await) }
    }

    async fn list(
        self: &Arc<Self>,
        m: &Managed<'_>,
        topic: Topic,
        asked: &Asked,
        headers: &HeaderMap,
    ) -> Result<Response, Refused> {
        let view = self.view(m, topic, asked, headers).await?;
        let target = view.translated(asked, self);
        let mut on = credentials(headers);
        on.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let first = self.nbi.send(asked.method.clone(), &target.target(), on.clone(), None).await?;
        if !first.status.is_success() {
            return Ok(first.relay());
        }
        let mut others = BTreeSet::new();
        for ns in self.others_named(m).await? {
            others.insert(ns);
        }
        let (send, receive) = mpsc::channel(WAITING);
        let form = Form::of(headers);
        let (gateway, headers) = (self.clone(), headers.clone());
        tokio::spawn(async move {
            let mut out = Out { form, first: true, piece: String::new(), send };
            // An error breaks the answer off: a list that ends early must not look like a short one.
            if let Err(error) = gateway.write(first, view, &others, &headers, &mut out).await {
                tracing::warn!(%error, "a list broke off");
                let _ = out.send.send(Err(std::io::Error::other(error.to_string()))).await;
            }
        });
        let stream =
            futures::stream::unfold(receive, async |mut receive| Some((receive.recv().await?, receive)));
        let mut response = Response::new(Body::from_stream(stream));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
        Ok(response)
    }

    /// NS instances of other managed projects' tenants, whose records may be in the same project of OSM's.
    async fn others_named(&self, m: &Managed<'_>) -> Result<Vec<String>, Refused> {
        let tenants: BTreeSet<&str> = self
            .config
            .projects
            .values()
            .map(|p| p.tenant.as_str())
            .filter(|t| *t != m.project.tenant)
            .collect();
        let mut out = Vec::new();
        for tenant in tenants {
            out.extend(self.port.services(tenant).await?.into_iter().map(|s| s.ns));
        }
        Ok(out)
    }

    async fn write(
        &self,
        first: Answer,
        mut view: View,
        others: &BTreeSet<String>,
        headers: &HeaderMap,
        out: &mut Out,
    ) -> Result<(), Refused> {
        out.begin().await?;
        let mut items = Items::of(first);
        while let Some(record) = items.next().await? {
            match view.shows(record, others) {
                Shown::Theirs(record) => out.item(&record).await?,
                Shown::Ours(ns, record) => {
                    if let Some(id) = record["_id"].as_str() {
                        self.know(&ns, id);
                    }
                    if view.filter.is_empty()
                        && let Some(own) = view.owns.remove(&ns)
                    {
                        out.item(&own.merged(record)).await?;
                    }
                }
                Shown::No => {}
            }
        }
        if view.topic == Topic::Services && !view.filter.is_empty() {
            self.filtered(&mut view, headers, out).await?;
        }
        for record in view.rest() {
            if view.filter.matches(&record) {
                out.item(&record).await?;
            }
        }
        out.end().await
    }

    /// Ours, as OSM has them: its filter knew neither their names nor their ids.
    async fn filtered(&self, view: &mut View, headers: &HeaderMap, out: &mut Out) -> Result<(), Refused> {
        let names: Vec<String> =
            view.owns.iter().filter(|(_, o)| o.lives()).map(|(ns, _)| ns.clone()).collect();
        for names in names.chunks(NAMES_AT_ONCE) {
            let mut items = Items::of(self.named(headers, &names.iter().collect::<Vec<_>>()).await?);
            while let Some(record) = items.next().await? {
                let Some(own) = record["name"].as_str().and_then(|ns| view.owns.remove(ns)) else { continue };
                let shown = own.merged(record);
                if view.filter.matches(&shown) {
                    out.item(&shown).await?;
                }
            }
        }
        Ok(())
    }
}

/// What becomes of a record of OSM's.
enum Shown {
    Theirs(Value),
    /// Ours: its NS instance, and the record.
    Ours(String, Value),
    No,
}

impl View {
    fn shows(&self, mut record: Value, others: &BTreeSet<String>) -> Shown {
        let field = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        match self.topic {
            Topic::Services => {
                let name = field("name");
                match (self.owns.contains_key(&name), others.contains(&name)) {
                    (true, _) => Shown::Ours(name, record),
                    (_, true) => Shown::No,
                    _ => Shown::Theirs(record),
                }
            }
            Topic::Vnfs => {
                let of = field("nsr-id-ref");
                if let Some(own) = self.theirs.get(&of).and_then(|ns| self.owns.get(ns)) {
                    replaced(&mut record, &of, &own.row.id);
                }
                Shown::Theirs(record)
            }
            Topic::Operations if self.theirs.contains_key(&field("nsInstanceId")) => Shown::No,
            Topic::Operations => Shown::Theirs(record),
        }
    }

    /// The query that OSM gets: ours are known to it by its own ids.
    fn translated(&self, asked: &Asked, gateway: &Gateway) -> Asked {
        let ids: BTreeMap<&str, String> = self
            .owns
            .iter()
            .filter_map(|(ns, own)| Some((own.row.id.as_str(), gateway.known(ns)?)))
            .collect();
        let of = |value: &str| {
            value.split(',').map(|v| ids.get(v).map_or(v, String::as_str)).collect::<Vec<_>>().join(",")
        };
        let query = match self.topic {
            Topic::Vnfs => asked.query.iter().map(|(name, value)| (name.clone(), of(value))).collect(),
            _ => asked.query.clone(),
        };
        Asked { query, ..asked.clone() }
    }

    /// What OSM has no record of.
    fn rest(&self) -> Vec<Value> {
        let all = || self.owns.values().chain(&self.drafts);
        match self.topic {
            Topic::Services => all().map(Own::alone).collect(),
            Topic::Vnfs => {
                let there: BTreeSet<&String> = self.theirs.values().collect();
                all()
                    .filter(|o| o.row.ns.as_ref().is_none_or(|ns| !there.contains(ns)))
                    .flat_map(Own::vnfs)
                    .collect()
            }
            Topic::Operations => all()
                .flat_map(|own| {
                    own.operations.iter().map(|(op, state)| operation(op, &own.row.project_id, state))
                })
                .collect(),
        }
    }
}

fn is_ns(name: &str) -> bool {
    name.strip_prefix("ns-").is_some_and(|hex| hex.len() >= 12 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn absent(id: &str) -> Refused {
    Refused::new(404, codes::NOT_FOUND, format!("Not found entry with filter='{{'_id': '{id}'}}'"))
}

/// The records of a list, as they arrive.
struct Items {
    splitter: Splitter,
    ready: std::collections::VecDeque<Vec<u8>>,
    stream: futures::stream::BoxStream<'static, Result<Bytes, reqwest::Error>>,
}

impl Items {
    fn of(answer: Answer) -> Self {
        let Answer { body, place, .. } = answer;
        let stream = body.bytes_stream().map(move |piece| {
            let _held = &place;
            piece
        });
        Self {
            splitter: Splitter::default(),
            ready: std::collections::VecDeque::new(),
            stream: stream.boxed(),
        }
    }

    async fn next(&mut self) -> Result<Option<Value>, Refused> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                let record = serde_json::from_slice(&item);
                return record.map(Some).map_err(|e| unreadable("a list", &e.to_string()));
            }
            match self.stream.next().await {
                Some(Ok(piece)) => {
                    let items = self.splitter.push(&piece);
                    self.ready.extend(items.map_err(|e| unreadable("a list", &e.to_string()))?);
                }
                Some(Err(e)) => return Err(unreadable("a list", &http_peer::chain(&e))),
                None if self.splitter.is_whole() => return Ok(None),
                None => return Err(unreadable("a list", "it ends in the middle")),
            }
        }
    }
}

async fn each(answer: Answer, mut seen: impl FnMut(&Value)) -> Result<(), Refused> {
    let mut items = Items::of(answer);
    while let Some(record) = items.next().await? {
        seen(&record);
    }
    Ok(())
}

/// A list on its way to the client.
struct Out {
    form: Form,
    first: bool,
    piece: String,
    send: mpsc::Sender<std::io::Result<Bytes>>,
}

impl Out {
    async fn text(&mut self, text: &str) -> Result<(), Refused> {
        self.piece.push_str(text);
        if self.piece.len() >= PIECE { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Refused> {
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        // Nobody listens: there is nothing left to do.
        let gone = |_| Refused::new(503, codes::BUSY, "the client is gone");
        self.send.send(Ok(piece)).await.map_err(gone)
    }

    async fn begin(&mut self) -> Result<(), Refused> {
        let text = if self.form == Form::Json { "[" } else { "---\n" };
        self.text(text).await
    }

    async fn item(&mut self, record: &Value) -> Result<(), Refused> {
        let text = match self.form {
            Form::Json => format!("{}\n{}", if self.first { "" } else { "," }, reply::json(record)),
            Form::Yaml => reply::yaml(&Value::Array(vec![record.clone()])),
        };
        self.first = false;
        self.text(&text).await
    }

    async fn end(&mut self) -> Result<(), Refused> {
        let text = match (self.form, self.first) {
            (Form::Json, _) => "]\n",
            (Form::Yaml, true) => "[]\n",
            (Form::Yaml, false) => "",
        };
        self.text(text).await?;
        self.flush().await
    }
}
