"""Shards in groups, by the patterns that a user gives."""

from __future__ import annotations

import os
import re

import pytest

from infobatch_client.shards.groups import group_shards
from infobatch_stream.errors import ConfigError

SHARDS = ["data/web/web-0.tar", "data/web/web-1.tar", "data/books/b[0].tar"]


@pytest.mark.parametrize(
    ("web", "books"),
    [
        ("web-*.tar", "b*.tar"),
        ("web-{0..1}.tar", "b[[]0].tar"),
        ("data/web/*", "data/books/*"),
        ("web/*.tar", "books/*.tar"),
        ("./data/web/*.tar", "b[0].tar"),
        ("file:data/web/*.tar", os.path.abspath("data/books/*.tar")),
        ("*web*", "data/books/b[0].tar"),
        ("*/web-?.tar", "*0].tar"),
    ],
)
def test_a_pattern_is_of_a_file_name_or_a_path(web: str, books: str) -> None:
    assert group_shards({"web": web, "books": books}, SHARDS) == (("books", "web"), [1, 1, 0])


@pytest.mark.parametrize("folder", ["/code/books", "/mnt/cache/web-cache", "/c"])
def test_where_the_data_set_lies_decides_nothing(folder: str) -> None:
    shards = [f"{folder}/{shard}" for shard in SHARDS]
    patterns = {"web": "web-*", "books": "b*"}
    assert group_shards(patterns, shards) == (("books", "web"), [1, 1, 0])
    with pytest.raises(ConfigError, match="no shard is in group 'code'"):
        group_shards({**patterns, "code": "c*"}, shards)


def test_the_order_of_the_names_decides_nothing() -> None:
    patterns = {"web": "web-*", "books": "b[[]*"}
    assert group_shards(patterns, SHARDS) == group_shards(dict(reversed(patterns.items())), SHARDS)


def test_file_urls_are_compared_by_their_path() -> None:
    urls = ["file:///data/web%201/a.tar", "file:///data/books/b.tar"]
    assert group_shards({"web": "web 1/*.tar", "books": "books/*"}, urls) == (("books", "web"), [1, 0])


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"web": "web-0*", "books": "b*"}, "shard data/web/web-1.tar is in no group"),
        ({"books": "b*"}, "shards data/web/web-0.tar, data/web/web-1.tar are in no group"),
        ({"web": "*.tar", "books": "b*"}, "shard data/books/b[0].tar is in 2 groups, 'books' (b*), 'web' (*.tar)"),
        ({"web": "web-*", "books": "b*", "code": "c*"}, "no shard is in group 'code' (c*)"),
        ({"web": "WEB-*", "books": "b*"}, "are in no group"),
        ({}, "give a dict of names and patterns of shards"),
        (["web-*"], "give a dict of names and patterns of shards"),
        ({"web": ["web-*"]}, "'web' has ['web-*']; each name must have a pattern"),
        ({"web": ""}, "'web' has ''"),
        ({3: "*"}, "3 has '*'"),
    ],
)
def test_each_shard_is_in_one_group_and_each_group_has_one(patterns: object, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        group_shards(patterns, SHARDS)  # type: ignore[arg-type]


def test_of_many_shards_in_no_group_some_are_named() -> None:
    with pytest.raises(ConfigError, match=re.escape("shards s0, s1, s2 and 7 more are in no group")):
        group_shards({"web": "x"}, [f"s{number}" for number in range(10)])
