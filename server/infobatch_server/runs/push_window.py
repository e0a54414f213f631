"""The pushes of one client that were stored: a high-water mark, and a bit for each of the 32 numbers up to it."""

from __future__ import annotations

from infobatch_server.state.score_batch import WINDOW
from infobatch_stream.errors import ConfigError

__all__ = ["WINDOW", "PushWindow"]


class PushWindow:
    """The sequence numbers of one pusher in one generation.

    Not thread-safe: its owner's lock guards it.
    """

    __slots__ = ("_newest", "_pending", "_stored")

    def __init__(self) -> None:
        self._newest = 0
        self._stored = 0  # bit i: sequence number newest - i
        self._pending: set[int] = set()

    def is_stored(self, sequence: int) -> bool:
        """Whether a push was stored.

        Raises:
            ConfigError: it is too old for its bit to be known.
        """
        age = self._newest - sequence
        if age >= WINDOW:
            raise ConfigError(
                f"push {sequence} is {age} behind push {self._newest}, and only the last {WINDOW} are known: it was "
                f"not stored now, and may have been before; send at most {WINDOW - 1} pushes ahead of one that waits "
                "for its answer"
            )
        return age >= 0 and bool(self._stored >> age & 1)

    def is_pending(self, sequence: int) -> bool:
        """Whether another call is storing the push."""
        return sequence in self._pending

    def begin(self, sequence: int) -> None:
        """Marks a push as pending, before it is stored."""
        self._pending.add(sequence)

    def end(self, sequence: int, *, stored: bool) -> None:
        """Marks a push as stored, or as failed, after which it may be sent again."""
        self._pending.discard(sequence)
        if not stored:
            return
        if sequence > self._newest:
            self._stored = (self._stored << min(sequence - self._newest, WINDOW)) & (2**WINDOW - 1)
            self._newest = sequence
        age = self._newest - sequence
        if age < WINDOW:
            self._stored |= 1 << age
