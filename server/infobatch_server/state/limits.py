"""The limits of a score server, in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass

from infobatch_stream.errors import ConfigError

__all__ = ["Limits"]

_MEMORY_SHARE = 0.75


def _memory_bytes() -> int:
    return int(_MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on the requests of clients; each at least 1.

    Args:
        max_samples: samples of one run, N.
        max_shards: shards of one run, S.
        max_message_bytes: bytes of one gRPC message.
        max_in_flight_bytes: bytes per run of scores that arrive while a plan is drawn, and are applied after it.
        memory_bytes: bytes of all runs, each at the most that it can come to hold (`infobatch_server.runs.memory`); 0,
            the default, is three quarters of the machine's memory.
        keep_plans: plans that a run keeps.
        worker_threads: calls with one answer that are processed at once: scores, heartbeats and all but streams.
        plan_streams: plans that are streamed at once, by threads of their own; any more are answered "not ready". All
            ranks of a job may request the same plan at once.
        stream_threads: streams of each other kind (CreateRun, SeedRun, ReadScores, reflection, health watches) that
            are processed at once, by threads of their own.
        max_queued_calls: further calls that wait for a thread, with 64 KiB each; any more are answered
            RESOURCE_EXHAUSTED.
        max_queued_streams: the same for each kind of stream.
        idle_s: seconds that a client may let a call wait for its next message, or for room for the next answer.

    Raises:
        ConfigError: a limit is below 1.
    """

    max_samples: int = 2**31
    max_shards: int = 2**24
    max_message_bytes: int = 4 * 2**20
    max_in_flight_bytes: int = 256 * 2**20
    memory_bytes: int = 0
    keep_plans: int = 8
    worker_threads: int = 32
    plan_streams: int = 16
    stream_threads: int = 16
    max_queued_calls: int = 1024
    max_queued_streams: int = 64
    idle_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.memory_bytes:
            object.__setattr__(self, "memory_bytes", _memory_bytes())
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1; got {getattr(self, name)}")
