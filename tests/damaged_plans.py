"""A plan of three classes, and every way in which its stream can come damaged, for each side that reads plans."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from infobatch_stream.plan.epoch_plan import EpochPlan, kept_by_shard
from infobatch_stream.planner import draw_plan
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.plan_messages import plan_messages
from infobatch_stream.wire.specs import seal
from tests.core.worlds import RUN_ID, make_spec, make_table, some_scores

Messages = list[pb.GetEpochPlanResponse]
SPEC = make_spec([400, 0, 609], policy="levels", levels="0.2:0.75,0.85:0.5")
PLAN = seal(draw_plan(SPEC, make_table(some_scores(1009)), run_id=RUN_ID, generation=1, epoch=1))


def messages_of(plan: EpochPlan) -> Messages:
    """The plan's stream: header, counts, keep bits, class codes."""
    return list(plan_messages(plan, SPEC.shard_sizes))


def _header(**fields: object) -> Callable[[], Messages]:
    def damaged() -> Messages:
        messages = messages_of(PLAN)
        for name, value in fields.items():
            setattr(messages[0].header, name, value)
        return messages

    return damaged


def _codes(**fields: object) -> Callable[[], Messages]:
    def damaged() -> Messages:
        messages = messages_of(PLAN)
        for name, value in fields.items():
            setattr(messages[-1].chunk, name, value)
        messages[-1].chunk.crc32 = zlib.crc32(messages[-1].chunk.data)
        return messages

    return damaged


def _bits_flipped(*, with_checksum: bool) -> Messages:
    messages = messages_of(PLAN)
    chunk = messages[2].chunk
    chunk.data = bytes([chunk.data[0] ^ 1]) + chunk.data[1:]
    if with_checksum:
        chunk.crc32 = zlib.crc32(chunk.data)
    return messages


def _counts(first_shard: int, kept: bytes) -> Messages:
    messages = messages_of(PLAN)
    messages[1].shard_kept.first_shard = first_shard
    messages[1].shard_kept.kept = kept
    return messages


def _without(place: int) -> Messages:
    messages = messages_of(PLAN)
    del messages[place]
    return messages


def _sealed(change: Callable[[EpochPlan], EpochPlan]) -> Messages:
    """The stream of a plan whose id is right and whose contents aren't."""
    return messages_of(seal(change(PLAN)))


def _code_out_of_range(plan: EpochPlan) -> EpochPlan:
    assert plan.class_plane is not None
    codes = plan.class_plane.copy()
    codes[5] = 77
    return replace(plan, class_plane=codes)


def _pad_bit(plan: EpochPlan) -> EpochPlan:
    bits = plan.keep_bits.copy()
    bits[-1] |= 0x80
    return replace(plan, keep_bits=bits)


def _one_bit_less(plan: EpochPlan) -> EpochPlan:
    bits = plan.keep_bits.copy()
    place = int(np.flatnonzero(bits)[0])
    bits[place] &= bits[place] - 1
    assert kept_by_shard(bits, SPEC.shard_sizes)[0] == plan.shard_kept[0] - 1
    return replace(plan, keep_bits=bits)


def _count_moved(plan: EpochPlan) -> EpochPlan:
    return replace(plan, shard_kept=plan.shard_kept + np.array([1, 0, -1]))


def _count_in_an_empty_shard(plan: EpochPlan) -> EpochPlan:
    return replace(plan, shard_kept=plan.shard_kept + np.array([-1, 1, 0]))


# What makes the messages, and the words of the PlanError that a reader raises.
DAMAGES = [
    pytest.param(lambda: _without(0), "first message must be its header", id="no header"),
    pytest.param(lambda: [*messages_of(PLAN), messages_of(PLAN)[0]], "send one plan at a time", id="two headers"),
    pytest.param(_header(num_samples=2**40), "the plan is of 1099511627776 samples", id="more samples than the run"),
    pytest.param(_header(num_shards=2**40), "in 1099511627776 shards", id="more shards than the run"),
    pytest.param(_header(chunk_samples=1), "the plan's chunks have 1 samples", id="chunks of another size"),
    pytest.param(_header(run_id=b"short"), "run id '73686f7274'", id="short run id"),
    pytest.param(_header(epoch=9), "its bytes give the id", id="header of another epoch"),
    pytest.param(_header(digest=b""), "its bytes don't give its digest ''", id="no digest"),
    pytest.param(_header(kept=3), "its header says 3 kept samples", id="kept samples of the header"),
    pytest.param(lambda: _counts(0, b"x" * 12), "shard_kept has 12 bytes", id="half a count"),
    pytest.param(lambda: _counts(0, bytes(32)), r"shard_kept of shards \[0, 4\): there are 3", id="too many counts"),
    pytest.param(lambda: _counts(2**63, bytes(8)), "there are 3", id="counts far behind the last shard"),
    pytest.param(lambda: _counts(0, bytes(16)), "8 bytes did not come", id="too few counts"),
    pytest.param(lambda: _without(1), "24 bytes did not come", id="no counts"),
    pytest.param(lambda: _without(2), "127 bytes did not come", id="no keep bits"),
    pytest.param(lambda: [*messages_of(PLAN), messages_of(PLAN)[2]], "came twice", id="keep bits twice"),
    pytest.param(lambda: _bits_flipped(with_checksum=False), "came damaged at byte 0", id="a bit flipped on the way"),
    pytest.param(lambda: _bits_flipped(with_checksum=True), "its bytes give the id", id="a bit flipped before"),
    pytest.param(_codes(plane=pb.PLANE_CLASS_BITS), "has a plane 2, its 3 classes need", id="a plane too many"),
    pytest.param(_codes(data=bytes(1010)), "ends at byte 1010; its plane has 1009", id="a chunk too long"),
    pytest.param(_codes(offset_bytes=1), "ends at byte 1010; its plane has 1009", id="a chunk shifted"),
    pytest.param(_codes(chunk=2**31), "its plane has 1009", id="a chunk far behind the last"),
    pytest.param(lambda: _sealed(_code_out_of_range), "class code 77 of 3 classes", id="class code out of range"),
    pytest.param(lambda: _sealed(_pad_bit), "its pad bits are not zero", id="pad bits"),
    pytest.param(lambda: _sealed(_one_bit_less), "differ from the counts of its", id="bits that don't add up"),
    pytest.param(lambda: _sealed(_count_moved), "differ from the counts of its", id="counts of other shards"),
    pytest.param(
        lambda: _sealed(_count_in_an_empty_shard),
        "more samples of a shard than there are",
        id="count in an empty shard",
    ),
]
