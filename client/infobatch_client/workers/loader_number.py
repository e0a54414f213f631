"""The numbers by which the loaders of one process draw different random augmentations."""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ["LoaderNumber"]


class _Seeding:
    """The time from one seed of torch to the next, and the loaders that have begun a pass in it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.num_loaders = 0


_seedings: dict[Hashable, _Seeding] = {}


class LoaderNumber:
    """A loader's number among those of this process that read alike, from 0 on.

    The loader takes it at its first pass under a seed, and the count starts again when a pass begins under another
    seed. So it follows from the program alone: a new process that runs the same program gives the same numbers.
    """

    def __init__(self) -> None:
        self._seeding: _Seeding | None = None
        self._number = 0

    def under(self, seed: int, *alike: Hashable) -> int:
        """The number of this loader, as a pass begins.

        Args:
            seed: the pass's base seed.
            alike: what the loaders have in common that are counted together.
        """
        seeding = _seedings.get(alike)
        if seeding is None or seeding.seed != seed:
            seeding = _seedings[alike] = _Seeding(seed)
        if self._seeding is not seeding:
            self._seeding, self._number = seeding, seeding.num_loaders
            seeding.num_loaders += 1
        return self._number
