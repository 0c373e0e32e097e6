//! `mandate serve` as a process: what is started in which order, and how it ends.
//!
//! Ledger, journal and sites first; then the sockets; then the engine takes its open operations up, and only then is
//! the service manager told that we are ready. On SIGTERM it drains: nothing new is taken (the API answers 503 to
//! whatever would change something, and goes on answering everything else), effects in flight end and are journaled,
//! then the API ends, then the exporter has a moment for the last spans. On SIGHUP, and when the ledger changes the
//! organisations, [`reload`] has the TLS listener go on with what there is then.

mod reload;

use std::{
    fs,
    io::IsTerminal as _,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use ::osm_gateway::Gateway;
use anyhow::{Context as _, Result, bail};
use ledger::embedded::OpenOptions;
use sd_notify::NotifyState;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing_subscriber::{filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{
    api::{Api, MAX_PAGE, Signals, tls},
    config::{ApiConfig, Config},
    engine::{Engine, EngineError},
    home::Home,
    osm_gateway, osm_notifications, remote_policy,
    service::Service as _,
    telemetry::{Telemetry, follow, otlp},
    wiring,
};

/// Worker threads: the work waits for others, it does not compute.
const WORKERS: usize = 2;
/// Beyond the longest step: for its record in the journal and for calls that end late.
const DRAIN_MARGIN: Duration = Duration::from_secs(10);
/// Longest time for the last spans.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// Pause between two looks at how the parts do, for the service manager's status line.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Where it can be reached, once it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachable {
    /// The TCP address, if configured.
    pub tcp: Option<std::net::SocketAddr>,
    /// Where OpenStack's policy checks are answered, if configured.
    pub openstack_policy: Option<std::net::SocketAddr>,
    /// Where OSM's notifications are taken, if configured.
    pub osm_notifications: Option<std::net::SocketAddr>,
    /// Where OSM's clients are answered, if configured: with TLS, or without.
    pub osm_gateway: Option<(bool, std::net::SocketAddr)>,
}

/// Runs the orchestrator until SIGTERM or SIGINT; `ready` is called once it answers.
pub fn run(home: &Home, config: Config, options: OpenOptions, ready: impl FnOnce(&Reachable)) -> Result<()> {
    log_to_stderr();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(serve(home, config, options, ready))
}

/// `MANDATE_LOG` selects (as `RUST_LOG` does elsewhere); without it, what an operator wants to know. `mandate-dataplane` has the same.
fn log_to_stderr() {
    let wanted = std::env::var("MANDATE_LOG").unwrap_or_default();
    let wanted = if wanted.is_empty() { "info" } else { &wanted };
    let (filter, wrong) = match wanted.parse::<Targets>() {
        Ok(filter) => (filter, None),
        Err(e) => (Targets::new().with_default(tracing::Level::INFO), Some(e)),
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour).with_target(false);
    // A second call, as in tests, keeps the first subscriber.
    let _ = tracing_subscriber::registry().with(lines).with(filter).try_init();
    if let Some(e) = wrong {
        tracing::warn!("MANDATE_LOG is `{wanted}`: {e}; write for instance `vim_host=debug,info`");
    }
}

async fn serve(
    home: &Home,
    config: Config,
    options: OpenOptions,
    ready: impl FnOnce(&Reachable),
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    // From the start: it would end us otherwise.
    let hang_up = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    tell(&[NotifyState::Status("opening the ledger and the journal")]);
    let (telemetry, exporter) = telemetry(&config);
    let limit = Duration::from_secs(config.limits.step_timeout_s) + DRAIN_MARGIN;
    let (api_config, operator) = (config.api.clone(), config.operator.clone());
    let policy_config = config.openstack_policy.clone();
    let notifications = config.osm.as_ref().and_then(|o| o.notifications.clone());
    let gateway_config = config.osm_gateway.clone().zip(config.osm.clone());
    let wiring::Built { engine, osm } = wiring::build(home, config, options, &telemetry)?;
    let (drain, draining) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);

    let signals = Signals { draining: draining.clone(), stop: stopped.clone() };
    let api = Api::new(engine.clone(), signals).metrics(telemetry.metrics.clone());
    let unix = listen(&home.socket())?;
    let tcp = match &api_config {
        Some(config) => Some(listen_tls(home, &operator, config).await?),
        None => None,
    };
    let renewed = tcp.as_ref().zip(api_config.as_ref()).map(|(listener, config)| reload::Tls {
        home: home.clone(),
        operator: operator.clone(),
        config: config.clone(),
        renewal: listener.renewal(),
    });
    let gate = match &policy_config {
        Some(config) => Some((config.clone(), remote_policy::server::listen(config).await?)),
        None => None,
    };
    let told = match notifications.zip(osm) {
        Some((config, osm)) => Some(osm_notifications::Listener::bind(&config, osm).await?),
        None => None,
    };
    let asked = gate
        .as_ref()
        .map(|(config, listener)| reload::Gate { config: config.clone(), renewal: listener.renewal() });
    let gateway = match &gateway_config {
        Some((config, osm)) => {
            let behind =
                osm_gateway::Behind::new(engine.clone(), telemetry.metrics.clone(), draining.clone());
            let gateway = Gateway::new(config.clone(), &osm_gateway::upstream(osm), behind.clone())?;
            Some((behind, gateway, osm_gateway::listen(config).await?))
        }
        None => None,
    };
    let renewed_gateway =
        gateway_config.as_ref().zip(gateway.as_ref()).and_then(|((config, _), (_, _, door))| match door {
            osm_gateway::Door::Tls(listener) => {
                Some(reload::OsmGateway { config: config.clone(), renewal: listener.renewal() })
            }
            osm_gateway::Door::Plain(_) => None,
        });
    let reachable = Reachable {
        tcp: tcp.as_ref().map(tls::TlsListener::address),
        openstack_policy: gate.as_ref().map(|(_, listener)| listener.address()),
        osm_notifications: told.as_ref().and_then(|listener| listener.address().ok()),
        osm_gateway: gateway
            .as_ref()
            .and_then(|(_, _, door)| Some((matches!(door, osm_gateway::Door::Tls(_)), door.address()?))),
    };
    let mut servers = vec![tokio::spawn(api.clone().serve_unix(unix))];
    servers.extend(tcp.map(|listener| tokio::spawn(api.serve_tls(listener))));
    // Until the end: what an effect in flight asks a cloud for is asked of us.
    servers.extend(gate.map(|(config, listener)| {
        let gate = remote_policy::Gate::new(config, engine.clone(), telemetry.metrics.clone());
        tokio::spawn(gate.serve(listener, stopped.clone()))
    }));
    servers.extend(told.map(|listener| tokio::spawn(listener.serve(stopped.clone()))));
    servers.extend(
        gateway.map(|(behind, gateway, door)| tokio::spawn(behind.serve(gateway, door, stopped.clone()))),
    );
    let follower = tokio::spawn(follow::run(engine.clone(), telemetry.clone(), stopped));
    let mut work = tokio::spawn(engine.clone().run(draining));
    let recovered = async {
        engine.recovered().await;
        ready(&reachable);
        tell(&[NotifyState::Ready]);
        tokio::join!(
            report(engine.clone()),
            reload::follow(
                reload::Reloaded { tls: renewed, gate: asked, osm: renewed_gateway },
                engine.clone(),
                hang_up
            )
        );
    };
    let early = tokio::select! {
        _ = terminate.recv() => None,
        _ = tokio::signal::ctrl_c() => None,
        ended = &mut work => Some(ended),
        () = recovered => None,
    };
    tell(&[NotifyState::Stopping, NotifyState::Status("effects in flight end and are journaled")]);
    tracing::info!(limit_s = limit.as_secs(), "stopping: nothing new is taken, effects in flight end");
    drain.send_replace(true);
    let ended = match early {
        Some(ended) => ended.context("the engine's task")?.context("the engine stopped"),
        None => drained(work, limit).await,
    };
    stop.send_replace(true);
    for server in servers {
        server.await.context("the API's task")?.context("the API")?;
    }
    follower.await.context("the follower's task")?;
    // Absent is what we want.
    let _ = fs::remove_file(home.socket());
    // The last spans: the queue ends with its senders, which the engine's sites hold too.
    drop((telemetry, engine));
    if let Some(exporter) = exporter {
        let _ = tokio::time::timeout(LAST_SPANS, exporter).await;
    }
    ended
}

/// Waits for the engine, within a bound: what it could not end is taken up again by the next start.
async fn drained(work: JoinHandle<Result<(), EngineError>>, limit: Duration) -> Result<()> {
    match tokio::time::timeout(limit, work).await {
        Ok(ended) => ended.context("the engine's task")?.context("the engine stopped"),
        Err(_) => {
            tracing::warn!("an effect in flight did not end; the next start finds out what became of it");
            Ok(())
        }
    }
}

fn telemetry(config: &Config) -> (Telemetry, Option<JoinHandle<()>>) {
    let Some(traces) = &config.telemetry else { return (Telemetry::default(), None) };
    let (send, queue) = mpsc::channel(otlp::QUEUE);
    let telemetry = Telemetry::with_spans(send);
    let exporter =
        otlp::export(traces.otlp.clone(), config.operator.clone(), queue, telemetry.metrics.clone());
    (telemetry, Some(tokio::spawn(exporter)))
}

async fn listen_tls(home: &Home, operator: &str, config: &ApiConfig) -> Result<tls::TlsListener> {
    // The changes that the ledger knows come as soon as they are read.
    let tls = reload::server(home, operator, config, &reload::pinned(home)?)?;
    Ok(tls::TlsListener::bind(&config.listen, tls).await?)
}

/// A socket that only we can connect to. One that somebody answers on is not replaced.
fn listen(path: &Path) -> Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!("another `mandate serve` answers on {}", path.display());
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("replacing {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Tells systemd, if it is there; whoever runs us otherwise does not listen.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}

/// Keeps the service manager's watchdog quiet while the journal takes commits, and its status line true.
async fn report(engine: Arc<Engine>) {
    let every = sd_notify::watchdog_enabled().map_or(STATUS_EVERY, |limit| (limit / 2).min(STATUS_EVERY));
    loop {
        let components = engine.components().await;
        let bad: Vec<_> = components.iter().filter(|c| !c.ready).map(|c| c.name.as_str()).collect();
        let open = engine.operations(true, None, MAX_PAGE).await.map_or(0, |o| o.len());
        let status = match bad.as_slice() {
            [] => format!("{open} operations open; all parts do well"),
            some => format!("{open} operations open; not well: {}", some.join(", ")),
        };
        let mut states = vec![NotifyState::Status(&status)];
        // A ledger or a site that is away is no reason to be restarted; a journal that takes nothing is.
        if components.iter().all(|c| c.ready || c.optional || c.name == "clock") {
            states.push(NotifyState::Watchdog);
        }
        tell(&states);
        tokio::time::sleep(every).await;
    }
}
