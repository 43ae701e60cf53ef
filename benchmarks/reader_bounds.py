"""What the reader is held to, and how far this run of the benchmark met it: the best of the rounds counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.reader_cells import Result
from benchmarks.reader_tables import table

Row = tuple[str, str, str, str]
NIGHT_MODELS_A_SECOND, NIGHT_CPU_MS = 200, 4


def bounds_table(results: Iterable[Result], nights: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the bounds that this run can judge, with what was measured."""
    found = {(result.case.row, result.case.latency_ms, result.reader): result for result in results}
    rows = [*_requests(found), *_latencies(found), *_rivals(found), *_nights(nights)]
    return table(("work", "bound", "measured", "met"), rows)


def _row(work: str, bound: str, measured: float, is_met: bool, form: str = "{:.3g}") -> Row:
    return work, bound, form.format(measured), "yes" if is_met else "no"


def _requests(found: Mapping[tuple[str, int, str], Result]) -> Iterator[Row]:
    for row, reader, work, most in (
        ("7B/final", "ours", "Hub requests, final norm, 7B", 1),
        ("70B/final", "ours", "Hub requests, final norm, 70B, by the digest of headers", 2),
        ("70B/final", "ours by the index", "Hub requests, final norm, 70B, by the index", 3),
    ):
        for result in _at_latency(found, row, reader):
            yield _row(work, f"≤ {most}", result.hub_requests, result.hub_requests <= most)


def _latencies(found: Mapping[tuple[str, int, str], Result]) -> Iterator[Row]:
    for row, work, most in (
        ("7B/final", "one 7B, final norm: wall time by latency", 3.5),
        ("7B/all", "one 7B, all 65 norms: wall time by latency", 4.0),
    ):
        for reader, note in (("ours", ""), ("ours again", ", after a model of this shape")):
            for result in _at_latency(found, row, reader):
                times = _wall_s(result) / (result.case.latency_ms / 1e3)
                yield _row(work + note, f"≤ {most:g} ×", times, times <= most, "{:.2f} ×")


def _rivals(found: Mapping[tuple[str, int, str], Result]) -> Iterator[Row]:
    for row, reader, name, faster, fewer in (
        ("7B/all", "files in sequence", "HfFileSystem in sequence, 7B, all norms", 40, 50),
        ("70B/final", "headers", "get_safetensors_metadata, 70B", 3, 12),
    ):
        for rival in _at_latency(found, row, reader):
            ours = found[row, rival.case.latency_ms, "ours"]
            speed, requests = _wall_s(rival) / _wall_s(ours), rival.hub_requests / ours.hub_requests
            yield _row(f"against {name}: faster", f"≥ {faster} ×", speed, speed >= faster, "{:.1f} ×")
            yield _row(f"against {name}: fewer Hub requests", f"≥ {fewer} ×", requests, requests >= fewer, "{:.1f} ×")


def _nights(nights: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Row]:
    for name, rounds in nights.items():
        if name.startswith("final"):
            rate = max(sample["models"] / sample["wall_s"] for sample in rounds)
            cpu_ms = min(sample["cpu_s"] / sample["models"] for sample in rounds) * 1e3
            work = f"whole pipeline, 7B, {name}"
            yield _row(f"{work}: models/s", f"≥ {NIGHT_MODELS_A_SECOND}", rate, rate >= NIGHT_MODELS_A_SECOND, "{:.0f}")
            yield _row(f"{work}: CPU ms a model", f"≤ {NIGHT_CPU_MS}", cpu_ms, cpu_ms <= NIGHT_CPU_MS, "{:.2f}")


def _at_latency(found: Mapping[tuple[str, int, str], Result], row: str, reader: str) -> Iterator[Result]:
    """Yield the result at the highest latency, if that cell was measured."""
    cells = [result for (its_row, latency_ms, name), result in found.items() if (its_row, name) == (row, reader)]
    yield from sorted((cell for cell in cells if cell.case.latency_ms), key=lambda cell: cell.case.latency_ms)[-1:]


def _wall_s(result: Result) -> float:
    return float(min(sample["wall_s"] for sample in result.alone))
