"""drops="remember": what the pipeline drops is read once; later epochs have the steps of the rest, and no fillers."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from infobatch_client.rpc.client import ScoreClient
from infobatch_stream import ConfigError, Connection, InfoBatchLoader, InfoBatchStreamDataset, RanksError, SkipErrors
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.training import number, score, train_pass
from tests.e2e.two_ranks import TwoRanks

B = 32
KEPT = [sample for sample in range(SAMPLES) if sample % 5 < 2]
DROPPED = SAMPLES - len(KEPT)
SCORES = np.where(np.isin(np.arange(SAMPLES), KEPT), score(torch.arange(SAMPLES)).numpy(), np.float32("nan"))


def keeps(sample: dict[str, Any]) -> bool:
    """Two fifths, by the sample alone."""
    return int(sample["txt"]) % 5 < 2


def make_filtered(shards: str, url: str, run: str, **settings: Any) -> Any:
    """The dataset of the filtered samples' numbers."""
    asked = {"epochs": 4, "seed": 3, "drops": "remember", **settings}
    return InfoBatchStreamDataset(shards, url=url, run=run, **asked).select(keeps).map(number)


def plain_pass(dataset: Any, epoch: int, workers: int) -> tuple[int, list[int]]:
    """(batches, real rows) of an epoch in a plain DataLoader."""
    dataset.set_epoch(epoch)
    seen: list[int] = []
    steps = 0
    for numbers, index, weight in DataLoader(dataset, batch_size=B, num_workers=workers):
        dataset.update(score(numbers), index, weight)
        seen += numbers[weight > 0].tolist()
        steps += 1
    return steps, seen


def loader_epochs(server: Server, shards: str, run: str, workers: int) -> Iterator[tuple[Any, int, list[int], Any]]:
    with InfoBatchLoader(make_filtered(shards, server.url, run), B, workers) as loader:
        for _ in loader.epochs():
            seen = train_pass(loader)
            yield loader.plan, len(loader), seen, loader.metrics()


def plain_epochs(server: Server, shards: str, run: str, workers: int) -> Iterator[tuple[Any, int, list[int], Any]]:
    with make_filtered(shards, server.url, run, batch_size=B) as dataset:
        for epoch in range(4):
            steps, seen = plain_pass(dataset, epoch, workers)
            yield dataset.plan, steps, seen, dataset.metrics()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("epochs", [loader_epochs, plain_epochs])
def test_from_epoch_1_on_there_are_the_steps_of_what_is_left(
    epochs: Any, workers: int, server: Server, shards: str
) -> None:
    run = f"remember-{epochs.__name__}-{workers}"
    for epoch, (plan, steps, seen, metrics) in enumerate(epochs(server, shards, run, workers)):
        kept = plan.kept_between(0, SAMPLES).tolist()
        if epoch == 0:
            assert (plan.dropped, plan.kept, steps) == (0, SAMPLES, 32)
            assert sorted(seen) == KEPT
            assert (metrics["rows_dropped"], metrics["rows_filled"]) == (DROPPED, 32 * B - len(KEPT))
            continue
        assert plan.dropped == DROPPED
        assert plan.kept + plan.pruned == len(KEPT)
        assert plan.never_scored == 0
        assert sorted(seen) == kept
        assert set(kept) <= set(KEPT)
        assert steps == -(-len(kept) // B)
        assert (metrics["rows_dropped"], metrics["rows_filled"]) == (0, -len(kept) % B)
        assert (plan.pruned > 0) == (epoch < 3)
    assert len(seen) == len(KEPT), "the last epoch is annealed, and leaves them out too"
    np.testing.assert_array_equal(server.scores(run), SCORES)
    assert server.stats(run)["dropped_samples"] == server.info(run).dropped_samples == DROPPED


def test_two_ranks_remember_what_each_of_them_drops(server: Server, shards: str) -> None:
    def train(rank: int, agree: Any) -> list[tuple[int, int, int, list[int]]]:
        dataset = make_filtered(shards, server.url, "remember-ranks")
        found = []
        with InfoBatchLoader(dataset, B // 2, rank=rank, world_size=2, agree=agree) as loader:
            for _ in loader.epochs():
                seen = train_pass(loader)
                found.append((loader.plan.dropped, int(loader.metrics()["rows_dropped"]), len(loader), seen))
        return found

    ranks = [rank.result() for rank in TwoRanks().run(train)]
    for epoch, both in enumerate(zip(*ranks, strict=True)):
        seen = [number for rank in both for number in rank[3]]
        assert [rank[0] for rank in both] == [DROPPED * (epoch > 0)] * 2
        assert [rank[1] > 0 for rank in both] == [epoch == 0] * 2
        assert [rank[2] for rank in both] == [-(-(SAMPLES if epoch == 0 else len(seen)) // B)] * 2
        assert sorted(seen) == KEPT or (epoch in (1, 2) and set(seen) < set(KEPT))


@pytest.mark.parametrize("plain", [False, True])
def test_a_resume_inside_the_epoch_loses_none(plain: bool, server: Server, shards: str) -> None:
    run, stop = f"remember-resume-{plain}", 11
    settings = {"batch_size": B} if plain else {}
    first = make_filtered(shards, server.url, run, **settings)
    loader = first if plain else InfoBatchLoader(first, B, 2)
    loader.set_epoch(0)
    if plain:
        for step, (numbers, index, weight) in enumerate(DataLoader(first, batch_size=B, num_workers=2), 1):
            first.update(score(numbers), index, weight)
            if step == stop:
                break
    else:
        train_pass(loader, stop)
    state = loader.state_dict()
    assert loader.flush()
    read = loader.plan.kept_between(0, SAMPLES)
    assert server.info(run).dropped_samples == loader.metrics()["rows_dropped"] < DROPPED, "of batches that came, only"
    loader.close()

    second = make_filtered(shards, server.url, run, connection=Connection(takeover=True), **settings)
    again = second if plain else InfoBatchLoader(second, B)
    again.load_state_dict(state)
    with again:
        if plain:
            plain_pass(second, 0, 0)
        else:
            again.set_epoch(0)
            train_pass(again)
        again.set_epoch(1)
        assert again.plan.dropped == DROPPED
        assert again.plan.kept + again.plan.pruned == len(KEPT)
    assert len(read) == SAMPLES


def fails_at_100s(sample: dict[str, Any]) -> dict[str, Any]:
    if int(sample["txt"]) % 100 == 0:
        raise ValueError("no image")
    return sample


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("plain", [False, True])
def test_a_sample_that_fails_is_not_remembered_as_dropped(
    plain: bool, workers: int, server: Server, shards: str
) -> None:
    run = f"remember-failing-{plain}-{workers}"
    dataset = InfoBatchStreamDataset(
        shards,
        url=server.url,
        run=run,
        epochs=4,
        drops="remember",
        on_error=SkipErrors(),
        batch_size=B if plain else None,
    )
    dataset = dataset.map(fails_at_100s).select(keeps).map(number)
    if plain:
        with dataset:
            plain_pass(dataset, 0, workers)
            counts = dataset.metrics()
            dataset.set_epoch(1)
            plan = dataset.plan
    else:
        with InfoBatchLoader(dataset, B, workers) as loader:
            loader.set_epoch(0)
            train_pass(loader)
            counts = loader.metrics()
            loader.set_epoch(1)
            plan = loader.plan
    failing = len(range(0, SAMPLES, 100))
    assert (counts["rows_unreadable"], counts["rows_dropped"]) == (failing, DROPPED)
    assert (plan.dropped, plan.never_scored) == (DROPPED, failing)


def test_a_random_filter_is_warned_of_and_a_fill_run_stays_whole(server: Server, shards: str) -> None:
    def epochs(run: str, drops: str) -> tuple[list[int], list[str]]:
        dataset = InfoBatchStreamDataset(shards, url=server.url, run=run, epochs=3, policy="full", drops=drops)
        torch.manual_seed(5)
        filtered = dataset.select(lambda sample: torch.rand(()).item() < 0.7).map(number)
        left, texts = [], []
        with InfoBatchLoader(filtered, B) as loader, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in loader.epochs():
                train_pass(loader)
                left.append(loader.plan.kept)
                texts += [str(warning.message) for warning in caught]
                caught.clear()
        return left, texts

    left, [text] = epochs("remember-random", "remember")
    assert left[0] == SAMPLES > left[1] > left[2]
    assert f"though the plan leaves out the {SAMPLES - left[1]} that it dropped before" in text
    assert epochs("remember-random-fill", "fill")[0] == [SAMPLES] * 3


def test_an_epoch_without_the_servers_plan_reads_them_again_and_the_next_leaves_them_out(
    server: Server, shards: str
) -> None:
    with InfoBatchLoader(make_filtered(shards, server.url, "remember-full"), B) as loader:
        loader.set_epoch(0)
        train_pass(loader)
        info = server.info("remember-full")
        client = ScoreClient(server.url)
        client.mark_unpruned(pb.MarkUnprunedRequest(run_id=info.run_id, generation=info.generation, epoch=1))
        client.close()
        loader.set_epoch(1)
        assert loader.plan.plan_id.startswith("full:")
        assert sorted(train_pass(loader)) == KEPT
        assert loader.metrics()["rows_dropped"] == DROPPED
        loader.set_epoch(2)
        assert loader.plan.dropped == DROPPED


def test_the_command_brings_them_back(server: Server, shards: str) -> None:
    with InfoBatchLoader(make_filtered(shards, server.url, "remember-forget"), B) as loader:
        loader.set_epoch(0)
        train_pass(loader)
        loader.set_epoch(1)
        assert loader.plan.dropped == DROPPED
        train_pass(loader)
        command = [sys.executable, "-m", "infobatch_stream", "forget-drops", "remember-forget", "--grpc", server.url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"run remember-forget: {DROPPED} dropped samples are forgotten")
        loader.set_epoch(2)
        assert loader.plan.dropped == 0
        assert loader.plan.kept + loader.plan.pruned == SAMPLES


def test_a_restart_forgets_and_a_rewind_keeps_them(server: Server, shards: str) -> None:
    with InfoBatchLoader(make_filtered(shards, server.url, "remember-again"), B) as loader:
        loader.set_epoch(0)
        state = loader.state_dict()
        train_pass(loader)
    with InfoBatchLoader(make_filtered(shards, server.url, "remember-again"), B) as loader:
        loader.load_state_dict({**state, "plan_id": None, "positions": 0, "epoch_positions": 0})
        loader.set_epoch(0)
        assert loader.plan.dropped == DROPPED
    restart = make_filtered(shards, server.url, "remember-again", connection=Connection(if_exists="restart"))
    with InfoBatchLoader(restart, B) as loader:
        loader.set_epoch(0)
        assert (loader.plan.dropped, loader.plan.kept) == (0, SAMPLES)


@pytest.mark.filterwarnings("ignore:the pipeline has dropped")  # in the epoch that is filled up
@pytest.mark.parametrize("plain", [False, True])
def test_a_job_that_fills_has_all_samples_again_and_one_that_remembers_goes_on_without_them(
    plain: bool, server: Server, shards: str, run: str
) -> None:
    settings = {"batch_size": B} if plain else {}
    state = None
    for epoch, drops, dropped in [(0, "remember", 0), (1, "fill", 0), (2, "remember", DROPPED)]:
        dataset = make_filtered(shards, server.url, run, drops=drops, **settings)
        loader = dataset if plain else InfoBatchLoader(dataset, B)
        with loader:
            if state is not None:
                loader.load_state_dict(state)
            loader.set_epoch(epoch)
            assert loader.plan.dropped == dropped
            assert loader.plan.kept + loader.plan.pruned == SAMPLES - dropped
            seen = plain_pass(dataset, epoch, 0)[1] if plain else train_pass(loader)
            assert sorted(seen) == sorted(set(KEPT) & set(loader.plan.kept_between(0, SAMPLES).tolist()))
            state = loader.state_dict()


def test_an_imported_score_table_has_no_drops(server: Server, shards: str, run: str) -> None:
    with InfoBatchLoader(make_filtered(shards, server.url, run), B) as loader:
        loader.set_epoch(0)
        train_pass(loader)
    other = make_filtered(shards, server.url, f"{run}-other")
    with InfoBatchLoader(other, B) as loader:
        loader.set_epoch(0)
    client = ScoreClient(server.url)
    parts = [pb.SeedRunRequest(run_id=server.info(f"{run}-other").run_id)]
    scores = server.scores(run)
    parts.append(pb.SeedRunRequest(scores=pb.SeedRunRequest.Scores(first_sample=0, scores=scores.tobytes())))
    assert client.seed_run(iter(parts)).scored == len(KEPT)
    client.close()
    assert server.info(f"{run}-other").dropped_samples == 0 < server.info(run).dropped_samples
    with InfoBatchLoader(make_filtered(shards, server.url, f"{run}-other"), B) as loader:
        loader.set_epoch(0)
        assert loader.plan.dropped == 0
        assert (loader.plan.kept + loader.plan.pruned, loader.plan.never_scored) == (SAMPLES, DROPPED)


def test_ranks_that_disagree_are_refused_by_name(server: Server, shards: str) -> None:
    def open_first(rank: int, agree: Any) -> None:
        dataset = make_filtered(shards, server.url, "remember-mixed", drops=("fill", "remember")[rank])
        with InfoBatchLoader(dataset, B, rank=rank, world_size=2, agree=agree) as loader:
            loader.set_epoch(0)

    for opened in TwoRanks().run(open_first):
        with pytest.raises(RanksError, match="drops"):
            opened.result()


def test_invalid_choices_are_refused(shards: str) -> None:
    with pytest.raises(ConfigError, match="drops='forget' is neither 'fill' nor 'remember'"):
        InfoBatchStreamDataset(shards, epochs=3, drops="forget")
    with pytest.raises(ConfigError, match="policy=None reads without a server or a run: leave out drops"):
        InfoBatchStreamDataset(shards, policy=None, drops="remember")


def test_the_weighted_sum_of_an_epoch_is_that_of_the_samples_left(server: Server, shards: str) -> None:
    """T pruned epochs; the mean of Σ weight·g is within 4 standard errors of Σ g over what the filter keeps."""
    gradients = np.random.default_rng(7).normal(1, 1, SAMPLES)
    dataset = make_filtered(shards, server.url, "remember-unbiased", epochs=82, delta="0.99")
    sums = []
    with InfoBatchLoader(dataset, 128) as loader:
        for _ in loader.epochs():
            total = 0.0
            for numbers in loader:
                loader.update(score(numbers))
                total += float(loader.weights().double().numpy() @ gradients[numbers.numpy()])
            sums.append(total)
    pruned = np.array(sums[1:81])
    errors = pruned - gradients[KEPT].sum()
    assert pruned.std() > 0
    assert abs(errors.mean()) < 4 * errors.std(ddof=1) / np.sqrt(len(errors))
    np.testing.assert_allclose([sums[0], sums[81]], gradients[KEPT].sum(), rtol=1e-9)
