"""Batches and errors that can't be pickled on their way out of a worker: the loop gets an error in their place.

A worker puts what it makes into a queue, whose thread pickles it later. What that thread can't pickle it prints and
drops: torch waits for it for ever, or leaves the rest of the worker's batches out. Nothing is done here, or costs
anything, before that happens.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from types import FrameType
from typing import Any, NoReturn

from torch._utils import ExceptionWrapper
from torch.utils.data import get_worker_info

from infobatch_client.tie.loud import Loud
from infobatch_client.tie.rows import TiedBatch
from infobatch_client.workers.worker_errors import WorkerTraceback, class_name
from infobatch_stream.errors import WorkerError

__all__ = ["Unsent", "WorkerStart", "report_unsent"]

_DEEPEST = 8
_LONGEST = 80  # characters of a value's repr


class Unsent(ExceptionWrapper):
    """What the loop gets instead, from torch's worker: an error of text alone.

    Args:
        text: the message.
        origin: a traceback, as text.
    """

    def __init__(self, text: str, origin: str) -> None:
        self.exc_type = WorkerError
        self.exc_msg = text
        self.where = origin

    def reraise(self) -> NoReturn:
        """Raises it, in the loop.

        Raises:
            WorkerError: always.
        """
        raise WorkerError(self.exc_msg) from WorkerTraceback(self.where)


@dataclass(frozen=True)
class WorkerStart:
    """A loader's `worker_init_fn`: the user's, of which no error gets lost. Picklable if that is.

    Args:
        worker_init_fn: the user's.
    """

    worker_init_fn: Callable[[int], None] | None

    def __call__(self, worker: int) -> None:
        report_unsent()
        if self.worker_init_fn is not None:
            Loud(self.worker_init_fn)(worker)


def report_unsent() -> None:
    """Called in a worker, before its first batch: what can't be pickled comes to the loop as a WorkerError."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "_worker_loop" and "data_queue" in frame.f_locals:
            nested = frame.f_globals.get("__name__", "").startswith("torchdata")
            queue = frame.f_locals["data_queue"]
            queue._on_queue_feeder_error = _Reporter(queue, nested)  # read when the queue's thread starts: at a put
            return
        frame = frame.f_back


class _Reporter:
    """Called by the queue's thread with what it could not pickle.

    Args:
        queue: of the worker.
        nested: items are torchdata's (number, (data, worker, state)), not torch's (number, data).
    """

    def __init__(self, queue: Any, nested: bool) -> None:
        self._queue = queue
        self._nested = nested

    def __call__(self, error: Exception, item: Any) -> None:
        if not isinstance(item, tuple) or len(item) != 2:  # pickled, and the loop's process is gone
            traceback.print_exception(error)
            return
        number, data = item
        worker, state = None, None
        if self._nested and isinstance(data, tuple):
            data, worker, state = data
        if isinstance(data, Unsent):  # so it is the state
            state = None
        else:
            data = _unsent(error, data)
        self._put_first((number, (data, worker, state) if self._nested else data))

    def _put_first(self, item: Any) -> None:
        """As `put`, but ahead of the worker's next items, one of which may tell torch that nothing comes any more."""
        self._queue._sem.acquire()
        with self._queue._notempty:
            self._queue._buffer.appendleft(item)


def _unsent(error: Exception, data: Any) -> Unsent:
    info = get_worker_info()
    where = f"worker process {info.id}" if info is not None else "a worker process"
    if isinstance(data, ExceptionWrapper):
        name, origin = class_name(data.exc_type), str(data.exc_msg)
        summary = (name + origin.rpartition(f"\n{name}")[2]).strip()
        return Unsent(
            f"{where} raised an error that can't be pickled, so that only its text is here: {summary}", origin
        )
    try:
        found = _first_unpicklable(data)
    except Exception:  # a user's object, whose repr or pickling may do anything
        found = "a part of it"
    return Unsent(
        f"a batch of {where} can't be pickled, and so can't be sent to the loop: {found} ({type(error).__name__}: "
        f"{error}). Let stages and collate_fn return tensors, arrays, numbers, strings, or objects of classes at a "
        "module's top level; no lambdas, local classes, open files or locks; or use num_workers=0",
        "".join(traceback.format_exception(error)),
    )


def _first_unpicklable(value: Any, path: str = "batch", depth: int = 0) -> str:
    """Where the first part is that can't be pickled, and what it is."""
    for step, part in _parts(value) if depth < _DEEPEST else ():
        if not _pickles(part):
            return _first_unpicklable(part, path + step, depth + 1)
    text = repr(value)
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return f"{path} is {shown}, of class {class_name(type(value))}"


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, TiedBatch):
        yield "", value.payload  # the tie beside it always pickles
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield f"[{key!r}]", part
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield f"[{number}]", part
    elif not isinstance(value, type):
        for name, part in getattr(value, "__dict__", {}).items():
            yield f".{name}", part


def _pickles(value: Any) -> bool:
    try:
        ForkingPickler.dumps(value)
    except Exception:
        return False
    return True
