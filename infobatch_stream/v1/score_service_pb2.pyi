from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Plane(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLANE_UNSPECIFIED: _ClassVar[Plane]
    PLANE_KEEP_BITS: _ClassVar[Plane]
    PLANE_CLASS_BITS: _ClassVar[Plane]
    PLANE_CLASS_CODES: _ClassVar[Plane]
PLANE_UNSPECIFIED: Plane
PLANE_KEEP_BITS: Plane
PLANE_CLASS_BITS: Plane
PLANE_CLASS_CODES: Plane

class Param(_message.Message):
    __slots__ = ("name", "int64_value", "double_value", "string_value", "bool_value", "doubles_value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INT64_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLES_VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    int64_value: int
    double_value: float
    string_value: str
    bool_value: bool
    doubles_value: Doubles
    def __init__(self, name: _Optional[str] = ..., int64_value: _Optional[int] = ..., double_value: _Optional[float] = ..., string_value: _Optional[str] = ..., bool_value: bool = ..., doubles_value: _Optional[_Union[Doubles, _Mapping]] = ...) -> None: ...

class Doubles(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class ColumnSpec(_message.Message):
    __slots__ = ("name", "dtype", "fold", "ema_weight", "condition", "source")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    FOLD_FIELD_NUMBER: _ClassVar[int]
    EMA_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    fold: str
    ema_weight: str
    condition: str
    source: str
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., fold: _Optional[str] = ..., ema_weight: _Optional[str] = ..., condition: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...

class PolicySpec(_message.Message):
    __slots__ = ("name", "params", "columns")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    name: str
    params: _containers.RepeatedCompositeFieldContainer[Param]
    columns: _containers.RepeatedCompositeFieldContainer[ColumnSpec]
    def __init__(self, name: _Optional[str] = ..., params: _Optional[_Iterable[_Union[Param, _Mapping]]] = ..., columns: _Optional[_Iterable[_Union[ColumnSpec, _Mapping]]] = ...) -> None: ...

class OrderSpec(_message.Message):
    __slots__ = ("lanes", "stripe", "window_shards", "run_samples")
    LANES_FIELD_NUMBER: _ClassVar[int]
    STRIPE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_SHARDS_FIELD_NUMBER: _ClassVar[int]
    RUN_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    lanes: int
    stripe: int
    window_shards: int
    run_samples: int
    def __init__(self, lanes: _Optional[int] = ..., stripe: _Optional[int] = ..., window_shards: _Optional[int] = ..., run_samples: _Optional[int] = ...) -> None: ...

class RunSpec(_message.Message):
    __slots__ = ("run", "manifest_fingerprint", "num_samples", "num_shards", "epochs", "delta", "anneal_epoch", "seed", "policy", "score_name", "subset_samples", "subset_sha256", "order", "order_default", "order_version", "group_names", "groups_sha256")
    RUN_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    NUM_SHARDS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    ANNEAL_EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    SCORE_NAME_FIELD_NUMBER: _ClassVar[int]
    SUBSET_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SUBSET_SHA256_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    ORDER_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    ORDER_VERSION_FIELD_NUMBER: _ClassVar[int]
    GROUP_NAMES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_SHA256_FIELD_NUMBER: _ClassVar[int]
    run: str
    manifest_fingerprint: bytes
    num_samples: int
    num_shards: int
    epochs: int
    delta: str
    anneal_epoch: int
    seed: int
    policy: PolicySpec
    score_name: str
    subset_samples: int
    subset_sha256: bytes
    order: OrderSpec
    order_default: OrderSpec
    order_version: int
    group_names: _containers.RepeatedScalarFieldContainer[str]
    groups_sha256: bytes
    def __init__(self, run: _Optional[str] = ..., manifest_fingerprint: _Optional[bytes] = ..., num_samples: _Optional[int] = ..., num_shards: _Optional[int] = ..., epochs: _Optional[int] = ..., delta: _Optional[str] = ..., anneal_epoch: _Optional[int] = ..., seed: _Optional[int] = ..., policy: _Optional[_Union[PolicySpec, _Mapping]] = ..., score_name: _Optional[str] = ..., subset_samples: _Optional[int] = ..., subset_sha256: _Optional[bytes] = ..., order: _Optional[_Union[OrderSpec, _Mapping]] = ..., order_default: _Optional[_Union[OrderSpec, _Mapping]] = ..., order_version: _Optional[int] = ..., group_names: _Optional[_Iterable[str]] = ..., groups_sha256: _Optional[bytes] = ...) -> None: ...

class ShardSizes(_message.Message):
    __slots__ = ("first_shard", "sizes", "groups")
    FIRST_SHARD_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    first_shard: int
    sizes: bytes
    groups: bytes
    def __init__(self, first_shard: _Optional[int] = ..., sizes: _Optional[bytes] = ..., groups: _Optional[bytes] = ...) -> None: ...

class MaskBits(_message.Message):
    __slots__ = ("first_sample", "bits")
    FIRST_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    first_sample: int
    bits: bytes
    def __init__(self, first_sample: _Optional[int] = ..., bits: _Optional[bytes] = ...) -> None: ...

class CreateRunRequest(_message.Message):
    __slots__ = ("spec", "shard_sizes", "mask")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SHARD_SIZES_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    spec: RunSpec
    shard_sizes: ShardSizes
    mask: MaskBits
    def __init__(self, spec: _Optional[_Union[RunSpec, _Mapping]] = ..., shard_sizes: _Optional[_Union[ShardSizes, _Mapping]] = ..., mask: _Optional[_Union[MaskBits, _Mapping]] = ...) -> None: ...

class CreateRunResponse(_message.Message):
    __slots__ = ("run_id", "created", "spec", "trained", "last_epoch")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    LAST_EPOCH_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    created: bool
    spec: RunSpec
    trained: bool
    last_epoch: int
    def __init__(self, run_id: _Optional[bytes] = ..., created: bool = ..., spec: _Optional[_Union[RunSpec, _Mapping]] = ..., trained: bool = ..., last_epoch: _Optional[int] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("new", "start", "inside")
    class New(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Start(_message.Message):
        __slots__ = ("epoch",)
        EPOCH_FIELD_NUMBER: _ClassVar[int]
        epoch: int
        def __init__(self, epoch: _Optional[int] = ...) -> None: ...
    class Inside(_message.Message):
        __slots__ = ("epoch", "plan_id")
        EPOCH_FIELD_NUMBER: _ClassVar[int]
        PLAN_ID_FIELD_NUMBER: _ClassVar[int]
        epoch: int
        plan_id: str
        def __init__(self, epoch: _Optional[int] = ..., plan_id: _Optional[str] = ...) -> None: ...
    NEW_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    INSIDE_FIELD_NUMBER: _ClassVar[int]
    new: Resume.New
    start: Resume.Start
    inside: Resume.Inside
    def __init__(self, new: _Optional[_Union[Resume.New, _Mapping]] = ..., start: _Optional[_Union[Resume.Start, _Mapping]] = ..., inside: _Optional[_Union[Resume.Inside, _Mapping]] = ...) -> None: ...

class AttachRunRequest(_message.Message):
    __slots__ = ("run_id", "job", "attempt", "nonce", "host", "pid", "world_size", "resume", "takeover", "remember_drops")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    TAKEOVER_FIELD_NUMBER: _ClassVar[int]
    REMEMBER_DROPS_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    job: str
    attempt: int
    nonce: bytes
    host: str
    pid: int
    world_size: int
    resume: Resume
    takeover: bool
    remember_drops: bool
    def __init__(self, run_id: _Optional[bytes] = ..., job: _Optional[str] = ..., attempt: _Optional[int] = ..., nonce: _Optional[bytes] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., world_size: _Optional[int] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ..., takeover: bool = ..., remember_drops: bool = ...) -> None: ...

class AttachRunResponse(_message.Message):
    __slots__ = ("run_id", "generation", "heartbeat_interval_ms", "lease_ms", "barrier_timeout_ms", "server_version")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    BARRIER_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    generation: int
    heartbeat_interval_ms: int
    lease_ms: int
    barrier_timeout_ms: int
    server_version: str
    def __init__(self, run_id: _Optional[bytes] = ..., generation: _Optional[int] = ..., heartbeat_interval_ms: _Optional[int] = ..., lease_ms: _Optional[int] = ..., barrier_timeout_ms: _Optional[int] = ..., server_version: _Optional[str] = ...) -> None: ...

class DetachRunRequest(_message.Message):
    __slots__ = ("run_id", "generation", "rank")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    generation: int
    rank: int
    def __init__(self, run_id: _Optional[bytes] = ..., generation: _Optional[int] = ..., rank: _Optional[int] = ...) -> None: ...

class DetachRunResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("run_id", "generation")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    generation: int
    def __init__(self, run_id: _Optional[bytes] = ..., generation: _Optional[int] = ...) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetEpochPlanRequest(_message.Message):
    __slots__ = ("run_id", "generation", "epoch", "plan_id", "from_chunk", "first_shard", "end_shard")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_CHUNK_FIELD_NUMBER: _ClassVar[int]
    FIRST_SHARD_FIELD_NUMBER: _ClassVar[int]
    END_SHARD_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    generation: int
    epoch: int
    plan_id: str
    from_chunk: int
    first_shard: int
    end_shard: int
    def __init__(self, run_id: _Optional[bytes] = ..., generation: _Optional[int] = ..., epoch: _Optional[int] = ..., plan_id: _Optional[str] = ..., from_chunk: _Optional[int] = ..., first_shard: _Optional[int] = ..., end_shard: _Optional[int] = ...) -> None: ...

class NotReady(_message.Message):
    __slots__ = ("missing_ranks", "retry_after_ms")
    MISSING_RANKS_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    missing_ranks: _containers.RepeatedScalarFieldContainer[int]
    retry_after_ms: int
    def __init__(self, missing_ranks: _Optional[_Iterable[int]] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class PlanClass(_message.Message):
    __slots__ = ("name", "keep_65536", "keep_count", "size", "kept", "weight")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KEEP_65536_FIELD_NUMBER: _ClassVar[int]
    KEEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    name: str
    keep_65536: int
    keep_count: int
    size: int
    kept: int
    weight: float
    def __init__(self, name: _Optional[str] = ..., keep_65536: _Optional[int] = ..., keep_count: _Optional[int] = ..., size: _Optional[int] = ..., kept: _Optional[int] = ..., weight: _Optional[float] = ...) -> None: ...

class PlanGroup(_message.Message):
    __slots__ = ("name", "samples", "scored", "kept", "threshold", "low_share", "mean_score")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SCORED_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    LOW_SHARE_FIELD_NUMBER: _ClassVar[int]
    MEAN_SCORE_FIELD_NUMBER: _ClassVar[int]
    name: str
    samples: int
    scored: int
    kept: int
    threshold: float
    low_share: float
    mean_score: float
    def __init__(self, name: _Optional[str] = ..., samples: _Optional[int] = ..., scored: _Optional[int] = ..., kept: _Optional[int] = ..., threshold: _Optional[float] = ..., low_share: _Optional[float] = ..., mean_score: _Optional[float] = ...) -> None: ...

class PlanHeader(_message.Message):
    __slots__ = ("plan_id", "digest", "run_id", "generation", "epoch", "num_samples", "kept", "threshold", "classes", "num_shards", "seed", "order", "order_version", "journal_position", "chunk_samples", "biased", "unpruned", "never_scored", "prune_requested", "low_share", "groups")
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    NUM_SHARDS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    ORDER_VERSION_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_POSITION_FIELD_NUMBER: _ClassVar[int]
    CHUNK_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    BIASED_FIELD_NUMBER: _ClassVar[int]
    UNPRUNED_FIELD_NUMBER: _ClassVar[int]
    NEVER_SCORED_FIELD_NUMBER: _ClassVar[int]
    PRUNE_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    LOW_SHARE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    plan_id: str
    digest: bytes
    run_id: bytes
    generation: int
    epoch: int
    num_samples: int
    kept: int
    threshold: float
    classes: _containers.RepeatedCompositeFieldContainer[PlanClass]
    num_shards: int
    seed: int
    order: OrderSpec
    order_version: int
    journal_position: int
    chunk_samples: int
    biased: bool
    unpruned: bool
    never_scored: int
    prune_requested: int
    low_share: float
    groups: _containers.RepeatedCompositeFieldContainer[PlanGroup]
    def __init__(self, plan_id: _Optional[str] = ..., digest: _Optional[bytes] = ..., run_id: _Optional[bytes] = ..., generation: _Optional[int] = ..., epoch: _Optional[int] = ..., num_samples: _Optional[int] = ..., kept: _Optional[int] = ..., threshold: _Optional[float] = ..., classes: _Optional[_Iterable[_Union[PlanClass, _Mapping]]] = ..., num_shards: _Optional[int] = ..., seed: _Optional[int] = ..., order: _Optional[_Union[OrderSpec, _Mapping]] = ..., order_version: _Optional[int] = ..., journal_position: _Optional[int] = ..., chunk_samples: _Optional[int] = ..., biased: bool = ..., unpruned: bool = ..., never_scored: _Optional[int] = ..., prune_requested: _Optional[int] = ..., low_share: _Optional[float] = ..., groups: _Optional[_Iterable[_Union[PlanGroup, _Mapping]]] = ...) -> None: ...

class ShardKept(_message.Message):
    __slots__ = ("first_shard", "kept")
    FIRST_SHARD_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    first_shard: int
    kept: bytes
    def __init__(self, first_shard: _Optional[int] = ..., kept: _Optional[bytes] = ...) -> None: ...

class PlanChunk(_message.Message):
    __slots__ = ("chunk", "plane", "offset_bytes", "data", "crc32")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    PLANE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    chunk: int
    plane: Plane
    offset_bytes: int
    data: bytes
    crc32: int
    def __init__(self, chunk: _Optional[int] = ..., plane: _Optional[_Union[Plane, str]] = ..., offset_bytes: _Optional[int] = ..., data: _Optional[bytes] = ..., crc32: _Optional[int] = ...) -> None: ...

class GetEpochPlanResponse(_message.Message):
    __slots__ = ("not_ready", "header", "shard_kept", "chunk")
    NOT_READY_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SHARD_KEPT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    not_ready: NotReady
    header: PlanHeader
    shard_kept: ShardKept
    chunk: PlanChunk
    def __init__(self, not_ready: _Optional[_Union[NotReady, _Mapping]] = ..., header: _Optional[_Union[PlanHeader, _Mapping]] = ..., shard_kept: _Optional[_Union[ShardKept, _Mapping]] = ..., chunk: _Optional[_Union[PlanChunk, _Mapping]] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "dtype", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    data: bytes
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class PushScoresRequest(_message.Message):
    __slots__ = ("run_id", "generation", "client_id", "sequence", "epoch", "indices", "scores", "columns", "dropped")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    generation: int
    client_id: bytes
    sequence: int
    epoch: int
    indices: bytes
    scores: bytes
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    dropped: bytes
    def __init__(self, run_id: _Optional[bytes] = ..., generation: _Optional[int] = ..., client_id: _Optional[bytes] = ..., sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., indices: _Optional[bytes] = ..., scores: _Optional[bytes] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., dropped: _Optional[bytes] = ...) -> None: ...

class PushScoresResponse(_message.Message):
    __slots__ = ("accepted", "non_finite", "stale", "duplicate", "journal_position")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    NON_FINITE_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_POSITION_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    non_finite: int
    stale: int
    duplicate: bool
    journal_position: int
    def __init__(self, accepted: _Optional[int] = ..., non_finite: _Optional[int] = ..., stale: _Optional[int] = ..., duplicate: bool = ..., journal_position: _Optional[int] = ...) -> None: ...

class RowCounts(_message.Message):
    __slots__ = ("real", "filled", "dropped", "unreadable", "non_finite")
    REAL_FIELD_NUMBER: _ClassVar[int]
    FILLED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_FIELD_NUMBER: _ClassVar[int]
    NON_FINITE_FIELD_NUMBER: _ClassVar[int]
    real: int
    filled: int
    dropped: int
    unreadable: int
    non_finite: int
    def __init__(self, real: _Optional[int] = ..., filled: _Optional[int] = ..., dropped: _Optional[int] = ..., unreadable: _Optional[int] = ..., non_finite: _Optional[int] = ...) -> None: ...

class EndEpochRequest(_message.Message):
    __slots__ = ("run_id", "generation", "epoch", "rank", "plan_id", "start_position", "end_position", "counts")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    START_POSITION_FIELD_NUMBER: _ClassVar[int]
    END_POSITION_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    generation: int
    epoch: int
    rank: int
    plan_id: str
    start_position: int
    end_position: int
    counts: RowCounts
    def __init__(self, run_id: _Optional[bytes] = ..., generation: _Optional[int] = ..., epoch: _Optional[int] = ..., rank: _Optional[int] = ..., plan_id: _Optional[str] = ..., start_position: _Optional[int] = ..., end_position: _Optional[int] = ..., counts: _Optional[_Union[RowCounts, _Mapping]] = ...) -> None: ...

class EndEpochResponse(_message.Message):
    __slots__ = ("missing_ranks",)
    MISSING_RANKS_FIELD_NUMBER: _ClassVar[int]
    missing_ranks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, missing_ranks: _Optional[_Iterable[int]] = ...) -> None: ...

class MarkUnprunedRequest(_message.Message):
    __slots__ = ("run_id", "generation", "epoch")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    generation: int
    epoch: int
    def __init__(self, run_id: _Optional[bytes] = ..., generation: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class MarkUnprunedResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReadScoresRequest(_message.Message):
    __slots__ = ("run", "run_id", "first_sample", "end_sample")
    RUN_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    END_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    run: str
    run_id: bytes
    first_sample: int
    end_sample: int
    def __init__(self, run: _Optional[str] = ..., run_id: _Optional[bytes] = ..., first_sample: _Optional[int] = ..., end_sample: _Optional[int] = ...) -> None: ...

class ReadScoresResponse(_message.Message):
    __slots__ = ("first_sample", "scores", "stamps", "visits", "columns")
    FIRST_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    STAMPS_FIELD_NUMBER: _ClassVar[int]
    VISITS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    first_sample: int
    scores: bytes
    stamps: bytes
    visits: bytes
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    def __init__(self, first_sample: _Optional[int] = ..., scores: _Optional[bytes] = ..., stamps: _Optional[bytes] = ..., visits: _Optional[bytes] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ...) -> None: ...

class SeedRunRequest(_message.Message):
    __slots__ = ("run_id", "scores", "plan")
    class Scores(_message.Message):
        __slots__ = ("first_sample", "scores", "stamps")
        FIRST_SAMPLE_FIELD_NUMBER: _ClassVar[int]
        SCORES_FIELD_NUMBER: _ClassVar[int]
        STAMPS_FIELD_NUMBER: _ClassVar[int]
        first_sample: int
        scores: bytes
        stamps: bytes
        def __init__(self, first_sample: _Optional[int] = ..., scores: _Optional[bytes] = ..., stamps: _Optional[bytes] = ...) -> None: ...
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    scores: SeedRunRequest.Scores
    plan: GetEpochPlanResponse
    def __init__(self, run_id: _Optional[bytes] = ..., scores: _Optional[_Union[SeedRunRequest.Scores, _Mapping]] = ..., plan: _Optional[_Union[GetEpochPlanResponse, _Mapping]] = ...) -> None: ...

class SeedRunResponse(_message.Message):
    __slots__ = ("scored", "non_finite", "plan_id")
    SCORED_FIELD_NUMBER: _ClassVar[int]
    NON_FINITE_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    scored: int
    non_finite: int
    plan_id: str
    def __init__(self, scored: _Optional[int] = ..., non_finite: _Optional[int] = ..., plan_id: _Optional[str] = ...) -> None: ...

class AmendRunRequest(_message.Message):
    __slots__ = ("run_id", "epochs", "delta", "anneal_epoch")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    ANNEAL_EPOCH_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    epochs: int
    delta: str
    anneal_epoch: int
    def __init__(self, run_id: _Optional[bytes] = ..., epochs: _Optional[int] = ..., delta: _Optional[str] = ..., anneal_epoch: _Optional[int] = ...) -> None: ...

class AmendRunResponse(_message.Message):
    __slots__ = ("spec",)
    SPEC_FIELD_NUMBER: _ClassVar[int]
    spec: RunSpec
    def __init__(self, spec: _Optional[_Union[RunSpec, _Mapping]] = ...) -> None: ...

class GetServerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerResponse(_message.Message):
    __slots__ = ("nonce", "version", "order_versions", "max_samples", "max_message_bytes", "max_in_flight_bytes", "durable")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ORDER_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    nonce: str
    version: str
    order_versions: _containers.RepeatedScalarFieldContainer[int]
    max_samples: int
    max_message_bytes: int
    max_in_flight_bytes: int
    durable: bool
    def __init__(self, nonce: _Optional[str] = ..., version: _Optional[str] = ..., order_versions: _Optional[_Iterable[int]] = ..., max_samples: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_in_flight_bytes: _Optional[int] = ..., durable: bool = ...) -> None: ...

class PlanStats(_message.Message):
    __slots__ = ("plan_id", "epoch", "generation", "threshold", "kept", "pruned", "never_scored", "classes", "biased", "unpruned", "groups")
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    PRUNED_FIELD_NUMBER: _ClassVar[int]
    NEVER_SCORED_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    BIASED_FIELD_NUMBER: _ClassVar[int]
    UNPRUNED_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    plan_id: str
    epoch: int
    generation: int
    threshold: float
    kept: int
    pruned: int
    never_scored: int
    classes: _containers.RepeatedCompositeFieldContainer[PlanClass]
    biased: bool
    unpruned: bool
    groups: _containers.RepeatedCompositeFieldContainer[PlanGroup]
    def __init__(self, plan_id: _Optional[str] = ..., epoch: _Optional[int] = ..., generation: _Optional[int] = ..., threshold: _Optional[float] = ..., kept: _Optional[int] = ..., pruned: _Optional[int] = ..., never_scored: _Optional[int] = ..., classes: _Optional[_Iterable[_Union[PlanClass, _Mapping]]] = ..., biased: bool = ..., unpruned: bool = ..., groups: _Optional[_Iterable[_Union[PlanGroup, _Mapping]]] = ...) -> None: ...

class RunInfo(_message.Message):
    __slots__ = ("run", "run_id", "spec", "generation", "last_epoch", "trained", "rejected_scores", "stored_scores", "newest_plan", "job", "host", "pid", "barrier_timeouts", "plan_ids", "dropped_samples")
    RUN_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LAST_EPOCH_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_SCORES_FIELD_NUMBER: _ClassVar[int]
    STORED_SCORES_FIELD_NUMBER: _ClassVar[int]
    NEWEST_PLAN_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    BARRIER_TIMEOUTS_FIELD_NUMBER: _ClassVar[int]
    PLAN_IDS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    run: str
    run_id: bytes
    spec: RunSpec
    generation: int
    last_epoch: int
    trained: bool
    rejected_scores: int
    stored_scores: int
    newest_plan: PlanStats
    job: str
    host: str
    pid: int
    barrier_timeouts: int
    plan_ids: _containers.RepeatedScalarFieldContainer[str]
    dropped_samples: int
    def __init__(self, run: _Optional[str] = ..., run_id: _Optional[bytes] = ..., spec: _Optional[_Union[RunSpec, _Mapping]] = ..., generation: _Optional[int] = ..., last_epoch: _Optional[int] = ..., trained: bool = ..., rejected_scores: _Optional[int] = ..., stored_scores: _Optional[int] = ..., newest_plan: _Optional[_Union[PlanStats, _Mapping]] = ..., job: _Optional[str] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., barrier_timeouts: _Optional[int] = ..., plan_ids: _Optional[_Iterable[str]] = ..., dropped_samples: _Optional[int] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("run", "run_id")
    RUN_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run: str
    run_id: bytes
    def __init__(self, run: _Optional[str] = ..., run_id: _Optional[bytes] = ...) -> None: ...

class GetRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: RunInfo
    def __init__(self, run: _Optional[_Union[RunInfo, _Mapping]] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[RunInfo]
    def __init__(self, runs: _Optional[_Iterable[_Union[RunInfo, _Mapping]]] = ...) -> None: ...

class DeleteRunRequest(_message.Message):
    __slots__ = ("run", "run_id", "force")
    RUN_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    run: str
    run_id: bytes
    force: bool
    def __init__(self, run: _Optional[str] = ..., run_id: _Optional[bytes] = ..., force: bool = ...) -> None: ...

class DeleteRunResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ForgetDropsRequest(_message.Message):
    __slots__ = ("run", "run_id")
    RUN_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run: str
    run_id: bytes
    def __init__(self, run: _Optional[str] = ..., run_id: _Optional[bytes] = ...) -> None: ...

class ForgetDropsResponse(_message.Message):
    __slots__ = ("forgotten",)
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    forgotten: int
    def __init__(self, forgotten: _Optional[int] = ...) -> None: ...
