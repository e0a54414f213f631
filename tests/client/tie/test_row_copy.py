"""A row's copy shares nothing that can be written into, whatever the row is made of."""

from __future__ import annotations

import copy
import io
import threading
import warnings
from collections import Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
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


class WithBoxes:
    __slots__ = ("boxes",)
    boxes: list[int]


@dataclass
class OverSlots(WithBoxes):
    x: torch.Tensor


@dataclass(frozen=True, slots=True)
class FrozenOverSlots(WithBoxes):
    x: torch.Tensor


class SlotDict(dict[str, Any]):
    __slots__ = ("boxes",)

    def __getattr__(self, name: str) -> Any:
        return self[name]


class SlotList(list[Any]):
    __slots__ = ("boxes",)


class Row(tuple[Any, ...]):
    """A tuple with attributes."""


class NamedRow(namedtuple("Two", "x y")):
    """A named tuple with attributes."""


class Window(deque[Any]):
    """A queue with attributes."""


class Names(set[Any]):
    """A set with attributes."""


class Counts(Counter[str]):
    """A counter with attributes."""


class Table(np.ndarray[Any, Any]):
    """An array with attributes."""


class Shares(np.ndarray[Any, Any]):
    """An array whose views have its attributes too, as numpy's manual does it."""

    def __array_finalize__(self, other: Any) -> None:
        self.boxes = getattr(other, "boxes", None)


class Picture(Image.Image):
    """An image with attributes."""


class LowerCase(dict[str, Any]):
    """Changes what it is given."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key.lower(), (value, "set"))


class OwnCopy:
    """Copies itself by deepcopy, which a part may refuse."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __deepcopy__(self, memo: Any) -> OwnCopy:
        return OwnCopy(*copy.deepcopy(self.parts, memo))


leaf = torch.ones(2, requires_grad=True)


def with_boxes(row: Any) -> Any:
    object.__setattr__(row, "boxes", [0])
    return row


def a_jpeg() -> Any:
    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, "JPEG")
    return Image.open(stream)


def a_picture() -> Any:
    made: Any = Image.new("L", (2, 2))
    made.__class__ = Picture
    return made


def numbers() -> Any:
    """What deepcopy refuses."""
    return (number for number in range(3))


def objects(*parts: Any) -> Any:
    made = np.empty(len(parts), object)
    made[:] = parts
    return made


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
    "jpeg": (a_jpeg(), lambda row: row),
    "queue": (deque([torch.zeros(2)], 3), lambda row: row[0]),
}


def write(part: Any) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if isinstance(part, Image.Image):
            return part.paste(9, (0, 0, 2, 2))
        (torch.from_numpy(part) if isinstance(part, np.ndarray) else part).fill_(9)


def text(part: Any) -> str:
    return str(np.asarray(part).tolist() if isinstance(part, Image.Image) else part.tolist())


@pytest.fixture(autouse=True)
def nothing_was_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infobatch_client.tie.row_copy._warned", set())


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


WITH_BOXES: dict[str, Any] = {
    "over_slots": OverSlots(torch.zeros(2)),
    "frozen_over_slots": FrozenOverSlots(torch.zeros(2)),
    "slot_dict": SlotDict(a=1),
    "slot_list": SlotList([1]),
    "tuple": Row((1, 2)),
    "named_tuple": NamedRow(1, 2),
    "queue": Window([1, 2], 2),
    "set": Names([1]),
    "counter": Counts("aab"),
    "lower_case": LowerCase(A=1),
    "tensor": torch.zeros(2),
    "graph": leaf * 2,
    "parameter": torch.nn.Parameter(torch.zeros(2)),
    "tensor_subclass": torch.zeros(2).as_subclass(Own),
    "array": np.zeros(2).view(Table),
    "array_of_objects": objects(1, 2).view(Table),
    "finalized": np.zeros(2).view(Shares),
    "masked": np.ma.array([1, 2], mask=[False, True]),
    "image": Image.new("P", (2, 2)),
    "image_file": a_jpeg(),
    "image_subclass": a_picture(),
    "namespace": SimpleNamespace(a=1),
}


@pytest.mark.parametrize("name", WITH_BOXES)
def test_attributes_and_slots_are_copied_whatever_has_them(name: str) -> None:
    row = with_boxes(WITH_BOXES[name])
    made = row_copy(row)
    assert type(made) is type(row)
    assert made.boxes == [0]
    made.boxes.append(1)
    assert row.boxes == [0]


def test_a_copy_of_a_container_has_what_is_in_it_whatever_its_own_methods_do() -> None:
    row = LowerCase()
    row["A"] = 1
    dict.__setitem__(row, "B", [2])
    made = row_copy(row)
    assert list(made.items()) == [("a", (1, "set")), ("B", [2])]
    ordered = OrderedDict(a=1, b=2)
    ordered.move_to_end("a")
    assert list(row_copy(ordered).items()) == [("b", 2), ("a", 1)]
    assert row_copy(Window([1, 2], 2)).maxlen == 2
    assert row_copy(defaultdict(list, a=1)).default_factory is list
    assert row_copy(Counts("aab")) == Counts("aab")
    assert torch.equal(row_copy(torch.ones(2, 2).max(0)).values, torch.ones(2))


def test_an_images_copy_is_the_image_file_that_it_was() -> None:
    row = a_jpeg()
    made = row_copy(row)
    assert (made.format, made.filename, made.get_format_mimetype()) == ("JPEG", row.filename, "image/jpeg")
    made.info["dpi"] = 1
    made.putpixel((0, 0), (9, 9, 9))
    assert "dpi" not in row.info
    assert row.getpixel((0, 0)) == (0, 0, 0)
    palette = Image.new("P", (2, 2))
    row_copy(palette).putpalette([9] * 768)
    assert palette.getpalette() == Image.new("P", (2, 2)).getpalette()
    still = Image.frombuffer("L", (2, 2), bytearray(4), "raw", "L", 0, 1)
    writable = row_copy(still)
    np.asarray(writable)
    writable.putpixel((0, 0), 9)
    assert still.getpixel((0, 0)) == 0


NEXT_TO_NUMBERS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any], tuple[Any, Any]]]] = {
    "tuple": (lambda *parts: Row(parts), tuple),
    "named_tuple": (lambda *parts: NamedRow(*parts), tuple),
    "list": (lambda *parts: SlotList(parts), tuple),
    "queue": (lambda *parts: Window(parts), tuple),
    "dict": (lambda *parts: SlotDict(a=parts[0], b=parts[1]), lambda row: (row["a"], row["b"])),
    "array": (objects, tuple),
    "array_subclass": (lambda *parts: objects(*parts).view(Table), tuple),
    "structured": (
        lambda *parts: np.array([parts], [("a", object), ("b", object)]),
        lambda row: (row["a"][0], row["b"][0]),
    ),
    "record": (
        lambda *parts: np.array([parts], [("a", object), ("b", object)])[0],
        lambda row: (row["a"], row["b"]),
    ),
    "namespace": (lambda *parts: SimpleNamespace(a=parts[0], b=parts[1]), lambda row: (row.a, row.b)),
    "own_copy": (lambda *parts: OwnCopy(*parts), lambda row: row.parts),
    "partial": (lambda *parts: partial(print, *parts), lambda row: row.args),
    "within": (
        lambda *parts: SimpleNamespace(inner=SimpleNamespace(parts=list(parts))),
        lambda row: tuple(row.inner.parts),
    ),
    "within_own_copy": (
        lambda *parts: OwnCopy(SimpleNamespace(parts=list(parts))),
        lambda row: tuple(row.parts[0].parts),
    ),
    "tensor": (lambda *parts: with_parts(torch.zeros(2).as_subclass(Own), parts), lambda row: row.parts),
}


def with_parts(row: Any, parts: Any) -> Any:
    row.parts = parts
    return row


@pytest.mark.filterwarnings("ignore:rows that fill a batch share")
@pytest.mark.parametrize("name", NEXT_TO_NUMBERS)
def test_only_the_part_that_cant_be_copied_is_shared(name: str) -> None:
    make, parts = NEXT_TO_NUMBERS[name]
    array, refuses = np.zeros(3), numbers()
    row = make(array, refuses)
    made = row_copy(row)
    assert type(made) is type(row)
    assert made is not row
    copied, shared = parts(made)
    assert shared is refuses
    assert copied is not array
    assert copied.tolist() == array.tolist()
    assert not np.shares_memory(copied, array)


def test_a_warning_names_what_is_shared_and_not_what_it_is_in() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for make, _ in NEXT_TO_NUMBERS.values():
            row_copy([make(np.zeros(3), numbers()), make(np.zeros(3), threading.Lock())])
    found = [str(warning.message).split(" with ")[0].rpartition(" ")[2] for warning in caught]
    assert found == ["builtins.generator", "_thread.lock"]


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
