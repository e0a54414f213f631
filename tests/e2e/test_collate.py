"""A user's collate function: in InfoBatchLoader its batch comes back as it is, in a plain DataLoader with its tie."""

from __future__ import annotations

import functools
import warnings
from collections import UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, default_collate

from infobatch_stream import ConfigError, InfoBatchLoader, InfoBatchStreamDataset, LossError
from tests.e2e.conftest import SAMPLES, Server

B = 16


class Pair(NamedTuple):
    number: Any
    words: Any


@dataclass
class Batch:
    number: torch.Tensor


def to_words(sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
    """Of as many elements as the class says."""
    number = int(sample["txt"])
    return torch.full((1 + int(sample["cls"]),), number), number


def to_number(sample: dict[str, Any]) -> int:
    return int(sample["txt"])


def to_pair(sample: dict[str, Any]) -> tuple[int, float]:
    return int(sample["txt"]), int(sample["cls"]) / 2


def to_single(sample: dict[str, Any]) -> tuple[int]:
    return (int(sample["txt"]),)


def to_named(sample: dict[str, Any]) -> Pair:
    return Pair(int(sample["txt"]), int(sample["cls"]))


def to_dict(sample: dict[str, Any]) -> dict[str, Any]:
    return {"number": int(sample["txt"])}


def padded(payloads: list[Any]) -> tuple[Any, ...]:
    words, numbers = zip(*payloads, strict=True)
    return pad_sequence(list(words), batch_first=True), torch.tensor(numbers)


def detections(payloads: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*payloads, strict=True))


def as_dict(payloads: list[Any]) -> dict[str, Any]:
    assert all(payload.keys() <= {"number", "__key__"} for payload in payloads)
    return {"number": torch.tensor([payload["number"] for payload in payloads])}


def as_encoding(payloads: list[Any]) -> UserDict[str, Any]:
    return UserDict(as_dict(payloads))


def as_dataclass(payloads: list[Any]) -> Batch:
    return Batch(torch.tensor(payloads))


def as_named(payloads: list[Any]) -> Pair:
    assert all(isinstance(payload, Pair) for payload in payloads)
    return Pair(*default_collate([tuple(payload) for payload in payloads]))


def as_list(payloads: list[Any]) -> list[Any]:
    return payloads


def appended(batch: Any) -> tuple[Any, Any, Any]:
    return batch[:-2], batch[-2], batch[-1]


def keyed(batch: Any) -> tuple[Any, Any, Any]:
    rest = {key: value for key, value in batch.items() if key not in ("__index__", "__weight__")}
    return type(batch)(rest), batch["__index__"], batch["__weight__"]


def beside(batch: Any) -> tuple[Any, Any, Any]:
    payload, index, weight = batch
    return payload, index, weight


# A stage, a collate function, and how to take a batch of a plain DataLoader apart: payload, index, weight.
CASES = {
    "padding": (to_words, padded, appended),
    "detections": (to_words, detections, appended),
    "dict": (to_dict, as_dict, keyed),
    "mapping": (to_dict, as_encoding, keyed),
    "dataclass": (to_number, as_dataclass, beside),
    "named tuple": (to_named, as_named, beside),
    "list": (to_number, as_list, beside),
    "tuples of one": (to_single, as_list, beside),
    "default, of tuples": (to_pair, None, appended),
    "default, of named tuples": (to_named, None, beside),
    "default, of numbers": (to_number, None, beside),
    "default, of tuples of one": (to_single, None, appended),
}


def dataset_of(shards: str, stage: Any, **settings: Any) -> Any:
    return InfoBatchStreamDataset(shards, policy=None, shuffle=False, **settings).map(stage)


def flat(payload: Any) -> Any:
    """A payload in which equal ones compare equal."""
    if isinstance(payload, torch.Tensor):
        return (payload.dtype, payload.tolist())
    if isinstance(payload, Batch):
        return (Batch, flat(payload.number))
    if isinstance(payload, (dict, UserDict)):
        return (type(payload), {key: flat(value) for key, value in payload.items()})
    if isinstance(payload, (list, tuple)):
        return (type(payload), [flat(part) for part in payload])
    return payload


@pytest.mark.parametrize(("stage", "collate_fn", "apart"), CASES.values(), ids=CASES)
def test_a_tied_collate_function_makes_the_batches_of_our_loader(
    stage: Any, collate_fn: Any, apart: Any, shards: str
) -> None:
    dataset = dataset_of(shards, stage, batch_size=B)
    ours = list(InfoBatchLoader(dataset_of(shards, stage), B, collate_fn=collate_fn))
    batches = list(DataLoader(dataset, batch_size=B, collate_fn=dataset.collate(collate_fn)))
    assert len(batches) == len(ours) == -(-SAMPLES // B)
    first = 0
    for batch, expected in zip(batches, ours, strict=True):
        payload, index, weight = apart(batch)
        assert flat(payload) == flat(expected)
        real = min(B, SAMPLES - first)
        assert (index.dtype, weight.dtype) == (torch.int64, torch.float32)
        assert index.tolist() == [*range(first, first + real), *[-1] * (B - real)]
        assert weight.tolist() == [1.0] * real + [0.0] * (B - real)
        first += B


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_tied_collate_function_works_in_workers_and_pins(context: str, server: Server, shards: str) -> None:
    run = f"collate-{context}"
    dataset = InfoBatchStreamDataset(shards, url=server.url, run=run, epochs=3, batch_size=64).map(to_words)
    trained = 0
    with dataset:
        loader = DataLoader(
            dataset,
            batch_size=64,
            num_workers=1,
            multiprocessing_context=context,
            collate_fn=dataset.collate(padded),
            pin_memory=torch.cuda.is_available(),
        )
        dataset.set_epoch(0)
        for words, numbers, index, weight in loader:
            assert words[:, 0].tolist() == numbers.tolist()
            assert numbers[weight > 0].tolist() == index[weight > 0].tolist()
            dataset.update(numbers.float(), index, weight)
            trained += int((weight > 0).sum())
        assert dataset.flush()
    assert trained == SAMPLES
    np.testing.assert_array_equal(server.scores(run), np.arange(SAMPLES, dtype=np.float32))


@pytest.mark.parametrize("collate_fn", [as_dict, as_encoding])
def test_a_dict_of_a_users_collate_function_comes_back_as_it_is(collate_fn: Any, server: Server, shards: str) -> None:
    def model(number: torch.Tensor) -> torch.Tensor:
        return number.float()

    run = f"as-it-is-{collate_fn.__name__}"
    dataset = InfoBatchStreamDataset(shards, url=server.url, run=run, epochs=3).map(to_dict)
    with InfoBatchLoader(dataset, 64, collate_fn=collate_fn) as loader:
        for batch in loader:
            loader.update(model(**batch))
        assert loader.flush()
    np.testing.assert_array_equal(server.scores(run), np.arange(SAMPLES, dtype=np.float32))


def as_numbers(rows: list[Any]) -> Any:
    return torch.tensor([row[0] for row in rows])


def with_its_tie(rows: list[Any]) -> Any:
    return default_collate(rows)


with_its_tie.tied = True  # type: ignore[attr-defined]


class Collator:
    def __call__(self, rows: list[Any]) -> Any:
        return default_collate(rows)


@pytest.mark.parametrize(
    ("collate_fn", "name"),
    [(as_numbers, "as_numbers"), (functools.partial(as_numbers), "as_numbers"), (Collator(), "Collator")],
    ids=["function", "partial", "object"],
)
def test_an_untied_collate_function_is_warned_about_before_it_is_called(
    collate_fn: Any, name: str, shards: str
) -> None:
    loader = DataLoader(dataset_of(shards, to_number, batch_size=B), batch_size=B, collate_fn=collate_fn)
    with pytest.warns(UserWarning, match=rf"collate_fn={name} .*dataset\.collate\({name}\).*{name}\.tied = True"):
        next(iter(loader))


def test_an_untied_collate_function_that_fails_has_been_warned_about(shards: str) -> None:
    loader = DataLoader(dataset_of(shards, to_words, batch_size=B), batch_size=B, collate_fn=padded)
    with pytest.warns(UserWarning, match=r"dataset\.collate\(padded\)"), pytest.raises(ValueError, match="too many"):
        next(iter(loader))


@pytest.mark.parametrize("collate_fn", [None, default_collate, with_its_tie, functools.partial(with_its_tie)])
def test_a_collate_function_that_handles_the_tie_is_not_warned_about(collate_fn: Any, shards: str) -> None:
    dataset = dataset_of(shards, to_number, batch_size=B)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(iter(DataLoader(dataset, batch_size=B, collate_fn=collate_fn)))
        next(iter(DataLoader(dataset, batch_size=B, collate_fn=dataset.collate(dataset.collate()))))
        next(iter(DataLoader(dataset, batch_size=None, collate_fn=as_list)))
        next(iter(dataset))


def test_a_loader_of_ours_takes_no_tied_collate_function(shards: str) -> None:
    dataset = dataset_of(shards, to_number)
    with pytest.raises(ConfigError, match="InfoBatchLoader takes collate_fn= as it is"):
        InfoBatchLoader(dataset, B, collate_fn=dataset.collate(as_list))


def test_rows_of_something_else_are_refused(shards: str) -> None:
    dataset = dataset_of(shards, to_number)
    with pytest.raises(ConfigError, match="got a tuple without index and weight"):
        next(iter(DataLoader([(1, 2), (3, 4)], batch_size=2, collate_fn=dataset.collate())))
    with pytest.raises(ConfigError, match="can't be called"):
        dataset.collate("pad")


def test_an_update_without_a_tensor_of_indices_names_the_way(server: Server, shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, url=server.url, run="collate-update", epochs=3, batch_size=B)
    with dataset:
        dataset.set_epoch(0)
        with pytest.raises(LossError, match=r"index is a list; .*collate_fn=dataset\.collate\(collate_fn\)"):
            dataset.update(torch.ones(B), [0] * B, torch.ones(B))
