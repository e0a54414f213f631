"""The index and the weights that a plain loop returns with a batch's losses, checked against the plan."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from infobatch_stream.errors import ConfigError, LossError
from infobatch_stream.plan.epoch_plan import EpochPlan

__all__ = ["checked_index", "checked_weights"]

_TIED = "; in a DataLoader with a collate_fn, collate_fn=dataset.collate(collate_fn) adds both to its batches"


def checked_index(index: torch.Tensor, plan: EpochPlan, rows: int) -> npt.NDArray[np.int64]:
    """The samples of a batch: a copy, int64 (rows,), in host memory.

    Raises:
        LossError: not an int64 tensor (B,), or with samples that the plan doesn't keep.
        ConfigError: its length isn't `rows`, the dataset's batch_size.
    """
    if not isinstance(index, torch.Tensor) or index.dtype != torch.int64 or index.ndim != 1:
        raise LossError(f"index is {_described(index)}; it must be the batch's own: an int64 tensor ({rows},){_TIED}")
    if len(index) != rows:
        raise ConfigError(
            f"this batch has {len(index)} rows and the dataset has batch_size={rows}: set both to the same, "
            f"DataLoader(dataset, batch_size={rows}) or InfoBatchStreamDataset(…, batch_size={len(index)})"
        )
    samples: npt.NDArray[np.int64] = index.detach().cpu().numpy().copy()
    outside = samples[(samples >= plan.num_samples) | (samples < -1 - plan.num_samples)]
    if len(outside):
        raise LossError(f"index has {outside[0]}; samples are in [0, {plan.num_samples}), and -1 in rows that fill")
    real = samples[samples >= 0]
    kept = (plan.keep_bits[real >> 3] >> (real & 7).astype(np.uint8)) & 1
    if not kept.all():
        raise LossError(
            f"index has {real[kept == 0][0]}, which epoch {plan.epoch} leaves out: this batch is of another epoch; "
            "update it before the next set_epoch()"
        )
    return samples


def checked_weights(weight: torch.Tensor, samples: npt.NDArray[np.int64], plan: EpochPlan) -> npt.NDArray[np.float32]:
    """The weights of a batch, float32 (B,) in host memory: 0 in rows that fill.

    Raises:
        LossError: not a float32 tensor (B,), or not the weights of these samples in the plan.
    """
    shape = (len(samples),)
    if not isinstance(weight, torch.Tensor) or weight.dtype != torch.float32 or weight.shape != shape:
        raise LossError(f"weight is {_described(weight)}; it must be the batch's own: a float32 tensor {shape}{_TIED}")
    values: npt.NDArray[np.float32] = weight.detach().cpu().numpy()
    real = samples >= 0
    expected = np.zeros(len(samples), np.float32)
    expected[real] = plan.weights(samples[real])
    if not np.array_equal(values, expected):
        row = int(np.flatnonzero(values != expected)[0])
        raise LossError(
            f"weight has {values[row]:g} for sample {samples[row]}; epoch {plan.epoch} gives it {expected[row]:g}: "
            "pass index and weight as they came with the batch"
        )
    return expected


def _described(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    return f"a tensor {tuple(value.shape)} of {value.dtype}"
