"""Rows of a table as Arrow, checked: no unknown column, no missing key, no NaN and no infinity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.errors import StoreError

# Arrow's own pool keeps what is freed for its next use: 100 MB after a night's merge, which the rest of a night lacks.
pa.set_memory_pool(pa.system_memory_pool())

Row = Mapping[str, Any]
_NOTHING: Row = {}


def rows_to_table(rows: Sequence[Row], schema: pa.Schema, called: str, common: Row = _NOTHING) -> pa.Table:
    """Return rows as an Arrow table of exactly this schema; a column that a row lacks is null.

    Args:
        rows: values by column; times as datetime or ISO 8601 text, vectors as sequences or NumPy arrays.
        schema: the table's columns.
        called: the table's name, for messages.
        common: values of the columns that no row has to repeat.

    Raises:
        StoreError: a row has a column that the table lacks, a key is null, a value does not fit its column's
            type, or a number is NaN or infinite.
    """
    present = set().union(*rows)
    unknown = present - set(schema.names)
    if unknown:
        raise StoreError(f"table {called} has no column {', '.join(sorted(unknown))}; it has {', '.join(schema.names)}")
    arrays = []
    for field in schema:
        otherwise = common.get(field.name)
        is_told = field.name in present
        values = _column(rows, field.name, otherwise) if is_told else [otherwise] * len(rows)
        arrays.append(_array(values, field, called))
    return pa.Table.from_arrays(arrays, schema=schema)


def with_all_columns(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the rows with exactly the schema's columns; those that they lack, being of an older version, are null.

    Raises:
        pa.ArrowException: a column holds what the schema's type cannot; the message names it.
    """
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(rows: Sequence[Row], name: str, otherwise: Any) -> list[Any]:
    """Return a column's values; mostly every row has it, and to get at it is then half as dear."""
    try:
        return list(map(itemgetter(name), rows))
    except KeyError:
        return [row.get(name, otherwise) for row in rows]


def _array(values: list[Any], field: pa.Field, called: str) -> pa.Array:
    try:
        array = pa.array(_converted(values, field.type), field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise StoreError(f"{called}.{field.name} holds {field.type}, and a value does not fit: {error}") from error
    if not field.nullable and array.null_count:
        raise StoreError(f"{called}.{field.name} belongs to the key: {array.null_count} of {len(array)} rows lack it")
    _require_finite(array, field, called)
    return array


def _converted(values: list[Any], kind: pa.DataType) -> list[Any]:
    """Return values in the form that Arrow takes for this type."""
    if pa.types.is_timestamp(kind):
        return [_time(value) for value in values]
    if pa.types.is_date(kind):
        return [date.fromisoformat(value) if isinstance(value, str) else value for value in values]
    if pa.types.is_map(kind):
        return [list(value.items()) if isinstance(value, Mapping) else value for value in values]
    if pa.types.is_list(kind):
        return [_vector(value, kind.value_type) for value in values]
    return values


def _time(value: datetime | str | None) -> datetime | None:
    """Return the time with a zone; one that names none is UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


def _vector(value: Any, kind: pa.DataType) -> Any:
    """Return a vector as Arrow takes it: arrays in the column's own precision, everything else as a list."""
    if isinstance(value, str | bytes | Mapping):
        raise TypeError(f"{value!r} is no sequence of values")  # it could be read as one, of characters or keys
    if isinstance(value, np.ndarray):
        return _narrowed(value) if pa.types.is_float32(kind) else value
    return None if value is None else list(value)


def _narrowed(wide: NDArray[np.floating[Any]]) -> NDArray[np.float32] | list[float | None]:
    """Return float32; an entry that is finite but beyond its range becomes null, since it is no infinity."""
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    beyond = np.isinf(narrow) & np.isfinite(wide)
    if not beyond.any():
        return narrow
    return [None if over else float(entry) for entry, over in zip(narrow, beyond, strict=True)]


def _require_finite(array: pa.Array, field: pa.Field, called: str) -> None:
    numbers = array.flatten() if pa.types.is_list(field.type) else array
    if not pa.types.is_floating(numbers.type):
        return
    bad = len(numbers) - numbers.null_count - (pc.sum(pc.is_finite(numbers)).as_py() or 0)
    if bad:
        raise StoreError(f"{called}.{field.name}: {bad} NaN or infinite numbers; a figure that does not exist is null")
