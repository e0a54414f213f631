"""What a script passes to webdataset's dataset or torch's DataLoader is refused by name, with what replaces it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from torch.utils.data import DataLoader
from webdataset.compat import FluidInterface

from infobatch_client.foreign_options import (
    DATA_LOADER,
    FLUID_METHODS,
    NOT_THE_DATASETS,
    NOT_THE_LOADERS,
    WEBDATASET,
)
from infobatch_stream import (
    ConfigError,
    Connection,
    InfoBatch,
    InfoBatchLoader,
    InfoBatchStreamDataset,
    Levels,
    SkipErrors,
)
from tests.shards import image_files, write_tar


def parameters(kind: type) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(kind.__init__).parameters)
    del found["self"]
    return found


def foreign(theirs: type, ours: type) -> list[str]:
    return sorted(parameters(theirs).keys() - parameters(ours).keys() - {"dataset"})


@pytest.fixture
def shards(tmp_path: Path) -> str:
    return str(write_tar(tmp_path / "a.tar", image_files(0, 5)))


@pytest.mark.parametrize("name", foreign(wds.WebDataset, InfoBatchStreamDataset))
def test_each_parameter_of_webdatasets_dataset_is_refused_by_name(name: str, shards: str) -> None:
    value = parameters(wds.WebDataset)[name].default
    with pytest.raises(ConfigError, match=rf"^{name}= is no argument of InfoBatchStreamDataset: "):
        InfoBatchStreamDataset(shards, epochs=3, **{name: value})


@pytest.mark.parametrize("name", foreign(DataLoader, InfoBatchLoader))
def test_each_parameter_of_torchs_loader_is_refused_by_name(name: str, shards: str) -> None:
    dataset = InfoBatchStreamDataset(shards, policy=None)
    with pytest.raises(ConfigError, match=rf"^{name}= is no argument of InfoBatchLoader: "):
        InfoBatchLoader(dataset, batch_size=2, **{name: parameters(DataLoader)[name].default})


@pytest.mark.parametrize("name", NOT_THE_DATASETS)
def test_a_keyword_of_another_object_says_whose_it_is(name: str, shards: str) -> None:
    owners: list[Any] = [InfoBatchLoader, Connection, SkipErrors, InfoBatch, Levels]
    assert any(name in inspect.signature(owner).parameters for owner in owners)
    with pytest.raises(ConfigError, match=f"^{name}= is no argument of InfoBatchStreamDataset: "):
        InfoBatchStreamDataset(shards, epochs=3, **{name: None})


@pytest.mark.parametrize("name", NOT_THE_LOADERS)
def test_a_keyword_of_the_dataset_is_not_the_loaders(name: str, shards: str) -> None:
    assert name in parameters(InfoBatchStreamDataset)
    with pytest.raises(ConfigError, match=f"^{name}= is no argument of InfoBatchLoader: it is the dataset's"):
        InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None), 2, **{name: None})


def test_the_tables_name_nothing_that_exists_here() -> None:
    assert not WEBDATASET.keys() & parameters(InfoBatchStreamDataset).keys()
    assert not DATA_LOADER.keys() & parameters(InfoBatchLoader).keys()
    assert not NOT_THE_DATASETS.keys() & parameters(InfoBatchStreamDataset).keys()
    assert not NOT_THE_LOADERS.keys() & parameters(InfoBatchLoader).keys()
    assert not FLUID_METHODS.keys() & {name for name in dir(InfoBatchLoader)}
    assert FLUID_METHODS.keys() <= {*dir(FluidInterface), *dir(wds.DataPipeline)}


def test_the_signatures_stay_as_they_are(shards: str) -> None:
    for kind in (InfoBatchStreamDataset, InfoBatchLoader):
        kinds = {parameter.kind for parameter in inspect.signature(kind).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds
    with pytest.raises(TypeError, match="unexpected keyword argument 'policies'"):
        InfoBatchStreamDataset(shards, epochs=3, policies="infobatch")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", FLUID_METHODS)
def test_a_method_of_webdatasets_loader_says_where_it_went(name: str, shards: str) -> None:
    loader: Any = InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None), batch_size=2)
    assert not hasattr(loader, name)
    with pytest.raises(
        AttributeError, match=f"'InfoBatchLoader' object has no attribute '{name}': .*{FLUID_METHODS[name][:9]}"
    ):
        getattr(loader, name)


def test_an_unknown_attribute_is_an_ordinary_error(shards: str) -> None:
    loader: Any = InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None), batch_size=2)
    with pytest.raises(AttributeError, match=r"has no attribute 'batches'$"):
        loader.batches  # noqa: B018


def test_a_loader_makes_the_batches(shards: str) -> None:
    with pytest.raises(ConfigError, match="here the loader makes them"):
        InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None), batch_size=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("positional", [True, False])
def test_torchs_third_positional_argument_is_no_number_of_workers(positional: bool, shards: str) -> None:
    with pytest.raises(ConfigError, match="num_workers"):
        InfoBatchLoader(InfoBatchStreamDataset(shards, policy=None), 2, positional)
