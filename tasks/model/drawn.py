"""Random weights: values as transformers initialises them, that depend on the seed and on where they are alone."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tasks.model.build import Blueprint
from tasks.model.fill import (
    Part,
    adopt_constructed,
    allocate,
    drop,
    initialise,
    initialise_module,
    put,
    tensor_at,
    tensors_of,
)
from tasks.model.tables import Table, block_rows, blocks, names_of, numbers, vocabulary

RNG_BYTES = 6  # of a hash, as a seed: torch takes up to 63 bits


@dataclass
class RandomWeights:
    """Values as transformers initialises them, seeded.

    Attributes:
        plan: what the model was built from.
        model: without values.
        runner: path of the model that is run.
        device: where the values are made.
        seed: of all of them.
        missing: nothing ever is.
    """

    plan: Blueprint
    model: Any
    runner: str
    device: torch.device
    seed: int
    missing: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._tables: dict[str, DrawnTable] = {}
        for weight in vocabulary(self.model, self.runner):
            names = names_of(self.model, weight)
            table = DrawnTable(self.model, names[0], self.device, self.seed)
            self._tables |= dict.fromkeys(names, table)

    def fill(self, part: Part) -> None:
        """Initialise a part in float32, tables block by block, and round it to the dtypes of its skeleton."""
        bare = replace(part, left_out=part.left_out | self._tables.keys())
        dtypes = {path: value.dtype for path, _, _, value in tensors_of(self.model, bare)}
        with _seeded(self.seed, part.name, self.device):
            fresh = allocate(self.model, bare, self.device, torch.float32)
            initialise(self.model, bare)
        untouched = [path for path in fresh if _is_untouched(tensor_at(self.model, path))]
        adopt_constructed(self.plan, self.model, untouched, self.seed)
        _round(self.model, bare, dtypes)
        self._fill_tables(part)

    def drop(self, part: Part) -> None:
        """Take the values of a part away again."""
        drop(self.model, part)

    def table(self, name: str) -> Table | None:
        """Return the embedding or the head."""
        return self._tables.get(name)

    def exact(self, name: str) -> None:
        """Nothing is stored."""

    def stored_name(self, name: str) -> str:
        """Return the model's own name."""
        return name

    def _fill_tables(self, part: Part) -> None:
        made: dict[int, nn.Parameter] = {}
        for path, module, name, value in tensors_of(self.model, part):
            if path in self._tables and value.is_meta:
                if id(value) not in made:
                    made[id(value)] = nn.Parameter(_whole(self._tables[path]), requires_grad=False)
                put(module, name, made[id(value)], value)


class DrawnTable:
    """The weight of an embedding or a linear layer; each block of its rows has a seed of its own.

    Args:
        model: that holds it, without values.
        name: of the weight.
        device: where the values are made.
        seed: of all of them.
    """

    def __init__(self, model: Any, name: str, device: torch.device, seed: int) -> None:
        weight = tensor_at(model, name)
        self.shape: tuple[int, ...] = tuple(weight.shape)
        self.dtype, self.device = weight.dtype, device
        self._model, self._name, self._seed = model, name, seed
        self._path = name.rpartition(".")[0]

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Return rows as the model has them: rounded to its dtype."""
        wanted = numbers(rows, self.shape[0])
        found = torch.empty((len(wanted), *self.shape[1:]), dtype=self.dtype, device=self.device)
        step = block_rows(self.shape)
        for number in (wanted // step).unique().tolist():
            here = wanted // step == number
            found[here] = self._block(number)[wanted[here] - number * step].to(self.dtype)
        return found

    def _block(self, number: int) -> Tensor:
        """Return a block in float32, initialised by way of a module that has no other rows."""
        first = number * block_rows(self.shape)
        count = min(block_rows(self.shape), self.shape[0] - first)
        module = copy.copy(self._model.get_submodule(self._path))
        weight = torch.full((count, *self.shape[1:]), float("nan"), device=self.device)
        module._parameters = {**module._parameters, "weight": nn.Parameter(weight, requires_grad=False)}
        if isinstance(module, nn.Embedding):
            inside = module.padding_idx is not None and first <= module.padding_idx < first + count
            module.padding_idx = module.padding_idx - first if inside else None
        with _seeded(self._seed, f"{self._name} {number}", self.device):
            initialise_module(self._model, self._path, module)
            if _is_untouched(weight):
                module.reset_parameters()
        return weight


@contextmanager
def _seeded(seed: int, what: str, device: torch.device) -> Iterator[None]:
    """Draw, while the context lasts, what belongs to a name."""
    digest = hashlib.sha256(f"{seed} {what}".encode()).digest()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(digest[:RNG_BYTES], "big"))
        yield


def _whole(table: DrawnTable) -> Tensor:
    made = torch.empty(table.shape, dtype=table.dtype, device=table.device)
    for block in blocks(table.shape):
        made[block] = table[block]
    return made


def _is_untouched(value: Tensor) -> bool:
    return value.is_floating_point() and bool(value.numel()) and bool(torch.isnan(value.sum()))


def _round(model: nn.Module, part: Part, dtypes: dict[str, torch.dtype]) -> None:
    for path, module, name, value in tensors_of(model, part):
        if isinstance(value, nn.Parameter) and value.dtype != dtypes[path]:
            value.data = value.data.to(dtypes[path])
        elif value.dtype != dtypes[path]:
            put(module, name, value.to(dtypes[path]), value)
