"""From the store to the site: what is published is asked of the database, and the site's folder replaced whole."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from storage.database import open_database
from storage.errors import StoreError
from storage.scan import sql_file
from storage.store import open_store
from tasks.core.records import METHOD_VERSION
from tasks.site import Edition, site_files, write_site

SITE_FOLDER = "site"


def publish(location: str, made_at: datetime, hub_url: str | None) -> Path:
    """Write the leaderboard of a store to its folder `site`, and return that folder.

    Args:
        location: the store.
        made_at: now, UTC.
        hub_url: where a repo's page is; None: repos are not linked.

    Raises:
        StoreError: the database cannot be read, or the folder not be written.
    """
    store = open_store(location)
    with open_database(store) as database:
        edition = edition_of(database, made_at, hub_url)
    return write_edition(edition, store.location / SITE_FOLDER)


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


def edition_of(database: Any, made_at: datetime, hub_url: str | None) -> Edition:
    """Return today's edition, from an open database; private repos and local folders are not in it."""
    rows = database.sql("FROM leaderboard").to_arrow_table().to_pylist()
    return Edition(rows, coverage_of(database), made_at, METHOD_VERSION, hub_url)


def coverage_of(database: Any) -> list[dict[str, Any]]:
    """Return how many public models have which status, most first."""
    rows: list[dict[str, Any]] = database.sql(sql_file("queries/coverage.sql")).to_arrow_table().to_pylist()
    return rows
