"""A row's copy shares nothing that can be written into, whatever the row is made of."""

from __future__ import annotations

import io
import threading
import warnings
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from infobatch_client.tie.row_copy import row_copy

Pair = namedtuple("Pair", "x boxes")


@dataclass(frozen=True)
class Frozen:
    x: torch.Tensor
    boxes: list[int]


@dataclass(slots=True)
class Slotted:
    x: torch.Tensor
    boxes: list[int]


class Anything:
    def __init__(self) -> None:
        self.x = torch.zeros(2)
        self.boxes = [0]


class Fields(UserDict[str, Any]):
    """As transformers' BatchEncoding."""


class Own(torch.Tensor):
    """As torchvision's tv_tensors."""


leaf = torch.ones(2, requires_grad=True)


ROWS: dict[str, tuple[Any, Any]] = {  # a row, and the way to a part of it that is written into
    "tensor": (torch.zeros(2), lambda row: row),
    "with_graph": (leaf * 2, lambda row: row),
    "leaf": (leaf, lambda row: row),
    "subclass": (torch.zeros(2).as_subclass(Own), lambda row: row),
    "expanded": (torch.zeros(1).expand(3), lambda row: row.numpy()),
    "array": (np.zeros(2), lambda row: row),
    "objects": (np.array([np.zeros(2), None], object), lambda row: row[0]),
    "structured": (np.zeros(2, [("a", "f4")]), lambda row: row["a"]),
    "array_of_bytes": (np.frombuffer(b"\0\0\0\0", np.float32), lambda row: row),
    "bytes": (b"\0\0\0\0", lambda row: np.frombuffer(row, np.float32)),
    "bytearray": (bytearray(4), lambda row: np.frombuffer(row, np.float32)),
    "memoryview": (memoryview(bytearray(4)), lambda row: np.frombuffer(row, np.float32)),
    "image": (Image.new("L", (2, 2)), lambda row: row),
    "buffer": (io.BytesIO(b"\0\0\0\0"), lambda row: np.frombuffer(row.getbuffer(), np.float32)),
    "nested": (({"a": [torch.zeros(2)]}, 1), lambda row: row[0]["a"][0]),
    "named_tuple": (Pair(torch.zeros(2), [0]), lambda row: row.x),
    "ordered": (OrderedDict(a=leaf * 2), lambda row: row["a"]),
    "default": (defaultdict(list, a=[torch.zeros(2)]), lambda row: row["a"][0]),
    "user_dict": (Fields(a=leaf * 2), lambda row: row["a"]),
    "frozen": (Frozen(leaf * 2, [0]), lambda row: row.x),
    "slotted": (Slotted(leaf * 2, [0]), lambda row: row.x),
    "object": (Anything(), lambda row: row.x),
}


def write(part: Any) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if isinstance(part, Image.Image):
            return part.paste(9, (0, 0, 2, 2))
        (torch.from_numpy(part) if isinstance(part, np.ndarray) else part).fill_(9)


def text(part: Any) -> str:
    return str(np.asarray(part).tolist() if isinstance(part, Image.Image) else part.tolist())


@pytest.mark.parametrize("name", ROWS)
def test_writing_into_a_copy_leaves_the_row_and_other_copies_alone(name: str) -> None:
    row, part = ROWS[name]
    before = text(part(row))
    one, other = row_copy(row), row_copy(row)
    assert type(one) is type(row)
    assert text(part(one)) == before
    write(part(one))
    assert text(part(one)) != before
    assert text(part(row)) == text(part(other)) == before


@pytest.mark.parametrize("name", ["named_tuple", "frozen", "slotted", "object"])
def test_every_member_is_copied(name: str) -> None:
    row = ROWS[name][0]
    row_copy(row).boxes.append(1)
    assert row.boxes == [0]


def test_a_tensors_copy_keeps_what_it_is() -> None:
    half, parameter = torch.zeros(2, dtype=torch.float16), torch.nn.Parameter(torch.ones(2))
    image = torch.zeros(1, 3, 4, 4).to(memory_format=torch.channels_last)
    assert row_copy(half).dtype == torch.float16
    assert row_copy(leaf * 2).requires_grad
    assert not row_copy(half).requires_grad
    assert isinstance(row_copy(parameter), torch.nn.Parameter)
    assert row_copy(image).is_contiguous(memory_format=torch.channels_last)


def test_only_the_row_is_copied_and_not_what_it_is_a_view_of() -> None:
    table = torch.zeros(1000, 10)
    assert row_copy(table[3]).untyped_storage().nbytes() == 40
    assert row_copy({"a": Frozen(table[3], [])})["a"].x.untyped_storage().nbytes() == 40


def test_a_part_that_occurs_twice_is_one_part_of_the_copy_too() -> None:
    part = torch.zeros(2)
    loop: list[Any] = [part, (part, {"again": part})]
    loop.append(loop)
    made = row_copy(loop)
    assert made[0] is made[1][0] is made[1][1]["again"] is not part
    assert made[2] is made


def test_numbers_and_texts_cost_nothing() -> None:
    row = ("a" * 1000, 10**20, 1.5, None, np.float32(2))
    assert all(mine is theirs for mine, theirs in zip(row_copy(row), row, strict=True))


def test_a_part_that_cant_be_copied_is_shared_and_named_once() -> None:
    class Locked:
        def __init__(self) -> None:
            self.lock, self.x = threading.Lock(), torch.zeros(2)

    row = {"x": torch.zeros(2), "numbers": (n for n in range(3)), "locked": Locked()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert row_copy(row, warn=False)["numbers"] is row["numbers"]
        assert not caught
        made = row_copy(row)
        row_copy(row)
    assert made["numbers"] is row["numbers"]
    assert made["locked"].lock is row["locked"].lock  # type: ignore[attr-defined]
    assert made["x"] is not row["x"]
    assert made["locked"].x is not row["locked"].x  # type: ignore[attr-defined]
    assert [str(warning.message).split(" with ")[0] for warning in caught] == [
        "rows that fill a batch share a builtins.generator",
        "rows that fill a batch share a _thread.lock",
    ]
