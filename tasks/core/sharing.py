"""Identical weights under another name: what was read of them once serves every repo that holds them.

The scales and their figures are shared; the kind is decided again, with the other repo's own config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tasks.core.packing import pack_tensors, unpack_tensors
from tasks.core.reconclude import FROM_BYTES, KeptScale, reconclude
from tasks.core.records import Reading, ReadNorm, Tensor
from tasks.core.registry import Registry
from tasks.core.verdicts import FROM_VALUES


@dataclass(frozen=True, slots=True)
class Twin:
    """What a plan returns in place of a reading: this file was audited before, and was not read again."""

    sha256: str


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What is kept of a checkpoint of one file.

    Attributes:
        repo_id: of the repo that it was read from.
        packed_tensors: all of the file's, by `pack_tensors`: as objects they take thirty times as much.
        scales: what was read, by name of the scale tensor.
        verdicts: on the values that were read, in the words of column `integrity`.
        checkpoint_bytes: the file's size.
    """

    repo_id: str
    packed_tensors: bytes
    scales: Mapping[str, KeptScale]
    verdicts: tuple[str, ...]
    checkpoint_bytes: int | None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of the file's, unpacked."""
        return unpack_tensors(self.packed_tensors)


def kept_of(repo_id: str, reading: Reading) -> Kept:
    """Return what a reading leaves for repos with the same weights."""
    return Kept(
        repo_id,
        pack_tensors(reading.tensors),
        {read.norm.scale_tensor: _kept(read) for read in reading.norms if read.norm.scale_tensor and read.scale},
        tuple(word for word in reading.integrity if word in FROM_VALUES),
        reading.checkpoint_bytes,
    )


def conclude_shared(
    kept: Kept,
    path: str,
    config: Mapping[str, object] | None,
    norms: str,
    registry: Registry | None,
    tau: float,
) -> Reading | None:
    """Return the reading of a repo whose weights were read elsewhere, or None where a wanted scale was not.

    Args:
        kept: what was read.
        path: of the weights in this repo.
        config: this repo's own.
        norms: whose scales are wanted ("final" or "all").
        registry: measured facts on known architectures, or None.
        tau: threshold of near-dead coordinates.
    """
    tensors = tuple(replace(tensor, file=path) for tensor in kept.tensors)
    concluded = reconclude(tensors, config, kept.scales, registry, tau)
    if concluded is None or (norms == "all" and any(_lacks_scale(read) for read in concluded.norms)):
        return None
    return Reading(
        status="ok",
        reason=None,
        norm_kind=concluded.norm_kind,
        norms=concluded.norms,
        tensors=tensors,
        integrity=tuple(dict.fromkeys((*concluded.integrity, *kept.verdicts))),
        file_count=1,
        checkpoint_bytes=kept.checkpoint_bytes,
        config=config,
    )


def _lacks_scale(read: ReadNorm) -> bool:
    return read.norm.scale_tensor is not None and read.scale is None


def _kept(read: ReadNorm) -> KeptScale:
    norm = read.norm
    return KeptScale(
        parameterisation=norm.parameterisation,
        figures=read.scale,
        gamma=read.gamma,
        beta=read.beta,
        gamma_sha256=read.gamma_sha256,
        seen=tuple(fact for fact in norm.evidence if fact.source in FROM_BYTES),
        kind=norm.kind,
        confidence=norm.confidence,
        decided_by=norm.decided_by,
    )
