"""The gRPC service through a real channel: answers, and a status with a remedy for what can't be done."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from infobatch_server.plan_stream import plan_messages
from infobatch_server.server import ScoreServer
from infobatch_stream.codec import seal, spec_message
from infobatch_stream.order_params import OrderChoice
from infobatch_stream.plan import full_plan_id
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.calls import (
    CLIENT,
    Caller,
    attach_request,
    caller_on,
    create_messages,
    end_request,
    make_spec,
    plan_of,
    push_request,
)
from tests.server.conftest import Clock

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
REFUSED = grpc.StatusCode.FAILED_PRECONDITION


@contextmanager
def status(code: grpc.StatusCode, words: str, kind: str | None = None) -> Iterator[None]:
    """What is called in it must end with this status and these words."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error: Any = caught.value
    assert error.code() == code, error.details()
    assert words in error.details()
    if kind is not None:
        assert dict(error.trailing_metadata())["infobatch-error"] == kind


@pytest.fixture
def run(caller: Caller) -> bytes:
    """A run of 1,000 samples in 10 shards."""
    return bytes(caller.create(make_spec()).run_id)


# The whole way.


def test_scores_of_one_epoch_prune_the_next(caller: Caller, run: bytes) -> None:
    generation = caller.attach(run)
    first = caller.plan(run, generation, 0)
    assert (first.kept, first.pruned, first.never_scored) == (1000, 0, 1000)
    scores = np.random.default_rng(0).random(1000).astype(np.float32)
    answer = caller.push_all(run, generation, 0, 1, scores)
    assert (answer.accepted, answer.journal_position, answer.duplicate) == (1000, 1, False)
    assert list(caller.end(run, generation, 0, first.plan_id).missing_ranks) == []
    second = caller.plan(run, generation, 1)
    low = scores < np.float32(second.threshold)
    kept = np.unpackbits(second.keep_bits, bitorder="little", count=1000).astype(bool)
    assert kept[~low].all()
    assert 0 < np.count_nonzero(kept[low]) < np.count_nonzero(low)
    np.testing.assert_array_equal(second.weights(np.flatnonzero(kept)), np.where(low[kept], 2.0, 1.0))
    assert second.journal_position == 1
    assert caller.plan(run, generation, 1).plan_id == second.plan_id


def test_attaching_tells_the_time_outs(caller: Caller, run: bytes) -> None:
    answer = caller.stub.AttachRun(attach_request(run))
    assert (answer.run_id, answer.generation) == (run, 1)
    assert (answer.lease_ms, answer.barrier_timeout_ms) == (30_000, 60_000)
    assert 0 < answer.heartbeat_interval_ms < answer.lease_ms / 2
    assert answer.server_version


def test_a_barrier_answers_at_once(caller: Caller, run: bytes) -> None:
    generation = caller.attach(run, world_size=2)
    caller.plan(run, generation, 0)
    request = pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=1)
    (message,) = caller.stub.GetEpochPlan(request, timeout=5)
    assert list(message.not_ready.missing_ranks) == [0, 1]
    assert message.not_ready.retry_after_ms > 0


def test_a_repeated_push_is_told_so(caller: Caller, run: bytes) -> None:
    generation = caller.attach(run)
    caller.plan(run, generation, 0)
    request = push_request(run, generation, 1, 0, [1, 2, 3], [1.0, np.nan, np.inf])
    first, second = caller.stub.PushScores(request), caller.stub.PushScores(request)
    assert (first.accepted, first.non_finite, first.duplicate) == (1, 2, False)
    assert (second.accepted, second.duplicate, second.journal_position) == (0, True, 1)


def test_marking_detaching_and_heartbeats(caller: Caller, run: bytes) -> None:
    generation = caller.attach(run)
    caller.stub.MarkUnpruned(pb.MarkUnprunedRequest(run_id=run, generation=generation, epoch=0))
    assert caller.plan(run, generation, 0).plan_id == full_plan_id(run, 0)
    assert caller.plan(run, 0, 0, plan_id=full_plan_id(run, 0)).kept == 1000
    caller.stub.Heartbeat(pb.HeartbeatRequest(run_id=run, generation=generation))
    caller.stub.DetachRun(pb.DetachRunRequest(run_id=run, generation=generation))
    assert caller.stub.GetRun(pb.GetRunRequest(run="test")).run.job == ""


# Creating runs.


def test_creating_is_idempotent_and_answers_with_the_stored_spec(caller: Caller) -> None:
    spec = make_spec(subset=np.arange(1000) % 3 > 0)
    first, second = caller.create(spec), caller.create(spec)
    assert (first.created, second.created) == (True, False)
    assert first.run_id == second.run_id
    assert second.spec == spec_message(spec)
    assert (second.trained, second.last_epoch) == (False, -1)


def test_another_spec_is_refused_by_each_field(caller: Caller, run: bytes) -> None:
    with status(REFUSED, "seed: the run has 7, this job asks for 8", "RunConflictError"):
        caller.create(make_spec(seed=8))
    with status(REFUSED, "prune_ratio: the run has 0.5, this job asks for 0.25"):
        caller.create(make_spec(prune_ratio="0.25", delta="0.5"))
    with status(REFUSED, "delta: the run has 0.875, this job asks for 0.5"):
        caller.create(make_spec(prune_ratio="0.25", delta="0.5"))


def test_only_what_the_user_set_of_the_order_is_compared(caller: Caller, run: bytes) -> None:
    assert caller.create(make_spec(), OrderChoice(stripe=8)).spec.order.stripe == 8
    with status(REFUSED, "stripe: the run has 8, this job asks for 9"):
        caller.create(make_spec(), OrderChoice(stripe=9))


def altered(change: Any) -> list[pb.CreateRunRequest]:
    messages = create_messages(make_spec(subset=np.arange(1000) % 3 > 0))
    change(messages)
    return messages


def set_spec(**fields: Any) -> Any:
    def change(messages: list[pb.CreateRunRequest]) -> None:
        for name, value in fields.items():
            setattr(messages[0].spec, name, value)

    return change


def set_sizes(*sizes: int) -> Any:
    def change(messages: list[pb.CreateRunRequest]) -> None:
        messages[1].shard_sizes.sizes = np.array(sizes, "<i8").tobytes()

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_spec(run="a/b"), "run='a/b' can't name a run"),
        (set_spec(num_samples=2**31 + 1), "num_samples=2147483649 is outside [1, 2147483648]"),
        (set_spec(num_samples=0), "num_samples=0 is outside"),
        (set_spec(num_shards=2**24 + 1), "num_shards=16777217 is outside"),
        (set_spec(num_samples=999), "samples, all have 999"),
        (set_spec(num_samples=1001), "mask"),
        (set_spec(num_shards=9), "sizes of 10 shards came, the spec says 9"),
        (set_spec(num_shards=11), "sizes of 10 shards came, the spec says 11"),
        (set_spec(epochs=65_535), "epochs=65535 is outside [1, 65534]"),
        (set_spec(anneal_epoch=9), "anneal_epoch=9"),
        (set_spec(delta="1.5"), "1.5"),
        (set_spec(order_version=2), "order_version=2: this server knows 1"),
        (set_spec(subset_samples=1001), "subset_samples=1001 is over"),
        (set_spec(subset_samples=5), "subset_samples=5, but the parts say"),
        (set_spec(subset_sha256=b"x" * 32), "subset_sha256"),
        (set_spec(manifest_fingerprint=b"x"), "manifest fingerprint has 1 bytes"),
        (set_sizes(1000, *[0] * 8), "sizes of 9 shards came"),
        (set_sizes(1001, -1, *[0] * 8), "shard 1 has -1 samples"),
        (set_sizes(1001, *[0] * 9), "shard 0 has 1001 samples, all have 1000"),
        (set_sizes(*[2**62] * 10), "samples, all have 1000"),
        (set_sizes(600, 600, *[0] * 8), "10 shards have 1200 samples, all have 1000"),
        (lambda messages: messages.pop(0), "the first message of CreateRun must have `spec`"),
        (lambda messages: messages.clear(), "the first message of CreateRun must have `spec`"),
        (lambda messages: messages.append(messages[0]), "after `spec`, CreateRun takes"),
        (lambda messages: messages.append(messages[1]), "shard_sizes from shard 0 came where 10 is next"),
        (lambda messages: messages.append(messages[2]), "mask from sample 0 came where 1000 is next"),
        (lambda messages: messages.pop(), "0 bytes of mask came, the spec needs 125"),
    ],
)
def test_a_spec_that_cannot_be_meant(caller: Caller, change: Any, words: str) -> None:
    with status(INVALID, words, "ConfigError"):
        caller.stub.CreateRun(iter(altered(change)), timeout=10)
    assert not caller.stub.ListRuns(pb.ListRunsRequest()).runs


def test_a_run_that_does_not_fit_into_memory_is_refused() -> None:
    from infobatch_server.limits import Limits

    with ScoreServer(limits=Limits(memory_bytes=10_000)) as server:
        channel, caller = caller_on(str(server.grpc_address))
        with channel:
            caller.create(make_spec("first"))
            with status(REFUSED, "take 8,500 bytes; 8,500 of 10,000 are in use: start the server with a larger"):
                caller.create(make_spec("second"))


def with_unknown_field(message: Any) -> Any:
    """The same message from a later version: field 999 is set."""
    return type(message).FromString(message.SerializeToString() + b"\xba\x3e\x01x")


def test_fields_that_the_server_does_not_know_are_refused(caller: Caller, run: bytes) -> None:
    with status(INVALID, "server too old: HeartbeatRequest has fields [999]", "ConfigError"):
        caller.stub.Heartbeat(with_unknown_field(pb.HeartbeatRequest(run_id=run, generation=1)))
    messages = create_messages(make_spec("other"))
    messages[0].spec.CopyFrom(with_unknown_field(messages[0].spec))
    with status(INVALID, "server too old: RunSpec has fields [999]"):
        caller.stub.CreateRun(iter(messages))
    with status(INVALID, "server too old"):
        list(caller.stub.GetEpochPlan(with_unknown_field(pb.GetEpochPlanRequest(run_id=run))))


# Calls that can't be meant.


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"nonce": b"short"}, "nonce has 5 bytes, not 16"),
        ({"job": ""}, "job='' must have 1 to 255"),
        ({"host": "a\nb"}, "printable"),
        ({"world_size": 0}, "world_size=0 is outside"),
        ({"resume": pb.Resume()}, "must say where training begins"),
        ({"resume": pb.Resume(inside=pb.Resume.Inside(epoch=1))}, "needs the plan_id"),
        ({"resume": pb.Resume(start=pb.Resume.Start(epoch=11))}, "has 10 epochs"),
    ],
)
def test_attaching_that_cannot_be_meant(caller: Caller, run: bytes, fields: dict[str, Any], words: str) -> None:
    with status(INVALID, words):
        caller.attach(run, **fields)


def test_a_busy_run_says_when_to_come_again(caller: Caller, run: bytes, clock: Clock) -> None:
    caller.attach(run)
    clock.now += 10
    with pytest.raises(grpc.RpcError) as caught:
        caller.attach(run, nonce=b"m" * 16)
    error: Any = caught.value
    assert error.code() == REFUSED
    assert "on host 'node1', pid 41" in error.details()
    told = dict(error.trailing_metadata())
    assert (told["infobatch-error"], told["infobatch-retry-after-ms"]) == ("RunBusyError", "20000")


def test_a_superseded_generation_is_aborted(caller: Caller, run: bytes) -> None:
    old = caller.attach(run)
    caller.attach(run, nonce=b"m" * 16, takeover=True)
    with status(grpc.StatusCode.ABORTED, "superseded", "SupersededError"):
        caller.stub.PushScores(push_request(run, old, 1, 0, [0], [1.0]))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"indices": b"x" * 7}, "indices has 7 bytes: int64 takes 8 each"),
        ({"scores": b"x" * 7}, "scores has 7 bytes; 2 indices need 8"),
        ({"indices": np.array([0, 1000], "<i8").tobytes()}, "sample index 1000 is outside [0, 1000)"),
        ({"indices": np.array([-1, 3], "<i8").tobytes()}, "sample index -1 is outside [0, 1000)"),
        ({"client_id": b"x"}, "client_id has 1 bytes, not 16"),
        ({"sequence": 0}, "sequence numbers begin at 1"),
        ({"epoch": 10}, "epoch=10 is outside the run's schedule of 10 epochs"),
        ({"columns": [pb.Column(name="x", dtype="uint8", data=b"ab")]}, "columns ['x'] were pushed"),
        ({"run_id": b"x"}, "run_id has 1 bytes, not 16"),
    ],
)
def test_a_push_that_cannot_be_meant(caller: Caller, run: bytes, fields: dict[str, Any], words: str) -> None:
    generation = caller.attach(run)
    caller.plan(run, generation, 0)
    request = push_request(run, generation, 1, 0, [0, 1], [1.0, 2.0])
    for name, value in fields.items():
        if name == "columns":
            request.columns.extend(value)
        else:
            setattr(request, name, value)
    with status(INVALID, words):
        caller.stub.PushScores(request)
    with status(REFUSED, "epoch 1 of run 'test' was not opened: the newest epoch is 0", "RunConflictError"):
        caller.stub.PushScores(push_request(run, generation, 1, 1, [0, 1], [1.0, 2.0]))
    good = push_request(run, generation, 1, 0, [0, 1], [1.0, 2.0])
    assert not caller.stub.PushScores(good).duplicate


def test_what_is_not_there_is_not_found(caller: Caller, run: bytes) -> None:
    with status(NOT_FOUND, "no run of id 78787878", "RunNotFoundError"):
        caller.attach(b"x" * 16)
    with status(NOT_FOUND, "no run 'nobody'"):
        caller.stub.GetRun(pb.GetRunRequest(run="nobody"))
    with status(INVALID, "one of the two"):
        caller.stub.GetRun(pb.GetRunRequest())
    generation = caller.attach(run)
    with status(NOT_FOUND, "keeps no plan 'nothing' of epoch 0", "RunNotFoundError"):
        caller.plan(run, generation, 0, plan_id="nothing")


def test_a_defect_is_internal_and_told_in_the_log_only(
    caller: Caller, server: ScoreServer, run: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(server.registry, "runs", fail)
    with status(grpc.StatusCode.INTERNAL, "its log has the traceback"):
        caller.stub.ListRuns(pb.ListRunsRequest())
    assert "secret" in caplog.text


def test_a_message_over_the_limit_is_refused(caller: Caller, run: bytes) -> None:
    generation = caller.attach(run)
    count = caller.stub.GetServer(pb.GetServerRequest()).max_message_bytes // 12 + 1
    with pytest.raises(grpc.RpcError) as caught:
        caller.stub.PushScores(push_request(run, generation, 1, 0, [0] * count, [0.0] * count))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]


# Plans in parts.


def test_parts_carry_their_checksum_and_stay_under_a_mebibyte(caller: Caller) -> None:
    num_samples = 2**23 + 12_345
    run = caller.create(make_spec(num_samples=num_samples, num_shards=3)).run_id
    generation = caller.attach(run)
    messages = list(caller.stub.GetEpochPlan(pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=0)))
    chunks = [message.chunk for message in messages if message.HasField("chunk")]
    assert {chunk.chunk for chunk in chunks} == {0, 1}
    for chunk in chunks:
        assert len(chunk.data) <= 2**20
        assert zlib.crc32(chunk.data) == chunk.crc32
    whole = plan_of(messages)
    assert whole.num_samples == num_samples

    def chunks_of(**fields: Any) -> set[int]:
        request = pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=0, **fields)
        return {answer.chunk.chunk for answer in caller.stub.GetEpochPlan(request) if answer.HasField("chunk")}

    assert chunks_of(from_chunk=1) == {1}
    assert chunks_of(from_chunk=2) == set()
    assert chunks_of(first_shard=0, end_shard=1) == {0}
    assert chunks_of(first_shard=2) == {0, 1}
    assert chunks_of(first_shard=3) == set()
    with status(INVALID, "from_chunk=3: the plan has 2 chunks"):
        chunks_of(from_chunk=3)
    with status(INVALID, "shards [2, 9) are outside [0, 3]"):
        chunks_of(first_shard=2, end_shard=9)


def test_slow_readers_of_plans_leave_threads_for_scores() -> None:
    from infobatch_server.limits import Limits

    # A stream of this size doesn't fit into flow control's windows, so that an unread one keeps its thread.
    with ScoreServer(limits=Limits(worker_threads=3, plan_streams=2)) as server:
        channel, caller = caller_on(str(server.grpc_address))
        with channel:
            spec = make_spec(num_samples=2**23, num_shards=3, policy="levels", levels="0.2:0.75,0.85:0.5")
            run = caller.create(spec).run_id
            generation = caller.attach(run)
            request = pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=0)
            unread = []
            for _ in range(2):
                unread.append(caller.stub.GetEpochPlan(request))
                assert next(unread[-1]).WhichOneof("part") == "header"
            (answer,) = caller.stub.GetEpochPlan(request)
            assert answer.not_ready.retry_after_ms > 0
            assert not answer.not_ready.missing_ranks
            assert caller.stub.PushScores(push_request(run, generation, 1, 0, [0], [1.0]), timeout=5).accepted == 1
            for stream in unread:
                stream.cancel()


# Reading, seeding, amending, deleting.


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
    with status(INVALID, "kept counts by shard are not those of its keep bits"):
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
        (flip, "came damaged at byte 0; send it again", "PlanError"),
        (flip_and_sum, "its bytes give the id", "PlanError"),
        (lambda messages: messages.pop(), "bytes did not come", "PlanError"),
        (lambda messages: messages.pop(0), "first message must be its header", "ConfigError"),
        (lambda messages: messages.append(messages[0]), "one plan may be seeded at a time", "ConfigError"),
        (set_header(num_samples=999), "the plan is of 999 samples", "ConfigError"),
        (set_header(chunk_samples=1), "the plan's chunks have 1 samples", "ConfigError"),
        (set_header(epoch=9), "its bytes give the id", "PlanError"),
        (set_chunk(plane=7), "server too old: PlanChunk.plane has the value 7", "ConfigError"),
        (set_chunk(offset_bytes=1), "ends at byte 126; its plane has 125", "ConfigError"),
    ],
)
def test_a_damaged_plan_is_not_seeded(caller: Caller, run: bytes, change: Any, words: str, kind: str) -> None:
    generation = caller.attach(run)
    messages = list(caller.stub.GetEpochPlan(pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=0)))
    other = caller.create(make_spec("other")).run_id
    with status(INVALID, words, kind):
        caller.stub.SeedRun(iter(seed_messages(other, np.zeros(2, np.float32), damaged_plan(messages, change))))
    assert not caller.stub.GetRun(pb.GetRunRequest(run="other")).run.plan_ids


def test_a_plan_of_another_seed_is_not_seeded(caller: Caller, run: bytes) -> None:
    generation = caller.attach(run)
    messages = list(caller.stub.GetEpochPlan(pb.GetEpochPlanRequest(run_id=run, generation=generation, epoch=0)))
    other = caller.create(make_spec("other", seed=8)).run_id
    with status(INVALID, "the plan is of another run: seed 7, and run 'other' has 8"):
        caller.stub.SeedRun(iter(seed_messages(other, np.zeros(2, np.float32), messages)))


def test_seeding_needs_a_run_without_a_job(caller: Caller, run: bytes, clock: Clock) -> None:
    caller.attach(run)
    with status(REFUSED, "can't be seeded: job 'none' on host 'node1'", "RunBusyError"):
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
def test_seeds_that_cannot_be_meant(caller: Caller, run: bytes, scores: pb.SeedRunRequest.Scores, words: str) -> None:
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
    with status(NOT_FOUND, "no run of id"):
        caller.stub.GetRun(pb.GetRunRequest(run_id=run))


# Server and state.


def test_the_server_says_who_it_is(caller: Caller, server: ScoreServer) -> None:
    answer = caller.stub.GetServer(pb.GetServerRequest())
    assert answer.nonce == server.nonce
    assert answer.version == server.version
    assert list(answer.order_versions) == [1]
    assert not answer.durable
    assert answer.max_samples == 2**31


def test_runs_are_listed_by_name_with_their_state(caller: Caller) -> None:
    for name in ("b", "a"):
        caller.create(make_spec(name))
    runs = caller.stub.ListRuns(pb.ListRunsRequest()).runs
    assert [info.run for info in runs] == ["a", "b"]
    assert not runs[0].HasField("newest_plan")
    generation = caller.attach(runs[0].run_id)
    plan = caller.plan(runs[0].run_id, generation, 0)
    caller.stub.PushScores(push_request(runs[0].run_id, generation, 1, 0, [0, 1], [1.0, np.nan], CLIENT))
    caller.stub.EndEpoch(end_request(runs[0].run_id, generation, 0, plan.plan_id))
    info = caller.stub.GetRun(pb.GetRunRequest(run="a")).run
    assert (info.last_epoch, info.trained, info.stored_scores, info.rejected_scores) == (0, True, 1, 1)
    assert (info.job, info.host, info.pid, info.generation) == ("none", "node1", 41, 1)
    assert list(info.plan_ids) == [plan.plan_id] == [info.newest_plan.plan_id]
    assert (info.newest_plan.kept, info.newest_plan.never_scored) == (1000, 1000)


def test_health_and_reflection_answer(server: ScoreServer) -> None:
    channel, _ = caller_on(str(server.grpc_address))
    with channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "infobatch_stream.v1.ScoreService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (listed,) = reflection.ServerReflectionInfo(iter([request]))
        names = [service.name for service in listed.list_services_response.service]
        assert "infobatch_stream.v1.ScoreService" in names


def test_a_port_is_never_shared(server: ScoreServer) -> None:
    from infobatch_stream.errors import ServerError

    with pytest.raises(ServerError, match=r"can't listen on --grpc 127\.0\.0\.1"):
        ScoreServer(server.grpc_address)
