"""How much memory there is, and how much a process has used beyond what its imports take."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from functools import cache
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
RESET_PEAK = "5"  # what clear_refs takes to mean: forget the peak


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that is free on a device; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    told = _field(Path("/proc/meminfo"), "MemAvailable")
    limits = [int(text) for path in CGROUP_LIMITS if (text := _text(path).strip()).isdigit()]
    return min([*([told] if told is not None else []), *limits], default=None)


def data_bytes() -> int:
    """Return what the process has mapped for its own data: what RLIMIT_DATA limits."""
    return _field(STATUS, "VmData") or 0


@cache
def resident_at_start() -> int:
    """Return what the process held when this was first asked: once all is imported, its class too, before any model."""
    return _field(STATUS, "VmRSS") or 0


def give_back() -> None:
    """Give memory that is free again back to the system, where the C library can: it keeps it for itself otherwise."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Peak:
    """Measures the most memory that is used from here on, beyond what the process held at its start.

    Args:
        device: on a GPU its memory is measured, else the process's.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            gc.collect()
            give_back()
            _reset_peak()

    @property
    def bytes(self) -> int | None:
        """The peak so far; None where the system does not tell."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        peak = _field(STATUS, "VmHWM")
        return None if peak is None else max(0, peak - resident_at_start())


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    except OSError:  # not Linux, or forbidden: the peak is then of the whole process
        return


def _field(path: Path, name: str) -> int | None:
    match = re.search(rf"^{name}:\s+(\d+) kB", _text(path), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
