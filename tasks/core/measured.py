"""What was measured of the norms of one model class, and the line of the registry that tells it.

One line per class. An absent key has its default: kind layernorm, scale plain, no bias, tower text, site other, ran.

    "GPT2Model": {"type": "gpt2", "norms": [{"at": "h.{i}.ln_1", "bias": true}, …, {"at": "ln_f", "final": true, …}]},
    "GPT2LMHeadModel": {"type": "gpt2", "body": "GPT2Model", "prefix": "transformer"},

- `at`: a module's path with each index as {i}.
- `final`: true for the last norm of a tower's trunk; "last_layer" where that norm is one of each layer (BERT), so that
  only the module with the highest index is the final norm.
- `body`, `prefix`: the norms are those of another class, below a prefix; `norms` adds what lies outside (a head's).
- `renamed`: [["language_model", "language_model.model"], …]: beginnings of paths, and what checkpoints may have.
- `parts`: [["language_model", "text_config", "llama"], …]: a tower may be of any type, which the model_type in that
  field tells; it was measured with the type that is named.
- `variants`: [{"field": …, "value": …, "norms": […], "gone": […]}, …]: what a value of a config's field changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tasks.core.records import Kind, Parameterisation, Site

FinalBy = Literal["forward", "registration"]
MeasuredBy = Literal["registry", "behaviour"]  # ahead, class by class; or from a config, when it was asked for
Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NormFacts:
    """What was measured of one norm.

    Attributes:
        pattern: module path with each index as {i}, e.g. "model.layers.{i}.input_layernorm".
        kind: by behaviour: does adding a constant to its input, or scaling it, change its output?
        parameterisation: None where the module stores no scale (γ = 1).
        has_scale: the module stores a scale.
        has_bias: the module stores a bias.
        bias_optional: a field of the config adds or removes that bias.
        eps_field: field of the config that the epsilon came from, dotted for a nested config; None: not found.
        tower: text, vision, audio, encoder, decoder, or connector (between a tower and the text).
        is_final: the last norm of its tower's trunk, before any head.
        is_main: the final norm whose output a user of the model reads; at most one per architecture.
        last_layer_only: is_final and is_main hold for the module with the highest index alone.
        site: place in the block, as far as the path tells.
        runs: it was seen to run in the forward pass of the default config.
        aliases: patterns of the same norm in checkpoints with other naming.
    """

    pattern: str
    kind: Kind
    parameterisation: Parameterisation | None = "plain"
    has_scale: bool = True
    has_bias: bool = False
    bias_optional: bool = False
    eps_field: str | None = None
    tower: str = "text"
    is_final: bool = False
    is_main: bool = False
    last_layer_only: bool = False
    site: Site = "other"
    runs: bool = True
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Architecture:
    """The norms of one model class, as a config builds it.

    Attributes:
        model_type: as in config.json.
        class_name: as in the config's `architectures`.
        norms: in the order in which they were built.
        final_by: "forward": the finals were seen in a forward pass; "registration": that pass failed, and they are the
            last norms that the class registers (less sure).
        depends_on: fields of the config that would change an answer and that the config at hand does not show.
        source: how it was measured.
        neutral: containers without a meaning of their own in its paths, besides those that all share.
        failure: why it could not be measured, in words; then it has no norms.
    """

    model_type: str
    class_name: str
    norms: tuple[NormFacts, ...]
    final_by: FinalBy
    depends_on: tuple[str, ...] = ()
    source: MeasuredBy = "registry"
    neutral: frozenset[str] = frozenset()
    failure: str | None = None
    by_pattern: Mapping[str, NormFacts] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = {alias: norm for norm in self.norms for alias in norm.aliases}
        object.__setattr__(self, "by_pattern", known | {norm.pattern: norm for norm in self.norms})


def norms_of(lines: Mapping[str, Line], name: str) -> Iterator[NormFacts]:
    """Yield a class's norms: its body's below the prefix, then its own."""
    line = lines[name]
    if "body" in line:
        yield from (below(line["prefix"], norm) for norm in norms_of(lines, line["body"]))
    yield from map(_norm, line.get("norms", ()))


def variants_of(lines: Mapping[str, Line], name: str) -> Iterator[tuple[str, Line]]:
    """Yield (prefix of its patterns, variant) for each value of a config field that changes an answer."""
    line = lines[name]
    yield from (("", variant) for variant in line.get("variants", ()))
    if "body" in line:
        for prefix, variant in variants_of(lines, line["body"]):
            yield _joined(line["prefix"], prefix), variant


def varied(norms: Mapping[str, NormFacts], variant: Line, prefix: str) -> dict[str, NormFacts]:
    """Return the norms, by pattern, as one value of a config field leaves them."""
    gone = {_joined(prefix, pattern) for pattern in variant.get("gone", ())}
    changed = [below(prefix, _norm(entry)) for entry in variant.get("norms", ())]
    return {at: norm for at, norm in norms.items() if at not in gone} | {norm.pattern: norm for norm in changed}


def final_by(lines: Mapping[str, Line], name: str) -> FinalBy:
    """Return how a class's final norms were found."""
    return "registration" if lines[name].get("final_by") == "registration" else "forward"


def below(prefix: str, norm: NormFacts) -> NormFacts:
    """Return a norm as a part of a larger model has it."""
    return replace(norm, pattern=_joined(prefix, norm.pattern)) if prefix else norm


def with_aliases(norm: NormFacts, renamed: Sequence[Sequence[str]]) -> NormFacts:
    """Return a norm with the patterns that checkpoints may have in place of its own."""
    found = (_rebased(norm.pattern, ours, theirs) for ours, theirs in renamed)
    aliases = tuple(alias for alias in found if alias is not None)
    return replace(norm, aliases=aliases) if aliases else norm


def _norm(entry: Line) -> NormFacts:
    scale, final = entry.get("scale", "plain"), entry.get("final", False)
    return NormFacts(
        pattern=entry["at"],
        kind=entry.get("kind", "layernorm"),
        parameterisation=scale,
        has_scale=scale is not None,
        has_bias=entry.get("bias", False),
        bias_optional=entry.get("bias_optional", False),
        eps_field=entry.get("eps"),
        tower=entry.get("tower", "text"),
        is_final=bool(final),
        is_main=entry.get("main", False),
        last_layer_only=final == "last_layer",
        site="final" if final is True else entry.get("site", "other"),
        runs=entry.get("runs", True),
    )


def _joined(prefix: str, path: str) -> str:
    return ".".join(part for part in (prefix, path) if part)


def _rebased(path: str, ours: str, theirs: str) -> str | None:
    """Return a path with one beginning replaced by another, or None where it begins otherwise."""
    if ours and path != ours and not path.startswith(f"{ours}."):
        return None
    return _joined(theirs, path.removeprefix(ours).removeprefix("."))
