//! The tenant rules of the policy bundle: Rego over the intent, who asks, the packages and the usage.

use std::collections::BTreeMap;

use serde::Serialize;
use trust::{Digest, Identity, UnixTime};

use super::Case;
use crate::{
    authority::{Context, Signers},
    intent::Intent,
    provenance::{Package, Packages},
    records::{PackageKind, ResourceUse},
    rego,
    state::{ServiceRecord, Usage},
    verdict::{Rules, fault},
};

pub(super) fn skip(ctx: &Context<'_>, rules: &mut Rules) {
    let names = rego::declared(&ctx.bundle, ctx.tx.v).unwrap_or_default();
    let names: Vec<String> = names.iter().map(|n| format!("tenant/{n}")).collect();
    rules.not_evaluated(names.iter().map(String::as_str));
}

impl Case<'_> {
    pub(super) fn tenant_rules(&self, rules: &mut Rules, signers: &Signers, packages: Option<&Packages>) {
        let input = self.rego_input(signers, packages);
        let evaluated = match rego::evaluate(&self.ctx.bundle, &input, self.ctx.tx.v) {
            Ok(evaluated) => evaluated,
            Err(e) => {
                rules.check("tenant/policy", fault(rego::code(&e, self.ctx.tx.v), e.to_string()));
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
        let v2 = self.ctx.tx.v >= 2;
        let input = Input {
            intent: self.intent,
            identity: Person::of(signers.who(), v2),
            packages: packages.iter().flat_map(|p| p.all()).map(Software::of).collect(),
            usage: &self.usage,
            time: self.ctx.tx.time,
            cosigners: v2.then(|| signers.rest().iter().map(|who| Person::of(who, v2)).collect()),
            service: v2.then_some(self.service.as_ref()),
        };
        // Records with text keys always encode; rules refuse what is no document.
        serde_json::to_string(&input).unwrap_or_default()
    }
}

/// What rules see.
#[derive(Serialize)]
struct Input<'a> {
    intent: &'a Intent,
    identity: Person<'a>,
    packages: BTreeMap<&'a str, Software<'a>>,
    usage: &'a Usage,
    time: UnixTime,
    /// Since version 2 of the rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    cosigners: Option<Vec<Person<'a>>>,
    /// Since version 2; `null` when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<Option<&'a ServiceRecord>>,
}

/// Somebody who signed.
#[derive(Serialize)]
struct Person<'a> {
    org: &'a str,
    name: &'a str,
    role: &'a str,
    tenant: &'a str,
    /// Since version 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<&'a BTreeMap<String, String>>,
}

impl<'a> Person<'a> {
    fn of(who: &'a Identity, v2: bool) -> Self {
        let (org, name) = (&who.org, &who.name);
        Self { org, name, role: who.role(), tenant: who.tenant(), attributes: v2.then_some(&who.attrs) }
    }
}

/// A package.
#[derive(Serialize)]
struct Software<'a> {
    digest: Digest,
    kind: PackageKind,
    version: &'a str,
    resources: &'a ResourceUse,
    images: Vec<Image<'a>>,
}

#[derive(Serialize)]
struct Image<'a> {
    digest: Digest,
    sbom: &'a Option<Digest>,
}

impl<'a> Software<'a> {
    /// Under its descriptor's id.
    fn of(package: &'a Package) -> (&'a str, Self) {
        let record = &package.record;
        let images = record.images.iter().map(|i| Image { digest: i.digest, sbom: &i.sbom }).collect();
        let it = Self {
            digest: record.digest,
            kind: record.kind,
            version: &record.version,
            resources: &record.resources,
            images,
        };
        (&record.descriptor_id, it)
    }
}
