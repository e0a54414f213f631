"""Every error that this project raises on purpose, as one tree.

    InfoBatchError
    ├── ConfigError (ValueError)          an invalid argument, or an invalid combination of arguments
    │   └── StateError                    a resume state of another run, data set or order
    ├── LossError (ValueError)            losses of the wrong shape or dtype, or for the wrong batch
    ├── ShardError (ValueError)           a shard that can't be trusted
    │   ├── EmptyShardError               no sample in it
    │   ├── DuplicateKeyError             two samples of one shard share a key
    │   ├── ShardChangedError             not the bytes that were indexed
    │   └── CorruptShardError             damaged or cut short
    ├── PipelineError (TypeError)         a pipeline stage that would break the tie of sample and score
    ├── PlanError (ValueError)            an epoch plan that is damaged, or doesn't fit its run
    ├── WorkerError (RuntimeError)        a worker process ended, or couldn't send a batch or an error
    ├── RanksError (RuntimeError)         the ranks of a job disagree, or one of them has failed
    └── ServerError (RuntimeError)        an error that a score server answered, or no answer
        ├── TryAgainError                 the same call may succeed later
        │   ├── ServerUnreachableError    no answer within the time allowed (also a ConnectionError)
        │   ├── ServerBusyError           the server has too much to do, or too little room
        │   └── PlanNotReadyError         other ranks have not ended the epoch before
        ├── AccessError                   the server refuses this caller
        │   ├── UnauthenticatedError      no token, or one that isn't the server's
        │   └── PermissionDeniedError     the token's scope doesn't allow the call
        ├── RunNotFoundError              no run of that name or id
        ├── RunConflictError              the run exists and differs from the request
        ├── RunBusyError                  another job holds the run's lease
        └── SupersededError               a newer generation of the run has taken over

Messages say what was wrong, with the value, and what to do about it.
"""

from __future__ import annotations

__all__ = [
    "AccessError",
    "ConfigError",
    "CorruptShardError",
    "DuplicateKeyError",
    "EmptyShardError",
    "InfoBatchError",
    "LossError",
    "PermissionDeniedError",
    "PipelineError",
    "PlanError",
    "PlanNotReadyError",
    "RanksError",
    "RunBusyError",
    "RunConflictError",
    "RunNotFoundError",
    "ServerBusyError",
    "ServerError",
    "ServerUnreachableError",
    "ShardChangedError",
    "ShardError",
    "StateError",
    "SupersededError",
    "TryAgainError",
    "UnauthenticatedError",
    "WorkerError",
]


class InfoBatchError(Exception):
    """Base of every error that this project raises on purpose."""


class ConfigError(InfoBatchError, ValueError):
    """An invalid argument, or an invalid combination of arguments."""


class StateError(ConfigError):
    """A resume state that belongs to another run, data set or order."""


class LossError(InfoBatchError, ValueError):
    """Losses of the wrong shape or dtype, or for the wrong batch."""


class ShardError(InfoBatchError, ValueError):
    """A shard that can't be trusted; the message names it."""


class EmptyShardError(ShardError):
    """A shard without a sample."""


class DuplicateKeyError(ShardError):
    """Two samples of one shard share a key."""


class ShardChangedError(ShardError):
    """A shard that no longer holds the bytes that were indexed."""


class CorruptShardError(ShardError):
    """A shard that is damaged or cut short; the message gives the byte."""


class PipelineError(InfoBatchError, TypeError):
    """A pipeline stage that would break the tie between a sample and its score."""


class PlanError(InfoBatchError, ValueError):
    """An epoch plan that is damaged or doesn't fit its run; the message says what to do."""


class WorkerError(InfoBatchError, RuntimeError):
    """A DataLoader worker that ended, or a batch or an error of one that couldn't be sent; the message says which."""


class RanksError(InfoBatchError, RuntimeError):
    """The ranks of a job disagree, or one of them has failed or ended; the message says which."""


class ServerError(InfoBatchError, RuntimeError):
    """An error that a score server answered, or no answer."""


class TryAgainError(ServerError):
    """The call changed nothing, and the same call may succeed later."""


class ServerUnreachableError(TryAgainError, ConnectionError):
    """No answer from the score server within the time allowed.

    Attributes:
        timed_out: the call's deadline passed; otherwise the connection failed.
    """

    timed_out: bool = False


class ServerBusyError(TryAgainError):
    """The score server has too much to do, or too little room.

    Attributes:
        retry_after_s: when to call again, in seconds; 0 if unknown.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PlanNotReadyError(TryAgainError):
    """The epoch's plan waits for ranks that have not ended the epoch before; the message names them."""


class AccessError(ServerError):
    """The score server refuses this caller; the call changed nothing."""


class UnauthenticatedError(AccessError):
    """The call had no token, or one that isn't the server's."""


class PermissionDeniedError(AccessError):
    """The token's scope doesn't allow the call."""


class RunNotFoundError(ServerError):
    """The server has no run of that name or id."""


class RunConflictError(ServerError):
    """The run exists and differs from the request."""


class RunBusyError(ServerError):
    """Another job holds the run's lease.

    Attributes:
        retry_after_s: when the lease is free unless that job calls again, in seconds; 0 if that is unknown, or would
            not help.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SupersededError(ServerError):
    """A newer generation of the run has taken over."""
