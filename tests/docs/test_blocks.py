"""Every code block of README and docs/ is run as it is written, on small shards."""

from __future__ import annotations

import re
import socket
import sys
from itertools import groupby
from typing import Any

import pytest

from tests.docs.blocks import LANGUAGES, PAGES, Block, all_blocks, blocks_of
from tests.docs.shell import CHECKED_ONLY, commands_of, run_commands, working_in
from tests.docs.stage import GRPC, HTTP, Stage, close_all

BLOCKS = all_blocks()


def groups() -> list[list[Block]]:
    """Blocks that are run one after the other: one and those that continue it."""
    grouped: list[list[Block]] = []
    for _, page in groupby((b for b in BLOCKS if b.language in ("python", "sh")), lambda block: block.page):
        first = True
        for block in page:
            if block.continues and not first:
                grouped[-1].append(block)
            else:
                grouped.append([block])
            first = False
    return grouped


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's
@pytest.mark.parametrize("group", groups(), ids=lambda group: str(group[0]))
def test_a_block_runs_as_it_is_written(group: list[Block], stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    space: dict[str, Any] | None = None
    monkeypatch.setattr(sys, "path", list(sys.path))
    with working_in(stage.folder):
        try:
            for block in group:
                if block.title:
                    (stage.folder / block.title).write_text(stage.addressed(block.code))
                elif block.language == "python":
                    space = stage.run_python(block.code, block.setup, block.page, block.line, space)
                else:
                    shell(block, stage)
        finally:
            close_all(space or {})


def shell(block: Block, stage: Stage) -> None:
    """A block that starts a server uses the addresses that it gives; others use the tests' server."""
    serves = "infobatch serve" in block.code
    code = block.code.replace(GRPC, "127.0.0.1:0") if serves else stage.addressed(block.code)
    if serves:
        port = free_port()
        code = code.replace(HTTP, f"127.0.0.1:{port}")
    else:
        stage.delete_runs()
        if block.setup:
            close_all(stage.run_python("", block.setup, block.page, block.line, None))
    run_commands(code, stage.folder)


def free_port() -> int:
    """A port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_says_how_it_is_checked(block: Block) -> None:
    assert block.language in LANGUAGES, f"{block}: {block.language!r} is none of {', '.join(LANGUAGES)}"


def test_a_block_that_is_a_file_is_run_by_a_command_that_continues_it() -> None:
    for group in groups():
        for number, block in enumerate(group):
            if block.title:
                commands = [later.code for later in group[number + 1 :] if later.language == "sh"]
                assert any(block.title.removesuffix(".py") in code for code in commands), str(block)


def test_every_diff_has_a_script_that_it_applies_to() -> None:
    pages = {str(block.page) for block in BLOCKS if block.language == "diff"}
    assert pages <= {"README.md", "docs/quickstart.md", "docs/pipelines.md"}


@pytest.mark.parametrize("rule", CHECKED_ONLY)
def test_a_command_that_is_only_checked_is_in_the_docs(rule: str) -> None:
    commands = [command for block in BLOCKS if block.language == "sh" for command in commands_of(block.code)]
    assert any(re.match(rule, command) for command in commands), f"no command is like {rule}: take it out"


def test_the_blocks_are_found() -> None:
    text = "a\n\n<!-- setup\nx = 1\n-->\n\n```python\nprint(x)\n```\n\n- b\n\n  ```sh\n  true\n  ```\n\n```\nno\n```\n"
    python, sh, bare = blocks_of(text, "page.md")
    assert (python.language, python.code, python.setup, python.line) == ("python", "print(x)\n", "x = 1", 8)
    assert (sh.language, sh.code, sh.setup) == ("sh", "true\n", "")
    assert bare.language not in LANGUAGES
    assert {block.page for block in BLOCKS} >= {"README.md", "docs/quickstart.md"}
    assert sum(path.read_text().count("\n```") for path in PAGES) >= 2 * len(BLOCKS)
