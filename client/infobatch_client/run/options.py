"""The user's options of a run, checked: its policy, its epochs, and how to reach the score server."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import Literal

import numpy as np
import numpy.typing as npt

from infobatch_client.rpc.address import check_url
from infobatch_client.rpc.credentials import Credentials, FilePath
from infobatch_client.rpc.secret import Secret
from infobatch_client.rpc.token_file import checked_token
from infobatch_client.user_warnings import warn_user
from infobatch_stream.copies import GivesCopies
from infobatch_stream.errors import ConfigError
from infobatch_stream.keywords import suggesting
from infobatch_stream.manifest import Manifest
from infobatch_stream.plan.order_params import OrderChoice, OrderParams
from infobatch_stream.pruning.group_classes import check_per_group
from infobatch_stream.pruning.groups import Groups
from infobatch_stream.pruning.policies import Policy, make_policy, require_registered
from infobatch_stream.pruning.schedule import Schedule
from infobatch_stream.ratios import Number, whole_number
from infobatch_stream.run_spec import RunSpec, check_run_name

__all__ = ["Connection", "RunOptions", "Timeouts"]

_FILES = ("token_file", "ca", "client_cert", "client_key")


@suggesting
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
        for name, seconds in vars(self).items():
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds != seconds:
                raise ConfigError(f"{name} must be a number of seconds, got {seconds!r}")
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


@suggesting
@dataclass(frozen=True, kw_only=True)
class Connection:
    """How a dataset reaches its score server, and its rules for a run that exists already.

    Args:
        timeouts: how long to wait for the server.
        state_dir: the folder in which an embedded server keeps its state; ./.infobatch by default.
        if_exists: "refuse" or "restart" (delete it and begin anew): for a run that has been trained, when no state is
            loaded.
        takeover: take the run from another job that holds it; that job's ranks get an error and stop.
        token: the server's token for this job. Shown nowhere, and not part of a pickle. By default that of
            `token_file`, else the variable INFOBATCH_TOKEN, else the file that INFOBATCH_TOKEN_FILE names.
        token_file: a file with the token, which is read again when it changes.
        ca: for url="grpcs://…", a file with the authorities (PEM) whose certificates are trusted; gRPC's by default.
        client_cert: a file with this client's certificate chain (PEM), if the server wants one.
        client_key: its key (PEM).
        tokens_without_tls: send the token in plain text, to other machines too.

    Raises:
        ConfigError: an invalid value.

    Example:
        >>> Connection(if_exists="restart", timeouts=Timeouts(plan_timeout_s=300)).takeover
        False
    """

    timeouts: Timeouts = field(default_factory=Timeouts)
    state_dir: str | os.PathLike[str] | None = None
    if_exists: Literal["refuse", "restart"] = "refuse"
    takeover: bool = False
    token: str | Secret | None = field(default=None, repr=False)
    token_file: FilePath | None = None
    ca: FilePath | None = None
    client_cert: FilePath | None = None
    client_key: FilePath | None = None
    tokens_without_tls: bool = False

    def __post_init__(self) -> None:
        _check_type("timeouts", self.timeouts, Timeouts, "give Timeouts(connect_timeout_s=…, …)")
        if self.if_exists not in ("refuse", "restart"):
            raise ConfigError(f"if_exists={self.if_exists!r} is neither 'refuse' nor 'restart'")
        if self.state_dir is not None:
            object.__setattr__(self, "state_dir", os.fspath(self.state_dir))
        _check_type("takeover", self.takeover, bool, "give True or False")
        _check_type("tokens_without_tls", self.tokens_without_tls, bool, "give True or False")
        if isinstance(self.token, str):
            object.__setattr__(self, "token", Secret(checked_token(self.token, "token=")))
        elif self.token is not None and not isinstance(self.token, Secret):
            raise ConfigError(f"token= is a {type(self.token).__name__}; it must be a str")
        for name in _FILES:
            if (path := getattr(self, name)) is not None:
                _check_type(name, path, str | os.PathLike, "give a path")
                object.__setattr__(self, name, os.fspath(path))
        _ = self.credentials  # checks that they belong together

    @property
    def credentials(self) -> Credentials:
        """What is shown to a server that the user names, and whom this job trusts."""
        assert not isinstance(self.token, str)
        return Credentials(
            token=self.token,
            tokens_without_tls=self.tokens_without_tls,
            **{name: getattr(self, name) for name in _FILES},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class RunOptions(GivesCopies):
    """A run as the user wants it; `spec` makes the run's spec of it once the shards are known.

    Args:
        run: its name.
        fresh: the name was generated, so that no run of that name can exist.
        url: "HOST:PORT", or None for an embedded server.
        policy: with its settings.
        epochs: C.
        seed: of draw and order.
        score_name: the name of the pushed number.
        order: the numbers of the plan order that the user set.
        connection: how to reach the server.
        subset: bool (N,), or None; each look at it is a copy.
        drops: "fill" or "remember", for samples that the pipeline drops.
        groups: of the shards, or None.
    """

    run: str
    fresh: bool
    url: str | None
    policy: Policy
    epochs: int
    seed: int
    score_name: str
    order: OrderChoice
    connection: Connection
    subset: npt.NDArray[np.bool_] | None = None
    drops: str = "fill"
    groups: Groups | None = None

    @classmethod
    def from_user(
        cls,
        *,
        policy: Policy | str,
        prune_ratio: Number | None,
        delta: Number | None,
        url: str | None,
        run: str | None,
        epochs: int | None,
        seed: int,
        score_name: str,
        order: OrderChoice,
        connection: Connection,
        drops: str,
    ) -> RunOptions:
        """Checks the user's arguments; warns if the schedule would never prune, or never anneal.

        Raises:
            ConfigError: an invalid value; the message names it.
        """
        if epochs is None:
            raise ConfigError("epochs= is needed: annealing begins at ⌊delta·epochs⌋")
        if run is not None:
            _check_type("run", run, str, "it must be a str")
        if not isinstance(score_name, str) or not score_name:
            raise ConfigError(f"score_name={score_name!r} names nothing; the default is 'loss'")
        _check_type("order", order, OrderChoice, "give OrderChoice(lanes=…, …)")
        if not isinstance(connection, Connection):  # it may hold a token, so that it is not shown
            raise ConfigError(
                f"connection= takes a Connection(timeouts=…, …), and not a value of type {type(connection).__name__}"
            )
        if url is not None and connection.state_dir is not None:
            raise ConfigError("state_dir= is the embedded server's; with url= the server has its own")
        if url is None and connection.credentials != Credentials(tokens_without_tls=connection.tokens_without_tls):
            raise ConfigError(
                "token=, token_file=, ca=, client_cert= and client_key= are for a server of your own: give its url="
            )
        checked = None if url is None else check_url(url)
        if checked is not None:
            connection.credentials.check_for(checked)
        chosen = _policy(policy, prune_ratio=prune_ratio, delta=delta)
        options = cls(
            run=check_run_name(run) if run is not None else _fresh_name(),
            fresh=run is None,
            url=checked,
            policy=chosen,
            epochs=whole_number(epochs, "epochs", 1),
            seed=seed,
            score_name=score_name,
            order=order,
            connection=connection,
            drops=drops,
        )
        for advice in filter(None, (options.schedule.advice(), chosen.advice())):
            warn_user(advice)
        return options

    @property
    def schedule(self) -> Schedule:
        """In which epochs the policy prunes, and how much."""
        return Schedule(epochs=self.epochs, policy=self.policy)

    @property
    def timeouts(self) -> Timeouts:
        """How long to wait for the server."""
        return self.connection.timeouts

    @property
    def state_dir(self) -> str | None:
        """The folder of an embedded server's state."""
        folder = self.connection.state_dir
        return None if folder is None else os.fspath(folder)

    @property
    def if_exists(self) -> str:
        """ "refuse" or "restart"."""
        return self.connection.if_exists

    @property
    def takeover(self) -> bool:
        """Whether to take the run from another job that holds it."""
        return self.connection.takeover

    def with_subset(self, subset: npt.NDArray[np.bool_] | None) -> RunOptions:
        """The same with a static mask, bool (N,), or without."""
        return replace(self, subset=subset)

    def with_groups(self, names: tuple[str, ...], of_shard: Sequence[int], manifest: Manifest) -> RunOptions:
        """The same with groups of shards, each shard's as a place in `names`; no names: without.

        Raises:
            ConfigError: invalid names, too many groups, or none for a policy that needs some.
        """
        groups = None
        if names:
            codes = np.asarray(of_shard, np.int64).clip(0, 255).astype(np.uint8)  # too many names are refused below
            groups = Groups(names, codes, np.asarray(manifest.counts, np.int64))
        check_per_group(self.policy, groups)
        return replace(self, groups=groups)

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
            epochs=self.epochs,
            seed=self.seed,
            policy=self.policy,
            order=self.order.over(default),
            score_name=self.score_name,
            subset=self.subset,
            groups=self.groups,
        )


def _policy(policy: Policy | str, *, prune_ratio: Number | None, delta: Number | None) -> Policy:
    """The policy object; the dataset's shorthand (a name, prune_ratio, delta) makes one."""
    shorthand = {name: value for name, value in (("prune_ratio", prune_ratio), ("delta", delta)) if value is not None}
    if isinstance(policy, str):
        return make_policy(policy, **shorthand)
    if isinstance(policy, type) and issubclass(policy, Policy):
        raise ConfigError(f"policy={policy.__name__} is a class; call it, as in policy={policy.__name__}(…)")
    if not isinstance(policy, Policy):
        raise ConfigError(
            f"policy={policy!r} is a {type(policy).__name__}; give a name, such as 'infobatch', or an object, such as "
            "InfoBatch(prune_ratio=0.5)"
        )
    if shorthand:
        settings = ", ".join(f"{name}={value!r}" for name, value in shorthand.items())
        raise ConfigError(
            f"{' and '.join(f'{name}=' for name in shorthand)} beside a policy object: put it into the object, "
            f"{type(policy).__name__}({settings}, …)"
        )
    return require_registered(policy)


def _check_type(name: str, value: object, wanted: type | UnionType, remedy: str) -> None:
    if not isinstance(value, wanted):
        raise ConfigError(f"{name}={value!r} is a {type(value).__name__}; {remedy}")


def _fresh_name() -> str:
    return f"run-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
