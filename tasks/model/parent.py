"""A process that is of no use to anybody once its parent is dead."""

from __future__ import annotations

import ctypes
import signal
from contextlib import suppress

_SET_PARENT_DEATH_SIGNAL = 1  # <linux/prctl.h>


def end_with_parent() -> None:
    """Have the system kill this process when the thread that started it ends, however that dies.

    On Linux alone, elsewhere nothing happens. A library that is stuck in C, as one that waits for a GPU, cannot hold it
    up. What cannot be killed at any point must not ask for it.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
