"""A misspelt keyword is a TypeError that says which one was meant, wherever a user passes keywords."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import infobatch_stream
from infobatch_stream import Connection, InfoBatch, InfoBatchLoader, InfoBatchStreamDataset, OrderChoice, Timeouts
from infobatch_stream.keywords import suggesting

CONSTRUCTORS = [
    getattr(infobatch_stream, name)
    for name in infobatch_stream.__all__
    if name not in ("__version__", "may_drop") and not name.endswith("Error")
]


@suggesting
def measured(first_value: int, *, num_workers: int = 0) -> int:
    """A function."""
    return first_value + num_workers


@pytest.mark.parametrize(
    ("keyword", "meant"),
    [
        ("num_worker", "num_workers"),
        ("numWorkers", "num_workers"),
        ("workers", "num_workers"),
        ("firstvalue", "first_value"),
        ("nothing_like_it", None),
    ],
)
def test_the_nearest_keyword_is_suggested_or_all_are_named(keyword: str, meant: str | None) -> None:
    with pytest.raises(TypeError) as caught:
        measured(1, **{keyword: 2})
    advice = f"did you mean {meant}=?" if meant else "it takes first_value, num_workers"
    assert str(caught.value) == f"measured() got an unexpected keyword argument {keyword!r}; {advice}"


def test_right_calls_and_signatures_stay_as_they_are() -> None:
    assert measured(1, num_workers=2) == measured(first_value=1, num_workers=2) == 3
    assert list(inspect.signature(measured).parameters) == ["first_value", "num_workers"]
    assert "prune_ratio" in inspect.signature(InfoBatch).parameters
    policy = InfoBatch(prune_ratio=0.3)
    assert replace(pickle.loads(pickle.dumps(policy)), delta=0.5) == InfoBatch(prune_ratio=0.3, delta=0.5)


@pytest.mark.parametrize("make", CONSTRUCTORS, ids=lambda make: make.__name__)
def test_every_public_constructor_and_function_suggests_the_right_name(make: Callable[..., Any]) -> None:
    names = [name for name in inspect.signature(make).parameters if len(name) > 4]
    if not names:
        pytest.skip("it has no keywords that one could misspell")
    for name in names:
        with pytest.raises(TypeError, match=rf"unexpected keyword argument '{name}x'; did you mean {name}=\?"):
            make(**{f"{name}x": None})


METHODS = [
    *(
        getattr(InfoBatchLoader, name)
        for name in ("update", "push", "weights", "epochs", "set_epoch", "flush", "close")
    ),
    *(getattr(InfoBatchStreamDataset, name) for name in ("update", "push", "set_epoch", "set_ranks", "collate")),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__qualname__)
def test_the_calls_of_a_loop_suggest_the_right_name(method: Callable[..., Any]) -> None:
    *_, name = inspect.signature(method).parameters
    with pytest.raises(TypeError, match=rf"^{method.__name__}\(\) got .* '{name}s'; did you mean {name}=\?"):
        method(None, **{f"{name}s": None})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Connection(stat_dir="x"), r"Connection\(\) .* 'stat_dir'; did you mean state_dir="),
        (lambda: InfoBatch(prune_ration=0.5), r"InfoBatch\(\) .* 'prune_ration'; did you mean prune_ratio="),
        (lambda: Timeouts(connect_timeout=3), r"Timeouts\(\) .* did you mean connect_timeout_s="),
        (lambda: OrderChoice(window=3), r"OrderChoice\(\) .* it takes lanes, run_samples, stripe, window_shards"),
    ],
)
def test_the_message_names_what_was_called(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()
