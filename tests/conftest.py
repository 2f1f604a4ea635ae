"""What holds for every test.

Ctrl-C raises KeyboardInterrupt, whoever started the tests: a shell starts background jobs with
SIGINT ignored, and Python then keeps it ignored. Decisions of earlier compilations on this machine
do not count: the cache of schedules starts empty.
"""

from __future__ import annotations

import os
import signal
import tempfile

os.environ["VTAFLOW_CACHE"] = tempfile.mkdtemp(prefix="vtaflow-tests-")
signal.signal(signal.SIGINT, signal.default_int_handler)
