"""The weighted mean divides by rows, and rows of weight 0 are exact zeros."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from infobatch_client.tie.weighting import checked_losses, host_scores, weighted_mean
from infobatch_stream.errors import LossError


def weights(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_divides_by_the_rows_and_not_by_the_weights() -> None:
    losses = torch.tensor([1.0, 2.0, 3.0, 10.0])
    assert weighted_mean(losses, weights(1, 2, 2, 0)).item() == (1 + 4 + 6) / 4


def test_gradient_is_weight_over_rows() -> None:
    losses = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    weighted_mean(losses, weights(1, 4, 0)).backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == pytest.approx([1 / 3, 4 / 3, 0.0])


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_a_row_of_weight_0_poisons_neither_value_nor_gradient(poison: float) -> None:
    losses = torch.tensor([1.0, poison], requires_grad=True)
    value = weighted_mean(losses, weights(2, 0))
    value.backward()
    assert value.item() == 1.0
    assert losses.grad is not None
    assert losses.grad.tolist() == [1.0, 0.0]


def test_unpruned_weights_give_the_plain_mean_to_the_bit() -> None:
    losses = torch.rand(257, generator=torch.Generator().manual_seed(0))
    assert weighted_mean(losses, np.ones(257, np.float32)).item() == losses.mean().item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    losses = torch.full((4096,), 60.0, dtype=dtype)
    value = weighted_mean(losses, np.full(4096, 2, np.float32))
    assert value.dtype == torch.float32
    assert value.item() == 120.0


def test_float64_stays_float64() -> None:
    assert weighted_mean(torch.ones(2, dtype=torch.float64), weights(1, 2)).dtype == torch.float64


def test_a_dict_of_losses_is_summed() -> None:
    losses = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([10.0, 20.0])}
    assert checked_losses(losses, 2).tolist() == [11.0, 22.0]


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (torch.tensor(1.0), r"losses has shape \(\); it must be \(3,\), one per sample: use reduction='none'"),
        (torch.ones(3, 1), r"losses has shape \(3, 1\); .*reduce all other dimensions"),
        (torch.ones(4), r"losses has shape \(4,\); it must be \(3,\)"),
        (torch.ones(3, dtype=torch.int64), r"losses has dtype torch.int64; it must be floating"),
        ([1.0, 2.0, 3.0], r"losses is a list; pass a float tensor \(3,\)"),
        ({}, r"losses is an empty dict"),
        ({"mask": torch.ones(2)}, r"losses\['mask'\] has shape \(2,\)"),
    ],
)
def test_wrong_losses_are_refused_saying_what_to_do(losses: object, message: str) -> None:
    with pytest.raises(LossError, match=message):
        checked_losses(losses, 3)  # type: ignore[arg-type]


def test_host_scores_are_a_copy_without_a_graph() -> None:
    losses = torch.tensor([1.0, 2.0], requires_grad=True)
    pushed = host_scores(losses)
    with torch.no_grad():
        losses.mul_(100)
    assert pushed.scores.tolist() == [1.0, 2.0]
    assert not pushed.scores.requires_grad
    assert pushed.ready is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_dicts_losses_of_half_precision_are_summed_in_float32(dtype: torch.dtype) -> None:
    losses = {"box": torch.full((2,), 2048.0, dtype=dtype), "class": torch.ones(2, dtype=dtype, requires_grad=True)}
    summed = checked_losses(losses, 2)
    assert summed.dtype == torch.float32
    assert summed.tolist() == [2049.0, 2049.0], "float16 would say 2048"
    weighted_mean(summed, weights(1, 4)).backward()
    assert losses["class"].grad.tolist() == [0.5, 2.0]  # type: ignore[union-attr]
    huge = {"a": torch.full((2,), 60_000.0, dtype=dtype), "b": torch.full((2,), 60_000.0, dtype=dtype)}
    assert checked_losses(huge, 2).isfinite().all()


def test_a_dicts_float64_losses_stay_float64() -> None:
    losses = {"a": torch.ones(2, dtype=torch.float64), "b": torch.full((2,), 1e-9, dtype=torch.float64)}
    assert checked_losses(losses, 2).tolist() == [1 + 1e-9] * 2
