"""Scores and plans that are read out of a run and put into another."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest

from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.plan_messages import plan_messages
from infobatch_stream.wire.specs import seal
from tests.damaged_plans import DAMAGES, PLAN, SPEC, Messages, messages_of
from tests.server.calls import (
    INVALID,
    NOT_FOUND,
    REFUSED,
    Caller,
    make_spec,
    plan_of,
    push_request,
    status,
)
from tests.server.conftest import Clock


def read(caller: Caller, **fields: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    answers = list(caller.stub.ReadScores(pb.ReadScoresRequest(**fields)))
    return (
        np.frombuffer(b"".join(answer.scores for answer in answers), "<f4"),
        np.frombuffer(b"".join(answer.stamps for answer in answers), "<u2"),
        np.frombuffer(b"".join(answer.visits for answer in answers), "<u2"),
    )


def test_scores_can_be_read_back(caller: Caller, run: bytes) -> None:
    generation = caller.attach(run, resume=pb.Resume(start=pb.Resume.Start(epoch=3)))
    caller.plan(run, generation, 3)
    caller.stub.PushScores(push_request(run, generation, 1, 3, [2, 4], [0.5, 0.25]))
    scores, stamps, visits = read(caller, run="test", first_sample=2, end_sample=5)
    np.testing.assert_array_equal(scores, np.array([0.5, np.nan, 0.25], np.float32))
    assert stamps.tolist() == [4, 0, 4]
    assert visits.tolist() == [1, 0, 1]
    assert len(read(caller, run_id=run)[0]) == 1000
    with status(INVALID, "samples [5, 1001) are outside"):
        read(caller, run="test", first_sample=5, end_sample=1001)


def seed_messages(run: bytes, scores: np.ndarray, plan: list[Any] | None = None) -> list[pb.SeedRunRequest]:
    half = len(scores) // 2
    parts = [(0, scores[:half]), (half, scores[half:])]
    return [
        pb.SeedRunRequest(run_id=run),
        *(
            pb.SeedRunRequest(scores=pb.SeedRunRequest.Scores(first_sample=first, scores=part.tobytes()))
            for first, part in parts
        ),
        *(pb.SeedRunRequest(plan=message) for message in plan or []),
    ]


def test_a_seeded_run_prunes_at_once(caller: Caller, run: bytes) -> None:
    scores = np.random.default_rng(0).random(1000).astype(np.float32)
    scores[:2] = np.nan, np.inf
    answer = caller.stub.SeedRun(iter(seed_messages(run, scores)))
    assert (answer.scored, answer.non_finite, answer.plan_id) == (998, 1, "")
    generation = caller.attach(run)
    plan = caller.plan(run, generation, 0)
    assert plan.pruned > 0
    assert plan.never_scored == 2


@pytest.mark.parametrize("policy", ["infobatch", "random", "levels"])
def test_a_run_moves_with_its_plan(caller: Caller, policy: str) -> None:
    more = {"levels": "0.2:0.75,0.85:0.5"} if policy == "levels" else {}
    run = caller.create(make_spec("old", policy=policy, **more)).run_id
    generation = caller.attach(run)
    first = caller.plan(run, generation, 0)
    scores = np.random.default_rng(0).random(1000).astype(np.float32)
    caller.push_all(run, generation, 0, 1, scores)
    caller.end(run, generation, 0, first.plan_id)
    messages = list(caller.stub.GetEpochPlan(pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=1)))
    plan = plan_of(messages)
    moved = caller.create(make_spec("new", policy=policy, **more)).run_id
    assert caller.stub.SeedRun(iter(seed_messages(moved, scores, messages))).plan_id == plan.plan_id
    inside = pb.Resume(inside=pb.Resume.Inside(epoch=1, plan_id=plan.plan_id))
    later = caller.attach(moved, resume=inside)
    assert later == 2, "a generation that decided a plan decides none of the run it moved to"
    assert caller.plan(moved, later, 1).plan_id == plan.plan_id


def test_a_seeded_plan_whose_counts_contradict_its_bits_is_refused(caller: Caller) -> None:
    run = caller.create(make_spec("old", policy="random")).run_id
    generation = caller.attach(run)
    plan = caller.plan(run, generation, 0)
    shifted = plan.shard_kept.copy()
    shifted[:2] += [1, -1]
    sizes = make_spec("old").shard_sizes
    messages = list(plan_messages(seal(replace(plan, shard_kept=shifted)), sizes))
    moved = caller.create(make_spec("new", policy="random")).run_id
    with status(INVALID, "kept counts by shard differ from the counts of its keep bits"):
        caller.stub.SeedRun(iter(seed_messages(moved, np.zeros(1000, np.float32), messages)))


def damaged_plan(messages: list[pb.GetEpochPlanResponse], change: Any) -> list[pb.GetEpochPlanResponse]:
    copies = [type(message).FromString(message.SerializeToString()) for message in messages]
    change(copies)
    return copies


def flip(messages: list[pb.GetEpochPlanResponse]) -> None:
    chunk = messages[-1].chunk
    chunk.data = bytes([chunk.data[0] ^ 1]) + chunk.data[1:]


def flip_and_sum(messages: list[pb.GetEpochPlanResponse]) -> None:
    flip(messages)
    messages[-1].chunk.crc32 = zlib.crc32(messages[-1].chunk.data)


def set_header(**fields: Any) -> Any:
    def change(messages: list[pb.GetEpochPlanResponse]) -> None:
        for name, value in fields.items():
            setattr(messages[0].header, name, value)

    return change


def set_chunk(**fields: Any) -> Any:
    def change(messages: list[pb.GetEpochPlanResponse]) -> None:
        for name, value in fields.items():
            setattr(messages[-1].chunk, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "words", "kind"),
    [
        (flip, "came damaged at byte 0; transfer the plan again", "PlanError"),
        (flip_and_sum, "its bytes give the id", "PlanError"),
        (lambda messages: messages.pop(), "bytes did not come", "PlanError"),
        (lambda messages: messages.pop(0), "first message must be its header", "PlanError"),
        (lambda messages: messages.append(messages[0]), "send one plan at a time", "PlanError"),
        (set_header(num_samples=999), "the plan is of 999 samples", "PlanError"),
        (set_header(chunk_samples=1), "the plan's chunks have 1 samples", "PlanError"),
        (set_header(epoch=9), "its bytes give the id", "PlanError"),
        (set_chunk(plane=7), "server too old: PlanChunk.plane has the value 7", "ConfigError"),
        (set_chunk(offset_bytes=1), "ends at byte 126; its plane has 125", "PlanError"),
    ],
)
def test_a_damaged_plan_is_not_seeded(caller: Caller, run: bytes, change: Any, words: str, kind: str) -> None:
    generation = caller.attach(run)
    messages = list(caller.stub.GetEpochPlan(pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=0)))
    other = caller.create(make_spec("other")).run_id
    with status(INVALID, words, kind):
        caller.stub.SeedRun(iter(seed_messages(other, np.zeros(2, np.float32), damaged_plan(messages, change))))
    assert not caller.stub.GetRun(pb.GetRunRequest(run="other")).run.plan_ids


@pytest.mark.parametrize(("damaged", "words"), DAMAGES)
def test_no_damage_is_seeded(caller: Caller, damaged: Callable[[], Messages], words: str) -> None:
    run = caller.create(SPEC).run_id
    requests = [pb.SeedRunRequest(run_id=run), *(pb.SeedRunRequest(plan=message) for message in damaged())]
    with pytest.raises(grpc.RpcError) as caught:
        caller.stub.SeedRun(iter(requests))
    error: Any = caught.value
    assert error.code() == INVALID
    assert re.search(words, error.details())
    assert ("infobatch-error", "PlanError") in [tuple(item) for item in error.trailing_metadata()]
    assert not caller.stub.GetRun(pb.GetRunRequest(run_id=run)).run.plan_ids
    requests = [pb.SeedRunRequest(run_id=run), *(pb.SeedRunRequest(plan=message) for message in messages_of(PLAN))]
    assert caller.stub.SeedRun(iter(requests)).plan_id == PLAN.plan_id


def test_the_unpruned_fallback_is_not_seeded(caller: Caller, run: bytes) -> None:
    generation = caller.attach(run)
    caller.stub.MarkUnpruned(pb.MarkUnprunedRequest(run_id=run, generation=generation, epoch=0))
    messages = list(caller.stub.GetEpochPlan(pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=0)))
    other = caller.create(make_spec("other")).run_id
    with status(INVALID, "is an unpruned fallback", "PlanError"):
        caller.stub.SeedRun(iter(seed_messages(other, np.zeros(2, np.float32), messages)))


def test_a_plan_of_another_seed_is_not_seeded(caller: Caller, run: bytes) -> None:
    generation = caller.attach(run)
    messages = list(caller.stub.GetEpochPlan(pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=0)))
    other = caller.create(make_spec("other", seed=8)).run_id
    with status(INVALID, "the plan doesn't fit run 'other': its seed is 7, the run's is 8"):
        caller.stub.SeedRun(iter(seed_messages(other, np.zeros(2, np.float32), messages)))


def test_seeding_needs_a_run_without_a_job(caller: Caller, run: bytes, clock: Clock) -> None:
    caller.attach(run)
    with status(REFUSED, "can't be seeded: another process on host 'node1'", "RunBusyError"):
        caller.stub.SeedRun(iter(seed_messages(run, np.zeros(1000, np.float32))))
    clock.now += 31
    caller.stub.SeedRun(iter(seed_messages(run, np.zeros(1000, np.float32))))


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (pb.SeedRunRequest.Scores(scores=b"xyz"), "scores has 3 bytes"),
        (pb.SeedRunRequest.Scores(scores=bytes(8), stamps=b"x"), "stamps has 1 bytes; 2 scores need 4"),
        (pb.SeedRunRequest.Scores(scores=bytes(4), stamps=b"\xff\xff"), "stamp 65535 is over 65534"),
        (pb.SeedRunRequest.Scores(scores=bytes(8), first_sample=999), "samples [999, 1001) are outside"),
        (pb.SeedRunRequest.Scores(scores=bytes(8), first_sample=2**64 - 1), "are outside"),
    ],
)
def test_invalid_scores_to_import(caller: Caller, run: bytes, scores: pb.SeedRunRequest.Scores, words: str) -> None:
    with status(INVALID, words):
        caller.stub.SeedRun(iter([pb.SeedRunRequest(run_id=run), pb.SeedRunRequest(scores=scores)]))
    with status(INVALID, "the first message of SeedRun must have `run_id`"):
        caller.stub.SeedRun(iter([pb.SeedRunRequest(scores=scores)]))


def test_amending_and_deleting(caller: Caller, run: bytes) -> None:
    answer = caller.stub.AmendRun(pb.AmendRunRequest(run_id=run, epochs=20, anneal_epoch=17))
    assert (answer.spec.epochs, answer.spec.delta) == (20, "0.875")
    with status(INVALID, "anneal_epoch=0"):
        caller.stub.AmendRun(pb.AmendRunRequest(run_id=run, delta="0.5"))
    caller.stub.DeleteRun(pb.DeleteRunRequest(run="test"))
    with status(NOT_FOUND, "run 'test' was deleted"):
        caller.stub.GetRun(pb.GetRunRequest(run_id=run))


def test_a_plan_of_other_groups_is_refused(caller: Caller) -> None:
    run = caller.create(make_spec("old", policy="random", groups=3)).run_id
    generation = caller.attach(run)
    plan = caller.plan(run, generation, 0)
    assert [group.name for group in plan.groups] == ["g0", "g1", "g2"]
    messages = list(caller.stub.GetEpochPlan(pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=0)))
    same = caller.create(make_spec("same", policy="random", groups=3)).run_id
    assert caller.stub.SeedRun(iter(seed_messages(same, np.zeros(1000, np.float32), messages))).plan_id == plan.plan_id
    for name, groups in (("two", 2), ("none", 0)):
        other = caller.create(make_spec(name, policy="random", groups=groups)).run_id
        with status(INVALID, "its groups is ('g0', 'g1', 'g2')"):
            caller.stub.SeedRun(iter(seed_messages(other, np.zeros(1000, np.float32), messages)))
