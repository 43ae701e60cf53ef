"""The few file operations that a store needs; each write is whole or absent, also when the writer is killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from storage.errors import StoreError

TEMP_FOLDER = ".tmp"  # beside the results, so that a rename never crosses file systems

Clock = Callable[[], float]


class Place(Protocol):
    """Named files under one root, a folder of this machine or of a bucket; a name is relative, with forward slashes."""

    @property
    def location(self) -> str | Path:
        """What users call the root."""

    def is_there(self) -> bool:
        """Return whether there is anything at the root."""

    def names(self, folder: str) -> list[str]:
        """Return the names of all files anywhere under folder, sorted; empty where there is no such folder."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of all files anywhere under folder, by name and sorted so."""

    def exists(self, name: str) -> bool:
        """Return whether there is a file of this name."""

    def read(self, name: str) -> bytes | None:
        """Return the file's bytes, or None where there is none."""

    def writing(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Return a file to write to; it appears under its name, whole, when the block ends without an error."""

    def move(self, source: str, target: str) -> None:
        """Give a file another name, replacing what had it."""

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is no error."""

    def swap(self, name: str, expected: bytes | None, wanted: bytes | None) -> bool:
        """Replace the file's bytes if they are still the expected ones; None stands for no file. Return whether."""

    def put(self, path: Path, name: str) -> None:
        """Move a file from a path that `temp_path` gave here, replacing what has the name."""

    def local_copy(self, name: str) -> Path | None:
        """Return where the file, as it is now, lies whole on this machine; None where there is no such file."""

    def arrow_source(self, name: str, size_bytes: int | None = None) -> Path | BinaryIO:
        """Return what Arrow reads the file, of so many bytes, from; what is not asked for is not fetched."""

    def temp_path(self) -> Path:
        """Return an unused path on this machine, for what is to be put here or does not fit into memory."""

    def sweep(self, before_s: float) -> int:
        """Remove what killed processes left on this machine, last written before this Unix time; return how many."""

    def clock(self, own: Clock) -> Clock:
        """Return the clock by which leases on this place run, given this machine's own."""


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A folder on this machine, created by the first write."""

    root: Path

    @property
    def location(self) -> Path:
        """The folder."""
        return self.root

    def is_there(self) -> bool:
        """Return whether the folder is there."""
        return self.root.is_dir()

    def names(self, folder: str) -> list[str]:
        """Return the names of all files anywhere under folder, sorted."""
        with _store_errors(self.root, "list", folder):
            found = (Path(base, name) for base, _, names in os.walk(self.root / folder) for name in names)
            return sorted(path.relative_to(self.root).as_posix() for path in found)

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of all files anywhere under folder, by name and sorted so."""
        return {name: (self.root / name).stat().st_size for name in self.names(folder)}

    def exists(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        return (self.root / name).is_file()

    def read(self, name: str) -> bytes | None:
        """Return the file's bytes, or None where there is none."""
        with _store_errors(self.root, "read", name):
            try:
                return (self.root / name).read_bytes()
            except FileNotFoundError:
                return None

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Write to a temporary name, then rename: killed at any point, the name is whole or absent.

        Raises:
            StoreError: the disk is full, or the folder cannot be written.
        """
        with _store_errors(self.root, "write", name):
            temp = self.temp_path()
            try:
                with temp.open("xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                self._put(temp, name)
            finally:
                temp.unlink(missing_ok=True)

    def move(self, source: str, target: str) -> None:
        """Give a file another name, replacing what had it."""
        with _store_errors(self.root, "move", source):
            self._put(self.root / source, target)

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is no error."""
        with _store_errors(self.root, "remove", name):
            (self.root / name).unlink(missing_ok=True)

    def swap(self, name: str, expected: bytes | None, wanted: bytes | None) -> bool:
        """Replace the file's bytes if they are still the expected ones, with the root locked meanwhile."""
        with self._locked():
            if self.read(name) != expected:
                return False
            if wanted is None:
                self.remove(name)
            else:
                with self.writing(name) as file:
                    file.write(wanted)
            return True

    def put(self, path: Path, name: str) -> None:
        """Give a file of this file system a name here, replacing what had it."""
        with _store_errors(self.root, "write", name):
            self._put(path, name)

    def local_path(self, name: str) -> Path:
        """Return where DuckDB and Arrow find the file, whether or not it is there."""
        return self.root / name

    def local_copy(self, name: str) -> Path | None:
        """Return the file's own path, or None where there is no such file."""
        return self.local_path(name) if self.exists(name) else None

    def arrow_source(self, name: str, size_bytes: int | None = None) -> Path:
        """Return the file's own path."""
        return self.local_path(name)

    def temp_path(self) -> Path:
        """Return an unused path on the same file system, its folder created."""
        folder = self.root / TEMP_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{uuid.uuid4().hex}.tmp"

    def sweep(self, before_s: float) -> int:
        """Remove what killed processes left behind, last written before this Unix time; return how many."""
        stale = [path for path in (self.root / TEMP_FOLDER).glob("*") if written_s(path) < before_s]
        for path in stale:
            if path.is_dir():  # what did not fit into a query's memory
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return len(stale)

    def clock(self, own: Clock) -> Clock:
        """Return this machine's clock: whoever shares a folder shares it, or keeps his own in step."""
        return own

    def _put(self, path: Path, name: str) -> None:
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with _store_errors(self.root, "lock", "."):
            self.root.mkdir(parents=True, exist_ok=True)
            folder = os.open(self.root, os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                yield
            finally:
                os.close(folder)


def written_s(path: Path) -> float:
    """Return when a file or folder was last written, in Unix time; infinity where it has gone meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


@contextlib.contextmanager
def _store_errors(root: Path, verb: str, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{root}: cannot {verb} {name}: {_in_words(error, root)}") from error


def _in_words(error: OSError, root: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({_free_bytes(root):,} bytes free); free some space and run again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror}; give this user write access to the folder or name another store"
    if error.errno == errno.EISDIR:
        return f"{error.strerror}: {error.filename2 or error.filename}; a store has a file there: move the folder away"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{error.strerror}; something else has the name of one of the store's folders: move it away"
    return str(error)


def _free_bytes(root: Path) -> int:
    nearest = next(path for path in (root, *root.absolute().parents) if path.exists())
    return shutil.disk_usage(nearest).free
