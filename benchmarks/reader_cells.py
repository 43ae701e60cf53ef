"""One cell of the benchmark: every reader on one shape of model, one choice of norms and one latency, in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.reader_process import Child

READERS = {
    "ours": "normaudit",
    "ours again": "normaudit, after a model of this shape",
    "ours by the index": "normaudit, by the index",
    "told": "normaudit's client alone, told the tensors",
    "headers": "HfApi.get_safetensors_metadata (headers only)",
    "headers in threads": "the same, 32 threads over its shards",
    "files in sequence": "HfFileSystem, its defaults, in sequence",
    "files in threads": "HfFileSystem, no cache, 32 threads",
    "plain loop": "httpx2 loop of ranges",
}
THREADS = 32  # of a rival on one model
MODELS_AT_ONCE = {
    "ours": (32, 64, 128),
    "told": (32, 64, 128),
    "headers": (8, 32),
    "files in threads": (8, 32),
    "plain loop": (8, 32),
}
REQUESTS_A_RUN = 1_000  # about a second of the stand-in's time
MODELS_A_RUN = (32, 200)  # at least, so that all threads have work, and at most

Sample = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """What is read: a shape of checkpoint, the final norm or all, at a latency in milliseconds."""

    shape: str
    norms: str
    latency_ms: int

    @property
    def row(self) -> str:
        """Shape and norms, as --rows names them."""
        return f"{self.shape}/{self.norms}"


@dataclass(slots=True)
class Result:
    """What one reader did in one case: a sample for each round, alone (one model) and at once (many).

    Each sample has wall_s, cpu_s and peak_bytes of the reader; api, resolvers, cdn and bytes as the stand-in counted
    them; models; and hub_busy, the share of its time in which the stand-in's process computed.
    """

    case: Case
    reader: str
    checkpoint_bytes: int
    concurrency: int = 0
    alone: list[Sample] = field(default_factory=list)
    at_once: list[Sample] = field(default_factory=list)

    @property
    def hub_requests(self) -> float:
        """Requests to the Hub for one model."""
        return self.each("api") + self.each("resolvers")

    def each(self, name: str) -> float:
        """Return the median over the rounds with one model."""
        return median(sample[name] for sample in self.alone)

    @property
    def models_per_s(self) -> list[float]:
        """Models a second in each round: many at once; where the reader knows no such way, one after another."""
        return [sample["models"] / sample["wall_s"] for sample in self.at_once or self.alone]

    @property
    def cpu_ms(self) -> list[float]:
        """CPU milliseconds a model in the same rounds."""
        return [sample["cpu_s"] / sample["models"] * 1e3 for sample in self.at_once or self.alone]

    @property
    def is_held_by_the_hub(self) -> bool:
        """Whether the stand-in was busy nearly all the time, so that the reader may be faster than was seen."""
        return median(sample["hub_busy"] for sample in self.at_once or self.alone) > 0.9


class Bench:
    """The stand-in, and what is done with it.

    Args:
        hub: the process of `benchmarks.reader_standin`.
        home: folder for what huggingface_hub keeps.
        models_a_run: how many models to read at once, at least and at most.
    """

    def __init__(self, hub: Child, home: str, models_a_run: tuple[int, int] = MODELS_A_RUN) -> None:
        self._hub = hub
        self._models_a_run = models_a_run
        self.environment = environment(hub.ask()["endpoint"], home)

    def run_case(self, case: Case, readers: Sequence[str], rounds: int) -> list[Result]:
        """Return what each reader took, after a warm-up, in rounds in which all take their turn.

        Raises:
            RuntimeError: a reader failed, or two read different values.
        """
        self._hub.ask(latency_s=case.latency_ms / 1000)
        checkpoint_bytes = self._stocked(case, 1)[0]["checkpoint_bytes"]
        results = {name: Result(case, name, checkpoint_bytes) for name in readers}
        with ExitStack() as stack:
            children = {name: stack.enter_context(self._child(name)) for name in readers}
            self._read_alone(children, results, rounds)
            self._read_at_once({name: children[name] for name in readers if name in MODELS_AT_ONCE}, results, rounds)
        check_values(results)
        return list(results.values())

    def _read_alone(self, children: Mapping[str, Child], results: Mapping[str, Result], rounds: int) -> None:
        for number in range(rounds + 1):
            for name, child in children.items():
                sample = self._sample(child, results[name].case, 1, THREADS)
                results[name].alone += [sample] if number else []  # the first is the warm-up

    def _read_at_once(self, children: Mapping[str, Child], results: Mapping[str, Result], rounds: int) -> None:
        for name, child in children.items():
            results[name].concurrency = self._best_concurrency(child, results[name])
        for _ in range(rounds):
            for name, child in children.items():
                results[name].at_once.append(self._at_once(child, results[name], results[name].concurrency))

    def _best_concurrency(self, child: Child, result: Result) -> int:
        """Return the number of models at once that was fastest; for a run of few models, the largest that it takes."""
        least, models = self._models_a_run[0], self._models_of(result)
        choices = [count for count in MODELS_AT_ONCE[result.reader] if count <= models] or [models]
        tried = choices if models > least else choices[-1:]
        took_s = {count: self._at_once(child, result, count)["wall_s"] for count in tried}
        return min(took_s, key=lambda count: took_s[count])

    def _at_once(self, child: Child, result: Result, concurrency: int) -> Sample:
        return self._sample(child, result.case, self._models_of(result), concurrency)

    def _models_of(self, result: Result) -> int:
        least, most = self._models_a_run
        return min(most, max(least, round(REQUESTS_A_RUN / (result.hub_requests + result.each("cdn")))))

    def _sample(self, child: Child, case: Case, models: int, concurrency: int) -> Sample:
        repos = self._stocked(case, models)
        before = self._hub.ask()["cpu_s"]
        sample = child.ask(repos=repos, norms=case.norms, concurrency=concurrency)
        served = self._hub.ask()
        counts = {name: served[name] / models for name in ("api", "resolvers", "cdn", "bytes")}
        return sample | counts | {"hub_busy": (served["cpu_s"] - before) / sample["wall_s"]}

    def _stocked(self, case: Case, count: int) -> list[dict[str, Any]]:
        repos: list[dict[str, Any]] = self._hub.ask(stock=(case.shape, "bench", count))["repos"]
        return repos

    def _child(self, reader: str) -> Child:
        return Child("benchmarks.reader_child", reader, environment=self.environment)


def environment(endpoint: str, home: str) -> dict[str, str]:
    """Return the variables of a reader's process: no login, no bars, no news home."""
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": home,
        "HF_TOKEN": "",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def check_values(results: Mapping[str, Result]) -> None:
    """Raise RuntimeError unless all that readers read came to the same values, model for model.

    All models of a case share their bytes; a reader of headers alone has no values to compare.
    """
    seen = {
        name: {digest for sample in (*result.alone, *result.at_once) for digest in sample["digests"]}
        for name, result in results.items()
    }
    if len(set().union(*seen.values())) > 1:
        raise RuntimeError(
            f"the readers read different values: { {name: sorted(found) for name, found in seen.items()} }"
        )


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Return the median over the rounds of theirs to ours; 1.0 is as good."""
    return median(a / b for a, b in zip(theirs, ours, strict=True))
