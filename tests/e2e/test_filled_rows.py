"""Rows that fill a batch are nobody else's: a collate function or a loop that works in place touches each row once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from tests.e2e.conftest import Server, make_shards

pytestmark = pytest.mark.filterwarnings("ignore:the pipeline has dropped")  # on purpose

B = 8
N = 61


@dataclass
class Target:
    boxes: list[torch.Tensor]


def as_dict(sample: dict[str, Any]) -> dict[str, Any]:
    n = float(sample["txt"])
    return {"x": torch.tensor([n]), "more": {"array": np.array([n]), "list": [n]}, "target": Target([torch.tensor(n)])}


def as_tuple(sample: dict[str, Any]) -> tuple[Any, ...]:
    n = float(sample["txt"])
    return torch.tensor([n]), {"array": np.array([n])}, [[n]], bytearray([int(n)])


def as_list(sample: dict[str, Any]) -> list[Any]:
    return [torch.tensor([float(sample["txt"])])]


def as_tensor(sample: dict[str, Any]) -> torch.Tensor:
    return torch.tensor([float(sample["txt"])])


def touch(value: Any) -> None:
    """Adds 1 to everything in a row, in place."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        value += 1
    elif isinstance(value, bytearray):
        value[0] += 1
    elif isinstance(value, Target):
        touch(value.boxes)
    elif isinstance(value, (dict, list, tuple)):
        for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
            if isinstance(part, float) and not isinstance(value, tuple):
                value[key] = part + 1
            else:
                touch(part)


def numbers_in(value: Any) -> list[float]:
    """All numbers in a row."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value.reshape(-1).tolist()
    if isinstance(value, bytearray):
        return [float(value[0])]
    if isinstance(value, Target):
        return numbers_in(value.boxes)
    if isinstance(value, (dict, list, tuple)):
        return [n for part in (value.values() if isinstance(value, dict) else value) for n in numbers_in(part)]
    return [value] if isinstance(value, float) else []


def touched(rows: list[Any]) -> list[Any]:
    """A collate function that works in place, as those of detectors do."""
    for row in rows:
        payload = {k: v for k, v in row.items() if k[:2] != "__"} if isinstance(row, dict) else row
        touch(payload)
    return rows


touched.tied = True  # type: ignore[attr-defined]


def payload_of(row: Any, *, plain: bool) -> Any:
    if isinstance(row, dict):
        return {key: value for key, value in row.items() if key[:2] != "__"}
    return row[:-2] if plain else row


def few(sample: dict[str, Any]) -> bool:
    """Drops so much that batches have no row of their own, the first one among them."""
    return int(sample["txt"]) % 19 == 5


def most(sample: dict[str, Any]) -> bool:
    return int(sample["txt"]) % 3 > 0


@pytest.fixture(scope="module")
def some_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_shards(tmp_path_factory.mktemp("filled"), [40, 21]))


def check(rows: list[Any], samples: list[int], *, plain: bool, keep: Any) -> int:
    """Every row was touched once; the rows that fill are copies of real ones. Gives the number of rows that fill."""
    assert len(rows) == B
    for row, sample in zip(rows, samples, strict=True):
        numbers = set(numbers_in(payload_of(row, plain=plain)))
        assert len(numbers) == 1, f"parts of one row were touched more often than others: {numbers}"
        number = int(numbers.pop()) - 1
        assert number == sample or (sample < 0 and keep({"txt": number}))
    return samples.count(-1)


@pytest.mark.parametrize("keep", [few, most])
@pytest.mark.parametrize(
    ("stage", "workers"), [(as_dict, 0), (as_tuple, 0), (as_list, 0), (as_tensor, 0), (as_dict, 2)]
)
def test_rows_touched_in_place_are_touched_once(stage: Any, workers: int, keep: Any, some_shards: str) -> None:
    dataset = InfoBatchStreamDataset(some_shards, policy=None, shuffle=False).select(keep).map(stage)
    filled = 0
    with InfoBatchLoader(dataset, B, workers, collate_fn=touched) as loader:
        for ticket, rows in loader.ticketed():
            filled += check(rows, ticket.index.tolist(), plain=False, keep=keep)
            touch(rows)  # a loop that works in place, on what a worker may still hold
        assert filled == loader.metrics()["rows_filled"] >= 20
    dataset = InfoBatchStreamDataset(some_shards, policy=None, shuffle=False, batch_size=B).select(keep).map(stage)
    in_plain = 0
    for rows in DataLoader(dataset, B, num_workers=workers, collate_fn=touched):
        index = [row["__index__"] if isinstance(row, dict) else row[-2] for row in rows]
        in_plain += check(rows, index, plain=True, keep=keep)
        touch([payload_of(row, plain=True) for row in rows])
    assert in_plain == filled


def test_scores_are_those_of_the_samples_with_a_collate_function_that_works_in_place(
    server: Server, some_shards: str
) -> None:
    def stacked(rows: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([row.add_(1000) for row in rows])

    for plain in (False, True):
        run = f"in-place-{plain}"
        dataset = InfoBatchStreamDataset(
            some_shards, url=server.url, run=run, epochs=3, batch_size=B if plain else None
        ).map(as_tensor)
        if plain:
            with dataset:
                dataset.set_epoch(0)
                for rows in DataLoader(dataset, B, collate_fn=touched_by_1000):
                    dataset.update(*rows)
                dataset.flush()
        else:
            with InfoBatchLoader(dataset, B, collate_fn=stacked) as loader:
                for x in loader:
                    loader.update(x[:, 0])
                loader.flush()
        assert server.scores(run).tolist() == [1000.0 + n for n in range(N)]


def touched_by_1000(rows: list[Any]) -> tuple[torch.Tensor, ...]:
    x = torch.cat([row[0].add_(1000) for row in rows])
    return x, torch.tensor([row[1] for row in rows]), torch.tensor([float(row[2]) for row in rows])


touched_by_1000.tied = True  # type: ignore[attr-defined]


def test_a_full_batch_costs_no_copy(some_shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Any] = []

    class Counted(torch.Tensor):
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            copied.append(1)
            return self.detach().clone().as_subclass(Counted)

    dataset = InfoBatchStreamDataset(some_shards, policy=None, shuffle=False)
    dataset = dataset.map(lambda sample: as_tensor(sample).as_subclass(Counted))
    with InfoBatchLoader(dataset, 10, collate_fn=list) as loader:
        for step, _ in enumerate(loader):
            if step < 6:
                assert len(copied) == 1, "one row of a pass is kept for batches that have none"
        assert len(copied) == 1 + 9


def test_the_only_file_object_of_a_row_is_named(some_shards: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    dataset = InfoBatchStreamDataset(some_shards, policy=None, shuffle=False)
    with open(tmp_path / "file") as file:
        dataset = dataset.map(lambda sample: (as_tensor(sample), file))
        with (
            InfoBatchLoader(dataset, 60, collate_fn=list) as loader,
            pytest.warns(UserWarning, match=r"share a _io\.TextIOWrapper with a real row"),
        ):
            list(loader)
