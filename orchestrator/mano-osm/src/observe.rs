//! OSM's records as our services: which server, port and network is which of our objects.

use std::collections::BTreeMap;

use mano::{
    Inventory, ObservedService, OperationState, PackageKind, Scope, ServiceKey, ServiceState, VimObject,
};
use vim::{Kind, ObjectKey};

use crate::{
    Osm,
    client::{ApiError, Call},
    error::Trouble,
    mark::Mark,
    operations::{operation, state},
    records::{AtVim, Interface, Link, Occurrence, Service, Vdur, Vnf},
};

impl Osm {
    /// Our records: of one service (there can be several after lost answers), or all; one call.
    ///
    /// Always a list: a GET of one NS has the NBI write to it and ask the LCM to refresh it.
    pub(crate) async fn services(&self, key: Option<&ServiceKey>) -> Result<Vec<(Mark, Service)>, ApiError> {
        let call = Call::get("nslcm/v1/ns_instances");
        let call = match key {
            Some(key) => call.query("name", key.as_str()),
            None => call,
        };
        let all: Vec<Service> = self.client.ask(&call).await?;
        let ours = |s: Service| Mark::read(&s).map(|mark| (mark, s));
        let mut ours: Vec<_> =
            all.into_iter().filter_map(ours).filter(|(mark, _)| key.is_none_or(|k| mark.key == *k)).collect();
        ours.sort_by(|a, b| a.1.created.total_cmp(&b.1.created));
        Ok(ours)
    }

    /// VNF instances of a service, or all; one call.
    pub(crate) async fn vnfs(&self, service: Option<&str>) -> Result<Vec<Vnf>, ApiError> {
        let call = Call::get("nslcm/v1/vnf_instances");
        match service {
            Some(id) => self.client.ask(&call.query("nsr-id-ref", id)).await,
            None => self.client.ask(&call).await,
        }
    }

    pub(crate) async fn inventory(&self, scope: &Scope) -> Result<Inventory, Trouble> {
        let (key, packages) = match scope {
            Scope::Service(key) => (Some(key), Vec::new()),
            Scope::All => {
                let mut all = self.our_packages(PackageKind::Vnf).await?;
                all.extend(self.our_packages(PackageKind::Ns).await?);
                (None, all)
            }
        };
        let records = self.services(key).await?;
        if records.is_empty() {
            return Ok(Inventory { packages, services: BTreeMap::new() });
        }
        let one = match records.as_slice() {
            [(_, only)] => Some(only.id.clone()),
            _ => None,
        };
        let vnfs = self.vnfs(one.as_deref()).await?;
        let operations = self.operations(one.as_deref()).await?;
        let mut services = BTreeMap::new();
        for (mark, record) in &records {
            // The oldest of several is the one that is kept.
            let seen = || self.observed(mark, record, &vnfs, &operations);
            services.entry(mark.key.clone()).or_insert_with(seen);
        }
        Ok(Inventory { packages, services })
    }

    /// One service, from its record and lists that have everything of it.
    pub(crate) fn observed(
        &self,
        mark: &Mark,
        record: &Service,
        vnfs: &[Vnf],
        operations: &[Occurrence],
    ) -> ObservedService {
        let vnfs: Vec<&Vnf> = vnfs.iter().filter(|v| v.service == record.id).collect();
        let own = operations.iter().filter(|o| o.service == record.id);
        let told = own.clone().find(|o| o.runs()).or_else(|| own.clone().next_back());
        ObservedService {
            mano_id: record.id.clone(),
            state: standing(record, told),
            operation: told.map(operation),
            fixed: Some(mark.fixed),
            objects: self.objects(mark, record, &vnfs),
            counts: counts(mark, &vnfs),
            detail: [record.error.as_str(), record.error_detail.as_str()].join(" ").trim().to_owned(),
            decided: Vec::new(),
        }
    }

    fn objects(&self, mark: &Mark, record: &Service, vnfs: &[&Vnf]) -> BTreeMap<ObjectKey, Vec<VimObject>> {
        let mut out: BTreeMap<ObjectKey, Vec<VimObject>> = BTreeMap::new();
        let mut links = |known: &BTreeMap<String, ObjectKey>, links: &[Link]| {
            for (key, at) in
                links.iter().filter_map(|l| Some((known.get(&l.id)?, self.at_sites(&l.vim_info))))
            {
                let network = |(site, at): (String, &AtVim)| object(site, Kind::Network, at, BTreeMap::new());
                out.entry(key.clone()).or_default().extend(at.filter_map(network));
            }
        };
        links(&mark.links, &record.vld);
        for vnf in vnfs {
            if let Some(known) = mark.inner.get(&vnf.member) {
                links(known, &vnf.vld);
            }
        }
        for (vnf, vdur) in vnfs.iter().flat_map(|v| v.vdur.iter().map(move |r| (v, r))) {
            let Some(key) = mark.instance(&vnf.member, &vdur.vdu, vdur.index) else { continue };
            let server = |(site, at): (String, &AtVim)| object(site, Kind::Compute, at, ports(vdur, at));
            out.entry(key.clone()).or_default().extend(self.at_sites(&vdur.vim_info).filter_map(server));
        }
        out.retain(|_, at| !at.is_empty());
        out
    }

    /// What there is at accounts that are sites of ours; SDN and WIM targets are none.
    fn at_sites<'i>(
        &self,
        info: &'i BTreeMap<String, Option<AtVim>>,
    ) -> impl Iterator<Item = (String, &'i AtVim)> {
        let sites = self.site_of_account();
        info.iter().filter_map(move |(target, at)| {
            let account = target.strip_prefix("vim:")?;
            // An account that is not known by now is shown by its id.
            Some((sites.get(account).cloned().unwrap_or_else(|| account.to_owned()), at.as_ref()?))
        })
    }
}

fn object(site: String, kind: Kind, at: &AtVim, ports: BTreeMap<String, String>) -> Option<VimObject> {
    (!at.vim_id.is_empty()).then(|| VimObject { site, kind, id: at.vim_id.clone(), ports })
}

/// Ports by the names of their interfaces: by MAC where OSM says them, else by position.
fn ports(vdur: &Vdur, at: &AtVim) -> BTreeMap<String, String> {
    let by_mac = |interface: &Interface| {
        let same =
            |p: &&crate::records::AtPort| !p.mac.is_empty() && p.mac.eq_ignore_ascii_case(&interface.mac);
        at.interfaces.iter().flatten().find(same).map(|p| p.id.clone())
    };
    let by_place = |n: usize| match at.interfaces.get(n) {
        Some(Some(port)) => Some(port.id.clone()),
        _ => at.interfaces_vim_ids.get(n).cloned().flatten(),
    };
    let each = vdur.interfaces.iter().enumerate();
    each.filter_map(|(n, i)| {
        Some((i.name.clone(), by_mac(i).or_else(|| by_place(n)).filter(|id| !id.is_empty())?))
    })
    .collect()
}

/// Instances that there are, by the members and VDUs of our mark: one that OSM lost is 0.
pub(crate) fn counts(mark: &Mark, vnfs: &[&Vnf]) -> BTreeMap<String, BTreeMap<String, u32>> {
    let mut out: BTreeMap<String, BTreeMap<String, u32>> = BTreeMap::new();
    for (member, vdus) in &mark.instances {
        let of = |vdu: &String| {
            let there = vnfs.iter().filter(|v| v.member == *member).flat_map(|v| &v.vdur);
            let there = there.filter(|r| r.vdu == *vdu && r.status != "DELETING").count();
            (vdu.clone(), u32::try_from(there).unwrap_or(u32::MAX))
        };
        out.insert(member.clone(), vdus.keys().map(of).collect());
    }
    out
}

/// The state of a service, by the record and the operation that runs or ran last.
pub(crate) fn standing(record: &Service, told: Option<&Occurrence>) -> ServiceState {
    let ended = told.map(|o| state(&o.state));
    match (record.admin.state.as_str(), record.state.as_str()) {
        _ if ended == Some(OperationState::Processing) => ServiceState::Changing,
        ("" | "NOT_INSTANTIATED", _) => ServiceState::NotInstantiated,
        ("BROKEN", _) | (_, "BROKEN") => ServiceState::Broken,
        // The LCM says INSTANTIATED when it begins; if then the build failed and the record says nothing of it:
        _ if told.is_some_and(|o| o.kind == "instantiate") && ended == Some(OperationState::Failed) => {
            ServiceState::Broken
        }
        _ => ServiceState::Instantiated,
    }
}
