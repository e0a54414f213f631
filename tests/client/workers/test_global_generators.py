"""Global generators whose states are saved and restored draw as if nobody had drawn in between."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from infobatch_client.workers import global_generators
from infobatch_client.workers.global_generators import restore, save


@pytest.fixture(params=["the memory", "numpy's own way"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    assert global_generators._LAYOUT_IS_KNOWN
    monkeypatch.setattr(global_generators, "_LAYOUT_IS_KNOWN", request.param == "the memory")
    before = save()
    yield
    restore(before)


def draws() -> list[float]:
    """Of all three; numpy's normal variates come in pairs, and here in an odd number."""
    normals = [*np.random.standard_normal(3).tolist(), np.random.standard_normal()]
    return [
        *normals,
        *np.random.random(700).tolist(),
        np.random.standard_normal(),
        random.random(),
        float(torch.rand(())),
    ]


@pytest.mark.parametrize("num_normals", [0, 1, 2, 3])
@pytest.mark.parametrize("num_words", [0, 1, 311, 312, 313, 623])
def test_saving_changes_nothing_and_restoring_all(num_normals: int, num_words: int) -> None:
    def begin() -> None:
        np.random.seed(7), random.seed(7), torch.manual_seed(7)
        np.random.randint(0, 2**32, num_words, dtype=np.uint32)
        np.random.standard_normal(num_normals)

    begin()
    expected = draws()
    begin()
    states = save()
    assert draws() == expected
    restore(states)
    assert draws() == expected
    np.random.seed(8), random.seed(8), torch.manual_seed(8)
    np.random.standard_normal()
    restore(states)
    again = save()
    assert draws() == expected
    restore(again)
    assert draws() == expected


def test_another_generator_of_numpys_is_left_alone() -> None:
    usual = np.random.get_bit_generator()  # type: ignore[attr-defined]
    other = np.random.PCG64(3)
    try:
        np.random.set_bit_generator(other)  # type: ignore[attr-defined]
        states = save()
        drawn = np.random.random()
        restore(states)
        assert np.random.get_bit_generator() is other  # type: ignore[attr-defined]
        assert np.random.random() != drawn
    finally:
        np.random.set_bit_generator(usual)  # type: ignore[attr-defined]
