"""Sizes on the command line."""

from __future__ import annotations

import pytest

from infobatch_server.process.byte_size import parse_bytes
from infobatch_stream.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("0", 0),
        ("200000000", 200_000_000),
        ("200_000_000", 200_000_000),
        ("512MiB", 512 * 2**20),
        ("1GB", 10**9),
        ("1gb", 10**9),
        ("2GiB", 2**31),
        ("2gib", 2**31),
        ("2G", 2 * 10**9),
        ("2Gi", 2**31),
        ("1.5 GB", 1_500_000_000),
        ("0.1kB", 100),
        ("1.0001KiB", 1024),
        ("64KiB", 65_536),
        ("3TiB", 3 * 2**40),
        (" 7 B ", 7),
        ("9007199254740993B", 2**53 + 1),
    ],
)
def test_sizes(text: str, num_bytes: int) -> None:
    assert parse_bytes(text, "--size") == num_bytes


@pytest.mark.parametrize(
    "text", ["", "GB", "-1", "1e9", "1 GiBs", "1GBit", "1iB", "½GB", "٣GB", "1,000", "0x10", "inf", ".5GB", "1..5GB"]
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="--size must be a size in bytes, such as 2000000000, 2GB or 512MiB; got '"):
        parse_bytes(text, "--size")


def test_a_size_below_the_least_is_refused_with_both() -> None:
    assert parse_bytes("1MiB", "--size", at_least=2**20) == 2**20
    with pytest.raises(ConfigError, match=r"--size must be at least 1,048,576 bytes; '1MB' is 1,000,000"):
        parse_bytes("1MB", "--size", at_least=2**20)
