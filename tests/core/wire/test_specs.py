"""Specs and plans over the wire: the same at the other end, and nothing there that isn't understood."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest

from infobatch_stream.errors import ConfigError, PlanError
from infobatch_stream.plan.epoch_plan import unpruned_plan
from infobatch_stream.plan.order_params import OrderChoice
from infobatch_stream.planner import draw_plan
from infobatch_stream.pruning.policies import make_policy
from infobatch_stream.scores.columns import ColumnSpec
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.specs import (
    order_choice,
    order_params,
    plan_from_header,
    plan_header,
    policy_from_message,
    policy_message,
    reject_unknown_fields,
    seal,
    spec_from_messages,
    spec_message,
    spec_parts,
)
from tests.core.pruning.test_policies import EXAMPLES
from tests.core.worlds import RUN_ID, make_spec, make_table, some_scores

SIZES = [400, 0, 609]
MASK = np.random.default_rng(8).random(1009) < 0.6
SWITCHES = [
    (name, {**settings, **switch})
    for name, settings in EXAMPLES
    for switch in ({}, {"rescale": False}, {"anneal": False}, {"draw": "exact"}, {"prune_schedule": "0:0.2,1:0.6"})
]


def joined(parts, kind, field):
    return b"".join(getattr(getattr(part, kind), field) for part in parts if part.WhichOneof("part") == kind)


def over_the_wire(spec, choice=None):
    """What the other end makes of a spec's messages."""
    message = pb.RunSpec.FromString(spec_message(spec, choice).SerializeToString())
    parts = [pb.CreateRunRequest.FromString(part.SerializeToString()) for part in spec_parts(spec)]
    reject_unknown_fields(message)
    sizes = np.frombuffer(joined(parts, "shard_sizes", "sizes"), "<i8").astype(np.int64)
    bits = np.frombuffer(joined(parts, "mask", "bits"), np.uint8)
    subset = np.unpackbits(bits, count=spec.num_samples, bitorder="little").astype(bool) if len(bits) else None
    return spec_from_messages(message, sizes, subset)


# ---- specs


@pytest.mark.parametrize(("name", "settings"), SWITCHES)
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_a_spec_arrives_as_it_was_sent(name, settings, mask):
    spec = make_spec(SIZES, name, seed=2**64 - 1, subset=mask, order={"lanes": 3}, **settings)
    again = over_the_wire(spec)
    assert again.differences(spec) == []
    assert (again.policy, again.schedule, again.order, again.run) == (spec.policy, spec.schedule, spec.order, spec.run)
    assert spec_message(again) == spec_message(spec)


def test_shard_sizes_and_mask_travel_in_parts_of_a_mebibyte():
    sizes = np.full(300_000, 40, np.int64)
    spec = make_spec(sizes, subset=np.arange(12_000_000) % 2 == 0)
    parts = list(spec_parts(spec))
    assert all(part.ByteSize() <= 2**20 + 64 for part in parts)
    assert [part.shard_sizes.first_shard for part in parts if part.HasField("shard_sizes")] == [0, 131_072, 262_144]
    assert [part.mask.first_sample for part in parts if part.HasField("mask")] == [0, 2**23]
    assert np.frombuffer(joined(parts, "shard_sizes", "sizes"), "<i8").tolist() == sizes.tolist()


def test_only_what_the_user_set_of_the_order_is_a_choice():
    spec = make_spec(SIZES, order={"lanes": 4, "stripe": 8})
    message = spec_message(spec, OrderChoice(lanes=4))
    assert order_choice(message.order) == OrderChoice(lanes=4)
    assert order_params(message.order, message.order_default) == spec.order
    assert over_the_wire(spec, OrderChoice(lanes=4)).order == spec.order
    with pytest.raises(ConfigError, match="order: stripe is neither set nor has a default"):
        order_params(message.order)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_samples", 1010, "num_samples=1010, but the parts say 1009"),
        ("num_shards", 4, "num_shards=4, but the parts say 3"),
        ("subset_samples", 5, "subset_samples=5, but the parts say 0"),
        ("subset_sha256", b"x", "subset_sha256=b'x', but the parts say b''"),
        ("anneal_epoch", 88, "anneal_epoch=88, but ⌊0.875·100⌋ (anneal=True) is 87"),
        ("epochs", 0, "epochs=0 is outside [1, 65534]"),
        ("delta", "1.5", "delta=1.5 is outside [0, 1]"),
        ("run", "../x", "run='../x' can't name a run"),
        ("manifest_fingerprint", b"", "manifest fingerprint has 0 bytes, not 32"),
    ],
)
def test_a_spec_whose_numbers_disagree_is_refused(field, value, message):
    sent = spec_message(make_spec(SIZES))
    setattr(sent, field, value)
    with pytest.raises(ConfigError, match=re.escape(message)):
        spec_from_messages(sent, np.array(SIZES, np.int64), None)


def test_an_unannealed_run_says_all_epochs():
    sent = spec_message(make_spec(SIZES, anneal=False))
    assert sent.anneal_epoch == sent.epochs == 100


@pytest.mark.parametrize(
    ("name", "settings", "derived"),
    [
        ("infobatch", {}, {"keep_65536": 32768}),
        ("infobatch", {"prune_fraction": "0.3"}, {"prune_count": 303}),
        ("random", {"prune_ratio": "0.3"}, {"keep_65536": 45875}),
        ("hard", {"prune_fraction": "0.3"}, {"prune_count": 303}),
        ("levels", {"levels": "0.20:0.75,0.85:0.5"}, {"levels_keep_65536": "16384,32768"}),
        ("full", {}, {}),
        ("infobatch", {"prune_schedule": [(0, "0.2"), (1, "0.6")]}, {"keep_65536": 26214}),
        ("random", {"prune_schedule": "0:0.5", "prune_fraction": "0.3"}, {"prune_count": 151}),
        ("hard", {"prune_schedule": "0:0.5", "prune_fraction": "0.3"}, {"prune_count": 151}),
        ("levels", {"prune_schedule": "0:0.5", "levels": "0.20:0.75,0.85:0.5"}, {"levels_keep_65536": "40960,49152"}),
    ],
)
def test_integers_travel_beside_their_strings_and_wrong_ones_are_refused(name, settings, derived):
    message = policy_message(make_policy(name, **settings), 1009)
    values = {param.name: getattr(param, param.WhichOneof("value")) for param in message.params}
    assert derived.items() <= values.items()
    assert [param.name for param in message.params] == sorted(values)
    for param in message.params:
        if param.name in derived:
            wrong = pb.PolicySpec.FromString(message.SerializeToString())
            other = next(other for other in wrong.params if other.name == param.name)
            if param.WhichOneof("value") == "int64_value":
                other.int64_value += 1
            else:
                other.string_value += "0"
            with pytest.raises(ConfigError, match="but its settings give"):
                policy_from_message(wrong, 1009)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.params.reverse(), "policy params must be sorted and each there once"),
        (lambda m: m.params.append(m.params[-1]), "must be sorted and each there once"),
        (lambda m: m.params[0].ClearField("value"), "policy param 'anneal' has no value of a kind"),
        (lambda m: setattr(m, "name", "ucb"), "policy='ucb' is none of infobatch, full"),
        (lambda m: setattr(m, "name", "ucb"), "must be installed where the score server runs, too"),
        (
            lambda m: m.params.insert(2, pb.Param(name="delta", string_value="0.5")),
            "delta is a field of the run's spec",
        ),
        (lambda m: setattr(m.params[4], "double_value", 0.5), "prune_ratio must be a str, got 0.5 (float)"),
        (lambda m: setattr(m.params[5], "int64_value", 1), "rescale must be a bool, got 1 (int)"),
        (lambda m: m.params.add(name="zeal", double_value=1), "has no setting 'zeal'"),
        (lambda m: m.columns.add(name="x"), "declares other columns than"),
        (lambda m: m.params.pop(3), "came with {}, but its settings give {'keep_65536': 32768}"),
    ],
)
def test_an_invalid_policy_is_refused(change, message):
    sent = policy_message(make_policy("infobatch"), 1009)
    change(sent)
    with pytest.raises(ConfigError, match=re.escape(message)):
        policy_from_message(sent, 1009)


@pytest.mark.parametrize("delta", ["0.5", "0", "1"])
def test_delta_travels_beside_the_policy_and_arrives_in_it(delta):
    message = spec_message(make_spec(SIZES, delta=delta))
    assert message.delta == delta
    assert "delta" not in [param.name for param in message.policy.params]
    assert over_the_wire(make_spec(SIZES, delta=delta)).policy.delta == delta


def test_an_unset_schedule_and_a_pushed_column_change_no_byte():
    assert "prune_schedule" not in [param.name for param in spec_message(make_spec(SIZES)).policy.params]
    column = ColumnSpec(name="margin", dtype="float64", fold="ema", ema_weight="0.1")
    message = policy_message(replace_columns(make_policy("full"), column), 9)
    bare = pb.ColumnSpec(name="margin", dtype="float64", fold="ema", ema_weight="0.1")
    assert message.columns[0].SerializeToString() == bare.SerializeToString()


def test_a_column_says_how_it_is_folded():
    columns = [
        ColumnSpec(name="run", dtype="int32", fold="streak", condition=">= 0.5"),
        ColumnSpec(name="before", fold="previous", source="score"),
    ]
    sent = policy_message(replace_columns(make_policy("full"), *columns), 9).columns
    assert [(column.name, column.fold, column.condition, column.source) for column in sent] == [
        ("before", "previous", "", "score"),
        ("run", "streak", ">= 0.5", ""),
    ]


def replace_columns(policy, *columns):
    """A policy of the same name that declares columns."""
    kind = type(policy)
    return dataclass(frozen=True, kw_only=True)(type(kind.__name__, (kind,), {"columns": columns}))()


# ---- what a newer client may send


def test_unknown_fields_at_any_depth_say_that_the_server_is_too_old():
    sent = pb.CreateRunRequest(spec=spec_message(make_spec(SIZES)))
    reject_unknown_fields(sent)
    newer = b"\xfa\x3e\x01x"  # field 1007, a string
    sent.spec.policy.params[0].MergeFromString(newer)
    with pytest.raises(ConfigError, match=r"server too old: Param has fields \[1007\]"):
        reject_unknown_fields(sent)
    with pytest.raises(ConfigError, match="server too old: CreateRunRequest"):
        reject_unknown_fields(pb.CreateRunRequest.FromString(newer))


def test_unknown_enum_values_say_that_the_server_is_too_old():
    reject_unknown_fields(pb.PlanChunk(plane=pb.PLANE_CLASS_CODES))
    with pytest.raises(ConfigError, match=r"server too old: PlanChunk\.plane has the value 9"):
        reject_unknown_fields(pb.GetEpochPlanResponse(chunk=pb.PlanChunk(plane=9)))


# ---- plans


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
@pytest.mark.parametrize(("name", "settings"), SWITCHES)
def test_a_plan_arrives_as_it_was_drawn(name, settings, mask):
    spec = make_spec(SIZES, name, subset=mask, **settings)
    plan = seal(
        draw_plan(spec, make_table(some_scores(1009)), run_id=RUN_ID, generation=2, epoch=3, journal_position=9)
    )
    header = pb.PlanHeader.FromString(plan_header(plan).SerializeToString())
    assert header.digest.hex() == plan.plan_id.rsplit("-", 1)[1]
    again = plan_from_header(header, plan.shard_kept, plan.keep_bits, plan.class_plane)
    assert seal(again).plan_id == again.plan_id == plan.plan_id
    assert plan_header(again) == header


def test_the_fallback_has_an_id_but_no_digest():
    spec = make_spec(SIZES)
    plan = unpruned_plan(run_id=RUN_ID, epoch=3, seed=0, shard_sizes=spec.shard_sizes, order=spec.order)
    header = plan_header(plan)
    assert (header.plan_id, header.digest) == (f"full:{RUN_ID.hex()}:3", b"")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("keep_bits", lambda values: values[:-1]),
        ("keep_bits", lambda values: np.r_[values, values[:1]]),
        ("class_plane", lambda values: None),
        ("class_plane", lambda values: values[:-1]),
        ("shard_kept", lambda values: values[:-1]),
        ("shard_kept", lambda values: values + 1),
    ],
)
def test_arrays_that_do_not_fit_their_header_are_refused(field, values):
    spec = make_spec(SIZES)
    plan = seal(draw_plan(spec, make_table(some_scores(1009)), run_id=RUN_ID, generation=2, epoch=3))
    arrays = {name: getattr(plan, name) for name in ("shard_kept", "keep_bits", "class_plane")}
    arrays[field] = values(arrays[field])
    with pytest.raises(PlanError):
        plan_from_header(plan_header(plan), **arrays)


def test_groups_travel_with_the_shards_and_in_plans():
    spec = make_spec(SIZES, groups=["a", "b", "a"][: len(SIZES)] + ["b"] * (len(SIZES) - 3), per_group=True)
    message = spec_message(spec, OrderChoice())
    codes = b"".join(part.shard_sizes.groups for part in spec_parts(spec))
    assert codes == spec.groups.of_shard.tobytes()
    again = spec_from_messages(message, spec.shard_sizes, None, spec.groups.of_shard)
    assert again.differences(spec) == []
    assert (again.groups.names, again.policy) == (spec.groups.names, spec.policy)
    plan = seal(draw_plan(spec, make_table(some_scores(sum(SIZES))), run_id=RUN_ID, generation=2, epoch=3))
    header = pb.PlanHeader.FromString(plan_header(plan).SerializeToString())
    received = plan_from_header(header, plan.shard_kept, plan.keep_bits, plan.class_plane)
    assert (received.groups, seal(received).plan_id) == (plan.groups, plan.plan_id)
    assert plan.groups[0].threshold is not None
    wrong = replace(plan, groups=(replace(plan.groups[0], kept=plan.groups[0].kept + 1), *plan.groups[1:]))
    with pytest.raises(PlanError, match="kept samples of the plan's groups don't add up"):
        plan_from_header(plan_header(wrong), plan.shard_kept, plan.keep_bits, plan.class_plane)


def test_a_spec_without_groups_has_the_bytes_of_before():
    spec = make_spec(SIZES)
    message = spec_message(spec)
    assert (list(message.group_names), message.groups_sha256) == ([], b"")
    assert "per_group" not in [param.name for param in message.policy.params]
    assert not any(part.shard_sizes.groups for part in spec_parts(spec))


@pytest.mark.parametrize(
    ("change", "codes", "error"),
    [
        (lambda message: None, None, "the spec names 2 groups, but groups of no shards came"),
        (lambda message: message.ClearField("group_names"), "own", "the spec names 0 groups"),
        (lambda message: message.group_names.reverse(), "own", "names must be sorted"),
        (lambda message: None, "swapped", "but the shards' groups give another"),
        (lambda message: message.ClearField("groups_sha256"), "own", "but the shards' groups give another"),
        (lambda message: message.group_names.append("c"), "own", "group 'c' has no shard"),
    ],
)
def test_groups_that_contradict_each_other_are_refused(change, codes, error):
    spec = make_spec(SIZES, groups=["a", "b"] + ["b"] * (len(SIZES) - 2))
    message = spec_message(spec)
    change(message)
    own = spec.groups.of_shard
    with pytest.raises(ConfigError, match=error):
        spec_from_messages(message, spec.shard_sizes, None, {None: None, "own": own, "swapped": 1 - own}[codes])
