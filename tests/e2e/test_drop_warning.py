"""A pipeline that drops more than a few samples is warned of: once, early, with the number; in every loader."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader, get_worker_info

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset, SkipErrors
from tests.e2e.conftest import SAMPLES, Server, make_shards
from tests.e2e.training import number, score

B = 32


def keeps_two_fifths(sample: dict[str, Any]) -> bool:
    return int(sample["txt"]) % 5 < 2


def keeps_40_of_41(sample: dict[str, Any]) -> bool:
    return int(sample["txt"]) % 41 != 0


def drops_none(sample: dict[str, Any]) -> bool:
    return True


def drops_the_first(sample: dict[str, Any]) -> bool:
    return int(sample["txt"]) != 0


def every_nth(samples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """As wds.split_by_worker does, under a name of its own."""
    info = get_worker_info()
    number, workers = (info.id, info.num_workers) if info else (0, 1)
    for at, sample in enumerate(samples):
        if at % workers == number:
            yield sample


def fails_at_a_third(sample: dict[str, Any]) -> dict[str, Any]:
    if int(sample["txt"]) % 3 == 0:
        raise ValueError("no image")
    return sample


def validation(shards: str, stage: Any = None, keep: Any = None, **settings: Any) -> Any:
    dataset = InfoBatchStreamDataset(shards, policy=None, **settings)
    if keep is not None:
        dataset = dataset.select(keep)
    return (dataset if stage is None else dataset.compose(stage)).map(number)


def warned(steps: Iterator[Any]) -> list[tuple[int, str]]:
    """(step, text) of each warning during the steps."""
    found: list[tuple[int, str]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step, _ in enumerate(steps):
            found += [(step, str(warning.message)) for warning in caught]
            caught.clear()
        found += [(-1, str(warning.message)) for warning in caught]
    return [entry for entry in found if "will create" not in entry[1]]


def twice(loader: Any) -> Iterator[Any]:
    yield from loader
    yield from loader


def train(loader: InfoBatchLoader, epochs: int = 2) -> Iterator[None]:
    with loader:
        for epoch in loader.epochs():
            if epoch == epochs:
                break
            for numbers in loader:
                loader.update(score(numbers))
                yield


def train_plain(dataset: Any, workers: int, epochs: int = 2) -> Iterator[None]:
    loader = DataLoader(dataset, batch_size=B, num_workers=workers)
    with dataset:
        for epoch in range(epochs):
            dataset.set_epoch(epoch)
            for numbers, index, weight in loader:
                dataset.update(score(numbers), index, weight)
                yield


@pytest.mark.parametrize("workers", [0, 2])
def test_a_filter_that_drops_most_is_warned_of_once_and_early(workers: int, server: Server, shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, url=server.url, run=f"drop-warning-{workers}", epochs=3)
    found = warned(train(InfoBatchLoader(dataset.select(keeps_two_fifths).map(number), B, workers)))
    [(step, text)] = found
    assert step < 4  # of 32 in the first epoch
    assert "so far" in text
    assert all(remedy in text for remedy in ("subset=", "select_samples", "drops='remember'", "splits samples over"))


def test_the_number_in_the_warning_is_that_of_the_samples_read(server: Server, shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, url=server.url, run="drop-number", epochs=3).select(keeps_two_fifths)
    with InfoBatchLoader(dataset.map(number), 100) as loader:
        loader.set_epoch(0)
        with pytest.warns(UserWarning, match="the pipeline has dropped") as caught:
            next(iter(loader))
        real = int((loader.weights() > 0).sum())
    [warning] = caught
    assert f"dropped {100 - real} of 100 samples so far in this epoch ({100 - real}.0%)" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize("workers", [0, 2])
def test_a_plain_loader_warns_at_an_update(workers: int, server: Server, shards: str) -> None:
    dataset = InfoBatchStreamDataset(
        shards, url=server.url, run=f"plain-drop-warning-{workers}", epochs=3, batch_size=B
    )
    [(step, text)] = warned(train_plain(dataset.select(keeps_two_fifths).map(number), workers))
    assert step < 4
    assert "the pipeline has dropped" in text


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_warns_too_and_names_what_helps_there(workers: int, shards: str) -> None:
    loader = InfoBatchLoader(validation(shards, keep=keeps_two_fifths), B, workers)
    [(_, text)] = warned(twice(loader))
    assert "subset= leaves them out" in text
    assert "drops=" not in text


def test_validation_in_a_plain_loader_warns_in_this_process(shards: str) -> None:
    dataset = validation(shards, keep=keeps_two_fifths, batch_size=B)
    [(_, text)] = warned(twice(DataLoader(dataset, batch_size=B)))
    assert "the pipeline has dropped" in text


def test_validation_in_workers_of_a_plain_loader_logs_one_line(shards: str, tmp_path: Path) -> None:
    log = logging.FileHandler(tmp_path / "log")
    logging.getLogger("infobatch_client").addHandler(log)
    try:
        loader = DataLoader(
            validation(shards, keep=keeps_two_fifths, batch_size=B),
            batch_size=B,
            num_workers=2,
            multiprocessing_context="fork",
        )
        assert warned(twice(loader)) == []
    finally:
        logging.getLogger("infobatch_client").removeHandler(log)
        log.close()
    [line] = (tmp_path / "log").read_text().splitlines()
    assert "the pipeline has dropped" in line


@pytest.mark.parametrize("keep", [drops_none, keeps_40_of_41])
@pytest.mark.parametrize("workers", [0, 2])
def test_up_to_5_percent_are_dropped_in_silence(keep: Any, workers: int, server: Server, shards: str) -> None:
    run = f"drops-few-{keep.__name__}-{workers}"
    dataset = InfoBatchStreamDataset(shards, url=server.url, run=run, epochs=3)
    assert warned(train(InfoBatchLoader(dataset.select(keep).map(number), B, workers))) == []
    dataset = InfoBatchStreamDataset(shards, url=server.url, run=f"plain-{run}", epochs=3, batch_size=B)
    assert warned(train_plain(dataset.select(keep).map(number), workers)) == []
    assert warned(iter(InfoBatchLoader(validation(shards, keep=keep), B, workers))) == []


def test_one_drop_of_few_samples_is_no_finding_and_a_few_are(tmp_path: Path) -> None:
    shards = str(make_shards(tmp_path, [12]))
    assert warned(iter(InfoBatchLoader(validation(shards, keep=drops_the_first), 4))) == []
    [(_, text)] = warned(iter(InfoBatchLoader(validation(shards, keep=keeps_two_fifths), 4)))
    assert "dropped 6 of 12 samples in this epoch (50.0%)" in text


def test_a_stage_that_splits_over_workers_is_recognised(server: Server, shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, url=server.url, run="splitter", epochs=3).compose(every_nth)
    [(_, text)] = warned(train(InfoBatchLoader(dataset.map(number), B, 2)))
    assert "each worker keeps exactly one in 2 of the samples that it reads" in text


def test_a_sample_on_which_a_stage_raises_is_not_called_dropped(shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, policy=None, on_error=SkipErrors(max_errors=1000))
    loader = InfoBatchLoader(dataset.map(fails_at_a_third).map(number), B)
    assert warned(iter(loader)) == []
    assert loader.metrics()["rows_dropped"] == 0
    assert loader.metrics()["rows_unreadable"] == len(np.arange(0, SAMPLES, 3))
