"""Giving the parts of a model their values, one part at a time, and taking them away again.

A part is a set of modules: the blocks of a stack are a part each, all else is one. A part's values depend on the seed
and its name alone, or on the checkpoint: filled all at once or one after the other, a model is the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tasks.model.build import Blueprint, constructed
from tasks.model.tables import Table


@dataclass(frozen=True, slots=True)
class Part:
    """Some modules of a model.

    Attributes:
        name: path of the block, "" for the trunk, or "head"; a seed for its values.
        modules: paths.
        left_out: their parameters that stay without values.
    """

    name: str
    modules: tuple[str, ...]
    left_out: frozenset[str] = frozenset()


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

    def drop(self, part: Part) -> None:
        """Take the values of a part away again, and the memory that they lie in."""

    def table(self, name: str) -> Table | None:
        """Return a parameter whose rows can be had some at a time; None where it can only be had whole."""

    def exact(self, name: str) -> Tensor | None:
        """Return a parameter as the file stores it, before any rounding to the body's dtype; None: not known."""

    def stored_name(self, name: str) -> str:
        """Return what the checkpoint calls a parameter."""


@dataclass
class TimedWeights:
    """Weights, with the seconds that filling has taken.

    Attributes:
        inner: the weights.
        seconds: so far.
    """

    inner: Weights
    seconds: float = 0.0

    @property
    def missing(self) -> set[str]:
        """As the weights have it."""
        return self.inner.missing

    def fill(self, part: Part) -> None:
        """As the weights do."""
        started = time.perf_counter()
        self.inner.fill(part)
        self.seconds += time.perf_counter() - started

    def drop(self, part: Part) -> None:
        """As the weights do."""
        self.inner.drop(part)

    def table(self, name: str) -> Table | None:
        """As the weights do."""
        return self.inner.table(name)

    def exact(self, name: str) -> Tensor | None:
        """As the weights do."""
        return self.inner.exact(name)

    def stored_name(self, name: str) -> str:
        """As the weights do."""
        return self.inner.stored_name(name)


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
        put(module, name, empty[id(value)], value)


def tensors_of(model: nn.Module, part: Part) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Yield (path, module, name within it, value) of a part's parameters and buffers, but for those left out."""
    for at in part.modules:
        module = model.get_submodule(at)
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for name, value in own:
            path = f"{at}.{name}" if at else name
            if path not in part.left_out:
                yield path, module, name, value


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
            put(module, name, made[id(value)], value)
            paths.append(path)
    return paths


def initialise(model: Any, part: Part) -> None:
    """Run transformers' initialisation on a part; it passes over parameters that are marked as loaded."""
    for path in reversed(part.modules):  # children before their parents, who may know better
        initialise_module(model, path, model.get_submodule(path))


def initialise_module(model: Any, path: str, module: nn.Module) -> None:
    """Run transformers' initialisation on a module, or on one that stands in for it at a path."""
    from transformers.initialization import guard_torch_init_functions

    while path and not hasattr(model.get_submodule(path), "_init_weights"):
        path = path.rpartition(".")[0]
    owner: Any = model.get_submodule(path)  # the smallest model of transformers around it knows how
    with torch.no_grad(), guard_torch_init_functions():
        owner._init_weights(module)


def adopt_constructed(plan: Blueprint, model: nn.Module, paths: list[str], seed: int) -> None:
    """Give tensors that the initialisation leaves out the values that the class's constructor gives them."""
    if not paths:
        return
    whole = constructed(plan, torch.float32, seed)
    values = {**dict(whole.named_parameters(remove_duplicate=False)), **dict(whole.named_buffers())}
    for path in paths:
        target = tensor_at(model, path)
        target.data = values[path].data.to(target)  # not copied into it: a table of positions may have grown


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


def _empty(value: Tensor, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    if not value.is_floating_point():
        return torch.zeros_like(value, device=device)
    if not isinstance(value, nn.Parameter):
        return torch.full_like(value, float("nan"), device=device)
    empty = torch.full_like(value, float("nan"), device=device, dtype=dtype or value.dtype)
    return nn.Parameter(empty, requires_grad=False)


def tensor_at(model: nn.Module, path: str) -> Tensor:
    """Return the parameter or buffer at a path."""
    module, _, name = path.rpartition(".")
    value: Tensor = getattr(model.get_submodule(module), name)
    return value


def put(module: nn.Module, name: str, value: Tensor, old: Tensor) -> None:
    """Put a value in place of a module's parameter or buffer."""
    if not isinstance(old, nn.Parameter):
        module._buffers[name] = value
    elif isinstance(value, nn.Parameter):
        module._parameters[name] = value
    else:
        module._parameters[name] = nn.Parameter(value, requires_grad=False)
