"""What a score server accepts at most; every bound that a client can run into, in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass

from infobatch_stream.errors import ConfigError

__all__ = ["BYTES_PER_SAMPLE", "Limits"]

BYTES_PER_SAMPLE = 8.5
"""Resident bytes by sample: score, stamp and visits, and room for a bit or two."""

_MEMORY_SHARE = 0.75


def _memory_bytes() -> int:
    return int(_MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what clients may ask for.

    Args:
        max_samples: N of one run.
        max_shards: S of one run.
        max_message_bytes: of one gRPC message.
        max_in_flight_bytes: of scores that were acknowledged while a plan is drawn and wait to be applied, by run.
        memory_bytes: what the score tables of all runs may take; three quarters of the machine's by default.
        keep_plans: plans that a run keeps.
        worker_threads: calls that are worked on at once.
        plan_streams: of those, calls that may stream a plan; the others stay free for scores.
        max_queued_calls: calls beyond worker_threads that wait, with 64 KiB each; more are answered
            RESOURCE_EXHAUSTED. Every rank of a job may ask for the same plan at one moment.
    """

    max_samples: int = 2**31
    max_shards: int = 2**24
    max_message_bytes: int = 4 * 2**20
    max_in_flight_bytes: int = 256 * 2**20
    memory_bytes: int = 0
    keep_plans: int = 8
    worker_threads: int = 32
    plan_streams: int = 16
    max_queued_calls: int = 1024

    def __post_init__(self) -> None:
        if not self.memory_bytes:
            object.__setattr__(self, "memory_bytes", _memory_bytes())
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.plan_streams >= self.worker_threads:
            raise ConfigError(f"plan_streams={self.plan_streams} leaves no thread of {self.worker_threads} for scores")
