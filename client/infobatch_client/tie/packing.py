"""Whether a stage packs samples, by the numbers of samples that it pulls for its outputs."""

from __future__ import annotations

__all__ = ["PullCounts"]

_ALIKE, _SIMILAR = 12, 24


class PullCounts:
    """Counts of samples pulled for each output of a stage that is said to drop some.

    A stage that drops samples of a shuffled order pulls now one, now many. One that packs them always pulls several:
    the same number, or as many as fill its pack. A filter that keeps half of the samples looks like the first with
    probability 4⁻¹², like the second with less than 2⁻²⁴; one that keeps less, or more, is less alike to both.
    """

    def __init__(self) -> None:
        self._outputs = 0
        self._fewest, self._most = 0, 0

    def add(self, pulls: int) -> bool:
        """Counts an output; whether the stage packs, by all that were counted."""
        self._fewest = min(self._fewest, pulls) if self._outputs else pulls
        self._most = max(self._most, pulls)
        self._outputs += 1
        if self._fewest < 2:
            return False
        needed = _ALIKE if self._fewest == self._most else _SIMILAR
        return self._outputs >= needed and self._most <= 2 * self._fewest
