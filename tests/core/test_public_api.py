"""The package's front door: its names, and that it opens without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import infobatch_stream
from infobatch_stream import errors


def test_every_error_is_public() -> None:
    assert set(errors.__all__) <= set(infobatch_stream.__all__)


def test_the_listing_of_the_package_holds_every_public_name() -> None:
    assert set(infobatch_stream.__all__) <= set(dir(infobatch_stream))


def test_every_public_name_resolves() -> None:
    pytest.importorskip("torch")
    for name in infobatch_stream.__all__:
        assert getattr(infobatch_stream, name) is not None


def test_star_import_gives_exactly_the_public_names() -> None:
    pytest.importorskip("torch")
    names: dict[str, object] = {}
    exec("from infobatch_stream import *", names)
    assert set(names) - {"__builtins__"} == set(infobatch_stream.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'InfoBatchModel'"):
        _ = infobatch_stream.InfoBatchModel


@pytest.mark.parametrize("module", ["infobatch_stream", "infobatch_stream.cli", "infobatch_client"])
def test_importing_costs_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{'torch', 'webdataset'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", ["InfoBatchStreamDataset", "InfoBatchLoader"])
def test_without_torch_the_missing_extra_is_named(name: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; import infobatch_stream; infobatch_stream.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: {name} needs 'torch', which is not installed: pip install 'infobatch-stream[train]'"
    )
