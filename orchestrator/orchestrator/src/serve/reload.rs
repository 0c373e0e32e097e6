//! What the TLS listeners work with, read again: certificate and key, and the organisations' CAs of `trust.json` and of
//! the ledger; for the gate inside OpenStack, the CA of its services.
//!
//! The whole of it is read and tried before anything is replaced: a file that is bad keeps everything as it was, and
//! says so in the log and in the service manager's status. Connections that stand go on; who asks is judged for each
//! request by the rules that the ledger has then, so a CA lets in nobody whom the ledger does not know. What the ledger
//! itself is judged by (the pins of `trust.json`) is read at the start alone. Tests: `tests/serve.rs`, `tests/tls.rs`.

use std::{fs, path::Path, sync::Arc};

use ::osm_gateway::GatewayConfig;
use anyhow::{Context as _, Result};
use rustls::ServerConfig;
use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use trust::TrustRoots;

use super::tell;
use crate::{
    api::tls::{self, Renewal},
    config::ApiConfig,
    engine::Engine,
    home::Home,
    osm_gateway,
    remote_policy::{self, PolicyConfig},
};

/// A TLS listener and where its material is.
pub(super) struct Tls {
    pub home: Home,
    pub operator: String,
    pub config: ApiConfig,
    pub renewal: Renewal,
}

/// The listener of the gate inside OpenStack.
pub(super) struct Gate {
    pub config: PolicyConfig,
    pub renewal: Renewal,
}

/// The listener of the gate inside OSM.
pub(super) struct OsmGateway {
    pub config: GatewayConfig,
    pub renewal: Renewal,
}

/// Everything that is read again.
pub(super) struct Reloaded {
    pub tls: Option<Tls>,
    pub gate: Option<Gate>,
    pub osm: Option<OsmGateway>,
}

/// `trust.json`, as it is now.
pub(super) fn pinned(home: &Home) -> Result<TrustRoots> {
    let path = home.trust();
    let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{}: not a set of trust roots", path.display()))
}

/// TLS with the certificate and key that the configuration names.
pub(super) fn server(
    home: &Home,
    operator: &str,
    config: &ApiConfig,
    roots: &TrustRoots,
) -> Result<ServerConfig> {
    let (own_key, own_certificate) = home.identity(operator, "orchestrator");
    let certificate = config.certificate.clone().unwrap_or(own_certificate);
    let key = config.key.clone().unwrap_or(own_key);
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    tls::server(roots, &read(&certificate)?, &read(&key)?)
        .with_context(|| format!("TLS with {} and {}", certificate.display(), key.display()))
}

/// Reads again at each SIGHUP, and whenever the ledger's organisations may have changed; does not end.
pub(super) async fn follow(it: Reloaded, engine: Arc<Engine>, mut hang_up: Signal) {
    let mut rules = engine.rules_changed();
    // What was learned before we looked counts as new.
    rules.mark_changed();
    loop {
        tokio::select! {
            _ = hang_up.recv() => asked(&it, &engine),
            Ok(()) = rules.changed(), if it.tls.is_some() => by_ledger(it.tls.as_ref(), &engine),
        }
    }
}

/// Someone asked for it: the service manager is told when it begins and when it has ended, well or not.
fn asked(it: &Reloaded, engine: &Engine) {
    let mut begins = vec![NotifyState::Reloading];
    // systemd from version 253 on tells by it which reload is meant.
    begins.extend(NotifyState::monotonic_usec_now().ok());
    tell(&begins);
    let status = match renew_all(it, engine) {
        Ok(0) => "nothing to reload: none of [api], [openstack_policy] and [osm_gateway] is configured; config.toml is read at a start"
            .to_owned(),
        Ok(1) => "reloaded: certificate, key and CAs of the TLS listener".to_owned(),
        Ok(_) => "reloaded: certificates, keys and CAs of the TLS listeners".to_owned(),
        Err(error) => {
            tracing::error!(
                code = "RELOAD",
                error = format!("{error:#}"),
                "not reloaded: TLS goes on as it was; mend the file and send SIGHUP again"
            );
            format!("RELOAD: TLS goes on as it was: {error:#}").replace('\n', " ")
        }
    };
    tracing::info!(status, "SIGHUP");
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// How many listeners go on with something new: all of them, or none.
fn renew_all(it: &Reloaded, engine: &Engine) -> Result<usize> {
    let gate = it.gate.as_ref().map(|gate| remote_policy::server::material(&gate.config));
    let gate = gate.transpose().context("[openstack_policy]")?;
    let osm = it.osm.as_ref().map(|gateway| osm_gateway::material(&gateway.config));
    let osm = osm.transpose().context("[osm_gateway]")?.flatten();
    it.tls.as_ref().map(|tls| renew(tls, engine)).transpose()?;
    if let (Some(to), Some(material)) = (&it.gate, gate) {
        to.renewal.replace(material);
    }
    if let (Some(to), Some(material)) = (&it.osm, osm) {
        to.renewal.replace(material);
    }
    let all = [it.tls.is_some(), it.gate.is_some(), it.osm.is_some()];
    Ok(all.into_iter().filter(|there| *there).count())
}

fn by_ledger(tls: Option<&Tls>, engine: &Engine) {
    if let Some(Err(error)) = tls.map(|tls| renew(tls, engine)) {
        let error = format!("{error:#}");
        tracing::error!(
            code = "RELOAD",
            error,
            "the ledger changed the organisations; TLS goes on as it was"
        );
    }
}

fn renew(tls: &Tls, engine: &Engine) -> Result<()> {
    let mut roots = pinned(&tls.home)?;
    for (name, root) in engine.roots().orgs {
        let known = roots.orgs.entry(name).or_default();
        let new: Vec<_> = root.ca.into_iter().filter(|ca| !known.ca.contains(ca)).collect();
        known.ca.extend(new);
    }
    tls.renewal.replace(server(&tls.home, &tls.operator, &tls.config, &roots)?);
    Ok(())
}
