"""The demo's repos that something is the matter with, made from the built ones and from bytes: one for each status.

Each carries the tag `expected:STATUS`, the status that an audit should give it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from deployments.demo import layouts
from deployments.demo.building import LICENSE, card
from deployments.demo.checkpoint import (
    PlannedTensor,
    decoded,
    dense_checkpoint,
    encoded,
    read_tensors,
    sparse_checkpoint,
)
from deployments.demo.content import BytesContent, Content
from deployments.demo.recipes import facts
from deployments.demo.repo import StandInRepo
from deployments.demo.shapes import sparse_7b, sparse_70b

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 548105171\n"
HUGE_NORM = 2_500_000_000  # elements: 10 GB as float32, so no norm

Repos = Mapping[str, StandInRepo]


def odd_repos(built: Repos) -> list[StandInRepo]:
    """Return the odd repos, given the built ones by id."""
    makers: Iterable[Callable[[Repos], Iterable[StandInRepo]]] = (
        closed_repos,
        absent_repos,
        broken_files,
        strange_values,
        strange_layouts,
        large_shapes,
    )
    return [repo for maker in makers for repo in maker(built)]


def closed_repos(built: Repos) -> Iterable[StandInRepo]:
    """Yield repos that are there but do not let everyone in."""
    gpt2, qwen3 = built["demo/gpt2-small"], built["demo/qwen3-small"]
    yield odd(gpt2, "gated", "gated", "Its terms have to be accepted first.", gated="manual", readable_by_token=False)
    yield odd(gpt2, "disabled", "disabled", "Taken down by the Hub.", disabled=True)
    locked = "Private, and the demo's token does not open it."
    yield odd(qwen3, "private-locked", "private", locked, private=True, readable_by_token=False)
    mine = with_values(qwen3, {"model.norm.weight": 1.25})
    yield odd(qwen3, "private-draft", "ok", "Private; the demo's token opens it.", {WEIGHTS: mine}, private=True)


def absent_repos(built: Repos) -> Iterable[StandInRepo]:
    """Yield repos that cannot be read for a reason that the listing does not tell; `demo_faults` gives the reasons."""
    gpt2 = built["demo/gpt2-small"]
    yield odd(gpt2, "vanished", "not_found", "Listed, and gone when it is read.")
    yield odd(gpt2, "always-503", "failed", "The Hub never manages to serve it.")


def broken_files(built: Repos) -> Iterable[StandInRepo]:
    """Yield repos whose files contradict the format."""
    gpt2, llama = built["demo/gpt2-small"], built["demo/llama-small"]
    whole = gpt2.files[WEIGHTS].read(0, gpt2.files[WEIGHTS].size)
    corrupt = BytesContent(whole.replace(b'"data_offsets":[', b'"data_offsets":{', 1))
    yield odd(gpt2, "corrupt-header", "bad_file", "The header is no JSON.", {WEIGHTS: corrupt})
    yield odd(gpt2, "pointer-file", "bad_file", "A pointer in place of weights.", {WEIGHTS: BytesContent(POINTER)})
    index = llama.files[INDEX]
    shard = json.loads(index.read(0, index.size))["weight_map"]["model.norm.weight"]
    cut = BytesContent(llama.files[shard].read(0, llama.files[shard].size - 64))
    yield odd(llama, "truncated-shard", "bad_file", "Its last shard ends 64 bytes early.", {shard: cut})
    huge = sparse_checkpoint([PlannedTensor("model.norm.weight", "F32", (HUGE_NORM,))], {})
    files = without_weights(llama) | {WEIGHTS: huge}
    yield made("norm-of-10-gb", "too_large", "Its only norm would be 10 GB.", files)


def strange_values(built: Repos) -> Iterable[StandInRepo]:
    """Yield repos whose files are in order, and whose final scale is not what a kernel direction needs."""
    gpt2, llama = built["demo/gpt2-small"], built["demo/llama-small"]
    zeros = with_values(gpt2, {"transformer.ln_f.weight": 0.0}, coordinates=(3, 17, 40))
    yield odd(gpt2, "zero-scales", "ok", "Three final scales are exactly 0.", {WEIGHTS: zeros})
    nans = with_values(gpt2, {"transformer.ln_f.weight": float("nan")}, coordinates=(5,))
    yield odd(gpt2, "nan-scales", "ok", "One final scale is not a number.", {WEIGHTS: nans})
    small = as_dtype([content for path, content in llama.files.items() if path.endswith(".safetensors")], "F8_E4M3")
    about = "llama-small in one file, with every tensor in float8, norms included."
    tags = ("untrained", "base_model:quantized:demo/llama-small")
    yield made("llama-small-fp8", "ok", about, without_weights(llama) | {WEIGHTS: small}, tags=tags, downloads=77_031)


def strange_layouts(built: Repos) -> Iterable[StandInRepo]:
    """Yield repos whose weights lie where no one looks first, or are none, or have no norms."""
    gpt2, qwen3 = built["demo/gpt2-small"], built["demo/qwen3-small"]
    yield odd(gpt2, "gpt2-mirror", "ok", "The same weights under another name.")
    half = {"model.fp16.safetensors": as_dtype([gpt2.files[WEIGHTS]], "F16")}
    yield odd(gpt2, "gpt2-variants", "ok", "The same weights in two precisions.", half)
    lone = {"qwen3-merged.safetensors": qwen3.files[WEIGHTS]}
    yield made("lone-file", "ok", "Its weights have a name of their own.", without_weights(qwen3) | lone)
    pickled = {"pytorch_model.bin": BytesContent(b"PK\x03\x04" + bytes(500_000))}
    yield made("bin-only", "no_safetensors", "Its weights are pickled.", without_weights(gpt2) | pickled)
    about = "A low-rank adapter of llama-small, no model of its own."
    tags = ("base_model:adapter:demo/llama-small",)
    yield made("llama-small-lora", "no_norms", about, layouts.lora_adapter(), library_name="peft", tags=tags)
    yield made("mlp-without-norms", "no_norms", "Two matrices and nothing else.", layouts.mlp(), library_name=None)
    about = "A pipeline whose parts lie in folders, each with weights of its own."
    yield made("diffusion-pipeline", "ok", about, layouts.diffusion_pipeline(), library_name="diffusers")


def large_shapes(built: Repos) -> Iterable[StandInRepo]:
    """Yield repos of the size that people use, which no disk has to hold: their matrices are zeros, made when read."""
    tags = ("untrained", "matrices-are-zero")
    yield sparse_7b("demo/llama-7b-shape", tags=tags, **facts("2023-07-18", 1_204_377, 4_400))
    yield sparse_70b("demo/llama-70b-shape", tags=tags, **facts("2023-07-18", 310_562, 2_150))


def odd(
    base: StandInRepo, name: str, status: str, about: str, files: Mapping[str, Content] | None = None, **changed: Any
) -> StandInRepo:
    """Return a copy of a repo under another name, some files replaced, with a README that says what is odd about it."""
    return made(name, status, about, {**base.files, **(files or {})}, **changed)


def made(name: str, status: str, about: str, files: Mapping[str, Content], **changed: Any) -> StandInRepo:
    """Return a repo of these files, with a README that says what is odd about it."""
    tags = (f"expected:{status}", LICENSE, *changed.pop("tags", ()))
    readme = BytesContent(card(name, about, [f"expected:{status}"]).encode())
    told = facts(
        "2025-01-15", downloads=40 * len(about), likes=len(name)
    )  # some figures, different and always the same
    return StandInRepo(f"demo/{name}", {**files, "README.md": readme}, tags=tags, **(told | changed))


def without_weights(repo: StandInRepo) -> dict[str, Content]:
    """Return a repo's files but for its checkpoint."""
    return {path: content for path, content in repo.files.items() if not path.startswith("model")}


def with_values(repo: StandInRepo, values: Mapping[str, float], coordinates: tuple[int, ...] = (0,)) -> Content:
    """Return a repo's single checkpoint with some coordinates of the named vectors set to a value."""
    tensors = read_tensors([repo.files[WEIGHTS]])
    data = {tensor.name: content for tensor, content in tensors.items()}
    for tensor in tensors:
        if tensor.name in values:
            changed = decoded(data[tensor.name], tensor.dtype)
            changed[list(coordinates)] = values[tensor.name]
            data[tensor.name] = encoded(changed, tensor.dtype)
    return dense_checkpoint(tensors, data)


def as_dtype(contents: Iterable[Content], dtype: str) -> Content:
    """Return one checkpoint with every tensor of some others, rounded to a dtype."""
    tensors = read_tensors(contents)
    planned = [PlannedTensor(tensor.name, dtype, tensor.shape) for tensor in tensors]
    return dense_checkpoint(planned, {t.name: encoded(decoded(data, t.dtype), dtype) for t, data in tensors.items()})
