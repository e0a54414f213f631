"""The dataset: shards, the run that prunes them, and a webdataset pipeline, in one picklable object."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from webdataset.compat import FluidInterface
from webdataset.pipeline import DataPipeline

from infobatch_client.plain.loading import PlainLoading
from infobatch_client.reading.reader import ShardReader
from infobatch_client.run.options import RunOptions, Timeouts
from infobatch_client.shards.index_store import IndexedShards, index_shards
from infobatch_client.shards.urls import expand_shards
from infobatch_client.tie.stages import refuse_if_tie_breaks
from infobatch_client.workers.sample_source import SampleSource
from infobatch_stream.errors import ConfigError
from infobatch_stream.plan.order_params import OrderChoice
from infobatch_stream.ratios import whole_number

__all__ = ["InfoBatchStreamDataset"]

Shards = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class InfoBatchStreamDataset(PlainLoading, DataPipeline, FluidInterface):  # type: ignore[misc]
    """webdataset shards, read by index, pruned by a run on a score server.

    Read it through `InfoBatchLoader`, or, with `batch_size`, through a plain `torch.utils.data.DataLoader`, with the
    methods of `PlainLoading`.

    It is a `webdataset.DataPipeline` whose first stage is ours: `.decode`, `.to_tuple`, `.map`, `.select`, … are
    webdataset's own, and samples come as webdataset makes them, with `__index__` (int) and `__weight__` (float)
    beside `__key__` and `__url__`. Stages that would part a score from its sample are refused by name.

    It pickles, and holds no channel, thread, lock or child process. Making one indexes the shards (once; the index is
    kept beside them or in the user's cache) and contacts no server.

    Args:
        shards: a brace pattern, a list, a glob or a folder of local tar files.
        url: the score server, "HOST:PORT"; None starts an embedded one that lives as long as this program.
        run: the run's name on the server; None makes a fresh one and prints it.
        epochs: C, the epochs that the schedule is for. Needed unless policy is None.
        policy: "infobatch" (the paper), "full", "random", "hard", "levels"; None reads without server or run, for
            validation.
        prune_ratio: r of Eq. 4, the share pruned of the samples below the threshold, in [0, 1); 0.5 by default.
        prune_fraction: instead of it, the share of all samples that every pruned epoch leaves out, in [0, 1).
        levels: [(quantile, share pruned), …] for policy "levels", which it implies.
        threshold: "mean" (Eq. 3) or "quantile:q".
        condition: "low" prunes below the threshold, "high" above.
        draw: "bernoulli" (Eq. 4 to the letter) or "exact" (a fixed number of each class).
        rescale: weigh kept samples by 1/p (Eq. 6); off is biased.
        anneal: unpruned from ⌊delta·epochs⌋ on.
        delta: δ in [0, 1], a float or a decimal string; 0.875 as in the paper.
        subset: bool (N,) or int64 indices: the samples that exist for this run.
        seed: of draw and order, in [0, 2⁶⁴).
        score_name: what `loader.update` pushes; part of the run.
        order: lanes, stripe, window and run length of the plan order, where the default isn't wanted.
        shuffle: off reads in index order; only with policy=None.
        if_exists: "refuse" or "restart": what to do with a run that has trained already when no state is loaded.
        takeover: take the run from another job that holds it; that job's ranks are told, and stop.
        state_dir: where an embedded server keeps its state; ./.infobatch by default.
        on_error: "raise", or "skip": leave out and count samples that can't be read or on which a stage raises.
        max_errors: samples that may be skipped by worker and epoch.
        batch_size: rows by batch, for a plain DataLoader, which must be given the same.
        timeouts: how long to wait for a server.

    Raises:
        ConfigError: an argument, or a combination of arguments, that can't be meant.
        ShardError: a shard that is missing, empty, damaged, or has duplicate keys.

    Example:
        >>> dataset = InfoBatchStreamDataset("data/train-{0000..0049}.tar", epochs=30)   # doctest: +SKIP
        >>> dataset = dataset.decode("pil").to_tuple("jpg", "cls")                       # doctest: +SKIP
    """

    def __init__(
        self,
        shards: Shards,
        *,
        url: str | None = None,
        run: str | None = None,
        epochs: int | None = None,
        policy: str | None = "infobatch",
        prune_ratio: float | str | None = None,
        prune_fraction: float | str | None = None,
        levels: Sequence[tuple[float | str, float | str]] | None = None,
        threshold: str | None = None,
        condition: str | None = None,
        draw: str | None = None,
        rescale: bool = True,
        anneal: bool = True,
        delta: float | str = "0.875",
        subset: npt.ArrayLike | None = None,
        seed: int = 0,
        score_name: str = "loss",
        order: OrderChoice | None = None,
        shuffle: bool = True,
        if_exists: str = "refuse",
        takeover: bool = False,
        state_dir: str | os.PathLike[str] | None = None,
        on_error: str = "raise",
        max_errors: int = 1000,
        batch_size: int | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        super().__init__()
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error={on_error!r} is neither 'raise' nor 'skip'")
        seed = whole_number(seed, "seed")
        if seed >= 2**64:
            raise ConfigError(f"seed={seed} is outside [0, 2**64)")
        self.on_error = on_error
        self.max_errors = whole_number(max_errors, "max_errors")
        self.shuffled = shuffle
        self.seed = seed
        self.options: RunOptions | None = None
        settings = {
            "prune_ratio": prune_ratio,
            "prune_fraction": prune_fraction,
            "levels": levels,
            "threshold": threshold,
            "condition": condition,
            "draw": draw,
        }
        if policy is None:
            _refuse_run_options(url=url, run=run, epochs=epochs, subset=subset, **settings)
        else:
            if not shuffle:
                raise ConfigError("shuffle=False goes with policy=None only: a pruned run reads in its plan's order")
            self.options = RunOptions.from_user(
                policy=policy,
                settings=settings,
                rescale=rescale,
                anneal=anneal,
                url=url,
                run=run,
                epochs=epochs,
                delta=delta,
                seed=seed,
                score_name=score_name,
                order=order or OrderChoice(),
                if_exists=if_exists,
                takeover=takeover,
                state_dir=state_dir,
                timeouts=timeouts or Timeouts(),
            )
        self._prepare(batch_size)
        self.indexed: IndexedShards = index_shards(expand_shards(shards))
        if self.options is not None and subset is not None:
            self.options = self.options.with_subset(np.asarray(subset), self.indexed.manifest.num_samples)
        self.pipeline = [None]

    @property
    def stages(self) -> list[Any]:
        """The webdataset stages after the reader."""
        return self.pipeline[1:]

    def sample_source(self) -> SampleSource:
        """The part of this dataset that workers receive.

        Raises:
            ConfigError: closed.
        """
        self._check_not_closed()
        return SampleSource(ShardReader(self.indexed), self.stages, self.on_error, self.max_errors)

    def append(self, f: Any) -> None:
        """Adds a stage; `compose` and every fluid method come through here.

        Raises:
            PipelineError: the stage would part scores from their samples.
        """
        refuse_if_tie_breaks(f)
        super().append(f)

    def with_epoch(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: an epoch is what its plan says."""
        self._refuse("with_epoch")

    def repeat(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: `loader.epochs()`, or `set_epoch`, gives them all."""
        self._refuse("repeat")

    def with_length(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: `len(loader)` is known."""
        self._refuse("with_length")

    def _refuse(self, method: str) -> NoReturn:
        refuse_if_tie_breaks(method)
        raise AssertionError(method)


def _refuse_run_options(**given: object) -> None:
    named = sorted(name for name, value in given.items() if value is not None)
    if named:
        raise ConfigError(f"policy=None reads without a server or a run: leave out {', '.join(named)}")
