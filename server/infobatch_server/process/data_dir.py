"""The data directory, with a lock against a second server, and the endpoint file."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from infobatch_stream.errors import ServerError

__all__ = ["DataDir", "remove_endpoint_file", "write_endpoint_file"]

log = logging.getLogger(__name__)


class DataDir:
    """A server's directory: created if it is missing, and locked until `close`.

    Args:
        path: the directory.

    Raises:
        ServerError: another server uses the directory, or it can't be created, written or locked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(path / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise ServerError(f"--data-dir {path} is a file; it must be a folder") from error
        except OSError as error:
            raise ServerError(f"--data-dir {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._lock)
            raise ServerError(
                f"--data-dir {path} is in use by another server (pid {owner}): stop it, or use another directory"
            ) from error
        except OSError as error:
            os.close(self._lock)
            raise ServerError(f"--data-dir {path} can't be locked: {error.strerror}; use a local disk") from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Releases the lock."""
        os.close(self._lock)

    def __enter__(self) -> DataDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_endpoint_file(path: Path, fields: Mapping[str, object]) -> None:
    """Writes the endpoint file as JSON, atomically and readable by its owner only.

    Raises:
        ServerError: the file can't be written.
    """
    try:
        # mkstemp creates files with mode 0600.
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(dict(fields), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise ServerError(f"--endpoint-file {path}: {error.strerror}") from error


def remove_endpoint_file(path: Path, nonce: str) -> None:
    """Removes the endpoint file, unless another server has replaced it; failures are logged."""
    try:
        if json.loads(path.read_text(encoding="utf-8")).get("nonce") == nonce:
            path.unlink()
    except (OSError, ValueError, AttributeError) as error:
        log.warning("--endpoint-file %s was not removed: %s", path, error)
