"""A checkpoint on the Hub: its small files in a temporary folder, its tensors by ranges straight into memory.

The weights are never stored: what one part of the model needs is fetched when that part is filled.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from tasks.core.errors import AuditError, BadFile, shown
from tasks.core.header import first_read_bytes, header_bytes, parse_header, parse_index
from tasks.core.ranges import ByteRange, plan_ranges
from tasks.core.records import Chunk, Fetch, Listing, TensorSpec
from tasks.core.selection import select_checkpoint, why_none
from tasks.hub import Hub, Meter, options_from_environment
from tasks.model.faults import NoProbe
from tasks.model.files import DTYPES, MAX_JSON_BYTES, read_json, shards_of
from tasks.model.jobs import Job
from tasks.model.probe import Checkpoint
from tasks.model.tokens import TOKENIZER_COMPANIONS, TOKENIZER_FILES

T = TypeVar("T")
Answers = tuple[Chunk | AuditError, ...]
Plan = Generator[tuple[Fetch, ...], Answers, T]

PART_BYTES = 16_777_216  # of one range: enough for a line's full speed, little to ask for again
PARTS_AT_ONCE = 8


@contextmanager
def opened_on_hub(job: Job) -> Iterator[Checkpoint]:
    """Open a repo at its revision, or its head.

    Raises:
        AuditError: the Hub says no, or its answers cannot be used.
        NoProbe: the repo holds no checkpoint that can be read.
    """
    with _Line() as line, tempfile.TemporaryDirectory(prefix="normaudit-") as made:
        listing, folder = line.describe(job), Path(made)
        there = {file.path for file in listing.files}
        for name in ("config.json", *TOKENIZER_FILES, *TOKENIZER_COMPANIONS):
            if name in there or name == "config.json":
                whole = line.follow(listing, _one(Fetch(name, limit_bytes=MAX_JSON_BYTES)))
                (folder / name).write_bytes(whole.data)
        config = read_json(folder / "config.json", f"{shown(job.repo_id)}/config.json")
        yield Checkpoint(config, folder, lambda: HubSource(line, listing), listing.sha)


class HubSource:
    """The tensors of a repo's checkpoint.

    Args:
        line: to the Hub.
        listing: of the repo.

    Raises:
        NoProbe: there is no safetensors checkpoint, or not all of it.
    """

    def __init__(self, line: _Line, listing: Listing) -> None:
        self.where = shown(listing.repo_id)
        self._line, self._listing = line, listing
        self._specs: dict[str, tuple[str, TensorSpec]] = {}
        self._held: dict[str, bytearray] = {}
        for path in self._files():
            for spec in line.follow(listing, _header(path, f"{self.where}/{shown(path)}")):
                self._specs[spec.name] = (path, spec)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each tensor by its name."""
        return {name: spec.shape for name, (_, spec) in self._specs.items()}

    def tensor(self, name: str) -> Tensor:
        """Return a tensor as it is stored."""
        path, spec = self._specs[name]
        if spec.dtype not in DTYPES:
            told = f"{shown(name)} is stored as {shown(spec.dtype)}; the probe reads {', '.join(DTYPES)}"
            raise NoProbe("unsupported", f"{self.where}/{shown(path)}: {told}")
        if not prod(spec.shape):
            return torch.empty(spec.shape, dtype=DTYPES[spec.dtype])
        data = self._held[name] if name in self._held else self._fetched([name])[name]
        return torch.frombuffer(data, dtype=DTYPES[spec.dtype]).reshape(spec.shape)

    def rows(self, name: str, numbers: Sequence[int]) -> Tensor:
        """Return rows of a tensor as it is stored, read by ranges that hold several where little lies between."""
        path, spec = self._specs[name]
        shape = (len(numbers), *spec.shape[1:])
        if not prod(shape):
            return torch.empty(shape, dtype=DTYPES[spec.dtype])
        row_bytes = (spec.stop_byte - spec.start_byte) // spec.shape[0]
        starts = [spec.start_byte + number * row_bytes for number in numbers]
        specs = [replace(spec, start_byte=start, stop_byte=start + row_bytes) for start in starts]
        data = self._line.follow(self._listing, _rows(path, specs))
        return torch.frombuffer(data, dtype=DTYPES[spec.dtype]).reshape(shape)

    def let_go(self) -> None:
        """Do nothing: what is fetched is held by those who asked for it."""

    @contextmanager
    def holding(self, names: Sequence[str]) -> Iterator[None]:
        """Fetch these tensors together, and hold them while the context lasts."""
        self._held = self._fetched(names)
        try:
            yield
        finally:
            self._held = {}

    def _fetched(self, names: Sequence[str]) -> dict[str, bytearray]:
        specs = [self._specs[name] for name in names if prod(self._specs[name][1].shape)]
        return self._line.follow(self._listing, _tensors(specs))

    def _files(self) -> list[str]:
        found = select_checkpoint(self._listing.files)
        if found is None:
            raise NoProbe("no_safetensors", f"{self.where}: {why_none(self._listing.files)}; only safetensors are read")
        if found.index is None:
            return list(found.weights)
        where = f"{self.where}/{shown(found.index)}"
        index = parse_index(self._line.follow(self._listing, _one(Fetch(found.index))).data, where)
        there = {file.path.removeprefix(found.folder) for file in self._listing.files}
        return [found.folder + shard for shard in shards_of(dict(index.shards), there, where)]


class _Line:
    """The Hub's client on an event loop of its own, to be asked from any thread."""

    def __enter__(self) -> _Line:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._meter = Meter()
        self._hub = self._run(Hub(options_from_environment()).__aenter__())
        return self

    def __exit__(self, *ending: object) -> None:
        self._run(self._hub.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def describe(self, job: Job) -> Listing:
        """Return what the Hub says of the job's repo."""
        found: Listing = self._run(self._hub.describe(job.repo_id, job.sha, self._meter))
        return found

    def follow(self, listing: Listing, plan: Plan[T]) -> T:
        """Run a reading plan."""
        found: T = self._run(self._hub.follow(listing, plan, self._meter))
        return found

    def _run(self, doing: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result()


def _one(fetch: Fetch) -> Plan[Chunk]:
    [answer] = yield (fetch,)
    return _needed(answer)


def _header(path: str, where: str) -> Plan[tuple[TensorSpec, ...]]:
    """Read a file's header, in a second range where the first did not hold it whole."""
    chunk = yield from _one(Fetch(path, 0, first_read_bytes(0)))
    stop, head = header_bytes(chunk.data, chunk.file_bytes, where), chunk.data
    if stop > len(head):
        rest = yield from _one(Fetch(path, len(head), stop))
        head += rest.data
    return parse_header(head, chunk.file_bytes, where).tensors


def _tensors(wanted: Sequence[tuple[str, TensorSpec]]) -> Plan[dict[str, bytearray]]:
    """Read tensors, several ranges at a time."""
    parts = [
        (path, spec, part)
        for path, spec in wanted
        for part in ByteRange(spec.start_byte, spec.stop_byte).parts(PART_BYTES)
    ]
    found: dict[str, bytearray] = {spec.name: bytearray() for _, spec in wanted}
    for first in range(0, len(parts), PARTS_AT_ONCE):
        some = parts[first : first + PARTS_AT_ONCE]
        answers = yield tuple(Fetch(path, part.start, part.stop) for path, _, part in some)
        for (path, spec, part), answer in zip(some, answers, strict=True):
            found[spec.name] += _whole(_needed(answer).data, part, f"{path}: {spec.name}")
    return found


def _rows(path: str, rows: Sequence[TensorSpec]) -> Plan[bytearray]:
    """Read rows of one tensor in the order of the file, several ranges at a time."""
    ranges, found, left = plan_ranges(rows), bytearray(), deque(rows)
    for first in range(0, len(ranges), PARTS_AT_ONCE):
        some = ranges[first : first + PARTS_AT_ONCE]
        answers = yield tuple(Fetch(path, one.start, one.stop) for one in some)
        for one, answer in zip(some, answers, strict=True):
            data = _whole(_needed(answer).data, one, path)
            while left and left[0].stop_byte <= one.stop:
                row = left.popleft()
                found += data[row.start_byte - one.start : row.stop_byte - one.start]
    return found


def _whole(data: bytes, wanted: ByteRange, where: str) -> bytes:
    if len(data) != wanted.size_bytes:
        raise BadFile(f"{shown(where)}: asked for {wanted.size_bytes:,} bytes, got {len(data):,}")
    return data


def _needed(answer: Chunk | AuditError) -> Chunk:
    if isinstance(answer, AuditError):
        raise answer
    return answer
