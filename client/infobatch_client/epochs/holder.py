"""How errors and warnings name the object that a user holds: a loader, or a dataset in a plain DataLoader."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from infobatch_client.user_warnings import warn_user
from infobatch_stream.errors import ConfigError, LossError

__all__ = ["DATASET", "LOADER", "Holder"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The object on which a user calls `update`, and the errors of a loop in its words.

    Args:
        name: "loader" or "dataset".
        open_epoch: the instruction that opens an epoch.
        open_next: the instruction that opens the epoch `{epoch}` after updates.
        update: the call that updates a batch.
    """

    name: str
    open_epoch: str
    open_next: str
    update: str

    def closed(self) -> ConfigError:
        """For a call that reads or opens after `close()`."""
        return ConfigError(f"this {self.name} is closed: make a new one")

    def takes_no_scores(self) -> ConfigError:
        """For losses, scores and skips after `close()`."""
        return ConfigError(f"this {self.name} is closed: it takes no scores any more")

    def without_run(self, reason: str) -> ConfigError:
        """For a call that only training has, on a validation set."""
        return ConfigError(f"a validation {self.name} (policy=None) {reason}")

    def no_epoch(self) -> LossError:
        """For a call that needs an open epoch."""
        return LossError(self._no_epoch)

    def nothing_to_read(self) -> ConfigError:
        """For an iterator that can't open an epoch."""
        return ConfigError(self._no_epoch)

    def second_pass(self, epoch: int) -> ConfigError:
        """For a new iterator of an epoch of which batches were updated."""
        return ConfigError(
            f"a second pass over epoch {epoch} after updates: a sample is trained once in an epoch; "
            + self.open_next.format(epoch=epoch + 1)
        )

    def pass_over(self) -> ConfigError:
        """For an iterator that a newer one has replaced."""
        return ConfigError("this iterator is of a pass that is over: a newer one has begun")

    def not_next(self, epoch: int, following: int) -> ConfigError:
        """For `set_epoch(epoch)` where `following` is the next epoch."""
        reason = (
            f"a second pass over epoch {epoch} after updates would train samples twice"
            if epoch == following - 1
            else "a run's epochs are trained one after the other"
        )
        return ConfigError(
            f"set_epoch({epoch}): epoch {following} is next; {reason}. To go back to an earlier epoch, load a state "
            f"that was saved then into a new {self.name}"
        )

    def late_state(self) -> ConfigError:
        """For `load_state_dict()` after the first epoch was opened."""
        return ConfigError(
            f"load_state_dict() comes before the first epoch: make a new {self.name} to load a state into it"
        )

    def log_finished(self, num_epochs: int) -> None:
        """Says that a loop over the epochs does nothing: legal, as for a job that restarts from its last checkpoint."""
        _log.warning(
            "nothing to train: all %d epochs of this %s's run are over; to train on, make a run of more epochs under "
            "another name (run=…)",
            *(num_epochs, self.name),
        )

    def warn_never_updated(self, batches: str) -> None:
        """Warns, at the user's line, that `batches` ("8 of 16 batches of epoch 0 were never") have no update."""
        warn_user(
            f"{batches} updated, so their samples have no new scores; call {self.update} for every batch, or "
            f"{self.name}.skip() for one that is deliberately not trained",
        )

    def warn(self, text: str) -> None:
        """Warns at the user's line."""
        warn_user(text)

    @property
    def _no_epoch(self) -> str:
        return f"no epoch is open: {self.open_epoch}"


LOADER = Holder(
    name="loader",
    open_epoch="iterate over loader.epochs() and, inside, over the loader",
    open_next="take the next one from loader.epochs(), or call loader.set_epoch({epoch})",
    update="loader.update(losses)",
)
DATASET = Holder(
    name="dataset",
    open_epoch=(
        "call dataset.set_epoch(epoch), in the process that owns the loop, before iterating over the DataLoader"
    ),
    open_next="call dataset.set_epoch({epoch}) before iterating over the DataLoader again",
    update="dataset.update(losses, index, weight)",
)
