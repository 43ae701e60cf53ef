"""The values of a trained checkpoint, tensor by tensor: names as the model has them, bytes as the file stores them.

transformers' own conversion runs on each part (renamed layers, fused experts), fed with the tensors of that part alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tasks.core.errors import shown
from tasks.model.build import Blueprint
from tasks.model.faults import NoProbe
from tasks.model.fill import Part, adopt_constructed, allocate, drop, initialise, tensor_at, tensors_of
from tasks.model.tables import Table, names_of, numbers

LISTED = 3  # names in a message


class Source(Protocol):
    """A checkpoint's tensors, wherever they lie."""

    where: str

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each tensor by its name."""

    def tensor(self, name: str) -> Tensor:
        """Return a tensor as it is stored; it must not be written to."""

    def rows(self, name: str, numbers: Sequence[int]) -> Tensor:
        """Return rows of a tensor as it is stored, by their ascending numbers."""

    def holding(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Have these tensors at hand while the context lasts."""

    def let_go(self) -> None:
        """Give back the memory of what was read; what is still in use is read again."""


@dataclass(frozen=True, slots=True)
class Lazy:
    """A tensor that is read when transformers' loader asks for it, by `lazy[...]`."""

    source: Source
    name: str

    def __getitem__(self, index: Any) -> Tensor:
        return self.source.tensor(self.name)[index]

    def get_shape(self) -> list[int]:
        """Return the shape, which some conversions want to know first."""
        return list(self.source.shapes[self.name])


@dataclass(frozen=True, slots=True)
class StoredTable:
    """A matrix of the checkpoint, rounded to the body's dtype as its rows are read."""

    source: Source
    name: str
    like: Tensor  # the model's parameter
    device: torch.device

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        return tuple(self.like.shape)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Return rows as the model has them."""
        wanted = numbers(rows, self.shape[0]).tolist()
        return self.source.rows(self.name, wanted).to(self.device, self.like.dtype)


@dataclass
class StoredWeights:
    """Values of a checkpoint.

    Attributes:
        plan: what the model was built from.
        model: without values.
        device: where the values go.
        source: where they come from.
        missing: parameters that the checkpoint lacks; they are NaN.
    """

    plan: Blueprint
    model: Any
    device: torch.device
    source: Source
    missing: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping

        self._mapping = list(get_model_conversion_mapping(self.model) or [])
        self._dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)
        self._dtype_plan = self.model._get_dtype_plan(self._dtype)
        self._targets = self._renamed()
        self._own = {target: name for name, (target, converted) in self._targets.items() if not converted}
        self._at: dict[str, list[str]] = defaultdict(list)
        for name, (target, _) in self._targets.items():
            self._at[target.rpartition(".")[0]].append(name)

    def fill(self, part: Part) -> None:
        """Load a part.

        Raises:
            NoProbe: a stored tensor has not the shape that the config asks for.
        """
        there = [name for module in part.modules for name in self._at.get(module, ())]
        names = [name for name in there if self._targets[name][0] not in part.left_out]
        shared = {path: id(value) for path, _, _, value in tensors_of(self.model, part)}
        self._load(names)
        self._tie(part, shared)
        fresh = allocate(self.model, part, self.device, None)
        initialise(self.model, _without(part, self.model, fresh))
        self._account(part, fresh)

    def drop(self, part: Part) -> None:
        """Take the values of a part away again, and the file's pages that they lie in."""
        drop(self.model, part)
        self.source.let_go()

    def table(self, name: str) -> Table | None:
        """Return a parameter that is stored as the model has it, under any name by which it goes."""
        value = tensor_at(self.model, name)
        stored = [self._own[other] for other in names_of(self.model, value) if other in self._own]
        fitting = [other for other in stored if self.source.shapes[other] == tuple(value.shape)]
        return StoredTable(self.source, fitting[0], value, self.device) if fitting else None

    def exact(self, name: str) -> Tensor | None:
        """Return a parameter as the file stores it; None where it is converted or missing."""
        return self.source.tensor(self._own[name]) if name in self._own else None

    def stored_name(self, name: str) -> str:
        """Return what the checkpoint calls a parameter."""
        return self._own.get(name, name)

    def _renamed(self) -> dict[str, tuple[str, bool]]:
        """Return, by name in the checkpoint, the parameter that it goes to, and whether it is converted on the way."""
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        renamings = [entry for entry in self._mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in self._mapping if isinstance(entry, WeightConverter)]
        known, prefix = self.model.state_dict(), self.model.base_model_prefix
        found = {}
        for name in self.source.shapes:
            target, pattern = rename_source_key(name, renamings, converters, prefix, known)
            if target not in known and name in known:
                target, pattern = rename_source_key(name, [], [], prefix, known)
            found[name] = (target, pattern is not None)
        return found

    def _load(self, names: list[str]) -> None:
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        settings = LoadStateDictConfig(
            device_map={"": self.device},
            dtype=self._dtype,
            dtype_plan=self._dtype_plan,
            weight_mapping=self._mapping,
        )
        wanted = {name: Lazy(self.source, name) for name in names}
        with self.source.holding(names):
            info, _ = convert_and_load_state_dict_in_model(self.model, wanted, settings)
        if info.mismatched_keys:
            raise NoProbe("bad_file", f"{self.source.where}: {_mismatch(info.mismatched_keys)}")
        if info.conversion_errors:
            name, said = next(iter(info.conversion_errors.items()))
            raise NoProbe("bad_file", f"{self.source.where}: {shown(name)} cannot be converted: {shown(said)}")

    def _tie(self, part: Part, shared: Mapping[str, int]) -> None:
        """Give parameters that the file does not store those that they are tied to."""
        loaded = {
            shared[path]: value
            for path, _, _, value in tensors_of(self.model, part)
            if not value.is_meta and isinstance(value, nn.Parameter)
        }
        for path, module, name, value in tensors_of(self.model, part):
            if value.is_meta and shared[path] in loaded:
                module._parameters[name] = loaded[shared[path]]

    def _account(self, part: Part, fresh: list[str]) -> None:
        """Note which parameters are missing: NaN again, lest an initial value is taken for a trained one."""
        made = set(fresh)
        untouched = []
        for path, _, _, value in tensors_of(self.model, part):
            if path in made and isinstance(value, nn.Parameter):
                self.missing.add(path)
                value.data.fill_(float("nan"))
            elif path in made and value.is_floating_point() and bool(torch.isnan(value.sum())):
                untouched.append(path)
        adopt_constructed(self.plan, self.model, untouched, 0)


def _without(part: Part, model: nn.Module, fresh: list[str]) -> Part:
    """Return the part with those modules alone of which something is not loaded."""
    owners = {path.rpartition(".")[0] for path in fresh}
    return Part(part.name, tuple(path for path in part.modules if path in owners))


def _mismatch(mismatched: set[tuple[str, Any, Any]]) -> str:
    listed = sorted((name, tuple(stored), tuple(wanted)) for name, stored, wanted in mismatched)
    told = [f"{shown(name)} is {stored}, config.json asks for {wanted}" for name, stored, wanted in listed[:LISTED]]
    more = f", and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    return "; ".join(told) + more
