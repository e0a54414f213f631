"""The life of an epoch: what opens it, what begins it again, what ends it, and how far it is."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from infobatch_stream import ConfigError, InfoBatchLoader, InfoBatchStreamDataset, ProgressLR, cosine, one_cycle
from tests.e2e.conftest import SAMPLES, Server


def to_number(sample: dict[str, Any]) -> int:
    return int(sample["txt"])


def make_loader(server: Server, shards: str, run: str, batch_size: int = 64, **settings: Any) -> InfoBatchLoader:
    loading = {name: settings.pop(name) for name in ("num_workers", "remainder") if name in settings}
    asked = {"epochs": 5, "delta": "0.8", "seed": 2, **settings}
    dataset = InfoBatchStreamDataset(shards, url=server.url, run=run, **asked).map(to_number)
    return InfoBatchLoader(dataset, batch_size, **loading)


def score(numbers: torch.Tensor) -> torch.Tensor:
    return (numbers % 17).float()


def train_pass(loader: InfoBatchLoader) -> list[int]:
    seen = []
    for numbers in loader:
        loader.update(score(numbers))
        seen += numbers[loader.weights() > 0].tolist()
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_looking_at_the_first_batch_burns_nothing(workers: int, server: Server, shards: str) -> None:
    with make_loader(server, shards, f"look-{workers}", num_workers=workers) as loader:
        for epoch in loader.epochs():
            first = next(iter(loader)).tolist()
            assert next(iter(loader)).tolist() == first
            seen = train_pass(loader)
            assert sorted(seen) == loader.plan.kept_between(0, SAMPLES).tolist()
            assert seen[:64] == first
            if epoch == 1:
                break


def test_without_epochs_each_pass_is_the_next_epoch(server: Server, shards: str) -> None:
    with make_loader(server, shards, "implicit") as loader:
        numbers = []
        for _ in range(5):
            train_pass(loader)
            numbers.append(loader.epoch)
        assert numbers == [0, 1, 2, 3, 4]
        with pytest.raises(ConfigError, match="all 5 epochs of the run's schedule are trained"):
            iter(loader)


def test_a_second_pass_in_one_step_of_epochs_is_refused(server: Server, shards: str) -> None:
    with make_loader(server, shards, "second-pass") as loader:
        next(loader.epochs())
        train_pass(loader)
        with pytest.raises(ConfigError, match="a second pass over epoch 0 after updates"):
            iter(loader)


def test_breaking_out_ends_the_epoch_when_the_next_opens(server: Server, shards: str) -> None:
    with make_loader(server, shards, "break") as loader:
        for _ in loader.epochs():
            loader.update(score(next(iter(loader))))
            break
        assert loader.epoch == 0
        assert list(loader.epochs()) == [1, 2, 3, 4]
    assert server.info("break").stored_scores == 64


def test_an_iterator_of_an_earlier_pass_is_refused(server: Server, shards: str) -> None:
    with make_loader(server, shards, "stale") as loader:
        stale = iter(loader)
        next(stale)
        next(iter(loader))
        with pytest.raises(ConfigError, match="a pass that is over"):
            next(stale)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_broken_off_with_batches_on_their_way_leaves_none_for_the_next(
    workers: int, server: Server, shards: str
) -> None:
    with make_loader(server, shards, f"on-their-way-{workers}", num_workers=workers) as loader:
        for epoch in loader.epochs():
            if epoch == 2:
                assert sorted(train_pass(loader)) == loader.plan.kept_between(0, SAMPLES).tolist()
                break
            for count, numbers in enumerate(loader):
                loader.update(score(numbers))
                if count == 3:
                    break


def test_progress_rises_strictly_and_ends_at_the_number_of_epochs(server: Server, shards: str) -> None:
    with make_loader(server, shards, "progress") as loader:
        assert loader.progress() == 0
        found = [0.0]
        for epoch in loader.epochs():
            assert loader.progress() == epoch
            for numbers in loader:
                loader.update(score(numbers))
                found.append(loader.progress())
            assert loader.progress() == epoch + 1
        assert loader.progress() == 5
    assert all(a < b for a, b in itertools.pairwise(found))


def test_length_is_that_of_the_open_epoch(server: Server, shards: str) -> None:
    with make_loader(server, shards, "length") as loader:
        assert len(loader) == 16
        for _ in loader.epochs():
            count = sum(1 for numbers in loader if loader.update(score(numbers)) is not None)
            assert len(loader) == count == -(-loader.plan.kept // 64)


def test_dropping_the_remainder_leaves_whole_batches_of_real_rows(server: Server, shards: str) -> None:
    with make_loader(server, shards, "drop", 100, remainder="drop") as loader:
        for epoch in loader.epochs():
            for numbers in loader:
                assert (loader.weights() > 0).all()
                loader.update(score(numbers))
            assert len(loader) == loader.plan.kept // 100
            assert loader.progress() == epoch + 1
    loader = make_loader(server, shards, "drop-all", 2000, remainder="drop")
    with loader, pytest.raises(ConfigError, match="remainder='drop' leaves nothing: 1009 samples are left"):
        next(loader.epochs())


def test_the_rate_at_the_first_batch_of_an_epoch_is_the_unpruned_runs(server: Server, shards: str) -> None:
    def rates(run: str, policy: str, fn: Any) -> tuple[list[float], list[int]]:
        parameter = torch.nn.Parameter(torch.zeros(()))
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        found, steps = [], []
        with make_loader(server, shards, run, policy=policy) as loader:
            schedule = ProgressLR(optimizer, fn, loader)
            for _ in loader.epochs():
                found.append(optimizer.param_groups[0]["lr"])
                for numbers in loader:
                    (loader.update(score(numbers)) * parameter).backward()
                    optimizer.step()
                    schedule.step()
                steps.append(len(loader))
        return found, steps

    for name, fn in (("cycle", one_cycle()), ("cosine", cosine(warmup=0.1))):
        pruned, pruned_steps = rates(f"rate-{name}", "infobatch", fn)
        full, full_steps = rates(f"rate-{name}-full", "full", fn)
        assert pruned_steps < full_steps
        assert pruned == full


def test_a_static_mask_restricts_every_epoch(server: Server, shards: str) -> None:
    mask = torch.arange(SAMPLES).remainder(3).eq(0).numpy()
    with make_loader(server, shards, "mask", subset=mask, prune_fraction=0.25) as loader:
        for epoch in loader.epochs():
            seen = train_pass(loader)
            assert all(number % 3 == 0 for number in seen)
            assert len(seen) == (337 if epoch in (0, 4) else 337 - 84)
            assert loader.plan.pruned == 337 - len(seen)


def test_a_biased_policy_says_so(server: Server, shards: str) -> None:
    with make_loader(server, shards, "biased", policy="hard") as loader:
        for _ in loader.epochs():
            train_pass(loader)
    assert not server.info("biased").newest_plan.biased  # the last epoch is annealed
    with make_loader(server, shards, "biased-2", policy="hard") as loader:
        for epoch in loader.epochs():
            train_pass(loader)
            if epoch == 1:
                break
    plan = server.info("biased-2").newest_plan
    assert plan.biased
    assert plan.pruned > 0
