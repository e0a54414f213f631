"""Checks how a tar file ends: with a marker of two zero blocks, and nothing but zero padding behind it.

Programs that read tar files stop at the first zero block. So a part that was never copied, or a second archive
behind the first, would go unnoticed.
"""

from __future__ import annotations

import os

from infobatch_client.shards.tar_header import BLOCK_BYTES

__all__ = ["close_archive", "end_problem"]

_MARKER_BYTES = 2 * BLOCK_BYTES
_RECORD_BYTES = 20 * BLOCK_BYTES  # what GNU tar and Python's tarfile pad an archive to
_CHUNK_BYTES = 2**20


def close_archive(at: int) -> str:
    """What to do with a shard whose last member ends at byte `at`, without the right marker behind it."""
    return f"if no sample is missing, `truncate -s {at + _MARKER_BYTES}` on it puts that right; otherwise "


def end_problem(fd: int, at: int, file_size: int) -> tuple[int, str, str] | None:
    """What is wrong with the end of an archive whose first zero block is at byte `at`.

    Args:
        fd: descriptor of the tar file.
        at: offset of the first zero block where a header was due.
        file_size: bytes in the file.

    Returns:
        (the byte, what is wrong, what to do); None if the archive ends as it must.
    """
    padded = -(-(at + _MARKER_BYTES) // _RECORD_BYTES) * _RECORD_BYTES
    data_at = _first_data(fd, at + BLOCK_BYTES, file_size)
    if data_at is None and file_size - at < _MARKER_BYTES:
        return at, "a lone zero block ends the file, in place of the end-of-archive marker of two", close_archive(at)
    if data_at is None and file_size > padded:
        what = (
            f"{file_size - at} zero bytes up to the end of the file, more than an end-of-archive marker and its padding"
            " take: a part of the file may never have been copied"
        )
        return at, what, close_archive(at)
    if data_at is not None and data_at - at < _MARKER_BYTES:
        return at, f"a lone zero block, and data behind it at byte {data_at}: a part of the archive is missing", ""
    if data_at is not None:
        what = f"data behind the end-of-archive marker at byte {at}: another archive, or the rest of a damaged one"
        return data_at, what, "join archives by `tar --concatenate` and not by `cat`, or list them one by one; else "
    return None


def _first_data(fd: int, at: int, file_size: int) -> int | None:
    """The first byte from `at` on that isn't zero."""
    while at < file_size:
        data = os.pread(fd, min(_CHUNK_BYTES, file_size - at), at)
        if not data:
            return None
        rest = data.lstrip(b"\0")
        if rest:
            return at + len(data) - len(rest)
        at += len(data)
    return None
