"""compact=True: batches of their real rows only, with the weights, values, scores and positions of filled ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from infobatch_stream import ConfigError, InfoBatchLoader, InfoBatchStreamDataset, LossError
from tests.e2e.conftest import SAMPLES, Server

pytestmark = pytest.mark.filterwarnings("ignore:the pipeline has dropped")  # on purpose

B = 48


def to_number(sample: dict[str, Any]) -> int:
    return int(sample["txt"])


def to_dict(sample: dict[str, Any]) -> dict[str, Any]:
    return {"number": int(sample["txt"])}


def two_thirds(sample: dict[str, Any]) -> bool:
    return int(sample["txt"]) % 3 > 0


def one_in_200(sample: dict[str, Any]) -> bool:
    return int(sample["txt"]) % 200 == 7


def losses_of(numbers: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.sin(numbers.double() * 7) + 1.3).to(dtype).requires_grad_()


def make_loader(
    server: Server, shards: str, run: str, *, keep: Any = two_thirds, workers: int = 0, **loading: Any
) -> InfoBatchLoader:
    dataset = InfoBatchStreamDataset(shards, url=server.url, run=run, epochs=4, delta="0.75", seed=2)
    return InfoBatchLoader(dataset.select(keep).map(to_number), B, workers, **loading)


def train(loader: InfoBatchLoader, dtype: torch.dtype = torch.float32) -> list[Any]:
    """Two epochs: each batch's value, the samples, weights and gradients of its real rows, and the state after it."""
    seen: list[Any] = []
    with loader:
        for epoch in loader.epochs():
            seen.append((len(loader), loader.plan.kept))
            for ticket, numbers in loader.ticketed():
                losses = losses_of(numbers, dtype)
                value = loader.update(losses, batch=ticket)
                value.backward()
                valid = loader.valid(batch=ticket)
                assert torch.equal(valid, torch.from_numpy(ticket.index >= 0))
                assert torch.equal(loader.weights(batch=ticket) > 0, valid)
                assert losses.grad is not None
                assert not losses.grad[~valid].any()
                row_values = losses.grad[valid].tolist()
                weights = loader.weights()[valid].tolist()
                seen.append((value.item(), numbers[valid].tolist(), weights, row_values))
                seen.append((loader.state_dict()["positions"], loader.progress()))
            metrics = loader.metrics()
            seen.append([metrics[name] for name in ("positions", "rows_real", "rows_dropped", "rows_unreadable")])
            if epoch == 1:
                break
        assert loader.flush()
    return seen


@pytest.mark.parametrize(
    ("keep", "workers", "remainder", "dtype"),
    [
        (two_thirds, 0, "fill", torch.float32),
        (two_thirds, 2, "fill", torch.float16),
        (one_in_200, 0, "fill", torch.float64),
        (two_thirds, 0, "drop", torch.float32),
    ],
)
def test_values_and_scores_are_to_the_bit_those_of_filled_batches(
    keep: Any, workers: int, remainder: str, dtype: torch.dtype, server: Server, shards: str
) -> None:
    run = f"compact-{keep.__name__}-{workers}-{remainder}"
    loading = {"keep": keep, "workers": workers, "remainder": remainder}
    filled = train(make_loader(server, shards, f"{run}-filled", **loading), dtype)
    compact = train(make_loader(server, shards, run, compact=True, **loading), dtype)
    assert compact == filled
    np.testing.assert_array_equal(server.scores(run), server.scores(f"{run}-filled"))


def test_a_batch_without_a_real_row_is_one_row_of_weight_0(server: Server, shards: str) -> None:
    with make_loader(server, shards, "compact-empty", keep=one_in_200, compact=True) as loader:
        sizes, empty = [], 0
        for numbers in loader:
            sizes.append(len(numbers))
            if not loader.valid().any():
                empty += 1
                assert (len(numbers), loader.weights().tolist()) == (1, [0.0])
                losses = torch.full((1,), torch.nan, requires_grad=True)
                value = loader.update(losses)
                value.backward()
                assert losses.grad is not None
                assert (value.item(), losses.grad.item()) == (0.0, 0.0)
            else:
                assert loader.valid().all()
                loader.update(losses_of(numbers))
        assert len(sizes) == len(loader) == -(-SAMPLES // B)
        assert empty > 10
        assert loader.metrics()["rows_filled"] == empty, "the rows that are there"
        assert loader.metrics()["rows_real"] == 6
        assert loader.flush()
    assert np.flatnonzero(np.isfinite(server.scores("compact-empty"))).tolist() == list(range(7, SAMPLES, 200))


def test_micro_batches_add_up_to_the_batch(server: Server, shards: str) -> None:
    with make_loader(server, shards, "compact-rows", compact=True) as loader:
        for numbers in loader:
            b = len(numbers)
            losses = losses_of(numbers, torch.float64).detach()
            whole = (loader.weights() * losses).sum().item() / B
            parts = [slice(0, b // 3), slice(b // 3, b)] if b > 3 else [slice(0, b)]
            values = [loader.update(losses[rows], rows=rows).item() for rows in parts]
            for rows, value in zip(parts, values, strict=True):
                rows_sum = (loader.weights(rows=rows) * losses[rows]).sum().item()
                assert value == pytest.approx(rows_sum / ((rows.stop - rows.start) * B / b), rel=1e-12)
                assert torch.equal(loader.valid(rows=rows), loader.valid()[rows])
            shares = [(rows.stop - rows.start) / b for rows in parts]  # of A equal parts, each is 1/A
            assert sum(s * v for s, v in zip(shares, values, strict=True)) == pytest.approx(whole, rel=1e-12)


def test_every_rank_has_each_of_its_batches(shards: str) -> None:
    seen, steps = [], []
    for rank in range(3):
        dataset = InfoBatchStreamDataset(shards, policy=None, shuffle=False).map(to_dict)
        ranks: dict[str, Any] = {"rank": rank, "world_size": 3, "agree": lambda word: [word] * 3}
        with InfoBatchLoader(dataset, 100, compact=True, **ranks) as loader:
            batches = list(loader)
            assert len(batches) == len(loader)
        steps.append(len(batches))
        seen += [n for batch in batches for n in batch["number"][batch["__weight__"] > 0].tolist()]
        assert [len(batch["__index__"]) for batch in batches] == [100, 100, 100, [100, 9, 1][rank]]
    assert steps == [4] * 3
    assert sorted(seen) == list(range(SAMPLES))


def test_a_compact_training_resumes_as_any_other(server: Server, shards: str) -> None:
    expected = train(make_loader(server, shards, "compact-straight"))
    with make_loader(server, shards, "compact-broken", compact=True) as loader:
        for step, numbers in enumerate(loader):
            loader.update(losses_of(numbers))
            if step == 4:
                break
        state = loader.state_dict()
    resumed = make_loader(server, shards, "compact-broken")
    resumed.load_state_dict(state)
    rest = train(resumed)
    assert rest[1:10] == expected[11:20]


def test_valid_needs_a_batch_and_compact_a_bool(server: Server, shards: str) -> None:
    with make_loader(server, shards, "compact-mistakes") as loader:
        with pytest.raises(LossError, match=r"valid\(\) before the first batch"):
            loader.valid()
        with pytest.raises(LossError, match="is no ticket"):
            loader.valid(batch=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="compact='yes' is a str; give True or False"):
        make_loader(server, shards, "compact-mistakes", compact="yes")
