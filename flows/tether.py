"""Run a command that ends with whoever started it: python -m flows.tether COMMAND...

Its stdin is a pipe from its parent. When that closes, which the operating system sees to however the parent dies, or
when the command ends by itself, every process that came of the command is ended, those that have left its group too:
this process adopts what its descendants leave behind (Linux; elsewhere only the command's own group).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

GRACE_S = 6.0  # between the polite signal and the other one
POLL_S = 0.05
LOOK_S = 0.2  # whether the command has ended by itself, for as long as it lives
_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def main() -> int:
    """Run the command until it ends or stdin closes; return its exit status."""
    adopt_orphans()
    closed = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: closed.set())
    threading.Thread(target=_wait_for_close, args=(closed,), daemon=True).start()
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    while command.poll() is None and not closed.wait(LOOK_S):
        pass
    end_descendants()
    return command.poll() or 0


def adopt_orphans() -> None:
    """Become the parent of what descendants leave behind, where the system can do that."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1)


def end_descendants(spared: Container[int] = ()) -> None:
    """End the processes below this one: politely, and after GRACE_S for good.

    Args:
        spared: children of this process that stay, and what is below them.
    """
    until = time.monotonic() + GRACE_S
    _signal_all(signal.SIGTERM, spared)
    while _some_live(spared) and time.monotonic() < until:
        time.sleep(POLL_S)
    while _some_live(spared):
        _signal_all(signal.SIGKILL, spared)
        time.sleep(POLL_S)


def descendants(spared: Container[int] = ()) -> list[int]:
    """Return the processes below this one, parents before children, without those spared and what is below them."""
    below = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            below[int(stat.read_text().rpartition(")")[2].split()[1])].append(int(stat.parent.name))
    found = [os.getpid()]
    for pid in found:
        found += [child for child in below[pid] if child not in spared]
    return found[1:]


def _signal_all(number: signal.Signals, spared: Container[int]) -> None:
    for pid in descendants(spared):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _some_live(spared: Container[int]) -> bool:
    """Take note of what has ended; return whether anything lives."""
    for pid in descendants(spared):
        with suppress(ChildProcessError):  # another's child, or taken note of already
            os.waitpid(pid, os.WNOHANG)
    return bool(descendants(spared))


def _wait_for_close(closed: threading.Event) -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock an ending interpreter waits for
        pass
    closed.set()


if __name__ == "__main__":
    sys.exit(main())
