"""The random numbers of stages and collate functions: seeded anew for every batch, by what the batch is.

Neither the worker that makes a batch goes in, nor the position at which the epoch was opened: the numbers are the same
for any number of workers, and after a resume.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

from infobatch_client.workers.pass_control import Pass

__all__ = ["BatchSeeds", "pass_seed"]

_STAGES, _COLLATE, _SPARE, _START = range(4)

_numpy: Any = np.random  # numpy's stubs leave get_bit_generator out

T = TypeVar("T")


class BatchSeeds:
    """Seeds torch's CPU generator, numpy's global one and `random` before the user code of a batch runs.

    For one pass, in one thread. CUDA's generators are left alone.

    Args:
        pass_: the pass: its seeds, loader number, rank, epoch and generation go into the seeds.
        fingerprint: of the manifest, so that loaders of several data sets draw apart.
        keeps_own: user code runs in the loop's own process: between batches its three generators are as they were.
    """

    def __init__(self, pass_: Pass, fingerprint: bytes, *, keeps_own: bool) -> None:
        self._key = hashlib.blake2b(_key(pass_, fingerprint), digest_size=20)
        self._start, self._per_step = pass_.start, pass_.batch_size * pass_.world_size
        self._keeps_own = keeps_own
        self._own: tuple[Any, ...] | None = None
        self._ahead: tuple[Any, ...] | None = None
        self._step: int | None = None

    def around(self, batches: Iterator[T], first_step: int) -> Iterator[T]:
        """The batches, made by user code with generators of its own; stages start with those of `first_step`."""
        label = _START
        while True:
            if self._keeps_own:
                self._own = _states()
            if self._ahead is not None:
                _restore(self._ahead)
                self._ahead = None
            if label == _START:
                self._seed(first_step, _START)
                label = _STAGES
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                if self._own is not None:
                    _restore(self._own)
            yield batch

    def begin(self, step: int) -> None:
        """The stages receive the first sample of a step's batch next."""
        self._step = step
        self._seed(step, _STAGES)

    def pause(self) -> None:
        """The stages stop inside a batch, and continue when `around` is asked for more."""
        if self._keeps_own:
            self._ahead = _states()

    def begin_collate(self, step: int) -> None:
        """A batch that lacks rows is collated; the stages may have received samples of a later one already."""
        if self._step != step:
            self._ahead = _states()
        self._seed(step, _COLLATE)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """User code that belongs to no batch: it disturbs none."""
        before = _states()
        self._seed_by(0, _SPARE)
        try:
            yield
        finally:
            _restore(before)

    def _seed(self, step: int, label: int) -> None:
        self._seed_by(self._start + step * self._per_step, label)

    def _seed_by(self, position: int, label: int) -> None:
        digest = self._key.copy()
        digest.update(struct.pack("<qB", position, label))
        for_torch, for_random, for_numpy = struct.unpack("<qQI", digest.digest())
        torch.default_generator.manual_seed(for_torch)
        random.seed(for_random)
        if _numpy_can_be_seeded():
            np.random.seed(for_numpy)


def pass_seed(pass_: Pass, fingerprint: bytes) -> int:
    """What DataLoader seeds its workers by, in [0, 2⁶³): for generators that user code makes when a worker starts."""
    key = _key(pass_, fingerprint) + struct.pack("<q", pass_.start)
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def _key(pass_: Pass, fingerprint: bytes) -> bytes:
    seeds = [pass_.base_seed, pass_.data_seed, pass_.loader_number]
    parts = [*seeds, pass_.rank, pass_.epoch, pass_.generation]
    return json.dumps(parts).encode() + fingerprint


def _states() -> tuple[Any, ...]:
    own_numpy = np.random.get_state() if _numpy_can_be_seeded() else None
    return torch.default_generator.get_state(), own_numpy, random.getstate()


def _restore(states: tuple[Any, ...]) -> None:
    for_torch, for_numpy, for_random = states
    torch.default_generator.set_state(for_torch)
    if for_numpy is not None:
        np.random.set_state(for_numpy)
    random.setstate(for_random)


def _numpy_can_be_seeded() -> bool:
    """Whether numpy's global generator is its usual one: another (`np.random.set_bit_generator`) takes no seed."""
    return isinstance(_numpy.get_bit_generator(), np.random.MT19937)
