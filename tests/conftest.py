"""What every test runs under: one thread of torch's by process, and properties that try the same examples each time."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# As torchrun sets it. With more ranks than cores, threads that wait for each other by spinning take most of the time,
# and a busy machine makes seconds of every step. Here it comes before torch is imported, and child processes have it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile(
    "tests",
    deadline=None,  # the time that an example takes is a matter of the machine, and of what else runs on it
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")
