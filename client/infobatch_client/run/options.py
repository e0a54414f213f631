"""What a user asks of a run, checked: the policy and its settings, the schedule, where the server is."""

from __future__ import annotations

import os
import secrets
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from infobatch_client.rpc.address import check_url
from infobatch_stream.errors import ConfigError
from infobatch_stream.manifest import Manifest
from infobatch_stream.plan.order_params import OrderChoice, OrderParams
from infobatch_stream.pruning.policies import ParamValue, Policy, make_policy
from infobatch_stream.pruning.schedule import Schedule
from infobatch_stream.ratios import decimal_string, fraction, whole_number
from infobatch_stream.run_spec import RunSpec, check_run_name

__all__ = ["RunOptions", "Timeouts"]


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long to wait for a score server, in seconds.

    Args:
        connect_timeout_s: for the first answer; then ServerUnreachableError: a typo in `url` must not go unnoticed.
        call_timeout_s: for one call.
        plan_timeout_s: for a plan; then the epoch is trained unpruned. Longer than the server's barrier of 60 s.
        flush_timeout_s: at an epoch's end and at `close()`, for scores that are still to be sent.
        agree_timeout_s: for the other ranks of the job, at the start of an epoch; then RanksError. Longer than all that
            one rank may do there alone: connect, wait for a plan, evaluate, save a checkpoint.
    """

    connect_timeout_s: float = 60.0
    call_timeout_s: float = 10.0
    plan_timeout_s: float = 120.0
    flush_timeout_s: float = 30.0
    agree_timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if not 0 < self.call_timeout_s <= self.plan_timeout_s:
            raise ConfigError(
                f"call_timeout_s={self.call_timeout_s} and plan_timeout_s={self.plan_timeout_s}: the one must be "
                "positive and not above the other"
            )
        if self.agree_timeout_s <= max(self.plan_timeout_s, self.connect_timeout_s):
            raise ConfigError(
                f"agree_timeout_s={self.agree_timeout_s} must be above plan_timeout_s={self.plan_timeout_s} and "
                f"connect_timeout_s={self.connect_timeout_s}: the other ranks wait while one waits for the server"
            )
        if self.connect_timeout_s <= 0 or self.flush_timeout_s < 0:
            raise ConfigError(
                f"connect_timeout_s={self.connect_timeout_s}, flush_timeout_s={self.flush_timeout_s}: must be positive"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class RunOptions:
    """A run as a user asks for it; `spec` makes the run's spec of it once the shards are known.

    Args:
        run: its name.
        fresh: the name was made up, so that no run of that name can exist.
        url: "HOST:PORT", or None for an embedded server.
        policy: with its settings.
        schedule: epochs and δ.
        seed: of draw and order.
        score_name: what is pushed.
        order: what the user set of the plan order.
        if_exists: "refuse" or "restart".
        takeover: take the run from another job that holds it.
        state_dir: of an embedded server.
        timeouts: how long to wait.
        subset: bool (N,), or None.
    """

    run: str
    fresh: bool
    url: str | None
    policy: Policy
    schedule: Schedule
    seed: int
    score_name: str
    order: OrderChoice
    if_exists: str
    takeover: bool
    state_dir: str | None
    timeouts: Timeouts
    subset: npt.NDArray[np.bool_] | None = None

    @classmethod
    def from_user(
        cls,
        *,
        policy: str,
        settings: Mapping[str, Any],
        rescale: bool,
        anneal: bool,
        url: str | None,
        run: str | None,
        epochs: int | None,
        delta: float | str,
        seed: int,
        score_name: str,
        order: OrderChoice,
        if_exists: str,
        takeover: bool,
        state_dir: str | os.PathLike[str] | None,
        timeouts: Timeouts,
    ) -> RunOptions:
        """Checks what a user gave; warns where the schedule would never prune, or never anneal.

        Raises:
            ConfigError: a value that can't be meant; the message names it.
        """
        if epochs is None:
            raise ConfigError("epochs= is needed: annealing begins at ⌊delta·epochs⌋")
        _check_types(run=run, score_name=score_name, order=order, timeouts=timeouts)
        if if_exists not in ("refuse", "restart"):
            raise ConfigError(f"if_exists={if_exists!r} is neither 'refuse' nor 'restart'")
        if url is not None and state_dir is not None:
            raise ConfigError("state_dir= is the embedded server's; with url= the server has its own")
        made = _policy(policy, settings, rescale=rescale, anneal=anneal)
        schedule = Schedule(
            epochs=whole_number(epochs, "epochs", 1), delta=decimal_string(delta, "delta"), anneal=made.anneal
        )
        for advice in filter(None, (schedule.advice(made), _advice(made))):
            warnings.warn(advice, stacklevel=3)
        return cls(
            run=check_run_name(run) if run is not None else _fresh_name(),
            fresh=run is None,
            url=None if url is None else check_url(url),
            policy=made,
            schedule=schedule,
            seed=seed,
            score_name=score_name,
            order=order,
            if_exists=if_exists,
            takeover=bool(takeover),
            state_dir=None if state_dir is None else os.fspath(state_dir),
            timeouts=timeouts,
        )

    def with_subset(self, subset: npt.NDArray[Any], num_samples: int) -> RunOptions:
        """The same with a static mask, given as bool (N,) or as sample indices.

        Raises:
            ConfigError: another shape or dtype, or an index out of range.
        """
        if subset.dtype == bool:
            if subset.shape != (num_samples,):
                raise ConfigError(f"subset is bool {subset.shape}; as a mask it must be ({num_samples},)")
            return replace(self, subset=subset)
        if subset.ndim != 1 or not np.issubdtype(subset.dtype, np.integer):
            raise ConfigError(f"subset is {subset.dtype} {subset.shape}; give bool (N,) or int64 indices (n,)")
        if len(subset) and not 0 <= int(subset.min()) <= int(subset.max()) < num_samples:
            raise ConfigError(
                f"subset has indices from {int(subset.min())} to {int(subset.max())}, outside [0, {num_samples})"
            )
        mask = np.zeros(num_samples, bool)
        mask[subset] = True
        return replace(self, subset=mask)

    def spec(self, manifest: Manifest, *, global_batch: int, num_nodes: int = 1) -> RunSpec:
        """The run's spec; the order's defaults follow from the batch and the number of nodes."""
        sizes = np.asarray(manifest.counts, np.int64)
        default = OrderParams.default(
            num_samples=int(sizes.sum()),
            num_shards=len(sizes),
            lanes=self.order.lanes or num_nodes,
            global_batch=global_batch,
        )
        return RunSpec(
            run=self.run,
            manifest_fingerprint=manifest.fingerprint,
            shard_sizes=sizes,
            schedule=self.schedule,
            seed=self.seed,
            policy=self.policy,
            order=self.order.over(default),
            score_name=self.score_name,
            subset=self.subset,
        )


def _policy(name: str, settings: Mapping[str, Any], *, rescale: bool, anneal: bool) -> Policy:
    given: dict[str, ParamValue] = {key: value for key, value in settings.items() if value is not None}
    levels = settings["levels"]
    if levels is not None:
        if name not in ("levels", "infobatch"):
            raise ConfigError(f"levels= goes with policy='levels', not with policy={name!r}")
        name, given["levels"] = "levels", _levels(levels)
    for share in ("prune_ratio", "prune_fraction"):
        if share in given:
            given[share] = decimal_string(settings[share], share)
    return make_policy(name, rescale=rescale, anneal=anneal, **given)


def _advice(policy: Policy) -> str | None:
    """What a user should hear of settings that can't do what they say."""
    share = getattr(policy, "prune_fraction", "")
    if share and policy.name == "infobatch" and 4 * fraction(share, "prune_fraction") > 3:
        return (
            f"prune_fraction={share} asks for more than can be weighed up: a quarter of the scored samples stays, so "
            "that at most 0.75 of them are pruned"
        )
    return None


def _check_types(*, run: object, score_name: object, order: object, timeouts: object) -> None:
    if run is not None and not isinstance(run, str):
        raise ConfigError(f"run={run!r} is a {type(run).__name__}; it must be a str")
    if not isinstance(score_name, str) or not score_name:
        raise ConfigError(f"score_name={score_name!r} names nothing; the default is 'loss'")
    if not isinstance(order, OrderChoice):
        raise ConfigError(f"order={order!r} is a {type(order).__name__}; give OrderChoice(lanes=…, …)")
    if not isinstance(timeouts, Timeouts):
        raise ConfigError(
            f"timeouts={timeouts!r} is a {type(timeouts).__name__}; give Timeouts(connect_timeout_s=…, …)"
        )


def _levels(levels: Sequence[tuple[float | str, float | str]]) -> str:
    try:
        pairs = [(quantile, ratio) for quantile, ratio in levels]
    except (TypeError, ValueError):
        raise ConfigError(f"levels={levels!r} is not [(quantile, share pruned), …], such as [(0.20, 0.75)]") from None
    return ",".join(
        f"{decimal_string(quantile, 'levels quantile')}:{decimal_string(ratio, 'levels prune ratio')}"
        for quantile, ratio in pairs
    )


def _fresh_name() -> str:
    return f"run-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
