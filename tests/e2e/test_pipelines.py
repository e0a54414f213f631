"""Sixteen pipelines of the public field, moved here: the payloads of webdataset, and each score on its sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image
from torch.utils.data import DataLoader, default_collate

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from tests.e2e.conftest import Server
from tests.e2e.pipelines.images import IMAGES
from tests.e2e.pipelines.pipeline import SIZES, Pipeline
from tests.e2e.pipelines.sequences import SEQUENCES
from tests.e2e.pipelines.signals import SIGNALS
from tests.shards import webdataset_samples, write_tar

PIPELINES = IMAGES | SEQUENCES | SIGNALS
B = 8


def score(numbers: torch.Tensor) -> torch.Tensor:
    """Another one for each sample; half of them below the mean."""
    return (numbers * 37 % 101).float()


class WithPayloads:
    """A pipeline's collate function; beside its batch the payloads of which it was made."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.collate_fn = pipeline.collate_fn or default_collate

    def __call__(self, payloads: list[Any]) -> tuple[list[str], Any]:
        return [described(payload) for payload in payloads], self.collate_fn(payloads)


def described(value: Any) -> str:
    """A payload as text, all of its values included."""
    if isinstance(value, Mapping):
        return str(
            {key: described(part) for key, part in sorted(value.items()) if key not in ("__index__", "__weight__")}
        )
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({[described(part) for part in value]})"
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return f"{value.dtype} {tuple(value.shape)} {np.asarray(value).tobytes().hex()}"
    if isinstance(value, Image.Image):
        return f"{value.mode} {value.size} {value.tobytes().hex()}"
    return repr(value)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes the shards of a pipeline, once: files → folder."""
    made: dict[Any, Path] = {}

    def folder_of(files: Any) -> Path:
        if files not in made:
            folder = made[files] = tmp_path_factory.mktemp("pipeline")
            first = 0
            for number, size in enumerate(SIZES):
                members = [member for sample in range(first, first + size) for member in files(sample)]
                write_tar(folder / f"{number:05d}.tar", members)
                first += size
        return made[files]

    return folder_of


def of_webdataset(pipeline: Pipeline, folder: Path) -> Counter[str]:
    """The payloads of webdataset's own reader and stages."""
    chain: Any = iter(webdataset_samples(*sorted(folder.glob("*.tar"))))
    for stage in pipeline.stages():
        chain = wds.DataPipeline().invoke(stage, chain)
    return Counter(map(described, chain))


class OurLoader:
    """Batches of InfoBatchLoader, epoch after epoch."""

    def __init__(self, pipeline: Pipeline, folder: Path, workers: int, **settings: Any) -> None:
        dataset = InfoBatchStreamDataset(folder, **settings).compose(*pipeline.stages())
        self.loader = InfoBatchLoader(dataset, B, num_workers=workers, collate_fn=WithPayloads(pipeline))

    def epochs(self) -> Iterator[Iterator[tuple[Any, torch.Tensor]]]:
        with self.loader as loader:
            for _ in loader.epochs():
                yield ((batch, loader.weights()) for batch in loader)

    def update(self, losses: torch.Tensor) -> torch.Tensor:
        return self.loader.update(losses)


class PlainLoader:
    """Batches of torch's DataLoader, epoch after epoch."""

    def __init__(self, pipeline: Pipeline, folder: Path, workers: int, **settings: Any) -> None:
        self.dataset = InfoBatchStreamDataset(folder, batch_size=B, **settings).compose(*pipeline.stages())
        self.loader = DataLoader(
            self.dataset,
            B,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=self.dataset.collate(WithPayloads(pipeline)),
        )

    def epochs(self) -> Iterator[Iterator[tuple[Any, torch.Tensor]]]:
        with self.dataset as dataset:
            for epoch in range(dataset.num_epochs):
                dataset.set_epoch(epoch)
                yield self._batches()

    def _batches(self) -> Iterator[tuple[Any, torch.Tensor]]:
        for payloads, batch, *tie in self.loader:
            self.tie = tie
            yield (payloads, batch), tie[1]

    def update(self, losses: torch.Tensor) -> torch.Tensor:
        return self.dataset.update(losses, *self.tie)


@pytest.mark.filterwarnings("ignore:the pipeline has dropped")  # what some of them are for
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [OurLoader, PlainLoader])
@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_gives_what_webdataset_gives_and_ties_each_score(
    name: str, kind: Any, workers: int, server: Server, folders: Any
) -> None:
    pipeline = PIPELINES[name]
    folder = folders(pipeline.files)
    expected = of_webdataset(pipeline, folder)
    run = f"{kind.__name__}-{workers}-{name.replace(' ', '-').replace(',', '')}"
    loader = kind(pipeline, folder, workers, url=server.url, run=run, epochs=3, delta="0.67", seed=1)
    first: Counter[str] = Counter()
    trained: list[list[int]] = []
    for batches in loader.epochs():
        trained.append([])
        for (payloads, batch), weight in batches:
            numbers = pipeline.numbers(batch)
            loader.update(score(numbers))
            trained[-1] += numbers[weight > 0].tolist()
            if len(trained) == 1:
                first.update(payload for payload, real in zip(payloads, weight > 0, strict=True) if real)
    assert first == expected
    assert expected.total() == pipeline.kept
    assert len(set(trained[0])) == len(trained[0]) == expected.total()
    assert set(trained[1]) < set(trained[0]), "epoch 1 was pruned"
    assert sorted(trained[2]) == sorted(trained[0]), "the last one isn't"
    scores = server.scores(run)
    told = np.flatnonzero(~np.isnan(scores))
    assert sorted(trained[0]) == told.tolist()
    np.testing.assert_array_equal(scores[told], score(torch.from_numpy(told)).numpy())


def test_there_are_sixteen() -> None:
    assert len(PIPELINES) == 16
