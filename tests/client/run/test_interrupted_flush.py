"""Ctrl-C while the loop waits for its scores: the pusher's thread is none the worse for it."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: pytest-timeout owns this one's timer.
PROGRAM = """
import logging, signal
import numpy as np, torch
from infobatch_client.rpc.client import ScoreClient
from infobatch_client.run.score_pusher import ScorePusher

signal.signal(signal.SIGALRM, signal.default_int_handler)
logging.disable(logging.CRITICAL)
pusher = ScorePusher(
    ScoreClient("127.0.0.1:9", call_timeout_s=0.2), run_id=bytes(16), generation=1, heartbeat_interval_s=10
).start()
pusher.put_scores(0, np.arange(4), torch.ones(4))
interrupts = 0
for delay_s in np.random.default_rng(0).uniform(2e-5, 2e-4, 6000).tolist():
    try:
        signal.setitimer(signal.ITIMER_REAL, delay_s)
        while True:
            pusher.flush(1.0)
    except KeyboardInterrupt:
        interrupts += 1
assert not pusher.close(0.2)
pusher._thread.join(10)
print(interrupts, pusher.failure, pusher._thread.is_alive())
"""


def test_interrupts_of_a_flush_leave_no_lock_held() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == (["6000", "None", "False"], "")
