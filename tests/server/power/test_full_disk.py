"""A full disk: scores are refused, nothing is harmed, and everything goes on by itself once there is room."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from infobatch_server.runs.registry import Registry
from infobatch_server.server import ScoreServer
from infobatch_server.state.limits import Limits
from infobatch_server.store.durable import DurableStore
from infobatch_stream.errors import ServerBusyError
from infobatch_stream.plan.epoch_plan import EpochPlan
from tests.server.calls import Caller, caller_on, make_spec
from tests.server.conftest import Clock
from tests.server.power.disk import PATTERNS, Image
from tests.server.power.faulty import FaultyDisk, living
from tests.server.power.life import Life

TAKES_ROOM = ("create", "write", "make_folder", "allocate")
N = 20_000


@pytest.mark.parametrize("seed", range(1, 7))
def test_a_full_disk_harms_nothing_and_all_goes_on_when_there_is_room(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    disk = FaultyDisk(number=errno.ENOSPC)
    with living(tmp_path / "life", disk, seed) as life:
        for _ in range(10):
            life.step()
        refused: list[str] = []
        for _ in range(3):
            full_at = disk.count + rng.randrange(1, 40)
            disk.fails = lambda count, name, full_at=full_at: count >= full_at and name in TAKES_ROOM
            for _ in range(15):
                step_if_there_is_room(life, refused)
            disk.fails = lambda count, name: False
            life.store.keeper.keep()
            for _ in range(10):
                life.step()
        assert len(refused) > 5, refused
        assert all("the disk of the server's data directory is full" in line for line in refused)
        assert life.store.failure is None
    image, size = Image(life.disk), len(life.disk.log)
    image.forward(size)
    for number, pattern in enumerate(PATTERNS.values()):
        image.build(tmp_path / f"cut{number}", pattern(rng, size))
        assert Life(tmp_path / f"cut{number}", 0).views == life.views


def step_if_there_is_room(life: Life, refused: list[str]) -> None:
    """A step, which changes nothing if it is refused."""
    try:
        life.step()
    except ServerBusyError as error:
        refused.append(f"{life.doing}: {error}")
        found = life.look()
        if life.doing != "import scores":  # its first transaction tells the next draw that there may be scores
            assert found == life.views, life.doing
        life.views = found


def test_a_run_that_is_deleted_on_a_full_disk_is_gone(tmp_path: Path) -> None:
    disk = FaultyDisk(number=errno.ENOSPC)
    with living(tmp_path / "life", disk, 1) as life:
        while not life.store.keeper.journal_bytes:
            life.step()
        run = max(life.registry.runs(), key=lambda run: run.core.feed.applied_position)
        folder = tmp_path / "life" / "new" / "data" / "runs" / run.run_id.hex()
        disk.fails = lambda count, name: name in TAKES_ROOM and not folder.exists()  # after the first commit
        life.registry.delete(run, force=True)
        disk.fails = lambda count, name: False
        assert disk.failed
        assert run.spec.run not in life.look()
        life.close()
    again = Life(tmp_path / "life", 2)
    assert again.views == life.look()
    numbers = "SELECT run FROM journal WHERE run NOT IN (SELECT number FROM runs)"
    assert not again.store._database.alone(lambda connection: list(connection.execute(numbers)))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small tmpfs can't be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)  # plans may still be mapped from it


def open_store(folder: Path) -> DurableStore:
    return DurableStore(folder, segment_samples=2**12, save_bytes=2**30, reserve_bytes=2**20)


def fill(path: Path) -> None:
    """Takes all room that a disk has left."""
    with open(path, "wb", buffering=0) as ballast:
        for size in (2**16, 1):
            while has_room_for(ballast.fileno(), size):
                pass


def has_room_for(handle: int, size: int) -> bool:
    """Writes so many bytes, if it can."""
    try:
        return os.write(handle, bytes(size)) > 0
    except OSError:
        return False


def until(is_done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not is_done():
        assert time.monotonic() < end, what
        time.sleep(0.01)


class Pusher:
    """Pushes all samples again and again, and keeps what was answered."""

    def __init__(self, caller: Caller, run_id: bytes, generation: int) -> None:
        self.caller, self.run_id, self.generation = caller, run_id, generation
        self.scores = np.zeros(N, np.float32)
        self.sequence = 0

    def push(self) -> grpc.RpcError | None:
        scores = np.random.default_rng(self.sequence).random(N).astype(np.float32)
        try:
            self.caller.push_all(self.run_id, self.generation, 0, self.sequence + 1, scores)
        except grpc.RpcError as error:
            return error
        self.scores, self.sequence = scores, self.sequence + 1
        return None


def test_a_server_on_a_full_disk_refuses_scores_frees_its_journal_and_goes_on(small_disk: Path) -> None:
    store = open_store(small_disk)
    with ScoreServer(store=store) as server:
        channel, caller = caller_on(str(server.grpc_address))
        with channel:
            run_id = bytes(caller.create(make_spec(num_samples=N)).run_id)
            generation = caller.attach(run_id)
            plan = caller.plan(run_id, generation, 0)
            pusher = Pusher(caller, run_id, generation)
            assert pusher.push() is None
            fill(small_disk / "ballast")
            error = None
            while error is None:
                error = pusher.push()
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "the disk of the server's data directory is full; nothing is lost: make room" in error.details()
            assert same(caller.plan(run_id, generation, 0), plan)
            until(lambda: store.keeper.journal_bytes == 0, "the reserve lets the journal be freed")
            (small_disk / "ballast").unlink()
            until(lambda: pusher.push() is None, "scores are taken again")
            assert store.failure is None
    again = open_store(small_disk)
    registry = Registry(again, Limits(), Clock())
    registry.load()
    run = registry.by_id(run_id)
    np.testing.assert_array_equal(run.core.feed.table.score, pusher.scores)
    assert same(run.plans.find(plan.plan_id), plan)
    again.close()


def test_a_server_starts_on_a_full_disk_and_serves_what_is_there(small_disk: Path) -> None:
    with ScoreServer(store=open_store(small_disk)) as server:
        channel, caller = caller_on(str(server.grpc_address))
        with channel:
            run_id = bytes(caller.create(make_spec(num_samples=N)).run_id)
            generation = caller.attach(run_id)
            plan = caller.plan(run_id, generation, 0)
            assert Pusher(caller, run_id, generation).push() is None
    (small_disk / "reserve").unlink()
    fill(small_disk / "ballast")
    with ScoreServer(store=open_store(small_disk)) as server:
        channel, caller = caller_on(str(server.grpc_address))
        with channel:
            assert same(caller.plan(run_id, generation, 0), plan)
            pusher = Pusher(caller, run_id, generation)
            pusher.sequence = 1
            error = pusher.push()
            assert error is not None
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            (small_disk / "ballast").unlink()
            until(lambda: pusher.push() is None, "scores are taken again")


def same(one: EpochPlan, other: EpochPlan) -> bool:
    return one.plan_id == other.plan_id and one.keep_bits.tobytes() == other.keep_bits.tobytes()
