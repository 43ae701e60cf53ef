"""Streams whose norms nothing else could tell apart: which matrices to ask, and what their answer changes.

All norms of a tower that stand in its blocks' main path, and its final norm, read one residual stream, and are built
alike; so what the stream's writers tell (maths.md, section 7) is told of each that has no bias and is still unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import shown
from tasks.core.gauge import gauge, gauge_evidence
from tasks.core.kinds import Classification, reweighed
from tasks.core.names import Survey, survey
from tasks.core.records import Evidence, Norm, Site, Tensor
from tasks.core.writers import Writer, quantised_writer, shard_of_writers, smallest, writers_of

MOST_WRITERS = 4  # the median of four stands firm when one of them strays
MAX_WIDTH = 65_536  # four times the widest stream known; the controls of a wider one would fill the memory
_ON_THE_STREAM: frozenset[Site] = frozenset(
    ("final", "pre_attention", "post_attention", "pre_mlp", "post_mlp")  # not those of queries, embeddings, heads
)


@dataclass(frozen=True, slots=True)
class Stream:
    """A tower's residual stream: the tower's label, and the stream's width."""

    tower: str
    width: int


@dataclass(frozen=True, slots=True)
class Witnesses:
    """The matrices to ask of a stream's norms, smallest first, or in words why there are none."""

    writers: tuple[Writer, ...]
    why_none: str = ""

    @property
    def size_bytes(self) -> int:
        """What reading them takes."""
        return sum(writer.size_bytes for writer in self.writers)


def unknown_streams(norms: Iterable[Norm]) -> tuple[Stream, ...]:
    """Return the streams that end in a norm which has no bias and whose kind is unknown, the main one first."""
    finals = sorted((norm for norm in norms if norm.is_final), key=lambda norm: not norm.is_main)
    streams = [Stream(norm.tower, norm.dim) for norm in finals if norm.dim and norm.dim <= MAX_WIDTH]
    return tuple(stream for stream in streams if any(_is_asked_of(norm, stream) for norm in finals))


def unopened_shard(tensors: Sequence[Tensor], stream: Stream) -> str | None:
    """Return a shard whose header would show writers of the stream, where no header read so far does, else None."""
    found = survey(tensors)
    if writers_of(found, stream.tower, stream.width):
        return None
    return shard_of_writers(found, stream.tower)


def witnesses(tensors: Sequence[Tensor], stream: Stream, limit_bytes: int) -> Witnesses:
    """Choose the smallest writers of a stream that together take at most limit_bytes."""
    found = survey(tensors)
    writers = writers_of(found, stream.tower, stream.width)
    chosen = smallest(writers, limit_bytes, MOST_WRITERS)
    return Witnesses(chosen) if chosen else Witnesses((), _why_none(found, stream, writers, limit_bytes))


def with_testimony(
    found: Classification, stream: Stream, asked: Witnesses, values: Iterable[NDArray[np.float64]]
) -> Classification:
    """Return the classification with what the writers tell of the stream's unknown norms.

    Args:
        found: from `classify`.
        stream: whose norms are asked for.
        asked: the writers.
        values: theirs in the same order, flat, as the file stores them; read once.
    """
    matrices = (_oriented(writer, flat) for writer, flat in zip(asked.writers, values, strict=True))
    if asked.writers:
        fact = gauge_evidence(gauge(matrices, stream.width), [writer.tensor.name for writer in asked.writers])
    else:
        fact = Evidence("weights", "unknown", 0.0, asked.why_none)
    norms = tuple(
        reweighed(norm, (*norm.evidence, fact)) if _is_asked_of(norm, stream) else norm for norm in found.norms
    )
    main = next((norm for norm in norms if norm.is_main), None)
    return replace(found, norms=norms, norm_kind=main.kind if main else found.norm_kind)


def _is_asked_of(norm: Norm, stream: Stream) -> bool:
    is_open = norm.kind == "unknown" and norm.bias_tensor is None
    return is_open and norm.site in _ON_THE_STREAM and (norm.tower, norm.dim) == (stream.tower, stream.width)


def _oriented(writer: Writer, flat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a writer as (width, inputs)."""
    matrix = flat.reshape(writer.tensor.shape or ())
    return matrix.T if writer.stream_axis == 1 else matrix


def _why_none(found: Survey, stream: Stream, writers: Sequence[Writer], limit_bytes: int) -> str:
    if writers:
        least = min(writers, key=lambda writer: writer.size_bytes)
        return (
            f"the smallest matrix that writes to the stream, {shown(least.tensor.name)}, has {least.size_bytes:,}"
            f" bytes; {limit_bytes:,} may be read"
        )
    if packed := quantised_writer(found, stream.tower):
        return f"{shown(packed.name)} is stored as {shown(packed.dtype)}: a quantised matrix cannot tell"
    return f"no matrix that writes to a stream of width {stream.width:,} was found"
