"""infobatch-stream: InfoBatch data pruning for streamed, multi-node training.

The names below are the public API. All but the errors are imported at their first use (PEP 562), so that the score
server, which has no torch, can import this package. Authors of policies find the base class in
`infobatch_stream.pruning.policies`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infobatch_stream.errors import (
    AccessError,
    ConfigError,
    CorruptShardError,
    DuplicateKeyError,
    EmptyShardError,
    InfoBatchError,
    LossError,
    PermissionDeniedError,
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
    UnauthenticatedError,
    WorkerError,
)
from infobatch_stream.version import __version__

if TYPE_CHECKING:
    from infobatch_client.dataset import InfoBatchStreamDataset
    from infobatch_client.loader import InfoBatchLoader
    from infobatch_client.progress_lr import ProgressLR, cosine, one_cycle
    from infobatch_client.run.options import Connection, Timeouts
    from infobatch_client.selection.select import select_samples
    from infobatch_client.tie.declared import may_drop
    from infobatch_client.workers.skip_errors import SkipErrors
    from infobatch_stream.plan.order_params import OrderChoice
    from infobatch_stream.pruning.policies import Full, Hard, InfoBatch, Levels, Random

__all__ = [
    "AccessError",
    "ConfigError",
    "Connection",
    "CorruptShardError",
    "DuplicateKeyError",
    "EmptyShardError",
    "Full",
    "Hard",
    "InfoBatch",
    "InfoBatchError",
    "InfoBatchLoader",
    "InfoBatchStreamDataset",
    "Levels",
    "LossError",
    "OrderChoice",
    "PermissionDeniedError",
    "PipelineError",
    "PlanError",
    "PlanNotReadyError",
    "ProgressLR",
    "Random",
    "RanksError",
    "RunBusyError",
    "RunConflictError",
    "RunNotFoundError",
    "ServerBusyError",
    "ServerError",
    "ServerUnreachableError",
    "ShardChangedError",
    "ShardError",
    "SkipErrors",
    "StateError",
    "SupersededError",
    "Timeouts",
    "TryAgainError",
    "UnauthenticatedError",
    "WorkerError",
    "__version__",
    "cosine",
    "may_drop",
    "one_cycle",
    "select_samples",
]


_LAZY = {
    "Connection": "infobatch_client.run.options",
    "Full": "infobatch_stream.pruning.policies",
    "Hard": "infobatch_stream.pruning.policies",
    "InfoBatch": "infobatch_stream.pruning.policies",
    "InfoBatchLoader": "infobatch_client.loader",
    "InfoBatchStreamDataset": "infobatch_client.dataset",
    "Levels": "infobatch_stream.pruning.policies",
    "OrderChoice": "infobatch_stream.plan.order_params",
    "ProgressLR": "infobatch_client.progress_lr",
    "Random": "infobatch_stream.pruning.policies",
    "SkipErrors": "infobatch_client.workers.skip_errors",
    "Timeouts": "infobatch_client.run.options",
    "cosine": "infobatch_client.progress_lr",
    "may_drop": "infobatch_client.tie.declared",
    "one_cycle": "infobatch_client.progress_lr",
    "select_samples": "infobatch_client.selection.select",
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
            import_module("infobatch_client")  # which says so if the platform isn't supported
            import_module("torch")  # webdataset imports without it, and puts stand-ins in its place
        return getattr(import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("infobatch_client", "infobatch_stream"):
            raise
        raise ImportError(
            f"{name} needs {error.name!r}, which is not installed: pip install 'infobatch-stream[train]'",
            name=error.name,
        ) from error
