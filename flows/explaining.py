"""The command `explain`: an audit's answer, the evidence for it, and what would change it, for people and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from flows import adhoc
from flows.output import awaited, print_table
from tasks.core.errors import shown
from tasks.core.evidence import ANSWER_ABOVE
from tasks.core.explain import Case, Explanation, Group, Rerun, explain, is_open
from tasks.core.records import Audit, Norm
from tasks.core.registry import load_registry

KINDS = {"layernorm": "a LayerNorm", "rmsnorm": "an RMSNorm", "batchnorm": "a BatchNorm", "groupnorm": "a GroupNorm"}
SCALES = {"plain": "its scale stored as it is", "one_plus": "its scale stored less one", "unknown": "scale unclear"}


@dataclasses.dataclass(frozen=True, slots=True)
class Explained:
    """An audit and what explains it."""

    audit: Audit
    explanation: Explanation


def explained(
    model: str, *, use_registry: bool = True, behaviour: bool = False, weights_evidence_bytes: int = 0
) -> Explained:
    """Audit a model and explain the answer; nothing is stored.

    Args:
        model: a local folder or file, or a repo as org/name or org/name@revision.
        use_registry: consult the measured facts on known architectures.
        behaviour: build and run an architecture that these do not know.
        weights_evidence_bytes: what may be read of matrices where nothing else tells a norm's kind.
    """
    registry = adhoc.registry_for(use_registry=use_registry, behaviour=behaviour)
    named = [adhoc.model_named(model)]
    read = adhoc.audits(named, norms="final", registry=registry, weights_evidence_bytes=weights_evidence_bytes)
    (audit,) = awaited(read, "auditing")
    reading = audit.reading
    case = Case(tuple(read.norm for read in reading.norms), reading.tensors, reading.config, registry)
    return Explained(audit, explain(case, None if use_registry else load_registry()))


def as_json(found: Explained) -> dict[str, Any]:
    """Return the object that `normaudit explain --json` prints; every number in it is finite."""
    reading, why = found.audit.reading, found.explanation
    return {
        "repo_id": found.audit.listing.repo_id,
        "sha": found.audit.listing.sha,
        "status": reading.status,
        "reason": reading.reason,
        "integrity": list(reading.integrity),
        "answer": sentence(found),
        "main": _norm_json(why.main),
        "likelier_kind": why.likelier,
        "towers": [{"tower": tower, "final": _norm_json(norm)} for tower, norm in why.towers],
        "norms": [dataclasses.asdict(group) for group in why.groups],
        "evidence": [dataclasses.asdict(piece) for piece in why.pieces],
        "without": [_rerun_json(rerun) for rerun in why.without],
        "with_more": [_rerun_json(rerun) for rerun in why.with_more],
        "weights_may_tell": why.weights_may_tell,
        "upset_by": why.upset_by,
    }


def show(found: Explained) -> None:
    """Print an explanation for a person; all names in it are the model's, and shown escaped."""
    why = found.explanation
    print(sentence(found))
    if found.audit.reading.integrity:
        print(f"Integrity: {', '.join(found.audit.reading.integrity)}")
    if not why.groups:
        return
    _section("Towers, and why their final norms are final", _TOWERS, _tower_rows(found))
    _section("Norms", _GROUPS, map(_group_row, why.groups))
    _section("Evidence on the final norms, and what each would be called without it", _PIECES, _piece_rows(why))
    _section("What would change the answer", _RERUNS, map(_rerun_row, why.without))
    for line in _outlook(why):
        print(line)


def sentence(found: Explained) -> str:
    """Return the answer in one sentence, or two."""
    name, reading, main = shown(found.audit.listing.repo_id), found.audit.reading, found.explanation.main
    if main is None:
        return f"{name}: {reading.status}: {shown(reading.reason, 1_000)}"
    what = f"the {main.tower} tower's final norm, {_name(main)},"
    if main.kind == "unknown":
        likelier = KINDS.get(found.explanation.likelier or "", "")
        return (
            f"{name}: {what} is of unknown kind: likelier {likelier}, with confidence {main.confidence:.3f},"
            f" and an answer takes {ANSWER_ABOVE}."
        )
    scale = f", {SCALES[main.parameterisation]}" if main.parameterisation else ""
    by = f"confidence {main.confidence:.3f}, decided by {main.decided_by}"
    return f"{name}: {what} is {KINDS.get(main.kind, main.kind)}{scale} ({by})."


_TOWERS = ("tower", "main", "final norm", "known from", "strength", "why it is final")
_GROUPS = ("tower", "norms", "count", "site", "kind", "scale", "conf.", "decided by")
_PIECES = ("tower", "source", "says", "strength", "fact", "without it", "scale", "conf.")
_RERUNS = ("without", "changes of the main final norm", "norms of another kind")


def _section(title: str, columns: tuple[str, ...], rows: Iterable[Sequence[Any]]) -> None:
    print(f"\n{title}\n")
    print_table(columns, rows)


def _tower_rows(found: Explained) -> Iterator[Sequence[Any]]:
    for tower, norm in found.explanation.towers:
        if norm is None:
            yield tower, False, None, None, None, "no norm of it ends a trunk"
            continue
        place = next(fact for fact in norm.evidence if fact.says == "final")
        yield tower, norm.is_main, _name(norm), place.source, place.strength, place.detail


def _group_row(group: Group) -> Sequence[Any]:
    pattern = group.pattern or "(no tensor)"
    kind = (group.kind, group.parameterisation, round(group.confidence, 3), group.decided_by)
    return (group.tower, pattern, group.count, group.site, *kind)


def _piece_rows(why: Explanation) -> Iterator[Sequence[Any]]:
    for piece in why.pieces:
        fact = piece.evidence
        if fact.says != "final":
            without = (piece.kind_without, piece.parameterisation_without, round(piece.confidence_without, 3))
            yield (piece.tower, fact.source, fact.says, fact.strength, fact.detail, *without)


def _rerun_row(rerun: Rerun) -> Sequence[Any]:
    return rerun.what, "; ".join(rerun.changes) or "nothing material", rerun.kinds_changed


def _outlook(why: Explanation) -> Iterator[str]:
    """Yield what would upset a sure answer, and what would settle an open one."""
    if why.upset_by is not None:
        yield f"\nOne more fact for another kind, of strength {why.upset_by:.2f} or more, would make it unknown."
    hints = [f"- {rerun.what}: {shown('; '.join(rerun.changes), 1_000)}" for rerun in why.with_more]
    if why.weights_may_tell:
        hints.append(
            "- the trace in the weight matrices: --weights-evidence 64000000 reads up to so many bytes of them"
        )
    if is_open(why.main):
        yield (
            "\nThe answer is open. What could settle it:"
            if hints
            else "\nThe answer is open; nothing to be had settles it."
        )
    yield from hints


def _name(norm: Norm) -> str:
    return shown(norm.scale_tensor) if norm.scale_tensor else "one without affine"


def _norm_json(norm: Norm | None) -> dict[str, Any] | None:
    return None if norm is None else dataclasses.asdict(norm)


def _rerun_json(rerun: Rerun) -> dict[str, Any]:
    answer = _norm_json(rerun.main)
    kept = ("scale_tensor", "kind", "parameterisation", "confidence", "decided_by")
    return {**dataclasses.asdict(rerun), "main": {key: answer[key] for key in kept} if answer else None}
