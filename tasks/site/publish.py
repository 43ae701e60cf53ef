"""Put the site's files in place: written aside, then the folder is replaced whole."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

HERE, EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
STALE_S = 3600.0  # no edition takes an hour to write: what is older was left by a killed one


def write_site(folder: Path, files: Mapping[str, Iterable[bytes]]) -> None:
    """Replace folder by one that holds exactly these files; a reader finds the old site or the new one.

    Args:
        folder: where the site stands or is to stand; what a symbolic link points at is replaced, not the link.
        files: content by name, in pieces.

    Raises:
        OSError: the folder beside cannot be written, or folder is a file; what stood there then still stands.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    aside = folder.with_name(f".{folder.name}-{uuid4().hex}")
    try:
        aside.mkdir(parents=True)
        for name, pieces in files.items():
            with (aside / name).open("wb") as file:
                file.writelines(pieces)
        _put_in_place(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _sweep(folder)


def _put_in_place(aside: Path, folder: Path) -> None:
    if not folder.exists():
        aside.rename(folder)
    elif not _exchange(aside, folder):
        _replace_in_two_steps(aside, folder)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step; return False where this system or its file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    return renameat2 is not None and renameat2(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE) == 0


def _replace_in_two_steps(aside: Path, folder: Path) -> None:
    """Replace a folder; for a moment there is none."""
    old = aside.with_name(f"{aside.name}-old")
    folder.rename(old)
    try:
        aside.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what killed writers left beside the folder, and nothing else: the user may have folders of such names."""
    ours = re.compile(rf"\.{re.escape(folder.name)}-[0-9a-f]{{32}}(-old)?")
    for path in filter(lambda path: ours.fullmatch(path.name), folder.parent.iterdir()):
        with suppress(FileNotFoundError):  # another writer's, which is done
            if path.stat().st_mtime < time.time() - STALE_S:
                shutil.rmtree(path, ignore_errors=True)
