"""Asking: one POST over mutual TLS, within a time-out, on a connection that is there already if there is one.

A question changes nothing, so it is asked again when a connection that was kept turns out to be dead. The time-out is
for all of it: connecting, the handshake, asking, asking again. At most MAX_IDLE connections are kept, none for longer
than MAX_IDLE_S; certificates that were replaced are used by the next connection, and those of before are let go.
"""

import collections
import http.client
import os
import socket
import ssl
import threading
import time

# Kept for each server; a service's process asks little at once.
MAX_IDLE = 8
# A kept connection is trusted this long, seconds: balancers forget them.
MAX_IDLE_S = 30.0
# Longest answer that is read, bytes: `True` or `False`.
MAX_ANSWER = 64

Files = collections.namedtuple('Files', 'ca certificate key')
Server = collections.namedtuple('Server', 'host port files')
Answer = collections.namedtuple('Answer', 'true reason')
Kept = collections.namedtuple('Kept', 'connection made_with since')


class Late(Exception):
    """There was no answer in time."""


_LOCK = threading.Lock()
# Of each server: the TLS context with what it was made of, and connections.
_CONTEXTS = {}
_IDLE = {}
# A child must not speak on its parent's connections.
_OWNER = [os.getpid()]


def post(server, path, body, timeout):
    """Mandate's answer; raises what kept it from being had."""
    deadline = time.monotonic() + timeout
    context, made_with = _context(server.files)
    kept = _take(server, made_with)
    if kept is not None:
        try:
            # Half of the time: a dead connection is not to cost all of it.
            half = time.monotonic() + timeout / 2
            return _ask(server, kept, path, body, half, made_with)
        except (OSError, http.client.HTTPException, Late):
            kept.close()
    connection = _connect(server, context, deadline)
    try:
        return _ask(server, connection, path, body, deadline, made_with)
    except BaseException:
        connection.close()
        raise


def _ask(server, connection, path, body, deadline, made_with):
    connection.sock.settimeout(_left(deadline))
    try:
        connection.request('POST', path, body,
                           {'Content-Type': 'application/json'})
        connection.sock.settimeout(_left(deadline))
        response = connection.getresponse()
        text = response.read(MAX_ANSWER + 1)
    except socket.timeout:
        raise Late('no answer in time')
    if response.isclosed() and not response.will_close:
        _keep(server, connection, made_with)
    else:
        connection.close()
    if response.status == 200 and text == b'True':
        return Answer(True, '')
    code = response.getheader('mandate-code', 'HTTP_%d' % response.status)
    return Answer(False, '%s: %s' % (
        code, response.getheader('mandate-reason', 'no reason was given')))


def _connect(server, context, deadline):
    connection = http.client.HTTPSConnection(
        server.host, server.port, timeout=_left(deadline), context=context)
    try:
        connection.connect()
    except socket.timeout:
        connection.close()
        raise Late('no connection in time')
    except BaseException:
        connection.close()
        raise
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Never by itself again: that would be without a time-out.
    connection.auto_open = 0
    return connection


def _left(deadline):
    left = deadline - time.monotonic()
    if left <= 0:
        raise Late('no answer in time')
    return left


def _context(files):
    """The TLS context of these files as they are now, and what they are."""
    if not all(files):
        raise ValueError('[oslo_policy] remote_ssl_ca_crt_file, '
                         'remote_ssl_client_crt_file and '
                         'remote_ssl_client_key_file are needed')
    stats = [os.stat(name) for name in files]
    now = tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in stats)
    with _LOCK:
        known = _CONTEXTS.get(files)
    if known is not None and known[1] == now:
        return known
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH,
                                         cafile=files.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(files.certificate, files.key)
    with _LOCK:
        _CONTEXTS[files] = (context, now)
    return context, now


def _take(server, made_with):
    """A connection that was kept and may be used, if there is one."""
    with _LOCK:
        if _OWNER[0] != os.getpid():
            _OWNER[0] = os.getpid()
            _IDLE.clear()
        idle = _IDLE.get(server, [])
        while idle:
            kept = idle.pop()
            young = time.monotonic() - kept.since < MAX_IDLE_S
            if young and kept.made_with == made_with:
                return kept.connection
            kept.connection.close()
    return None


def _keep(server, connection, made_with):
    with _LOCK:
        idle = _IDLE.setdefault(server, [])
        if len(idle) < MAX_IDLE:
            idle.append(Kept(connection, made_with, time.monotonic()))
            return
    connection.close()
