"""What the site takes from outside docs/: README and the other pages of the root, and links to source files.

The pages are written for a code host, where every relative link works. The site has the pages but not the source, so
a link to a source file becomes plain text, and one to a file that doesn't exist fails the build.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]
FROM_ROOT = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}

log = logging.getLogger("mkdocs.plugins.infobatch")

_FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s]+)\)")
_SOURCE = re.compile(r"""(?P<attribute>src|srcset)="(?P<target>[^"]+)\"""")


def on_files(files: Files, config: Any) -> Files:
    """Adds the root's pages."""
    from mkdocs.structure.files import File

    for name, page in FROM_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links that leave docs/ into links that the site has."""
    origins = {site_page: name for name, site_page in FROM_ROOT.items()}
    return site_links(markdown, origins.get(page.file.src_uri, f"docs/{page.file.src_uri}"))


def site_links(markdown: str, origin: str) -> str:
    """A page's text with the site's links; code blocks stay as they are."""
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_linked(markdown[end : fence.start()], origin), fence.group()]
        end = fence.end()
    return "".join([*parts, _linked(markdown[end:], origin)])


def _linked(text: str, origin: str) -> str:
    def link(match: re.Match[str]) -> str:
        target = site_target(match["target"], origin)
        if target is None and match["image"]:
            log.warning("%s: the picture %s is outside docs/", origin, match["target"])
        return match["text"] if target is None else f"{match['image']}[{match['text']}]({target})"

    def source(match: re.Match[str]) -> str:
        return f'{match["attribute"]}="{site_target(match["target"], origin)}"'

    return _SOURCE.sub(source, _LINK.sub(link, text))


def site_target(target: str, origin: str) -> str | None:
    """Where a link of the page `origin`, a path from the root, leads on the site; None for a source file.

    Args:
        target: a URL, an anchor, or a path relative to `origin`.
        origin: such as "docs/server.md" or "README.md".
    """
    if re.match(r"[a-z]+:|#", target):
        return target
    path, hash_, anchor = target.partition("#")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    if not (ROOT / path).exists():
        log.warning("%s: the link %s leads nowhere", origin, target)
        return None
    folder = posixpath.dirname(origin.removeprefix("docs/")) if origin.startswith("docs/") else ""
    inside = FROM_ROOT.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
    if inside is None:
        return None
    return os.path.relpath(inside, folder or ".") + hash_ + anchor
