"""The ranks of a job, and the steps that all of them take together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from infobatch_client.ranks.exchange import Exchange
from infobatch_client.ranks.launcher import node_name
from infobatch_client.ranks.place import Place, RankChoice, exchange_for, find_place, is_distributed
from infobatch_stream.errors import ConfigError, RanksError

__all__ = ["Ranks"]

T = TypeVar("T")


class _Member(NamedTuple):
    rank: int
    replica: int
    node: str

    def __str__(self) -> str:
        return f"{self.rank} (replica {self.replica})" if self.replica else str(self.rank)


class Ranks:
    """The processes that train together. Creating one is free; the first use looks at torch.distributed.

    All processes call `together`, `compare` and `from_first` in the same order; a failure on one of them raises on
    all, so that none is left waiting. For one thread.

    Args:
        choice: the user's.
        timeout_s: how long to wait for another rank.
    """

    def __init__(self, choice: RankChoice | None = None, *, timeout_s: float = 600.0) -> None:
        self._choice = choice or RankChoice()
        self._timeout_s = timeout_s
        self._final_place: Place | None = None
        self._exchange: Exchange | None = None
        self._members: list[_Member] = []
        self._own = _Member(0, 0, "")
        self._lost = False

    def copy(self) -> Ranks:
        """The same choice, for another loader."""
        return Ranks(self._choice, timeout_s=self._timeout_s)

    def __getstate__(self) -> dict[str, Any]:
        """The choice alone, for another process; groups and functions of this process are left out."""
        choice = self._choice
        lost = any(part is not None for part in (choice.process_group, choice.replicas, choice.agree))
        portable = RankChoice() if lost else choice
        return {**Ranks(portable, timeout_s=self._timeout_s).__dict__, "_lost": self._lost or lost}

    @property
    def rank(self) -> int:
        """This process's rank in the data-parallel group; does not communicate."""
        return self._place.rank

    @property
    def world_size(self) -> int:
        """Ranks of the data-parallel group; does not communicate."""
        return self._place.world_size

    @property
    def pushes(self) -> bool:
        """Whether this process pushes its scores: it is the first of its replicas."""
        return self._place.replica == 0

    @property
    def has_replicas(self) -> bool:
        """Whether other processes may have the same batches; does not communicate."""
        return self._choice.replicas is not None

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
        """Indices, in the result of `together`, of the processes that fetch for their nodes."""
        self._meet()
        nodes = [member.node for member in self._members]
        return [at for at, node in enumerate(nodes) if nodes.index(node) == at]

    @property
    def leader(self) -> int:
        """The index of the process that fetches for this process's node."""
        return next(at for at in self.leaders if self._members[at].node == self._own.node)

    @property
    def leads_node(self) -> bool:
        """Whether this process fetches for its node."""
        return self._members[self.leader] == self._own

    def together(self, doing: str, act: Callable[[], T]) -> list[T]:
        """The results of `act` on every process (plain values, as JSON has them).

        Args:
            doing: completes "could not …".
            act: this process's part.

        Raises:
            RanksError: `act` failed on another process, or one can't be reached. If it failed here: its own error.
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
        """The result of `act` on the first process, which alone calls it; plain values.

        Raises:
            RanksError: it failed there. There: its own error.
        """
        return self.together(doing, lambda: act() if self.is_first else None)[0]  # type: ignore[return-value]

    def from_first_replica(self, doing: str, act: Callable[[], T]) -> T:
        """The result of `act` on the first of this process's replicas; every process calls it."""
        answers = self.together(doing, act)
        whose = zip(self._members, answers, strict=True)
        return next(answer for member, answer in whose if member[:2] == (self.rank, 0))

    def compare(self, doing: str, look: Callable[[], Mapping[str, Any]], advice: str) -> None:
        """Checks that all processes have the same values.

        Args:
            doing: completes "could not …".
            look: this process's values, by name.
            advice: what to do if they differ.

        Raises:
            RanksError: names the first field that differs, and the ranks with each value.
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
    def _place(self) -> Place:
        if self._final_place is not None:
            return self._final_place
        place = self._look()
        # torch.distributed may be initialised later: until then a place that it doesn't decide is only for now.
        if self._choice.rank is not None or is_distributed():
            self._final_place = place
        return place

    def _look(self) -> Place:
        if self._lost:
            raise ConfigError("groups and functions don't pickle: say in this process too which ranks train together")
        return find_place(self._choice)

    def _meet(self) -> Exchange | None:
        """The way to the others, or None if there are none; the first call collects who they are."""
        if self._members:
            return self._exchange
        place = self._final_place = self._look()
        self._own = _Member(place.rank, place.replica, node_name())
        self._exchange = exchange_for(self._choice, place, self._timeout_s)
        members = [self._own]
        if self._exchange is not None:
            answers = self._gather("find each other", {"value": self._own})
            members = sorted(_Member(*answer["value"]) for answer in answers)
            self._check(members)
        self._members = members
        return self._exchange

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


def _shown(value: str) -> str:
    return value if len(value) <= 100 else value[:97] + "…"


def _listed(members: list[_Member]) -> str:
    names = [str(member) for member in members[:8]]
    more = f" and {len(members) - 8} more" if len(members) > 8 else ""
    return ("rank " if len(members) == 1 else "ranks ") + ", ".join(names) + more
