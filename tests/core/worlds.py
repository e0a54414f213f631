"""Specs, tables and plans for tests, from as few words as a test has to say about them."""

import numpy as np

from infobatch_stream.plan.epoch_plan import EpochPlan, PlanClass, kept_by_shard
from infobatch_stream.plan.order_params import OrderParams
from infobatch_stream.pruning.groups import Groups
from infobatch_stream.pruning.policies import make_policy
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.scores.table import ScoreTable

RUN_ID = bytes(range(16))


def make_spec(
    shard_sizes,
    policy="infobatch",
    *,
    seed=0,
    epochs=100,
    delta="0.875",
    order=None,
    subset=None,
    groups=None,
    **own,
):
    """A run spec; `groups` names each shard's group, `own` are the policy's settings."""
    sizes = np.asarray(shard_sizes, np.int64)
    return RunSpec(
        run="test",
        manifest_fingerprint=bytes(32),
        shard_sizes=sizes,
        epochs=epochs,
        seed=seed,
        policy=make_policy(policy, delta=delta, **own),
        order=OrderParams(**{"lanes": 1, "stripe": 16, "window_shards": len(sizes), **(order or {})}),
        subset=subset,
        groups=None if groups is None else make_groups(groups, sizes),
    )


def make_groups(of_shards, shard_sizes):
    """Groups, of the name of each shard's."""
    names = sorted(set(of_shards))
    codes = np.array([names.index(name) for name in of_shards], np.uint8)
    return Groups(tuple(names), codes, np.asarray(shard_sizes, np.int64))


def make_table(scores, columns=()):
    """A table that holds the scores, all from before epoch 0."""
    table = ScoreTable(len(scores), columns)
    table.score[:] = scores
    return table


def some_scores(num_samples, seed=0, unscored=0.05):
    """Exponential scores, a share of them NaN."""
    random = np.random.default_rng(seed)
    scores = random.exponential(size=num_samples).astype(np.float32)
    scores[random.random(num_samples) < unscored] = np.nan
    return scores


def bare_plan(keep, shard_sizes, order, *, seed=0, epoch=0, generation=1):
    """A plan that keeps a mask, bool (N,), of one class, without a policy or a draw."""
    keep = np.asarray(keep, bool)
    bits = np.packbits(keep, bitorder="little")
    kept = int(keep.sum())
    return EpochPlan(
        run_id=RUN_ID,
        generation=generation,
        epoch=epoch,
        seed=seed,
        num_samples=len(keep),
        classes=(PlanClass(name="drawn", keep_65536=32768, keep_count=None, size=len(keep), kept=kept, weight=2.0),),
        keep_bits=bits,
        class_plane=None,
        shard_kept=kept_by_shard(bits, np.asarray(shard_sizes, np.int64)),
        order=order,
    )


def kept_mask(plan):
    """bool (N,)."""
    mask = np.zeros(plan.num_samples, bool)
    mask[plan.kept_between(0, plan.num_samples)] = True
    return mask


def all_codes(plan):
    """Class codes, uint8 (N,)."""
    return plan.codes(np.arange(plan.num_samples))


def rows_by_name(plan):
    """Plan classes by name."""
    return {row.name: row for row in plan.classes}
