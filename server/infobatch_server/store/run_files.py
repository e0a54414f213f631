"""The files of one run: what never changes of its spec, its plans, and its segments."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.message import DecodeError

from infobatch_server.store.files import Files, is_temporary, write_file
from infobatch_stream.errors import InfoBatchError, ServerError
from infobatch_stream.plan.bytes import plan_from_buffer, plan_to_bytes
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.spec_reader import read_spec
from infobatch_stream.wire.specs import seal, spec_message, spec_parts

__all__ = ["RunFiles", "spec_bytes"]

_PARTS = "shards"
_PLAN = "plan-"


def spec_bytes(spec: RunSpec) -> bytes:
    """A spec without its shard sizes and its mask, which are in a file."""
    return spec_message(spec).SerializeToString(deterministic=True)


class RunFiles:
    """The folder of one run.

    Args:
        folder: the folder; its name is the run's id.
        files: writes them.
    """

    def __init__(self, folder: Path, files: Files) -> None:
        self.folder = folder
        self._files = files

    def make(self, spec: RunSpec) -> None:
        """Makes the folder, with the spec's parts; all of it is on the disk when this returns."""
        self._files.make_folder(self.folder)
        write_file(self._files, self.folder / _PARTS, _framed(part.SerializeToString() for part in spec_parts(spec)))
        self._files.sync_folder(self.folder.parent)

    def read_spec(self, spec: bytes) -> RunSpec:
        """The spec of `spec_bytes` and the file.

        Raises:
            ServerError: it can't be read, or it is damaged, or its policy isn't installed here.
        """
        try:
            parts = (pb.CreateRunRequest.FromString(part) for part in _unframed((self.folder / _PARTS).read_bytes()))
            return read_spec(_with_first(pb.CreateRunRequest(spec=pb.RunSpec.FromString(spec)), parts))[0]
        except (OSError, ValueError, DecodeError, InfoBatchError) as error:
            name = pb.RunSpec.FromString(spec).run
            raise ServerError(
                f"run {name!r} can't be loaded from {self.folder}: {error}. Install what its policy needs, or put the "
                "whole data directory back from a copy"
            ) from error

    def write_plan(self, plan: EpochPlan) -> None:
        """Writes a plan; it is on the disk when this returns."""
        write_file(self._files, self._plan_path(plan.plan_id), plan_to_bytes(plan))

    def read_plan(self, plan_id: str) -> EpochPlan:
        """A plan, its arrays mapped from its file.

        Raises:
            ServerError: the file is missing or damaged.
        """
        path = self._plan_path(plan_id)
        try:
            with open(path, "rb") as file:
                plan = plan_from_buffer(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        except (OSError, ValueError) as error:  # a file of no bytes can't be mapped, and a damaged one is a PlanError
            raise ServerError(f"{path} can't be read: {error}; put the data directory back from a copy") from error
        if plan.plan_id != plan_id or seal(plan).plan_id != plan_id:
            raise ServerError(f"{path} is damaged: it isn't the plan that was drawn; put it back from a copy")
        return plan

    def remove_plans(self, plan_ids: Iterable[str]) -> None:
        """Removes plans that nobody needs any more."""
        for plan_id in plan_ids:
            self._files.remove(self._plan_path(plan_id))

    def remove_others(self, plan_ids: Iterable[str], segments: Iterable[Path]) -> int:
        """Removes all files but these plans, these segments and the spec's; returns how many."""
        kept = {self.folder / _PARTS, *map(self._plan_path, plan_ids), *segments}
        others = [path for path in self.folder.iterdir() if path not in kept or is_temporary(path)]
        for path in others:
            self._files.remove(path)
        return len(others)

    def remove(self) -> None:
        """Removes the folder and all that is in it, if it is there."""
        if not self.folder.is_dir():
            return self._files.remove(self.folder)
        for path in self.folder.iterdir():
            self._files.remove(path)
        self._files.remove(self.folder)

    def _plan_path(self, plan_id: str) -> Path:
        return self.folder / f"{_PLAN}{plan_id}"


def _framed(messages: Iterable[bytes]) -> Iterator[bytes]:
    for message in messages:
        yield len(message).to_bytes(4, "little")
        yield message


def _unframed(data: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "little")
        place += 4 + size
        if place > len(data):
            raise ServerError("its file of shard sizes is cut short")
        yield data[place - size : place]


def _with_first(first: pb.CreateRunRequest, rest: Iterable[pb.CreateRunRequest]) -> Iterator[pb.CreateRunRequest]:
    yield first
    yield from rest
