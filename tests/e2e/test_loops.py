"""Loops as people write them: accumulation, mixed precision, second looks at a batch, batches taken ahead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset, LossError
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.dataset_arguments import dataset_arguments

B = 72  # 1009 = 14 · 72 + 1: the last batch of an unpruned epoch is one real row and 71 of weight 0

T = TypeVar("T")


def to_number(sample: dict[str, Any]) -> int:
    return int(sample["txt"])


def one_in_40(sample: dict[str, Any]) -> bool:
    return int(sample["txt"]) % 40 == 0


def make_loader(
    server: Server, shards: str, run: str, batch_size: int = B, num_workers: int = 0, **settings: Any
) -> InfoBatchLoader:
    select = settings.pop("select", None)
    asked = {"epochs": 5, "delta": "0.8", "seed": 2, **settings}
    dataset = InfoBatchStreamDataset(shards, url=server.url, run=run, **dataset_arguments(**asked))
    dataset = dataset.select(select) if select else dataset
    return InfoBatchLoader(dataset.map(to_number), batch_size, num_workers)


class Model(torch.nn.Module):
    """Losses that differ by sample and depend on parameters, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor([0.3, -0.2, 0.7], dtype=torch.float64))

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        x = numbers.double() / SAMPLES
        return (self.theta @ torch.stack([torch.ones_like(x), torch.sin(9 * x), x * x])).square()


def losses_of(numbers: np.ndarray, model: Model) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(numbers)).float().numpy()


ALL = np.arange(SAMPLES)


def one_ahead(batches: Iterator[T]) -> Iterator[T]:
    """As Accelerate, HF Trainer and CUDA prefetchers do."""
    held = next(batches)
    for newer in batches:
        yield held
        held = newer
    yield held


def big_batch_gradients(loader: InfoBatchLoader, micro_batches: int, *, use_rows: bool) -> list[list[float]]:
    """The gradient of each big batch of two epochs, taken in so many micro-batches; the parameters stay."""
    model, found = Model(), []

    def step() -> None:
        found.append(model.theta.grad.tolist())  # type: ignore[union-attr]
        model.theta.grad = None

    for epoch in loader.epochs():
        for count, numbers in enumerate(loader, start=1):
            if use_rows:
                size = len(numbers) // micro_batches
                for first in reversed(range(0, len(numbers), size)):  # any order will do
                    rows = slice(first, first + size)
                    (loader.update(model(numbers[rows]), rows=rows) / micro_batches).backward()
                step()
            else:
                (loader.update(model(numbers)) / micro_batches).backward()
                if count % micro_batches == 0 or count == len(loader):
                    step()
        if epoch == 1:
            break
    return found


@pytest.mark.parametrize("use_rows", [True, False])
@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_accumulated_gradients_are_the_big_batchs(
    micro_batches: int, use_rows: bool, server: Server, shards: str
) -> None:
    run = f"accumulate-{micro_batches}-{use_rows}"
    with make_loader(server, shards, f"{run}-whole") as loader:
        whole = np.array(big_batch_gradients(loader, 1, use_rows=False))
        assert loader.plan.pruned > 0
    with make_loader(server, shards, run, B if use_rows else B // micro_batches) as loader:
        parts = np.array(big_batch_gradients(loader, micro_batches, use_rows=use_rows))
    np.testing.assert_allclose(parts, whole, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(server.scores(run), losses_of(ALL, Model()))


@pytest.mark.filterwarnings("ignore:the pipeline has dropped")
@pytest.mark.parametrize("use_rows", [True, False])
def test_micro_batches_of_dropped_samples_add_nothing(use_rows: bool, server: Server, shards: str) -> None:
    run = f"dropped-{use_rows}"
    with make_loader(server, shards, f"{run}-whole", select=one_in_40) as loader:
        whole = np.array(big_batch_gradients(loader, 1, use_rows=False))
    with make_loader(server, shards, run, B if use_rows else B // 4, select=one_in_40) as loader:
        parts = np.array(big_batch_gradients(loader, 4, use_rows=use_rows))
    np.testing.assert_allclose(parts, whole, rtol=1e-6, atol=1e-9)
    assert whole.any(axis=1).sum() > 10
    expected = np.where(ALL % 40 == 0, losses_of(ALL, Model()), np.float32("nan"))
    np.testing.assert_array_equal(server.scores(run), expected)


def test_a_micro_batch_of_rows_that_only_fill_gives_no_gradient(server: Server, shards: str) -> None:
    with make_loader(server, shards, "only-fill") as loader:
        model = Model()
        for numbers in loader:
            if loader.metrics()["rows_filled"]:
                rows = slice(B // 2, None)
                assert not loader.weights(rows=rows).any()
                losses = model(numbers[rows]) * float("nan")
                value = loader.update(losses, rows=rows)
                assert value.item() == 0.0
                assert not torch.autograd.grad(value, losses)[0].any()
                rows = slice(0, B // 2)
                loader.update(model(numbers[rows]), rows=rows)
            else:
                loader.update(model(numbers))
    np.testing.assert_array_equal(server.scores("only-fill"), losses_of(ALL, model))
    assert server.info("only-fill").stored_scores == SAMPLES


def test_a_micro_batch_is_divided_by_its_own_rows(server: Server, shards: str) -> None:
    with make_loader(server, shards, "own-rows") as loader:
        for epoch in loader.epochs():
            for numbers in loader:
                rows = slice(3, 10)
                weights = loader.weights(rows=rows)
                assert torch.equal(weights, loader.weights()[3:10])
                value = loader.update(numbers[rows].double(), rows=rows)
                assert value.item() == pytest.approx((numbers[rows].double() * weights).sum().item() / 7, rel=1e-6)
                loader.update(numbers.double())
            if epoch == 1:
                assert loader.plan.pruned > 0
                break


def test_a_batch_updated_in_part_awaits_the_rest(server: Server, shards: str) -> None:
    with make_loader(server, shards, "in-part") as loader:
        batches = iter(loader)
        first = next(batches).float()
        loader.update(first[:30], rows=slice(0, 30))
        loader.update(first[20:40], rows=slice(20, 40))
        second = next(batches).float()
        with pytest.raises(LossError, match=r"2 batches await their update \(1 of them for some of their rows\)"):
            loader.update(second[:10], rows=slice(0, 10))
        loader.skip()
        loader.update(second[:10], rows=slice(0, 10))
        loader.update(second[10:], rows=slice(10, None))
        third = next(batches).float()
        loader.push(third[:40], rows=slice(None, 40))
        loader.push(third[40:], rows=slice(40, B))
        loader.update(next(batches).float())
        assert loader.flush()
        scores = server.scores("in-part")
    given = torch.cat([first[:40], second, third]).long().numpy()
    np.testing.assert_array_equal(scores[given], given.astype(np.float32))
    assert np.isnan(scores[first[40:].long().numpy()]).all()


def test_an_epoch_is_not_over_while_a_batch_awaits_some_of_its_rows(server: Server, shards: str) -> None:
    with make_loader(server, shards, "part-last") as loader:
        next(loader.epochs())
        for numbers in loader:
            loader.update(numbers.float()[:1], rows=slice(0, 1))
            if not loader.metrics()["rows_filled"]:
                loader.update(numbers.float()[1:], rows=slice(1, None))
        assert loader.flush()
        assert server.stats("part-last")["epochs_ended"] == 0
        loader.update(numbers.float()[1:], rows=slice(1, None))
        assert server.stats("part-last")["epochs_ended"] == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (slice(0, 10, 2), r"has a step"),
        (slice(5, 5), r"is empty or outside the batch, which has rows 0 to 71"),
        (slice(9, 5), r"is empty or outside"),
        (slice(0, B + 1), r"is empty or outside"),
        (slice(-8, None), r"is empty or outside"),
        (slice(0.0, 8.0), r"whole numbers as its ends"),
        (slice(False, True), r"whole numbers as its ends"),
        ([0, 1], r"rows=\[0, 1\] is a list; name a micro-batch by a slice, as slice\(0, 32\)"),
        (8, r"rows=8 is a int"),
    ],
)
def test_rows_that_are_no_micro_batch_are_refused(rows: Any, message: str, server: Server, shards: str) -> None:
    with make_loader(server, shards, "bad-rows", if_exists="restart") as loader:
        next(iter(loader))
        for call in (loader.update, loader.push):
            with pytest.raises(LossError, match=message):
                call(torch.ones(8), rows=rows)
        with pytest.raises(LossError, match=message):
            loader.weights(rows=rows)
        with pytest.raises(LossError, match=r"losses has shape \(9,\); it must be \(8,\)"):
            loader.update(torch.ones(9), rows=slice(0, 8))
        loader.update(torch.ones(B))
    assert server.info("bad-rows").stored_scores == B


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_in_half_precision_are_summed_and_stored_in_float32(
    dtype: torch.dtype, server: Server, shards: str
) -> None:
    run = f"half-{dtype}".replace("torch.", "")
    with make_loader(server, shards, run) as loader:
        for numbers in loader:
            losses = (numbers % 256).to(dtype)  # whole numbers that both types hold
            value = loader.update(losses)
            assert value.dtype == torch.float32
            assert value.item() == pytest.approx((losses.double() * loader.weights()).sum().item() / B, rel=1e-6)
    np.testing.assert_array_equal(server.scores(run), (ALL % 256).astype(np.float32))


def test_losses_under_autocast_and_a_grad_scaler(server: Server, shards: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    stored = np.full(SAMPLES, np.nan, np.float32)
    with make_loader(server, shards, "autocast") as loader:
        for numbers in loader:
            with torch.autocast("cpu", torch.bfloat16):
                logits = model((numbers / SAMPLES)[:, None])
                assert logits.dtype == torch.bfloat16
                losses = torch.nn.functional.cross_entropy(logits, numbers % 4, reduction="none")
            real = loader.weights() > 0
            stored[numbers[real].numpy()] = losses.detach().float()[real].numpy()
            optimizer.zero_grad()
            scaler.scale(loader.update(losses)).backward()
            scaler.step(optimizer)
            scaler.update()
    np.testing.assert_array_equal(server.scores("autocast"), stored)


def test_the_second_losses_of_a_batch_replace_the_first(server: Server, shards: str) -> None:
    """As SAM does, here in micro-batches on every other batch."""
    with make_loader(server, shards, "sam") as loader:
        for count, numbers in enumerate(loader):
            for offset in (1000.0, 0.0):
                losses = numbers.float() + offset
                if count % 2:
                    for rows in (slice(0, 40), slice(40, B)):
                        loader.update(losses[rows], rows=rows)
                else:
                    loader.update(losses)
        assert loader.metrics()["rows_real"] == SAMPLES
    np.testing.assert_array_equal(server.scores("sam"), ALL.astype(np.float32))
    assert server.stats("sam")["trained_samples"] == SAMPLES


def test_a_closure_that_is_called_many_times(server: Server, shards: str) -> None:
    """As LBFGS does: the losses of the last call are stored."""
    model = Model()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    stored = np.full(SAMPLES, np.nan, np.float32)
    calls = 0
    with make_loader(server, shards, "lbfgs") as loader:
        for numbers in loader:
            real = loader.weights() > 0

            def closure(numbers: torch.Tensor = numbers, real: torch.Tensor = real) -> torch.Tensor:
                nonlocal calls
                calls += 1
                optimizer.zero_grad()
                losses = model(numbers)
                stored[numbers[real].numpy()] = losses.detach().float()[real].numpy()
                value = loader.update(losses)
                value.backward()
                return value

            optimizer.step(closure)
        assert calls > len(loader)
    np.testing.assert_array_equal(server.scores("lbfgs"), stored)


def test_a_dict_of_losses_is_summed_by_sample(server: Server, shards: str) -> None:
    with make_loader(server, shards, "dict") as loader:
        for numbers in loader:
            parts = {"class": numbers.float(), "box": (numbers % 3).float()}
            whole = loader.update({name: part[:30] for name, part in parts.items()}, rows=slice(0, 30))
            expected = ((parts["class"] + parts["box"]) * loader.weights())[:30].sum() / 30
            assert whole.item() == pytest.approx(expected.item(), rel=1e-6)
            loader.update(parts)
            with pytest.raises(LossError, match=r"losses\['box'\] has shape \(3,\)"):
                loader.update({**parts, "box": torch.ones(3)})
    np.testing.assert_array_equal(server.scores("dict"), (ALL + ALL % 3).astype(np.float32))


def test_scores_are_pushed_in_place_of_the_losses(server: Server, shards: str) -> None:
    with make_loader(server, shards, "scores", score_name="el2n") as loader:
        for numbers in loader:
            value = loader.update(torch.ones(30), scores=numbers[:30].double(), rows=slice(0, 30))
            assert value.item() == pytest.approx(float(loader.weights(rows=slice(0, 30)).sum()) / 30)
            loader.update(torch.ones(B - 30), scores=numbers[30:].double(), rows=slice(30, B))
            with pytest.raises(LossError, match=r"scores has shape \(30,\); it must be \(72,\)"):
                loader.update(torch.ones(B), scores=torch.ones(30))
    np.testing.assert_array_equal(server.scores("scores"), ALL.astype(np.float32))


def test_losses_that_the_loop_reduces_by_itself(server: Server, shards: str) -> None:
    with make_loader(server, shards, "push") as loader:
        for ticket, numbers in loader.ticketed():
            losses = numbers.double().requires_grad_()
            own = (losses * loader.weights(ticket)).sum() / B
            loader.push(losses, batch=ticket)
            assert own.item() == pytest.approx(loader.update(losses, batch=ticket).item(), rel=1e-6)
    np.testing.assert_array_equal(server.scores("push"), ALL.astype(np.float32))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_that_is_a_batch_ahead_raises_on_its_first_update(workers: int, server: Server, shards: str) -> None:
    run = f"ahead-raises-{workers}"
    with make_loader(server, shards, run, num_workers=workers) as loader:
        batches = one_ahead(iter(loader))
        numbers = next(batches)
        for call in (loader.update, loader.push):
            with pytest.raises(LossError, match=r"2 batches await their update.*ticketed\(\).*skip\(\)"):
                call(numbers.float())
    assert server.info(run).stored_scores == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_that_is_a_batch_ahead_works_with_tickets(workers: int, server: Server, shards: str) -> None:
    run = f"ahead-{workers}"
    with make_loader(server, shards, run, num_workers=workers) as loader:
        for epoch in loader.epochs():
            for ticket, numbers in one_ahead(loader.ticketed()):
                losses = numbers.float() + epoch
                expected = (losses * loader.weights(ticket)).sum() / B
                halves = [
                    loader.update(losses[rows], batch=ticket, rows=rows)
                    for rows in (slice(0, B // 2), slice(B // 2, None))
                ]
                assert (sum(halves) / 2).item() == pytest.approx(expected.item(), rel=1e-5)  # type: ignore[union-attr]
            if epoch == 1:
                kept = loader.plan.kept_between(0, SAMPLES)
                break
    expected_scores = ALL.astype(np.float32)
    expected_scores[kept] += 1
    assert len(kept) < SAMPLES
    np.testing.assert_array_equal(server.scores(run), expected_scores)


def test_weights_of_something_that_is_no_ticket(server: Server, shards: str) -> None:
    with make_loader(server, shards, "no-ticket") as loader:
        with pytest.raises(LossError, match="before the first batch"):
            loader.weights()
        with pytest.raises(LossError, match="batch=3 is no ticket"):
            loader.weights(3)  # type: ignore[arg-type]


def test_an_earlier_batch_that_awaits_some_of_its_rows_is_told_of(server: Server, shards: str) -> None:
    with make_loader(server, shards, "earlier") as loader:
        batches = loader.ticketed()
        (first, _), (second, _) = next(batches), next(batches)
        loader.update(torch.ones(9), batch=first, rows=slice(0, 9))
        loader.update(torch.ones(B), batch=second)
        with pytest.raises(LossError, match=r"an earlier batch awaits its update \(1 of them for some of their rows\)"):
            loader.update(torch.ones(B))
        loader.skip(first)
        loader.update(torch.ones(B))
