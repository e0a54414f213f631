"""The files that a server process leaves for others to find it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infobatch_server.process.data_dir import remove_endpoint_file, write_endpoint_file
from infobatch_stream.errors import ServerError


def test_an_endpoint_file_appears_whole_and_is_removed_by_its_owner_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "endpoint.json"
    write_endpoint_file(path, {"nonce": "a"})
    assert os.listdir(tmp_path) == ["endpoint.json"]
    remove_endpoint_file(path, "b")
    assert path.exists()
    remove_endpoint_file(path, "a")
    assert not path.exists()
    remove_endpoint_file(path, "a")
    assert "was not removed" in caplog.text
    with pytest.raises(ServerError, match="--endpoint-file"):
        write_endpoint_file(tmp_path / "missing" / "endpoint.json", {})
