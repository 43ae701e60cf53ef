"""The residual stream from block to block: does its smallest singular value survive? (maths.md, section 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

UNIT_ROUNDOFFS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}  # eps by dtype
FLOOR_UNITS = 4  # of eps·rms·√N; rounding alone leaves 0.3 to 2 of them through 24 layers
FLAGGED_BELOW = 0.1  # a block that shrinks σ_min to less than this share is flagged
FIRST_COUNTING = 1  # the ratio from the embeddings to the first block is stored but doesn't count


@dataclass(frozen=True, slots=True)
class StreamSigma:
    """The residual stream after one block, centred: its extreme singular values, and its size.

    Attributes:
        name: the block's module path, or what the embeddings are called.
        sigma_min: smallest singular value of the centred stream.
        sigma_max: largest singular value of the centred stream.
        rms: root mean square of the stream's entries, not centred (`CentredQR.second_moment_rms`).
    """

    name: str
    sigma_min: float
    sigma_max: float
    rms: float


@dataclass(frozen=True, slots=True)
class BlockFigures:
    """The residual stream's smallest singular value from block to block.

    Attributes:
        block_names: L + 1 names, the embeddings first.
        block_sigma_min: L + 1 values; None where a value is not finite, or N ≤ d.
        block_sigma_max: L + 1 values.
        block_sigma_ratio: L ratios σ_min(l + 1)/σ_min(l); None where one of the two is rounding.
        flagged: the l ≥ 1 whose ratio is below 0.1.
        preserved: whether no block is flagged; None where no ratio counts.
        reason: why nothing counts; None where something does.
    """

    block_names: tuple[str, ...]
    block_sigma_min: tuple[float | None, ...]
    block_sigma_max: tuple[float | None, ...]
    block_sigma_ratio: tuple[float | None, ...]
    flagged: tuple[int, ...]
    preserved: bool | None
    reason: str | None = None


def block_figures(streams: Sequence[StreamSigma], count: int, width: int, body_dtype: str) -> BlockFigures:
    """Return the figures of the residual stream after each block.

    Args:
        streams: X_0 (after the embeddings) to X_L (the final norm's input).
        count: N, the number of tokens.
        width: d of the stream.
        body_dtype: the type that the blocks compute in: a key of UNIT_ROUNDOFFS.
    """
    enough = count > width  # else σ_min is 0 for a reason that has nothing to do with the model
    smallest = [_finite(stream.sigma_min) if enough else None for stream in streams]
    floors = [rounding_floor(stream.rms, count, body_dtype) for stream in streams]
    clear = [
        value if value is not None and value > floor else None for value, floor in zip(smallest, floors, strict=True)
    ]
    ratios = tuple(_ratio(after, before) for before, after in pairwise(clear))
    counting = {index: ratio for index, ratio in enumerate(ratios) if index >= FIRST_COUNTING and ratio is not None}
    flagged = tuple(index for index, ratio in counting.items() if ratio < FLAGGED_BELOW)
    return BlockFigures(
        block_names=tuple(stream.name for stream in streams),
        block_sigma_min=tuple(smallest),
        block_sigma_max=tuple(_finite(stream.sigma_max) for stream in streams),
        block_sigma_ratio=ratios,
        flagged=flagged,
        preserved=not flagged if counting else None,
        reason=None if counting else _nothing_counts(streams, count, width),
    )


def rounding_floor(rms: float, count: int, body_dtype: str) -> float:
    """Return the σ_min below which there is nothing but the rounding of a stream of N tokens: 4·eps·rms·√N.

    Raises:
        ValueError: the type is not one that bodies compute in.
    """
    if body_dtype not in UNIT_ROUNDOFFS:
        raise ValueError(f"asked for the rounding of {body_dtype}, known are {', '.join(UNIT_ROUNDOFFS)}")
    return FLOOR_UNITS * UNIT_ROUNDOFFS[body_dtype] * rms * math.sqrt(count)


def _nothing_counts(streams: Sequence[StreamSigma], count: int, width: int) -> str:
    if count <= width:
        return (
            f"{count:,} tokens for a width of {width:,}: the smallest singular value needs more tokens than the width"
        )
    if len(streams) < FIRST_COUNTING + 2:
        return f"{len(streams):,} streams: a ratio that counts needs {FIRST_COUNTING + 2}"
    return "every smallest singular value is at or below what rounding leaves"


def _ratio(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after / before


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
