"""Which rank this process is: as the user says, as torch.distributed has it, or alone; and its way to the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch.distributed as dist

from infobatch_client.ranks.exchange import Agree, Exchange, GlooExchange, ReplicatedExchange, UserExchange
from infobatch_client.ranks.launcher import started_ranks
from infobatch_stream.errors import ConfigError
from infobatch_stream.ratios import whole_number

__all__ = ["Place", "RankChoice", "exchange_for", "find_place", "is_distributed"]


@dataclass(frozen=True, kw_only=True, eq=False)
class RankChoice:
    """Which processes train together, as a user says it; by default torch.distributed's world.

    Args:
        process_group: the data-parallel group: each of its ranks has batches of its own.
        rank, world_size: instead of it.
        replicas: the group inside which batches are identical (tensor, context or pipeline parallel); its first rank
            pushes the scores.
        agree: all-gather of a text, for jobs without torch.distributed.

    Raises:
        ConfigError: an invalid combination.
    """

    process_group: Any = None
    rank: int | None = None
    world_size: int | None = None
    replicas: Any = None
    agree: Agree | None = None

    def __post_init__(self) -> None:
        if (self.rank is None) != (self.world_size is None):
            raise ConfigError(f"rank={self.rank} and world_size={self.world_size} go together: give both or neither")
        if self.process_group is not None and self.rank is not None:
            raise ConfigError("process_group= says rank and world size: leave rank= and world_size= out")
        if self.rank is not None and self.world_size is not None:
            whole_number(self.world_size, "world_size", 1)
            if whole_number(self.rank, "rank") >= self.world_size:
                raise ConfigError(f"rank={self.rank} is outside [0, world_size={self.world_size})")
        if self.agree is not None and (self.rank is None or not callable(self.agree)):
            raise ConfigError("agree= is a function, and goes with rank= and world_size=")
        if self.agree is not None and self.replicas is not None:
            raise ConfigError("replicas= is a group of torch.distributed, and agree= is for jobs without it")


class Place(NamedTuple):
    """This process among those that train together.

    Args:
        rank: in the data-parallel group.
        world_size: ranks of that group.
        replica: among the processes with the same batches; 0 pushes the scores.
    """

    rank: int
    world_size: int
    replica: int


def is_distributed() -> bool:
    """Whether torch.distributed is initialised."""
    return dist.is_available() and dist.is_initialized()


def find_place(choice: RankChoice) -> Place:
    """This process's place, as of now; does not communicate.

    Raises:
        ConfigError: a group was passed before torch.distributed is initialised, or one without this process.
    """
    distributed = is_distributed()
    if not distributed and (choice.process_group is not None or choice.replicas is not None):
        raise ConfigError(
            "a group of torch.distributed was given, and it is not initialised: call "
            "torch.distributed.init_process_group() first"
        )
    replica = _rank_in(choice.replicas, "replicas") if choice.replicas is not None else 0
    if choice.rank is not None and choice.world_size is not None:
        return Place(choice.rank, choice.world_size, replica)
    if not distributed:
        return Place(0, 1, 0)
    group = _data_parallel_group(choice)
    return Place(_rank_in(group, "process_group"), dist.get_world_size(group), replica)


def exchange_for(choice: RankChoice, place: Place, timeout_s: float) -> Exchange | None:
    """The way to the other processes; None for a process that trains alone.

    Raises:
        ConfigError: there must be others, and there is no way to them; or groups that overlap.
    """
    if choice.agree is not None:
        return UserExchange(choice.agree, place.world_size)
    if not is_distributed():
        _check_alone(choice, place.world_size)
        return None
    group = _data_parallel_group(choice)
    if choice.rank is not None and dist.get_world_size() != place.world_size:
        if place.world_size == 1 and choice.replicas is None:
            return None
        raise ConfigError(
            f"world_size={place.world_size}, and torch.distributed has {dist.get_world_size()} ranks: say which of "
            "them train together by process_group= (and replicas=)"
        )
    _check_apart(group, choice.replicas)
    sets = GlooExchange(group, timeout_s) if place.world_size > 1 else None
    if choice.replicas is None or dist.get_world_size(choice.replicas) == 1:
        return sets
    among = GlooExchange(choice.replicas, timeout_s)
    return ReplicatedExchange(sets, among, is_first=place.replica == 0) if sets else among


def _data_parallel_group(choice: RankChoice) -> Any:
    return choice.process_group if choice.process_group is not None else dist.group.WORLD


def _check_alone(choice: RankChoice, world_size: int) -> None:
    if world_size > 1:
        raise ConfigError(
            f"world_size={world_size}, and torch.distributed is not initialised: call "
            "torch.distributed.init_process_group() first, or give agree= for ranks to compare notes by"
        )
    if choice.rank is None and started_ranks() > 1:
        raise ConfigError(
            f"a launcher has started {started_ranks()} processes, and torch.distributed is not initialised: call "
            "torch.distributed.init_process_group() before the first epoch, or give rank=0, world_size=1 if "
            "this process trains alone"
        )


def _check_apart(group: Any, replicas: Any) -> None:
    """Raises if two processes must have both the same batches and batches of their own."""
    if replicas is None:
        return
    shared = set(dist.get_process_group_ranks(group)) & set(dist.get_process_group_ranks(replicas))
    if len(shared) > 1:
        raise ConfigError(
            f"ranks {sorted(shared)} are in one group of replicas=, which have the same batches, and in one "
            "data-parallel group, which have batches of their own: give process_group= the latter"
        )


def _rank_in(group: Any, name: str) -> int:
    rank = dist.get_rank(group)
    if rank < 0:
        raise ConfigError(f"this process is no member of {name}=: give it a group that it belongs to")
    return rank
