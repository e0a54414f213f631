"""Scripts under strict type checkers: README's, the fluent chain as webdataset takes it, and misspelt lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infobatch_stream import InfoBatchStreamDataset
from tests.docs.test_blocks import groups
from tests.docs.test_diff import DIFFS, SCRIPT, applied
from tests.docs.type_checkers import mypy_errors, pyright_errors
from tests.shards import write_tar

# README's script is untyped in what is the user's own.
TYPED = {
    "def transform(image):": "def transform(image: Image.Image) -> torch.Tensor:",
    "from torch.utils.data import DataLoader\n": "",  # the diff leaves it, unused
    '    print(f"epoch {epoch}: loss {loss.item():.3f}")\n': "",  # an epoch without a batch has no loss
    "import torch\n": "import torch\nfrom PIL import Image\nfrom typing_extensions import assert_type\n",
}
KEEPS_ITS_TYPE = """
assert_type(dataset, InfoBatchStreamDataset)
assert_type(dataset.select(bool).rename(image="jpg").map_dict(image=str), InfoBatchStreamDataset)
assert_type(dataset.compose(list), InfoBatchStreamDataset)
assert_type(loader.update(torch.zeros(3)), torch.Tensor)
assert_type(loader.metrics(), dict[str, float])
for epoch in loader.epochs():
    assert_type(epoch, int)
plain = torch.utils.data.DataLoader(dataset, batch_size=8)
"""
MISSPELT = """
from infobatch_stream import Connection, Hard, InfoBatch, InfoBatchLoader, InfoBatchStreamDataset

dataset = InfoBatchStreamDataset("x", policy="infobatch", on_error="skip")
InfoBatchStreamDataset("x", policy="infobtach")
InfoBatchStreamDataset("x", on_error="skipp")
InfoBatchStreamDataset("x", polcy="full")
dataset.decod("pil")
dataset.shuffle(1000)
InfoBatchLoader(dataset, 8, remainder="fil")
InfoBatchLoader(dataset, 8, multiprocessing_context="frok")
InfoBatchLoader(dataset, 8).sate_dict()
Connection(if_exists="restrat")
InfoBatch(draw="exakt")
Hard(condition="lo")
"""

CHAINS = '''"""One chain of webdataset's own stages a line."""
# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import webdataset as wds

from infobatch_stream import InfoBatchStreamDataset


def text(stream: BinaryIO) -> str:
    return stream.read().decode()


def upper(key: str, data: bytes) -> str | None:
    return data.decode().upper() if key.endswith("txt") else None


def tells_nothing(error: Exception) -> None:
    print(error)


def chains(data: InfoBatchStreamDataset) -> list[InfoBatchStreamDataset]:
    plain = data.decode()
    return [
        '''
RIGHT = """
plain.to_tuple("txt", "cls")
plain.to_tuple("png;txt", ["cls", "index"])
plain.to_tuple(("png", "txt"), "cls")
plain.to_tuple("txt cls")
plain.to_tuple("txt", "png", missing_is_error=False)
plain.to_tuple("txt", "png", missing_is_error=False, none_is_error=False, handler=wds.ignore_and_continue)
plain.to_tuple("txt", "cls", handler=wds.reraise_exception)
plain.to_tuple("txt", "cls", handler=tells_nothing)
plain.to_tuple("txt", "cls", handler=lambda error: True)
plain.to_tuple("txt", "cls").map_tuple(None, str)
plain.to_tuple("txt", "cls").map_tuple(str.upper, None, handler=wds.warn_and_continue)
plain.to_tuple("txt", "cls").map_tuple(len)
plain.map_dict(txt=len)
plain.map_dict(txt=len, cls=str, handler=wds.ignore_and_continue)
plain.map_dict(wds.ignore_and_continue, txt=len)
plain.rename(caption="txt")
plain.rename(caption="json;txt", label=["cls", "index"], keep=False)
plain.rename(caption=("json", "txt"), handler=wds.ignore_and_continue)
plain.rename_keys(caption="*.txt", must_match=False, keep_unselected=True)
plain.rename_keys(("caption", "txt"), ["label", "cls"], duplicate_is_error=False)
plain.extract_keys("*.txt", "cls")
plain.extract_keys(["*.json", "*.txt"], "*.png", ignore_missing=True, duplicate_is_error=False)
plain.select(lambda sample: sample["txt"])
plain.select(lambda sample: len(sample["txt"]))
plain.rsample(1)
plain.rsample()
plain.map(lambda sample: sample["txt"])
plain.map(str, handler=wds.ignore_and_continue)
plain.log_keys(Path("keys.log"))
plain.log_keys("keys.log")
plain.log_keys()
plain.compose(wds.map(str), wds.select(bool))
plain.compose(wds.associate({}))
data.decode("pil", "torchrgb8")
data.decode("rgb8", upper, wds.handle_extension("cls", int))
data.decode(wds.imagehandler("pil"), only="txt")
data.decode(upper, only=["txt", "cls"], partial=True)
data.decode(only={"txt"}, pre=[upper], post=[upper], handler=wds.ignore_and_continue)
data.decode("pil").decode(partial=True)
data.xdecode(("*.txt", text), ("*.cls", text))
data.xdecode(txt=text, must_decode=False)
data.xdecode(cls=False, defaults=[("*.txt", text)])
"""
"""What webdataset takes."""
WRONG = """
plain.to_tuple("txt", 3)
plain.to_tuple("txt", missing_is_eror=False)
plain.map_tuple("int")
plain.map_tuple(int, handlr=wds.ignore_and_continue)
plain.map_dict(txt=None)
plain.rename(caption=3)
plain.rename_keys(("caption", "txt", "cls"))
plain.extract_keys(3)
plain.select(bool, handler=wds.ignore_and_continue)
plain.map(None)
data.decode(3)
data.decode(pre=("pil", ))
data.xdecode(txt="text")
"""
"""What it doesn't."""

PAGE = """# pyright: basic, reportOptionalMemberAccess=false

import numpy as np
import torch

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from tests.docs.stage import transform

shards = "data/train-{0000..0049}.tar"
dataset = InfoBatchStreamDataset(shards, epochs=4).decode("pil").to_tuple("jpg", "cls").map_tuple(transform, int)
loader = InfoBatchLoader(dataset, batch_size=64)
model = torch.nn.Linear(192, 10)
criterion = torch.nn.CrossEntropyLoss(reduction="none")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
device = torch.device("cpu")
"""
"""The names that a page's blocks may use without introducing them."""
MEANT = [
    'Operator "*" not supported for types "float" and "Tensor | None"',  # a gradient, behind `backward`
    'Cannot access attribute "shuffle" for class "InfoBatchStreamDataset"',  # a page shows how it is refused
    'Import "mastered" could not be resolved',  # the block beside it
    'No parameter named "num_labels"',  # transformers' own
]


def chained(lines: str) -> str:
    """A script of the lines."""
    return CHAINS.rstrip() + "".join(f"\n        {line}," for line in lines.strip().splitlines()) + "\n    ]\n"


def pages() -> dict[str, str]:
    """Name → script of each group of Python blocks, those of the docs' own that are hidden included."""
    scripts = {}
    for group in groups():
        blocks = [block for block in group if block.language == "python" and not block.title]
        if blocks:
            name = f"{Path(blocks[0].page).stem}_{blocks[0].line}".replace("-", "_")
            scripts[name] = PAGE + "".join(f"{block.setup}\n{block.code}" for block in blocks)
    return scripts


@pytest.mark.parametrize("checker", [mypy_errors, pyright_errors])
def test_a_checker_finds_the_wrong_lines_and_no_others(checker: Callable[[Path], list[str]], tmp_path: Path) -> None:
    readme = applied(SCRIPT.read_text(), DIFFS[0].code)
    for before, after in TYPED.items():
        assert readme.count(before) == 1
        readme = readme.replace(before, after)
    scripts = {
        "readme": readme + KEEPS_ITS_TYPE,
        "misspelt": MISSPELT,
        "right_chains": chained(RIGHT),
        "wrong_chains": chained(WRONG),
    }
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(text)
    found = checker(tmp_path)
    wrong = {"misspelt": MISSPELT.splitlines()[4:], "wrong_chains": WRONG.strip().splitlines()}
    assert [line for line in found if line.partition(".py:")[0] not in wrong] == []
    for name, lines in wrong.items():
        script = scripts[name].splitlines()
        of_script = {int(line.split(":")[1]) for line in found if line.startswith(f"{name}.py:")}
        assert [script[number - 1].strip(" ,") for number in sorted(of_script)] == [line.strip(" ,") for line in lines]


@pytest.mark.long
def test_an_editor_finds_no_error_in_the_blocks_of_the_docs(tmp_path: Path) -> None:
    scripts = pages()
    assert len(scripts) > 20
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert [line for line in pyright_errors(tmp_path) if not any(text in line for text in MEANT)] == []


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A shard of two samples with a text and a class."""
    folder = tmp_path_factory.mktemp("chains")
    write_tar(folder / "0.tar", [(f"{key}.{end}", b"1") for key in ("a", "b") for end in ("txt", "cls")])
    return str(folder / "0.tar")


def chain(data: str, line: str) -> Any:
    """The pipeline of a line."""
    space: dict[str, Any] = {}
    exec(chained(line), space)
    return space["chains"](InfoBatchStreamDataset(data, policy=None))[0]


@pytest.mark.parametrize("line", RIGHT.strip().splitlines())
def test_webdataset_takes_what_the_types_do(line: str, data: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    rows = list(chain(data, line))
    assert len(rows) == 2 or "rsample()" in line or "missing_is_error=False)" in line


@pytest.mark.parametrize("line", WRONG.strip().splitlines())
def test_webdataset_refuses_what_the_types_do(line: str, data: str) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - webdataset's asserts, and Python's own
        list(chain(data, line))
