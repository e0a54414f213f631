"""The dataset: shards, the run that prunes them, and a webdataset pipeline, in one picklable object."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infobatch_client.foreign_options import NOT_THE_DATASETS, WEBDATASET, refusing
from infobatch_client.plain.loading import PlainLoading
from infobatch_client.reading.reader import ShardReader
from infobatch_client.run.options import Connection, RunOptions
from infobatch_client.selection.keys import subset_array
from infobatch_client.selection.mask import subset_mask
from infobatch_client.shards.bad_shards import left_out_warning
from infobatch_client.shards.groups import group_shards
from infobatch_client.shards.index_store import IndexedShards, index_shards
from infobatch_client.shards.urls import expand_shards
from infobatch_client.tie.fluid import FluidPipeline
from infobatch_client.tie.mixing import mixed_error, refuse_if_data_set
from infobatch_client.tie.refusals import refuse_if_tie_breaks
from infobatch_client.user_warnings import warn_user
from infobatch_client.workers.sample_source import SampleSource
from infobatch_client.workers.skip_errors import SkipErrors, error_rule
from infobatch_stream.errors import ConfigError
from infobatch_stream.plan.order_params import OrderChoice
from infobatch_stream.pruning.policies import Policy
from infobatch_stream.ratios import Number, whole_number

__all__ = ["InfoBatchStreamDataset"]

PolicyName = Literal["infobatch", "full", "hard", "levels", "random"]
Shards = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class InfoBatchStreamDataset(PlainLoading, FluidPipeline):
    """webdataset shards, read by index, pruned by a run on a score server.

    Read it through `InfoBatchLoader`, or, with `batch_size`, through a plain `torch.utils.data.DataLoader`, with the
    methods of `PlainLoading`.

    It is a `webdataset.DataPipeline` whose first stage is ours: `.decode`, `.to_tuple`, `.map`, `.select`, … are
    webdataset's own, and samples come as webdataset makes them, with `__index__` (int) and `__weight__` (float)
    beside `__key__` and `__url__`. Stages that would separate a score from its sample are refused by name.

    It pickles, and holds no channel, thread, lock or child process. Its constructor indexes the shards (once; the index
    is kept beside them or in the user's cache) and contacts no server.

    Args:
        shards: a brace pattern, a list, a glob or a folder of local tar files.
        url: the score server, "HOST:PORT"; None starts an embedded one that lives as long as this program.
        run: the run's name on the server; None makes a fresh one and prints it.
        epochs: C, the number of epochs that are trained. Needed unless policy is None.
        policy: an object (`InfoBatch`, `Random`, `Hard`, `Levels`, `Full`, or one of a distribution of yours), with
            everything that decides which samples are pruned; or its name, such as "infobatch" (the paper), for its
            defaults. A name of your distribution's works too, but a type checker wants the object. None reads without
            server or run, for validation.
        prune_ratio: with a policy's name: r in [0, 1), the share pruned of the samples below the mean; 0.5 by default.
        delta: with a policy's name: δ in [0, 1]; epochs from ⌊delta·epochs⌋ on are unpruned; 0.875 by default.
        subset: the samples that exist, for this run or validation: bool (N,); int64 indices, such as `select_samples`
            gives; or keys (`__key__`): a list, an Arrow column, or a file of them (.txt with a key a line, .parquet,
            .arrow, .npy).
        groups: the sources of the data set: by name, a pattern of its shards' file names or paths, such as
            {"web": "web-*.tar", "books": "books-*.tar"}; each shard in one group. Part of the run. Statistics show each
            group, and a policy with `per_group=True` has a threshold for each.
        seed: of draw and order, in [0, 2⁶⁴). Scores imported into the run change the draw's.
        score_name: the name of the number that `loader.update` pushes; part of the run.
        order: lanes, stripe, window and run length of the plan order, in place of the defaults.
        shuffle: off reads in index order; only with policy=None.
        on_error: "raise"; or "skip", that is `SkipErrors()`: leave out and count samples that can't be read or on which
            a stage raises, up to a limit; and shards that are bad, which `left_out` names.
        drops: what becomes of samples that the pipeline drops. "fill": they are read in every epoch, and rows of weight
            0 take their places. "remember", for filters that always decide alike: later plans leave them out, until the
            run forgets them (`infobatch forget-drops`).
        batch_size: rows per batch, for a plain DataLoader, which must have the same.
        connection: timeouts, the embedded server's folder, and rules for a run that exists: `Connection`.

    Raises:
        ConfigError: an invalid argument, or an invalid combination of arguments.
        ShardError: shards that are missing, empty, damaged, or have duplicate keys; all of them are named.

    Warns:
        UserWarning: shards were left out, with on_error="skip"; each with its reason.

    Example:
        >>> dataset = InfoBatchStreamDataset("data/train-{0000..0049}.tar", epochs=30)   # doctest: +SKIP
        >>> dataset = dataset.decode("pil").to_tuple("jpg", "cls")                       # doctest: +SKIP
    """

    @refusing(WEBDATASET | NOT_THE_DATASETS)
    def __init__(
        self,
        shards: Shards,
        *,
        url: str | None = None,
        run: str | None = None,
        epochs: int | None = None,
        policy: Policy | PolicyName | None = "infobatch",
        prune_ratio: Number | None = None,
        delta: Number | None = None,
        subset: npt.ArrayLike | os.PathLike[str] | pa.Table | pa.ChunkedArray | None = None,
        groups: Mapping[str, str] | None = None,
        seed: int = 0,
        score_name: str = "loss",
        order: OrderChoice | None = None,
        shuffle: bool = True,
        on_error: Literal["raise", "skip"] | SkipErrors = "raise",
        drops: Literal["fill", "remember"] = "fill",
        batch_size: int | None = None,
        connection: Connection | None = None,
    ) -> None:
        super().__init__()
        seed = whole_number(seed, "seed")
        if seed >= 2**64:
            raise ConfigError(f"seed={seed} is outside [0, 2**64)")
        skip = error_rule(on_error)
        self.on_error, self.max_errors = ("raise", 0) if skip is None else ("skip", skip.max_errors)
        if drops not in ("fill", "remember"):
            raise ConfigError(f"drops={drops!r} is neither 'fill' nor 'remember'")
        self.shuffled = shuffle
        self.seed = seed
        self.options: RunOptions | None = None
        if policy is None:
            _refuse_run_options(
                url=url,
                run=run,
                epochs=epochs,
                groups=groups,
                prune_ratio=prune_ratio,
                delta=delta,
                connection=connection,
                drops=None if drops == "fill" else drops,
            )
        else:
            if not shuffle:
                raise ConfigError("shuffle=False goes with policy=None only: a pruned run reads in its plan's order")
            self.options = RunOptions.from_user(
                policy=policy,
                prune_ratio=prune_ratio,
                delta=delta,
                url=url,
                run=run,
                epochs=epochs,
                seed=seed,
                score_name=score_name,
                order=OrderChoice() if order is None else order,
                connection=Connection() if connection is None else connection,
                drops=drops,
            )
        self._prepare(batch_size)
        self.indexed: IndexedShards = index_shards(
            expand_shards(shards, missing_ok=True), max_left_out=0 if skip is None else skip.max_shards
        )
        if self.indexed.left_out:
            warn_user(left_out_warning(self.indexed.left_out, len(self.indexed.urls)))
        num_samples = self.indexed.manifest.num_samples
        mask = None if subset is None else subset_mask(subset_array(subset, self.indexed), num_samples)
        if self.options is None:
            self._subset = mask
        else:
            self.options = self.options.with_subset(mask)
            names, of_shard = ((), []) if groups is None else group_shards(groups, self.indexed.manifest.names)
            self.options = self.options.with_groups(names, of_shard, self.indexed.manifest)
        self.pipeline = [None]

    @property
    def left_out(self) -> dict[str, str]:
        """The listed shards that are no part of the data set, as they are bad, each with the reason."""
        return dict(self.indexed.left_out)

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
        names_drops = self.options is not None and self.options.drops == "remember"
        subset = None if self._subset is None or self.shuffled else np.flatnonzero(self._subset)
        return SampleSource(ShardReader(self.indexed), self.stages, self.on_error, self.max_errors, names_drops, subset)

    def append(self, f: Any) -> None:
        """Adds a stage; `compose` and every fluid method come through here.

        Raises:
            PipelineError: the stage would separate scores from their samples.
        """
        refuse_if_data_set(f)
        refuse_if_tie_breaks(f)
        super().append(f)

    def __add__(self, other: Any) -> NoReturn:
        """Refused: the shards of both belong in one dataset, or each in a loader of its own."""
        raise mixed_error("adding datasets")

    __radd__ = __add__

    def with_epoch(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: the plan decides which samples an epoch has."""
        self._refuse("with_epoch")

    def repeat(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: `loader.epochs()`, or `set_epoch`, gives them all."""
        self._refuse("repeat")

    def with_length(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: `len(loader)` is known."""
        self._refuse("with_length")

    def lmdb_cached(self, *_: Any, **__: Any) -> NoReturn:
        """Refused, also where lmdb isn't installed: shards are read by position."""
        self._refuse("lmdb_cached")

    def _refuse(self, method: str) -> NoReturn:
        refuse_if_tie_breaks(method)
        raise AssertionError(method)


def _refuse_run_options(**options: object) -> None:
    used = sorted(name for name, value in options.items() if value is not None)
    if used:
        raise ConfigError(f"policy=None reads without a server or a run: leave out {', '.join(used)}")
