"""Which pushes of one client were stored: a high-water mark and the 32 numbers up to it."""

from __future__ import annotations

__all__ = ["WINDOW", "PushWindow"]

WINDOW = 32
"""A client has at most this many pushes on the way; what is older was stored, or given up by the client."""


class PushWindow:
    """The sequence numbers of one pusher in one generation.

    Not thread-safe: its owner's lock guards it.
    """

    def __init__(self) -> None:
        self._newest = 0
        self._stored = 0  # bit i: sequence number newest - i
        self._under_way: set[int] = set()

    def is_stored(self, sequence: int) -> bool:
        """Whether a push was stored, or is so old that its client can't be waiting for it."""
        age = self._newest - sequence
        return age >= WINDOW or (age >= 0 and bool(self._stored >> age & 1))

    def is_under_way(self, sequence: int) -> bool:
        """Whether the same push is being stored right now."""
        return sequence in self._under_way

    def begin(self, sequence: int) -> None:
        """A push that isn't stored yet is about to be."""
        self._under_way.add(sequence)

    def end(self, sequence: int, *, stored: bool) -> None:
        """A push that was begun has been stored, or has failed and may come again."""
        self._under_way.discard(sequence)
        if not stored:
            return
        if sequence > self._newest:
            self._stored = (self._stored << min(sequence - self._newest, WINDOW)) & (2**WINDOW - 1)
            self._newest = sequence
        age = self._newest - sequence
        if age < WINDOW:
            self._stored |= 1 << age
