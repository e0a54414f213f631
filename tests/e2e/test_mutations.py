"""Whatever a user writes into what he was given: scores, weights, later rows and plans stay as they are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from infobatch_client.rpc.client import ScoreClient
from infobatch_stream import InfoBatch, InfoBatchLoader, InfoBatchStreamDataset
from infobatch_stream.plan.order import PlanOrder
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.e2e.conftest import Server, make_shards
from tests.e2e.mutations import public_values, scribble

pytestmark = pytest.mark.filterwarnings("ignore:the pipeline has dropped")  # on purpose

B = 24
N = 151  # 6 · 24 + 7: the last batch of an unpruned epoch is filled up


def number(sample: dict[str, Any]) -> torch.Tensor:
    return torch.tensor([float(sample["txt"]), 1.0])


def as_dict(sample: dict[str, Any]) -> dict[str, Any]:
    return {"x": number(sample), "nested": {"array": np.full(3, int(sample["txt"]))}, "boxes": [number(sample)]}


def as_tuple(sample: dict[str, Any]) -> tuple[Any, ...]:
    return number(sample), {"array": np.full(3, int(sample["txt"]))}, [number(sample)]


def as_bare(sample: dict[str, Any]) -> torch.Tensor:
    return number(sample)


def rows_as_they_are(rows: list[Any]) -> Any:
    return rows


rows_as_they_are.tied = True  # type: ignore[attr-defined]

KINDS = {"dict": as_dict, "tuple": as_tuple, "bare": as_bare}


@pytest.fixture(scope="module")
def some_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_shards(tmp_path_factory.mktemp("mutations"), [60, 1, 90]))


class Seen(NamedTuple):
    """What came of a training, to be compared."""

    batches: list[Any]
    values: list[float]
    plans: list[Any]
    states: list[Any]
    scores: list[float]


def make_dataset(server: Server, shards: str, run: str, kind: str, subset: Any, **settings: Any) -> Any:
    return InfoBatchStreamDataset(
        shards,
        url=server.url,
        run=run,
        epochs=3,
        policy=InfoBatch(delta=1, anneal=False),
        seed=5,
        subset=subset,
        **settings,
    ).map(KINDS[kind])


def numbers_of(kind: str, payload: Any) -> torch.Tensor:
    x = payload["x"] if kind == "dict" else payload[0] if kind == "tuple" else payload
    return x[:, 0].clone()


def losses_of(numbers: torch.Tensor) -> torch.Tensor:
    return (numbers * 37 % 101).clone().requires_grad_()


def plan_of(plan: Any) -> list[Any]:
    return [
        plan.keep_bits.tolist(),
        None if plan.class_plane is None else plan.class_plane.tolist(),
        plan.shard_kept.tolist(),
        plan.epoch,
    ]


def train(server: Server, shards: str, run: str, kind: str, workers: int, *, mutate: bool) -> tuple[Seen, set[str]]:
    """Two epochs by InfoBatchLoader; with `mutate`, everything that comes out of it is written into."""
    subset = np.arange(N) % 10 != 3
    dataset = make_dataset(server, shards, run, kind, subset)
    seen, written = Seen([], [], [], [], []), set[str]()

    def spoil(**roots: Any) -> None:
        if mutate:
            written.update(path for name in roots for path in scribble(public_values(roots[name], name)))

    spoil(subset=subset, dataset=dataset)
    with InfoBatchLoader(dataset, B, workers) as loader:
        for epoch in loader.epochs():
            if epoch == 2:
                break
            for ticket, payload in loader.ticketed():
                losses = losses_of(numbers_of(kind, payload))
                seen.batches.append([copy.deepcopy(payload), ticket.index.tolist(), loader.weights().tolist()])
                spoil(loader=loader, dataset=dataset, ticket=ticket, batch=payload)
                value = loader.update(losses, batch=ticket)
                seen.values.append(value.item())
                value.backward()
                seen.values.extend(losses.grad.tolist())
                seen.plans.append(plan_of(loader.plan))
                state = loader.state_dict()
                seen.states.append([state["positions"], state["epoch_positions"], state["epoch"]])
                spoil(losses=losses.data, value=value.data, loader=loader, ticket=ticket, state=state)
        assert loader.flush()
    seen.scores.extend(np.nan_to_num(server.scores(run), nan=-1).tolist())
    return seen, written


@pytest.mark.parametrize(("kind", "workers"), [("dict", 0), ("tuple", 0), ("bare", 0), ("dict", 2)])
def test_writing_into_all_that_a_loader_gives_out_changes_nothing(
    kind: str, workers: int, server: Server, some_shards: str
) -> None:
    expected, _ = train(server, some_shards, f"untouched-{kind}-{workers}", kind, workers, mutate=False)
    found, written = train(server, some_shards, f"scribbled-{kind}-{workers}", kind, workers, mutate=True)
    for mine, theirs in zip(found, expected, strict=True):
        assert str(mine) == str(theirs)
    truth = np.where(np.arange(N) % 10 != 3, np.arange(N, dtype=np.float32) * 37 % 101, -1)
    assert found.scores == truth.tolist()
    walked = {"loader.plan.keep_bits", "loader.plan.class_plane", "loader.plan.shard_kept", "ticket.index"}
    walked |= {"ticket.weight", "loader.weights", "dataset.options.subset", "dataset.indexed.manifest.offsets"}
    walked |= {"batch['__index__']", "batch['__weight__']", "batch['nested']['array']"} if kind == "dict" else set()
    assert walked <= written, f"the walk has missed {walked - written}"


def train_plain(server: Server, shards: str, run: str, kind: str, *, mutate: bool) -> Seen:
    """Two epochs in a plain DataLoader whose rows come as a list."""
    dataset = make_dataset(server, shards, run, kind, None, batch_size=B)
    seen = Seen([], [], [], [], [])

    def spoil(**roots: Any) -> None:
        if mutate:
            for name, root in roots.items():
                scribble(public_values(root, name))

    with dataset:
        for epoch in range(2):
            dataset.set_epoch(epoch)
            for rows in DataLoader(dataset, B, collate_fn=rows_as_they_are):
                ties = [(row["__index__"], row["__weight__"]) if kind == "dict" else row[-2:] for row in rows]
                index, weight = torch.tensor([i for i, _ in ties]), torch.tensor([float(w) for _, w in ties])
                parts = [row["x"] if kind == "dict" else row[0] for row in rows]
                losses = losses_of(torch.stack(parts)[:, 0])
                seen.batches.append(copy.deepcopy(rows))
                spoil(dataset=dataset, rows=rows)
                seen.values.append(dataset.update(losses, index, weight).item())
                spoil(losses=losses.data, index=index, weight=weight, dataset=dataset)
                seen.plans.append(plan_of(dataset.plan))
                seen.states.append(dataset.state_dict()["positions"])
        assert dataset.flush()
    seen.scores.extend(server.scores(run).tolist())
    return seen


@pytest.mark.parametrize("kind", ["dict", "tuple", "bare"])
def test_writing_into_the_rows_of_a_plain_loader_changes_nothing(kind: str, server: Server, some_shards: str) -> None:
    expected = train_plain(server, some_shards, f"plain-untouched-{kind}", kind, mutate=False)
    found = train_plain(server, some_shards, f"plain-scribbled-{kind}", kind, mutate=True)
    for mine, theirs in zip(found, expected, strict=True):
        assert str(mine) == str(theirs)
    assert found.scores == (np.arange(N, dtype=np.float32) * 37 % 101).tolist()


def test_what_a_user_passes_in_may_be_used_again(server: Server, some_shards: str, tmp_path: Path) -> None:
    mask, shards = np.arange(N) % 2 == 0, [some_shards]
    dataset = make_dataset(server, shards, "passed-in", "bare", mask)  # type: ignore[arg-type]
    scribble(public_values(mask, "mask"))
    scribble(public_values(shards, "shards"))
    with InfoBatchLoader(dataset, B) as loader:
        for payload in loader:
            loader.update(losses_of(numbers_of("bare", payload)).detach())
            break
        state = loader.state_dict()
    kept = copy.deepcopy(state)
    resumed = InfoBatchLoader(make_dataset(server, some_shards, "passed-in", "bare", np.arange(N) % 2 == 0), B)
    with resumed:
        resumed.load_state_dict(state)
        scribble(public_values(state, "state"))
        scribble(public_values(resumed.state_dict(), "state"))
        assert resumed.state_dict() == kept
        seen = [int(n) for payload in resumed for n in numbers_of("bare", payload)]
        assert len(seen) == -(-(76 - B) // B) * B
        assert all(n % 2 == 0 for n in seen), "the mask of its time is the run's"
        resumed.skip()


def test_a_plan_order_is_that_of_the_plan_whatever_is_written_into_its_answers(
    server: Server, some_shards: str
) -> None:
    with InfoBatchLoader(make_dataset(server, some_shards, "order", "bare", None), B) as loader:
        for epoch in loader.epochs():
            for payload in loader:
                loader.update(losses_of(numbers_of("bare", payload)).detach())
            if epoch == 1:
                break
        plan, offsets = loader.plan, np.array([0, 60, 61, N])
        order = PlanOrder(plan, offsets)
        calls = [
            lambda: order.samples(0, plan.kept),
            lambda: order.shards_between(0, plan.kept),
            lambda: plan.kept_between(0, N),
            lambda: plan.codes(np.arange(N)),
            lambda: plan.weights(np.arange(N)),
        ]
        before = [call().tolist() for call in calls]
        scribble([("offsets", offsets), *public_values(plan, "plan"), *(("", call()) for call in calls)])
        assert [call().tolist() for call in calls] == before


def test_answers_of_a_client_are_the_callers_own(server: Server, some_shards: str) -> None:
    with InfoBatchLoader(make_dataset(server, some_shards, "answers", "bare", None), B) as loader:
        for payload in loader:
            loader.update(losses_of(numbers_of("bare", payload)).detach())
    client = ScoreClient(server.url)

    def answers() -> list[Any]:
        return [
            client.get_run(pb.GetRunRequest(run="answers")),
            *client.read_scores(pb.ReadScoresRequest(run="answers")),
        ]

    before = [str(answer) for answer in answers()]
    for answer in answers():
        if isinstance(answer, pb.ReadScoresResponse):
            scribble([("scores", np.frombuffer(answer.scores, np.float32))])
        scribble(public_values(answer, "answer"))
    assert [str(answer) for answer in answers()] == before
    client.close()
