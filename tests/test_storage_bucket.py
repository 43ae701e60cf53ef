"""A store in a bucket: what a server of the S3 protocol is asked, and what it holds after writers were killed."""

import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.bucket import PIECE_BYTES
from storage.errors import StoreError
from storage.lease import TTL_S, hold_lease, lease_holder
from storage.parts import finished_batches, live_parts, read_columns, set_aside, write_batch
from storage.schema import TABLES
from storage.store import LEASE, open_store
from tests.s3_server import put, python
from tests.stores import NIGHT, model
from tests.test_storage_parts import HALF_WRITER, WRITER, killed_after

UPLOADER = """
import sys
from storage.store import open_store
with open_store(sys.argv[1]).place.writing("big") as file:
    file.write(bytes(int(sys.argv[2])))
"""

CONTENDER = """
import sys
from storage.errors import StoreError
from storage.lease import hold_lease
from storage.store import open_store
print("ready", flush=True)
sys.stdin.readline()
try:
    with hold_lease(open_store(sys.argv[1]), "contender"):
        print("mine", flush=True)
        sys.stdin.readline()
except StoreError:
    print("refused", flush=True)
"""


@pytest.fixture
def store(bucket):
    return open_store(bucket)


@pytest.fixture
def place(store):
    return store.place


def bytes_of(wanted):
    """Return how many bytes a Range header asks for: bytes=0-9 or bytes=-10."""
    first, last = wanted.removeprefix("bytes=").split("-")
    return int(last) - int(first) + 1 if first else int(last)


def test_files_are_listed_by_folder_with_their_sizes(place):
    for name in ("b/x y", "a/night=2026-11-01/ö", "ab", "a/z"):
        put(place, name, name.encode())
    assert place.sizes("a") == {"a/night=2026-11-01/ö": 21, "a/z": 3}
    assert place.names("") == ["a/night=2026-11-01/ö", "a/z", "ab", "b/x y"]
    assert place.names("c") == []


@pytest.mark.slow
def test_more_files_than_a_server_lists_at_once_are_listed(place, s3):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: put(place, f"many/{number}"), range(1_001)))
    s3.requests.clear()
    assert len(place.names("many")) == 1_001
    assert len(s3.asked("GET")) == 2


def test_a_bucket_without_files_is_no_store(place):
    assert not place.is_there()
    put(place, "x")
    assert place.is_there()


def test_what_is_read_written_moved_and_removed_is_there_or_not(place):
    assert (place.read("x"), place.exists("x"), place.local_copy("x")) == (None, False, None)
    put(place, "x", b"1")
    place.move("x", "y/z")
    assert (place.read("x"), place.read("y/z"), place.exists("y/z")) == (None, b"1", True)
    for _ in range(2):
        place.remove("y/z")
    assert place.names("") == []


def test_a_part_is_one_put_and_its_marker_the_last(store, s3):
    s3.requests.clear()
    write_batch(store, NIGHT, "run", 0, model("org/m"))
    puts = [request.path.split("/parts/")[1] for request in s3.asked("PUT")]
    assert puts == [f"{table}/night=2026-11-01/run-0.parquet" for table in TABLES]
    assert s3.asked("POST") == []


def test_what_is_large_goes_up_in_pieces_and_comes_back_whole(place, s3):
    content = os.urandom(PIECE_BYTES) + b"end"
    s3.requests.clear()
    put(place, "big", content)
    assert sorted(request.size_bytes for request in s3.asked("PUT", "big")) == [3, PIECE_BYTES]
    assert place.read("big") == content


def test_nothing_is_sent_of_a_file_whose_writing_failed(place, s3):
    s3.requests.clear()
    with pytest.raises(TypeError), place.writing("x") as file:
        file.writelines([bytes(2 * PIECE_BYTES), None])
    assert s3.requests == []


def test_a_writer_killed_before_its_block_ended_leaves_nothing(store):
    assert killed_after(HALF_WRITER, store.location, 1) == ["half"]
    assert store.place.names("") == []


def test_a_writer_killed_between_two_pieces_leaves_nothing(store, s3):
    uploading, killed = threading.Event(), threading.Event()

    def wait(request):
        if "partNumber" in request.query:
            uploading.set()
            killed.wait(60)

    s3.before = wait
    try:
        with python(UPLOADER, store.location, 3 * PIECE_BYTES) as writer:
            assert uploading.wait(60)
            os.kill(writer.pid, signal.SIGKILL)
        killed.set()
    finally:
        s3.before = lambda request: None
    assert (writer.returncode, store.place.names(""), store.place.read("big")) == (-signal.SIGKILL, [], None)


def test_a_killed_writer_leaves_whole_parts_and_whole_batches(store):
    printed = killed_after(WRITER, store.location, 3)
    finished = finished_batches(store, NIGHT, "run")
    assert finished >= {int(line) for line in printed}
    for table in TABLES:
        for name in live_parts(store, table):
            assert pq.ParquetFile(store.place.arrow_source(name)).read().num_rows > 0
        assert {f"{table}-{batch}" for batch in finished} <= {
            f"{table}-{name.rpartition('-')[2].removesuffix('.parquet')}" for name in live_parts(store, table)
        }


def test_of_a_large_part_only_the_columns_that_are_wanted_are_fetched(place, s3):
    rows = 200_000
    with place.writing("parts/x.parquet") as file:
        pq.write_table(pa.table({"small": range(rows), "large": [os.urandom(40) for _ in range(rows)]}), file)
    size_bytes = place.sizes("parts")["parts/x.parquet"]
    s3.requests.clear()
    source = place.arrow_source("parts/x.parquet")
    assert pq.ParquetFile(source).read(columns=["small"])["small"].to_pylist() == list(range(rows))
    assert sum(bytes_of(request.range) for request in s3.requests) < size_bytes / 3


def test_a_file_that_is_replaced_while_it_is_read_is_an_error_and_no_mixture(place):
    put(place, "x", os.urandom(1_000_000))
    source = place.arrow_source("x")
    source.seek(-10, os.SEEK_END)
    source.read(10)
    put(place, "x", os.urandom(1_000_000))
    source.seek(0)
    with pytest.raises(StoreError, match="x was replaced while it was read; run again"):
        source.read(10)


def test_a_file_that_was_replaced_since_it_was_listed_is_an_error(place):
    put(place, "x", b"1234")
    with pytest.raises(StoreError, match="a file was replaced since it was listed; run again"):
        place.arrow_source("x", size_bytes=3).read(1)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1 no Parquet PAR1"])
def test_a_part_that_cannot_be_read_is_set_aside_and_the_rest_is_read(store, content, caplog):
    for batch in range(2):
        write_batch(store, NIGHT, "run", batch, model(f"org/{batch}"))
    name = "parts/audits/night=2026-11-01/run-0.parquet"
    put(store.place, name, content)
    assert read_columns(store, "audits", NIGHT, "run", ["repo_id"])["repo_id"].to_pylist() == ["org/1"]
    assert f"{name} cannot be read" in caplog.text
    assert store.place.names("parts/_set_aside") == ["parts/_set_aside/audits/night=2026-11-01/run-0.parquet"]
    assert not store.place.exists(name)


def test_a_server_that_is_away_sets_no_part_aside(store, monkeypatch):
    write_batch(store, NIGHT, "run", 0, model("org/m"))
    name = live_parts(store, "audits")[0]
    names = store.place.names("")
    monkeypatch.setattr("storage.objects._RETRIES", {"max_retries": 0})
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(StoreError, match="its server cannot be reached"):
            pq.ParquetFile(store.place.arrow_source(name))
    assert store.place.names("") == names


def test_a_swap_is_bound_to_what_was_read(place, s3):
    s3.requests.clear()
    assert place.swap("x", None, b"1")
    assert place.swap("x", b"1", b"2")
    first, second = s3.asked("PUT", "/x")
    assert first.condition == "*"
    assert re.fullmatch('"[0-9a-f]{32}"', second.condition)


def test_a_swap_that_another_outruns_fails(place, s3):
    put(place, "x", b"1")

    def outrun(request):
        if request.method == "PUT":
            s3.before = lambda request: None
            put(place, "x", b"other")

    s3.before = outrun
    assert not place.swap("x", b"1", b"2")
    assert place.read("x") == b"other"


def test_of_many_machines_one_gets_the_lease(store):
    contenders = [python(CONTENDER, store.location) for _ in range(3)]
    try:
        assert [contender.stdout.readline() for contender in contenders] == ["ready\n"] * 3
        for contender in contenders:
            contender.stdin.write("go\n")
            contender.stdin.flush()
        answers = sorted(contender.stdout.readline() for contender in contenders)
        assert answers == ["mine\n", "refused\n", "refused\n"]
    finally:
        for contender in contenders:
            contender.communicate("end\n", timeout=60)


def test_of_many_takers_of_a_lease_that_ran_out_one_gets_it(store):
    with hold_lease(store, "first", ttl_s=1) as lease:
        dead = lease.holder.to_bytes().replace(lease.holder.host.encode(), b"elsewhere")
    put(store.place, LEASE, dead)
    wins, deadline = 0, time.monotonic() + 60
    while lease_holder(store) and time.monotonic() < deadline:
        time.sleep(0.1)
    start, end = threading.Barrier(6), threading.Barrier(6)

    def take(number):
        start.wait()
        try:
            with hold_lease(store, f"taker {number}"):
                end.wait()
        except StoreError:
            end.wait()
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        wins = sum(pool.map(take, range(6)))
    assert wins == 1


@pytest.mark.parametrize("wrong_by_s", [-3 * TTL_S, 3 * TTL_S])
def test_a_machine_whose_clock_is_wrong_neither_takes_a_lease_nor_loses_its_own(store, wrong_by_s):
    def wrong():
        return time.time() + wrong_by_s

    with hold_lease(store, "right") as right:
        with pytest.raises(StoreError, match="held by right"), hold_lease(store, "wrong", clock=wrong):
            pass
        assert lease_holder(store, wrong) == right.holder
    with hold_lease(store, "wrong", clock=wrong) as lease:
        assert abs(lease.holder.acquired_at - time.time()) < TTL_S / 2
        assert lease_holder(store) == lease.holder
        lease.check()


def test_a_lease_given_back_can_be_taken_again(store):
    for owner in ("first", "second"):
        with hold_lease(store, owner) as lease:
            lease.check()
            assert lease_holder(store) == lease.holder
        assert lease_holder(store) is None


def test_a_part_that_is_set_aside_keeps_its_bytes(store):
    put(store.place, "parts/audits/night=2026-11-01/run-0.parquet", b"odd")
    set_aside(store, "parts/audits/night=2026-11-01/run-0.parquet", "odd")
    assert store.place.read("parts/_set_aside/audits/night=2026-11-01/run-0.parquet") == b"odd"
