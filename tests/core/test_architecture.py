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


def place(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize(("package", "path"), MODULES)
def test_a_module_has_one_purpose_and_says_which(package, path):
    text = path.read_text()
    assert text.count("\n") <= 400
    if text.strip():
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring, "starts with a sentence that says what it is for"
        assert docstring.splitlines()[0].rstrip().endswith((".", ":", "?")) or "\n" in docstring


@pytest.mark.parametrize(("package", "path"), [m for m in MODULES if m.values[0] == "infobatch_stream"])
def test_the_core_needs_only_numpy_and_arrow_and_is_pure(package, path):
    if place(path) in LAZY:
        return
    allowed = CORE_MAY_IMPORT | ({"google"} if path.name == "codec.py" else set())
    for name, _ in imports(path):
        top = name.partition(".")[0]
        assert top in allowed, f"imports {name}"
        assert top not in IMPURE, f"imports {name}: that belongs to an edge"
        if path.name != "codec.py":
            assert not name.startswith("infobatch_stream.v1"), "only codec knows the generated code"
            assert name != "infobatch_stream.codec", "codec is for the edges"


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
    assert {module.values[0] for module in MODULES} >= {"infobatch_stream"}
    assert {"codec.py", "planner.py"} <= {module.values[1].name for module in MODULES}
