//! The configuration of every process, from the templates in `testbed/openstack/`, and of clients.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};

use super::layout::{APIS, DATABASES, HOSTS, Layout, TENANTS};

macro_rules! template {
    ($name:literal) => {
        include_str!(concat!("../../../openstack/", $name))
    };
}

/// neutron's rules: name, class, default, deprecated name and default.
const NEUTRON_RULES: &str =
    include_str!("../../../../orchestrator/orchestrator/src/remote_policy/rules/neutron.tsv");

/// Templates that need no words of their own: where to, of which service, from what.
const PLAIN: [(&str, &str, &str); 11] = [
    ("my.cnf", "", template!("my.cnf")),
    ("rabbitmq.conf", "", template!("rabbitmq.conf")),
    ("gunicorn.py", "", template!("gunicorn.py")),
    ("glance_manage.py", "", template!("glance_manage.py")),
    ("agents.py", "", template!("agents.py")),
    ("keystone/keystone.conf", "keystone", template!("keystone.conf")),
    ("placement/placement.conf", "placement", template!("placement.conf")),
    ("glance/glance-api.conf", "glance", template!("glance-api.conf")),
    ("neutron/neutron.conf", "neutron", template!("neutron.conf")),
    ("neutron/ml2_conf.ini", "neutron", template!("ml2_conf.ini")),
    ("cinder/cinder.conf", "cinder", template!("cinder.conf")),
];

/// What templates may name, and what for.
type Words = Vec<(&'static str, String)>;

/// Writes all of it.
pub fn write(layout: &Layout) -> anyhow::Result<()> {
    directories(layout)?;
    for (to, service, text) in PLAIN {
        one(layout, to, service, text, vec![])?;
    }
    one(layout, "haproxy.cfg", "", template!("haproxy.cfg"), vec![("frontends", frontends(layout))])?;
    put(&layout.etc("init.sql"), &init_sql(layout))?;
    let (nova, words) = (template!("nova.conf"), controller(layout));
    one(layout, "nova/nova.conf", "nova", nova, words)?;
    for (n, host) in (1..).zip(HOSTS) {
        one(layout, &format!("nova/{host}.conf"), "nova", nova, compute(n, host))?;
    }
    policies(layout)?;
    put(&layout.clouds(), &clouds(layout))?;
    put(&layout.root().join("openrc"), &openrc(layout))
}

fn directories(layout: &Layout) -> anyhow::Result<()> {
    let data = [
        "glance/images",
        "glance/staging",
        "glance/tasks",
        "glance/cache",
        "nova",
        "neutron",
        "rabbit",
        "cinder",
    ];
    let data = data.map(|d| layout.data(d));
    let policies = APIS.map(|(service, ..)| layout.etc(service).join("policy.d"));
    let others = [layout.root().join("run/lock"), layout.root().join("log"), layout.etc("cinder")];
    for dir in data.into_iter().chain(policies).chain(others) {
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    Ok(())
}

fn put(to: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))
}

fn one(layout: &Layout, to: &str, service: &str, template: &str, mut words: Words) -> anyhow::Result<()> {
    words.extend(common(layout, service)?);
    put(&layout.etc(to), &render(template, &words)?)
}

/// What every template may name.
fn common(layout: &Layout, service: &str) -> anyhow::Result<Words> {
    let root = layout.root().to_str().with_context(|| format!("{} is not UTF-8", layout.root().display()))?;
    let mut words: Words = ["etc", "data", "run", "pki"].map(|d| (d, format!("{root}/{d}"))).to_vec();
    words.extend(
        ["mysql", "rabbit", "glance", "nova", "neutron"].map(|name| (name, layout.port(name).to_string())),
    );
    words.push(("cinder", layout.volumes().to_string()));
    words.push(("service", service.to_owned()));
    let policy = render(template!("policy.conf"), &words)?;
    // MariaDB refuses to run as root unless it is told to.
    let user = if nix::unistd::geteuid().is_root() { "user=root" } else { "" };
    words.extend([
        ("policy", policy),
        ("venv", format!("{root}/cache/venv")),
        ("mysql_user", user.to_owned()),
        ("secret", layout.secret().to_owned()),
        ("db", layout.databases()),
        ("messages", layout.messages()),
        ("credentials", credentials(layout)),
    ]);
    Ok(words)
}

fn controller(layout: &Layout) -> Words {
    let databases = format!(
        "[api_database]\nconnection = {}\n[database]\nconnection = {}\nmax_pool_size = 10\nmax_overflow = 40",
        layout.database("nova_api"),
        layout.database("nova_cell1")
    );
    let host = "controller".to_owned();
    vec![("host", host), ("compute", String::new()), ("devices", String::new()), ("databases", databases)]
}

/// A compute host must not see the databases.
fn compute(n: u8, host: &str) -> Words {
    vec![
        ("host", host.to_owned()),
        ("compute", "compute_driver = testbed.Host".to_owned()),
        ("devices", devices(n)),
        ("databases", String::new()),
    ]
}

/// CPUs and devices that a host gives to guests: the VFs, the PF that has none, and the accelerators.
fn devices(n: u8) -> String {
    format!(
        "passthrough_whitelist = {{\"vendor_id\":\"8086\",\"product_id\":\"154c\",\"physical_network\":\"physnet2\",\
         \"trusted\":\"true\"}}\n\
         passthrough_whitelist = {{\"address\":\"0000:{:02x}:00.0\",\"physical_network\":\"physnet2\"}}\n\
         passthrough_whitelist = {{\"vendor_id\":\"8086\",\"product_id\":\"37c9\"}}\n\
         [compute]\ncpu_shared_set = 0-7,16-23\ncpu_dedicated_set = 8-15,24-31",
        0x96 + 2 * n
    )
}

/// How a service tells another who it is.
fn credentials(layout: &Layout) -> String {
    format!(
        "www_authenticate_uri = https://127.0.0.1:{}/v3\nauth_url = http://127.0.0.1:{}/v3\nauth_type = password\n\
         project_domain_name = Default\nuser_domain_name = Default\nproject_name = service\npassword = {}\n\
         region_name = RegionOne",
        layout.public("keystone"),
        layout.port("keystone"),
        layout.secret()
    )
}

/// Run by MariaDB at each start, a line at a time.
fn init_sql(layout: &Layout) -> String {
    let database = |name| format!("CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb3;\n");
    DATABASES.map(database).concat()
        + &format!(
            "CREATE USER IF NOT EXISTS 'openstack'@'127.0.0.1' IDENTIFIED BY '{}';\n\
             GRANT ALL ON *.* TO 'openstack'@'127.0.0.1';\n",
            layout.secret()
        )
}

fn frontends(layout: &Layout) -> String {
    let pem = layout.pki().join("api.pem");
    let one = |service: &str, public: u16, inner: u16| {
        format!(
            "listen {service}\n  bind 127.0.0.1:{public} ssl crt {}\n  http-request set-header X-Forwarded-Proto https\n  \
             server {service} 127.0.0.1:{inner}\n",
            pem.display()
        )
    };
    let all = APIS.map(|(service, ..)| one(service, layout.public(service), layout.port(service)));
    // Nobody is told of it before it is there.
    all.concat() + &one("cinder", layout.volumes() - 1, layout.volumes())
}

/// Empty ones, but for neutron's; what a test wrote into them stays.
fn policies(layout: &Layout) -> anyhow::Result<()> {
    for (service, ..) in APIS {
        let file = layout.etc(service).join("policy.yaml");
        if !file.exists() {
            let rules = if service == "neutron" { neutron_rules() } else { "{}\n".to_owned() };
            put(&file, &rules)?;
        }
    }
    Ok(())
}

/// Yoga's rules as they are without `enforce_new_defaults`: the deprecated defaults count, and an administrator may.
fn neutron_rules() -> String {
    let rule = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, class, new, _, old] = fields[..] else { return None };
        let old = if old == "-" { String::new() } else { format!(" or ({old})") };
        (class != "alias").then(|| format!("{name:?}: \"rule:context_is_admin or ({new}){old}\"\n"))
    };
    NEUTRON_RULES.lines().filter_map(rule).collect()
}

/// Users with their projects, as OpenStack's own clients read them.
fn clouds(layout: &Layout) -> String {
    let users = [
        ("admin", "admin", "admin"),
        ("mandate", "mandate", TENANTS[0]),
        ("mandate-b", "mandate", TENANTS[1]),
        (TENANTS[0], TENANTS[0], TENANTS[0]),
        (TENANTS[1], TENANTS[1], TENANTS[1]),
    ];
    let one = |(name, user, project): (&str, &str, &str)| {
        format!(
            "  {name}:\n    auth:\n      auth_url: https://127.0.0.1:{}/v3\n      username: {user}\n      \
             password: {}\n      project_name: {project}\n      user_domain_name: Default\n      \
             project_domain_name: Default\n    region_name: RegionOne\n    interface: public\n    \
             identity_api_version: 3\n    cacert: {}\n",
            layout.public("keystone"),
            layout.secret(),
            layout.pki().join("ca.crt").display()
        )
    };
    format!("clouds:\n{}", users.map(one).concat())
}

fn openrc(layout: &Layout) -> String {
    format!(
        "export OS_AUTH_URL=https://127.0.0.1:{}/v3 OS_CACERT={}\n\
         export OS_USERNAME=admin OS_PASSWORD={} OS_PROJECT_NAME=admin\n\
         export OS_USER_DOMAIN_NAME=Default OS_PROJECT_DOMAIN_NAME=Default OS_REGION_NAME=RegionOne\n\
         export OS_INTERFACE=public OS_IDENTITY_API_VERSION=3\n",
        layout.public("keystone"),
        layout.pki().join("ca.crt").display(),
        layout.secret()
    )
}

/// Puts values where a template has `@name@`; a name without a value is an error.
fn render(template: &str, words: &[(&'static str, String)]) -> anyhow::Result<String> {
    let mut out = template.to_owned();
    for (name, value) in words {
        out = out.replace(&format!("@{name}@"), value);
    }
    let name = |s: &&str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    for line in out.lines() {
        let parts: Vec<&str> = line.split('@').collect();
        let between = parts.iter().copied().skip(1).take(parts.len().saturating_sub(2));
        if let Some(unknown) = between.into_iter().find(name) {
            bail!("a template names @{unknown}@, which is nothing");
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_take_values_and_nothing_is_left_open() {
        let words = [("b", "c".to_owned())];
        assert_eq!(render("a @b@ p@127.0.0.1 @ x", &words).unwrap(), "a c p@127.0.0.1 @ x");
        let e = render("mysql://u:p@h\nx @data@/y", &words).unwrap_err();
        assert!(e.to_string().contains("@data@"), "{e}");
    }

    #[test]
    fn every_process_gets_its_own_and_clients_find_their_way() {
        if !crate::command::exists("openssl") {
            eprintln!("SKIPPED: no openssl; `cargo testbed up deps` installs it");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::make(dir.path()).unwrap();
        let read = |name: &str| fs::read_to_string(layout.etc(name)).unwrap();
        assert!(read("nova/nova.conf").contains("[api_database]"));
        assert!(!read("nova/compute2.conf").contains("mysql"), "a compute host sees no database");
        assert!(read("nova/compute2.conf").contains("0000:9a:00.0"));
        assert!(fs::read_to_string(layout.clouds()).unwrap().contains("auth_url: https://127.0.0.1:"));
        assert_eq!(Layout::make(dir.path()).unwrap().secret(), layout.secret(), "made once");
    }
}
