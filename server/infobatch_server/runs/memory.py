"""What a run weighs in memory, and the one account of all that a server's runs hold.

A run is weighed as it is created, before anything is allocated, at the most that it can come to hold: a run that was
created is never short of memory later. Only what clients send faster than it can be used is charged as it comes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from infobatch_stream.errors import RunConflictError, ServerBusyError
from infobatch_stream.plan.epoch_plan import plane_bytes
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.wire.spec_reader import upload_bytes

__all__ = ["MemoryBudget", "Upload", "plan_bytes", "run_bytes"]

_TABLE_BYTES = 8  # score, stamp and visits
_RUN_BYTES = 2**20  # state, 1,024 client ids, marks of a thousand ranks
_EPOCH_BYTES = 1024  # the figures of an epoch, kept as long as the run
_GROUP_SHARD_BYTES = 18  # a shard's code, and its range if its neighbours are of other groups
_DRAW_SHARD_BYTES = 24
_DRAW_BLOCK = 2**20
_DRAW_SAMPLE_BYTES = 16


def plan_bytes(num_samples: int, num_shards: int, num_classes: int = 3) -> int:
    """Bytes of an epoch plan's arrays; those of three classes are the most."""
    return -(-num_samples // 8) + plane_bytes(num_samples, num_classes) + 8 * num_shards


def run_bytes(spec: RunSpec, keep_plans: int) -> dict[str, int]:
    """The most bytes that a run can come to hold, by what they are for.

    Plans are taken to have more than two classes, that is, a byte a sample: so have those of a job that remembers
    dropped samples, and imported ones may.

    Args:
        spec: the run's.
        keep_plans: plans that a run keeps. One more may be drawn before the oldest goes, and one prunes nothing.
    """
    num_samples, num_shards = spec.num_samples, spec.num_shards
    masked = spec.subset is not None
    return {
        "scores": _TABLE_BYTES * num_samples,
        "columns": sum(column.sample_bytes for column in spec.policy.columns) * num_samples,
        "dropped samples": -(-num_samples // 8),
        "mask": num_samples if masked else 0,
        "shards": 8 * num_shards,
        "groups": 0 if spec.groups is None else _GROUP_SHARD_BYTES * num_shards,
        "plans": (keep_plans + 1) * plan_bytes(num_samples, num_shards)
        + plan_bytes(num_samples, num_shards, 1 + masked),
        "a draw": _DRAW_SAMPLE_BYTES * min(num_samples, _DRAW_BLOCK) + _DRAW_SHARD_BYTES * num_shards,
        "an upload": upload_bytes(
            sizes=8 * num_shards,
            groups=0 if spec.groups is None else num_shards,
            mask=-(-num_samples // 8) if masked else 0,
        ),
        "epochs": _RUN_BYTES + _EPOCH_BYTES * spec.epochs,
    }


class MemoryBudget:
    """Bytes in use, of a limit. Safe to call from many threads.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self._used

    def add_run(self, spec: RunSpec, keep_plans: int) -> int:
        """Charges a run that is about to be created; returns its bytes.

        Raises:
            RunConflictError: it doesn't fit; nothing is charged then.
        """
        parts = run_bytes(spec, keep_plans)
        needed = sum(parts.values())
        if not self.charge(needed):
            listed = ", ".join(f"{name} {size:,}" for name, size in parts.items() if size)
            raise RunConflictError(
                f"run {spec.run!r} may take {needed:,} bytes ({listed}), but {self._used:,} of {self._limit:,} are in "
                "use: start the server with a larger --memory-bytes, or reuse the name of a run that is no longer "
                'needed, with if_exists="restart", which deletes that run'
            )
        return needed

    def charge(self, num_bytes: int) -> bool:
        """Adds bytes to those in use, if they fit; returns whether they do."""
        with self._lock:
            if num_bytes and self._used + num_bytes > self._limit:
                return False
            self._used += num_bytes
            return True

    def add(self, num_bytes: int) -> None:
        """Adds bytes to those in use, of what is there already."""
        with self._lock:
            self._used += num_bytes

    def release(self, num_bytes: int) -> None:
        """Takes bytes off that were charged."""
        with self._lock:
            self._used -= num_bytes

    @contextmanager
    def upload(self, what: str, *, reserved: int = 0) -> Iterator[Upload]:
        """An account of what one stream brings, which is released at its end.

        Args:
            what: what comes, for messages.
            reserved: bytes that are charged already.
        """
        upload = Upload(self, what, reserved)
        try:
            yield upload
        finally:
            self.release(upload.charged)

    @contextmanager
    def holding(self, num_bytes: int, what: str) -> Iterator[None]:
        """Charges bytes for as long as the context lasts.

        Raises:
            ServerBusyError: they don't fit now.
        """
        if not self.charge(num_bytes):
            raise self.no_room(what, num_bytes)
        try:
            yield
        finally:
            self.release(num_bytes)

    def no_room(self, what: str, num_bytes: int) -> ServerBusyError:
        """The error of bytes that don't fit now."""
        return ServerBusyError(
            f"{what} takes {num_bytes:,} bytes, but {self._used:,} of {self._limit:,} are in use: try again later, "
            "start the server with a larger --memory-bytes, or delete runs"
        )


class Upload:
    """The bytes of one stream, charged before they are kept. For one thread.

    Args:
        memory: is charged.
        what: what comes, for messages.
        reserved: bytes that are charged already.
    """

    def __init__(self, memory: MemoryBudget, what: str, reserved: int) -> None:
        self.charged = 0
        self._memory = memory
        self._what = what
        self._reserved = reserved

    def add(self, num_bytes: int) -> None:
        """Charges more bytes.

        Raises:
            ServerBusyError: they don't fit now.
        """
        from_reserve = min(self._reserved, num_bytes)
        if not self._memory.charge(num_bytes - from_reserve):
            raise self._memory.no_room(f"a further part of {self._what}", num_bytes)
        self._reserved -= from_reserve
        self.charged += num_bytes - from_reserve
