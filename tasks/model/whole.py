"""The whole model at once: hooks on the blocks and the final norm, batch after batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tasks.model.answers import Say
from tasks.model.faults import NoProbe, NotAStack, NotFinite, in_words
from tasks.model.inputs import Inputs
from tasks.model.observe import Observer, tapped
from tasks.model.structure import Sight


class Counted(Protocol):
    """Something that counts the tokens which the norm is given."""

    @property
    def count(self) -> int:
        """Tokens so far."""

    @property
    def is_full(self) -> bool:
        """Whether these are enough."""


@dataclass(frozen=True)
class Setting:
    """How forward passes are made.

    Attributes:
        device: where.
        dtype: of the model's body.
        batch_tokens: at most so many tokens in one pass, or one sequence.
        say: is told of the progress.
    """

    device: torch.device
    dtype: torch.dtype
    batch_tokens: int
    say: Say


def taps(sight: Sight) -> dict[str, int | None]:
    """Return the modules whose inputs are looked at: {path: index of the stream, None for the final norm}."""
    if sight.last_norms:  # post-norm: the stream is what the norm that ends a block is given
        ends = {path: index + 1 for index, path in enumerate(sight.last_norms[:-1])}
        return {sight.blocks[0]: 0, **ends, sight.norm: None}
    return {**{path: index for index, path in enumerate(sight.blocks)}, sight.norm: None}


def run_whole(model: nn.Module, sight: Sight, inputs: Inputs, observer: Observer, setting: Setting) -> None:
    """Run a model that has all its values until the observer is full.

    Raises:
        NoProbe: the model cannot be run on such inputs, or its final norm is not reached.
        NotFinite: NaN or Inf came up.
    """
    runner = model.get_submodule(sight.runner)
    seen: list[tuple[int | None, Tensor]] = []
    with torch.no_grad(), tapped(taps(sight), model, lambda index, value: _take(observer, seen, index, value)):
        for kwargs in batches(inputs, observer, setting):
            seen.clear()
            run(runner, kwargs)
            ends = [value for index, value in seen if index is None]
            if not ends:
                raise NoProbe("unsupported", f"{sight.norm} is not run in a forward pass of {type(runner).__name__}")
            _check_pass(observer, seen)
            observer.final(ends[-1])
            setting.say(f"forward: {observer.count:,} tokens")


def batches(inputs: Inputs, counted: Counted, setting: Setting) -> Iterator[dict[str, Any]]:
    """Yield the arguments of forward passes until enough is counted; the first is of one sequence alone."""
    start, size = 0, 1
    while not counted.is_full:
        before = counted.count
        yield inputs.batch(start, start + size, setting.device, setting.dtype)
        start += size
        per_sequence = (counted.count - before) / size
        if per_sequence <= 0:
            raise NoProbe("unsupported", "a forward pass gives the final norm no token")
        size = max(1, int(setting.batch_tokens // per_sequence))


def run(module: nn.Module, kwargs: dict[str, Any], args: tuple[Any, ...] = ()) -> Any:
    """Run a model, or a block of one.

    Raises:
        NoProbe: it does not take such inputs.
        Exception: out of memory, and what hooks raise, pass unchanged.
    """
    try:
        return module(*args, **kwargs)
    except (NoProbe, NotAStack, NotFinite, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a model raises on inputs that it does not take
        if is_out_of_memory(error):
            raise
        shapes = {k: tuple(v.shape) for k, v in kwargs.items() if isinstance(v, Tensor)}
        raise NoProbe("failed", f"{type(module).__name__} fails on {shapes}: {in_words(error)}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory has run out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and ("allocate memory" in str(error) or "out of memory" in str(error))


def _take(observer: Observer, seen: list[tuple[int | None, Tensor]], index: int | None, value: Tensor) -> None:
    if index is None:
        seen.append((index, value))
        return
    seen.append((index, value[..., :0]))
    observer.stream(index, value)


def _check_pass(observer: Observer, seen: list[tuple[int | None, Tensor]]) -> None:
    """Give the streams up where the blocks are not run once each, in their order, on the tokens that the norm sees."""
    blocks = [index for index, _ in seen if index is not None]
    if observer.why_no_streams is not None:
        return
    if blocks != list(range(len(blocks))) or seen[-1][0] is not None:
        observer.give_up_streams("the blocks are not run once each in their order before the norm")
    elif len({value.shape[:-1].numel() for _, value in seen}) > 1:
        observer.give_up_streams("the blocks see other tokens than the norm")
