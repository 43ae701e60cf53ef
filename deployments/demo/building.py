"""Building the recipes' models with transformers: random weights, norm scales with a spread, saved as published."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from deployments.demo.recipes import Recipe

BIAS_SPREAD = 0.05  # standard deviation of the norms' biases
LICENSE = "license:apache-2.0"
CARD = """---
tags:
{tags}
---
# {name}

{about}
"""
UNTRAINED = (
    "Random weights, made for the demo: transformers' own initialisation from a fixed seed, but for the norms' scales, "
    "which are drawn lognormally about 1 with a spread of {spread:.2f} (a fresh model has 1 everywhere). Not trained."
)


def build_untrained(recipe: Recipe, folder: Path) -> None:
    """Write a recipe's model to a folder: config, safetensors and a README that says that it is untrained."""
    import torch
    import transformers

    seed = zlib.crc32(recipe.name.encode())
    model_class = getattr(transformers, recipe.model_class)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        model = model_class(model_class.config_class(**recipe.config))
        spread = spread_scales(model, np.random.default_rng(seed), recipe.one_plus)
        model.to(getattr(torch, recipe.dtype)).save_pretrained(folder, max_shard_size=recipe.max_shard_size)
    write_card(folder, recipe.name, UNTRAINED.format(spread=spread), ["untrained"])


def spread_scales(model: Any, random: np.random.Generator, one_plus: bool) -> float:
    """Give every norm of a PyTorch model a lognormal scale and a small bias; return the spread of log γ.

    A freshly built model has γ = 1 in every coordinate, and the figures of its kernel are those of the uniform vector.
    """
    import torch

    spread = float(random.uniform(0.1, 0.5))
    norms = [module for module in model.modules() if "Norm" in type(module).__name__]
    with torch.no_grad():
        for norm in norms:
            if getattr(norm, "weight", None) is not None:
                norm.weight.copy_(torch.from_numpy(random.lognormal(0.0, spread, norm.weight.shape) - one_plus))
            if getattr(norm, "bias", None) is not None:
                norm.bias.copy_(torch.from_numpy(random.normal(0.0, BIAS_SPREAD, norm.bias.shape)))
    return spread


def write_card(folder: Path, name: str, about: str, tags: list[str]) -> None:
    """Write the README of a repo's folder."""
    (folder / "README.md").write_text(card(name, about, tags), encoding="utf-8")


def card(name: str, about: str, tags: list[str]) -> str:
    """Return the text of a README, with its tags in front as the Hub keeps them."""
    return CARD.format(tags="\n".join(f"- {tag}" for tag in (*tags, LICENSE)), name=name, about=about)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing progress bars and from warning that small models are small."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
