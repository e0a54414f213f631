"""Several sources: groups of shards in one dataset, and mixtures of datasets, which are refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from torch.utils.data import ChainDataset, DataLoader, IterableDataset

from infobatch_stream import (
    ConfigError,
    InfoBatch,
    InfoBatchLoader,
    InfoBatchStreamDataset,
    PipelineError,
    RunConflictError,
)
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.test_plain_loader import B, make_dataset, score, to_number, train_epochs

GROUPS = {"odd": "part-00[13].tar", "even": "part-00[024].tar"}
SIZES = [100, 1, 307, 250, 351]
EVEN = np.repeat(np.arange(5) % 2 == 0, SIZES)
LOSSES = np.random.default_rng(0).exponential(size=SAMPLES).astype(np.float32) * np.where(EVEN, 10, 1).astype(
    np.float32
)


def grouped(server: Server, shards: str, run: str, policy: Any = InfoBatch(per_group=True), **settings: Any) -> Any:  # noqa: B008
    chosen = {"groups": GROUPS, "epochs": 8, "seed": 3, **settings}
    return InfoBatchStreamDataset(shards, url=server.url, run=run, policy=policy, **chosen).map(to_number)


def train(loader: InfoBatchLoader, epochs: int) -> list[Any]:
    """The plans of so many epochs, in which each sample has its loss of LOSSES."""
    plans = []
    for _, epoch in zip(range(epochs), loader.epochs(), strict=False):
        for numbers in loader:
            loader.update(torch.from_numpy(LOSSES[numbers.numpy()]))
        plans.append((epoch, loader.plan))
    return [plan for _, plan in plans]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_source_is_pruned_below_its_own_mean(server: Server, shards: str, num_workers: int) -> None:
    run = f"sources-{num_workers}"
    with InfoBatchLoader(grouped(server, shards, run), batch_size=B, num_workers=num_workers) as loader:
        plan = train(loader, 2)[1]
    low = np.where(EVEN, LOSSES[EVEN].astype(float).mean() > LOSSES, LOSSES[~EVEN].astype(float).mean() > LOSSES)
    kept = np.zeros(SAMPLES, bool)
    kept[plan.kept_between(0, SAMPLES)] = True
    assert kept[~low].all()
    for side in (EVEN, ~EVEN):
        assert 0.3 < kept[low & side].mean() < 0.7
    names = np.array([row.name for row in plan.classes])[plan.codes(np.arange(SAMPLES))]
    assert np.array_equal(names, np.select([low & EVEN, low], ["low/even", "low/odd"], "kept"))
    stats = server.stats(run)["groups"]
    assert [group["name"] for group in stats] == ["even", "odd"]
    for group, side in zip(stats, (EVEN, ~EVEN), strict=True):
        assert (group["samples"], group["scored"], group["kept"]) == (side.sum(), side.sum(), kept[side].sum())
        assert group["pruned"] == group["samples"] - group["kept"]
        assert group["threshold"] == group["mean_score"] == pytest.approx(LOSSES[side].astype(float).mean(), rel=1e-6)
        assert group["low_share"] == pytest.approx(low[side].mean(), rel=1e-6)
    (info,) = [group for group in server.info(run).newest_plan.groups if group.name == "odd"]
    assert (info.kept, info.threshold) == (stats[1]["kept"], stats[1]["threshold"])
    assert list(server.info(run).spec.group_names) == ["even", "odd"]


def test_groups_alone_are_statistics(server: Server, shards: str) -> None:
    plans = []
    for run, groups in (("sources-plain", None), ("sources-shown", GROUPS)):
        with InfoBatchLoader(grouped(server, shards, run, InfoBatch(), groups=groups), batch_size=B) as loader:
            plans.append(train(loader, 2)[1])
    assert np.array_equal(plans[0].keep_bits, plans[1].keep_bits)
    assert server.stats("sources-plain")["groups"] is None
    even, odd = server.stats("sources-shown")["groups"]
    assert (even["threshold"], odd["low_share"]) == (None, None)
    assert even["kept"] + odd["kept"] == plans[1].kept


def test_a_run_with_groups_resumes_and_is_not_joined_with_others(server: Server, shards: str) -> None:
    with InfoBatchLoader(grouped(server, shards, "sources-joined"), batch_size=B) as loader:
        train(loader, 2)
        state = loader.state_dict()
    other = {"even": "part-00[0234].tar", "odd": "part-001.tar"}
    for settings in ({"groups": other}, {"groups": None, "policy": InfoBatch()}):
        with InfoBatchLoader(grouped(server, shards, "sources-joined", **settings), batch_size=B) as loader:
            loader.load_state_dict(state)
            with pytest.raises(RunConflictError, match="groups: the run has even, odd"):
                next(loader.epochs())
    with InfoBatchLoader(grouped(server, shards, "sources-joined"), batch_size=B) as loader:
        loader.load_state_dict(state)
        (plan,) = train(loader, 1)
        assert (plan.epoch, len(plan.groups)) == (2, 2)


def test_groups_are_checked_where_they_are_given(server: Server, shards: str) -> None:
    with pytest.raises(ConfigError, match=re.escape("part-003.tar is in no group")):
        grouped(server, shards, "x", groups={"odd": "part-001.tar", "even": "part-00[024].tar"})
    with pytest.raises(ConfigError, match="there are no groups: give groups="):
        grouped(server, shards, "x", groups=None)
    with pytest.raises(ConfigError, match=re.escape("policy=None reads without a server or a run: leave out groups")):
        InfoBatchStreamDataset(shards, policy=None, groups=GROUPS)


class Alternating(IterableDataset[Any]):
    """A mixture of a user's own."""

    def __init__(self, *sources: Any) -> None:
        self.sources = sources

    def __iter__(self) -> Iterator[Any]:
        return (row for rows in zip(*self.sources, strict=False) for row in rows)


MIXERS = {
    "RandomMix": lambda a, b: wds.RandomMix([a, b], [0.5, 0.5], longest=True),
    "RoundRobin": lambda a, b: wds.RoundRobin([a, b], longest=True),
    "ChainDataset": lambda a, b: ChainDataset([a, b]),
    "RandomMix in a pipeline": lambda a, b: wds.DataPipeline(wds.RandomMix([a, b]), wds.map(list)),
}


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("mixer", MIXERS)
def test_a_mixture_of_datasets_is_refused_by_name(server: Server, shards: str, mixer: str, num_workers: int) -> None:
    where = f"{mixer.replace(' ', '')}-{num_workers}"
    with (
        make_dataset(server, shards, f"mixed-a-{where}") as a,
        make_dataset(server, shards, f"mixed-b-{where}") as b,
    ):
        a.set_epoch(0)
        b.set_epoch(0)
        loader = DataLoader(MIXERS[mixer](a, b), batch_size=B, num_workers=num_workers)
        with pytest.raises(PipelineError, match=rf"{mixer.split()[0]} would mix(?s:.*)groups=(?s:.*)a loader for each"):
            next(iter(loader))


def test_workers_that_read_two_runs_are_refused(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "mixed-own-a") as a, make_dataset(server, shards, "mixed-own-b") as b:
        a.set_epoch(0)
        b.set_epoch(0)
        with pytest.raises(PipelineError, match="a DataLoader of two runs would mix"):
            next(iter(DataLoader(Alternating(a, b), batch_size=B, num_workers=1)))


def test_a_mixture_of_one_run_and_other_data_is_refused(server: Server, shards: str) -> None:
    with make_dataset(server, shards, "mixed-other") as dataset:
        dataset.set_epoch(0)
        other = wds.WebDataset(f"{shards}/part-000.tar", shardshuffle=False)
        with pytest.raises(PipelineError, match="RoundRobin would mix"):
            next(iter(DataLoader(wds.RoundRobin([other, dataset]), batch_size=B)))


def test_sums_of_datasets_are_refused(shards: str) -> None:
    a, b = (InfoBatchStreamDataset(shards, policy=None) for _ in range(2))
    for add in (lambda: a + b, lambda: sum([a, b]), lambda: a + ChainDataset([b])):
        with pytest.raises(PipelineError, match="adding datasets would mix"):
            add()


@pytest.mark.parametrize("stage", ["RandomMix", "RoundRobin", "ChainDataset", "InfoBatchStreamDataset", "WebDataset"])
def test_a_data_set_is_no_stage(shards: str, stage: str) -> None:
    a = InfoBatchStreamDataset(shards, policy=None)
    mixed = {
        "InfoBatchStreamDataset": lambda: InfoBatchStreamDataset(shards, policy=None),
        "WebDataset": lambda: wds.WebDataset(f"{shards}/part-000.tar", shardshuffle=False),
        "ChainDataset": lambda: ChainDataset([a]),
        "RandomMix": lambda: wds.RandomMix([a]),
        "RoundRobin": lambda: wds.RoundRobin([a]),
    }[stage]()
    with pytest.raises(PipelineError, match=f"{stage}, as a stage of an InfoBatchStreamDataset, would mix"):
        a.compose(mixed)


def test_validation_sets_may_be_chained(shards: str) -> None:
    a, b = (InfoBatchStreamDataset(shards, policy=None, shuffle=False).map(to_number) for _ in range(2))
    assert len(list(ChainDataset([a, b]))) == 2 * SAMPLES


def test_two_loaders_take_turns(server: Server, shards: str) -> None:
    loaders = [
        InfoBatchLoader(make_dataset(server, shards, f"turns-{name}", batch_size=None), batch_size=B) for name in "ab"
    ]
    for _ in zip(*(loader.epochs() for loader in loaders), strict=True):
        for batches in zip(*loaders, strict=True):
            for loader, numbers in zip(loaders, batches, strict=True):
                loader.update(score(numbers))
        break
    for name, loader in zip("ab", loaders, strict=True):
        loader.close()
        assert np.array_equal(server.scores(f"turns-{name}"), score(torch.arange(SAMPLES)).numpy())


def test_a_grouped_dataset_trains_in_a_plain_loader(server: Server, shards: str) -> None:
    policy = InfoBatch(per_group=True, delta="0.8")
    dataset = grouped(server, shards, "sources-in-plain", policy, epochs=5, batch_size=B)
    with dataset:
        train_epochs(dataset, DataLoader(dataset, batch_size=B, num_workers=1), range(2))
    assert [group["name"] for group in server.stats("sources-in-plain")["groups"]] == ["even", "odd"]
