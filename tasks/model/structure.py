"""Where in a model the probe looks: the main final norm, the part that is run, and the stack of blocks before it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

from tasks.core.kinds import classify
from tasks.core.matching import pattern_of
from tasks.core.records import Kind, Norm, Parameterisation, Tensor
from tasks.core.registry import load_registry
from tasks.model.behaviour.norms import candidates
from tasks.model.build import Blueprint
from tasks.model.faults import NoProbe

# inputs that a probe can make
READS = ("input_ids", "pixel_values", "pixel_values_videos", "input_features", "input_values")


@dataclass(frozen=True, slots=True)
class Sight:
    """What of a model is looked at; all paths are of modules within it.

    Attributes:
        norm: the main final norm.
        width: d, what it norms.
        tower: what it ends: text, vision, ….
        kind: what the classifier says that it is.
        parameterisation: likewise, of its scale; None without one.
        scale: the model's name of its scale; None without affine.
        bias: the model's name of its bias; None without one.
        runner: the model that is run: of a multi-tower model the tower, of an encoder-decoder both.
        stack: the list of blocks that the norm follows or ends; None: none was found.
        blocks: its members.
        last_norms: of post-norm models the norm that ends each block; else empty.
    """

    norm: str
    width: int
    tower: str
    kind: Kind
    parameterisation: Parameterisation | None
    scale: str | None
    bias: str | None
    runner: str
    stack: str | None
    blocks: tuple[str, ...]
    last_norms: tuple[str, ...]


def look(plan: Blueprint, model: nn.Module) -> Sight:
    """Return what of a model to look at, found by the classifier on its tensors' names and its config.

    Raises:
        NoProbe: it has no final norm, or takes no input that a probe can make.
    """
    main = _main_norm(plan, model)
    path = main.module if main.scale_tensor else _blank_norm(plan, model)
    width = main.dim or getattr(model.config.get_text_config(), "hidden_size", None)
    if not width:
        raise NoProbe("unsupported", f"{plan.cls.__name__}: neither its last norm nor its config tells its width")
    runner = _runner(model, path)
    stack = _stack(model, path, runner)
    blocks = tuple(f"{stack}.{name}" for name, _ in model.get_submodule(stack).named_children()) if stack else ()
    return Sight(
        norm=path,
        width=width,
        tower=main.tower,
        kind=main.kind,
        parameterisation=main.parameterisation,
        scale=main.scale_tensor,
        bias=main.bias_tensor,
        runner=runner,
        stack=stack,
        blocks=blocks,
        last_norms=_last_norms(model, path, stack, blocks),
    )


def _main_norm(plan: Blueprint, model: nn.Module) -> Norm:
    tensors = [Tensor(name, "", None, tuple(value.shape)) for name, value in model.state_dict().items()]
    found = classify(tensors, {**plan.said, "architectures": [plan.cls.__name__]}, load_registry())
    main = next((norm for norm in found.norms if norm.is_main), None)
    if main is None:
        raise NoProbe("no_norms", f"{plan.cls.__name__}: {len(found.norms)} norms, of which none ends a trunk")
    return main


def _blank_norm(plan: Blueprint, model: nn.Module) -> str:
    """Return the path of a main final norm that stores nothing: where it was measured, else the last such module."""
    known = load_registry().find({"model_type": plan.config.model_type, "architectures": [plan.cls.__name__]})
    blank = [path for path, module in candidates(model) if not any(True for _ in module.parameters())]
    measured = [norm.pattern for norm in (known.norms if known else ()) if norm.is_main]
    fitting = [path for path in blank if pattern_of(path) in measured]
    if not (fitting or blank):
        raise NoProbe("no_norms", f"{plan.cls.__name__}: its last norm stores nothing and is no module")
    return (fitting or blank)[-1]


def _runner(model: Any, norm: str) -> str:
    """Return the path of the smallest model around a norm that takes inputs itself; with an encoder, of both."""
    towers = [path for path, module in model.named_modules() if hasattr(module, "main_input_name")]
    around = [path for path in towers if (not path or norm.startswith(f"{path}.")) and _reads(model, path)]
    if getattr(model.config, "is_encoder_decoder", False):
        around = [path for path in around if getattr(model.get_submodule(path).config, "is_encoder_decoder", False)]
        around = [path for path in around if "decoder_input_ids" in forward_parameters(model.get_submodule(path))]
    if not around:
        name = type(model).__name__
        raise NoProbe("unsupported", f"{name}: it takes none of {', '.join(READS)}, which a probe can make")
    return str(max(around, key=len))


def forward_parameters(module: nn.Module) -> dict[str, inspect.Parameter]:
    """Return the parameters of a module's forward by their names."""
    return dict(inspect.signature(module.forward).parameters)


def _reads(model: nn.Module, path: str) -> bool:
    return not forward_parameters(model.get_submodule(path)).keys().isdisjoint(READS)


def _stack(model: nn.Module, norm: str, runner: str) -> str | None:
    """Return the module list nearest to a norm by path, the longest of them; lists within its members do not count."""
    prefix = f"{runner}." if runner else ""
    lists = [path for path, module in model.named_modules() if _is_stack(module) and path.startswith(prefix)]
    outer = [path for path in lists if not any(path.startswith(f"{other}.") for other in lists)]
    return max(
        outer, key=lambda path: (_shared(path, norm), len(list(model.get_submodule(path).children()))), default=None
    )


def _is_stack(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList) and len(module) > 0


def _shared(path: str, norm: str) -> int:
    """Return how many components two paths have in common from their start."""
    pairs = list(zip(path.split("."), norm.split("."), strict=False))
    return next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), len(pairs))


def _last_norms(model: nn.Module, norm: str, stack: str | None, blocks: tuple[str, ...]) -> tuple[str, ...]:
    """Return, where the final norm ends the last block, the norms at the same place in all blocks."""
    last = next((block for block in blocks if norm.startswith(f"{block}.")), None)
    if stack is None or last is None:
        return ()
    inside = norm.removeprefix(f"{last}.")
    paths = {path for path, _ in model.named_modules()}
    found = tuple(f"{block}.{inside}" for block in blocks)
    return found if paths.issuperset(found) else ()
