"""Which norm comes last in each tower's trunk, from one traced forward pass.

A tower is a part of a model that transformers makes a model of its own (a vision tower, a text decoder, an encoder).
Its final norm is, in this order: the last norm whose output the tower hands out, as its last hidden state or as what
it pools from that; the norm that reads that state directly (pooled: CLIP); the last norm that ran in it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tasks.model.behaviour.trace import Call, Span, Trace

MAX_ROWS = 64  # rows that are compared to tell whether one tensor was cut out of another
VISION = re.compile(r"visi|visual|image|img|pixel|vit(_|$)|video|vqmodel|vqgan|vpm", re.IGNORECASE)
AUDIO = re.compile(r"audio|speech|sound|wav|codec|acoustic", re.IGNORECASE)
TEXT = re.compile(r"text|language|llm|lm(_|$)|roberta|bert|thinker", re.IGNORECASE)
CONNECTOR = re.compile(r"resampl|connect|project|merger|perceiver|adapt|qformer|bridge", re.IGNORECASE)
ENCODER, DECODER = re.compile(r"encoder", re.IGNORECASE), re.compile(r"decoder", re.IGNORECASE)


@dataclass(frozen=True)
class Final:
    """The final norm of one tower."""

    path: str
    tower: str
    order: int  # of its last call
    is_output: bool  # its output is the last hidden state of the whole model
    is_reached: bool  # the whole model has run it, and not only its tower by itself


def finals_of(base: str, towers: Mapping[str, Any], per_token: set[str], trace: Trace) -> list[Final]:
    """Return each tower's final norm.

    Args:
        base: path of the model without its task's head.
        towers: models within the model, by path.
        per_token: paths of the norms that act on each token by itself.
        trace: of one forward pass.
    """
    found = {path: call for path, call in _tower_finals(base, towers, per_token, trace).items() if call is not None}
    whole = _span(trace, base)
    state = _state(whole.output) if whole else None
    by_norm: dict[str, Final] = {}
    for path, call in found.items():
        calls = [index for index, other in enumerate(trace.calls) if other.path == call.path]
        is_reached = whole is not None and any(whole.start <= index < whole.stop for index in calls)
        is_output = state is not None and _cut_from(state, _tensor(call.output))
        by_norm.setdefault(call.path, Final(call.path, path, calls[-1], is_output, is_reached))
    return list(by_norm.values())


def main_final(finals: Iterable[Final], names: Mapping[str, str]) -> Final | None:
    """Return the final norm whose output a user reads: of the decoder, else of the text tower, else the last to run.

    Args:
        finals: of all towers; those that the whole model has run come first.
        names: tower path: its name.
    """
    order = {"decoder": 2, "text": 1}

    def rank(final: Final) -> tuple[bool, int, bool, int]:
        return final.is_reached, order.get(names[final.tower], 0), final.is_output, final.order

    return max(finals, key=rank, default=None)


def tower_name(path: str, tower: Any, has_siblings: bool) -> str:
    """Return what a tower reads or is: vision, audio, connector (between towers), encoder, decoder or text."""
    last = path.rsplit(".", 1)[-1]
    if CONNECTOR.search(last):
        return "connector"
    for name, pattern in (("vision", VISION), ("audio", AUDIO)):
        if pattern.search(path):
            return name
    if has_siblings and DECODER.search(last):
        return "decoder"
    if has_siblings and ENCODER.search(last) and not TEXT.search(last):
        return "encoder"
    if TEXT.search(path):
        return "text"
    reads = _main_input(tower)
    return "vision" if "pixel" in reads else "audio" if reads in ("input_values", "input_features") else "text"


def _main_input(tower: Any) -> str:
    """Return what a tower reads first; one without words of its own has the name that classes inherit."""
    parameters = list(inspect.signature(tower.forward).parameters)
    named = str(getattr(tower, "main_input_name", "input_ids"))
    return named if named in parameters or not parameters else parameters[0]


def within(path: str, tower: str) -> bool:
    """Whether a module is a tower or a part of it."""
    return not tower or path == tower or path.startswith(f"{tower}.")


def smallest_tower(path: str, towers: Iterable[str]) -> str:
    """Return the path of the smallest tower around a module."""
    return max((tower for tower in towers if within(path, tower)), key=len)


def _tower_finals(path: str, towers: Mapping[str, Any], per_token: set[str], trace: Trace) -> dict[str, Call | None]:
    span = _span(trace, path)
    calls = [call for call in _calls(trace, span) if call.path in per_token and within(call.path, path)] if span else []
    children = _children(path, towers, per_token, trace)
    own = [call for call in calls if not any(within(call.path, child) for child in children)]
    ending = _ending(own, span) if span else None
    if not children:
        return {path: ending or (calls[-1] if calls else None)}
    below: dict[str, Call | None] = {}
    for child in children:
        below |= _tower_finals(child, towers, per_token, trace)
    stacked = [call for call in own if re.search(r"\.\d+\.", call.path.removeprefix(path))]
    if len(children) == 1 and not stacked and (after := ending or _after(own, calls, below, span)):
        return {path: after}  # a norm after the one model within: the tower goes on to there
    if ending is not None or stacked:
        return {**below, path: ending or own[-1]}
    return below


def _after(own: list[Call], calls: list[Call], below: Mapping[str, Call | None], span: Span | None) -> Call | None:
    """Return the norm with which a tower goes on after the one model within, if that does not end in its output."""
    state = _state(span.output) if span else None
    if state is None or not own or calls[-1] is not own[-1]:
        return None
    within_ends = any(call is not None and _cut_from(state, _tensor(call.output)) for call in below.values())
    return None if within_ends else own[-1]


def _ending(calls: list[Call], span: Span) -> Call | None:
    """Return the last norm whose output a tower hands out, or the one that reads its last hidden state."""
    state, pooled = _state(span.output), _tensor(getattr(span.output, "pooler_output", None))
    if state is None:
        return None
    for call in reversed(calls):
        if _cut_from(state, _tensor(call.output)) or _cut_from(pooled, _tensor(call.output)):
            return call
    for call in calls[-1:]:
        if _cut_from(_tensor(call.args[0] if call.args else None), state) or _pooled_from(call, state):
            return call
    return None


def _children(path: str, towers: Mapping[str, Any], per_token: set[str], trace: Trace) -> list[str]:
    """Return the largest towers within one that ran and hold norms."""
    inner = [
        other
        for other in towers
        if other != path and within(other, path) and _span(trace, other) and any(within(n, other) for n in per_token)
    ]
    return [other for other in inner if not any(other != outer and within(other, outer) for outer in inner)]


def _span(trace: Trace, path: str) -> Span | None:
    return next((span for span in reversed(trace.spans) if span.path == path), None)


def _calls(trace: Trace, span: Span) -> list[Call]:
    return trace.calls[span.start : span.stop]


def _state(output: Any) -> Tensor | None:
    """Return a tower's last hidden state: by its name, or the first tensor of an output without names."""
    named = getattr(output, "last_hidden_state", None)
    maps = getattr(output, "feature_maps", None)
    if isinstance(named, Tensor):
        return named
    if maps:
        return _tensor(maps[-1])
    return None if hasattr(output, "keys") else _tensor(output)


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, tuple | list) and value:
        value = value[0]
    return value if isinstance(value, Tensor) and value.is_floating_point() and value.numel() else None


def _cut_from(part: Tensor | None, whole: Tensor | None) -> bool:
    """Whether a tensor holds nothing but values, or rows, of another."""
    if part is None or whole is None:
        return False
    if part.numel() == whole.numel():
        return bool(torch.allclose(part.flatten().sort().values, whole.flatten().sort().values, atol=1e-5))
    if part.dim() == 4 and part.shape[1] == whole.shape[-1]:
        part = part.movedim(1, -1)  # a feature map has its channels first
    if part.shape[-1] != whole.shape[-1]:
        return False
    rows, others = part.reshape(-1, part.shape[-1])[:MAX_ROWS], whole.reshape(-1, whole.shape[-1])
    return bool((torch.cdist(rows, others).min(dim=1).values < 1e-4).all())


def _pooled_from(call: Call, state: Tensor) -> bool:
    given = _tensor(call.args[0] if call.args else None)
    if given is None or state.dim() < 3:
        return False
    pooled = (state.mean(dim=1), state.flatten(2).mean(dim=2), state.amax(dim=1))
    return any(
        mean.numel() == given.numel() and torch.allclose(mean.flatten(), given.flatten(), atol=1e-4) for mean in pooled
    )
