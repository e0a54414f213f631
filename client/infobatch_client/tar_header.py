"""One header block of a tar file: its number fields, its checksum, its text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK_BYTES", "check_header", "checksums_hold", "decode", "parse_number"]

BLOCK_BYTES = 512


def check_header(block: bytes, size: int) -> bool:
    """Says whether `block` (512 bytes) is a valid tar header of a member of `size` bytes."""
    if len(block) != BLOCK_BYTES or not checksums_hold(block)[0]:
        return False
    stated = parse_number(block[124:136])
    return stated == size or stated == 0  # PAX may state the size elsewhere


def checksums_hold(headers: bytes) -> NDArray[np.bool_]:
    """Says of n header blocks, one after the other, whether their checksums are right: bool (n,)."""
    blocks = np.frombuffer(headers, dtype=np.uint8).reshape(-1, BLOCK_BYTES)
    others = np.concatenate([blocks[:, :148], blocks[:, 156:]], axis=1)
    unsigned = others.sum(axis=1, dtype=np.int64) + 8 * 32
    stated = [parse_number(field) for field in _fields(blocks[:, 148:156])]
    expected = np.array([-1 if number is None else number for number in stated], dtype=np.int64)
    holds = unsigned == expected
    if not holds.all():  # ancient tars summed signed chars
        holds |= others.view(np.int8).sum(axis=1, dtype=np.int64) + 8 * 32 == expected
    return np.asarray(holds, dtype=np.bool_)


def _fields(column: NDArray[np.uint8]) -> list[bytes]:
    joined = column.tobytes()
    width = column.shape[1]
    return [joined[at : at + width] for at in range(0, len(joined), width)]


def parse_number(text: bytes) -> int | None:
    """A number field of a header: octal text, or base-256 behind a marker byte; None if neither."""
    if text[0] in (0o200, 0o377):
        return int.from_bytes(text[1:], "big") - (256 ** (len(text) - 1) if text[0] == 0o377 else 0)
    try:
        return int(text.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return None


def decode(text: bytes) -> str:
    """Text of a header; bytes that aren't UTF-8 become surrogate escapes."""
    return text.decode("utf-8", "surrogateescape")
