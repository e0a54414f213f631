"""The life of an epoch: what opens it, what begins it again, what ends it, and how far it is."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
import torch

from infobatch_stream import (
    ConfigError,
    InfoBatch,
    InfoBatchLoader,
    InfoBatchStreamDataset,
    LossError,
    ProgressLR,
    RunBusyError,
    cosine,
    one_cycle,
)
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.dataset_arguments import dataset_arguments


def to_number(sample: dict[str, Any]) -> int:
    return int(sample["txt"])


def make_loader(server: Server, shards: str, run: str, batch_size: int = 64, **settings: Any) -> InfoBatchLoader:
    loading = {name: settings.pop(name) for name in ("num_workers", "remainder") if name in settings}
    asked = {"epochs": 5, "delta": "0.8", "seed": 2, **settings}
    dataset = InfoBatchStreamDataset(shards, url=server.url, run=run, **dataset_arguments(**asked)).map(to_number)
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


@pytest.mark.parametrize("whole", [False, True])
def test_a_look_before_the_first_epoch_burns_nothing(whole: bool, server: Server, shards: str) -> None:
    with make_loader(server, shards, f"look-first-{whole}") as loader:
        looked_at = [numbers.tolist() for numbers in loader] if whole else [next(iter(loader)).tolist()]
        for _ in loader.epochs():
            break
        seen = {epoch: train_pass(loader) for epoch in loader.epochs()}
    assert list(seen) == [0, 1, 2, 3, 4]
    assert sorted(seen[0]) == list(range(SAMPLES))
    assert seen[0][:64] == looked_at[0]


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


def test_batches_that_were_never_updated_are_told_of(server: Server, shards: str) -> None:
    with make_loader(server, shards, "forgotten") as loader:
        epochs = loader.epochs()
        next(epochs)
        assert len(list(loader)) == 16
        with pytest.warns(
            UserWarning, match=r"16 of 16 batches of epoch 0 were never updated.*loader\.update\(losses\)"
        ):
            next(epochs)
        for numbers in loader:
            loader.update(score(numbers))


def test_a_closed_loader_says_so(server: Server, shards: str) -> None:
    loader = make_loader(server, shards, "closed")
    loader.close()
    loader.close()
    with pytest.raises(ConfigError, match="this loader is closed"):
        iter(loader)


def test_a_second_loader_of_a_run_in_one_process_is_told_at_once(server: Server, shards: str) -> None:
    with make_loader(server, shards, "twice") as first:
        next(first.epochs())
        second = make_loader(server, shards, "twice")
        with pytest.raises(
            RunBusyError, match=r"another loader or dataset of this process is training run 'twice'.*close"
        ):
            next(second.epochs())
    with second:
        next(second.epochs())


def test_epochs_of_a_validation_loader_are_one_pass(shards: str) -> None:
    loader = InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None, shuffle=False).map(to_number), 64)
    for _ in range(2):
        assert [epoch for epoch in loader.epochs() if len(list(loader)) == 16] == [0]


def test_the_length_after_loading_a_state_is_what_is_left(server: Server, shards: str) -> None:
    with make_loader(server, shards, "left") as loader:
        next(loader.epochs())
        for count, numbers in enumerate(loader, start=1):
            loader.update(score(numbers))
            if count == 5:
                break
        state = loader.state_dict()
    with make_loader(server, shards, "left") as loader:
        loader.load_state_dict(state)
        assert len(loader) == 11
        next(loader.epochs())
        assert len(loader) == 11


def test_a_threshold_that_outliers_move_warns(server: Server, shards: str) -> None:
    def outlier(numbers: torch.Tensor) -> torch.Tensor:
        return torch.where(numbers == 5, 1e9, (numbers % 17).double())

    with make_loader(server, shards, "outlier") as loader:
        epochs = loader.epochs()
        next(epochs)
        for numbers in loader:
            loader.update(outlier(numbers))
        with pytest.warns(UserWarning, match=r"100% of the scored samples .*threshold='quantile:0.5'"):
            next(epochs)


def test_losses_that_are_not_finite_are_told_of_once(
    server: Server, shards: str, caplog: pytest.LogCaptureFixture
) -> None:
    with make_loader(server, shards, "nan") as loader:
        for _ in loader.epochs():
            for numbers in loader:
                loader.update(torch.full((len(numbers),), float("nan")))
            assert loader.flush()
            break
        assert loader.metrics()["scores_rejected"] == SAMPLES
    assert caplog.text.count("scores are NaN or infinite") == 1


def test_asking_for_more_pruning_than_can_be_weighed_up_warns(shards: str) -> None:
    with pytest.warns(UserWarning, match=r"prune_fraction=0.9 asks for more .* at most 0.75"):
        InfoBatchStreamDataset(shards, epochs=10, policy=InfoBatch(prune_fraction=0.9))


def test_a_stale_iterator_takes_no_batch_from_the_newer_one(server: Server, shards: str) -> None:
    with make_loader(server, shards, "no-theft", num_workers=2) as loader:
        stale = iter(loader)
        first = next(stale).tolist()
        newer = iter(loader)
        with pytest.raises(ConfigError, match="a pass that is over"):
            next(stale)
        assert next(newer).tolist() == first


def test_an_epoch_whose_batches_were_all_skipped_is_over(server: Server, shards: str) -> None:
    with make_loader(server, shards, "skipped") as loader:
        epochs = loader.epochs()
        next(epochs)
        for _ in loader:
            loader.skip()
        with pytest.raises(ConfigError, match="a second pass over epoch 0"):
            iter(loader)
        assert next(epochs) == 1
        assert loader.plan.never_scored == SAMPLES


def test_a_ticket_of_an_epoch_that_is_over_is_refused(server: Server, shards: str) -> None:
    with make_loader(server, shards, "old-ticket") as loader:
        epochs = loader.epochs()
        next(epochs)
        tickets = []
        for ticket, numbers in loader.ticketed():
            loader.update(score(numbers), batch=ticket)
            tickets.append(ticket)
        next(epochs)
        next(loader.ticketed())
        with pytest.raises(LossError, match="the ticket is of epoch 0; epoch 1 is open"):
            loader.skip(tickets[0])
        with pytest.raises(LossError, match=r"batch=5 is no ticket; loader\.ticketed\(\)"):
            loader.update(torch.ones(64), batch=5)  # type: ignore[arg-type]


def test_a_forked_child_takes_nothing_with_it_when_it_ends(server: Server, shards: str) -> None:
    with make_loader(server, shards, "forked") as loader:
        next(loader.epochs())
        child = os.fork()
        if child == 0:
            loader.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert server.info("forked").pid == os.getpid()
        train_pass(loader)
        assert loader.flush()
