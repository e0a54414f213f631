"""The plan order against Appendix A in plain loops, and what follows from it for ranks, workers and nodes."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_stream.errors import ConfigError
from infobatch_stream.philox import Stream, WordStream
from infobatch_stream.plan.epoch_plan import EpochPlan, PlanClass
from infobatch_stream.plan.opening import Opening
from infobatch_stream.plan.order import PlanOrder
from infobatch_stream.plan.order_params import OrderParams
from tests.core.worlds import bare_plan


def slow_order(keep, sizes, params, *, seed=0, epoch=0, generation=1):
    """Appendix A's "Order", sentence by sentence."""
    num_shards = len(sizes)
    stream = {kind: WordStream(seed, epoch, generation, kind) for kind in Stream}
    shard_words = stream[Stream.SHARD_ORDER].words(0, num_shards).tolist()
    shard_order = sorted(range(num_shards), key=lambda s: (shard_words[s], s))
    starts = [sum(sizes[:s]) for s in range(num_shards)]
    items = [  # (sample, place of its shard in the shard order)
        (i, place) for place, s in enumerate(shard_order) for i in range(starts[s], starts[s] + sizes[s]) if keep[i]
    ]
    total, m, lanes = len(items), params.stripe, params.lanes
    words = stream[Stream.WINDOW_ORDER].words(0, total).tolist()
    pieces, done = [], 0
    for lane in range(lanes):
        count = sum(1 for p in range(total) if p // m % lanes == lane)
        pieces.append(range(done, done + count))
        done += count
    in_lane = []
    for piece in pieces:
        windows = {}
        for j in piece:
            windows.setdefault((items[j][1] - items[piece[0]][1]) // params.window_shards, []).append(j)
        sequence = []
        for _, members in sorted(windows.items()):
            runs = []
            for place in sorted({items[j][1] for j in members}):
                own = [j for j in members if items[j][1] == place]
                runs += [own[at : at + params.run_samples] for at in range(0, len(own), params.run_samples)]
            keys = [(words[run[0]] >> 32 << 32) | number for number, run in enumerate(runs)]
            for number in sorted(range(len(runs)), key=keys.__getitem__):
                sequence += runs[number]
        in_lane.append([items[j][0] for j in sequence])
    return [in_lane[p // m % lanes][p // (m * lanes) * m + p % m] for p in range(total)]


@st.composite
def worlds(draw):
    """(keep, sizes, params): shards of any size, also empty and fully pruned ones, and any order."""
    sizes = draw(st.lists(st.integers(0, 30), min_size=1, max_size=14).filter(sum))
    keep_rate = draw(st.sampled_from([0.1, 0.5, 0.9, 1.0]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    keep = random.random(sum(sizes)) < keep_rate
    for shard in draw(st.lists(st.integers(0, len(sizes) - 1), max_size=4)):
        keep[sum(sizes[:shard]) : sum(sizes[: shard + 1])] = False
    params = OrderParams(
        lanes=draw(st.integers(1, 6)),
        stripe=draw(st.integers(1, 40)),
        window_shards=draw(st.integers(1, 16)),
        run_samples=draw(st.integers(1, 7)),
    )
    return keep, sizes, params


def order_of(keep, sizes, params, **key):
    return PlanOrder(bare_plan(keep, sizes, params, **key), np.r_[0, np.cumsum(np.array(sizes, np.int64))])


@settings(deadline=None, derandomize=True, max_examples=250)
@given(worlds(), st.integers(0, 2**64 - 1), st.integers(1, 99))
def test_the_order_is_appendix_a(world, seed, generation):
    keep, sizes, params = world
    order = order_of(keep, sizes, params, seed=seed, generation=generation)
    expected = slow_order(keep, sizes, params, seed=seed, generation=generation)
    assert order.samples(0, order.num_positions).tolist() == expected
    assert sorted(expected) == np.flatnonzero(keep).tolist()


@settings(deadline=None, derandomize=True, max_examples=100)
@given(worlds(), st.data())
def test_any_call_pattern_gives_slices_of_the_whole(world, data):
    order = order_of(*world)
    whole = order_of(*world).samples(0, order.num_positions)
    for _ in range(6):
        start = data.draw(st.integers(0, order.num_positions))
        stop = data.draw(st.integers(start, order.num_positions))
        assert np.array_equal(order.samples(start, stop), whole[start:stop])


@settings(deadline=None, derandomize=True, max_examples=150)
@given(worlds(), st.data())
def test_shards_between_holds_every_shard_touched_once(world, data):
    _, sizes, _ = world
    order = order_of(*world)
    start = data.draw(st.integers(0, order.num_positions))
    stop = data.draw(st.integers(start, order.num_positions))
    offsets = np.r_[0, np.cumsum(sizes)]
    touched = set((np.searchsorted(offsets, order.samples(start, stop), side="right") - 1).tolist())
    named = order.shards_between(start, stop).tolist()
    assert touched <= set(named)
    assert len(named) == len(set(named))
    if start == stop:
        assert named == []


def test_shards_between_stays_inside_the_lane():
    params = OrderParams(lanes=8, stripe=4, window_shards=64)
    order = order_of(np.ones(640, bool), [10] * 64, params)
    for lane in range(8):
        assert len(order.shards_between(4 * lane, 4 * lane + 4)) == 8


def test_shards_between_is_in_the_order_of_reading():
    params = OrderParams(lanes=1, stripe=1, window_shards=2)
    order = order_of(np.ones(60, bool), [10] * 6, params)
    assert (
        order.shards_between(0, 60).tolist()
        == np.concatenate([order.shards_between(start, start + 20) for start in (0, 20, 40)]).tolist()
    )


def test_shards_between_is_quick_over_many_stripes():
    params = OrderParams(lanes=2, stripe=1, window_shards=8)
    order = order_of(np.ones(10**6, bool), [1000] * 1000, params)
    calls = []
    order._item_shard = lambda *place, find=order._item_shard: calls.append(place) or find(*place)
    assert len(order.shards_between(0, 10**6)) == 1000
    assert len(calls) < 100


def test_positions_outside_the_plan_are_refused():
    order = order_of(np.ones(10, bool), [10], OrderParams(lanes=1, stripe=1, window_shards=1))
    for start, stop in [(-1, 2), (3, 2), (0, 11)]:
        with pytest.raises(ConfigError, match=r"positions \[.*\) are outside \[0, 10\]"):
            order.samples(start, stop)


def test_a_plan_of_other_shards_is_refused():
    plan = bare_plan(np.ones(10, bool), [10], OrderParams(lanes=1, stripe=1, window_shards=1))
    with pytest.raises(ConfigError, match="the plan is for 1 shards and 10 samples, the data set has 2 and 11"):
        PlanOrder(plan, np.array([0, 5, 11]))


def test_epochs_and_generations_have_orders_of_their_own():
    world = (np.ones(500, bool), [100] * 5, OrderParams(lanes=1, stripe=1, window_shards=5))
    orders = [
        order_of(*world, **key).samples(0, 500).tobytes() for key in ({}, {"epoch": 1}, {"generation": 2}, {"seed": 1})
    ]
    assert len(set(orders)) == 4


# ---- openings: who reads what


def read_by(opening, rank, num_workers):
    """Batches of a rank as a DataLoader returns them: round-robin over workers, each with its own steps."""
    workers = max(1, num_workers)
    queues = [[opening.rows(t, rank) for t in range(w, opening.num_steps, workers)] for w in range(workers)]
    return [queues[t % workers][t // workers] for t in range(opening.num_steps)]


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    st.integers(0, 3000),
    st.integers(1, 17),
    st.sampled_from([1, 2, 3, 8, 64]),
    st.integers(0, 8),
    st.booleans(),
    st.data(),
)
def test_ranks_and_workers_cover_an_opening_once(num_positions, batch_size, world_size, num_workers, drop, data):
    start = data.draw(st.integers(0, num_positions))
    left, global_batch = num_positions - start, batch_size * world_size
    shape = {"num_positions": num_positions, "start": start, "batch_size": batch_size, "world_size": world_size}
    if drop and 0 < left < global_batch:
        with pytest.raises(ConfigError, match="remainder='drop' leaves nothing"):
            Opening(**shape, drop_remainder=True)
        return
    opening = Opening(**shape, drop_remainder=drop)
    batches = [read_by(opening, rank, num_workers) for rank in range(world_size)]
    assert {len(own) for own in batches} == {left // global_batch if drop else math.ceil(left / global_batch)}
    covered = [p for t in range(opening.num_steps) for own in batches for p in range(*own[t])]
    assert covered == list(range(start, num_positions - left % global_batch if drop else num_positions))
    full = opening.num_steps if drop else max(0, opening.num_steps - 1)
    assert all(end - first == batch_size for own in batches for first, end in own[:full])
    assert all(0 <= end - first <= batch_size for own in batches for first, end in own)
    for rank in range(world_size):
        assert batches[rank] == read_by(opening, rank, 0)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(worlds(), st.sampled_from([(1, 24), (2, 12), (3, 8), (4, 6), (24, 1)]))
def test_equal_global_batches_hold_the_same_rows_in_the_same_order(world, shape):
    order = order_of(*world)
    whole = order.samples(0, order.num_positions).tolist()
    world_size, batch_size = shape
    opening = Opening(num_positions=len(whole), start=0, batch_size=batch_size, world_size=world_size)
    for step in range(opening.num_steps):
        rows = [i for rank in range(world_size) for i in order.samples(*opening.rows(step, rank)).tolist()]
        assert rows == whole[step * 24 : step * 24 + 24]


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    st.integers(1, 2000),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 64), st.integers(0, 5)), min_size=1, max_size=6),
)
def test_resuming_anywhere_on_other_ranks_loses_and_repeats_nothing(num_positions, attempts):
    position, seen = 0, []
    for attempt, (batch_size, world_size, steps) in enumerate(attempts):
        opening = Opening(num_positions=num_positions, start=position, batch_size=batch_size, world_size=world_size)
        last = attempt == len(attempts) - 1
        steps = opening.num_steps if last else min(steps, opening.num_steps)
        seen += [p for t in range(steps) for rank in range(world_size) for p in range(*opening.rows(t, rank))]
        position = opening.consumed(steps)
        assert position == len(seen)
    assert seen == list(range(num_positions))


def test_a_dropped_remainder_is_never_consumed_and_the_last_step_reaches_the_end():
    opening = Opening(num_positions=23, start=3, batch_size=3, world_size=2, drop_remainder=True)
    assert (opening.num_steps, opening.end) == (3, 21)
    assert [opening.consumed(steps) for steps in range(5)] == [3, 9, 15, 21, 21]


def test_nothing_is_left_at_the_end_of_an_epoch():
    opening = Opening(num_positions=23, start=23, batch_size=3, world_size=2, drop_remainder=True)
    assert (opening.num_steps, opening.end) == (0, 23)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 and world_size=1 must be at least 1"),
        ({"world_size": 0}, "world_size=0 must be at least 1"),
        ({"start": 11}, r"position 11 is outside \[0, 10\]"),
        ({"start": -1}, "position -1 is outside"),
        ({"batch_size": 16, "drop_remainder": True}, "10 samples are left and a step takes .* = 16"),
    ],
)
def test_invalid_openings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        Opening(**{"num_positions": 10, "start": 0, "batch_size": 1, **change})


# ---- lanes


@pytest.mark.parametrize(("lanes", "least", "most"), [(8, 1.0, 1.1), (1, 7.0, 8.0)])
def test_with_lanes_a_shard_is_read_by_one_node(lanes, least, most):
    nodes, ranks, batch, shards = 8, 64, 4, 512
    keep = np.random.default_rng(0).random(shards * 100) < 0.7
    params = OrderParams(lanes=lanes, stripe=ranks * batch // lanes, window_shards=16)
    order = order_of(keep, [100] * shards, params)
    opening = Opening(num_positions=order.num_positions, start=0, batch_size=batch, world_size=ranks)
    readers = [set() for _ in range(shards)]
    for step in range(opening.num_steps):
        for rank in range(ranks):
            for shard in (order.samples(*opening.rows(step, rank)) // 100).tolist():
                readers[shard].add(rank // (ranks // nodes))
    mean = sum(map(len, readers)) / shards
    assert least <= mean <= most


# ---- size


def full_plan(num_samples, num_shards, params):
    sizes = np.full(num_shards, num_samples // num_shards, np.int64)
    row = PlanClass(name="kept", keep_65536=65536, keep_count=None, size=num_samples, kept=num_samples, weight=1.0)
    plan = EpochPlan(
        run_id=bytes(16),
        generation=1,
        epoch=0,
        seed=0,
        num_samples=num_samples,
        classes=(row,),
        keep_bits=np.full(num_samples // 8, 255, np.uint8),
        class_plane=None,
        shard_kept=sizes,
        order=params,
    )
    return plan, np.r_[0, np.cumsum(sizes)]


def test_the_first_samples_of_a_hundred_million_need_only_a_window():
    plan, offsets = full_plan(10**8, 10**5, OrderParams(lanes=2, stripe=64, window_shards=8))
    tracemalloc.start()
    order = PlanOrder(plan, offsets)
    first = order.samples(0, 4096)
    begun = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    held = tracemalloc.get_traced_memory()[0]
    for start in range(4096, 200_000, 4096):
        order.samples(start, start + 4096)
    more = tracemalloc.get_traced_memory()[1] - held
    tracemalloc.stop()
    assert len(set(first.tolist())) == 4096
    assert begun < 8 * 2**20  # a few int64 by shard, and a window of 8,000 samples a lane
    assert more < 2**20
