"""The parts of the CIFAR-10 example that can fail silently: conversion, augmentation, checkpoints."""

from __future__ import annotations

import io
import pickle
import sys
import tarfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar10"


@pytest.fixture(autouse=True)
def example_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    for name in ("augment", "checkpoint", "make_shards", "model"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def add_pickle(archive: tarfile.TarFile, name: str, content: Any) -> None:
    pickled = pickle.dumps(content, protocol=2)
    member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
    member.size = len(pickled)
    archive.addfile(member, io.BytesIO(pickled))


def make_archive(path: Path, images_per_file: int) -> dict[str, np.ndarray]:
    """Writes an archive in the original's layout, with random images; returns them by file."""
    draws = np.random.default_rng(0)
    images = {}
    with tarfile.open(path, "w:gz") as archive:
        for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
            images[name] = draws.integers(0, 256, (images_per_file, 3072), dtype=np.uint8)
            labels = [number % 10 for number in range(images_per_file)]
            add_pickle(archive, name, {b"data": images[name], b"labels": labels})
    return images


def test_the_conversion_keeps_every_pixel_and_label(tmp_path: Path) -> None:
    make_shards = import_module("make_shards")
    images = make_archive(tmp_path / "cifar.tar.gz", images_per_file=12)
    assert make_shards.write_shards(tmp_path / "cifar.tar.gz", tmp_path, "train", samples_per_shard=25) == 60
    shards = sorted(tmp_path.glob("train-*.tar"))
    assert [shard.name for shard in shards] == ["train-0000.tar", "train-0001.tar", "train-0002.tar"]
    members: dict[str, bytes] = {}
    for path in shards:
        with tarfile.open(path) as shard:
            members |= {name: shard.extractfile(name).read() for name in shard.getnames()}  # type: ignore[union-attr]
    first_of_the_second_file = np.asarray(Image.open(io.BytesIO(members["00012.png"])))
    assert np.array_equal(first_of_the_second_file.transpose(2, 0, 1).ravel(), images["data_batch_2"][0])
    assert [int(members[f"{index:05d}.cls"]) for index in range(60)] == [*range(10), 0, 1] * 5


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    make_shards = import_module("make_shards")
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        add_pickle(archive, "test_batch", {b"data": print})
    with pytest.raises(pickle.UnpicklingError, match="print is not allowed"):
        make_shards.write_shards(tmp_path / "evil.tar.gz", tmp_path, "test", samples_per_shard=25)


def test_a_crop_is_a_window_of_the_padded_image_mirrored_or_not() -> None:
    augment = import_module("augment")
    images = torch.arange(1, 1 + 64 * 3 * 8 * 8).view(64, 3, 8, 8)
    cropped = augment.crop_and_flip(images, augment.generator_for(0, 0), padding=2)
    padded = torch.nn.functional.pad(images, (2,) * 4)
    shifts = set()
    for image, result in zip(padded, cropped, strict=True):
        windows = {
            (top, left, flip): image[:, top : top + 8, left : left + 8].flip([2] if flip else [])
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
        }
        matches = [shift for shift, window in windows.items() if torch.equal(window, result)]
        assert len(matches) == 1
        shifts.add(matches[0])
    assert len(shifts) > 30


def test_parts_of_a_batch_are_cropped_as_in_the_whole() -> None:
    augment = import_module("augment")
    images = torch.randint(0, 256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    whole = augment.crop_and_flip(images, augment.generator_for(3, 7))
    parts = [
        augment.crop_and_flip(part, augment.generator_for(3, 7), part=(number, 2))
        for number, part in enumerate(images.chunk(2))
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_a_step_draws_the_same_after_any_history() -> None:
    augment = import_module("augment")
    images = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    first = augment.crop_and_flip(images, augment.generator_for(3, 7))
    torch.manual_seed(99)
    augment.crop_and_flip(images, augment.generator_for(3, 8))
    assert torch.equal(first, augment.crop_and_flip(images, augment.generator_for(3, 7)))


def test_a_model_depends_on_its_seed_and_leaves_the_global_generator_alone() -> None:
    model = import_module("model")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (model.make_model("small", seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)


@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_a_model_returns_a_logit_per_class(name: str) -> None:
    model = import_module("model").make_model(name, 0).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_checkpoint_restores_parts_and_history(tmp_path: Path) -> None:
    checkpoint = import_module("checkpoint")
    saved, restored = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    history = checkpoint.History(step=7, elapsed_s=1.5, trained=[100, 60], kept_shares=[1.0, 0.6], accuracies=[0.5])
    checkpoint.save(tmp_path / "new" / "a.pt", {"model": saved}, history)
    again = checkpoint.restore(checkpoint.read(tmp_path / "new" / "a.pt"), {"model": restored})
    assert again == history
    assert torch.equal(saved.weight, restored.weight)


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    checkpoint = import_module("checkpoint")
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"model": torch.nn.Linear(3, 2)}, checkpoint.History(step=1))

    class Broken:
        def state_dict(self) -> dict[str, Any]:
            return {"unpicklable": lambda: None}

    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(path, {"model": Broken()}, checkpoint.History(step=2))
    assert checkpoint.read(path)["history"]["step"] == 1
