"""Options and methods of webdataset's and torch's classes that scripts bring along: refused, with a replacement."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from infobatch_stream.errors import ConfigError
from infobatch_stream.keywords import check_keywords, keywords_of

__all__ = [
    "DATA_LOADER",
    "FLUID_METHODS",
    "NOT_THE_DATASETS",
    "NOT_THE_LOADERS",
    "WEBDATASET",
    "WithoutFluidMethods",
    "refusing",
]

Init = TypeVar("Init", bound=Callable[..., None])

_SHUFFLED = "leave it out: the plan order shuffles, over all shards at once by default; order=OrderChoice(…) sets it"
_WHO_READS = "leave it out: the plan says which rank and which worker reads what"
_EACH_ONCE = "leave it out: an epoch has each of its samples once"
_ALL_EPOCHS = "leave it out: loader.epochs() yields all epochs"
_NOTHING_TO_CACHE = "leave it out: shards are local files, read by position, and only the kept samples of them"

WEBDATASET = {
    "urls": "it is called shards here, and comes first: InfoBatchStreamDataset(urls, epochs=…)",
    "handler": (
        "on_error='skip', or on_error=SkipErrors(max_errors=…), takes its place for shards and samples; stages take "
        "handler= as before"
    ),
    "mode": _EACH_ONCE,
    "resampled": _EACH_ONCE,
    "repeat": _ALL_EPOCHS,
    "shardshuffle": _SHUFFLED,
    "detshuffle": _SHUFFLED,
    "cache_size": _NOTHING_TO_CACHE,
    "cache_dir": _NOTHING_TO_CACHE,
    "url_to_name": _NOTHING_TO_CACHE,
    "nodesplitter": _WHO_READS,
    "workersplitter": _WHO_READS,
    "select_files": "leave it out: .to_tuple(…), .extract_keys(…) or .map(…) choose members; subset= chooses samples",
    "rename_files": ".rename(new='old') or .rename_keys(…) take its place",
    "empty_check": "leave it out: a shard without samples is an error when it is indexed",
    "verbose": "leave it out: loader.metrics() says what was read and left out",
}
"""Parameters of `wds.WebDataset` that InfoBatchStreamDataset hasn't, and what takes their place."""

DATA_LOADER = {
    "shuffle": "leave it out: the plan order shuffles; the dataset's shuffle=False reads a validation set in order",
    "sampler": "leave it out: the plan says which samples an epoch has; the dataset's subset= says which exist",
    "batch_sampler": "leave it out: the plan says which samples an epoch has, and batch_size= how many a batch has",
    "drop_last": "remainder='drop' takes its place, for the epoch's last batch on all ranks",
    "timeout": "leave it out: a worker that ends raises, and one that is slow is waited for",
    "generator": "leave it out: the order follows from the dataset's seed=",
    "persistent_workers": "leave it out: workers live until the loader is closed",
    "pin_memory_device": "leave it out: pin_memory=True pins for the current accelerator",
    "in_order": "leave it out: batches come in the plan's order",
}
"""Parameters of `torch.utils.data.DataLoader` that InfoBatchLoader hasn't, and what takes their place."""

NOT_THE_DATASETS = {
    **dict.fromkeys(
        ("num_workers", "collate_fn", "pin_memory", "prefetch_factor", "remainder", "compact", "worker_init_fn"),
        "it is the loader's: InfoBatchLoader(dataset, batch_size, num_workers, …)",
    ),
    **dict.fromkeys(
        ("timeouts", "state_dir", "if_exists", "takeover"), "it is the connection's: connection=Connection(…) takes it"
    ),
    **dict.fromkeys(("max_errors", "max_shards"), "on_error=SkipErrors(…) takes it"),
    **dict.fromkeys(
        ("prune_fraction", "prune_schedule", "threshold", "draw", "levels", "rescale", "anneal", "per_group"),
        "it is a setting of the policy: policy=InfoBatch(…), or another policy's object, takes it",
    ),
}
"""Keywords that InfoBatchStreamDataset hasn't, but another object has."""

NOT_THE_LOADERS = dict.fromkeys(
    ("shards", "url", "run", "epochs", "policy", "prune_ratio", "delta", "subset", "seed", "on_error", "drops"),
    "it is the dataset's: InfoBatchStreamDataset(shards, epochs=…, …) takes it",
)
"""Keywords that InfoBatchLoader hasn't, but its dataset has."""

_BATCHES = "leave it out: the loader's batches are final; batch_size= and collate_fn= say how they are made"
FLUID_METHODS = {
    "batched": _BATCHES,
    "listed": _BATCHES,
    "unbatched": _BATCHES,
    "unlisted": _BATCHES,
    "shuffle": _SHUFFLED,
    "with_epoch": _ALL_EPOCHS,
    "repeat": _ALL_EPOCHS,
    "slice": "leave it out: loader.epochs(max_steps=…) ends a training after so many batches",
    "with_length": "leave it out: len(loader) is the number of batches",
    "compose": "stages belong to the dataset, before the loader, and take samples; batches are made by collate_fn=",
    "map": "samples are mapped by the dataset's .map(…), batches by collate_fn=",
}
"""Methods that scripts call on a `wds.WebLoader`."""


def refusing(options: Mapping[str, str]) -> Callable[[Init], Init]:
    """Decorates a constructor, whose signature stays as it is: it raises for these keywords, with what replaces them.

    Raises:
        ConfigError: one of `options` is passed.
        TypeError: another keyword that the constructor hasn't, with the nearest one.
    """

    def decorate(init: Init) -> Init:
        known = keywords_of(init)

        @functools.wraps(init)
        def checked(self: Any, *args: Any, **keywords: Any) -> None:
            for name in keywords:
                if name in options:
                    raise ConfigError(f"{name}= is no argument of {type(self).__name__}: {options[name]}")
            check_keywords(type(self).__name__, keywords, known)
            init(self, *args, **keywords)

        return cast(Init, checked)

    return decorate


class WithoutFluidMethods:
    """A loader on which a script may call what `wds.WebLoader` has: the error says where that went."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            advice = f": {FLUID_METHODS[name]}" if name in FLUID_METHODS else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{advice}")
