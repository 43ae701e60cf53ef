"""From the store to the site: what is published of which models, and what happens where that cannot be."""

import json
from datetime import UTC, datetime

import pytest

from storage.database import build, open_database
from storage.errors import StoreError
from storage.parts import write_batch
from storage.store import open_store
from tasks.core.records import METHOD_VERSION
from tasks.core.rows import merge_rows
from tasks.publishing import coverage_of, edition_of, publish
from tests.stores import NIGHT, audit, listing, model

NOW = datetime(2026, 11, 2, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    """A store of public, private, failed, waiting and local models."""
    store = open_store(tmp_path / "store")
    rows = merge_rows(
        [
            model("org/alpha"),
            {**model("org/secret"), "listings": [listing("org/secret", private=True)]},
            {name: rows for name, rows in model("./local").items() if name != "listings"},
            {"audits": [audit("org/b", status="bad_file", reason="<b>")], "listings": [listing("org/b")]},
            {"audits": [audit("./broken", status="bad_file", reason="local")]},
            {"listings": [listing("org/waiting"), listing("org/veiled", private=True)]},
        ]
    )
    write_batch(store, NIGHT, "test", 0, rows)
    build(store)
    return store


def test_only_public_listed_models_are_published(store):
    folder = publish(str(store.location), NOW, "https://hub.example")
    assert folder == store.location / "site"
    everything = "".join(path.read_text() for path in folder.iterdir())
    assert "org/alpha" in everything
    for name in ("secret", "local", "veiled", "broken"):
        assert name not in everything


def test_coverage_counts_public_listed_models_by_status(store):
    with open_database(store) as database:
        assert {row["status"]: row["models"] for row in coverage_of(database)} == {"ok": 1, "bad_file": 1, "waiting": 1}


def test_an_edition_says_when_and_by_which_method_it_was_made(store):
    with open_database(store) as database:
        edition = edition_of(database, NOW, None)
    assert (edition.made_at, edition.method_version) == (NOW, METHOD_VERSION)
    assert edition.ranking["repo_id"].to_pylist() == ["org/alpha"]


def test_a_repo_that_turns_private_disappears_from_the_next_edition(store):
    publish(str(store.location), NOW, None)
    later = [listing("org/alpha", private=True, night="2026-11-05")]
    write_batch(store, NIGHT.replace(day=5), "later", 0, {"listings": later, "audits": []})
    build(store)
    folder = publish(str(store.location), NOW, None)
    assert json.loads((folder / "leaderboard.json").read_text())["models"] == []
    assert "org/alpha" not in "".join(path.read_text() for path in folder.iterdir())


def test_where_the_site_cannot_be_written_the_error_names_the_folder(store):
    (store.location / "site").write_text("in the way")
    with pytest.raises(StoreError, match=r"site: .*cannot be written"):
        publish(str(store.location), NOW, None)
    assert (store.location / "site").read_text() == "in the way"
