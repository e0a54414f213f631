"""The progress bar of long scans."""

from __future__ import annotations

from tqdm import tqdm

__all__ = ["ProgressBar"]


class ProgressBar(tqdm):  # type: ignore[type-arg]
    """A progress bar on stderr, from the second second on, without tqdm's monitor thread, which forks would inherit.

    Args:
        total: shards.
        desc: what is done with them.
        show: whether it is shown; None: on a terminal only.
    """

    monitor_interval = 0

    def __init__(self, total: int, desc: str, show: bool | None) -> None:
        super().__init__(total=total, desc=desc, unit="shard", delay=1.0, disable=None if show is None else not show)
