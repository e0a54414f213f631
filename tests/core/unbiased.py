"""The check that a weighted, pruned sum stands for the sum over all samples (paper Eq. 6–8), for any kind of test.

directions = random_directions(num_samples)
sums = [directions[kept].T @ weights for each plan]
check_unbiased(np.array(sums), directions.sum(axis=0))
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["check_unbiased", "random_directions", "weighted_sum"]


def random_directions(num_samples: int, num_directions: int = 16, seed: int = 0) -> npt.NDArray[np.float64]:
    """Stand-ins for per-sample gradients, N(1, 1): float64 (N, D). The mean of 1 shows a wrong scale."""
    return np.random.default_rng(seed).normal(1.0, 1.0, size=(num_samples, num_directions))


def weighted_sum(
    directions: npt.NDArray[np.float64], indices: npt.NDArray[np.int64], weights: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Σ weight·g over trained rows: (D,), of directions (N, D), sample indices (n,) and their weights (n,)."""
    return weights.astype(np.float64) @ directions[indices]


def check_unbiased(sums: npt.NDArray[np.float64], exact: npt.NDArray[np.float64], *, max_z: float = 4.0) -> float:
    """Compares the mean of many weighted sums with the sum over all samples; gives the largest |z|.

    Args:
        sums: Σ weight·g of each plan (or training epoch), float64 (plans, D).
        exact: Σ g over all samples that may be trained, float64 (D,).
        max_z: the most standard errors that a mean may be off.

    Raises:
        AssertionError: a mean is further off; or a sum that never varies isn't the exact one.
    """
    errors = sums - exact
    means, deviations = errors.mean(axis=0), errors.std(axis=0, ddof=1)
    # float32 weights are off by up to 2⁻²⁴ each; that is no bias to look for.
    rounding = 1e-6 * np.abs(exact).max() + 1e-9
    constant = deviations <= rounding
    assert (np.abs(means[constant]) <= rounding).all(), f"a sum without variance is off by {means[constant]}"
    if constant.all():
        return 0.0
    z = np.abs(means[~constant]) / (deviations[~constant] / np.sqrt(len(sums)))
    assert z.max() < max_z, (
        f"Σ weight·g is off by {z.max():.1f} standard errors (relative {means.sum() / exact.sum():+.2%})"
    )
    return float(z.max())
