"""The check against a server that answers, lies, hangs, goes and comes back; and targets as the services have them.

Run with `python -m unittest discover tests` in an environment with oslo.policy; openssl makes the certificates.
"""

import http.server
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
import unittest

from oslo_config import cfg
from oslo_policy import _checks
from oslo_policy import _parser
from oslo_policy import policy

import mandate_oslo_policy
from mandate_oslo_policy import connections
from mandate_oslo_policy import question


def openssl(*arguments):
    subprocess.run(('openssl',) + arguments, check=True, capture_output=True)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True

    def do_POST(self):
        server = self.server
        body = self.rfile.read(int(self.headers['Content-Length']))
        server.asked.append((self.path, json.loads(body)))
        server.hold.wait(30)
        status, text, headers = server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, directory, port=0, ca='ca'):
        super().__init__(('127.0.0.1', port), Handler)
        self.asked, self.connections = [], []
        self.answer = (200, b'True', {})
        self.hold = threading.Event()
        self.hold.set()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(directory + '/server.crt',
                                     directory + '/server.key')
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_verify_locations(directory + '/%s.crt' % ca)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def get_request(self):
        plain, address = super().get_request()
        plain.settimeout(30)
        self.connections.append(plain)
        return self.context.wrap_socket(plain, server_side=True), address

    def handle_error(self, *_):
        pass

    def end(self):
        self.shutdown()
        self.server_close()


class MandateCheckTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.mkdtemp()
        d = cls.directory
        key = ('-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256',
               '-nodes', '-days', '2')
        for ca in ('ca', 'other'):
            openssl('req', '-x509', *key, '-subj', '/CN=' + ca, '-keyout',
                    d + '/%s.key' % ca, '-out', d + '/%s.crt' % ca)
        for name, ca in (('server', 'ca'), ('client', 'ca'),
                         ('stranger', 'other')):
            openssl('req', '-x509', *key, '-subj', '/CN=' + name, '-CA',
                    d + '/%s.crt' % ca, '-CAkey', d + '/%s.key' % ca,
                    '-addext', 'basicConstraints=critical,CA:FALSE',
                    '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout',
                    d + '/%s.key' % name, '-out', d + '/%s.crt' % name)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.directory)

    def setUp(self):
        connections._IDLE.clear()
        connections._CONTEXTS.clear()
        self.server = Server(self.directory)
        self.addCleanup(self.server.end)
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[])
        self.enforcer = policy.Enforcer(conf)
        self.conf = conf
        self.certificate('client')
        conf.set_override('remote_ssl_ca_crt_file',
                          self.directory + '/ca.crt', 'oslo_policy')
        conf.register_opts(mandate_oslo_policy.OPTIONS, group='mandate')
        conf.set_override('policy_timeout', 5, 'mandate')

    def certificate(self, name):
        for what, end in (('crt', 'crt'), ('key', 'key')):
            self.conf.set_override('remote_ssl_client_%s_file' % what,
                                   '%s/%s.%s' % (self.directory, name, end),
                                   'oslo_policy')

    def ask(self, target=None, creds=None):
        rule = '//127.0.0.1:%d/v1/yoga/nova/os:servers:create'
        check = mandate_oslo_policy.MandateCheck(
            'mandate', rule % self.server.server_address[1])
        return check(target or {}, creds or {'user_id': 'u'}, self.enforcer)

    def test_true_is_true_and_all_else_false(self):
        self.assertIs(self.ask(), True)
        for answer in ((200, b'False', {}), (200, b'"True"', {}),
                       (200, b'true', {}), (200, b'', {}),
                       (200, b'True' * 100, {}), (403, b'True', {}),
                       (500, b'True', {}), (302, b'True', {'Location': '/'})):
            self.server.answer = answer
            self.assertIs(self.ask(), False, answer)

    def test_the_reason_is_logged(self):
        self.server.answer = (200, b'False', {'mandate-code': 'OUT_OF_BAND',
                                              'mandate-reason': 'not yours'})
        with self.assertLogs('mandate_oslo_policy', 'WARNING') as logs:
            self.ask()
        self.assertIn('OUT_OF_BAND: not yours', logs.output[0])

    def test_a_connection_is_used_again_and_replaced_when_it_is_dead(self):
        for _ in range(20):
            self.assertIs(self.ask(), True)
        self.assertEqual(len(self.server.connections), 1)
        port = self.server.server_address[1]
        for plain in self.server.connections:
            # As a restart does it.
            plain.shutdown(2) if plain.fileno() >= 0 else None
        self.server.end()
        self.server = Server(self.directory, port)
        self.assertIs(self.ask(), True)

    def test_many_at_once_are_bounded(self):
        threads = [threading.Thread(target=self.ask) for _ in range(30)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        self.assertEqual(len(self.server.asked), 30)
        kept = sum(len(idle) for idle in connections._IDLE.values())
        self.assertLessEqual(kept, connections.MAX_IDLE)

    def test_whoever_hangs_is_not_waited_for(self):
        self.conf.set_override('policy_timeout', 0.5, 'mandate')
        self.assertIs(self.ask(), True)
        self.server.hold.clear()
        began = time.monotonic()
        self.assertIs(self.ask(), False)
        # A hang would be 30 s.
        self.assertLess(time.monotonic() - began, 15)
        self.server.hold.set()
        self.assertIs(self.ask(), True)

    def test_nobody_there_is_a_refusal(self):
        self.server.end()
        with self.assertLogs('mandate_oslo_policy', 'ERROR'):
            self.assertIs(self.ask(), False)

    def test_certificates_must_be_right_on_both_sides(self):
        self.certificate('stranger')
        self.assertIs(self.ask(), False)
        self.certificate('missing')
        self.assertIs(self.ask(), False)
        self.certificate('client')
        self.assertIs(self.ask(), True)
        connections._IDLE.clear()
        self.conf.set_override('remote_ssl_ca_crt_file',
                               self.directory + '/other.crt', 'oslo_policy')
        self.assertIs(self.ask(), False)
        self.conf.set_override('remote_ssl_ca_crt_file', None, 'oslo_policy')
        self.assertIs(self.ask(), False)
        self.assertEqual(len(self.server.asked), 1)

    def test_a_new_certificate_is_used_at_once(self):
        self.assertIs(self.ask(), True)
        certificate = self.directory + '/client.crt'
        shutil.copy2(certificate, certificate + '.new')
        os.utime(certificate + '.new')
        os.replace(certificate + '.new', certificate)
        self.assertIs(self.ask(), True)
        self.assertEqual(len(self.server.connections), 2)

    def test_a_rule_that_is_no_url_is_false(self):
        for match in ('', 'x', '//h', '//h:1/%(id)s', '//h:1/a b', '//u@h/a'):
            check = mandate_oslo_policy.MandateCheck('mandate', match)
            self.assertIs(check({'id': 'x'}, {}, self.enforcer), False, match)

    def test_oslo_policy_finds_it(self):
        extensions = _checks.get_extensions()
        self.assertIs(extensions.get('mandate'),
                      mandate_oslo_policy.MandateCheck)
        rule = ('(rule:own) and (rule:mandate_unmanaged or '
                'mandate://h.example:8444/v1/yoga/nova/os:servers:create)')
        self.assertIn('mandate://h.example:8444/v1/yoga/nova/os:servers:create',
                      str(_parser.parse_rule(rule)))


class Awkward(dict):
    """As neutron's and glance's targets are: not all of it can be had."""

    def __getitem__(self, name):
        if name == 'owner':
            raise RuntimeError('no')
        return super().__getitem__(name)

    def __deepcopy__(self, _):
        raise RecursionError()


class QuestionTest(unittest.TestCase):

    def read(self, target, creds=None):
        return json.loads(question.body(target, creds or {}).decode())

    def test_what_is_there_is_sent_and_nothing_else(self):
        circle = {}
        circle['circle'] = circle
        target = Awkward(project_id='p', id=7, description='x' * 5000,
                         tags={'b', 'a'}, metadata={'k': 'v', 'n': 1, 3: 'x'},
                         user_data='secret', name=object(), owner='o',
                         tenant_id=circle, image_id=None,
                         attributes_to_update=['name', object()])
        sent = self.read(target, {'user_id': 'u', 'roles': ['b', 'a'],
                                  'auth_token': 'secret'})
        self.assertEqual(sent['target'], {
            'project_id': 'p', 'id': 7, 'description': 'x' * 1024,
            'tags': ['a', 'b'], 'metadata': {'k': 'v'}, 'tenant_id': {},
            'attributes_to_update': ['name']})
        self.assertEqual(sent['credentials'],
                         {'user_id': 'u', 'roles': ['a', 'b']})

    def test_what_is_no_mapping_is_empty(self):
        for target in (None, object(), [], 'x', 7):
            self.assertEqual(self.read(target)['target'], {})

    def test_there_are_bounds(self):
        many = {'k%d' % n: 'v' * 5000 for n in range(5000)}
        body = question.body({'metadata': many, 'tags': list(many)}, {})
        self.assertLess(len(body), 256 * 1024)


if __name__ == '__main__':
    unittest.main()
