"""Giving the parts of a model their values, one part at a time, and taking them away again.

A part is a set of modules: the blocks of a stack are a part each, all else is one. A part's values depend on the seed
and its name alone, or on the checkpoint: filled all at once or one after the other, a model is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tasks.model.build import Blueprint, constructed

RNG_BYTES = 6  # of a hash, as a seed: torch takes up to 63 bits


@dataclass(frozen=True, slots=True)
class Part:
    """Some modules of a model.

    Attributes:
        name: path of the block, "" for the trunk, or "head"; a seed for its values.
        modules: paths.
    """

    name: str
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parts:
    """All parts of a model.

    Attributes:
        trunk: what is run and lies outside the blocks; with the head, where the two share parameters.
        blocks: the members of the stack.
        head: what turns hidden states into answers.
    """

    trunk: Part
    blocks: tuple[Part, ...]
    head: Part

    def __iter__(self) -> Iterator[Part]:
        return iter((self.trunk, *self.blocks, self.head))


class Weights(Protocol):
    """Where values come from."""

    @property
    def missing(self) -> set[str]:
        """Parameters that the checkpoint lacks; they are NaN."""

    def fill(self, part: Part) -> None:
        """Give all parameters and buffers of a part their values, on the device."""

    def exact(self, name: str) -> Tensor | None:
        """Return a parameter as the file stores it, before any rounding to the body's dtype; None: not known."""

    def stored_name(self, name: str) -> str:
        """Return what the checkpoint calls a parameter."""


def parts_of(model: Any, blocks: Iterable[str], runner: str) -> Parts:
    """Return a model's parts; towers beside the one that is run are in none, and never get values.

    Args:
        model: with or without values.
        blocks: paths of the stack's members.
        runner: path of the model that is run.
    """
    inside: dict[str, list[str]] = {block: [] for block in blocks}
    trunk, heads, above = [], [], _heads(model)
    for path, _ in model.named_modules():
        owner = next((block for block in inside if _within(path, block)), None)
        if owner is not None:
            inside[owner].append(path)
        elif any(_within(path, head) for head in above):
            heads.append(path)
        elif _within(path, runner) or _within(runner, path):
            trunk.append(path)
    if _values(model, heads) & _values(model, trunk):  # tied: they are filled together
        trunk, heads = trunk + heads, []
    return Parts(
        Part("", tuple(trunk)),
        tuple(Part(block, tuple(paths)) for block, paths in inside.items()),
        Part("head", tuple(heads)),
    )


def drop(model: nn.Module, part: Part) -> None:
    """Take the values of a part away; its shapes stay, and what was shared is shared still."""
    empty: dict[int, Tensor] = {}
    held = list(tensors_of(model, part))  # so that no identity is given to another tensor on the way
    for _, module, name, value in held:
        if id(value) not in empty:
            bare = torch.empty_like(value, device="meta")
            empty[id(value)] = nn.Parameter(bare, requires_grad=False) if isinstance(value, nn.Parameter) else bare
        _set(module, name, empty[id(value)], value)


def tensors_of(model: nn.Module, part: Part) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Yield (path, module, name within it, value) of a part's parameters and buffers."""
    for path in part.modules:
        module = model.get_submodule(path)
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for name, value in own:
            yield f"{path}.{name}" if path else name, module, name, value


@dataclass
class RandomWeights:
    """Values as transformers initialises them, seeded.

    Attributes:
        plan: what the model was built from.
        model: without values.
        device: where the values are made.
        seed: of all of them.
        missing: nothing ever is.
    """

    plan: Blueprint
    model: Any
    device: torch.device
    seed: int
    missing: set[str] = field(default_factory=set)

    def fill(self, part: Part) -> None:
        """Initialise a part in float32, and round it to the dtypes of its skeleton."""
        dtypes = {path: value.dtype for path, _, _, value in tensors_of(self.model, part)}
        with torch.random.fork_rng(devices=_rng_devices(self.device)):
            torch.manual_seed(_seed_of(self.seed, part.name))
            fresh = allocate(self.model, part, self.device, torch.float32)
            initialise(self.model, part)
        untouched = [path for path in fresh if _is_untouched(self.model, path)]
        adopt_constructed(self.plan, self.model, untouched, self.seed)
        _round(self.model, part, dtypes)

    def exact(self, name: str) -> None:
        """Nothing is stored."""

    def stored_name(self, name: str) -> str:
        """Return the model's own name."""
        return name


def allocate(model: nn.Module, part: Part, device: torch.device, dtype: torch.dtype | None) -> list[str]:
    """Give a part's valueless tensors memory, filled with NaN (0 for integers); shared ones stay shared.

    Args:
        model: the model.
        part: which of its modules.
        device: where to.
        dtype: of floating-point parameters; None: as they are.

    Returns:
        Their paths.
    """
    made: dict[int, Tensor] = {}
    paths = []
    for path, module, name, value in tensors_of(model, part):
        if value.is_meta:
            if id(value) not in made:
                made[id(value)] = _empty(value, device, dtype)
            _set(module, name, made[id(value)], value)
            paths.append(path)
    return paths


def initialise(model: Any, part: Part) -> None:
    """Run transformers' initialisation on a part; it passes over parameters that are marked as loaded."""
    from transformers.initialization import guard_torch_init_functions

    with torch.no_grad(), guard_torch_init_functions():
        for path in reversed(part.modules):  # children before their parents, who may know better
            owner = _owner(model, path)
            owner._init_weights(model.get_submodule(path))


def adopt_constructed(plan: Blueprint, model: nn.Module, paths: list[str], seed: int) -> None:
    """Give tensors that the initialisation leaves out the values that the class's constructor gives them."""
    if not paths:
        return
    whole = constructed(plan, torch.float32, seed)
    values = {**dict(whole.named_parameters(remove_duplicate=False)), **dict(whole.named_buffers())}
    for path in paths:
        target = _tensor_at(model, path)
        target.data.copy_(values[path].to(target.dtype))


def _heads(model: Any) -> list[str]:
    """Return the paths of what turns hidden states into answers: what lies outside the model without its head."""
    paths = {id(module): path for path, module in model.named_modules()}
    base, head = paths.get(id(model.base_model), ""), model.get_output_embeddings()
    outside = [path for path in paths.values() if base and not _within(path, base) and not _within(base, path)]
    return [*outside, *([paths[id(head)]] if id(head) in paths else [])]


def _values(model: nn.Module, modules: Iterable[str]) -> set[int]:
    """Return the identities of some modules' parameters."""
    return {id(value) for path in modules for value in model.get_submodule(path).parameters(recurse=False)}


def _within(path: str, other: str) -> bool:
    return not other or path == other or path.startswith(f"{other}.")


def _is_untouched(model: nn.Module, path: str) -> bool:
    value = _tensor_at(model, path)
    return value.is_floating_point() and bool(value.numel()) and bool(torch.isnan(value.sum()))


def _round(model: nn.Module, part: Part, dtypes: dict[str, torch.dtype]) -> None:
    for path, module, name, value in tensors_of(model, part):
        if isinstance(value, nn.Parameter) and value.dtype != dtypes[path]:
            value.data = value.data.to(dtypes[path])
        elif value.dtype != dtypes[path]:
            _set(module, name, value.to(dtypes[path]), value)


def _empty(value: Tensor, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    if not value.is_floating_point():
        return torch.zeros_like(value, device=device)
    if not isinstance(value, nn.Parameter):
        return torch.full_like(value, float("nan"), device=device)
    empty = torch.full_like(value, float("nan"), device=device, dtype=dtype or value.dtype)
    return nn.Parameter(empty, requires_grad=False)


def _set(module: nn.Module, name: str, value: Tensor, old: Tensor) -> None:
    if not isinstance(old, nn.Parameter):
        module._buffers[name] = value
    elif isinstance(value, nn.Parameter):
        module._parameters[name] = value
    else:
        module._parameters[name] = nn.Parameter(value, requires_grad=False)


def _tensor_at(model: nn.Module, path: str) -> Tensor:
    module, _, name = path.rpartition(".")
    value: Tensor = getattr(model.get_submodule(module), name)
    return value


def _owner(model: Any, path: str) -> Any:
    """Return the smallest model of transformers around a module: it knows how that is initialised."""
    while path:
        module = model.get_submodule(path)
        if hasattr(module, "_init_weights"):
            return module
        path = path.rpartition(".")[0]
    return model


def _seed_of(seed: int, part: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {part}".encode()).digest()[:RNG_BYTES], "big")


def _rng_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
