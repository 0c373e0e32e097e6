//! A real network, for a member's client.
//!
//! It is found where `FABRIC_BIN` is set, in the environment of a member's shell on a channel with the chaincode, new there
//! (`CORE_PEER_ADDRESS`, `CORE_PEER_LOCALMSPID`, `CORE_PEER_MSPCONFIGPATH`, `CORE_PEER_TLS_ROOTCERT_FILE`; `CHANNEL`
//! [evidence], `CC_NAME` [mandate]; `ENDORSERS`: MSP ids of the organisations that must endorse, with commas).
#![allow(dead_code)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use fabric::gateway::{Call, Creator, Endorsed};
use ledger_contract::{
    records::{GENESIS_PAYLOAD, Genesis, PACKAGE_PAYLOAD, PolicyBundle},
    transaction::{Answer, Decided, REQUESTS},
};
use ledger_fabric::{Deadlines, Gateway, Member, Options, Tls};
use trust::{Envelope, Signer};

use crate::common::*;

/// A network and who we are on it.
pub struct Network {
    pub channel: String,
    pub chaincode: String,
    pub endorsers: Vec<String>,
    pub options: Options,
    pub member: Member,
}

fn the_one_in(directory: &Path) -> PathBuf {
    fs::read_dir(directory).unwrap().next().unwrap().unwrap().path()
}

impl Network {
    /// `None`: there is none, and it was said.
    pub fn open() -> Option<Self> {
        if env::var_os("FABRIC_BIN").is_none() || env::var_os("CORE_PEER_ADDRESS").is_none() {
            eprintln!(
                "SKIPPED: set FABRIC_BIN, start a network and take over a member's shell (docs/fabric.md)"
            );
            return None;
        }
        let of = |name: &str| env::var(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let or = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
        let msp = PathBuf::from(of("CORE_PEER_MSPCONFIGPATH"));
        let certificate = fs::read_to_string(the_one_in(&msp.join("signcerts"))).unwrap();
        let key = fs::read_to_string(the_one_in(&msp.join("keystore"))).unwrap();
        let signer = Signer::from_pem(&key, &certificate).unwrap();
        let roots_pem = fs::read(of("CORE_PEER_TLS_ROOTCERT_FILE")).unwrap();
        let msp_id = of("CORE_PEER_LOCALMSPID");
        let member = Member {
            creator: Creator::new(&msp_id, &certificate),
            sign: Arc::new(move |bytes| Ok(signer.sign_bytes(bytes))),
        };
        let options = Options {
            address: of("CORE_PEER_ADDRESS"),
            server_name: None,
            tls: Tls { roots_pem, client: None },
            deadlines: Deadlines::default(),
        };
        Some(Self {
            channel: or("CHANNEL", "evidence"),
            chaincode: or("CC_NAME", "mandate"),
            endorsers: or("ENDORSERS", &msp_id).split(',').map(str::to_owned).collect(),
            options,
            member,
        })
    }

    pub fn gateway(&self) -> Gateway {
        Gateway::open(&self.options, self.member.clone()).unwrap()
    }

    pub fn call(&self, args: &[&str]) -> Call {
        Call {
            channel: self.channel.clone(),
            chaincode: self.chaincode.clone(),
            args: args.iter().map(|a| a.as_bytes().to_vec()).collect(),
            ..Call::default()
        }
    }

    pub fn submit(&self, requests: &[Envelope]) -> Call {
        let requests = serde_json::to_vec(requests).unwrap();
        Call {
            transient: [(REQUESTS.to_owned(), requests)].into(),
            organizations: self.endorsers.clone(),
            ..self.call(&["submit"])
        }
    }

    /// A genesis with room for everything that tests ask for, and the packages.
    pub fn founding(&self, w: &World) -> Vec<Envelope> {
        let mut data = policy().data().unwrap();
        let quota = data.quotas.get_mut("default").unwrap();
        (quota.services, quota.instances, quota.vcpus, quota.memory_mib) = (1000, 10_000, 10_000, 1 << 24);
        self.founding_with(w, PolicyBundle::default_bundle().with_data(&data))
    }

    /// The same with another policy.
    pub fn founding_with(&self, w: &World, policy: PolicyBundle) -> Vec<Envelope> {
        let genesis = Genesis {
            ledger: self.channel.clone(),
            orgs: w.roots.orgs.clone(),
            operator: "op".into(),
            policy,
        };
        let mut founding = vec![sign(GENESIS_PAYLOAD, &genesis, &w.operator)];
        let packages = [vnf(w, "vfw_vnf"), vnf(w, "vlb_vnf"), nsd()];
        founding.extend(packages.iter().map(|p| sign(PACKAGE_PAYLOAD, p, &w.provider)));
        founding
    }
}

pub fn decided(endorsed: &Endorsed) -> Vec<Decided> {
    let answer: Answer = serde_json::from_slice(&endorsed.response().payload).unwrap();
    answer.decided
}

pub fn approved(it: &Decided) -> bool {
    matches!(it, Decided::Entry { entry } if entry.verdict.approved)
}
