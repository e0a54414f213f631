"""The folder of an embedded server's state: what was asked for, or a private local one where that is on a network."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from infobatch_client.embedded.state_folder import state_folder
from infobatch_stream import ConfigError
from tests.client.embedded.test_network_fs import mounts, on


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of this test alone."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_local_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert state_folder(tmp_path / "a" / "b", mounts()) == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()


def test_the_default_is_beside_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert state_folder(None) == tmp_path / ".infobatch"


def test_a_folder_on_a_network_gives_way_to_a_private_local_one(tmp_path: Path, temporary: Path) -> None:
    asked, text = tmp_path / "home" / "state", mounts(on(str(tmp_path / "home"), "nfs4"))
    with pytest.warns(UserWarning, match=rf"{asked} is on a network file system \(nfs4\).*in {temporary}/infobatch-"):
        local = state_folder(asked, text)
    assert local.parent == temporary / f"infobatch-{os.getuid()}"
    assert [path.stat().st_mode & 0o777 for path in (local, local.parent)] == [0o700, 0o700]
    assert not asked.exists()
    with pytest.warns(UserWarning, match="network file system"):
        assert state_folder(asked, text) == local, "every process of the machine finds the same"
    with pytest.warns(UserWarning, match="network file system"):
        assert state_folder(tmp_path / "home" / "other", text) != local


def test_a_link_into_a_network_is_seen(tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    with pytest.warns(UserWarning, match="network file system"):
        local = state_folder(tmp_path / "link" / "state", mounts(on(str(tmp_path / "home"), "lustre")))
    assert local.is_relative_to(temporary)


def test_without_any_local_folder_the_user_has_to_choose(tmp_path: Path, temporary: Path) -> None:
    text = mounts(on(str(tmp_path), "beegfs"))
    with pytest.raises(ConfigError, match=r"state \(beegfs\), nor in .*tmp \(beegfs\).*pass state_dir=.*or url="):
        state_folder(tmp_path / "state", text)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("trap", ["open to others", "a link", "a file"])
def test_a_local_folder_that_others_may_have_made_is_refused(tmp_path: Path, temporary: Path, trap: str) -> None:
    place = temporary / f"infobatch-{os.getuid()}"
    if trap == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "elsewhere")
    elif trap == "a file":
        place.write_text("")
    else:
        place.mkdir()
        place.chmod(0o777)
    with pytest.raises(ConfigError, match="can't keep its state in"):
        state_folder(tmp_path / "home", mounts(on(str(tmp_path / "home"), "nfs")))
