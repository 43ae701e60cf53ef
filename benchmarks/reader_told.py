"""normaudit's Hub client without its audit: told which tensors are wanted, as the rivals are, and computing nothing.

What it takes less than the whole audit is what finding, classifying and the figures cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.reader_rivals import INDEX, SINGLE, Repo, is_wanted, wanted_files
from tasks.core.dtypes import decode
from tasks.core.header import FIRST_READ_BYTES, parse_header
from tasks.core.ranges import Pieces, plan_ranges
from tasks.core.records import Chunk, Fetch, Header, Listing
from tasks.hub import Hub, HubOptions, Learned, Meter

Values = Mapping[str, NDArray[np.float64]]
Plan = Generator[tuple[Fetch, ...], tuple[Any, ...], Values]


def reader(endpoint: str) -> Callable[[Sequence[Repo], str, int], list[Values]]:
    """Return a reader of many models, so many at once."""
    learned = Learned()

    async def read_all(repos: Sequence[Repo], norms: str, concurrency: int) -> list[Values]:
        room = asyncio.Semaphore(concurrency)

        async def read(hub: Hub, repo: Repo) -> Values:
            async with room:
                return await hub.follow(Listing(repo["repo_id"], repo["sha"]), told_plan(repo, norms), Meter())

        async with Hub(HubOptions(endpoint), learned) as hub:
            return list(await asyncio.gather(*(read(hub, repo) for repo in repos)))

    return lambda repos, norms, concurrency: asyncio.run(read_all(repos, norms, concurrency))


def told_plan(repo: Repo, norms: str) -> Plan:
    """Yield the fetches for the wanted tensors of one model, and return their values."""
    paths = [SINGLE]
    if SINGLE not in repo["files"]:
        [index] = yield (Fetch(INDEX),)
        paths = wanted_files(repo, norms, lambda _: index.data)
    heads: tuple[Chunk, ...] = yield tuple(Fetch(path, 0, FIRST_READ_BYTES) for path in paths)
    headers = [parse_header(head.data, head.file_bytes, path) for path, head in zip(paths, heads, strict=True)]
    wanted = [(path, spec) for path, header in zip(paths, headers, strict=True) for spec in _wanted(header, norms)]
    pieces = {path: Pieces() for path in paths}
    for path, head in zip(paths, heads, strict=True):
        pieces[path].add(0, head.data)
    missing = [(path, spec) for path, spec in wanted if pieces[path].cut(spec) is None]
    ranges = [(path, piece) for path in paths for piece in plan_ranges(spec for at, spec in missing if at == path)]
    answers: tuple[Chunk, ...] = yield tuple(Fetch(path, piece.start, piece.stop) for path, piece in ranges)
    for (path, piece), answer in zip(ranges, answers, strict=True):
        pieces[path].add(piece.start, answer.data)
    return {spec.name: decode(spec, pieces[path].cut(spec) or b"", path) for path, spec in wanted}


def _wanted(header: Header, norms: str) -> list[Any]:
    return [spec for spec in header.tensors if is_wanted(spec.name, norms)]
