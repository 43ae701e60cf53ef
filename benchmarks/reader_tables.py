"""The tables that the benchmark prints, as Markdown with aligned columns, so that they can go into a document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.reader_cells import READERS, Result, ratios

WINDOWS_AN_HOUR = 12  # the Hub counts in windows of 5 minutes
QUOTAS = {  # requests a window: to the API, to resolve addresses (the Hub's documentation, "Rate limits")
    "anonymous": (500, 3_000),
    "free": (1_000, 5_000),
    "PRO": (2_500, 12_000),
    "Team": (3_000, 20_000),
    "Enterprise": (6_000, 50_000),
}
LISTING_REQUESTS = 1 / 1_000  # of the API for each model: a page has 1,000


def readers_table(results: Iterable[Result]) -> str:
    """Return what each reader took, with medians, (lowest to highest) and × the ratio to ours."""
    head = (
        "model",
        "latency ms",
        "reader",
        "API",
        "resolve",
        "Hub requests",
        "CDN requests",
        "MB",
        "wall s, one model",
        "CPU ms, one model",
        "peak MB",
        "models/s, many at once",
        "CPU ms a model",
        "at once",
    )
    return table(head, [_reader_row(result, ours) for result, ours in _beside_ours(results)])


def _beside_ours(results: Iterable[Result]) -> Iterable[tuple[Result, Result]]:
    results = list(results)
    ours = {result.case: result for result in results if result.reader == "ours"}
    return [(result, ours[result.case]) for result in results]


def _reader_row(result: Result, ours: Result) -> tuple[str, ...]:
    return (
        _row_name(result),
        str(result.case.latency_ms),
        READERS[result.reader],
        f"{result.each('api'):g}",
        f"{result.each('resolvers'):g}",
        _against(f"{result.hub_requests:g}", result.hub_requests, ours.hub_requests),
        _against(f"{result.each('cdn'):g}", result.each("cdn"), ours.each("cdn")),
        _against(f"{result.each('bytes') / 1e6:.2f}", result.each("bytes"), ours.each("bytes")),
        _spread("{:.2f}", result, ours, lambda sample: sample["wall_s"]),
        _spread("{:.1f}", result, ours, lambda sample: sample["cpu_s"] * 1e3),
        _spread("{:.1f}", result, ours, lambda sample: sample["peak_bytes"] / 1e6),
        _speed(result, ours),
        _with_range("{:.1f}", result.cpu_ms, ratios(result.cpu_ms, ours.cpu_ms)),
        str(result.concurrency or 1),
    )


def _spread(form: str, result: Result, ours: Result, of: Any) -> str:
    theirs, mine = [of(sample) for sample in result.alone], [of(sample) for sample in ours.alone]
    return _with_range(form, theirs, ratios(theirs, mine))


def _speed(result: Result, ours: Result) -> str:
    held = "≥ " if result.is_held_by_the_hub else ""
    return held + _with_range("{:.1f}", result.models_per_s, ratios(result.models_per_s, ours.models_per_s))


def _with_range(form: str, values: Sequence[float], ratio: float) -> str:
    low, middle, high = (form.format(value) for value in (min(values), median(values), max(values)))
    return f"{middle} ({low} to {high}) ×{ratio:.3g}"


def _against(text: str, value: float, ours: float) -> str:
    return f"{text} ×{value / ours:.3g}" if ours else text


def quota_table(results: Iterable[Result]) -> str:
    """Return the models an hour that the Hub's quotas allow each reader; computed from its measured requests."""
    results = list(results)
    latency_ms = max(result.case.latency_ms for result in results)
    rows = [
        (_row_name(result), READERS[result.reader], *(f"{models_an_hour(result, quota):,.0f}" for quota in QUOTAS))
        for result in results
        if result.case.latency_ms == latency_ms
    ]
    return table(("model", "reader", *QUOTAS), rows)


def models_an_hour(result: Result, quota: str) -> float:
    """Return how many models a reader gets through before a quota is used up; the listing counts too."""
    api, resolvers = QUOTAS[quota]
    by_api = api / (result.each("api") + LISTING_REQUESTS)
    by_resolvers = resolvers / result.each("resolvers") if result.each("resolvers") else by_api
    return WINDOWS_AN_HOUR * min(by_api, by_resolvers)


def read_table(results: Iterable[Result]) -> str:
    """Return what normaudit reads of each checkpoint, against its size."""
    head = ("model", "Hub requests", "CDN requests", "bytes read", "checkpoint bytes", "one byte in")
    ours = {_row_name(result): result for result in results if result.reader == "ours"}
    return table(
        head,
        [
            (
                name,
                f"{result.hub_requests:g}",
                f"{result.each('cdn'):g}",
                f"{result.each('bytes'):,.0f}",
                f"{result.checkpoint_bytes:,}",
                f"{result.checkpoint_bytes / result.each('bytes'):,.0f}",
            )
            for name, result in ours.items()
        ],
    )


def night_table(nights: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return what the stages of a night took: seconds in all, CPU milliseconds and stored bytes a model."""
    stages = ("list and plan", "audit", "end")
    seconds, cpu = [f"{stage}, s" for stage in stages], [f"{stage}, CPU ms" for stage in (*stages, "all")]
    head = ("norms", *seconds, "models/s", *cpu, "peak MB", "stored bytes", "stand-in busy")
    return table(head, [_night_row(norms, rounds) for norms, rounds in nights.items()])


def _night_row(norms: str, rounds: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    models = rounds[0]["models"]

    def spread(form: str, name: str, scale: float = 1.0) -> str:
        values = [sample[name] * scale for sample in rounds]
        return f"{form.format(median(values))} ({form.format(min(values))} to {form.format(max(values))})"

    rates = [models / sample["wall_s"] for sample in rounds]
    return (
        norms,
        *(spread("{:.2f}", f"{stage}_wall_s") for stage in ("plan", "audit", "end")),
        f"{median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})",
        *(spread("{:.2f}", f"{stage}_cpu_s", 1e3 / models) for stage in ("plan", "audit", "end")),
        spread("{:.2f}", "cpu_s", 1e3 / models),
        spread("{:.0f}", "peak_bytes", 1e-6),
        spread("{:.0f}", "stored_bytes", 1 / models),
        spread("{:.0%}", "hub_busy"),
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, its columns padded to one width."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines]
    return "\n".join([texts[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *texts[1:]])


def _row_name(result: Result) -> str:
    what = "final norm" if result.case.norms == "final" else "all norms"
    return f"{result.case.shape}, {what}"
