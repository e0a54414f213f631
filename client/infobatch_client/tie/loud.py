"""Calls of users' functions whose StopIteration or KeyboardInterrupt torch would take for the end of a pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import get_worker_info

from infobatch_client.tie.stages import stage_name
from infobatch_stream.errors import WorkerError

__all__ = ["Loud", "interrupted"]


@dataclass(frozen=True)
class Loud:
    """A function that never ends a pass silently. Picklable if `function` is.

    Args:
        function: a collate function or a `worker_init_fn`.
    """

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns.

        Raises:
            RuntimeError: it has raised StopIteration, as in a generator (PEP 479).
            WorkerError: it has raised KeyboardInterrupt in a worker.
        """
        try:
            return self.function(*arguments)
        except StopIteration as error:
            raise RuntimeError(f"{stage_name(self.function)} raised StopIteration") from error
        except KeyboardInterrupt as error:
            if get_worker_info() is None:
                raise
            raise interrupted() from error


def interrupted() -> WorkerError:
    """In a worker: instead of KeyboardInterrupt, at which torch's worker ends without a word."""
    info = get_worker_info()
    return WorkerError(
        f"KeyboardInterrupt in worker process {info.id if info is not None else 0}: the process received SIGINT, or "
        "its code raised it; the pass can't go on, a new one can begin"
    )
