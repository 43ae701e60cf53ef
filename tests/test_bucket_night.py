"""A night on a store in a bucket finds what one on a folder finds; killed, it goes on; two at once are refused."""

import signal
import subprocess
import sys
import time

import pytest

from deployments.demo.standin import StandIn
from storage.database import build, open_database
from storage.lease import hold_lease
from storage.store import open_store
from tests.nights import ROOT, TODAY, TOMORROW, audited, finished, repos, rows, run_night


def found(store: object) -> object:
    """Return what a store's nights have found; what each model cost depends on what its process had read before."""
    with open_database(open_store(str(store))) as database:
        costs = "audit_id, audited_at, night, seconds, hub_requests, cdn_requests, bytes_read"
        audits = database.execute(f"SELECT * EXCLUDE ({costs}) FROM audits ORDER BY repo_id").fetchall()
    return audits, {table: lines for table, lines in rows(store).items() if table != "audits"}


def normaudit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )


def test_the_stages_of_a_night_leave_the_same_rows_in_a_bucket_as_in_a_folder(crawl, location, bucket):
    for store in (location, bucket):
        run_night(store, crawl, batches=1)  # interrupted, and gone on with
        night = run_night(store, crawl)
        assert len(audited(store, night)) == 6
        build(open_store(store))
    assert rows(bucket) == rows(location)
    assert len(open_store(bucket).place.names("parts/audits")) == 1  # merged
    assert audited(bucket, run_night(bucket, crawl, TOMORROW)) == []
    assert night.night == TODAY


@pytest.mark.prefect
@pytest.mark.slow
def test_a_night_in_a_bucket_is_published_and_told_of_like_any_other(night, tmp_path, bucket):
    with StandIn(repos(12)) as hub:
        assert finished(night(hub, tmp_path / "store"))[0] == 0
        status, out, err = finished(night(hub, bucket))
    assert status == 0, err
    assert rows(bucket) == rows(tmp_path / "store")
    assert f"Site      {bucket}/site/index.html" in out
    assert f"normaudit sql --store {bucket}" in out
    assert b"org/gpt2-1" in open_store(bucket).place.read("site/index.html")
    told = normaudit("sql", "SELECT count(gamma) AS scales FROM kernels", "--store", bucket, "--format", "csv")
    assert (told.returncode, told.stdout, told.stderr) == (0, "scales\n12\n", "")
    told = normaudit("status", "--store", bucket)
    assert (told.returncode, told.stderr) == (0, "")
    assert "12 public models listed: ok 12" in told.stdout


@pytest.mark.prefect
@pytest.mark.slow
def test_killed_at_any_point_and_run_again_it_ends_with_the_same_rows(night, tmp_path, bucket, s3):
    with StandIn(repos(30)) as hub:
        hub.switches.latency_s = 0.05
        assert finished(night(hub, tmp_path / "undisturbed"))[0] == 0
        moments = [
            lambda: hub.requests,  # the listing is under way
            lambda: s3.asked("PUT", "plan.parquet"),  # it is planned
            lambda: len({part.path for part in s3.asked("PUT", ".parquet") if "/audits/" in part.path}) >= 2,
            lambda: s3.asked("PUT", "audit.duckdb"),  # it is being published
        ]
        s3.requests.clear()
        for moment in moments:
            hub.clear()
            process = night(hub, bucket)
            while not moment():
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert finished(night(hub, bucket))[0] == 0
    assert found(bucket) == found(tmp_path / "undisturbed")
    build(open_store(bucket))
    assert found(bucket) == found(tmp_path / "undisturbed")


@pytest.mark.prefect
@pytest.mark.slow
def test_a_second_night_on_the_same_bucket_refuses_and_names_the_first(night, bucket):
    with StandIn(repos()) as hub, hold_lease(open_store(bucket), "the first night") as lease:
        status, _, err = finished(night(hub, bucket))
    assert status == 2
    assert f"{bucket} is held by the first night (host {lease.holder.host}, pid {lease.holder.pid}" in err
    assert len(err.strip().splitlines()) == 1
    assert hub.requests == []


@pytest.mark.parametrize("command", [("sql", "SELECT 1"), ("status",), ("leaderboard",)])
def test_what_is_wrong_with_a_bucket_is_told_in_a_line(bucket, own_home, command):
    told = normaudit(*command, "--store", "s3://missing/store")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.count("\n") == 1
    assert "there is no bucket s3://missing; create it, or name another store" in told.stderr
