"""What was measured of a checkpoint's architecture, ahead or on demand, and what that says of its norms.

A measured answer is only as good as its fit: where the file stores a bias that the measured module has not, other code
wrote it, and the fact counts for less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tasks.core.finals import SURE, Final
from tasks.core.modules import NormModules, module_of
from tasks.core.names import Survey
from tasks.core.records import Evidence
from tasks.core.registry import Architecture, NormFacts, Registry
from tasks.core.towers import Tower

MAX_PATTERNS = 2_000  # the largest real checkpoint has under a thousand; looking one up costs 0.1 ms
MEASURED, MISFIT = 0.99, 0.3  # strength of a measured kind where the tensors fit it, and where they do not
HOW = {"registry": "measured on", "behaviour": "built from the config and run:"}
SCALE_MEASURED = 0.95  # conversions shift scales (MLX), so that a clear look at the values may overrule it


@dataclass(frozen=True, slots=True)
class Known:
    """The architecture that a config names, and its norms among a checkpoint's.

    Attributes:
        architecture: None where none was measured.
        facts: of each norm pattern that was recognised.
    """

    architecture: Architecture | None
    facts: Mapping[str, NormFacts]

    @property
    def how(self) -> str:
        """How the architecture was measured, in words."""
        return f"{HOW[self.architecture.source]} {self.architecture.class_name}" if self.architecture else ""

    @property
    def failure(self) -> tuple[Evidence, ...]:
        """That it was to be measured and could not be: a fact that says nothing, for people."""
        failure = self.architecture.failure if self.architecture else None
        return (Evidence("behaviour", "unknown", 0.0, failure),) if failure else ()

    @property
    def blank_main(self) -> NormFacts | None:
        """The main final norm, where that stores no scale."""
        norms = self.architecture.norms if self.architecture else ()
        return next((norm for norm in norms if norm.is_main and not norm.has_scale), None)


def recognise(found: Survey, config: Mapping[str, object] | None, registry: Registry | None) -> Known:
    """Return what the registry knows of a survey's norms."""
    architecture = registry.find(config) if registry is not None else None
    if registry is None or architecture is None:
        return Known(None, {})
    facts: dict[str, NormFacts] = {}
    for norm in found.inventory.norms[:MAX_PATTERNS]:
        known = registry.facts(architecture, module_of(norm.scales[0].name))
        if known is not None and known.has_scale:
            facts[norm.pattern] = known
    return Known(architecture, facts)


def with_measured_finals(found: Survey, known: Known) -> Survey:
    """Return the survey with the final norms that were measured in place of those that the names suggest."""
    if known.architecture is None or known.architecture.final_by != "forward":
        return found
    why, source = known.how, known.architecture.source
    finals = dict(found.finals)
    main = found.main
    measured = [norm for norm in found.inventory.norms if (fact := known.facts.get(norm.pattern)) and fact.is_final]
    for norm in sorted(measured, key=lambda norm: known.facts[norm.pattern].is_main):
        tower = found.layout.home[norm.pattern]
        finals[tower] = Final(norm, why, MEASURED, source)
        main = tower if known.facts[norm.pattern].is_main else main
    first = found.layout.towers[0]
    if (
        known.blank_main
        and not any(known.facts[norm.pattern].is_main for norm in measured)
        and _may_be_blank(first, finals)
    ):
        finals[first] = Final(None, why, MEASURED, source)
        main = first
    ordered = {tower: finals[tower] for tower in found.layout.towers if tower in finals}
    return replace(found, finals=ordered, main=main or next(iter(ordered), None))


def measured_evidence(norm: NormModules, known: Known) -> list[Evidence]:
    """Return what was measured of a norm's kind and parameterisation."""
    fact = known.facts.get(norm.pattern)
    if fact is None or known.architecture is None:
        return []
    fits = fact.has_bias == bool(norm.biases) or fact.bias_optional
    source = known.architecture.source
    detail = f"{known.how}: {fact.pattern}" + ("" if fits else "; its biases differ")
    found = [Evidence(source, fact.kind, MEASURED if fits else MISFIT, detail)]
    if fact.parameterisation in ("plain", "one_plus"):
        found.append(Evidence(source, fact.parameterisation, SCALE_MEASURED if fits else MISFIT, detail))
    return found


def measured_blank(known: Known) -> list[Evidence]:
    """Return what was measured of the kind of a main final norm that stores no scale."""
    fact = known.blank_main
    if fact is None or known.architecture is None:
        return []
    return [Evidence(known.architecture.source, fact.kind, MEASURED, f"{known.how}: {fact.pattern}")]


def measured_eps(norm: NormModules, known: Known, config: Mapping[str, object] | None) -> float | None:
    """Return a norm's epsilon from the field of the config that it was seen to come from."""
    fact = known.facts.get(norm.pattern)
    value: object = config if fact and fact.eps_field else None
    for key in fact.eps_field.split(".") if fact and fact.eps_field else ():
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, float) and 0 < value < 1 else None


def _may_be_blank(tower: Tower, finals: Mapping[Tower, Final]) -> bool:
    """A file that stores a norm right after the stack was written by other code than what was measured."""
    return tower not in finals or finals[tower].strength < SURE
