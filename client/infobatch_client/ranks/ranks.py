"""The ranks of a job: which one this process is, and what all of them do and decide together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch.distributed as dist

from infobatch_client.ranks.exchange import Agree, Exchange, GlooExchange, ReplicatedExchange, UserExchange
from infobatch_client.ranks.launcher import node_name, started_ranks
from infobatch_stream.errors import ConfigError, RanksError
from infobatch_stream.ratios import whole_number

__all__ = ["RankChoice", "Ranks"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class RankChoice:
    """Which processes train together, as a user says it; by default torch.distributed's world.

    Args:
        process_group: the data-parallel group: each of its ranks has batches of its own.
        rank, world_size: instead of it.
        replicas: the group inside which batches are identical (tensor, context or pipeline parallel); its first rank
            pushes the scores.
        agree: all-gather of a text, where torch.distributed isn't used.

    Raises:
        ConfigError: a combination that can't be meant.
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


class _Member(NamedTuple):
    rank: int
    replica: int
    node: str

    def __str__(self) -> str:
        return f"{self.rank} (replica {self.replica})" if self.replica else str(self.rank)


class Ranks:
    """The processes that train together. Made anywhere; looks at torch.distributed when it is first asked.

    `together`, `compare` and `from_first` are called by all processes alike, in the same order; whatever goes wrong on
    one of them raises on all, so that none is left waiting. For one thread.

    Args:
        choice: what the user said.
        timeout_s: how long to wait for another rank.
    """

    def __init__(self, choice: RankChoice | None = None, *, timeout_s: float = 600.0) -> None:
        self._choice = choice or RankChoice()
        self._timeout_s = timeout_s
        self._place: tuple[int, int, int] | None = None
        self._exchange: Exchange | None = None
        self._members: list[_Member] = []
        self._own = _Member(0, 0, "")
        self._lost = False

    def anew(self) -> Ranks:
        """The same choice, for another loader."""
        return Ranks(self._choice, timeout_s=self._timeout_s)

    def __getstate__(self) -> dict[str, Any]:
        """The choice, for a process that makes its own use of it; groups and functions of this one don't go along."""
        choice = self._choice
        lost = any(part is not None for part in (choice.process_group, choice.replicas, choice.agree))
        kept = RankChoice() if lost else choice
        return {**Ranks(kept, timeout_s=self._timeout_s).__dict__, "_lost": self._lost or lost}

    @property
    def rank(self) -> int:
        """This process's rank in the data-parallel group; communicates with nobody."""
        return self._found[0]

    @property
    def world_size(self) -> int:
        """Ranks of the data-parallel group; communicates with nobody."""
        return self._found[1]

    @property
    def pushes(self) -> bool:
        """Whether this process's scores are the ones that count: it is the first of its replicas."""
        return self._found[2] == 0

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0 and self.pushes

    @property
    def num_nodes(self) -> int:
        """Machines that the ranks run on; known once they have met."""
        self._meet()
        return len({member.node for member in self._members})

    @property
    def leaders(self) -> list[int]:
        """The places, in what `together` gives, of the processes that fetch for their nodes."""
        self._meet()
        nodes = [member.node for member in self._members]
        return [at for at, node in enumerate(nodes) if nodes.index(node) == at]

    @property
    def leader(self) -> int:
        """The one of them that fetches for this process's node."""
        return next(at for at in self.leaders if self._members[at].node == self._own.node)

    @property
    def leads_node(self) -> bool:
        """Whether this process fetches for its node."""
        return self._members[self.leader] == self._own

    def together(self, doing: str, act: Callable[[], T]) -> list[T]:
        """What `act` gives on every process (plain values, as JSON has them).

        Args:
            doing: completes "could not …".
            act: what this process does.

        Raises:
            RanksError: `act` failed on another process, or one can't be reached. Where it failed here: its own error.
        """
        if self._meet() is None:
            return [act()]
        failure: Exception | None = None
        word: dict[str, Any]
        try:
            word = {"value": act()}
        except Exception as error:
            failure = error
            word = {"failure": f"{type(error).__name__}: {error}"}
        answers = self._gather(doing, word)
        if failure is not None:
            raise failure
        failed = {at: str(answer["failure"]) for at, answer in enumerate(answers) if "failure" in answer}
        if failed:
            first, why = next(iter(failed.items()))
            also = f" (and {len(failed) - 1} others)" if len(failed) > 1 else ""
            raise RanksError(f"rank {self._members[first]}{also} could not {doing}: {why}")
        return [answer["value"] for answer in answers]

    def from_first(self, doing: str, act: Callable[[], T]) -> T:
        """What `act` gives on the first process, which alone calls it; plain values.

        Raises:
            RanksError: it failed there. There: its own error.
        """
        return self.together(doing, lambda: act() if self.is_first else None)[0]  # type: ignore[return-value]

    def compare(self, doing: str, look: Callable[[], Mapping[str, Any]], advice: str) -> None:
        """Raises where the processes don't see the same.

        Args:
            doing: completes "could not …".
            look: what this process sees, by name.
            advice: what to do where they differ.

        Raises:
            RanksError: names the first field that differs, and who has what.
        """
        seen = self.together(doing, lambda: dict(look()))
        for name in seen[0]:
            holders: dict[str, list[_Member]] = {}
            for at, fields in enumerate(seen):
                holders.setdefault(json.dumps(fields.get(name)), []).append(self._members[at])
            if len(holders) > 1:
                whose = "; ".join(f"{_shown(value)} on {_listed(members)}" for value, members in holders.items())
                raise RanksError(f"the ranks could not {doing}: {name} is {whose}: {advice}")

    @property
    def _found(self) -> tuple[int, int, int]:
        """Rank, world size, and the place among the replicas."""
        if self._place is not None:
            return self._place
        place = self._look()
        # torch.distributed may be initialised later: a look before it is for now only.
        if self._choice.rank is not None or _is_distributed():
            self._place = place
        return place

    def _look(self) -> tuple[int, int, int]:
        choice = self._choice
        if self._lost:
            raise ConfigError("groups and functions don't pickle: say in this process too which ranks train together")
        distributed = _is_distributed()
        if not distributed and (choice.process_group is not None or choice.replicas is not None):
            raise ConfigError(
                "a group of torch.distributed was given, and it is not initialised: call "
                "torch.distributed.init_process_group() first"
            )
        replica = _place_in(choice.replicas, "replicas") if choice.replicas is not None else 0
        if choice.rank is not None and choice.world_size is not None:
            return choice.rank, choice.world_size, replica
        if not distributed:
            return 0, 1, 0
        group = choice.process_group if choice.process_group is not None else dist.group.WORLD
        return _place_in(group, "process_group"), dist.get_world_size(group), replica

    def _meet(self) -> Exchange | None:
        """The way to the others, and once who they are; None where there are none."""
        if self._members:
            return self._exchange
        self._place = self._look()
        self._own = _Member(self.rank, self._found[2], node_name())
        self._exchange = self._way()
        members = [self._own]
        if self._exchange is not None:
            answers = self._gather("find each other", {"value": self._own})
            members = sorted(_Member(*answer["value"]) for answer in answers)
            self._check(members)
        self._members = members
        return self._exchange

    def _way(self) -> Exchange | None:
        choice = self._choice
        if choice.agree is not None:
            return UserExchange(choice.agree, self.world_size)
        if not _is_distributed():
            self._check_alone()
            return None
        group = choice.process_group if choice.process_group is not None else dist.group.WORLD
        if choice.rank is not None and dist.get_world_size() != self.world_size:
            if self.world_size == 1 and choice.replicas is None:
                return None
            raise ConfigError(
                f"world_size={self.world_size}, and torch.distributed has {dist.get_world_size()} ranks: say which of "
                "them train together by process_group= (and replicas=)"
            )
        _check_apart(group, choice.replicas)
        sets = GlooExchange(group, self._timeout_s) if self.world_size > 1 else None
        if choice.replicas is None or dist.get_world_size(choice.replicas) == 1:
            return sets
        among = GlooExchange(choice.replicas, self._timeout_s)
        return ReplicatedExchange(sets, among, is_first=self.pushes) if sets else among

    def _check_alone(self) -> None:
        if self.world_size > 1:
            raise ConfigError(
                f"world_size={self.world_size}, and torch.distributed is not initialised: call "
                "torch.distributed.init_process_group() first, or give agree= for ranks to compare notes by"
            )
        if self._choice.rank is None and started_ranks() > 1:
            raise ConfigError(
                f"a launcher has started {started_ranks()} processes, and torch.distributed is not initialised: call "
                "torch.distributed.init_process_group() before the first epoch, or give rank=0, world_size=1 where "
                "this process trains alone"
            )

    def _check(self, members: list[_Member]) -> None:
        ranks = [member.rank for member in members if member.replica == 0]
        if ranks != list(range(self.world_size)):
            raise RanksError(
                f"the processes say that they are ranks {ranks} of {self.world_size}: give each of them a rank= of its "
                "own, from 0"
            )

    def _gather(self, doing: str, word: Mapping[str, Any]) -> list[dict[str, Any]]:
        assert self._exchange is not None
        word = {**word, "place": self._own[:2], "doing": doing}
        try:
            answers = [json.loads(text) for text in self._exchange.gather(json.dumps(word))]
        except RanksError as error:
            raise RanksError(f"rank {self._own} waited for the others to {doing}: {error}") from None
        answers.sort(key=lambda answer: answer["place"])
        if others := sorted({str(answer["doing"]) for answer in answers} - {doing}):
            raise RanksError(
                f"rank {self._own} is to {doing}, and another rank to {others[0]}: every rank must go through the same "
                "epochs, with as many loaders, in the same order"
            )
        return answers


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _check_apart(group: Any, replicas: Any) -> None:
    """Raises where two processes are told to have the same batches and batches of their own."""
    if replicas is None:
        return
    shared = set(dist.get_process_group_ranks(group)) & set(dist.get_process_group_ranks(replicas))
    if len(shared) > 1:
        raise ConfigError(
            f"ranks {sorted(shared)} are in one group of replicas=, which have the same batches, and in one "
            "data-parallel group, which have batches of their own: give process_group= the latter"
        )


def _place_in(group: Any, name: str) -> int:
    place = dist.get_rank(group)
    if place < 0:
        raise ConfigError(f"this process is no member of {name}=: give it a group that it belongs to")
    return place


def _shown(value: str) -> str:
    return value if len(value) <= 100 else value[:97] + "…"


def _listed(members: list[_Member]) -> str:
    names = [str(member) for member in members[:8]]
    more = f" and {len(members) - 8} more" if len(members) > 8 else ""
    return ("rank " if len(members) == 1 else "ranks ") + ", ".join(names) + more
