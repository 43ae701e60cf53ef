"""A store on gs:// is the same store: parts, lease and snapshot, by Google's conditions in place of Amazon's."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.bucket import PIECE_BYTES
from storage.database import build
from storage.errors import StoreError
from storage.lease import hold_lease, lease_holder
from storage.store import open_store
from tests.gcs_server import GcsServer
from tests.nights import TOMORROW, audited, rows, run_night
from tests.s3_server import put


@pytest.fixture(scope="module")
def google():
    """A server of Google's protocol with a bucket `tests`."""
    with GcsServer() as server:
        server.create_bucket("tests")
        yield server


@pytest.fixture
def bucket(google, own_home, tmp_path, monkeypatch):
    """Where a store may be made; the environment is that of a user of the server."""
    for name, value in {**google.credentials(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return f"gs://tests/{tmp_path.name}"


@pytest.fixture
def store(bucket):
    return open_store(bucket)


@pytest.mark.slow
def test_the_stages_of_a_night_leave_the_same_rows_as_in_a_folder(crawl, location, bucket):
    for store in (location, bucket):
        run_night(store, crawl, batches=1)  # interrupted, and gone on with
        run_night(store, crawl)
        build(open_store(store))
    assert rows(bucket) == rows(location)
    assert len(open_store(bucket).place.names("parts/audits")) == 1  # merged
    assert audited(bucket, run_night(bucket, crawl, TOMORROW)) == []


def test_a_swap_is_bound_to_the_generation_that_was_read(store, google):
    google.conditions.clear()
    assert store.place.swap("file", None, b"one")
    assert not store.place.swap("file", None, b"other")
    assert store.place.swap("file", b"one", b"two")
    assert not store.place.swap("file", b"one", b"three")
    assert store.place.read("file") == b"two"
    new, changed = google.conditions
    assert (new, changed > 0) == (0, True)


def test_a_swap_that_another_outruns_fails(store, google):
    put(store.place, "file", b"one")

    def outrun(request):
        if request.method == "PUT":
            google.before = lambda request: None
            put(open_store(store.location).place, "file", b"another's")

    google.before = outrun
    assert not store.place.swap("file", b"one", b"two")
    assert store.place.read("file") == b"another's"


def test_of_many_machines_one_gets_the_lease(store):
    def take(number):
        try:
            with hold_lease(store, f"machine {number}"):
                return lease_holder(store).owner
        except StoreError:
            return None

    with ThreadPoolExecutor(8) as pool, hold_lease(store, "the first"):
        assert set(pool.map(take, range(8))) == {None}
    assert take(9) == "machine 9"


@pytest.mark.slow
def test_what_is_large_goes_up_in_pieces_and_a_copy_is_renewed_when_it_was_replaced(store, google):
    for content in (b"a" * (PIECE_BYTES + 1), b"b" * (PIECE_BYTES + 2)):
        put(store.place, "large", content)
        assert store.place.local_copy("large").read_bytes() == content
        asked = len(google.requests)
        assert store.place.local_copy("large").read_bytes() == content
        assert [request.method for request in google.requests[asked:]] == ["HEAD"]


def test_what_is_moved_and_removed_is_there_or_not(store):
    put(store.place, "a/b", b"x")
    store.place.move("a/b", "a/c d")
    assert store.place.sizes("a") == {"a/c d": 1}
    store.place.remove("a/c d")
    assert store.place.names("a") == []
