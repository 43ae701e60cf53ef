"""What a user would write instead: the same norms, read with huggingface_hub and with httpx2.

They are told beforehand which tensors are wanted, and check no more than their library does; normaudit finds the norms
itself, checks each answer and computes the figures.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import httpx2
import huggingface_hub.utils
import ml_dtypes
import numpy as np
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.utils import hf_thread_map
from numpy.typing import NDArray

FINAL = "model.norm.weight"  # of a Llama
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FIRST_READ_BYTES = 100_000  # as huggingface_hub's own header reader takes it

Values = Mapping[str, NDArray[np.float64]]
Repo = Mapping[str, Any]  # as reader_standin.facts_of tells it
Read = Callable[[str, int, int], bytes]  # path, start, stop


class Run(Protocol):
    """`map`, or that of a pool of threads."""

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        """Return the function's results in the order of the items."""
        ...


class Place(NamedTuple):
    """Where a norm tensor lies."""

    name: str
    path: str
    start: int
    stop: int


def headers_only(repos: Sequence[Repo], norms: str, threads: int) -> list[Values | None]:
    """Have huggingface_hub parse every header; it reads no tensor."""
    api = HfApi()
    over(repos, lambda repo: api.get_safetensors_metadata(repo["repo_id"]), threads)
    return [None] * len(repos)


def headers_in_threads(repos: Sequence[Repo], norms: str, threads: int) -> list[Values | None]:
    """Do the same with as many threads for the shards of one model, which the library has no parameter for."""
    huggingface_hub.utils.hf_thread_map = partial(hf_thread_map, max_workers=threads)
    return headers_only(repos, norms, threads)


def files_in_sequence(repos: Sequence[Repo], norms: str, threads: int) -> list[Values | None]:
    """Open each file of the file system, seek and read, with fsspec's default cache."""
    files = HfFileSystem(skip_instance_cache=True)

    def read(repo: Repo) -> Values:
        values: dict[str, NDArray[np.float64]] = {}
        for path in wanted_files(repo, norms, lambda path: files.cat_file(f"{repo['repo_id']}/{path}")):
            with files.open(f"{repo['repo_id']}/{path}", "rb") as file:
                values |= read_norms([path], norms, lambda _, start, stop, file=file: _seek(file, start, stop), map)
        return values

    return [read(repo) for repo in repos]


def files_in_threads(repos: Sequence[Repo], norms: str, threads: int) -> list[Values | None]:
    """Read ranges of the file system without its cache; threads over the ranges of one model, or over models."""
    files = HfFileSystem(skip_instance_cache=True)

    def whole(repo: Repo, path: str) -> bytes:
        return bytes(files.cat_file(f"{repo['repo_id']}/{path}"))

    def part(repo: Repo, path: str, start: int, stop: int) -> bytes:
        return bytes(files.cat_file(f"{repo['repo_id']}/{path}", start, stop, cache_type="none"))

    def read(repo: Repo, run: Run) -> Values:
        return read_norms(wanted_files(repo, norms, partial(whole, repo)), norms, partial(part, repo), run)

    if len(repos) > 1:
        return over(repos, lambda repo: read(repo, map), threads)
    with ThreadPoolExecutor(threads) as pool:
        return [read(repos[0], pool.map)]


def plain_loop(repos: Sequence[Repo], norms: str, threads: int, *, endpoint: str) -> list[Values | None]:
    """Ask for each range at its resolve address, one after another, with one httpx2 client; threads over models."""

    def get(repo: Repo, path: str, start: int = 0, stop: int | None = None) -> bytes:
        url = f"{endpoint}/{repo['repo_id']}/resolve/main/{path}"
        headers = {"Range": f"bytes={start}-{stop - 1}"} if stop else {}
        return bytes(_client().get(url, headers=headers).raise_for_status().content)

    def read(repo: Repo) -> Values:
        return read_norms(
            wanted_files(repo, norms, partial(get, repo)), norms, partial(get, repo), map, FIRST_READ_BYTES
        )

    return over(repos, read, threads)


def over(repos: Sequence[Repo], read: Callable[[Repo], Any], threads: int) -> list[Any]:
    """Read several repos in threads, a single one in this."""
    if len(repos) == 1:
        return [read(repos[0])]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(read, repos))


def wanted_files(repo: Repo, norms: str, whole: Callable[[str], bytes]) -> list[str]:
    """Return the files that hold wanted tensors: the single one, or those that the index names."""
    if SINGLE in repo["files"]:
        return [SINGLE]
    weight_map: dict[str, str] = json.loads(whole(INDEX))["weight_map"]
    return sorted({path for name, path in weight_map.items() if is_wanted(name, norms)})


def read_norms(paths: Sequence[str], norms: str, read: Read, run: Run, first_bytes: int = 8) -> Values:
    """Return the wanted tensors of these files: their headers first, then the tensors' own ranges."""

    def places(path: str) -> list[Place]:
        return list(wanted_places(path, norms, read, first_bytes))

    wanted = [place for found in run(places, paths) for place in found]
    data = run(lambda place: read(place.path, place.start, place.stop), wanted)
    return {
        place.name: np.frombuffer(raw, ml_dtypes.bfloat16).astype(np.float64)
        for place, raw in zip(wanted, data, strict=True)
    }


def wanted_places(path: str, norms: str, read: Read, first_bytes: int) -> Iterator[Place]:
    """Yield where a file's wanted tensors lie, by its header."""
    head = read(path, 0, first_bytes)
    stop = 8 + struct.unpack_from("<Q", head)[0]
    if stop > len(head):
        head += read(path, len(head), stop)
    for name, entry in json.loads(head[8:stop]).items():
        if is_wanted(name, norms):
            begin, end = entry["data_offsets"]
            yield Place(name, path, stop + begin, stop + end)


def is_wanted(name: str, norms: str) -> bool:
    """Return whether a Llama's tensor is one of those to read."""
    return name == FINAL if norms == "final" else name.endswith("norm.weight")


@cache
def _client() -> httpx2.Client:
    """Return the process's one client: to make one takes longer than to read a model."""
    return httpx2.Client(follow_redirects=True)


def _seek(file: Any, start: int, stop: int) -> bytes:
    file.seek(start)
    return bytes(file.read(stop - start))
