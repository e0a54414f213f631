"""`infobatch demo` as a stranger runs it, only shorter."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infobatch_client.embedded.server_files import credentials_of
from infobatch_client.rpc.rest import get_json, run_path
from infobatch_stream.cli import main
from infobatch_stream.errors import InfoBatchError

pytest.importorskip("sklearn")


def demo(*options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infobatch_stream", "demo", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=240,
    )


SHORT = ("--epochs", "4", "--delta", "0.75", "--seed", "1")


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A demo of one process; its folder stays empty."""
    folder = tmp_path_factory.mktemp("demo")
    done = demo(*SHORT, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []
    return done


def test_the_demo_compares_both_trainings(done: subprocess.CompletedProcess[str]) -> None:
    rows = {line[:20].strip(): line for line in done.stdout.splitlines()}
    assert "5,388" in rows["samples trained"]
    fewer = re.search(r"\((\d+\.\d)% fewer\)", rows["samples trained"])
    assert fewer is not None
    assert 5 < float(fewer[1]) < 45
    assert "of 450 wrong" in rows["test accuracy"]
    shares = [int(cell) for cell in rows["% pruned, epoch 0 to"][22:].split()]
    assert shares[:5] == [0, 0, 0, 0, 0]
    assert min(shares[5:7]) > 5
    assert shares[7] == 0
    assert "One seed proves nothing" in done.stdout
    assert "%|" not in done.stderr, "a progress bar is for a terminal"


def test_shards_and_state_are_kept_where_they_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = demo("--epochs", "1", "--keep", "kept", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "kept").iterdir()}
    assert {"train-0000.tar", "test-0001.tar", "state"} <= names
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--epochs", "1", "--keep", "kept"]) == 2
    assert capsys.readouterr().err == "infobatch: --keep kept must be a new or an empty folder; choose another\n"


def rows_of(done: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """The table: both figures of each row, by its name."""
    assert done.returncode == 0, done.stderr
    rows = (re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in done.stdout.splitlines())
    return {row[0]: re.split(r"\s{3,}", row[1]) for row in rows if len(row) == 2}


def test_two_ranks_train_the_same_samples_as_one(done: subprocess.CompletedProcess[str], tmp_path: Path) -> None:
    alone = rows_of(done)
    together = rows_of(demo(*SHORT, "--nproc", "2", cwd=tmp_path))
    assert (alone["ranks"], together["ranks"]) == (["1", "1"], ["2", "2"])
    for row in ("samples trained", "% pruned, epoch 0 to 3"):
        assert together[row] == alone[row]
    assert "by rank 0" not in alone
    by_rank = [[int(cell.replace(",", "")) for cell in together[f"by rank {rank}"]] for rank in range(2)]
    totals = [int(cell.split()[0].replace(",", "")) for cell in together["samples trained"]]
    assert [first + second for first, second in zip(*by_rank, strict=True)] == totals
    assert min(map(min, by_rank)) > 0.4 * min(totals)
    assert "of 450 wrong" in together["test accuracy"][0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("nproc", ["0", "-1", "3", "128"])
def test_ranks_that_cannot_share_a_batch_are_refused(
    nproc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--nproc", nproc, "--keep", "kept"]) == 2
    assert capsys.readouterr().err == (
        f"infobatch: --nproc must divide the batch size 64; got {nproc}, choose one of 1, 2, 4, 8, 16, 32, 64\n"
    )
    assert not (tmp_path / "kept").exists()


def test_ctrl_c_ends_all_ranks_and_the_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "infobatch_stream", "demo", "--nproc", "2", "--epochs", "10000", "--keep", "kept"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        endpoint = tmp_path / "kept" / "state" / "endpoint.json"
        wait_until(lambda: process.poll() is not None or (endpoint.exists() and has_trained(endpoint)))
        assert process.poll() is None, process.communicate()[1]
        ranks = children_of(process.pid)
        server = json.loads(endpoint.read_text())["pid"]
        assert len(ranks) >= 3, "two ranks and the server at least"
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130, told
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in [*ranks, server]))


def has_trained(endpoint: Path) -> bool:
    try:
        fields = json.loads(endpoint.read_text())
        stats = get_json(fields["http"], run_path("demo-full"), credentials=credentials_of(fields))
        stored = stats["stored_scores"]
    except (InfoBatchError, OSError):  # not there yet
        return False
    return bool(stored > 0)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(happened: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)
