"""An error in a worker process reaches the loop as it was raised: type, message, attributes, and its traceback."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from infobatch_client.workers.worker_errors import SentError, WorkerTraceback
from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset, errors
from tests.e2e.conftest import make_shards
from tests.e2e.training import number

OURS = [getattr(errors, name) for name in errors.__all__]


class WithPlace(Exception):
    """An error with an attribute that isn't an argument."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.place = text.upper()


class OfTwo(Exception):
    """One that can't be made again of its arguments."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} and {right}")


class OfKeywords(ValueError):
    """One that has keyword arguments only, and an attribute that can't be pickled."""

    def __init__(self, *, path: str) -> None:
        super().__init__(f"no {path}")
        self.path = path
        self.lock = threading.Lock()


class OfSlots(ValueError):
    """One with an attribute in a slot, and a private one."""

    __slots__ = ("__secret", "code")

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code, self.__secret = code, -code

    @property
    def secret(self) -> int:
        return self.__secret


class Raises:
    """A stage that raises at the 17th sample."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, sample: dict[str, Any]) -> int:
        if int(sample["txt"]) == 17:
            raise self.error
        return int(sample["txt"])


class RaisesOfTwo:
    """The same with an error that is made in the worker."""

    def __call__(self, sample: dict[str, Any]) -> int:
        raise OfTwo("this", "that")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_shards(tmp_path_factory.mktemp("small"), [40]))


def error_of(shards: str, stage: Any, workers: int) -> Exception:
    dataset = InfoBatchStreamDataset(shards, policy=None).map(stage)
    with InfoBatchLoader(dataset, 8, workers) as loader, pytest.raises(Exception) as caught:  # noqa: PT011 - any type
        list(loader)
    return caught.value


@pytest.mark.parametrize("error", [KeyError("png"), ValueError("no image"), WithPlace("here"), errors.LossError("no")])
def test_an_error_of_a_stage_is_the_same_with_workers_and_without(error: Exception, small: str) -> None:
    there, here = (error_of(small, Raises(error), workers) for workers in (2, 0))  # a worker has a copy
    assert type(there) is type(here) is type(error)
    assert str(there) == str(here)
    assert vars(there) == vars(here)


def test_the_workers_traceback_is_the_cause(small: str) -> None:
    error = error_of(small, Raises(ValueError("no image")), 2)
    assert isinstance(error.__cause__, WorkerTraceback)
    text = str(error.__cause__)
    assert "in worker process" in text
    assert "test_worker_errors.py" in text
    assert "ValueError: no image" in text


def test_an_error_that_cannot_be_made_again_of_its_arguments_keeps_its_type(small: str) -> None:
    error = error_of(small, RaisesOfTwo(), 2)
    assert type(error) is OfTwo
    assert str(error) == "this and that"


class RaisesOfKeywords:
    """The same with an error that pickle can't make again."""

    def __call__(self, sample: dict[str, Any]) -> int:
        raise OfKeywords(path="there")


def test_an_error_of_keyword_arguments_keeps_its_type_and_what_can_be_pickled(small: str) -> None:
    error = error_of(small, RaisesOfKeywords(), 2)
    assert isinstance(error, OfKeywords)
    assert str(error) == "no there"
    assert error.path == "there"
    assert not hasattr(error, "lock")


def test_an_error_keeps_what_is_in_its_slots(small: str) -> None:
    error = error_of(small, Raises(OfSlots("no", 5)), 2)
    assert isinstance(error, OfSlots)
    assert (str(error), error.code, error.secret) == ("no", 5, -5)


def test_an_error_of_an_unknown_type_keeps_its_text() -> None:
    pickled = pickle.dumps(WithPlace("here")).replace(b"WithPlace", b"WithPlate")
    with pytest.raises(RuntimeError, match="WithPlace: here") as caught:
        SentError(pickled, "WithPlace: here", "traceback", 1).raise_here()
    assert "in worker process 1:\ntraceback" in str(caught.value.__cause__)


def two_for_one(samples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for sample in samples:
        yield sample
        yield sample


@pytest.mark.parametrize("workers", [0, 2])
def test_our_own_errors_come_with_their_own_message(workers: int, small: str, tmp_path: Path) -> None:
    twice = InfoBatchStreamDataset(small, policy=None).compose(two_for_one).map(number)
    with pytest.raises(errors.PipelineError) as caught, InfoBatchLoader(twice, 8, workers) as loader:
        list(loader)
    assert "Traceback" not in str(caught.value)
    assert "two_for_one" in str(caught.value)
    folder = make_shards(tmp_path, [40])
    dataset = InfoBatchStreamDataset(str(folder), policy=None).map(number)
    (folder / "part-000.tar").write_bytes(b"\0" * 20480)
    with pytest.raises(errors.ShardChangedError) as changed, InfoBatchLoader(dataset, 8, workers) as loader:
        list(loader)
    assert "Traceback" not in str(changed.value)
    assert "part-000.tar" in str(changed.value)


def test_a_loader_reads_on_after_an_error_of_a_worker(small: str) -> None:
    stage = Raises(ValueError("no image"))
    dataset = InfoBatchStreamDataset(small, policy=None, shuffle=False).map(stage)
    with InfoBatchLoader(dataset, 8, 2) as loader:
        seen: list[int] = []
        for _ in range(2):
            with pytest.raises(ValueError, match="no image"):
                seen.extend(one for numbers in loader for one in numbers.tolist())
    assert seen == [*range(16), *range(16)]


@pytest.mark.parametrize("kind", OURS)
def test_each_of_our_errors_survives_a_plain_loader_and_a_pickle(kind: type[Exception], small: str) -> None:
    dataset = InfoBatchStreamDataset(small, policy=None, shuffle=False).map(
        Raises(kind("what was wrong, and a remedy"))
    )
    with pytest.raises(kind, match="what was wrong, and a remedy") as caught:
        list(DataLoader(dataset, 8, num_workers=1))
    assert type(caught.value) is kind
    again = pickle.loads(pickle.dumps(kind("what was wrong")))
    assert (type(again), str(again)) == (kind, "what was wrong")
