"""Plans as bytes: what is read is what was written, and what was damaged is never taken for it."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_stream.errors import PlanError
from infobatch_stream.plan.bytes import CHUNK_SAMPLES, chunk_count, chunk_planes, plan_from_buffer, plan_to_bytes
from infobatch_stream.plan.epoch_plan import unpruned_plan
from infobatch_stream.planner import draw_plan
from infobatch_stream.wire.specs import seal
from tests.core.worlds import RUN_ID, make_spec, make_table, some_scores

NUM_SAMPLES = 1009
MASK = np.random.default_rng(8).random(NUM_SAMPLES) < 0.6
KINDS = {
    "one class": ("random", {}, None),
    "two classes": ("infobatch", {"draw": "exact"}, None),
    "three classes": ("infobatch", {}, MASK),
    "twelve classes": ("levels", {"levels": ",".join(f"0.{i}:0.5" for i in range(10, 20))}, MASK),
    "nothing pruned": ("full", {}, None),
}


def make_plan(kind):
    policy, own, mask = KINDS[kind]
    spec = make_spec([400, 0, 609], policy, subset=mask, **own)
    table = make_table(some_scores(NUM_SAMPLES, seed=5))
    return seal(draw_plan(spec, table, run_id=RUN_ID, generation=2, epoch=3, journal_position=77))


def same(one, other):
    """Field by field, arrays by value and dtype."""
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
            if a is None or b is None or a.dtype != b.dtype or not np.array_equal(a, b):
                return False
        elif a != b or type(a) is not type(b):
            return False
    return True


def file_of(plan):
    return b"".join(plan_to_bytes(plan))


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_file_gives_the_plan_again(kind):
    plan = make_plan(kind)
    again = plan_from_buffer(file_of(plan))
    assert same(again, plan)
    assert seal(again).plan_id == plan.plan_id


def test_the_fallback_plan_has_a_file_too():
    spec = make_spec([400, 609], subset=MASK)
    plan = unpruned_plan(run_id=RUN_ID, epoch=1, seed=0, shard_sizes=spec.shard_sizes, order=spec.order, subset=MASK)
    assert same(plan_from_buffer(file_of(plan)), plan)


def test_arrays_are_views_on_64_byte_boundaries():
    buffer = np.zeros(len(file_of(make_plan("three classes"))) + 64, np.uint8)
    shift = -buffer.ctypes.data % 64
    aligned = buffer[shift : shift + len(buffer) - 64]
    aligned[:] = np.frombuffer(file_of(make_plan("three classes")), np.uint8)
    plan = plan_from_buffer(memoryview(aligned))
    for values in (plan.keep_bits, plan.class_plane, plan.shard_kept):
        assert values.ctypes.data % 64 == 0
        assert np.shares_memory(values, buffer)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_short_anywhere_is_refused(kind):
    *pieces, padding = plan_to_bytes(make_plan(kind))
    used = b"".join(pieces)
    assert plan_from_buffer(used)
    assert not any(padding)
    for size in [*range(0, len(used), 37), len(used) - 1]:
        with pytest.raises(PlanError, match="delete it, and it is fetched again"):
            plan_from_buffer(used[:size])


@settings(deadline=None, derandomize=True, max_examples=500)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2**32), st.integers(1, 255))
def test_a_flipped_byte_never_passes_for_the_plan(kind, place, change):
    plan = make_plan(kind)
    damaged = bytearray(file_of(plan))
    header_end = damaged.index(b"}", 16 + int.from_bytes(damaged[8:16], "little") - 2) + 1
    damaged[place % header_end] ^= change
    try:
        read = plan_from_buffer(bytes(damaged))
    except PlanError:
        return
    # What came through has another name or another digest, or is the plan itself (a space for a space).
    assert same(read, plan) or not seal(read).plan_id == read.plan_id == plan.plan_id


HEADER = {
    "seed": [-1, 1.5, True, "0", None, 2**64],
    "biased": [0, None, "no"],
    "threshold": ["x", 0.1, 1e300, 2],
    "plan_id": [3],
    "run_id": ["xyz", 5, "00"],
    "num_samples": [0, 1008, 2**40],
    "classes": [[], {}, 3, [{"name": "kept"}], [[]]],
    "order": [None, [], {"lanes": 0, "stripe": 1, "window_shards": 1, "run_samples": 1}, {"lanes": 1}],
    "shards": [0, 2, 2**60, "3"],
    "surprise": [1],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in HEADER.items() for value in values])
def test_a_header_that_no_plan_has_is_refused(field, value):
    whole = file_of(make_plan("three classes"))
    size = int.from_bytes(whole[8:16], "little")
    header = json.loads(whole[16 : 16 + size])
    assert field in header or field == "surprise"
    text = json.dumps({**header, field: value}).encode()
    head = whole[:8] + len(text).to_bytes(8, "little") + text
    arrays = whole[16 + size + -(16 + size) % 64 :]
    with pytest.raises(PlanError, match="damaged"):
        plan_from_buffer(head + bytes(-len(head) % 64) + arrays)


@pytest.mark.parametrize("content", [b"", b"IBPLAN", b"IBPLAN\x00\x01", b"\x00" * 99, b"IBPLAN\x00\x01" + b"\xff" * 99])
def test_what_is_no_plan_file_is_refused(content):
    with pytest.raises(PlanError, match="delete it, and it is fetched again"):
        plan_from_buffer(content)


@pytest.mark.parametrize("text", [b"5", b"null", b"[]", b'"x"', b"{}", b"[" * 100_000])
def test_a_header_that_is_no_object_is_refused(text):
    with pytest.raises(PlanError):
        plan_from_buffer(b"IBPLAN\x00\x01" + len(text).to_bytes(8, "little") + text + bytes(200))


# ---- the digest


@pytest.mark.parametrize("kind", ["two classes", "three classes"])
def test_any_flipped_bit_changes_the_id(kind):
    plan = make_plan(kind)
    ids = {plan.plan_id}
    for name in ("keep_bits", "class_plane"):
        for place in (0, 5, len(getattr(plan, name)) - 1):
            values = getattr(plan, name).copy()
            values[place] ^= 1
            ids.add(seal(replace(plan, **{name: values})).plan_id)
    moved = plan.shard_kept.copy()
    moved[[0, 2]] += [1, -1]
    ids.add(seal(replace(plan, shard_kept=moved)).plan_id)
    assert len(ids) == 8


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": bytes(16)},
        {"generation": 3},
        {"epoch": 4},
        {"seed": 1},
        {"threshold": 0.25},
        {"threshold": None},
        {"low_share": None},
        {"never_scored": 0},
        {"prune_requested": 9},
        {"journal_position": 78},
        {"biased": True},
        {"unpruned": True},
        {"order_version": 2},
    ],
)
def test_any_field_changes_the_digest(change):
    plan = make_plan("two classes")
    other = seal(replace(plan, **change))
    assert other.plan_id.rsplit("-", 1)[1] != plan.plan_id.rsplit("-", 1)[1]


def test_an_id_names_run_generation_epoch_and_digest():
    run_id, generation, epoch, digest = make_plan("two classes").plan_id.split("-")
    assert (run_id, generation, epoch) == (RUN_ID.hex(), "2", "3")
    assert len(bytes.fromhex(digest)) == 32


def test_the_digest_is_known():
    assert make_plan("two classes").plan_id.endswith("5f0ec913bcb6dfe508a9f9a58cf1f2b5e527fead5ebf10f77ec47ded2b4d947c")


# ---- chunks


def test_chunks_cover_the_planes():
    num_samples = CHUNK_SAMPLES + 9
    spec = make_spec([num_samples], subset=np.arange(num_samples) % 3 > 0)
    plan = draw_plan(spec, make_table(np.ones(num_samples, np.float32)), run_id=RUN_ID, generation=1, epoch=1)
    assert chunk_count(num_samples) == 2
    chunks = [list(chunk_planes(plan, chunk)) for chunk in range(2)]
    assert [[len(plane) for plane in chunk] for chunk in chunks] == [[CHUNK_SAMPLES // 8, CHUNK_SAMPLES], [2, 9]]
    assert np.array_equal(np.concatenate([chunk[0] for chunk in chunks]), plan.keep_bits)
    assert np.array_equal(np.concatenate([chunk[1] for chunk in chunks]), plan.class_plane)


@pytest.mark.parametrize("kind", KINDS)
def test_planes_are_as_few_as_the_classes_need(kind):
    plan = make_plan(kind)
    (planes,) = [list(chunk_planes(plan, chunk)) for chunk in range(chunk_count(NUM_SAMPLES))]
    expected = {1: [127], 2: [127, 127]}.get(len(plan.classes), [127, NUM_SAMPLES])
    assert [len(plane) for plane in planes] == expected
