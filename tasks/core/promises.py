"""Whether a checkpoint lacks a norm that its architecture promises.

The registry tells which norms a class of model has. Not every one of them is a promise: a repo may hold one tower
alone, a config may switch norms off (those of queries and keys, of heads), other code may have other names. So only a
norm that every block has or that ends a trunk counts, only beside others of the same tower that are there, and only
where all norms of that tower are known by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tasks.core.known import MAX_PATTERNS, Known
from tasks.core.measured import NormFacts
from tasks.core.modules import EXPERTS, NormModules
from tasks.core.names import Survey
from tasks.core.paths import indices_of
from tasks.core.records import Site, Tensor

_OF_EVERY_BLOCK: tuple[Site, ...] = ("pre_attention", "post_attention", "pre_mlp", "post_mlp")


def lacks_promised(found: Survey, known: Known, config: Mapping[str, object] | None) -> bool:
    """Return whether the file lacks a scale that the architecture promises: altogether, or of some layer.

    Args:
        found: the checkpoint's norms; of all its files, or what is said here is of a part.
        known: the architecture that the config names, and its norms among the checkpoint's.
        config: the config; where it names code of the repo's own, nothing is promised.
    """
    architecture, norms = known.architecture, found.inventory.norms
    if architecture is None or architecture.depends_on or found.inventory.is_adapter or len(norms) > MAX_PATTERNS:
        return False
    if (config or {}).get("auto_map"):
        return False
    promised = [norm for norm in architecture.norms if norm.has_scale and norm.runs]
    if not norms:
        return _has_transformer(found) and any(norm.is_main for norm in promised)
    missing = _missing(promised, found, known)
    return any(_is_beside(norm, known.facts.values()) for norm in missing) or any(
        _skips_a_layer(norm, found) for norm in norms if _is_of_every_block(known.facts.get(norm.pattern))
    )


def _has_transformer(found: Survey) -> bool:
    """A stack of layers with attention has a final norm, with or without a tensor."""
    return found.main is not None and found.finals[found.main].norm is None


def _missing(promised: Iterable[NormFacts], found: Survey, known: Known) -> list[NormFacts]:
    """Return the norms that no pattern of the file was recognised as, in those towers where all were recognised."""
    there = {fact.pattern for fact in known.facts.values()}
    strange = {found.layout.home[norm.pattern] for norm in found.inventory.norms if norm.pattern not in known.facts}
    whole = {fact.tower for pattern, fact in known.facts.items() if found.layout.home[pattern] not in strange}
    return [norm for norm in promised if norm.pattern not in there and norm.tower in whole]


def _is_beside(norm: NormFacts, there: Iterable[NormFacts]) -> bool:
    """Return whether what surrounds a missing norm is there: others of its block, or the stack that it ends.

    Others of its kind: blocks of convolutions, with batch norms, may stand where blocks of attention do.
    """
    peers = (fact for fact in there if (fact.tower, fact.kind) == (norm.tower, norm.kind))
    of_tower = [fact.pattern for fact in peers if _block(fact.pattern)]
    if _is_of_every_block(norm):
        return any(_block(pattern) == _block(norm.pattern) for pattern in of_tower)
    owner = f"{norm.pattern.rpartition('.')[0]}.".removeprefix(".")
    return norm.is_final and any(pattern.startswith(owner) for pattern in of_tower)


def _is_of_every_block(fact: NormFacts | None) -> bool:
    return fact is not None and fact.site in _OF_EVERY_BLOCK and bool(_block(fact.pattern))


def _block(pattern: str) -> str:
    """Return a pattern up to its last index: "model.layers.{i}" of "model.layers.{i}.mlp.norm"; "" without one."""
    return "".join(pattern.rpartition("{i}")[:2])


def _skips_a_layer(norm: NormModules, found: Survey) -> bool:
    """Return whether most layers have a norm, and one lacks it that is otherwise like them.

    The first layers may well be other than the rest (ModernBERT's has one norm less), and whole blocks of another
    sort come in between (hybrids of attention and state spaces).
    """
    position = found.layout.layers.get(norm.pattern)
    if position is None or not _is_rarer(norm, found):
        return False
    blocks = _blocks(norm, position, found)
    having = {layer for layer, patterns in blocks.items() if norm.pattern in patterns}
    alike = {frozenset(blocks[layer] - {norm.pattern}) for layer in having}
    lacking = [layer for layer, patterns in blocks.items() if layer > min(having) and patterns in alike]
    return bool(lacking) and 2 * len(having) > len(blocks)


def _is_rarer(norm: NormModules, found: Survey) -> bool:
    """Return whether another norm of the same tower is in more layers; only then is every tensor looked at."""
    tower = found.layout.home[norm.pattern]
    others = (other for other in found.inventory.norms if found.layout.home[other.pattern] is tower)
    return any(len(other.scales) > len(norm.scales) for other in others)


def _blocks(norm: NormModules, position: int, found: Survey) -> dict[int, set[str]]:
    """Return the patterns of each block of the stack that a norm stands in; of experts only a few are at hand: none.

    Args:
        norm: the norm.
        position: of the block's number among the indices of a name.
        found: the checkpoint's survey.
    """
    block = "#".join(norm.pattern.split("#")[: position + 1]) + "#."
    patterns: dict[str, Iterable[Tensor]] = {other.pattern: other.scales for other in found.inventory.norms}
    blocks: dict[int, set[str]] = {}
    for pattern, tensors in (patterns | dict(found.inventory.others)).items():
        if pattern.startswith(block) and EXPERTS not in pattern:
            for tensor in tensors:
                blocks.setdefault(indices_of(tensor.name)[position], set()).add(pattern)
    return blocks
