"""Work done in a process of its own, which gets no more time and memory than it is given, and no network.

A model class runs whatever its config makes it run: sizes without bound, loops without end, weights to be fetched.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REFUSED = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn")  # beginnings of audit events
MAX_ERROR_CHARS = 500

Result = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """What a process may take.

    Attributes:
        seconds: of wall clock.
        memory_bytes: of address space, on top of what its parent has mapped.
    """

    seconds: float
    memory_bytes: int


def limited(work: Callable[..., Result], *arguments: Any, limits: Limits) -> Result:
    """Return what `work(*arguments)` returns in a copy of this process, or {"failed": why, …}.

    Returns:
        `failed` is "time", "died" (killed, for memory mostly) or the name of what it raised, with its text in `errors`.
    """
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, arguments, limits, sending))
    process.start()
    sending.close()
    try:
        answer = receiving.recv() if receiving.poll(limits.seconds) else {"failed": "time"}
    except EOFError:
        answer = {"failed": "died"}
    process.kill()
    process.join()
    process.close()
    receiving.close()
    return dict(answer)


def _child(work: Callable[..., Result], arguments: tuple[Any, ...], limits: Limits, sending: Any) -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + limits.memory_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(_refuse)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - ends with the process
    try:
        sending.send(work(*arguments))
    except BaseException as error:
        sending.send({"failed": type(error).__name__, "errors": [str(error)[:MAX_ERROR_CHARS]]})
    os._exit(0)


def _refuse(event: str, arguments: Any) -> None:
    if event.startswith(REFUSED):
        raise PermissionError(f"{event}: what is built here has no network and starts no programs")
