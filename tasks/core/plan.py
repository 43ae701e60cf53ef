"""What a reading plan is: a generator that yields what it wants to fetch, is sent the answers, and returns a result.

Whoever runs it (a Hub client over the network, a folder reader on a disk, a test with bytes in hand) decides how bytes
are had:

    plan = read_checkpoint(listing, options)
    fetches = next(plan)             # a tuple of Fetch, wanted at once
    fetches = plan.send(answers)     # one Chunk, or one AuditError, for each
    ...                              # until StopIteration carries the Reading
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

from tasks.core.errors import AuditError
from tasks.core.records import Chunk, Fetch

T = TypeVar("T")
Answers: TypeAlias = tuple[Chunk | AuditError, ...]
Plan: TypeAlias = Generator[tuple[Fetch, ...], Answers, T]


def needed(answer: Chunk | AuditError) -> Chunk:
    """Return an answer that the plan cannot do without; raise the error that came in its place."""
    if isinstance(answer, AuditError):
        raise answer
    return answer
