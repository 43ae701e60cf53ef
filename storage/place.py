"""The few file operations that a store needs; each write is whole or absent, also when the writer is killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from storage.errors import StoreError

TEMP_FOLDER = ".tmp"  # beside the results, so that a rename never crosses file systems


class Place(Protocol):
    """Named files under one root; a name is relative, with forward slashes. An object store can offer the same."""

    def names(self, folder: str) -> list[str]:
        """Return the names of all files anywhere under folder, sorted; empty where there is no such folder."""

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

    def local_path(self, name: str) -> Path:
        """Return where DuckDB and Arrow find the file on this machine."""


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A folder on this machine, created by the first write."""

    root: Path

    def names(self, folder: str) -> list[str]:
        """Return the names of all files anywhere under folder, sorted, without temporary ones."""
        with _store_errors(self.root, "list", folder):
            found = (Path(base, name) for base, _, names in os.walk(self.root / folder) for name in names)
            return sorted(path.relative_to(self.root).as_posix() for path in found)

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

    def local_path(self, name: str) -> Path:
        """Return where DuckDB and Arrow find the file."""
        return self.root / name

    def temp_path(self) -> Path:
        """Return an unused path on the same file system, its folder created."""
        folder = self.root / TEMP_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{uuid.uuid4().hex}.tmp"

    def sweep(self, before_s: float) -> int:
        """Remove what killed writers left behind, last written before this Unix time; return how many files."""
        stale = [path for path in (self.root / TEMP_FOLDER).glob("*") if path.stat().st_mtime < before_s]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

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
