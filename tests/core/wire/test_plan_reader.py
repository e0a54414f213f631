"""A plan's stream gives the plan, or a PlanError; never more memory than the run's own plan takes."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from infobatch_stream.errors import PlanError
from infobatch_stream.plan.epoch_plan import EpochPlan, unpruned_plan
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.plan_messages import plan_messages
from infobatch_stream.wire.plan_reader import PlanReader
from tests.core.worlds import RUN_ID
from tests.damaged_plans import DAMAGES, PLAN, SPEC, Messages, messages_of

ADVICE = r"(transfer the plan again|of the same version|use a plan of this run|send one plan at a time)$"
MASK = np.random.default_rng(8).random(1009) < 0.6


def read(messages: Messages) -> EpochPlan:
    reader = PlanReader(SPEC)
    for message in messages:
        reader.add(message)
    return reader.plan()


def full_plan(subset: np.ndarray | None = None) -> EpochPlan:
    return unpruned_plan(
        run_id=RUN_ID, epoch=4, seed=SPEC.seed, shard_sizes=SPEC.shard_sizes, order=SPEC.order, subset=subset
    )


@pytest.mark.parametrize("plan", [PLAN, full_plan(), full_plan(MASK)], ids=["drawn", "full", "full with a mask"])
def test_a_plan_is_read_whatever_the_order_of_its_messages(plan: EpochPlan) -> None:
    header, *rest = messages_of(plan)
    for messages in ([header, *rest], [header, *reversed(rest)]):
        found = read(messages)
        assert found.plan_id == plan.plan_id
        np.testing.assert_array_equal(found.keep_bits, plan.keep_bits)
        np.testing.assert_array_equal(found.shard_kept, plan.shard_kept)
        assert (found.class_plane is None) == (plan.class_plane is None)
        if plan.class_plane is not None:
            np.testing.assert_array_equal(found.class_plane, plan.class_plane)


@pytest.mark.parametrize(("damaged", "words"), DAMAGES)
def test_a_damaged_plan_is_a_plan_error(damaged: Callable[[], Messages], words: str) -> None:
    messages = damaged()
    tracemalloc.start()
    try:
        with pytest.raises(PlanError, match=words) as caught:
            read(messages)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert re.search(ADVICE, str(caught.value))


def test_a_stream_without_a_message_is_a_plan_error() -> None:
    with pytest.raises(PlanError, match="has no header; transfer the plan again"):
        read([])


def test_a_plane_that_no_version_knows_is_a_plan_error() -> None:
    messages = messages_of(PLAN)
    messages[-1].chunk.plane = 7  # type: ignore[assignment]
    with pytest.raises(PlanError, match="has a plane 7, its 3 classes need"):
        read(messages)


def test_a_part_that_is_no_part_of_a_plan_is_a_plan_error() -> None:
    with pytest.raises(PlanError, match="a plan has no part 'not_ready'"):
        read([messages_of(PLAN)[0], pb.GetEpochPlanResponse(not_ready=pb.NotReady())])


@pytest.mark.parametrize("change", ["keep_bits", "plan_id"])
def test_the_bytes_of_a_full_plan_are_checked_too(change: str) -> None:
    plan = full_plan(MASK)
    messages = list(plan_messages(plan, SPEC.shard_sizes))
    if change == "plan_id":
        messages[0].header.plan_id = "full:00:4"
    else:
        other = list(plan_messages(replace(full_plan(~MASK), plan_id=plan.plan_id), SPEC.shard_sizes))
        messages = [messages[0], *other[1:]]
    with pytest.raises(PlanError, match=r"add up|its bytes give the id 'full|don't give its digest"):
        read(messages)
