"""Groups of shards: a plan with a threshold for each group is that of one run for each group, to the bit."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infobatch_stream.errors import ConfigError
from infobatch_stream.philox import Stream, WordStream
from infobatch_stream.planner import draw_plan
from infobatch_stream.pruning.groups import MAX_GROUPS, Groups
from infobatch_stream.pruning.policies import KEPT, Classification, ClassRow, ColumnSpec, Policy, make_policy
from infobatch_stream.pruning.threshold import mean_threshold
from infobatch_stream.ratios import prune_count
from infobatch_stream.scores.blocks import GatheredScores
from tests.core.worlds import (
    RUN_ID,
    all_codes,
    kept_mask,
    make_groups,
    make_spec,
    make_table,
    rows_by_name,
    some_scores,
)

SIZES = [300, 0, 400, 5, 1000, 0, 295]
OF_SHARDS = ["web", "books", "books", "web", "code", "code", "web"]
N = sum(SIZES)
NAMES = np.repeat(OF_SHARDS, SIZES)
SCORES = some_scores(N, seed=4) * np.select([NAMES == "web", NAMES == "books"], [10, 1], 0.1).astype(np.float32)
PER_GROUP = {
    "mean": ("infobatch", {}),
    "mean, exact": ("infobatch", {"draw": "exact"}),
    "above the mean": ("infobatch", {"condition": "high", "prune_ratio": "0.3"}),
    "quantile": ("infobatch", {"threshold": "quantile:0.61"}),
    "quantile, exact": ("infobatch", {"threshold": "quantile:0.61", "draw": "exact"}),
    "fraction": ("infobatch", {"prune_fraction": "0.25"}),
    "fraction of the lowest": ("infobatch", {"prune_fraction": "0.6"}),
    "scheduled": ("infobatch", {"prune_schedule": "0:0.1,0.06:0.7,1:0.2"}),
    "unscaled": ("infobatch", {"rescale": False}),
    "levels": ("levels", {"levels": "0.2:0.75,0.85:0.5"}),
    "levels from the highest": ("levels", {"levels": "0.2:0.75,0.85:0.5", "condition": "high"}),
    "hard": ("hard", {}),
    "hard fraction": ("hard", {"prune_fraction": "0.3"}),
    "random, exact": ("random", {"draw": "exact"}),
    "random fraction": ("random", {"prune_fraction": "0.3"}),
}


def draw(spec, scores=SCORES, epoch=3):
    return draw_plan(spec, make_table(scores), run_id=RUN_ID, generation=1, epoch=epoch)


def by_name(plan, samples):
    """The class's name of each sample."""
    return np.array([row.name for row in plan.classes])[plan.codes(samples)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("policy", "own"), PER_GROUP.values(), ids=PER_GROUP.keys())
def test_each_group_has_the_classes_of_a_run_of_its_own(policy, own, masked):
    mask = np.random.default_rng(2).random(N) < 0.7 if masked else None
    plan = draw(make_spec(SIZES, policy, groups=OF_SHARDS, subset=mask, per_group=True, **own))
    for group in plan.groups:
        members = np.flatnonzero(group.name == NAMES)
        alone = draw(
            make_spec([len(members)], policy, subset=None if mask is None else mask[members], **own), SCORES[members]
        )
        expected = by_name(alone, np.arange(len(members)))
        own_names = np.array([name if name in ("kept", "excluded") else f"{name}/{group.name}" for name in expected])
        assert np.array_equal(by_name(plan, members), own_names)
        rows, alone_rows = rows_by_name(plan), rows_by_name(alone)
        for name, row in alone_rows.items():
            if name not in ("kept", "excluded"):
                mine = rows[f"{name}/{group.name}"]
                assert (mine.size, mine.keep_65536, mine.keep_count) == (row.size, row.keep_65536, row.keep_count)
                if mine.keep_65536 is None:
                    assert (mine.kept, mine.weight) == (row.kept, row.weight)
        assert (group.threshold, group.low_share) == (alone.threshold, alone.low_share)
        assert (
            group.scored
            == len(members) * (mask is None) + (0 if mask is None else int(mask[members].sum())) - alone.never_scored
        )
    assert plan.threshold is None
    assert plan.biased == draw(make_spec([N], policy, **own)).biased


def test_the_plan_of_the_mean_is_a_few_lines_of_numpy():
    plan = draw(make_spec(SIZES, groups=OF_SHARDS, per_group=True))
    low = np.zeros(N, bool)
    for name in set(OF_SHARDS):
        mine = name == NAMES
        scored = SCORES[mine & ~np.isnan(SCORES)].astype(np.float64)
        low |= mine & (scored.mean() > SCORES)
    lanes = WordStream(0, 3, 1, Stream.DRAW).lanes(0, N)
    assert np.array_equal(kept_mask(plan), ~low | (lanes < 32768))
    kept = np.flatnonzero(kept_mask(plan))
    assert np.array_equal(plan.weights(kept), np.where(low[kept], 2, 1).astype(np.float32))
    for group in plan.groups:
        mine = group.name == NAMES
        assert (group.samples, group.kept) == (mine.sum(), (kept_mask(plan) & mine).sum())
        assert group.pruned == group.samples - group.kept
        assert group.scored == (mine & ~np.isnan(SCORES)).sum()
        assert group.threshold == group.mean_score == mean_threshold(SCORES[mine]).value
    assert sum(group.kept for group in plan.groups) == plan.kept


def test_one_threshold_prunes_the_source_of_low_losses_alone():
    together = draw(make_spec(SIZES, groups=OF_SHARDS))
    apart = draw(make_spec(SIZES, groups=OF_SHARDS, per_group=True))
    share = {group.name: group.pruned / group.samples for group in together.groups}
    assert share["code"] > 0.45
    assert share["web"] < 0.15
    assert all(0.2 < group.pruned / group.samples < 0.45 for group in apart.groups)


@pytest.mark.parametrize("policy", ["infobatch", "levels", "random", "hard", "full"])
def test_groups_without_per_group_change_no_bit_of_the_draw(policy):
    own = {"levels": "0.2:0.75,0.85:0.5"} if policy == "levels" else {}
    plain, grouped = draw(make_spec(SIZES, policy, **own)), draw(make_spec(SIZES, policy, groups=OF_SHARDS, **own))
    assert np.array_equal(plain.keep_bits, grouped.keep_bits)
    assert plain.classes == grouped.classes
    assert (plain.threshold, plain.groups) == (grouped.threshold, ())
    assert [group.name for group in grouped.groups] == ["books", "code", "web"]
    assert all(group.threshold is group.low_share is None for group in grouped.groups)


def test_one_group_is_the_run_without_groups():
    plain, grouped = draw(make_spec(SIZES)), draw(make_spec(SIZES, groups=["all"] * len(SIZES), per_group=True))
    assert np.array_equal(plain.keep_bits, grouped.keep_bits)
    assert np.array_equal(plain.class_plane, grouped.class_plane)
    assert grouped.groups[0].threshold == plain.threshold


def test_a_fraction_is_each_group_s_own():
    plan = draw(make_spec(SIZES, groups=OF_SHARDS, per_group=True, prune_fraction="0.25"))
    for group in plan.groups:
        assert group.pruned == prune_count("0.25", group.samples)
    assert plan.prune_requested == plan.pruned == sum(group.pruned for group in plan.groups)


def test_odd_groups():
    """Equal scores; nothing scored; all outside the mask; no sample at all; and one sample."""
    sizes, names = [40, 30, 20, 0, 1], ["equal", "unscored", "excluded", "empty", "one"]
    of = np.repeat(names, sizes)
    scores = np.full(91, 0.5, np.float32)
    scores[of == "unscored"] = np.nan
    mask = of != "excluded"
    for policy, own in [*PER_GROUP.values()]:
        plan = draw(make_spec(sizes, policy, groups=names, subset=mask, per_group=True, **own), scores)
        groups = {group.name: group for group in plan.groups}
        assert (groups["empty"].samples, groups["empty"].mean_score, groups["empty"].kept) == (0, None, 0)
        assert (groups["excluded"].samples, groups["excluded"].scored, groups["excluded"].kept) == (0, 0, 0)
        assert (groups["unscored"].scored, groups["unscored"].threshold) == (0, None)
        assert groups["one"].kept == 1 or "prune_fraction" not in own
        if policy != "random":
            assert groups["unscored"].kept == 30
        if policy == "infobatch" and "prune_fraction" not in own:
            assert groups["equal"].kept == 40, "no score is below the mean of equal ones"
        assert not any(row.name.endswith(("/excluded", "/empty")) for row in plan.classes)
        assert not kept_mask(plan)[of == "excluded"].any()


def test_unpruned_epochs_have_figures_and_no_threshold():
    plan = draw(make_spec(SIZES, groups=OF_SHARDS, per_group=True), epoch=90)
    assert plan.unpruned
    assert plan.kept == N
    assert [(group.kept, group.threshold) for group in plan.groups] == [(400, None), (1000, None), (600, None)]
    assert all(group.mean_score is not None for group in plan.groups)


def test_as_many_groups_as_there_are_codes():
    names = [f"g{i:03}" for i in range(MAX_GROUPS)]
    scores = some_scores(10 * MAX_GROUPS, unscored=0)
    mask = np.arange(len(scores)) != 5
    plan = draw(make_spec([10] * MAX_GROUPS, groups=names, subset=mask, per_group=True), scores)
    assert len(plan.classes) == MAX_GROUPS + 2
    assert rows_by_name(plan)["excluded"].size == 1
    low = np.concatenate([part < part.astype(np.float64).mean() for part in np.split(scores, MAX_GROUPS)])
    in_last = slice(-10, None)
    assert np.array_equal(all_codes(plan)[in_last] == MAX_GROUPS, low[in_last])
    with pytest.raises(ConfigError, match="groups has 254 groups; give 1 to 253"):
        make_spec([1] * (MAX_GROUPS + 1), groups=[f"g{i:03}" for i in range(MAX_GROUPS + 1)])
    with pytest.raises(ConfigError, match=re.escape("127 groups with 2 pruned classes each make 255 classes")):
        make_spec([1] * 127, "levels", groups=names[:127], per_group=True, levels="0.2:0.75,0.85:0.5")
    make_spec([1] * 127, "levels", groups=names[:127], levels="0.2:0.75,0.85:0.5")


@pytest.mark.parametrize(
    ("policy", "own", "message"),
    [
        ("full", {}, "policy 'full' never prunes, in no group: leave out per_group=True"),
        ("random", {}, "with the same probability in every group: leave out per_group=True, or fix each group's share"),
        ("infobatch", {"per_group": 1}, "per_group must be a bool, got 1 (int)"),
    ],
)
def test_policies_that_have_no_use_for_groups_say_so(policy, own, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_policy(policy, **{"per_group": True, **own})


def test_a_policy_by_group_needs_groups():
    with pytest.raises(ConfigError, match=re.escape("there are no groups: give groups=")):
        make_spec(SIZES, per_group=True)


def test_per_group_is_a_setting_only_where_it_is_set():
    assert "per_group" not in make_policy("infobatch").params()
    policy = make_policy("infobatch", per_group=True)
    assert make_policy("infobatch", delta=policy.delta, **policy.params()) == policy
    assert policy.params()["per_group"] is True


@pytest.mark.parametrize(
    ("names", "codes", "message"),
    [
        ((), [], "groups has 0 groups"),
        (("b", "a"), [0, 1], "names must be sorted and each there once; they are b, a"),
        (("a", "a"), [0, 1], "names must be sorted"),
        (("a/b",), [0, 0], "'a/b' can't name a group"),
        (("a", "b"), [0, 2], "a shard is of group 2, and there are 2 groups"),
        (("a", "b"), [0, 0], "group 'b' has no shard"),
        (("a",), [0], "must be uint8 (2,), one for each shard"),
    ],
)
def test_invalid_groups_are_refused(names, codes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Groups(names, np.array(codes, np.uint8), np.array([3, 4]))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abc")), min_size=1, max_size=30), st.data())
def test_gathered_scores_are_those_of_the_group(shards, data):
    sizes = np.array([size for size, _ in shards], np.int64)
    groups = make_groups([name for _, name in shards], sizes)
    scores = np.arange(sizes.sum(), dtype=np.float32)
    of_sample = np.repeat(groups.of_shard, sizes)
    for code in range(len(groups)):
        ranges = groups.ranges.of(code)
        expected = scores[of_sample == code]
        gathered = GatheredScores(scores, ranges.starts, ranges.stops)
        assert len(gathered) == len(expected) == ranges.num_samples
        start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(expected))] * 2)))
        assert np.array_equal(gathered[start:stop], expected[start:stop])
        if len(expected):
            places = np.array(data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=9)), np.int64)
            assert np.array_equal(gathered[places], expected[places])
    assert groups.sums(sizes) == [int((of_sample == code).sum()) for code in range(len(groups))]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from("abc")), min_size=1, max_size=12), st.integers(0, 99))
def test_any_layout_of_groups_gives_each_its_own_plan(shards, seed):
    sizes, names = [size for size, _ in shards], [name for _, name in shards]
    if not sum(sizes):
        return
    scores = some_scores(sum(sizes), seed, unscored=0.3)
    own = [{}, {"threshold": "quantile:0.4"}, {"prune_fraction": "0.4"}][seed % 3]
    plan = draw(make_spec(sizes, groups=names, per_group=True, **own), scores)
    of_sample = np.repeat(names, sizes)
    for name in set(names):
        members = np.flatnonzero(of_sample == name)
        if len(members):
            alone = draw(make_spec([len(members)], **own), scores[members])
            assert np.array_equal(by_name(plan, members) != "kept", all_codes(alone) != 0)


@dataclass(frozen=True, kw_only=True)
class Foreign(Policy):
    """Reads all that a view has."""

    name: ClassVar[str] = "foreign"
    columns: ClassVar[tuple[ColumnSpec, ...]] = (ColumnSpec(name="twice", fold="ema", ema_weight="1", source="score"),)

    def classes(self, view, position):
        assert view.groups is None
        assert len(view.score) == len(view.stamp) == len(view.visits) == view.num_samples == len(view.columns["twice"])
        assert list(view.columns) == ["twice"]
        assert not view.stamp.flags.writeable
        codes = (view.columns["twice"] < view.columns["twice"].mean()).astype(np.uint8)
        codes |= view.stamp == 0
        return Classification(codes=codes.__getitem__, rows=(KEPT, ClassRow(name="few", keep_65536=32768)))


def test_a_policy_of_ones_own_sees_one_group_at_a_time():
    policy = Foreign(per_group=True)
    spec = make_spec(SIZES, groups=OF_SHARDS)
    object.__setattr__(spec, "policy", policy)
    table = make_table(np.zeros(N, np.float32), policy.columns)
    values = np.random.default_rng(0).random(N).astype(np.float32)
    table.extra["twice"][:] = values
    table.stamp[:] = np.arange(N) % 4
    plan = draw_plan(spec, table, run_id=RUN_ID, generation=1, epoch=3)
    expected = table.stamp == 0
    for name in set(OF_SHARDS):
        mine = name == NAMES
        expected |= mine & (values < values[mine].mean())
    assert np.array_equal(all_codes(plan) != 0, expected)


def test_a_policy_of_ones_own_may_read_the_groups():
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Reads(Policy):
        name: ClassVar[str] = "reads"

        def classes(self, view, position):
            seen.append(view.groups)
            web = view.groups.ranges.of(view.groups.names.index("web"))
            codes = np.zeros(view.num_samples, np.uint8)
            for start, stop in zip(web.starts, web.stops, strict=True):
                codes[start:stop] = 1
            return Classification(codes=codes.__getitem__, rows=(KEPT, ClassRow(name="web", keep_65536=32768)))

    spec = make_spec(SIZES, groups=OF_SHARDS)
    object.__setattr__(spec, "policy", Reads())
    assert np.array_equal(all_codes(draw(spec)) == 1, NAMES == "web")
    assert seen == [spec.groups]


def test_a_difference_in_groups_is_named():
    spec, other = make_spec(SIZES, groups=OF_SHARDS), make_spec(SIZES, groups=["web"] * len(SIZES))
    (line,) = spec.differences(other)
    assert re.fullmatch(r"groups: the run has books, code, web \(\w{12}\), this job asks for web \(\w{12}\)", line)
    (line,) = spec.differences(make_spec(SIZES))
    assert line.endswith("this job asks for none")
    moved = make_spec(SIZES, groups=["web", "books", "books", "web", "code", "code", "code"])
    assert len(spec.differences(moved)) == 1
    assert spec.differences(make_spec(SIZES, groups=list(OF_SHARDS))) == []


def test_the_share_of_the_schedule_reaches_every_group():
    plan = draw(make_spec(SIZES, groups=OF_SHARDS, per_group=True, prune_schedule="0:0.1,0.06:0.7,1:0.2"))
    assert {row.keep_65536 for row in plan.classes if row.name != "kept"} == {round(65536 * (1 - Fraction(2, 5)))}
