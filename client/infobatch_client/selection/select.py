"""Sample indices by a predicate over a few small members: `select_samples`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from webdataset.autodecode import Decoder, DecodingError

from infobatch_client.reading.members import read_members
from infobatch_client.reading.open_shards import OpenShards
from infobatch_client.shards.bad_shards import left_out_warning
from infobatch_client.shards.index_store import IndexedShards, index_shards
from infobatch_client.shards.progress import ProgressBar
from infobatch_client.shards.urls import ShardsArgument, expand_shards
from infobatch_client.user_warnings import warn_user
from infobatch_client.workers.skip_errors import SkipErrors, error_rule
from infobatch_stream.errors import ConfigError, InfoBatchError, ShardError
from infobatch_stream.keywords import suggesting
from infobatch_stream.ratios import whole_number

__all__ = ["select_samples"]

Predicate = Callable[[dict[str, Any]], Any]
_Found = tuple[npt.NDArray[np.int64], list[str], tuple[str, ...]]


@suggesting
def select_samples(
    shards: ShardsArgument,
    predicate: Predicate,
    *,
    members: str | Sequence[str] = ("json",),
    num_workers: int | None = None,
    decode: bool = True,
    on_error: str | SkipErrors = "raise",
    progress: bool | None = None,
) -> npt.NDArray[np.int64]:
    """Finds the samples for which a predicate holds; for `subset=`. Reads `members` only, in several processes.

    Args:
        shards: as for the dataset, of which the result is a part.
        predicate: called with a dict for each sample: `__key__`, `__url__`, and those of `members` that the sample has.
            True selects the sample; anything but a bool is an error. It runs in other processes: what it changes isn't
            seen here. Outside of Linux it must pickle, or `num_workers` be 0.
        members: extensions; () for keys alone, which reads nothing.
        num_workers: processes; 0 reads in this one. By default as many as the CPUs that this process may use.
        decode: as webdataset's `.decode()`: json is parsed, txt is a str, cls an int, and so on. Else all are bytes.
        on_error: the dataset's. "skip" leaves out the same bad shards, and samples that can't be read or decoded or on
            which the predicate raises, up to `max_errors` in all; a warning counts them.
        progress: whether to show a progress bar after a second; None: on a terminal only.

    Returns:
        Sample indices, int64 (n,), ascending.

    Raises:
        ConfigError: the predicate raised, and the message names the sample; no sample has one of `members`; an argument
            is invalid.
        ShardError: a shard is bad, or a member can't be read or decoded.

    Example:
        >>> large = select_samples("data/train-*.tar", lambda s: s["json"]["width"] > 256)       # doctest: +SKIP
        >>> dataset = InfoBatchStreamDataset("data/train-*.tar", epochs=30, subset=large)       # doctest: +SKIP
    """
    if not callable(predicate):
        raise ConfigError(f"predicate is a {type(predicate).__name__}; give a function of a sample")
    names = tuple(name.lower().lstrip(".") for name in ([members] if isinstance(members, str) else members))
    skip = error_rule(on_error)
    indexed = index_shards(
        expand_shards(shards, missing_ok=True), progress=progress, max_left_out=0 if skip is None else skip.max_shards
    )
    if indexed.left_out:
        warn_user(left_out_warning(indexed.left_out, len(indexed.urls)))
    scan = _Scan(indexed, predicate, names, decode=decode, max_errors=None if skip is None else skip.max_errors)
    num_shards = len(indexed.paths)
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_workers = whole_number(num_workers, "num_workers")
    found: list[npt.NDArray[np.int64]] = []
    errors: list[str] = []
    extensions: set[str] = set()
    with (
        _mapped(scan, min(num_workers, num_shards), num_shards) as results,
        ProgressBar(num_shards, "selecting", progress) as bar,
    ):
        for indices, failed, names_here in results:
            found.append(indices)
            errors += failed
            extensions.update(names_here)
            bar.update()
            scan.check(errors)
    if lacking := [name for name in names if name not in extensions]:
        raise ConfigError(
            f"members={list(names)}: no sample has a member {lacking[0]!r}; they have {', '.join(sorted(extensions))}"
        )
    if errors:
        warn_user(f"{len(errors)} samples were not selected, as they failed; the last one: {errors[-1]}")
    return np.concatenate(found)


class _Scan:
    """What a process needs to look through shards."""

    def __init__(
        self,
        indexed: IndexedShards,
        predicate: Predicate,
        members: tuple[str, ...],
        *,
        decode: bool,
        max_errors: int | None,
    ) -> None:
        self.indexed = indexed
        self.predicate = predicate
        self.members = members
        self.decode = decode
        self.max_errors = max_errors

    def check(self, errors: list[str]) -> None:
        """Raises if more samples have failed than may."""
        if self.max_errors is not None and len(errors) > self.max_errors:
            raise ConfigError(f"over max_errors={self.max_errors} samples failed; the last one: {errors[-1]}")

    def look_through(self, shard: int) -> _Found:
        """The samples of a shard for which the predicate holds, those that failed, and the shard's extensions."""
        opened = OpenShards(self.indexed, 1).get(shard)
        offset = int(self.indexed.manifest.offsets[shard])
        decoder = Decoder([]) if self.decode else None
        chosen: list[int] = []
        errors: list[str] = []
        for index, sample in enumerate(read_members(opened, self.members), offset):
            try:
                if self.holds(sample, index, decoder):
                    chosen.append(index)
            except InfoBatchError as error:
                if self.max_errors is None:
                    raise
                errors.append(str(error))
                self.check(errors)
        return np.array(chosen, np.int64), errors, opened.index.head.extensions

    def holds(self, sample: dict[str, Any], index: int, decoder: Decoder | None) -> bool:
        """Whether the predicate holds for a sample."""
        where = f"{sample['__url__']}: sample {sample['__key__']!r} (index {index})"
        lacks = [name for name in self.members if name not in sample]
        try:
            decoded = sample if decoder is None else decoder(sample)
        except DecodingError as error:
            cause = _words(error.__cause__ or error)
            raise ShardError(
                f"{where}: its member {error.k!r} can't be decoded: {cause}; decode=False gives bytes"
            ) from error
        try:
            chosen = self.predicate(decoded)
        except Exception as error:
            hint = f"; it has no member {lacks[0]!r}, so ask by sample.get({lacks[0]!r})" if lacks else ""
            raise ConfigError(f"{where}: the predicate raised {_words(error)}{hint}") from error
        if not isinstance(chosen, (bool, np.bool_)):
            raise ConfigError(
                f"{where}: the predicate gave a {type(chosen).__name__}; return True or False, such as bool(…)"
            )
        return bool(chosen)


def _words(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(type(error), error)).strip()


_scan: _Scan | None = None


def _start(scan: _Scan) -> None:
    global _scan
    _scan = scan
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits for the results ends this one


def _look_through(shard: int) -> _Found:
    assert _scan is not None
    return _scan.look_through(shard)


@contextmanager
def _mapped(scan: _Scan, num_workers: int, num_shards: int) -> Iterator[Iterator[_Found]]:
    """The results of all shards, in order."""
    if num_workers < 2:
        yield map(scan.look_through, range(num_shards))
        return
    # Forked, so that a lambda needs no pickling.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start, initargs=(scan,))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
            results = pool.map(_look_through, range(num_shards))
        yield results
    except BrokenProcessPool as error:
        raise ConfigError(
            "a process of select_samples was killed; was there enough memory for num_workers=?"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
