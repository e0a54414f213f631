"""The training client: a webdataset dataset and loader whose epochs a score server prunes.

The names below are looked up at first use, so that commands which need no torch start without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infobatch_client.dataset import InfoBatchStreamDataset
    from infobatch_client.loader import InfoBatchLoader
    from infobatch_client.run_options import Timeouts

__all__ = ["InfoBatchLoader", "InfoBatchStreamDataset", "Timeouts"]

_LAZY = {
    "InfoBatchLoader": "infobatch_client.loader",
    "InfoBatchStreamDataset": "infobatch_client.dataset",
    "Timeouts": "infobatch_client.run_options",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
