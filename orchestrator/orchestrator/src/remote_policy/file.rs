//! The policy files for `policy.d/`: each rule of a service that changes something, wrapped so that managed projects ask
//! Mandate and all others notice nothing.
//!
//! `(the service's own check) and (rule:mandate_unmanaged or the question)`: who is refused anyway asks nobody, and in an
//! unmanaged project nobody is asked, whether Mandate answers or not. The service's own check is what the deployment has in
//! its policy file, or the default together with the deprecated one, which oslo.policy adds only as long as a rule is not in
//! a file. neutron asks no policy at all about an administrator unless `enforce_new_defaults` is set, so its file is made for
//! that: it has every rule, each meaning what it means without (an administrator may, and the deprecated default counts).
//! Nothing here is installed: the file is printed, read and put there by a person.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    config::{CloudPolicy, PolicyConfig},
    rules::{Class, Rule, Service},
};

/// True for who acts in, and on, no managed project.
pub const UNMANAGED: &str = "mandate_unmanaged";
/// True for Mandate's own users and nova's.
pub const OWN_USERS: &str = "mandate_users";

/// How the services ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// With the check that the package `mandate-oslo-policy` adds to them: every call.
    Plugin,
    /// With what oslo.policy has by itself; calls whose target it cannot write as JSON ask nobody, and are for Mandate's
    /// users alone.
    Https,
}

/// What a file is made of.
#[derive(Debug)]
pub struct PolicyFile<'a> {
    /// Where Mandate answers.
    pub config: &'a PolicyConfig,
    /// Name of the cloud.
    pub name: &'a str,
    /// The cloud.
    pub cloud: &'a CloudPolicy,
    /// Whose file.
    pub service: Service,
    /// How it asks.
    pub asking: Asking,
    /// Rules that the deployment has changed, by name.
    pub base: &'a BTreeMap<String, String>,
    /// Does the deployment set `enforce_new_defaults`?
    pub new_defaults: bool,
}

impl PolicyFile<'_> {
    /// The file, YAML.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = self.head();
        let rules = [(UNMANAGED.to_owned(), self.unmanaged()), (OWN_USERS.to_owned(), self.own_users())];
        let said = self.service.rules().filter_map(|rule| Some((rule.name.to_owned(), self.said(&rule)?)));
        for (name, check) in rules.into_iter().chain(said) {
            // JSON's strings are YAML's.
            let quoted = |text: &str| serde_json::Value::from(text).to_string();
            let _ = writeln!(out, "{}: {}", quoted(&name), quoted(&check));
        }
        out
    }

    fn head(&self) -> String {
        let how = match self.asking {
            Asking::Plugin => "needs the package mandate-oslo-policy in the service's Python environment",
            Asking::Https => {
                "needs nothing but oslo.policy; what it cannot ask for is for Mandate's users alone"
            }
        };
        let (service, name) = (self.service, self.name);
        let must = match self.keeps_meaning() {
            true => {
                "# neutron.conf must have `enforce_new_defaults = true` under [oslo_policy]: without it neutron asks no policy\n\
                 # about an administrator. Every rule is here as it is without, so that it changes nothing else.\n"
            }
            false => "",
        };
        format!(
            "# {service} of the cloud {name}: in managed projects nothing changes without an operation of Mandate.\n\
             # Made by `mandate openstack policy`; it goes to /etc/{service}/policy.d/mandate.yaml and {how}.\n\
             # Make it again when projects, users or this service's own policy change.\n{must}"
        )
    }

    /// Is every rule to be in the file, because `enforce_new_defaults` is set for our sake alone?
    fn keeps_meaning(&self) -> bool {
        self.service == Service::Neutron && !self.new_defaults
    }

    /// What the file says of a rule, if anything.
    fn said(&self, rule: &Rule) -> Option<String> {
        match rule.class {
            class if class.gated() => Some(self.wrapped(rule)),
            Class::Alias => None,
            _ => self.keeps_meaning().then(|| self.own(rule)),
        }
    }

    /// Neither the caller's project nor the object's is managed. Positive, because a rule that is not there is false.
    fn unmanaged(&self) -> String {
        let of_caller = self.cloud.projects.iter().map(|id| format!("project_id:{id}"));
        let fields = ["project_id", "tenant_id"];
        let of_object = self.cloud.projects.iter().flat_map(|id| fields.map(|f| format!("'{id}':%({f})s")));
        format!("not ({})", of_caller.chain(of_object).collect::<Vec<_>>().join(" or "))
    }

    fn own_users(&self) -> String {
        let users = self.cloud.users.iter().chain(&self.cloud.mano_users).chain(&self.cloud.service_users);
        users.map(|id| format!("user_id:{id}")).collect::<Vec<_>>().join(" or ")
    }

    fn wrapped(&self, rule: &Rule) -> String {
        format!("({}) and (rule:{UNMANAGED} or {})", self.own(rule), self.question(rule))
    }

    fn question(&self, rule: &Rule) -> String {
        let path = format!("/v1/{}/{}/{}", self.name, self.service, rule.name);
        match self.asking {
            // The kind, and the URL without its scheme.
            Asking::Plugin => format!("mandate:{}{path}", self.config.url.trim_start_matches("https:")),
            Asking::Https if rule.plain_https() => format!("{}{path}", self.config.url),
            Asking::Https => format!("rule:{OWN_USERS}"),
        }
    }

    /// The check that the service would make without us.
    fn own(&self, rule: &Rule) -> String {
        match self.keeps_meaning() {
            true => format!("rule:context_is_admin or ({})", self.check_of(rule)),
            false => self.check_of(rule),
        }
    }

    fn check_of(&self, rule: &Rule) -> String {
        let text = |check: &str| if check.trim().is_empty() { "@".to_owned() } else { check.to_owned() };
        if let Some(check) = self.base.get(rule.name) {
            return text(check);
        }
        let Some((old_name, old)) = rule.deprecated else { return text(rule.default) };
        // As oslo.policy has it: the former name's rule, where the deployment changed it, is the rule.
        if old_name != rule.name
            && let Some(check) = self.base.get(old_name)
            && check != old
        {
            return text(check);
        }
        match self.new_defaults || old == rule.default {
            true => text(rule.default),
            false => format!("({}) or ({})", text(rule.default), text(old)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::config::tests::config, *};

    fn file(
        service: Service,
        asking: Asking,
        base: &[(&str, &str)],
        new_defaults: bool,
    ) -> BTreeMap<String, String> {
        let config = config();
        let base = base.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let (name, cloud) = config.clouds.iter().next().unwrap();
        let file = PolicyFile { config: &config, name, cloud, service, asking, base: &base, new_defaults };
        serde_saphyr::from_str(&file.render()).unwrap()
    }

    #[test]
    fn whatever_changes_something_asks_and_nothing_else() {
        for (service, asking) in
            Service::ALL.into_iter().flat_map(|s| [(s, Asking::Plugin), (s, Asking::Https)])
        {
            let rules = file(service, asking, &[], false);
            let gated: Vec<_> = service.rules().filter(|r| r.class.gated()).collect();
            let all = service.rules().filter(|r| r.class != Class::Alias).count();
            let said = if service == Service::Neutron { all } else { gated.len() };
            assert_eq!(rules.len(), said + 2, "{service}");
            for rule in gated {
                let check = &rules[rule.name];
                assert!(check.contains(" and (rule:mandate_unmanaged or "), "{check}");
                // Parentheses are those of a tree: what is wrapped stays one.
                let depth = check.chars().try_fold(0i32, |d, c| match c {
                    '(' => Some(d + 1),
                    ')' if d == 0 => None,
                    ')' => Some(d - 1),
                    _ => Some(d),
                });
                assert_eq!(depth, Some(0), "{check}");
            }
        }
    }

    #[test]
    fn the_services_own_check_stays() {
        let nova = file(Service::Nova, Asking::Plugin, &[], false);
        assert_eq!(
            nova["os_compute_api:servers:create"],
            "(rule:project_member_api) and (rule:mandate_unmanaged or \
             mandate://mandate.example:8444/v1/yoga/nova/os_compute_api:servers:create)"
        );
        let own = |service, name: &str, base: &[(&str, &str)], new| {
            let check = file(service, Asking::Https, base, new)[name].clone();
            check.split(" and (rule:mandate_unmanaged").next().unwrap().to_owned()
        };
        let (new, old) = ("role:member and project_id:%(project_id)s", "rule:regular_user");
        let admin = "rule:context_is_admin or";
        assert_eq!(
            own(Service::Neutron, "create_network", &[], false),
            format!("({admin} (({new}) or ({old})))")
        );
        assert_eq!(own(Service::Neutron, "create_network", &[], true), format!("({new})"));
        let open = [("create_network", "")];
        assert_eq!(own(Service::Neutron, "create_network", &open, false), format!("({admin} (@))"));
        let new_neutron = file(Service::Neutron, Asking::Plugin, &[], true);
        assert!(!new_neutron.contains_key("get_network") && new_neutron.contains_key("create_network"));
        let attach = "os_compute_api:os-attach-interfaces:create";
        let old_name = [("os_compute_api:os-attach-interfaces", "role:net")];
        assert_eq!(own(Service::Nova, attach, &old_name, false), "(role:net)");
        let both = [old_name[0], (attach, "role:x")];
        assert_eq!(own(Service::Nova, attach, &both, false), "(role:x)");
    }

    #[test]
    fn projects_are_of_the_caller_or_of_the_object() {
        let glance = file(Service::Glance, Asking::Plugin, &[], false);
        assert_eq!(
            glance["mandate_unmanaged"],
            "not (project_id:p1 or project_id:p2 or 'p1':%(project_id)s or 'p1':%(tenant_id)s or \
             'p2':%(project_id)s or 'p2':%(tenant_id)s)"
        );
        assert_eq!(glance["mandate_users"], "user_id:mandate or user_id:osm or user_id:nova");
    }

    #[test]
    fn what_plain_https_cannot_ask_is_for_our_users() {
        let neutron = file(Service::Neutron, Asking::Https, &[], false);
        assert!(neutron["create_port"].ends_with("or rule:mandate_users)"));
        assert!(
            neutron["delete_port"].ends_with("or https://mandate.example:8444/v1/yoga/neutron/delete_port)")
        );
        let glance = file(Service::Glance, Asking::Https, &[], false);
        assert!(glance["delete_image"].ends_with("or rule:mandate_users)"));
        assert!(glance["add_image"].ends_with("or https://mandate.example:8444/v1/yoga/glance/add_image)"));
    }
}
