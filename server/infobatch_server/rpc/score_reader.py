"""Reads PushScores: lengths, dtypes and indices are checked before anything is allocated or stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from infobatch_server.state.score_batch import ScoreBatch
from infobatch_stream.errors import ConfigError
from infobatch_stream.scores.columns import PushedColumn
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["batch_from_message"]

Value = np.float32 | np.float64 | np.int32 | np.int64 | np.uint8 | np.uint16  # the dtypes that a column may have
T = TypeVar("T", bound=Value)


def batch_from_message(
    message: pb.PushScoresRequest,
    *,
    num_samples: int,
    epochs: int,
    declared: Sequence[PushedColumn],
    subset: npt.NDArray[np.bool_] | None = None,
) -> ScoreBatch:
    """The batch of a push; its arrays are views of the message's bytes.

    Raises:
        ConfigError: invalid lengths, epoch, index or columns.
    """
    if len(message.client_id) != 16:
        raise ConfigError(f"client_id has {len(message.client_id)} bytes, not 16")
    if message.sequence < 1:
        raise ConfigError("sequence numbers begin at 1")
    if message.epoch >= epochs:
        raise ConfigError(f"epoch={message.epoch} is outside the run's schedule of {epochs} epochs")
    indices = _samples("indices", message.indices, num_samples)
    scores = _packed("scores", message.scores, np.dtype("<f4"), count := len(indices))
    return ScoreBatch(
        generation=message.generation,
        client_id=message.client_id,
        sequence=message.sequence,
        epoch=message.epoch,
        indices=indices,
        scores=scores,
        columns=_columns(message.columns, declared, count),
        dropped=_dropped(message.dropped, num_samples, subset) if message.dropped else None,
    )


def _samples(name: str, data: bytes, num_samples: int) -> npt.NDArray[np.int64]:
    count, rest = divmod(len(data), 8)
    if rest:
        raise ConfigError(f"{name} has {len(data)} bytes: int64 takes 8 each")
    samples = np.frombuffer(data, "<i8")
    if count and not 0 <= (low := int(samples.min())) <= (high := int(samples.max())) < num_samples:
        raise ConfigError(f"sample index {low if low < 0 else high} is outside [0, {num_samples})")
    return samples.astype(np.int64, copy=False)


def _dropped(data: bytes, num_samples: int, subset: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.int64]:
    samples = _samples("dropped", data, num_samples)
    if subset is not None and not (inside := subset[samples]).all():
        raise ConfigError(f"dropped has sample {samples[~inside][0]}, which is outside the run's mask")
    return samples


def _columns(
    messages: Sequence[pb.Column], declared: Sequence[PushedColumn], count: int
) -> Mapping[str, npt.NDArray[Value]]:
    pushed, wanted = [column.name for column in messages], [column.name for column in declared]
    if sorted(pushed) != sorted(wanted):
        raise ConfigError(f"columns {pushed} were pushed, the run's policy declares {wanted}")
    dtypes = {column.name: column.dtype for column in declared}
    for column in messages:
        if column.dtype != dtypes[column.name]:
            raise ConfigError(f"column {column.name}: dtype {column.dtype!r}, the run has {dtypes[column.name]!r}")
    return {
        column.name: _packed(f"column {column.name}", column.data, np.dtype(column.dtype).newbyteorder("<"), count)
        for column in messages
    }


def _packed(name: str, data: bytes, dtype: np.dtype[T], count: int) -> npt.NDArray[T]:
    if len(data) != count * dtype.itemsize:
        raise ConfigError(f"{name} has {len(data)} bytes; {count} indices need {count * dtype.itemsize}")
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)
