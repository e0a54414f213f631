"""A policy's columns are pushed with the declared names, shapes and dtypes, as copies of the user's tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from infobatch_client.tie.columns import checked_columns
from infobatch_client.tie.weighting import host_scores
from infobatch_stream.errors import LossError
from infobatch_stream.scores.columns import COLUMN_DTYPES, ColumnSpec

MARGIN, HITS = ColumnSpec(name="margin"), ColumnSpec(name="hits", dtype="uint8")
GOOD: dict[str, Any] = {"margin": torch.tensor([0.5, -1.0, 2.0]), "hits": torch.tensor([True, False, True])}


def pushed(columns: Any, *specs: ColumnSpec, rows: int = 3) -> dict[str, Any]:
    """The columns as they are queued, as numpy arrays."""
    copies = host_scores(torch.zeros(rows), checked_columns(columns, specs, rows))
    assert copies.ready is None
    return {name: values.numpy() for name, values in copies.columns.items()}


def test_columns_are_queued_by_name_in_their_declared_dtypes() -> None:
    found = pushed(GOOD, MARGIN, HITS)
    assert found["margin"].dtype == np.float32
    assert found["margin"].tolist() == [0.5, -1.0, 2.0]
    assert found["hits"].dtype == np.uint8
    assert found["hits"].tolist() == [1, 0, 1]


@pytest.mark.parametrize("dtype", COLUMN_DTYPES)
@pytest.mark.parametrize("source", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_convert_to_float_columns_alone(dtype: str, source: torch.dtype) -> None:
    values = torch.tensor([0.5, 2.0], dtype=source)
    spec = ColumnSpec(name="c", dtype=dtype)
    if dtype.startswith("float"):
        assert pushed({"c": values}, spec, rows=2)["c"].tolist() == [0.5, 2.0]
    else:
        with pytest.raises(LossError, match=rf"columns\['c'\] has dtype {source}; the policy declares {dtype}"):
            pushed({"c": values}, spec, rows=2)


@pytest.mark.parametrize("dtype", COLUMN_DTYPES)
@pytest.mark.parametrize("source", [torch.bool, torch.uint8, torch.int32, torch.int64])
def test_integers_convert_to_integer_columns_alone(dtype: str, source: torch.dtype) -> None:
    values = torch.tensor([0, 1], dtype=source)
    spec = ColumnSpec(name="c", dtype=dtype)
    if dtype.startswith("float"):
        with pytest.raises(LossError, match=rf"the policy declares {dtype}, so it must be floating"):
            pushed({"c": values}, spec, rows=2)
    else:
        column = pushed({"c": values}, spec, rows=2)["c"]
        assert (column.dtype, column.tolist()) == (np.dtype(dtype), [0, 1])


@pytest.mark.parametrize(
    ("dtype", "values"),
    [("uint8", [0, 256]), ("uint8", [-1, 0]), ("uint16", [0, 65536]), ("int32", [0, 2**31]), ("int32", [-(2**31) - 1])],
)
def test_integers_that_do_not_fit_are_refused_and_never_wrapped(dtype: str, values: list[int]) -> None:
    with pytest.raises(LossError, match=rf"columns\['c'\] has values from {min(values)} to {max(values)}"):
        pushed({"c": torch.tensor(values)}, ColumnSpec(name="c", dtype=dtype), rows=len(values))


@pytest.mark.parametrize(("dtype", "values"), [("uint8", [0, 255]), ("uint16", [65535, 1]), ("int32", [2**31 - 1, 0])])
def test_integers_at_the_ends_of_a_dtype_fit(dtype: str, values: list[int]) -> None:
    assert pushed({"c": torch.tensor(values)}, ColumnSpec(name="c", dtype=dtype), rows=2)["c"].tolist() == values


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, r"lacks 'margin', 'hits'; the run's policy declares 'margin' \(float32\), 'hits' \(uint8\)"),
        ({}, "lacks 'margin', 'hits'"),
        ({"margin": GOOD["margin"]}, "lacks 'hits'; the run's policy declares 'margin'"),
        ({**GOOD, "other": GOOD["margin"]}, "has 'other'; the run's policy declares 'margin'"),
        ({"margin": GOOD["margin"], "hit": GOOD["hits"]}, "lacks 'hits' and has 'hit'"),
        ({**GOOD, "margin": [0.5, 1.0, 2.0]}, r"columns\['margin'\] is a list; pass a tensor \(3,\)"),
        ({**GOOD, "margin": torch.ones(2)}, r"columns\['margin'\] has shape \(2,\); it must be \(3,\)"),
        ({**GOOD, "margin": torch.ones(3, 1)}, r"columns\['margin'\] has shape \(3, 1\)"),
        ({**GOOD, "margin": torch.ones(3, dtype=torch.complex64)}, "has dtype torch.complex64"),
        ([GOOD["margin"]], "columns is a list; pass a dict of tensors"),
    ],
)
def test_wrong_columns_are_refused_saying_which_the_policy_declares(columns: object, message: str) -> None:
    with pytest.raises(LossError, match=message):
        checked_columns(columns, [MARGIN, HITS], 3)  # type: ignore[arg-type]


def test_a_policy_without_columns_takes_none() -> None:
    assert checked_columns(None, [], 3) == {}
    assert checked_columns({}, [], 3) == {}
    with pytest.raises(LossError, match=r"columns= has 'margin'; the run's policy declares no columns"):
        checked_columns({"margin": torch.ones(3)}, [], 3)


def test_what_is_queued_never_aliases_the_users_memory() -> None:
    values = {"margin": torch.tensor([1.0, 2.0], requires_grad=True), "hits": torch.tensor([1, 2], dtype=torch.uint8)}
    scores = torch.tensor([3.0, 4.0])
    copies = host_scores(scores, checked_columns(values, [MARGIN, HITS], 2))
    with torch.no_grad():
        for tensor in (scores, *values.values()):
            tensor.mul_(5)
    assert copies.scores.tolist() == [3.0, 4.0]
    assert copies.columns["margin"].tolist() == [1.0, 2.0]
    assert not copies.columns["margin"].requires_grad
    assert copies.columns["hits"].tolist() == [1, 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_copies_from_a_gpu_are_filled_after_one_event() -> None:
    values = {"margin": torch.arange(1000.0, device="cuda"), "hits": torch.ones(1000, dtype=torch.bool)}
    copies = host_scores(torch.ones(1000), checked_columns(values, [MARGIN, HITS], 1000))
    copies.ready.synchronize()
    assert copies.columns["margin"].tolist() == list(range(1000))
    assert copies.columns["hits"].tolist() == [1] * 1000
    with pytest.raises(LossError, match=r"may not fit into the declared torch.uint8"):
        checked_columns({**values, "hits": torch.ones(1000, dtype=torch.int64, device="cuda")}, [MARGIN, HITS], 1000)


def test_an_unsigned_integer_does_not_wrap_around() -> None:
    large = torch.from_numpy(np.array([2**63 + 5], np.uint64))
    with pytest.raises(LossError, match=rf"has values from {2**63 + 5} to {2**63 + 5}"):
        checked_columns({"hits": large}, [ColumnSpec(name="hits", dtype="int64")], 1)
