//! The databases as they are when first made: made once, kept, and planted at each `up`, so that every cloud begins
//! empty and in seconds.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use anyhow::{Context as _, anyhow};

use super::{identity, layout::Layout, services};
use crate::{
    command,
    up::process::{self, Process},
};

/// One program, on a busy machine: neutron's migrations are some two hundred.
const PROGRAM_LIMIT: Duration = Duration::from_secs(600);
const COPY_LIMIT: Duration = Duration::from_secs(120);
/// Where the distribution has what MariaDB's own tables are made of.
const SYSTEM_TABLES: &str = "/usr/share/mysql";
/// What a seed is made of: databases, and the keys of tokens and credentials that they were made with.
const PARTS: [&str; 2] = ["mysql", "keystone"];

/// What the kept one must have been made with.
fn recipe(layout: &Layout) -> String {
    let programs = include_str!("../../../openstack/constraints.txt");
    format!("{}\n{}\n{programs}{}", layout.base(), layout.secret(), include_str!("seed.rs"))
}

/// Is there one that fits?
pub fn kept(layout: &Layout) -> bool {
    fs::read_to_string(layout.seed().join("recipe")).is_ok_and(|found| found == recipe(layout))
}

/// Makes it.
pub fn make(layout: &Layout) -> anyhow::Result<()> {
    clear(&layout.seed())?;
    PARTS.iter().try_for_each(|part| clear(&layout.data(part)))?;
    let made = fill(layout);
    let used = ["keystone", "mariadb"].map(|name| Process::at(layout.root(), name));
    process::stop_all(&used, services::rank);
    made?;
    fs::create_dir_all(layout.seed())?;
    PARTS.iter().try_for_each(|part| copy(&layout.data(part), &layout.seed().join(part)))?;
    fs::write(layout.seed().join("recipe"), recipe(layout)).context("cannot keep the databases")
}

/// Begins a cloud with it.
pub fn plant(layout: &Layout) -> anyhow::Result<()> {
    for part in PARTS {
        clear(&layout.data(part))?;
        copy(&layout.seed().join(part), &layout.data(part))?;
    }
    fs::write(layout.data("planted"), "").context("cannot begin the cloud")
}

fn clear(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    command::succeed(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to), COPY_LIMIT)
        .map(drop)
}

fn fill(layout: &Layout) -> anyhow::Result<()> {
    system_tables(layout)?;
    services::mariadb(layout)?;
    // Independent of each other, so at the same time.
    thread::scope(|scope| {
        let chains: [fn(&Layout) -> anyhow::Result<()>; 3] = [keystone, nova, others];
        let running = chains.map(|chain| scope.spawn(move || chain(layout)));
        running.into_iter().try_for_each(|t| t.join().map_err(|_| anyhow!("a thread ended"))?)
    })?;
    let process = Process::at(layout.root(), "keystone");
    process.start(&mut services::keystone(layout))?;
    services::listening(layout, "keystone", layout.port("keystone"))?;
    identity::fill(layout)
}

/// What `mariadb-install-db` does, without the programs it needs for that.
fn system_tables(layout: &Layout) -> anyhow::Result<()> {
    let data = layout.data("mysql");
    fs::create_dir_all(&data)?;
    let mut sql = "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n".to_owned();
    for name in ["mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql"] {
        let file = Path::new(SYSTEM_TABLES).join(name);
        sql += &fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    let file = layout.data("system-tables.sql");
    fs::write(&file, sql)?;
    let mut server = services::database(layout);
    server.args(["--no-defaults", "--bootstrap", "--enforce-storage-engine="]);
    // As in my.cnf, or the log is made again with the other size.
    server.args(["--innodb-log-file-size=64M", "--max-allowed-packet=8M"]);
    if nix::unistd::geteuid().is_root() {
        server.arg("--user=root");
    }
    server.arg(format!("--datadir={}", data.display()));
    let log = fs::File::create(layout.log("system-tables.log"))?;
    server.stdin(fs::File::open(&file)?).stdout(log.try_clone()?).stderr(log);
    let mut child = server.spawn().context("cannot run mariadbd")?;
    let ended = command::wait(&mut child, "mariadbd --bootstrap", PROGRAM_LIMIT);
    let ended = ended.inspect_err(|_| command::kill(&mut child))?;
    anyhow::ensure!(
        ended.success(),
        "mariadbd --bootstrap failed: {}",
        layout.log("system-tables.log").display()
    );
    Ok(())
}

fn program(mut command: Command) -> anyhow::Result<()> {
    command::succeed(&mut command, PROGRAM_LIMIT).map(drop)
}

fn keystone(layout: &Layout) -> anyhow::Result<()> {
    let manage = |arguments: &[&str]| {
        let mut c = services::python(layout, "keystone-manage");
        c.arg("--config-file").arg(layout.etc("keystone/keystone.conf")).args(arguments);
        program(c)
    };
    for keys in ["fernet-keys", "credential-keys"] {
        fs::create_dir_all(layout.data("keystone").join(keys))?;
    }
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())?.context("this user has no name")?.name;
    let group = nix::unistd::Group::from_gid(nix::unistd::getegid())?.context("its group has no name")?.name;
    for setup in ["fernet_setup", "credential_setup"] {
        manage(&[setup, "--keystone-user", &user, "--keystone-group", &group])?;
    }
    manage(&["db_sync"])?;
    let inner = format!("http://127.0.0.1:{}/v3", layout.port("keystone"));
    let public = format!("https://127.0.0.1:{}/v3", layout.public("keystone"));
    manage(&[
        "bootstrap",
        "--bootstrap-password",
        layout.secret(),
        "--bootstrap-region-id",
        "RegionOne",
        "--bootstrap-public-url",
        &public,
        "--bootstrap-internal-url",
        &inner,
        "--bootstrap-admin-url",
        &inner,
    ])
}

fn nova(layout: &Layout) -> anyhow::Result<()> {
    let manage = |arguments: &[&str]| {
        let mut c = services::nova(layout, "nova-manage");
        c.args(arguments);
        program(c)
    };
    manage(&["api_db", "sync"])?;
    manage(&["cell_v2", "map_cell0", "--database_connection", &layout.database("nova_cell0")])?;
    let (messages, cell) = (layout.messages(), layout.database("nova_cell1"));
    let wired = ["--transport-url", messages.as_str(), "--database_connection", cell.as_str()];
    manage(&[&["cell_v2", "create_cell", "--name", "cell1"], wired.as_slice()].concat())?;
    manage(&["db", "sync"])
}

/// glance, placement and neutron.
fn others(layout: &Layout) -> anyhow::Result<()> {
    let mut glance = services::python(layout, "python");
    glance.arg(layout.etc("glance_manage.py")).arg("--config-file").arg(layout.etc("glance/glance-api.conf"));
    glance.args(["db", "sync"]);
    program(glance)?;
    let mut placement = services::python(layout, "placement-manage");
    placement.env("OS_PLACEMENT_CONFIG_DIR", layout.etc("placement"));
    placement.arg("--config-file").arg(layout.etc("placement/placement.conf")).args(["db", "sync"]);
    program(placement)?;
    let mut neutron = services::python(layout, "neutron-db-manage");
    neutron.arg("--config-file").arg(layout.etc("neutron/neutron.conf"));
    neutron.arg("--config-file").arg(layout.etc("neutron/ml2_conf.ini")).args(["upgrade", "heads"]);
    program(neutron)
}
