"""The dispatcher imports little, and its errors name missing packages."""

from __future__ import annotations

import re
import subprocess
import sys
import types

import pytest

from infobatch_stream import __version__, cli
from infobatch_stream.errors import RunNotFoundError


def command_module(run: object) -> types.ModuleType:
    module = types.ModuleType("infobatch_client.commands.index")
    vars(module).update(HELP="For a test.", add_arguments=lambda parser: None, run=run)
    return module


def test_help_lists_the_commands_and_imports_none_of_them() -> None:
    code = (
        "import sys; from infobatch_stream.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'grpc', 'pyarrow', 'fastapi', 'infobatch_client', 'infobatch_server'}\n"
        "sys.exit(','.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for name in cli.COMMANDS:
        assert re.search(rf"\n    {name}\s", done.stdout)


def test_the_module_form_prints_the_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infobatch_stream", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"infobatch-stream {__version__}\n"


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "commands:" in capsys.readouterr().out


def test_a_commands_status_is_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "infobatch_client.commands.index", command_module(lambda args: 7))
    assert cli.main(["index"]) == 7


def test_our_own_errors_are_one_line_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: object) -> int:
        raise RunNotFoundError("no run 'x'")

    monkeypatch.setitem(sys.modules, "infobatch_client.commands.index", command_module(run))
    assert cli.main(["index"]) == 2
    assert capsys.readouterr().err == "infobatch: no run 'x'\n"


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(args: object) -> int:
        raise ModuleNotFoundError("No module named 'webdataset.tariterators'", name="webdataset.tariterators")

    monkeypatch.setitem(sys.modules, "infobatch_client.commands.index", command_module(run))
    assert cli.main(["index"]) == 2
    error = capsys.readouterr().err
    assert "'webdataset'" in error
    assert "pip install 'infobatch-stream[train]'" in error


def test_a_missing_module_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: object) -> int:
        raise ModuleNotFoundError("No module named 'infobatch_client.no'", name="infobatch_client.no")

    monkeypatch.setitem(sys.modules, "infobatch_client.commands.index", command_module(run))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["index"])


@pytest.mark.parametrize(
    "code",
    [
        "from infobatch_stream import InfoBatchStreamDataset",
        "from infobatch_stream import InfoBatchLoader",
        "import infobatch_client.integrations.lightning",
        "import infobatch_server.server",
        "from infobatch_stream.cli import main; sys.exit(main(['runs']))",
        "from infobatch_stream.cli import main; sys.exit(main(['serve', '--data-dir', 'x']))",
    ],
)
def test_windows_is_told_that_it_is_not_supported(code: str) -> None:
    # torch looks at the platform itself; where it isn't installed, there is nothing to prepare.
    torch = "import contextlib, sys\nwith contextlib.suppress(ImportError): import torch\n"
    windows = "sys.modules['fcntl'] = None; sys.platform = 'win32'\n"
    prepared = (torch if "import InfoBatch" in code else "import sys\n") + windows
    done = subprocess.run([sys.executable, "-c", prepared + code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].endswith(
        "infobatch-stream runs on Linux and macOS, not on Windows; Linux under WSL2 is fine"
    )
    assert "Traceback" not in done.stderr or "main(" not in code


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train"])
    assert stopped.value.code == 2
    assert "invalid choice: 'train'" in capsys.readouterr().err


def test_an_interrupt_prints_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "infobatch_client.commands.index", command_module(run))
    assert cli.main(["index"]) == 130
