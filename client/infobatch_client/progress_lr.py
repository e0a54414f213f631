"""Learning-rate schedules that follow the progress of the training, not a count of steps.

Pruning makes epochs shorter and their lengths unknown beforehand, so a schedule over steps would end too late or never.
These are functions over [0, 1], from the first batch of the first epoch to the last batch of the last: every epoch
begins at the learning rate that an unpruned run has there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from infobatch_stream.errors import ConfigError
from infobatch_stream.keywords import suggesting

if TYPE_CHECKING:
    from torch.optim import Optimizer

__all__ = ["ProgressLR", "ProgressSource", "cosine", "one_cycle"]

Schedule = Callable[[float], float]
"""From the share of the training that is done, in [0, 1], to the factor on each group's learning rate."""


class ProgressSource(Protocol):
    """The part of a loader that a schedule reads: its progress, and the progress at its end."""

    @property
    def num_epochs(self) -> float:
        """The epochs of the training."""

    def progress(self) -> float:
        """Epochs done, the open one by its share that was consumed: epoch + consumed / positions."""


class ProgressLR:
    """Sets each parameter group's learning rate to its initial one times `fn(progress / epochs)`.

    The rate is a function of the loader's progress alone, so a restored loader restores the schedule too.
    Not thread-safe; for the process that trains.

    Args:
        optimizer: its groups' `initial_lr`, or `lr` if that is missing, are the rates at factor 1.
        fn: from the share of the training done, a float in [0, 1], to a factor; `one_cycle()`, `cosine()` or
            your own.
        loader: an `InfoBatchLoader`, or anything with `progress()` and `num_epochs`.

    Raises:
        ConfigError: the loader has no epochs.

    Example:
        >>> schedule = ProgressLR(optimizer, one_cycle(), loader)     # doctest: +SKIP
        >>> optimizer.step(); schedule.step()                         # doctest: +SKIP
    """

    @suggesting
    def __init__(self, optimizer: Optimizer, fn: Schedule, loader: ProgressSource) -> None:
        if not loader.num_epochs > 0:
            raise ConfigError(f"a schedule needs a loader with epochs, and num_epochs is {loader.num_epochs}")
        self.optimizer = optimizer
        self._fn = fn
        self._loader = loader
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.step()

    def step(self) -> None:
        """Sets the rates for the next optimizer step. Call it after every `optimizer.step()`."""
        done = self._loader.progress() / self._loader.num_epochs
        factor = self._fn(min(max(done, 0.0), 1.0))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def get_last_lr(self) -> list[float]:
        """The rates now set, one per parameter group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Each group's rate at factor 1 and at present; all else follows from the loader's own state."""
        groups = self.optimizer.param_groups
        return {"initial_lrs": [group["initial_lr"] for group in groups], "lrs": self.get_last_lr()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Sets the rates of `state_dict()`, which hold until the next `step()`.

        They are set as saved, because a resumed loader knows its progress within an epoch only once it has that epoch's
        plan. Call it after `optimizer.load_state_dict`.

        Raises:
            ConfigError: the optimizer has another number of parameter groups.
        """
        groups = self.optimizer.param_groups
        if len(state["lrs"]) != len(groups):
            raise ConfigError(
                f"the state has {len(state['lrs'])} parameter groups and the optimizer {len(groups)}: "
                "load it into an optimizer with the same groups"
            )
        for group, initial_lr, lr in zip(groups, state["initial_lrs"], state["lrs"], strict=True):
            group.update(initial_lr=initial_lr, lr=lr)


@suggesting
def one_cycle(pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4) -> Schedule:
    """The one-cycle policy: up along a half cosine, then down along a longer one.

    From 1/div_factor at 0 to 1 at `pct_start`, then to 1/(div_factor · final_div_factor) at 1. The group's
    own learning rate is the peak (`max_lr` of `torch.optim.lr_scheduler.OneCycleLR`, whose shape this is).

    Raises:
        ConfigError: `pct_start` outside (0, 1), or a divisor that isn't positive.
    """
    if not 0.0 < pct_start < 1.0:
        raise ConfigError(f"pct_start is the share of the training that warms up, in (0, 1): {pct_start}")
    if not (div_factor > 0.0 and final_div_factor > 0.0):
        raise ConfigError(f"divisors must be positive: div_factor={div_factor}, {final_div_factor=}")
    first = 1.0 / div_factor
    last = first / final_div_factor

    def factor(done: float) -> float:
        if done < pct_start:
            return _half_cosine(first, 1.0, done / pct_start)
        return _half_cosine(1.0, last, (done - pct_start) / (1.0 - pct_start))

    return factor


@suggesting
def cosine(warmup: float = 0.0, final: float = 0.0) -> Schedule:
    """A straight warm-up from 0 over the share `warmup`, then a half cosine from 1 to `final`.

    Raises:
        ConfigError: `warmup` outside [0, 1), or a negative `final`.
    """
    if not 0.0 <= warmup < 1.0:
        raise ConfigError(f"warmup is a share of the training, in [0, 1): {warmup}")
    if not final >= 0.0:
        raise ConfigError(f"final is the last factor, not below 0: {final}")

    def factor(done: float) -> float:
        if done < warmup:
            return done / warmup
        return _half_cosine(1.0, final, (done - warmup) / (1.0 - warmup))

    return factor


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * share))
