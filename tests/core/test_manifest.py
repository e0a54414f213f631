"""The manifest identifies a data set by its contents, and locates every sample index."""

from __future__ import annotations

import hashlib
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infobatch_stream.errors import ConfigError, EmptyShardError
from infobatch_stream.manifest import Manifest, shard_fingerprint

MEMBERS = [("a", "jpg", 512, 70, None), ("a", "cls", 1536, 1, b"3"), ("b/ü", "seg.png", 2560, 0, b"")]


def manifest(*counts: int) -> Manifest:
    names = tuple(f"s{number}.tar" for number in range(len(counts)))
    prints = tuple(bytes([number]) * 32 for number in range(len(counts)))
    return Manifest(names, counts, prints)


def test_shard_fingerprint_hashes_the_documented_bytes() -> None:
    expected = b""
    for key, extension, offset, size, inline in MEMBERS:
        for text in (key, extension):
            expected += struct.pack("<I", len(text.encode())) + text.encode()
        expected += struct.pack("<QQB", offset, size, inline is not None) + (inline or b"")
    assert shard_fingerprint(MEMBERS) == hashlib.blake2b(expected, digest_size=32).digest()


def test_shard_fingerprint_is_a_known_answer() -> None:
    assert shard_fingerprint(MEMBERS).hex() == ("d5f60370ece5f7aa87ee96a0978e83810c3321ae7f3e5de8d4601c10f700d470")


@pytest.mark.parametrize(
    "other",
    [
        [("a", "jpg", 512, 71, None), *MEMBERS[1:]],
        [("a", "jpg", 1024, 70, None), *MEMBERS[1:]],
        [("aj", "pg", 512, 70, None), *MEMBERS[1:]],
        [MEMBERS[0], ("a", "cls", 1536, 1, b"4"), MEMBERS[2]],
        [MEMBERS[1], MEMBERS[0], MEMBERS[2]],
        MEMBERS[:2],
    ],
)
def test_any_difference_in_members_changes_the_shard_fingerprint(other: list) -> None:
    assert shard_fingerprint(other) != shard_fingerprint(MEMBERS)


def test_shard_fingerprint_of_many_members_does_not_depend_on_the_pieces_of_hashing() -> None:
    members = [(f"{n}", "x", 512 * n, 1, b"y") for n in range(40_000)]
    records = b"".join(
        struct.pack("<I", len(key))
        + key.encode()
        + struct.pack("<I", 1)
        + b"x"
        + struct.pack("<QQB", offset, 1, 1)
        + b"y"
        for key, _, offset, _, _ in members
    )
    assert shard_fingerprint(iter(members)) == hashlib.blake2b(records, digest_size=32).digest()


def test_undecodable_key_bytes_are_hashed_unchanged() -> None:
    key = b"\xff\xfe".decode("utf-8", "surrogateescape")
    record = struct.pack("<I", 2) + b"\xff\xfe" + struct.pack("<I", 1) + b"x" + struct.pack("<QQB", 512, 65, 0)
    assert shard_fingerprint([(key, "x", 512, 65, None)]) == hashlib.blake2b(record, digest_size=32).digest()


def test_manifest_fingerprint_depends_only_on_shard_fingerprints_and_counts() -> None:
    prints = (b"\1" * 32, b"\2" * 32)
    expected = hashlib.blake2b(
        prints[0] + struct.pack("<Q", 3) + prints[1] + struct.pack("<Q", 4), digest_size=32
    ).digest()
    assert Manifest(("a", "b"), (3, 4), prints).fingerprint == expected
    assert Manifest(("/elsewhere/a", "c"), (3, 4), prints).fingerprint == expected
    assert Manifest(("a", "b"), (3, 4), prints[::-1]).fingerprint != expected


def test_offsets_are_running_sums_and_a_copy() -> None:
    data_set = manifest(2, 3, 1)
    assert data_set.offsets.dtype == np.int64
    assert data_set.offsets.tolist() == [0, 2, 5, 6]
    assert (data_set.num_shards, data_set.num_samples) == (3, 6)
    data_set.offsets[:] = 7
    assert data_set.offsets.tolist() == [0, 2, 5, 6]
    assert [part.tolist() for part in data_set.locate([4])] == [[1], [2]]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.data())
def test_locate_finds_the_shard_and_the_position(counts: list[int], data: st.DataObject) -> None:
    data_set = manifest(*counts)
    indices = data.draw(st.lists(st.integers(0, data_set.num_samples - 1), max_size=40))
    every = [(shard, position) for shard, count in enumerate(counts) for position in range(count)]
    shards, positions = data_set.locate(np.array(indices, dtype=np.int64))
    assert list(zip(shards.tolist(), positions.tolist(), strict=True)) == [every[index] for index in indices]
    assert shards.dtype == positions.dtype == np.int64


def test_a_manifest_pickles_without_its_caches() -> None:
    data_set = manifest(2, 3)
    before = len(pickle.dumps(data_set))
    assert data_set.num_samples == 5
    assert len(pickle.dumps(data_set)) == before
    assert pickle.loads(pickle.dumps(data_set)) == data_set


@pytest.mark.parametrize("index", [-1, 5])
def test_locate_refuses_an_index_out_of_range(index: int) -> None:
    with pytest.raises(ConfigError, match=rf"sample index {index} is out of range.*5 samples \(0 to 4\)"):
        manifest(2, 3).locate([0, index])


@pytest.mark.parametrize("indices", [np.zeros((2, 2), dtype=np.int64), np.array([0.0, 1.0])])
def test_locate_refuses_arrays_that_are_not_indices(indices: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="one-dimensional integer array; got"):
        manifest(9).locate(indices)


def test_an_empty_shard_is_named() -> None:
    with pytest.raises(EmptyShardError, match=r"s1\.tar: no sample in this shard; remove it"):
        manifest(2, 0, 3)


def test_an_overflowing_sum_names_the_shards() -> None:
    with pytest.raises(ConfigError, match=r"overflows an int64: s0\.tar to s2\.tar \(the first 3 "):
        manifest(2**62, 2**62 - 1, 1, 5)


def test_the_largest_sum_is_allowed() -> None:
    assert manifest(2**62, 2**62 - 1).num_samples == 2**63 - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), (), ()), "at least one shard"),
        ((("a",), (1, 2), (bytes(32),)), "one entry per shard; got 1, 2 and 1"),
        ((("a",), (-4,), (bytes(32),)), "a: a shard must have at least 1 sample; got -4"),
        ((("a",), (1,), (bytes(31),)), "a: a shard fingerprint must have 32 bytes; got 31"),
    ],
)
def test_invalid_manifests_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Manifest(*arguments)
