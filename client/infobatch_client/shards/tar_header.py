"""Decodes header blocks of tar files: number fields, checksums and text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK_BYTES", "checksums_hold", "decode", "fit_headers", "parse_number"]

BLOCK_BYTES = 512


def fit_headers(blocks: Sequence[bytes], sizes: Sequence[int]) -> list[bool]:
    """Whether each block (512 bytes) is a valid tar header of a member with that size in bytes."""
    whole = [len(block) == BLOCK_BYTES for block in blocks]
    holds = iter(checksums_hold(b"".join(block for block in blocks if len(block) == BLOCK_BYTES)).tolist())
    stated = [
        parse_number(block[124:136]) if is_whole and next(holds) else None
        for block, is_whole in zip(blocks, whole, strict=True)
    ]
    return [number in (size, 0) for number, size in zip(stated, sizes, strict=True)]  # PAX may state it elsewhere


def checksums_hold(headers: bytes) -> NDArray[np.bool_]:
    """Whether the checksum of each of n consecutive header blocks is correct, bool (n,)."""
    blocks = np.frombuffer(headers, dtype=np.uint8).reshape(-1, BLOCK_BYTES)
    fields = blocks[:, 148:156]
    expected = _stated_checksums(fields)
    as_blanks = 8 * ord(" ")  # the checksum field itself counts as blanks
    holds = _row_sums(blocks) - fields.sum(axis=1, dtype=np.int64) + as_blanks == expected
    if not holds.all():  # ancient tar programs summed signed chars
        signed = blocks.view(np.int8)
        sums = signed.sum(axis=1, dtype=np.int64) - signed[:, 148:156].sum(axis=1, dtype=np.int64)
        holds |= sums + as_blanks == expected
    return np.asarray(holds, dtype=np.bool_)


def _row_sums(blocks: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The sum of each row's bytes, int64 (n,): added in four 16-bit lanes, which a row can't overflow."""
    words = blocks.view(np.uint64)
    lanes = np.uint64(0x00FF00FF00FF00FF)
    sums = ((words & lanes) + ((words >> np.uint64(8)) & lanes)).sum(axis=1)
    totals: NDArray[np.int64] = sums.view(np.uint16).reshape(-1, 4).sum(axis=1, dtype=np.int64)
    return totals


def _stated_checksums(fields: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The checksums stated in header blocks, int64 (n,); -1 for a field that is not a number."""
    digits = fields[:, :6].astype(np.int64) - ord("0")
    checksums = digits @ (8 ** np.arange(5, -1, -1, dtype=np.int64))
    is_usual = ((digits >= 0) & (digits <= 7)).all(axis=1) & (fields[:, 6] == 0)
    for row in np.flatnonzero(~is_usual).tolist():
        number = parse_number(fields[row].tobytes())
        checksums[row] = -1 if number is None else min(number, 2**62)
    return checksums


def parse_number(text: bytes) -> int | None:
    """The value of a number field: octal text, or base-256 after a marker byte; None if neither."""
    if text[0] in (0o200, 0o377):
        return int.from_bytes(text[1:], "big") - (256 ** (len(text) - 1) if text[0] == 0o377 else 0)
    try:
        return int(text.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return None


def decode(text: bytes) -> str:
    """The text of header bytes; bytes that aren't UTF-8 become surrogate escapes."""
    return text.decode("utf-8", "surrogateescape")
