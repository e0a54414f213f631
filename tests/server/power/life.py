"""A store's life on a recorded disk: all that jobs do to their runs, and what must be there after each step."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from infobatch_server.runs.registry import Registry
from infobatch_server.runs.run import Run
from infobatch_server.state.limits import Limits
from infobatch_server.state.run_state import ResumePoint
from infobatch_server.state.score_batch import ScoreBatch
from infobatch_server.store.durable import DurableStore
from infobatch_stream.plan.epoch_plan import full_plan_id
from infobatch_stream.plan.order_params import OrderChoice
from infobatch_stream.planner import draw_plan
from infobatch_stream.scores.table import ScoreTable
from infobatch_stream.wire.specs import seal
from tests.server.bare_runs import NEW, attach, end, plan
from tests.server.calls import make_spec
from tests.server.conftest import Clock
from tests.server.crash.model import Model
from tests.server.power.disk import Disk
from tests.server.power.recording import Fault, RecordingFiles, RecordingVfs, connecting, no_fault
from tests.server.power.view import View, view_of

__all__ = ["Life", "Program", "Step", "Views"]

N = 200
SEGMENT_SAMPLES = 64
Views = Mapping[str, View]


@dataclass(frozen=True)
class Program:
    """The store's program, or one that lacks a sync: what it `forgets` (see RecordingFiles), or SQLite's setting."""

    forgets: str = ""
    synchronous: str = ""


@dataclass(frozen=True)
class Step:
    """A step, and what may be there if the power is cut in it.

    Args:
        name: what was done.
        begin: changes of the disk before it.
        end: changes of the disk when it was answered.
        allowed: what was there before it; after each of its transactions; after it.
        pushes: what it pushes, by run, to be sent again.
    """

    name: str
    begin: int
    end: int
    allowed: tuple[Views, ...]
    pushes: tuple[tuple[str, ScoreBatch], ...] = ()


class Life:
    """A store from its start to a power cut; the first step recovers what is there.

    Args:
        root: the disk.
        seed: of what is done.
        policies: of the runs that are created.
        program: of the store.
        fault: called before each operation of the disk (see RecordingFiles).
    """

    def __init__(
        self,
        root: Path,
        seed: int,
        policies: tuple[str, ...] = ("infobatch",),
        program: Program = Program(),
        fault: Fault = no_fault,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.clock = Clock()
        self.disk = Disk(root)
        self.steps: list[Step] = []
        self.doing = ""
        """Name of the newest step, which may have failed."""
        self._life_id = seed.to_bytes(8, "big")  # of its pushers, each of which lives as long
        self._policies = policies
        self._models: dict[str, Model] = {}
        self._sequences: dict[tuple[str, bytes], int] = {}
        self.files = RecordingFiles(self.disk, program.forgets, fault)
        folder = root / "new" / "data"
        for missing in (folder.parent, folder):  # as DataDir makes them
            if not missing.exists():
                self.files.make_folder(missing)
        self._vfs = RecordingVfs(self.disk, fault)
        self.store = DurableStore(
            folder,
            files=self.files,
            connect=connecting(self._vfs, program.synchronous),
            segment_samples=SEGMENT_SAMPLES,
            save_bytes=2**12,
            reserve_bytes=2**12,
        )
        self.registry = Registry(self.store, Limits(keep_plans=2), self.clock)
        self.registry.load()
        self.views: Views = self.look()
        self.steps.append(Step("recover", 0, len(self.disk.log), (self.views,)))
        for run in self.registry.runs():
            self._models[run.spec.run] = _model_of(run.core.feed.table)

    def look(self) -> Views:
        """What the registry says."""
        return {run.spec.run: view_of(run) for run in self.registry.runs()}

    def close(self) -> None:
        """Ends the store, as SIGTERM does; nothing may be done any more."""
        self._do("close", self.store.close)
        self._vfs.unregister()

    def push_again(self, name: str, batch: ScoreBatch) -> bool:
        """Pushes what was pushed before; returns whether it was there."""
        return self.registry.by_name(name).push(batch).duplicate

    def step(self) -> None:
        """Does something, and checks that the table is what the model says."""
        runs = self.registry.runs()
        if not runs or (len(runs) < 3 and self.rng.random() < 0.05):
            self._create()
        else:
            run = runs[int(self.rng.integers(len(runs)))]
            if run.core.state.lease is None and self.rng.random() < 0.7:
                self._attach(run, NEW)
            else:
                self._act(run)
        for run in self.registry.runs():
            _check(run.core.feed.table, self._models[run.spec.run])

    def _act(self, run: Run) -> None:
        keeper = self.store.keeper
        segment = int(self.rng.integers(-(-N // SEGMENT_SAMPLES)))
        choices: list[tuple[Callable[[], None], float]] = [
            (partial(self._do, "save segment", partial(keeper.save_segment, run.run_id, segment)), 12),
            (partial(self._do, "free journal", partial(keeper.free_journal, run.run_id)), 6),
            (partial(self._do, "save scores", keeper.save_scores), 3),
            (partial(self._do, "keep", keeper.keep), 3),
            (partial(self._forget, run), 2),
            (partial(self._import_scores, run), 3),
            (partial(self._import_plan, run), 3),
            (partial(self._amend, run), 1),
            (partial(self._delete, run), 1),
        ]
        if run.core.state.lease is not None:
            choices += [
                (partial(self._push, [run]), 25),
                (partial(self._push, [run, *self.registry.runs(), run]), 15),
                (partial(self._open, run), 8),
                (partial(self._end, run), 3),
                (partial(self._rewind, run), 5),
                (partial(self._do, "detach", partial(run.detach, run.core.state.generation)), 1),
            ]
        weights = np.array([weight for _, weight in choices], float)
        choices[self.rng.choice(len(choices), p=weights / weights.sum())][0]()

    def _do(
        self,
        name: str,
        action: Callable[[], object],
        between: Iterable[Views] = (),
        pushes: tuple[tuple[str, ScoreBatch], ...] = (),
    ) -> None:
        before, begin = self.views, len(self.disk.log)
        self.doing = name
        action()
        self.views = self.look()
        self.steps.append(Step(name, begin, len(self.disk.log), (before, *between, self.views), pushes))

    def _create(self) -> None:
        name = f"run{self.rng.integers(10**9)}"
        policy = self._policies[int(self.rng.integers(len(self._policies)))]
        subset = self.rng.random(N) < 0.9 if self.rng.random() < 0.3 else None
        spec = make_spec(name, num_samples=N, epochs=30, policy=policy, subset=subset)
        self._do("create", partial(self.registry.create, spec, OrderChoice()))
        self._models[name] = Model(N)

    def _delete(self, run: Run) -> None:
        self._do("delete", partial(self.registry.delete, run, force=True))

    def _amend(self, run: Run) -> None:
        spec = replace(run.spec, epochs=run.spec.epochs + 1)
        check = spec.schedule.anneal_epoch
        self._do("amend", partial(run.amend, epochs=spec.epochs, delta=None, anneal_epoch_check=check))

    def _attach(self, run: Run, resume: ResumePoint) -> None:
        nonce = run.core.state.generation + 1
        self._do("attach", partial(attach, run, resume, nonce=nonce, takeover=True))
        self._models[run.spec.run].rewind(run.core.state.last_epoch + 1)
        self._open(run)

    def _rewind(self, run: Run) -> None:
        state = run.core.state
        epoch = int(self.rng.integers(0, max(0, state.last_epoch) + 1))
        self._attach(run, ResumePoint(epoch=epoch, plan_id=state.plan_ids.get(epoch, "")))

    def _open(self, run: Run) -> None:
        """Ends the newest epoch and opens the next one."""
        self._end(run)
        state = run.core.state
        epoch = state.last_epoch + 1
        if epoch == run.spec.epochs:
            return
        if self.rng.random() < 0.1:
            self._do("mark unpruned", partial(run.plans.mark_unpruned, state.generation, epoch))
        else:
            self._do("freeze plan", partial(plan, run, state.generation, epoch))

    def _end(self, run: Run) -> None:
        state = run.core.state
        epoch = state.last_epoch
        if epoch in state.unpruned:
            self._do("end epoch", partial(end, run, state.generation, epoch, full_plan_id(run.run_id, epoch)))
        elif epoch in state.plan_ids:
            self._do("end epoch", partial(end, run, state.generation, epoch, state.plan_ids[epoch]))

    def _push(self, runs: list[Run]) -> None:
        runs = [run for run in runs if run.core.state.last_epoch >= 0 and run.core.state.lease]
        if not runs:
            return
        pushes = [(run, self._batch(run)) for run in runs]
        if len(runs) == 1:
            calls = partial(runs[0].push, pushes[0][1])
        else:
            calls = partial(_in_one_group, self.store, [partial(run.push, batch) for run, batch in pushes])
        self._do(f"push {len(runs)}", calls, pushes=tuple((run.spec.run, batch) for run, batch in pushes))
        for run, batch in pushes:
            model = self._models[run.spec.run]
            if batch.dropped is not None:
                model.dropped[batch.dropped] = True
            model.push(batch)

    def _batch(self, run: Run) -> ScoreBatch:
        rng, state = self.rng, run.core.state
        sender = run.spec.run, self._life_id + int(rng.integers(3)).to_bytes(8, "big")
        self._sequences[sender] = self._sequences.get(sender, 0) + 1
        count = int(rng.integers(0, 60))
        first = int(rng.integers(N - 60)) if rng.random() < 0.5 else 0
        indices = first + rng.permutation(60 if first else N)[:count]
        scores = rng.random(count).astype(np.float32)
        scores[rng.random(count) < 0.1] = np.nan
        trained = np.arange(N) if run.spec.subset is None else np.flatnonzero(run.spec.subset)
        dropped = rng.choice(trained, 5, replace=False) if rng.random() < 0.2 else None
        epoch = max(0, state.last_epoch - int(rng.integers(2)))
        columns = {column.name: rng.random(count).astype(column.dtype) for column in run.spec.policy.pushed_columns}
        return ScoreBatch(
            state.generation, sender[1], self._sequences[sender], epoch, indices, scores, columns, dropped
        )

    def _forget(self, run: Run) -> None:
        self._do("forget drops", run.forget_drops)
        self._models[run.spec.run].dropped[:] = False

    def _import_scores(self, run: Run) -> None:
        self.clock.now += 100  # no job holds a run any more
        first = int(self.rng.integers(N - 20))
        count = int(self.rng.integers(1, N - first))
        scores = self.rng.random(count).astype(np.float32)
        stamps = self.rng.integers(0, 5, count).astype(np.uint16)
        name, view = run.spec.run, self.views[run.spec.run]
        between = {**self.views, name: replace(view, state=replace(view.state, scores_imported=True))}
        self._do("import scores", partial(run.import_scores, first, scores, stamps), between=[between])
        self._models[name].import_scores(first, scores, stamps)

    def _import_plan(self, run: Run) -> None:
        self.clock.now += 100
        state, spec = run.core.state, run.spec
        epoch = min(max(0, state.last_epoch) + int(self.rng.integers(2)), spec.epochs - 1)
        table, generation = run.core.feed.table, max(1, state.generation)
        drawn = seal(draw_plan(spec, table, run_id=self.rng.bytes(16), generation=generation, epoch=epoch))
        self._do("import plan", partial(run.import_plan, drawn))


def _in_one_group(store: DurableStore, calls: Sequence[Callable[[], object]]) -> None:
    """Makes calls, each of which waits for the same commit, in which they come in this order."""
    database = store._database
    is_held, go = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        is_held.set()
        go.wait()

    with ThreadPoolExecutor(len(calls) + 1) as pool:
        holder = pool.submit(database.alone, hold)
        holder.add_done_callback(lambda _: is_held.set())  # also if it is refused
        is_held.wait()
        answers = []
        for number, call in enumerate(calls):
            answers.append(pool.submit(call))
            while len(database._queue) <= number and not answers[-1].done():  # a few microseconds each
                os.sched_yield()
        go.set()
        for answer in answers:
            answer.result()


def _model_of(table: ScoreTable) -> Model:
    model = Model(N)
    for name in ("score", "stamp", "visits", "dropped"):
        getattr(model, name)[:] = getattr(table, name)[:]
    return model


def _check(table: ScoreTable, model: Model) -> None:
    for name in ("score", "stamp", "visits", "dropped"):
        np.testing.assert_array_equal(getattr(table, name)[:], getattr(model, name), err_msg=name)
