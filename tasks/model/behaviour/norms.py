"""What one norm module does, found by running it (maths.md, section 1)."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.records import Kind, Parameterisation

NAMED_NORM = re.compile(r"norm", re.IGNORECASE)
BIAS_NAME = re.compile(r"bias|beta|shift|^b$", re.IGNORECASE)
TOLERANCE = 1e-3  # relative; modules compute in float32 inside, and an epsilon of 1e-5 shows at inputs of spread 10
INPUT_SPREAD = 10.0
MAX_NORM_PARAMETERS = 1 << 22  # a module that stores more is a matrix, whatever it is called

Apply = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Behaviour:
    """What one norm module was seen to do."""

    kind: Kind
    parameterisation: Parameterisation | None
    has_bias: bool
    eps: float | None


def candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (path, module) of every module that may be a norm: by name, or because all it stores are vectors."""
    for path, module in model.named_modules():
        if any(True for child in module.children() for _ in child.parameters()):
            continue
        own = list(module.parameters(recurse=False))
        if sum(parameter.numel() for parameter in own) > MAX_NORM_PARAMETERS:
            continue
        named = bool(NAMED_NORM.search(type(module).__name__))
        vectors = 0 < len(own) <= 2 and all(parameter.dim() == 1 for parameter in own)
        if named or (vectors and any(True for _ in own)):
            yield path, module


def behaviour_of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Behaviour | None:
    """Return what a module does to the first of its arguments, or None: it is no norm, or it cannot be run alone.

    Args:
        module: left as it is; a copy with random parameters is run.
        args: positional arguments of a call; the first tensor is replaced by random numbers of its shape.
        kwargs: keyword arguments of that call.
    """
    probe = _randomised(module)
    x, apply = _isolated(probe, args, kwargs)
    try:
        kind = _declared_kind(module) or _kind(x, apply)
        if kind is None:
            return None
        return Behaviour(kind, *_parameterisation(probe, x, apply), _eps(module))
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return None  # it does not take such an input


def _declared_kind(module: nn.Module) -> Kind | None:
    """Return the kind of a norm that no token decides by itself: it shows by what the module keeps."""
    if getattr(module, "running_mean", None) is not None:
        return "batchnorm"
    return "groupnorm" if isinstance(module, nn.GroupNorm) else None


def guessed_inputs(module: nn.Module) -> list[Tensor]:
    """Return inputs for a norm that no forward pass has reached: tokens, then feature maps, of its own width."""
    declared = getattr(module, "normalized_shape", None) or (64,)
    width = next((parameter.shape[-1] for parameter in module.parameters(recurse=False)), declared[-1])
    tokens, maps, channels = torch.zeros(2, 6, width), torch.zeros(2, width, 3, 3), torch.zeros(2, width, 6)
    return [maps, channels] if isinstance(module, nn.BatchNorm2d) else [tokens, maps, channels]


def _randomised(module: nn.Module) -> nn.Module:
    probe = copy.deepcopy(module).eval()
    for parameter in probe.parameters():
        parameter.data = torch.rand_like(parameter, dtype=torch.float32) + 0.5
    return probe.float()


def _isolated(probe: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Apply]:
    """Return the module as a function of its first tensor alone, and a random such tensor."""
    values = [*args, *kwargs.values()]
    place = next(i for i, value in enumerate(values) if isinstance(value, Tensor))
    others = [value.float() if isinstance(value, Tensor) and value.is_floating_point() else value for value in values]

    def apply(x: Tensor) -> Tensor:
        given = [*others[:place], x.clone(), *others[place + 1 :]]
        with torch.no_grad():
            out = probe(*given[: len(args)], **dict(zip(kwargs, given[len(args) :], strict=True)))
        return out[0] if isinstance(out, tuple) else out

    shape = values[place].shape
    return INPUT_SPREAD * torch.randn(shape), apply


def _kind(x: Tensor, apply: Apply) -> Kind | None:
    normed = apply(x)
    if not normed.std() > 0:
        return None
    for axis in {x.dim() - 1: None, 1: None}:
        per_token = [1 if dim == axis else size for dim, size in enumerate(x.shape)]
        if _same(normed, apply(x * torch.exp(0.7 * torch.randn(per_token)))):
            centres = _same(normed, apply(x + INPUT_SPREAD * torch.randn(per_token)))
            return "layernorm" if centres else "rmsnorm"
    if _same(normed, apply(3 * x)):
        return "groupnorm" if _same(normed, apply(x + INPUT_SPREAD)) else "unknown"
    return None


def _same(expected: Tensor, got: Tensor) -> bool:
    return bool((expected - got).abs().mean() <= TOLERANCE * expected.abs().mean())


def _parameterisation(probe: nn.Module, x: Tensor, apply: Apply) -> tuple[Parameterisation | None, bool]:
    """Return how the scale acts, from the outputs at w = 0 and w = 1, and whether there is a bias."""
    named = dict(probe.named_parameters(recurse=False))
    biases = [parameter for name, parameter in named.items() if BIAS_NAME.search(name)]
    scales = [parameter for name, parameter in named.items() if not BIAS_NAME.search(name)]
    for bias in biases:
        bias.data.zero_()
    if not scales:
        return None, bool(biases)
    outputs = []
    for value in (0.0, 1.0):
        for scale in scales:
            scale.data.fill_(value)
        outputs.append(apply(x))
    zero, one = outputs
    if not zero.abs().max() > TOLERANCE * one.abs().max():
        return "plain", bool(biases)
    return ("one_plus" if _same(one, 2 * zero) else "unknown"), bool(biases)


def _eps(module: nn.Module) -> float | None:
    values = (getattr(module, name, None) for name in ("eps", "variance_epsilon", "epsilon", "norm_eps"))
    return next((value for value in values if isinstance(value, float)), None)
