"""The samples that exist, as a mask: checked, whether a user gave it as one or as indices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError

__all__ = ["subset_mask"]


def subset_mask(subset: npt.NDArray[Any], num_samples: int) -> npt.NDArray[np.bool_]:
    """The samples that exist, bool (N,), given as such or as sample indices; a new array.

    Raises:
        ConfigError: another shape or dtype, no sample, an index out of range, or one more than once.
    """
    if not subset.size:
        raise ConfigError("subset is empty: give the samples that exist")
    if subset.dtype == bool:
        if subset.shape != (num_samples,):
            raise ConfigError(f"subset is bool {subset.shape}; as a mask it must be ({num_samples},)")
        return np.array(subset, bool)
    if subset.ndim != 1 or not np.issubdtype(subset.dtype, np.integer):
        raise ConfigError(f"subset is {subset.dtype} {subset.shape}; give bool (N,) or int64 indices (n,)")
    if not 0 <= int(subset.min()) <= int(subset.max()) < num_samples:
        raise ConfigError(
            f"subset has indices from {int(subset.min())} to {int(subset.max())}, outside [0, {num_samples})"
        )
    mask = np.zeros(num_samples, bool)
    mask[subset] = True
    if int(mask.sum()) != len(subset):
        numbers, times = np.unique(subset, return_counts=True)
        raise ConfigError(
            f"subset has {int((times > 1).sum())} indices more than once, the first {int(numbers[times > 1][0])}: "
            "an epoch has each sample once; np.unique(subset) has each of them once"
        )
    return mask
