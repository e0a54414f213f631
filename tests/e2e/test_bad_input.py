"""What a user can get wrong: each is refused with a text that says what to do, and nothing is lost."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds

from infobatch_client.run.options import Timeouts
from infobatch_stream import (
    ConfigError,
    Connection,
    InfoBatch,
    InfoBatchLoader,
    InfoBatchStreamDataset,
    LossError,
    PipelineError,
    RunConflictError,
    ServerUnreachableError,
    ShardChangedError,
    SkipErrors,
)
from tests.e2e.conftest import SAMPLES, Server, make_shards
from tests.e2e.dataset_arguments import dataset_arguments
from tests.shards import write_tar


def to_number(sample: dict[str, Any]) -> int:
    return int(sample["txt"])


def two_for_one(source: Iterator[Any]) -> Iterator[Any]:
    for sample in source:
        yield sample
        yield sample


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (torch.ones(31), r"losses has shape \(31,\); it must be \(32,\)"),
        (torch.ones(()), r"use reduction='none'"),
        (torch.ones(32, 10), r"reduce all other dimensions"),
        (torch.ones(32, dtype=torch.int32), r"dtype torch.int32; it must be floating"),
        (np.ones(32), r"losses is a ndarray; pass a float tensor"),
    ],
)
def test_wrong_losses_change_nothing(losses: Any, message: str, server: Server, shards: str) -> None:
    dataset = InfoBatchStreamDataset(
        shards, url=server.url, run="wrong-losses", epochs=3, delta="0.7", connection=Connection(if_exists="restart")
    ).map(to_number)
    with InfoBatchLoader(dataset, 32) as loader:
        next(iter(loader))
        with pytest.raises(LossError, match=message):
            loader.update(losses)
        loader.update(torch.ones(32))
    assert server.info("wrong-losses").stored_scores == 32


def test_update_needs_a_batch_and_a_clear_one(server: Server, shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, url=server.url, run="which", epochs=3, delta="0.7").map(to_number)
    with InfoBatchLoader(dataset, 32) as loader:
        with pytest.raises(LossError, match="no epoch is open"):
            loader.update(torch.ones(32))
        batches = iter(loader)
        with pytest.raises(LossError, match="before the first batch"):
            loader.update(torch.ones(32))
        next(batches), next(batches)
        with pytest.raises(LossError, match=r"2 batches await their update.*loader.ticketed\(\).*loader.skip\(\)"):
            loader.update(torch.ones(32))
        loader.skip()
        loader.update(torch.ones(32))


def test_a_prefetching_loop_works_with_tickets(server: Server, shards: str) -> None:
    dataset = InfoBatchStreamDataset(
        shards, url=server.url, run="tickets", epochs=2, policy=InfoBatch(delta="1", anneal=False)
    )
    loader = InfoBatchLoader(dataset.map(to_number), 32)
    with loader:
        held = list(loader.ticketed())
        for ticket, numbers in reversed(held):
            loader.update(numbers.float() + 1, batch=ticket)
    np.testing.assert_array_equal(server.scores("tickets"), np.arange(SAMPLES, dtype=np.float32) + 1)


def test_another_spec_under_a_runs_name_is_refused_by_field(server: Server, shards: str) -> None:
    def first_epoch(**settings: Any) -> None:
        asked = {"epochs": 4, "delta": "0.75", "seed": 1, "prune_ratio": 0.5, **settings}
        dataset = InfoBatchStreamDataset(shards, url=server.url, run="spec", **asked).map(to_number)
        with InfoBatchLoader(dataset, 32) as loader:
            next(loader.epochs())

    first_epoch()
    first_epoch()  # the same spec joins
    with pytest.raises(RunConflictError, match=r"seed: the run has 1, this job asks for 2"):
        first_epoch(seed=2)
    with pytest.raises(RunConflictError, match=r"(?s)epochs: the run has 4.*prune_ratio: the run has 0.5.*0.4"):
        first_epoch(epochs=5, prune_ratio="0.4")
    with pytest.raises(RunConflictError, match="policy: the run has infobatch"):
        first_epoch(policy="random")


def test_an_unreachable_server_at_the_start_is_an_error(shards: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        dataset = InfoBatchStreamDataset(
            shards,
            url=url,
            run="nobody",
            epochs=3,
            delta="0.7",
            connection=Connection(timeouts=Timeouts(connect_timeout_s=0.5)),
        ).map(to_number)
        with pytest.raises(ServerUnreachableError, match=f"no score server answered at url='{url}' within 0.5 s"):
            next(iter(InfoBatchLoader(dataset, 32)))


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "shuffle": (lambda d: d.shuffle(100), r"\.shuffle\(\) can't stand .*: leave it out: the plan order shuffles"),
    "batched": (lambda d: d.batched(8), r"\.batched\(\) or \.listed\(\) can't stand .*InfoBatchLoader"),
    "listed": (lambda d: d.listed(8), r"\.listed\(\) can't stand"),
    "unbatched": (lambda d: d.unbatched(), r"\.unbatched\(\)"),
    "unlisted": (lambda d: d.unlisted(), r"\.unlisted\(\)"),
    "slice": (lambda d: d.slice(10), r"\.slice\(\).*loader\.epochs\(\)"),
    "mcached": (lambda d: d.mcached(), r"\.mcached\(\).*read by position"),
    "with_epoch": (lambda d: d.with_epoch(10), r"\.with_epoch\(\)"),
    "repeat": (lambda d: d.repeat(2), r"\.repeat\(\)"),
    "with_length": (lambda d: d.with_length(2), r"\.with_length\(\).*len\(loader\)"),
    "detshuffle": (lambda d: d.compose(wds.filters.detshuffle()), r"detshuffle"),
    "composed shuffle": (lambda d: d.compose(wds.shuffle(100)), r"\.shuffle\(\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_stages_that_break_the_tie_are_refused_by_name(name: str, shards: str) -> None:
    build, message = REFUSED[name]
    with pytest.raises(PipelineError, match=message):
        build(InfoBatchStreamDataset(shards, epochs=3, delta="0.7"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stage_that_gives_two_for_one_raises_in_the_loop(workers: int, server: Server, shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, url=server.url, run=f"two-{workers}", epochs=3, delta="0.7")
    dataset = dataset.compose(two_for_one).map(to_number)
    with (
        InfoBatchLoader(dataset, 32, workers) as loader,
        pytest.raises(PipelineError, match=r"two_for_one\(\) gave two outputs for one sample"),
    ):
        next(iter(loader))


def test_a_shard_that_changed_since_it_was_indexed_is_refused_by_name(tmp_path: Path, shards: str) -> None:
    folder = make_shards(tmp_path, [40, 40])
    loader = InfoBatchLoader(InfoBatchStreamDataset(folder, policy=None, shuffle=False).map(to_number), 16)
    write_tar(folder / "part-001.tar", [("a.txt", b"1" * 70_000)])
    with pytest.raises(ShardChangedError, match=r"part-001\.tar.*infobatch index"):
        list(loader)


def test_a_damaged_shard_can_be_skipped_and_is_counted(tmp_path: Path, server: Server) -> None:
    folder = make_shards(tmp_path, [40, 40])
    dataset = InfoBatchStreamDataset(
        folder, url=server.url, run="damaged", epochs=3, delta="0.7", on_error="skip", seed=1
    ).map(to_number)
    shutil.copyfile(folder / "part-000.tar", folder / "part-001.tar")
    with open(folder / "part-001.tar", "r+b") as file:
        file.truncate(30_000)
    with InfoBatchLoader(dataset, 16) as loader:
        next(loader.epochs())
        seen = []
        for numbers in loader:
            assert len(numbers) == 16
            seen += numbers[loader.weights() > 0].tolist()
            loader.update(torch.ones(16))
        assert sorted(seen) == list(range(40))
        assert loader.metrics()["rows_unreadable"] == 40
        assert loader.metrics()["rows_dropped"] == 0


def refuses_sevens(sample: dict[str, Any]) -> int:
    if int(sample["txt"]) % 7 == 0:
        raise ValueError("seven")
    return int(sample["txt"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stage_that_raises_is_an_error_or_a_counted_skip(workers: int, server: Server, shards: str) -> None:
    def loader(**settings: Any) -> InfoBatchLoader:
        dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=False, **settings).map(refuses_sevens)
        return InfoBatchLoader(dataset, 32, workers)

    with pytest.raises(ValueError, match="seven"):
        list(loader())
    skipping = loader(on_error="skip")
    seen = [n for numbers in skipping for n in numbers[skipping.weights() > 0].tolist()]
    assert seen == [n for n in range(SAMPLES) if n % 7]
    with pytest.raises(PipelineError, match="over max_errors=5 samples were skipped in this pass; the last one: seven"):
        list(loader(on_error=SkipErrors(max_errors=5)))


def test_a_pipeline_that_drops_everything_names_the_stage(shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=False).select(drop_all).map(to_number)
    with pytest.raises(PipelineError, match=r"the first 1000 samples of the epoch gave none: select\(drop_all\)"):
        list(InfoBatchLoader(dataset, 32))


def drop_all(sample: dict[str, Any]) -> bool:
    return False


BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"epochs": None}, "epochs= is needed"),
    ({"epochs": 0}, "epochs=0 must be at least 1"),
    ({"epochs": 70_000}, r"epochs=70000 is outside \[1, 65534\]"),
    ({"policy": "ucb"}, "policy='ucb' is none of infobatch, full"),
    ({"prune_ratio": 1.5}, r"prune_ratio=1.5 is outside \[0, 1\)"),
    ({"prune_ratio": "half"}, "prune_ratio='half' is not a finite decimal number"),
    ({"prune_ratio": 0.5, "prune_fraction": 0.3}, "exclude each other"),
    ({"prune_fraction": 0.3, "draw": "bernoulli"}, "leave draw unset"),
    ({"delta": 1.5}, r"delta=1.5 is outside \[0, 1\]"),
    ({"threshold": "median"}, "threshold='median' is neither"),
    ({"condition": "middle"}, "condition='middle' is neither"),
    ({"policy": "full", "prune_ratio": 0.5}, "policy 'full' has no setting 'prune_ratio'"),
    ({"policy": "levels", "levels": [0.2, 0.8]}, r"levels=\[0.2, 0.8\] is not"),
    ({"policy": "levels", "levels": [(0.8, 0.5), (0.2, 0.5)]}, "quantiles must ascend"),
    ({"seed": -1}, "seed=-1 must be at least 0"),
    ({"seed": 2**64}, r"seed=18446744073709551616 is outside"),
    ({"seed": 1.5}, "seed=1.5 is a float; it must be a whole number"),
    ({"seed": True}, "seed=True is a bool"),
    ({"epochs": 4.0}, "epochs=4.0 is a float"),
    ({"epochs": "4"}, "epochs='4' is a str"),
    ({"run": 5}, "run=5 is a int; it must be a str"),
    ({"order": {"lanes": 2}}, r"give OrderChoice\(lanes="),
    ({"timeouts": 5}, r"give Timeouts\("),
    ({"score_name": ""}, "score_name='' names nothing"),
    ({"max_errors": "a"}, "max_errors='a' is a str"),
    ({"url": "http://127.0.0.1:50051"}, "is no gRPC address; give 'HOST:PORT', without a scheme"),
    ({"url": "127.0.0.1"}, "url='127.0.0.1' is no gRPC address"),
    ({"url": "::1:50051"}, "for IPv6"),
    ({"url": "127.0.0.1:99999"}, "is no gRPC address"),
    ({"url": ""}, "url='' is no gRPC address"),
    ({"url": 5}, "url=5 is no gRPC address"),
    ({"run": "a/b"}, "run='a/b' can't name a run"),
    ({"if_exists": "overwrite"}, "if_exists='overwrite' is neither"),
    ({"shuffle": False}, "shuffle=False goes with policy=None only"),
    ({"subset": np.zeros(5, bool)}, r"subset is bool \(5,\); as a mask it must be \(1009,\)"),
    ({"subset": np.array([5, 2000])}, r"indices from 5 to 2000, outside \[0, 1009\)"),
    ({"subset": np.array([0.5])}, "give bool"),
    ({"subset": []}, "subset is empty"),
    ({"subset": [7, 3, 7, 3, 1]}, "subset has 2 indices more than once, the first 3: an epoch has each sample once"),
    ({"policy": None, "run": "x", "epochs": None}, "policy=None reads without a server or a run: leave out run"),
    ({"policy": None, "epochs": None, "connection": Connection()}, "policy=None .*: leave out connection"),
    ({"policy": None, "epochs": None, "prune_ratio": 0.5, "delta": 1}, "policy=None .*: leave out delta, prune_ratio"),
    ({"policy": 0.5}, "policy=0.5 is a float; give a name, such as 'infobatch', or an object"),
    ({"policy": InfoBatch}, "is a class; call it"),
    (
        {"policy": InfoBatch(), "prune_ratio": 0.5, "delta": "0.7"},
        r"prune_ratio= and delta= beside a policy object: put it into the object, InfoBatch\(prune_ratio=0.5, delta=",
    ),
    ({"connection": 5}, r"connection= takes a Connection\(.*type int"),
    ({"takeover": "yes"}, "takeover='yes' is a str; give True or False"),
    ({"on_error": "ignore"}, "on_error='ignore' is neither"),
    ({"url": "127.0.0.1:1", "state_dir": "x"}, "state_dir= is the embedded server's"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_ARGUMENTS, ids=[m[:30] for _, m in BAD_ARGUMENTS])
def test_invalid_arguments_are_refused(settings: dict[str, Any], message: str, shards: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InfoBatchStreamDataset(shards, **dataset_arguments(**{"epochs": 10, **settings}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 2}, "can't prune an epoch and leave the last one unpruned in epochs=2"),
        ({"epochs": 10, "delta": 0.1}, r"never prunes with epochs=10 and delta=0.1.*delta=0.2 prunes one epoch"),
        ({"epochs": 10, "delta": 1}, r"never anneals with epochs=10 and delta=1.*delta=0.9 leaves one"),
    ],
)
def test_a_schedule_that_never_prunes_or_never_anneals_warns(
    settings: dict[str, Any], message: str, shards: str
) -> None:
    with pytest.warns(UserWarning, match=message):
        InfoBatchStreamDataset(shards, **settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"batch_size": 8, "num_workers": -1}, "num_workers=-1 must be at least 0"),
        ({"batch_size": 8.0}, "batch_size=8.0 is a float"),
        ({"batch_size": None}, "batch_size=None is for a dataset that makes batches itself"),
        ({"batch_size": 8, "num_workers": 1, "prefetch_factor": 0}, "prefetch_factor=0 must be at least 1"),
        ({"batch_size": 8, "remainder": "pad"}, "remainder='pad' is neither 'fill' nor 'drop'"),
    ],
)
def test_loader_arguments_that_cannot_be_meant_are_refused(
    arguments: dict[str, Any], message: str, shards: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None), **arguments)


def test_a_validation_loader_takes_no_update(shards: str) -> None:
    loader = InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None, shuffle=False).map(to_number), 32)
    next(iter(loader))
    with pytest.raises(ConfigError, match=r"a validation loader .* takes no scores"):
        loader.update(torch.ones(32))
    with pytest.raises(ConfigError, match="has no state"):
        loader.state_dict()


def test_a_pruned_dataset_is_read_through_a_loader_or_told_its_batch_size(shards: str) -> None:
    with pytest.raises(ConfigError, match=r"batch_size=B.* or read it through InfoBatchLoader\(dataset, "):
        iter(InfoBatchStreamDataset(shards, epochs=3, delta="0.7"))
    with pytest.raises(ConfigError, match="dataset is a list"):
        InfoBatchLoader([], 8)  # type: ignore[arg-type]
