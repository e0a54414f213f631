"""Where the docs' code blocks run: a folder with small shards, a score server, and names that a page may use.

A Python block may use the functions of `Names` without introducing them: they are what a page calls "your model".
"""

from __future__ import annotations

import ast
import io
import os
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
from PIL import Image

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.v1.score_service_pb2_grpc import ScoreServiceStub
from tests.docs.blocks import ROOT
from tests.e2e.conftest import Server
from tests.shards import write_tar

__all__ = ["Stage", "make_stage"]

GRPC, HTTP = "127.0.0.1:50051", "127.0.0.1:8080"
"""The server's addresses in the text; the tests' server has other ports."""


def transform(image: Image.Image) -> torch.Tensor:
    """An image as float32 (3, 8, 8)."""
    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 255)


class Names:
    """What a block finds. Each is made when a block uses it."""

    shards = "data/train-{0000..0049}.tar"
    torch = torch
    np = np
    transform = staticmethod(transform)
    InfoBatchLoader = InfoBatchLoader
    InfoBatchStreamDataset = InfoBatchStreamDataset

    def __init__(self, url: str) -> None:
        self._url = url
        self._values: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        """The value of a name; the same one each time."""
        if name not in self._values:
            factory = getattr(self, f"_{name}", None)
            self._values[name] = factory() if factory else getattr(self, name)
        return self._values[name]

    def __contains__(self, name: str) -> bool:
        return not name.startswith("_") and name != "get" and (hasattr(self, name) or hasattr(self, f"_{name}"))

    def _model(self) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))

    def _criterion(self) -> torch.nn.Module:
        return torch.nn.CrossEntropyLoss(reduction="none")

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.get("model").parameters(), lr=0.1)

    def _device(self) -> torch.device:
        return torch.device("cpu")

    def _dataset(self) -> InfoBatchStreamDataset:
        dataset = InfoBatchStreamDataset(self.shards, url=self._url, run="cifar10", epochs=4, seed=0)
        return dataset.decode("pil").to_tuple("jpg", "cls").map_tuple(transform, int)

    def _loader(self) -> InfoBatchLoader:
        return InfoBatchLoader(self.get("dataset"), batch_size=64)


class Stage:
    """Runs blocks in a folder, against a server."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.server = folder, server

    def addressed(self, code: str) -> str:
        """The code with the addresses of the tests' server, and nothing else changed."""
        return code.replace(GRPC, self.server.url).replace(HTTP, self.server.http)

    def run_python(self, code: str, setup: str, name: str, line: int, before: dict[str, Any] | None) -> dict[str, Any]:
        """Executes a block; returns its names, for one that continues it.

        Args:
            code: as written.
            setup: Python to run first.
            name: the page, for tracebacks.
            line: of the code in the page.
            before: the names of the block that this one continues, or None.
        """
        if before is None:
            self.delete_runs()
        names = Names(self.server.url)
        space = before if before is not None else {"__name__": "__main__"}
        trees = [ast.parse(self.addressed(part), name) for part in (setup, code)]
        ast.increment_lineno(trees[1], line - 1)
        for tree in trees:
            for node in ast.walk(tree):
                if isinstance(node, ast.Name) and node.id in names and node.id not in space:
                    space[node.id] = names.get(node.id)
        for tree in trees:
            exec(compile(tree, name, "exec"), space)
        return space

    def delete_runs(self) -> None:
        """Each block begins on a server without runs."""
        with grpc.insecure_channel(self.server.url, options=[("grpc.enable_http_proxy", 0)]) as channel:
            stub = ScoreServiceStub(channel)
            for info in stub.ListRuns(pb.ListRunsRequest(), timeout=10).runs:
                stub.DeleteRun(pb.DeleteRunRequest(run=info.spec.run, force=True), timeout=10)


def close_all(space: dict[str, Any]) -> None:
    """Closes the loaders and datasets that blocks have made."""
    for value in list(space.values()):
        if isinstance(value, (InfoBatchLoader, InfoBatchStreamDataset)):
            value.close()


def make_stage(folder: Path, server: Server) -> Stage:
    """The folder: data/train-{0000..0049}.tar, data/val-{0000..0004}.tar, and links to what the root has."""
    data = folder / "data"
    data.mkdir()
    for kind, count in (("train", 50), ("val", 5)):
        for number in range(count):
            write_tar(data / f"{kind}-{number:04d}.tar", _samples(number))
    for name in ("benchmarks", "docker-compose.yml", "examples", "Makefile", "tools"):
        os.symlink(ROOT / name, folder / name)
    return Stage(folder, server)


def _samples(shard: int) -> list[tuple[str, bytes]]:
    """Five samples: an image of 8 × 8 pixels and its class."""
    files = []
    for number in range(5 * shard, 5 * shard + 5):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        with io.BytesIO() as image:
            Image.fromarray(pixels).save(image, "JPEG")
            files += [(f"{number:06d}.jpg", image.getvalue()), (f"{number:06d}.cls", str(number % 10).encode())]
    return files
