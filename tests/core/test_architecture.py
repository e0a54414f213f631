"""The arrows between the packages, and the size of their modules, as the code itself has them."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "infobatch_stream": ROOT / "infobatch_stream",
    "infobatch_server": ROOT / "server" / "infobatch_server",
    "infobatch_client": ROOT / "client" / "infobatch_client",
}
MODULES = [
    pytest.param(package, path, id=f"{package}/{path.relative_to(folder)}")
    for package, folder in FOLDERS.items()
    for path in sorted(folder.rglob("*.py"))
    if path.parent.name != "v1"
]
SIDES = {"infobatch_stream": "core", "infobatch_server": "server", "infobatch_client": "client"}
# Which rooms a room may import from. Everything in a folder is one room; a module outside of folders is one by itself.
ARROWS = {
    "client/commands": "client/embedded client/rpc client/shards core/errors",
    "client/dataset": (
        "client/foreign_options client/plain client/reading client/run client/selection client/shards client/tie "
        "client/user_warnings client/workers core/errors core/plan core/pruning core/ratios"
    ),
    "client/demo": (
        "client/dataset client/embedded client/loader client/progress_lr client/run core/errors core/pruning"
    ),
    "client/embedded": "client/rpc client/user_warnings core/errors core/version",
    "client/epochs": (
        "client/plans client/ranks client/run client/tie client/user_warnings core/errors core/keywords "
        "core/manifest core/plan core/ratios core/row_counts"
    ),
    "client/foreign_options": "core/errors core/keywords",
    "client/integrations": "client/loader client/tie core/errors",
    "client/loader": (
        "client/dataset client/epochs client/foreign_options client/ranks client/run client/tie client/workers "
        "core/errors core/keywords core/plan core/ratios"
    ),
    "client/plain": (
        "client/epochs client/plans client/ranks client/run client/shards client/tie client/user_warnings "
        "client/workers core/errors core/keywords core/manifest core/plan core/ratios core/row_counts"
    ),
    "client/plans": "client/ranks client/rpc core/errors core/manifest core/plan core/run_spec core/wire",
    "client/progress_lr": "core/errors core/keywords",
    "client/ranks": "core/errors core/ratios",
    "client/reading": "client/shards core/errors core/manifest",
    "client/rpc": "core/errors core/wire",
    "client/run": (
        "client/embedded client/plans client/ranks client/rpc client/tie client/user_warnings core/copies "
        "core/errors core/keywords core/manifest core/plan core/pruning core/ratios core/row_counts core/run_spec "
        "core/wire"
    ),
    "client/selection": (
        "client/reading client/shards client/user_warnings client/workers core/errors core/keywords core/ratios"
    ),
    "client/shards": "core/errors core/manifest",
    "client/tie": "client/user_warnings core/copies core/errors core/plan core/row_counts",
    "client/user_warnings": "",
    "client/workers": (
        "client/plans client/reading client/tie core/errors core/keywords core/plan core/ratios core/row_counts"
    ),
    "server/__main__": "core/errors server/serve_command",
    "server/access": "core/errors server/process",
    "server/process": "core/errors",
    "server/rpc": "core/errors core/plan core/scores core/wire server/access server/runs server/state",
    "server/runs": (
        "core/errors core/plan core/planner core/pruning core/ratios core/run_spec core/scores core/wire "
        "server/state server/store"
    ),
    "server/serve_command": "core/errors server/access server/process server/server server/state server/store",
    "server/server": (
        "core/version server/access server/process server/rpc server/runs server/state server/store server/web"
    ),
    "server/state": "core/errors core/plan core/row_counts",
    "server/store": "core/errors core/plan core/row_counts core/run_spec core/scores core/wire server/state",
    "server/web": "core/errors server/access server/process server/runs server/state",
    "core/copies": "",
    "core/errors": "",
    "core/keywords": "",
    "core/manifest": "core/errors",
    "core/philox": "core/errors",
    "core/plan": "core/copies core/errors core/keywords core/philox",
    "core/planner": "core/philox core/plan core/pruning core/ratios core/run_spec core/scores",
    "core/pruning": "core/errors core/keywords core/philox core/ratios core/scores",
    "core/ratios": "core/errors",
    "core/row_counts": "",
    "core/run_spec": "core/errors core/plan core/pruning",
    "core/scores": "core/errors core/ratios",
    "core/version": "",
    "core/wire": "core/errors core/plan core/pruning core/row_counts core/run_spec core/scores",
}
# The public map and the command line hand over to client and server, and only when they are called.
LAZY = {"infobatch_stream/__init__.py", "infobatch_stream/cli.py", "infobatch_stream/__main__.py"}
CORE_MAY_IMPORT = {"infobatch_stream", "numpy", "pyarrow"} | set(sys.stdlib_module_names)
# No network, no files, no clock: those are passed in at the edges.
IMPURE = {"asyncio", "http", "io", "multiprocessing", "os", "pathlib", "shutil", "socket", "sqlite3", "subprocess"}
IMPURE |= {"tempfile", "threading", "time", "urllib", "random", "secrets", "uuid", "datetime", "ssl", "logging"}


def imports(path):
    """(imported module, whether it is imported when the module is) of every import in a file."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        at_once = id(node) not in inside | typing_only
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            yield from ((f"{node.module}.{alias.name}", at_once) for alias in node.names)


def room_of(path):
    """A folder of a package, or a module that lies in no folder: "client/tie", "core/planner"."""
    for package, folder in FOLDERS.items():
        if folder in path.parents:
            first = path.relative_to(folder).parts[0].removesuffix(".py")
            return f"{SIDES[package]}/{first}"
    raise AssertionError(path)


def imported_rooms(room):
    """The rooms that a room's modules import from."""
    found = set()
    for module in MODULES:
        if room_of(module.values[1]) == room and place(module.values[1]) not in LAZY:
            for name, _ in imports(module.values[1]):
                package, *rest = name.split(".")
                if package in SIDES and rest and rest[0] != "v1":
                    found.add(f"{SIDES[package]}/{rest[0]}")
    return (found & ROOMS) - {room}


def place(path):
    return str(path.relative_to(ROOT))


ROOMS = {room_of(module.values[1]) for module in MODULES} - {
    room_of(folder / "__init__.py") for folder in FOLDERS.values()
}
ROOMS -= {"core/__main__", "core/cli"}


@pytest.mark.parametrize(("package", "path"), MODULES)
def test_a_module_has_one_purpose_and_says_which(package, path):
    text = path.read_text()
    assert text.count("\n") <= 400
    if text.strip():
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring, "starts with a sentence that says what it is for"
        assert docstring.splitlines()[0].rstrip().endswith((".", ":", "?")) or "\n" in docstring


@pytest.mark.parametrize(("package", "path"), MODULES)
def test_no_class_is_longer_than_250_lines(package, path):
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    assert {node.name: node.end_lineno - node.lineno for node in classes if node.end_lineno - node.lineno >= 250} == {}


def test_the_median_module_is_shorter_than_150_lines():
    lengths = sorted(module.values[1].read_text().count("\n") for module in MODULES)
    assert lengths[len(lengths) // 2] < 150


@pytest.mark.parametrize(("package", "path"), [m for m in MODULES if m.values[0] == "infobatch_stream"])
def test_the_core_needs_only_numpy_and_arrow_and_is_pure(package, path):
    if place(path) in LAZY:
        return
    wire = path.parent.name == "wire"
    allowed = CORE_MAY_IMPORT | ({"google", "grpc"} if wire else set())
    for name, _ in imports(path):
        top = name.partition(".")[0]
        assert top in allowed, f"imports {name}"
        assert top not in IMPURE, f"imports {name}: that belongs to an edge"
        if not wire:
            assert not name.startswith("infobatch_stream.v1"), "only wire knows the generated code"


@pytest.mark.parametrize(("room", "allowed"), ARROWS.items(), ids=list(ARROWS))
def test_a_room_imports_only_the_rooms_that_the_table_allows(room, allowed):
    assert imported_rooms(room) <= set(allowed.split())


def test_the_table_has_every_room_and_no_arrow_that_the_code_lacks():
    assert set(ARROWS) == ROOMS
    surplus = {room: sorted(set(allowed.split()) - imported_rooms(room)) for room, allowed in ARROWS.items()}
    assert {room: names for room, names in surplus.items() if names} == {}


def test_rooms_form_no_circle():
    floors = {}

    def floor(room, above=()):
        assert room not in above, " → ".join((*above, room))
        if room not in floors:
            floors[room] = 1 + max((floor(below, (*above, room)) for below in ARROWS[room].split()), default=0)
        return floors[room]

    assert max(map(floor, ARROWS)) > 1


@pytest.mark.parametrize(("package", "path"), MODULES)
def test_arrows_point_one_way(package, path):
    forbidden = {
        "infobatch_stream": {"infobatch_server", "infobatch_client", "torch", "webdataset"},
        "infobatch_server": {"infobatch_client", "torch", "webdataset"},
        "infobatch_client": {"infobatch_server"},
    }[package]
    for name, at_once in imports(path):
        if name.partition(".")[0] in forbidden:
            assert place(path) in LAZY, f"imports {name}"
            assert not at_once, f"imports {name} before anybody asked for it"


@pytest.mark.parametrize(("package", "path"), MODULES)
def test_a_framework_is_imported_by_its_own_integration_alone(package, path):
    for name, _ in imports(path):
        top = name.partition(".")[0]
        if top in {"accelerate", "lightning", "transformers"}:
            assert path.parent.name == "integrations", f"imports {name}"
            assert {other.partition(".")[0] for other, _ in imports(path)}.isdisjoint(
                {"accelerate", "lightning", "transformers"} - {top}
            )


def test_the_rules_see_the_modules():
    assert {module.values[0] for module in MODULES} == set(FOLDERS)
    assert {"client/tie", "server/runs", "core/wire", "core/planner"} <= ROOMS
