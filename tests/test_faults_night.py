"""What may happen to a night from outside: the Hub changes, the disk fills, the clock jumps, another runs too."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from deployments.demo.catalogue import BytesContent
from deployments.demo.standin import Fault, StandIn
from storage.database import build, open_database
from storage.errors import StoreError
from storage.lease import hold_lease
from storage.nights import night_summaries, unfinished_nights
from storage.parts import live_parts
from storage.store import Store, open_store
from tasks import night as stages
from tasks.core.errors import Failed
from tasks.night import Crawl, Night
from tests.checkpoints import GPT2_CONFIG, gpt2, safetensors_file
from tests.nights import PLENTY, TODAY, TOMORROW, audited, crawl_with, repo, rows, run_night

NEW_SHA = "f" * 40


def planned(location: str, crawl: Crawl) -> Night:
    """List and plan a night, and read nothing yet."""
    night = stages.begin_night(location, TODAY)
    stages.plan_night(night, crawl)
    return night


def gammas(location: str) -> dict[str, list[float]]:
    """Return the final scale of each model in a store."""
    build(open_store(location))
    with open_database(open_store(location)) as database:
        return dict(database.execute("SELECT repo_id, gamma FROM kernels").fetchall())


# Between listing and reading


def test_a_commit_that_is_made_after_the_listing_is_left_to_another_night(own_hub, crawl, location) -> None:
    planned(location, crawl)
    changed = own_hub.repos["org/gpt2-1"]
    changed.commit(NEW_SHA, changed.files | {"model.safetensors": BytesContent(safetensors_file(gpt2(seed=99)))})
    night = run_night(location, crawl)
    assert ("org/gpt2-1", "ok") in audited(location, night)
    first = gammas(location)["org/gpt2-1"]
    assert first == pytest.approx(gpt2(seed=1)["ln_f.weight"], rel=1e-6)
    assert audited(location, run_night(location, crawl, TOMORROW), "repo_id", "sha") == [("org/gpt2-1", NEW_SHA)]


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("deleted", "not_found"),
        ("revision_gone", "not_found"),
        ("gated_meanwhile", "gated"),
        ("disabled_meanwhile", "disabled"),
        ("bare_401", "not_found"),
        ("hub_503", "failed"),
    ],
)
def test_what_becomes_of_a_repo_after_the_listing_is_its_answer_and_costs_no_other(
    own_hub: StandIn, crawl: Crawl, location: str, fault: str, status: str
) -> None:
    planned(location, crawl)
    own_hub.switches.faults.append(Fault(fault, repo_id="org/llama-2"))
    found = dict(audited(location, run_night(location, crawl)))
    assert found.pop("org/llama-2") == status
    assert set(found.values()) == {"ok"}


def test_a_repo_that_is_replaced_by_another_is_not_read_for_the_one_that_was_listed(own_hub, crawl, location) -> None:
    planned(location, crawl)
    own_hub.repos["org/llama-2"] = repo("org/llama-2", gpt2(seed=7), GPT2_CONFIG, sha=NEW_SHA)
    assert dict(audited(location, run_night(location, crawl)))["org/llama-2"] == "not_found"


@pytest.mark.parametrize(
    "fault",
    ["listing_stalls", "listing_stalls_half_way", "listing_breaks_off", "listing_503", "listing_html"],
)
def test_a_listing_that_fails_plans_nothing_and_the_next_try_begins_anew(
    own_hub: StandIn, location: str, fault: str
) -> None:
    crawl = crawl_with(own_hub, sources=({"top": 100},), limits={"retries": 0, "timeout_s": 1})
    own_hub.switches.faults.append(Fault(fault))
    with pytest.raises(Failed, match=r"^listing: "):
        planned(location, crawl)
    assert unfinished_nights(open_store(location)) == []
    own_hub.switches.faults.clear()
    assert len(audited(location, run_night(location, crawl))) == 6


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("only root can mount a small file system to fill")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_on_a_full_disk_a_night_stops_with_one_clear_error_and_goes_on_when_there_is_room(
    own_hub: StandIn, crawl: Crawl, location: str, small_disk: Path
) -> None:
    run_night(location, crawl)
    build(open_store(location))
    store = str(small_disk / "store")
    night = planned(store, crawl)
    asyncio.run(stages.audit_batch(night, crawl, 0, stages.remaining_budget(night, *PLENTY)))
    filled = small_disk / "filler"
    _fill(filled)
    with pytest.raises(StoreError, match=r"the disk is full \([\d,]+ bytes free\); free some space and run again"):
        run_night(store, crawl)
    with pytest.raises(StoreError, match=r"disk is full|No space left"):
        build(open_store(store))
    with pytest.raises(StoreError, match="the disk is full"), hold_lease(open_store(store), "another try"):
        pass
    assert stages.open_batches(night) == [1, 2]
    filled.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    run_night(store, crawl)
    build(open_store(store))
    found, wanted = rows(Path(store)), rows(Path(location))
    del found["audits"], wanted["audits"]  # this process knows the weights of the batch that was lost, and says so
    assert found == wanted
    assert audited(store, night) == [(name, "ok") for name in sorted(own_hub.repos)]


def _fill(path: Path) -> None:
    """Write to a file until its file system has no room left."""
    for size in (4096, 1):
        with path.open("ab", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break


# A clock that jumps


@pytest.mark.parametrize("days", [-400, -1, 1, 4_000])
def test_a_clock_that_jumps_costs_no_model_its_answer(own_hub: StandIn, crawl: Crawl, location: str, days: int) -> None:
    run_night(location, crawl)
    own_hub.clear()
    night = run_night(location, crawl, TODAY + timedelta(days))
    assert audited(location, night) == []
    assert [request.path for request in own_hub.requests] == ["/api/models"]
    build(open_store(location))
    assert len(rows(Path(location))["audits"]) == 6


def test_a_clock_that_jumps_in_the_middle_of_a_night_leaves_it_one_night(own_hub, crawl, location) -> None:
    first = run_night(location, crawl, batches=1)
    second = run_night(location, crawl, date(1999, 1, 1))
    assert (second.night, second.audit_id) == (first.night, first.audit_id)
    assert len(audited(location, second)) == 6
    [summary] = night_summaries(open_store(location))
    assert summary["audited"] == 6


def test_a_signed_url_is_used_whatever_the_clock_says(own_hub, crawl, location) -> None:
    own_hub.switches.url_lifetime_s = 1e9  # an expiry that a client with a clock of its own might doubt
    assert set(dict(audited(location, run_night(location, crawl))).values()) == {"ok"}


# Two at once


def test_two_runs_of_one_night_that_overlap_leave_each_row_once(own_hub, crawl, location, store: Store) -> None:
    night = planned(location, crawl)
    budget = stages.remaining_budget(night, *PLENTY)

    async def both() -> None:
        await asyncio.gather(*(stages.audit_batch(night, crawl, 0, budget) for _ in range(2)))

    asyncio.run(both())
    run_night(location, crawl)
    build(open_store(location))
    names = [row[0] for row in rows(Path(location))["audits"]]
    assert sorted(names) == sorted(own_hub.repos)
    assert len(live_parts(store, "audits")) == 1
