"""Parts: a batch's rows of one table as one Parquet file, written once, whole. The parts are the truth.

The part of table audits is its batch's marker and written last. A night's `merged.json` says which parts have been
merged into which files; it is what makes a merge happen at once, whole. Where it is lost, every merged file is live: a
row may then be there twice, and none is missing.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.errors import StoreError
from storage.place import LocalPlace
from storage.rows import Row, rows_to_table, with_all_columns
from storage.schema import TABLES
from storage.store import (
    NIGHTS_FOLDER,
    PARTS_FOLDER,
    SET_ASIDE_FOLDER,
    Store,
    batch_of,
    merge_of,
    night_file,
    night_folder,
    night_of,
    part_name,
)

log = logging.getLogger("normaudit.storage")

MARKER = "audits"
READ_ROWS = 4_096  # of a part at a time; those of the widest table take 20 MB
_RECORD = "merged.json"

Versions = Mapping[str, int]
Rows: TypeAlias = Sequence[Row] | pa.Table


@dataclass(frozen=True, slots=True)
class Merged:
    """What a night's merges have done so far.

    Attributes:
        generation: number of the last merge that was begun; files of a later one are no record's, and live.
        live: the merged files in force.
        replaced: the parts that they replace.
    """

    generation: int = 0
    live: tuple[str, ...] = ()
    replaced: frozenset[str] = field(default_factory=frozenset)


def write_part(store: Store, table: str, night: date, audit_id: str, batch: int, rows: Rows, versions: Versions) -> str:
    """Write one table's rows of a batch, and return the part's name; written again, it replaces itself.

    Columns night and audit_id are filled in where the rows lack them; an Arrow table must have the table's schema.

    Raises:
        StoreError: the rows do not fit the table, the disk is full, or the part has been merged already.
    """
    name = part_name(table, night, audit_id, batch)
    if name in read_merged(store, night).replaced:
        raise StoreError(f"{name} was merged with its night already; write under another audit_id")
    common = {"night": night, "audit_id": audit_id}
    content = rows if isinstance(rows, pa.Table) else rows_to_table(rows, TABLES[table], table, common)
    with store.place.writing(name) as file:
        pq.write_table(with_versions(content, versions), file, compression="zstd")
    return name


def write_batch(
    store: Store,
    night: date,
    audit_id: str,
    batch: int,
    tables: Mapping[str, Rows],
    versions: Versions | None = None,
) -> None:
    """Write all parts of a batch, the marker last; killed before that, the batch counts as not done.

    Args:
        store: where to.
        night: the night that the batch belongs to.
        audit_id: the run that the batch belongs to.
        batch: its number within the run.
        tables: rows by table; a table without rows gets no part, except audits, the marker.
        versions: for the files' metadata; those of the audits where not given.

    Raises:
        StoreError: as `write_part`, or there is no table of such a name.
    """
    unknown = set(tables) - set(TABLES)
    if unknown:
        raise StoreError(f"no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    versions = _versions_of(tables.get(MARKER, ())) if versions is None else versions
    for table in TABLES:
        rows = tables.get(table, ())
        if len(rows) or table == MARKER:
            write_part(store, table, night, audit_id, batch, rows, versions)


def finished_batches(store: Store, night: date, audit_id: str) -> set[int]:
    """Return the batches of an audit whose marker is there, merged or not."""
    folder = night_folder(MARKER, night)
    markers = {*_parts_in(store, folder), *read_merged(store, night).replaced}
    return {batch for name in markers if name.startswith(folder) and (batch := batch_of(name, audit_id)) is not None}


def live_parts(store: Store, table: str, night: date | None = None) -> list[str]:
    """Return the names of the parts that hold a table's rows, oldest night first, without those merged away."""
    names = _parts_in(store, f"{PARTS_FOLDER}/{table}" if night is None else night_folder(table, night))
    in_doubt = _in_doubt(names)
    merged = {night: read_merged(store, night) for night in in_doubt & _merged_nights(store)} if in_doubt else {}
    return [name for name, night in names.items() if _is_live(name, merged.get(night, Merged()))]


def dead_parts(store: Store, table: str, night: date) -> list[str]:
    """Return the names of a night's parts that its record of merges says are not live."""
    merged = read_merged(store, night)
    return [name for name in _parts_in(store, night_folder(table, night)) if not _is_live(name, merged)]


def read_columns(store: Store, table: str, night: date, audit_id: str, columns: Sequence[str]) -> pa.Table:
    """Return some columns of the rows that one run has written to a table for a night so far, merged or not.

    A part that cannot be read is set aside, with a warning in the log.

    Raises:
        StoreError: it cannot be set aside.
    """
    schema = pa.schema([TABLES[table].field(name) for name in columns])
    found = [schema.empty_table()]
    for name in live_parts(store, table, night):
        if merge_of(name) or batch_of(name, audit_id) is not None:
            try:
                found.append(_rows_of(store, name, audit_id, schema))
            except (OSError, pa.ArrowException) as error:
                log.warning("%s", set_aside(store, name, _in_a_line(error)))
    return pa.concat_tables(found)


def read_merged(store: Store, night: date) -> Merged:
    """Return what a night's merges have done so far; a record that cannot be read is set aside, as if it were lost."""
    name = night_file(night, _RECORD)
    text = store.place.read(name)
    if text is None:
        return Merged()
    try:
        return _record(json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        target = f"{SET_ASIDE_FOLDER}/{name}"
        store.place.move(name, target)
        log.warning("%s cannot be read (%r); set aside as %s, all merged files are served", name, error, target)
        return Merged()


def write_merged(store: Store, night: date, merged: Merged) -> None:
    """Put a merge in force: from here on its files are live, and what they replace is not."""
    record = {"generation": merged.generation, "live": list(merged.live), "replaced": sorted(merged.replaced)}
    with store.place.writing(night_file(night, _RECORD)) as file:
        file.write(json.dumps(record).encode())


def set_aside_unreadable(store: Store, tables: Iterable[str], night: date | None = None) -> list[str]:
    """Move away every live part of these tables that cannot be read as one of theirs; return a message for each."""
    names = [name for table in tables for name in live_parts(store, table, night)]
    return [set_aside(store, name, fault) for name in names if (fault := _fault(store, name))]


def set_aside(store: Store, name: str, fault: str) -> str:
    """Move one part out of its table, and return the message that says so."""
    target = SET_ASIDE_FOLDER + name.removeprefix(PARTS_FOLDER)
    store.place.move(name, target)
    return f"{name} cannot be read ({fault}); set aside as {target}, the rest is served"


def is_whole(store: Store, name: str) -> bool:
    """Return whether a part begins and ends as a Parquet file does: a quick look that finds cut-off files."""
    if not isinstance(store.place, LocalPlace):  # an object store has no cut-off files, and a look at each takes long
        return True
    try:
        with store.place.local_path(name).open("rb") as file:
            head = file.read(4)
            file.seek(-4, 2)
            return head == file.read(4) == b"PAR1" and file.tell() > 8
    except OSError:
        return False


def with_versions(content: pa.Table, versions: Mapping[str, object]) -> pa.Table:
    """Return the table with versions in what becomes its file's metadata."""
    return content.replace_schema_metadata({name: str(value) for name, value in versions.items()})


def _versions_of(audits: Rows) -> dict[str, int]:
    names = ("read_version", "method_version")
    audits = audits.select(names).to_pylist() if isinstance(audits, pa.Table) else audits
    return {name: max(row[name] for row in audits) for name in names if audits and all(name in row for row in audits)}


def _in_doubt(names: Mapping[str, date]) -> set[date]:
    """Return the nights whose parts are not all of one merge: of these alone the record is needed to tell who is live.

    Of a merge that was not put in force, or that has not removed what it replaced, other files are still there.
    """
    merges: dict[date, set[int | None]] = defaultdict(set)
    for name, night in names.items():
        merges[night].add(merge_of(name))
    return {night for night, found in merges.items() if len(found) > 1 or None in found}


def _merged_nights(store: Store) -> set[date]:
    names = [name for name in store.place.names(NIGHTS_FOLDER) if name.endswith(f"/{_RECORD}")]
    return {night for name in names if (night := night_of(name))}


def _parts_in(store: Store, folder: str) -> dict[str, date]:
    """Return the names of the parts in a folder, each with its night; what else lies there is none of the store's."""
    names = [name for name in store.place.names(folder) if name.endswith(".parquet")]
    return {name: night for name in names if (night := night_of(name))}


def _record(record: Any) -> Merged:
    generation, live, replaced = record["generation"], record["live"], record["replaced"]
    if not (isinstance(generation, int) and isinstance(live, list) and isinstance(replaced, list)):
        raise TypeError("generation is a number, live and replaced are lists")
    return Merged(generation, tuple(live), frozenset(replaced))


def _is_live(name: str, merged: Merged) -> bool:
    merge = merge_of(name)
    if merge is None:
        return name not in merged.replaced
    return name in merged.live or (merge > merged.generation and name not in merged.replaced)


def _rows_of(store: Store, name: str, audit_id: str, schema: pa.Schema) -> pa.Table:
    """Return one run's rows of a part; columns that the part lacks are null."""
    with pq.ParquetFile(store.place.arrow_source(name)) as part:
        rows = part.read(columns=list({*schema.names, "audit_id"}.intersection(part.schema_arrow.names)))
    return with_all_columns(rows.filter(pc.field("audit_id") == audit_id), schema)


def _fault(store: Store, name: str) -> str | None:
    """Return why a part cannot be read to its end as rows of its table, or None where it can."""
    schema = TABLES[name.split("/")[1]]
    try:
        with pq.ParquetFile(store.place.arrow_source(name)) as part:
            for rows in part.iter_batches(READ_ROWS):
                with_all_columns(pa.Table.from_batches([rows]), schema)
    except (OSError, ValueError, pa.ArrowException) as error:
        return _in_a_line(error)
    return None


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
