"""Whose a run on the tests' shared server is: a module's own, so that no test meets the scores of another's."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from infobatch_client.rpc.client import ScoreClient
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["RunNames"]


class RunNames:
    """The modules of runs, kept in a folder that several processes share, each with a server of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._seen: dict[str, tuple[bytes, int]] = {}
        self.url: str | None = None

    def claim(self, module: str) -> None:
        """Notes that `module` has the runs which were made or attached since the last call; none before a server runs.

        Raises:
            AssertionError: one of them is another module's.
        """
        if self.url is None:
            return
        client = ScoreClient(self.url)
        found = client.list_runs(pb.ListRunsRequest()).runs
        client.close()
        now = {run.run: (run.run_id, run.generation) for run in found}
        touched = [name for name, state in now.items() if self._seen.get(name) != state]
        self._seen = now
        owners = {name: self._owner(name, module) for name in touched}
        shared = [f"{name!r}, which is {owner}'s" for name, owner in owners.items() if owner != module]
        assert not shared, f"{module} uses the runs {', '.join(shared)}: name it by the fixture `run`"

    def _owner(self, name: str, module: str) -> str:
        """The module that claimed it first. A link is made in one step, and its text is there at once."""
        link = self._folder / hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        try:
            link.symlink_to(module)
        except FileExistsError:
            return os.readlink(link)
        return module
