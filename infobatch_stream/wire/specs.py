"""Between the core's objects and the wire's messages: the one module here that knows the generated code.

Server and client both import it; the core's other modules never do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError
from infobatch_stream.plan.bytes import CHUNK_SAMPLES, plan_digest
from infobatch_stream.plan.epoch_plan import EpochPlan, PlanClass, check_arrays
from infobatch_stream.plan.order_params import OrderChoice, OrderParams
from infobatch_stream.pruning.policies import ENTRY_POINTS, Policy, find_policy, make_policy
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.scores.columns import ColumnSpec
from infobatch_stream.v1 import score_service_pb2 as pb
from infobatch_stream.wire.groups import groups_from_message, plan_group, plan_group_message

__all__ = [
    "order_choice",
    "order_params",
    "plan_class_message",
    "plan_from_header",
    "plan_header",
    "policy_from_message",
    "policy_message",
    "reject_unknown_fields",
    "seal",
    "spec_from_messages",
    "spec_message",
    "spec_parts",
]

_PART_BYTES = 2**20
_ORDER_FIELDS = ("lanes", "stripe", "window_shards", "run_samples")


def spec_message(spec: RunSpec, choice: OrderChoice | None = None) -> pb.RunSpec:
    """A spec as a message: with `choice` as a request (the numbers that the user set, the others as defaults), else as
    an answer."""
    message = pb.RunSpec(
        run=spec.run,
        manifest_fingerprint=spec.manifest_fingerprint,
        num_samples=spec.num_samples,
        num_shards=spec.num_shards,
        epochs=spec.epochs,
        delta=str(spec.policy.delta),
        anneal_epoch=spec.schedule.anneal_epoch,
        seed=spec.seed,
        policy=policy_message(spec.policy, spec.subset_samples or spec.num_samples),
        score_name=spec.score_name,
        subset_samples=spec.subset_samples,
        subset_sha256=spec.subset_sha256,
        order_version=spec.order_version,
        group_names=() if spec.groups is None else spec.groups.names,
        groups_sha256=b"" if spec.groups is None else spec.groups.sha256,
    )
    numbers = {name: getattr(spec.order, name) for name in _ORDER_FIELDS}
    if choice is None:
        message.order.CopyFrom(pb.OrderSpec(**numbers))
    else:
        message.order_default.CopyFrom(pb.OrderSpec(**numbers))
        chosen = {name: value for name in _ORDER_FIELDS if (value := getattr(choice, name)) is not None}
        message.order.CopyFrom(pb.OrderSpec(**chosen))
    return message


def spec_parts(spec: RunSpec) -> Iterator[pb.CreateRunRequest]:
    """The shard sizes and the mask, in messages of at most 1 MiB."""
    sizes = spec.shard_sizes.astype("<i8", copy=False)
    step = _PART_BYTES // (8 if spec.groups is None else 9)
    for first in range(0, len(sizes), step):
        part = sizes[first : first + step].tobytes()
        groups = b"" if spec.groups is None else spec.groups.of_shard[first : first + step].tobytes()
        yield pb.CreateRunRequest(shard_sizes=pb.ShardSizes(first_shard=first, sizes=part, groups=groups))
    if spec.subset is not None:
        bits = np.packbits(spec.subset, bitorder="little")
        for first in range(0, len(bits), _PART_BYTES):
            part = bits[first : first + _PART_BYTES].tobytes()
            yield pb.CreateRunRequest(mask=pb.MaskBits(first_sample=8 * first, bits=part))


def spec_from_messages(
    message: pb.RunSpec,
    shard_sizes: npt.NDArray[np.int64],
    subset: npt.NDArray[np.bool_] | None,
    groups_of_shards: npt.NDArray[np.uint8] | None = None,
) -> RunSpec:
    """The spec that a message and its parts stand for.

    Its order is the message's `order` over `order_default`; `order_choice(message.order)` has those that a user set.

    Raises:
        ConfigError: an invalid value, or an integer that doesn't follow from its decimal string.
    """
    policy = policy_from_message(message.policy, int(message.subset_samples or message.num_samples), message.delta)
    spec = RunSpec(
        run=message.run,
        manifest_fingerprint=message.manifest_fingerprint,
        shard_sizes=shard_sizes,
        epochs=message.epochs,
        seed=message.seed,
        policy=policy,
        order=order_params(message.order, message.order_default),
        score_name=message.score_name,
        subset=subset,
        groups=groups_from_message(message, shard_sizes, groups_of_shards),
        order_version=message.order_version,
    )
    for name in ("num_samples", "num_shards", "subset_samples", "subset_sha256"):
        if getattr(message, name) != getattr(spec, name):
            raise ConfigError(f"{name}={getattr(message, name)!r}, but the parts say {getattr(spec, name)!r}")
    if message.anneal_epoch != spec.schedule.anneal_epoch:
        raise ConfigError(
            f"anneal_epoch={message.anneal_epoch}, but ⌊{message.delta}·{message.epochs}⌋ (anneal={policy.anneal}) "
            f"is {spec.schedule.anneal_epoch}"
        )
    return spec


def policy_message(policy: Policy, num_samples: int) -> pb.PolicySpec:
    """A policy as a message; `num_samples` are those it may choose from."""
    values = {**policy.params(), **policy.derived_params(num_samples)}
    return pb.PolicySpec(
        name=policy.name,
        params=[_param(name, value) for name, value in sorted(values.items())],
        columns=[_column(column) for column in sorted(policy.columns, key=lambda column: column.name)],
    )


def policy_from_message(message: pb.PolicySpec, num_samples: int, delta: str = "0.875") -> Policy:
    """The policy of a message.

    Args:
        message: name, settings and columns.
        num_samples: samples that the policy may choose from.
        delta: δ, which travels beside the policy.

    Raises:
        ConfigError: unknown policy or setting, settings out of order or repeated, a value of the wrong type, a derived
            integer that is wrong, or other columns than the policy declares.
    """
    try:
        known = find_policy(message.name)
    except ConfigError as error:
        raise ConfigError(
            f"{error}. A policy of another distribution must be installed where the score server runs, too: it "
            f"registers the policy in the entry-point group {ENTRY_POINTS!r}"
        ) from error
    names = [param.name for param in message.params]
    if names != sorted(set(names)):
        raise ConfigError(f"policy params must be sorted and each there once; they are {names}")
    values: dict[str, Any] = {}
    for param in message.params:
        kind = param.WhichOneof("value")
        if kind is None:
            raise ConfigError(f"policy param {param.name!r} has no value of a kind that this server knows")
        value = getattr(param, kind)
        values[param.name] = tuple(value.values) if kind == "doubles_value" else value
    if "delta" in values:
        raise ConfigError("delta is a field of the run's spec, not a policy param")
    derived = {name: values.pop(name) for name in known.derived if name in values}
    policy = make_policy(message.name, delta=delta, **values)
    _check_types(policy, values)
    if derived != policy.derived_params(num_samples):
        raise ConfigError(
            f"policy {message.name!r} came with {derived}, but its settings give {policy.derived_params(num_samples)}"
        )
    if policy_message(policy, num_samples).columns != message.columns:
        raise ConfigError(f"policy {message.name!r} declares other columns than {list(message.columns)}")
    return policy


def order_choice(message: pb.OrderSpec) -> OrderChoice:
    """The numbers that a message sets."""
    return OrderChoice(**{name: getattr(message, name) for name in _ORDER_FIELDS if message.HasField(name)})


def order_params(message: pb.OrderSpec, default: pb.OrderSpec | None = None) -> OrderParams:
    """All four numbers: from `message`, and those that it leaves open from `default`.

    Raises:
        ConfigError: a number that is in neither.
    """
    values = {}
    for name in _ORDER_FIELDS:
        source = message if message.HasField(name) or default is None else default
        if not source.HasField(name):
            raise ConfigError(f"order: {name} is neither set nor has a default")
        values[name] = getattr(source, name)
    return OrderParams(**values)


def plan_header(plan: EpochPlan) -> pb.PlanHeader:
    """A plan's header with id and digest (both empty while it has no id)."""
    header = pb.PlanHeader(
        plan_id=plan.plan_id,
        digest=bytes.fromhex(plan.plan_id.rsplit("-", 1)[1]) if "-" in plan.plan_id else b"",
        run_id=plan.run_id,
        generation=plan.generation,
        epoch=plan.epoch,
        num_samples=plan.num_samples,
        kept=plan.kept,
        num_shards=len(plan.shard_kept),
        seed=plan.seed,
        order=pb.OrderSpec(**{name: getattr(plan.order, name) for name in _ORDER_FIELDS}),
        order_version=plan.order_version,
        journal_position=plan.journal_position,
        chunk_samples=CHUNK_SAMPLES,
        biased=plan.biased,
        unpruned=plan.unpruned,
        never_scored=plan.never_scored,
        prune_requested=plan.prune_requested,
    )
    if plan.threshold is not None:
        header.threshold = plan.threshold
    if plan.low_share is not None:
        header.low_share = plan.low_share
    header.classes.extend(plan_class_message(row) for row in plan.classes)
    header.groups.extend(plan_group_message(group) for group in plan.groups)
    return header


def plan_class_message(row: PlanClass) -> pb.PlanClass:
    """A class of a plan as a message."""
    return pb.PlanClass(
        name=row.name,
        keep_65536=row.keep_65536,
        keep_count=row.keep_count,
        size=row.size,
        kept=row.kept,
        weight=row.weight,
    )


def plan_from_header(
    header: pb.PlanHeader,
    shard_kept: npt.NDArray[np.int64],
    keep_bits: npt.NDArray[np.uint8],
    class_plane: npt.NDArray[np.uint8] | None,
) -> EpochPlan:
    """The plan of a header and its arrays, under the id that the header claims; `seal` says if it is right.

    Raises:
        ConfigError: the header's order is invalid.
        PlanError: the arrays don't fit the header.
    """
    plan = EpochPlan(
        plan_id=header.plan_id,
        run_id=header.run_id,
        generation=header.generation,
        epoch=header.epoch,
        seed=header.seed,
        num_samples=header.num_samples,
        classes=tuple(_plan_class(row) for row in header.classes),
        keep_bits=keep_bits,
        class_plane=class_plane,
        shard_kept=shard_kept,
        order=order_params(header.order),
        order_version=header.order_version,
        threshold=header.threshold if header.HasField("threshold") else None,
        low_share=header.low_share if header.HasField("low_share") else None,
        never_scored=header.never_scored,
        prune_requested=header.prune_requested,
        journal_position=header.journal_position,
        biased=header.biased,
        unpruned=header.unpruned,
        groups=tuple(plan_group(group) for group in header.groups),
    )
    check_arrays(plan, header.num_shards)
    return plan


def seal(plan: EpochPlan) -> EpochPlan:
    """The plan under the id that its bytes give it; a plan received is right iff this gives the id it came with."""
    header = plan_header(replace(plan, plan_id=""))
    return plan.with_id(plan_digest(header.SerializeToString(deterministic=True), plan))


def reject_unknown_fields(message: Any) -> None:
    """Raises ConfigError "server too old" if a message has fields or enum values that this code doesn't know."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    unknown = UnknownFieldSet(message)
    if len(unknown):
        numbers = sorted({unknown[place].field_number for place in range(len(unknown))})
        raise ConfigError(
            f"server too old: {message.DESCRIPTOR.name} has fields {numbers} that this server doesn't know; "
            "upgrade the server, or use a client of its version"
        )
    for field, value in message.ListFields():
        parts = value if isinstance(value, Iterable) and not isinstance(value, str | bytes) else [value]
        if field.type == field.TYPE_MESSAGE:
            for part in parts:
                reject_unknown_fields(part)
        elif field.type == field.TYPE_ENUM:
            for number in parts:
                if number not in field.enum_type.values_by_number:
                    raise ConfigError(
                        f"server too old: {message.DESCRIPTOR.name}.{field.name} has the value {number}, which this "
                        "server doesn't know; upgrade the server, or use a client of its version"
                    )


def _check_types(policy: Policy, received: Mapping[str, object]) -> None:
    """Refuses a setting in another type than the policy sends it in: a double rounds where a decimal string doesn't."""
    for name, value in policy.params().items():
        if name in received and type(received[name]) is not type(value):
            raise ConfigError(
                f"policy {policy.name!r}: {name} must be a {type(value).__name__}, got {received[name]!r} "
                f"({type(received[name]).__name__})"
            )


def _param(name: str, value: object) -> pb.Param:
    if isinstance(value, bool):
        return pb.Param(name=name, bool_value=value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ConfigError(f"policy setting {name}={value} is outside int64, and can't be sent")
        return pb.Param(name=name, int64_value=value)
    if isinstance(value, str):
        return pb.Param(name=name, string_value=value)
    if isinstance(value, float):
        return pb.Param(name=name, double_value=value)
    if not isinstance(value, tuple):
        raise ConfigError(f"policy setting {name}={value!r} is a {type(value).__name__}, which can't be sent")
    return pb.Param(name=name, doubles_value=pb.Doubles(values=value))


def _column(column: ColumnSpec) -> pb.ColumnSpec:
    return pb.ColumnSpec(
        name=column.name,
        dtype=column.dtype,
        fold=column.fold,
        ema_weight=column.ema_weight,
        condition=column.condition,
        source="" if column.source == "pushed" else column.source,
    )


def _plan_class(row: pb.PlanClass) -> PlanClass:
    kind = row.WhichOneof("keep")
    return PlanClass(
        name=row.name,
        keep_65536=row.keep_65536 if kind == "keep_65536" else None,
        keep_count=row.keep_count if kind == "keep_count" else None,
        size=row.size,
        kept=row.kept,
        weight=row.weight,
    )
