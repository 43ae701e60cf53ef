"""What a checkpoint's names alone say is wrong with it, or not to be expected of it."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

from tasks.core.errors import BadFile, shown
from tasks.core.known import Known
from tasks.core.modules import Inventory
from tasks.core.names import Survey
from tasks.core.promises import lacks_promised
from tasks.core.records import Norm, Tensor
from tasks.core.verdicts import (
    ADAPTER_ONLY,
    ANONYMOUS_NAMES,
    INDEX_NAMES_MISSING_TENSOR,
    LAYER_GAPS,
    NO_NORM_TENSORS,
    PROMISED_NORM_MISSING,
    SHARD_MISSING,
)

_ANONYMOUS = re.compile(r"(layers?|params?|tensors?|weights?|p)?[._]?#?[._]?[0-9]*([._](weight|bias))?")
MAX_ANONYMOUS_CHARS = 64  # a longer name says something, or is garbage
_SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})(.*)")


def verdicts(
    tensors: Iterable[Tensor],
    found: Survey,
    norms: Sequence[Norm],
    known: Known,
    config: Mapping[str, object] | None,
) -> Iterator[str]:
    """Yield the verdicts on a checkpoint, by its tensors' names and its classified norms.

    Args:
        tensors: all of the checkpoint's.
        found: their survey.
        norms: the classified norms.
        known: what the registry knows of them.
        config: the checkpoint's config, whole or a digest.
    """
    is_part = lacks_shards({tensor.file for tensor in tensors})
    if is_part:
        yield SHARD_MISSING
    if found.inventory.is_adapter:
        yield ADAPTER_ONLY
    if is_anonymous(found.inventory):
        yield ANONYMOUS_NAMES
    if _has_gaps(norms):
        yield LAYER_GAPS
    if norms and all(norm.scale_tensor is None for norm in norms):
        yield NO_NORM_TENSORS
    if not is_part and lacks_promised(found, known, config):
        yield PROMISED_NORM_MISSING


def lacks_shards(files: Iterable[str]) -> bool:
    """Return whether some of `model-00001-of-00003.safetensors` and its like are not among a checkpoint's files."""
    seen: dict[tuple[str, str, str], int] = {}
    for file in set(files):
        if match := _SHARD.fullmatch(file):
            stem, count, ending = match.groups()
            seen[stem, count, ending] = seen.get((stem, count, ending), 0) + 1
    return any(number < int(count) for (_, count, _), number in seen.items())


def check_promised(promised: Sequence[str], found: Container[str], where: str) -> None:
    """Hold what a file has against what the index says of it.

    Args:
        promised: names of the tensors that the index puts into the file.
        found: names of those that are there.
        where: repo and file, for messages.

    Raises:
        BadFile: some are not there.
    """
    if lacking := [name for name in promised if name not in found]:
        raise BadFile(
            f"{where}: the index puts {len(promised):,} tensors here, {len(lacking):,} of them are not:"
            f" {shown(lacking[0])}",
            INDEX_NAMES_MISSING_TENSOR,
        )


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
