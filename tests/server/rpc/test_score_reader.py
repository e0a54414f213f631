"""Columns of a push: those that the policy declares, packed as declared."""

from __future__ import annotations

import numpy as np
import pytest

from infobatch_server.rpc.score_reader import batch_from_message
from infobatch_server.state.score_batch import ScoreBatch
from infobatch_stream.errors import ConfigError
from infobatch_stream.scores.columns import PushedColumn
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.server.calls import push_request

DECLARED = (PushedColumn(name="hits", dtype="uint16"), PushedColumn(name="margin", dtype="float64"))


def read(*columns: pb.Column) -> ScoreBatch:
    message = push_request(b"r" * 16, 1, 1, 0, [5, 6], [1.0, 2.0])
    message.columns.extend(columns)
    return batch_from_message(message, num_samples=10, epochs=3, declared=DECLARED)


def column(name: str, dtype: str, values: list[float]) -> pb.Column:
    return pb.Column(name=name, dtype=dtype, data=np.array(values, np.dtype(dtype).newbyteorder("<")).tobytes())


def test_declared_columns_come_in_any_order() -> None:
    batch = read(column("margin", "float64", [0.5, 0.25]), column("hits", "uint16", [3, 4]))
    assert batch.columns["hits"].tolist() == [3, 4]
    assert batch.columns["margin"].tolist() == [0.5, 0.25]
    assert batch.columns["margin"].dtype == np.float64
    assert batch.nbytes == 2 * (8 + 4 + 2 + 8)


def test_an_empty_push_is_a_push() -> None:
    message = push_request(b"r" * 16, 1, 1, 0, [], [])
    assert len(batch_from_message(message, num_samples=10, epochs=3, declared=()).indices) == 0


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([column("hits", "uint16", [3, 4])], r"columns \['hits'\] were pushed, the run's policy declares"),
        ([column("hits", "uint16", [3, 4])] * 2, r"columns \['hits', 'hits'\] were pushed"),
        (
            [column("hits", "uint8", [3, 4]), column("margin", "float64", [0, 0])],
            "column hits: dtype 'uint8', the run has 'uint16'",
        ),
        (
            [column("hits", "uint16", [3]), column("margin", "float64", [0, 0])],
            "column hits has 2 bytes; 2 indices need 4",
        ),
    ],
)
def test_invalid_columns(columns: list[pb.Column], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(*columns)
