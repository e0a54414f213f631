"""The outbox by itself: items come out in order, of a sample's values the newest, and the rest is counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_client.run.outbox import Outbox, Push
from infobatch_stream.errors import ConfigError
from infobatch_stream.v1 import score_service_pb2 as pb

COLUMNS = {"margin": "float32", "hits": "uint16"}


class Event:
    """A CUDA event as the outbox sees it: `query` says whether the copy has arrived."""

    def __init__(self) -> None:
        self.arrived = False

    def query(self) -> bool:
        return self.arrived


def put(outbox: Outbox, epoch: int, index: list[int], values: list[int], ready: Event | None = None) -> None:
    """Scores `values`, margins a half more, hits ten times as many."""
    scores = torch.tensor(values, dtype=torch.float32)
    columns = {"margin": scores + 0.5, "hits": torch.tensor(values, dtype=torch.uint8) * 10} if outbox._columns else {}
    outbox.put_scores(epoch, np.array(index, np.int64), scores, ready=ready, columns=columns, now_s=5.0)


def drain(outbox: Outbox) -> list[Push | pb.EndEpochRequest | pb.MarkUnprunedRequest]:
    outbox.collect()
    items = []
    while (item := outbox.next()) is not None:
        items.append(item)
        outbox.done()
    return items


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.tuples(st.integers(-1, 9), st.integers(0, 25)), max_size=8), max_size=12))
def test_of_a_samples_values_the_newest_comes_out(batches: list[list[tuple[int, int]]]) -> None:
    outbox = Outbox(COLUMNS)
    for batch in batches:
        put(outbox, 3, [index for index, _ in batch], [value for _, value in batch])
    rows = {index: value for batch in batches for index, value in batch if index >= 0}
    items = drain(outbox)
    assert len(items) == bool(rows)
    for push in items:
        assert isinstance(push, Push)
        assert dict(zip(push.index.tolist(), push.scores.tolist(), strict=True)) == rows
        assert push.columns["margin"].tolist() == [rows[index] + 0.5 for index in push.index.tolist()]
        assert push.columns["hits"].tolist() == [rows[index] * 10 for index in push.index.tolist()]
        assert [(name, str(values.dtype)) for name, values in push.columns.items()] == [
            ("hits", "uint16"),
            ("margin", "float32"),
        ]
    assert outbox.is_empty
    assert outbox.records == 0


def test_epochs_and_messages_keep_their_order() -> None:
    outbox = Outbox()
    end, mark = pb.EndEpochRequest(epoch=0), pb.MarkUnprunedRequest(epoch=1)
    put(outbox, 0, [1], [1])
    put(outbox, 0, [1], [2])
    outbox.put_message(end)
    outbox.put_message(mark)
    put(outbox, 0, [1], [3])
    put(outbox, 1, [1], [4])
    first, *messages, late, last = drain(outbox)
    assert messages == [end, mark]
    pushes = [first, late, last]
    assert [(push.sequence, push.epoch, push.scores.tolist()) for push in pushes if isinstance(push, Push)] == [
        (1, 0, [2.0]),
        (2, 0, [3.0]),
        (3, 1, [4.0]),
    ]


def test_a_push_stays_the_same_until_it_is_done() -> None:
    outbox = Outbox(COLUMNS)
    put(outbox, 0, [1, 2], [1, 2])
    outbox.collect()
    push = outbox.next()
    assert isinstance(push, Push)
    put(outbox, 0, [2], [9])
    outbox.collect()
    assert outbox.next() is push
    assert (push.scores.tolist(), push.columns["hits"].tolist()) == ([1.0, 2.0], [10, 20])
    assert outbox.records == 3
    outbox.done()
    following = outbox.next()
    assert isinstance(following, Push)
    assert (following.sequence, following.index.tolist(), following.scores.tolist()) == (2, [2], [9.0])


def test_scores_wait_for_the_copy_before_them() -> None:
    outbox = Outbox()
    event = Event()
    put(outbox, 0, [1], [1])
    put(outbox, 0, [2], [2], ready=event)
    outbox.put_message(pb.EndEpochRequest())
    first, *rest = drain(outbox)
    assert isinstance(first, Push)
    assert first.index.tolist() == [1]
    assert rest == []
    assert not outbox.is_empty
    assert outbox.records == 1
    event.arrived = True
    assert len(drain(outbox)) == 2
    assert outbox.is_empty


def test_memory_is_bounded_by_the_samples() -> None:
    outbox = Outbox(COLUMNS)
    index = np.arange(1000)
    scores = torch.arange(1000).float()
    for _ in range(200):
        outbox.put_scores(0, index, scores, columns={"margin": scores, "hits": scores.to(torch.uint16)}, now_s=0)
        outbox.collect()
    assert outbox.records <= 2 * 16_384 + 1000
    (push,) = drain(outbox)
    assert isinstance(push, Push)
    assert push.index.tolist() == index.tolist()


def test_a_large_backlog_leaves_in_pushes_of_bounded_size() -> None:
    outbox = Outbox()
    outbox.put_scores(0, np.arange(40_000), torch.arange(40_000).float(), now_s=0)
    pushes = [push for push in drain(outbox) if isinstance(push, Push)]
    assert [len(push.index) for push in pushes] == [16_384, 16_384, 7_232]
    assert np.concatenate([push.scores for push in pushes]).tolist() == list(range(40_000))


def test_a_batch_without_a_real_row_is_no_push() -> None:
    outbox = Outbox()
    put(outbox, 0, [-1, -1], [1, 2])
    assert outbox.records == 0
    assert drain(outbox) == []
    assert outbox.is_empty


def test_the_age_is_that_of_the_oldest_score_that_waits() -> None:
    outbox = Outbox()
    assert outbox.oldest_s is None
    put(outbox, 0, [1], [1])
    outbox.collect()
    assert outbox.oldest_s == 5.0
    drain(outbox)
    assert outbox.oldest_s is None


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, r"columns \[\] were passed, and the run's policy needs \['hits', 'margin'\]"),
        ({"margin": torch.zeros(2)}, r"columns \['margin'\] were passed"),
        ({"margin": torch.zeros(2), "hits": torch.zeros(2).to(torch.uint16), "x": torch.zeros(2)}, "'x'"),
        ({"margin": torch.zeros(3), "hits": torch.zeros(2).to(torch.uint16)}, r"column margin has shape \(3,\)"),
        ({"margin": torch.zeros(2), "hits": torch.zeros(2)}, "column hits .*dtype float32; .* of uint16"),
    ],
)
def test_columns_that_are_not_the_policys_are_refused_at_once(columns: dict[str, torch.Tensor], words: str) -> None:
    outbox = Outbox(COLUMNS)
    with pytest.raises(ConfigError, match=words):
        outbox.put_scores(0, np.array([1, 2]), torch.zeros(2), columns=columns, now_s=0)
    assert outbox.is_empty


def test_dropped_samples_go_with_the_scores_of_their_epoch_and_before_its_end() -> None:
    outbox = Outbox()
    outbox.put_dropped(0, np.array([7, 3]))
    put(outbox, 0, [1, 2], [5, 6])
    outbox.put_dropped(0, np.array([3, 9]))
    outbox.put_message(pb.EndEpochRequest(epoch=0))
    outbox.put_dropped(1, np.array([4]))
    assert not outbox.is_empty
    first, end, second = drain(outbox)
    assert isinstance(first, Push)
    assert (first.index.tolist(), first.dropped.tolist()) == ([1, 2], [3, 7, 9])
    assert isinstance(end, pb.EndEpochRequest)
    assert isinstance(second, Push)
    assert (second.epoch, second.sequence, second.index.tolist(), second.dropped.tolist()) == (1, 2, [], [4])
    assert outbox.is_empty


def test_many_dropped_samples_are_sent_in_parts_and_repeats_of_them_take_no_memory() -> None:
    outbox = Outbox(COLUMNS)
    for _ in range(20):
        outbox.put_dropped(2, np.arange(40_000))
    pushes = drain(outbox)
    assert all(isinstance(push, Push) and len(push.dropped) <= 16_384 and len(push.index) == 0 for push in pushes)
    assert np.concatenate([push.dropped for push in pushes if isinstance(push, Push)]).tolist() == list(range(40_000))
