"""How long a night will take: the requests that its models need, within the token's quota."""

from __future__ import annotations

from tasks.batch import Refusal
from tasks.core.records import Listing
from tasks.core.selection import select_checkpoint
from tasks.hub.pace import Pace
from tasks.hub.quota import resolvers_beside

FILES = "resolvers"  # the quota that nearly all of a night's requests count against


def requests_expected(item: Listing | Refusal) -> int:
    """Return the requests to the Hub that a repo's final norm takes where addresses serve more than one range.

    One leads to a single file, one more to an index and one to that; shards without an index are all opened.
    """
    if isinstance(item, Refusal) or item.disabled:
        return 0
    checkpoint = select_checkpoint(item.files)
    if checkpoint is None:
        return 0
    return 3 if checkpoint.index else len(checkpoint.weights)


def outlook(requests: int, pace: Pace) -> str:
    """Return in words how long so many requests for files take at this token's limits, as far as they are known."""
    api, quota = pace.quota("api"), pace.quota(FILES)
    quota = quota or (resolvers_beside(api) if api else None)
    needed = f"about {requests:,} requests to the Hub"
    if quota is None:
        return f"{needed}; how many it allows is not known yet"
    seconds = quota.seconds_for(requests)
    limits = f"this token's {quota.limit:,} in {quota.window_s:.0f} s"
    own = f", of which {quota.own_limit:,} are for this process" if quota.share < 1 else ""
    return f"{needed}: {f'{span(seconds)} at' if seconds else 'within'} {limits}{own}"


def span(seconds: float) -> str:
    """Return a length of time in its two largest units."""
    whole = round(seconds)
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
