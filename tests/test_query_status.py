"""The command `normaudit status`."""

import os

import pytest

from storage.lease import hold_lease
from storage.nights import finish_night
from storage.store import open_store
from tests.command import normaudit, objects
from tests.stores import NIGHT, night_after, write_plan

pytestmark = pytest.mark.usefixtures("own_home")  # no test here reads a store that the environment names


def test_status_of_a_store_without_nights_says_so(ranked_store):
    run = normaudit("status", "--store", ranked_store)
    assert run.exit_code == 0
    assert "No night has been finished" in run.stdout
    assert "org/down: 503" in run.stdout
    assert "4 public models listed: ok 3, failed 1" in run.stdout


@pytest.fixture
def nights(tmp_path):
    """A store of a finished night, one that the gate held, and an interrupted one."""
    store = open_store(tmp_path / "store")
    facts = {"listed": 10, "unchanged": 4, "waiting": 1, "planned": 5}
    costs = {"hub_requests": 11, "cdn_requests": 12, "bytes_read": 123_456, "seconds": 3.5}
    for day in range(3):
        write_plan(store, night_after(day), [], {"audit_id": f"a{day}", **facts})
    done = {**facts, **costs, "audited": 5, "statuses": {"ok": 4, "failed": 1}, "published": True, "gate": None}
    finish_night(store, NIGHT, {**done, "audit_id": "a0"})
    held = {"published": False, "gate": "3 of 5 audits failed"}
    finish_night(store, night_after(1), {**done, **held, "audit_id": "a1"})
    return store


def test_status_shows_finished_held_and_interrupted_nights(nights):
    lines = normaudit("status", "--store", nights.location).stdout.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:4]}
    assert rows[str(NIGHT)] == ["10", "4", "5", "1", "11", "12", "123,456", "3.5", "yes"]
    assert rows[str(night_after(1))][-1] == "no"
    assert f"Night {night_after(1)} was not published: 3 of 5 audits failed" in lines
    assert f"Night {night_after(2)}: interrupted; `normaudit nightly` goes on with it" in lines


def test_status_as_json_is_a_line_for_each_finished_night(nights):
    run = normaudit("status", "--store", nights.location, "--json")
    assert [night["night"] for night in objects(run)] == ["2026-11-01", "2026-11-02"]


def test_status_names_who_works_on_a_night(nights):
    with hold_lease(nights, "the tests"):
        shown = normaudit("status", "--store", nights.location).stdout
    assert f"Night {night_after(2)}: running: the tests" in shown
    assert f"pid {os.getpid()}" in shown
    assert "interrupted" not in shown
