//! `mandate init`.

use std::{path::PathBuf, str::FromStr};

use clap::Args;
use vim::Resources;

use super::{
    args::pair,
    context::Context,
    failure::{Exit, Failure, chain},
    output::{Cell, Paint, Style, Table},
};
use crate::{
    config::{HostSite, OpenStackSite, SiteConfig, TpmSite},
    init::{self, InitError, Made, Plan},
};

/// First uid of the first site's instances; each site has a range of its own.
const FIRST_UID: u32 = 200_000;
/// Uids of one site: more than the instances any site has.
const UIDS_PER_SITE: u32 = 10_000;

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Organisation that operates the ledger and the orchestrator
    #[arg(long, value_name = "ORG", default_value = "operator")]
    operator: String,
    /// Organisation that builds and publishes packages
    #[arg(long, value_name = "ORG", default_value = "provider")]
    provider: String,
    /// Tenant, with an organisation of the same name; may be repeated
    #[arg(long = "tenant", value_name = "NAME", default_value = "tenant")]
    tenants: Vec<String>,
    /// Organisation that reads evidence
    #[arg(long, value_name = "ORG", default_value = "auditor")]
    auditor: String,
    /// Site: on this machine, or with clouds and cloud an OpenStack cloud; may be repeated
    /// [default: edge-a=DE,latency-us=2000,cost=10 and edge-b=FR,latency-us=8000,cost=8]
    #[arg(
        long = "site",
        value_name = "NAME=COUNTRY[,latency-us=N,cost=N,vcpus=N,memory-mib=N,instances=N,first-uid=N,clouds=FILE,cloud=NAME]"
    )]
    sites: Vec<SiteArg>,
    /// TPM 2.0 of a site, for attestation (device:/dev/tpmrm0, swtpm:path=…); may be repeated
    #[arg(long = "tpm", value_name = "SITE=TCTI", value_parser = pair)]
    tpms: Vec<(String, String)>,
    /// Name of the ledger [default: the operator's name and a random number]
    #[arg(long, value_name = "NAME")]
    ledger: Option<String>,
}

/// A site as the command line gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SiteArg(SiteConfig);

fn site(name: &str, jurisdiction: &str, latency_us: u64, cost: u32, host: HostSite) -> SiteConfig {
    SiteConfig {
        name: name.into(),
        jurisdiction: jurisdiction.into(),
        latency_us,
        cost,
        concurrent_operations: 2,
        drained: false,
        tee: None,
        host: Some(host),
        openstack: None,
    }
}

/// This machine, as large as nobody said otherwise.
const HOST: HostSite =
    HostSite { vcpus: 32, memory_mib: 32_768, instances: 32, first_uid: 0, launcher: None, tpm: None };

impl FromStr for SiteArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = pair(text)?;
        let mut parts = rest.split(',');
        let mut it = site(&name, parts.next().unwrap_or_default(), 5_000, 10, HOST);
        let (mut host, mut cloud) = (HOST, Cloud::default());
        for part in parts {
            let (key, value) = pair(part)?;
            match key.as_str() {
                "clouds" => cloud.clouds = Some(value.into()),
                "cloud" => cloud.cloud = Some(value),
                "latency-us" => it.latency_us = number(&key, &value)?.into(),
                "cost" => it.cost = number(&key, &value)?,
                "vcpus" => host.vcpus = number(&key, &value)?,
                "memory-mib" => host.memory_mib = number(&key, &value)?,
                "instances" => host.instances = number(&key, &value)?,
                "first-uid" => host.first_uid = number(&key, &value)?,
                _ => {
                    return Err(format!(
                        "`{key}` is none of latency-us, cost, vcpus, memory-mib, instances, first-uid, clouds, cloud"
                    ));
                }
            }
        }
        it.openstack = cloud.site(&host)?;
        it.host = it.openstack.is_none().then_some(host);
        Ok(Self(it))
    }
}

fn number(key: &str, value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| format!("{key}: `{value}` is not a number"))
}

/// Where a site's cloud is.
#[derive(Default)]
struct Cloud {
    clouds: Option<PathBuf>,
    cloud: Option<String>,
}

impl Cloud {
    /// The OpenStack site, when it is one. What was said of its size limits it.
    fn site(self, size: &HostSite) -> Result<Option<OpenStackSite>, String> {
        let (clouds, cloud) = match (self.clouds, self.cloud) {
            (None, None) => return Ok(None),
            (Some(clouds), Some(cloud)) => (clouds, cloud),
            _ => return Err("an OpenStack site has both: clouds=FILE (clouds.yaml) and cloud=NAME".into()),
        };
        let (vcpus, memory_mib, instances) = (size.vcpus, size.memory_mib, size.instances);
        let capacity = (*size != HOST).then_some(Resources { vcpus, memory_mib, instances });
        Ok(Some(OpenStackSite { capacity, ..OpenStackSite::new(clouds, cloud) }))
    }
}

/// Makes a home and says what to do next.
pub fn run(context: &Context, args: &InitArgs) -> Result<Exit, Failure> {
    let plan = plan(context, args)?;
    let made = init::init(&context.home, &plan).map_err(failure)?;
    context.ui.show(&made, |style| render(&made, &plan, style))
}

fn plan(context: &Context, args: &InitArgs) -> Result<Plan, Failure> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|e| Failure::internal("RANDOM", e))?;
    let ledger = args.ledger.clone();
    Ok(Plan {
        ledger: ledger.unwrap_or_else(|| format!("{}/mandate-{}", args.operator, hex::encode(random))),
        operator: args.operator.clone(),
        provider: args.provider.clone(),
        tenants: args.tenants.clone(),
        auditor: args.auditor.clone(),
        sites: sites(args)?,
        now: context.now()?,
    })
}

fn sites(args: &InitArgs) -> Result<Vec<SiteConfig>, Failure> {
    let mut sites: Vec<SiteConfig> = args.sites.iter().map(|s| s.0.clone()).collect();
    if sites.is_empty() {
        sites = vec![site("edge-a", "DE", 2_000, 10, HOST), site("edge-b", "FR", 8_000, 8, HOST)];
    }
    for (i, host) in (0u32..).zip(sites.iter_mut().filter_map(|s| s.host.as_mut())) {
        // Only root may give instances uids of their own; otherwise they keep ours.
        if host.first_uid == 0 && nix::unistd::geteuid().is_root() {
            host.first_uid = FIRST_UID.saturating_add(i.saturating_mul(UIDS_PER_SITE));
        }
    }
    for (name, tcti) in &args.tpms {
        let known: Vec<String> = sites.iter().map(|s| s.name.clone()).collect();
        let site = sites.iter_mut().find(|s| s.name == *name).ok_or_else(|| {
            let detail = format!("--tpm {name}=…: the sites are {}", known.join(", "));
            Failure::usage("UNKNOWN_SITE", "There is no such site", detail)
                .hint("name one of them, or add yours with --site NAME=COUNTRY")
        })?;
        let tpm = TpmSite { tcti: tcti.clone(), pcr: 13, ak_generation: None };
        site.host.get_or_insert(HOST).tpm = Some(tpm);
    }
    Ok(sites)
}

fn failure(error: InitError) -> Failure {
    let text = chain(&error);
    match error {
        InitError::Exists(_) => Failure::refused("HOME_EXISTS", "There is something already", text)
            .hint("use it with `mandate serve`, or name another with --home DIR"),
        InitError::Busy(_) => Failure::refused("INIT_BUSY", "Another init is running", text)
            .hint("wait for it, then look at the home"),
        InitError::Foreign(_) => Failure::usage("INIT_FOREIGN", "The home cannot be made here", text)
            .hint("name another with --home DIR"),
        InitError::Name { .. } => Failure::usage("BAD_NAME", "Wrong name", text)
            .hint("for example --operator operator --provider provider --tenant acme --auditor auditor"),
        InitError::Io { .. } => Failure::usage("INIT_IO", "The home could not be made", text)
            .hint("nothing is left behind; correct it and try again"),
        InitError::Document { .. } => Failure::usage("CONFIG", "The home cannot be made so", text)
            .hint("correct the --site, --tpm or --ledger that it names; nothing is left behind"),
        _ => Failure::internal("INIT", text).hint("nothing is left behind; try again"),
    }
}

fn render(made: &Made, plan: &Plan, style: Style) -> String {
    let mut identities = Table::new(&["IDENTITY", "ROLE"], "");
    for (name, role) in &made.identities {
        identities.row([Cell::new(Paint::Cyan, name), role.into()]);
    }
    let mut sites = Table::new(&["SITE", "COUNTRY", "ATTESTATION"], "");
    for site in &plan.sites {
        let tpm = site.tpm().map_or("none: no TPM", |t| t.tcti.as_str());
        sites.row([Cell::new(Paint::Cyan, &site.name), (&site.jurisdiction).into(), tpm.into()]);
    }
    let home = made.home.display();
    let mut next = format!("  mandate serve --home {home}\n");
    for site in plan.sites.iter().filter(|s| s.tpm().is_some()) {
        next.push_str(&format!(
            "  mandate site enrol {} --as {}/operator --home {home}\n",
            site.name, plan.operator
        ));
    }
    next.push_str(&format!("  mandate package push PACKAGE --as {}/provider --home {home}\n", plan.provider));
    format!(
        "{} {home}\n  ledger  {}\n  policy  {}\n\n{}\n{}\n{}\n{next}",
        style.paint(Paint::Green, "made"),
        made.ledger,
        made.policy,
        identities.render(style),
        sites.render(style),
        style.paint(Paint::Bold, "next:"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_has_a_country_and_numbers() {
        let it: SiteArg = "lab=SE,latency-us=300,vcpus=4".parse().unwrap();
        assert_eq!((it.0.name.as_str(), it.0.jurisdiction.as_str()), ("lab", "SE"));
        assert_eq!((it.0.latency_us, it.0.host.unwrap().vcpus, it.0.cost), (300, 4, 10));
        let it: SiteArg = "lab=SE,clouds=/etc/openstack/clouds.yaml,cloud=lab".parse().unwrap();
        let cloud = it.0.openstack.unwrap();
        assert_eq!((cloud.cloud.as_str(), cloud.capacity, it.0.host), ("lab", None, None));
        let it: SiteArg = "lab=SE,clouds=c.yaml,cloud=lab,vcpus=8".parse().unwrap();
        assert_eq!(it.0.openstack.unwrap().capacity.unwrap().vcpus, 8);
        assert!("lab=SE,cloud=lab".parse::<SiteArg>().is_err());
        for bad in ["lab", "lab=", "lab=SE,x=1", "lab=SE,vcpus=-1", "lab=SE,vcpus"] {
            assert!(bad.parse::<SiteArg>().is_err(), "{bad}");
        }
    }
}
