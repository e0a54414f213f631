"""An opening of an epoch: which positions each step, rank and worker takes.

Step t takes positions [s + t·G, s + (t+1)·G) with G = batch_size × world_size; rank k the k-th contiguous
batch_size of them; on a rank, worker t mod num_workers makes the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from infobatch_stream.errors import ConfigError

__all__ = ["Opening"]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The steps from a start position to the end of an epoch.

    Args:
        num_positions: K, the plan's kept samples.
        start: s, the positions that were consumed before.
        batch_size: B ≥ 1, rows by rank and step.
        world_size: ranks.
        drop_remainder: leaves out the last (K − s) mod G positions; otherwise the last step is filled up.
    """

    num_positions: int
    start: int
    batch_size: int
    world_size: int = 1
    drop_remainder: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.world_size < 1:
            raise ConfigError(f"batch_size={self.batch_size} and world_size={self.world_size} must be at least 1")
        if not 0 <= self.start <= self.num_positions:
            raise ConfigError(f"position {self.start} is outside [0, {self.num_positions}]")
        if self.drop_remainder and self.start < self.num_positions and not self.num_steps:
            raise ConfigError(
                f"remainder='drop' leaves nothing: {self.num_positions - self.start} samples are left and a step "
                f"takes batch_size × world_size = {self.global_batch}; use remainder='fill' or a smaller batch_size"
            )

    @property
    def global_batch(self) -> int:
        """G."""
        return self.batch_size * self.world_size

    @property
    def num_steps(self) -> int:
        """Batches that every rank receives."""
        left = self.num_positions - self.start
        return left // self.global_batch if self.drop_remainder else -(-left // self.global_batch)

    @property
    def end(self) -> int:
        """The position after the last that is read."""
        return min(self.num_positions, self.start + self.num_steps * self.global_batch)

    def rows(self, step: int, rank: int) -> tuple[int, int]:
        """Positions [first, end) of one rank's batch; fewer than batch_size, even none, in the last step."""
        first = self.start + step * self.global_batch + rank * self.batch_size
        return min(first, self.end), min(first + self.batch_size, self.end)

    def num_positions_of(self, rank: int) -> int:
        """Positions of one rank's batches, all steps together."""
        whole, rest = divmod(self.end - self.start, self.global_batch)
        return whole * self.batch_size + min(self.batch_size, max(0, rest - rank * self.batch_size))

    def consumed(self, steps: int) -> int:
        """The position, over all ranks, after `steps` batches on each."""
        return min(self.start + steps * self.global_batch, self.end)
