"""What belongs to webdataset's shard lists, readers and splitters is refused by name, however it is wrapped."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch.utils.data
import webdataset as wds
from webdataset import cache, compat, extradatasets, filters, mix, pipeline, shardlists, tariterators, utils

from infobatch_client.tie.chain import TiedChain
from infobatch_client.tie.refusals import refuse_if_tie_breaks
from infobatch_stream.errors import PipelineError

# Members that take samples one by one, or no samples at all.
HARMLESS = {
    cache: "LRUCleanup check_tar_format default_cache_dir download get_filetype islocal magic_filetype pipe_cleaner "
    "url_to_cache_name",
    compat: "FluidInterface check_empty",
    extradatasets: "",
    filters: "FilterFunction RestCurried compose compose2 decode_bin decode_pickle decode_text default_collation_fn "
    "combine_values dict2tuple find_decoder getfirst identity parse_field_spec pick pipeline pipelinefilter "
    "reraise_exception transform_with tuple2dict",
    mix: "",
    pipeline: "add_length_method",
    shardlists: "MSSource check_pid_is_running envlookup envsubst expand expand_source expand_urls "
    "get_pid_from_filename non_empty without_last_extension",
    tariterators: "base_plus_ext valid_sample",
    utils: "ObsoleteException PipelineStage compute_sample_weights deprecated fnmatch_with_braces glob_with_braces "
    "guess_batchsize identity is_iterable lookup_sym make_seed obsolete pytorch_worker_info pytorch_worker_seed "
    "safe_eval",
}


def members() -> Iterator[Any]:
    for module, harmless in HARMLESS.items():
        for name, member in vars(module).items():
            own = getattr(member, "__module__", None) == module.__name__
            public = own and callable(member) and not name.startswith("_")
            if public and name not in harmless.split() and not one_by_one(member):
                yield pytest.param(member, id=f"{module.__name__.partition('.')[2]}.{name}")


def one_by_one(member: Any) -> bool:
    """Whether it is one of webdataset's stages that take samples one by one."""
    kept = "associate decode extract_keys info log_keys map map_dict map_tuple rename rename_keys rsample select"
    kept += " to_tuple xdecode"
    return isinstance(member, filters.RestCurried) and member.__name__.lstrip("_") in kept.split()


@pytest.mark.parametrize("member", list(members()))
def test_every_other_member_of_webdataset_is_refused_by_name(member: Any) -> None:
    with pytest.raises(PipelineError, match="can't stand in an InfoBatchStreamDataset"):
        refuse_if_tie_breaks(member)


class OwnShards(wds.SimpleShardList):  # type: ignore[misc]
    pass


class OwnShuffle(wds.PipelineStage):  # type: ignore[misc]
    def run(self, source: Iterator[Any]) -> Iterator[Any]:
        return filters._shuffle(source, 5, 5)


class Reader:
    """As timm has it."""

    def _split_by_node_and_worker(self, source: Iterator[Any]) -> Iterator[Any]:
        yield from source

    def every_second(self, source: Iterator[Any]) -> Iterator[Any]:
        for sample in itertools.islice(source, 0, None, 2):
            yield {**sample}

    def __call__(self, source: Iterator[Any]) -> Iterator[Any]:
        return wds.split_by_worker(source)


def sliced(source: Iterator[Any], n: int = 2) -> Iterator[Any]:
    yield from itertools.islice(source, 0, None, n)


def closed_over(splitter: Callable[..., Any]) -> Callable[..., Any]:
    return lambda source: splitter(source)


@functools.wraps(wds.split_by_worker)
def decorated(source: Iterator[Any]) -> Iterator[Any]:
    yield from source


WRAPPED = {
    "function": (wds.split_by_worker, "wds.split_by_worker"),
    "partial": (functools.partial(wds.split_by_node, group=None), "wds.split_by_node"),
    "partial of a partial": (functools.partial(functools.partial(wds.split_by_node), group=None), "wds.split_by_node"),
    "curried": (filters.FilterFunction(wds.single_node_only), "wds.single_node_only"),
    "curried by pipelinefilter": (wds.pipelinefilter(wds.split_by_node)(), "wds.split_by_node"),
    "lambda": (lambda source: wds.split_by_worker(source), "wds.split_by_worker"),
    "lambda with a longer path": (lambda source: wds.shardlists.split_by_node(source, 1), "wds.split_by_node"),
    "closure": (closed_over(wds.split_by_node), "wds.split_by_node"),
    "decorated": (decorated, "wds.split_by_worker"),
    "callable object": (Reader(), "wds.split_by_worker"),
    "method by its name": (Reader()._split_by_node_and_worker, "_split_by_node_and_worker"),
    "method that slices": (Reader().every_second, "slices its samples"),
    "function that slices": (sliced, "slices its samples"),
    "partial of islice": (functools.partial(sliced, n=4), "slices its samples"),
    "subclass": (OwnShards(["a.tar"]), "wds.SimpleShardList"),
    "class that shuffles": (OwnShuffle(), r"\.shuffle\(\)"),
    "reader": (wds.tarfile_to_samples(), "wds.tarfile_to_samples"),
    "resampled": (wds.resampled(), "wds.resampled"),
    "pipeline": (wds.DataPipeline(wds.SimpleShardList(["a.tar"])), "wds.DataPipeline"),
    "loader": (torch.utils.data.DataLoader([1]), "a DataLoader"),
    "list of stages": ([wds.select(bool)], r"no pipeline stage.*compose\(first, second"),
    "nothing": (None, "None is no pipeline stage"),
}


@pytest.mark.parametrize(("stage", "name"), WRAPPED.values(), ids=WRAPPED)
def test_a_wrapper_hides_nothing(stage: Any, name: str) -> None:
    with pytest.raises(PipelineError, match=name):
        refuse_if_tie_breaks(stage)


def samples() -> Iterator[tuple[int, dict[str, Any]]]:
    for number in range(100):
        yield number, {"__key__": f"k{number}", "frames": iter(range(9)), "num": number}


def helper(source: Iterator[Any]) -> Iterator[Any]:
    return itertools.islice(source, 0, None, 2)


def through_a_helper(source: Iterator[Any]) -> Iterator[Any]:
    for sample in helper(source):
        yield {**sample}


def shuffled_inside(source: Iterator[Any]) -> Iterator[Any]:
    yield from wds.shuffle(1, initial=1)(source)


def split_inside(source: Iterator[Any]) -> Iterator[Any]:
    splitter = {"worker": wds.split_by_worker}["worker"]
    for sample in splitter(source):
        yield {**sample}


HIDDEN = {
    "sliced by a helper": (through_a_helper, r"through_a_helper\(\), which slices its samples"),
    "shuffled": (shuffled_inside, r"shuffled_inside\(\), which calls \.shuffle\(\)"),
    "split": (split_inside, r"split_inside\(\), which calls wds.split_by_worker"),
    "mapped": (lambda source: map(dict, helper(source)), "which slices its samples"),
    "behind a generator expression": (lambda source: (sample for sample in helper(source)), "which slices its samples"),
}


@pytest.mark.parametrize(("stage", "message"), HIDDEN.values(), ids=HIDDEN)
def test_what_the_code_hides_is_found_at_the_first_output(stage: Any, message: str) -> None:
    refuse_if_tie_breaks(stage)
    with pytest.raises(PipelineError, match=message):
        next(iter(TiedChain([stage], samples())))


def first_frames(source: Iterator[Any]) -> Iterator[Any]:
    for sample in source:
        yield {**sample, "frames": list(itertools.islice(sample["frames"], 3))}


def with_noise(source: Iterator[Any]) -> Iterator[Any]:
    noise = wds.split_by_worker(wds.shuffle(3)(iter(range(1000))))
    others = itertools.islice(itertools.count(), 0, None, 2)
    for sample in source:
        yield {**sample, "noise": next(noise), "other": next(others)}


def split_by_speaker(source: Iterator[Any]) -> Iterator[Any]:
    for sample in source:
        yield {**sample, "speaker": 0}


ALLOWED = [first_frames, with_noise, split_by_speaker, wds.shardlists.non_empty, compat.check_empty]


@pytest.mark.parametrize("stage", ALLOWED, ids=lambda stage: stage.__name__)
def test_a_stage_may_slice_and_split_what_are_not_its_samples(stage: Any) -> None:
    refuse_if_tie_breaks(stage)
    assert [payload["num"] for _, payload in TiedChain([stage], samples())] == list(range(100))


def test_the_walk_covers_the_modules() -> None:
    names = {parameter.id for parameter in members()}
    assert {"shardlists.split_by_node", "tariterators.tarfile_to_samples", "filters.detshuffle"} <= names


def test_a_stage_is_looked_at_before_all_of_its_names_exist() -> None:
    def stage(source: Iterator[Any]) -> Iterator[Any]:
        yield from later(source)

    refuse_if_tie_breaks(stage)  # `later` has no value yet
    later = wds.split_by_worker
    with pytest.raises(PipelineError, match="split_by_worker"):
        refuse_if_tie_breaks(stage)
