"""Which token a call needs: health is open, reading needs scope `read`, and everything else scope `train`."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from google.protobuf.message import Message

from infobatch_server.access.tokens import Scope, Tokens
from infobatch_server.rpc.health import SERVICE as HEALTH
from infobatch_stream.errors import InfoBatchError, PermissionDeniedError, UnauthenticatedError
from infobatch_stream.v1 import score_service_pb2 as pb

__all__ = ["Guard"]

log = logging.getLogger(__name__)

_SERVICE = pb.DESCRIPTOR.services_by_name["ScoreService"].full_name
_OPEN = f"/{HEALTH.full_name}/"
_READING = {f"/{_SERVICE}/{name}" for name in ("GetServer", "GetRun", "ListRuns", "ReadScores", "GetEpochPlan")}

_Metadata = Iterable[tuple[str, str | bytes]]


class Guard:
    """Refuses calls whose token doesn't allow them. Safe to use from many threads.

    Args:
        tokens: of the server; None lets every call pass.
    """

    def __init__(self, tokens: Tokens | None) -> None:
        self._tokens = tokens

    def refusal(self, method: str, metadata: _Metadata) -> InfoBatchError | None:
        """The error for a call; None if its token allows the method.

        Args:
            method: as "/package.Service/Method".
            metadata: the call's, as pairs.
        """
        if self._tokens is None or method.startswith(_OPEN):
            return None
        header = _header(metadata)
        scope = self._tokens.scope_of_header(header)
        name = method.rpartition("/")[2]
        error: InfoBatchError
        if scope is None:
            what = "no token, or none of this server's" if header else "no token"
            error = UnauthenticatedError(f"{name}: {what}; this server needs `authorization: Bearer TOKEN`")
        elif scope < Scope.TRAIN and method not in _READING:
            error = PermissionDeniedError(f"{name} needs a token with scope train, and this one has scope read")
        else:
            return None
        log.warning("refused a call: %s", error)
        return error

    def check_request(self, request: Message, metadata: _Metadata) -> None:
        """Refuses a request that its token doesn't allow, although it allows the method.

        A plan that is asked for by its id is only read: for a token with scope `read`, the request's generation, by
        which a job would renew its lease, is removed.

        Raises:
            PermissionDeniedError: it would open an epoch, with a token with scope `read`.
        """
        if self._tokens is None or not isinstance(request, pb.GetEpochPlanRequest):
            return
        if self._tokens.scope_of_header(_header(metadata)) is Scope.TRAIN:
            return
        if not request.plan_id:
            raise PermissionDeniedError(
                "GetEpochPlan without a plan_id opens the epoch, which needs a token with scope train; with scope "
                "read, ask for a plan by its id"
            )
        request.generation = 0


def _header(metadata: _Metadata) -> str | None:
    """The value of the only `authorization` header; None without one, and if there are several."""
    values = [value for key, value in metadata if key == "authorization"]
    return str(values[0]) if len(values) == 1 else None
