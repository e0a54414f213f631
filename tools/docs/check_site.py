"""Fails if a page of the built site would load a script, font, picture or stylesheet from another host.

Links in the text may lead anywhere: a reader follows them on purpose.

    python tools/docs/check_site.py build/site
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "srcset", "video": "src", "audio": "src"}
LOADS |= {"object": "data", "embed": "src", "image": "href", "use": "href", "link": "href"}
NOT_LOADED = {"canonical", "next", "prev"}
ELSEWHERE = re.compile(r"\s*(https?:)?//", re.IGNORECASE)
CSS = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)


class Loads(HTMLParser):
    """Collects what a page loads from other hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Looks at the attribute by which this kind of element loads, and at its style."""
        values = {name: value or "" for name, value in attrs}
        target = values.get(LOADS.get(tag, ""), "")
        linked_only = tag == "link" and set(values.get("rel", "").split()) & NOT_LOADED
        if ELSEWHERE.match(target) and not linked_only:
            self.targets.append(f"<{tag}> {target}")
        self.targets += CSS.findall(values.get("style", ""))


def loads_from_elsewhere(site: Path) -> Iterator[str]:
    """A line for each thing that a file of the site loads from another host."""
    for path in sorted(site.rglob("*")):
        if path.suffix in {".html", ".svg"}:
            page = Loads()
            text = path.read_text(encoding="utf-8")
            page.feed(text)
            styles = re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)
            yield from (f"{path.relative_to(site)}: {line}" for line in page.targets + CSS.findall("\n".join(styles)))
        elif path.suffix == ".css":
            yield from (f"{path.relative_to(site)}: {url}" for url in CSS.findall(path.read_text(encoding="utf-8")))


def main(site: Path) -> int:
    """Prints what it finds; 1 if there is any, or no site."""
    if not (site / "index.html").is_file():
        print(f"no site in {site}: build it first", file=sys.stderr)
        return 1
    loads = list(loads_from_elsewhere(site))
    for line in loads:
        print(f"loaded from another host: {line}", file=sys.stderr)
    return 1 if loads else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
