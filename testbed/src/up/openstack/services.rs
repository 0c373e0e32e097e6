//! What runs, how each is started, and in which order.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;

use super::layout::{HOSTS, Layout};
use crate::up::process::Process;

/// From its start until it listens, on a busy machine.
const LISTEN_LIMIT: Duration = Duration::from_secs(180);
/// Below this directory, in the order in which libraries are looked for.
const LIBRARIES: &str = "/usr/lib";

/// Lower ends first: users before what they use.
pub fn rank(name: &str) -> u8 {
    match name {
        "mariadb" | "rabbit" => 1,
        "epmd" => 2,
        _ => 0,
    }
}

/// Starts what does not run.
pub fn start(layout: &Layout) -> anyhow::Result<()> {
    mariadb(layout)?;
    run(layout, "epmd", &mut epmd(layout))?;
    listening(layout, "epmd", layout.port("epmd"))?;
    run(layout, "rabbit", &mut rabbit(layout))?;
    let mut haproxy = Command::new(server("haproxy"));
    run(layout, "haproxy", haproxy.arg("-db").arg("-f").arg(layout.etc("haproxy.cfg")))?;
    run(layout, "keystone", &mut keystone(layout))?;
    run(layout, "placement", &mut placement(layout))?;
    let glance = layout.etc("glance/glance-api.conf");
    run(layout, "glance", python(layout, "glance-api").arg("--config-file").arg(glance))?;
    listening(layout, "rabbit", layout.port("rabbit"))?;
    let mut neutron = python(layout, "neutron-server");
    neutron.arg("--config-file").arg(layout.etc("neutron/neutron.conf"));
    run(layout, "neutron", neutron.arg("--config-file").arg(layout.etc("neutron/ml2_conf.ini")))?;
    for name in ["nova-conductor", "nova-scheduler", "nova-api"] {
        run(layout, name, &mut nova(layout, name))?;
    }
    for host in HOSTS {
        let file = layout.etc(&format!("nova/{host}.conf"));
        run(layout, host, python(layout, "nova-compute").arg("--config-file").arg(file))?;
    }
    // Who reports before neutron listens waits for an answer that does not come.
    listening(layout, "neutron", layout.port("neutron"))?;
    let mut agents = python(layout, "python");
    agents.env("TESTBED_HOSTS", HOSTS.join(",")).arg(layout.etc("agents.py"));
    run(layout, "agents", agents.arg("--config-file").arg(layout.etc("neutron/neutron.conf")))?;
    Ok(())
}

/// The database, until it listens.
pub fn mariadb(layout: &Layout) -> anyhow::Result<()> {
    let mut c = database(layout);
    c.arg(format!("--defaults-file={}", layout.etc("my.cnf").display()));
    run(layout, "mariadb", &mut c)?;
    listening(layout, "mariadb", layout.port("mysql"))
}

/// The server's program, told that nothing need outlive this machine.
pub fn database(_layout: &Layout) -> Command {
    let mut c = Command::new(server("mariadbd"));
    if let Some(library) = unsynced() {
        c.env("LD_PRELOAD", library);
    }
    c
}

/// libeatmydata, which answers every fsync at once: making the databases is minutes faster.
fn unsynced() -> Option<std::path::PathBuf> {
    let dirs = fs::read_dir(LIBRARIES).ok()?.filter_map(|e| Some(e.ok()?.path()));
    dirs.flat_map(|d| ["libeatmydata.so", "libeatmydata.so.1"].map(|f| d.join(f))).find(|f| f.is_file())
}

/// A program of the system's administrator, whose directory a user's path may lack.
fn server(name: &str) -> String {
    format!("/usr/sbin/{name}")
}

fn epmd(layout: &Layout) -> Command {
    let mut c = Command::new("epmd");
    c.args(["-address", "127.0.0.1", "-port"]).arg(layout.port("epmd").to_string());
    c
}

fn rabbit(layout: &Layout) -> Command {
    let data = layout.data("rabbit");
    let mut c = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
    c.env("HOME", &data).env("LC_ALL", "C.UTF-8");
    c.env("ERL_EPMD_PORT", layout.port("epmd").to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
    c.env("RABBITMQ_NODENAME", "testbed@localhost").env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
    c.env("RABBITMQ_CONFIG_FILE", layout.etc("rabbitmq.conf"));
    c.env("RABBITMQ_ENABLED_PLUGINS_FILE", layout.etc("rabbit-plugins"));
    c.env("RABBITMQ_MNESIA_BASE", data.join("mnesia")).env("RABBITMQ_LOG_BASE", layout.log(""));
    c.env("RABBITMQ_PID_FILE", data.join("pid")).env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1");
    c.env("RABBITMQ_NODE_PORT", layout.port("rabbit").to_string());
    c.env("RABBITMQ_DIST_PORT", layout.port("distribution").to_string());
    // Two schedulers that sleep when idle: a broker for a handful of clients on a machine that has other work.
    let erl = "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none";
    c.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erl);
    c
}

/// keystone, which the first making of the databases needs as well.
pub fn keystone(layout: &Layout) -> Command {
    let mut c = gunicorn(layout, "keystone", "keystone.server.wsgi:initialize_public_application()");
    c.env("OS_KEYSTONE_CONFIG_FILES", layout.etc("keystone/keystone.conf"));
    c.env("OS_KEYSTONE_CONFIG_DIR", layout.etc("keystone"));
    c
}

fn placement(layout: &Layout) -> Command {
    let mut c = gunicorn(layout, "placement", "placement.wsgi:init_application()");
    c.env("OS_PLACEMENT_CONFIG_DIR", layout.etc("placement"));
    c
}

fn gunicorn(layout: &Layout, service: &str, application: &str) -> Command {
    let mut c = python(layout, "gunicorn");
    c.env("GUNICORN_CMD_ARGS", format!("-c {}", layout.etc("gunicorn.py").display()));
    c.env("TESTBED_BIND", format!("127.0.0.1:{}", layout.port(service))).env("TESTBED_APP", application);
    c
}

/// A nova program of the controller.
pub fn nova(layout: &Layout, program: &str) -> Command {
    let mut c = python(layout, program);
    c.arg("--config-file").arg(layout.etc("nova/nova.conf"));
    c
}

/// A program of the Python packages.
pub fn python(layout: &Layout, program: &str) -> Command {
    let mut c = Command::new(layout.bin(program));
    // A proxy of this machine is not for what talks to itself.
    c.env("PYTHONWARNINGS", "ignore").env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    c
}

/// Starts a process, unless it runs.
pub fn run(layout: &Layout, name: &str, command: &mut Command) -> anyhow::Result<()> {
    Process::at(layout.root(), name).start(command).with_context(|| format!("starting {name}"))
}

/// Waits until a process listens.
pub fn listening(layout: &Layout, name: &str, port: u16) -> anyhow::Result<()> {
    let there = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
    Process::at(layout.root(), name).wait(LISTEN_LIMIT, there)
}
