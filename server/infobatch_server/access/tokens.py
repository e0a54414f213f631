"""Bearer tokens: who has one, and what it allows."""

from __future__ import annotations

import enum
import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path
from typing import NamedTuple

from infobatch_server.access.watched_files import WatchedFiles
from infobatch_stream.errors import ConfigError

__all__ = ["Scope", "Tokens"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MIN_LENGTH = 16


class Scope(enum.IntEnum):
    """What a token allows; a greater scope includes the smaller one."""

    READ = 1
    TRAIN = 2


class _Entry(NamedTuple):
    name: str
    scope: Scope
    digest: bytes


class Tokens:
    """The tokens of a server; those of a file are read again when it changes. Safe to use from many threads.

    The server keeps their SHA-256 only, and no message of it quotes a token.

    Args:
        path: a file with a line NAME SCOPE TOKEN for each token; SCOPE is `train` or `read`, and TOKEN has at least 16
            printable ASCII characters. Empty lines and lines that begin with # are skipped. None: no file.
        own: another token, with the scope `train`.

    Raises:
        ConfigError: the file can't be read, others than its owner can read it, it holds no token, or a line of it is
            invalid; the message names the line.
    """

    def __init__(self, path: Path | None, own: str | None = None) -> None:
        self._file = None if path is None else WatchedFiles((path,), lambda: _read(path))
        self._own = () if own is None else (_Entry("own", Scope.TRAIN, _digest(own)),)

    @staticmethod
    def new() -> str:
        """A token that nobody can guess."""
        return secrets.token_urlsafe(32)

    def scope_of(self, token: str) -> Scope | None:
        """What a token allows; None if it isn't one of these. Takes the same time whichever token it is."""
        digest = _digest(token)
        found = None
        for entry in self._entries():
            if hmac.compare_digest(entry.digest, digest):
                found = entry.scope
        return found

    def scope_of_header(self, header: str | None) -> Scope | None:
        """What the value of an `Authorization` header allows; None unless it is "Bearer" and a known token."""
        scheme, _, token = (header or "").partition(" ")
        return self.scope_of(token.strip()) if scheme.lower() == "bearer" else None

    def __repr__(self) -> str:
        entries = self._entries()
        train = sum(entry.scope is Scope.TRAIN for entry in entries)
        return f"{train} with scope train, {len(entries) - train} with scope read"

    def _entries(self) -> tuple[_Entry, ...]:
        return self._own if self._file is None else self._own + self._file.get()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _read(path: Path) -> tuple[_Entry, ...]:
    try:
        with open(path, encoding="ascii") as file:
            status = os.fstat(file.fileno())
            lines = file.read().splitlines()
    except OSError as error:
        raise ConfigError(f"--tokens {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--tokens {path}: byte {error.start} is not ASCII") from None
    _refuse_if_others_read(path, status)
    entries: list[_Entry] = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            entries.append(_entry(line, f"--tokens {path}, line {number}", entries))
    if not entries:
        raise ConfigError(f"--tokens {path} holds no token: add a line NAME SCOPE TOKEN")
    return tuple(entries)


def _entry(line: str, place: str, before: list[_Entry]) -> _Entry:
    """One token. The messages quote nothing of the line, as any part of it may be a token."""
    words = line.split()
    if len(words) != 3:
        raise ConfigError(f"{place}: {len(words)} words; a line is NAME SCOPE TOKEN")
    name, scope, token = words
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{place}: the first word is no name of letters, digits and '._-'")
    if scope not in ("read", "train"):
        raise ConfigError(f"{place}: the second word is the scope, and must be train or read")
    if len(token) < _MIN_LENGTH or not token.isprintable():
        raise ConfigError(
            f"{place}: the token must have at least {_MIN_LENGTH} printable characters, as of `openssl rand -hex 32`"
        )
    digest = _digest(token)
    for entry in before:
        if entry.name == name or entry.digest == digest:
            raise ConfigError(f"{place}: the file has this {'name' if entry.name == name else 'token'} already")
    return _Entry(name, Scope[scope.upper()], digest)


def _refuse_if_others_read(path: Path, status: os.stat_result) -> None:
    """A secret that an orchestrator mounts belongs to root, and its group lets this process read it."""
    mounted = status.st_uid == 0 != os.geteuid() and not status.st_mode & 0o037
    if status.st_mode & 0o077 and stat.S_ISREG(status.st_mode) and not mounted:
        raise ConfigError(f"--tokens {path}: other users can read it (mode {status.st_mode & 0o777:04o}); chmod 600 it")
