"""Checkpoints in local folders and files, read by the same plan as those on the Hub."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tasks.core.errors import AuditError, BadFile, Failed, NotFound, shown
from tasks.core.header import LENGTH_BYTES, MAX_FORMAT_BYTES, parse_json_object
from tasks.core.reading import ReadOptions, read_checkpoint, unreadable
from tasks.core.records import Audit, Chunk, Cost, Fetch, Listing, Reading, RepoFile

MAX_FILES = 100_000  # a folder with more is no checkpoint, but somebody's whole disk
MAX_WHOLE_FILE_BYTES = 64_000_000  # of a config.json or an index; the largest known index takes 15 MB


def audit_folder(given: str, options: ReadOptions) -> Audit:
    """Audit the checkpoint in a local folder, or one .safetensors file.

    Args:
        given: the path as the user wrote it; it becomes the repo_id.
        options: what to read; whether the config is whole is set here.
    """
    started = time.monotonic()
    source = _Source(Path(given), given)
    listing = Listing(repo_id=given)
    try:
        listing = source.listing()
        reading = source.follow(listing, replace(options, config_is_whole=True))
    except AuditError as error:
        reading = unreadable(error, listing)
    return Audit(listing, reading, Cost(bytes_read=source.bytes_read, seconds=time.monotonic() - started))


class _Source:
    """One local checkpoint, counting the bytes that are read of it."""

    def __init__(self, path: Path, given: str) -> None:
        self.root = path.parent if path.is_file() else path
        self.only = path.name if path.is_file() else None
        self.repo_id = given
        self.given = shown(given)
        self.bytes_read = 0

    def listing(self) -> Listing:
        """Return what the Hub would list of this folder; sha is a hash of the config and the headers."""
        files = tuple(self._files())
        config = self._whole("config.json") if (self.root / "config.json").is_file() else None
        return Listing(
            repo_id=self.repo_id,
            sha=self._fingerprint(files, config),
            files=files,
            config=parse_json_object(config, f"{self.given}/config.json") if config is not None else None,
        )

    def follow(self, listing: Listing, options: ReadOptions) -> Reading:
        """Run the reading plan on the local files."""
        plan = read_checkpoint(listing, options)
        try:
            fetches = next(plan)
            while True:
                fetches = plan.send(tuple(self._answer(fetch) for fetch in fetches))
        except StopIteration as done:
            reading: Reading = done.value
            return reading

    def _answer(self, fetch: Fetch) -> Chunk | AuditError:
        try:
            return self._read(fetch)
        except AuditError as error:
            return error

    def _read(self, fetch: Fetch) -> Chunk:
        where = f"{self.given}/{shown(fetch.path)}"
        try:
            with (self.root / fetch.path).open("rb") as file:
                size = file.seek(0, 2)
                if fetch.stop is None and size > MAX_WHOLE_FILE_BYTES:
                    raise BadFile(f"{where}: {size:,} bytes; a file of this kind has at most {MAX_WHOLE_FILE_BYTES:,}")
                file.seek(fetch.start)
                data = file.read(size if fetch.stop is None else fetch.stop - fetch.start)
        except FileNotFoundError as error:
            raise NotFound(f"{where}: no such file") from error
        except OSError as error:
            raise Failed(f"{where}: cannot be read: {error.strerror}") from error
        self.bytes_read += len(data)
        return Chunk(data, size)

    def _whole(self, path: str) -> bytes:
        return self._read(Fetch(path)).data

    def _files(self) -> Iterator[RepoFile]:
        if not self.root.exists():
            raise NotFound(f"{self.given}: no such folder or file here, and no repo name of the form org/name")
        paths = [self.root / self.only] if self.only else _walk(self.root)
        for path in paths:
            yield RepoFile(path.relative_to(self.root).as_posix(), path.stat().st_size)

    def _fingerprint(self, files: tuple[RepoFile, ...], config: bytes | None) -> str:
        digest = hashlib.sha256(config or b"")
        for file in sorted(files, key=lambda file: file.path):
            if file.path.endswith(".safetensors"):
                digest.update(self._head(file.path))
        return digest.hexdigest()[:40]

    def _head(self, path: str) -> bytes:
        """Return a file's header, or its first bytes where it has none that could be one."""
        length = self._read(Fetch(path, 0, LENGTH_BYTES)).data
        size = int.from_bytes(length, "little")
        return length + (
            self._read(Fetch(path, LENGTH_BYTES, LENGTH_BYTES + size)).data if size <= MAX_FORMAT_BYTES else b""
        )


def _walk(root: Path) -> Iterator[Path]:
    for count, path in enumerate(sorted(root.rglob("*"))):
        if count >= MAX_FILES:
            raise BadFile(f"{shown(root)}: more than {MAX_FILES:,} files; name the folder that holds the checkpoint")
        if path.is_file():
            yield path
