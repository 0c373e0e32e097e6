//! The life cycle of network services: each call becomes an intent, signed as the person who called.
//!
//! In this order: the request is translated whole or refused; the signed intent and the operation that the client will poll
//! are durable; the ledger decides. A refusal within [`DECISION_WAIT`] is the answer, as OSM's error; what is not decided by then
//! is an operation under way, and the same envelope is submitted again until it is decided. Killed in between, the next start
//! does that. The same request again, while its operation is under way, is that operation: OSM itself would do it twice.

use std::{sync::Arc, time::Duration};

use axum::{http::HeaderMap, response::Response};
use ledger_contract::{
    Intent, IntentKind,
    intent::{
        API_VERSION, Deploy, Emergency, Heal, INTENT_PAYLOAD, Migrate, PlacementHints, Scale, Target,
        ns_instance_id,
    },
    records::PackageKind,
};
use serde_json::{Value, json};
use trust::{Envelope, UnixTime};

use crate::{
    Decision, Gateway, MAX_SERVICES, Managed, NsRow, OpRow, Refused, codes,
    fields::document,
    ids,
    records::{OpState, Own, refusal},
    reply::{self, Form},
    request::Asked,
    translate::{self, Deployment, Operation},
};

/// Longest that a client waits for the ledger's decision: with the embedded ledger it takes milliseconds.
const DECISION_WAIT: Duration = Duration::from_secs(2);
/// So long is a one-shot creation that looks the same the same one, ms: no client repeats a lost request later.
const REPETITION_MS: u64 = 15 * 60 * 1000;
/// Pause between two rounds of submitting what is not decided.
const OUTBOX_PAUSE: Duration = Duration::from_secs(5);

/// What is asked of the ledger.
struct Order {
    kind: &'static str,
    action: IntentKind,
    params: Value,
    timeout_s: Option<u64>,
    emergency: Option<String>,
    autoremove: bool,
    /// As the record is from now on, and as it was before: a refusal leaves that.
    record: (NsRow, NsRow),
    /// Chosen before: a deployment's NS instance is named by it.
    intent_id: String,
}

/// A request with its form and its client's headers.
pub(crate) struct Call<'a> {
    pub(crate) m: &'a Managed<'a>,
    pub(crate) asked: &'a Asked,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
}

impl Call<'_> {
    fn form(&self) -> Form {
        Form::of(self.headers)
    }

    fn accepted(&self, op: &OpRow, name: &str) -> Response {
        let answer = reply::answer(202, self.form(), &json!({ "id": op.id, "nsName": name }));
        reply::located(answer, &format!("/osm/nslcm/v1/ns_lcm_op_occs/{}", op.id))
    }
}

impl Gateway {
    /// `POST ns_instances`: a draft. Nothing exists yet, so there is no intent; what no intent could carry is refused now.
    pub(crate) async fn draft(self: &Arc<Self>, call: &Call<'_>) -> Result<Response, Refused> {
        self.signer(call.m)?;
        let (row, _, _) = self.described(call).await?;
        self.port.put_record(&row)?;
        let answer = reply::answer(201, call.form(), &json!({ "_id": row.id, "id": row.id }));
        Ok(reply::located(answer, &format!("/osm/nslcm/v1/ns_instances/{}", row.id)))
    }

    /// `POST ns_instances_content`: a record and its instantiation in one.
    pub(crate) async fn one_shot(self: &Arc<Self>, call: &Call<'_>) -> Result<Response, Refused> {
        self.signer(call.m)?;
        let (row, deployment, sites) = self.described(call).await?;
        let turn = self.turn(&format!("{}/{}", row.project, row.name));
        let _mine = turn.lock().await;
        let answered = |row: &NsRow, op: &OpRow| {
            let document = json!({ "id": row.id, "nslcmop_id": op.id, "nsName": row.name });
            let answer = reply::answer(201, call.form(), &document);
            reply::located(answer, &format!("/osm/nslcm/v1/ns_instances_content/{}", row.id))
        };
        if let Some((row, op)) = self.repeated(&row).await? {
            return Ok(answered(&row, &op));
        }
        let params = row.request.clone();
        let op = self
            .deploy(call.m, (row.clone(), NsRow { removed: true, ..row.clone() }), &deployment, sites, params)
            .await?;
        Ok(answered(&row, &op))
    }

    /// The same one-shot creation a moment ago, by the same user.
    async fn repeated(&self, row: &NsRow) -> Result<Option<(NsRow, OpRow)>, Refused> {
        let since = self.port.now_ms().saturating_sub(REPETITION_MS);
        let same = |r: &NsRow| {
            r.name == row.name && r.user == row.user && r.request == row.request && r.created_ms >= since
        };
        for earlier in self.port.records(&row.project)?.into_iter().filter(same) {
            let own = self.own(earlier, None).await?;
            let only = own.operations.iter().find(|(op, _)| op.kind == "instantiate");
            if let Some((op, state)) = only
                && !state.state.starts_with("FAILED")
                && !own.operations.iter().any(|(o, _)| o.kind == "terminate")
            {
                return Ok(Some((own.row.clone(), op.clone())));
            }
        }
        Ok(None)
    }

    /// What a creation says: its record, not kept yet, and where it may run.
    async fn described(&self, call: &Call<'_>) -> Result<(NsRow, Deployment, Vec<String>), Refused> {
        let fields = document(call.headers, call.body)?.with_query(&call.asked.query)?;
        let request = fields.as_value();
        let deployment = translate::deployment(fields)?;
        let nsd = self.package_of(call.headers, PackageKind::Ns, &deployment.nsd).await?;
        let sites = self.sites_of(call.headers, &deployment.account).await?;
        if self.port.records(call.m.key)?.len() >= MAX_SERVICES {
            return Err(Refused::new(
                422,
                codes::STATE,
                format!("project {} has {MAX_SERVICES} network services here: delete some", call.m.key),
            ));
        }
        let service =
            deployment.extra.service.clone().unwrap_or_else(|| translate::service_name(&deployment.name));
        let row = NsRow {
            id: ids::random()
                .map_err(|e| Refused::new(503, codes::BACKEND, format!("no randomness: {e}")))?,
            project: call.m.key.to_owned(),
            project_id: call.m.caller.project_id.clone(),
            user: call.m.caller.user.clone(),
            name: deployment.name.clone(),
            tenant: call.m.project.tenant.clone(),
            service,
            request,
            nsd: (nsd.digest, deployment.nsd.clone()),
            ns: None,
            created_ms: self.port.now_ms(),
            removed: false,
        };
        Ok((row, deployment, sites))
    }

    /// `POST ns_instances/{id}/instantiate`.
    async fn instantiate(self: &Arc<Self>, call: &Call<'_>, own: Own) -> Result<Response, Refused> {
        let (row, deployment, sites) = self.described(call).await?;
        let differs = [("nsName", row.name != own.row.name), ("nsdId", row.nsd.1 != own.row.nsd.1)];
        if let Some((field, _)) = differs.iter().find(|(_, d)| *d) {
            return Err(Refused::not_carried(field, "the NS was created with another one"));
        }
        let params = row.request.clone();
        let since = self.port.now_ms().saturating_sub(REPETITION_MS);
        let last = own.operations.iter().rev().find(|(op, _)| op.kind == "instantiate");
        if let Some((op, state)) = last.filter(|(_, s)| !s.is_over() || own.lives()) {
            let same = op.params == params && op.user == call.m.caller.user && op.at_ms >= since;
            match same && !state.state.starts_with("FAILED") {
                true => return Ok(call.accepted(op, &own.row.name)),
                false if !state.is_over() => {
                    return Err(conflict(
                        &own,
                        "instantiate",
                        "it is being instantiated with other parameters",
                    ));
                }
                false => {}
            }
        }
        if own.lives() || own.current().is_some() {
            return Err(conflict(&own, "instantiate", "it is already instantiated"));
        }
        let record = NsRow { request: params.clone(), service: row.service, nsd: row.nsd, ..own.row.clone() };
        let op = self.deploy(call.m, (record, own.row.clone()), &deployment, sites, params).await?;
        Ok(call.accepted(&op, &own.row.name))
    }

    async fn deploy(
        self: &Arc<Self>,
        m: &Managed<'_>,
        (mut record, before): (NsRow, NsRow),
        d: &Deployment,
        sites: Vec<String>,
        params: Value,
    ) -> Result<OpRow, Refused> {
        let (extra, project) = (&d.extra, m.project);
        let placement = match &extra.placement {
            Some(hints) if hints.sites.is_empty() => PlacementHints { sites, ..hints.clone() },
            Some(hints) if sites.iter().any(|s| hints.sites.contains(s)) => hints.clone(),
            Some(_) => {
                let detail = "names other sites than vimAccountId does: name its site among them";
                return Err(Refused::not_carried("additionalParamsForNs.mandate.placement", detail));
            }
            None => PlacementHints { sites, ..project.placement.clone() },
        };
        let deploy = Deploy {
            nsd_package: record.nsd.0,
            sla: extra.sla.clone().unwrap_or_else(|| project.sla.clone()),
            placement,
            sensitivity: extra.sensitivity.unwrap_or(project.sensitivity),
            lease_s: extra.lease_s.unwrap_or(project.lease_s),
            vnf_params: d.params.clone(),
        };
        let intent_id = self.intent_id()?;
        record.ns = Some(ns_instance_id(&record.tenant, &record.service, &intent_id));
        let order = Order {
            kind: "instantiate",
            action: IntentKind::Deploy(Box::new(deploy)),
            params,
            timeout_s: d.timeout_s,
            emergency: extra.emergency.clone(),
            autoremove: false,
            record: (record, before),
            intent_id,
        };
        self.launch(m, order).await
    }

    /// `POST ns_instances/{id}/VERB`.
    pub(crate) async fn operate(
        self: &Arc<Self>,
        call: &Call<'_>,
        id: &str,
        verb: &str,
    ) -> Result<Response, Refused> {
        self.signer(call.m)?;
        let turn = self.turn(id);
        let _mine = turn.lock().await;
        let own = self.needed(call.m, id).await?;
        if verb == "instantiate" {
            return self.instantiate(call, own).await;
        }
        let fields = document(call.headers, call.body)?.with_query(&call.asked.query)?;
        let params = fields.as_value();
        let (operation, timeout_s) = translate::operation(verb, fields)?;
        let op = self.carried_out(call, &own, operation, params, timeout_s).await?;
        Ok(call.accepted(&op, &own.row.name))
    }

    async fn carried_out(
        self: &Arc<Self>,
        call: &Call<'_>,
        own: &Own,
        operation: Operation,
        params: Value,
        timeout_s: Option<u64>,
    ) -> Result<OpRow, Refused> {
        let kind = operation.kind();
        // Scaled twice is scaled twice; anything else that is under way already is the same once more.
        let again = own.operations.iter().find(|(op, s)| {
            kind != "scale"
                && op.kind == kind
                && op.params == params
                && op.user == call.m.caller.user
                && !s.is_over()
        });
        if let Some((op, _)) = again {
            return Ok(op.clone());
        }
        if !own.lives() && own.current().is_none() {
            return Err(conflict(own, kind, "it is not instantiated"));
        }
        let autoremove = matches!(operation, Operation::Terminate { autoremove: true });
        let action = self.action(call.headers, own, operation).await?;
        let order = Order {
            kind,
            action,
            params,
            timeout_s,
            emergency: None,
            autoremove,
            record: (own.row.clone(), own.row.clone()),
            intent_id: self.intent_id()?,
        };
        self.launch(call.m, order).await
    }

    async fn action(
        &self,
        headers: &HeaderMap,
        own: &Own,
        operation: Operation,
    ) -> Result<IntentKind, Refused> {
        Ok(match operation {
            Operation::Terminate { .. } => IntentKind::Terminate {},
            Operation::Scale { member, aspect, direction, vnf } => {
                if let Some(vnf) = vnf
                    && self.member_of(headers, own, &vnf).await? != member
                {
                    return Err(Refused::request(format!(
                        "vnfInstanceId {vnf} is not the member `{member}`"
                    )));
                }
                IntentKind::Scale(Scale { member, aspect, direction, steps: 1 })
            }
            Operation::Heal { vnfs, cause } => {
                let mut targets = Vec::new();
                for (vnf, vdus) in vnfs {
                    let member = self.member_of(headers, own, &vnf).await?;
                    targets.extend(instances(own, &member, &vdus));
                }
                IntentKind::Heal(Heal { targets, cause })
            }
            Operation::Migrate { vnf, to } => {
                let members = vec![self.member_of(headers, own, &vnf).await?];
                let sites = to.map(|to| self.site_named(&to)).transpose()?;
                let placement =
                    PlacementHints { sites: sites.into_iter().collect(), ..PlacementHints::default() };
                IntentKind::Migrate(Migrate { members, placement })
            }
            Operation::ChangePackage { vnf, vnfd } => {
                let member = self.member_of(headers, own, &vnf).await?;
                self.package_of(headers, PackageKind::Vnf, &vnfd).await?;
                let detail = format!(
                    "an intent names a whole revision: register an NSD package that has this VNF package for member `{member}`, then `mandate intent new update`"
                );
                return Err(Refused::not_carried("changeVnfPackageData", &detail));
            }
        })
    }

    /// `DELETE ns_instances/{id}`: the record of what is not there.
    pub(crate) async fn remove(&self, call: &Call<'_>, id: &str) -> Result<Response, Refused> {
        self.signer(call.m)?;
        document(call.headers, &[])?.with_query(&call.asked.query)?.done()?;
        let turn = self.turn(id);
        let _mine = turn.lock().await;
        let own = self.needed(call.m, id).await?;
        self.gone(&own)
    }

    fn gone(&self, own: &Own) -> Result<Response, Refused> {
        if own.lives() || own.current().is_some() {
            let detail = format!(
                "nsr '{}' cannot be deleted because it is in '{}' state. You must terminate it first",
                own.row.id,
                own.state()
            );
            return Err(Refused::new(409, codes::STATE, detail));
        }
        self.port.put_record(&NsRow { removed: true, ..own.row.clone() })?;
        Ok(reply::nothing())
    }

    /// `DELETE ns_instances_content/{id}`: terminates first, and removes the record then.
    pub(crate) async fn terminate_and_remove(
        self: &Arc<Self>,
        call: &Call<'_>,
        id: &str,
    ) -> Result<Response, Refused> {
        self.signer(call.m)?;
        let mut fields = document(call.headers, call.body)?.with_query(&call.asked.query)?;
        // Some clients say it again in their query.
        if fields.take("autoremove").is_some_and(|v| v == false) {
            return Err(Refused::not_carried(
                "autoremove",
                "this call removes the record: terminate by POST ns_instances/{id}/terminate",
            ));
        }
        let (operation, timeout_s) = translate::operation("terminate", fields)?;
        let Operation::Terminate { .. } = operation else { return Err(Refused::request("terminate".into())) };
        let turn = self.turn(id);
        let _mine = turn.lock().await;
        let own = self.needed(call.m, id).await?;
        if !own.lives() && own.current().is_none() {
            return self.gone(&own);
        }
        let params = json!({ "autoremove": true });
        let op = self
            .carried_out(call, &own, Operation::Terminate { autoremove: true }, params, timeout_s)
            .await?;
        Ok(reply::answer(202, call.form(), &json!({ "_id": op.id, "nsName": own.row.name })))
    }

    /// `POST ns_instances_terminate`: each of them, in turn; the first that is refused is the answer.
    pub(crate) async fn terminate_all(self: &Arc<Self>, call: &Call<'_>) -> Result<Response, Refused> {
        self.signer(call.m)?;
        let mut fields = document(call.headers, call.body)?.with_query(&call.asked.query)?;
        let all = fields.list("ns_ids")?;
        let autoremove = fields.take("autoremove").is_none_or(|v| v != false);
        fields.done()?;
        let ids: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
        if ids.len() != all.len() || ids.is_empty() || ids.len() > MAX_SERVICES {
            return Err(Refused::request(format!("ns_ids: 1 to {MAX_SERVICES} ids")));
        }
        let mut owns = Vec::new();
        for id in &ids {
            owns.push(self.needed(call.m, id).await?);
        }
        for own in owns {
            let turn = self.turn(&own.row.id);
            let _mine = turn.lock().await;
            if !own.lives() && own.current().is_none() {
                self.gone(&own)?;
                continue;
            }
            let params = json!({ "autoremove": autoremove });
            self.carried_out(call, &own, Operation::Terminate { autoremove }, params, None).await?;
        }
        Ok(reply::answer(202, call.form(), &json!({ "ns_ids": ids })))
    }

    /// `POST ns_lcm_op_occs/{id}/cancel`: an instantiation gives way to a termination; nothing else is ended from outside.
    pub(crate) async fn cancel(self: &Arc<Self>, call: &Call<'_>, id: &str) -> Result<Response, Refused> {
        self.signer(call.m)?;
        let mut fields = document(call.headers, call.body)?.with_query(&call.asked.query)?;
        fields.id("nsLcmOpOccId")?;
        let mode = fields.needed("cancelMode")?;
        fields.done()?;
        if !["GRACEFUL", "FORCEFUL"].contains(&mode.as_str()) {
            return Err(Refused::request(format!("cancelMode: {mode}: GRACEFUL or FORCEFUL")));
        }
        let Some((own, op, state)) = self.find_operation(call.m, id).await? else {
            return Err(Refused::new(
                404,
                codes::NOT_FOUND,
                format!("Not found any nslcmop with filter='{{'_id': '{id}'}}'"),
            ));
        };
        let refuse = |detail: &str| Err(Refused::new(409, codes::STATE, detail.to_owned()));
        if state.is_over() {
            return refuse("Operation is not in STARTING, PROCESSING or ROLLING_BACK state");
        }
        if op.kind != "instantiate" {
            return refuse(
                "what is under way on a service that is there is finished or unwound as a whole: terminate the NS, or the operator directs it (`mandate operation`)",
            );
        }
        let turn = self.turn(&own.row.id);
        let _mine = turn.lock().await;
        self.carried_out(call, &own, Operation::Terminate { autoremove: false }, json!({}), None).await?;
        let answer = reply::answer(202, call.form(), &json!({}));
        Ok(reply::located(answer, &format!("/osm/nslcm/v1/ns_lcm_op_occs/{id}")))
    }

    fn intent_id(&self) -> Result<String, Refused> {
        let random =
            ids::random().map_err(|e| Refused::new(503, codes::BACKEND, format!("no randomness: {e}")))?;
        Ok(format!("osm-{:08x}-{}", self.port.now_ms() / 1000, random.replace('-', "")))
    }

    /// Signs, keeps and submits an intent; waits for the decision for a moment.
    async fn launch(self: &Arc<Self>, m: &Managed<'_>, order: Order) -> Result<OpRow, Refused> {
        let now_ms = self.port.now_ms();
        let (record, before) = order.record;
        let intent = Intent {
            api_version: API_VERSION.into(),
            id: order.intent_id,
            tenant: record.tenant.clone(),
            service: record.service.clone(),
            not_after: UnixTime(now_ms / 1000).plus(order.timeout_s.unwrap_or(m.project.expires_s)),
            depends_on: Vec::new(),
            emergency: order.emergency.map(|reason| Emergency { reason }),
            standing: None,
            action: order.action,
        };
        if let Some(problem) = intent.malformed() {
            return Err(Refused::new(422, codes::NOT_CARRIED, problem));
        }
        let failed = |e: &dyn std::fmt::Display| Refused::new(503, codes::KEY, e.to_string());
        let payload = serde_json::to_vec(&intent).map_err(|e| failed(&e))?;
        let envelope =
            Envelope::sign(INTENT_PAYLOAD, payload, &[&self.signer(m)?]).map_err(|e| failed(&e))?;
        let op = OpRow {
            id: ids::operation(&intent.id),
            record: record.id.clone(),
            kind: order.kind.to_owned(),
            intent_id: intent.id,
            envelope: String::from_utf8_lossy(&envelope.to_json()).into_owned(),
            user: m.caller.user.clone(),
            params: order.params,
            at_ms: now_ms,
            decision: None,
            autoremove: order.autoremove,
            hidden: false,
        };
        // From its first operation on a service that nobody made here has a record too.
        self.port.put_operation(&op, Some(&record))?;
        let (gateway, asked) = (self.clone(), op.clone());
        let mut decided = tokio::spawn(async move { gateway.decide(asked).await });
        match tokio::time::timeout(DECISION_WAIT, &mut decided).await {
            Err(_) => Ok(op),
            Ok(Ok(Ok(decision))) if decision.approved => Ok(OpRow { decision: Some(decision), ..op }),
            Ok(Ok(Ok(decision))) => {
                let refused = Refused::new(
                    409,
                    &decision.code,
                    without(&refusal(&op.intent_id, &decision), &decision.code),
                );
                let told = OpRow { hidden: true, decision: Some(decision), ..op };
                self.port.put_operation(&told, Some(&before))?;
                Err(refused)
            }
            Ok(Ok(Err(trouble))) => {
                // Not taken, as far as anybody knows: it is not submitted again. Had it been taken, its operation shows.
                let decision = Decision {
                    approved: false,
                    code: trouble.code.clone(),
                    rule: "none".into(),
                    detail: trouble.detail.clone(),
                };
                self.port
                    .put_operation(&OpRow { hidden: true, decision: Some(decision), ..op }, Some(&before))?;
                Err(trouble.into())
            }
            Ok(Err(ended)) => {
                Err(Refused::new(503, codes::BACKEND, format!("the submission ended: {ended}")))
            }
        }
    }

    /// Has the ledger decide about an operation that is kept, and keeps the decision.
    async fn decide(&self, mut op: OpRow) -> Result<Decision, crate::Trouble> {
        let envelope = Envelope::from_json(op.envelope.as_bytes()).map_err(|e| crate::Trouble {
            later: false,
            code: codes::BACKEND.into(),
            detail: format!("the intent that was kept cannot be read: {e}"),
        })?;
        let decision = self.port.submit(envelope).await?;
        op.decision = Some(decision.clone());
        self.port.put_operation(&op, None)?;
        Ok(decision)
    }

    /// Submits what is not decided, from the start on and until `stop`.
    pub async fn outbox(self: Arc<Self>, mut stop: tokio::sync::watch::Receiver<bool>) {
        loop {
            // A request that is answered meanwhile decides about its own.
            let late =
                self.port.now_ms().saturating_sub(2 * u64::try_from(DECISION_WAIT.as_millis()).unwrap_or(0));
            match self.port.undecided() {
                Ok(all) => {
                    for op in all.into_iter().filter(|op| op.at_ms < late) {
                        let (id, intent) = (op.id.clone(), op.intent_id.clone());
                        match self.decide(op).await {
                            Ok(d) => tracing::info!(
                                operation = id,
                                intent,
                                approved = d.approved,
                                "decided after its client was answered"
                            ),
                            Err(trouble) => {
                                tracing::warn!(operation = id, intent, %trouble, "not decided yet")
                            }
                        }
                    }
                }
                Err(trouble) => tracing::warn!(%trouble, "what is not decided cannot be read"),
            }
            tokio::select! {
                _ = stop.wait_for(|s| *s) => return,
                () = tokio::time::sleep(OUTBOX_PAUSE) => {}
            }
        }
    }

    /// An operation of ours, with its record.
    pub(crate) async fn find_operation(
        &self,
        m: &Managed<'_>,
        id: &str,
    ) -> Result<Option<(Own, OpRow, OpState)>, Refused> {
        let found = |own: Own| {
            let at = own.operations.iter().find(|(op, _)| op.id == id).cloned();
            at.map(|(op, state)| (own, op, state))
        };
        if let Some(op) = self.port.operation(id)? {
            if let Some(row) = self.port.record(&op.record)? {
                // Its record may be gone: whoever polls learns how it ended.
                return match row.project == m.key {
                    true => Ok(found(self.own(row, None).await?)),
                    false => Ok(None),
                };
            }
            return Ok(self.find(m, &op.record).await?.and_then(found));
        }
        for own in self.owns(m).await? {
            if let Some(it) = found(own) {
                return Ok(Some(it));
            }
        }
        Ok(None)
    }
}

fn conflict(own: &Own, verb: &str, why: &str) -> Refused {
    let detail = format!("ns_instance '{}' cannot be '{verb}' because {why}", own.row.id);
    Refused::new(409, codes::STATE, detail)
}

/// A refusal's words begin with its code once.
fn without(text: &str, code: &str) -> String {
    text.strip_prefix(code).and_then(|t| t.strip_prefix(": ")).unwrap_or(text).to_owned()
}

/// The instances that are meant: those named, or all of the member.
fn instances(own: &Own, member: &str, vdus: &[(String, u32)]) -> Vec<Target> {
    let target = |vdu: &str, index: u32| Target { member: member.to_owned(), vdu: vdu.to_owned(), index };
    if !vdus.is_empty() {
        return vdus.iter().map(|(vdu, index)| target(vdu, *index)).collect();
    }
    let all = own.service.iter().flat_map(|s| &s.instances);
    all.filter(|(m, ..)| m == member).map(|(_, vdu, index, _)| target(vdu, *index)).collect()
}
