"""A checkpoint in a local folder: which files it has, and their tensors, memory-mapped. Nothing is ever unpickled."""

from __future__ import annotations

import json
import mmap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tasks.core.errors import shown
from tasks.core.records import RepoFile
from tasks.core.selection import select_checkpoint, why_none
from tasks.model.faults import NoProbe, in_words

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LENGTH_BYTES = 8  # of the header's length, little-endian
MAX_JSON_BYTES = 64_000_000  # of a config or an index; the largest known takes 15 MB


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's bytes lie: `[start, stop)` of a file."""

    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass
class FolderSource:
    """The tensors of the checkpoint in a folder.

    Attributes:
        folder: where it lies.
        where: its name, for messages.
    """

    folder: Path
    where: str
    _places: dict[str, Place] = field(default_factory=dict)
    _maps: dict[str, mmap.mmap] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for file in _weights_of(self.folder, self.where):
            self._open(file)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each tensor by its name."""
        return {name: place.shape for name, place in self._places.items()}

    def tensor(self, name: str) -> Tensor:
        """Return a tensor as it is stored, over the file's own pages: it must not be written to."""
        place = self._places[name]
        if not prod(place.shape):
            return torch.empty(place.shape, dtype=place.dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            flat = torch.frombuffer(
                self._maps[place.file], dtype=place.dtype, count=prod(place.shape), offset=place.start
            )
        return flat.reshape(place.shape)

    def rows(self, name: str, numbers: Sequence[int]) -> Tensor:
        """Return rows of a tensor as it is stored; they are read, since a map would keep the pages around each."""
        place = self._places[name]
        shape = (len(numbers), *place.shape[1:])
        if not prod(shape):
            return torch.empty(shape, dtype=place.dtype)
        row_bytes, data = (place.stop - place.start) // place.shape[0], bytearray()
        with (self.folder / place.file).open("rb", buffering=0) as file:
            for first, count in runs(numbers):
                file.seek(place.start + first * row_bytes)
                data += file.read(count * row_bytes)
        if len(data) != len(numbers) * row_bytes:
            told = f"{shown(name)}: asked for {len(numbers) * row_bytes:,} bytes, got {len(data):,}"
            raise NoProbe("bad_file", f"{self.where}/{shown(place.file)}: {told}")
        return torch.frombuffer(data, dtype=place.dtype).reshape(shape)

    def let_go(self) -> None:
        """Let the maps' pages go, where the system can; those in use come again from the file."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps.values():
                mapped.madvise(mmap.MADV_DONTNEED)

    def holding(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Do nothing: the file's pages are at hand as long as the system likes."""
        return nullcontext()

    def _open(self, file: str) -> None:
        """Map a file, once the safetensors library has found it sound."""
        path, where = self.folder / file, f"{self.where}/{shown(file)}"
        try:
            with safe_open(path, framework="pt"):
                pass
            with path.open("rb") as opened:
                self._maps[file] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, SafetensorError, ValueError) as error:
            raise NoProbe("bad_file", f"{where}: {in_words(error)}") from error
        for name, place in places_in(self._maps[file], file, where):
            self._places[name] = place


def places_in(data: Any, file: str, where: str) -> Iterator[tuple[str, Place]]:
    """Yield (name, place) of each tensor of a sound safetensors file, given its bytes from the first on."""
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    entries = json.loads(data[LENGTH_BYTES : LENGTH_BYTES + length])
    start = LENGTH_BYTES + length
    for name, entry in entries.items():
        if name != "__metadata__":
            if entry["dtype"] not in DTYPES:
                told = f"{shown(name)} is stored as {shown(entry['dtype'])}; the probe reads {', '.join(DTYPES)}"
                raise NoProbe("unsupported", f"{where}: {told}")
            first, last = entry["data_offsets"]
            yield name, Place(file, DTYPES[entry["dtype"]], tuple(entry["shape"]), start + first, start + last)


def runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, count) of each run of numbers that follow one another."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield numbers[start], at - start
            start = at


def read_json(path: Path, where: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        NoProbe: there is none.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise NoProbe("bad_file", f"{where}: {path.stat().st_size:,} bytes; at most {MAX_JSON_BYTES:,} are read")
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NoProbe("not_found", f"{where}: no such file; a probe needs it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise NoProbe("bad_file", f"{where}: {in_words(error)}") from error
    if not isinstance(value, dict):
        raise NoProbe("bad_file", f"{where}: a JSON object is needed, this is a {type(value).__name__}")
    return value


def _weights_of(folder: Path, where: str) -> list[str]:
    """Return the safetensors files of a folder's checkpoint; all that an index names must be there."""
    files = [RepoFile(path.name, path.stat().st_size) for path in folder.iterdir() if path.is_file()]
    found = select_checkpoint(files)
    if found is None:
        raise NoProbe("no_safetensors", f"{where}: {why_none(files)}; only safetensors are read")
    if found.index is None:
        return list(found.weights)
    shards = read_json(folder / found.index, f"{where}/{found.index}").get("weight_map")
    return shards_of(shards, {file.path for file in files}, f"{where}/{found.index}")


def shards_of(weight_map: object, there: set[str], where: str) -> list[str]:
    """Return the shards that an index names.

    Args:
        weight_map: of the index: {tensor: file}.
        there: files beside the index.
        where: the index, for messages.

    Raises:
        NoProbe: the index names none, or one that is not there.
    """
    if not isinstance(weight_map, dict) or not weight_map:
        raise NoProbe("bad_file", f"{where}: no weight_map of tensors to shards")
    shards = sorted({str(shard) for shard in weight_map.values()})
    missing = [shard for shard in shards if shard not in there]
    if missing:
        told = f"{len(missing)} of {len(shards)} shards that the index names are not there: {shown(missing[0])}"
        raise NoProbe("bad_file", f"{where}: {told}{', …' if len(missing) > 1 else ''}")
    return shards
