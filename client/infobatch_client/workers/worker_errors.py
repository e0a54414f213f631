"""Errors that a worker sends instead of a batch, so that they are raised in the loop as they were raised there.

torch puts the worker's whole traceback into the message of a new exception; here type, message, attributes and notes
stay, and the traceback is the cause.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MemberDescriptorType
from typing import Any, NoReturn

from infobatch_stream.errors import WorkerError

__all__ = ["SentError", "WorkerTraceback", "class_name", "sending_errors"]


class WorkerTraceback(Exception):
    """The traceback of an error in a worker process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True)
class SentError:
    """An error on its way from a worker.

    Args:
        pickled: the error, or its parts; empty if it can't be pickled.
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
            BaseException: the worker's.
            WorkerError: the worker's can't be pickled, or this process doesn't know its type.
        """
        try:
            error = _unpickled(self.pickled)
        except Exception:
            error = WorkerError(
                f"worker process {self.worker} raised an error that can't be pickled, so that only its text is here: "
                f"{self.summary}"
            )
        if isinstance(error, KeyboardInterrupt) and not error.args:
            error.args = (f"in worker process {self.worker}: it received SIGINT, or its code raised this",)
        raise error from WorkerTraceback(f"in worker process {self.worker}:\n{self.origin}")


@dataclass(frozen=True)
class _Parts:
    """An error that isn't made again by a call of its class with its arguments, as pickle would make it."""

    kind: type[BaseException]
    args: tuple[Any, ...]
    attributes: dict[str, Any]

    def error(self) -> BaseException:
        error = self.kind.__new__(self.kind, *self.args)
        error.args = self.args
        for name, value in self.attributes.items():
            BaseException.__setattr__(error, name, value)
        return error


def sending_errors(make: Callable[[], Iterator[Any]], worker: int) -> Iterator[Any]:
    """The batches that `make` makes, at once; an error of it or of them comes as a last one, a `SentError`."""
    try:
        batches = make()
    except Exception as error:
        return iter([_sent(error, worker)])
    return _until_error(batches, worker)


def class_name(kind: type) -> str:
    """As a traceback names it."""
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


def _until_error(batches: Iterator[Any], worker: int) -> Iterator[Any]:
    try:
        yield from batches
    except GeneratorExit:
        raise
    except BaseException as error:  # torch's worker ends without a word at KeyboardInterrupt
        yield _sent(error, worker)


def _sent(error: BaseException, worker: int) -> SentError:
    summary = "".join(traceback.format_exception_only(error)).strip()
    return SentError(_pickled(error), summary, "".join(traceback.format_exception(error)), worker)


def _pickled(error: BaseException) -> bytes:
    """The error with all attributes that pickle, or else without some; empty if it can't be pickled."""
    attributes = {name: value for name, value in _attributes(error).items() if _pickles(value)}
    for sent, needed in (
        (error, attributes.keys()),
        (_Parts(type(error), error.args, attributes), attributes.keys()),
        (error, ()),
    ):
        try:
            pickled = pickle.dumps(sent)
            copy = _unpickled(pickled)
            if type(copy) is type(error) and str(copy) == str(error) and _attributes(copy).keys() >= set(needed):
                return pickled
        except Exception:
            continue
    return b""


def _unpickled(pickled: bytes) -> BaseException:
    sent: BaseException | _Parts = pickle.loads(pickled)
    return sent.error() if isinstance(sent, _Parts) else sent


def _attributes(error: BaseException) -> dict[str, Any]:
    """Those of its dictionary, and of the `__slots__` of its classes."""
    found = dict(vars(error))
    for kind in type(error).__mro__:
        for name, member in vars(kind).items() if kind.__module__ != "builtins" else ():
            if isinstance(member, MemberDescriptorType) and hasattr(error, member.__name__):
                found[name] = getattr(error, name)
    return found


def _pickles(value: object) -> bool:
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:
        return False
    return True
