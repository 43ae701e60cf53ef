"""Which byte ranges to read for a set of tensors: merged over small gaps, capped in length."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from tasks.core.errors import TooLarge, shown
from tasks.core.records import TensorSpec

MERGE_GAP_BYTES = 65_536  # a further range costs the CPU of 130 kB (benchmarks/LOG.md), and slow lines like it less
MAX_RANGE_BYTES = 4_194_304  # a range that fails is asked for again; keep that cheap
MAX_SCALE_BYTES = 16_777_216  # the widest scales known take 0.3 MB; a "norm" of gigabytes is a trap


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes `[start, stop)` of a file."""

    start: int
    stop: int

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return self.stop - self.start

    def parts(self, cap_bytes: int = MAX_RANGE_BYTES) -> tuple[ByteRange, ...]:
        """Return the range in parts of at most cap_bytes, in their order."""
        starts = range(self.start, self.stop, cap_bytes)
        return tuple(ByteRange(start, min(start + cap_bytes, self.stop)) for start in starts)


def plan_ranges(
    specs: Iterable[TensorSpec], gap_bytes: int = MERGE_GAP_BYTES, cap_bytes: int = MAX_RANGE_BYTES
) -> tuple[ByteRange, ...]:
    """Return the ranges to read so that each tensor lies whole in one of them, in the order of the file.

    Neighbours are merged when no more than gap_bytes lie between them and the range stays within cap_bytes; a tensor
    longer than cap_bytes has a range of its own.
    """
    ranges: list[ByteRange] = []
    for spec in sorted(specs, key=lambda spec: (spec.start_byte, spec.stop_byte)):
        last = ranges[-1] if ranges else None
        if last and spec.start_byte - last.stop <= gap_bytes and spec.stop_byte - last.start <= cap_bytes:
            ranges[-1] = ByteRange(last.start, max(last.stop, spec.stop_byte))
        elif spec.stop_byte > spec.start_byte:
            ranges.append(ByteRange(spec.start_byte, spec.stop_byte))
    return tuple(ranges)


class Pieces:
    """The parts of one file that have been read; they may overlap."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._data: list[bytes] = []

    def add(self, start: int, data: bytes) -> None:
        """Keep the bytes that lie in the file from start on."""
        at = bisect_right(self._starts, start)
        self._starts.insert(at, start)
        self._data.insert(at, data)

    def cut(self, spec: TensorSpec) -> bytes | None:
        """Return a tensor's bytes, or None where no piece holds it whole."""
        for at in range(bisect_right(self._starts, spec.start_byte) - 1, -1, -1):
            start, data = self._starts[at], self._data[at]
            if spec.stop_byte <= start + len(data):
                return data[spec.start_byte - start : spec.stop_byte - start]
        return None


def check_scale_size(spec: TensorSpec, where: str) -> None:
    """Refuse to read a norm tensor that is far larger than any norm's.

    Raises:
        TooLarge: more than MAX_SCALE_BYTES.
    """
    size = spec.stop_byte - spec.start_byte
    if size > MAX_SCALE_BYTES:
        raise TooLarge(
            f"{where}: {shown(spec.name)} has {size:,} bytes; a norm's scale has at most {MAX_SCALE_BYTES:,}"
        )
