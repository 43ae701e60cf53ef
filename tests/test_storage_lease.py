import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from storage.errors import StoreError
from storage.lease import TTL_S, hold_lease, lease_holder

HOLDER = """
import sys, time
from storage.lease import hold_lease
from storage.store import open_store
with hold_lease(open_store(sys.argv[1]), "the first"):
    print("held", flush=True)
    time.sleep(600)
"""


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock(1_000_000.0)


def write_lease(store, holder):
    store.place.local_path("lease.json").write_bytes(holder.to_bytes())


def test_a_lease_is_held_for_a_block_and_given_back(store, clock):
    with hold_lease(store, "nightly", clock=clock) as lease:
        assert lease_holder(store, clock) == lease.holder
        assert (lease.holder.owner, lease.holder.pid) == ("nightly", os.getpid())
        lease.check()
    assert lease_holder(store, clock) is None
    assert not store.place.exists("lease.json")


def test_a_lease_is_given_back_when_its_block_fails(store):
    with pytest.raises(KeyError), hold_lease(store, "nightly"):
        raise KeyError
    assert lease_holder(store) is None


def test_a_second_taker_is_told_who_is_first_and_since_when(store, clock):
    with (
        hold_lease(store, "nightly of tuesday", clock=clock) as lease,
        pytest.raises(
            StoreError, match=r"held by nightly of tuesday \(host .+, pid \d+, since 1970-01-12 13:46:40"
        ) as caught,
        hold_lease(store, "second", clock=clock),
    ):
        pass
    assert str(os.getpid()) in str(caught.value)
    assert "1970-01-12 13:48:40" in str(caught.value)  # when it runs out
    assert lease.holder.owner == "nightly of tuesday"


def test_of_many_takers_at_once_one_gets_the_lease(store):
    takers = 8
    start, end = Barrier(takers), Barrier(takers)

    def take(number):
        start.wait()
        try:
            with hold_lease(store, f"taker {number}"):
                end.wait()
        except StoreError:
            end.wait()
            return False
        return True

    with ThreadPoolExecutor(takers) as pool:
        assert sum(pool.map(take, range(takers))) == 1


def test_a_lease_that_ran_out_is_taken_over_and_its_first_holder_notices(store, clock):
    with hold_lease(store, "first", clock=clock) as first:
        clock.now += TTL_S
        with hold_lease(store, "second", clock=clock) as second:
            second.check()
            assert lease_holder(store, clock) == second.holder
            with pytest.raises(StoreError, match="first has lost its lease"):
                first.check()
            assert not first.renew()
    assert not store.place.exists("lease.json")


def test_a_first_holder_that_ends_late_does_not_give_back_the_second_ones_lease(store, clock):
    first = hold_lease(store, "first", clock=clock)
    first.__enter__()
    clock.now += TTL_S
    with hold_lease(store, "second", clock=clock) as second:
        first.__exit__(None, None, None)
        assert lease_holder(store, clock) == second.holder
        second.check()


def test_a_renewed_lease_lasts_its_full_time_from_the_renewal(store, clock):
    with hold_lease(store, "first", clock=clock) as lease:
        clock.now += TTL_S - 1
        assert lease.renew()
        clock.now += TTL_S - 1
        lease.check()
        with pytest.raises(StoreError, match="held by first"), hold_lease(store, "second", clock=clock):
            pass


def test_a_lease_is_renewed_while_its_holder_works(store):
    with hold_lease(store, "nightly", ttl_s=0.4) as lease:
        first, deadline = lease.holder.expires_at, time.monotonic() + 60
        while lease.holder.expires_at == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease.holder.expires_at > first
        assert json.loads(store.place.read("lease.json"))["owner"] == "nightly"


def test_the_lease_of_a_killed_process_is_taken_over_at_once(store):
    command = [sys.executable, "-c", HOLDER, str(store.location)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(StoreError, match=rf"held by the first \(host .+, pid {holder.pid},"),
            hold_lease(store, "b"),
        ):
            pass
        os.kill(holder.pid, signal.SIGKILL)
    with hold_lease(store, "second") as lease:
        lease.check()


def test_a_pid_that_another_process_has_now_does_not_keep_the_lease(store, clock):
    with hold_lease(store, "first", clock=clock) as lease:
        first = lease.holder
    namespace, boot, start = first.process.split(" ")
    write_lease(store, replace(first, process=f"{namespace} {boot} {int(start) - 1}"))
    with hold_lease(store, "second", clock=clock) as lease:
        lease.check()


@pytest.mark.parametrize("where", [{"host": "elsewhere"}, {"process": "pid:[1] boot 1"}])
def test_a_process_that_cannot_be_seen_from_here_keeps_its_lease_until_it_runs_out(store, clock, where):
    with hold_lease(store, "first", clock=clock) as lease:
        first = lease.holder
    write_lease(store, replace(first, pid=2**22 + 1, **where))  # no process here has this pid
    with pytest.raises(StoreError, match="held by first"), hold_lease(store, "second", clock=clock):
        pass
    clock.now += TTL_S
    with hold_lease(store, "second", clock=clock) as lease:
        lease.check()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"owner": "x"}', b"\xff"])
def test_a_lease_file_that_names_nobody_keeps_nobody_out(store, content):
    with store.place.writing("lease.json") as file:
        file.write(content)
    with hold_lease(store, "nightly") as lease:
        lease.check()


@pytest.mark.parametrize(
    "wrong",
    [
        {"expires_at": "z"},
        {"expires_at": None},
        {"expires_at": 9e99},
        {"expires_at": float("nan")},
        {"expires_at": float("inf")},
        {"acquired_at": None},
        {"acquired_at": 9e99},
        {"pid": "1"},
        {"pid": -1},
        {"pid": 2**70},
        {"host": None},
        {"process": 3},
        {"owner": []},
    ],
)
def test_a_lease_file_with_values_that_no_holder_has_keeps_nobody_out(store, clock, wrong):
    with hold_lease(store, "first", clock=clock) as lease:
        first = lease.holder
    write_lease(store, replace(first, **wrong))
    assert lease_holder(store, clock) is None
    with hold_lease(store, "second", clock=clock) as lease:
        lease.check()


def test_a_lease_from_a_clock_that_was_set_back_keeps_others_out_no_longer_than_two_leases(store, clock):
    with hold_lease(store, "first", clock=clock) as lease:
        first = replace(lease.holder, host="elsewhere")
    write_lease(store, first)
    clock.now -= TTL_S  # as far as two machines' clocks may differ
    assert lease_holder(store, clock) == first
    clock.now -= 1
    assert lease_holder(store, clock) is None
