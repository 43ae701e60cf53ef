"""Jobs in processes of their own, with limits: what a model does to its process costs one row, and the next goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import IO

from tasks.core.errors import shown
from tasks.model.answers import Probed, Say, failed
from tasks.model.faults import NoProbe
from tasks.model.jobs import Job, as_json

SMALLER = 8  # times fewer tokens in a batch once memory has run out
SMALL_BATCH_TOKENS = 128
LAST_WORDS = 300  # characters of what a process that died had to say


@dataclass
class _Outcome:
    """What one attempt came to.

    Attributes:
        found: results that it told before it ended.
        out_of_memory: what it said when memory ran out; None: it did not.
        end: why it ended without all results; None: it did not.
    """

    found: list[Probed] = field(default_factory=list)
    out_of_memory: str | None = None
    end: NoProbe | None = None


def run_isolated(job: Job, say: Say) -> list[Probed]:
    """Return a job's results, one for each kind of weights, whatever becomes of its process.

    Where memory runs out the job is tried again with smaller batches, then block by block.

    Args:
        job: what to do.
        say: is told of the progress.
    """
    until = time.monotonic() + job.limit_s
    for attempt in _ladder(job):
        outcome = _attempt(attempt, until, say)
        if outcome.out_of_memory is None:
            break
        say(f"out of memory ({outcome.out_of_memory})")
    missing = job.kinds[len(outcome.found) :]
    return [*outcome.found, *(failed(job, kind, _why(job, outcome)) for kind in missing)]


def _ladder(job: Job) -> Iterator[Job]:
    smaller = max(1, job.batch_tokens // SMALLER) if job.batch_tokens else SMALL_BATCH_TOKENS
    yield job
    if job.way != "blocks":
        yield replace(job, batch_tokens=smaller)
    yield replace(job, batch_tokens=smaller, way="blocks")


def _attempt(job: Job, until: float, say: Say) -> _Outcome:
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as words:
        with subprocess.Popen(
            [sys.executable, "-m", "tasks.model.attempt"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            encoding="utf-8",
        ) as process:
            timer = threading.Timer(max(0.0, until - time.monotonic()), process.kill)
            timer.start()
            try:
                outcome = _conversation(process, as_json(job), say)
            finally:
                timer.cancel()
                process.kill()
        if process.returncode and outcome.out_of_memory is None:
            _explain(outcome, job, process.returncode, is_late=time.monotonic() >= until, words=words)
    return outcome


def _conversation(process: subprocess.Popen[str], job: str, say: Say) -> _Outcome:
    """Give a process its job and listen until it has no more to say."""
    outcome = _Outcome()
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process was started without pipes")
    try:
        process.stdin.write(job)
        process.stdin.close()
    except BrokenPipeError:
        pass  # it died before it listened; its last words say why
    for line in process.stdout:
        message = json.loads(line) if line.endswith("\n") else {}
        if "say" in message:
            say(message["say"])
        elif "row" in message:
            outcome.found.append(Probed(message["row"], tuple(message["gamma"])))
        elif "out_of_memory" in message:
            outcome.out_of_memory = message["out_of_memory"]
    process.wait()
    return outcome


def _explain(outcome: _Outcome, job: Job, status: int, *, is_late: bool, words: IO[str]) -> None:
    """Note why a process ended without an answer."""
    called = shown(job.repo_id)
    if is_late:
        outcome.end = NoProbe("timeout", f"{called}: no answer within {job.limit_s:,.0f} s; raise limit_s")
    elif status == -signal.SIGKILL:  # nobody here has sent it: the system ends processes so when memory runs out
        outcome.out_of_memory = "the system ended the process"
    else:
        words.seek(0)
        last = shown(" ".join(words.read().split())[-LAST_WORDS:], LAST_WORDS)
        outcome.end = NoProbe("failed", f"{called}: its process ended with status {status}: {last}")


def _why(job: Job, outcome: _Outcome) -> NoProbe:
    if outcome.end is not None:
        return outcome.end
    limit = f" of {job.limit_bytes:,} bytes" if job.limit_bytes else ""
    told = f"memory{limit} runs out, also with small batches and block by block: {outcome.out_of_memory}"
    return NoProbe("out_of_memory", f"{shown(job.repo_id)}: {told}")
