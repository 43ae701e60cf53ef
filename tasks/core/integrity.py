"""What a checkpoint's names alone say is wrong with it, or not to be expected of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tasks.core.modules import Inventory
from tasks.core.records import Norm

ADAPTER_ONLY = "adapter_only"  # the tensors are to be added to another checkpoint's
ANONYMOUS_NAMES = "anonymous_names"  # names are numbers; nothing can be told from them
LAYER_GAPS = "layer_gaps"  # norms of some layers between the first and the last are missing
NO_NORM_TENSORS = "no_norm_tensors"  # a transformer without one: norms without affine, or folded away
_ANONYMOUS = re.compile(r"(layers?|params?|tensors?|weights?|p)?[._]?#?[._]?[0-9]*([._](weight|bias))?")
MAX_ANONYMOUS_CHARS = 64  # a longer name says something, or is garbage


def verdicts(inventory: Inventory, norms: Sequence[Norm]) -> Iterator[str]:
    """Yield the verdicts on a checkpoint, by its tensors' names and its classified norms."""
    if inventory.is_adapter:
        yield ADAPTER_ONLY
    if is_anonymous(inventory):
        yield ANONYMOUS_NAMES
    if _has_gaps(norms):
        yield LAYER_GAPS
    if norms and all(norm.scale_tensor is None for norm in norms):
        yield NO_NORM_TENSORS


def is_anonymous(inventory: Inventory) -> bool:
    """Return whether no tensor's name says what it is."""
    if inventory.norms or not inventory.others:
        return False
    return all(len(name) <= MAX_ANONYMOUS_CHARS and _ANONYMOUS.fullmatch(name) for name in inventory.others)


def _has_gaps(norms: Sequence[Norm]) -> bool:
    main = next((norm for norm in norms if norm.is_main), None)
    if main is None:
        return False
    layers = {norm.layer for norm in norms if norm.tower == main.tower and norm.layer is not None}
    return bool(layers) and len(layers) < max(layers) - min(layers) + 1
