"""How fast to ask: one limiter for each of the Hub's quotas, fed by the RateLimit headers of its answers.

The Hub counts requests in windows of fixed length. Each answer says how many are left (r) and for how many seconds
(t), as of the moment it was made, so with many requests under way it is old news: those without an answer may or may
not be in it. The limiter therefore counts them all, and lets a request through only if even the worst case stays within
the quota.

A limiter knows no event loop: it says how long to wait, and whoever asks waits. Under a thread task runner one `Pace`
serves the loops of all threads.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType

from huggingface_hub.utils import RateLimitInfo, parse_ratelimit_headers  # type: ignore[attr-defined]  # not in __all__

from tasks.hub.quota import Quota

SPREAD_FRACTION = 0.2  # of a quota: below this, what is left is spread evenly over what is left of the window
POLL_S = 0.05  # about a round trip: the wait of a request that depends on the answers to others
ROUNDING_S = 1.0  # t is in whole seconds
USUAL_WINDOW_S = 300.0  # the Hub's own; used where a header names none
LONGEST_WINDOW_S = 3_600.0  # a header that claims more is not believed
MAX_BUCKETS = 16  # the Hub has three; names come from outside


class Pace:
    """The limiter that all requests of a process to the Hub pass.

    Args:
        share: part of the quota that this process may use, in (0, 1]; 1/workers where several share a token.
        clock: monotonic seconds.
    """

    def __init__(self, share: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; it is a part of the quota, above 0 and at most 1")
        self._share = share
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}

    def turn(self, bucket: str) -> Turn:
        """Return a turn for one request that the Hub counts in this bucket ("api" or "resolvers")."""
        return Turn(self, bucket)

    def quota(self, bucket: str) -> Quota | None:
        """Return what is known of a quota now; None before the first answer that told it."""
        with self._lock:
            found = self._buckets.get(bucket)
            return found.told(self._clock()) if found else None

    def _ask(self, turn: Turn) -> float:
        with self._lock:
            return self._bucket(turn.bucket).ask(turn, self._clock())

    def _end(self, turn: Turn, info: RateLimitInfo | None, is_answered: bool) -> None:
        with self._lock:
            bucket, now = self._bucket(turn.bucket), self._clock()
            bucket.heard |= is_answered
            if info is not None and info.resource_type != turn.bucket:
                bucket.end(turn, None, now)
                self._bucket(info.resource_type).learn(info, turn.granted_at, now, is_current=False)
            else:
                bucket.end(turn, info, now)

    def _bucket(self, name: str) -> _Bucket:
        if name not in self._buckets and len(self._buckets) >= MAX_BUCKETS:
            name = "other"
        return self._buckets.setdefault(name, _Bucket(self._share))


@dataclass(slots=True, eq=False)
class Turn:
    """One request's passage: `ask` until it may be sent, then `answered`; leaving the `with` block ends it anyway."""

    pace: Pace
    bucket: str
    window: int | None = None  # number of the window in which it was let through; None: not under way
    granted_at: float = 0.0

    def ask(self) -> float:
        """Return 0.0 if the request may be sent now, else the seconds after which to ask again."""
        return self.pace._ask(self)

    def answered(self, headers: Mapping[str, str], wait_s: float | None = None) -> None:
        """Take note of an answer's RateLimit headers, and of the wait that it asked for."""
        info = quota_said(headers)
        if wait_s is not None:
            info = RateLimitInfo(info.resource_type if info else self.bucket, 0, math.ceil(wait_s))
        self._end(info, is_answered=True)

    def __enter__(self) -> Turn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(None, is_answered=False)

    def _end(self, info: RateLimitInfo | None, is_answered: bool) -> None:
        if self.window is not None:
            self.pace._end(self, info, is_answered)
            self.window = None


def quota_said(headers: Mapping[str, str]) -> RateLimitInfo | None:
    """Return what an answer's RateLimit headers say, or None where there are none that make sense."""
    try:
        return parse_ratelimit_headers(headers)
    except ValueError:  # a number of thousands of digits
        return None


@dataclass(slots=True)
class _Bucket:
    """One quota, as far as it is known.

    Attributes:
        heard: whether any answer has come of late; until then one request goes at a time.
        limit: requests allowed in a window, by everyone who shares the token; inf: not known.
        reset_at: when the window ends at the latest: never before the Hub's own end of it, once an answer confirmed it.
        runs_until: when it ends at the earliest.
        own_left: what this process may still send in this window, by its share.
        hub_left: the least that the Hub said is left.
        under_way: requests without an answer.
        unplaced: requests without a telling answer that the Hub may have counted in this window.
        unsure: requests that it may count in the next: those without such an answer, or answered near this one's end.
    """

    share: float
    heard: bool = False
    limit: float = math.inf
    window_s: float = USUAL_WINDOW_S
    window: int = 0
    reset_at: float = math.inf
    runs_until: float = math.inf
    confirmed: bool = False
    own_left: float = math.inf
    hub_left: float = math.inf
    under_way: int = 0
    unplaced: int = 0
    unsure: int = 0
    next_at: float = -math.inf

    def ask(self, turn: Turn, now: float) -> float:
        if now >= self.reset_at:
            self._pass_to_next_window(now)
        if not self.heard and self.under_way:
            return POLL_S
        if self._free() < 1:
            answers_may_free_one = min(self.own_left, self.hub_left - self.unplaced) >= 1
            return POLL_S if answers_may_free_one else max(self.reset_at - now, POLL_S)
        if now < self.next_at:
            return self.next_at - now
        self._grant(turn, now)
        return 0.0

    def told(self, now: float) -> Quota | None:
        if self.limit == math.inf:
            return None
        if now >= self.reset_at:
            self._pass_to_next_window(now)
        left, resets_in_s = max(0, math.floor(self._free())), max(0.0, self.reset_at - now)
        return Quota(int(self.limit), self.window_s, self.share, left, resets_in_s)

    def end(self, turn: Turn, info: RateLimitInfo | None, now: float) -> None:
        """Close a turn, with what its answer said of this quota; None: there was no answer, or it said nothing."""
        self.under_way -= 1
        is_current = turn.window == self.window
        if info is not None and not is_current and self._is_of_an_earlier_window(info, now):
            info = None
        self.unsure += info is None or now >= self.runs_until
        if info is None:
            self.unplaced += 1
        else:
            self.learn(info, turn.granted_at, now, is_current=is_current)

    def learn(self, info: RateLimitInfo, granted_at: float, now: float, *, is_current: bool) -> None:
        """Take over what an answer says of the quota, and of the window's end if it was asked for in this window."""
        self.heard = True
        if info.limit and info.window_seconds:
            self.limit, self.window_s = float(info.limit), min(float(info.window_seconds), LONGEST_WINDOW_S)
        seconds = min(float(info.reset_in_seconds), LONGEST_WINDOW_S)
        end_at_latest = now + seconds + ROUNDING_S
        if self.reset_at == math.inf or granted_at + seconds - ROUNDING_S > self.reset_at:
            self._open_window(end_at_latest, float(info.remaining))
            self.runs_until = granted_at + seconds - ROUNDING_S
            self.own_left -= 1  # the request that brought this answer
            self.confirmed = True
            return
        self.hub_left = min(self.hub_left, float(info.remaining))
        if is_current:
            self.reset_at = min(self.reset_at, end_at_latest) if self.confirmed else end_at_latest
            self.confirmed = True
        elif not self.confirmed:
            self.reset_at = max(self.reset_at, end_at_latest)

    def _is_of_an_earlier_window(self, info: RateLimitInfo, now: float) -> bool:
        return now + info.reset_in_seconds + ROUNDING_S < self.reset_at - self.window_s / 2

    def _pass_to_next_window(self, now: float) -> None:
        windows = 1 + (now - self.reset_at) // self.window_s
        self.runs_until += windows * self.window_s
        self._open_window(self.reset_at + windows * self.window_s, self.limit)
        self.confirmed = False
        self.heard = self.limit < math.inf

    def _open_window(self, reset_at: float, hub_left: float) -> None:
        self.window += 1
        self.reset_at, self.next_at = reset_at, -math.inf
        self.hub_left = hub_left
        share = max(1, math.floor(self.limit * self.share)) if self.limit < math.inf else math.inf
        self.own_left = share - self.under_way - self.unsure
        self.unplaced, self.unsure = self.unsure, 0

    def _free(self) -> float:
        return min(self.own_left, self.hub_left - self.unplaced - self.under_way)

    def _grant(self, turn: Turn, now: float) -> None:
        turn.window, turn.granted_at = self.window, now
        self.under_way += 1
        self.own_left -= 1
        free = self._free()
        if self.reset_at < math.inf and (self.limit == math.inf or free < SPREAD_FRACTION * self.limit * self.share):
            self.next_at = now + max(0.0, self.runs_until - now) / (free + 1)
