"""The check ``mandate:`` for oslo.policy: asks Mandate before something changes in a managed project.

A rule is ``mandate://HOST:PORT/v1/CLOUD/SERVICE/RULE``, as ``mandate openstack policy`` writes it. It is true if and
only if Mandate answers ``True`` within the time-out; whatever goes wrong is logged and false, which the service answers
as 403. It asks as oslo.policy's own ``https:`` rules do, with the certificates of ``[oslo_policy] remote_ssl_*``, but
unlike them it

* sends of the target only what Mandate reads (:mod:`.question`), so that no target is too much for JSON;
* has a time-out (``[mandate] policy_timeout``, seconds for the whole question);
* goes on using its connections (:mod:`.connections`).
"""

import re

from oslo_config import cfg
from oslo_log import log as logging
from oslo_policy import policy

from mandate_oslo_policy import connections
from mandate_oslo_policy import question

LOG = logging.getLogger(__name__)

OPTIONS = [
    cfg.FloatOpt('policy_timeout', default=2.0, min=0.1, max=60.0,
                 help='Seconds in which Mandate must have answered; after '
                      'that the call is refused.'),
]

_URL = re.compile(r'//(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)'
                  r'(?::(?P<port>[0-9]{1,5}))?'
                  r'(?P<path>/[A-Za-z0-9_:./-]+)$')


class MandateCheck(policy.Check):
    """True if what is asked for belongs to an operation that runs now."""

    def __call__(self, target, creds, enforcer, current_rule=None):
        # A time-out of eventlet's is no Exception and passes: the service
        # set it, and the call does not happen.
        try:
            return self._ask(target, creds, enforcer.conf)
        except Exception as error:
            LOG.error('refused: %s could not be asked: %s: %s', self,
                      type(error).__name__, error)
            return False

    def _ask(self, target, creds, conf):
        found = _URL.match(self.match)
        if not found:
            raise ValueError('the rule names no URL')
        conf.register_opts(OPTIONS, group='mandate')
        own = conf.oslo_policy
        files = connections.Files(own.remote_ssl_ca_crt_file,
                                  own.remote_ssl_client_crt_file,
                                  own.remote_ssl_client_key_file)
        server = connections.Server(found.group('host').strip('[]'),
                                    int(found.group('port') or 443), files)
        answer = connections.post(server, found.group('path'),
                                  question.body(target, creds),
                                  conf.mandate.policy_timeout)
        if answer.true:
            return True
        LOG.warning('refused: %s: %s', found.group('path'), answer.reason)
        return False
