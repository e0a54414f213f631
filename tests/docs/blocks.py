"""The code blocks of README and docs/, with what stands beside them in comments."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LANGUAGES", "PAGES", "ROOT", "Block", "all_blocks", "blocks_of"]

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

LANGUAGES = {
    "python": "run, in a namespace that has the names of tests/docs/stage.py",
    "sh": "run line by line by bash",
    "diff": "applied to a script; both versions are run",
    "text": "shown, not run",
}

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^`\n]*)\n(?P<code>.*?)^ *(?P=fence) *$", re.M | re.S
)
_COMMENT = re.compile(r"<!--\s*(?P<kind>setup|continues)\b(?P<code>(?:(?!-->).)*)-->\s*\Z", re.S)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block.

    Args:
        page: its file, from the root.
        line: of its first line of code, from 1.
        language: the first word behind the fence.
        title: of `title="train.py"`: the block is that file.
        code: the text.
        setup: of a comment `<!-- setup … -->` right before it: Python that is run first and not shown.
        continues: a comment `<!-- continues -->` is before it: it has the names of the block above. Python may follow
            the word, as in a setup.
    """

    page: str
    line: int
    language: str
    title: str
    code: str
    setup: str
    continues: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(text: str, page: str) -> list[Block]:
    """All blocks of a page, in order."""
    blocks = []
    for fence in _FENCE.finditer(text):
        language, _, rest = fence["info"].strip().partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        comment = _COMMENT.search(text[: fence.start()])
        blocks.append(
            Block(
                page=page,
                line=text[: fence.start("code")].count("\n") + 1,
                language=language,
                title=title[1] if title else "",
                code=re.sub(f"^{fence['indent']}", "", fence["code"], flags=re.M),
                setup=comment["code"].strip() if comment else "",
                continues=bool(comment and comment["kind"] == "continues"),
            )
        )
    return blocks


def all_blocks() -> list[Block]:
    """Those of README and docs/."""
    return [
        block for path in PAGES for block in blocks_of(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    ]
