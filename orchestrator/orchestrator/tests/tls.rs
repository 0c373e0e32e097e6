//! The API over mutual TLS: who the certificate says asks, and what that one sees.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::Recorder;
use orchestrator::{
    api::{
        Api, Signals,
        tls::{MAX_OF_ONE, Renewal, TlsListener, server},
    },
    client::{Client, ClientError, ServerIdentity},
    views::NsView,
};
use tokio::sync::watch;
use trust::{
    Envelope, Signer, TrustRoots, UnixTime,
    identity::OrgRoot,
    issue::{Issued, ca, member},
};

struct Org {
    authority: Issued,
    serial: u8,
}

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

impl Org {
    fn new(name: &str, seed: u8) -> Self {
        let from = UnixTime(now() - 3_600);
        Self { authority: ca(name, &[seed; 32], from, UnixTime(now() + 86_400)).unwrap(), serial: seed }
    }

    fn member(&self, name: &str, role: &str, tenant: &str) -> Issued {
        let attrs = [("mandate.role", role), ("mandate.tenant", tenant)];
        let kept = attrs.iter().filter(|(_, v)| !v.is_empty());
        let attrs: BTreeMap<String, String> = kept.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let valid = (UnixTime(now() - 60), UnixTime(now() + 3_600));
        let seed = [self.serial.wrapping_add(u8::try_from(name.len()).unwrap()); 32];
        member(&self.authority, name, attrs, &seed, &[self.serial, 7], valid).unwrap()
    }

    fn root(&self) -> OrgRoot {
        OrgRoot { ca: vec![self.authority.certificate_pem.clone()], ..OrgRoot::default() }
    }
}

struct Site {
    url: String,
    roots: TrustRoots,
    operator: Org,
    acme: Org,
    recorder: Arc<Recorder>,
    renewal: Renewal,
    _stop: watch::Sender<bool>,
}

fn ns(id: &str, tenant: &str) -> NsView {
    NsView {
        id: id.into(),
        tenant: tenant.into(),
        service: "edge".into(),
        state: "INSTANTIATED".into(),
        site: None,
        nsd: String::new(),
        instances: vec![],
        instance_sites: Default::default(),
        operations: vec![],
        lease_until: None,
        sla_met: None,
    }
}

async fn start() -> Site {
    let (operator, acme) = (Org::new("operator", 1), Org::new("acme", 2));
    let orgs = [("operator".to_owned(), operator.root()), ("acme".to_owned(), acme.root())];
    let roots = TrustRoots { orgs: orgs.into(), logs: vec![], channel: None };
    let own = operator.member("orchestrator", "orchestrator", "");
    let config = server(&roots, own.certificate_pem.as_bytes(), own.key_pem.as_bytes()).unwrap();
    let listener = TlsListener::bind("127.0.0.1:0", config).await.unwrap();
    let url = format!("https://{}", listener.address());
    let renewal = listener.renewal();
    let recorder = Arc::new(Recorder::default());
    *recorder.services.lock().unwrap() = vec![ns("ns-1", "acme"), ns("ns-2", "other")];
    let (stop, stopped) = watch::channel(false);
    let signals = Signals { draining: stopped.clone(), stop: stopped };
    recorder.roots.lock().unwrap().clone_from(&roots);
    let api = Api::new(recorder.clone(), signals);
    tokio::spawn(api.serve_tls(listener));
    Site { url, roots, operator, acme, recorder, renewal, _stop: stop }
}

impl Site {
    fn client(&self, who: &Issued) -> Client {
        let identity = ServerIdentity {
            certificate_pem: &who.certificate_pem,
            key_pem: &who.key_pem,
            roots: &self.roots,
        };
        Client::over_tls(&self.url, &identity).unwrap()
    }
}

fn status(error: ClientError) -> u16 {
    match error {
        ClientError::Problem(p) => p.status,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_tenant_sees_its_own_and_an_operator_everything() {
    let s = start().await;
    let operator = s.client(&s.operator.member("op", "operator", ""));
    assert_eq!(operator.services(true).await.unwrap().len(), 2);
    operator.sites().await.unwrap();

    let tenant = s.client(&s.acme.member("ten", "tenant", "acme"));
    let seen: Vec<_> = tenant.services(true).await.unwrap().into_iter().map(|n| n.id).collect();
    assert_eq!(seen, ["ns-1"]);
    tenant.ns("ns-1").await.unwrap();
    assert_eq!(status(tenant.ns("ns-2").await.unwrap_err()), 404, "what is another's is not there");
    assert_eq!(status(tenant.timeline("ns-2").await.unwrap_err()), 404);
    assert_eq!(status(tenant.sites().await.unwrap_err()), 403);
    assert_eq!(status(tenant.ledger_range(0, 1).await.unwrap_err()), 403);
    assert_eq!(status(tenant.attestation_key("edge-a", true).await.unwrap_err()), 403);
    s.recorder.asked();
    tenant.intents(5).await.unwrap();
    assert_eq!(s.recorder.asked(), ["intents Some(\"acme\") None 6"]);
}

#[tokio::test]
async fn nobody_submits_for_another_organisation() {
    let s = start().await;
    let signed = |who: &Issued| {
        let signer = Signer::from_pem(&who.key_pem, &who.certificate_pem).unwrap();
        Envelope::sign("text/x", b"x".to_vec(), &[&signer]).unwrap()
    };
    let (own, operator) = (s.acme.member("ten", "tenant", "acme"), s.operator.member("op", "operator", ""));
    let tenant = s.client(&own);
    tenant.submit(&signed(&own)).await.unwrap();
    assert_eq!(status(tenant.submit(&signed(&operator)).await.unwrap_err()), 403);
    s.client(&operator).submit(&signed(&own)).await.unwrap();
}

#[tokio::test]
async fn strangers_get_no_further_than_the_handshake() {
    let s = start().await;
    // The same names, by a CA that nobody trusts.
    let stranger = s.client(&Org::new("acme", 9).member("ten", "tenant", "acme"));
    let refused = stranger.health().await.unwrap_err();
    assert!(matches!(refused, ClientError::Handshake { refused: true, .. }), "{refused:?}");
    // And a server that is none of ours is not talked to.
    let elsewhere =
        TrustRoots { orgs: [("x".to_owned(), Org::new("x", 5).root())].into(), logs: vec![], channel: None };
    let own = s.operator.member("op", "operator", "");
    let identity =
        ServerIdentity { certificate_pem: &own.certificate_pem, key_pem: &own.key_pem, roots: &elsewhere };
    let fooled = Client::over_tls(&s.url, &identity).unwrap();
    let untrusted = fooled.health().await.unwrap_err();
    assert!(matches!(untrusted, ClientError::Handshake { refused: false, .. }), "{untrusted:?}");
}

/// The connection is there, the handshake was good: who is revoked meanwhile asks for nothing more, and hears nothing.
#[tokio::test]
async fn who_is_revoked_while_connected_is_out() {
    let s = start().await;
    let issued = s.acme.member("ten", "tenant", "acme");
    let tenant = s.client(&issued);
    tenant.services(true).await.unwrap();
    let mut stream = tenant.events(None, None).await.unwrap();
    s.recorder.roots.lock().unwrap().orgs.get_mut("acme").unwrap().revoked.insert("0207".into());
    assert_eq!(status(tenant.services(true).await.unwrap_err()), 403);
    s.recorder.changes.send_modify(|n| *n += 1);
    match stream.next().await {
        Err(e) => assert_eq!(status(e), 403),
        other => panic!("{other:?}"),
    }
}

/// Somebody opens connections and keeps them.
#[tokio::test]
async fn who_opens_too_many_connections_is_in_its_own_way_only() {
    let s = start().await;
    let issued = s.acme.member("ten", "tenant", "acme");
    let mut held = Vec::new();
    for _ in 0..MAX_OF_ONE {
        let client = s.client(&issued);
        client.health().await.unwrap();
        held.push(client);
    }
    assert!(!matches!(s.client(&issued).health().await, Ok(_) | Err(ClientError::Problem(_))));
    s.client(&s.operator.member("op", "operator", "")).health().await.unwrap();
    held.truncate(1);
    for _ in 0..500 {
        if s.client(&issued).health().await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("a place that was given back is not had again");
}

#[tokio::test]
async fn certificate_and_roots_are_replaced_while_it_listens() {
    let site = start().await;
    let tenant = site.client(&site.acme.member("tina", "tenant", "acme"));
    tenant.services(true).await.unwrap();
    let globex = Org::new("globex", 9);
    let newcomer = globex.member("gina", "tenant", "globex");
    let knows = |roots: &TrustRoots| {
        let identity =
            ServerIdentity { certificate_pem: &newcomer.certificate_pem, key_pem: &newcomer.key_pem, roots };
        Client::over_tls(&site.url, &identity).unwrap()
    };
    assert!(knows(&site.roots).services(true).await.is_err(), "its CA is not known yet");

    // The server's certificate is globex's from now on, acme's CA is gone.
    let orgs = [("globex".to_owned(), globex.root())];
    let roots = TrustRoots { orgs: orgs.into(), logs: vec![], channel: None };
    site.recorder.roots.lock().unwrap().orgs.insert("globex".into(), globex.root());
    let own = globex.member("server", "orchestrator", "");
    let config = server(&roots, own.certificate_pem.as_bytes(), own.key_pem.as_bytes()).unwrap();
    site.renewal.replace(config);
    knows(&roots).services(true).await.unwrap();
    tenant.services(true).await.unwrap();
    let mut both = site.roots.clone();
    both.orgs.insert("globex".into(), globex.root());
    let who = site.acme.member("tom", "tenant", "acme");
    let identity =
        ServerIdentity { certificate_pem: &who.certificate_pem, key_pem: &who.key_pem, roots: &both };
    let late = Client::over_tls(&site.url, &identity).unwrap();
    assert!(late.services(true).await.is_err(), "the connection before stays, a new one is not made");
}
