"""A warning names the user's line, however deep in this package it arises, and through decorators."""

from __future__ import annotations

from pathlib import Path

import pytest

from infobatch_client.user_warnings import warn_user
from infobatch_stream import InfoBatchStreamDataset
from tests.shards import write_tar


def test_a_warning_of_the_constructor_is_at_its_callers_line(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [(f"{n}.txt", b"x") for n in range(3)])
    with pytest.warns(UserWarning, match="epochs=2") as caught:
        InfoBatchStreamDataset(str(tmp_path), epochs=2)
    assert [one.filename for one in caught] == [__file__]


def test_a_warning_outside_of_the_package_is_at_the_call() -> None:
    with pytest.warns(UserWarning, match="words") as caught:
        warn_user("words")
    assert caught[0].filename == __file__
