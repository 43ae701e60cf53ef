"""Open a store, and how its files are named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from storage.errors import StoreError
from storage.place import LocalPlace, Place

SNAPSHOT = "audit.duckdb"
PARTS_FOLDER = "parts"
NIGHTS_FOLDER = "nights"
SET_ASIDE_FOLDER = "parts/_set_aside"
LEASE = "lease.json"
MERGED_PREFIX = "merged-"  # an audit_id cannot begin so

BUCKET_SCHEMES = ("s3", "gs")

_MERGED_NAME = re.compile(rf"{MERGED_PREFIX}([1-9][0-9]*)-[0-9]+\.parquet")
_OF_A_NIGHT = re.compile(rf"(?:{PARTS_FOLDER}/[^/]+/night=|{NIGHTS_FOLDER}/)([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})/[^/]+")
_AUDIT_ID = re.compile(r"(?!merged-)[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class Store:
    """A store at one place; cheap to make and to pickle, and nothing is created before the first write."""

    place: Place

    @property
    def location(self) -> str | Path:
        """The store's folder, or its address in an object store."""
        return self.place.location


def open_store(location: str | Path) -> Store:
    """Return the store at location: a folder, or s3://bucket/folder, gs://bucket/folder; it need not exist yet.

    Raises:
        StoreError: location is a file, an address of another kind, or no name that a folder or a bucket can have.
    """
    text = str(location)
    scheme, is_address, _ = text.partition("://")
    if is_address:
        return Store(_bucket(scheme, text))
    try:
        root = Path(text).expanduser().absolute()
        is_file = _is_there(root) and not root.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # too long; no such user; a NUL character
        raise StoreError(f"{text!r} cannot be the name of a store's folder ({error}); name another") from error
    if is_file:
        raise StoreError(f"{root}: a store is a folder, and this is a file; name a folder or move the file away")
    return Store(LocalPlace(root))


def night_folder(table: str, night: date) -> str:
    """Return the folder of a table's parts of one night."""
    return f"{PARTS_FOLDER}/{table}/night={night.isoformat()}"


def part_name(table: str, night: date, audit_id: str, batch: int) -> str:
    """Return the name of the part that a batch of an audit writes for a table.

    Raises:
        StoreError: audit_id or batch cannot be part of a file's name.
    """
    if not _AUDIT_ID.fullmatch(audit_id) or batch < 0:
        raise StoreError(
            f"audit_id {audit_id!r}, batch {batch}: a part's name takes letters, digits, '_', '.' and '-' "
            "(not beginning with 'merged-') and a batch from 0"
        )
    return f"{night_folder(table, night)}/{audit_id}-{batch}.parquet"


def batch_of(name: str, audit_id: str) -> int | None:
    """Return the batch whose part has this name, or None where it is no part of this audit."""
    match = re.fullmatch(rf"{re.escape(audit_id)}-(\d+)\.parquet", name.rpartition("/")[2])
    return int(match[1]) if match else None


def night_file(night: date, name: str) -> str:
    """Return the name of one of a night's own files: its plan, its marker, its record of merged parts."""
    return f"{NIGHTS_FOLDER}/{night.isoformat()}/{name}"


def night_of(name: str) -> date | None:
    """Return the night in the name of a part or of a night's own file; None where the file is none of the store's."""
    match = _OF_A_NIGHT.fullmatch(name)
    try:
        return date.fromisoformat(match[1]) if match else None
    except ValueError:  # a thirteenth month
        return None


def merge_of(name: str) -> int | None:
    """Return the number of the merge that wrote the part of this name, from 1, or None where it was a batch."""
    match = _MERGED_NAME.fullmatch(name.rpartition("/")[2])
    return int(match[1]) if match else None


def _bucket(scheme: str, location: str) -> Place:
    if scheme not in BUCKET_SCHEMES:
        raise StoreError(
            f"{scheme}://…: a store is a folder, or in an object store: s3://bucket/folder, gs://bucket/folder"
        )
    from storage.bucket import bucket_at  # a store in a folder needs no client of object stores

    return bucket_at(location)


def _is_there(path: Path) -> bool:
    """Return whether there is anything at path; what `Path.exists` leaves out, as a NUL, is an error here."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
