"""Scores reach the table once each, in the journal's order, and wait for draws and rewinds."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infobatch_server.runs.memory import MemoryBudget
from infobatch_server.runs.score_feed import ScoreFeed
from infobatch_server.state.score_batch import ScoreBatch
from infobatch_server.store.memory import MemoryStore
from infobatch_stream.errors import ServerBusyError
from infobatch_stream.scores.table import ScoreTable
from tests.server.calls import make_spec

RUN = b"r" * 16


def batch(sequence: int, epoch: int, indices: list[int], scores: list[float]) -> ScoreBatch:
    return ScoreBatch(1, b"c" * 16, sequence, epoch, np.array(indices, np.int64), np.array(scores, np.float32))


def make_feed(
    store: MemoryStore | None = None,
    *,
    num_samples: int = 8,
    max_pending_bytes: int = 2**20,
    memory: MemoryBudget | None = None,
) -> ScoreFeed:
    store = store or MemoryStore()
    store.create(RUN, make_spec(num_samples=num_samples, num_shards=1))
    return ScoreFeed(
        RUN,
        store,
        ScoreTable(num_samples),
        position=0,
        lock=threading.Condition(),
        max_pending_bytes=max_pending_bytes,
        memory=memory or MemoryBudget(2**30),
    )


def admit() -> None:
    """Accepts every batch."""


pushes = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.lists(st.tuples(st.integers(0, 7), st.floats(width=32)), min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=10,
)


@given(pushes, st.data())
def test_repeats_change_nothing(content: list[tuple[int, list[tuple[int, float]]]], data: st.DataObject) -> None:
    batches = [
        batch(number, epoch, [index for index, _ in rows], [score for _, score in rows])
        for number, (epoch, rows) in enumerate(content, start=1)
    ]
    once, often = make_feed(), make_feed()
    for place, each in enumerate(batches):
        once.push(each, admit)
        often.push(each, admit)
        for again in data.draw(st.lists(st.integers(0, place), max_size=3)):
            assert often.push(batches[again], admit).duplicate
    for name in ("score", "stamp", "visits"):
        np.testing.assert_array_equal(getattr(once.table, name), getattr(often.table, name))
    assert once.rejected_scores == often.rejected_scores
    assert once.applied_position == often.applied_position == len(batches)


def test_counts_cover_every_score() -> None:
    feed = make_feed()
    feed.push(batch(1, 5, [0], [1.0]), admit)
    counts = feed.push(batch(2, 4, [0, 1, 2], [2.0, 3.0, np.nan]), admit).counts
    assert (counts.accepted, counts.non_finite, counts.stale) == (1, 1, 1)
    assert (feed.stored_scores, feed.rejected_scores, feed.stale_scores) == (2, 1, 1)


def test_batches_that_arrive_during_a_draw_are_applied_after_it() -> None:
    feed = make_feed()
    with feed._lock:
        feed.pause()
    outcome = feed.push(batch(1, 0, [3, 4], [1.0, np.inf]), admit)
    assert not outcome.duplicate
    assert (outcome.counts.accepted, outcome.counts.non_finite) == (1, 1)
    assert np.isnan(feed.table.score).all()
    assert feed.push(batch(1, 0, [3, 4], [1.0, np.inf]), admit).duplicate
    with feed._lock:
        feed.resume()
    assert feed.table.score[3] == 1.0
    assert (feed.stored_scores, feed.rejected_scores) == (1, 1)


def test_too_many_bytes_during_a_draw_are_refused_for_now() -> None:
    feed = make_feed(max_pending_bytes=30)
    with feed._lock:
        feed.pause()
    feed.push(batch(1, 0, [1, 2], [1.0, 2.0]), admit)
    with pytest.raises(ServerBusyError, match="24 bytes of scores wait for the end of a draw"):
        feed.push(batch(2, 0, [3], [1.0]), admit)
    with feed._lock:
        feed.resume()
    assert not feed.push(batch(2, 0, [3], [1.0]), admit).duplicate


class SlowFirst(MemoryStore):
    """A store whose first batch is taken after its second."""

    def __init__(self) -> None:
        super().__init__()
        self.second_is_back = threading.Event()
        self.first_is_in = threading.Event()

    def append(self, run_id: bytes, batch: ScoreBatch, take: Callable[[int], None]) -> int:
        position = super().append(run_id, batch, lambda position: None)
        if position == 1:
            self.first_is_in.set()
            assert self.second_is_back.wait(10)
        else:
            self.second_is_back.set()
        take(position)
        return position


def test_the_journal_decides_which_of_two_batches_is_later() -> None:
    store = SlowFirst()
    feed = make_feed(store)
    first = threading.Thread(target=feed.push, args=(batch(1, 0, [0], [1.0]), admit))
    first.start()
    assert store.first_is_in.wait(10)
    assert feed.push(batch(2, 0, [0], [2.0]), admit).journal_position == 2
    first.join()
    assert feed.table.score[0] == 2.0


class Failing(MemoryStore):
    """A store whose first `failures` appends fail."""

    failures = 1

    def append(self, run_id: bytes, batch: ScoreBatch, take: Callable[[int], None]) -> int:
        if self.failures:
            self.failures -= 1
            raise OSError("disk full")
        return super().append(run_id, batch, take)


def test_a_push_can_be_sent_again_after_the_store_failed() -> None:
    feed = make_feed(Failing())
    with pytest.raises(OSError, match="disk full"):
        feed.push(batch(1, 0, [0], [1.0]), admit)
    assert not feed.push(batch(1, 0, [0], [1.0]), admit).duplicate
    assert feed.table.score[0] == 1.0


def test_a_rewind_waits_for_pending_batches() -> None:
    store = SlowFirst()
    feed = make_feed(store)
    first = threading.Thread(target=feed.push, args=(batch(1, 0, [0], [1.0]), admit))
    first.start()
    assert store.first_is_in.wait(10)
    scores_at_rewind: list[float] = []

    def rewind() -> None:
        with feed.exclusive():
            scores_at_rewind.append(float(feed.table.score[0]))

    other = threading.Thread(target=rewind)
    other.start()
    store.second_is_back.set()
    first.join()
    other.join()
    assert scores_at_rewind == [1.0]
