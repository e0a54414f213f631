"""Several ranks over one embedded server: who starts it, who holds it, and who starts it again when it was killed."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import torch.distributed as dist

from infobatch_stream import Timeouts
from tests.e2e.conftest import SAMPLES
from tests.e2e.embedded_lives import wait_until
from tests.e2e.rank_processes import start_ranks
from tests.e2e.training import make_loader, score, train_pass

QUICK = Timeouts(connect_timeout_s=5, call_timeout_s=2, plan_timeout_s=5, flush_timeout_s=5, agree_timeout_s=30)


def server_pid(folder: Path) -> int:
    return int((folder / "server" / "server.lock").read_text())


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def train_two_epochs(_: Connection, shards: str, folder: str) -> tuple[int, list[int]]:
    with make_loader(shards, None, None, 8, epochs=2, state_dir=folder, timeouts=QUICK) as loader:
        for epoch in loader.epochs():
            seen = train_pass(loader)
            if epoch == 0:
                first = seen
        return server_pid(Path(folder)), first


def test_eight_ranks_start_at_once(shards: str, tmp_path: Path) -> None:
    found = [rank.result() for rank in start_ranks(train_two_epochs, 8, shards, str(tmp_path))]
    assert len({pid for pid, _ in found}) == 1
    assert sorted(number for _, seen in found for number in seen) == list(range(SAMPLES))
    wait_until(lambda: is_gone(found[0][0]), "the server ends after its last rank")


def train_on(answers: Connection, shards: str, folder: str) -> str:
    with make_loader(shards, None, None, 8, epochs=100, state_dir=folder, timeouts=QUICK) as loader:
        for epoch in loader.epochs():
            for step, numbers in enumerate(loader):
                dist.all_reduce(score(numbers).mean())
                loader.update(score(numbers))
                if (epoch, step) == (1, 2):
                    answers.send("inside epoch 1")
        return "trained to the end"


def test_a_server_that_is_killed_is_started_again_by_one_of_the_ranks(shards: str, tmp_path: Path) -> None:
    ranks = start_ranks(train_on, 2, shards, str(tmp_path), timeout_s=60)
    assert [rank.result() for rank in ranks] == ["inside epoch 1"] * 2
    pid = server_pid(tmp_path)
    os.kill(pid, signal.SIGKILL)
    assert [rank.result() for rank in ranks] == ["trained to the end"] * 2
    assert server_pid(tmp_path) != pid
    for rank in ranks:
        rank.join()


def test_a_rank_is_killed_and_nothing_is_left(shards: str, tmp_path: Path) -> None:
    ranks = start_ranks(train_on, 3, shards, str(tmp_path), timeout_s=20)
    assert [rank.result() for rank in ranks] == ["inside epoch 1"] * 3
    pid = server_pid(tmp_path)
    ranks[0].kill()
    for rank in ranks[1:]:
        text = rank.result()
        assert "closed by peer" in text or "reset by peer" in text
        rank.join()
    wait_until(lambda: is_gone(pid), "the server ends after its last rank")


def open_on_nodes(_: Connection, shards: str, folder: str) -> str:
    os.environ["GROUP_RANK"] = str(dist.get_rank() // 2)
    with make_loader(shards, None, None, 8, state_dir=folder, timeouts=QUICK) as loader:
        next(loader.epochs())
        return "opened"


def test_several_nodes_are_refused(shards: str, tmp_path: Path) -> None:
    for rank in start_ranks(open_on_nodes, 4, shards, str(tmp_path)):
        text = rank.result()
        assert text.startswith("ConfigError: the ranks run on 2 nodes, and an embedded server serves one: start")
        assert "infobatch serve --data-dir" in text
    assert not (tmp_path / "server").exists()


def open_in_own_folder(_: Connection, shards: str, folder: str) -> str:
    with make_loader(shards, None, None, 8, state_dir=f"{folder}/{dist.get_rank()}", timeouts=QUICK) as loader:
        next(loader.epochs())
        return "opened"


def test_ranks_with_folders_of_their_own_are_refused(shards: str, tmp_path: Path) -> None:
    for rank in start_ranks(open_in_own_folder, 2, shards, str(tmp_path)):
        text = rank.result()
        assert text.startswith("RanksError: the ranks could not use one embedded server: the embedded server is ")
        assert text.endswith("start every rank in one folder, or give state_dir=")
    pids = [server_pid(tmp_path / str(rank)) for rank in range(2)]
    wait_until(lambda: all(map(is_gone, pids)), "both servers end")
