"""Where epoch plans come from: the server, checked by digest, laid into a file that the workers map."""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import tempfile
import time
import weakref
import zlib
from collections import deque
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from infobatch_client.score_client import ScoreClient, retry_until
from infobatch_stream.codec import plan_from_header, seal
from infobatch_stream.errors import PlanError, ServerUnreachableError
from infobatch_stream.plan import EpochPlan, full_plan_id
from infobatch_stream.plan_bytes import CHUNK_SAMPLES, plan_from_buffer, plan_to_bytes
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["PlanFiles", "fetch_plan", "map_plan"]

_PREFIX = "infobatch-plans-"
_LOCK = "in-use"


class PlanFiles:
    """A folder of plan files, removed with this object; those of processes that were killed go with the next one made.

    The owner holds a lock on its folder, so that a folder without one has no owner any more.
    """

    def __init__(self) -> None:
        _remove_abandoned()
        self._folder, lock = _locked_folder()
        self._stored: deque[str] = deque(maxlen=2)
        self._cleanup = weakref.finalize(self, _remove, self._folder, lock, os.getpid())

    def store(self, plan: EpochPlan) -> str:
        """Lays a plan down whole (temporary name, then rename) and gives its path."""
        path = self._folder / plan.plan_id.replace(":", "_")
        if not path.exists():
            draft = path.with_suffix(".part")
            with open(draft, "wb") as file:
                for piece in plan_to_bytes(plan):
                    file.write(piece)
            draft.rename(path)
        if str(path) not in self._stored:
            self._stored.append(str(path))
        return str(path)

    def adopt(self, path: str, plan_id: str) -> str:
        """Takes another process's file of a plan in, without a copy where both share a disk, and gives its own path.

        Raises:
            OSError: it can't be read.
        """
        own = self._folder / plan_id.replace(":", "_")
        if not own.exists():
            try:
                os.link(path, own)
            except OSError:
                draft = own.with_suffix(".part")
                shutil.copyfile(path, draft)
                draft.rename(own)
        if str(own) not in self._stored:
            self._stored.append(str(own))
        return str(own)

    def keep_newest(self) -> None:
        """Removes every plan but the last two: a worker may be about to map the one before."""
        for other in self._folder.iterdir():
            if str(other) not in self._stored and other.name != _LOCK:
                other.unlink()

    def close(self) -> None:
        """Removes the folder."""
        self._cleanup()


def map_plan(path: str) -> EpochPlan:
    """The plan in a file, its arrays mapped."""
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return plan_from_buffer(memoryview(mapped))


def fetch_plan(
    client: ScoreClient, *, run_id: bytes, generation: int, epoch: int, plan_id: str, timeout_s: float
) -> EpochPlan:
    """The plan of an epoch, waiting for the barrier before it.

    Args:
        client: the server's rpcs.
        run_id: 16 bytes.
        generation: the attached one.
        epoch: the epoch.
        plan_id: this plan and no other; "" takes the epoch's.
        timeout_s: for the barrier and an outage together.

    Raises:
        ServerUnreachableError: not to be had in that time.
        PlanError: the bytes don't give the id that they came with.
    """
    deadline = time.monotonic() + timeout_s
    request = pb.GetEpochPlanRequest(run_id=run_id, generation=generation, epoch=epoch, plan_id=plan_id)
    while True:
        answer = retry_until(lambda left: _receive(client, request, left), deadline - time.monotonic())
        if isinstance(answer, EpochPlan):
            return answer
        if time.monotonic() >= deadline:
            raise ServerUnreachableError(
                f"{client.address} has no plan of epoch {epoch} yet: ranks {list(answer.missing_ranks)} have not ended "
                "the epoch before"
            )
        time.sleep(max(0.01, min(answer.retry_after_ms / 1000, deadline - time.monotonic())))


def _receive(client: ScoreClient, request: pb.GetEpochPlanRequest, timeout_s: float) -> EpochPlan | pb.NotReady:
    assembly: _Assembly | None = None
    for message in client.stream("GetEpochPlan", request, timeout_s=timeout_s):
        kind = message.WhichOneof("part")
        if kind == "not_ready":
            answer: pb.NotReady = message.not_ready
            return answer
        if kind == "header":
            assembly = _Assembly(message.header)
        elif assembly is None:
            raise PlanError("the plan's stream doesn't begin with its header")
        elif kind == "shard_kept":
            assembly.add_counts(message.shard_kept)
        elif kind == "chunk":
            assembly.add_chunk(message.chunk)
    if assembly is None:
        raise PlanError("the plan's stream is empty")
    return assembly.finish()


class _Assembly:
    """A plan while its messages arrive."""

    def __init__(self, header: pb.PlanHeader) -> None:
        if header.chunk_samples != CHUNK_SAMPLES:
            raise PlanError(f"the plan comes in chunks of {header.chunk_samples} samples; this client knows 2**23")
        self._header = header
        self._counts = np.zeros(header.num_shards, np.int64)
        bits, classes = -(-header.num_samples // 8), len(header.classes)
        self._planes: dict[int, npt.NDArray[np.uint8]] = {pb.PLANE_KEEP_BITS: np.zeros(bits, np.uint8)}
        if classes == 2:
            self._planes[pb.PLANE_CLASS_BITS] = np.zeros(bits, np.uint8)
        elif classes > 2:
            self._planes[pb.PLANE_CLASS_CODES] = np.zeros(header.num_samples, np.uint8)

    def add_counts(self, part: pb.ShardKept) -> None:
        counts = np.frombuffer(part.kept, "<i8")
        self._counts[part.first_shard : part.first_shard + len(counts)] = counts

    def add_chunk(self, part: pb.PlanChunk) -> None:
        if zlib.crc32(part.data) != part.crc32:
            raise PlanError(f"chunk {part.chunk} of plan {self._header.plan_id} arrived damaged")
        if part.plane not in self._planes:
            raise PlanError(f"plan {self._header.plan_id} has a plane {part.plane} that its classes don't call for")
        per_sample = 1 if part.plane == pb.PLANE_CLASS_CODES else 8
        start = part.chunk * CHUNK_SAMPLES // per_sample + part.offset_bytes
        self._planes[part.plane][start : start + len(part.data)] = np.frombuffer(part.data, np.uint8)

    def finish(self) -> EpochPlan:
        class_plane = self._planes.get(pb.PLANE_CLASS_BITS, self._planes.get(pb.PLANE_CLASS_CODES))
        plan = plan_from_header(self._header, self._counts, self._planes[pb.PLANE_KEEP_BITS], class_plane)
        made = seal(plan).plan_id
        named = full_plan_id(plan.run_id, plan.epoch) if plan.generation == 0 else made
        if named != plan.plan_id or not made.endswith(self._header.digest.hex()):
            raise PlanError(f"the plan's bytes give the id {made}, it came as {plan.plan_id}")
        return plan


def _locked_folder() -> tuple[Path, IO[bytes]]:
    """A fresh folder and its open lock file. Another process may take it for abandoned before it is locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = open(folder / _LOCK, "wb")  # noqa: SIM115 (held until the folder goes)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / _LOCK).exists():
            return folder, lock
        lock.close()


def _remove(folder: Path, lock: IO[bytes], pid: int) -> None:
    lock.close()
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned() -> None:
    """Removes the folders of this user's processes that ended without a chance to."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            with open(path, "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:
            continue  # in use, another user's, or just removed by another process
