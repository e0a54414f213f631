"""The file that holds a client's token, read again when it changes."""

from __future__ import annotations

import os
from pathlib import Path

from infobatch_stream.errors import ConfigError

__all__ = ["checked_token", "newest_token"]

_read: dict[Path, tuple[tuple[int, ...], str]] = {}  # what each file held when it was last read


def newest_token(path: Path) -> str:
    """The token in a file, as of now; while the file is missing or invalid, the one that it held before.

    Raises:
        ConfigError: the file can't be read, or there is no token in it, and it was never read before.
    """
    before = _read.get(path)
    try:
        status = os.stat(path)
        stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if before is None or before[0] != stamp:
            text = path.read_text(encoding="ascii", errors="replace")
            _read[path] = before = stamp, checked_token(text, f"the token file {path}")
    except OSError as error:
        if before is None:
            raise ConfigError(f"can't read the token file {path}: {error.strerror}") from error
    except ConfigError:
        if before is None:
            raise
    return before[1]


def checked_token(text: str, place: str) -> str:
    """The token in a text; its white space at both ends doesn't count.

    Raises:
        ConfigError: there is none, or it isn't one line of printable ASCII; the message names `place` alone.
    """
    token = text.strip()
    if not (token and token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(f"{place} holds no token: it must be one line of printable ASCII characters")
    return token
