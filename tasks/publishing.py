"""From the store to the site: what is published is asked of the database, and the site's folder replaced whole."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from storage.database import ask_sparingly
from storage.errors import StoreError
from storage.place import LocalPlace, Place
from storage.scan import sql_file
from storage.store import open_store
from tasks.core.records import METHOD_VERSION
from tasks.site import Edition, site_files, write_site

SITE_FOLDER = "site"
FRONT_PAGE = "index.html"


def publish(location: str, made_at: datetime, hub_url: str | None) -> str | Path:
    """Write the leaderboard of a store to its folder `site`, and return where that is.

    Args:
        location: the store.
        made_at: now, UTC.
        hub_url: where a repo's page is; None: repos are not linked.

    Raises:
        StoreError: the database cannot be read, or the folder not be written.
    """
    store = open_store(location)
    edition = ask_sparingly(store, lambda database: edition_of(database, made_at, hub_url))
    if isinstance(store.place, LocalPlace):
        return write_edition(edition, store.place.local_path(SITE_FOLDER))
    put_edition(edition, store.place)
    return f"{store.location}/{SITE_FOLDER}"


def write_edition(edition: Edition, folder: Path) -> Path:
    """Write an edition's files to folder, replacing it whole.

    Raises:
        StoreError: it cannot be written; what stood there still stands.
    """
    try:
        write_site(folder, site_files(edition))
    except OSError as error:
        raise StoreError(f"{folder}: the site cannot be written: {error.strerror}; the old one still stands") from error
    return folder


def put_edition(edition: Edition, place: Place) -> None:
    """Write an edition's files to an object store's folder `site`, the front page last.

    No two objects change at once: for a moment the old front page stands beside the new figures.

    Raises:
        StoreError: they cannot be written.
    """
    files = site_files(edition)
    for name in sorted(files, key=lambda name: name == FRONT_PAGE):
        with place.writing(f"{SITE_FOLDER}/{name}") as file:
            file.writelines(files[name])
    for name in place.names(SITE_FOLDER):
        if name.removeprefix(f"{SITE_FOLDER}/") not in files:
            place.remove(name)


def edition_of(database: Any, made_at: datetime, hub_url: str | None) -> Edition:
    """Return today's edition, from an open database; private repos and local folders are not in it."""
    ranking = database.sql("FROM leaderboard").to_arrow_table()
    return Edition(ranking, coverage_of(database), made_at, METHOD_VERSION, hub_url)


def coverage_of(database: Any) -> list[dict[str, Any]]:
    """Return how many public models have which status, most first."""
    rows: list[dict[str, Any]] = database.sql(sql_file("queries/coverage.sql")).to_arrow_table().to_pylist()
    return rows
