"""The dataset's arguments: few keywords, and a shorthand that stands for an object."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest

from infobatch_client.run.options import Timeouts
from infobatch_stream import Connection, Hard, InfoBatch, InfoBatchStreamDataset, Random, SkipErrors
from infobatch_stream.errors import ConfigError, ShardError
from infobatch_stream.pruning.policies import Policy
from tests.shards import write_tar


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("shards") / "a.tar"
    write_tar(path, [(f"{sample}.txt", b"x") for sample in range(9)])
    return str(path)


def policy_of(dataset: InfoBatchStreamDataset) -> Policy:
    assert dataset.options is not None
    return dataset.options.policy


def test_its_keywords_are_these() -> None:
    parameters = inspect.signature(InfoBatchStreamDataset).parameters.values()
    assert [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY] == [
        *("url", "run", "epochs", "policy", "prune_ratio", "delta", "subset", "groups", "seed"),
        *("score_name", "order", "shuffle", "on_error", "drops", "batch_size", "connection"),
    ]


@pytest.mark.parametrize(
    ("shorthand", "policy"),
    [
        ({}, InfoBatch()),
        ({"prune_ratio": 0.3, "delta": 0.8}, InfoBatch(prune_ratio="0.3", delta="0.8")),
        ({"policy": "random", "prune_ratio": "0.30"}, Random(prune_ratio=0.3)),
        ({"policy": "hard", "delta": "0.5"}, Hard(delta=0.5)),
    ],
)
def test_name_ratio_and_delta_stand_for_an_object(shorthand: dict[str, object], policy: Policy, shards: str) -> None:
    short = InfoBatchStreamDataset(shards, epochs=10, **shorthand)  # type: ignore[arg-type]
    assert policy_of(short) == policy_of(InfoBatchStreamDataset(shards, epochs=10, policy=policy)) == policy


def test_a_policy_and_a_connection_pickle_with_the_dataset(shards: str) -> None:
    connection = Connection(timeouts=Timeouts(call_timeout_s=3), if_exists="restart", takeover=True)
    policy = InfoBatch(prune_schedule=[(0, 0.5)], threshold="quantile:0.4")
    dataset = InfoBatchStreamDataset(shards, url="127.0.0.1:1", epochs=10, policy=policy, connection=connection)
    options = pickle.loads(pickle.dumps(dataset)).options
    assert (options.policy, options.connection) == (policy, connection)
    assert (options.timeouts.call_timeout_s, options.if_exists, options.takeover) == (3, "restart", True)


def test_a_folder_is_stored_as_text() -> None:
    assert Connection(state_dir=Path("a") / "b").state_dir == "a/b"


@pytest.mark.parametrize(
    ("on_error", "skips", "max_errors"),
    [("raise", False, 0), ("skip", True, 1000), (SkipErrors(max_errors=3), True, 3)],
)
def test_on_error_is_a_word_or_a_limit(on_error: str | SkipErrors, skips: bool, max_errors: int, shards: str) -> None:
    source = InfoBatchStreamDataset(shards, policy=None, on_error=on_error).sample_source()
    assert (source.on_error == "skip", source.max_errors) == (skips, max_errors)


def test_max_errors_is_a_whole_number() -> None:
    with pytest.raises(ConfigError, match="max_errors=-1 must be at least 0"):
        SkipErrors(max_errors=-1)


def test_max_shards_is_a_whole_number_or_none() -> None:
    assert SkipErrors().max_shards is None
    assert SkipErrors(max_shards=2).max_shards == 2
    with pytest.raises(ConfigError, match="max_shards=-1 must be at least 0"):
        SkipErrors(max_shards=-1)


def test_a_listed_shard_that_does_not_exist_is_bad(shards: str) -> None:
    pattern = shards.replace("a.tar", "{a,b,c}.tar")
    both = r"\n.*b\.tar: no such shard.*\n.*c\.tar: no such shard"
    with pytest.raises(ShardError, match=rf"2 of 3 shards can't be used.*{both}"):
        InfoBatchStreamDataset(pattern, policy=None)
    with pytest.warns(UserWarning, match=rf"2 of 3 shards are left out .*{both}"):
        dataset = InfoBatchStreamDataset(pattern, policy=None, on_error="skip")
    assert list(dataset.left_out) == [shards.replace("a.tar", name) for name in ("b.tar", "c.tar")]


def test_shorthand_beside_an_object_says_where_to_put_it(shards: str) -> None:
    with pytest.raises(ConfigError, match=r"delta= beside a policy object: put it into .* Random\(delta=0.5, …\)"):
        InfoBatchStreamDataset(shards, epochs=10, policy=Random(), delta=0.5)


def test_a_policys_class_is_told_to_be_called(shards: str) -> None:
    with pytest.raises(ConfigError, match=r"policy=InfoBatch is a class; call it, as in policy=InfoBatch\(…\)"):
        InfoBatchStreamDataset(shards, epochs=4, policy=InfoBatch)  # type: ignore[arg-type]
