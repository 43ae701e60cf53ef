"""The limiter against a simulated Hub: fixed windows, answers that come late, out of order, or never.

"Late" is up to 0.4 of a window: the Hub's are 300 seconds long, and a request is given up after 120.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.hub.pace import POLL_S, Pace, Turn


class Clock:
    """Monotonic seconds that pass only when told to."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class Quota:
    """A quota as the Hub keeps it: counts of fixed windows, which follow the clock or open with a first request."""

    clock: Clock
    limit: int
    window_s: float
    follows_clock: bool = True
    used: int = 0
    ends_at: float = -math.inf
    most_used: int = 0
    total: int = 0

    def open_window(self) -> None:
        """Begin to count anew."""
        now = self.clock.now
        self.used, self.ends_at = 0, (now - now % self.window_s if self.follows_clock else now) + self.window_s

    def count(self) -> dict[str, str]:
        """Count one request; return the headers of its answer."""
        if self.clock.now >= self.ends_at:
            self.open_window()
        self.used += 1
        self.total += 1
        self.most_used = max(self.most_used, self.used)
        return {
            "RateLimit": f'"api";r={max(0, self.limit - self.used)};t={math.floor(self.ends_at - self.clock.now)}',
            "RateLimit-Policy": f'"fixed window";"api";q={self.limit};w={self.window_s:.0f}',
        }


@dataclass
class World:
    """Requests on their way to the Hub, and answers on their way back, moved one step at a time in any order."""

    quota: Quota
    workers: list[Pace]
    sent: list[Turn] = field(default_factory=list)
    answered: list[tuple[Turn, dict[str, str]]] = field(default_factory=list)
    heard: set[int] = field(default_factory=set)

    def step(self, kind: str, pick: int) -> None:
        if kind == "wait":
            self.wait(pick / 10)
        elif kind == "ask":
            turn = self.workers[pick % len(self.workers)].turn("api")
            if turn.ask() == 0.0:
                self.sent.append(turn)
        elif kind == "arrive" and self.sent:
            turn = self.sent.pop(pick % len(self.sent))
            self.answered.append((turn, self.quota.count()))
        elif kind in ("hear", "lose") and self.answered:
            turn, headers = self.answered.pop(pick % len(self.answered))
            with turn:
                if (
                    kind == "hear" or id(turn.pace) not in self.heard
                ):  # a quota that no answer has told yet cannot be kept
                    turn.answered(headers)
                    self.heard.add(id(turn.pace))

    def wait(self, seconds: float) -> None:
        """Let time pass; what would then be under way for longer than a client waits is counted and answered first."""
        latest = self.quota.clock.now + seconds - 0.4 * self.quota.window_s
        while any(turn.granted_at < latest for turn in self.sent):
            self.step("arrive", 0)
        while any(turn.granted_at < latest for turn, _ in self.answered):
            self.step("hear", 0)
        self.quota.clock.now += seconds


KINDS = ("wait", "ask", "ask", "ask", "arrive", "arrive", "hear", "hear", "lose")


@given(
    seed=st.integers(0, 2**32),
    workers=st.integers(1, 3),
    limit=st.integers(3, 12),
    used_before=st.floats(0, 1, exclude_max=True),
    window_s=st.integers(5, 30),
    follows_clock=st.booleans(),
    longest_wait=st.integers(1, 200),
)
@settings(max_examples=300, deadline=None)
def test_no_window_ever_counts_more_than_the_quota(
    seed: int, workers: int, limit: int, used_before: float, window_s: int, follows_clock: bool, longest_wait: int
) -> None:
    clock, rng = Clock(), random.Random(seed)
    quota = Quota(clock, limit, window_s, follows_clock)
    quota.open_window()
    quota.used = int(used_before * limit) if workers == 1 else 0
    world = World(quota, [Pace(1 / workers, clock) for _ in range(workers)])
    kinds = KINDS if follows_clock else KINDS[:-1]  # where a window begins is not known for sure when answers get lost
    for _ in range(500):
        world.step(rng.choice(kinds), rng.randrange(longest_wait))
        assert world.quota.most_used <= limit


def crawl(pace: Pace, quota: Quota, seconds: float, in_flight: int, latency_s: float = 0.05) -> None:
    """Send as many requests as the limiter lets through, some at once, each answered after the latency."""
    ends_at = quota.clock.now + seconds
    under_way: list[tuple[float, Turn, dict[str, str]]] = []
    while quota.clock.now < ends_at:
        while len(under_way) < in_flight and (turn := pace.turn("api")).ask() == 0.0:
            under_way.append((quota.clock.now + latency_s, turn, quota.count()))
        quota.clock.now += latency_s / 4
        for entry in [entry for entry in under_way if entry[0] <= quota.clock.now]:
            under_way.remove(entry)
            entry[1].answered(entry[2])


@pytest.mark.parametrize("in_flight", [1, 16, 64])
@pytest.mark.parametrize("follows_clock", [True, False])
def test_a_crawl_uses_nearly_all_of_the_quota_and_never_more(in_flight: int, follows_clock: bool) -> None:
    clock = Clock(now=1_200.0)
    quota = Quota(clock, limit=1_000, window_s=300, follows_clock=follows_clock)
    crawl(Pace(clock=clock), quota, seconds=900, in_flight=in_flight)
    assert quota.most_used <= 1_000
    assert quota.total >= 3 * 900


def test_workers_that_share_a_token_stay_within_one_quota() -> None:
    clock = Clock(now=1_200.0)
    quota = Quota(clock, limit=200, window_s=300)
    workers = [Pace(share=0.25, clock=clock) for _ in range(4)]
    for worker in workers:
        for _ in range(200):
            turn = worker.turn("api")
            if turn.ask() == 0.0:
                turn.answered(quota.count())
            clock.now += 0.01
    assert 0.5 * 200 < quota.most_used <= 200


def test_the_last_requests_of_a_quota_are_spread_over_what_is_left_of_the_window() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    turn = pace.turn("api")
    turn.ask()
    turn.answered({"RateLimit": '"api";r=11;t=99', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'})
    assert pace.turn("api").ask() == 0.0
    assert pace.turn("api").ask() == pytest.approx(98 / 11)  # t is in whole seconds, and may be a second old


def test_only_one_request_is_under_way_until_the_first_answer() -> None:
    pace = Pace(clock=Clock())
    first, second = pace.turn("api"), pace.turn("api")
    assert (first.ask(), second.ask()) == (0.0, POLL_S)
    first.answered({})
    assert second.ask() == 0.0


def test_a_request_that_was_never_answered_tells_nothing() -> None:
    pace = Pace(clock=Clock())
    with pace.turn("api") as lost:
        assert lost.ask() == 0.0
    assert pace.turn("api").ask() == 0.0
    assert pace.turn("api").ask() == POLL_S


def test_a_server_without_quotas_is_not_slowed_down() -> None:
    pace = Pace(clock=Clock())
    first = pace.turn("api")
    first.ask()
    first.answered({"Content-Type": "text/plain"})
    assert [pace.turn("api").ask() for _ in range(1_000)] == [0.0] * 1_000


def test_a_429_stops_all_requests_of_its_bucket_until_the_window_ends() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    first = pace.turn("api")
    first.ask()
    first.answered({"RateLimit": '"api";r=0;t=55'}, wait_s=55.0)
    assert pace.turn("api").ask() == 56.0  # t is in whole seconds
    assert pace.turn("resolvers").ask() == 0.0
    clock.now += 56.0
    assert pace.turn("api").ask() == 0.0


def test_a_wait_asked_for_by_retry_after_stops_the_bucket_too() -> None:
    pace = Pace(clock=Clock())
    first = pace.turn("api")
    first.ask()
    first.answered({}, wait_s=7.0)
    assert pace.turn("api").ask() == 8.0


def test_an_answer_counts_for_the_bucket_that_it_names() -> None:
    pace = Pace(clock=Clock())
    first = pace.turn("resolvers")
    first.ask()
    first.answered({"RateLimit": '"api";r=0;t=10'})
    assert pace.turn("resolvers").ask() == 0.0
    assert pace.turn("api").ask() == 11.0


@pytest.mark.parametrize("t", ["99999999999", "9" * 5_000])
def test_a_window_of_absurd_length_is_not_believed(t: str) -> None:
    pace = Pace(clock=Clock())
    first = pace.turn("api")
    first.ask()
    first.answered({"RateLimit": f'"api";r=0;t={t}'})
    assert pace.turn("api").ask() <= 3_601.0


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_is_a_part_of_the_quota(share: float) -> None:
    with pytest.raises(ValueError, match="share is"):
        Pace(share=share)
