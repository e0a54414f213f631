"""The positions that a worker keeps: every n-th of them is found, and nothing else is taken for it."""

from __future__ import annotations

import numpy as np
import pytest

from infobatch_client.workers.kept_pattern import BROKEN, KeptPattern, can_be_every

NUMBERS = np.arange(60)


def pattern_of(kept: np.ndarray, batch: int) -> KeptPattern:
    """Of a bool array, added by batches."""
    pattern = KeptPattern()
    for at in range(0, len(kept), batch):
        part = kept[at : at + batch]
        pattern.add(at + np.flatnonzero(part), at + len(part))
    return pattern


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
@pytest.mark.parametrize("n", [2, 3, 6, 8])
def test_every_nth_has_its_stride_whatever_the_batches(n: int, batch: int) -> None:
    for first in range(n):
        pattern = pattern_of(np.arange(61) % n == first, batch)
        assert (pattern.stride, pattern.first) == (n, first)
        assert can_be_every(n, pattern.stride, pattern.first, 61)
        assert not can_be_every(n + 1, pattern.stride, pattern.first, 61)


@pytest.mark.parametrize("share", [1 / 2, 1 / 3, 1 / 6])
def test_a_choice_at_random_has_none(share: float) -> None:
    kept = np.random.default_rng(0).random((100, 64)) < share
    assert all(pattern_of(row, 8).stride == BROKEN for row in kept)


@pytest.mark.parametrize(
    "kept",
    [
        NUMBERS < 30,
        NUMBERS >= 30,
        NUMBERS >= 0,
        (NUMBERS % 2 == 0) & (NUMBERS < 40),
        (NUMBERS % 2 == 0) & (NUMBERS >= 20),
        NUMBERS % 4 < 2,
    ],
    ids=["half", "other-half", "all", "ends-early", "begins-late", "pairs"],
)
@pytest.mark.parametrize("batch", [1, 7, 60])
def test_other_patterns_are_none(kept: np.ndarray, batch: int) -> None:
    assert pattern_of(kept, batch).stride == BROKEN


def test_a_worker_that_has_kept_one_sample_or_none_may_still_show_it() -> None:
    assert can_be_every(4, 0, -1, 3)
    assert not can_be_every(4, 0, -1, 4)
    assert can_be_every(4, 0, 3, 7)
    assert not can_be_every(4, 0, 3, 8)
    assert not can_be_every(2, 0, 3, 4)
    assert not can_be_every(2, BROKEN, 0, 4)
