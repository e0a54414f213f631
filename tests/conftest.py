"""What every test runs under: one thread of torch's by process, and properties that try the same examples each time."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# As torchrun sets it. With more ranks than cores, threads that wait for each other by spinning take most of the time,
# and a busy machine makes seconds of every step. Here it comes before torch is imported, and child processes have it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background makes them ignore Ctrl-C, and the processes that they start too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "tests",
    deadline=None,  # the time that an example takes is a matter of the machine, and of what else runs on it
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")
