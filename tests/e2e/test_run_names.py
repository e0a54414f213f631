"""Each run of the shared server is one module's: a test that uses another's is told so, in whichever process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Server
from tests.e2e.run_names import RunNames
from tests.e2e.training import make_loader, train_pass


@pytest.fixture
def names(server: Server, tmp_path: Path) -> RunNames:
    """Of this test alone; what was on the server before is test_others.py's."""
    names = RunNames(tmp_path / "names")
    names.url = server.url
    names.claim("test_others.py")
    return names


def test_a_run_that_another_module_attaches_is_refused(names: RunNames, server: Server, shards: str, run: str) -> None:
    for _ in range(2):  # as often as its own module likes
        with make_loader(shards, server.url, run, 64, if_exists="restart") as loader:
            train_pass(loader, 2)
        names.claim("test_first.py")
    names.claim("test_second.py")  # it has touched no run
    with make_loader(shards, server.url, run, 64, if_exists="restart") as loader:
        train_pass(loader, 2)
    with pytest.raises(AssertionError, match=rf"test_second\.py uses the runs '{run}', which is test_first\.py's"):
        names.claim("test_second.py")


def test_a_name_of_another_process_is_refused(names: RunNames, server: Server, shards: str, run: str) -> None:
    """Its server is another one, so that no run is in the way; the folder of names is the same."""
    with make_loader(shards, server.url, run, 64) as loader:
        train_pass(loader, 2)
    names.claim("test_first.py")
    elsewhere = RunNames(names._folder)
    elsewhere.claim("test_second.py")  # no server runs there yet
    elsewhere.url = server.url
    with pytest.raises(AssertionError, match=r"which is test_first\.py's"):
        elsewhere.claim("test_second.py")


def test_each_test_has_a_name_of_its_own(run: str) -> None:
    assert run == "run-names-py-test-each-test-has-a-name-of-its-own"
