"""What one run remembers from checkpoint to checkpoint: how files of a sort are laid out, and what was made of them.

Nothing here can make an answer wrong. Places are guesses, which the file's own header confirms or not; what was parsed
or concluded is taken again only where every byte that it was made of is the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import orjson

from tasks.core.claims import ClaimedShard
from tasks.core.kinds import Classification
from tasks.core.ranges import ByteRange
from tasks.core.records import Header, Listing, Tensor, TensorSpec
from tasks.core.registry import Registry

K = TypeVar("K")
V = TypeVar("V")
Family: TypeAlias = bytes  # what the listing tells of a model's code: type, architectures, quantisation

MAX_FAMILIES = 4_096
MAX_SHAPES = 2_048  # of 0.3 kB each with the places of a final norm alone, of 8 kB with those of all norms
MAX_HEADERS = 128  # of about 100 kB each, parsed; fine-tunes of one base come with the same header to the byte
MAX_CLAIMS = 32  # of about 300 kB each, parsed; a longer one than MAX_CLAIM_BYTES is not remembered
MAX_CLAIM_BYTES = 524_288
MAX_REMEMBERED_BYTES = 131_072  # of a header's text: a longer one takes megabytes when parsed
MAX_REMEMBERED_TENSORS = 2_000  # of a checkpoint, for the same reason
FAMILY_KEYS = ("model_type", "architectures", "quantization_config")


class Recent(Generic[K, V]):
    """A mapping that keeps the entries used last, so many at most; it may be shared between threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """Return an entry, or None."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep an entry, in place of the one that was not used for longest if there are too many."""
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            if len(self._entries) > self._most:
                self._entries.popitem(last=False)

    def __contains__(self, key: object) -> bool:
        return key in self._entries


@dataclass(frozen=True, slots=True)
class Shape:
    """How the file of one model was laid out, for others of the same family and size.

    Attributes:
        head_bytes: of its start, which hold the header and what is wanted right behind it.
        ranges: where the other wanted scales and biases lay.
    """

    head_bytes: int
    ranges: tuple[ByteRange, ...]


@dataclass(frozen=True, slots=True)
class Habit:
    """What the files of one family have in common, whatever their size.

    Attributes:
        header_bytes: the longest header so far.
        ends_with_wanted: whether the last file's wanted tensors lay at its end.
    """

    header_bytes: int
    ends_with_wanted: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """A header that was parsed; and its tensors by name: where they lie, and as tensors of their file."""

    header: Header
    specs: Mapping[str, TensorSpec]
    tensors: Mapping[str, Tensor]


class Memory:
    """What a run has seen.

    Attributes:
        shapes: by family, parameters, file and which norms were wanted.
        habits: by family and which norms were wanted.
        headers: by the hash of the header's bytes, and the file's path.
        claims: by the hash of the Hub's answer.
    """

    def __init__(self) -> None:
        self.shapes: Recent[tuple[Family, int, str, str], Shape] = Recent(MAX_SHAPES)
        self.habits: Recent[tuple[Family, str], Habit] = Recent(MAX_FAMILIES)
        self.headers: Recent[tuple[bytes, str], Opened] = Recent(MAX_HEADERS)
        self.claims: Recent[bytes, Mapping[str, ClaimedShard]] = Recent(MAX_CLAIMS)
        self._conclusions: Recent[bytes, tuple[Registry | None, Classification]] = Recent(MAX_HEADERS)

    def concluded(self, key: bytes, registry: Registry | None, make: Callable[[], Classification]) -> Classification:
        """Return what is concluded of a checkpoint, made only if it has not been.

        Args:
            key: a hash of all that it is concluded from, but for the registry.
            registry: that it is concluded with.
            make: concludes it.
        """
        found = self._conclusions.get(key)
        if found is None or found[0] is not registry:
            found = registry, make()
            self._conclusions.put(key, found)
        return found[1]


def family_of(listing: Listing) -> Family | None:
    """Return what the models have in common whose files are probably laid out alike; None where nothing is told."""
    if not listing.config:
        return None
    told = {key: listing.config[key] for key in FAMILY_KEYS if key in listing.config}
    return orjson.dumps(told, option=orjson.OPT_SORT_KEYS) if told else None
