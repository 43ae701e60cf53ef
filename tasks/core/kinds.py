"""The kind of every norm of a checkpoint, which are final, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tasks.core.configs import Scope, is_digest, outside_last, scopes_for, scopes_of, width_of
from tasks.core.evidence import blank_evidence, is_of_front_end, kind_facts, own_evidence, structure_of, weigh
from tasks.core.finals import DOUBTFUL
from tasks.core.integrity import is_anonymous
from tasks.core.integrity import verdicts as integrity_verdicts
from tasks.core.known import Known, measured_blank, measured_eps, measured_evidence, recognise, with_measured_finals
from tasks.core.modules import NormModules
from tasks.core.names import NormPlace, Survey, by_tower, places, survey
from tasks.core.parameterisation import conversion_evidence, from_facts, with_values
from tasks.core.records import Evidence, Kind, Norm, Tensor
from tasks.core.registry import Registry
from tasks.core.towers import role_of

__all__ = ["Classification", "classify", "reweighed", "with_values"]

SURE = 0.97  # from here on a whole config.json would hardly change the answer


@dataclass(frozen=True, slots=True)
class Classification:
    """What a checkpoint's tensors and config say of its norms.

    Attributes:
        norms: every norm; final norms are flagged, and exactly one of them is main if there are any.
        norm_kind: kind of the main final norm; "none" where the checkpoint has no norm.
        needs_config: only a digest of the config was at hand, and the whole of it may settle what is open.
        integrity: verdicts seen from names alone.
    """

    norms: tuple[Norm, ...]
    norm_kind: Kind
    needs_config: bool
    integrity: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What was concluded of the norms of one pattern."""

    kind: Kind
    confidence: float
    decided_by: str
    evidence: tuple[Evidence, ...]
    eps: float | None


def classify(
    tensors: Sequence[Tensor], config: Mapping[str, object] | None, registry: Registry | None = None
) -> Classification:
    """Find and classify every norm of a checkpoint.

    Args:
        tensors: the checkpoint's tensors; shapes and dtypes may be missing.
        config: its config.json, the Hub's digest of it, or None.
        registry: what was measured of known architectures; None to do without.
    """
    found = survey(tensors, outside_last(config))
    known = recognise(found, config, registry)
    found = with_measured_finals(found, known)
    verdicts = _verdicts(found, known, config)
    width = width_of(config)
    norms = tuple(_norm(place, verdicts[place.pattern], width) for place in places(found))
    main = next((norm for norm in norms if norm.is_main), None)
    return Classification(
        norms,
        _norm_kind(main, norms, found),
        is_digest(config) and _is_open(main, norms, known),
        tuple(integrity_verdicts(tensors, found, norms, known, config)),
    )


def reweighed(norm: Norm, evidence: Sequence[Evidence]) -> Norm:
    """Return a norm as other evidence than it was classified by makes it."""
    kind, confidence, source = weigh(kind_facts(evidence))
    return replace(
        norm,
        kind=kind,
        confidence=confidence,
        decided_by=source,
        parameterisation=from_facts(kind, evidence) if norm.scale_tensor else None,
        evidence=tuple(evidence),
    )


def _verdicts(found: Survey, known: Known, config: Mapping[str, object] | None) -> dict[str, _Verdict]:
    """Return the verdict on each norm pattern; that on a final norm without a tensor has the pattern ""."""
    verdicts: dict[str, _Verdict] = {}
    scopes = scopes_of(config)
    converted = conversion_evidence(found.inventory)
    for tower, (inside, outside) in by_tower(found.inventory, found.layout).items():
        said = scopes_for(role_of(tower.owner), tower is found.main, scopes)
        final = found.finals.get(tower)
        if final and final.norm is None:
            verdicts[""] = _weighed(_of_blank(found, known), said)
        shared = structure_of(found.layout.matrices[tower], inside, outside)
        for norm in (*inside, *outside):
            facts = [*measured_evidence(norm, known), *own_evidence(norm, found.inventory), *converted]
            facts += () if _speaks_for_itself(norm) else shared
            facts += known.failure if final and final.norm is norm else ()
            verdict = _weighed(facts, () if is_of_front_end(norm) else said)
            eps = measured_eps(norm, known, config)
            verdicts[norm.pattern] = verdict if eps is None else replace(verdict, eps=eps)
    return verdicts


def _of_blank(found: Survey, known: Known) -> list[Evidence]:
    """Return what bears on a final norm that stores no tensor."""
    return [*measured_blank(known), *blank_evidence(found.inventory), *known.failure]


def _speaks_for_itself(norm: NormModules) -> bool:
    """With a bias or running statistics it does; the layers' structure tells only of their norms without."""
    return bool(norm.biases or norm.running) or is_of_front_end(norm)


def _weighed(facts: Sequence[Evidence], scopes: Sequence[Scope]) -> _Verdict:
    everything = (*facts, *(fact for scope in scopes for fact in scope.facts))
    kind, confidence, source = weigh(kind_facts(everything))
    eps = next((scope.eps for scope in scopes if scope.eps is not None), None)
    return _Verdict(kind, confidence, source, everything, eps)


def _norm(place: NormPlace, verdict: _Verdict, width: int | None) -> Norm:
    evidence = (*verdict.evidence, place.final) if place.final else verdict.evidence
    return Norm(
        module=place.module,
        tower=place.tower,
        layer=place.layer,
        site=place.site,
        kind=verdict.kind,
        parameterisation=from_facts(verdict.kind, evidence) if place.scale_tensor else None,
        confidence=verdict.confidence,
        decided_by=verdict.decided_by,
        is_final=place.is_final,
        is_main=place.is_main,
        scale_tensor=place.scale_tensor,
        bias_tensor=place.bias_tensor,
        file=place.file,
        dim=place.dim or (None if place.scale_tensor else width),
        dtype=place.dtype,
        eps=verdict.eps,
        evidence=evidence,
    )


def _norm_kind(main: Norm | None, norms: Sequence[Norm], found: Survey) -> Kind:
    if main is not None:
        return main.kind
    return "unknown" if norms or is_anonymous(found.inventory) else "none"


def _is_open(main: Norm | None, norms: Sequence[Norm], known: Known) -> bool:
    """Return whether anything is left that more of the config could tell."""
    if known.architecture and known.architecture.depends_on:
        return True
    if main is None:
        return bool(norms)
    doubtful = any(fact.says == "final" and fact.strength <= DOUBTFUL for fact in main.evidence)
    return main.kind == "unknown" or main.confidence < SURE or doubtful
