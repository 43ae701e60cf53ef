"""What is known of one of the Hub's quotas, and how long a number of requests takes within it."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Requests for files that go with requests to the API, in the same time, by the Hub's documented tiers.
RESOLVERS_OF_API = {500: 3_000, 1_000: 5_000, 2_500: 12_000, 3_000: 20_000, 6_000: 50_000}


@dataclass(frozen=True, slots=True)
class Quota:
    """One quota as this process may use it.

    Attributes:
        limit: requests of the token in a window.
        window_s: length of a window.
        share: part of the limit that is this process's.
        left: requests that this process may still send in the window that runs.
        resets_in_s: until that window ends.
    """

    limit: int
    window_s: float
    share: float
    left: int
    resets_in_s: float

    @property
    def own_limit(self) -> int:
        """Requests of this process in a window."""
        return max(1, math.floor(self.limit * self.share))

    def seconds_for(self, requests: float) -> float:
        """Return the seconds that so many requests take if nothing but the quota holds them up."""
        beyond = max(0.0, requests - self.left)
        if not beyond:
            return 0.0
        full_windows = math.ceil(beyond / self.own_limit) - 1
        rest = beyond - full_windows * self.own_limit
        return self.resets_in_s + (full_windows + rest / self.own_limit) * self.window_s


def resolvers_beside(api: Quota) -> Quota | None:
    """Return the quota of files that goes with an API's, untouched; None where it is that of no known tier."""
    limit = RESOLVERS_OF_API.get(api.limit)
    if limit is None:
        return None
    untouched = Quota(limit, api.window_s, api.share, 0, 0.0)
    return Quota(limit, api.window_s, api.share, untouched.own_limit, api.window_s)
