"""A disk that fails, at each operation in turn: nothing more is stored, and a new start has all that was answered."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from infobatch_stream.errors import TryAgainError
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.calls import make_spec
from tests.server.power.disk import PATTERNS, Image
from tests.server.power.faulty import FaultyDisk, living
from tests.server.power.life import Life, Step
from tests.server.server_process import serving

STEPS = 40
FAULTS: dict[str, Callable[[int], Callable[[int, str], bool]]] = {
    "once": lambda place: lambda count, name: count == place,
    "from then on": lambda place: lambda count, name: count >= place,
    "every sync": lambda place: lambda count, name: count >= place and name.startswith("sync"),
}
REFUSED = "nothing more is stored until the server was started again"


@pytest.mark.parametrize("kind", FAULTS)
def test_after_a_fault_nothing_is_stored_and_a_new_start_has_what_was_answered(tmp_path: Path, kind: str) -> None:
    rng = random.Random(kind)
    counting = FaultyDisk()
    with living(tmp_path / "whole", counting, 1) as whole:
        started = counting.count
        whole.step()
        created = counting.count
        for _ in range(STEPS - 1):
            whole.step()
    places = [*range(started + 1, created + 1), *rng.sample(range(created + 1, counting.count), 20)]
    failed = set()
    for place in places:
        disk = FaultyDisk(FAULTS[kind](place))
        with living(tmp_path / "life", disk, 1) as life:
            step = fail(life, whole.steps)
            failed.update(disk.failed)
            assert life.look() in step.allowed, disk.failed  # what was answered can still be read
            disk.fails = lambda count, name: False
            for _ in range(3):
                with pytest.raises(TryAgainError, match=REFUSED):
                    live(life)
        image, size = Image(life.disk), len(life.disk.log)
        image.forward(size)
        for pattern in rng.sample(list(PATTERNS), 3):
            image.build(tmp_path / "cut", PATTERNS[pattern](rng, size))
            check(tmp_path / "cut", step, f"{disk.failed}, {step.name}, kept: {pattern}")
            shutil.rmtree(tmp_path / "cut")
        shutil.rmtree(tmp_path / "life")
    assert len(failed) > 5, failed


def live(life: Life) -> None:
    """Does something that writes, at last."""
    for _ in range(STEPS):
        life.step()


def fail(life: Life, steps: list[Step]) -> Step:
    """Lives until the disk fails; returns the step that failed, as it is without a fault."""
    told: list[str] = []
    life.store.on_failure(lambda: told.append("failed"))
    with pytest.raises(TryAgainError, match=REFUSED):
        live(life)
    assert told == ["failed"]
    return steps[len(life.steps)]


def check(root: Path, step: Step, where: str) -> None:
    """A new start has what was there before the step, or after it; and its pushes are taken again."""
    life = Life(root, 0)
    assert life.views in step.allowed, where
    for name, batch in step.pushes:
        life.push_again(name, batch)
    assert not step.pushes or life.look() == step.allowed[-1], where
    life.close()


def test_a_server_whose_disk_fails_ends_with_status_1_and_the_next_one_recovers(tmp_path: Path) -> None:
    fails, data = tmp_path / "fails", ("--data-dir", str(tmp_path / "data"))
    scores = np.random.default_rng(1).random(1000).astype(np.float32)
    with serving("tests.server.power.failing_server", str(fails), *data) as server:
        caller = server.caller
        run_id = bytes(caller.create(make_spec()).run_id)
        generation = caller.attach(run_id)
        plan = caller.plan(run_id, generation, 0)
        caller.push_all(run_id, generation, 0, 1, scores)
        fails.touch()
        with pytest.raises(grpc.RpcError) as caught:
            caller.push_all(run_id, generation, 0, 2, scores + 1)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert server.process.wait(30) == 1
    with serving("infobatch_server", *data) as server:
        caller = server.caller
        (part,) = caller.stub.ReadScores(pb.ReadScoresRequest(run_id=run_id), timeout=10)
        found = np.frombuffer(part.scores, "<f4")
        assert found.tobytes() in (scores.tobytes(), (scores + 1).tobytes())  # the second was sent, and not answered
        again = caller.plan(run_id, generation, 0)
        assert (again.plan_id, again.keep_bits.tobytes()) == (plan.plan_id, plan.keep_bits.tobytes())
        caller.push_all(run_id, generation, 0, 2, scores + 1)
