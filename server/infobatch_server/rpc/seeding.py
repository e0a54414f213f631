"""Reads the stream of SeedRun into a run: scores as they come, and a plan once it is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import numpy as np

from infobatch_server.runs.memory import plan_bytes
from infobatch_server.runs.registry import Registry
from infobatch_server.runs.run import Run
from infobatch_stream.errors import ConfigError, PlanError
from infobatch_stream.scores.table import MAX_EPOCHS
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.plan_reader import PlanReader

__all__ = ["seed_run"]


def seed_run(registry: Registry, messages: Iterator[pb.SeedRunRequest]) -> pb.SeedRunResponse:
    """Imports scores and a plan into the run that the first message names.

    If the stream breaks off, the scores received so far stay; sending the whole stream again is safe.

    Raises:
        ConfigError: messages out of order, or invalid values.
        PlanError: a plan that is damaged or doesn't fit the run.
        RunBusyError: a job holds the run.
        RunNotFoundError: there is no such run.
        ServerBusyError: there is no memory for the plan now.
    """
    first = next(messages, None)
    if first is None or first.WhichOneof("part") != "run_id":
        raise ConfigError("the first message of SeedRun must have `run_id`")
    run = registry.by_id(first.run_id)
    with ExitStack() as stack:
        stack.enter_context(run.core.streams.of_table())
        return _read_parts(run, messages, partial(_hold_plan, registry, run, stack))


def _hold_plan(registry: Registry, run: Run, stack: ExitStack) -> None:
    """Charges a plan that is received, until it is one of the run's, or refused."""
    needed = plan_bytes(run.spec.num_samples, run.spec.num_shards)
    stack.enter_context(registry.memory.holding(needed, f"a plan for run {run.spec.run!r}"))


def _read_parts(run: Run, messages: Iterator[pb.SeedRunRequest], hold_plan: Callable[[], None]) -> pb.SeedRunResponse:
    reader = PlanReader(run.spec)
    answer = pb.SeedRunResponse()
    for message in messages:
        part = message.WhichOneof("part")
        if part == "scores":
            _import_scores(run, message.scores, answer)
        elif part == "plan":
            if message.plan.WhichOneof("part") == "header" and not reader.has_header:
                hold_plan()
            reader.add(message.plan)
        else:
            raise ConfigError("after `run_id`, SeedRun takes `scores` and `plan`, each message with one of them")
    if reader.has_header:
        plan = reader.plan()
        if plan.generation == 0:
            raise PlanError(
                f"plan {plan.plan_id!r} is an unpruned fallback, which needs no import; import a drawn plan"
            )
        run.import_plan(plan)
        answer.plan_id = plan.plan_id
    return answer


def _import_scores(run: Run, part: pb.SeedRunRequest.Scores, answer: pb.SeedRunResponse) -> None:
    count, rest = divmod(len(part.scores), 4)
    if rest:
        raise ConfigError(f"scores has {len(part.scores)} bytes: float32 takes 4 each")
    if part.stamps and len(part.stamps) != 2 * count:
        raise ConfigError(f"stamps has {len(part.stamps)} bytes; {count} scores need {2 * count}")
    scores = np.frombuffer(part.scores, "<f4").astype(np.float32, copy=False)
    stamps = np.frombuffer(part.stamps, "<u2").astype(np.uint16, copy=False) if part.stamps else None
    if stamps is not None and count and int(stamps.max()) > MAX_EPOCHS:
        raise ConfigError(f"stamp {int(stamps.max())} is over {MAX_EPOCHS}")
    counts = run.import_scores(part.first_sample, scores, stamps)
    answer.scored += counts.accepted
    answer.non_finite += counts.non_finite
