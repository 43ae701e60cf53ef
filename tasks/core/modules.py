"""Sorting a checkpoint's tensors into norm modules and everything else, by pattern and not by name.

A mixture of experts has 90,000 tensors and sixty patterns, so each pattern is looked at once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tasks.core.paths import LEAVES, names_a_norm, path_of, pattern_of, vocabulary, words_of
from tasks.core.records import Tensor

EXPERTS = ".experts."  # thousands of tensors of a few patterns; one of each tells all
MAX_NAME_CHARS = 512  # the longest in real checkpoints have about 150; what is longer is garbage, and passed over
MAX_PARTS = 32  # components of a name; the deepest real ones have about 16
SMALLEST_NORM = 2  # a scale of one number normalises nothing (PReLU, temperature); deleted shards have 0
_ADAPTER = vocabulary("lora dora hada lokr loha ia3")
_NEVER = _ADAPTER | vocabulary("ls layerscale scale lambda")  # layer scale multiplies; it does not normalise
_OTHER_VECTORS = vocabulary("act activation relu prelu snake grn affine router rotary")
_HEADS = vocabulary("q k query key qk")


@dataclass(frozen=True, slots=True, eq=False)
class NormModules:
    """All norms of one pattern: one per layer, or a single one.

    Attributes:
        pattern: of the module, without its tensors' own names: "model.layers.#.input_layernorm".
        path: the pattern's components without wrappers.
        name: what the module is called: the last component that is no index.
        parent: path of the module that holds the norm; a list of norms and a norm in a norm count as one.
        scales: the scale tensors, in the checkpoint's order.
        biases: the bias tensor of a module, by the module's name.
        running: names of the running statistics, by the module's name.
    """

    pattern: str
    path: tuple[str, ...]
    name: str
    parent: tuple[str, ...]
    scales: tuple[Tensor, ...]
    biases: Mapping[str, Tensor]
    running: Mapping[str, tuple[str, ...]]

    @property
    def words(self) -> frozenset[str]:
        """The words of the norm's name."""
        return words_of(self.name)


@dataclass(frozen=True, slots=True, eq=False)
class Inventory:
    """A checkpoint's tensors, sorted.

    Attributes:
        norms: the norm modules, one entry per pattern.
        others: all other tensors by pattern; of a pattern of experts only the first.
        is_adapter: the tensors are an adapter's (LoRA and kin), to be added to another checkpoint.
    """

    norms: tuple[NormModules, ...]
    others: Mapping[str, Sequence[Tensor]]
    is_adapter: bool
    _sorted: tuple[str, ...]

    def below(self, module: str) -> list[str]:
        """Return what follows a module's pattern in the patterns of the other tensors below it."""
        return [pattern[len(module) + bool(module) :] for pattern in _below(module, self._sorted)]


@dataclass(slots=True)
class _Module:
    """Tensors of one module pattern, by leaf."""

    leaves: dict[str, list[Tensor]] = field(default_factory=dict)

    def keep_vectors(self, holding: Collection[str]) -> None:
        """Of a numbered module ("neck.1") keep the members with vectors: beside them stand others, numbered as well.

        Args:
            holding: names of those members that hold modules of their own, as no norm does.
        """
        vectors = {module_of(t.name) for members in self.leaves.values() for t in members if _is_vector(t)}
        matrices = {module_of(t.name) for members in self.leaves.values() for t in members if not _is_vector(t)}
        kept = vectors - matrices - set(holding)
        if kept:
            of_kept = {leaf: [t for t in members if module_of(t.name) in kept] for leaf, members in self.leaves.items()}
            self.leaves = {leaf: members for leaf, members in of_kept.items() if members}

    def is_activation(self) -> bool:
        """A vector without a bias among numbered convolutions is a PReLU's."""
        weights = self.leaves.get("weight", ())
        biased = {module_of(tensor.name) for tensor in self.leaves.get("bias", ())}
        alone = any(_is_vector(tensor) and module_of(tensor.name) not in biased for tensor in weights)
        return alone and any(tensor.shape is not None and len(tensor.shape) > 2 for tensor in weights)

    def role(self, role: str) -> dict[str, list[Tensor]]:
        return {leaf: tensors for leaf, tensors in self.leaves.items() if LEAVES.get(leaf) == role}


def take_stock(tensors: Sequence[Tensor]) -> Inventory:
    """Sort a checkpoint's tensors into norm modules and others.

    Args:
        tensors: in the checkpoint's order; shapes and dtypes may be missing.
    """
    by_pattern = _by_pattern(tensors)
    modules: dict[str, _Module] = {}
    for pattern, members in by_pattern.items():
        module, _, leaf = pattern.rpartition(".")
        modules.setdefault(module, _Module()).leaves[leaf] = members
    ordered = sorted(modules)
    norms = tuple(
        _norm_modules(pattern, module)
        for pattern, module in modules.items()
        if _is_norm(pattern, module, ordered, by_pattern)
    )
    taken = {norm.pattern for norm in norms}
    others = {pattern: members for pattern, members in by_pattern.items() if pattern.rpartition(".")[0] not in taken}
    adapters = sum(len(members) for pattern, members in others.items() if _is_adapters(pattern))
    return Inventory(norms, others, 2 * adapters > sum(map(len, others.values())), tuple(sorted(others)))


def module_of(name: str) -> str:
    """Return the module that a tensor belongs to."""
    return name.rpartition("." if "." in name else "/")[0]


def _by_pattern(tensors: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    groups: dict[str, list[Tensor]] = {}
    expert_tails: set[str] = set()
    for tensor in tensors:
        name = tensor.name
        if EXPERTS in name:
            tail = name[name.rfind(".", 0, name.rfind(".")) :]
            if tail in expert_tails and "norm" not in tail:
                continue
            expert_tails.add(tail)
        if len(name) <= MAX_NAME_CHARS and name.count(".") < MAX_PARTS:
            groups.setdefault(pattern_of(name), []).append(tensor)
    return groups


def _is_norm(pattern: str, module: _Module, ordered: Sequence[str], by_pattern: Mapping[str, Sequence[Tensor]]) -> bool:
    if not module.role("scale"):
        return False
    if module.role("running"):
        return True
    path = path_of(pattern)
    called = next((part for part in reversed(path[-2:]) if part != "#"), "")
    if not words_of(called).isdisjoint(_NEVER) or "original_module" in path:
        return False
    if pattern.endswith("#"):
        if module.is_activation():
            return False
        module.keep_vectors(_holding(pattern, ordered, by_pattern))
    if names_a_norm(called):
        of_heads = not words_of(called).isdisjoint(_HEADS)
        return all(_may_be_scale(members[0], of_heads) for members in module.role("scale").values())
    if not words_of(called).isdisjoint(_OTHER_VECTORS) or module.role("scale").keys() & {"scale", "g"}:
        return False
    is_container = any(True for _ in _below(pattern, ordered))
    return _is_numbered_norm(module, is_container) if pattern.endswith("#") else _is_unnamed_norm(module, is_container)


def _may_be_scale(tensor: Tensor, of_heads: bool) -> bool:
    """A scale has one axis, or one with others of length 1 (a convolution's layout), or one for each head or group."""
    if tensor.shape is None:
        return True
    longer = [size for size in tensor.shape if size > 1]
    return len(longer) == 1 or (len(longer) == len(tensor.shape) == 2 and (of_heads or longer[0] < longer[1]))


def _is_unnamed_norm(module: _Module, is_container: bool) -> bool:
    """Tell a norm by its shapes: where a linear layer has a matrix it has a vector, as long as its bias."""
    weights, biases = module.leaves.get("weight"), module.leaves.get("bias")
    if is_container or not weights or not biases:
        return False
    return _is_vector(weights[0]) and weights[0].shape == biases[0].shape


def _is_numbered_norm(module: _Module, is_container: bool) -> bool:
    """Tell a norm in a sequence of layers ("neck.1", "residual.0") by its shape; it need not have a bias.

    Blocks of layers are numbered as well, and may hold a vector (ConvNeXt's gamma): a container needs a bias for each.
    """
    scales = module.leaves.get("weight") or module.leaves.get("gamma") or []
    return (
        bool(scales)
        and all(map(_is_vector, scales))
        and not (is_container and len(scales) > len(module.leaves.get("bias", ())))
    )


def _holding(pattern: str, ordered: Sequence[str], by_pattern: Mapping[str, Sequence[Tensor]]) -> set[str]:
    """Return those modules of a pattern that hold others."""
    depth = pattern.count(".") + 1
    leaves = ("weight", "bias", "gamma")
    inner = (by_pattern.get(f"{module}.{leaf}", ()) for module in _below(pattern, ordered) for leaf in leaves)
    return {".".join(tensor.name.split(".")[:depth]) for members in inner for tensor in members}


def _below(module: str, ordered: Sequence[str]) -> Iterator[str]:
    """Yield those of some sorted patterns that lie below a module."""
    prefix = f"{module}." if module else ""
    for i in range(bisect_left(ordered, prefix), len(ordered)):
        if not ordered[i].startswith(prefix):
            return
        yield ordered[i]


def _is_vector(tensor: Tensor) -> bool:
    if tensor.shape is None:
        return False
    longer = [size for size in tensor.shape if size > 1]
    return len(longer) == 1 and longer[0] >= SMALLEST_NORM


def _norm_modules(pattern: str, module: _Module) -> NormModules:
    path = path_of(pattern)
    _, scales = min(module.role("scale").items(), key=lambda item: item[0] != "weight")
    running: dict[str, tuple[str, ...]] = {}
    for members in module.role("running").values():
        for tensor in members:
            running[module_of(tensor.name)] = (*running.get(module_of(tensor.name), ()), tensor.name)
    return NormModules(
        pattern=pattern,
        path=path,
        name=next((part for part in reversed(path) if part != "#"), ""),
        parent=_parent(path),
        scales=tuple({tensor.name: tensor for tensor in scales}.values()),
        biases={module_of(tensor.name): tensor for members in module.role("bias").values() for tensor in members},
        running=running,
    )


def _parent(path: tuple[str, ...]) -> tuple[str, ...]:
    if len(path) > 1 and path[-1] == "#" and names_a_norm(path[-2]):
        path = path[:-1]
    while len(path) > 1 and names_a_norm(path[-2]) and names_a_norm(path[-1]):  # "input_layernorm.norm"
        path = path[:-1]
    return path[:-1]


def _is_adapters(pattern: str) -> bool:
    return any(not words_of(part).isdisjoint(_ADAPTER) for part in pattern.rsplit(".", 3)[1:])
