"""Row counts as the message of EndEpoch, and back."""

from __future__ import annotations

from infobatch_stream.row_counts import RowCounts
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["counts_from_message", "counts_message"]


def counts_message(counts: RowCounts) -> pb.RowCounts:
    """Counts as a message, whose fields have the same names."""
    return pb.RowCounts(**counts._asdict())


def counts_from_message(message: pb.RowCounts) -> RowCounts:
    """The counts that a message stands for."""
    return RowCounts(**{name: getattr(message, name) for name in RowCounts._fields})
