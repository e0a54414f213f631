"""README is short, the pages' links lead somewhere, and the built site's check finds what it should."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import metadata
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.blocks import PAGES, ROOT

LINKED = [*PAGES, *sorted((ROOT / "examples").glob("*/README.md")), ROOT / "CONTRIBUTING.md"]
LINK = re.compile(r"\]\(([^()\s]+)\)")
FENCE = re.compile(r"^( *)```.*?^\1```$", re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_name(page: Path, anchor: str) -> bool:
    """Whether an anchor of the API reference is a name that the page lists, or a member; the build knows which."""
    return any(f"{anchor}.".startswith(f"{name}.") for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M))


def test_the_readme_has_at_most_100_lines() -> None:
    assert (ROOT / "README.md").read_text().count("\n") <= 100


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked) or is_name(linked, anchor), target


def test_every_page_is_in_the_site_and_in_the_readme() -> None:
    nav = (ROOT / "mkdocs.yml").read_text()
    readme = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in nav
        assert f"(docs/{page.name})" in readme


@pytest.mark.parametrize(
    ("page", "loaded"),
    [
        ('<script src="https://cdn.example/x.js"></script>', True),
        ('<link rel="stylesheet" href="//fonts.example/css">', True),
        ('<img src="http://pictures.example/1.png">', True),
        ("<style>p { background: url(https://pictures.example/2.png) }</style>", True),
        ('<style>@import "https://fonts.example/css";</style>', True),
        ('<a href="https://arxiv.org/abs/2303.04947">the paper</a>', False),
        ('<link rel="canonical" href="https://docs.example/">', False),
        ('<script src="assets/x.js"></script><link rel="stylesheet" href="../a.css">', False),
    ],
)
def test_the_check_of_the_site_finds_what_is_loaded_from_elsewhere(page: str, loaded: bool, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(f"<html><body>{page}</body></html>")
    check_site = tool("docs/check_site.py")
    assert bool(list(check_site.loads_from_elsewhere(tmp_path))) == loaded
    assert check_site.main(tmp_path) == int(loaded)


def test_the_check_of_the_site_needs_a_site(tmp_path: Path) -> None:
    assert tool("docs/check_site.py").main(tmp_path) == 1


@pytest.mark.parametrize(
    ("origin", "target", "on_site"),
    [
        ("README.md", "docs/server.md#security", "server.md#security"),
        ("README.md", "docs/pictures/overview.svg", "pictures/overview.svg"),
        ("README.md", "ARCHITECTURE.md", "architecture.md"),
        ("README.md", "examples/cifar10/README.md", None),
        ("docs/server.md", "../README.md#use-it", "index.md#use-it"),
        ("docs/server.md", "resuming.md", "resuming.md"),
        ("docs/server.md", "../proto/infobatch_stream/v1/score_service.proto", None),
        ("docs/server.md", "#security", "#security"),
        ("docs/server.md", "https://arxiv.org/abs/2303.04947", "https://arxiv.org/abs/2303.04947"),
    ],
)
def test_a_link_leads_to_the_sites_page_or_becomes_text(origin: str, target: str, on_site: str | None) -> None:
    hooks = tool("docs/hooks.py")
    assert hooks.site_target(target, origin) == on_site
    expected = "see X" if on_site is None else f"see [X]({on_site})"
    assert hooks.site_links(f"see [X]({target})", origin) == expected
    assert hooks.site_links(f"```\nsee [X]({target})\n```", origin) == f"```\nsee [X]({target})\n```"


def test_a_link_to_a_file_that_does_not_exist_warns_and_so_fails_the_build(caplog: pytest.LogCaptureFixture) -> None:
    assert tool("docs/hooks.py").site_target("../client/nothing.py", "docs/server.md") is None
    (record,) = caplog.records
    assert record.name.startswith("mkdocs.")
    assert record.levelname == "WARNING"
    assert record.getMessage() == "docs/server.md: the link ../client/nothing.py leads nowhere"


def tool(name: str) -> ModuleType:
    """A script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / "tools" / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_install_lines_name_extras_that_exist_and_that_their_page_needs() -> None:
    known = set(metadata("infobatch-stream").get_all("Provides-Extra") or ())
    named = {
        page: {extra for extras in re.findall(r"\[([a-z,]+)\]'", page.read_text()) for extra in extras.split(",")}
        for page in LINKED
    }
    assert set().union(*named.values()) <= known
    # Their scripts train without url=, so that they start an embedded server.
    assert {"server", "integrations"} <= named[ROOT / "docs" / "frameworks.md"]
