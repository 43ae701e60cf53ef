"""Why a checkpoint's norms are what the audit says, and what would change that answer.

Nothing here is a canned reason: the classifier is run again with one source of evidence taken away, or with one added.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tasks.core.configs import DIGEST_KEYS, is_digest
from tasks.core.evidence import ANSWER_ABOVE, kind_facts, likeliest, log_odds
from tasks.core.kinds import classify, reweighed
from tasks.core.matching import indexed
from tasks.core.records import Evidence, Kind, Norm, Parameterisation, Site, Tensor
from tasks.core.registry import Registry
from tasks.core.streams import unknown_streams

LATER = ("values", "weights")  # sources that are looked at when the tensors' names have been classified
MATERIAL = 2.0  # a confidence has changed where its chance of error has doubled or halved
TELLING_KEYS: tuple[Mapping[str, object], ...] = (  # what a config.json is likeliest to have, and how it would count
    {"rms_norm_eps": 1e-6},
    {"layer_norm_eps": 1e-5},
    {"norm_type": "rmsnorm"},
    {"norm_type": "layernorm"},
)


@dataclass(frozen=True, slots=True)
class Group:
    """Norms of one pattern about which the same is concluded.

    Attributes:
        pattern: of their modules: "model.layers.{i}.input_layernorm"; "" for a norm that stores no tensor.
        count: how many there are.
    """

    tower: str
    pattern: str
    count: int
    site: Site
    kind: Kind
    parameterisation: Parameterisation | None
    confidence: float
    decided_by: str


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of evidence on a final norm, and what that norm would be called without it."""

    tower: str
    evidence: Evidence
    kind_without: Kind
    parameterisation_without: Parameterisation | None
    confidence_without: float


@dataclass(frozen=True, slots=True)
class Rerun:
    """The classifier's answer from other evidence than was at hand.

    Attributes:
        what: the evidence that was taken away, or added.
        main: the main final norm then; None where there is none.
        changes: what of the answer changes materially, in words; empty where nothing does.
        kinds_changed: how many norms change their kind, the main one included.
    """

    what: str
    main: Norm | None
    changes: tuple[str, ...]
    kinds_changed: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why the norms of a checkpoint are what they are said to be.

    Attributes:
        main: the main final norm; None where there is none.
        likelier: the kind that its evidence speaks for, also where that is not enough for an answer.
        towers: label of each tower with a norm, and its final norm or None.
        groups: all norms by pattern, in the checkpoint's order.
        pieces: the evidence on the final norms.
        without: the answer without each source of evidence.
        with_more: the answer with evidence that was not at hand; empty where the answer is not open.
        weights_may_tell: the kind is unknown, and matrices that may tell it were not read.
        upset_by: strength of one piece of evidence for another kind that would make the answer unknown; None where the
            answer is unknown already, or no single piece would do.
    """

    main: Norm | None
    likelier: Kind | None
    towers: tuple[tuple[str, Norm | None], ...]
    groups: tuple[Group, ...]
    pieces: tuple[Piece, ...]
    without: tuple[Rerun, ...]
    with_more: tuple[Rerun, ...]
    weights_may_tell: bool
    upset_by: float | None


@dataclass(frozen=True, slots=True)
class Case:
    """What was audited: the norms as the audit left them, and all that they were classified by.

    Attributes:
        norms: with the evidence of values and weights, where they were read.
        tensors: the checkpoint's tensors.
        config: the config or its digest, as the audit used it.
        registry: as the audit used it; None: it did without.
    """

    norms: Sequence[Norm]
    tensors: Sequence[Tensor]
    config: Mapping[str, object] | None
    registry: Registry | None


def explain(case: Case, other_registry: Registry | None = None) -> Explanation:
    """Return why the audit says what it says, and what would change it.

    Args:
        case: what was audited.
        other_registry: measured facts that the audit did without, for what they would change.
    """
    main = _main(case.norms)
    return Explanation(
        main=main,
        likelier=likeliest(kind_facts(main.evidence))[0] if main else None,
        towers=tuple(_towers(case.norms)),
        groups=tuple(_groups(case.norms)),
        pieces=tuple(piece for norm in case.norms if norm.is_final for piece in _pieces(norm)),
        without=tuple(_without(case)),
        with_more=tuple(_with_more(case, other_registry)) if is_open(main) else (),
        weights_may_tell=main is not None and bool(unknown_streams([main])) and not _was_seen("weights", [main]),
        upset_by=_upset_by(main) if main else None,
    )


def is_open(main: Norm | None) -> bool:
    """Return whether more evidence could make the answer on the main final norm another."""
    return main is None or "unknown" in (main.kind, main.parameterisation)


def _main(norms: Sequence[Norm]) -> Norm | None:
    return next((norm for norm in norms if norm.is_main), None)


def _towers(norms: Sequence[Norm]) -> Iterator[tuple[str, Norm | None]]:
    finals = {norm.tower: norm for norm in norms if norm.is_final}
    for tower in dict.fromkeys(norm.tower for norm in (*finals.values(), *norms)):
        yield tower, finals.get(tower)


def _groups(norms: Sequence[Norm]) -> Iterator[Group]:
    members: dict[Group, int] = {}
    for norm in norms:
        alike = Group(
            norm.tower,
            indexed(norm.module),
            0,
            norm.site,
            norm.kind,
            norm.parameterisation,
            norm.confidence,
            norm.decided_by,
        )
        members[alike] = members.get(alike, 0) + 1
    return (replace(group, count=count) for group, count in members.items())


def _pieces(norm: Norm) -> Iterator[Piece]:
    for i, fact in enumerate(norm.evidence):
        rest = reweighed(norm, norm.evidence[:i] + norm.evidence[i + 1 :])
        yield Piece(norm.tower, fact, rest.kind, rest.parameterisation, rest.confidence)


def _was_seen(source: str, norms: Iterable[Norm]) -> bool:
    return any(fact.source == source for norm in norms for fact in norm.evidence)


def _upset_by(main: Norm) -> float | None:
    """A piece of strength s for the next likely kind adds 2 artanh(s) to its log-odds."""
    first, second, *_ = sorted(log_odds(kind_facts(main.evidence)).values(), reverse=True)
    margin = first - second - math.log(ANSWER_ABOVE / (1 - ANSWER_ABOVE))
    strength = math.tanh(margin / 2)
    return strength if main.kind != "unknown" and 0 <= strength < 0.9999 else None


def _without(case: Case) -> Iterator[Rerun]:
    """Yield the answer without each source of evidence that was at hand."""
    biases = {norm.bias_tensor for norm in case.norms if norm.bias_tensor}
    for source, what in _MEASURED.items():
        if case.registry is not None and _was_seen(source, case.norms):
            yield _rerun(what, replace(case, registry=None), case)
    if case.config is not None and not is_digest(case.config):
        digest = {key: value for key, value in case.config.items() if key in DIGEST_KEYS}
        yield _rerun("config.json, but for the architecture that it names", replace(case, config=digest), case)
    if case.config is not None:
        yield _rerun("any config, and so without the registry", replace(case, config=None, registry=None), case)
    if biases:
        rest = [tensor for tensor in case.tensors if tensor.name not in biases]
        yield _rerun("the biases of norms", replace(case, tensors=rest), case)
    for source in LATER:
        if _was_seen(source, case.norms):
            yield _compared(_LATER_WORDS[source], case, [_less(norm, source) for norm in case.norms])


_LATER_WORDS = {
    "values": "the values of the scales",
    "weights": "the trace in the weight matrices",
}
_MEASURED = {
    "registry": "the registry of measured architectures",
    "behaviour": "what building the architecture and running it showed",
}


def _with_more(case: Case, other_registry: Registry | None) -> Iterator[Rerun]:
    """Yield the answer with evidence that could be had; only what changes it."""
    found = [_rerun(f"{_key(keys)} in config.json", _with_keys(case, keys), case) for keys in _telling(case)]
    if case.registry is None and other_registry is not None:
        found.append(_rerun("the registry of measured architectures", replace(case, registry=other_registry), case))
    yield from (rerun for rerun in found if rerun.changes)


def _telling(case: Case) -> Sequence[Mapping[str, object]]:
    """A whole config.json has been heard; of a digest nobody knows what the rest would say."""
    return TELLING_KEYS if is_digest(case.config) else ()


def _with_keys(case: Case, keys: Mapping[str, object]) -> Case:
    """Return the case with more in its config; that is a guess, and nothing is built from it."""
    registry = None if case.registry is None else replace(case.registry, measure=None)
    return replace(case, config={**(case.config or {}), **keys}, registry=registry)


def _key(keys: Mapping[str, object]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in keys.items())


def _rerun(what: str, changed: Case, case: Case) -> Rerun:
    """Classify again; what was read of a norm's values and weights stays known of it."""
    later = {norm.scale_tensor: [fact for fact in norm.evidence if fact.source in LATER] for norm in case.norms}
    norms = classify(changed.tensors, changed.config, changed.registry).norms
    kept = [
        reweighed(norm, (*norm.evidence, *later[norm.scale_tensor])) if later.get(norm.scale_tensor) else norm
        for norm in norms
    ]
    return _compared(what, case, kept)


def _less(norm: Norm, source: str) -> Norm:
    rest = [fact for fact in norm.evidence if fact.source != source]
    return reweighed(norm, rest) if len(rest) < len(norm.evidence) else norm


def _compared(what: str, case: Case, norms: Sequence[Norm]) -> Rerun:
    kinds = {norm.scale_tensor: norm.kind for norm in norms}
    changed = sum(kinds.get(norm.scale_tensor) not in (None, norm.kind) for norm in case.norms)
    main = _main(norms)
    return Rerun(what, main, tuple(_changes(_main(case.norms), main)), changed)


def _changes(before: Norm | None, after: Norm | None) -> Iterator[str]:
    """Yield what differs between two answers, in words."""
    if before is None or after is None:
        if before is not after:
            yield f"final norm: {_name(after)}, not {_name(before)}"
        return
    if before.scale_tensor != after.scale_tensor:
        yield f"final norm: {_name(after)}, not {_name(before)}"
    if before.kind != after.kind:
        yield f"kind: {after.kind}, not {before.kind}"
    if before.parameterisation != after.parameterisation:
        yield f"scale: {after.parameterisation}, not {before.parameterisation}"
    if not 1 / MATERIAL < (1 - after.confidence) / (1 - before.confidence) < MATERIAL:
        yield f"confidence: {after.confidence:.3f}, not {before.confidence:.3f}"


def _name(norm: Norm | None) -> str:
    if norm is None:
        return "none"
    return norm.scale_tensor or "one without affine"
