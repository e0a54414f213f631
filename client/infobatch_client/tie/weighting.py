"""The weighted mean of a batch's losses, and copies of them in host memory without a device sync."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from infobatch_stream.errors import LossError

__all__ = ["HostScores", "Losses", "checked_losses", "host_scores", "weighted_mean"]

Losses = torch.Tensor | Mapping[str, torch.Tensor]


class HostScores(NamedTuple):
    """A batch's scores and columns for a push, in host memory that nobody else writes.

    Args:
        scores: float32 (B,).
        ready: a CUDA event after which all of it is filled; None if it is filled already.
        columns: the policy's columns by name, (B,) each, in their declared dtypes.
    """

    scores: torch.Tensor
    ready: Any = None
    columns: Mapping[str, torch.Tensor] = MappingProxyType({})


def checked_losses(losses: Losses, rows: int, name: str = "losses") -> torch.Tensor:
    """`losses` as one float tensor (B,); a dict's tensors are summed, those of half precision in float32.

    Raises:
        LossError: not a tensor, not (B,), or not floating.
    """
    if isinstance(losses, Mapping):
        if not losses:
            raise LossError(f"{name} is an empty dict")
        parts = [checked_losses(part, rows, f"{name}[{key!r}]") for key, part in losses.items()]
        return torch.stack([_in_float32(part) for part in parts]).sum(0) if len(parts) > 1 else parts[0]
    if not isinstance(losses, torch.Tensor):
        raise LossError(f"{name} is a {type(losses).__name__}; pass a float tensor ({rows},), one loss per sample")
    if losses.shape != (rows,):
        hint = "use reduction='none'" if losses.ndim == 0 else "reduce all other dimensions, by mean or sum"
        raise LossError(f"{name} has shape {tuple(losses.shape)}; it must be ({rows},), one per sample: {hint}")
    if not losses.is_floating_point():
        raise LossError(f"{name} has dtype {losses.dtype}; it must be floating")
    return losses


def weighted_mean(losses: torch.Tensor, weight: npt.NDArray[np.float32], divisor: float | None = None) -> torch.Tensor:
    """Σ wᵢ·lᵢ / B (Eq. 6 with the weights of Eq. 5), with its graph.

    Divides by the rows, those of weight 0 included, never by Σ w: that would not be unbiased. Rows of weight 0 enter
    as exact zeros: a NaN there poisons neither the value nor the gradient with respect to `losses`.

    Args:
        losses: float (B,), on any device. Half precision is summed in float32.
        weight: float32 (B,).
        divisor: in place of B, for a batch without the rows of weight 0 that would fill it up: the value is to the bit
            what it is with them.
    """
    rows = len(weight)
    divisor = rows if divisor is None else divisor
    losses = _in_float32(losses)
    low, high = float(weight.min()), float(weight.max())
    if low == high == 1.0 and divisor == rows:
        return losses.mean()
    on_device = torch.from_numpy(weight).to(losses, non_blocking=True)
    terms = losses * on_device
    if low == 0.0:
        terms = torch.where(on_device > 0, terms, 0)
    if divisor > rows:  # a sum's last bit depends on its number of terms
        terms = torch.nn.functional.pad(terms, (0, round(divisor) - rows))
    return terms.sum() / divisor


def _in_float32(losses: torch.Tensor) -> torch.Tensor:
    """Losses of half precision or less as float32; others as they are."""
    return losses.float() if losses.element_size() < 4 else losses


def host_scores(
    scores: torch.Tensor, columns: Mapping[str, tuple[torch.Tensor, torch.dtype]] | None = None
) -> HostScores:
    """Copies of a batch's scores and columns on their way into host memory; no sync.

    Args:
        scores: float (B,), on any device.
        columns: tensor (B,) by name, with the dtype to convert it to.
    """
    if not columns:
        device = scores.device if scores.is_cuda else None
        return HostScores(_host_copy(scores, torch.float32, device), _filled(device))
    tensors = (scores, *(values for values, _ in columns.values()))
    device = next((values.device for values in tensors if values.is_cuda), None)
    copies = {name: _host_copy(values, dtype, device) for name, (values, dtype) in columns.items()}
    return HostScores(_host_copy(scores, torch.float32, device), _filled(device), copies)


def _host_copy(values: torch.Tensor, dtype: torch.dtype, device: torch.device | None) -> torch.Tensor:
    """A copy in host memory; from CUDA one that is filled by `device`'s current stream."""
    values = values.detach()
    if values.is_cpu:
        return values.to(dtype, copy=True)
    if not values.is_cuda:
        return values.to("cpu", dtype, copy=True)
    host = torch.empty(values.shape, dtype=dtype, device="cpu", pin_memory=True)
    return host.copy_(values.to(device), non_blocking=True)


def _filled(device: torch.device | None) -> Any:
    """An event after the copies on `device`'s current stream; None if all copies are filled already."""
    if device is None:
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
