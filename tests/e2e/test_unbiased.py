"""Over the whole path (server, plan, loader, update) the weighted sum over an epoch is that of all samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.dataset_arguments import dataset_arguments

PLANS = 200
DIRECTIONS = 16
POLICIES: dict[str, dict[str, Any]] = {
    "infobatch": {"prune_ratio": 0.5},
    "infobatch, exact": {"prune_ratio": 0.7, "draw": "exact"},
    "infobatch, high": {"condition": "high", "threshold": "quantile:0.6"},
    "prune_fraction": {"prune_fraction": 0.3},
    "prune_fraction beyond the class": {"prune_fraction": 0.6},
    "levels": {"policy": "levels", "levels": [(0.20, 0.75), (0.85, 0.5)]},
    "random": {"policy": "random", "prune_ratio": 0.4},
}
QUICK = ("infobatch", "prune_fraction", "levels")


def z_scores(sums: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """z (D,) of the mean of sums (T, D) against expected (D,); where nothing varies, 0 or infinity."""
    spread = sums.std(axis=0, ddof=1) / np.sqrt(len(sums))
    off = sums.mean(axis=0) - expected
    exact = spread < 1e-9 * np.abs(expected).max()
    return np.where(exact, np.where(np.abs(off) < 1e-6 * np.abs(expected).max(), 0, np.inf), off / spread)


def to_number(sample: dict[str, Any]) -> int:
    return int(sample["txt"])


@pytest.mark.statistics
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in POLICIES]
)
def test_the_weighted_sum_of_an_epoch_is_that_of_all_samples(name: str, server: Server, shards: str) -> None:
    rng = np.random.default_rng(7)
    directions = rng.normal(1, 1, (SAMPLES, DIRECTIONS))
    losses = torch.from_numpy(directions[:, 0].copy())
    scores = torch.from_numpy(rng.exponential(size=SAMPLES).astype(np.float32))
    arguments = dataset_arguments(delta=f"{(PLANS + 1.5) / (PLANS + 2):.6f}", **POLICIES[name])
    dataset = InfoBatchStreamDataset(
        shards,
        url=server.url,
        run=f"unbiased-{list(POLICIES).index(name)}",
        epochs=PLANS + 2,
        seed=11,
        **arguments,
    ).map(to_number)
    by_weights, by_updates, normalised = [], [], []
    kept = []
    with InfoBatchLoader(dataset, batch_size=96) as loader:
        for _ in loader.epochs():
            weighted, updates, divided = np.zeros(DIRECTIONS), 0.0, 0.0
            for numbers in loader:
                value = loader.update(losses[numbers], scores=scores[numbers]).item()
                weights = loader.weights().double().numpy()
                weighted += weights @ directions[numbers]
                updates += 96 * value
                divided += 96 * 96 * value / weights.sum()
            by_weights.append(weighted)
            by_updates.append(updates)
            normalised.append(divided)
            kept.append(loader.metrics()["kept"])
    expected = directions.sum(axis=0)
    pruned = slice(1, PLANS + 1)  # epoch 0 has no scores yet, the last one is annealed
    assert max(kept[pruned]) < SAMPLES
    assert kept[-1] == SAMPLES
    np.testing.assert_allclose(by_updates, np.array(by_weights)[:, 0], rtol=1e-5)
    assert np.abs(z_scores(np.array(by_weights[pruned]), expected)).max() < 4
    assert abs(z_scores(np.array(by_updates[pruned])[:, None], expected[:1])[0]) < 4
    # The same check has to see a wrong estimator.
    assert np.abs(z_scores(1.02 * np.array(by_weights[pruned]), expected)).max() > 4
    assert abs(z_scores(np.array(normalised[pruned])[:, None], expected[:1])[0]) > 4
