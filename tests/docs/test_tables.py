"""The tables of the docs name what the code has: stages, metrics, options, fields."""

from __future__ import annotations

import argparse
import inspect
import itertools
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import webdataset as wds
from torch.utils.data import DataLoader
from webdataset import filters
from webdataset.compat import FluidInterface

import infobatch_stream
from infobatch_client.foreign_options import DATA_LOADER, WEBDATASET
from infobatch_server import serve_command
from infobatch_server.web.api import RunDetails
from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset, PipelineError, errors
from infobatch_stream.pruning.policies import POLICIES
from tests.docs.blocks import ROOT
from tests.docs.shell import working_in
from tests.docs.stage import Names, Stage


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    text = (ROOT / "docs" / page).read_text().partition(f"# {heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", text, re.M)
    assert table, f"no table below {heading!r} in {page}"
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[0].splitlines()[2:]]


def names(cell: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


# A call of each stage that the table of pipelines has, on a dataset of decoded samples.
WORKS: dict[str, Callable[[Any], Any]] = {
    "decode": lambda d: d.decode("pil"),
    "xdecode": lambda d: d.xdecode(must_decode=False),
    "to_tuple": lambda d: d.to_tuple("jpg", "cls"),
    "extract_keys": lambda d: d.extract_keys("*.jpg", "*.cls"),
    "rename": lambda d: d.rename(image="jpg"),
    "rename_keys": lambda d: d.rename_keys(image="jpg"),
    "map": lambda d: d.map(dict),
    "map_dict": lambda d: d.map_dict(cls=int),
    "map_tuple": lambda d: d.to_tuple("jpg", "cls").map_tuple(len, int),
    "log_keys": lambda d: d.log_keys(),
    "select": lambda d: d.select(lambda sample: sample["cls"] != b"3"),
    "rsample": lambda d: d.rsample(0.9),
    "compose": lambda d: d.compose(lambda samples: ({**sample} for sample in samples)),
    "associate": lambda d: d.compose(filters.associate({})),
    "info": lambda d: d.compose(filters.info()),
}
REFUSED: dict[str, Callable[[Any], Any]] = {
    "shuffle": lambda d: d.shuffle(10),
    "detshuffle": lambda d: d.compose(wds.detshuffle(10)),
    "batched": lambda d: d.batched(2),
    "listed": lambda d: d.listed(2),
    "unbatched": lambda d: d.unbatched(),
    "unlisted": lambda d: d.unlisted(),
    "mcached": lambda d: d.mcached(),
    "lmdb_cached": lambda d: d.lmdb_cached("cache.lmdb"),
    "slice": lambda d: d.slice(5),
    "SimpleShardList": lambda d: d.compose(wds.SimpleShardList(["a.tar"])),
    "ResampledShards": lambda d: d.compose(wds.ResampledShards(["a.tar"])),
    "tarfile_to_samples": lambda d: d.compose(wds.tarfile_to_samples()),
    "split_by_node": lambda d: d.compose(wds.split_by_node),
    "split_by_worker": lambda d: d.compose(wds.split_by_worker),
    "single_node_only": lambda d: d.compose(wds.single_node_only),
    "with_epoch": lambda d: d.with_epoch(5),
    "repeat": lambda d: d.repeat(2),
    "with_length": lambda d: d.with_length(5),
}


def listed_stages() -> dict[str, bool]:
    """Stage → whether the table says that it works."""
    stages = {}
    for script, here in rows("pipelines.md", "Stages"):
        for stage in re.findall(r"(?:`|, )(?:\.|wds\.)([A-Za-z_]+)(?:\(|`)", script):
            stages[stage] = not here.startswith("leave it out")
    return stages


def test_the_table_of_pipelines_has_every_stage_of_webdatasets_fluid_interface() -> None:
    fluid = {name for name in vars(FluidInterface) if not name.startswith("_")}
    assert fluid <= set(listed_stages())
    assert listed_stages() == {**dict.fromkeys(WORKS, True), **dict.fromkeys(REFUSED, False)}


@pytest.mark.filterwarnings("ignore:the pipeline has dropped")  # what rsample is for
@pytest.mark.parametrize("name", WORKS)
def test_a_stage_that_the_table_keeps_works(name: str, stage: Stage) -> None:
    with working_in(stage.folder):
        dataset = WORKS[name](InfoBatchStreamDataset("data/val-{0000..0001}.tar", policy=None))
        loader = InfoBatchLoader(dataset, batch_size=5, collate_fn=list)
        assert len(list(itertools.chain.from_iterable(loader))) == 10


@pytest.mark.parametrize("name", REFUSED)
def test_a_stage_that_the_table_leaves_out_is_refused(name: str, stage: Stage) -> None:
    with working_in(stage.folder):
        dataset = InfoBatchStreamDataset("data/val-{0000..0001}.tar", policy=None)
        with pytest.raises(PipelineError, match="leave it out"):
            REFUSED[name](dataset)


@pytest.mark.parametrize(
    ("heading", "theirs", "ours", "refused"),
    [
        ("Arguments of the dataset", wds.WebDataset, InfoBatchStreamDataset, WEBDATASET),
        ("Arguments of the loader", DataLoader, InfoBatchLoader, DATA_LOADER),
    ],
)
def test_the_tables_of_arguments_have_every_one_that_moves(
    heading: str, theirs: type, ours: type, refused: dict[str, str]
) -> None:
    listed = {
        name[:-1]: here for script, here in rows("pipelines.md", heading) for name in names(script) if name[-1] == "="
    }
    known = inspect.signature(theirs).parameters.keys() - {"dataset", "batch_size", "num_workers", "seed"}
    assert listed.keys() == known
    for name in known:
        assert (name in refused) == (name not in inspect.signature(ours).parameters)
        if name in refused:
            assert listed[name].startswith("leave it out") == refused[name].startswith("leave it out")


def test_the_table_of_metrics_has_every_key(stage: Stage) -> None:
    listed = {name for cells in rows("loops.md", "What to log") for name in names(cells[0])}
    stage.delete_runs()
    with working_in(stage.folder):
        values = Names(stage.server.url)
        with values.get("loader") as loader:
            for _, _ in zip(range(2), loader.epochs(), strict=False):
                for images, labels in loader:
                    loader.update(values.get("criterion")(values.get("model")(images), labels))
            assert set(loader.metrics()) == listed


def test_the_options_of_serve_are_those_of_the_command() -> None:
    parser = argparse.ArgumentParser()
    serve_command.add_arguments(parser)
    options = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    listed = {names(cells[0])[0].split()[0] for cells in rows("server.md", "Start it")}
    for_programs = {"--endpoint-file", "--private", "--exit-when-unused"}
    assert listed == options - {"--help"} - for_programs


def test_the_fields_of_statistics_are_those_of_rest() -> None:
    listed = {name for cells in rows("server.md", "Statistics") for name in names(cells[0])}
    assert listed
    assert listed <= set(RunDetails.model_fields)


def test_the_settings_of_each_policy_are_in_the_table() -> None:
    classes = {policy.__name__: policy for policy in POLICIES.values()}
    own_settings = {names(cells[0])[0]: set(names(cells[2])) for cells in rows("policies.md", "What each one prunes")}
    assert set(own_settings) == set(classes)
    listed: dict[str, set[str]] = {name: set() for name in classes}
    for setting, policies, *_ in rows("policies.md", "Settings"):
        for policy in names(policies) or classes:
            listed[policy] |= set(names(setting))
    for name, policy in classes.items():
        assert listed[name] == {field.name for field in fields(policy)}
        assert own_settings[name] <= listed[name]


def test_the_api_reference_has_every_public_name() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    documented = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", text, re.M)}
    assert "::: infobatch_stream.errors\n" in text
    assert set(infobatch_stream.__all__) - set(errors.__all__) - {"__version__"} <= documented
