"""Errors that a worker sends instead of a batch, so that they are raised in the loop as they were raised there.

torch puts the worker's whole traceback into the message of a new exception; here type, message, attributes and notes
stay, and the traceback is the cause.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

__all__ = ["SentError", "WorkerTraceback", "sending_errors"]


class WorkerTraceback(Exception):
    """The traceback of an error in a worker process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True)
class SentError:
    """An error on its way from a worker.

    Args:
        pickled: the error.
        summary: its type and message.
        origin: its traceback, as text.
        worker: the process's number.
    """

    pickled: bytes
    summary: str
    origin: str
    worker: int

    def raise_here(self) -> NoReturn:
        """Raises it.

        Raises:
            Exception: the worker's; RuntimeError where this process doesn't know its type.
        """
        try:
            error = pickle.loads(self.pickled)
        except Exception:
            error = RuntimeError(self.summary)
        raise error from WorkerTraceback(f"in worker process {self.worker}:\n{self.origin}")


def sending_errors(make: Callable[[], Iterator[Any]], worker: int) -> Iterator[Any]:
    """The batches that `make` makes, at once; an error of it or of them comes as a last one, a `SentError`.

    An error that doesn't survive pickling is raised, so that torch sends its text.
    """
    try:
        batches = make()
    except Exception as error:
        return iter([_sent(error, worker)])
    return _until_error(batches, worker)


def _until_error(batches: Iterator[Any], worker: int) -> Iterator[Any]:
    try:
        yield from batches
    except Exception as error:
        yield _sent(error, worker)


def _sent(error: Exception, worker: int) -> SentError:
    try:
        pickled = pickle.dumps(error)
        copy = pickle.loads(pickled)
    except Exception:
        raise error from error.__cause__
    if type(copy) is not type(error) or str(copy) != str(error):
        raise error from error.__cause__
    summary = "".join(traceback.format_exception_only(error)).strip()
    return SentError(pickled, summary, "".join(traceback.format_exception(error)), worker)
