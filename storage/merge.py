"""Make a finished night's parts few.

Merged files are written whole, put in force all at once, and only then are the parts removed that they replace.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import StoreError
from storage.nights import is_unfinished
from storage.parts import (
    READ_ROWS,
    Merged,
    dead_parts,
    live_parts,
    read_merged,
    set_aside_unreadable,
    with_versions,
    write_merged,
)
from storage.rows import with_all_columns
from storage.schema import TABLES
from storage.store import MERGED_PREFIX, Store, merge_of, night_folder

MAX_BYTES = 256_000_000
_GROUP_BYTES = 8_000_000  # of a row group in memory: small enough to read one, large enough to be few
_READ_BYTES = 1_000_000  # of each column at a time, where a part holds more


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did: live parts before and after, and a message for each that could not be read."""

    parts_before: int
    parts_after: int
    set_aside: list[str]


def merge_night(store: Store, night: date, max_bytes: int = MAX_BYTES) -> MergeReport:
    """Merge a night's parts to a few files of about max_bytes at most.

    Killed at any point, every row is still served exactly once; a later merge of the night finishes the work.

    Raises:
        StoreError: the night is not finished, or the disk is full.
    """
    if is_unfinished(store, night):
        raise StoreError(f"night {night} is not finished; finish it before its parts are merged")
    set_aside = set_aside_unreadable(store, TABLES, night)
    before = [name for table in TABLES for name in live_parts(store, table, night)]
    _remove_dead(store, night)
    wanted = {table: _groups(store, live_parts(store, table, night), max_bytes) for table in TABLES}
    if any(wanted.values()):
        write_merged(store, night, _merge(store, night, before, wanted))
        _remove_dead(store, night)
    after = [name for table in TABLES for name in live_parts(store, table, night)]
    return MergeReport(len(before), len(after), set_aside)


def _groups(store: Store, parts: list[str], max_bytes: int) -> list[list[str]]:
    """Return the parts to be merged, by the file that they go to; one that would stay alone is left as it is."""
    groups: list[list[str]] = []
    room = 0
    sizes = store.place.sizes(parts[0].rpartition("/")[0]) if parts else {}
    for name in parts:
        if sizes[name] > room:
            groups.append([])
            room = max_bytes
        groups[-1].append(name)
        room -= sizes[name]
    return [group for group in groups if len(group) > 1]


def _merge(store: Store, night: date, before: list[str], wanted: dict[str, list[list[str]]]) -> Merged:
    """Write the merged files of all tables, and return what is in force once they are.

    That the merge was begun is on record first: its files, should it be killed, are known to be in force nowhere.
    """
    begun = _begun(read_merged(store, night), before)
    write_merged(store, night, begun)
    written = []
    for table, groups in wanted.items():
        for number, group in enumerate(groups):
            target = f"{night_folder(table, night)}/{MERGED_PREFIX}{begun.generation}-{number}.parquet"
            _write_merged_part(store, target, group, TABLES[table])
            written.append(target)
    replaced = {name for groups in wanted.values() for group in groups for name in group}
    live = tuple(name for name in begun.live if name not in replaced)
    return Merged(begun.generation, live + tuple(written), begun.replaced | replaced)


def _begun(merged: Merged, before: list[str]) -> Merged:
    """Return the record of a merge that begins: in force is what was live before, its number is one nobody has had."""
    merges = {name: number for name in before if (number := merge_of(name))}
    return Merged(max(merged.generation, *merges.values(), 0) + 1, tuple(merges), merged.replaced)


def _write_merged_part(store: Store, target: str, parts: list[str], schema: pa.Schema) -> None:
    versions = _versions(store, parts)
    with (
        store.place.writing(target) as file,
        pq.ParquetWriter(file, with_versions(schema.empty_table(), versions).schema, compression="zstd") as writer,
    ):
        for rows in _row_groups(store, parts, schema):
            writer.write_table(with_versions(rows, versions))


def _row_groups(store: Store, parts: list[str], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of all parts in pieces of about _GROUP_BYTES, each with all columns of the schema."""
    waiting: list[pa.Table] = []
    waiting_bytes = 0
    for rows in _batches(store, parts):
        waiting.append(with_all_columns(pa.Table.from_batches([rows]), schema))
        waiting_bytes += waiting[-1].nbytes
        if waiting_bytes >= _GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting, waiting_bytes = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


def _batches(store: Store, parts: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of all parts, no more than a few megabytes of them at a time."""
    for name in parts:
        with pq.ParquetFile(store.place.arrow_source(name), buffer_size=_READ_BYTES) as part:
            yield from part.iter_batches(READ_ROWS)


def _versions(store: Store, parts: list[str]) -> dict[str, str]:
    """Return the versions in the parts' metadata; where they differ, all of them."""
    found: dict[str, set[str]] = {}
    for name in parts:
        with pq.ParquetFile(store.place.arrow_source(name)) as part:
            for key, value in (part.schema_arrow.metadata or {}).items():
                found.setdefault(key.decode(), set()).update(value.decode().split(","))
    return {key: ",".join(sorted(values)) for key, values in found.items()}


def _remove_dead(store: Store, night: date) -> None:
    """Remove what merges have replaced, and merged files that a killed merge never put in force."""
    for table in TABLES:
        for name in dead_parts(store, table, night):
            store.place.remove(name)
