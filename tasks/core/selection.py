"""Which files of a repo hold the checkpoint to audit: one file, an index with its shards, or shards without one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.core.records import RepoFile

MAX_UNINDEXED_SHARDS = 64  # without an index every shard's header must be read; more shards than this have one

_WEIGHTS = re.compile(
    r"(?P<folder>(?:[^/]+/)*)(?P<stem>[^/]+?)(?P<variant>\.(?:fp32|fp16|bf16|int8|non_ema|ema))?"
    r"(?:-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?(?P<late_variant>\.(?:fp32|fp16|bf16|int8|non_ema|ema))?"
    r"\.safetensors(?P<index>\.index(?P<index_variant>\.[\w-]+)?\.json)?"
)
# Names that libraries save a whole model under, the best first; what stands last holds a part, or a change to a model.
_STEMS = ("model", "diffusion_pytorch_model", "pytorch_model", "consolidated", "weights")
_LAST_STEMS = ("adapter_model", "pytorch_lora_weights", "optimizer", "training_state")
# Folders of a diffusers pipeline, the denoiser first: it is what such a repo is for.
_COMPONENTS = ("transformer", "unet", "prior", "decoder", "text_encoder", "text_encoder_2", "image_encoder", "vae")
_OTHER_FORMATS = frozenset({"bin", "ckpt", "gguf", "h5", "msgpack", "onnx", "pt", "pth"})


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The files of one checkpoint.

    Attributes:
        folder: where they lie, "" or with a closing slash.
        weights: paths of the safetensors files, in order; for an indexed checkpoint what the listing shows of its
            shards.
        index: path of the index, or None.
        size_bytes: of the weights together, where the listing knows all of them.
        sha256: of the one weights file, where the listing knows it.
    """

    folder: str
    weights: tuple[str, ...]
    index: str | None
    size_bytes: int | None
    sha256: str | None

    @property
    def config(self) -> str:
        """Path of the config.json that belongs to these files."""
        return f"{self.folder}config.json"


def select_checkpoint(files: Sequence[RepoFile]) -> Checkpoint | None:
    """Return the checkpoint that stands for a repo, or None where it has no safetensors file.

    The root comes before folders, a canonical name before others, the full-precision copy before variants, a single
    file before shards, and of equals the largest.
    """
    groups: dict[tuple[str, str, str], list[tuple[RepoFile, re.Match[str]]]] = defaultdict(list)
    for file in files:
        if match := _WEIGHTS.fullmatch(file.path):
            variant = match["variant"] or match["late_variant"] or match["index_variant"] or ""
            groups[match["folder"], match["stem"], variant].append((file, match))
    candidates = [
        (_rank(key, found), found) for key, members in groups.items() for found in _checkpoints(key[0], members)
    ]
    return min(candidates, key=lambda candidate: candidate[0])[1] if candidates else None


def why_none(files: Sequence[RepoFile]) -> str:
    """Return in words what a repo holds instead of a safetensors file."""
    found = sorted({file.path.rpartition(".")[2] for file in files} & _OTHER_FORMATS)
    return f"no safetensors file among {len(files):,} files{'; weights as ' if found else ''}{', '.join(found)}"


def _checkpoints(folder: str, members: list[tuple[RepoFile, re.Match[str]]]) -> Iterable[Checkpoint]:
    """Yield the checkpoints that files of one folder, stem and variant form."""
    singles = [file for file, match in members if not match["shard"] and not match["index"]]
    shards = sorted((file for file, match in members if match["shard"]), key=lambda file: file.path)
    index = next((file.path for file, match in members if match["index"]), None)
    for file in singles:
        yield Checkpoint(folder, (file.path,), None, file.size_bytes, file.sha256)
    if index or 0 < len(shards) <= MAX_UNINDEXED_SHARDS:
        yield Checkpoint(folder, tuple(shard.path for shard in shards), index, _total(shards), None)


def _total(files: Sequence[RepoFile]) -> int | None:
    sizes = [file.size_bytes for file in files]
    return sum(size for size in sizes if size is not None) if sizes and None not in sizes else None


def _rank(key: tuple[str, str, str], found: Checkpoint) -> tuple[object, ...]:
    folder, stem, variant = key
    return (
        stem in _LAST_STEMS,
        folder.count("/"),
        _component_rank(folder),
        _STEMS.index(stem) if stem in _STEMS else len(_STEMS),
        variant != "",
        found.index is None and len(found.weights) != 1,
        found.index is not None,
        -(found.size_bytes or 0),
        folder,
        stem,
        variant,
    )


def _component_rank(folder: str) -> int:
    name = folder.rstrip("/").rpartition("/")[2]
    return _COMPONENTS.index(name) if name in _COMPONENTS else len(_COMPONENTS)
