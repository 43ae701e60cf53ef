"""Block by block: one block has its values at a time, all batches go through it, then it is dropped.

First a pass without blocks: each hands on what it is given, and tells the arguments that it is called with. Where the
structure is no plain stack this shows: the hidden state between two blocks, or before the norm, is then another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from tasks.model.faults import NoProbe, NotAStack
from tasks.model.fill import Part, Parts, Weights
from tasks.model.inputs import Inputs
from tasks.model.memory import give_back
from tasks.model.observe import Observer, first_tensor, tapped
from tasks.model.structure import Sight
from tasks.model.tables import embeddings, gathered, names_of
from tasks.model.whole import Setting, batches, run, taps

Returned: TypeAlias = tuple[Any, ...] | None  # what a block returns behind the hidden state; None: that alone


@dataclass
class Calls:
    """What the blocks are called with.

    Attributes:
        hidden: of each batch the stream before the first block.
        arguments: of each batch and block the call's other arguments.
    """

    hidden: list[Tensor] = field(default_factory=list)
    arguments: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = field(default_factory=list)


class _PassThrough:
    """Stands in for a block's forward: hands on the hidden state, and remembers how it was called."""

    def __init__(self, index: int, calls: Calls, rest: Returned) -> None:
        self.index, self.calls, self.rest = index, calls, rest

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if any(value is _UNTOUCHED for value in (*args, *kwargs.values())):
            raise NotAStack("the blocks hand on more than the hidden state")
        hidden = first_tensor(args, kwargs)
        if self.index == 0:
            self.calls.hidden.append(hidden)
            self.calls.arguments.append([])
        so_far = self.calls.arguments[-1]
        if len(so_far) != self.index or hidden is not self.calls.hidden[-1]:
            raise NotAStack(f"block {self.index} is not given what block {self.index - 1} returns")
        so_far.append(_without_hidden(args, kwargs, hidden))
        return hidden if self.rest is None else (hidden, *self.rest)


class _Hidden:
    """Marks the place of the hidden state among a call's arguments."""


_UNTOUCHED = (
    object()
)  # in place of what a block returns beside the hidden state: T5's blocks hand it on, BLOOM's do not


def run_blocks(
    model: nn.Module,
    sight: Sight,
    weights: Weights,
    parts: Parts,
    inputs: Inputs,
    observer: Observer,
    setting: Setting,
    on_trunk: Callable[[], None],
) -> None:
    """Run a model block by block until the observer has seen all tokens; nothing has values after.

    Args:
        model: without values.
        sight: its stack.
        weights: give the parts their values.
        parts: all that lies outside the blocks, then each block.
        inputs: what it is run on.
        observer: is told of the streams and the norm's input.
        setting: how.
        on_trunk: called when the trunk has values, and the blocks hand on what they are given.

    Raises:
        NotAStack: the structure is not one that this can do; what was observed is of no use.
        NoProbe: the model cannot be run on such inputs.
        NotFinite: NaN or Inf came up.
    """
    if not sight.blocks:
        raise NotAStack("no list of blocks that the norm follows")
    tables = embeddings(model, sight.runner, weights.table)
    names = [name for path in tables for name in names_of(model, model.get_submodule(path).weight)]
    trunk = replace(parts.trunk, left_out=frozenset(names))
    weights.fill(trunk)
    with torch.no_grad():
        with gathered(model, tables, setting.device):
            rest = _returned_behind(model, sight, weights, parts.blocks[0], inputs, setting)
            calls = _calls(model, sight, rest, inputs, observer, setting)
            with passing_through(model, sight, Calls(), rest):
                on_trunk()
        weights.drop(trunk)
        give_back()
        with tapped(_block_taps(sight), model, lambda index, value: _take(observer, index, value)):
            for index, part in enumerate(parts.blocks):
                weights.fill(part)
                _through(model.get_submodule(part.name), index, calls)
                weights.drop(part)
                observer.finish(index)
                give_back()
                setting.say(f"block {index + 1} of {len(sight.blocks)}")
    if not sight.last_norms:
        end = Part(parts.trunk.name, (sight.norm,))
        weights.fill(end)
        for hidden in calls.hidden:
            observer.final(hidden)
        weights.drop(end)


@contextmanager
def passing_through(model: nn.Module, sight: Sight, calls: Calls, rest: Returned) -> Iterator[None]:
    """Replace the blocks by stand-ins that hand on what they are given.

    Args:
        model: that holds them.
        sight: which they are.
        calls: is told how they are called.
        rest: what a block returns behind the hidden state; None: it returns that alone.
    """
    blocks = [model.get_submodule(path) for path in sight.blocks]
    try:
        for index, block in enumerate(blocks):
            block.forward = _PassThrough(index, calls, rest)
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


def _calls(
    model: nn.Module, sight: Sight, rest: Returned, inputs: Inputs, observer: Observer, setting: Setting
) -> Calls:
    """Return how the blocks are called on all batches."""
    runner, calls = model.get_submodule(sight.runner), Calls()
    counter = _Counter(observer)
    with passing_through(model, sight, calls, rest), tapped({sight.norm: None}, model, counter.on_norm):
        for kwargs in batches(inputs, counter, setting):
            _run_through(runner, kwargs, rest)
            counter.end_pass(calls, bool(sight.last_norms))
            if len(calls.arguments[-1]) != len(sight.blocks):
                raise NotAStack(f"{len(calls.arguments[-1])} of {len(sight.blocks)} blocks are run")
    return calls


def _run_through(runner: nn.Module, kwargs: dict[str, Any], rest: Returned) -> None:
    """Run a model without its blocks; where it fails it may want what they change, or what else they return."""
    try:
        run(runner, kwargs)
    except NoProbe as error:
        if rest is not None and _UNTOUCHED in rest:
            raise NotAStack("what the blocks return beside the hidden state is used") from error
        raise NotAStack(f"without its blocks the model fails: {error}") from error


@dataclass
class _Counter:
    """Counts tokens in a pass without blocks, and sees that the norm is given what the last block returns."""

    observer: Observer
    count: int = 0
    passes: int = 0
    given: Tensor | None = None

    @property
    def is_full(self) -> bool:
        return self.count >= self.observer.tokens

    def on_norm(self, index: int | None, value: Tensor) -> None:
        self.given = value

    def end_pass(self, calls: Calls, norm_is_inside: bool) -> None:
        self.passes += 1
        if len(calls.hidden) != self.passes:
            raise NotAStack("a block is not run, or more than once")
        hidden = calls.hidden[-1]
        if hidden.shape[-1] != self.observer.width:
            raise NotAStack(f"the blocks are given a stream of width {hidden.shape[-1]}, not {self.observer.width}")
        if not norm_is_inside and (self.given is None or self.given.data_ptr() != hidden.data_ptr()):
            raise NotAStack("the final norm is not given what the last block returns")
        self.count += hidden.numel() // hidden.shape[-1]


def _returned_behind(
    model: nn.Module, sight: Sight, weights: Weights, first: Part, inputs: Inputs, setting: Setting
) -> Returned:
    """Return what the first block returns behind the hidden state, from a run on one sequence; None without a tuple.

    Tensors among it are replaced by a mark, to see whether anybody wants them.
    """
    calls = Calls()
    with passing_through(model, sight, calls, None):
        try:
            run(model.get_submodule(sight.runner), inputs.batch(0, 1, setting.device, setting.dtype))
        except (NoProbe, NotAStack):
            if not calls.arguments:
                raise  # else what follows wants a tuple, and how the first block is called is known
    if not calls.arguments:
        raise NotAStack("no block is run")
    weights.fill(first)
    args, kwargs = _with_hidden(calls.arguments[0][0], calls.hidden[0])
    output = run(model.get_submodule(first.name), kwargs, args)
    weights.drop(first)
    if isinstance(output, Tensor):
        return None
    if not isinstance(output, tuple):
        raise NotAStack(f"the blocks return a {type(output).__name__}")
    return tuple(_UNTOUCHED if isinstance(value, Tensor) else value for value in output[1:])


def _through(block: nn.Module, index: int, calls: Calls) -> None:
    """Take the hidden state of all batches through one block."""
    for number, hidden in enumerate(calls.hidden):
        args, kwargs = _with_hidden(calls.arguments[number][index], hidden)
        output = run(block, kwargs, args)
        calls.hidden[number] = output[0] if isinstance(output, tuple) else output
        if calls.hidden[number].shape != hidden.shape:
            raise NotAStack(f"block {index} changes the stream's shape")
        calls.arguments[number][index] = ((), {})


def _block_taps(sight: Sight) -> dict[str, int | None]:
    """Return the taps that fire within blocks: those of the norm alone where that ends the last block."""
    return {path: index for path, index in taps(sight).items() if index is not None or sight.last_norms}


def _take(observer: Observer, index: int | None, value: Tensor) -> None:
    if index is None:
        observer.final(value)
    else:
        observer.stream(index, value)


def _without_hidden(args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor) -> tuple[Any, dict[str, Any]]:
    """Return a call's arguments with the hidden state's place marked, so that they do not hold on to it."""
    marked = tuple(_Hidden if value is hidden else value for value in args)
    return marked, {name: _Hidden if value is hidden else value for name, value in kwargs.items()}


def _with_hidden(
    call: tuple[tuple[Any, ...], dict[str, Any]], hidden: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = call
    filled = tuple(hidden if value is _Hidden else value for value in args)
    return filled, {name: hidden if value is _Hidden else value for name, value in kwargs.items()}
