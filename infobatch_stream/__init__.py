"""infobatch-stream: InfoBatch data pruning for streamed, multi-node training.

The names below are the public API. Those that need torch are looked up in `infobatch_client` at first use
(PEP 562), so that this package costs nothing where torch isn't installed, as on the score server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infobatch_stream.errors import (
    ConfigError,
    CorruptShardError,
    DuplicateKeyError,
    EmptyShardError,
    InfoBatchError,
    LossError,
    PipelineError,
    PlanError,
    PlanNotReadyError,
    RanksError,
    RunBusyError,
    RunConflictError,
    RunNotFoundError,
    ServerBusyError,
    ServerError,
    ServerUnreachableError,
    ShardChangedError,
    ShardError,
    StateError,
    SupersededError,
    TryAgainError,
)
from infobatch_stream.version import __version__

if TYPE_CHECKING:
    from infobatch_client.dataset import InfoBatchStreamDataset
    from infobatch_client.loader import InfoBatchLoader
    from infobatch_client.progress_lr import ProgressLR, cosine, one_cycle
    from infobatch_client.run.options import Timeouts
    from infobatch_stream.plan.order_params import OrderChoice

__all__ = [
    "ConfigError",
    "CorruptShardError",
    "DuplicateKeyError",
    "EmptyShardError",
    "InfoBatchError",
    "InfoBatchLoader",
    "InfoBatchStreamDataset",
    "LossError",
    "OrderChoice",
    "PipelineError",
    "PlanError",
    "PlanNotReadyError",
    "ProgressLR",
    "RanksError",
    "RunBusyError",
    "RunConflictError",
    "RunNotFoundError",
    "ServerBusyError",
    "ServerError",
    "ServerUnreachableError",
    "ShardChangedError",
    "ShardError",
    "StateError",
    "SupersededError",
    "Timeouts",
    "TryAgainError",
    "__version__",
    "cosine",
    "one_cycle",
]


_LAZY = {
    "InfoBatchLoader": "infobatch_client.loader",
    "InfoBatchStreamDataset": "infobatch_client.dataset",
    "OrderChoice": "infobatch_stream.plan.order_params",
    "ProgressLR": "infobatch_client.progress_lr",
    "Timeouts": "infobatch_client.run.options",
    "cosine": "infobatch_client.progress_lr",
    "one_cycle": "infobatch_client.progress_lr",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = _load(name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _load(name: str) -> Any:
    from importlib import import_module

    try:
        if _LAZY[name].startswith("infobatch_client."):
            import_module("torch")  # webdataset imports without it, and puts stand-ins in its place
        return getattr(import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("infobatch_client", "infobatch_stream"):
            raise
        raise ImportError(
            f"{name} needs {error.name!r}, which is not installed: pip install 'infobatch-stream[train]'",
            name=error.name,
        ) from error
