"""Samples kept at equal distances: no choice by the sample alone is taken for a splitting stage's."""

from __future__ import annotations

import numpy as np
import pytest

from infobatch_client.workers.sample_choice import SampleChoice, differ

N = 480
RNG = np.random.default_rng(0)
MIXED = RNG.permutation(N)


def judged(
    order: np.ndarray, stride: int, first: int, *, sizes: tuple[int, ...] = (N,), shuffled: bool, dense: bool = True
) -> tuple[int, int]:
    choice = SampleChoice(np.cumsum([0, *sizes]), shuffled=shuffled, dense=dense)
    for part in np.array_split(order, 7):
        choice.add(part)
    return choice.judge(stride, first)


def lanes(*pieces: np.ndarray) -> np.ndarray:
    """Positions that take a sample of each piece in turn, each piece shuffled."""
    return np.stack([RNG.permutation(piece) for piece in pieces], 1).reshape(-1)


def batches(worker: int, workers: int, size: int) -> np.ndarray:
    """What a worker reads in index order."""
    return np.concatenate([np.arange(at, min(N, at + size)) for at in range(worker * size, N, workers * size)])


@pytest.mark.parametrize("stride", [2, 3, 6])
@pytest.mark.parametrize("first", [0, 1])
def test_in_mixed_order_no_filter_keeps_every_nth(stride: int, first: int) -> None:
    assert judged(MIXED, stride, first, shuffled=True) == (1, -1)


QUARTERS = np.split(np.arange(N), 4)


@pytest.mark.parametrize(
    ("pieces", "sizes"),
    [
        (np.split(np.arange(N), 2), (N,)),
        (np.split(np.arange(N), 2), (N // 2, N // 2)),
        (np.split(np.arange(N), 3), (100, 380)),
        ((np.r_[QUARTERS[2], QUARTERS[0]], np.r_[QUARTERS[1], QUARTERS[3]]), (N // 4,) * 4),
        (QUARTERS, (N // 2, N // 2)),
    ],
    ids=["halves", "shards", "thirds", "permuted-shards", "halves-of-shards"],
)
def test_of_lanes_read_in_turn_a_filter_by_shard_or_range_keeps_every_nth(
    pieces: tuple[np.ndarray, ...], sizes: tuple[int, ...]
) -> None:
    for first in range(len(pieces)):
        assert judged(lanes(*pieces), len(pieces), first, sizes=sizes, shuffled=True) == (0, -1)


def test_of_few_samples_nothing_is_said() -> None:
    assert judged(MIXED[:30], 2, 0, shuffled=True) == (0, -1)
    assert judged(MIXED[:32], 2, 0, shuffled=True) == (1, -1)


@pytest.mark.parametrize(("workers", "size"), [(2, 32), (3, 30), (4, 24), (2, 24)])
def test_a_filter_by_the_index_has_one_phase_for_all_workers(workers: int, size: int) -> None:
    places = []
    for worker in range(workers):
        order = batches(worker, workers, size)
        (first,) = np.unique(np.flatnonzero(order % workers == 0) % workers)
        positional, place = judged(order, workers, int(first), shuffled=False)
        assert not positional
        places.append(place)
    assert not differ(places)


@pytest.mark.parametrize(("workers", "size"), [(2, 32), (3, 30), (4, 24), (2, 25), (3, 32), (4, 25)])
def test_a_split_over_workers_in_index_order_has_none(workers: int, size: int) -> None:
    judgements = [judged(batches(worker, workers, size), workers, worker, shuffled=False) for worker in range(workers)]
    assert any(positional for positional, _ in judgements) or differ([place for _, place in judgements])


def test_a_filter_by_the_place_in_a_shard_may_have_another_phase_in_each() -> None:
    odd = (241, 239)
    places = [judged(np.arange(at, at + 230), 2, first, sizes=odd, shuffled=False) for at, first in ((0, 0), (241, 0))]
    assert [positional for positional, _ in places] == [0, 0]
    assert not differ([place for _, place in places])


def test_where_samples_are_left_out_their_distance_says_nothing() -> None:
    of_two_classes = np.flatnonzero(np.arange(N) % 3 < 2)
    assert judged(of_two_classes, 2, 0, shuffled=False, dense=False) == (0, -1)
