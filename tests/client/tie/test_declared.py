"""A stage without keys is asked at its first sample whether it drops any; one that merges samples is found out."""

from __future__ import annotations

import functools
import pickle
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import webdataset as wds
from webdataset import filters

from infobatch_client.tie.chain import TiedChain
from infobatch_stream import PipelineError, may_drop

N = 200
to_pairs = filters.map(lambda sample: (torch.tensor([sample["num"]]), sample["txt"]))


def samples() -> Iterator[tuple[int, dict[str, Any]]]:
    for number in range(N):
        yield number, {"__key__": f"utt/{number}", "txt": f"text {number}", "num": number}


def consume(*stages: Any, shuffled: bool = True) -> list[int]:
    """The ties of all outputs, each compared with the sample that the output was made of."""
    ties = []
    for tie, payload in TiedChain(stages, samples(), shuffled=shuffled):
        assert int(payload[0]) == tie
        ties.append(tie)
    return ties


def plain_loop(source: Iterator[Any]) -> Iterator[Any]:
    for tensor, text in source:
        yield tensor + 0, len(text)


def both_branches(source: Iterator[Any]) -> Iterator[Any]:
    for _, (tensor, text) in enumerate(source):
        try:
            size = len(text)
        except TypeError as error:
            raise ValueError(text) from error
        for _ in range(3):
            if size:
                continue
        if size % 2:
            yield tensor + 0, 1
            continue
        yield tensor + 0, 0


class Method:
    def one(self, source: Iterator[Any]) -> Iterator[Any]:
        for tensor, text in source:
            yield tensor + 0, len(text)

    def some(self, source: Iterator[Any]) -> Iterator[Any]:
        for tensor, text in source:
            if not text.endswith("3"):
                yield tensor + 0, len(text)

    def __call__(self, source: Iterator[Any]) -> Iterator[Any]:
        return self.some(source)

    @may_drop
    def declared(self, source: Iterator[Any]) -> Iterator[Any]:
        return self.some(source)


class AsStage(wds.PipelineStage):  # type: ignore[misc]
    def run(self, source: Iterator[Any]) -> Iterator[Any]:
        for tensor, _ in source:
            yield tensor + 0, 1


ONE_FOR_ONE = {
    "loop": plain_loop,
    "branches": both_branches,
    "method": Method().one,
    "stage": AsStage(),
    "partial": functools.partial(plain_loop),
    "curried": wds.pipelinefilter(plain_loop)(),
    "map": lambda source: map(lambda pair: (pair[0] + 0, 1), source),
    "expression": lambda source: ((tensor + 0, 1) for tensor, _ in source),
}


@pytest.mark.parametrize("stage", ONE_FOR_ONE.values(), ids=ONE_FOR_ONE)
def test_a_source_that_shows_one_output_for_each_sample_needs_no_declaration(stage: Any) -> None:
    assert consume(to_pairs, stage) == list(range(N))


def skips_the_last(source: Iterator[Any]) -> Iterator[Any]:
    for tensor, _ in source:
        if int(tensor) != N - 2:
            yield tensor + 0, 1


def continues(source: Iterator[Any]) -> Iterator[Any]:
    for tensor, _ in source:
        if int(tensor) == N - 2:
            continue
        yield tensor + 0, 1


def leaves_out_errors(source: Iterator[Any]) -> Iterator[Any]:
    for tensor, _ in source:
        try:
            yield tensor + 0, 1 // (N - 2 - int(tensor))
        except ZeroDivisionError:
            continue


def pulls_inside(source: Iterator[Any]) -> Iterator[Any]:
    for tensor, _ in source:
        if int(tensor) == N - 2:
            tensor, _ = next(source)
        yield tensor + 0, 1


def ends_early(source: Iterator[Any]) -> Iterator[Any]:
    for tensor, _ in source:
        if int(tensor) == N - 2:
            break
        yield tensor + 0, 1


def one_more_at_the_end(source: Iterator[Any]) -> Iterator[Any]:
    for tensor, _ in source:
        yield tensor + 0, 1
    yield torch.tensor([0]), 1


UNCLEAR = {
    "if": skips_the_last,
    "continue": continues,
    "except": leaves_out_errors,
    "next": pulls_inside,
    "break": ends_early,
    "behind the loop": one_more_at_the_end,
    "object": Method(),
    "method": Method().some,
    "filter": lambda source: ((tensor + 0, 1) for tensor, _ in source if tensor[0] != N - 2),
    "without a source": eval("lambda source: ((tensor + 0, 1) for tensor, _ in source)"),
}


@pytest.mark.parametrize("stage", UNCLEAR.values(), ids=UNCLEAR)
def test_a_stage_that_may_drop_is_asked_at_its_first_sample(stage: Any) -> None:
    chain = TiedChain([to_pairs, stage], samples())
    with pytest.raises(PipelineError, match=r"have no __key__ .* say by infobatch_stream.may_drop\(stage\)"):
        next(iter(chain))
    assert chain.num_pulled == 1


class Filter:
    """An iterator object, as NeMo's manifest filter is."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while True:
            tensor, text = next(self._source)
            if int(tensor) % 3:
                return tensor, text


def passes_on(source: Iterator[Any]) -> Iterator[Any]:
    for pair in source:
        if int(pair[0]) % 3:
            yield pair


@pytest.mark.parametrize("stage", [Filter, passes_on])
def test_a_filter_that_passes_its_samples_on_needs_no_declaration(stage: Any) -> None:
    assert consume(to_pairs, stage) == [number for number in range(N) if number % 3]


@may_drop
def declared_at_its_definition(source: Iterator[Any]) -> Iterator[Any]:
    yield from Method().some(source)


def by_attribute(source: Iterator[Any]) -> Iterator[Any]:
    yield from Method().some(source)


by_attribute.may_drop = True  # type: ignore[attr-defined]
DECLARED = {
    "bound method": may_drop(Method().some),
    "method declared in its class": Method().declared,
    "callable object": may_drop(Method()),
    "partial": may_drop(functools.partial(Method.some, Method())),
    "decorator": declared_at_its_definition,
    "attribute": by_attribute,
    "partial of an attribute": functools.partial(by_attribute),
    "webdataset's": may_drop(filters.select(lambda pair: not pair[1].endswith("3"))),
}


@pytest.mark.parametrize("stage", DECLARED.values(), ids=DECLARED)
def test_a_declared_stage_drops(stage: Any) -> None:
    assert consume(to_pairs, stage) == [number for number in range(N) if number % 10 != 3]


@pytest.mark.parametrize("name", [name for name in DECLARED if "attribute" not in name and "webdataset" not in name])
def test_a_declaration_pickles(name: str) -> None:
    stage = pickle.loads(pickle.dumps(DECLARED[name]))
    assert consume(to_pairs, stage) == [number for number in range(N) if number % 10 != 3]
    assert "some" in repr(stage) or "Method" in repr(stage) or "declared_at_its_definition" in repr(stage)


def test_a_stage_that_promises_to_drop_nothing_is_held_to_it() -> None:
    with pytest.raises(PipelineError, match=r"declared to give one output .*, but pulled 2 for one: if it drops"):
        consume(to_pairs, may_drop(Method().some, False))


def test_a_stage_that_holds_samples_back_hears_so_and_nothing_of_crops() -> None:
    def buffered(source: Iterator[Any]) -> Iterator[Any]:
        held = []
        for tensor, text in source:
            held.append((tensor + 0, len(text)))
            if len(held) == 5:
                yield held.pop()
                yield held.pop()

    with pytest.raises(PipelineError, match="holds samples back, as a shuffle or a prefetcher does") as caught:
        consume(to_pairs, may_drop(buffered))
    assert "crops" not in str(caught.value)


def test_a_refused_stage_can_not_be_declared() -> None:
    with pytest.raises(PipelineError, match=r"wds\.split_by_worker can't stand"):
        may_drop(wds.split_by_worker)


def packs_tensors(source: Iterator[Any]) -> Iterator[Any]:
    held = []
    for tensor, _ in source:
        held.append(tensor)
        if len(held) == 3:
            yield torch.cat(held), 3
            held = []


def packs_numbers(source: Iterator[Any]) -> Iterator[Any]:
    held = []
    for tensor, _ in source:
        held.append(int(tensor))
        if len(held) == 3:
            yield held[0], 3
            held = []


def packs_up_to_a_budget(source: Iterator[Any]) -> Iterator[Any]:
    rng, total, size = random.Random(0), 0, 0
    for tensor, _ in source:
        total, size = total + int(tensor), size + rng.randint(2, 3)
        if size >= 8:
            yield total, size
            total = size = 0


@pytest.mark.parametrize(("stage", "outputs"), [(packs_tensors, 0), (packs_numbers, 11), (packs_up_to_a_budget, 23)])
def test_a_packer_is_found_out_in_spite_of_its_declaration(stage: Any, outputs: int) -> None:
    left = []
    with pytest.raises(PipelineError, match=r"merges or packs them.*collate_fn"):
        left.extend(tie for tie, _ in TiedChain([to_pairs, may_drop(stage)], samples()))
    assert len(left) == outputs


@pytest.mark.parametrize("share", [0.05, 0.23, 0.5, 0.9])
def test_a_filter_is_not_taken_for_a_packer(share: float) -> None:
    rng = random.Random(1)

    def keeps(source: Iterator[Any]) -> Iterator[Any]:
        for tensor, _ in source:
            if rng.random() < share:
                yield tensor + 0, 1

    for _ in range(50):
        consume(to_pairs, may_drop(keeps))


def test_a_periodic_filter_in_index_order_is_not_taken_for_a_packer() -> None:
    def odd(source: Iterator[Any]) -> Iterator[Any]:
        for tensor, _ in source:
            if int(tensor) % 2:
                yield tensor + 0, 1

    assert consume(to_pairs, may_drop(odd), shuffled=False) == list(range(1, N, 2))


def test_a_stage_that_gives_the_views_of_a_sample_apart_is_told_to_put_them_together() -> None:
    def views(source: Iterator[Any]) -> Iterator[Any]:
        for sample in source:
            for view in range(2):
                yield {**sample, "__key__": f"{sample['__key__']}_{view}"}

    with pytest.raises(PipelineError, match="put those crops or views into one tuple"):
        consume(views)
