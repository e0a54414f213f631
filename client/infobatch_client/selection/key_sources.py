"""Reads the keys that `subset=` names: a file, an Arrow column, an array, or any other collection of text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infobatch_stream.errors import ConfigError

__all__ = ["BY_CONTENTS", "keys_or_array"]

BY_CONTENTS = (
    "to choose by what a member holds, such as the uid in a json, pass subset=select_samples(shards, lambda sample: "
    "sample['json']['uid'] in uids)"
)
_TEXT, _PARQUET, _ARROW = ("", ".txt", ".lst", ".list", ".keys"), (".parquet", ".pq"), (".arrow", ".feather", ".ipc")
_COLUMNS = ("__key__", "key")


def keys_or_array(subset: Any) -> pa.Array | npt.NDArray[Any]:
    """Keys as a large_binary array; or the array of a mask or of sample indices, unchecked.

    Raises:
        ConfigError: a file that can't be read, or values that are neither text, nor whole numbers, nor bools.
    """
    if isinstance(subset, str | os.PathLike):
        return _of_file(Path(subset))
    if isinstance(subset, pa.Table | pa.RecordBatch):
        return _of_column(subset.column(_column(subset.schema, "subset")), "subset")
    if isinstance(subset, pa.Array | pa.ChunkedArray):
        if pa.types.is_boolean(subset.type) or pa.types.is_integer(subset.type):
            return np.asarray(subset)
        return _of_column(subset, "subset")
    if isinstance(subset, set | frozenset):
        subset = sorted(subset)
    if isinstance(subset, Sequence) and len(subset) and isinstance(subset[0], str | bytes):
        return _of_list(subset)
    array = np.asarray(subset)
    if array.dtype.kind in "USTO" and array.ndim == 1:
        return _of_list(array.tolist())
    if array.dtype.names is not None:
        raise ConfigError(f"subset is {array.dtype} {array.shape}, and not of keys; {BY_CONTENTS}")
    return array


def _of_list(keys: Sequence[Any]) -> pa.Array:
    odd = next((key for key in keys if not isinstance(key, str | bytes)), None)
    if odd is not None:
        raise ConfigError(f"subset has {odd!r} among its keys, of type {type(odd).__name__}; keys are text")
    encoded = [key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key for key in keys]
    return pa.array(encoded, pa.large_binary())


def _of_column(column: pa.Array | pa.ChunkedArray, what: str) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        if not isinstance(column.type, pa.DataType) or pa.types.is_integer(column.type):
            raise pa.ArrowInvalid("")
        column = column.cast(pa.large_binary())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError):
        raise ConfigError(f"{what} has a column of {column.type}; keys are text") from None
    if column.null_count:
        raise ConfigError(f"{what} has {column.null_count} nulls among its {len(column)} keys")
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _column(schema: pa.Schema, what: str) -> str:
    """The column with the keys: the only one, or that of a usual name."""
    if len(schema.names) == 1:
        return str(schema.names[0])
    for name in _COLUMNS:
        if name in schema.names:
            return name
    raise ConfigError(
        f"{what} has the columns {', '.join(schema.names)}, and none is called 'key': pass the column that holds the "
        f"keys, as table['name']; {BY_CONTENTS}"
    )


def _of_file(path: Path) -> pa.Array | npt.NDArray[Any]:
    suffix = path.suffix.lower()
    what = f"subset={str(path)!r}"
    try:
        if suffix == ".npy":
            return keys_or_array(np.load(path, allow_pickle=False))
        if suffix in _PARQUET:
            name = _column(pq.read_schema(path), what)
            return _of_column(pq.read_table(path, columns=[name]).column(name), what)
        if suffix in _ARROW:
            table = _arrow_table(path)
            return _of_column(table.column(_column(table.schema, what)), what)
        if suffix in _TEXT:
            return _lines(path.read_bytes())
    except ConfigError:
        raise
    except (OSError, pa.ArrowException, ValueError) as error:
        raise ConfigError(f"{what} can't be read: {error}") from error
    raise ConfigError(
        f"{what}: a file of keys is text with a key in each line (.txt), .parquet, .arrow or .npy; read this one "
        "yourself, and pass a list of keys"
    )


def _arrow_table(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        try:
            return pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:
            source.seek(0)
            return pa.ipc.open_stream(source).read_all()


def _lines(data: bytes) -> pa.Array:
    """The lines of a text that aren't empty."""
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    lines = pc.split_pattern(pa.array([data], pa.large_binary()), "\n").values
    return lines.filter(pc.greater(pc.binary_length(lines), 0))
