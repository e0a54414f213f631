"""Damaged and missing files: a start, or whoever asks for a plan, says which file it is and what to do."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from infobatch_server.runs.registry import Registry
from infobatch_server.state.limits import Limits
from infobatch_server.store.durable import DurableStore
from infobatch_stream.errors import ServerError
from infobatch_stream.plan.order_params import OrderChoice
from tests.server.bare_runs import attach, plan, push
from tests.server.calls import make_spec
from tests.server.conftest import Clock

Look = tuple[bytes, bytes, bytes, bytes]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(1, len(data))]


def flip(data: bytes, rng: random.Random) -> bytes:
    place, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
    return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "missing": lambda data, rng: None,
    "empty": lambda data, rng: b"",
    "zeros": lambda data, rng: bytes(len(data)),
    "cut": cut,
    "flip": flip,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with a run that has a mask, segments and a plan."""
    folder = tmp_path_factory.mktemp("whole")
    store = DurableStore(folder, segment_samples=512)
    rng = np.random.default_rng(1)
    run = Registry(store, Limits(), Clock()).create(make_spec(subset=rng.random(1000) < 0.9), OrderChoice())[0]
    generation = attach(run)
    plan(run, generation, 0)
    push(run, generation, 0, rng.random(1000))
    store.keeper.save_scores()
    store.close()
    return folder


def look(folder: Path) -> Look:
    store = DurableStore(folder, segment_samples=512)
    try:
        registry = Registry(store, Limits(), Clock())
        registry.load()
        (run,) = registry.runs()
        (plan_id,) = run.core.state.plan_ids.values()
        table = run.core.feed.table
        assert run.spec.subset is not None
        arrays = (table.score, run.spec.shard_sizes, run.spec.subset, run.plans.find(plan_id).keep_bits)
        score, sizes, subset, bits = (values.tobytes() for values in arrays)
        return score, sizes, subset, bits
    finally:
        store.close()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["plan-*", "scores-1-*", "shards"])
def test_a_damaged_file_of_a_run_is_named(whole: Path, tmp_path: Path, name: str, damage: str) -> None:
    rng = random.Random(f"{name} {damage}")
    expected = look(shutil.copytree(whole, tmp_path / "good"))
    messages: list[str] = []
    for number in range(40 if damage in ("cut", "flip") else 1):
        folder = shutil.copytree(whole, tmp_path / f"bad{number}")
        (path,) = (folder / "runs").glob(f"*/{name}")
        data = DAMAGES[damage](path.read_bytes(), rng)
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        try:
            assert look(folder) == expected, "a plan's padding may change"
            assert name == "plan-*"
        except ServerError as error:
            where = path.parent if name == "shards" else path
            messages.append(str(error).replace(str(where), "WHERE"))
    assert messages
    for message in messages:
        assert "WHERE" in message
        assert "back from a copy" in message


@pytest.mark.parametrize("data", [None, b""])
def test_runs_whose_database_is_gone_are_left_alone(whole: Path, tmp_path: Path, data: bytes | None) -> None:
    folder = shutil.copytree(whole, tmp_path / "bad")
    database = folder / "state.db"
    database.unlink()
    if data is not None:
        database.write_bytes(data)
    before = sorted((folder / "runs").glob("*/*"))
    with pytest.raises(ServerError, match=r"state\.db is missing or empty, but .*runs holds runs: put the whole data"):
        DurableStore(folder)
    assert sorted((folder / "runs").glob("*/*")) == before


def test_runs_of_a_newer_server_that_was_killed_are_refused_and_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("infobatch_server.store.durable.VERSION", 2)
        (tmp_path / "live").mkdir()
        store = DurableStore(tmp_path / "live", segment_samples=512)
        Registry(store, Limits(), Clock()).create(make_spec("theirs"), OrderChoice())
        folder = shutil.copytree(tmp_path / "live", tmp_path / "killed")  # all of it is in the WAL
        store.close()
    before = {path: path.read_bytes() for path in (folder / "runs").glob("*/*")}
    with pytest.raises(ServerError, match=r"state\.db has version 2, and this server knows 1"):
        DurableStore(folder)
    assert {path: path.read_bytes() for path in (folder / "runs").glob("*/*")} == before
    monkeypatch.setattr("infobatch_server.store.durable.VERSION", 2)
    store = DurableStore(folder, segment_samples=512)
    assert [run.spec.run for run in store.load()] == ["theirs"]
    store.close()
