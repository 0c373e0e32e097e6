"""What is asked: who, and as much of the target as Mandate reads.

Targets hold what JSON cannot (sentinels, proxies, circular references) and what is nobody else's business (user data,
key material). So nothing is copied but these fields, and of them nothing but plain values within bounds.
"""

import json

# Of the target: what belongs to whom, and where Mandate's driver writes keys.
TARGET = ('project_id', 'tenant_id', 'owner', 'id', 'image_id', 'instance_id',
          'name', 'description', 'tags', 'metadata', 'mandate.key',
          'attributes_to_update', 'mac_address')
# Of who asks.
CREDENTIALS = ('user_id', 'project_id', 'system_scope', 'roles',
               'service_user_id')
# Longest text, most entries of a list or a map: more is of no use here.
MAX_TEXT = 1024
MAX_ENTRIES = 128


def body(target, creds):
    """The question as JSON, bytes."""
    return json.dumps({'target': _some(target, TARGET),
                       'credentials': _some(creds, CREDENTIALS)}).encode()


def _some(of, names):
    found = {}
    for name in names:
        value = _plain(_get(of, name))
        if value is not None:
            found[name] = value
    return found


def _get(of, name):
    # Targets are mappings of many kinds; what cannot be had is not there.
    try:
        return of[name]
    except Exception:
        return None


def _plain(value, inner=False):
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if value is None or isinstance(value, (bool, int)):
        return value
    if inner:
        return None
    if isinstance(value, dict):
        some = sorted((k, v) for k, v in value.items() if isinstance(k, str)
                      and isinstance(v, str))[:MAX_ENTRIES]
        return {k[:MAX_TEXT]: _plain(v, True) for k, v in some}
    if isinstance(value, (list, tuple, set, frozenset)):
        return sorted(_plain(v, True) for v in value
                      if isinstance(v, str))[:MAX_ENTRIES]
    return None
