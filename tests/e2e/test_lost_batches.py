"""Nothing that a worker makes or raises gets lost: a pass has all of its batches, or ends with an error."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from infobatch_client.workers.worker_errors import WorkerTraceback
from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from infobatch_stream.errors import WorkerError
from tests.e2e.conftest import Server, make_shards
from tests.e2e.training import number

# torchdata's own call of something that torch has deprecated since
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

Passes = Callable[..., Iterator[Any]]
WORKERS = 2


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_shards(tmp_path_factory.mktemp("small"), [40]))


def homeless(text: str) -> ValueError:
    """An error as botocore makes them: its class is at no module's top level."""
    return type("NoSuchKey", (ValueError,), {"__module__": "botocore.errorfactory"})(text)


class At17:
    """A stage that does something at the 17th sample."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def __call__(self, sample: dict[str, Any]) -> Any:
        return self.act() if int(sample["txt"]) == 17 else int(sample["txt"])


class Always(At17):
    """The same at every sample."""

    def __call__(self, sample: dict[str, Any]) -> Any:
        return self.act()


def raising(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


def as_list(rows: list[Any]) -> list[Any]:
    return rows


def our_loader(dataset: InfoBatchStreamDataset, workers: int = WORKERS, **options: Any) -> Iterator[Any]:
    with InfoBatchLoader(dataset, 4, workers, **options) as loader:
        yield from loader


def plain_loader(dataset: InfoBatchStreamDataset, workers: int = WORKERS, **options: Any) -> Iterator[Any]:
    collate_fn = dataset.collate(options.pop("collate_fn", None))
    yield from DataLoader(dataset, 4, num_workers=workers, collate_fn=collate_fn, **options)


def stateful_loader(dataset: InfoBatchStreamDataset, workers: int = WORKERS, **options: Any) -> Iterator[Any]:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    collate_fn = dataset.collate(options.pop("collate_fn", None))
    yield from torchdata.StatefulDataLoader(dataset, 4, num_workers=workers, collate_fn=collate_fn, **options)


any_loader = pytest.mark.parametrize("passes", [our_loader, plain_loader, stateful_loader])


def in_order(shards: str, act: Callable[[], Any]) -> InfoBatchStreamDataset:
    return InfoBatchStreamDataset(shards, policy=None, shuffle=False, batch_size=4).map(At17(act))


def ends_with(kind: type[BaseException], batches: Iterator[Any]) -> tuple[int, BaseException]:
    """The number of batches before the error, and the error."""
    seen: list[Any] = []
    with pytest.raises(kind) as caught:
        seen.extend(batches)
    return len(seen), caught.value


@any_loader
def test_an_error_whose_class_has_no_home_is_raised_as_text(passes: Passes, small: str) -> None:
    count, error = ends_with(WorkerError, passes(in_order(small, raising(homeless("the key is gone")))))
    assert count == 4
    assert "botocore.errorfactory.NoSuchKey: the key is gone" in str(error)
    assert "worker process 0" in str(error)
    assert isinstance(error.__cause__, WorkerTraceback)
    assert "test_lost_batches.py" in str(error.__cause__)


@any_loader
@pytest.mark.parametrize("what", [raising(homeless("gone")), threading.Lock])
def test_the_first_batch_of_a_worker_does_not_get_lost_either(
    what: Callable[[], Any], passes: Passes, small: str
) -> None:
    dataset = InfoBatchStreamDataset(small, policy=None, shuffle=False, batch_size=4).map(Always(what))
    assert ends_with(WorkerError, passes(dataset, collate_fn=as_list))[0] == 0


@any_loader
def test_an_error_of_a_collate_function_is_raised_as_text_too(passes: Passes, small: str) -> None:
    def collate(rows: list[Any]) -> list[Any]:
        if 17 in rows:
            raise homeless("")
        return rows

    dataset = InfoBatchStreamDataset(small, policy=None, shuffle=False, batch_size=4).map(number)
    count, error = ends_with(WorkerError, passes(dataset, collate_fn=collate))
    assert count == 4
    assert "botocore.errorfactory.NoSuchKey" in str(error)


@any_loader
def test_a_batch_that_cannot_be_pickled_is_an_error_that_names_the_part(passes: Passes, small: str) -> None:
    def act() -> dict[str, Any]:
        return {"image": torch.zeros(2), "meta": [1, threading.Lock()]}

    count, error = ends_with(WorkerError, passes(in_order(small, act), collate_fn=as_list))
    assert count == 4
    assert "[1]['meta'][1] is <unlocked _thread.lock" in str(error)
    assert "num_workers=0" in str(error)


def test_a_batch_with_a_graph_is_an_error_that_says_so(small: str) -> None:
    def act() -> torch.Tensor:
        return torch.zeros(2, requires_grad=True) * 2

    count, error = ends_with(WorkerError, our_loader(in_order(small, act), collate_fn=as_list))
    assert count == 4
    assert "requires_grad" in str(error)


def test_a_batch_whose_repr_fails_is_an_error_as_well(small: str) -> None:
    class Local:
        def __repr__(self) -> str:
            raise ValueError

    count, error = ends_with(WorkerError, our_loader(in_order(small, Local), collate_fn=as_list))
    assert count == 4
    assert "a batch of worker process 0 can't be pickled" in str(error)


def test_the_loader_reads_on_after_a_batch_that_could_not_be_sent(small: str) -> None:
    with InfoBatchLoader(in_order(small, Exception), 4, WORKERS, collate_fn=as_list) as loader:
        assert len(list(loader)) == 10
    with InfoBatchLoader(in_order(small, threading.Lock), 4, WORKERS, collate_fn=as_list) as loader:
        for _ in range(2):
            assert ends_with(WorkerError, iter(loader))[0] == 4


def test_a_training_epoch_with_a_lost_batch_is_an_error_in_a_plain_loader(small: str, server: Server) -> None:
    dataset = InfoBatchStreamDataset(small, url=server.url, run="lost-batches", epochs=1, policy="full", batch_size=4)

    def train(training: InfoBatchStreamDataset) -> Iterator[None]:
        for values, index, weight in DataLoader(training, 4, num_workers=WORKERS):
            yield training.update(values.float(), index, weight)

    with dataset.map(At17(raising(homeless("gone")))) as training:
        training.set_epoch(0)
        _, error = ends_with(WorkerError, train(training))
    assert "NoSuchKey: gone" in str(error)


def test_a_training_epoch_with_a_lost_batch_is_an_error_in_our_loader(small: str, server: Server) -> None:
    dataset = InfoBatchStreamDataset(small, url=server.url, run="lost-too", epochs=1, policy="full")
    dataset = dataset.map(At17(raising(homeless("gone"))))

    def train(loader: InfoBatchLoader) -> Iterator[None]:
        for _ in loader.epochs():
            for values in loader:
                yield loader.update(values.float())

    with InfoBatchLoader(dataset, 4, 3) as loader:
        _, error = ends_with(WorkerError, train(loader))
    assert "NoSuchKey: gone" in str(error)


@pytest.mark.parametrize("error", [homeless("gone"), StopIteration(), KeyboardInterrupt()])
def test_an_error_of_worker_init_fn_reaches_the_loop(error: BaseException, small: str) -> None:
    def init(worker: int) -> None:
        raise error

    dataset = InfoBatchStreamDataset(small, policy=None).map(number)
    count, raised = ends_with(RuntimeError, our_loader(dataset, worker_init_fn=init))
    assert count == 0
    assert type(error).__name__ in str(raised)


@pytest.mark.parametrize("workers", [0, WORKERS])
@pytest.mark.parametrize("ties", [False, True])
def test_stop_iteration_of_a_collate_function_is_an_error_in_a_plain_loader(
    ties: bool, workers: int, small: str
) -> None:
    def collate(rows: list[Any]) -> Any:
        values = [row[0] for row in rows] if ties else rows
        return default_collate([next(value for value in (one,) if value != 17) for one in values])

    collate.tied = ties  # type: ignore[attr-defined]
    dataset = InfoBatchStreamDataset(small, policy=None, shuffle=False, batch_size=4).map(number)
    collate_fn = collate if ties else dataset.collate(collate)
    batches = iter(DataLoader(dataset, 4, num_workers=workers, collate_fn=collate_fn))
    count, error = ends_with(RuntimeError, batches)
    assert count == 4
    assert "collate() raised StopIteration" in str(error)


@pytest.mark.parametrize("workers", [0, WORKERS])
def test_stop_iteration_of_a_collate_function_is_an_error_in_our_loader(workers: int, small: str) -> None:
    def collate(rows: list[Any]) -> Any:
        return [next(iter(())) if one == 17 else one for one in rows]

    dataset = InfoBatchStreamDataset(small, policy=None, shuffle=False).map(number)
    assert ends_with(RuntimeError, our_loader(dataset, workers, collate_fn=collate))[0] == 4


@pytest.mark.parametrize("act", [raising(KeyboardInterrupt()), lambda: os.kill(os.getpid(), signal.SIGINT)])
def test_an_interrupt_in_a_worker_is_an_interrupt_of_the_loop(act: Callable[[], Any], small: str) -> None:
    count, error = ends_with(KeyboardInterrupt, our_loader(in_order(small, act), collate_fn=torch.tensor))
    assert count == 4
    assert "worker process 0" in str(error)


def test_an_interrupt_in_a_worker_of_a_plain_loader_is_an_error_that_says_so(small: str) -> None:
    count, error = ends_with(WorkerError, plain_loader(in_order(small, raising(KeyboardInterrupt()))))
    assert count == 4
    assert "KeyboardInterrupt in worker process 0" in str(error)


def test_an_exit_in_a_worker_is_an_exit_of_the_loop(small: str) -> None:
    count, error = ends_with(SystemExit, our_loader(in_order(small, raising(SystemExit(3)))))
    assert count == 4
    assert isinstance(error, SystemExit)
    assert error.code == 3
