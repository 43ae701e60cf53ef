"""A night within the Hub's quotas: against the stand-in's real 429s, and what is said of it beforehand."""

import asyncio
import time
from contextlib import aclosing

import pytest

from deployments.demo.standin import StandIn, Switches
from tasks.batch import Refusal, audit_models
from tasks.core.reading import ReadOptions
from tasks.core.records import Listing, RepoFile
from tasks.hub import HubOptions, Learned, Pace
from tasks.hub.pace import Turn
from tasks.hub.quota import RESOLVERS_OF_API, Quota, resolvers_beside
from tasks.outlook import outlook, requests_expected, span
from tests.checkpoints import GPT2_CONFIG, gpt2
from tests.hub_tools import listed
from tests.nights import repo

PLENTY = (1_000_000, 300.0)
WINDOW_S = 3.0


class Stamped(list):
    """A log that knows when each of its entries came."""

    def __init__(self):
        super().__init__()
        self.times = []

    def append(self, entry):
        self.times.append(time.monotonic())
        super().append(entry)


@pytest.fixture(scope="module")
def stock():
    template = repo("org/model", gpt2(), GPT2_CONFIG)
    return [type(template)(f"org/model-{number}", template.files) for number in range(150)]


def crawled(stock, quota, workers):
    """Audit models with some workers at once, each with its part of a quota of files; return the stand-in's log."""
    hub = StandIn(stock, switches=Switches(limits={"api": PLENTY, "resolvers": (quota, WINDOW_S)}))
    hub.requests = Stamped()

    async def work(listings):
        options = HubOptions(hub.endpoint, retries=0)
        learned = Learned(Pace(1 / workers))
        audits = audit_models(listings, options, ReadOptions(), concurrency=8, learned=learned)
        async with aclosing(audits):
            return [audit.reading.status async for audit in audits]

    async def all_work():
        return await asyncio.gather(*(work([*map(listed_with_files, stock[i::workers])]) for i in range(workers)))

    with hub:
        statuses = asyncio.run(all_work())
    assert {status for found in statuses for status in found} == {"ok"}
    return hub.requests


def listed_with_files(found):
    return listed(found, files=tuple(map(RepoFile, found.files)), config=GPT2_CONFIG)


def windows_of(log):
    """Return how many requests for files came in each window; it opens with a first request, as the stand-in's does."""
    times = [at for at, record in zip(log.times, log, strict=True) if "/resolve/" in record.path]
    counts, ends_at = [], 0.0
    for at in times:
        if at >= ends_at:
            counts, ends_at = [*counts, 0], at + WINDOW_S
        counts[-1] += 1
    return counts


@pytest.mark.parametrize(("workers", "quota"), [pytest.param(1, 40, marks=pytest.mark.slow), (3, 60)])
def test_a_crawl_at_a_small_limit_is_never_refused_and_uses_its_windows(stock, workers, quota):
    log = crawled(stock[: 2 * quota + 5], quota, workers)
    assert 429 not in {record.status for record in log}
    full = windows_of(log)[:-1]
    assert len(full) >= 2
    assert min(full) >= 0.9 * quota


def paced(share=1.0, **headers):
    pace = Pace(share, clock=lambda: 1_000.0)
    for bucket, (limit, left, seconds) in headers.items():
        turn: Turn = pace.turn(bucket)
        turn.ask()
        said = {"RateLimit": f'"{bucket}";r={left};t={seconds}', "RateLimit-Policy": f'"x";"{bucket}";q={limit};w=300'}
        turn.answered(said)
    return pace


def test_a_quota_tells_what_this_process_may_use_of_it():
    assert Pace().quota("api") is None
    quota = paced(share=0.5, api=(1_000, 900, 100)).quota("api")
    assert (quota.limit, quota.own_limit, quota.left, quota.window_s) == (1_000, 500, 499, 300.0)
    assert quota.resets_in_s == pytest.approx(100, abs=2)


def test_time_within_a_quota_is_that_of_the_windows_that_are_needed():
    quota = Quota(limit=1_000, window_s=300, share=0.5, left=200, resets_in_s=60)
    assert quota.seconds_for(200) == 0
    assert quota.seconds_for(450) == 60 + 150
    assert quota.seconds_for(700) == 60 + 300
    assert quota.seconds_for(200 + 500 * 12) == 60 + 12 * 300


def test_the_quota_of_files_follows_from_the_tier_until_it_is_known():
    [(api, files), *_] = RESOLVERS_OF_API.items()
    guessed = resolvers_beside(paced(api=(api, 1, 7)).quota("api"))
    assert (guessed.limit, guessed.left) == (files, files)
    assert resolvers_beside(paced(api=(77, 1, 7)).quota("api")) is None


@pytest.mark.parametrize(
    ("requests", "pace", "said"),
    [
        (65_000, paced(api=(1_000, 990, 200)), "65,000 requests to the Hub: 1 h 5 min at this token's 5,000 in 300 s"),
        (900, paced(api=(1_000, 990, 200)), "900 requests to the Hub: within this token's 5,000 in 300 s"),
        (900, paced(0.25, resolvers=(3_000, 3_000, 299)), "of which 750 are for this process"),
        (900, paced(), "how many it allows is not known yet"),
    ],
)
def test_a_night_says_beforehand_how_long_its_requests_take(requests, pace, said):
    assert said in outlook(requests, pace)


@pytest.mark.parametrize(
    ("paths", "requests"),
    [
        (["model.safetensors", "config.json"], 1),
        (["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], 3),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], 2),
        (["pytorch_model.bin"], 0),
        ([], 0),
    ],
)
def test_the_files_of_a_repo_tell_how_many_requests_it_takes(paths, requests):
    assert requests_expected(Listing("org/m", files=tuple(map(RepoFile, paths)))) == requests


def test_a_repo_that_the_listing_answers_for_takes_no_request():
    assert requests_expected(Refusal("org/m", "not_found", "gone")) == 0
    assert requests_expected(Listing("org/m", files=(RepoFile("model.safetensors"),), disabled=True)) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (3_700, "1 h 1 min"), (2 * 86_400 + 3_600, "2 d 1 h")],
)
def test_a_span_is_told_in_its_two_largest_units(seconds, words):
    assert span(seconds) == words
