"""Finding a model's towers: stacks of layers, who owns them, what they are for.

A stack is a numbered list of blocks ("model.layers"), its owner the module that holds it ("model"). Stacks of one owner
make a tower. Which tower a user reads follows from the words in the owner's path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tasks.core.modules import Inventory, NormModules
from tasks.core.paths import indices_of, path_of, vocabulary, words_of
from tasks.core.records import Tensor

Role = Literal["text", "vision", "audio", "aux", ""]

# The field's words for parts of a model, as they occur in module paths and in keys of nested configs.
VISION = vocabulary("vision visual vison vit vpm image img siglip sam pixel video vitdet swin dino radio eva")
AUDIO = vocabulary("audio speech sound wav asr mel whisper acoustic")
TEXT = vocabulary("text language llm lang lm thinker txt bert gpt prompt")
# parts between or after towers: what they normalise is no tower's output
AUX = vocabulary(
    "projector projection resampler merger connector adapter aligner mtp nextn draft qformer perceiver",
    "head cls codec vqmodel vqgan vae vq patcher talker predictor refiner neck fusion postnet prenet",
    "depth vocoder codebook quantizer pooler feature extractor stem embeddings embedding embedder",
    "subsample subsampling downsample",
)
_MAIN_ORDER: dict[tuple[Role, str], int] = {  # lower is likelier what a user reads
    ("text", "decoder"): 0,
    ("", "decoder"): 0,
    ("text", ""): 1,
    ("", ""): 2,
    ("text", "encoder"): 3,
    ("", "encoder"): 3,
}
SIDES = ("encoder", "decoder")
_TOKENS = vocabulary("embed_tokens wte word_embeddings tok_embeddings token_embedding shared word_embedding embed_in")
_SOUNDS = vocabulary("feature_extractor mel_conv conv1d conv_layers")
_LANGUAGE = vocabulary("llm lm language thinker")  # a language model is read even where other parts decode
_LANGUAGE_RANK, _AFTER_MODALITY, _AFTER_AUX = -1, 4, 9


@dataclass(frozen=True, slots=True)
class Stack:
    """A numbered list of blocks.

    Attributes:
        path: of the list, without the index: ("model", "layers").
        layer_count: how many indices were seen.
    """

    path: tuple[str, ...]
    layer_count: int


@dataclass(frozen=True, slots=True, eq=False)
class Tower:
    """The stacks of one owner.

    Attributes:
        owner: path of the module that holds the stacks; () where it is the model itself.
        stacks: largest first.
        label: what the tower is called in results.
        rank: its place in the order in which towers may be the main one; lower is likelier.
    """

    owner: tuple[str, ...]
    stacks: tuple[Stack, ...]
    label: str
    rank: int

    @property
    def layer_count(self) -> int:
        """Layers of the largest stack."""
        return max((stack.layer_count for stack in self.stacks), default=0)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which part of a checkpoint belongs to which tower.

    Attributes:
        towers: the likeliest main tower first; one without stacks where nothing is numbered.
        home: the tower of each norm pattern.
        layers: of the norm patterns that lie in a stack, the position of the layer's number among a name's indices.
        matrices: the patterns of all other tensors in each tower's stacks.
    """

    towers: tuple[Tower, ...]
    home: Mapping[str, Tower]
    layers: Mapping[str, int]
    matrices: Mapping[Tower, Sequence[str]]


def find_layout(inventory: Inventory) -> Layout:
    """Find a checkpoint's towers, and what belongs to each."""
    owners: dict[tuple[str, ...], list[Stack]] = {}
    for stack in _stacks(inventory):
        owners.setdefault(stack.path[:-1], []).append(stack)
    towers = _labelled([_tower(owner, held) for owner, held in owners.items()] or [_tower((), ())], _medium(inventory))
    by_stack = {stack.path: tower for tower in towers for stack in tower.stacks}
    nearest = _nearest(towers)
    home: dict[str, Tower] = {}
    layers: dict[str, int] = {}
    for norm in inventory.norms:
        held_by = _stack_of(norm.path, by_stack)
        if held_by:
            layers[norm.pattern] = held_by.count("#")
        home[norm.pattern] = by_stack[held_by] if held_by else _outside(norm, nearest)
    matrices: dict[Tower, list[str]] = {tower: [] for tower in towers}
    for pattern in inventory.others:
        if held_by := _stack_of(path_of(pattern), by_stack):
            matrices[by_stack[held_by]].append(pattern)
    return Layout(towers, home, layers, matrices)


def role_of(path: Iterable[str]) -> Role:
    """Return what a part of a model is for, by the words of its path; the last telling component decides."""
    role: Role = ""
    for part in path:
        words = words_of(part)
        if words & AUX and not words & {"lm"}:
            return "aux"
        for name, known in (("vision", VISION), ("audio", AUDIO), ("text", TEXT)):
            if words & known:
                role = name  # type: ignore[assignment]
                break
    return role


def _stacks(inventory: Inventory) -> list[Stack]:
    """Return the numbered lists whose members hold several modules."""
    patterns = _numbered(inventory)
    spread: dict[tuple[str, ...], set[int]] = {}
    for path, names in patterns:
        for name in names:
            for position, index in zip(_positions(path), indices_of(name), strict=False):
                spread.setdefault(path[:position], set()).add(index)
    members: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for path, _ in patterns:
        position = next((i for i in _positions(path) if len(spread[path[:i]]) > 1), _positions(path)[0])
        if position + 1 < len(path):  # else it is a numbered module ("neck.1"), no block
            members.setdefault(path[:position], set()).add(path[position + 1 :])
    return [Stack(path, max(spread[path]) + 1) for path, held in members.items() if len(held) > 1]


def _numbered(inventory: Inventory) -> list[tuple[tuple[str, ...], tuple[str, str]]]:
    """Return (module path, names of its first tensor and of that with the highest index) of each pattern with one."""
    held: list[tuple[tuple[str, ...], Sequence[Tensor]]] = [(norm.path, norm.scales) for norm in inventory.norms]
    held += [(path_of(pattern.rpartition(".")[0]), tensors) for pattern, tensors in inventory.others.items()]
    return [(path, (tensors[0].name, _highest(tensors))) for path, tensors in held if "#" in path]


def _highest(tensors: Sequence[Tensor]) -> str:
    """Return the name with the highest index: of names that differ in their indices alone, the longest and last."""
    return max((tensor.name for tensor in tensors), key=lambda name: (len(name), name))


def _labelled(towers: Sequence[Tower], medium: str) -> tuple[Tower, ...]:
    """Return towers, the likeliest main one first, each with a label of its own.

    Encoder and decoder are labels only beside each other; what has no label is of the model's own medium.
    """
    labels: set[str] = set()
    has_both = {"encoder", "decoder"} <= {tower.label for tower in towers}
    ordered: list[Tower] = []
    for tower in sorted(towers, key=lambda tower: (tower.rank, -tower.layer_count, len(tower.owner), tower.owner)):
        label = medium if not tower.label or (tower.label in SIDES and not has_both) else tower.label
        label = label if label not in labels else ".".join(tower.owner) or "root"
        labels.add(label)
        ordered.append(replace(tower, label=label))
    return tuple(ordered)


def _stack_of(path: tuple[str, ...], by_stack: Mapping[tuple[str, ...], Tower]) -> tuple[str, ...]:
    """Return the path of the deepest stack that a path lies in; () for none."""
    return next((path[:i] for i in reversed(_positions(path)) if path[:i] in by_stack), ())


def _nearest(towers: Iterable[Tower]) -> dict[tuple[str, ...], Tower]:
    """Return, for each path at or above an owner, the tower fewest steps below it; of equals the likelier main one."""
    nearest: dict[tuple[str, ...], Tower] = {}
    for tower in sorted(towers, key=lambda tower: (len(tower.owner), tower.rank)):
        for i in range(len(tower.owner) + 1):
            nearest.setdefault(tower.owner[:i], tower)
    return nearest


def _outside(norm: NormModules, nearest: Mapping[tuple[str, ...], Tower]) -> Tower:
    """Return the tower of a norm outside of the stacks: the nearest to its parent, else to its nearest ancestor."""
    parent = norm.parent
    return next(nearest[parent[:i]] for i in range(len(parent), -1, -1) if parent[:i] in nearest)


def _positions(path: Sequence[str]) -> list[int]:
    return [i for i, part in enumerate(path) if part == "#"]


def _tower(owner: tuple[str, ...], stacks: Sequence[Stack]) -> Tower:
    path = (*owner, *(stacks[0].path[-1:] if stacks else ()))
    role, side = role_of(path), _side(path)
    rank = _AFTER_AUX if role == "aux" else _MAIN_ORDER.get((role, side), _AFTER_MODALITY)
    if role == "text" and side != "encoder" and any(words_of(part) & _LANGUAGE for part in path):
        rank = _LANGUAGE_RANK
    return Tower(owner, tuple(sorted(stacks, key=lambda s: -s.layer_count)), _label(owner, role, side), rank)


def _side(path: Sequence[str]) -> str:
    """Return "encoder" or "decoder" where a path says so; the first to say so decides."""
    for part in path:
        words = words_of(part)
        if "decoder" in words:
            return "decoder"
        if "encoder" in words:
            return "encoder"
    return ""


def _label(owner: tuple[str, ...], role: Role, side: str) -> str:
    return owner[-1] if role == "aux" and owner else role or side


def _medium(inventory: Inventory) -> str:
    """Return what a model without telling names reads: it has embeddings of tokens, or else patches or sounds."""
    parts = {part for pattern in inventory.others for part in pattern.split(".")[-4:]}
    if parts & _TOKENS:
        return "text"
    if any(part.startswith("patch_embed") for part in parts):
        return "vision"
    return "audio" if parts & _SOUNDS else "text"
