"""A collate function in a plain DataLoader: takes the tie off rows before it, and puts it behind its batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate, default_convert

from infobatch_client.tie.layers import layers
from infobatch_client.tie.loud import Loud
from infobatch_client.tie.pass_mark import with_mark_of
from infobatch_client.tie.rows import untied_row
from infobatch_client.tie.stages import stage_name
from infobatch_client.user_warnings import warn_user
from infobatch_stream.errors import ConfigError

__all__ = ["TiedCollate", "watch_collate"]

_MOST_FRAMES = 20


@dataclass(frozen=True)
class TiedCollate:
    """What `dataset.collate(collate_fn)` returns. Picklable if `collate_fn` is.

    Args:
        collate_fn: list of B payloads → batch; None: torch's default_collate.
    """

    collate_fn: Callable[[list[Any]], Any] | None = None

    def __call__(self, rows: Sequence[Any]) -> Any:
        """The batch of rows, with index int64 (B,) and weight float32 (B,).

        Raises:
            ConfigError: rows without a tie.
            RuntimeError: `collate_fn` has raised StopIteration.
        """
        if not isinstance(rows, (list, tuple)):
            raise ConfigError(
                "dataset.collate(…) makes a batch of a list of rows; DataLoader(dataset, batch_size=None) gives one row"
            )
        payloads, indices, weights = zip(*map(untied_row, rows), strict=True)
        batch = Loud(self.collate_fn or default_collate)(list(payloads))
        index = with_mark_of(rows[0], torch.tensor(indices, dtype=torch.int64))
        weight = torch.from_numpy(np.array(weights, np.float32))
        if isinstance(batch, MutableMapping):
            tie = {"__index__": index, "__weight__": weight}
            if type(batch) is dict:
                return {**batch, **tie}
            batch.update(tie)
            return batch
        if isinstance(batch, tuple) and not hasattr(batch, "_fields"):
            return (*batch, index, weight)
        if self.collate_fn is None and isinstance(batch, list) and type(payloads[0]) is tuple:
            return [*batch, index, weight]  # torch makes lists of tuples
        return (batch, index, weight)


def watch_collate() -> None:
    """Warns if the DataLoader that reads this process's rows has a collate function that knows no tie.

    Makes any collate function of it `Loud`. To be called while it reads: torch doesn't say otherwise who reads a
    dataset.
    """
    fetcher = _fetcher(sys._getframe(1))
    if fetcher is None or isinstance(fetcher.collate_fn, Loud):
        return
    collate_fn, fetcher.collate_fn = fetcher.collate_fn, Loud(fetcher.collate_fn)
    if not fetcher.auto_collation or _is_tied(collate_fn):
        return
    name = stage_name(collate_fn).partition("(")[0]
    warn_user(
        f"collate_fn={name} gets rows that carry their sample's index and weight beside the payload. Pass "
        f"collate_fn=dataset.collate({name}): it calls {name} with the payloads alone, and adds index and weight to "
        f"its batch. If {name} handles them itself, set {name}.tied = True",
    )


def _is_tied(collate_fn: Any) -> bool:
    return any(
        layer is default_collate
        or layer is default_convert
        or isinstance(layer, TiedCollate)
        or getattr(layer, "tied", None) is True
        for layer in layers(collate_fn)
    )


def _fetcher(frame: FrameType | None) -> Any:
    """The fetcher of torch's DataLoader, or torchdata's, that is reading; None for another reader."""
    for _ in range(_MOST_FRAMES):
        if frame is None:
            return None
        if frame.f_code.co_name == "fetch":
            fetcher = frame.f_locals.get("self")
            if hasattr(fetcher, "collate_fn") and hasattr(fetcher, "auto_collation"):
                return fetcher
        frame = frame.f_back
    return None
