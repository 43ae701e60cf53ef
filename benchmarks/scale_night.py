"""One whole night in a process of its own, with or without Prefect: seconds and memory of each of its stages."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from benchmarks.reader_child import memory_bytes
from benchmarks.reader_process import Message, answer_lines

SAMPLE_S = 0.1
STAGES = ("plan", "renew", "audit", "rebuild", "publish", "end")  # tasks of `tasks.steps`
NO_STAGE = "between"  # what the flow does itself, and what Prefect does around the tasks


@dataclass
class Stages:
    """Seconds and highest memory of each stage, as they go by.

    Attributes:
        now: the stage that runs.
        began_s: when the first one began.
        ended_s: when the last one ended.
        seconds: by stage.
        peak_bytes: by stage.
        curve: (seconds, stage, memory), one sample after the other.
    """

    now: str = NO_STAGE
    began_s: float | None = None
    ended_s: float = 0.0
    seconds: Counter[str] = field(default_factory=Counter)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    curve: list[tuple[float, str, int]] = field(default_factory=list)

    def timed(self, stage: str, work: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Return the same work, on this clock."""

        @wraps(work)  # Prefect names a task's run by its parameters
        async def on_clock(*arguments: Any, **named: Any) -> Any:
            self.now, started = stage, time.perf_counter()
            self.began_s = self.began_s or started
            try:
                return await work(*arguments, **named)
            finally:
                self.now, self.ended_s = NO_STAGE, time.perf_counter()
                self.seconds[stage] += self.ended_s - started

        return on_clock

    def watch(self, ended: threading.Event) -> None:
        """Note this process's memory until the night ends."""
        started = time.perf_counter()
        while not ended.wait(SAMPLE_S):
            stage, used = self.now, memory_bytes("VmRSS")
            self.peak_bytes[stage] = max(self.peak_bytes.get(stage, 0), used)
            self.curve.append((round(time.perf_counter() - started, 1), stage, used))


def main() -> None:
    answer_lines(lambda question: measured(**question))


def measured(settings: Message, with_prefect: bool) -> Message:
    """Run one night and return what it took; imports and the server's start are not counted."""
    from flows.engine import prefect_api
    from flows.settings import NightlySettings

    wanted = NightlySettings.model_validate(settings)
    with prefect_api() if with_prefect else nullcontext():
        return asyncio.run(_measured(wanted, with_prefect))


async def _measured(settings: Any, with_prefect: bool) -> Message:
    stages, ended = Stages(), threading.Event()
    night = _night(stages, with_prefect)
    before_bytes = memory_bytes("VmRSS")
    watcher = threading.Thread(target=stages.watch, args=(ended,))
    watcher.start()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    state = await night(settings)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    ended.set()
    watcher.join()
    summary = state.data if isinstance(state.data, dict) else await state.aresult()
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "between_s": stages.ended_s - (stages.began_s or 0.0) - stages.seconds.total(),
        "seconds": stages.seconds,
        "before_bytes": before_bytes,
        "peak_bytes": stages.peak_bytes,
        "curve": stages.curve,
        "summary": {name: summary[name] for name in ("listed", "unchanged", "planned", "audited", "statuses")},
    }


def _night(stages: Stages, with_prefect: bool) -> Callable[[Any], Awaitable[Any]]:
    """Return the night's flow with its tasks on the clock; without Prefect its body and theirs alone."""
    from flows import audit
    from tasks import steps

    async def nothing(*_: Any) -> None:
        pass

    for stage in STAGES:
        task = getattr(steps, stage)
        if with_prefect:
            task.fn = stages.timed(stage, task.fn)
        else:
            setattr(steps, stage, stages.timed(stage, task.fn))
    if with_prefect:
        return lambda settings: audit.nightly(settings, return_state=True)
    audit.close_dead_runs = nothing  # type: ignore[assignment]
    audit._show_in_prefect = nothing
    return audit.nightly.fn


if __name__ == "__main__":
    main()
