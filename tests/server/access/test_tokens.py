"""The token file: what it may hold, who may read it, and that it is read again."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from infobatch_server.access.tokens import Scope, Tokens
from infobatch_stream.errors import ConfigError

TRAIN, READ = "train-" + "t" * 30, "read-" + "r" * 30


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    """Replaces the file at once, as an orchestrator does."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(mode)
    os.replace(new, path)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "tokens", f"# who may train\njob train {TRAIN}\n\n  board\tread {READ}  \n")


def test_a_token_has_the_scope_of_its_line(path: Path) -> None:
    tokens = Tokens(path)
    assert tokens.scope_of(TRAIN) is Scope.TRAIN
    assert tokens.scope_of(READ) is Scope.READ
    for other in ("", "job", TRAIN[:-1], TRAIN + "t", TRAIN.upper(), "naïve", "\udc80"):
        assert tokens.scope_of(other) is None


@pytest.mark.parametrize("header", [None, "", TRAIN, f"Basic {TRAIN}", "Bearer", "Bearer x", f"Bearer{TRAIN}"])
def test_only_a_bearer_token_counts(path: Path, header: str | None) -> None:
    assert Tokens(path).scope_of_header(header) is None
    assert Tokens(path).scope_of_header(f"bearer {TRAIN}") is Scope.TRAIN


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o602, 0o666])
def test_a_file_that_others_can_open_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"other users can read it \\(mode {mode:04o}\\); chmod 600 it"):
        Tokens(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no token"),
        ("# nothing\n\n", "holds no token"),
        (f"job train {TRAIN}\nboard {READ}", "line 2: 2 words; a line is NAME SCOPE TOKEN"),
        (f"job {TRAIN} train", "line 1: the second word is the scope, and must be train or read"),
        (f"job write {TRAIN}", "line 1: the second word is the scope"),
        (f"{TRAIN}/ train job", "line 1: the first word is no name"),
        ("job train secret", "line 1: the token must have at least 16 printable characters"),
        (f"job train {TRAIN}\x01", "line 1: the token must have at least 16 printable characters"),
        (f"job train {TRAIN}\njob read {READ}", "line 2: the file has this name already"),
        (f"job train {TRAIN}\nboard read {TRAIN}", "line 2: the file has this token already"),
    ],
)
def test_an_invalid_file_is_refused_without_a_word_of_it(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path / "tokens", text)
    with pytest.raises(ConfigError, match=words) as caught:
        Tokens(path)
    assert not {TRAIN, READ, "secret", "write"} & set(str(caught.value).replace(",", " ").split())


def test_a_missing_file_and_one_of_other_bytes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--tokens {tmp_path}/none: No such file"):
        Tokens(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"job train \xff")
    with pytest.raises(ConfigError, match="byte 10 is not ASCII"):
        Tokens(tmp_path / "bytes")


def test_a_changed_file_counts_from_the_next_call(path: Path) -> None:
    tokens = Tokens(path)
    new = "n" * 32
    write(path, f"job train {new}\n")
    assert tokens.scope_of(new) is Scope.TRAIN
    assert tokens.scope_of(TRAIN) is None


@pytest.mark.parametrize(("text", "mode"), [("job train", 0o600), (f"job train {'n' * 32}", 0o644), (None, 0)])
def test_an_invalid_change_leaves_the_tokens_as_they_were(
    path: Path, text: str | None, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = Tokens(path)
    if text is None:
        path.unlink()
    else:
        write(path, text, mode)
    assert tokens.scope_of(TRAIN) is tokens.scope_of(TRAIN) is Scope.TRAIN
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "stays in use: --tokens" in caplog.text
    write(path, f"job read {TRAIN}\n")
    assert tokens.scope_of(TRAIN) is Scope.READ


def test_tokens_show_how_many_there_are_and_nothing_else(path: Path) -> None:
    assert repr(Tokens(path, "own" * 10)) == "2 with scope train, 1 with scope read"


def test_a_mounted_secret_of_root_may_be_readable_by_its_group(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make a file of root")
    monkeypatch.setattr(os, "geteuid", lambda: 10001)
    path.chmod(0o440)
    assert Tokens(path).scope_of(READ) is Scope.READ
    path.chmod(0o444)
    with pytest.raises(ConfigError, match="other users can read it"):
        Tokens(path)
