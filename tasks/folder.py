"""Checkpoints in local folders and files, read by the same plan as those on the Hub."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from tasks.core.configfile import MAX_CONFIG_BYTES, parse_config
from tasks.core.errors import AuditError, BadFile, Failed, NotFound, TooLarge, defect, shown
from tasks.core.header import LENGTH_BYTES, MAX_HEADER_BYTES
from tasks.core.reading import ReadOptions, read_checkpoint, unreadable
from tasks.core.records import Audit, Chunk, Cost, Fetch, Listing, Reading, RepoFile
from tasks.core.verdicts import CONFIG_UNREADABLE

MAX_FILES = 100_000  # a folder with more is no checkpoint, but somebody's whole disk
MAX_WHOLE_FILE_BYTES = 64_000_000  # of an index; the largest known takes 15 MB
HEADLESS_BYTES = 1_000_000  # of a file without a header that could be one: enough to tell it from others


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
    except Exception as error:  # a defect of ours must cost this model alone; the reason names it
        reading = unreadable(defect(error, given), listing)
    return Audit(listing, reading, Cost(bytes_read=source.bytes_read, seconds=time.monotonic() - started))


class _Source:
    """One local checkpoint, counting the bytes that are read of it."""

    def __init__(self, path: Path, given: str) -> None:
        is_file = _is_file(path)
        self.root = path.parent if is_file else path
        self.only = path.name if is_file else None
        self.repo_id = given
        self.given = shown(given)
        self.bytes_read = 0
        self.config_verdicts: tuple[str, ...] = ()

    def listing(self) -> Listing:
        """Return what the Hub would list of this folder; sha is a hash of the config and the headers."""
        files = tuple(self._files())
        data = self._config_bytes()
        config = parse_config(data) if data is not None else None
        if data is not None and config is None:
            self.config_verdicts = (CONFIG_UNREADABLE,)
        return Listing(repo_id=self.repo_id, sha=self._fingerprint(files, data), files=files, config=config)

    def follow(self, listing: Listing, options: ReadOptions) -> Reading:
        """Run the reading plan on the local files."""
        plan = read_checkpoint(listing, options)
        try:
            fetches = next(plan)
            while True:
                fetches = plan.send(tuple(self._answer(fetch) for fetch in fetches))
        except StopIteration as done:
            reading: Reading = done.value
            return replace(reading, integrity=(*self.config_verdicts, *reading.integrity))

    def _answer(self, fetch: Fetch) -> Chunk | AuditError:
        try:
            return self._read(fetch)
        except AuditError as error:
            return error

    def _read(self, fetch: Fetch) -> Chunk:
        where = f"{self.given}/{shown(fetch.path)}"
        if fetch.is_guess or fetch.of == "claims":
            raise NotFound(f"{where}: on a disk there is nothing to gain from a guess, and nobody who claims")
        path = self.root / fetch.path
        try:
            size = _regular_bytes(path, where)
            limit = min(MAX_WHOLE_FILE_BYTES, fetch.limit_bytes or MAX_WHOLE_FILE_BYTES)
            if fetch.stop is None and size > limit:
                raise TooLarge(f"{where}: {size:,} bytes; a file of this kind has at most {limit:,}")
            with path.open("rb") as file:
                file.seek(fetch.start)
                data = file.read((size if fetch.stop is None else fetch.stop) - fetch.start)
        except FileNotFoundError as error:
            raise NotFound(f"{where}: no such file") from error
        except OSError as error:
            raise Failed(f"{where}: cannot be read: {error.strerror}") from error
        self.bytes_read += len(data)
        return Chunk(data, size)

    def _config_bytes(self) -> bytes | None:
        """Return what config.json holds, None where there is none; of one that is far too large, nothing."""
        try:
            return self._read(Fetch("config.json", limit_bytes=MAX_CONFIG_BYTES)).data
        except NotFound:
            return None
        except (BadFile, TooLarge):
            return b""

    def _files(self) -> Iterator[RepoFile]:
        try:
            self.root.stat()
        except PermissionError as error:
            raise Failed(f"{self.given}: cannot be looked at: {error.strerror}") from error
        except (OSError, ValueError) as error:  # ValueError: no path at all, with a zero byte in it
            raise NotFound(
                f"{self.given}: no such folder or file here, and no repo name of the form org/name"
            ) from error
        paths = [self.root / self.only] if self.only else _walk(self.root)
        for path in paths:
            if (size := _size_bytes(path)) is not None:
                yield RepoFile(path.relative_to(self.root).as_posix(), size)

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
        count = size if size <= MAX_HEADER_BYTES else HEADLESS_BYTES
        return length + self._read(Fetch(path, LENGTH_BYTES, LENGTH_BYTES + count)).data


def _walk(root: Path) -> Iterator[Path]:
    """Yield what lies in a folder and those below, except hidden folders and names that are not UTF-8."""
    count = 0
    for folder, subfolders, names in os.walk(root, onerror=_refuse):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and _is_text(name))
        count += len(subfolders) + len(names)
        if count > MAX_FILES:
            raise BadFile(f"{shown(root)}: more than {MAX_FILES:,} files; name the folder that holds the checkpoint")
        yield from (Path(folder, name) for name in sorted(names) if _is_text(name))


def _refuse(error: OSError) -> NoReturn:
    raise Failed(f"{shown(error.filename)}: cannot be listed: {error.strerror}") from error


def _is_text(name: str) -> bool:
    return name == name.encode(errors="ignore").decode()  # Python stands lone surrogates for bytes that are not UTF-8


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # what is wrong with it is told when it is listed
        return False


def _size_bytes(path: Path) -> int | None:
    """Return a regular file's size, or None of anything else: a pipe, a link to nowhere."""
    try:
        found = path.stat()
    except PermissionError as error:
        raise Failed(f"{shown(path)}: cannot be looked at: {error.strerror}") from error
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _regular_bytes(path: Path, where: str) -> int:
    """Return a file's size; raise BadFile of what is no regular file, which might be read for ever."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise BadFile(f"{where}: not a regular file")
    return found.st_size
