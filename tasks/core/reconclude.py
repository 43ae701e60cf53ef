"""A checkpoint that was read before, concluded anew by today's method: from what the store keeps, without a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tasks.core.figures import Vector, with_scale, without_scale
from tasks.core.kernel import DEAD_TAU
from tasks.core.kinds import classify
from tasks.core.records import Evidence, Kind, Norm, Parameterisation, ReadNorm, ScaleFigures, Tensor
from tasks.core.registry import Registry

FROM_BYTES = ("values", "weights", "behaviour")  # evidence that cannot be had again without reading, or running


@dataclass(frozen=True, slots=True, eq=False)
class KeptScale:
    """What the store keeps of a norm whose scale was read.

    Attributes:
        parameterisation: by which its figures were made.
        figures: of the effective scale.
        gamma: effective scale, shape (dim,), in the precision of the store; None for norms that were not final.
        beta: bias, shape (dim,), or None.
        gamma_sha256: of the scale's bytes in the file.
        seen: evidence from bytes that the store does not keep: of this scale, or of matrices.
        kind, confidence, decided_by: what was concluded then.
    """

    parameterisation: Parameterisation | None
    figures: ScaleFigures | None
    gamma: Vector | None = None
    beta: Vector | None = None
    gamma_sha256: str | None = None
    seen: tuple[Evidence, ...] = ()
    kind: Kind = "unknown"
    confidence: float = 0.0
    decided_by: str = "tensors"


@dataclass(frozen=True, slots=True)
class Concluded:
    """What a method concludes of a checkpoint."""

    norm_kind: Kind
    norms: tuple[ReadNorm, ...]
    integrity: tuple[str, ...]


def reconclude(
    tensors: Sequence[Tensor],
    config: Mapping[str, object] | None,
    kept: Mapping[str, KeptScale],
    registry: Registry | None,
    tau: float = DEAD_TAU,
) -> Concluded | None:
    """Return what today's method concludes, or None where it wants a scale that was never read.

    Args:
        tensors: the checkpoint's tensors.
        config: its config, as far as it was known.
        kept: what the store keeps, by name of the scale tensor.
        registry: measured facts on known architectures, or None.
        tau: threshold of near-dead coordinates.
    """
    found = classify(tensors, config, registry)
    if any(_is_missing(norm, kept) for norm in found.norms):
        return None
    norms = tuple(_concluded(norm, kept.get(norm.scale_tensor or ""), tau) for norm in found.norms)
    main = next((read.norm for read in norms if read.norm.is_main), None)
    return Concluded(main.kind if main else found.norm_kind, norms, found.integrity)


def _is_missing(norm: Norm, kept: Mapping[str, KeptScale]) -> bool:
    if not norm.is_final or norm.scale_tensor is None:
        return False
    scale = kept.get(norm.scale_tensor)
    return scale is None or (scale.gamma is None and not _was_not_finite(scale))


def _was_not_finite(scale: KeptScale) -> bool:
    return scale.figures is not None and scale.figures.nonfinite_count > 0


def _concluded(norm: Norm, kept: KeptScale | None, tau: float) -> ReadNorm:
    if norm.scale_tensor is None:
        return without_scale(norm, tau)
    if kept is None:
        return ReadNorm(norm)
    norm = _as_seen_then(norm, kept)
    if kept.gamma is None:  # the statistics are all there is, and are of the scale as it was then understood
        return ReadNorm(norm, kept.figures if kept.parameterisation == norm.parameterisation else None)
    norm = replace(norm, evidence=tuple(fact for fact in norm.evidence if fact.source != "values"))  # seen anew now
    weight = kept.gamma - 1.0 if kept.parameterisation == "one_plus" else kept.gamma
    return with_scale(norm, weight, kept.beta, kept.gamma_sha256, tau)


def _as_seen_then(norm: Norm, kept: KeptScale) -> Norm:
    """Return the norm with the evidence that cannot be had again; it decides where today's method finds nothing."""
    norm = replace(norm, evidence=(*norm.evidence, *kept.seen))
    if norm.kind == "unknown" and any(fact.source == kept.decided_by for fact in kept.seen):
        norm = replace(norm, kind=kept.kind, confidence=kept.confidence, decided_by=kept.decided_by)
    if norm.parameterisation == "unknown" and any(fact.source == "values" for fact in kept.seen):
        norm = replace(norm, parameterisation=kept.parameterisation)
    return norm
