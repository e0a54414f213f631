"""The order of a validation pass over shuffled samples, which every reader computes without a run or a server."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from infobatch_stream.manifest import Manifest
from infobatch_stream.plan.epoch_plan import EpochPlan, unpruned_plan
from infobatch_stream.plan.order_params import OrderParams

__all__ = ["validation_plan"]


def validation_plan(
    manifest: Manifest, *, seed: int, number: int, subset: npt.NDArray[np.bool_] | None = None
) -> EpochPlan:
    """Every sample of the shards, in the order of pass `number`: the same for the same seed, everywhere.

    Args:
        manifest: the shards'.
        seed: of the order.
        number: of the pass.
        subset: bool (N,), the samples that exist; None: all.
    """
    sizes = np.asarray(manifest.counts, np.int64)
    order = OrderParams.default(num_samples=manifest.num_samples, num_shards=len(sizes), lanes=1, global_batch=1)
    return unpruned_plan(run_id=bytes(16), epoch=number, seed=seed, shard_sizes=sizes, order=order, subset=subset)
