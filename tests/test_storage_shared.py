"""Which weights a store knows to have been read, and what it gives back of them."""

import pytest

from storage.parts import write_batch
from storage.shared import KnownWeights
from tests.stores import NIGHT, audit, conclusions, listing, night_after

SHA, OTHER = "a" * 64, "b" * 64


def write(store, *audits, listings=(), night=NIGHT, batch=0):
    repos = [row["repo_id"] for row in audits]
    tables = {table: [] for table in ("norms", "kernels", "evidence")}
    for repo_id in repos:
        for table, rows in conclusions(repo_id).items():
            tables[table] += rows
    write_batch(store, night, "run", batch, {"audits": list(audits), "listings": list(listings), **tables})


def known(store, sha256=SHA, read_version=1):
    """Whether the store knows these weights, and the audit that it gives back of them."""
    with KnownWeights(store, read_version) as weights:
        return sha256 in weights, weights.find(sha256)


def test_weights_that_were_read_are_given_back_with_all_that_was_concluded(store):
    write(store, audit("org/a", weights_sha256=SHA), audit("org/b", weights_sha256=OTHER))
    is_known, found = known(store)
    assert is_known
    assert (found.audit["repo_id"], found.audit["tensors"]) == ("org/a", b"names")
    assert {row["repo_id"] for rows in (found.norms, found.kernels, found.evidence) for row in rows} == {"org/a"}
    assert len(found.norms) == len(conclusions("org/a")["norms"])


@pytest.mark.parametrize(
    "facts",
    [
        {"status": "bad_file"},
        {"status": "no_norms"},
        {"weights_sha256": None},
        {"shared_from": "org/first"},
        {"read_version": 2},
    ],
)
def test_what_was_not_read_as_it_is_read_now_is_not_known(store, facts):
    write(store, audit("org/a", **{"weights_sha256": SHA, **facts}))
    assert known(store) == (False, None)


def test_weights_of_a_private_repo_are_not_known_so_that_no_row_names_it(store):
    write(store, audit("org/a", weights_sha256=SHA), listings=[listing("org/a", private=True)])
    assert known(store) == (False, None)


def test_of_several_audits_of_the_same_weights_the_newest_counts(store):
    write(store, audit("org/a", weights_sha256=SHA), night=NIGHT)
    later = audit("org/b", weights_sha256=SHA, audited_at="2026-12-01T00:00:00+00:00")
    write(store, later, night=night_after(1), batch=1)
    assert known(store)[1].audit["repo_id"] == "org/b"


def test_a_new_store_knows_no_weights(store):
    assert known(store) == (False, None)


def test_what_is_no_hash_is_not_known(store):
    write(store, audit("org/a", weights_sha256=SHA))
    with KnownWeights(store, 1) as weights:
        assert None not in weights
