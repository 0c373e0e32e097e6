"""glance-manage where argparse refuses the legacy commands, which Yoga registers twice (Python 3.11)."""
import sys

from glance.cmd import manage

manage.add_legacy_command_parsers = lambda *_: None
sys.exit(manage.main())
