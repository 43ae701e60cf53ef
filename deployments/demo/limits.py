"""Request limits as the Hub counts them: a fixed window and a quota for each bucket, told in headers."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Literal

Bucket = Literal["api", "resolvers"]


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one request finds: whether it may pass, and the headers that say what is left."""

    passes: bool
    headers: dict[str, str]


@dataclass
class FixedWindows:
    """Counts the requests of each bucket; a window opens with its first request."""

    _used: dict[str, int] = field(default_factory=dict)
    _ends_at: dict[str, float] = field(default_factory=dict)

    def take(self, bucket: Bucket, quota: int, window_s: float) -> Allowance:
        """Count one request against a bucket that takes `quota` of them in `window_s` seconds."""
        now = time.monotonic()
        if now >= self._ends_at.get(bucket, 0.0):
            self._used[bucket], self._ends_at[bucket] = 0, now + window_s
        self._used[bucket] += 1
        left, wait_s = max(0, quota - self._used[bucket]), math.ceil(self._ends_at[bucket] - now)
        headers = {
            "RateLimit": f'"{bucket}";r={left};t={wait_s}',
            "RateLimit-Policy": f'"fixed window";"{bucket}";q={quota};w={window_s:g}',
        }
        return Allowance(self._used[bucket] <= quota, headers)
