"""Which norm of a tower is the last of its trunk.

Pre-norm towers have it after their stack: beside it, further up, or in a part that follows (a vision tower's merger).
Post-norm towers (BERT, BART) end with the last norm of their last block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.core.modules import Inventory, NormModules
from tasks.core.paths import indices_of, names_a_norm, path_of, vocabulary
from tasks.core.records import EvidenceSource
from tasks.core.sites import BEFORE, EMBEDDING, HEAD, LAST, is_inner, order_in_block
from tasks.core.towers import AUX, Tower

# What a norm beside a stack is called where it is not the trunk's last: it serves another input, or a head.
_SIDE = vocabulary(
    "q k v kv query key context enorm hnorm latents media text speaker router per memory cross prompts",
    "soft vision image img mask visual audio vocab cond",
)
_BEHIND = vocabulary("merger patch_merger neck connector")  # what follows a vision tower's stack
_ATTENTION = vocabulary("attn attention self_attn self_attention q_proj c_attn qkv att")
_ADAPTIVE = vocabulary("adaln modulation adanorm")  # adaptive LayerNorm: scale and shift come from a linear layer
SURE, DOUBTFUL = 0.95, 0.6  # strength of a final norm's place by its name, and where its name may be of the first norm


@dataclass(frozen=True, slots=True)
class Final:
    """A tower's final norm.

    Attributes:
        norm: its modules; None where the tower's last norm stores no tensor.
        why: the reason in words, for people.
        strength: how sure that is, as of a piece of evidence.
        source: where it is known from.
    """

    norm: NormModules | None
    why: str
    strength: float = 0.9
    source: EvidenceSource = "tensors"


def find_final(
    tower: Tower,
    inside: Sequence[NormModules],
    outside: Sequence[NormModules],
    *,
    alone: bool = True,
    outside_last: bool = True,
    adaptive: bool = False,
) -> Final | None:
    """Return a tower's final norm, or None where none can be told.

    Args:
        tower: the tower.
        inside: the norms in its blocks.
        outside: its other norms.
        alone: the model has no other tower, so that a part which follows the stack is this one's.
        outside_last: False where the config says that the norm beside the stack comes before it.
        adaptive: scale and shift of the model's last norm are computed, so that it stores no tensor.
    """
    trunk = [norm for norm in inside if not is_inner(norm)]
    beside = [norm for norm in outside if _ends_trunk(norm, tower, trunk)]
    beside = [norm for norm in beside if outside_last or not _may_come_first(norm, trunk)]
    behind = [norm for norm in outside if _follows(norm, tower, trunk)]
    if behind and (not beside or (alone and len(tower.stacks) == 1)):
        return Final(max(behind, key=_block_order), "the last norm of what follows the stack")
    if beside:
        nearest = min(beside, key=lambda norm: _distance(norm, tower))
        why = f"the last norm beside the stack of {tower.layer_count} layers"
        return Final(nearest, why, DOUBTFUL if _may_come_first(nearest, trunk) else SURE)
    spare = [norm for norm in outside if _is_spare(norm, tower, trunk)]
    if spare:
        return Final(spare[0], "the only norm that can follow a pre-norm stack")
    return None if adaptive and tower.stacks else _last_of_blocks(tower, trunk, outside)


def find_blank(tower: Tower, inventory: Inventory, matrices: Iterable[str]) -> Final | None:
    """Return the final norm of a transformer that stores none: its norms are without affine, or were folded away.

    Args:
        tower: the main tower.
        inventory: all tensors.
        matrices: patterns of the tensors in the tower's blocks.
    """
    has_attention = any(not _ATTENTION.isdisjoint(path_of(pattern)) for pattern in matrices)
    if inventory.is_adapter or not has_attention or tower.layer_count < 2:
        return None
    return Final(None, f"no norm tensor ends the stack of {tower.layer_count} layers")


def is_adaptive(inventory: Inventory) -> bool:
    """Return whether scale and shift of a model's norms are computed, as in a diffusion transformer (adaLN)."""
    paths = [path_of(pattern) for pattern in inventory.others]
    if any(not _ADAPTIVE.isdisjoint(part.lower().split("_")) for path in paths for part in path[-3:]):
        return True
    return any(names_a_norm(path[-3]) and path[-2] == "linear" for path in paths if len(path) > 2)


def last_member(norm: NormModules) -> str:
    """Return the scale tensor of a pattern's last module: the one with the highest indices."""
    return max(norm.scales, key=lambda tensor: indices_of(tensor.name)).name


def _last_of_blocks(tower: Tower, trunk: Sequence[NormModules], outside: Sequence[NormModules]) -> Final | None:
    if trunk:
        return Final(max(trunk, key=_block_order), "the last norm of the last block; nothing follows the stack")
    rest = [norm for norm in outside if not is_inner(norm)]
    if rest and not tower.stacks:
        return Final(max(rest, key=_block_order), "the last norm, by its name, of a model without a stack")
    return None


def _block_order(norm: NormModules) -> tuple[tuple[int, ...], int, str]:
    return indices_of(last_member(norm))[:1], order_in_block(norm), norm.pattern


def _ends_trunk(norm: NormModules, tower: Tower, inside: Sequence[NormModules]) -> bool:
    """A norm that the stack's owner holds, or one above it, unless its name or the blocks put it elsewhere."""
    words = norm.words
    if not names_a_norm(norm.name) or not _is_above(norm, tower):
        return False
    if words & {"f", "final", "after"}:
        return not words & {"embedding", "embeddings"}
    if words & (EMBEDDING | _SIDE | BEFORE | HEAD) or words & AUX:
        return False
    return bool(words & LAST) or not _are_post_norm(inside)


def _may_come_first(norm: NormModules, inside: Sequence[NormModules]) -> bool:
    """The norm beside wav2vec2's stack runs before it in some checkpoints and after it in others."""
    return not norm.words & LAST and any(member.name == "final_layer_norm" and member.biases for member in inside)


def _are_post_norm(inside: Sequence[NormModules]) -> bool:
    """BERT's blocks end with a norm of their own, so that one beside them is of the embeddings."""
    outputs = [norm for norm in inside if norm.path[-2:-1] == ("output",) and norm.biases]
    return any("attention" in norm.path for norm in outputs) and any("attention" not in norm.path for norm in outputs)


def _distance(norm: NormModules, tower: Tower) -> tuple[int, int, int, int]:
    """Nearest to the stack first; at one level names that say last, the shortest, the highest number."""
    return len(tower.owner) - len(norm.parent), -bool(norm.words & LAST), len(norm.name), -order_in_block(norm)


def _follows(norm: NormModules, tower: Tower, inside: Sequence[NormModules]) -> bool:
    """A norm of a neck that the stack's owner holds, or of a merger, if that is as wide as the stack's own norms."""
    if _BEHIND.isdisjoint(norm.parent[-1:]) or norm.parent[:-1] != tower.owner:
        return False
    if norm.parent[-1] == "neck":
        return True
    wide = {width for member in inside if (width := _width(member))}
    return not wide or _width(norm) in (None, *wide)


def _is_spare(norm: NormModules, tower: Tower, inside: Sequence[NormModules]) -> bool:
    """A norm that must be the last of a pre-norm stack with no other; post-norm blocks without bias are unheard of."""
    if norm.parent[-1:] in {("lm_head",), ("head",)} and tower.owner[: len(norm.parent) - 1] == norm.parent[:-1]:
        return norm.name in {"ln", "norm"} and not _are_post_norm(inside)  # a masked head's is called layer_norm
    if not inside or any(member.biases for member in inside):
        return False
    return bool(norm.words & {"embedding", "embed"}) and _is_above(norm, tower)  # LFM2's embedding_norm


def _is_above(norm: NormModules, tower: Tower) -> bool:
    return tower.owner[: len(norm.parent)] == norm.parent


def _width(norm: NormModules) -> int | None:
    shape = norm.scales[0].shape
    return None if shape is None else max(shape, default=1)
