"""One forward pass of a tiny model, followed: which norms run, in which order, and which comes last in each tower."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tasks.model.behaviour.inputs import sample_inputs

MAX_ATTEMPTS = 24  # combinations of inputs that are tried before a forward pass is given up


@dataclass
class Call:
    """One call of a norm."""

    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@dataclass
class Span:
    """One call of a tower: the norm calls from start to stop are its own."""

    path: str
    start: int
    stop: int
    output: Any


@dataclass
class Trace:
    """What ran, in order."""

    calls: list[Call] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def run(model: Any, norms: dict[str, nn.Module], towers: dict[str, Any]) -> Trace:
    """Run a model, then each tower that this has not reached, with inputs of their own kinds."""
    trace = Trace()
    handles = [watch_norm(trace, path, norm) for path, norm in norms.items()]
    for path, tower in towers.items():
        handles += watch_tower(trace, path, tower)
    try:
        for path, tower in towers.items():
            if not any(span.path == path for span in trace.spans):
                _attempt(trace, path, tower)
    finally:
        for handle in handles:
            handle.remove()
    return trace


def _attempt(trace: Trace, path: str, tower: Any) -> None:
    for number, inputs in enumerate(sample_inputs(tower)):
        calls, spans = len(trace.calls), len(trace.spans)
        try:
            with torch.no_grad():
                tower(**inputs)
            return
        except Exception as error:  # whatever a model raises on inputs that it does not take
            del trace.calls[calls:], trace.spans[spans:]
            shapes = {k: tuple(v.shape) if isinstance(v, Tensor) else v for k, v in inputs.items()}
            trace.errors.append(f"{path or 'model'}{shapes}: {type(error).__name__}: {str(error)[:150]}")
        if number + 1 >= MAX_ATTEMPTS:
            return


def watch_norm(trace: Trace, path: str, norm: nn.Module) -> Any:
    """Have each call of a norm written down; return the handle that ends it."""

    def seen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        trace.calls.append(Call(path, args, kwargs, output))

    return norm.register_forward_hook(seen, with_kwargs=True)


def watch_tower(trace: Trace, path: str, tower: nn.Module) -> list[Any]:
    """Have each call of a tower written down, with the norms' calls in it; return the handles that end it."""
    starts: list[int] = []

    def enter(module: nn.Module, args: Any) -> None:
        starts.append(len(trace.calls))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        trace.spans.append(Span(path, starts.pop(), len(trace.calls), output))

    return [tower.register_forward_pre_hook(enter), tower.register_forward_hook(leave)]
