//! The tenant rules of the policy bundle: Rego over the intent, who asks, the packages and the usage.

use serde_json::json;

use super::Case;
use crate::{
    authority::{Context, Signers},
    provenance::Packages,
    rego,
    verdict::{Rules, fault},
};

/// Somebody who signed, as rules see them.
fn person(i: &trust::Identity) -> serde_json::Value {
    json!({"org": i.org, "name": i.name, "role": i.role(), "tenant": i.tenant(), "attributes": i.attrs})
}

pub(super) fn skip(ctx: &Context<'_>, rules: &mut Rules) {
    let names = rego::declared(&ctx.bundle).unwrap_or_default();
    let names: Vec<String> = names.iter().map(|n| format!("tenant/{n}")).collect();
    rules.not_evaluated(names.iter().map(String::as_str));
}

impl Case<'_> {
    pub(super) fn tenant_rules(&self, rules: &mut Rules, signers: &Signers, packages: Option<&Packages>) {
        let input = self.rego_input(signers, packages);
        let evaluated = match rego::evaluate(&self.ctx.bundle, &input) {
            Ok(evaluated) => evaluated,
            Err(e) => {
                rules.check("tenant/policy", fault("POLICY_ERROR", e.to_string()));
                return;
            }
        };
        for file in evaluated {
            for name in &file.rules {
                let denial = file.denials.iter().find(|d| d.rule == *name);
                let outcome = match denial {
                    None => Ok("nothing to object".to_owned()),
                    Some(d) => fault(&d.code, d.detail.clone()),
                };
                rules.check(&format!("tenant/{name}"), outcome);
            }
            for stray in file.denials.iter().filter(|d| !file.rules.contains(&d.rule)) {
                rules.check(&format!("tenant/{}", stray.rule), fault(&stray.code, stray.detail.clone()));
            }
        }
    }

    fn rego_input(&self, signers: &Signers, packages: Option<&Packages>) -> String {
        let who = signers.who();
        let packages: serde_json::Map<String, serde_json::Value> = packages
            .iter()
            .flat_map(|p| p.all())
            .map(|p| {
                let images: Vec<_> =
                    p.record.images.iter().map(|i| json!({"digest": i.digest, "sbom": i.sbom})).collect();
                let value = json!({
                    "digest": p.record.digest, "kind": p.record.kind, "version": p.record.version,
                    "resources": p.record.resources, "images": images,
                });
                (p.record.descriptor_id.clone(), value)
            })
            .collect();
        let mut input = json!({
            "intent": self.intent,
            "identity": {"org": who.org, "name": who.name, "role": who.role(), "tenant": who.tenant()},
            "packages": packages,
            "usage": self.usage,
            "time": self.ctx.tx.time,
        });
        if self.ctx.tx.v >= 2 {
            input["identity"] = person(who);
            input["cosigners"] = signers.rest().iter().map(person).collect();
            input["service"] = json!(self.service);
        }
        input.to_string()
    }
}
