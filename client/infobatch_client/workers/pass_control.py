"""The shared memory by which a loop tells its DataLoader workers of the open epoch; it outlives an epoch.

Persistent workers are forked or spawned once; they read this at the start of every pass.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from infobatch_stream.plan.opening import Opening

__all__ = ["WARNED_OF_DROPS", "WARNED_OF_ORDER", "Pass", "PassControl"]

_SIZE_BYTES = 8192  # a pass as JSON, behind its length in 4 bytes; and at the end flags
WARNED_OF_ORDER, WARNED_OF_DROPS, _CLOSED, _UPDATED = -4, -3, -2, -1
_KEY_BITS, _NUMBER_BITS = 40, 23
_SLOTS = 251
_MAX_WORKERS = 580
_MAX_SHARED_BYTES = 2**15  # torch copies more with threads, for which a process forked after their use waits for ever


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass over an epoch.

    Args:
        epoch: the epoch.
        plan_path: the plan's file; "" for all samples in index order.
        start: global positions consumed before this pass.
        batch_size: rows by rank and step.
        rank: of this process.
        world_size: ranks.
        drop_remainder: leaves out the last positions that don't fill a step.
        mark: of the pass on its batches in a plain DataLoader, in [1, 2⁶³); 0: they have none.
        fills: every batch has batch_size rows, repeats included; without, a step is a row, and dropped ones lack.
        generation: of the plan; 0 without one.
        base_seed: of the random numbers of stages and collate functions: torch's, as `torch.initial_seed()` says it.
        data_seed: the dataset's `seed=`, which goes into these numbers too.
        loader_number: what keeps these numbers apart from those of other loaders in this process.
    """

    epoch: int
    plan_path: str
    start: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    drop_remainder: bool = False
    mark: int = 0
    fills: bool = True
    generation: int = 0
    base_seed: int = 0
    data_seed: int = 0
    loader_number: int = 0

    @classmethod
    def over(
        cls,
        opening: Opening,
        *,
        epoch: int,
        plan_path: str,
        rank: int,
        generation: int,
        base_seed: int,
        data_seed: int,
        loader_number: int,
        mark: int = 0,
    ) -> Pass:
        """A pass over the steps of an opening."""
        return cls(
            epoch=epoch,
            plan_path=plan_path,
            start=opening.start,
            batch_size=opening.batch_size,
            rank=rank,
            world_size=opening.world_size,
            drop_remainder=opening.drop_remainder,
            mark=mark,
            generation=generation,
            base_seed=base_seed,
            data_seed=data_seed,
            loader_number=loader_number,
        )

    def opening(self, num_positions: int) -> Opening:
        """Its steps, over an epoch of `num_positions`."""
        return Opening(
            num_positions=num_positions,
            start=self.start,
            batch_size=self.batch_size,
            world_size=self.world_size,
            drop_remainder=self.drop_remainder,
        )


class PassControl:
    """Shared between a loop and its workers: the loop writes it before a pass, the workers read it at its start.

    Pickles into a worker by handle, as torch shares tensors; a copy by other means shares nothing, and is empty.
    """

    def __init__(self) -> None:
        self._bytes = _shared(_SIZE_BYTES, dtype=torch.uint8)
        self._loaded = _shared(_MAX_WORKERS, 3, dtype=torch.int64)
        self._passes = _shared(1 + _SLOTS, dtype=torch.int64)
        self._samples = _shared(_MAX_WORKERS, 7, dtype=torch.int64)
        self._updated_at_start = False
        self._maker = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_updated_at_start": self.updated}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["_bytes"].is_shared():
            self.__dict__.update(state)
        else:
            PassControl.__init__(self)

    def write(self, pass_: Pass) -> None:
        """Sets the pass that workers begin next."""
        text = json.dumps(asdict(pass_)).encode()
        assert len(text) < _SIZE_BYTES - 7, "a plan's path is far below 8 KB"
        framed = len(text).to_bytes(4, "little") + text
        self._bytes[: len(framed)] = torch.from_numpy(np.frombuffer(framed, np.uint8).copy())
        self._bytes[_UPDATED] = 0
        self._loaded.zero_()
        self._samples.zero_()
        self._updated_at_start = False

    def read(self) -> Pass:
        """The pass that the loop wrote last."""
        raw = self._bytes.numpy().tobytes()
        return Pass(**json.loads(raw[4 : 4 + int.from_bytes(raw[:4], "little")]))

    @property
    def written(self) -> bool:
        """Whether the loop has written anything yet."""
        return bool(self._bytes[:4].any())

    def mark_updated(self) -> None:
        """A batch of the pass was updated: from now on, a second pass would train samples twice."""
        self._bytes[_UPDATED] = 1
        self._updated_at_start = True

    @property
    def updated(self) -> bool:
        """Whether a batch was updated, as far as is known now."""
        return bool(self._bytes[_UPDATED])

    @property
    def updated_at_start(self) -> bool:
        """Whether a batch had been updated when this process was forked or this object was pickled into it.

        The workers of one pass start while the loop trains on the first batches of the faster ones, so a worker's first
        pass can't rely on `updated`.
        """
        return self._updated_at_start

    def mark_closed(self) -> None:
        """The dataset was closed: no pass begins from now on."""
        self._bytes[_CLOSED] = 1

    @property
    def closed(self) -> bool:
        """Whether the dataset was closed."""
        return bool(self._bytes[_CLOSED])

    def closed_flag(self) -> npt.NDArray[np.uint8]:
        """uint8 (1,), above 0 once the dataset is closed: to be asked often."""
        return self._bytes.numpy()[_CLOSED : _CLOSED + 1]

    @property
    def made_here(self) -> bool:
        """Whether this very process made the memory, so that a worker shares it with no other."""
        return self._maker == os.getpid()

    def number_pass(self, key: bytes = b"") -> int:
        """The number of a pass of a validation set, from 0 on, that begins now.

        One process by pass calls it: the loop's, or the first of its workers. The others find it by `key`.

        Args:
            key: of the pass, the same in all of its workers.
        """
        number = int(self._passes[0])
        self._passes[0] = number + 1
        if key:  # in one write, so that another process sees both or neither
            slot, word = _slot(key)
            self._passes[slot] = word << _NUMBER_BITS | number
        return number

    def number_of(self, key: bytes) -> int | None:
        """The number that a pass's first worker has given it; None if it hasn't yet."""
        slot, word = _slot(key)
        entry = int(self._passes[slot])
        return entry & (1 << _NUMBER_BITS) - 1 if entry >> _NUMBER_BITS == word else None

    def resume_pass(self, number: int) -> None:
        """A worker resumes pass `number`: the one after it is next."""
        self._passes[0] = max(int(self._passes[0]), number + 1)

    def samples_of(self, worker: int, workers: int) -> npt.NDArray[np.int64]:
        """int64 (7,), a row of `samples` of one worker that begins a pass, in shared memory, to be written there."""
        row: npt.NDArray[np.int64] = self._samples.numpy()[worker]
        row[:] = workers, 0, 0, 0, -1, 0, -1
        return row

    @property
    def samples(self) -> npt.NDArray[np.int64]:
        """int64 (n, 7), a row for each worker that has begun: workers, samples read, samples dropped; stride, first; …

        The stride and the first position are its `KeptPattern`'s, and the last two what `SampleChoice.judge` gives.
        """
        noted = self._samples.numpy()
        return noted[noted[:, 0] > 0]

    def warn_once(self, kind: int) -> bool:
        """Whether this is the first call for a kind of warning, WARNED_OF_ORDER or WARNED_OF_DROPS, in any process."""
        warned = bool(self._bytes[kind])
        self._bytes[kind] = 1
        return not warned

    def warned(self, kind: int) -> bool:
        """Whether `warn_once` was called for a kind of warning."""
        return bool(self._bytes[kind])

    def note_loaded(self, worker: int, batches: int, rounds: int) -> None:
        """A worker has loaded a state: `batches` of the pass, and `rounds` since the loader's first pass, came before.

        A round is one batch of this worker, in DataLoader's round over its workers.
        """
        self._loaded[worker] = torch.tensor([1, batches, rounds], device="cpu")

    @property
    def any_loaded(self) -> bool:
        """Whether a worker has loaded a state since the last `write`."""
        return bool(self._loaded[:, 0].any())

    @property
    def loaded(self) -> tuple[int, int]:
        """(batches, rounds) of all workers together."""
        _, batches, rounds = self._loaded.sum(0).tolist()
        return batches, rounds


def _slot(key: bytes) -> tuple[int, int]:
    """Where a pass's number is, and the bits by which it is known there; never 0."""
    word = int.from_bytes(key[:8], "little") % (1 << _KEY_BITS) or 1
    return 1 + word % _SLOTS, word


def _shared(*size: int, dtype: torch.dtype) -> torch.Tensor:
    zeros = torch.zeros(*size, dtype=dtype, device="cpu")
    assert zeros.nbytes <= _MAX_SHARED_BYTES
    return zeros.share_memory_()  # type: ignore[no-any-return, no-untyped-call]
