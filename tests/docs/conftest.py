"""A stage for all blocks: a folder and a server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docs.stage import Stage, make_stage
from tests.e2e.conftest import serve


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One for all pages."""
    for server in serve(tmp_path_factory.mktemp("server")):
        yield make_stage(tmp_path_factory.mktemp("stage"), server)
