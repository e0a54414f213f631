"""Cuts the power at every moment of a store's life, and compares what is recovered with what was answered.

python -m tests.server.power.cuts --states 10000 --seed 1
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infobatch_server.state.score_batch import ScoreBatch
from tests.server.column_policy import COLUMNS, install_columns
from tests.server.power.disk import PATTERNS, Image
from tests.server.power.life import Life, Program, Step, Views

__all__ = ["Lost", "PowerCuts"]

_STEPS = 40
_STATES_A_LIFE = 250


class Lost(AssertionError):
    """What was recovered isn't what was answered."""


@dataclass(frozen=True)
class _Moment:
    """What may be recovered after a cut at some moment, and the pushes to send again: those before it were answered."""

    allowed: Sequence[Views]
    pushes: tuple[tuple[str, ScoreBatch], ...]
    is_answered: bool
    where: str


@dataclass
class PowerCuts:
    """Lives of a store, each begun on one of the disks that the one before it may have left.

    Args:
        folder: for the disks.
        seed: of all that happens.
        policies: of the runs.
        program: the store's.
    """

    folder: Path
    seed: int
    policies: tuple[str, ...] = ("infobatch",)
    program: Program = Program()  # noqa: RUF009 - immutable
    counts: Counter[str] = field(default_factory=Counter)

    def run(self, states: int) -> Counter[str]:
        """Recovers so many disks; returns what was done.

        Raises:
            Lost: a disk isn't recovered, or something acknowledged isn't there, or something that nobody sent is.
        """
        rng = random.Random(self.seed)
        root, cut = self.folder / "life", self.folder / "cut"
        root.mkdir()
        moment = _Moment([{}], (), True, "an empty disk")
        while self.counts["states"] < states:
            life = self._recover(root, rng.randrange(2**60), moment)
            for _ in range(_STEPS):
                life.step()
            life.close()
            self.counts["lives"] += 1
            image, size = Image(life.disk), life.steps[-1].end
            places = sorted(rng.choices(range(size + 1), k=min(_STATES_A_LIFE, states - self.counts["states"])))
            next_place = rng.choice(places)
            for place in places:
                image.forward(place)
                pattern = rng.choice(list(PATTERNS))
                moment = self._moment(life.steps, place, pattern)
                keep_seed = rng.random()
                image.build(cut, PATTERNS[pattern](random.Random(keep_seed), place))
                self._check(cut, moment)
                shutil.rmtree(cut)
                if place == next_place and not (self.folder / "next").exists():
                    image.build(self.folder / "next", PATTERNS[pattern](random.Random(keep_seed), place))
                    following = moment
            shutil.rmtree(root)
            (self.folder / "next").rename(root)
            moment = following
        return self.counts

    def _moment(self, steps: Sequence[Step], place: int, pattern: str) -> _Moment:
        number = max((number for number, step in enumerate(steps) if step.end <= place), default=-1)
        is_answered = number >= 0 and steps[number].end == place
        step = steps[number if is_answered else number + 1]
        self.counts[step.name] += 1
        where = (
            f"seed {self.seed}, life {self.counts['lives']}, {'after' if is_answered else 'in'} {step.name!r}, change "
            f"{place - step.begin} of {step.end - step.begin}; of what wasn't synced, {pattern} was kept"
        )
        return _Moment(step.allowed[-1:] if is_answered else step.allowed, step.pushes, is_answered, where)

    def _check(self, root: Path, moment: _Moment) -> None:
        life = self._recover(root, 0, moment)
        for name, batch in moment.pushes:
            if not life.push_again(name, batch) and moment.is_answered:
                raise Lost(f"{moment.where}: an answered push was stored again")
        if moment.pushes and life.look() != moment.allowed[-1]:
            raise Lost(f"{moment.where}: a push that was sent again {_differences(life.look(), moment.allowed)}")
        life.close()
        self.counts["states"] += 1

    def _recover(self, root: Path, seed: int, moment: _Moment) -> Life:
        try:
            life = Life(root, seed, self.policies, self.program)
        except Exception as error:
            raise Lost(f"{moment.where}: {type(error).__name__}: {error}") from error
        if life.views not in moment.allowed:
            raise Lost(f"{moment.where}: {_differences(life.views, moment.allowed)}")
        return life


def _differences(found: Views, allowed: Sequence[Views]) -> str:
    """In what the runs differ from what is allowed."""
    parts = []
    for views in allowed:
        names = sorted({*found, *views})
        parts.append(
            {
                name: found[name].differences(views[name])
                if name in found and name in views
                else f"is {'there' if name in found else 'missing'}"
                for name in names
                if found.get(name) != views.get(name)
            }
        )
    return f"differs from what it should be: {parts}"


def main() -> None:
    """Runs the test, and says what it did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        install_columns(Path(folder) / "installed")
        sys.path.insert(0, str(Path(folder) / "installed"))
        started = time.monotonic()
        counts = PowerCuts(Path(folder), args.seed, ("infobatch", COLUMNS)).run(args.states)
    lives, states = counts.pop("lives"), counts.pop("states")
    print(f"{states} states of {lives} lives, seed {args.seed}, {time.monotonic() - started:.0f} s; nothing was lost.")
    print("Cuts in: " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))


if __name__ == "__main__":
    main()
