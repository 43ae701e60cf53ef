"""The final norm itself, evaluated in float64 whatever its code rounds to (maths.md, section 4)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tasks.core.records import Kind, Parameterisation
from tasks.model.behaviour.norms import BIAS_NAME, Behaviour, behaviour_of
from tasks.model.faults import NoProbe

BEHAVIOUR_TOKENS = 8  # of random input on which a norm shows its kind


class InFloat64(TorchFunctionMode):  # type: ignore[misc]  # an untyped library
    """Lets code that rounds to a narrower type on its way compute in float64 throughout: many norms use float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch with every floating-point type that it is told of replaced by float64."""
        if func in (Tensor.float, Tensor.half, Tensor.bfloat16):
            func = Tensor.double
        widened = {name: _widened(value) for name, value in (kwargs or {}).items()}
        return func(*map(_widened, args), **widened)


@dataclass(frozen=True)
class FinalNorm:
    """One norm as three functions of its input.

    Attributes:
        narrow: the norm with float32 parameters.
        wide: a copy with float64 parameters.
        bare: the same with γ = 1 and β = 0.
        kind: by behaviour, or where that cannot be had by classification.
        gamma: effective scale, shape (d,), float64, on the CPU.
        beta: bias likewise; None where there is none.
        remark: where behaviour and classification differ, what each says; else None.
    """

    narrow: nn.Module
    wide: nn.Module
    bare: nn.Module
    kind: Kind
    gamma: Tensor
    beta: Tensor | None
    remark: str | None

    def outputs(self, rows: Tensor) -> Tensor:
        """Return y in float64, shape (n, d)."""
        with torch.no_grad(), InFloat64():
            return _first(self.wide(rows.double()))

    def normalised(self, rows: Tensor) -> Tensor:
        """Return n, the output with γ = 1 and β = 0, in float64, shape (n, d)."""
        with torch.no_grad(), InFloat64():
            return _first(self.bare(rows.double()))

    def outputs_float32(self, rows: Tensor) -> Tensor:
        """Return y computed in float32, shape (n, d)."""
        with torch.no_grad():
            return _first(self.narrow(rows.float()))


def final_norm(
    module: nn.Module, width: int, said: tuple[Kind, Parameterisation | None], scale: Tensor | None, bias: Tensor | None
) -> FinalNorm:
    """Return a norm ready to be evaluated.

    Args:
        module: as the model has it, with values.
        width: d.
        said: kind and parameterisation by classification.
        scale: its scale as the file stores it, shape (d,); None: as the module has it.
        bias: its bias likewise.

    Raises:
        NoProbe: it behaves like no norm of tokens.
    """
    module = _unhooked(module)
    seen = _behaviour(module, width)
    kind = seen.kind if seen and seen.kind != "unknown" else said[0]
    parameterisation = seen.parameterisation if seen and seen.parameterisation != "unknown" else said[1]
    if kind not in ("layernorm", "rmsnorm", "unknown"):
        raise NoProbe("no_norms", f"{type(module).__name__} is a {kind}, which does not norm tokens one by one")
    wide = _with_values(copy.deepcopy(module).double(), scale, bias)
    gamma, beta = _affine(wide, parameterisation, width)
    bare = _without_affine(copy.deepcopy(wide), parameterisation)
    narrow = _with_values(copy.deepcopy(module).float(), scale, bias)
    return FinalNorm(narrow, wide, bare, kind, gamma, beta, _remark(said[0], seen))


def _unhooked(module: nn.Module) -> nn.Module:
    """Return a copy that nobody watches."""
    twin = copy.deepcopy(module)
    for part in twin.modules():
        part._forward_pre_hooks.clear()
        part._forward_hooks.clear()
    return twin


def _widened(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value


def _behaviour(module: nn.Module, width: int) -> Behaviour | None:
    device = next((value.device for value in module.parameters()), torch.device("cpu"))
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        twin = copy.deepcopy(module).cpu() if device.type != "cpu" else module
        return behaviour_of(twin, (torch.randn(1, BEHAVIOUR_TOKENS, width),), {})


def _remark(said: Kind, seen: Behaviour | None) -> str | None:
    if seen is None or seen.kind in (said, "unknown"):
        return None
    return f"classified as {said}, behaves as {seen.kind}"


def _vectors(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return a norm's scales and its biases."""
    named = list(module.named_parameters())
    biases = [value for name, value in named if BIAS_NAME.search(name.rpartition(".")[2])]
    scales = [value for name, value in named if not BIAS_NAME.search(name.rpartition(".")[2])]
    return scales, biases


def _with_values(module: nn.Module, scale: Tensor | None, bias: Tensor | None) -> nn.Module:
    """Put stored values in place of what was rounded to the body's type."""
    for targets, stored in zip(_vectors(module), (scale, bias), strict=True):
        if stored is not None and len(targets) == 1 and targets[0].shape == stored.shape:
            targets[0].data = stored.to(targets[0])
    return module


def _affine(wide: nn.Module, parameterisation: Parameterisation | None, width: int) -> tuple[Tensor, Tensor | None]:
    scales, biases = _vectors(wide)
    gamma = scales[0].detach().cpu() if scales else torch.ones(width, dtype=torch.float64)
    beta = biases[0].detach().cpu() if biases else None
    return (gamma + 1.0 if parameterisation == "one_plus" and scales else gamma), beta


def _without_affine(module: nn.Module, parameterisation: Parameterisation | None) -> nn.Module:
    scales, biases = _vectors(module)
    for scale in scales:
        scale.data.fill_(0.0 if parameterisation == "one_plus" else 1.0)
    for bias in biases:
        bias.data.zero_()
    return module


def _first(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found
