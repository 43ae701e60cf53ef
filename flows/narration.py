"""A night's log as people read it: one line that keeps up on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from flows import output
from tasks.core.errors import shown
from tasks.hub.quota import Quota
from tasks.outlook import span

LINE_EVERY_S = 60.0  # in a log; a night takes hours
SURE_AFTER_S = 2.0  # the first models tell little of how fast it will go on


@dataclass(slots=True)
class Tally:
    """How far a night is.

    Attributes:
        clock: monotonic seconds.
        planned: models that this process is to audit; None: not known yet.
        audited: of these.
        requests: to the Hub, for them.
        quota: what the Hub had left when last heard of, and when that was.
    """

    clock: Callable[[], float]
    planned: int | None = None
    audited: int = 0
    requests: int = 0
    quota: Quota | None = None
    heard_at: float = 0.0
    began_at: float = 0.0

    def count(self, audited: int, requests: int, quota: Quota | None) -> None:
        """Take in that models were audited."""
        self.heard_at = self.clock()
        self.began_at = self.began_at or self.heard_at
        self.audited += audited
        self.requests += requests
        self.quota = quota

    def line(self) -> str:
        """Return all of it in one line."""
        of = f" of {self.planned:,}" if self.planned is not None else ""
        found = (f"audited {self.audited:,}{of}", self._speed(), self._quota(), self._rest())
        return ", ".join(part for part in found if part)

    def _seconds(self) -> float:
        return self.clock() - self.began_at

    def _speed(self) -> str:
        return f"{self.audited / self._seconds():.3g} models/s" if self._seconds() >= SURE_AFTER_S else ""

    def _quota(self) -> str:
        if self.quota is None:
            return ""
        wait_s = max(0.0, self.quota.resets_in_s - (self.clock() - self.heard_at))
        return f"{self.quota.left:,} requests left for {span(wait_s)}"

    def _rest(self) -> str:
        if self.planned is None or not self.audited or self._seconds() < SURE_AFTER_S:
            return ""
        left = self.planned - self.audited
        by_speed = left * self._seconds() / self.audited
        by_quota = self.quota.seconds_for(left * self.requests / self.audited) if self.quota else 0.0
        return f"{span(max(by_speed, by_quota))} to go" if left > 0 else ""


@contextmanager
def narrated(clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Tell on stderr, for the length of a block, what `normaudit` logs."""
    console, tally = output.messages(), Tally(clock)
    columns = (TextColumn("normaudit:"), BarColumn(20), _Line(tally))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        handler = _Narrator(progress, console, tally)
        log = logging.getLogger("normaudit")
        before = log.level, log.propagate
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False  # Prefect's own handler would tell it a second time
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(before[0])
            log.propagate = before[1]


class _Line(ProgressColumn):
    """What stands beside the bar."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    def render(self, task: Task) -> Text:
        """Return the listing's progress, then the audits'."""
        return Text(self._tally.line() if self._tally.audited else task.description)


class _Narrator(logging.Handler):
    """Turns records that carry figures (listed, planned, audited) into the line's movement, all others into lines."""

    def __init__(self, progress: Progress, console: Console, tally: Tally) -> None:
        super().__init__(logging.INFO)
        self._progress = progress
        self._console = console
        self._tally = tally
        self._bar = progress.add_task("", total=None)
        self._told_at = tally.clock()

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        figures = vars(record)
        if "audited" in figures:
            self._tally.count(figures["audited"], figures["hub_requests"], figures["quota"])
            self._progress.update(self._bar, completed=self._tally.audited, total=self._tally.planned)
            self._now_and_then(self._tally.line())
        elif "listed" in figures:
            self._progress.update(self._bar, description=record.getMessage())
            self._now_and_then(record.getMessage())
        else:
            self._tally.planned = figures.get("planned", self._tally.planned)
            self._tell(record.getMessage())

    def _now_and_then(self, text: str) -> None:
        now = self._tally.clock()
        if not self._progress.disable or now - self._told_at < LINE_EVERY_S:
            return
        self._told_at = now
        self._tell(text)

    def _tell(self, text: str) -> None:
        self._console.print(f"normaudit: {shown(text, output.MAX_MESSAGE_CHARS)}", markup=False)
