"""Creating runs through a real channel: idempotent, and an error for each invalid spec."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from infobatch_server.server import ScoreServer
from infobatch_stream.plan.order_params import OrderChoice
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.specs import spec_message
from tests.server.calls import (
    INVALID,
    REFUSED,
    Caller,
    caller_on,
    create_messages,
    make_spec,
    status,
)


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
def test_an_invalid_spec(caller: Caller, change: Any, words: str) -> None:
    with status(INVALID, words, "ConfigError"):
        caller.stub.CreateRun(iter(altered(change)), timeout=10)
    assert not caller.stub.ListRuns(pb.ListRunsRequest()).runs


def test_a_run_that_does_not_fit_into_memory_is_refused() -> None:
    from infobatch_server.state.limits import Limits

    with ScoreServer(limits=Limits(memory_bytes=2_000_000)) as server:
        channel, caller = caller_on(str(server.grpc_address))
        with channel:
            caller.create(make_spec("first"))
            with status(
                REFUSED,
                "but 1,094,791 of 2,000,000 are in use: start the server with a larger --memory-bytes",
            ):
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


def test_a_run_keeps_its_groups(caller: Caller) -> None:
    spec = make_spec(groups=3, per_group=True)
    first, second = caller.create(spec), caller.create(spec)
    assert (first.created, second.created) == (True, False)
    assert list(second.spec.group_names) == ["g0", "g1", "g2"]
    with status(REFUSED, "groups: the run has g0, g1, g2 ("):
        caller.create(make_spec(groups=2, per_group=True))
    with status(REFUSED, "groups: the run has g0, g1, g2 ("):
        caller.create(make_spec())


def changed(change: Any) -> list[pb.CreateRunRequest]:
    messages = create_messages(make_spec(groups=3))
    change(messages)
    return messages


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m[1].shard_sizes.ClearField("groups"), "groups of 0 shards came with the sizes of 10"),
        (lambda m: setattr(m[1].shard_sizes, "groups", bytes(9)), "groups of 9 shards came with the sizes of 10"),
        (lambda m: m[0].spec.ClearField("group_names"), "the spec has no groups"),
        (lambda m: setattr(m[1].shard_sizes, "groups", bytes([0, 1, 2, 3] * 2 + [0, 1])), "a shard is of group 3"),
        (lambda m: setattr(m[1].shard_sizes, "groups", bytes(10)), "group 'g1' has no shard"),
        (lambda m: setattr(m[1].shard_sizes, "groups", bytes([2, 1, 0] * 3 + [0])), "the shards' groups give another"),
        (lambda m: m[0].spec.group_names.extend(f"h{i}" for i in range(400)), "groups has 403 groups; give 1 to 253"),
    ],
)
def test_invalid_groups_are_refused(caller: Caller, change: Any, message: str) -> None:
    with status(INVALID, message):
        caller.stub.CreateRun(iter(changed(change)))
