"""Checks how a tar file ends: with a marker of two zero blocks, and nothing but zero padding behind it.

Programs that read tar files stop at the first zero block. So a part that was never copied, or a second archive
behind the first, would go unnoticed.

A file whose space was reserved and whose copy has stopped ends in zeros too. Only their number tells it from an archive
with much padding, and the end of the last member, which is mostly zeros as well, as a copy seldom stops between two.
"""

from __future__ import annotations

import os

from infobatch_client.shards.tar_header import BLOCK_BYTES

__all__ = ["close_archive", "end_problem"]

_MARKER_BYTES = 2 * BLOCK_BYTES
_RECORD_BYTES = 20 * BLOCK_BYTES  # what GNU tar and Python's tarfile pad an archive to
_JOINED_BYTES = 3 * _RECORD_BYTES  # `tar --concatenate` keeps the second archive's padding, and pads again
_MAX_RECORD_BYTES = 2048 * BLOCK_BYTES  # of powers of two, as in `tar -b 64`
_CHUNK_BYTES = 2**20
_JOIN = "join archives by `tar --concatenate`, one at a time, and not by `cat`, or list each as a shard; otherwise "


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
    data_at = _first_data(fd, at + BLOCK_BYTES, file_size)
    if data_at is None and file_size - at < _MARKER_BYTES:
        return at, "a lone zero block ends the file, in place of the end-of-archive marker of two", close_archive(at)
    if data_at is None and not _is_padding(fd, at, file_size):
        what = (
            f"{file_size - at} zero bytes up to the end of the file, more than an end-of-archive marker and its padding"
            " take: a part of the file may never have been copied"
        )
        return at, what, close_archive(at)
    if data_at is not None and data_at - at < _MARKER_BYTES:
        return at, f"a lone zero block, and data behind it at byte {data_at}: a part of the archive is missing", ""
    if data_at is not None:
        what = f"data behind the end-of-archive marker at byte {at}: another archive, or the rest of a damaged one"
        return data_at, what, _JOIN
    return None


def _is_padding(fd: int, at: int, file_size: int) -> bool:
    """Whether zeros from `at` to the end of the file are a marker and what some way of writing pads it with."""
    if file_size <= -(-(at + _MARKER_BYTES) // _RECORD_BYTES) * _RECORD_BYTES:
        return True
    if file_size % BLOCK_BYTES or not os.pread(fd, BLOCK_BYTES, max(0, at - BLOCK_BYTES)).strip(b"\0"):
        return False
    size_divisor = file_size & -file_size  # the largest power of two by which it can be divided
    longest = max(
        _RECORD_BYTES,
        _JOINED_BYTES if file_size % _RECORD_BYTES == 0 else 0,
        min(size_divisor, _MAX_RECORD_BYTES),
    )
    return file_size - at < _MARKER_BYTES + longest


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
