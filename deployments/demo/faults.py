"""Faults that the stand-in can be told to show: when each strikes, and what is left of a reply then.

What the kinds do is told where they are written: `hub_faults` for the Hub's own answers, `data_faults` for those that
carry a file's bytes.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from deployments.demo import data_faults, hub_faults  # noqa: F401 - importing them makes their kinds known
from deployments.demo.fault_kinds import KINDS, Asked, Kind, Stage
from deployments.demo.replies import Reply

__all__ = ["KINDS", "Asked", "Fault", "Kind", "Stage", "with_faults"]

_counting = threading.Lock()


@dataclass
class Fault:
    """A fault to show, always or a number of times.

    Attributes:
        kind: one of `KINDS`.
        repo_id: the repo that shows it; every repo if None.
        path: the file that shows it; if None any file, or for faults of a file's bytes any large file.
        times: how often it is still to be shown, None for always; counted down.
    """

    kind: str
    repo_id: str | None = None
    path: str | None = None
    times: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault is called {self.kind!r}; there are {', '.join(KINDS)}")

    def strikes(self, stage: Stage, asked: Asked) -> bool:
        """Return whether this fault shows in the reply to a request, and if so count it."""
        chosen = stage == KINDS[self.kind].stage and self.repo_id in (None, asked.repo_id)
        wanted = self.path == asked.path if self.path else stage != "data" or asked.large
        if not (chosen and wanted):
            return False
        with _counting:
            if self.times is not None:
                self.times -= 1
            return self.times is None or self.times >= 0


def with_faults(reply: Reply, faults: list[Fault], stage: Stage, asked: Asked) -> Reply:
    """Return the reply as the faults that strike leave it."""
    for fault in list(faults):
        if fault.strikes(stage, asked):
            reply = KINDS[fault.kind].effect(reply, asked)
    return reply
