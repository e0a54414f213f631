"""The tie holds through every stage that is let through, and every stage that would break it raises."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Queue
from typing import Any

import pytest
import webdataset as wds
from webdataset import filters

from infobatch_client.tie.chain import TiedChain
from infobatch_stream.errors import PipelineError

N = 50


def samples() -> Iterator[tuple[int, dict[str, Any]]]:
    for number in range(N):
        yield number, {"__key__": f"k{number}", "txt": str(number), "num": number}


def number_of(payload: Any) -> int:
    """The sample that a payload was made of, read from the payload alone."""
    if isinstance(payload, dict):
        return int(payload["num"])
    return int(payload[0] if isinstance(payload, tuple) else payload)


class OwnStage(wds.PipelineStage):
    """A user's stage as a class: one output for one input."""

    def run(self, source: Iterator[Any]) -> Iterator[Any]:
        for sample in source:
            yield {**sample, "seen": True}


def drops_some_dicts(source: Iterator[Any]) -> Iterator[Any]:
    for sample in source:
        if sample["num"] % 3:
            yield sample


def drops_some_tuples(source: Iterator[Any]) -> Iterator[Any]:
    for sample in source:
        if sample[0] % 3:
            yield sample


drops_some_tuples.may_drop = True  # type: ignore[attr-defined]


def to_numbers(source: Iterator[Any]) -> Iterator[Any]:
    for sample in source:
        yield (sample["num"],)


KEEPS = {
    "no stage": [],
    "map to a tuple": [filters.map(lambda sample: (sample["num"], 1))],
    "map to a dict of its own": [filters.map(lambda sample: {"num": sample["num"]})],
    "map to a number": [filters.map(lambda sample: sample["num"])],
    "map drops by None": [filters.map(lambda sample: sample if sample["num"] % 2 else None)],
    "select": [filters.select(lambda sample: sample["num"] % 5 == 0)],
    "select all but the first": [filters.select(lambda sample: sample["num"] > 0)],
    "select none": [filters.select(lambda sample: False)],
    "rsample": [filters.rsample(0.5)],
    "to_tuple and map_tuple": [filters.to_tuple("num", "txt"), filters.map_tuple(int, str)],
    "to_tuple, then select": [filters.to_tuple("num"), filters.select(lambda row: row[0] % 2)],
    "map_dict": [filters.map_dict(num=lambda value: value)],
    "rename": [filters.rename(text="txt")],
    "rename_keys": [filters.rename_keys(text="txt", keep_unselected=True)],
    "extract_keys": [filters.extract_keys("num", "txt")],
    "associate": [filters.associate(lambda key: {"extra": key})],
    "xdecode": [
        filters.map(lambda sample: {**sample, "txt": b"x"}),
        filters.xdecode(must_decode=False),
    ],
    "handler that goes on": [
        filters.map(lambda sample: (1 // (sample["num"] % 4), sample["num"])[1:], handler=lambda e: True)
    ],
    "own class": [OwnStage()],
    "own generator": [to_numbers],
    "own generator that drops dicts": [drops_some_dicts],
    "own generator that drops tuples": [to_numbers, drops_some_tuples],
    "two own stages": [OwnStage(), drops_some_dicts, to_numbers],
}


@pytest.mark.parametrize("stages", KEEPS.values(), ids=KEEPS)
def test_every_output_belongs_to_its_sample(stages: list[Any]) -> None:
    chain = TiedChain(stages, samples())
    for tie, payload in chain:
        assert number_of(payload) == tie
    assert chain.num_pulled == N


def one_behind(source: Iterator[Any]) -> Iterator[Any]:
    held = next(source)
    for sample in source:
        yield held
        held = sample
    yield held


def two_for_one(source: Iterator[Any]) -> Iterator[Any]:
    for sample in source:
        yield sample
        yield sample


def all_at_once(source: Iterator[Any]) -> Iterator[Any]:
    yield from list(source)


def lists_of_two(source: Iterator[Any]) -> Iterator[Any]:
    for sample in source:
        yield [sample, next(source)]


def threaded(source: Iterator[Any]) -> Iterator[Any]:
    queue: Queue[Any] = Queue(4)

    def pull() -> None:
        for sample in source:
            queue.put(sample)
        queue.put(None)

    threading.Thread(target=pull, daemon=True).start()
    while (sample := queue.get()) is not None:
        yield sample


def eager(source: Iterator[Any]) -> Iterator[Any]:
    return iter(list(source))


def changes_key(source: Iterator[Any]) -> Iterator[Any]:
    for sample in source:
        yield {**sample, "__key__": "other"}


def undeclared_dropper(source: Iterator[Any]) -> Iterator[Any]:
    for sample in source:
        if sample["num"] != N - 1:
            yield (sample["num"],)


BREAKS: dict[str, tuple[list[Callable[..., Any]], str]] = {
    "one behind": ([one_behind], r"one_behind\(\) gave sample 'k0' after it pulled 'k1'"),
    "one behind, of tuples": (
        [to_numbers, one_behind],
        r"one_behind\(\) gave parts of a sample that it had pulled earlier",
    ),
    "two for one": ([two_for_one], r"two_for_one\(\) gave two outputs for one sample"),
    "all at once": ([all_at_once], r"all_at_once\(\) gave sample 'k0' after it pulled 'k49'"),
    "lists": ([lists_of_two], r"lists_of_two\(\) gave parts of a sample that it had pulled"),
    "threaded": ([threaded], r"threaded\(\) pulls samples ahead or in another thread"),
    "before it is asked": ([eager], r"eager\(\) pulls samples ahead or in another thread"),
    "changes the key": ([changes_key], r"changes_key\(\) gave sample 'other' after it pulled 'k0'"),
    "drops tuples unsaid": ([undeclared_dropper], r"undeclared_dropper\(\) have no __key__ .*may_drop\(stage\)"),
    "buffer inside": ([OwnStage(), one_behind, to_numbers], r"one_behind\(\)"),
}


@pytest.mark.parametrize(("stages", "message"), BREAKS.values(), ids=BREAKS)
def test_a_stage_that_breaks_the_tie_raises_before_a_wrong_one_leaves(stages: list[Any], message: str) -> None:
    def consume() -> None:
        for tie, payload in TiedChain(stages, samples()):
            assert number_of(payload) == tie

    with pytest.raises(PipelineError, match=message):
        consume()


def test_a_handler_that_stops_the_pipeline_is_an_error() -> None:
    stop = filters.map(lambda sample: 1 // (3 - sample["num"]), handler=lambda error: False)
    with pytest.raises(PipelineError, match=r"stopped before its samples did.*on_error='skip'"):
        list(TiedChain([stop], samples()))


def test_a_stage_keeps_its_state_over_samples() -> None:
    def numbered(source: Iterator[Any]) -> Iterator[Any]:
        for count, sample in enumerate(source):
            yield {**sample, "count": count}

    assert [payload["count"] for _, payload in TiedChain([numbered], samples())] == list(range(N))


def held_back(source: Iterator[Any]) -> Iterator[Any]:
    held: Any = (None,)
    for sample in source:
        yield held
        held = sample


def held_back_and_changed(source: Iterator[Any]) -> Iterator[Any]:
    held: Any = (None, 0)
    for sample in source:
        yield (held[0], 1)
        held = sample


@pytest.mark.parametrize("stage", [held_back, held_back_and_changed])
def test_a_stage_that_holds_tuples_back_behind_a_dummy_is_found_out(stage: Any) -> None:
    boxed = filters.map(lambda sample: ([sample["num"]],))
    with pytest.raises(PipelineError, match="gave parts of a sample that it had pulled earlier"):
        list(TiedChain([boxed, stage], samples()))


def test_what_all_samples_share_is_no_sign_of_holding_back() -> None:
    shared = object()

    def adds_shared(source: Iterator[Any]) -> Iterator[Any]:
        for sample in source:
            yield (*sample, shared)

    stages = [filters.map(lambda sample: (sample["num"], shared)), adds_shared, adds_shared]
    assert [payload[0] for _, payload in TiedChain(stages, samples())] == list(range(N))
