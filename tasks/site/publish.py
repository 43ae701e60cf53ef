"""Put the site's files in place: written aside, then the folder is replaced whole."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4


def write_site(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace folder by one that holds exactly these files; a reader finds the old site or the new one.

    Raises:
        OSError: the folder beside cannot be written; the old site then stands as it was.
    """
    aside = folder.with_name(f".{folder.name}-{uuid4().hex}")
    try:
        aside.mkdir(parents=True)
        for name, content in files.items():
            (aside / name).write_bytes(content)
        _replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _replace(aside: Path, folder: Path) -> None:
    old = aside.with_name(f"{aside.name}-old")
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
