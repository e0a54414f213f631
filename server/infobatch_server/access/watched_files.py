"""Files whose content is used again as soon as it changes, and stays in use while the new one is invalid."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from infobatch_stream.errors import ConfigError

__all__ = ["WatchedFiles"]

log = logging.getLogger(__name__)

T = TypeVar("T")
_Stamp = tuple[tuple[int, ...] | None, ...]


class WatchedFiles(Generic[T]):
    """What `read` makes of some files. Safe to use from many threads; a look costs one `stat` for each file.

    Args:
        paths: the files; links are followed.
        read: reads all of them, and checks them.

    Raises:
        ConfigError: as `read`, on construction only. Later, what is wrong with a new content is logged once, and the
            content before stays in use.
    """

    def __init__(self, paths: tuple[Path, ...], read: Callable[[], T]) -> None:
        self._paths = paths
        self._read = read
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._value = read()

    def get(self) -> T:
        """The content of the files, as of now."""
        if self._look() != self._stamp:
            with self._lock:
                self._reload()
        return self._value

    def _reload(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return  # another thread has read them meanwhile
        names = ", ".join(map(str, self._paths))
        try:
            self._value = self._read()
        except ConfigError as error:
            log.error("%s changed, and what it held before stays in use: %s", names, error)
        else:
            log.info("%s changed, and was read again", names)
        self._stamp = stamp

    def _look(self) -> _Stamp:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
