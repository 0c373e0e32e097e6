"""How keystone and placement are served. A file, because keystone reads the command line for itself."""
import os

bind = os.environ["TESTBED_BIND"]
wsgi_app = os.environ["TESTBED_APP"]
workers = 1
worker_class = "gthread"
threads = 8
timeout = 300
keepalive = 75
