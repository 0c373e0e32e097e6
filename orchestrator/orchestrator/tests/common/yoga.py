"""Prints the policy rules of a service of the installed Yoga, and what oslo.policy makes of them, as JSON.

yoga.py SERVICE [FILE] [new]: with FILE as the policy file, and with `enforce_new_defaults`.
"""

import json
import logging
import sys
import warnings

from oslo_config import cfg
from oslo_policy import policy


def rules_of(service):
    if service == 'nova':
        from nova import policies
    elif service == 'neutron':
        import neutron.policy  # noqa: F401 (first: its kinds of checks)
        from neutron.conf import policies
    else:
        from glance import policies
    return list(policies.list_rules())


def main(service, file=None, new=None):
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger('oslo_policy').addHandler(handler)
    # Of deprecated defaults there are hundreds, with or without a file.
    warnings.simplefilter('ignore')
    rules = rules_of(service)
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    enforcer = policy.Enforcer(conf, policy_file=file or 'none.yaml')
    conf.set_override('enforce_new_defaults', bool(new), 'oslo_policy')
    enforcer.suppress_deprecation_warnings = True
    enforcer.suppress_default_change_warnings = True
    enforcer.register_defaults(rules)
    enforcer.load_rules()
    enforcer.check_rules(raise_on_violation=True)
    effective = {name: str(check) for name, check in enforcer.rules.items()}
    parts = {}
    for name in enforcer.file_rules:
        check = enforcer.rules[name]
        parts[name] = [str(part) for part in getattr(check, 'rules', [])]
    listed = []
    for rule in rules:
        old = rule.deprecated_rule
        listed.append([rule.name, rule.check_str or '@',
                       old.name if old else '-',
                       (old.check_str or '@') if old else '-',
                       sorted({m for o in getattr(rule, 'operations', [])
                               for m in ([o['method']] if
                                         isinstance(o['method'], str)
                                         else o['method'])})])
    json.dump({'rules': listed, 'effective': effective, 'parts': parts,
               'said': said}, sys.stdout)


main(*sys.argv[1:])
