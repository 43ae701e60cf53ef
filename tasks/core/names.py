"""Every norm of a checkpoint, found by the names of its tensors, placed in towers and blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.core.finals import Final, find_blank, find_final, is_adaptive, last_member
from tasks.core.modules import Inventory, NormModules, module_of, take_stock
from tasks.core.paths import indices_of
from tasks.core.records import Evidence, Site, Tensor
from tasks.core.sites import site_of
from tasks.core.towers import Layout, Tower, find_layout


@dataclass(frozen=True, slots=True)
class NormPlace:
    """One norm and where it stands.

    Attributes:
        module: its path in the checkpoint, wrappers included; "" for a norm at the root.
        pattern: the module with each index as `#`; norms of one pattern are alike.
        scale_tensor: name of its scale; None for a final norm that stores none.
        bias_tensor, running_tensors: names of its other tensors.
        tower: label of the tower that it belongs to.
        layer: index of its block; None outside of the blocks.
        site: what it normalises, as far as the names tell.
        is_final: it is the last norm of its tower's trunk.
        is_main: it is the final norm of the main tower.
        final: how it is known to be final; None where it is not.
        dim: length of the scale, or of what it would be; None where no shape is known.
    """

    module: str
    pattern: str
    scale_tensor: str | None
    bias_tensor: str | None
    running_tensors: tuple[str, ...]
    tower: str
    layer: int | None
    site: Site
    is_final: bool
    is_main: bool
    final: Evidence | None
    dim: int | None
    dtype: str | None
    file: str | None


@dataclass(frozen=True, slots=True)
class Survey:
    """A checkpoint's norms with the structure that they stand in.

    Attributes:
        inventory: all tensors by pattern.
        layout: the towers, and what belongs to each.
        finals: the final norm of each tower that has one, in the order of the towers.
        main: the tower whose final norm is the main one; None where there is no final norm.
    """

    inventory: Inventory
    layout: Layout
    finals: Mapping[Tower, Final]
    main: Tower | None


def find_norms(tensors: Sequence[Tensor]) -> tuple[NormPlace, ...]:
    """Return every norm of a checkpoint that has a scale, with its place, and the final norm even where it has none.

    Args:
        tensors: the checkpoint's tensors; where only an index was read, shapes and dtypes are None.
    """
    return places(survey(tensors))


def survey(tensors: Sequence[Tensor], outside_last: bool = True) -> Survey:
    """Find the norms, towers and final norms of a checkpoint.

    Args:
        tensors: the checkpoint's tensors.
        outside_last: False where the config says that norms beside a stack come before it.
    """
    inventory = take_stock(tensors)
    layout = find_layout(inventory)
    held = by_tower(inventory, layout)
    adaptive = is_adaptive(inventory)
    found = {
        tower: find_final(tower, *norms, alone=len(held) == 1, outside_last=outside_last, adaptive=adaptive)
        for tower, norms in held.items()
    }
    finals = {tower: final for tower, final in found.items() if final is not None}
    first = layout.towers[0]
    if first not in finals and (blank := find_blank(first, inventory, layout.matrices[first])):
        finals = {first: blank, **finals}
    return Survey(inventory, layout, finals, next(iter(finals), None))


def by_tower(inventory: Inventory, layout: Layout) -> dict[Tower, tuple[list[NormModules], list[NormModules]]]:
    """Return each tower's norms: those in its blocks, and the others."""
    held: dict[Tower, tuple[list[NormModules], list[NormModules]]] = {tower: ([], []) for tower in layout.towers}
    for norm in inventory.norms:
        held[layout.home[norm.pattern]][norm.pattern not in layout.layers].append(norm)
    return held


def places(found: Survey) -> tuple[NormPlace, ...]:
    """Return the places of a survey's norms, by pattern in the checkpoint's order, those without a tensor last."""
    finals = {last_member(final.norm): tower for tower, final in found.finals.items() if final.norm}
    listed: list[NormPlace] = []
    for norm in found.inventory.norms:
        position = found.layout.layers.get(norm.pattern)
        site = site_of(norm, position is not None)
        listed += [_place(norm, tensor, site, position, found, finals.get(tensor.name)) for tensor in norm.scales]
    return (*listed, *(_blank(tower, found) for tower, final in found.finals.items() if final.norm is None))


def _place(
    norm: NormModules, tensor: Tensor, site: Site, position: int | None, found: Survey, final_of: Tower | None
) -> NormPlace:
    module = module_of(tensor.name)
    bias = norm.biases.get(module)
    indices = indices_of(tensor.name) if position is not None else ()
    return NormPlace(
        module=module,
        pattern=norm.pattern,
        scale_tensor=tensor.name,
        bias_tensor=bias.name if bias else None,
        running_tensors=norm.running.get(module, ()),
        tower=found.layout.home[norm.pattern].label,
        layer=indices[position] if position is not None and position < len(indices) else None,
        site="final" if final_of else site,
        is_final=final_of is not None,
        is_main=final_of is not None and final_of is found.main,
        final=_evidence(found.finals[final_of]) if final_of else None,
        dim=_dim(tensor),
        dtype=tensor.dtype,
        file=tensor.file,
    )


def _blank(tower: Tower, found: Survey) -> NormPlace:
    return NormPlace(
        module="",
        pattern="",
        scale_tensor=None,
        bias_tensor=None,
        running_tensors=(),
        tower=tower.label,
        layer=None,
        site="final",
        is_final=True,
        is_main=tower is found.main,
        final=_evidence(found.finals[tower]),
        dim=_stream_width(tower, found),
        dtype=None,
        file=None,
    )


def _stream_width(tower: Tower, found: Survey) -> int | None:
    """Return the length that most matrices of a tower's blocks share: they read the stream, or write to it."""
    shapes = (found.inventory.others[pattern][0].shape for pattern in found.layout.matrices[tower])
    lengths = Counter(length for shape in shapes if shape and len(shape) == 2 for length in {*shape})
    return lengths.most_common(1)[0][0] if lengths else None


def _evidence(final: Final) -> Evidence:
    return Evidence(final.source, "final", final.strength, final.why)


def _dim(tensor: Tensor) -> int | None:
    """Return the length of a scale: its last axis that is longer than 1."""
    if tensor.shape is None:
        return None
    return next((size for size in reversed(tensor.shape) if size > 1), 1)
